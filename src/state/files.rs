//! Files that matter to a service, by their content: as they were at its start, or as they are now.
//!
//! Stored for ever, with an intent and its run; compared by `plan`. Only digests: what stands in such a file is nobody
//! else's business.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::identity::Digest;

/// Digests, by what names a file in the manifest. What is missing or cannot be read is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FileMarks {
    /// Of the variables that each `env_file` gives, however they are written.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Digest>,
    /// Of the content of each file, by what names it in `restart_on`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub restart: Contents,
    /// Likewise in `reload.on`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub reload: Contents,
    /// Keyed digests of secrets, by variable.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Digest>,
    /// Tells the key of those apart; `None` without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Digest>,
}

/// By pattern, then by path.
pub type Contents = BTreeMap<String, BTreeMap<String, Digest>>;

impl FileMarks {
    /// Of variables, whatever their order in the file, and whatever else stands there.
    pub fn of_variables(variables: &BTreeMap<String, String>) -> Digest {
        let mut bytes = Vec::new();
        for text in variables.iter().flat_map(|(key, value)| [key, value]) {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        Digest::of(&bytes)
    }
}

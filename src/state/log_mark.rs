//! A place in the log of a service that outlives us and rotations.
//!
//! Stored for ever, with an intent and its run. Made and read by `host::logs`, which knows how a log is rotated.

use serde::{Deserialize, Serialize};

/// The end of a log at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogMark {
    /// Of the live file; `None`: there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// Bytes into the live file, from where its data begins.
    pub bytes: u64,
    /// The inode of the newest archive: what has become one since came after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<u64>,
}

//! Who holds services, and until when.
//!
//! A lease is of one holder: a process, for as long as it lives, or whoever names itself, until its time is over. It is
//! in the ledger, so that it outlives every reconciler. Values only: whether a holder lives the host sees, and what
//! follows is decided in `plan`.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::millis;
use crate::identity::{ProcessIdentity, ServiceId};
use crate::time::Stamp;

/// All that one holder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    #[serde(flatten)]
    pub holder: Holder,
    pub services: BTreeSet<ServiceId>,
    /// When it was first acquired.
    pub since: Stamp,
    /// `None`: until the holder has ended, or releases it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<Term>,
}

/// How long a lease lasts that is not renewed; suspend counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    pub renewed: Stamp,
    #[serde(with = "millis")]
    pub length: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "holder", rename_all = "kebab-case")]
pub enum Holder {
    /// A process, and what it executes, for people.
    Process { process: ProcessIdentity, command: String },
    /// Whoever says that it is this one.
    Owner { owner: String },
}

/// Names the lease of one holder: an owner by its name, a process as `pid:PID:START`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(String);

/// The names of owners: what is safe in a list, in a path and in a shell.
const OWNER_CHARACTERS: &str = "-_.:/@+";
const MAX_OWNER_BYTES: usize = 128;

/// How the lease of a process is told from that of an owner.
const OF_PROCESS: &str = "pid:";

impl Holder {
    pub fn id(&self) -> LeaseId {
        LeaseId(match self {
            Self::Process { process, .. } => format!("{OF_PROCESS}{}:{}", process.pid, process.start_ticks),
            Self::Owner { owner } => owner.clone(),
        })
    }

    /// `Err` is a sentence fragment.
    pub fn check_owner(owner: &str) -> Result<(), String> {
        let is_good = |c: char| c.is_ascii_alphanumeric() || OWNER_CHARACTERS.contains(c);
        match owner {
            "" => Err("an owner has a name".to_owned()),
            _ if owner.len() > MAX_OWNER_BYTES => {
                Err(format!("it has more than {MAX_OWNER_BYTES} characters"))
            }
            _ if owner.starts_with(OF_PROCESS) => {
                Err(format!("`{OF_PROCESS}` begins the lease of a process"))
            }
            _ if !owner.chars().all(is_good) => {
                Err(format!("it takes letters, digits and `{OWNER_CHARACTERS}`"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { process, command } => write!(f, "{command} (pid {})", process.pid),
            Self::Owner { owner } => f.write_str(owner),
        }
    }
}

impl From<&str> for LeaseId {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseEnd {
    /// Its holder has said so.
    Released,
    /// Its holder has ended.
    HolderEnded,
    /// It was not renewed in time.
    Expired,
    /// Not all that was asked for with it could be had.
    NotAcquired,
}

/// The last release of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// As shown.
    pub holder: String,
    pub how: LeaseEnd,
}

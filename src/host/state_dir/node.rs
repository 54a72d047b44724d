//! A directory as such, wherever it is: for telling one that was moved from one that was made anew.
//!
//! An inode number is used again as soon as it is free (ext4: at once), and a device number changes from boot to
//! boot; the time of birth does neither. Source: statx(2).

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    pub dev: u64,
    pub inode: u64,
    /// Nanoseconds since 1970; `None` where the file system does not tell.
    pub born_ns: Option<u64>,
}

impl Node {
    pub fn of(found: &Metadata) -> Self {
        let born = found.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self { dev: found.dev(), inode: found.ino(), born_ns: born.map(|born| born.as_nanos() as u64) }
    }

    /// True if both are one directory. Without a time of birth the device must be the same, too.
    pub fn is(&self, other: &Node) -> bool {
        let same_birth = match (self.born_ns, other.born_ns) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => self.dev == other.dev,
        };
        self.inode == other.inode && same_birth
    }
}

//! Manifest files as the host finds them: facts for `reconciler`, nothing judged.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What may have changed below the roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dirty {
    Everything,
    /// Absolute paths of files or directories.
    Paths(Vec<PathBuf>),
}

/// One root as found; files in the order of their paths.
#[derive(Debug, Clone)]
pub struct RootScan {
    /// As given, made absolute.
    pub path: PathBuf,
    /// `Err`: the root itself cannot be listed, with the problem's code and a sentence. Shared with the host's cache.
    pub listing: Result<Arc<RootListing>, (String, String)>,
    /// The lock of a git that is changing the worktree around it; looked for when everything is listed.
    pub checkout: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct RootListing {
    pub dev: u64,
    pub inode: u64,
    /// When the root was made, where the file system tells: an inode number is used again.
    pub born_ns: Option<u64>,
    /// Every directory below the root ("" for itself), with its inode, or why it could not be listed.
    pub directories: BTreeMap<PathBuf, Result<u64, String>>,
    /// Relative path → content or problem.
    pub files: BTreeMap<PathBuf, Arc<FileScan>>,
}

/// One manifest file as found.
#[derive(Debug, Clone, PartialEq)]
pub struct FileScan {
    /// Changes whenever device, inode, mtime, ctime or size do: the key of every cache of what was made from
    /// the file.
    pub version: FileVersion,
    /// The text, or the code and a sentence of why it cannot be had.
    pub content: Result<Arc<str>, (String, String)>,
    /// False if a stranger owns the file behind a link: its lines are not shown.
    pub may_show_lines: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct FileVersion {
    pub dev: u64,
    pub inode: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub size: u64,
}

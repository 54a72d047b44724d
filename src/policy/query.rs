//! The question put to the host about a command, and its answer.

use std::path::{Path, PathBuf};

use crate::escape::visible;
use crate::state::FileIdentity;

/// What would be executed for this command word?
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExecQuery {
    /// The first word, templates filled in: a name, or a path (relative ones start at `cwd`).
    pub word: String,
    /// Absolute.
    pub cwd: PathBuf,
    /// Directories for a bare name, in order.
    pub search_path: Vec<PathBuf>,
    /// The content of the first file is wanted too: a pin names it.
    pub digest: bool,
}

/// The file, then for a `#!` script its interpreter, and so on.
pub type Resolution = Result<Vec<ResolvedFile>, ResolveError>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedFile {
    /// The name it was called by: the command word, or the word after `#!`; `NAME` of `/usr/bin/env NAME`.
    pub called: String,
    /// Where it was found: absolute, without `..`, and links not followed.
    pub found: PathBuf,
    /// The directory that holds `found`, links followed.
    pub found_in: PathBuf,
    /// Links followed.
    pub file: FileIdentity,
    pub owner_uid: u32,
    /// Somebody but its owner and root may write it.
    pub writable_by_others: bool,
    pub is_script: bool,
    /// Of the content, where the query asked for it: 64 lower-case hexadecimal digits.
    pub blake3: Option<String>,
}

/// Why a command resolves to nothing that could be executed; each with a stable [`code`](ResolveError::code).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("`{}` is not found{}", visible(word), if searched.is_empty() { String::new() } else { format!(" on {searched}") })]
    NotFound { word: String, searched: String },
    #[error("{} is not executable", shown(path))]
    NotExecutable { path: PathBuf },
    #[error("{} is not a regular file", shown(path))]
    NotAFile { path: PathBuf },
    #[error("{}: {error}", shown(path))]
    Unreadable { path: PathBuf, error: String },
    /// Not of the file: the machine is out of descriptors or memory.
    #[error("{} cannot be looked at: {error}", shown(path))]
    Shortage { path: PathBuf, error: String },
    #[error("{}: more than four interpreters follow each other", shown(path))]
    TooDeep { path: PathBuf },
}

impl ResolveError {
    /// The code of one that says nothing of the command.
    pub const SHORTAGE: &str = "out-of-resources";

    /// Stable, kebab-case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "executable-not-found",
            Self::NotExecutable { .. } => "not-executable",
            Self::NotAFile { .. } => "executable-not-a-file",
            Self::Unreadable { .. } => "executable-unreadable",
            Self::Shortage { .. } => Self::SHORTAGE,
            Self::TooDeep { .. } => "interpreters-too-deep",
        }
    }
}

/// Whole, since it is to be looked for.
pub(super) fn shown(path: &Path) -> String {
    visible(&path.to_string_lossy()).into_owned()
}

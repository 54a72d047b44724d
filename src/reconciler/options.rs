//! What a run was asked for: the global options of the command line, as given.
//!
//! Values alone. Relative paths are still relative to the working directory and nothing has been looked
//! at; `session` resolves them. Made by `commands::args`.

use std::path::PathBuf;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The roots; empty means `manifests` in the working directory.
    pub manifests: Vec<PathBuf>,
    /// `None`: the parent of each root.
    pub project_dir: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub config: Option<PathBuf>,
    /// Executables allowed for this run.
    pub allow: Vec<String>,
    /// Carry out what a prune guard would hold.
    pub allow_prune: bool,
    /// A copied state directory becomes an instance of its own.
    pub new_instance: bool,
    /// One convergence, after which nothing watches.
    pub once: bool,
    /// Stops or looks, and so goes on where the configuration cannot be used; nothing is executed then.
    pub starts_nothing: bool,
}

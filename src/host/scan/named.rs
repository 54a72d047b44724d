//! What a path that a person typed names: a directory of manifests, a file, or nothing.

use std::path::{Path, PathBuf};

use crate::host::cause::plain;

/// With absolute paths, as a scan of the directory gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    Directory(PathBuf),
    /// Anything else that is there, also a link to nothing.
    File(PathBuf),
    Nothing {
        path: PathBuf,
        cause: String,
    },
}

/// Looks; links in the directory of a file are resolved, its own name stays.
pub fn named(path: &Path) -> Named {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if absolute.is_dir() {
        return Named::Directory(absolute);
    }
    match std::fs::symlink_metadata(&absolute) {
        Ok(_) => {
            let directory = absolute.parent().and_then(|directory| directory.canonicalize().ok());
            let name = absolute.file_name();
            Named::File(
                directory.zip(name).map_or(absolute.clone(), |(directory, name)| directory.join(name)),
            )
        }
        Err(error) => Named::Nothing { path: absolute, cause: plain(&error) },
    }
}

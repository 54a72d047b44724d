//! Files that are made for the user: never over what is there. Called by `init` and `schema`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Dirty;
use super::scan::Scanner;

#[derive(Debug, thiserror::Error)]
#[error("{} cannot be written", path.display())]
pub struct NotWritten {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Created,
    /// Something is there already, whatever it holds; it was not touched.
    Kept,
}

/// How many manifests a root has; none if it cannot be listed.
pub fn manifests_below(root: &Path) -> usize {
    let scans = Scanner::new(vec![root.to_owned()], false).scan(&Dirty::Everything);
    scans.iter().filter_map(|scan| scan.listing.as_ref().ok()).map(|listing| listing.files.len()).sum()
}

/// Creates a file, and its directory if there is none.
pub fn create_if_missing(path: &Path, text: &str) -> Result<Written, NotWritten> {
    let failed = |source| NotWritten { path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            file.write_all(text.as_bytes()).map_err(failed)?;
            Ok(Written::Created)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Written::Kept),
        Err(error) => Err(failed(error)),
    }
}

/// Writes a file that is ours, over its older version; whoever reads it meanwhile finds one or the other.
pub fn replace(path: &Path, text: &str) -> Result<(), NotWritten> {
    let failed = |source| NotWritten { path: path.to_owned(), source };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.{}", std::process::id()));
    fs::write(&draft, text).and_then(|()| fs::rename(&draft, path)).map_err(|error| {
        drop(fs::remove_file(&draft));
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifests/web.toml");
        assert_eq!(create_if_missing(&path, "mine").unwrap(), Written::Created);
        assert_eq!(create_if_missing(&path, "other").unwrap(), Written::Kept);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn replacing_leaves_no_draft() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("schema.json");
        replace(&path, "1").unwrap();
        replace(&path, "2").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "2");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("none/x"), "").is_err());
    }
}

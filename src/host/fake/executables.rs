//! The executables of the model: which file a command word resolves to.
//!
//! Any bare name is found in `/usr/bin`, and any path is there, until a test says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::policy::{ExecQuery, Resolution, ResolveError, ResolvedFile};
use crate::state::FileIdentity;

const DEVICE: u64 = 8;

const FIRST_INODE: u64 = 50_000;

#[derive(Debug, Default)]
pub(super) struct Executables {
    inodes: BTreeMap<PathBuf, u64>,
    made: u64,
    missing: BTreeSet<PathBuf>,
    interpreters: BTreeMap<PathBuf, String>,
}

impl Executables {
    pub fn resolve(&mut self, query: &ExecQuery) -> Resolution {
        let found = find(&query.word, &query.cwd);
        if self.missing.contains(&found) {
            let searched: Vec<String> =
                query.search_path.iter().map(|directory| directory.display().to_string()).collect();
            return Err(ResolveError::NotFound { word: query.word.clone(), searched: searched.join(":") });
        }
        let interpreter = self.interpreters.get(&found).cloned();
        let mut chain = vec![ResolvedFile {
            called: query.word.clone(),
            file: self.identity(&found),
            owner_uid: 0,
            writable_by_others: false,
            is_script: interpreter.is_some(),
            blake3: None,
            found_in: found.parent().unwrap_or(Path::new("/")).to_owned(),
            found,
        }];
        if let Some(word) = interpreter {
            if query.word == word {
                return Err(ResolveError::TooDeep { path: chain.remove(0).found });
            }
            chain.extend(self.resolve(&ExecQuery { word, ..query.clone() })?);
        }
        Ok(chain)
    }

    pub fn remove(&mut self, word: &str) {
        self.missing.insert(place(word));
    }

    /// Another file under the same name: what runs keeps the old one.
    pub fn replace(&mut self, word: &str) {
        let path = place(word);
        self.missing.remove(&path);
        self.made += 1;
        self.inodes.insert(path, FIRST_INODE + self.made);
    }

    pub fn make_script(&mut self, word: &str, interpreter: &str) {
        self.interpreters.insert(place(word), interpreter.to_owned());
    }

    /// The file is still the one that was checked.
    pub fn is_current(&mut self, file: &FileIdentity) -> Result<(), Mismatch> {
        if self.missing.contains(&file.path) {
            return Err(Mismatch::Gone);
        }
        if self.identity(&file.path) == *file { Ok(()) } else { Err(Mismatch::Replaced) }
    }

    /// What a process that executes this file runs: of a script, its interpreter.
    pub fn image(&mut self, file: &FileIdentity) -> FileIdentity {
        match self.interpreters.get(&file.path) {
            Some(word) => self.identity(&find(&word.clone(), Path::new("/"))),
            None => file.clone(),
        }
    }

    /// The path of a running image as `/proc/PID/exe` shows it.
    pub fn shown_path(&self, image: &FileIdentity) -> PathBuf {
        let is_there = self.inodes.get(&image.path).is_none_or(|inode| *inode == image.inode);
        if is_there && !self.missing.contains(&image.path) {
            return image.path.clone();
        }
        PathBuf::from(format!("{} (deleted)", image.path.display()))
    }

    fn identity(&mut self, path: &Path) -> FileIdentity {
        let inode = *self.inodes.entry(path.to_owned()).or_insert_with(|| {
            self.made += 1;
            FIRST_INODE + self.made
        });
        FileIdentity { path: path.to_owned(), dev: DEVICE, inode, ctime_ns: inode as i64 * 1_000 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mismatch {
    Gone,
    Replaced,
}

fn find(word: &str, cwd: &Path) -> PathBuf {
    if word.contains('/') { cwd.join(word) } else { Path::new("/usr/bin").join(word) }
}

/// Where a word of a test is; a relative path with a slash has no directory to start at.
fn place(word: &str) -> PathBuf {
    assert!(word.starts_with('/') || !word.contains('/'), "`{word}` is a bare name or absolute");
    find(word, Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(word: &str) -> ExecQuery {
        ExecQuery {
            word: word.into(),
            cwd: "/app".into(),
            search_path: vec!["/usr/bin".into()],
            digest: false,
        }
    }

    #[test]
    fn a_name_resolves_to_the_same_file_every_time() {
        let mut table = Executables::default();
        let first = table.resolve(&query("node")).unwrap();
        assert_eq!(first[0].found, Path::new("/usr/bin/node"));
        table.resolve(&query("python3")).unwrap();
        assert_eq!(table.resolve(&query("node")).unwrap(), first);
        assert_ne!(table.resolve(&query("python3")).unwrap()[0].file.inode, first[0].file.inode);
    }

    #[test]
    fn a_relative_path_starts_at_the_working_directory() {
        let found = Executables::default().resolve(&query("bin/serve")).unwrap();
        assert_eq!(found[0].found, Path::new("/app/bin/serve"));
    }

    #[test]
    fn a_replaced_executable_is_not_the_one_that_was_checked() {
        let mut table = Executables::default();
        let checked = table.resolve(&query("node")).unwrap().remove(0).file;
        assert_eq!(table.is_current(&checked), Ok(()));
        table.replace("node");
        assert_eq!(table.is_current(&checked), Err(Mismatch::Replaced));
        table.remove("node");
        assert_eq!(table.is_current(&checked), Err(Mismatch::Gone));
        assert!(matches!(table.resolve(&query("node")), Err(ResolveError::NotFound { .. })));
    }

    #[test]
    fn a_script_is_followed_by_its_interpreter() {
        let mut table = Executables::default();
        table.make_script("serve", "python3");
        let chain = table.resolve(&query("serve")).unwrap();
        let called: Vec<(&str, bool)> =
            chain.iter().map(|file| (file.called.as_str(), file.is_script)).collect();
        assert_eq!(called, [("serve", true), ("python3", false)]);
    }
}

//! What is in files whose content matters: the digest of each, with bounds on how much one service has looked at.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::pattern::Pattern;
use super::{Unread, Whole, read};
use crate::host::FileVersion;
use crate::host::cause::plain;
use crate::host::scan::version;
use crate::identity::Digest;

/// Bytes of the files of one service whose content matters: they are read whole.
const MAX_CONTENT_BYTES: u64 = 64 * 1024 * 1024;

/// Such files of one service: each is looked at whenever one of them changes, and is in the records of its starts.
pub(super) const MAX_FILES: usize = 1_000;

/// What one service may still have looked at.
#[derive(Debug)]
pub struct Room {
    files: usize,
    bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { files: MAX_FILES, bytes: MAX_CONTENT_BYTES }
    }
}

impl Room {
    pub(in crate::host) fn take(&mut self, path: &Path, bytes: u64) -> Result<(), Unseen> {
        let (Some(files), Some(bytes)) = (self.files.checked_sub(1), self.bytes.checked_sub(bytes)) else {
            let mib = MAX_CONTENT_BYTES / 1024 / 1024;
            let sentence = format!(
                "is beyond the {MAX_FILES} files, and {mib} MiB, that `restart_on` and `reload.on` may have in all"
            );
            return Err(Unseen::at(path, &sentence));
        };
        (self.files, self.bytes) = (files, bytes);
        Ok(())
    }
}

/// Why the content that a pattern stands for is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unseen {
    /// Whoever writes it ends, and that is told.
    BeingWritten,
    /// A sentence, with the path.
    Trouble(String),
}

impl Unseen {
    pub(in crate::host) fn at(path: &Path, sentence: &str) -> Self {
        Self::Trouble(format!("{} {sentence}", path.display()))
    }
}

/// Digests of files by their content, worked out anew only of what has changed.
#[derive(Debug, Default)]
pub struct Digests {
    /// By pattern, then by path.
    known: HashMap<PathBuf, Known>,
}

type Known = HashMap<PathBuf, (FileVersion, Digest)>;

impl Digests {
    /// As [`super::Host::digest_files`].
    pub fn of_files(&mut self, pattern: &Path, room: &mut Room) -> Result<Vec<(PathBuf, Digest)>, Unseen> {
        let mut before = self.known.remove(pattern).unwrap_or_default();
        let mut known = Known::new();
        let mut found = Vec::new();
        let mut unseen = None;
        for path in fitting(pattern)? {
            match digest(&path, before.remove(&path), room) {
                Ok(None) => {}
                Ok(Some((digest, version))) => {
                    known.extend(version.map(|version| (path.clone(), (version, digest.clone()))));
                    found.push((path, digest));
                }
                // The others are not read again for it.
                Err(why) => {
                    unseen.get_or_insert(why);
                }
            }
        }
        self.known.insert(pattern.to_owned(), known);
        unseen.map_or(Ok(found), Err)
    }

    pub fn forget_all_but(&mut self, patterns: &BTreeSet<PathBuf>) {
        self.known.retain(|pattern, _| patterns.contains(pattern));
    }
}

fn fitting(pattern: &Path) -> Result<Vec<PathBuf>, Unseen> {
    let fits = Pattern::of(pattern);
    if !fits.has_wildcards() {
        return Ok(vec![pattern.to_owned()]);
    }
    let directory = pattern.parent().unwrap_or(Path::new("/"));
    let names = match std::fs::read_dir(directory) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Unseen::at(directory, &format!("cannot be listed: {}", plain(&error)))),
    };
    let mut paths: Vec<PathBuf> = names.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| fits.fits(path) && path.is_file());
    if paths.len() > MAX_FILES {
        let sentence = format!("fits {} files, and may fit {MAX_FILES}", paths.len());
        return Err(Unseen::at(pattern, &sentence));
    }
    paths.sort();
    Ok(paths)
}

/// With the version by which it is known again; `None` if it is not there.
fn digest(
    path: &Path,
    known: Option<(FileVersion, Digest)>,
    room: &mut Room,
) -> Result<Option<(Digest, Option<FileVersion>)>, Unseen> {
    let found = rustix::fs::stat(path).ok().map(|stat| version(&stat));
    if let Some(found) = found.filter(|found| found.size <= MAX_CONTENT_BYTES) {
        room.take(path, found.size)?;
    }
    if let Some((version, digest)) = known
        && found == Some(version)
    {
        return Ok(Some((digest, Some(version))));
    }
    match read(path, None, MAX_CONTENT_BYTES) {
        Ok(whole) => Ok(whole.map(|Whole { bytes, version }| (Digest::of(&bytes), version))),
        Err(Unread::BeingWritten) => Err(Unseen::BeingWritten),
        Err(unread @ Unread::Because(_)) => Err(Unseen::at(path, &unread.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_digest_follows_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut digests = Digests::default();
        let mut look = || digests.of_files(&at("*.yml"), &mut Room::default()).unwrap();
        assert!(look().is_empty());
        fs::write(at("b.yml"), "1").unwrap();
        fs::write(at("a.yml"), "2").unwrap();
        fs::write(at("c.txt"), "3").unwrap();
        assert_eq!(look(), [(at("a.yml"), Digest::of(b"2")), (at("b.yml"), Digest::of(b"1"))]);
        fs::write(at("new"), "4").unwrap();
        fs::rename(at("new"), at("b.yml")).unwrap();
        assert_eq!(look()[1].1, Digest::of(b"4"));
        fs::remove_file(at("b.yml")).unwrap();
        assert_eq!(look().len(), 1);
    }

    #[test]
    fn a_file_that_was_just_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut digests = Digests::default();
        // Many writes fall into one step of the clock of file times.
        for text in (0..100).map(|number| format!("{number:03}")) {
            fs::write(&path, &text).unwrap();
            let found = digests.of_files(&path, &mut Room::default()).unwrap();
            assert_eq!(found, [(path.clone(), Digest::of(text.as_bytes()))]);
        }
    }

    #[test]
    fn a_service_has_so_many_files_in_all() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..=MAX_FILES / 2 {
            fs::write(dir.path().join(format!("{number}")), "").unwrap();
        }
        let mut room = Room::default();
        let mut digests = Digests::default();
        assert_eq!(digests.of_files(&dir.path().join("*"), &mut room).unwrap().len(), MAX_FILES / 2 + 1);
        let beyond = digests.of_files(&dir.path().join("?*"), &mut room).unwrap_err();
        assert!(
            matches!(&beyond, Unseen::Trouble(why) if why.contains("is beyond the 1000 files")),
            "{beyond:?}"
        );
        File::create(dir.path().join("large")).unwrap().set_len(MAX_CONTENT_BYTES).unwrap();
        let mut room = Room { files: 2, bytes: MAX_CONTENT_BYTES - 1 };
        assert!(digests.of_files(&dir.path().join("large"), &mut room).is_err());
    }
}

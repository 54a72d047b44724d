//! One look at the logs of a state directory: what has grown too large is rotated, what a service did to its own log is
//! found by comparing with the look before.
//!
//! Opens only what has changed, and never blocks on what it opens. Called by `tending`, on its thread.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::num::NonZeroU32;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::host::LogTrouble;
use crate::host::logs::{self, Rotation};
use crate::identity::ServiceId;

/// So much of the end of a log tells whether it is still there.
const SAMPLE_BYTES: u64 = 64;

/// How large logs may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::host::linux) struct Rules {
    /// Bytes.
    pub max_size: u64,
    /// Archives of about that size.
    pub keep: NonZeroU32,
}

pub(super) struct Logs {
    pub dir: PathBuf,
    /// What was there at the last look, of those that were not rotated by it.
    before: HashMap<ServiceId, End>,
    /// What was told of a log, and still is so.
    told: HashMap<ServiceId, LogTrouble>,
}

/// What a look found.
pub(super) struct Look {
    /// Of services of which that was not told before.
    pub news: Vec<(ServiceId, LogTrouble)>,
    /// What was to be rotated was.
    pub all_is_well: bool,
}

/// The end of a log at one moment: as long as it is only appended to, the same bytes stay in the same place.
#[derive(Debug)]
struct End {
    file: FileAt,
    bytes: Vec<u8>,
}

/// A file, and when it was what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileAt {
    inode: u64,
    /// Inode numbers are given again; `None` where the file system does not tell.
    created: Option<SystemTime>,
    modified: Option<SystemTime>,
    size: u64,
}

impl FileAt {
    fn of(meta: &Metadata) -> Self {
        Self {
            inode: meta.ino(),
            created: meta.created().ok(),
            modified: meta.modified().ok(),
            size: meta.len(),
        }
    }

    fn is_same_file(&self, other: &Self) -> bool {
        (self.inode, self.created) == (other.inode, other.created)
    }
}

impl End {
    fn of(log: &File) -> io::Result<Self> {
        let file = FileAt::of(&log.metadata()?);
        Ok(Self { file, bytes: bytes_before(log, file.size)? })
    }

    /// It is the same file, and does not hold any more what it held.
    fn was_truncated(&self, log: &File) -> bool {
        let Ok(meta) = log.metadata() else { return false };
        self.file.is_same_file(&FileAt::of(&meta))
            && match bytes_before(log, self.file.size) {
                Ok(bytes) => bytes != self.bytes,
                Err(error) => error.kind() == io::ErrorKind::UnexpectedEof,
            }
    }
}

fn bytes_before(log: &File, end: u64) -> io::Result<Vec<u8>> {
    let length = end.min(SAMPLE_BYTES);
    let mut bytes = vec![0; length as usize];
    log.read_exact_at(&mut bytes, end - length)?;
    Ok(bytes)
}

impl Logs {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), before: HashMap::new(), told: HashMap::new() }
    }

    /// Rotates what has grown too large, and tells what services do to their logs, or what cannot be done for them.
    pub fn look(&mut self, rules: Rules) -> Look {
        let mut look = Look { news: Vec::new(), all_is_well: true };
        let mut before = std::mem::take(&mut self.before);
        for (service, path) in logs_in(&self.dir) {
            let Ok(meta) = path.symlink_metadata() else { continue };
            let was_large = |end: &End| end.file.size > rules.max_size;
            if let Some(end) = before.remove(&service) {
                if end.file == FileAt::of(&meta) && !was_large(&end) {
                    self.before.insert(service, end);
                    continue;
                }
                // One that cannot be opened is told of when it is rotated.
                if open(&path).is_ok_and(|log| end.was_truncated(&log)) {
                    look.news.push((service.clone(), LogTrouble::Truncated));
                }
            }
            let rotated = if meta.len() > rules.max_size { rotate(&path, rules) } else { Rotated::No };
            look.all_is_well &= rotated != Rotated::CouldNot;
            match rotated {
                Rotated::CouldNot | Rotated::CanNot => {
                    if self.told.insert(service.clone(), LogTrouble::NotRotated).is_none() {
                        look.news.push((service.clone(), LogTrouble::NotRotated));
                    }
                }
                Rotated::Yes | Rotated::No => drop(self.told.remove(&service)),
            }
            if rotated != Rotated::Yes
                && let Ok(end) = open(&path).and_then(|log| End::of(&log))
            {
                self.before.insert(service, end);
            }
        }
        look
    }

    /// Since the last look.
    pub fn were_written_to(&self) -> bool {
        logs_in(&self.dir).iter().any(|(service, path)| {
            let now = path.symlink_metadata().ok().map(|meta| FileAt::of(&meta));
            now.is_some() && now != self.before.get(service).map(|end| end.file)
        })
    }
}

/// Never blocks, and follows no link: the directory may have been tampered with.
fn open(path: &Path) -> io::Result<File> {
    let log = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if log.metadata()?.is_file() { Ok(log) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotated {
    Yes,
    /// There was no need.
    No,
    /// It may be possible another time: a reader, a full disk.
    CouldNot,
    /// Its file system has no way to do it.
    CanNot,
}

fn rotate(path: &Path, rules: Rules) -> Rotated {
    match logs::rotate(path, rules.max_size, rules.keep) {
        Ok(Rotation::NotNeeded) => Rotated::No,
        Ok(Rotation::Rotated { .. }) => Rotated::Yes,
        Ok(Rotation::Busy) => {
            tracing::debug!(log = %path.display(), "not rotated now: it is being read");
            Rotated::CouldNot
        }
        Ok(Rotation::Unsupported) => Rotated::CanNot,
        Err(error) => {
            tracing::debug!("{error}: {}", error.source);
            Rotated::CouldNot
        }
    }
}

/// The live logs; archives and what a rotation leaves half-way have more in their names.
fn logs_in(dir: &Path) -> Vec<(ServiceId, PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut logs: Vec<(ServiceId, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let service = ServiceId::from_file_stem(name.to_str()?.strip_suffix(".log")?)?;
            Some((service, entry.path()))
        })
        .collect();
    logs.sort();
    logs
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const RULES: Rules = Rules { max_size: 8192, keep: NonZeroU32::new(2).unwrap() };

    fn logs() -> (tempfile::TempDir, Logs, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::new(dir.path());
        let web = dir.path().join("default.web.log");
        (dir, logs, web)
    }

    fn news(logs: &mut Logs) -> Vec<LogTrouble> {
        logs.look(RULES).news.into_iter().map(|(_, trouble)| trouble).collect()
    }

    fn append(log: &Path, bytes: &[u8]) {
        OpenOptions::new().append(true).open(log).unwrap().write_all(bytes).unwrap();
    }

    #[test]
    fn a_log_that_lost_its_end_was_truncated_and_one_that_was_rotated_was_not() {
        let (_dir, mut logs, web) = logs();
        std::fs::write(&web, [b'x'; 100]).unwrap();
        assert_eq!(news(&mut logs), []);
        std::fs::write(&web, b"y").unwrap();
        assert_eq!(news(&mut logs), [LogTrouble::Truncated]);
        std::fs::write(&web, b"longer than it was").unwrap();
        assert_eq!(news(&mut logs), [LogTrouble::Truncated]);
        assert_eq!(news(&mut logs), []);
        append(&web, &[b'z'; 20_000]);
        assert_eq!(news(&mut logs), []);
        assert!(web.metadata().unwrap().len() < 20_000);
        assert_eq!(news(&mut logs), []);
    }

    #[test]
    fn a_new_file_of_that_name_is_no_truncation() {
        let (dir, mut logs, web) = logs();
        std::fs::write(&web, [b'x'; 100]).unwrap();
        logs.look(RULES);
        let other = dir.path().join("other");
        std::fs::write(&other, b"y").unwrap();
        std::fs::rename(other, &web).unwrap();
        assert_eq!(news(&mut logs), []);
    }

    #[test]
    fn a_log_that_cannot_be_rotated_is_told_of_once_until_it_can() {
        let (_dir, mut logs, web) = logs();
        std::fs::write(&web, [b'x'; 20_000]).unwrap();
        // Where the rotation puts its copy, something is that it may not remove.
        let copying = web.with_extension("log.copying");
        std::fs::create_dir(&copying).unwrap();
        assert_eq!(news(&mut logs), [LogTrouble::NotRotated]);
        assert_eq!(news(&mut logs), []);
        std::fs::remove_dir(&copying).unwrap();
        assert_eq!(news(&mut logs), []);
        assert!(web.metadata().unwrap().len() < 20_000);
    }

    #[test]
    fn what_a_look_does_itself_is_no_write_of_a_service() {
        let (_dir, mut logs, web) = logs();
        std::fs::write(&web, [b'x'; 100]).unwrap();
        logs.look(RULES);
        assert!(!logs.were_written_to());
        append(&web, b"y");
        assert!(logs.were_written_to());
    }
}

//! Locks between processes: flock(2) on a file, with patience. One ends with its last holder, however that comes.
//!
//! Never the blocking form, which would wait for ever behind a stopped process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// How often a lock that is held is tried again.
const RETRY: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Shared,
    Exclusive,
}

/// False if somebody else still holds it when `patience` is over.
pub fn lock(file: &impl AsFd, kind: Kind, patience: Duration) -> io::Result<bool> {
    let operation = match kind {
        Kind::Shared => FlockOperation::NonBlockingLockShared,
        Kind::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    let started = Instant::now();
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error.into()),
        }
        let left = patience.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(false);
        }
        thread::sleep(RETRY.min(left));
    }
}

/// True while somebody holds it exclusively. A file that is not there is held by nobody.
pub fn is_held(path: &Path) -> io::Result<bool> {
    match File::open(path) {
        Ok(file) => lock(&file, Kind::Shared, Duration::ZERO).map(|free| !free),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The process that took it, as far as the kernel tells: not across pid namespaces, nor where a file system shows its
/// files under another device than the kernel does (btrfs).
pub fn holder(path: &Path) -> Option<i32> {
    let file = fs::metadata(path).ok()?;
    holders().into_iter().find(|(_, held)| held.contains(&(file.dev(), file.ino()))).map(|(pid, _)| pid)
}

/// Every process that took an exclusive lock, with device and inode of the files, as far as the kernel tells. Source:
/// proc_locks(5).
pub fn holders() -> BTreeMap<i32, BTreeSet<(u64, u64)>> {
    let mut holders: BTreeMap<i32, BTreeSet<(u64, u64)>> = BTreeMap::new();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    for (pid, file) in locks.lines().filter_map(held_in) {
        holders.entry(pid).or_default().insert(file);
    }
    holders
}

/// `1: FLOCK  ADVISORY  WRITE 1234 fd:01:10477640 0 EOF`
fn held_in(line: &str) -> Option<(i32, (u64, u64))> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", pid, place, ..] = fields[..] else { return None };
    let mut parts = place.split(':');
    let major = u32::from_str_radix(parts.next()?, 16).ok()?;
    let minor = u32::from_str_radix(parts.next()?, 16).ok()?;
    let inode: u64 = parts.next()?.parse().ok()?;
    let pid = pid.parse().ok().filter(|pid| *pid > 0)?;
    Some((pid, (libc::makedev(major, minor), inode)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_waited_for_and_then_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(file.path()).unwrap();
        let (first, second) = (open(), open());
        assert!(lock(&first, Kind::Shared, Duration::ZERO).unwrap());
        assert!(lock(&second, Kind::Shared, Duration::ZERO).unwrap());
        assert!(!lock(&open(), Kind::Exclusive, Duration::from_millis(5)).unwrap());
        drop((first, second));
        assert!(lock(&open(), Kind::Exclusive, Duration::ZERO).unwrap());
    }

    #[test]
    fn who_holds_a_lock_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_held(file.path()).unwrap());
        assert!(!is_held(Path::new("/nowhere/at-all")).unwrap());
        let held = File::open(file.path()).unwrap();
        assert!(lock(&held, Kind::Exclusive, Duration::ZERO).unwrap());
        assert!(is_held(file.path()).unwrap());
        assert_eq!(holder(file.path()), Some(std::process::id() as i32));
    }
}

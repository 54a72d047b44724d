//! Locks between processes: flock(2) on a file, with patience. One ends with its last holder, however that comes.
//!
//! Never the blocking form, which would wait for ever behind a stopped process.

use std::io;
use std::os::fd::AsFd;
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

#[cfg(test)]
mod tests {
    use std::fs::File;

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
}

//! Descriptors: whether there are some left, as many as we may have, and some kept back.
//!
//! Called by whoever must not fail for want of one, or must not leave others none. Source: getrlimit(2).

use std::fs::File;
use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// `Err` if fewer than this many files can be opened now, of ours or of the machine's.
pub fn there_are(count: usize) -> io::Result<()> {
    let opened: io::Result<Vec<File>> = (0..count).map(|_| File::open("/dev/null")).collect();
    opened.map(drop)
}

/// The soft limit before it was raised.
static BEFORE: OnceLock<u64> = OnceLock::new();

/// As many as we may have. What we start is given the limit that there was before: see [`limit_before`].
pub fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        BEFORE.get_or_init(|| soft);
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    });
    if let Err(error) = raised {
        tracing::debug!("the limit of open files stays as it is: {error}");
    }
}

/// The soft limit that others are to have, where ours was raised.
pub fn limit_before() -> Option<u64> {
    BEFORE.get().copied()
}

/// How many files we may have open.
pub fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// As many as an act opens at a time; deep trees of processes take more, and are killed from the top down.
const KEPT_BACK: usize = 12;

/// Kept back for what must not fail for want of a descriptor: signals, kills, and the look that comes before them.
///
/// What can wait leaves them alone. They are given up for one act at a time, and taken again after it.
#[derive(Debug, Default)]
pub struct Reserve(Vec<File>);

impl Reserve {
    /// `Err`: some are missing, and whoever can wait should.
    pub fn fill(&mut self) -> io::Result<()> {
        while self.0.len() < KEPT_BACK {
            self.0.push(File::open("/dev/null")?);
        }
        Ok(())
    }

    pub fn give_up(&mut self) {
        self.0.clear();
    }
}

//! Whether a keeper is to become the program that we are, and when that is asked of it.
//!
//! Only forwards: a newer version, or the same version from a file that was written later, as after a rebuild. That
//! is an order, so that two programs which take turns at a state directory never change a keeper back and forth.
//! Only while nothing is under way that it would cost; what is refused is asked again later, and later still. The
//! keeper that goes on as it is serves on. Called by the link, which holds what is asked for meanwhile.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Backoff;
use crate::host::background;
use crate::host::keeper::KeeperInfo;
use crate::host::proc::Here;
use crate::host::resolve::file_identity;
use crate::state::FileIdentity;

/// Our own; a keeper says its own in its hello.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// It changes at once, or says at once why not; starts wait for that.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct Upgrade {
    state: State,
    backoff: Backoff,
    /// Why it cannot be is told once.
    told: bool,
    /// What the keeper was that was asked, until there is one again.
    before: Option<KeeperInfo>,
}

#[derive(Debug, Default)]
enum State {
    /// Nothing is to be asked of this keeper.
    #[default]
    Settled,
    Due(Instant),
    /// Until the keeper refuses, the connection ends, or it is time to go on without an answer.
    Asked(Instant),
}

impl Upgrade {
    /// A keeper was connected to.
    pub fn met(&mut self, keeper: &KeeperInfo) {
        if let Some(before) = self.before.take() {
            let (pid, was) = (before.keeper.pid, &before.version);
            if before.keeper == keeper.keeper {
                tracing::info!(
                    "the keeper (pid {pid}) was version {was} and is version {} now",
                    keeper.version
                );
            } else {
                tracing::warn!(
                    "the keeper (pid {pid}, version {was}) ended in its upgrade; services live on"
                );
            }
        }
        self.state = match is_older(keeper) {
            true => State::Due(Instant::now() + self.backoff.pause()),
            false => State::Settled,
        };
    }

    /// When it is to be asked for, or no longer to be waited for.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Due(at) | State::Asked(at) => Some(at),
            State::Settled => None,
        }
    }

    pub fn is_asked(&self) -> bool {
        matches!(self.state, State::Asked(_))
    }

    /// The file that the keeper is to be asked to become, now that it is time; `None` where it would not find it.
    pub fn ask(&mut self) -> Option<FileIdentity> {
        let exe = own_file();
        self.state = match exe {
            Some(_) => State::Asked(Instant::now() + ANSWER_WITHIN),
            None => State::Settled,
        };
        exe
    }

    /// Something is under way.
    pub fn put_off(&mut self) {
        self.backoff.failed();
        self.state = State::Due(Instant::now() + self.backoff.pause());
    }

    pub fn refused(&mut self, keeper: &KeeperInfo, detail: &str) {
        if !std::mem::replace(&mut self.told, true) {
            let KeeperInfo { keeper, version, .. } = keeper;
            tracing::warn!(
                "the keeper (pid {}) goes on as version {version} beside {VERSION}; it cannot be upgraded: {detail}",
                keeper.pid
            );
        }
        self.put_off();
    }

    /// The connection ended. True if that is the answer to what was asked. One that is still another program when it
    /// is back is not asked again soon.
    pub fn lost(&mut self, keeper: &KeeperInfo) -> bool {
        let was_asked = matches!(std::mem::take(&mut self.state), State::Asked(_));
        if was_asked {
            self.backoff.failed();
            self.before = Some(keeper.clone());
        }
        was_asked
    }
}

/// The file that we run, unless it is gone or another one has its name.
fn own_file() -> Option<FileIdentity> {
    let path = background::named_executable()?;
    let there = path.metadata().ok()?;
    Some(file_identity(path, &there))
}

fn is_older(keeper: &KeeperInfo) -> bool {
    match (number(&keeper.version), number(VERSION)) {
        (Some(theirs), Some(ours)) if theirs != ours => theirs < ours,
        (Some(_), Some(_)) => {
            let ours = background::own_executable().metadata().and_then(|file| file.modified()).ok();
            matches!((written(keeper), ours), (Some(theirs), Some(ours)) if theirs < ours)
        }
        _ => false,
    }
}

/// When the file was written that the keeper runs; `None` where that cannot be seen.
fn written(keeper: &KeeperInfo) -> Option<SystemTime> {
    let pinned = Here::read().ok()?.pin(&keeper.keeper).ok()?;
    PathBuf::from(format!("/proc/{}/exe", pinned.pid())).metadata().ok()?.modified().ok()
}

/// A version to be compared; one before a release (`1.2.0-rc.1`) comes before it. `None`: it is none.
fn number(version: &str) -> Option<([u64; 3], bool)> {
    let version = version.split_once('+').map_or(version, |(version, _)| version);
    let (numbers, is_release) = match version.split_once('-') {
        Some((numbers, _)) => (numbers, false),
        None => (version, true),
    };
    let numbers: Vec<u64> = numbers.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    Some((numbers.try_into().ok()?, is_release))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let ordered = ["0.1.0-rc.1", "0.1.0", "0.2.0", "0.10.0", "1.0.0+build"];
        assert!(ordered.windows(2).all(|pair| number(pair[0]).unwrap() < number(pair[1]).unwrap()));
        assert_eq!(["", "1", "1.2", "1.2.x", "1.2.3.4"].map(number), [None; 5]);
        assert!(number(VERSION).is_some());
    }
}

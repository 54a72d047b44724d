//! Processes that hold services, and are not ours: followed until they end.
//!
//! A pidfd each, which becomes readable with the end of its process, whoever its parent is. Its identity is proved once it
//! is open. Nothing is ever signalled through it. Source: pidfd_open(2).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::doors::register;
use crate::host::Event;
use crate::host::proc::{Here, Liveness};
use crate::identity::ProcessIdentity;

#[derive(Debug)]
pub(super) struct Holders {
    events: mpsc::UnboundedSender<Event>,
    followed: BTreeMap<ProcessIdentity, Following>,
}

#[derive(Debug)]
struct Following(JoinHandle<()>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Those that are proved to have ended.
pub(super) fn ended(processes: &BTreeSet<ProcessIdentity>) -> BTreeSet<ProcessIdentity> {
    if processes.is_empty() {
        return BTreeSet::new();
    }
    let Ok(here) = Here::read() else { return BTreeSet::new() };
    let has_ended = |process: &&ProcessIdentity| match here.liveness(process) {
        Liveness::Dead | Liveness::OtherBoot => true,
        Liveness::Alive | Liveness::Unverifiable(_) => false,
    };
    processes.iter().filter(has_ended).cloned().collect()
}

impl Holders {
    pub fn new(events: mpsc::UnboundedSender<Event>) -> Self {
        Self { events, followed: BTreeMap::new() }
    }

    /// One that cannot be followed is looked at again by whoever asks again.
    pub fn follow(&mut self, processes: &BTreeSet<ProcessIdentity>) -> BTreeSet<ProcessIdentity> {
        self.followed.retain(|process, _| processes.contains(process));
        for process in processes {
            if self.followed.contains_key(process) {
                continue;
            }
            match open(process) {
                Ok(Some(pidfd)) => {
                    let following = tokio::spawn(follow(pidfd, process.clone(), self.events.clone()));
                    self.followed.insert(process.clone(), Following(following));
                }
                Ok(None) => {}
                Err(error) => tracing::warn!("pid {} cannot be followed: {error}", process.pid),
            }
        }
        ended(processes)
    }
}

/// `None`: it is not there. That it is this very process is found out after it is open: by then its number cannot be
/// given to another without the descriptor telling.
fn open(process: &ProcessIdentity) -> io::Result<Option<AsyncFd<Arc<OwnedFd>>>> {
    let Some(pid) = Pid::from_raw(process.pid.get()) else { return Ok(None) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        opened => opened?,
    };
    match Here::read()?.liveness(process) {
        Liveness::Alive => register(Arc::new(pidfd)).map(Some),
        Liveness::Dead | Liveness::OtherBoot | Liveness::Unverifiable(_) => Ok(None),
    }
}

async fn follow(
    pidfd: AsyncFd<Arc<OwnedFd>>,
    process: ProcessIdentity,
    events: mpsc::UnboundedSender<Event>,
) {
    match pidfd.readable().await {
        // The reconciler may have ended meanwhile.
        Ok(_) => drop(events.send(Event::HolderEnded { process })),
        Err(error) => tracing::warn!("pid {} cannot be followed: {error}", process.pid),
    }
}

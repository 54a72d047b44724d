//! The machine: [`Host`](super::Host) with real clocks, files and processes.
//!
//! Joins the pieces of this room and decides nothing; what is asked of it is answered in `host`. A host either acts, with the lock of its state
//! directory, or only looks: then it writes nothing, starts nothing and signals nothing, for `status` and
//! `plan`.

mod backoff;
mod doors;
mod holders;
mod host;
mod intents;
mod link;
mod looker;
mod looking;
mod proxy;
mod searching;
mod tending;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use doors::Doors;
use holders::Holders;
use intents::OpenIntents;
use link::KeeperLink;
use looker::{Looker, observed};
pub use looking::Looking;
use searching::Searches;
use tending::Tender;

use super::cgroup::{Ground, Group};
use super::cores::Over;
use super::descriptors::Reserve;
use super::keeper::GateError;
use super::ledger_file::LedgerFile;
use super::observe::observe;
use super::ports::Ports;
use super::probe::Prober;
use super::scan::Scanner;
use super::state_dir::{ReconcilerLock, StateDir};
use super::watch::Watcher;
use super::{CgroupLimits, Claim, Event, Found, Sighting, StateLayout, clock, sys};
use crate::identity::InstanceId;
use crate::state::{Containment, SecretKey};

/// The journal of exits is trimmed once it is larger than this.
const TRIM_EXITS_AT_BYTES: u64 = 256 * 1024;

/// Which limits do not hold for a run, by what is asked of its cgroup.
fn with_cgroup(
    claim: &Claim,
    limits: &CgroupLimits,
    ask: impl Fn(&Path, &CgroupLimits) -> Vec<String>,
) -> Vec<String> {
    let group = match &claim.containment {
        Some(Containment::Cgroup { path }) => Group::recall(path, &claim.nonce),
        Some(Containment::Holder { .. }) | None if limits.is_empty() => return Vec::new(),
        Some(Containment::Holder { .. }) | None => return vec![NO_CGROUP.to_owned()],
    };
    match group {
        Ok(group) => ask(group.path(), limits),
        Err(error) => vec![error.to_string()],
    }
}

/// Why no limit holds for a run with a holder.
const NO_CGROUP: &str = "it has a holder and no cgroup; `reconcile doctor` says why";

/// What an acting host is made of.
#[derive(Debug)]
pub struct Parts {
    pub state_dir: StateDir,
    pub lock: ReconcilerLock,
    pub ledger: LedgerFile,
    pub instance: InstanceId,
    pub random: clock::Random,
    pub roots: Vec<PathBuf>,
    /// Whether changes of files are watched, or only looked for when asked.
    pub watch: bool,
}

#[derive(Debug)]
pub struct LinuxHost {
    state_dir: StateDir,
    lock: ReconcilerLock,
    ledger: LedgerFile,
    random: clock::Random,
    /// Once it was asked for.
    secret_key: Option<SecretKey>,
    /// Once it was asked for.
    ground: Option<Ground>,
    scanner: Scanner,
    watcher: Option<Watcher>,
    looker: Looker,
    link: KeeperLink,
    prober: Arc<Prober>,
    /// Results of what runs beside the loop.
    results: mpsc::UnboundedReceiver<Event>,
    to_results: mpsc::UnboundedSender<Event>,
    intents: OpenIntents,
    tender: Tender,
    searches: Searches,
    ports: Ports,
    doors: Doors,
    /// For the look at what runs.
    reserve: Reserve,
    holders: Holders,
}

impl LinuxHost {
    /// Fails where the birth gate cannot be read: without it nothing may be started or judged.
    pub fn new(parts: Parts) -> Result<Self, GateError> {
        let layout = parts.state_dir.layout().clone();
        let intents = OpenIntents::new(layout.clone())?;
        // A limit on file sizes is an error of a write, not the end of us.
        sys::ignore_signal(libc::SIGXFSZ);
        let (to_results, results) = mpsc::unbounded_channel();
        let mut reserve = Reserve::default();
        // Filled again after each look that needed it.
        let _ = reserve.fill();
        Ok(Self {
            reserve,
            ports: Ports::new(&layout, parts.instance.clone()),
            doors: Doors::new(layout.clone(), to_results.clone()),
            holders: Holders::new(to_results.clone()),
            link: KeeperLink::new(layout, parts.instance),
            state_dir: parts.state_dir,
            lock: parts.lock,
            ledger: parts.ledger,
            random: parts.random,
            secret_key: None,
            ground: None,
            scanner: Scanner::new(parts.roots, false),
            watcher: parts.watch.then(Watcher::new),
            looker: Looker::new(),
            prober: Arc::default(),
            results,
            to_results,
            intents,
            tender: Tender::default(),
            searches: Searches::default(),
        })
    }

    pub fn layout(&self) -> &StateLayout {
        self.state_dir.layout()
    }

    /// Meets the keeper that there is, if there is one: before the first pass.
    pub async fn meet_keeper(&mut self) {
        self.link.meet().await;
    }

    /// Waits until the keeper has heard everything that it was asked: before we end.
    pub async fn settle(&mut self) {
        self.link.settle().await;
    }

    /// Where there are no descriptors to look with, those are given up that are kept back, and what is handed on.
    fn look_at(&mut self, claims: &[Claim]) -> Vec<Sighting> {
        let layout = self.state_dir.layout();
        let look = || observed(observe(layout, claims, self.intents.settled(), Over::One), claims);
        let first = look();
        if !first.iter().any(|sighting| matches!(sighting.found, Found::OutOfDescriptors { .. })) {
            return first;
        }
        self.doors.hang_up();
        self.reserve.give_up();
        let second = look();
        let _ = self.reserve.fill();
        second
    }

    /// Ends that the ledger has taken in are of no use to anybody any more.
    fn trim_exits_if_large(&mut self, claims: &[Claim]) {
        let size = self.state_dir.layout().exits().metadata().map_or(0, |journal| journal.len());
        if size > TRIM_EXITS_AT_BYTES {
            self.link.trim_exits(claims.iter().map(|claim| claim.nonce.clone()).collect());
        }
    }

    async fn first_event(&mut self, at_most: Option<Duration>) -> Option<Event> {
        let changed = async {
            match &mut self.watcher {
                Some(watcher) => watcher.changed().await,
                None => std::future::pending().await,
            }
        };
        let over = async {
            match at_most {
                Some(at_most) => tokio::time::sleep(at_most).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = self.link.next() => Some(event),
            Some(event) = self.results.recv() => Some(event),
            dirty = changed => Some(Event::Changed(dirty)),
            () = over => None,
        }
    }

    /// What has happened by now; a pass is made once for all of it.
    async fn queued_events(&mut self, events: &mut Vec<Event>) {
        loop {
            tokio::select! {
                biased;
                event = self.link.next() => events.push(event),
                Some(event) = self.results.recv() => events.push(event),
                () = std::future::ready(()) => break,
            }
        }
        if let Some(dirty) = self.watcher.as_mut().and_then(Watcher::drain) {
            events.push(Event::Changed(dirty));
        }
    }
}

//! The machine itself: what there is, what is scheduled, and how time passes.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::behaviour::{Behaviour, Health, JobScript};
use super::clock::VirtualClock;
use super::executables::Executables;
use super::faults::Faults;
use super::files::{Scanner, Tree};
use super::holders::Holders;
use super::jobs::Job;
use super::journal::Journal;
use super::pids::Pids;
use super::ports::Network;
use super::run::{Doubt, Knowledge, Run};
use super::sockets::Sockets;
use crate::host::files::Pattern;
use crate::host::probe::ProbeError;
use crate::host::{CgroupLimits, Dirty, Event, ProbeRequest, UserFacts};
use crate::identity::{Nonce, Pid, ProcessIdentity, ServiceId};
use crate::state::ExitStatus;

/// Waits in a row that return without time passing; more is a reconciler that spins.
const MOST_WAITS_IN_ONE_INSTANT: u32 = 10_000;

/// Of the story, when a test fails.
const MOST_LINES_PRINTED: usize = 300;

/// How often the reconciler has had what done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub spawns: usize,
    pub signals: usize,
    pub kills: usize,
    /// Successful appends to the ledger.
    pub appends: usize,
    pub texts: usize,
    pub jobs: usize,
    pub probes: usize,
}

impl Counts {
    /// The same without what looks and changes nothing.
    #[must_use]
    pub fn changes(self) -> Self {
        Self { jobs: 0, probes: 0, ..self }
    }
}

#[derive(Debug)]
pub(super) enum Occurrence {
    /// The keeper comes to a spawn.
    Birth(Nonce),
    LeaderEnds(Nonce, ExitStatus),
    DescendantEnds(Nonce, Pid),
    KillLands(Nonce),
    KillIsGivenUp(Nonce),
    JobEnds(u64),
    ProbeEnds(Box<ProbeRequest>, Result<(), ProbeError>, u64),
    /// News of a run that nobody remembers.
    StaleNews,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileEvents {
    Delivered,
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatusWithoutKeeper {
    Unknown,
    Known,
}

/// The life of one reconciler.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub number: u64,
    /// Calls that change or learn something, so far.
    pub calls: u64,
    /// Killed at the call after so many.
    pub most_calls: Option<u64>,
    /// Runs whose end is among the events of the newest wait.
    being_told: Vec<Nonce>,
    waits_in_this_instant: u32,
    last_wait: Duration,
}

pub(super) struct World {
    pub clock: VirtualClock,
    pub tree: Tree,
    pub scanner: Scanner,
    pub file_events: FileEvents,
    pub watched_files: BTreeSet<PathBuf>,
    pub executables: Executables,
    pub users: BTreeMap<String, UserFacts>,
    pub git_worktrees: BTreeSet<PathBuf>,
    /// Every other one is there.
    pub lost_directories: BTreeSet<PathBuf>,
    pub purged_logs: BTreeSet<ServiceId>,
    pub journal: Journal,
    pub pids: Pids,
    pub runs: BTreeMap<Nonce, Run>,
    /// Intents that were judged never born: nothing may be born of them any more.
    pub barred: BTreeSet<Nonce>,
    /// Spawns under way that the next reconciler to look shuts out.
    pub late: BTreeSet<Nonce>,
    /// A child whose request is of another epoch executes nothing.
    pub epoch: u64,
    pub strangers: BTreeMap<Pid, ProcessIdentity>,
    pub doubts: BTreeMap<ServiceId, Doubt>,
    pub scripts: BTreeMap<ServiceId, VecDeque<Behaviour>>,
    /// In place of what the scripts say.
    pub health: BTreeMap<ServiceId, Health>,
    pub jobs: BTreeMap<u64, Job>,
    /// What the commands of secrets of a service do.
    pub secret_commands: BTreeMap<ServiceId, JobScript>,
    pub limits_hold: bool,
    /// As they were last put.
    pub limits: BTreeMap<Nonce, CgroupLimits>,
    pub reload_commands: BTreeMap<ServiceId, JobScript>,
    /// Counts the keepers; a run knows the one it is a child of.
    pub keeper: u64,
    pub status_without_keeper: StatusWithoutKeeper,
    pub cgroups: bool,
    pub network: Network,
    pub sockets: Sockets,
    pub holders: Holders,
    pub session: Session,
    pub faults: Faults,
    pub counts: Counts,
    events: VecDeque<Event>,
    schedule: BTreeMap<(Duration, u64), Occurrence>,
    serial: u64,
    story: Vec<String>,
    story_is_printed: Cell<bool>,
}

impl World {
    pub fn new(roots: &[PathBuf]) -> Self {
        Self {
            clock: VirtualClock::new(),
            tree: Tree::new(roots),
            scanner: Scanner::default(),
            file_events: FileEvents::Delivered,
            watched_files: BTreeSet::new(),
            executables: Executables::default(),
            users: BTreeMap::new(),
            git_worktrees: BTreeSet::new(),
            lost_directories: BTreeSet::new(),
            purged_logs: BTreeSet::new(),
            journal: Journal::default(),
            pids: Pids::new(),
            runs: BTreeMap::new(),
            barred: BTreeSet::new(),
            late: BTreeSet::new(),
            epoch: 1,
            strangers: BTreeMap::new(),
            doubts: BTreeMap::new(),
            scripts: BTreeMap::new(),
            health: BTreeMap::new(),
            jobs: BTreeMap::new(),
            secret_commands: BTreeMap::new(),
            reload_commands: BTreeMap::new(),
            limits_hold: false,
            limits: BTreeMap::new(),
            keeper: 1,
            status_without_keeper: StatusWithoutKeeper::Unknown,
            cgroups: false,
            network: Network::default(),
            sockets: Sockets::default(),
            holders: Holders::default(),
            session: Session { number: 1, ..Session::default() },
            faults: Faults::default(),
            counts: Counts::default(),
            events: VecDeque::new(),
            schedule: BTreeMap::new(),
            serial: 0,
            story: Vec::new(),
            story_is_printed: Cell::new(false),
        }
    }

    /// A number that was never given before.
    pub fn fresh(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub fn queue(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub fn schedule(&mut self, after: Duration, occurrence: Occurrence) {
        let key = (self.clock.awake() + after, self.fresh());
        self.schedule.insert(key, occurrence);
    }

    pub fn tell(&mut self, what: impl fmt::Display) {
        let seconds = self.clock.told().as_secs_f64();
        self.story.push(format!("[{seconds:>11.3}s] {what}"));
    }

    pub fn story(&self) -> String {
        self.story.join("\n")
    }

    /// Ends the test: something happened that must never happen.
    pub fn violation(&self, what: impl fmt::Display) -> ! {
        self.story_is_printed.set(true);
        let told = self.clock.told().as_secs_f64();
        panic!("at {told:.3}s: {what}\n--- how it came to that ---\n{}", self.end_of_story())
    }

    fn end_of_story(&self) -> String {
        let first = self.story.len().saturating_sub(MOST_LINES_PRINTED);
        self.story[first..].join("\n")
    }

    pub fn changed(&mut self, what: Dirty) {
        if self.file_events == FileEvents::Delivered {
            self.queue(Event::Changed(what));
        }
    }

    /// What the watcher tells of: all below the roots, and the files that it was given.
    pub fn is_watched(&self, path: &Path) -> bool {
        let leads =
            |to: &PathBuf| to.starts_with(path) || to.parent() == path.parent() && Pattern::of(to).fits(path);
        let roots = self.tree.roots();
        roots.iter().any(|root| path.starts_with(root) || leads(root)) || self.watched_files.iter().any(leads)
    }

    /// As [`crate::host::Host::wait`].
    pub fn wait(&mut self, at_most: Option<Duration>) -> Vec<Event> {
        self.check_that_time_passes();
        self.finish_telling();
        let deadline = at_most.map(|span| self.clock.awake() + span);
        while self.events.is_empty() {
            let next = self.schedule.first_key_value().map(|((at, _), _)| *at);
            match (next, deadline) {
                (None, None) => self.violation("nothing will ever happen, and the reconciler waits for it"),
                (Some(at), deadline) if deadline.is_none_or(|deadline| at <= deadline) => self.pass_until(at),
                (_, Some(deadline)) => {
                    self.pass_until(deadline);
                    return Vec::new();
                }
                (Some(_), None) => unreachable!("without a deadline the next occurrence is taken"),
            }
        }
        let events: Vec<Event> = self.events.drain(..).collect();
        self.session.being_told = events.iter().filter_map(end_told_by).cloned().collect();
        events
    }

    /// Whoever waits again has taken in what it was told before.
    fn finish_telling(&mut self) {
        for nonce in std::mem::take(&mut self.session.being_told) {
            if let Some(run) = self.runs.get_mut(&nonce) {
                run.knowledge = Knowledge::ToldGone;
            }
        }
    }

    fn check_that_time_passes(&mut self) {
        let now = self.clock.awake();
        let session = &mut self.session;
        session.waits_in_this_instant =
            if session.last_wait == now { session.waits_in_this_instant + 1 } else { 0 };
        session.last_wait = now;
        if session.waits_in_this_instant > MOST_WAITS_IN_ONE_INSTANT {
            self.violation("the reconciler spins: it waits again and again, and time does not pass");
        }
    }

    /// Lets time pass, and what is scheduled in it happen.
    pub fn advance(&mut self, span: Duration) {
        let end = self.clock.awake() + span;
        while let Some(at) = self.schedule.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= end) {
            self.pass_until(at);
        }
        self.pass_until(end);
    }

    fn pass_until(&mut self, at: Duration) {
        self.clock.advance(at.saturating_sub(self.clock.awake()));
        while let Some(entry) = self.schedule.first_entry().filter(|entry| entry.key().0 <= at) {
            let occurrence = entry.remove();
            self.happen(occurrence);
        }
    }

    fn happen(&mut self, occurrence: Occurrence) {
        match occurrence {
            Occurrence::Birth(nonce) => self.birth(&nonce),
            Occurrence::LeaderEnds(nonce, status) => self.leader_ends(&nonce, status),
            Occurrence::DescendantEnds(nonce, pid) => self.descendant_ends(&nonce, pid),
            Occurrence::KillLands(nonce) => self.kill_lands(&nonce),
            Occurrence::KillIsGivenUp(nonce) => self.kill_is_given_up(&nonce),
            Occurrence::JobEnds(job) => self.job_ends(job),
            Occurrence::ProbeEnds(request, result, session) => self.probe_ends(&request, result, session),
            Occurrence::StaleNews => {
                let nonce = Nonce::from_u64(self.fresh());
                self.queue(Event::Gone { nonce });
            }
        }
    }

    /// A new reconciler: it has seen nothing, and nothing is queued for it.
    pub fn begin_session(&mut self) {
        self.session = Session { number: self.session.number + 1, ..Session::default() };
        self.events.clear();
        self.scanner = Scanner::default();
        for run in self.runs.values_mut() {
            run.knowledge = Knowledge::Unattached;
        }
    }

    pub fn reboot(&mut self, off: Duration) {
        self.lose_sockets();
        self.schedule.clear();
        self.jobs.clear();
        self.strangers.clear();
        self.lose_holders();
        self.pids.reboot();
        for run in self.runs.values_mut() {
            run.lose_power();
        }
        self.clock.reboot(off);
        self.keeper += 1;
        self.begin_session();
        self.tell("the machine is booted anew");
    }
}

/// The run of which nothing is left, by this event.
fn end_told_by(event: &Event) -> Option<&Nonce> {
    match event {
        Event::Exited { nonce, others: false, .. }
        | Event::Gone { nonce }
        | Event::SpawnFailed { nonce, .. } => Some(nonce),
        Event::Exited { .. }
        | Event::Changed(_)
        | Event::SocketHeld { .. }
        | Event::Connected { .. }
        | Event::SocketLost { .. }
        | Event::SocketNotHeld { .. }
        | Event::Spawned { .. }
        | Event::Unkillable { .. }
        | Event::Probed { .. }
        | Event::JobDone { .. }
        | Event::Said { .. }
        | Event::LogTroubled { .. }
        | Event::HolderEnded { .. }
        | Event::KeeperLost => None,
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("now", &self.clock.stamp())
            .field("runs", &self.runs)
            .finish_non_exhaustive()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // An assertion of a test failed: what led to it is in here and nowhere else.
        if std::thread::panicking() && !self.story_is_printed.get() {
            eprintln!("--- how it came to that ---\n{}", self.end_of_story());
        }
    }
}

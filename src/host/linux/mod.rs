//! The machine: [`Host`] with real clocks, files and processes.
//!
//! Joins the pieces of this room and decides nothing. A host either acts, with the lock of its state
//! directory, or only looks: then it writes nothing, starts nothing and signals nothing, for `status` and
//! `plan`.

mod backoff;
mod doors;
mod holders;
mod intents;
mod link;
mod looker;
mod looking;
mod proxy;
mod searching;
mod tending;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use doors::Doors;
use holders::Holders;
use intents::OpenIntents;
use link::KeeperLink;
use looker::{Looker, is_no_directory, observed};
pub use looking::Looking;
use searching::{Order, Searches};
use tending::{Rules, Tender};

use super::cgroup::{self, Ground, Group};
use super::cores::Over;
use super::descriptors::Reserve;
use super::files::{Room, Unseen};
use super::keeper::GateError;
use super::ledger_file::LedgerFile;
use super::listen::{Listen, Proxy, SocketKey, SocketUse};
use super::logs;
use super::observe::{contains, observe};
use super::ports::{PortOwnership, PortView, Ports, anybody_is_connected};
use super::probe::Prober;
use super::proc::Here;
use super::scan::Scanner;
use super::state_dir::{ReconcilerLock, Sharer, StateDir, sharers};
use super::watch::{Mode, Watcher, scan_and_watch};
use super::{
    CgroupLimits, Claim, Dirty, Event, Found, Host, JobRequest, LedgerUnwritable, LineRequest, ProbeRequest,
    RootScan, Sighting, SpawnRequest, StateLayout, UserFacts, clock, credentials, durable, files, secret_key,
    sys, trust,
};
use crate::identity::{Digest, InstanceId, Nonce, Pid, ProcessIdentity, ServiceId};
use crate::manifest::{ListenOn, SignalTo};
use crate::policy::{ExecQuery, Resolution};
use crate::state::{Containment, FileIdentity, LogMark, PortHolder, Record, SecretKey};
use crate::time::Stamp;

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

impl Host for LinuxHost {
    fn now(&self) -> Stamp {
        clock::now()
    }

    fn nonce(&mut self) -> Nonce {
        self.random.nonce()
    }

    fn own_uid(&self) -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn epoch(&self) -> u64 {
        self.intents.epoch()
    }

    fn scan(&mut self, what: &Dirty) -> Vec<RootScan> {
        match &mut self.watcher {
            Some(watcher) => scan_and_watch(&mut self.scanner, watcher, what),
            None => self.scanner.scan(what),
        }
    }

    fn resolve(&mut self, query: &ExecQuery) -> Resolution {
        self.looker.resolver.resolve(query)
    }

    fn read_file(&mut self, path: &Path, reader: Option<&UserFacts>) -> Result<Option<Arc<str>>, String> {
        files::read_text(path, reader)
    }

    fn digest_files(&mut self, pattern: &Path, room: &mut Room) -> Result<Vec<(PathBuf, Digest)>, Unseen> {
        self.looker.digests.of_files(pattern, room)
    }

    fn secret_key(&mut self) -> Result<Option<SecretKey>, String> {
        if self.secret_key.is_none() {
            self.secret_key = Some(secret_key::read_or_make(self.state_dir.layout(), &mut self.random)?);
        }
        Ok(self.secret_key.clone())
    }

    fn credentials_dir(&self, nonce: &Nonce) -> PathBuf {
        credentials::place(self.state_dir.layout(), &self.ports.instance, nonce)
    }

    fn watch_files(&mut self, files: &BTreeSet<PathBuf>) {
        self.looker.digests.forget_all_but(files);
        let Some(watcher) = &mut self.watcher else { return };
        if !watcher.watch_also(files::ways_to(files)) {
            return;
        }
        let listed = self.scanner.watch_set();
        if watcher.cover(&listed).iter().any(|fresh| listed.directories.contains_key(fresh)) {
            // Another directory than the one that was listed a moment ago.
            watcher.suspect_everything();
        }
    }

    fn is_git_worktree(&mut self, path: &Path) -> bool {
        trust::is_git_worktree(path)
    }

    fn is_no_directory(&self, path: &Path) -> bool {
        is_no_directory(path)
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn identify(&self, pid: Pid) -> Option<ProcessIdentity> {
        Here::read().ok()?.identity(pid.get()).ok()
    }

    fn containment(&mut self, nonce: &Nonce, process: &ProcessIdentity) -> Option<Containment> {
        contains(self.state_dir.layout(), nonce, process)
    }

    fn claim_instance(&mut self) -> Result<InstanceId, String> {
        let claimed = self.state_dir.take_over(&self.lock).and_then(|known| match known {
            Some(instance) => Ok(instance),
            None => self.state_dir.begin_anew(&self.lock, &mut self.random),
        });
        let instance = claimed.map_err(|error| error.to_string())?;
        self.link.act_as(instance.clone());
        self.ports.instance = instance.clone();
        Ok(instance)
    }

    fn user(&mut self, name: &str) -> Result<UserFacts, String> {
        self.looker.users.lookup(name)
    }

    fn environment(&self) -> &BTreeMap<String, String> {
        &self.looker.environment
    }

    fn append(&mut self, records: &[Record]) -> Result<(), LedgerUnwritable> {
        self.ledger.append(records)
    }

    fn keep_text(&mut self, digest: &Digest, text: &str) -> Result<(), LedgerUnwritable> {
        self.ledger.keep_text(digest, text)
    }

    fn text(&mut self, digest: &Digest) -> Option<String> {
        self.ledger.text(digest)
    }

    fn observe(&mut self, claims: &[Claim]) -> Vec<Sighting> {
        self.link.ping();
        self.link.look_for_socket_files();
        self.intents.judge(claims);
        self.ports.forget_all_but(claims);
        let mut sightings = self.look_at(claims);
        for (claim, sighting) in claims.iter().zip(&mut sightings) {
            match &sighting.found {
                Found::Alive { born } | Found::Ended { born, others: true, .. } => {
                    self.link.attach_if_needed(born_of(claim, born.as_ref()));
                }
                // Even if it was told before: it is dead, and nothing else would tell.
                Found::Ending { born } => self.link.attach(born_of(claim, born.as_ref())),
                Found::Ended { .. }
                | Found::NeverBorn
                | Found::InFlight
                | Found::Unverifiable { .. }
                | Found::OutOfDescriptors { .. }
                | Found::ContainmentLost { .. }
                | Found::KeeperUnresponsive => {}
            }
            if self.link.is_unresponsive() {
                sighting.found = Found::KeeperUnresponsive;
            }
        }
        sightings
    }

    fn trim_journals(&mut self, claims: &[Claim]) {
        if self.ledger.owes() {
            return;
        }
        let kept: Vec<&Nonce> = claims.iter().map(|claim| &claim.nonce).collect();
        if let Err(error) = credentials::remove_all_but(self.state_dir.layout(), &self.ports.instance, &kept)
        {
            tracing::warn!("secrets that were given as files are not removed: {error}");
        }
        if self.link.is_idle() {
            self.intents.trim_if_large(claims);
        }
        self.trim_exits_if_large(claims);
    }

    fn put_limits(&mut self, claim: &Claim, limits: &CgroupLimits) -> Vec<String> {
        with_cgroup(claim, limits, cgroup::limits::put)
    }

    fn unenforceable(&mut self, limits: &CgroupLimits) -> Option<String> {
        // That of the keeper counts, which may have been started elsewhere.
        if let Some(why) = self.link.holders() {
            return Some(format!("there are no cgroups: {why}"));
        }
        let instance = &self.ports.instance;
        match self.ground.get_or_insert_with(|| Ground::detect(instance)) {
            Ground::Cgroup { base } => cgroup::limits::unenforceable(base, limits),
            Ground::Holder { why } => Some(format!("there are no cgroups: {why}")),
        }
    }

    fn spawn(&mut self, request: SpawnRequest) {
        self.link.spawn(request);
    }

    fn signal(&mut self, claim: &Claim, signal: i32, to: SignalTo) {
        self.link.signal(claim, signal, to);
    }

    fn kill(&mut self, claim: &Claim) {
        self.link.kill(claim);
    }

    fn run_job(&mut self, request: JobRequest) {
        self.link.run_job(request);
    }

    fn probe(&mut self, request: ProbeRequest) {
        let (prober, results) = (Arc::clone(&self.prober), self.to_results.clone());
        tokio::spawn(async move {
            let ProbeRequest { service, nonce, target, timeout } = request;
            let result = prober.run(&target, timeout).await;
            // The reconciler may have ended meanwhile.
            let _ = results.send(Event::Probed { service, nonce, result });
        });
    }

    fn ask_said(&mut self, nonce: &Nonce) {
        self.link.ask_said(nonce);
    }

    fn await_line(&mut self, request: LineRequest) {
        let log = self.state_dir.layout().log(&request.service);
        self.searches.begin(Order { request, log }, &self.to_results);
    }

    fn log_mark(&mut self, service: &ServiceId) -> Option<LogMark> {
        let marked = logs::mark(&self.state_dir.layout().log(service));
        marked.inspect_err(|error| tracing::warn!(%service, "its log cannot be read: {error}")).ok()
    }

    fn tend_logs(&mut self, max_size: u64, keep: u32) {
        let Some(keep) = NonZeroU32::new(keep) else { return };
        let logs = self.state_dir.layout().logs();
        if !logs.exists() {
            // Before there is a keeper: a directory that is not there cannot be watched. If this fails, it is
            // looked at blindly.
            let _ = durable::make_private_directory(&logs);
        }
        self.tender.tend(&logs, Rules { max_size, keep }, &self.to_results);
    }

    fn logged(&self) -> Vec<ServiceId> {
        let dir = self.state_dir.layout().logs();
        logs::services(&dir).unwrap_or_else(|error| {
            tracing::warn!(dir = %dir.display(), "it cannot be told which logs there are: {error}");
            Vec::new()
        })
    }

    fn purge_logs(&mut self, services: &[ServiceId]) {
        for service in services {
            if let Err(error) = logs::purge(&self.state_dir.layout().log(service)) {
                tracing::warn!(%service, "its logs cannot be deleted: {error}");
            }
            let work = self.state_dir.layout().work(service);
            if let Err(error) = std::fs::remove_dir_all(&work)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%service, dir = %work.display(), "its directory cannot be deleted: {error}");
            }
        }
    }

    fn executables(&mut self, processes: &[ProcessIdentity]) -> Vec<Option<FileIdentity>> {
        self.looker.executables(processes, Over::One)
    }

    fn sharers(&mut self) -> Vec<Sharer> {
        sharers(&self.state_dir.layout().dir, self.scanner.roots())
    }

    fn why_polling(&self) -> Option<String> {
        match self.watcher.as_ref()?.mode() {
            Mode::Inotify => None,
            Mode::Polling { why } => Some(why.clone()),
        }
    }

    fn ports(&mut self) -> PortView {
        self.ports.view()
    }

    fn take_ports(&mut self, ports: &BTreeSet<u16>) -> BTreeSet<u16> {
        self.ports.take(ports)
    }

    fn keep_ports(&mut self, ports: &BTreeSet<u16>) {
        self.ports.keep(ports);
    }

    fn port_holders(&mut self, ports: &BTreeSet<u16>) -> BTreeMap<u16, PortHolder> {
        self.ports.holders(ports)
    }

    fn port_owners(&mut self, claim: &Claim, ports: &BTreeSet<u16>) -> BTreeMap<u16, PortOwnership> {
        self.ports.owners(claim, ports)
    }

    fn hold_socket(&mut self, key: &SocketKey, listen: &Listen) {
        self.link.hold_socket(key, listen);
    }

    fn release_socket(&mut self, key: &SocketKey) {
        self.doors.leave(key);
        self.link.release_socket(key);
    }

    fn watch_socket(&mut self, key: &SocketKey, every: Duration, tell: bool) {
        self.doors.watch(key, every, tell);
    }

    fn leave_socket(&mut self, key: &SocketKey) {
        self.doors.leave(key);
    }

    fn proxy_socket(&mut self, key: &SocketKey, proxy: &Proxy) {
        self.doors.proxy(key, proxy);
    }

    fn socket_used(&self, key: &SocketKey) -> Option<SocketUse> {
        self.doors.used(key)
    }

    fn is_connected(&mut self, addresses: &[ListenOn]) -> bool {
        anybody_is_connected(addresses)
    }

    fn turn_away(&mut self, key: &SocketKey, why: &str) {
        self.doors.turn_away(key, why);
    }

    fn held_sockets(&self) -> Option<Arc<BTreeMap<SocketKey, Listen>>> {
        self.link.held_sockets()
    }

    fn follow_holders(&mut self, processes: &BTreeSet<ProcessIdentity>) -> BTreeSet<ProcessIdentity> {
        self.holders.follow(processes)
    }

    async fn wait(&mut self, at_most: Option<Duration>) -> Vec<Event> {
        self.ports.look_again();
        let mut events: Vec<Event> = self.first_event(at_most).await.into_iter().collect();
        self.queued_events(&mut events).await;
        for event in &events {
            match event {
                Event::SocketHeld { key } => self.doors.opened_anew(key),
                Event::SocketLost { key } => self.doors.leave(key),
                _ => {}
            }
        }
        if events.contains(&Event::KeeperLost) {
            // Starts that it was asked for may or may not have come about.
            self.intents.doubt();
            // What it held may be gone, and a copy of ours would be in the way of what is opened in its place.
            self.doors.borrow_anew();
        }
        events
    }
}

/// The claim as it will be once its birth is on record.
fn born_of(claim: &Claim, born: Option<&(ProcessIdentity, Containment)>) -> Claim {
    match born {
        Some((process, containment)) => {
            Claim { process: Some(process.clone()), containment: Some(containment.clone()), ..claim.clone() }
        }
        None => claim.clone(),
    }
}

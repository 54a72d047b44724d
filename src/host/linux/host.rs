//! What the reconciler asks of the machine, each answered by the piece whose matter it is.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::looker::is_no_directory;
use super::searching::Order;
use super::tending::Rules;
use super::{LinuxHost, with_cgroup};
use crate::host::cgroup::{self, Ground};
use crate::host::cores::Over;
use crate::host::files::{Room, Unseen};
use crate::host::listen::{Listen, Proxy, SocketKey, SocketUse};
use crate::host::logs;
use crate::host::observe::contains;
use crate::host::ports::{PortOwnership, PortView, anybody_is_connected};
use crate::host::proc::Here;
use crate::host::state_dir::{Sharer, sharers};
use crate::host::watch::{Mode, scan_and_watch};
use crate::host::{
    CgroupLimits, Claim, Dirty, Event, Found, Host, JobRequest, LedgerUnwritable, LineRequest, ProbeRequest,
    RootScan, Sighting, SpawnRequest, UserFacts, clock, credentials, durable, files, secret_key, trust,
};
use crate::identity::{Digest, InstanceId, Nonce, Pid, ProcessIdentity, ServiceId};
use crate::manifest::{ListenOn, SignalTo};
use crate::policy::{ExecQuery, Resolution};
use crate::state::{Containment, FileIdentity, LogMark, PortHolder, Record, SecretKey};
use crate::time::Stamp;

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

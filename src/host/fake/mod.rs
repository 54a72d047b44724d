//! A model of the machine under virtual time: every clock, file and process that a reconciler can meet.
//!
//! Deterministic, without real I/O. Time passes only in [`Host::wait`] and when a test says so. The model
//! tells the *story* of what happened, and is its own judge: what the design promises never to happen ends
//! the test, with the story (see `oracle`). Used by tests, and to plan without touching anything.
//!
//! A [`FakeHost`] is a handle: clones share the machine, so that a test keeps one while the reconciler owns
//! another. The reconciler's calls count for the *session* of its handle; [`FakeHost::reconciler_dies`] ends
//! the session and gives the handle of the next.
//!
//! What the model fixes where the trait leaves it open: `Exited` comes once for a leader and `Gone` once for
//! a run, in one batch when nothing outlives the leader; jobs end with the leader, as `Cancelled`; after
//! `KeeperLost`, and in a new session, nothing is told of a run before [`Host::observe`] has attached to it;
//! a kill of a spawn that is in flight cancels it and is answered by `Gone`.

mod behaviour;
mod clock;
mod control;
mod control_files;
mod executables;
mod faults;
mod files;
mod holders;
mod jobs;
mod journal;
mod oracle;
mod pids;
mod ports;
mod run;
mod sight;
mod sockets;
mod target;
#[cfg(test)]
mod tests;
mod world;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use self::behaviour::{Behaviour, JobScript, OnSignal};
pub use self::control::Population;
pub use self::faults::Op;
pub use self::run::{Birth, Doubt};
pub use self::world::Counts;
use self::world::World;
use super::{
    CgroupLimits, Claim, Dirty, Event, Host, JobRequest, LedgerUnwritable, LineRequest, ProbeRequest,
    RootScan, Sighting, SpawnRequest, UserFacts,
};
use crate::host::files::{Room, Unseen};
use crate::host::listen::{Listen, Proxy, SocketKey, SocketUse};
use crate::host::ports::{PortOwnership, PortView};
use crate::host::state_dir::Sharer;
use crate::identity::{Digest, InstanceId, Nonce, Pid, ProcessIdentity, ServiceId};
use crate::manifest::{ListenOn, SignalTo};
use crate::policy::{ExecQuery, Resolution, ResolveError};
use crate::state::{Containment, FileIdentity, LogMark, PortHolder, Record, SecretKey, is_shortage};
use crate::time::Stamp;

const PID_NAMESPACE: u64 = 4_026_531_836;

const OWN_UID: u32 = 1_000;

/// A handle to the modelled machine; clones share it.
#[derive(Clone)]
pub struct FakeHost {
    world: Rc<RefCell<World>>,
    session: u64,
    environment: Rc<BTreeMap<String, String>>,
}

/// What unwinds a reconciler that is killed in the middle of something; see [`FakeHost::die_after`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Killed;

impl FakeHost {
    /// A machine with one empty root, [`FakeHost::ROOT`].
    pub fn new() -> Self {
        Self::with_roots(&[Path::new(Self::ROOT)])
    }

    /// A machine with empty roots at these absolute paths.
    pub fn with_roots(roots: &[&Path]) -> Self {
        let roots: Vec<PathBuf> = roots.iter().map(|root| (*root).to_owned()).collect();
        let environment =
            [("HOME", "/home/op"), ("LANG", "C.UTF-8"), ("PATH", "/usr/bin:/bin"), ("USER", "op")];
        let owned = environment.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            world: Rc::new(RefCell::new(World::new(&roots))),
            session: 1,
            environment: Rc::new(owned.into()),
        }
    }

    /// The root of [`FakeHost::new`]; its project directory is the parent.
    pub const ROOT: &str = "/srv/app/manifests";

    /// Runs a reconciler that may be killed by [`FakeHost::die_after`].
    pub fn until_killed<T>(reconciler: impl FnOnce() -> T) -> Result<T, Killed> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(reconciler)).map_err(|payload| {
            match payload.downcast::<Killed>() {
                Ok(killed) => *killed,
                Err(failure) => std::panic::resume_unwind(failure),
            }
        })
    }

    /// A call of this handle's reconciler; the place where it is killed if it is to be.
    fn call<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world.borrow_mut();
        if world.session.number != self.session {
            world.violation("a reconciler that is dead acts");
        }
        if world.session.most_calls == Some(world.session.calls) {
            world.tell("the reconciler is killed");
            drop(world);
            std::panic::resume_unwind(Box::new(Killed));
        }
        world.session.calls += 1;
        work(&mut world)
    }
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FakeHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeHost").field("session", &self.session).field("world", &self.world).finish()
    }
}

/// Calls that change nothing are not counted as calls: to be killed before one of them is the same as to be
/// killed before the next that does.
impl Host for FakeHost {
    fn now(&self) -> Stamp {
        self.world.borrow().clock.stamp()
    }

    fn nonce(&mut self) -> Nonce {
        Nonce::from_u64(self.world.borrow_mut().fresh())
    }

    fn scan(&mut self, what: &Dirty) -> Vec<RootScan> {
        let mut guard = self.world.borrow_mut();
        let world = &mut *guard;
        let mut scans = world.scanner.scan(&world.tree, what);
        if let Some(errno) = world.faults.take(Op::Scan) {
            let problem = ("root-unreadable".to_owned(), format!("cannot be read ({})", errno.desc()));
            scans.iter_mut().for_each(|scan| scan.listing = Err(problem.clone()));
        }
        scans
    }

    fn resolve(&mut self, query: &ExecQuery) -> Resolution {
        let mut world = self.world.borrow_mut();
        match world.faults.take(Op::Resolve) {
            Some(errno) if is_shortage(errno as i32) => Err(ResolveError::Shortage {
                path: query.cwd.join(&query.word),
                error: errno.desc().to_owned(),
            }),
            Some(errno) => Err(ResolveError::Unreadable {
                path: query.cwd.join(&query.word),
                error: errno.desc().to_owned(),
            }),
            None => world.executables.resolve(query),
        }
    }

    fn read_file(&mut self, path: &Path, _reader: Option<&UserFacts>) -> Result<Option<Arc<str>>, String> {
        self.world.borrow().tree.read(path)
    }

    fn digest_files(&mut self, pattern: &Path, room: &mut Room) -> Result<Vec<(PathBuf, Digest)>, Unseen> {
        self.world.borrow().tree.digests(pattern, room)
    }

    fn secret_key(&mut self) -> Result<Option<SecretKey>, String> {
        Ok(Some(SecretKey::from([7; 32])))
    }

    fn credentials_dir(&self, nonce: &Nonce) -> PathBuf {
        Path::new("/run/reconcile").join(nonce.as_str())
    }

    fn watch_files(&mut self, files: &BTreeSet<PathBuf>) {
        self.world.borrow_mut().watched_files.clone_from(files);
    }

    fn own_uid(&self) -> u32 {
        OWN_UID
    }

    fn epoch(&self) -> u64 {
        self.world.borrow().epoch
    }

    fn is_git_worktree(&mut self, path: &Path) -> bool {
        self.world.borrow().git_worktrees.contains(path)
    }

    fn is_no_directory(&self, path: &Path) -> bool {
        self.world.borrow().lost_directories.contains(path)
    }

    fn is_directory(&self, path: &Path) -> bool {
        !self.is_no_directory(path)
    }

    fn identify(&self, pid: Pid) -> Option<ProcessIdentity> {
        self.world.borrow().identify(pid)
    }

    fn containment(&mut self, nonce: &Nonce, process: &ProcessIdentity) -> Option<Containment> {
        self.world.borrow().containment(nonce, process)
    }

    fn claim_instance(&mut self) -> Result<InstanceId, String> {
        self.call(|world| match world.faults.take(Op::ClaimInstance) {
            Some(errno) => Err(format!("the instance cannot be written ({})", errno.desc())),
            None => {
                world.tell("the copied state directory becomes this instance's own");
                Ok(InstanceId::from_u64(1))
            }
        })
    }

    fn user(&mut self, name: &str) -> Result<UserFacts, String> {
        let world = self.world.borrow();
        world.users.get(name).cloned().ok_or_else(|| format!("there is no user `{name}`"))
    }

    fn environment(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    fn append(&mut self, records: &[Record]) -> Result<(), LedgerUnwritable> {
        self.call(|world| {
            world.faults.take_for_ledger(Op::Append, Path::new("/state/ledger.journal"))?;
            world.check_records(records);
            for record in records {
                let line = serde_json::to_string(record).expect("a record can be stored");
                world.tell(format_args!("append    {line}"));
            }
            world.journal.append(records);
            world.take_over_adopted(records);
            world.counts.appends += 1;
            Ok(())
        })
    }

    fn keep_text(&mut self, digest: &Digest, text: &str) -> Result<(), LedgerUnwritable> {
        self.call(|world| {
            world.faults.take_for_ledger(Op::KeepText, Path::new("/state/accepted"))?;
            if Digest::of(text.as_bytes()) != *digest {
                world.violation(format_args!("a text is kept under {digest}, which is not its digest"));
            }
            world.journal.keep_text(digest, text);
            world.counts.texts += 1;
            Ok(())
        })
    }

    fn text(&mut self, digest: &Digest) -> Option<String> {
        let mut world = self.world.borrow_mut();
        if world.faults.take(Op::Text).is_some() {
            return None;
        }
        world.journal.text(digest).cloned()
    }

    fn observe(&mut self, claims: &[Claim]) -> Vec<Sighting> {
        self.call(|world| world.observe(claims))
    }

    /// The model forgets nothing, and sees whether anything would be forgotten that is still to be known.
    fn trim_journals(&mut self, claims: &[Claim]) {
        self.call(|world| {
            let on_disk = world.journal.fold();
            let mut runs = on_disk.services.values().filter_map(|entry| entry.run.as_ref());
            if let Some(run) = runs.find(|run| claims.iter().all(|claim| claim.nonce != run.nonce)) {
                world.violation(format_args!("what is on record of {} is forgotten", run.nonce));
            }
            let is_open = |claim: &Claim| {
                let run = on_disk.entry(&claim.service).and_then(|entry| entry.run.as_ref());
                run.is_some_and(|run| run.process.is_none())
            };
            if let Some(claim) = claims.iter().find(|claim| claim.process.is_some() && is_open(claim)) {
                world.violation(format_args!("the birth of {} is forgotten", claim.nonce));
            }
        });
    }

    fn put_limits(&mut self, claim: &Claim, limits: &CgroupLimits) -> Vec<String> {
        self.call(|world| match world.limits_hold {
            true => {
                world.limits.insert(claim.nonce.clone(), limits.clone());
                Vec::new()
            }
            false if limits.is_empty() => Vec::new(),
            false => vec!["memory_max: the memory controller is not available".to_owned()],
        })
    }

    fn unenforceable(&mut self, _limits: &CgroupLimits) -> Option<String> {
        let holds = self.world.borrow().limits_hold;
        (!holds).then(|| "memory_max: the memory controller is not available".to_owned())
    }

    fn spawn(&mut self, request: SpawnRequest) {
        self.call(|world| world.spawn(&request));
    }

    fn signal(&mut self, claim: &Claim, signal: i32, to: SignalTo) {
        self.call(|world| world.signal(claim, signal, to));
    }

    fn kill(&mut self, claim: &Claim) {
        self.call(|world| world.kill(claim));
    }

    fn run_job(&mut self, request: JobRequest) {
        self.call(|world| world.run_job(&request));
    }

    fn probe(&mut self, request: ProbeRequest) {
        self.call(|world| world.probe(request));
    }

    /// Logs of the model never grow.
    fn ask_said(&mut self, nonce: &Nonce) {
        self.world.borrow_mut().ask_said(nonce);
    }

    fn await_line(&mut self, request: LineRequest) {
        self.world.borrow_mut().await_line(request);
    }

    fn log_mark(&mut self, _service: &ServiceId) -> Option<LogMark> {
        Some(LogMark::default())
    }

    fn tend_logs(&mut self, _max_size: u64, _keep: u32) {}

    /// In the model what was ever started has a log.
    fn logged(&self) -> Vec<ServiceId> {
        let world = self.world.borrow();
        let started = world.journal.records().iter().filter_map(|record| match record {
            Record::Intent(intent) => Some(intent.service.clone()),
            _ => None,
        });
        started.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn purge_logs(&mut self, services: &[ServiceId]) {
        self.call(|world| {
            world.tell(format_args!("purge     the logs of {services:?}"));
            world.purged_logs.extend(services.iter().cloned());
        });
    }

    fn executables(&mut self, processes: &[ProcessIdentity]) -> Vec<Option<FileIdentity>> {
        let world = self.world.borrow();
        processes.iter().map(|process| world.executable(process)).collect()
    }

    /// On this machine there is nobody else.
    fn sharers(&mut self) -> Vec<Sharer> {
        Vec::new()
    }

    fn why_polling(&self) -> Option<String> {
        None
    }

    fn ports(&mut self) -> PortView {
        self.world.borrow().ports()
    }

    fn take_ports(&mut self, ports: &BTreeSet<u16>) -> BTreeSet<u16> {
        self.call(|world| world.take_ports(ports))
    }

    fn keep_ports(&mut self, ports: &BTreeSet<u16>) {
        self.call(|world| world.keep_ports(ports));
    }

    fn port_holders(&mut self, ports: &BTreeSet<u16>) -> BTreeMap<u16, PortHolder> {
        self.world.borrow().port_holders(ports)
    }

    fn port_owners(&mut self, claim: &Claim, ports: &BTreeSet<u16>) -> BTreeMap<u16, PortOwnership> {
        self.world.borrow().port_owners(claim, ports)
    }

    fn hold_socket(&mut self, key: &SocketKey, listen: &Listen) {
        self.call(|world| world.hold_socket(key, listen));
    }

    fn release_socket(&mut self, key: &SocketKey) {
        self.call(|world| world.release_socket(key));
    }

    fn watch_socket(&mut self, key: &SocketKey, _every: Duration, tell: bool) {
        self.call(|world| world.watch_socket(key, tell));
    }

    fn leave_socket(&mut self, key: &SocketKey) {
        self.call(|world| world.leave_socket(key));
    }

    fn proxy_socket(&mut self, key: &SocketKey, proxy: &Proxy) {
        self.call(|world| world.proxy_socket(key, proxy));
    }

    fn socket_used(&self, key: &SocketKey) -> Option<SocketUse> {
        self.world.borrow().socket_used(key)
    }

    fn is_connected(&mut self, addresses: &[ListenOn]) -> bool {
        self.world.borrow().is_connected(addresses)
    }

    fn turn_away(&mut self, key: &SocketKey, why: &str) {
        self.call(|world| world.turn_away(key, why));
    }

    fn held_sockets(&self) -> Option<Arc<BTreeMap<SocketKey, Listen>>> {
        Some(Arc::new(self.world.borrow().held_sockets()))
    }

    fn follow_holders(&mut self, processes: &BTreeSet<ProcessIdentity>) -> BTreeSet<ProcessIdentity> {
        self.call(|world| world.follow_holders(processes))
    }

    async fn wait(&mut self, at_most: Option<Duration>) -> Vec<Event> {
        self.call(|world| world.wait(at_most))
    }
}

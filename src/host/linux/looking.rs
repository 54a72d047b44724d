//! A host that only looks: for `status`, `plan` and `validate` without a watcher.
//!
//! Takes no lock. What it is told to remember is remembered by nobody, and it is never told to act: a
//! preview carries out no step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::holders::ended;
use super::looker::{Looker, is_no_directory, observed};
use super::with_cgroup;
use crate::host::cgroup;
use crate::host::cores::Over;
use crate::host::files::{Room, Unseen};
use crate::host::listen::{Listen, Proxy, SocketKey, SocketUse};
use crate::host::observe::{Intents, observe};
use crate::host::ports::{PortOwnership, PortView, Ports, anybody_is_connected};
use crate::host::proc::Here;
use crate::host::scan::Scanner;
use crate::host::state_dir::{Sharer, sharers};
use crate::host::{
    CgroupLimits, Claim, Dirty, Event, Host, JobRequest, LedgerUnwritable, LineRequest, ProbeRequest,
    RootScan, Sighting, SpawnRequest, StateLayout, UserFacts, clock, files, ledger_file, secret_key, trust,
};
use crate::identity::{Digest, InstanceId, Nonce, Pid, ProcessIdentity, ServiceId};
use crate::manifest::{ListenOn, SignalTo};
use crate::policy::{ExecQuery, Resolution};
use crate::state::{Containment, FileIdentity, LogMark, PortHolder, Record, SecretKey};
use crate::time::Stamp;

#[derive(Debug)]
pub struct Looking {
    /// `None`: there is no state yet.
    layout: Option<StateLayout>,
    scanner: Scanner,
    /// Of everything, before anybody has asked.
    first: Option<Vec<RootScan>>,
    looker: Looker,
    ports: Ports,
}

impl Looking {
    /// `first` is what the scanner has just found of everything; `ports` is of the state directory that there is or
    /// would be.
    pub fn new(layout: Option<StateLayout>, scanner: Scanner, first: Vec<RootScan>, ports: Ports) -> Self {
        Self { layout, scanner, first: Some(first), looker: Looker::new(), ports }
    }
}

impl Host for Looking {
    fn now(&self) -> Stamp {
        clock::now()
    }

    fn nonce(&mut self) -> Nonce {
        unreachable!("a preview starts nothing")
    }

    fn own_uid(&self) -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn epoch(&self) -> u64 {
        unreachable!("a preview starts nothing")
    }

    fn scan(&mut self, what: &Dirty) -> Vec<RootScan> {
        self.first.take().unwrap_or_else(|| self.scanner.scan(what))
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
        self.layout.as_ref().map_or(Ok(None), secret_key::read)
    }

    fn credentials_dir(&self, _nonce: &Nonce) -> PathBuf {
        unreachable!("a preview starts nothing")
    }

    fn watch_files(&mut self, _files: &BTreeSet<PathBuf>) {}

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

    fn containment(&mut self, _nonce: &Nonce, _process: &ProcessIdentity) -> Option<Containment> {
        unreachable!("a preview claims nothing")
    }

    fn claim_instance(&mut self) -> Result<InstanceId, String> {
        unreachable!("a preview claims nothing")
    }

    fn user(&mut self, name: &str) -> Result<UserFacts, String> {
        self.looker.users.lookup(name)
    }

    fn environment(&self) -> &BTreeMap<String, String> {
        &self.looker.environment
    }

    fn append(&mut self, _records: &[Record]) -> Result<(), LedgerUnwritable> {
        Ok(())
    }

    fn keep_text(&mut self, _digest: &Digest, _text: &str) -> Result<(), LedgerUnwritable> {
        Ok(())
    }

    fn text(&mut self, digest: &Digest) -> Option<String> {
        ledger_file::read_text(self.layout.as_ref()?, digest)
    }

    fn observe(&mut self, claims: &[Claim]) -> Vec<Sighting> {
        let Some(layout) = &self.layout else { return Vec::new() };
        observed(observe(layout, claims, Intents::Open, Over::All), claims)
    }

    fn trim_journals(&mut self, _claims: &[Claim]) {}

    /// Looks only.
    fn put_limits(&mut self, claim: &Claim, limits: &CgroupLimits) -> Vec<String> {
        with_cgroup(claim, limits, cgroup::limits::missing)
    }

    /// To find out is to try.
    fn unenforceable(&mut self, _limits: &CgroupLimits) -> Option<String> {
        None
    }

    fn spawn(&mut self, _request: SpawnRequest) {
        unreachable!("a preview starts nothing")
    }

    fn signal(&mut self, _claim: &Claim, _signal: i32, _to: SignalTo) {
        unreachable!("a preview signals nothing")
    }

    fn kill(&mut self, _claim: &Claim) {
        unreachable!("a preview signals nothing")
    }

    fn run_job(&mut self, _request: JobRequest) {
        unreachable!("a preview starts nothing")
    }

    fn probe(&mut self, _request: ProbeRequest) {
        unreachable!("a preview probes nothing")
    }

    fn ask_said(&mut self, _nonce: &Nonce) {
        unreachable!("a preview waits for nothing")
    }

    fn await_line(&mut self, _request: LineRequest) {
        unreachable!("a preview waits for nothing")
    }

    fn log_mark(&mut self, _service: &ServiceId) -> Option<LogMark> {
        unreachable!("a preview starts nothing")
    }

    fn tend_logs(&mut self, _max_size: u64, _keep: u32) {}

    fn logged(&self) -> Vec<ServiceId> {
        unreachable!("a preview purges nothing")
    }

    fn purge_logs(&mut self, _services: &[ServiceId]) {
        unreachable!("a preview deletes nothing")
    }

    fn executables(&mut self, processes: &[ProcessIdentity]) -> Vec<Option<FileIdentity>> {
        self.looker.executables(processes, Over::All)
    }

    /// Of a directory that is not there nobody knows which keeper is its own.
    fn sharers(&mut self) -> Vec<Sharer> {
        let here = self.layout.as_ref().map(|layout| layout.dir.as_path());
        here.map(|here| sharers(here, self.scanner.roots())).unwrap_or_default()
    }

    fn follow_holders(&mut self, processes: &BTreeSet<ProcessIdentity>) -> BTreeSet<ProcessIdentity> {
        ended(processes)
    }

    /// Nothing is watched.
    fn why_polling(&self) -> Option<String> {
        None
    }

    fn ports(&mut self) -> PortView {
        self.ports.view()
    }

    fn take_ports(&mut self, _ports: &BTreeSet<u16>) -> BTreeSet<u16> {
        unreachable!("a preview takes nothing")
    }

    fn keep_ports(&mut self, _ports: &BTreeSet<u16>) {
        unreachable!("a preview takes nothing")
    }

    fn port_holders(&mut self, ports: &BTreeSet<u16>) -> BTreeMap<u16, PortHolder> {
        self.ports.holders(ports)
    }

    fn port_owners(&mut self, claim: &Claim, ports: &BTreeSet<u16>) -> BTreeMap<u16, PortOwnership> {
        self.ports.owners(claim, ports)
    }

    fn hold_socket(&mut self, _key: &SocketKey, _listen: &Listen) {
        unreachable!("a preview listens to nothing")
    }

    fn release_socket(&mut self, _key: &SocketKey) {
        unreachable!("a preview lets go of nothing")
    }

    fn watch_socket(&mut self, _key: &SocketKey, _every: Duration, _tell: bool) {
        unreachable!("a preview watches nothing")
    }

    fn leave_socket(&mut self, _key: &SocketKey) {
        unreachable!("a preview watches nothing")
    }

    fn proxy_socket(&mut self, _key: &SocketKey, _proxy: &Proxy) {
        unreachable!("a preview accepts nobody")
    }

    fn socket_used(&self, _key: &SocketKey) -> Option<SocketUse> {
        None
    }

    fn is_connected(&mut self, addresses: &[ListenOn]) -> bool {
        anybody_is_connected(addresses)
    }

    fn turn_away(&mut self, _key: &SocketKey, _why: &str) {
        unreachable!("a preview turns nobody away")
    }

    /// Nobody is asked.
    fn held_sockets(&self) -> Option<Arc<BTreeMap<SocketKey, Listen>>> {
        None
    }

    async fn wait(&mut self, _at_most: Option<Duration>) -> Vec<Event> {
        unreachable!("a preview waits for nothing")
    }
}

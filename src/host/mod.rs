//! The world: every clock, file, `/proc` entry, signal and socket is behind [`Host`].
//!
//! `LinuxHost` is the machine, `FakeHost` a model of it under virtual time. Nothing here decides what is to
//! be done: `reconciler` calls, and gets answers or, for whatever may take long, an [`Event`] later. Nothing
//! in `manifest`, `policy`, `state` and `plan` may reach into this room.

#![allow(clippy::disallowed_methods, reason = "the one room that touches the world")]

pub mod background;
pub mod candidates;
mod cause;
pub mod cgroup;
pub mod clock;
pub mod config_files;
pub mod cores;
pub mod credentials;
pub mod descriptors;
pub mod doctor;
pub mod durable;
mod event;
pub mod excerpt;
pub mod failpoint;
pub mod fake;
pub mod files;
pub mod first;
mod flock;
pub mod foreground;
pub mod holder;
pub mod keeper;
mod layout;
pub mod ledger_file;
pub mod linux;
pub mod listen;
mod listing;
pub mod logs;
pub mod observe;
pub mod ports;
pub mod probe;
pub mod proc;
pub mod project_files;
mod request;
pub mod resolve;
pub mod scan;
pub mod secret_key;
pub mod socket;
pub mod state_dir;
pub mod sys;
pub mod trust;
pub mod usage;
pub mod users;
pub mod watch;

pub use event::{Claim, Event, Found, JobOutcome, LogTrouble, Sighting, WROTE_TOO_MUCH};
pub use layout::StateLayout;
pub use listing::{Dirty, FileScan, FileVersion, RootListing, RootScan};
pub use request::{
    CgroupLimits, Credentials, ExecTarget, JobPurpose, JobRequest, LineRequest, ProbeRequest, ProbeTarget,
    SpawnRequest, StdinKind, UserFacts, rlimits,
};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::files::{Room, Unseen};
use self::listen::{Listen, Proxy, SocketKey, SocketUse};
use self::ports::{PortOwnership, PortView};
use self::state_dir::Sharer;
use crate::identity::{Digest, InstanceId, Nonce, Pid, ProcessIdentity, ServiceId};
use crate::manifest::{ListenOn, SignalTo};
use crate::policy::{ExecQuery, Resolution};
use crate::state::{Containment, FileIdentity, LogMark, PortHolder, Record, SecretKey};
use crate::time::Stamp;

/// The seam to the world. One reconciler owns it; no method blocks on a service.
pub trait Host {
    /// All clocks at once.
    fn now(&self) -> Stamp;

    /// A fresh nonce.
    fn nonce(&mut self) -> Nonce;

    /// Lists the roots: all of them, or what is below the given paths; unchanged files come from a cache.
    fn scan(&mut self, what: &Dirty) -> Vec<RootScan>;

    /// Resolves a command under a search path to the files that would be executed.
    fn resolve(&mut self, query: &ExecQuery) -> Resolution;

    /// The text of a file, or `None` if it is not there; of what `reader` may not read, or is no text, a sentence.
    fn read_file(&mut self, path: &Path, reader: Option<&UserFacts>) -> Result<Option<Arc<str>>, String>;

    /// Digests of the content of the files that fit a pattern, which may have `*` and `?` in its last part: of all of
    /// them, or why not. What is not there is left out.
    fn digest_files(&mut self, pattern: &Path, room: &mut Room) -> Result<Vec<(PathBuf, Digest)>, Unseen>;

    /// The key by which secrets are told apart; `None` for who only looks, where there is none yet.
    fn secret_key(&mut self) -> Result<Option<SecretKey>, String>;

    /// Where a run of this nonce finds the secrets that it is given as files, or may be given them.
    fn credentials_dir(&self, nonce: &Nonce) -> PathBuf;

    /// Changes of these files, and of where they would be, are told as [`Event::Changed`] from now on; in place of a
    /// file may stand a pattern, as in [`Host::digest_files`].
    fn watch_files(&mut self, files: &BTreeSet<PathBuf>);

    /// The user that we run as.
    fn own_uid(&self) -> u32;

    /// The birth-gate epoch that a spawn asked for now belongs to.
    fn epoch(&self) -> u64;

    /// True if the directory is the top of a git worktree.
    fn is_git_worktree(&mut self, path: &Path) -> bool;

    /// True if nothing can be started in there: it is not there, or no directory. False for what cannot be seen.
    fn is_no_directory(&self, path: &Path) -> bool;

    /// True if it is one. False for what cannot be seen.
    fn is_directory(&self, path: &Path) -> bool;

    /// The process that has this pid at the moment.
    fn identify(&self, pid: Pid) -> Option<ProcessIdentity>;

    /// What contains a process of this run, as far as it can be seen.
    fn containment(&mut self, nonce: &Nonce, process: &ProcessIdentity) -> Option<Containment>;

    /// Makes a copied state directory its own again; `Err` is a sentence.
    fn claim_instance(&mut self) -> Result<InstanceId, String>;

    /// The user, by name; `Err` is a sentence.
    fn user(&mut self, name: &str) -> Result<UserFacts, String>;

    /// Variables of the reconciler's own environment, for `inherit_env`; those that are not UTF-8 are left out.
    fn environment(&self) -> &BTreeMap<String, String>;

    /// Appends to the ledger, all or nothing.
    fn append(&mut self, records: &[Record]) -> Result<(), LedgerUnwritable>;

    /// Stores an accepted manifest text under its digest, before the record that names it.
    fn keep_text(&mut self, digest: &Digest, text: &str) -> Result<(), LedgerUnwritable>;

    fn text(&mut self, digest: &Digest) -> Option<String>;

    /// Looks at every claim: identity, descendants, recorded ends. Attaches to what lives.
    fn observe(&mut self, claims: &[Claim]) -> Vec<Sighting>;

    /// What is on record beside the ledger and of use to none of these claims may be forgotten. They are every claim
    /// of the ledger as it is on disk: of a start that is open there, the birth must be found.
    fn trim_journals(&mut self, claims: &[Claim]);

    /// Has these hold for a run that lives, in place of those before; each that does not is named, with why.
    fn put_limits(&mut self, claim: &Claim, limits: &CgroupLimits) -> Vec<String>;

    /// Why these would not hold for a run that is started now; `None` also where that is not known.
    fn unenforceable(&mut self, limits: &CgroupLimits) -> Option<String>;

    /// Asks for a spawn; the answer is [`Event::Spawned`] or [`Event::SpawnFailed`].
    fn spawn(&mut self, request: SpawnRequest);

    /// Signals the leader or its group, if its identity is proved at that moment.
    fn signal(&mut self, claim: &Claim, signal: i32, to: SignalTo);

    /// SIGKILL to everything of the run until nothing is left; then [`Event::Gone`].
    fn kill(&mut self, claim: &Claim);

    /// Runs a health or stop command beside its service; the answer is [`Event::JobDone`].
    fn run_job(&mut self, request: JobRequest);

    /// Probes over the network; the answer is [`Event::Probed`].
    fn probe(&mut self, request: ProbeRequest);

    /// Asks what a run has said of itself; the answer is [`Event::Said`], which also comes unasked.
    fn ask_said(&mut self, nonce: &Nonce);

    /// Waits for a line of the log; the answer is [`Event::Probed`].
    fn await_line(&mut self, request: LineRequest);

    /// Keeps every log below about `max_size` bytes from now on, by rotation beside everything else. What is
    /// wrong with one is told: [`Event::LogTroubled`].
    fn tend_logs(&mut self, max_size: u64, keep: u32);

    /// Where the log of a service ends now: what its next run writes comes after it. `None`: it cannot be read.
    fn log_mark(&mut self, service: &ServiceId) -> Option<LogMark>;

    /// Every service of which there is a log or an archive of one, declared or not.
    fn logged(&self) -> Vec<ServiceId>;

    /// Deletes the logs of these services, archives included, and what they have kept in directories of ours.
    fn purge_logs(&mut self, services: &[ServiceId]);

    /// `exe` of each of these live leaders, by device and inode; `None` where it cannot be read.
    fn executables(&mut self, processes: &[ProcessIdentity]) -> Vec<Option<FileIdentity>>;

    /// Who else manages the roots, from another state directory. Looked for among processes: once a full pass.
    fn sharers(&mut self) -> Vec<Sharer>;

    /// Why changes of files are looked for every two seconds and not told of at once; a sentence.
    fn why_polling(&self) -> Option<String>;

    /// Which ports others listen on or have taken; a look at the machine as it is now.
    fn ports(&mut self) -> PortView;

    /// Takes ports for us, against everybody else; those that are not to be had are returned. They are ours until
    /// [`Host::keep_ports`] leaves them out, which must have been told what the ledger says before.
    fn take_ports(&mut self, ports: &BTreeSet<u16>) -> BTreeSet<u16>;

    /// These are ours, and no others: what the ledger says. Changes nothing if that is so already.
    fn keep_ports(&mut self, ports: &BTreeSet<u16>);

    /// Who listens on these ports. Those that nobody listens on are left out.
    fn port_holders(&mut self, ports: &BTreeSet<u16>) -> BTreeMap<u16, PortHolder>;

    /// Whether it is the run that listens on these ports of it.
    fn port_owners(&mut self, claim: &Claim, ports: &BTreeSet<u16>) -> BTreeMap<u16, PortOwnership>;

    /// Has a listening socket held that outlives runs, reconcilers and upgrades of the keeper; the answer is
    /// [`Event::SocketHeld`] or [`Event::SocketNotHeld`], and neither if it is held already or about to be. One of
    /// this name at another address is let go of once this one is held.
    fn hold_socket(&mut self, key: &SocketKey, listen: &Listen);

    /// Lets go of it, whether or not it is held.
    fn release_socket(&mut self, key: &SocketKey);

    /// Notes from now on when somebody connects, within `every` of the time; with `tell`, and now if somebody waits there,
    /// [`Event::Connected`] says so too. What is not held is not watched, nor after the keeper was lost.
    fn watch_socket(&mut self, key: &SocketKey, every: Duration, tell: bool);

    /// Watches it no longer.
    fn leave_socket(&mut self, key: &SocketKey);

    /// Accepts connections to a socket from now on, and hands them on; with `tell`, [`Event::Connected`] says who waits.
    fn proxy_socket(&mut self, key: &SocketKey, proxy: &Proxy);

    /// How a socket is used that is watched or handed on.
    fn socket_used(&self, key: &SocketKey) -> Option<SocketUse>;

    /// Whether anybody is connected to one of these addresses, whoever has accepted.
    fn is_connected(&mut self, addresses: &[ListenOn]) -> bool;

    /// Closes the connections that wait at a socket now, on which nobody accepts; those that speak HTTP are told why.
    fn turn_away(&mut self, key: &SocketKey, why: &str);

    /// Whatever is held; `None` while there is no keeper to tell.
    fn held_sockets(&self) -> Option<Arc<BTreeMap<SocketKey, Listen>>>;

    /// Follows these processes from now on, and no others: [`Event::HolderEnded`] tells of the end of each. Those that
    /// have ended by now are returned; what cannot be told of is not among them.
    fn follow_holders(&mut self, processes: &BTreeSet<ProcessIdentity>) -> BTreeSet<ProcessIdentity>;

    /// Waits for something to happen, `None` for ever; never returns an empty list before `at_most` is over.
    /// Cancel safe.
    fn wait(&mut self, at_most: Option<Duration>) -> impl Future<Output = Vec<Event>>;
}

#[derive(Debug, thiserror::Error)]
#[error("the ledger at {path} cannot be written")]
pub struct LedgerUnwritable {
    pub path: PathBuf,
    #[source]
    pub source: std::io::Error,
}

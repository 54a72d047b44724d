//! The world: every clock, file, `/proc` entry, signal and socket is behind [`Host`].
//!
//! `LinuxHost` is the machine, `FakeHost` a model of it under virtual time. Nothing here decides what is to
//! be done: `reconciler` calls, and gets answers or, for whatever may take long, an [`Event`] later. Nothing
//! in `manifest`, `policy`, `state` and `plan` may reach into this room.

#![allow(clippy::disallowed_methods, reason = "the one room that touches the world")]

pub mod background;
mod cause;
pub mod cgroup;
pub mod clock;
pub mod config_files;
pub mod doctor;
pub mod durable;
pub mod excerpt;
pub mod fake;
pub mod holder;
pub mod keeper;
pub mod ledger_file;
pub mod linux;
pub mod logs;
pub mod observe;
pub mod probe;
pub mod proc;
pub mod project_files;
pub mod resolve;
pub mod scan;
pub mod state_dir;
pub mod sys;
pub mod trust;
pub mod usage;
pub mod users;
pub mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::identity::{Digest, Nonce, Pid, ProcessIdentity, ServiceId};
use crate::manifest::{Limits, SignalTo, Stdin};
use crate::policy::{ExecQuery, Resolution};
use crate::state::{Containment, ExitStatus, FileIdentity, Record, SpawnFailure};
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

    /// The user that we run as.
    fn own_uid(&self) -> u32;

    /// The birth-gate epoch that a spawn asked for now belongs to.
    fn epoch(&self) -> u64;

    /// True if the directory is the top of a git worktree.
    fn is_git_worktree(&mut self, path: &Path) -> bool;

    /// The process that has this pid at the moment.
    fn identify(&mut self, pid: Pid) -> Option<ProcessIdentity>;

    /// Makes a copied state directory this instance's own; `Err` is a sentence.
    fn claim_instance(&mut self) -> Result<(), String>;

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

    /// Rotates the logs of these services that have grown past `max_size` bytes, beside everything else.
    fn rotate_logs(&mut self, services: &[ServiceId], max_size: u64, keep: u32);

    /// Deletes the logs of these services, archives included.
    fn purge_logs(&mut self, services: &[ServiceId]);

    /// `exe` of a live leader, by device and inode; `None` where it cannot be read.
    fn executable(&mut self, process: &ProcessIdentity) -> Option<FileIdentity>;

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

/// What may have changed below the roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dirty {
    Everything,
    /// Absolute paths of files or directories.
    Paths(Vec<PathBuf>),
}

/// One root as found; files in the order of their paths.
#[derive(Debug, Clone)]
pub struct RootScan {
    /// As given, made absolute.
    pub path: PathBuf,
    /// `Err`: the root itself cannot be listed, with the problem's code and a sentence.
    pub listing: Result<RootListing, (String, String)>,
}

#[derive(Debug, Clone)]
pub struct RootListing {
    pub dev: u64,
    pub inode: u64,
    /// Every directory below the root ("" for itself), with its inode, or why it could not be listed.
    pub directories: BTreeMap<PathBuf, Result<u64, String>>,
    /// Relative path → content or problem. Shared with the host's cache.
    pub files: BTreeMap<PathBuf, FileScan>,
}

/// One manifest file as found.
#[derive(Debug, Clone, PartialEq)]
pub struct FileScan {
    /// Changes whenever device, inode, mtime, ctime or size do: the key of every cache of what was made from
    /// the file.
    pub version: FileVersion,
    /// The text, or the code and a sentence of why it cannot be had.
    pub content: Result<std::sync::Arc<str>, (String, String)>,
    /// False if a stranger owns the file behind a link: its lines are not shown.
    pub may_show_lines: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FileVersion {
    pub dev: u64,
    pub inode: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub size: u64,
}

/// A user from the passwd database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserFacts {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    pub home: PathBuf,
    pub shell: PathBuf,
}

/// A run that the ledger claims.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    pub service: ServiceId,
    pub nonce: Nonce,
    /// `None`: the intent is open.
    pub process: Option<ProcessIdentity>,
    pub containment: Option<Containment>,
    pub epoch: u64,
}

/// What was found of a claim.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    pub service: ServiceId,
    pub nonce: Nonce,
    pub found: Found,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// The leader lives and is ours.
    Alive {
        /// Given where the claim had none: the birth was found.
        born: Option<(ProcessIdentity, Containment)>,
    },
    /// The leader is gone; `others` descendants live.
    Ended {
        born: Option<(ProcessIdentity, Containment)>,
        /// `None`: nobody saw it.
        status: Option<ExitStatus>,
        /// When, as far as it is known.
        at: Option<Stamp>,
        others: bool,
        other_boot: bool,
    },
    /// The intent never came to an execution, and can no longer.
    NeverBorn,
    /// A spawn of it is under way in the keeper.
    InFlight,
    /// Not to be told from a stranger; a code of `Reason` and a sentence.
    Unverifiable {
        detail: String,
    },
    ContainmentLost {
        pid: Option<Pid>,
    },
    KeeperUnresponsive,
}

/// All that a spawn needs; nothing is left to the keeper to choose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpawnRequest {
    pub service: ServiceId,
    pub nonce: Nonce,
    /// The birth-gate epoch: a child that finds another one does not execute.
    pub epoch: u64,
    pub exec: ExecTarget,
    pub argv: Vec<String>,
    /// Complete: nothing is added but `RECONCILE_SPAWN`.
    pub env: Vec<(String, String)>,
    pub cwd: PathBuf,
    pub stdin: StdinKind,
    pub user: Option<UserFacts>,
    pub umask: u32,
    pub nice: Option<i32>,
    pub oom_score_adj: Option<i32>,
    /// `(RLIMIT_*, value)`, soft and hard alike.
    pub rlimits: Vec<(u32, u64)>,
}

/// The file to execute: what was checked is what is executed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecTarget {
    pub file: FileIdentity,
    /// A `#!` script goes by path, an ELF file by descriptor.
    pub script: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StdinKind {
    Null,
    Open,
}

impl From<Stdin> for StdinKind {
    fn from(stdin: Stdin) -> Self {
        match stdin {
            Stdin::Null => Self::Null,
            Stdin::Open => Self::Open,
        }
    }
}

/// A bounded command beside a service.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRequest {
    pub purpose: JobPurpose,
    /// The run it belongs to: ended with it.
    pub of: Nonce,
    pub spawn: SpawnRequest,
    /// Then it is killed with its descendants.
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobPurpose {
    Health,
    Stop,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ProbeRequest {
    pub service: ServiceId,
    pub nonce: Nonce,
    pub target: ProbeTarget,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ProbeTarget {
    Http { url: String, expect_status: Option<u16> },
    Tcp { host: String, port: u16 },
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub enum JobOutcome {
    Exit {
        status: ExitStatus,
        /// The first 64 KiB of stdout and stderr, in the order written.
        output: String,
    },
    TimedOut,
    NotStarted(SpawnFailure),
    /// It ended with its service, or with the keeper.
    Cancelled,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Changed(Dirty),
    Spawned {
        service: ServiceId,
        nonce: Nonce,
        process: ProcessIdentity,
        containment: Containment,
    },
    SpawnFailed {
        service: ServiceId,
        nonce: Nonce,
        failure: SpawnFailure,
    },
    /// The leader has ended; `others` of it live.
    Exited {
        nonce: Nonce,
        status: Option<ExitStatus>,
        others: bool,
    },
    /// Nothing is left of it.
    Gone {
        nonce: Nonce,
    },
    /// SIGKILL was sent to all of it, and these live on.
    Unkillable {
        nonce: Nonce,
        pids: Vec<Pid>,
    },
    Probed {
        service: ServiceId,
        nonce: Nonce,
        /// `Err` is a sentence.
        result: Result<(), String>,
    },
    JobDone {
        purpose: JobPurpose,
        service: ServiceId,
        of: Nonce,
        outcome: JobOutcome,
    },
    /// The keeper is gone; everything must be observed anew.
    KeeperLost,
}

/// Where things are in a state directory.
#[derive(Debug, Clone)]
pub struct StateLayout {
    pub dir: PathBuf,
}

impl StateLayout {
    pub fn log(&self, service: &ServiceId) -> PathBuf {
        self.dir.join("logs").join(format!("{}.log", service.file_stem()))
    }

    pub fn accepted_dir(&self) -> PathBuf {
        self.dir.join("accepted")
    }

    pub fn accepted(&self, digest: &Digest) -> PathBuf {
        self.accepted_dir().join(format!("{digest}.toml"))
    }

    pub fn ledger(&self) -> PathBuf {
        self.dir.join("ledger.journal")
    }

    pub fn instance(&self) -> PathBuf {
        self.dir.join("instance.json")
    }

    /// Held exclusively by the reconciler in charge; never renamed.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("reconciler.lock")
    }

    /// Held exclusively by the keeper for life.
    pub fn keeper_lock(&self) -> PathBuf {
        self.dir.join("keeper.lock")
    }

    pub fn keeper_socket(&self) -> &Path {
        Path::new("keeper.sock")
    }

    /// Beside the directory's own descriptor: `/proc/self/fd/N/control.sock`.
    pub fn control_socket(&self) -> &Path {
        Path::new("control.sock")
    }

    /// The birth gate: locked shared by a child while it is born; holds the epoch.
    pub fn birth_gate(&self) -> PathBuf {
        self.dir.join("births.gate")
    }

    pub fn births(&self) -> PathBuf {
        self.dir.join("births.journal")
    }

    pub fn exits(&self) -> PathBuf {
        self.dir.join("exits.journal")
    }

    pub fn keeper_log(&self) -> PathBuf {
        self.dir.join("keeper.log")
    }
}

/// Limits as `(RLIMIT_*, value)` pairs.
pub fn rlimits(limits: &Limits) -> Vec<(u32, u64)> {
    let pairs = [
        (libc::RLIMIT_NOFILE, limits.nofile),
        (libc::RLIMIT_NPROC, limits.nproc),
        (libc::RLIMIT_CORE, limits.core),
        (libc::RLIMIT_FSIZE, limits.fsize),
        (libc::RLIMIT_MEMLOCK, limits.memlock),
        (libc::RLIMIT_STACK, limits.stack),
        (libc::RLIMIT_AS, limits.address_space),
        (libc::RLIMIT_CPU, limits.cpu.map(|cpu| cpu.as_secs().max(1))),
    ];
    pairs.into_iter().filter_map(|(which, value)| value.map(|value| (which, value))).collect()
}

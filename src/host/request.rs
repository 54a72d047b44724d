//! What the host is asked to do, complete: nothing is left to the keeper to choose.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::identity::{Nonce, ServiceId};
use crate::manifest::{Limits, Stdin};
use crate::state::{FileIdentity, Intent, LogMark};

/// A user from the passwd database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserFacts {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    #[serde(with = "crate::state::paths")]
    pub home: PathBuf,
    #[serde(with = "crate::state::paths")]
    pub shell: PathBuf,
}

/// All that a spawn needs; nothing is left to the keeper to choose.
///
/// `I` is the intent, or its text for who only passes it on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpawnRequest<I = Box<Intent>> {
    pub service: ServiceId,
    pub nonce: Nonce,
    /// The birth-gate epoch: a child that finds another one does not execute.
    pub epoch: u64,
    pub exec: ExecTarget,
    pub argv: Vec<String>,
    /// Complete: nothing is added but `RECONCILE_SPAWN`.
    pub env: Vec<(String, String)>,
    #[serde(with = "crate::state::paths")]
    pub cwd: PathBuf,
    pub stdin: StdinKind,
    pub user: Option<UserFacts>,
    pub umask: u32,
    pub nice: Option<i32>,
    pub oom_score_adj: Option<i32>,
    /// `(RLIMIT_*, value)`, soft and hard alike.
    pub rlimits: Vec<(u32, u64)>,
    /// What the ledger says of the start of a service, for its birth to repeat; `None` for a job.
    #[serde(default = "Option::default")]
    pub intent: Option<I>,
    /// Names of sockets of the service that the keeper holds: passed as descriptors from 3 on, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<String>,
    /// It is told where to say how it is: `NOTIFY_SOCKET`, and `WATCHDOG_PID` where it is given a `WATCHDOG_USEC`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub notify: bool,
    /// It is given a descriptor of this number, and is ready once it has written a newline to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify_fd: Option<u16>,
    /// Files that it is given, told in `CREDENTIALS_DIRECTORY`; removed when all of it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// `cwd` is made where it is not there, by its user, for that one alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub make_cwd: bool,
    /// Likewise another directory.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::state::paths::option")]
    pub make_work: Option<PathBuf>,
    /// What it may use in all; nothing where that cannot be enforced.
    #[serde(default, skip_serializing_if = "CgroupLimits::is_empty")]
    pub cgroup: CgroupLimits,
    /// Where they do not hold, nothing is executed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub limits_required: bool,
    /// What it writes to stderr goes nowhere: of a job whose output is a value.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdout_only: bool,
}

/// Secrets as files: a directory of its own, which only its user can read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    #[serde(with = "crate::state::paths")]
    pub dir: PathBuf,
    /// By name.
    pub files: BTreeMap<String, String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("dir", &self.dir).field("files", &self.files.keys()).finish()
    }
}

/// The file to execute: what was checked is what is executed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecTarget {
    pub file: FileIdentity,
    /// A `#!` script goes by path, an ELF file by descriptor.
    pub script: bool,
    /// The path by which it was found, links and all: what a script sees as `$0`.
    #[serde(default, with = "crate::state::paths::option")]
    pub found: Option<PathBuf>,
}

impl ExecTarget {
    /// What the kernel is given, and gives to a script's interpreter.
    pub fn path(&self) -> &Path {
        self.found.as_deref().filter(|_| self.script).unwrap_or(&self.file.path)
    }
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
    /// The run it belongs to: ended with it. Its own nonce: it belongs to none.
    pub of: Nonce,
    pub spawn: SpawnRequest,
    /// Then it is killed with its descendants.
    pub timeout: Duration,
}

impl JobRequest {
    /// It is beside no run.
    pub fn is_alone(&self) -> bool {
        self.of == self.spawn.nonce
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobPurpose {
    Health,
    Stop,
    /// Has a service take up its files.
    Reload,
    /// Writes a secret, beside no run.
    Secret,
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

/// A line of its output that a run is waited for to write.
#[derive(Debug, Clone, PartialEq)]
pub struct LineRequest {
    pub service: ServiceId,
    pub nonce: Nonce,
    /// A regular expression.
    pub pattern: String,
    /// Where its output begins; `None`: that is not known, and only what it writes from now on is read.
    pub from: Option<LogMark>,
    /// Until the answer that there was none.
    pub timeout: Duration,
}

/// What all processes of a run may use together; `u64::MAX` is as much as there is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CgroupLimits {
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<u64>,
    /// Thousandths of a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_max: Option<u32>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u64>,
}

impl CgroupLimits {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl From<&Limits> for CgroupLimits {
    fn from(limits: &Limits) -> Self {
        Self { memory_max: limits.memory_max, cpu_max: limits.cpu_max, pids_max: limits.pids_max }
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

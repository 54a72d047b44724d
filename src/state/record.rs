//! The records of the ledger.
//!
//! A record is one thing that happened or was asked for; only compaction writes [`Record::Entry`], which is
//! all that is remembered of a service at once. Stored for ever: a variant and a field keep their names and
//! meaning, new fields have a default, and an older binary that meets a variant it does not know keeps the
//! line and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Entry, FileKey, FileMarks, Holder, Lease, LeaseEnd, LogMark, Reason, RootKey};
use crate::identity::{Digest, Nonce, Pid, ProcessIdentity, ServiceId};
use crate::manifest::PortBlocks;
use crate::time::Stamp;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// A root as last seen: recognised by device and inode when its path has changed.
    Root {
        key: RootKey,
        #[serde(with = "super::paths")]
        path: PathBuf,
        dev: u64,
        inode: u64,
        /// When the directory was made, where the file system tells: an inode number is used again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        born_ns: Option<u64>,
    },
    /// This text of this file passed check and policy; it declares exactly these services.
    Accepted {
        file: FileKey,
        digest: Digest,
        services: Vec<ServiceId>,
        /// Of the directory the file is in; 0 if unknown. An empty directory with another one is no removal.
        #[serde(default, skip_serializing_if = "is_zero")]
        directory_inode: u64,
    },
    /// The file is gone for good (its removal was carried out, or its services moved).
    FileForgotten {
        file: FileKey,
    },
    /// A spawn is about to be asked for. Without it on disk nothing is started.
    Intent(Box<Intent>),
    /// The keeper answered, or the birth was found in the journal of births.
    Started {
        service: ServiceId,
        nonce: Nonce,
        process: ProcessIdentity,
        containment: Containment,
        at: Stamp,
    },
    /// Nothing was executed.
    SpawnFailed {
        service: ServiceId,
        nonce: Nonce,
        failure: SpawnFailure,
        at: Stamp,
    },
    /// Healthy (or settled) for the first time in this run.
    Ready {
        service: ServiceId,
        nonce: Nonce,
        at: Stamp,
    },
    /// A change of class live took effect on the running process; `digest` is that of the text now in force.
    Updated {
        service: ServiceId,
        nonce: Nonce,
        digest: Digest,
    },
    /// The runs of its dependencies that this run goes on beside, of those that it follows: all of them. What a start
    /// finds is in its intent.
    Beside {
        service: ServiceId,
        nonce: Nonce,
        beside: BTreeMap<ServiceId, Nonce>,
    },
    /// The files that this run goes on with: all of them. What a start finds is in its intent.
    Files {
        service: ServiceId,
        nonce: Nonce,
        files: FileMarks,
    },
    /// The first step of a stop is about to be taken.
    Stopping {
        service: ServiceId,
        nonce: Nonce,
        why: Reason,
        at: Stamp,
    },
    /// The leader has ended. `failures` is the count of consecutive failures with this one.
    Exited {
        service: ServiceId,
        nonce: Nonce,
        end: End,
        failures: u32,
        at: Stamp,
    },
    /// Nothing is left of this run: no leader, no descendant.
    Gone {
        service: ServiceId,
        nonce: Nonce,
    },
    /// The operator asked for something that outlives the command.
    Request {
        service: ServiceId,
        request: Request,
        at: Stamp,
    },
    /// All that this holder holds from now on.
    Leased {
        lease: Box<Lease>,
    },
    /// This holder does not hold these any more.
    LeaseEnded {
        #[serde(flatten)]
        holder: Holder,
        services: BTreeSet<ServiceId>,
        how: LeaseEnd,
        at: Stamp,
    },
    /// No longer wanted for a reason that ends the activation; the next start begins a new one.
    Deactivated {
        service: ServiceId,
    },
    /// The service is gone from manifests and machine.
    Forgotten {
        service: ServiceId,
    },
    /// A prune guard holds these services until they return or are released by name.
    GuardLatched {
        service: ServiceId,
        why: Reason,
    },
    GuardReleased {
        service: ServiceId,
    },
    /// All that is remembered of a service; replaces what was. Written by compaction.
    Entry {
        service: ServiceId,
        entry: Arc<Entry>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    pub service: ServiceId,
    pub nonce: Nonce,
    /// Versioned, `v1:<hex>`; of the fields of class restart.
    pub fingerprint: String,
    /// The accepted text this is started from.
    pub digest: Digest,
    pub why: Reason,
    pub exec: ExecFacts,
    pub at: Stamp,
    /// The birth-gate epoch the child must find unchanged.
    pub epoch: u64,
    /// True if the counters of failures begin anew (a changed spec, a request).
    #[serde(default)]
    pub clears_failures: bool,
    /// The runs of its dependencies that it is started beside, of those that it follows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub beside: BTreeMap<ServiceId, Nonce>,
    /// The ports that it is given, from here on until it is given others or forgotten.
    #[serde(default, skip_serializing_if = "PortBlocks::is_empty")]
    pub ports: PortBlocks,
    /// The files that it is started with; `None` where it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Box<FileMarks>>,
    /// Where its output begins in its log, where a line of it is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Box<LogMark>>,
    /// Which directory it is started in, where it was one of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

/// The fingerprint of a start that is not known any more: equal to none, and of no version.
pub const LOST_FINGERPRINT: &str = "lost";

impl Intent {
    /// Of a start whose own intent is lost. `digest` is the newest accepted text that is known to declare the
    /// service.
    pub fn lost(service: ServiceId, nonce: Nonce, digest: Digest, at: Stamp) -> Self {
        Self {
            service,
            nonce,
            fingerprint: LOST_FINGERPRINT.to_owned(),
            digest,
            why: Reason::RecordLost,
            exec: ExecFacts { files: Vec::new(), uid: 0, allowed: Vec::new() },
            at,
            epoch: 0,
            clears_failures: false,
            beside: BTreeMap::new(),
            ports: PortBlocks::new(),
            files: None,
            log: None,
            cwd: None,
        }
    }
}

/// What a start resolved to, for the policy check of what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecFacts {
    /// The file that is executed, then for scripts each interpreter in turn.
    pub files: Vec<FileIdentity>,
    pub uid: u32,
    /// Names allowed for this start alone, by `--allow`.
    #[serde(default)]
    pub allowed: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileIdentity {
    #[serde(with = "super::paths")]
    pub path: PathBuf,
    pub dev: u64,
    pub inode: u64,
    /// Nanoseconds since 1970; changes with every change of content or metadata.
    pub ctime_ns: i64,
}

/// What holds the descendants of a run together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Containment {
    /// A cgroup v2 directory of its own, by absolute path.
    Cgroup {
        #[serde(with = "super::paths")]
        path: PathBuf,
    },
    /// A subreaper of its own, the parent of the leader.
    Holder {
        process: ProcessIdentity,
        /// Where it was made without privileges: the cgroup that it shares with others, and that nothing it
        /// holds can leave.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        within: Option<SharedCgroup>,
    },
}

/// A cgroup v2 directory that is not ours: which one, so that another of the same name is told from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedCgroup {
    #[serde(with = "super::paths")]
    pub path: PathBuf,
    pub inode: u64,
}

/// How a leader ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What is known of the end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum End {
    /// After a stop of ours; why is in the record of the stop.
    Ours {
        status: Option<ExitStatus>,
    },
    Exit {
        status: ExitStatus,
    },
    /// It is gone, and nobody was there to see how.
    Unknown,
    /// The machine was booted since.
    OtherBoot,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Keep stopped until `start` or `restart`, or until the manifest is deleted.
    Stop,
    Start,
    Restart,
    Reset,
    /// TTL from now.
    Renew,
    /// It is used at this moment.
    Touch,
}

/// Why nothing was executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnFailure {
    pub stage: SpawnStage,
    /// 0 where no system call failed.
    pub errno: i32,
    /// What was being done and to what, for people.
    pub message: String,
}

/// The step of a spawn that failed, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpawnStage {
    /// The keeper could not be asked, or did not answer.
    Keeper,
    Cgroup,
    Fork,
    Session,
    Limits,
    Log,
    User,
    Cwd,
    /// Its secrets could not be written as files.
    Credentials,
    /// A socket that is to be passed on is not there.
    Socket,
    /// The file to execute is not the one that was checked.
    ExecChanged,
    /// The request is older than the reconciler in charge.
    Epoch,
    Born,
    Exec,
}

impl SpawnFailure {
    /// True where the cause is the machine's, not the manifest's: it is out of something, by the stage or by the error,
    /// which may come at any stage.
    pub fn is_of_the_machine(&self) -> bool {
        let by_stage = match self.stage {
            SpawnStage::Keeper
            | SpawnStage::Socket
            | SpawnStage::Cgroup
            | SpawnStage::Fork
            | SpawnStage::Born
            | SpawnStage::Credentials
            | SpawnStage::Epoch => true,
            SpawnStage::Session
            | SpawnStage::Limits
            | SpawnStage::Log
            | SpawnStage::User
            | SpawnStage::Cwd
            | SpawnStage::ExecChanged
            | SpawnStage::Exec => false,
        };
        by_stage || is_shortage(self.errno)
    }
}

/// True of what the system says when it, a user or a process is out of descriptors, processes, memory or room.
pub fn is_shortage(errno: i32) -> bool {
    use libc::{EAGAIN, EDQUOT, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC};
    [EAGAIN, EDQUOT, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC].contains(&errno)
}

/// One line of the journal of exits, written by the keeper or a holder before it reaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitLine {
    pub nonce: Nonce,
    pub pid: Pid,
    pub start_ticks: u64,
    pub status: ExitStatus,
    pub at: Stamp,
}

/// One line of the journal of births, written by the child just before it executes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BirthLine {
    pub nonce: Nonce,
    pub process: ProcessIdentity,
    pub containment: Containment,
    /// What the ledger says of this start: it is said twice, so that a ledger that lost it is made good.
    pub intent: Box<Intent>,
}

impl Record {
    /// The one service that the record is about; `None` for records of roots, files and leases.
    pub fn service(&self) -> Option<&ServiceId> {
        match self {
            Self::Root { .. }
            | Self::Accepted { .. }
            | Self::FileForgotten { .. }
            | Self::Leased { .. }
            | Self::LeaseEnded { .. } => None,
            Self::Intent(intent) => Some(&intent.service),
            Self::Started { service, .. }
            | Self::SpawnFailed { service, .. }
            | Self::Ready { service, .. }
            | Self::Updated { service, .. }
            | Self::Beside { service, .. }
            | Self::Files { service, .. }
            | Self::Stopping { service, .. }
            | Self::Exited { service, .. }
            | Self::Gone { service, .. }
            | Self::Request { service, .. }
            | Self::Deactivated { service }
            | Self::Forgotten { service }
            | Self::GuardLatched { service, .. }
            | Self::GuardReleased { service }
            | Self::Entry { service, .. } => Some(service),
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

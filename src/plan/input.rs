//! The inputs of the planner: values that the reconciler has gathered before the pass.
//!
//! Whatever needs a file, a clock or a comparison of two manifest texts is worked out before it gets here, so
//! that the planner compares and never looks. The states that these types can express and that cannot happen
//! (a process without a run) have rows all the same: see `process`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::identity::{Digest, Nonce, ServiceId};
use crate::manifest::{Problem, Spec, Unread};
use crate::state::{Contents, Entry, FileMarks, Lease, Reason, RootKey, Said};
use crate::time::Stamp;

/// What the manifests and the policy ask for.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Every service that a manifest of the given roots names, or that the ledger remembers.
    pub services: BTreeMap<ServiceId, Want>,
    pub roots: BTreeMap<RootKey, RootState>,
    pub prune: PruneRules,
    /// Everything is to be stopped, and nothing of it is written down as unwanted.
    pub shutdown: bool,
    /// With `shutdown`: what belongs to roots that this run was not given is to be stopped too (`down`).
    pub everywhere: bool,
    /// Steps are for these alone; all others are looked at, and left as they are. `None`: for all.
    pub only: Option<BTreeSet<ServiceId>>,
    /// With `shutdown`: every grace is over (a second Ctrl-C).
    pub kill: bool,
}

/// What is asked for of one service.
#[derive(Debug, Clone)]
pub struct Want {
    /// *E*: the newest spec that passed check and policy.
    pub accepted: Option<Arc<Accepted>>,
    /// The policy in force refuses the accepted spec.
    pub refused: Option<Refusal>,
    /// A newer version, or the only one, that did not pass.
    pub problems: Vec<Problem>,
    pub presence: Presence,
    /// The file it is declared in, for people.
    pub manifest: Option<PathBuf>,
    /// A start must wait; why, as a reason for the phase `pending`. A process that runs is not stopped for a
    /// restart as long as the start that would follow must wait.
    pub gate: Option<Reason>,
    /// The files that matter to it, as they are now; `None` where it names none.
    pub files: Option<Arc<FileMarks>>,
    /// Since its newest spawn failed, its manifest or a file that its command resolves to has changed: the
    /// spawn is tried again at once.
    pub retry: bool,
}

/// An accepted spec with what is compared each pass, worked out once.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    pub spec: Spec,
    /// Of the text of its file.
    pub digest: Digest,
    /// `v1:<hex>` over the fields of class restart.
    pub fingerprint: String,
    /// Over the fields of class live.
    pub live_digest: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Code and message of the first problem.
    pub problem: String,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Presence {
    /// A manifest declares it (in whatever version).
    Present,
    /// No manifest of the given roots declares it, since this long.
    Absent { root: RootKey },
    /// It belongs to a root that this run was not given.
    OtherRoot { path: PathBuf },
}

/// What a scan found of a root, or of one directory below it.
#[derive(Debug, Clone, PartialEq)]
pub struct RootState {
    pub path: PathBuf,
    /// Directories (relative to the root, "" for itself) that held manifests and now cannot be read, are
    /// missing, or are empty with another inode; with how.
    pub lost: BTreeMap<PathBuf, String>,
    /// The lock of a git that is changing what is below, if it was seen in the newest full listing.
    pub checkout: Option<PathBuf>,
    /// Refused files of which nobody knows all that they declare.
    pub unread: Vec<UnreadFile>,
    /// How long nothing has changed below it.
    pub quiet_for: Duration,
}

/// A refused file that may declare what no other file does.
#[derive(Debug, Clone, PartialEq)]
pub struct UnreadFile {
    /// Relative to the root.
    pub path: PathBuf,
    pub services: Arc<Unread>,
    /// When the file was changed, renamed or replaced; 0 where that is unknown.
    pub changed_wall_ms: i64,
    /// What is wrong with it.
    pub problem: String,
}

/// `[prune]` of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct PruneRules {
    pub delay: Duration,
    pub guard_min: usize,
    pub max_fraction: f64,
    /// `--allow-prune`: no guard holds.
    pub allow: bool,
    /// `reconcile prune NAME…`: neither guard nor delay holds these. Kept until they are forgotten.
    pub named: BTreeSet<ServiceId>,
}

impl Default for PruneRules {
    fn default() -> Self {
        Self {
            delay: Duration::from_secs(2),
            guard_min: 5,
            max_fraction: 0.5,
            allow: false,
            named: BTreeSet::new(),
        }
    }
}

/// What the machine and the ledger show.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    pub services: BTreeMap<ServiceId, Service>,
    pub leases: Vec<HeldLease>,
}

/// A lease of the ledger, and whether its holder is there.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldLease {
    pub lease: Lease,
    /// Its holder is a process, and that has ended.
    pub holder_ended: bool,
}

/// One service as it is.
#[derive(Debug, Clone, Default)]
pub struct Service {
    /// The ledger's own.
    pub entry: Arc<Entry>,
    pub seen: Seen,
    pub flight: Flight,
    pub health: Health,
    /// The run whose executable was replaced on disk, where that is to be followed.
    pub replaced: Option<Nonce>,
    /// True once this reconciler has attached to the run.
    pub attached: bool,
    /// The accepted spec that `entry.run.digest` names, where its text is still there: in force for a process
    /// whose manifest has no accepted version any more.
    pub running: Option<Arc<Accepted>>,
    /// Fields of class restart that differ between what runs (without a run: what ran last) and the accepted
    /// spec. Worked out only where their texts differ, by today's code.
    pub changed: Vec<String>,
    /// The same for the fields of class live.
    pub live_changed: Vec<String>,
    /// Among `live_changed` is a field of `restart` or `health`.
    pub parked_changed: bool,
    pub usage: Usage,
    pub reload: ReloadTry,
}

/// How the command goes by which it is to take up files.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReloadTry {
    pub in_flight: bool,
    /// In a row, for the content below.
    pub failures: u32,
    pub failed_at: Option<Stamp>,
    /// What it was last told to take up.
    pub tried: Contents,
}

/// Who uses a service that runs on demand, as far as it is seen here.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Usage {
    /// Somebody has connected, and it does not run.
    pub waiting: bool,
    /// Somebody is connected.
    pub open: bool,
    /// Somebody was, last at this time.
    pub last: Option<Stamp>,
}

/// *P*: the process of the current run, as proved at this moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Seen {
    #[default]
    None,
    Alive,
    /// The leader is gone, others of it are alive.
    Leftovers,
    Unverifiable(Reason),
}

/// What is under way for the current run.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Flight {
    #[default]
    None,
    Spawning {
        nonce: Nonce,
    },
    /// The stop command runs.
    StopCommand {
        since: Stamp,
    },
    Signalled {
        since: Stamp,
    },
    Killed {
        since: Stamp,
    },
}

/// What the probes of the current run have shown.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Health {
    /// Consecutive failures.
    pub failures: u32,
    pub last_error: Option<String>,
    pub last_probe: Option<Stamp>,
    /// Passing at the newest probe, since.
    pub ready_since: Option<Stamp>,
    pub in_flight: bool,
    /// Proved at the newest look: somebody else listens on a port of it.
    pub foreign: Option<Reason>,
    /// What it has said of itself, as far as that was heard of.
    pub said: Option<Box<Said>>,
    /// When it last said that it lives; at first, when that was first looked for.
    pub alive: Option<Stamp>,
}

//! Why a step is taken, or why a service is in its phase: typed, with its evidence.
//!
//! One vocabulary for `plan`, `status`, the ledger and the log. `code` is stable for ever and kebab-case;
//! `message` is a sentence fragment for people that says what to do where there is something to do. A
//! test fails for every variant that no scenario produces.

mod sentence;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ExitStatus, LeaseEnd, PortHolder, SpawnFailure, millis};
use crate::identity::{Pid, ServiceId};
use crate::manifest::{ActivateOn, Condition};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum Reason {
    // Why a service is started.
    /// Nothing is remembered of it.
    New,
    Requested {
        request: String,
    },
    SpecChanged {
        fields: Vec<String>,
    },
    Crashed {
        status: Option<ExitStatus>,
        failures: u32,
    },
    /// It ended cleanly and the policy is `always`.
    Ended {
        status: ExitStatus,
    },
    OtherBoot,
    /// A file that it was started with says something else by now; also why a process is stopped.
    FileChanged {
        path: String,
    },
    /// Another file has the name of its executable by now; also why a process is stopped.
    ExeChanged,
    /// A secret is another than at the start; also why a process is stopped.
    SecretChanged {
        name: String,
    },
    /// The command of a secret is being run, which a start waits for.
    SecretPending {
        name: String,
    },
    /// A start waits for a secret.
    SecretUnavailable {
        name: String,
        why: String,
    },
    /// A dependency that it follows was started anew; also why a process is stopped.
    DependencyRestarted {
        dependency: ServiceId,
    },
    /// A spawn was interrupted before anything was executed.
    NeverBorn,
    /// We stopped it for a reason that no longer holds.
    WantedAgain,
    /// Somebody has connected to a socket of it.
    Connected,
    /// A service that is to run depends on it.
    NeededBy {
        dependent: ServiceId,
    },
    /// Somebody has leased it.
    Leased {
        holder: String,
    },
    /// The newest spawn came to nothing and is tried again.
    SpawnRetry {
        failure: SpawnFailure,
    },

    // Why a process is stopped.
    Removed,
    DeclaredStopped,
    OperatorStop,
    TtlExpired {
        #[serde(with = "millis")]
        ttl: Duration,
    },
    PolicyRevoked {
        problem: String,
    },
    /// Nobody has used it for this long.
    Idle {
        #[serde(with = "millis")]
        idle: Duration,
    },
    /// Whoever had leased it has let go of it, the last of them so.
    Released {
        holder: String,
        how: LeaseEnd,
    },
    /// It was started for services that depend on it, and none of them is to run any more.
    NotNeeded,
    Unhealthy {
        failures: u32,
        last_error: String,
    },
    StartTimeout {
        #[serde(with = "millis")]
        timeout: Duration,
        last_error: String,
    },
    /// The leader is gone and others of it live.
    Leftovers {
        status: Option<ExitStatus>,
    },
    /// The leader ended cleanly at once and left others behind.
    LeftTheForeground,
    /// `down`, Ctrl-C, or the end of a watcher.
    Shutdown,
    /// The grace period of a stop is over.
    GraceOver {
        #[serde(with = "millis")]
        grace: Duration,
    },

    // Why nothing may be touched.
    IdentityUnverifiable {
        detail: String,
    },
    /// Nothing could be opened to look at its process; it is looked at again.
    OutOfDescriptors {
        detail: String,
    },
    ContainmentLost {
        pid: Option<Pid>,
    },
    ForeignLedger {
        instance: String,
    },
    KeeperUnresponsive,
    /// SIGKILL was sent to all of it, and these live on.
    Unkillable {
        pids: Vec<Pid>,
    },
    /// What became of its newest run is not yet in the ledger.
    Unrecorded,
    GuardRootGone {
        path: String,
        detail: String,
    },
    GuardFraction {
        removed: usize,
        of: usize,
    },
    /// A git is changing the worktree that the root is in: what is gone may come back elsewhere.
    GuardCheckout {
        lock: String,
    },
    /// A manifest that is not accepted may declare it.
    GuardUnreadManifest {
        path: String,
        problem: String,
    },
    /// Removals wait until the directory has been quiet.
    PruneDelay,
    ForeignRoot {
        path: String,
    },
    /// The ledger was damaged, and what it said of this is lost.
    RecordLost,

    // What else a pass does.
    Adopted {
        pid: Pid,
    },
    LiveChanged {
        fields: Vec<String>,
    },
    /// What it was started from is not known any more.
    TextLost,
    Rejected {
        problems: usize,
        first: String,
    },
    Forgotten,

    // Why a service is in its phase.
    /// It is started when somebody uses it.
    OnDemand {
        on: ActivateOn,
    },
    Starting,
    Running,
    Ready,
    Unwell {
        failures: u32,
        last_error: String,
    },
    Stopping,
    Backoff {
        failures: u32,
        max_failures: u32,
        status: Option<ExitStatus>,
        #[serde(with = "millis")]
        left: Duration,
        /// Why we stopped it, where that was its own failure.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Box<Reason>>,
    },
    Failed {
        failures: u32,
        status: Option<ExitStatus>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Box<Reason>>,
    },
    Completed {
        status: Option<ExitStatus>,
    },
    /// It ended unsuccessfully and the policy is `never`.
    NotRestarted {
        status: Option<ExitStatus>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Box<Reason>>,
    },
    ExecFailed {
        failure: SpawnFailure,
    },
    /// A gate before the start is closed.
    Gate {
        gate: String,
        message: String,
    },
    /// Nothing is started that cannot be put on record first.
    LedgerUnwritable {
        detail: String,
    },
    /// What it depends on is not as it wants it.
    Dependency {
        unmet: Vec<Unmet>,
    },
    /// It is to be stopped, and what depends on it ends first.
    DependentsFirst {
        dependents: Vec<ServiceId>,
    },
    /// No port of the configured range is to be had.
    NoPort {
        /// In its `ports`.
        name: String,
        count: u16,
        range: String,
        /// Who holds how many, the greatest first.
        holders: Vec<String>,
    },
    /// Somebody else has the port that its manifest gives.
    PortTaken {
        name: String,
        port: u16,
        holder: PortHolder,
    },
    /// Limits are required, and those that it declares cannot be enforced here.
    LimitsNotEnforced {
        why: String,
    },
    /// A socket of it is being opened, which takes a moment.
    SocketOpening {
        /// In its `sockets`.
        name: String,
        address: String,
    },
    /// A socket of it cannot be opened.
    SocketUnavailable {
        name: String,
        address: String,
        /// 0 where it was no system call that failed.
        errno: i32,
        detail: String,
        /// Who listens there, where that is what is in the way.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<PortHolder>,
    },
    /// It runs, and somebody else listens on its port.
    PortForeign {
        name: String,
        port: u16,
        holder: PortHolder,
    },
}

/// A dependency that is not as it is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unmet {
    pub service: ServiceId,
    pub condition: Condition,
    /// How it stands, for people.
    pub why: String,
    /// Whom it waits for itself, and they in turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<ServiceId>,
}

impl Reason {
    /// True if a start for this reason lets the counters of failures begin anew: somebody has done something about them.
    /// A file is no such reason, for the service may have written it.
    pub fn clears_failures(&self) -> bool {
        matches!(
            self,
            Self::Requested { .. }
                | Self::SpecChanged { .. }
                | Self::Connected
                | Self::NeededBy { .. }
                | Self::Leased { .. }
        )
    }

    /// True if a stop for this reason was made since nobody used it: what is over then is over.
    pub fn is_want_of_use(&self) -> bool {
        matches!(self, Self::Idle { .. } | Self::Released { .. } | Self::NotNeeded)
    }

    /// True if a stop for this reason is made whoever has leased the service.
    pub fn overrules_leases(&self) -> bool {
        matches!(
            self,
            Self::Removed
                | Self::PolicyRevoked { .. }
                | Self::DeclaredStopped
                | Self::OperatorStop
                | Self::TtlExpired { .. }
                | Self::Shutdown
        )
    }

    /// True if a stop for this reason is the service's own failure, judged by its restart policy like a crash.
    pub fn counts_as_failure(&self) -> bool {
        matches!(self, Self::Unhealthy { .. } | Self::StartTimeout { .. } | Self::LeftTheForeground)
    }

    /// True where a claim to a process cannot be proved or used: what `adopt` and `forget` are for.
    pub fn is_about_identity(&self) -> bool {
        matches!(
            self,
            Self::IdentityUnverifiable { .. }
                | Self::ContainmentLost { .. }
                | Self::ForeignLedger { .. }
                | Self::KeeperUnresponsive
                | Self::Unkillable { .. }
        )
    }

    /// True where nothing is known for now, and nobody has to do anything about the service.
    pub fn passes(&self) -> bool {
        matches!(self, Self::OutOfDescriptors { .. })
    }

    pub fn is_about_a_socket(&self) -> bool {
        matches!(self, Self::SocketOpening { .. } | Self::SocketUnavailable { .. })
    }

    /// True for a gate that opens when somebody else lets go of a port, or an address, which nobody tells of.
    pub fn waits_for_a_port(&self) -> bool {
        matches!(self, Self::NoPort { .. } | Self::PortTaken { .. } | Self::SocketUnavailable { .. })
    }

    /// Codes of the guards that hold a removal.
    pub const PRUNE_GUARDS: [&str; 5] =
        ["guard-root-gone", "guard-checkout", "guard-unread-manifest", "guard-fraction", "record-lost"];

    /// True for a guard that holds a removal until somebody does something about it.
    pub fn is_prune_guard(&self) -> bool {
        Self::PRUNE_GUARDS.contains(&self.code())
    }

    /// Stable, kebab-case; the same as in the stored form.
    pub fn code(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Requested { .. } => "requested",
            Self::SpecChanged { .. } => "spec-changed",
            Self::Crashed { .. } => "crashed",
            Self::Ended { .. } => "ended",
            Self::OtherBoot => "other-boot",
            Self::FileChanged { .. } => "file-changed",
            Self::ExeChanged => "exe-changed",
            Self::SecretChanged { .. } => "secret-changed",
            Self::SecretPending { .. } => "secret-pending",
            Self::SecretUnavailable { .. } => "secret-unavailable",
            Self::DependencyRestarted { .. } => "dependency-restarted",
            Self::NeverBorn => "never-born",
            Self::WantedAgain => "wanted-again",
            Self::Connected => "connected",
            Self::NeededBy { .. } => "needed-by",
            Self::Leased { .. } => "leased",
            Self::Released { .. } => "released",
            Self::NotNeeded => "not-needed",
            Self::Idle { .. } => "idle",
            Self::OnDemand { .. } => "on-demand",
            Self::SpawnRetry { .. } => "spawn-retry",
            Self::Removed => "removed",
            Self::DeclaredStopped => "declared-stopped",
            Self::OperatorStop => "operator-stop",
            Self::TtlExpired { .. } => "ttl-expired",
            Self::PolicyRevoked { .. } => "policy-revoked",
            Self::Unhealthy { .. } => "unhealthy",
            Self::StartTimeout { .. } => "start-timeout",
            Self::Leftovers { .. } => "leftovers",
            Self::LeftTheForeground => "left-the-foreground",
            Self::Shutdown => "shutdown",
            Self::GraceOver { .. } => "grace-over",
            Self::IdentityUnverifiable { .. } => "identity-unverifiable",
            Self::OutOfDescriptors { .. } => "out-of-descriptors",
            Self::ContainmentLost { .. } => "containment-lost",
            Self::ForeignLedger { .. } => "foreign-ledger",
            Self::KeeperUnresponsive => "keeper-unresponsive",
            Self::Unkillable { .. } => "unkillable",
            Self::Unrecorded => "unrecorded",
            Self::GuardRootGone { .. } => "guard-root-gone",
            Self::GuardCheckout { .. } => "guard-checkout",
            Self::GuardFraction { .. } => "guard-fraction",
            Self::GuardUnreadManifest { .. } => "guard-unread-manifest",
            Self::PruneDelay => "prune-delay",
            Self::ForeignRoot { .. } => "foreign-root",
            Self::RecordLost => "record-lost",
            Self::Adopted { .. } => "adopted",
            Self::LiveChanged { .. } => "live-changed",
            Self::TextLost => "text-lost",
            Self::Rejected { .. } => "rejected",
            Self::Forgotten => "forgotten",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Unwell { .. } => "unwell",
            Self::Stopping => "stopping",
            Self::Backoff { .. } => "backoff",
            Self::Failed { .. } => "failed",
            Self::Completed { .. } => "completed",
            Self::NotRestarted { .. } => "not-restarted",
            Self::ExecFailed { .. } => "exec-failed",
            Self::Gate { .. } => "gate",
            Self::LedgerUnwritable { .. } => "ledger-unwritable",
            Self::Dependency { .. } => "dependency",
            Self::DependentsFirst { .. } => "dependents-first",
            Self::NoPort { .. } => "no-port",
            Self::PortTaken { .. } => "port-taken",
            Self::LimitsNotEnforced { .. } => "limits-not-enforced",
            Self::SocketOpening { .. } => "socket-opening",
            Self::SocketUnavailable { .. } => "socket-unavailable",
            Self::PortForeign { .. } => "port-foreign",
        }
    }
}

//! Why a step is taken, or why a service is in its phase: typed, with its evidence.
//!
//! One vocabulary for `plan`, `status`, the ledger and the log. `code` is stable for ever and kebab-case;
//! `message` is a sentence fragment for people that says what to do where there is something to do. A
//! test fails for every variant that no scenario produces.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ExitStatus, PortHolder, SpawnFailure, millis};
use crate::identity::{Pid, ServiceId};
use crate::manifest::{ActivateOn, Condition};
use crate::time::human;

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

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, why, .. } = self;
        match self.condition {
            Condition::Started => write!(f, "{service} to be started ({why}")?,
            Condition::Ready => write!(f, "{service} to be ready ({why}")?,
            Condition::Completed => write!(f, "{service} to be completed ({why}")?,
        }
        match &self.root {
            Some(root) => write!(f, ", in the end for {root})"),
            None => f.write_str(")"),
        }
    }
}

impl Reason {
    /// True if a start for this reason lets the counters of failures begin anew: somebody has done something about them.
    /// A file is no such reason, for the service may have written it.
    pub fn clears_failures(&self) -> bool {
        matches!(
            self,
            Self::Requested { .. } | Self::SpecChanged { .. } | Self::Connected | Self::NeededBy { .. }
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
            Self::SecretUnavailable { .. } => "secret-unavailable",
            Self::DependencyRestarted { .. } => "dependency-restarted",
            Self::NeverBorn => "never-born",
            Self::WantedAgain => "wanted-again",
            Self::Connected => "connected",
            Self::NeededBy { .. } => "needed-by",
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
            Self::SocketOpening { .. } => "socket-opening",
            Self::SocketUnavailable { .. } => "socket-unavailable",
            Self::PortForeign { .. } => "port-foreign",
        }
    }

    /// What happened and, where there is something to do, what to do; without a full stop.
    pub fn message(&self) -> String {
        fn how(status: &Option<ExitStatus>) -> String {
            status.map_or_else(
                || "how it ended is unknown".to_owned(),
                |status| format!("it ended with {status}"),
            )
        }
        fn plural(count: u32) -> &'static str {
            if count == 1 { "" } else { "s" }
        }
        fn why(status: &Option<ExitStatus>, cause: &Option<Box<Reason>>) -> String {
            cause.as_ref().map_or_else(|| how(status), |cause| cause.message())
        }
        match self {
            Self::New => "first start".into(),
            Self::Requested { request } => format!("{request} was asked for"),
            Self::SpecChanged { fields } if fields.is_empty() => "its manifest changed".into(),
            Self::SpecChanged { fields } => format!("{} changed", fields.join(", ")),
            Self::Crashed { status, failures } => format!("{}, failure {failures} in a row", how(status)),
            Self::Ended { status } => format!("it ended with {status}, and its policy is always"),
            Self::OtherBoot => "the machine, or the container it ran in, was started anew since".into(),
            Self::FileChanged { path } => format!("{path} changed"),
            Self::SecretChanged { name } => format!("the secret {name} changed"),
            Self::SecretUnavailable { name, why } => format!("the secret {name} cannot be had: {why}"),
            Self::ExeChanged => "its executable was replaced on disk since it was started".into(),
            Self::DependencyRestarted { dependency } => {
                format!("{dependency}, which it depends on, was started anew")
            }
            Self::NeverBorn => "its last start was interrupted before anything was executed".into(),
            Self::WantedAgain => "it is wanted again".into(),
            Self::Connected => "somebody has connected to it".into(),
            Self::NeededBy { dependent } => format!("{dependent} depends on it"),
            Self::Idle { idle } => format!("nobody has used it for {}", human(*idle)),
            Self::OnDemand { on: ActivateOn::Request } => {
                "it is started when `reconcile ensure NAME` asks for it".into()
            }
            Self::OnDemand { .. } => "it is started when somebody connects".into(),
            Self::SpawnRetry { failure } => format!("tried again after: {}", failure.message),
            Self::Removed => "its manifest was removed".into(),
            Self::DeclaredStopped => "its manifest says state = \"stopped\"".into(),
            Self::OperatorStop => "stopped by the operator; `reconcile start NAME` ends that".into(),
            Self::TtlExpired { ttl } => {
                format!("its TTL of {} is over; `reconcile renew NAME` starts it anew", human(*ttl))
            }
            Self::PolicyRevoked { problem } => format!("the policy in force refuses it: {problem}"),
            Self::Unhealthy { failures, last_error } => {
                format!("{failures} health check{} in a row failed: {last_error}", plural(*failures))
            }
            Self::StartTimeout { timeout, last_error } => {
                format!("not ready within {}: {last_error}", human(*timeout))
            }
            Self::Leftovers { status } => {
                format!("its leader is gone ({}), the rest of it is ended", how(status))
            }
            Self::LeftTheForeground => {
                "it put itself in the background; run it in the foreground (often `--foreground` or `-D`)"
                    .into()
            }
            Self::Shutdown => "everything is being stopped".into(),
            Self::GraceOver { grace } => format!("it did not end within its grace of {}", human(*grace)),
            Self::IdentityUnverifiable { detail } => {
                format!(
                    "its process cannot be told from a stranger ({detail}); nothing is touched until `reconcile adopt NAME --pid PID` or `reconcile forget NAME`"
                )
            }
            Self::ContainmentLost { .. } => {
                "what held its descendants together is gone; look at them, end them, then `reconcile forget NAME`"
                    .into()
            }
            Self::ForeignLedger { instance } => {
                format!(
                    "the state directory is a copy of instance {instance}; `reconcile takeover` claims it"
                )
            }
            Self::Unkillable { pids } => {
                let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
                format!(
                    "SIGKILL did not end pid {}; a process that waits for a hung disk ends when that answers",
                    pids.join(", ")
                )
            }
            Self::KeeperUnresponsive => {
                "the keeper holds its lock and does not serve us; the log and `reconcile doctor` say why".into()
            }
            Self::Unrecorded => "what became of its newest run is not yet written down".into(),
            Self::GuardRootGone { path, detail } => {
                format!(
                    "{path} {detail}; nothing is removed until it returns, or `reconcile prune NAME` confirms it"
                )
            }
            Self::GuardFraction { removed, of } => format!(
                "{removed} of {of} services would be removed at once; `--allow-prune` or `reconcile prune NAME` confirms"
            ),
            Self::GuardCheckout { lock } => format!(
                "its manifest is gone, and git is changing the worktree at this moment ({lock}); if no git runs, \
                 remove that file, or `reconcile prune NAME` takes the service away"
            ),
            Self::GuardUnreadManifest { path, problem } => format!(
                "no accepted manifest declares it, and {path} may ({problem}); mend that file, or confirm the removal by \
                 `reconcile prune NAME`"
            ),
            Self::PruneDelay => "removals wait until the directory has been quiet".into(),
            Self::ForeignRoot { path } => format!("it belongs to {path}, which this run was not given"),
            Self::RecordLost => {
                "the ledger lost which manifest declared it; nothing is removed until that is seen, or `reconcile prune NAME` confirms it".into()
            }
            Self::Adopted { pid } => format!("pid {pid} is the process that we started"),
            Self::LiveChanged { fields } => {
                format!("{} changed, its process is not touched", fields.join(", "))
            }
            Self::TextLost => {
                "what it was started from is lost; it is compared with its present manifest from now on, `reconcile restart` makes sure".into()
            }
            Self::Rejected { problems: 0 | 1, first } => first.clone(),
            Self::Rejected { problems, first } => format!("{first} (and {} more)", problems - 1),
            Self::Forgotten => "nothing of it is left".into(),
            Self::Starting => "started, not yet ready".into(),
            Self::Running => "up; it has no health check".into(),
            Self::Ready => "up and healthy".into(),
            Self::Unwell { failures, last_error } => {
                format!("{failures} health check{} in a row failed: {last_error}", plural(*failures))
            }
            Self::Stopping => "being stopped".into(),
            Self::Backoff { failures, max_failures, status, left, cause } => {
                format!(
                    "{}; failure {failures} of {max_failures}, next start in {}",
                    why(status, cause),
                    human(*left)
                )
            }
            Self::Failed { failures, status, cause } => format!(
                "{failures} failure{} in a row, {}; mend it, then `reconcile reset NAME`, or change its manifest",
                plural(*failures),
                why(status, cause)
            ),
            Self::Completed { status } => {
                format!("{}; it is not restarted", how(status))
            }
            Self::NotRestarted { status, cause } => {
                format!("{}, and its restart policy is never", why(status, cause))
            }
            Self::ExecFailed { failure } => failure.message.clone(),
            Self::Gate { message, .. } => message.clone(),
            Self::LedgerUnwritable { detail } => format!("{detail}; it is tried again until it can be"),
            Self::Dependency { unmet } => format!("it waits for {}", listed(unmet)),
            Self::DependentsFirst { dependents } => {
                format!("it is stopped once what depends on it has ended: {}", listed(dependents))
            }
            Self::NoPort { name, count, range, holders } => {
                let wanted = if *count == 1 { "no port".to_owned() } else { format!("no {count} ports in a row") };
                let held = if holders.is_empty() { String::new() } else { format!(", held by {}", holders.join("; ")) };
                format!(
                    "{wanted} of {range} can be had for `{name}`{held}; it is started when there is, or widen `range` below `[ports]`"
                )
            }
            Self::PortTaken { port, holder, .. } => {
                format!("port {port} is held by {holder}; it is started when that lets go of it")
            }
            Self::SocketOpening { name, address } => format!("its socket `{name}` ({address}) is being opened"),
            Self::SocketUnavailable { name, address, detail, holder, .. } => {
                let by = holder.as_ref().map_or_else(String::new, |holder| format!(" by {holder}"));
                format!("its socket `{name}` cannot be opened at {address}: {detail}{by}; it is tried again until it can be")
            }
            Self::PortForeign { port, holder, .. } => {
                format!("port {port} is held by {holder}, not by it; end that, or give it another port")
            }
        }
    }
}

fn listed(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

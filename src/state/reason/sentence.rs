//! What a reason says to people. Its code and its evidence are next door; nothing here is parsed by anybody.

use std::fmt;

use super::{Reason, Unmet};
use crate::manifest::{ActivateOn, Condition};
use crate::state::{ExitStatus, LeaseEnd};
use crate::time::human;

impl Reason {
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
            Self::SecretPending { name } => format!("the command of its secret {name} is being run"),
            Self::SecretUnavailable { name, why } => format!("the secret {name} cannot be had: {why}"),
            Self::ExeChanged => "its executable was replaced on disk since it was started".into(),
            Self::DependencyRestarted { dependency } => {
                format!("{dependency}, which it depends on, was started anew")
            }
            Self::NeverBorn => "its last start was interrupted before anything was executed".into(),
            Self::WantedAgain => "it is wanted again".into(),
            Self::Connected => "somebody has connected to it".into(),
            Self::NeededBy { dependent } => format!("{dependent} depends on it"),
            Self::Leased { holder } => format!("leased by {holder}"),
            Self::Released { holder, how } => {
                let how = match how {
                    LeaseEnd::Released => "has released it",
                    LeaseEnd::HolderEnded => "has ended",
                    LeaseEnd::Expired => "has not renewed its lease in time",
                    LeaseEnd::NotAcquired => "did not get all that it asked for",
                };
                format!("{holder} {how}, and nobody else has leased it")
            }
            Self::NotNeeded => "no service that depends on it is to run any more".into(),
            Self::Idle { idle } => format!("nobody has used it for {}", human(*idle)),
            Self::OnDemand { on: ActivateOn::Request } => {
                "it is started when `reconcile ensure NAME` asks for it".into()
            }
            Self::OnDemand { on: ActivateOn::Lease } => {
                "it is started for who leases it, as by `reconcile run --with NAME -- COMMAND`".into()
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
            Self::OutOfDescriptors { detail } => {
                format!(
                    "its process cannot be looked at ({detail}): it is tried again every second; raise the limit of open files (`ulimit -n`), or end what uses them up"
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
            Self::LimitsNotEnforced { why } => {
                format!("the policy requires limits, and these are not enforced here: {why}")
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

fn listed(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

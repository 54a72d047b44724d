//! From what was found to the exit codes that apply. Pure.

use super::exit_code::{ExitCode, ExitCodes, StatusCode};
use crate::manifest::Severity;
use crate::plan::{Action, Phase};
use crate::reconciler::command::Refusal;
use crate::reconciler::status::{ManifestStatus, PassReport, ServiceStatus, Status, StepReport};
use crate::state::Reason;

/// Codes of problems with a path: no manifest was found wrong, none could be looked at.
const NOT_LOOKED_AT: [&str; 6] = [
    "no-such-file",
    "not-a-manifest",
    "root-missing",
    "root-not-a-directory",
    "root-unreadable",
    "root-too-large",
];

/// How `plan` tells that there is something to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// `--detailed-exitcode`
    Count,
    Ignore,
}

/// Of a plan that nobody carried out.
pub fn of_plan(report: &PassReport, changes: Changes) -> ExitCodes {
    let mut codes = of_manifests(&report.manifests);
    let pending = report.changes || report.steps.iter().any(is_held_prune);
    codes.add_if(changes == Changes::Count && pending, ExitCode::ChangesPending);
    codes.add_if(report.steps.iter().any(is_revoked), ExitCode::PolicyRefused);
    codes
}

/// Of what was done.
pub fn of_report(report: &PassReport) -> ExitCodes {
    let mut codes = of_manifests(&report.manifests);
    // A start that came to nothing is told by what became of its service, below.
    let is_unwell = |step: &StepReport| report.unwell.iter().any(|service| service.name == step.service);
    let failed = |step: &StepReport| step.outcome.as_deref() == Some("failed") && !is_unwell(step);
    let stuck = |step: &StepReport| step.action == Action::Hold && !is_held_prune(step) && !is_passing(step);
    codes.add_if(report.steps.iter().any(|step| failed(step) || stuck(step)), ExitCode::Failed);
    codes.add_if(report.steps.iter().any(is_held_prune), ExitCode::ChangesPending);
    codes.add_if(report.steps.iter().any(is_revoked), ExitCode::PolicyRefused);
    for service in &report.unwell {
        match service.phase {
            // Its manifest says which of the two it is.
            Phase::Rejected => {}
            Phase::Held if Reason::PRUNE_GUARDS.contains(&service.reason.as_str()) => {
                codes.add(ExitCode::ChangesPending);
            }
            Phase::Held => codes.add(ExitCode::Failed),
            _ => codes.add(ExitCode::NotReady),
        }
    }
    // It did not converge, and nothing above says why: the time was over.
    codes.add_if(report.converged == Some(false) && codes == ExitCodes::default(), ExitCode::NotReady);
    codes
}

/// Of the status after the first pass of a watcher.
pub fn of_status(status: &Status) -> ExitCodes {
    let mut codes = of_manifests(&status.manifests);
    let failed = |service: &ServiceStatus| service.phase == Phase::Failed;
    codes.add_if(status.services.iter().any(failed), ExitCode::NotReady);
    codes
}

pub fn of_manifests(files: &[ManifestStatus]) -> ExitCodes {
    let mut codes = ExitCodes::default();
    for problem in files.iter().flat_map(|file| &file.problems) {
        match problem.severity {
            Severity::Invalid if NOT_LOOKED_AT.contains(&problem.code.as_str()) => {
                codes.add(ExitCode::Failed);
            }
            Severity::Invalid => codes.add(ExitCode::ManifestInvalid),
            Severity::Refused => codes.add(ExitCode::PolicyRefused),
            Severity::Warning => {}
        }
    }
    codes
}

pub fn of_refusal(refusal: &Refusal) -> ExitCodes {
    match refusal.code.as_str() {
        "policy-refused" => ExitCode::PolicyRefused,
        "timeout" => ExitCode::NotReady,
        _ => ExitCode::Failed,
    }
    .into()
}

/// Of `status NAME…`: up only if all are, and unknown as soon as one is.
pub fn of_services(services: &[ServiceStatus]) -> StatusCode {
    let codes: Vec<StatusCode> = services.iter().map(of_service).collect();
    if codes.is_empty() || codes.contains(&StatusCode::Unknown) {
        StatusCode::Unknown
    } else if codes.contains(&StatusCode::Down) {
        StatusCode::Down
    } else {
        StatusCode::Up
    }
}

/// What sleeps until somebody uses it is there for whoever does.
fn of_service(service: &ServiceStatus) -> StatusCode {
    if service.reason == "on-demand" { StatusCode::Up } else { of_phase(service.phase) }
}

fn of_phase(phase: Phase) -> StatusCode {
    match phase {
        Phase::Running | Phase::Ready => StatusCode::Up,
        Phase::Held => StatusCode::Unknown,
        Phase::Pending
        | Phase::Starting
        | Phase::Unhealthy
        | Phase::Backoff
        | Phase::Failed
        | Phase::Stopping
        | Phase::Stopped
        | Phase::Completed
        | Phase::Expired
        | Phase::Rejected => StatusCode::Down,
    }
}

fn is_held_prune(step: &StepReport) -> bool {
    step.action == Action::Hold && Reason::PRUNE_GUARDS.contains(&step.reason.as_str())
}

/// Held for a moment only, or none of our business.
fn is_passing(step: &StepReport) -> bool {
    matches!(step.reason.as_str(), "prune-delay" | "foreign-root")
}

fn is_revoked(step: &StepReport) -> bool {
    step.reason == "policy-revoked"
}

#[cfg(test)]
mod tests {
    use super::super::report::samples;
    use super::*;
    use crate::manifest::Problem;

    fn report(steps: Vec<StepReport>, unwell: Vec<ServiceStatus>) -> PassReport {
        PassReport { steps, unwell, converged: None, ..samples::plan() }
    }

    fn all(report: &PassReport) -> Vec<u8> {
        of_report(report).all().into_iter().map(ExitCode::value).collect()
    }

    fn held(reason: &str) -> StepReport {
        samples::step(Action::Hold, "web", reason, "held")
    }

    #[test]
    fn a_plan_has_changes_only_for_those_who_ask() {
        assert_eq!(of_plan(&samples::plan(), Changes::Ignore).first(), ExitCode::Converged);
        assert_eq!(of_plan(&samples::plan(), Changes::Count).first(), ExitCode::ChangesPending);
        let mut held_prune = report(vec![held("guard-fraction")], vec![]);
        held_prune.changes = false;
        assert_eq!(of_plan(&held_prune, Changes::Count).first(), ExitCode::ChangesPending);
    }

    #[test]
    fn all_that_applies_is_listed_and_the_first_wins() {
        let mut failed = samples::step(Action::Start, "db", "new", "first start");
        failed.outcome = Some("failed".into());
        let mut everything = report(vec![held("guard-root-gone"), failed], vec![samples::db()]);
        everything.manifests = samples::status().manifests;
        assert_eq!(all(&everything), [1, 3, 4, 5, 2]);
        assert_eq!(of_report(&everything).first(), ExitCode::Failed);
    }

    #[test]
    fn a_hold_is_a_failure_unless_it_passes_or_is_a_prune() {
        assert_eq!(all(&report(vec![held("identity-unverifiable")], vec![])), [1]);
        assert_eq!(all(&report(vec![held("guard-fraction")], vec![])), [2]);
        assert_eq!(all(&report(vec![held("prune-delay"), held("foreign-root")], vec![])), [0]);
    }

    #[test]
    fn not_converged_is_never_success() {
        let timed_out = PassReport { converged: Some(false), ..report(vec![], vec![]) };
        assert_eq!(all(&timed_out), [5]);
        let rejected = samples::service("web", Phase::Rejected, "bad");
        let rejected = PassReport { converged: Some(false), ..report(vec![], vec![rejected]) };
        assert_eq!(all(&rejected), [5], "unless its manifest says why");
    }

    #[test]
    fn a_warning_is_no_problem_for_the_exit_code() {
        let mut files = samples::status().manifests;
        files[1].problems = vec![Problem::warning("x", "y")];
        assert_eq!(of_manifests(&files).first(), ExitCode::Converged);
        files[1].problems = vec![Problem::refused("x", "y")];
        assert_eq!(of_manifests(&files).first(), ExitCode::PolicyRefused);
    }

    #[test]
    fn status_of_some_is_up_down_or_unknown() {
        let held = || samples::service("x", Phase::Held, "");
        assert_eq!(of_services(&[]), StatusCode::Unknown);
        assert_eq!(of_services(&[samples::web(), samples::web()]), StatusCode::Up);
        assert_eq!(of_services(&[samples::web(), samples::db()]), StatusCode::Down);
        assert_eq!(of_services(&[samples::web(), held(), samples::db()]), StatusCode::Unknown);
    }
}

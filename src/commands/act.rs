//! Commands that change something: ask whoever is in charge, show what was done, or why it was refused.
//!
//! `stop start restart reset renew down adopt forget prune takeover`, and `wait`; `--once` shows its report
//! the same way.

use std::collections::BTreeMap;

use super::backend::{Backend, logs};
use super::exit_code::{Ended, ExitCodes};
use super::failure::Failure;
use super::report::{self, Aim, RefusalView, ReportView, escape};
use super::{ExitCode, Run, manifests, verdict};
use crate::identity::ServiceId;
use crate::reconciler::command::{Answer, Command, Refusal};
use crate::reconciler::selection::Selector;
use crate::reconciler::status::{PassReport, ServiceStatus};

/// Log lines shown of each service that is not well.
const LAST_WORDS: usize = 10;

pub fn run(run: &Run<'_>, command: Command) -> Result<Ended, Failure> {
    let with_evidence = has_evidence(&command);
    let names = named(&command);
    let stops = matches!(
        command,
        Command::Stop { .. } | Command::Down { .. } | Command::DownSome { .. } | Command::EndLease { .. }
    );
    let waits = matches!(command, Command::Wait { .. } | Command::Touch { .. } | Command::EndLease { .. });
    let mut backend = Backend::open(&run.options)?;
    let mut answer = backend.execute(command)?;
    if let Answer::Report(report) = &mut answer {
        // What is not up is what a stop is for; only what still runs after it is not well.
        report.unwell.retain(|service| !stops || service.pid.is_some());
        keep_what_was_asked_for(report, &names);
    }
    let ended = match &answer {
        // It was not asked to do anything, so it does not say that there was nothing to do.
        Answer::Report(report) if waits && report.steps.is_empty() => show_rest(run, report)?,
        Answer::Report(report) => show_report(run, report, if stops { Aim::Down } else { Aim::AsDeclared })?,
        answer => show(run, answer)?,
    };
    if let (true, false, Answer::Report(report)) = (with_evidence, run.console.is_json(), &answer) {
        run.console.print(&report::evidence(report))?;
    }
    Ok(ended)
}

/// The ways out of `held` and of guards are taken on evidence, so they print it.
fn has_evidence(command: &Command) -> bool {
    matches!(
        command,
        Command::Adopt { .. } | Command::Forget { .. } | Command::Prune { .. } | Command::Takeover
    )
}

fn named(command: &Command) -> Vec<Selector> {
    match command {
        Command::Plan { names }
        | Command::Converge { names, .. }
        | Command::Wait { names, .. }
        | Command::Stop { names }
        | Command::Start { names }
        | Command::Restart { names }
        | Command::Reset { names }
        | Command::Renew { names }
        | Command::Touch { names }
        | Command::Ensure { names, .. }
        | Command::Lease { names, .. }
        | Command::EndLease { names, .. }
        | Command::Prune { names }
        | Command::DownSome { names, .. } => names.clone(),
        Command::Adopt { name, .. } => vec![name.as_str().into()],
        Command::Forget { name, more } => std::iter::once(name).chain(more).cloned().collect(),
        Command::Status | Command::RenewLease { .. } | Command::Down { .. } | Command::Takeover => vec![],
    }
}

/// A pass looks at everything; a command about some services tells of what it changed and of those
/// services, and a broken manifest of another one is neither its result nor its exit code.
fn keep_what_was_asked_for(report: &mut PassReport, names: &[Selector]) {
    let asked =
        |service: &str| ServiceId::parse(service).is_ok_and(|id| names.iter().any(|name| name.may_mean(&id)));
    let also = report.also.clone();
    let is_theirs = |service: &str| asked(service) || also.iter().any(|other| other == service);
    report.steps.retain(|step| step.action.is_change() || is_theirs(&step.service));
    report.unwell.retain(|service| names.is_empty() || is_theirs(&service.name));
    report.apart.retain(|apart| names.is_empty() || is_theirs(&apart.service));
    let theirs: Vec<_> = report.unwell.iter().filter_map(|service| service.manifest.as_ref()).collect();
    report.manifests.retain(|file| theirs.contains(&&file.path));
}

/// Shows an answer, whoever gave it.
pub fn show(run: &Run<'_>, answer: &Answer) -> Result<Ended, Failure> {
    match answer {
        Answer::Report(report) => show_report(run, report, Aim::AsDeclared),
        Answer::Refused(refusal) => show_refusal(run, refusal),
        Answer::Status(_) => Err(unexpected("a status")),
    }
}

/// Why something was not had, for a command whose stdout is another's.
pub fn tell(run: &Run<'_>, answer: &Answer) -> Result<Ended, Failure> {
    let Answer::Report(report) = answer else { return show(run, answer) };
    manifests::tell(run, &report.manifests);
    run.console.say(report::unwell(&report.unwell, &last_words(&report.unwell)).trim_end());
    Ok(verdict::of_report(report).into())
}

pub fn unexpected(what: &str) -> Failure {
    Failure::message(ExitCode::Failed, format!("the answer was {what}, which was not asked for"))
}

fn show_report(run: &Run<'_>, report: &PassReport, aim: Aim) -> Result<Ended, Failure> {
    if !run.console.is_json() {
        run.console.print(&report::steps_done(report, aim))?;
    }
    show_rest(run, report)
}

/// Who is named beside what was typed, because that depends on it.
pub fn tell_also(run: &Run<'_>, report: &PassReport) {
    if !report.also.is_empty() {
        run.console.say(&format!("with what is depended on: {}", report.also.join(", ")));
    }
}

/// Everything but the steps; in JSON, everything.
fn show_rest(run: &Run<'_>, report: &PassReport) -> Result<Ended, Failure> {
    let codes = verdict::of_report(report);
    manifests::tell(run, &report.manifests);
    tell_also(run, report);
    if run.console.is_json() {
        run.console.json(&ReportView::new(report, &codes))?;
    } else {
        run.console.print(&report::unwell(&report.unwell, &last_words(&report.unwell)))?;
    }
    Ok(codes.into())
}

pub fn show_refusal(run: &Run<'_>, refusal: &Refusal) -> Result<Ended, Failure> {
    let codes: ExitCodes = verdict::of_refusal(refusal);
    if run.console.is_json() {
        run.console.json(&RefusalView::new(refusal, &codes))?;
    }
    run.console.say(&report::refusal(refusal));
    Ok(codes.into())
}

/// The newest log lines of each service, safe for a terminal; a log that cannot be read has none.
fn last_words(services: &[ServiceStatus]) -> BTreeMap<String, Vec<String>> {
    let lines = |service: &ServiceStatus| -> Vec<String> {
        let tail = logs::tail(&service.log, LAST_WORDS).unwrap_or_default();
        tail.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(escape::log_line).collect()
    };
    services.iter().map(|service| (service.name.clone(), lines(service))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::report::samples;
    use crate::plan::{Action, Phase};

    fn mixed() -> PassReport {
        let mut rejected = samples::service("web", Phase::Rejected, "bad");
        rejected.manifest = Some("/app/manifests/web.toml".into());
        let mut report = samples::plan();
        report.steps.push(samples::step(Action::Reject, "web", "rejected", "bad"));
        report.unwell = vec![rejected, samples::db()];
        report.manifests = samples::status().manifests;
        report
    }

    #[test]
    fn a_broken_manifest_of_another_service_is_not_my_result() {
        let mut report = mixed();
        keep_what_was_asked_for(&mut report, &["shop/*".into()]);
        assert!(report.steps.iter().all(|step| step.action.is_change()));
        assert_eq!(report.unwell, [samples::db()]);
        assert_eq!(verdict::of_report(&report).all(), [ExitCode::NotReady]);
    }

    #[test]
    fn that_of_the_service_itself_is() {
        let mut report = mixed();
        keep_what_was_asked_for(&mut report, &["web".into()]);
        assert!(report.steps.iter().any(|step| step.action == Action::Reject));
        let codes = verdict::of_report(&report).all();
        assert_eq!(codes, [ExitCode::ManifestInvalid, ExitCode::PolicyRefused]);
    }

    #[test]
    fn a_command_about_everything_tells_of_everything_that_is_not_well() {
        let mut report = mixed();
        keep_what_was_asked_for(&mut report, &[]);
        assert_eq!(report.unwell.len(), 2);
    }
}

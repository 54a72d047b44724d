//! Commands that change something: ask whoever is in charge, show what was done, or why it was refused.
//!
//! `stop start restart reset renew down adopt forget prune takeover`, and `wait`; `--once` shows its report
//! the same way.

use std::collections::BTreeMap;

use super::backend::{Backend, logs};
use super::exit_code::{Ended, ExitCodes};
use super::failure::Failure;
use super::report::{self, RefusalView, ReportView, escape};
use super::{ExitCode, Run, manifests, verdict};
use crate::reconciler::command::{Answer, Command, Refusal};
use crate::reconciler::status::{PassReport, ServiceStatus};

/// Log lines shown of each service that is not well.
const LAST_WORDS: usize = 10;

pub fn run(run: &Run<'_>, command: Command) -> Result<Ended, Failure> {
    let with_evidence = has_evidence(&command);
    let mut backend = Backend::open(&run.options)?;
    let answer = backend.execute(command)?;
    let ended = show(run, &answer)?;
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

/// Shows an answer, whoever gave it.
pub fn show(run: &Run<'_>, answer: &Answer) -> Result<Ended, Failure> {
    match answer {
        Answer::Report(report) => show_report(run, report),
        Answer::Refused(refusal) => show_refusal(run, refusal),
        Answer::Status(_) => Err(unexpected("a status")),
    }
}

pub fn unexpected(what: &str) -> Failure {
    Failure::message(ExitCode::Failed, format!("the answer was {what}, which was not asked for"))
}

fn show_report(run: &Run<'_>, report: &PassReport) -> Result<Ended, Failure> {
    let codes = verdict::of_report(report);
    manifests::tell(run, &report.manifests);
    if run.console.is_json() {
        run.console.json(&ReportView::new(report, &codes))?;
    } else {
        run.console.print(&report::steps_done(report))?;
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

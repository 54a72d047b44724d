//! The shapes of `-o json`, version 1. What is carried on the control socket is ours to change; this is not.
//!
//! Snapshots in this directory hold it. Keys and units are those of `docs/commands.md`.

use std::borrow::Cow;

use serde::Serialize;

use crate::commands::exit_code::{ExitCode, ExitCodes};
use crate::commands::failure::Failure;
use crate::plan::Action;
use crate::reconciler::command::Refusal;
use crate::reconciler::status::{
    LastPass, ManifestStatus, PassReport, ServiceStatus, Status, StepReport, VERSION,
};

#[derive(Debug, Serialize)]
pub struct StatusView<'a> {
    version: u32,
    instance: Option<&'a str>,
    watching: bool,
    polling: Option<&'a str>,
    last_pass: Option<&'a LastPass>,
    services: &'a [ServiceStatus],
    manifests: Vec<ManifestView<'a>>,
}

#[derive(Debug, Serialize)]
struct ManifestView<'a> {
    path: Cow<'a, str>,
    ok: bool,
    problems: Vec<ProblemView<'a>>,
}

#[derive(Debug, Serialize)]
struct ProblemView<'a> {
    line: Option<usize>,
    column: Option<usize>,
    code: &'a str,
    message: &'a str,
    help: Option<&'a str>,
}

/// Of `plan` and of every command that acts.
#[derive(Debug, Serialize)]
pub struct ReportView<'a> {
    version: u32,
    changes: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    converged: Option<bool>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    also: &'a [String],
    steps: Vec<StepView<'a>>,
    exit_codes: Vec<ExitCode>,
}

#[derive(Debug, Serialize)]
struct StepView<'a> {
    service: &'a str,
    action: &'static str,
    reason: &'a str,
    message: &'a str,
    fields: &'a [String],
    evidence: &'a serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    wave: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'a str>,
}

#[derive(Debug, Serialize)]
pub struct ValidationView<'a> {
    version: u32,
    ok: bool,
    manifests: Vec<ManifestView<'a>>,
    exit_codes: Vec<ExitCode>,
}

#[derive(Debug, Serialize)]
pub struct RefusalView<'a> {
    version: u32,
    refused: &'a Refusal,
    exit_codes: Vec<ExitCode>,
}

/// Of a command that failed before it had an answer.
#[derive(Debug, Serialize)]
pub struct ErrorView<'a> {
    version: u32,
    error: ErrorFields<'a>,
    exit_codes: Vec<ExitCode>,
}

#[derive(Debug, Serialize)]
struct ErrorFields<'a> {
    code: &'a str,
    message: String,
    help: Option<&'a str>,
}

impl<'a> From<&'a Failure> for ErrorView<'a> {
    fn from(failure: &'a Failure) -> Self {
        let error =
            ErrorFields { code: failure.name(), message: failure.message_line(), help: failure.help_text() };
        Self { version: VERSION, error, exit_codes: vec![failure.code] }
    }
}

impl<'a> From<&'a Status> for StatusView<'a> {
    fn from(status: &'a Status) -> Self {
        Self {
            version: VERSION,
            instance: status.instance.as_deref(),
            watching: status.watching,
            polling: status.polling.as_deref(),
            last_pass: status.last_pass.as_ref(),
            services: &status.services,
            manifests: manifests(&status.manifests),
        }
    }
}

impl<'a> ReportView<'a> {
    pub fn new(report: &'a PassReport, codes: &ExitCodes) -> Self {
        Self {
            version: VERSION,
            changes: report.changes,
            // One word for one thing: what the exit code 0 means.
            converged: report.converged.map(|_| codes.first() == ExitCode::Converged),
            also: &report.also,
            steps: report.steps.iter().map(StepView::from).collect(),
            exit_codes: codes.all(),
        }
    }
}

impl<'a> ValidationView<'a> {
    pub fn new(files: &'a [ManifestStatus], codes: &ExitCodes) -> Self {
        Self {
            version: VERSION,
            ok: files.iter().all(|file| file.ok),
            manifests: manifests(files),
            exit_codes: codes.all(),
        }
    }
}

impl<'a> RefusalView<'a> {
    pub fn new(refused: &'a Refusal, codes: &ExitCodes) -> Self {
        Self { version: VERSION, refused, exit_codes: codes.all() }
    }
}

impl<'a> From<&'a StepReport> for StepView<'a> {
    fn from(step: &'a StepReport) -> Self {
        Self {
            service: &step.service,
            action: published(step.action),
            reason: &step.reason,
            message: &step.message,
            fields: &step.fields,
            evidence: &step.evidence,
            wave: step.wave,
            after: step.wave.map(|_| step.after.as_slice()),
            outcome: step.outcome.as_deref(),
        }
    }
}

/// The published words. A kill is the end of a stop, and its reason (`grace-over`) says so.
fn published(action: Action) -> &'static str {
    match action {
        Action::Start => "start",
        Action::Adopt => "adopt",
        Action::Update => "update",
        Action::Signal | Action::Reload => "signal",
        Action::Restart => "restart",
        Action::Stop | Action::Kill => "stop",
        Action::Forget => "forget",
        Action::Hold => "hold",
        Action::Reject => "reject",
    }
}

fn manifests(files: &[ManifestStatus]) -> Vec<ManifestView<'_>> {
    files.iter().map(manifest).collect()
}

fn manifest(file: &ManifestStatus) -> ManifestView<'_> {
    let problems = file.problems.iter().map(|problem| ProblemView {
        line: problem.span.map(|span| span.line),
        column: problem.span.map(|span| span.column),
        code: &problem.code,
        message: &problem.message,
        help: problem.help.as_deref(),
    });
    ManifestView { path: file.path.to_string_lossy(), ok: file.ok, problems: problems.collect() }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn status_has_the_published_shape() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&StatusView::from(&samples::status())).unwrap());
    }

    #[test]
    fn a_plan_has_the_published_shape() {
        let codes = ExitCodes::from(ExitCode::ChangesPending);
        insta::assert_snapshot!(
            serde_json::to_string_pretty(&ReportView::new(&samples::plan(), &codes)).unwrap()
        );
    }

    #[test]
    fn a_convergence_adds_outcomes_and_whether_it_converged() {
        let codes = ExitCodes::from(ExitCode::NotReady);
        insta::assert_snapshot!(
            serde_json::to_string_pretty(&ReportView::new(&samples::convergence(), &codes)).unwrap()
        );
    }

    #[test]
    fn validation_has_the_published_shape() {
        let codes = ExitCodes::from(ExitCode::ManifestInvalid);
        insta::assert_snapshot!(
            serde_json::to_string_pretty(&ValidationView::new(&samples::status().manifests, &codes)).unwrap()
        );
    }

    #[test]
    fn every_action_is_published_as_one_of_the_documented_words() {
        const WORDS: &str = "start adopt update signal restart stop forget hold reject";
        let actions = [
            Action::Stop,
            Action::Restart,
            Action::Signal,
            Action::Kill,
            Action::Forget,
            Action::Adopt,
            Action::Update,
            Action::Reload,
            Action::Start,
            Action::Hold,
            Action::Reject,
        ];
        for action in actions {
            assert!(WORDS.split(' ').any(|word| word == published(action)));
        }
        assert!(include_str!("../../../docs/commands.md").contains(WORDS));
    }
}

//! `reconcile plan`: what a pass would do; changes nothing.

use super::args::PlanArgs;
use super::exit_code::Ended;
use super::failure::Failure;
use super::report::{self, ReportView};
use super::verdict::{self, Changes};
use super::{Run, act, backend, manifests};
use crate::reconciler::command::{Answer, Command};
use crate::reconciler::selection::Selector;
use crate::reconciler::status::PassReport;

pub fn run(run: &Run<'_>, args: &PlanArgs) -> Result<Ended, Failure> {
    let names = run.names(&args.names);
    let answer = match ask_watcher(run, &names)? {
        Some(answer) => answer,
        None => look(run, &names)?,
    };
    match answer {
        Answer::Report(report) => show(run, args, &report),
        Answer::Refused(refusal) => act::show_refusal(run, &refusal),
        Answer::Status(_) => Err(act::unexpected("a status")),
    }
}

/// The watcher knows best what it would do; but not what it would do with other options than its own.
fn ask_watcher(run: &Run<'_>, names: &[Selector]) -> Result<Option<Answer>, Failure> {
    if run.options.allow_prune || !run.options.allow.is_empty() {
        return Ok(None);
    }
    let Some(mut client) = backend::watcher(&run.options)? else { return Ok(None) };
    backend::ask(&mut client, Command::Plan { names: names.to_vec() }).map(Some)
}

fn look(run: &Run<'_>, names: &[Selector]) -> Result<Answer, Failure> {
    Ok(match backend::observe(&run.options)?.plan(names) {
        Ok(plan) => Answer::Report(Box::new(plan)),
        Err(refusal) => Answer::Refused(refusal),
    })
}

fn show(run: &Run<'_>, args: &PlanArgs, report: &PassReport) -> Result<Ended, Failure> {
    let changes = if args.detailed_exitcode { Changes::Count } else { Changes::Ignore };
    let codes = verdict::of_plan(report, changes);
    manifests::tell(run, &report.manifests);
    act::tell_also(run, report);
    if run.console.is_json() {
        run.console.json(&ReportView::new(report, &codes))?;
    } else {
        run.console.print(&report::plan(report))?;
    }
    Ok(codes.into())
}

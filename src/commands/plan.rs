//! `reconcile plan`: what a pass would do; changes nothing.

use super::args::PlanArgs;
use super::exit_code::Ended;
use super::failure::Failure;
use super::report::{self, ReportView};
use super::verdict::{self, Changes};
use super::{Run, act, backend, manifests};
use crate::identity::ServiceId;
use crate::reconciler::command::{Answer, Command};
use crate::reconciler::selection::select;
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
fn ask_watcher(run: &Run<'_>, names: &[String]) -> Result<Option<Answer>, Failure> {
    if run.options.allow_prune || !run.options.allow.is_empty() {
        return Ok(None);
    }
    let Some(mut client) = backend::watcher(&run.options)? else { return Ok(None) };
    backend::ask(&mut client, Command::Plan { names: names.to_vec() }).map(Some)
}

fn look(run: &Run<'_>, names: &[String]) -> Result<Answer, Failure> {
    let seen = backend::observe(&run.options)?;
    let ids = |name: &str| ServiceId::parse(name).ok();
    let status = seen.status();
    let mut plan = seen.plan();
    let services = status.services.iter().map(|service| service.name.as_str());
    let in_plan = plan.steps.iter().map(|step| step.service.as_str());
    let known = services.chain(in_plan).filter_map(ids).collect();
    let selected = match select(names, &known) {
        Ok(selected) => selected,
        Err(refusal) => return Ok(Answer::Refused(refusal)),
    };
    plan.steps.retain(|step| ids(&step.service).is_none_or(|id| selected.contains(&id)));
    plan.apart.retain(|apart| ids(&apart.service).is_none_or(|id| selected.contains(&id)));
    plan.changes = plan.steps.iter().any(|step| step.action.is_change());
    Ok(Answer::Report(Box::new(plan)))
}

fn show(run: &Run<'_>, args: &PlanArgs, report: &PassReport) -> Result<Ended, Failure> {
    let changes = if args.detailed_exitcode { Changes::Count } else { Changes::Ignore };
    let codes = verdict::of_plan(report, changes);
    manifests::tell(run, &report.manifests);
    if run.console.is_json() {
        run.console.json(&ReportView::new(report, &codes))?;
    } else {
        run.console.print(&report::plan(report))?;
    }
    Ok(codes.into())
}

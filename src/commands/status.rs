//! `reconcile status` (`ps`): all services in a table, or all about some.

use jiff::tz::TimeZone;

use super::args::StatusArgs;
use super::exit_code::{Ended, ExitCode};
use super::failure::Failure;
use super::report::{self, StatusView, count};
use super::{Run, act, backend, manifests, verdict};
use crate::host::usage::{Meter, Usage};
use crate::identity::ServiceId;
use crate::reconciler::command::{Answer, Command};
use crate::reconciler::options::Options;
use crate::reconciler::selection::{Selector, select};
use crate::reconciler::status::{ManifestStatus, ServiceStatus, Status};

pub fn run(run: &Run<'_>, args: &StatusArgs) -> Result<Ended, Failure> {
    let mut status = current(&run.options)?;
    match args.names.as_slice() {
        [] => all(run, &mut status),
        names => some(run, &mut status, &run.names(names)),
    }
}

/// The published status of the watcher, else what can be seen without one; with CPU and memory.
pub fn current(options: &Options) -> Result<Status, Failure> {
    let mut status = match backend::watcher(options)? {
        None => {
            let observation = backend::observe(options)?;
            let status = observation.status();
            // To take it apart again, service by service, is work for nobody: the process is about to end.
            std::mem::forget(observation);
            status
        }
        Some(mut client) => match backend::ask(&mut client, Command::Status)? {
            Answer::Status(status) => *status,
            Answer::Report(_) | Answer::Refused(_) => return Err(act::unexpected("not a status")),
        },
    };
    if let Some(meter) = Meter::new() {
        let pids: Vec<_> = status.services.iter().map(|service| service.pid).collect();
        let usages = meter.usages(&pids);
        status.services.iter_mut().zip(usages).for_each(|(service, usage)| show_usage(service, usage));
    }
    Ok(status)
}

fn show_usage(service: &mut ServiceStatus, usage: Option<Usage>) {
    let Some(usage) = usage else { return };
    service.cpu_percent = Some(usage.cpu_percent);
    service.memory_bytes = Some(usage.memory_bytes);
}

fn some(run: &Run<'_>, status: &mut Status, names: &[Selector]) -> Result<Ended, Failure> {
    let selected = select(names, &status.labels());
    let is_meant = |service: &ServiceStatus| match &selected {
        Ok(ids) => ServiceId::parse(&service.name).is_ok_and(|id| ids.contains(&id)),
        Err(_) => false,
    };
    status.services.retain(is_meant);
    if run.console.is_json() {
        run.console.json(&StatusView::from(&*status))?;
    }
    if let Err(refusal) = &selected {
        run.console.say(&report::refusal(refusal));
    } else if !run.console.is_json() {
        for (index, service) in status.services.iter().enumerate() {
            let gap = if index > 0 { "\n" } else { "" };
            run.console.print(&format!("{gap}{}", report::detail(service, &TimeZone::system())))?;
            tell_of_its_manifest(run, status, service);
        }
    }
    Ok(Ended::Status(verdict::of_services(&status.services)))
}

/// All that is wrong with its file, what is wrong with itself first.
fn tell_of_its_manifest(run: &Run<'_>, status: &Status, service: &ServiceStatus) {
    let its = status.manifests.iter().filter(|file| Some(&file.path) == service.manifest.as_ref());
    let mut its: Vec<ManifestStatus> = its.cloned().collect();
    let name = service.name.rsplit('/').next();
    for file in &mut its {
        file.problems.sort_by_key(|problem| problem.service.is_some() && problem.service.as_deref() != name);
    }
    manifests::tell(run, &its);
}

fn all(run: &Run<'_>, status: &mut Status) -> Result<Ended, Failure> {
    let known = status.services.len();
    status.services.retain(|service| run.cli.global.is_about(service));
    if run.console.is_json() {
        run.console.json(&StatusView::from(&*status))?;
        return Ok(ExitCode::Converged.into());
    }
    run.console.print(&report::table(
        &status.services,
        &TimeZone::system(),
        run.console.surroundings.width,
    ))?;
    if status.services.is_empty() && known > 0 {
        let all = count(known, "service");
        run.console.say(&format!("no service is meant; without --project and --label: {all}"));
        return Ok(ExitCode::Converged.into());
    }
    remarks(status).iter().for_each(|remark| run.console.say(remark));
    Ok(ExitCode::Converged.into())
}

/// What a table does not say.
fn remarks(status: &Status) -> Vec<String> {
    let mut remarks = Vec::new();
    if status.services.is_empty() {
        remarks.push("there is no service; `reconcile init` makes a first manifest".to_owned());
    } else if !status.watching {
        remarks.push("nothing watches these services; `reconcile up -d` does".to_owned());
    }
    if let Some(why) = &status.polling {
        remarks.push(format!("changes are looked for every two seconds: {why}"));
    }
    let bad = status.manifests.iter().filter(|file| !file.ok).count();
    if bad > 0 {
        remarks.push(format!("{} not accepted; `reconcile validate` says why", count(bad, "manifest")));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::super::report::samples;
    use super::*;

    #[test]
    fn what_the_table_does_not_say_is_remarked() {
        assert_eq!(remarks(&samples::status()), ["1 manifest not accepted; `reconcile validate` says why"]);
        let unwatched = Status { watching: false, manifests: vec![], ..samples::status() };
        assert_eq!(remarks(&unwatched), ["nothing watches these services; `reconcile up -d` does"]);
        let polling = Status { polling: Some("it is NFS".into()), manifests: vec![], ..samples::status() };
        assert_eq!(remarks(&polling), ["changes are looked for every two seconds: it is NFS"]);
        let empty = Status { services: vec![], ..unwatched };
        assert_eq!(remarks(&empty), ["there is no service; `reconcile init` makes a first manifest"]);
    }
}

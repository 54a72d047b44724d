//! `reconcile lease acquire|renew|release|list`: leases of holders that are no process.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::args::{LeaseCommand, OwnerArgs};
use super::backend::Backend;
use super::exit_code::{Ended, ExitCode};
use super::failure::Failure;
use super::report::{self, LeaseView, LeasesView, StatusView};
use super::{Run, act, status};
use crate::reconciler::command::{Answer, Command};
use crate::reconciler::status::{LeaseStatus, ServiceStatus};
use crate::state::{Holder, LeaseId};

/// How long another reconciler may be at work.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn run(run: &Run<'_>, command: &LeaseCommand) -> Result<Ended, Failure> {
    match command {
        LeaseCommand::Acquire(acquire) => {
            let holder = Holder::Owner { owner: acquire.owner.owner.clone() };
            let (names, term, timeout) = (run.names(&acquire.names), Some(acquire.term), acquire.timeout);
            used(run, &acquire.owner, Command::Lease { names, holder, term, timeout })
        }
        LeaseCommand::Renew(renew) => {
            let lease = LeaseId::from(renew.owner.owner.as_str());
            used(run, &renew.owner, Command::RenewLease { lease, term: renew.term })
        }
        LeaseCommand::Release(release) => {
            let lease = LeaseId::from(release.owner.owner.as_str());
            let global = &run.cli.global;
            let is_about_all =
                release.names.is_empty() && global.project.is_none() && global.labels.is_empty();
            let names = if is_about_all { Vec::new() } else { run.names(&release.names) };
            act::run(run, Command::EndLease { lease, names })
        }
        LeaseCommand::List => list(run),
    }
}

/// Answered with the services that are held: where they are, and for how long.
fn used(run: &Run<'_>, owner: &OwnerArgs, command: Command) -> Result<Ended, Failure> {
    // Who renews in time shall not come too late for a command that is at work.
    let opened = Backend::open_patiently(&run.options, PATIENCE, || false)?;
    match opened.expect("nobody calls it off").execute(command)? {
        Answer::Status(status) => {
            if run.console.is_json() {
                run.console.json(&StatusView::from(&*status))?;
            } else {
                run.console.print(&report::addresses(&status.services))?;
                let leases = status.services.iter().flat_map(|service| &service.leases);
                let own = leases.filter(|lease| lease.id == owner.owner);
                if let Some(at) = own.filter_map(|lease| lease.expires_at.as_deref()).next() {
                    run.console.say(&report::held_until(&owner.owner, at, &TimeZone::system()));
                }
            }
            Ok(ExitCode::Converged.into())
        }
        answer => act::show(run, &answer),
    }
}

fn list(run: &Run<'_>) -> Result<Ended, Failure> {
    let status = status::current(&run.options)?;
    let about = |service: &&ServiceStatus| run.cli.global.is_about(service);
    let mut by_id: BTreeMap<&LeaseStatus, Vec<&str>> = BTreeMap::new();
    for service in status.services.iter().filter(about) {
        for lease in &service.leases {
            by_id.entry(lease).or_default().push(&service.name);
        }
    }
    let leases: Vec<LeaseView<'_>> =
        by_id.into_iter().map(|(lease, services)| LeaseView { lease, services }).collect();
    if run.console.is_json() {
        run.console.json(&LeasesView::new(leases))?;
    } else {
        run.console.print(&report::leases(&leases, &TimeZone::system()))?;
    }
    Ok(ExitCode::Converged.into())
}

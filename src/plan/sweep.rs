//! One sweep over every service, and what it gathers: the plan.
//!
//! Pure. Allocates nothing for a service that is as it should be, but for its line in the table of phases: ten
//! thousand of them are planned at every event.

use std::cmp::Ordering;
use std::path::PathBuf;

use super::case::{Case, Shutdown};
use super::decide::decide;
use super::input::{Desired, Observed, Presence, Service, Want};
use super::order::{Direction, order};
use super::output::{Action, PhaseView, Plan, Step};
use super::prune::{Guards, Removal};
use super::verdict::Verdict;
use crate::identity::ServiceId;
use crate::time::Stamp;

/// What to do about every service of either input.
///
/// A service that is only observed (which the reconciler does not let happen) is treated like one of another
/// root: shown, and not touched.
pub fn plan(desired: &Desired, observed: &Observed, now: &Stamp) -> Plan {
    let guards = Guards::survey(desired, observed);
    let shutdown = match (desired.shutdown, desired.kill) {
        (false, _) => Shutdown::No,
        (true, false) => Shutdown::Graceful,
        (true, true) => Shutdown::AtOnce,
    };
    let undesired = undesired();
    let unobserved = Service::default();
    let mut plan = Plan::default();
    let mut phases = Vec::with_capacity(desired.services.len());
    for (id, want, service) in pairs(desired, observed) {
        let (want, service) = (want.unwrap_or(&undesired), service.unwrap_or(&unobserved));
        let (removal, note) = guards.judge(id, want, service);
        plan.notes.extend(note);
        let is_concerned = desired.everywhere || !matches!(removal, Removal::Elsewhere { .. });
        let shutdown = if is_concerned { shutdown } else { Shutdown::No };
        let case = Case { id, want, service, removal, shutdown, now };
        phases.push((id.clone(), plan.add(id, decide(&case))));
    }
    let direction = if desired.shutdown { Direction::Reverse } else { Direction::Forward };
    order(&mut plan.steps, direction);
    plan.phases = phases.into_iter().collect();
    plan
}

impl Plan {
    fn add(&mut self, id: &ServiceId, verdict: Verdict) -> PhaseView {
        if let Some((action, reason)) = verdict.step {
            self.steps.push(Step { service: id.clone(), action, reason });
        }
        if let Some(reason) = verdict.held {
            self.steps.push(Step { service: id.clone(), action: Action::Hold, reason });
        }
        self.notes.extend(verdict.notes);
        if verdict.probe {
            self.probes.push(id.clone());
        }
        self.wake_in = match (self.wake_in, verdict.wake) {
            (Some(soonest), Some(wake)) => Some(soonest.min(wake)),
            (soonest, wake) => soonest.or(wake),
        };
        verdict.view
    }
}

fn undesired() -> Want {
    Want {
        accepted: None,
        refused: None,
        problems: Vec::new(),
        presence: Presence::OtherRoot { path: PathBuf::from("a root of an earlier run") },
        manifest: None,
        gate: None,
        retry: false,
    }
}

/// Both maps side by side, in the order of their keys.
fn pairs<'a>(
    desired: &'a Desired,
    observed: &'a Observed,
) -> impl Iterator<Item = (&'a ServiceId, Option<&'a Want>, Option<&'a Service>)> {
    let mut wants = desired.services.iter().peekable();
    let mut services = observed.services.iter().peekable();
    std::iter::from_fn(move || {
        let side = match (wants.peek(), services.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((wanted, _)), Some((seen, _))) => wanted.cmp(seen),
        };
        let want = if side == Ordering::Greater { None } else { wants.next() };
        let service = if side == Ordering::Less { None } else { services.next() };
        let id = want.map(|(id, _)| id).or(service.map(|(id, _)| id))?;
        Some((id, want.map(|(_, want)| want), service.map(|(_, service)| service)))
    })
}

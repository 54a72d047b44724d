//! One sweep over every service, and what it gathers: the plan.
//!
//! Pure. Allocates nothing for a service that is as it should be, but for its line in the table of phases: ten
//! thousand of them are planned at every event.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::alive::until_dependents_end;
use super::case::{Case, Shutdown};
use super::decide::decide;
use super::demand;
use super::dependencies::{Links, Needs, Offer};
use super::input::{Desired, Flight, Observed, Presence, Seen, Service, Want};
use super::leases::{Leased, Leases};
use super::order::{Direction, order, order_later};
use super::output::{Action, Later, PhaseView, Plan, Step};
use super::prune::{Guards, Removal};
use super::verdict::{LaterStep, Verdict};
use crate::identity::ServiceId;
use crate::manifest::Spec;
use crate::state::{Reason, Run};
use crate::time::Stamp;

/// One service in both inputs, with what is decided of it before all else.
#[derive(Debug)]
pub(super) struct Side<'a> {
    pub id: &'a ServiceId,
    want: &'a Want,
    service: &'a Service,
    removal: Removal,
    shutdown: Shutdown,
    leased: Leased<'a>,
}

impl<'a> Side<'a> {
    pub(super) fn spec_in_force(&self) -> Option<&'a Spec> {
        self.want.accepted.as_ref().or(self.service.running.as_ref()).map(|accepted| &accepted.spec)
    }
}

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
    let leases = Leases::survey(observed, now);
    let begun = Plan { notes: leases.notes.clone(), wake_in: leases.wake, ..Plan::default() };
    let mut sweep = Sweep { only: desired.only.as_ref(), now, plan: begun, postponed: Vec::new() };
    let mut sides = Vec::with_capacity(desired.services.len());
    for (id, want, service) in pairs(desired, observed) {
        let (want, service) = (want.unwrap_or(&undesired), service.unwrap_or(&unobserved));
        let (removal, note) = guards.judge(id, want, service);
        let note = note.filter(|_| sweep.is_about(id));
        sweep.plan.notes.extend(note);
        let is_concerned = desired.everywhere || !matches!(removal, Removal::Elsewhere { .. });
        let shutdown = if is_concerned { shutdown } else { Shutdown::No };
        let leased = leases.of(id);
        sides.push(Side { id, want, service, removal, shutdown, leased });
    }
    let views = match Links::of(&sides) {
        None => sides.iter().map(|side| sweep.judge(side)).collect(),
        Some(links) => sweep.judge_linked(&sides, &links),
    };
    let mut plan = sweep.plan;
    let direction = if desired.shutdown { Direction::Reverse } else { Direction::Forward };
    order(&mut plan.steps, direction);
    order_later(&mut plan.later);
    let phases = sides.iter().zip(views).map(|(side, view)| (side.id.clone(), view));
    plan.phases = phases.collect::<Vec<_>>().into_iter().collect();
    plan
}

struct Sweep<'a> {
    only: Option<&'a BTreeSet<ServiceId>>,
    now: &'a Stamp,
    plan: Plan,
    /// Stops that may have to wait for dependents.
    postponed: Vec<(u32, Verdict)>,
}

impl<'a> Sweep<'a> {
    fn is_about(&self, id: &ServiceId) -> bool {
        self.only.is_none_or(|only| only.contains(id))
    }

    fn case<'s>(&self, side: &'s Side<'a>, needs: Needs<'s>) -> Case<'s>
    where
        'a: 's,
    {
        Case {
            id: side.id,
            want: side.want,
            service: side.service,
            removal: &side.removal,
            shutdown: side.shutdown,
            now: self.now,
            needs,
            needed_by: None,
            leased: side.leased,
        }
    }

    fn decide(&self, case: &Case<'_>) -> Verdict {
        let verdict = decide(case);
        if self.is_about(case.id) { verdict } else { verdict.only_shown() }
    }

    fn judge(&mut self, side: &Side<'a>) -> PhaseView {
        let verdict = self.decide(&self.case(side, Needs::default()));
        self.plan.add(side.id, verdict)
    }

    /// For each place, a service that is to run and depends on it; nothing where nothing runs on demand.
    fn needed(&self, sides: &[Side<'a>], links: &Links<'_>) -> Vec<Option<&'a ServiceId>> {
        let is_on_demand = |side: &Side<'a>| side.spec_in_force().is_some_and(|spec| spec.is_on_demand());
        if !sides.iter().any(is_on_demand) {
            return Vec::new();
        }
        let mut needed: Vec<Option<&'a ServiceId>> = vec![None; sides.len()];
        for at in links.order.iter().rev().copied() {
            let side = &sides[at as usize];
            let case = Case { needed_by: needed[at as usize], ..self.case(side, Needs::default()) };
            if demand::is_to_run(&case) {
                for place in links.of_place(at).iter().filter_map(|need| need.at) {
                    needed[place as usize].get_or_insert(side.id);
                }
            }
        }
        needed
    }

    /// What is depended on first, so that everything knows what it waits for; then, the other way round, the stops.
    fn judge_linked(&mut self, sides: &[Side<'a>], links: &Links<'_>) -> Vec<PhaseView> {
        let mut views: Vec<Option<PhaseView>> = vec![None; sides.len()];
        let mut offers = vec![Offer::default(); sides.len()];
        let mut ending = vec![false; sides.len()];
        let needed = self.needed(sides, links);
        let needed_by = |at: u32| needed.get(at as usize).copied().flatten();
        for at in links.order.iter().copied() {
            let side = &sides[at as usize];
            let (verdict, offer) = {
                let case = self.case(side, Needs { list: links.of_place(at), offers: &offers });
                let case = Case { needed_by: needed_by(at), ..case };
                let verdict = self.decide(&case);
                let offer = Offer::of(side.service, &case, &verdict);
                (verdict, offer)
            };
            offers[at as usize] = offer;
            ending[at as usize] = is_ending(side, &verdict);
            if begins_a_stop(side, &verdict) {
                self.postponed.push((at, verdict));
            } else {
                views[at as usize] = Some(self.plan.add(side.id, verdict));
            }
        }
        if !self.postponed.is_empty() {
            let held_by = links.held_back(|at| ending[at as usize]);
            let mut waves = BTreeMap::new();
            // Dependents first: they were pushed after what they depend on.
            for (at, verdict) in std::mem::take(&mut self.postponed).into_iter().rev() {
                let side = &sides[at as usize];
                let held = held_by[at as usize].as_slice();
                let verdict = if held.is_empty() {
                    verdict
                } else {
                    let case = self.case(side, Needs { list: links.of_place(at), offers: &offers });
                    let case = Case { needed_by: needed_by(at), ..case };
                    let wave = 1 + held.iter().filter_map(|at| waves.get(at)).max().copied().unwrap_or(1_u32);
                    waves.insert(at, wave);
                    let after = held.iter().map(|at| sides[*at as usize].id.clone()).collect();
                    put_off(&case, verdict, wave, after)
                };
                views[at as usize] = Some(self.plan.add(side.id, verdict));
            }
        }
        views.into_iter().map(|view| view.expect("every place is in the order once")).collect()
    }
}

/// The first step of a stop, of a service whose leader lives. What may not run any longer waits for nobody, above all
/// not for as long as a dependent chooses.
fn begins_a_stop(side: &Side<'_>, verdict: &Verdict) -> bool {
    let may_wait = |why: &Reason| !matches!(why, Reason::PolicyRevoked { .. } | Reason::TtlExpired { .. });
    matches!(&verdict.step, Some((Action::Stop | Action::Restart, why)) if may_wait(why))
        && side.shutdown != Shutdown::AtOnce
        && side.service.flight == Flight::None
        && side.service.seen == Seen::Alive
        && side.service.entry.run.as_ref().is_some_and(Run::goes_on)
}

/// It ends, or is to end, and what it depends on waits for that; not for one that was killed before this pass, or that
/// nobody sees.
fn is_ending(side: &Side<'_>, verdict: &Verdict) -> bool {
    let is_seen = matches!(side.service.seen, Seen::Alive | Seen::Leftovers);
    let stops = matches!(verdict.step, Some((Action::Stop | Action::Restart | Action::Signal, _)));
    match side.service.flight {
        Flight::Killed { .. } => false,
        Flight::StopCommand { .. } | Flight::Signalled { .. } => is_seen,
        // It will be born, and stopped then.
        Flight::Spawning { .. } => side.shutdown == Shutdown::Graceful,
        Flight::None => is_seen && stops,
    }
}

/// The stop follows when its dependents have ended.
fn put_off(case: &Case<'_>, verdict: Verdict, wave: u32, after: Vec<ServiceId>) -> Verdict {
    let (Some((action, reason)), Some(run)) = (verdict.step.clone(), &case.service.entry.run) else {
        return verdict;
    };
    let mut instead = until_dependents_end(case, run, after.clone());
    instead.later = Some(LaterStep { action, reason, wave, after });
    instead
}

impl Plan {
    fn add(&mut self, id: &ServiceId, verdict: Verdict) -> PhaseView {
        if let Some((action, reason)) = verdict.step {
            self.steps.push(Step { service: id.clone(), action, reason });
        }
        if let Some(reason) = verdict.held {
            self.steps.push(Step { service: id.clone(), action: Action::Hold, reason });
        }
        if let Some(LaterStep { action, reason, wave, after }) = verdict.later {
            let step = Step { service: id.clone(), action, reason };
            self.later.push(Later { step, wave, after });
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
        files: None,
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

//! What services are to those that depend on them, and what that closes, restarts or holds back.
//!
//! Pure. Judged by what is observed in this pass alone (process, readiness, how it ended) and by what the pass does
//! about it, never by the order in which services are named: `sweep` decides what is depended on first. A service that
//! runs is never stopped because another does not; what cannot be told of a dependency counts as not there.
//!
//! | a dependency that | a start | a restart of what runs |
//! | --- | --- | --- |
//! | is as it is wanted | may be | may be |
//! | is to be restarted | waits | may be: it stops first and starts last |
//! | is anything else, or is not there | waits | waits |

use std::collections::BTreeMap;
use std::time::Duration;

use super::case::Case;
use super::graph::{Graph, Parts};
use super::health::{self, Standing};
use super::input::{Flight, Service};
use super::output::{Action, Phase};
use super::process::Process;
use super::restart::started;
use super::sweep::Side;
use super::verdict::Verdict;
use crate::identity::{Nonce, ServiceId};
use crate::manifest::{Condition, Dependency, Spec};
use crate::state::{Reason, Record, Run, Unmet};
use crate::time::Clock;

/// One service that another depends on.
#[derive(Debug)]
pub(super) struct Need<'a> {
    pub service: &'a ServiceId,
    dependency: Dependency,
    /// Its place among the services; `None` if there is none of this name.
    pub at: Option<u32>,
    /// It depends on who depends on it.
    is_circular: bool,
}

/// Who depends on whom, where anybody does.
#[derive(Debug)]
pub(super) struct Links<'a> {
    needs: Vec<Need<'a>>,
    starts: Vec<u32>,
    /// Every place once, what is depended on first.
    pub order: Vec<u32>,
}

impl<'a> Links<'a> {
    /// `None` if nothing depends on anything.
    pub(super) fn of(sides: &[Side<'a>]) -> Option<Self> {
        let dependencies = |side: &Side<'a>| side.spec_in_force().map(|spec| &spec.depends_on);
        if sides.iter().filter_map(dependencies).all(BTreeMap::is_empty) {
            return None;
        }
        let place = |id: &ServiceId| sides.binary_search_by_key(&id, |side| side.id).ok().map(|at| at as u32);
        let mut links = Self { needs: Vec::new(), starts: vec![0], order: Vec::new() };
        let mut graph = Graph::default();
        for side in sides {
            let from = links.needs.len();
            for (service, dependency) in dependencies(side).into_iter().flatten() {
                let need = Need { service, dependency: *dependency, at: place(service), is_circular: false };
                links.needs.push(need);
            }
            graph.push(links.needs[from..].iter().filter_map(|need| need.at));
            links.starts.push(links.needs.len() as u32);
        }
        let parts = graph.parts();
        links.mark_circles(&parts);
        links.order = parts.order;
        Some(links)
    }

    fn mark_circles(&mut self, parts: &Parts) {
        for node in 0..self.starts.len() - 1 {
            for need in &mut self.needs[self.starts[node] as usize..self.starts[node + 1] as usize] {
                need.is_circular = need.at.is_some_and(|at| parts.are_in_one_circle(node as u32, at));
            }
        }
    }

    pub(super) fn of_place(&self, at: u32) -> &[Need<'a>] {
        let at = at as usize;
        &self.needs[self.starts[at] as usize..self.starts[at + 1] as usize]
    }

    /// For each place: the services whose end its own stop waits for, given who is ending. What ends comes before what
    /// it depends on, also across one that does not run.
    pub(super) fn held_back(&self, is_ending: impl Fn(u32) -> bool) -> Vec<Vec<u32>> {
        /// More than these nobody reads.
        const NAMED: usize = 8;
        let mut held_by: Vec<Vec<u32>> = vec![Vec::new(); self.order.len()];
        for at in self.order.iter().rev().copied() {
            let carried = if is_ending(at) { vec![at] } else { held_by[at as usize].clone() };
            let needs = self.of_place(at).iter().filter(|need| !need.is_circular);
            for place in needs.filter_map(|need| need.at).filter(|_| !carried.is_empty()) {
                let held = &mut held_by[place as usize];
                let new = carried.iter().filter(|one| !held.contains(one)).copied().collect::<Vec<_>>();
                held.extend(new);
                held.truncate(NAMED);
            }
        }
        held_by
    }
}

/// How far a service has come, for who depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Also: not known.
    #[default]
    Down,
    /// Up, and its health check does not say that it is well.
    Started,
    Ready,
    /// Ended cleanly and not to be started again; with a health check it was never proved to be ready.
    Completed {
        has_check: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Leaving {
    #[default]
    No,
    /// Its restart is decided in this pass, and it still runs.
    ToBeRestarted,
    Now,
}

/// What a service is to its dependents as of this pass.
#[derive(Debug, Clone, Default)]
pub(super) struct Offer<'a> {
    state: State,
    leaving: Leaving,
    phase: Option<Phase>,
    /// What a restart of it is told by: its run, of a completed one the last.
    run: Option<&'a Nonce>,
    /// Until it counts as started.
    settles_in: Option<Duration>,
    /// How many waves of steps it is away; 0 if it is not on its way.
    wave: u32,
    /// Whom it waits for itself, and they in turn.
    root: Option<ServiceId>,
}

impl<'a> Offer<'a> {
    /// Of a service that has just been decided on.
    pub(super) fn of(service: &'a Service, case: &Case<'_>, verdict: &Verdict) -> Self {
        let wanted = case.unwanted().is_none();
        let phase = verdict.view.phase;
        let mut offer = Self { phase: Some(phase), root: root_of(verdict), ..Self::default() };
        let is_leaving =
            matches!(verdict.step, Some((Action::Stop | Action::Restart | Action::Signal | Action::Kill, _)))
                || matches!(
                    service.flight,
                    Flight::StopCommand { .. } | Flight::Signalled { .. } | Flight::Killed { .. }
                );
        if let Process::Alive(run) = Process::of(service) {
            let spec = case.spec_in_force();
            let restarts = matches!(verdict.step, Some((Action::Restart, _)));
            offer.leaving = match (wanted && run.stopping.is_none(), is_leaving) {
                (true, false) => Leaving::No,
                (true, true) if restarts => Leaving::ToBeRestarted,
                (true | false, _) => Leaving::Now,
            };
            offer.run = Some(&run.nonce);
            (offer.state, offer.settles_in) = state_of(case, run, spec);
        } else if phase == Phase::Completed && verdict.step.is_none() {
            let has_check = case.spec_in_force().is_some_and(|spec| spec.health.is_some());
            offer.state = State::Completed { has_check };
            offer.run = service.entry.last.as_ref().map(|last| &last.nonce);
        }
        let is_on_its_way = wanted
            && (matches!(verdict.step, Some((Action::Start | Action::Restart, _)))
                || matches!(phase, Phase::Starting | Phase::Stopping));
        offer.wave = match &verdict.later {
            Some(later) => later.wave,
            None => u32::from(is_on_its_way),
        };
        offer
    }

    fn is_met(&self, condition: Condition) -> bool {
        match (condition, self.state) {
            (_, State::Down) => false,
            (Condition::Started, State::Started | State::Ready | State::Completed { .. })
            | (Condition::Ready, State::Ready | State::Completed { has_check: false })
            | (Condition::Completed, State::Completed { .. }) => true,
            (Condition::Ready, State::Started | State::Completed { has_check: true })
            | (Condition::Completed, State::Started | State::Ready) => false,
        }
    }
}

fn state_of(case: &Case<'_>, run: &Run, spec: Option<&Spec>) -> (State, Option<Duration>) {
    let settles_in = || {
        let spec = spec.filter(|spec| spec.health.is_some())?;
        case.now.left_of(started(run), spec.start_settle, Clock::Awake)
    };
    match health::standing(run, spec, &case.service.health, case.now) {
        Standing::Up => (State::Ready, None),
        Standing::Unhealthy | Standing::Late { .. } => (State::Started, None),
        Standing::Starting { .. } if spec.is_some_and(|spec| spec.health.is_some()) => match settles_in() {
            None => (State::Started, None),
            left => (State::Down, left),
        },
        Standing::Starting { .. } => (State::Down, None),
    }
}

fn root_of(verdict: &Verdict) -> Option<ServiceId> {
    match &verdict.view.reason {
        Reason::Dependency { unmet } => {
            let first = unmet.first()?;
            Some(first.root.clone().unwrap_or_else(|| first.service.clone()))
        }
        _ => None,
    }
}

/// The dependencies of one service.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needs<'a> {
    pub list: &'a [Need<'a>],
    /// By place; of what is depended on, all are known.
    pub offers: &'a [Offer<'a>],
}

/// A start or restart that waits for dependencies.
#[derive(Debug)]
pub(super) struct Blocked {
    pub reason: Reason,
    pub wake: Option<Duration>,
    /// Where all of them are on their way: how many waves off, and who they are.
    pub after: Option<(u32, Vec<ServiceId>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    Start,
    Restart,
}

impl Needs<'_> {
    /// What stands before a start or restart, if anything does.
    pub(super) fn blocked(&self, before: Before) -> Option<Blocked> {
        let mut unmet = Vec::new();
        let mut wake = None;
        let mut wave = 0;
        let mut all_come = true;
        for need in self.list {
            let offer = need.at.filter(|_| !need.is_circular).map(|at| &self.offers[at as usize]);
            let Some((why, root)) = need.unmet(offer, before) else { continue };
            let (offered, settles_in) = offer.map_or((0, None), |offer| (offer.wave, offer.settles_in));
            all_come &= offered > 0;
            wave = wave.max(offered);
            if let (Condition::Started, Some(left)) = (need.dependency.condition, settles_in) {
                wake = Some(wake.map_or(left, |soonest: Duration| soonest.min(left)));
            }
            unmet.push(Unmet {
                service: need.service.clone(),
                condition: need.dependency.condition,
                why: why.to_owned(),
                root,
            });
        }
        if unmet.is_empty() {
            return None;
        }
        let names = || unmet.iter().map(|unmet| unmet.service.clone()).collect();
        let after = all_come.then(|| (wave + 1, names()));
        Some(Blocked { reason: Reason::Dependency { unmet }, wake, after })
    }

    /// A dependency that was started anew since this run began, where that is a reason to restart it.
    pub(super) fn started_anew(&self, run: &Run) -> Option<Reason> {
        let is_anew = |need: &&Need<'_>| {
            let now = self.run_to_follow(need);
            now.is_some_and(|now| run.beside.get(need.service).is_some_and(|then| then != now))
        };
        let need = self.list.iter().find(is_anew)?;
        Some(Reason::DependencyRestarted { dependency: need.service.clone() })
    }

    /// Which runs of its dependencies a run goes on beside, where the ledger does not have it so: a change of the
    /// manifest, or a dependency that was down when it was started.
    pub(super) fn beside(&self, service: &ServiceId, run: &Run) -> Option<Record> {
        let follows = |need: &&Need<'_>| need.dependency.restart;
        if run.beside.is_empty() && !self.list.iter().any(|need| need.dependency.restart) {
            return None;
        }
        let beside: BTreeMap<ServiceId, Nonce> = self
            .list
            .iter()
            .filter(follows)
            .filter_map(|need| {
                let nonce = run.beside.get(need.service).or_else(|| self.run_to_follow(need))?;
                Some((need.service.clone(), nonce.clone()))
            })
            .collect();
        let (service, nonce) = (service.clone(), run.nonce.clone());
        (beside != run.beside).then_some(Record::Beside { service, nonce, beside })
    }

    /// The run of a dependency whose restarts are followed, once it is as it is wanted.
    fn run_to_follow(&self, need: &Need<'_>) -> Option<&Nonce> {
        let at = need.at.filter(|_| need.dependency.restart && !need.is_circular)?;
        let offer = &self.offers[at as usize];
        let is_there = offer.is_met(need.dependency.condition) && offer.leaving == Leaving::No;
        offer.run.filter(|_| is_there)
    }
}

impl Need<'_> {
    /// Why it is not as it is wanted, and who all wait for; `None` if it is.
    fn unmet(&self, offer: Option<&Offer<'_>>, before: Before) -> Option<(&'static str, Option<ServiceId>)> {
        let Some(offer) = offer else {
            return Some(match self.is_circular {
                true => ("each depends on the other", None),
                false => ("no manifest declares it", None),
            });
        };
        let may_leave = before == Before::Restart && offer.leaving == Leaving::ToBeRestarted;
        if offer.is_met(self.dependency.condition) && (offer.leaving == Leaving::No || may_leave) {
            return None;
        }
        let why = match (offer.leaving, offer.phase) {
            (Leaving::ToBeRestarted, _) => "it is restarted first",
            (Leaving::Now, _) | (_, Some(Phase::Stopping)) => "it is being stopped",
            (_, None) => "nothing is known of it",
            (_, Some(Phase::Pending)) => "it waits itself",
            (_, Some(Phase::Starting)) => "it is starting",
            (_, Some(Phase::Running | Phase::Ready)) => "it is up and has not ended",
            (_, Some(Phase::Unhealthy)) => "it is unhealthy",
            (_, Some(Phase::Backoff)) => "it has failed and is in backoff",
            (_, Some(Phase::Failed)) => "it has failed; `reconcile reset` revives it",
            (_, Some(Phase::Stopped)) => "it is stopped; `reconcile start` ends that",
            (_, Some(Phase::Completed)) => "it is completed; depend on it as `completed`",
            (_, Some(Phase::Expired)) => "its TTL is over; `reconcile renew` starts it anew",
            (_, Some(Phase::Rejected)) => "it is rejected",
            (_, Some(Phase::Held)) => "it is held",
        };
        Some((why, offer.root.clone()))
    }
}

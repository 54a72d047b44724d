//! Commands that are answered later: when what they asked for has come about, or their time is over.
//!
//! Looked at after each pass, on the phases that the pass found. Says whether; never brings about.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use tokio::sync::oneshot;

use super::Reconciler;
use super::act::Outcome;
use super::command::Answer;
use super::leases::Acquired;
use super::requests::ACT_TIMEOUT;
use super::status::{PassReport, Status, StepReport, VERSION};
use crate::host::Host;
use crate::identity::ServiceId;
use crate::plan::{self, Action, Flight, Phase, Step};
use crate::state::{Entry, Reason, Request, Unmet};
use crate::time::{Clock, Stamp};

/// A start that failed this often is not waited for.
const TRIES: u32 = 3;

/// What a command waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// Nothing is under way: up, done, deliberately down, or given up on.
    Settled,
    /// Every one is up; given up on as soon as one cannot be.
    Up,
    /// As `Up`, for who uses them: a start that fails is the answer.
    Ensured,
    /// None has a process.
    Down,
    /// Nothing of them is being stopped: what is let go of, and goes, is gone.
    LetGo,
}

/// Whose logs go when all is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purge {
    Nothing,
    Stopped,
    /// Also those of services of the same projects that no manifest declares any more.
    Projects,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub goal: Goal,
    /// `None`: all, whichever there are by then.
    pub services: Option<BTreeSet<ServiceId>>,
    pub since: Stamp,
    pub timeout: Duration,
    /// Failures that were counted when the command came.
    pub failures_before: BTreeMap<ServiceId, u32>,
    /// What was done since the command came.
    pub steps: Vec<StepReport>,
    pub purge: Purge,
    /// Brought up beside what was named, because that depends on it.
    pub also: BTreeSet<ServiceId>,
    /// What was leased for it, and is let go of unless all of it comes up.
    pub lease: Option<Acquired>,
    /// What it is answered with once what follows from that has come about.
    pub told: Option<Answer>,
    pub answer: oneshot::Sender<Answer>,
}

impl Waiting {
    fn is_about(&self, service: &str) -> bool {
        let named = |services: &BTreeSet<ServiceId>| {
            ServiceId::parse(service).is_ok_and(|service| services.contains(&service))
        };
        self.services.as_ref().is_none_or(named)
    }
}

/// How far one service is from a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Reached,
    /// It will not get there by itself.
    Missed,
    UnderWay,
}

impl<H: Host> Reconciler<H> {
    pub(super) fn answer_waiting(&mut self, steps: &[StepReport]) {
        if self.waiting.is_empty() {
            return;
        }
        let now = self.host.now();
        let waiting = std::mem::take(&mut self.waiting);
        for mut one in waiting {
            if one.answer.is_closed() {
                self.take_back(one.lease.take());
                continue;
            }
            let is_its_own = |step: &&StepReport| step.outcome.is_some() && one.is_about(&step.service);
            let own: Vec<StepReport> = steps.iter().filter(is_its_own).cloned().collect();
            one.steps.extend(own);
            // The last word is that of a pass that did nothing: what was just done is not seen yet.
            let standing = if self.acted || self.is_being_written() {
                Standing::UnderWay
            } else {
                self.standing(&one, &self.with_steps())
            };
            let time_is_over = now.left_of(&one.since, one.timeout, Clock::Awake).is_none();
            if standing == Standing::UnderWay && !time_is_over {
                self.waiting.push(one);
                continue;
            }
            if let Some(told) = one.told {
                let _ = one.answer.send(told);
                continue;
            }
            if standing == Standing::Reached {
                self.purge_logs(one.purge, one.services.as_ref());
            }
            let converged = standing == Standing::Reached && !self.holds_a_removal(&one);
            if let Some(lease) = one.lease.take_if(|lease| converged && !self.is_held_still(lease)) {
                let _ = one.answer.send(Answer::Refused(self.lost_meanwhile(&lease)));
                continue;
            }
            if one.goal == Goal::Ensured && converged {
                let _ = one.answer.send(Answer::Status(Box::new(self.status_of(one.services.as_ref()))));
                continue;
            }
            let report = self.convergence_report(&one, converged);
            if self.take_back(one.lease.take()) {
                let services =
                    self.with_dependencies(one.services.as_ref().unwrap_or(&BTreeSet::new())).services;
                self.waiting.push(Waiting {
                    goal: Goal::LetGo,
                    services: Some(services),
                    since: now.clone(),
                    timeout: ACT_TIMEOUT,
                    told: Some(Answer::Report(Box::new(report))),
                    ..one
                });
                continue;
            }
            // Whoever asked may have gone away; what was done stays done.
            let _ = one.answer.send(Answer::Report(Box::new(report)));
        }
    }

    /// What is held up is no failure of a service, and not what the manifests say either.
    fn holds_a_removal(&self, one: &Waiting) -> bool {
        let is_held = |step: &Step| step.action == Action::Hold && step.reason.is_prune_guard();
        one.goal == Goal::Settled
            && self
                .last_plan
                .steps
                .iter()
                .any(|step| is_held(step) && one.is_about(&step.service.to_string()))
    }

    /// Of what was stopped, and of what was declared once: in the projects of `services`, or anywhere. The labels of
    /// what is declared no more are not known, so labels never mean it.
    fn purge_logs(&mut self, purge: Purge, services: Option<&BTreeSet<ServiceId>>) {
        let is_meant = |service: &ServiceId| match (purge, services) {
            (Purge::Nothing, _) => false,
            (Purge::Stopped | Purge::Projects, None) => true,
            (Purge::Stopped, Some(services)) => services.contains(service),
            (Purge::Projects, Some(services)) => {
                services.contains(service)
                    || (!self.last_plan.phases.contains_key(service)
                        && services.iter().any(|stopped| stopped.project() == service.project()))
            }
        };
        if purge == Purge::Nothing {
            return;
        }
        let logged: Vec<ServiceId> = self.host.logged().into_iter().filter(is_meant).collect();
        self.host.purge_logs(&logged);
    }

    /// A command has not been answered yet.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn waiting_deadline(&self, now: &Stamp) -> Option<Duration> {
        let left = |one: &Waiting| now.left_of(&one.since, one.timeout, Clock::Awake).unwrap_or_default();
        self.waiting.iter().map(left).min()
    }

    /// The services that the last plan does something about, now or once others have come up.
    fn with_steps(&self) -> HashSet<&ServiceId> {
        let steps = self.last_plan.steps.iter();
        let now = steps.filter(|step| step.action.is_change() || step.reason == Reason::PruneDelay);
        let later = self.last_plan.later.iter().map(|later| &later.step);
        now.chain(later).map(|step| &step.service).collect()
    }

    fn standing(&self, one: &Waiting, with_steps: &HashSet<&ServiceId>) -> Standing {
        let all;
        let services = match &one.services {
            Some(services) => services,
            None => {
                all = self.last_plan.phases.keys().cloned().collect();
                &all
            }
        };
        let mut worst = Standing::Reached;
        for service in services {
            match self.standing_of(service, one, with_steps) {
                Standing::Reached => {}
                // One that cannot come up makes waiting for the others pointless; not so one that cannot go down.
                Standing::Missed if matches!(one.goal, Goal::Up | Goal::Ensured) => return Standing::Missed,
                Standing::Missed => worst = worst.or_missed(),
                Standing::UnderWay => worst = Standing::UnderWay,
            }
        }
        worst
    }

    fn is_to_be_stopped(&self, service: &ServiceId) -> bool {
        let later = self.last_plan.later.iter().map(|later| &later.step);
        let mut steps = self.last_plan.steps.iter().chain(later).filter(|step| step.service == *service);
        steps.any(|step| matches!(step.action, Action::Stop | Action::Signal | Action::Kill))
    }

    /// How often a service has failed, or ended and been started again, in a row.
    pub(super) fn failures_in_a_row(entry: &Entry) -> u32 {
        entry.failures.max(entry.spawn_failures).max(entry.restarts)
    }

    fn standing_of(&self, service: &ServiceId, one: &Waiting, with_steps: &HashSet<&ServiceId>) -> Standing {
        let goal = one.goal;
        let is_told = |live: &plan::Service| live.reload.in_flight;
        let changes =
            with_steps.contains(service) || self.observed.services.get(service).is_some_and(is_told);
        if changes && (goal != Goal::LetGo || self.is_to_be_stopped(service)) {
            return Standing::UnderWay;
        }
        let Some(view) = self.last_plan.phases.get(service) else { return Standing::Reached };
        let entry = self.memory.ledger().entry(service);
        if view.reason == Reason::PruneDelay {
            return Standing::UnderWay;
        }
        if goal == Goal::LetGo {
            // What is being spawned can be stopped only once it is there.
            let is_spawned = |live: &plan::Service| matches!(live.flight, Flight::Spawning { .. });
            let is_on_its_way =
                view.phase == Phase::Stopping || self.observed.services.get(service).is_some_and(is_spawned);
            return if is_on_its_way { Standing::UnderWay } else { Standing::Reached };
        }
        if goal == Goal::Down {
            return if entry.is_none_or(|entry| entry.run.is_none()) {
                Standing::Reached
            } else if view.phase == Phase::Held {
                Standing::Missed
            } else {
                Standing::UnderWay
            };
        }
        // What failed before the command came says nothing of what it waits for; a count that began anew does.
        let failures = entry.map_or(0, |entry| Self::failures_in_a_row(entry));
        let before = one.failures_before.get(service).copied().unwrap_or(0);
        let failures = failures.checked_sub(before).unwrap_or(failures);
        match view.phase {
            Phase::Ready | Phase::Running | Phase::Completed if entry.is_some_and(is_to_be_restarted) => {
                self.standing_of_held(service, one, with_steps)
            }
            Phase::Ready | Phase::Running | Phase::Completed => Standing::Reached,
            Phase::Stopped | Phase::Expired if goal == Goal::Settled => Standing::Reached,
            // What this run was not given is none of its business, however it is.
            Phase::Held if goal == Goal::Settled && matches!(view.reason, Reason::ForeignRoot { .. }) => {
                Standing::Reached
            }
            Phase::Stopped | Phase::Expired | Phase::Failed | Phase::Rejected | Phase::Held => {
                Standing::Missed
            }
            // Proved, and nothing of ours will change it.
            Phase::Starting if goal == Goal::Settled && matches!(view.reason, Reason::PortForeign { .. }) => {
                Standing::Missed
            }
            Phase::Starting | Phase::Stopping => Standing::UnderWay,
            Phase::Backoff if goal == Goal::Ensured && failures > 0 => Standing::Missed,
            Phase::Pending if goal == Goal::Ensured && matches!(view.reason, Reason::ExecFailed { .. }) => {
                Standing::Missed
            }
            // One that ends cleanly and is started always is never up for long: enough of that was seen.
            Phase::Backoff if failures < TRIES => Standing::UnderWay,
            Phase::Pending if matches!(view.reason, Reason::ExecFailed { .. }) && failures < TRIES => {
                if goal == Goal::Settled { Standing::Missed } else { Standing::UnderWay }
            }
            Phase::Pending
                if matches!(view.reason, Reason::SocketOpening { .. } | Reason::SecretPending { .. }) =>
            {
                Standing::UnderWay
            }
            Phase::Pending if let Reason::Dependency { unmet } = &view.reason => {
                self.standing_of_waiting(unmet, one, with_steps)
            }
            Phase::Pending | Phase::Backoff if goal == Goal::Ensured => Standing::UnderWay,
            Phase::Pending if goal == Goal::Up => Standing::UnderWay,
            Phase::Backoff | Phase::Pending => Standing::Missed,
            Phase::Unhealthy if matches!(goal, Goal::Up | Goal::Ensured) => Standing::UnderWay,
            Phase::Unhealthy => Standing::Missed,
        }
    }

    /// Of one that runs on though its restart was asked for, since the start after that would have to wait.
    fn standing_of_held(
        &self,
        service: &ServiceId,
        one: &Waiting,
        with_steps: &HashSet<&ServiceId>,
    ) -> Standing {
        let is_its_hold = |step: &&Step| step.service == *service && step.action == Action::Hold;
        match self.last_plan.steps.iter().find(is_its_hold).map(|step| &step.reason) {
            Some(Reason::Dependency { unmet }) => self.standing_of_waiting(unmet, one, with_steps),
            Some(_) | None => Standing::Missed,
        }
    }

    /// Of a service that waits for others: as that of whom all wait for in the end, where that one can still become
    /// what is wanted of it.
    fn standing_of_waiting(
        &self,
        unmet: &[Unmet],
        one: &Waiting,
        with_steps: &HashSet<&ServiceId>,
    ) -> Standing {
        let may_come = |unmet: &Unmet| {
            let cause = unmet.root.as_ref().unwrap_or(&unmet.service);
            let Some(view) = self.last_plan.phases.get(cause) else { return false };
            match view.phase {
                // It waits for what is no service, or for itself.
                Phase::Pending if matches!(view.reason, Reason::Dependency { .. }) => false,
                Phase::Stopped | Phase::Expired | Phase::Completed => with_steps.contains(cause),
                Phase::Running | Phase::Ready => true,
                Phase::Failed | Phase::Rejected | Phase::Held => false,
                Phase::Pending | Phase::Starting | Phase::Backoff | Phase::Stopping | Phase::Unhealthy => {
                    self.standing_of(cause, one, with_steps) != Standing::Missed
                }
            }
        };
        if unmet.iter().all(may_come) { Standing::UnderWay } else { Standing::Missed }
    }

    /// The status of these alone.
    pub(super) fn status_of(&self, services: Option<&BTreeSet<ServiceId>>) -> Status {
        let mut status = self.status();
        let is_meant = |name: &str| {
            ServiceId::parse(name).is_ok_and(|service| services.is_none_or(|all| all.contains(&service)))
        };
        status.services.retain(|service| is_meant(&service.name));
        status.manifests.clear();
        status
    }

    fn convergence_report(&self, one: &Waiting, converged: bool) -> PassReport {
        let chosen =
            |service: &ServiceId| one.services.as_ref().is_none_or(|chosen| chosen.contains(service));
        let with_steps = self.with_steps();
        let unwell = self
            .last_plan
            .phases
            .iter()
            .filter(|(service, _)| {
                chosen(service) && self.standing_of(service, one, &with_steps) != Standing::Reached
            })
            .map(|(service, view)| self.service_status(service, view))
            .collect();
        let held = self.held_steps().into_iter().filter(|step| one.is_about(&step.service));
        let done: Vec<StepReport> = one.steps.iter().map(|step| self.as_it_came_out(step)).collect();
        PassReport {
            version: VERSION,
            changes: one.steps.iter().any(|step| step.action.is_change()),
            steps: done.into_iter().chain(held).collect(),
            converged: Some(converged),
            unwell,
            apart: self.apart(chosen),
            also: one.also.iter().map(ToString::to_string).collect(),
            manifests: self.manifest_statuses(),
        }
    }

    /// A step that was only begun when it was reported, as it stands at the end.
    fn as_it_came_out(&self, step: &StepReport) -> StepReport {
        if step.outcome != Outcome::Begun.as_str() {
            return step.clone();
        }
        let service = ServiceId::parse(&step.service).ok();
        let view = service.and_then(|service| self.last_plan.phases.get(&service));
        let outcome = match (step.action, view.map(|view| view.phase)) {
            (
                // A restart is done once it is up again: that it was stopped is half of it.
                Action::Start | Action::Restart,
                Some(Phase::Backoff | Phase::Failed | Phase::Pending | Phase::Unhealthy | Phase::Held),
            ) => Outcome::Failed,
            (Action::Start | Action::Restart, Some(Phase::Starting)) => Outcome::Begun,
            (Action::Stop | Action::Restart | Action::Signal | Action::Kill, Some(Phase::Stopping)) => {
                Outcome::Begun
            }
            (_, Some(_) | None) => Outcome::Done,
        };
        StepReport { outcome: outcome.as_str(), ..step.clone() }
    }

    /// What is held or rejected as of the last pass.
    fn held_steps(&self) -> Vec<StepReport> {
        let quiet = |action: Action| matches!(action, Action::Hold | Action::Reject);
        self.last_plan
            .steps
            .iter()
            .filter(|step| quiet(step.action))
            .map(|step| self.preview_step(step))
            .collect()
    }
}

fn is_to_be_restarted(entry: &Entry) -> bool {
    entry.request == Some(Request::Restart)
}

impl Standing {
    fn or_missed(self) -> Self {
        if self == Self::UnderWay { self } else { Self::Missed }
    }
}

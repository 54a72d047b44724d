//! One pass: look, plan, act; and the turn of the loop around it.

use std::time::Duration;

use super::Reconciler;
use super::news::{BEING_WRITTEN, Hold, HoldNews, TARGET};
use super::status::StepReport;
use crate::host::scan::OUT_OF_DESCRIPTORS;
use crate::host::{Dirty, Event, Host, failpoint};
use crate::identity::ServiceId;
use crate::manifest::Problem;
use crate::plan::{Action, Plan, Presence, Seen, Service, plan};
use crate::state::{Reason, Record};
use crate::time::{Clock, Stamp};

/// No turn waits longer, so that a clock that jumps or an event that was lost costs a minute at most.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The code of the error and of the problem; the gate of every start is [`Reason::LedgerUnwritable`].
pub(super) const LEDGER_UNWRITABLE: &str = "ledger-unwritable";

/// Until what could not be looked at is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Until a file that is being written is looked at again.
const SOON: Duration = Duration::from_millis(50);

impl<H: Host> Reconciler<H> {
    /// Makes one pass over everything, carries out its plan, and answers who waits.
    pub fn pass(&mut self) {
        let mut plan = self.look_and_plan();
        // Each looks at all that would be started; where one waits, another may not have to wait for it.
        for _ in 0..=self.desired.services.len() {
            if self.hands_off || !(self.close_socket_gates(&plan) | self.close_secret_gates(&plan)) {
                break;
            }
            let now = self.host.now();
            plan = self.plan_for(&now);
        }
        failpoint::reach("pass.planned");
        let steps = self.act(&plan);
        let now = self.host.now();
        self.refresh_secrets(&now);
        failpoint::reach("pass.done");
        self.finish_pass(plan, &steps);
    }

    /// The plan of a pass that is not carried out.
    pub fn preview(&mut self) -> &Plan {
        self.last_plan = self.look_and_plan();
        &self.last_plan
    }

    fn look_and_plan(&mut self) -> Plan {
        self.entries_are_fresh = false;
        if self.disk.is_due(&self.host.now()) {
            self.memory.try_again(&mut self.host);
            self.dirty = Some(Dirty::Everything);
        }
        let full = self.full_pass_is_due();
        if full {
            self.resolve_entries();
            self.look_for_sharers();
        }
        if self.desired.roots.values().any(|root| root.checkout.is_some()) {
            self.dirty = Some(Dirty::Everything);
        }
        if let Some(dirty) = self.dirty.take() {
            self.look_at_manifests(&dirty);
        }
        if full {
            // After the manifests: what an exit means is for the spec in force to say.
            self.look_at_the_machine();
        }
        self.refuse_what_execed_away();
        self.close_gates_if_unwritable();
        self.forget_confirmed_prunes();
        let now = self.host.now();
        self.refresh_quiet(&now);
        self.refresh_observed();
        self.open_port_gates_if_due(&now);
        self.open_secret_gates_if_due(&now);
        self.look_at_settling_ports(&now);
        self.refresh_usage();
        self.refresh_leases(full);
        let mut plan = self.plan_for(&now);
        if self.look_before_removing(&plan) {
            // Something was about to be removed: the directory has now been listed a second time.
            let now = self.host.now();
            self.refresh_quiet(&now);
            self.refresh_observed();
            plan = self.plan_for(&now);
        }
        if self.look_before_idling(&plan) {
            plan = self.plan_for(&now);
        }
        if self.close_port_gates(&plan, &now) {
            plan = self.plan_for(&now);
        }
        plan
    }

    fn plan_for(&self, now: &Stamp) -> Plan {
        let mut plan = plan(&self.desired, &self.observed, now);
        if self.hands_off {
            self.show_as_it_runs(&mut plan, now);
            plan.steps.retain(|step| step.action == Action::Adopt);
            plan.later.clear();
            plan.notes.clear();
        }
        plan
    }

    /// Lists everything again if the plan removes something, or latches a guard, and says whether it did: neither
    /// rests on one listing, or on an event that may have been lost.
    fn look_before_removing(&mut self, plan: &Plan) -> bool {
        let removes = plan.steps.iter().any(|step| {
            step.action == Action::Forget || (step.action == Action::Stop && step.reason == Reason::Removed)
        });
        let latches = plan.notes.iter().any(|note| matches!(note, Record::GuardLatched { .. }));
        if removes || latches {
            self.look_at_manifests(&Dirty::Everything);
        }
        removes || latches
    }

    fn finish_pass(&mut self, plan: Plan, steps: &[StepReport]) {
        let now = self.host.now();
        self.acted = steps.iter().any(|step| step.outcome.is_some()) || !plan.notes.is_empty();
        self.keep_ports();
        self.refresh_observed();
        self.attend_to_sockets(&plan);
        self.settle_sockets(&plan);
        tracing::debug!(steps = steps.len(), "pass");
        let is_refused =
            self.text_is_refused || self.memory.unwritable().is_some() || self.was_out_of_descriptors();
        self.disk.note(is_refused, &now);
        self.last_pass = Some((now, steps.len()));
        self.last_plan = plan;
        if self.settings.watching {
            self.tell_of_removals();
        }
        self.answer_waiting(steps);
    }

    /// A manifest could not be opened.
    fn was_out_of_descriptors(&self) -> bool {
        let is_it = |problem: &Problem| problem.code == OUT_OF_DESCRIPTORS;
        self.manifests.files.iter().any(|file| file.problems.iter().any(is_it))
    }

    fn tell_of_removals(&mut self) {
        let steps = &self.last_plan.steps;
        let held = steps.iter().filter(|step| step.action == Action::Hold);
        let held =
            held.filter_map(|step| Some((step.service.to_string(), Hold::of(&step.reason)?))).collect();
        let services = &self.desired.services;
        let is_declared = |service: &str| {
            let want = ServiceId::parse(service).ok().and_then(|service| services.get(&service));
            want.is_some_and(|want| want.presence == Presence::Present)
        };
        for news in self.told_holds.update(held, is_declared) {
            match &news {
                HoldNews::Begun { hold, .. } if hold.passes() => {
                    tracing::info!(target: TARGET, code = hold.code, "{}", news.sentence());
                }
                HoldNews::Begun { hold, .. } => {
                    tracing::warn!(target: TARGET, code = hold.code, "{}", news.sentence());
                }
                HoldNews::Over { .. } => tracing::info!(target: TARGET, "{}", news.sentence()),
            }
        }
    }

    /// The longest time until the plan of the last pass may be another.
    pub(super) fn time_to_wake(&mut self) -> Duration {
        if self.acted {
            return Duration::ZERO;
        }
        let now = self.host.now();
        let between = self.between_full_passes();
        let until_due = |last: &Stamp| now.left_of(last, between, Clock::Awake).unwrap_or_default();
        let resync = self.last_resync.as_ref().map_or(Duration::ZERO, until_due);
        if self.is_being_written() {
            self.dirty.get_or_insert(Dirty::Everything);
            return SOON;
        }
        // Counted from the pass that planned it: waiting may have been broken off since.
        let elapsed = self.last_pass.as_ref().map_or(Duration::ZERO, |(at, _)| now.since(at, Clock::Awake));
        let planned = self.last_plan.wake_in.unwrap_or(LONGEST_WAIT).saturating_sub(elapsed);
        let waiting = self.waiting_deadline(&now).unwrap_or(LONGEST_WAIT);
        let disk = self.disk.left(&now).unwrap_or(LONGEST_WAIT);
        let ports = self.port_gates_deadline(&now).unwrap_or(LONGEST_WAIT);
        let secrets = self.secrets_deadline(&now).unwrap_or(LONGEST_WAIT);
        planned.min(secrets).min(resync).min(waiting).min(disk).min(ports).min(LONGEST_WAIT)
    }

    /// A manifest is being written at this moment; without a watcher nobody tells when that is over.
    pub(super) fn is_being_written(&self) -> bool {
        !self.settings.watching
            && self.manifests.files.iter().any(|file| file.problems.iter().any(|p| p.code == BEING_WRITTEN))
    }

    /// Waits for events, takes them in, makes a pass. Cancel safe up to the moment that events arrive.
    pub async fn turn(&mut self) {
        let at_most = self.time_to_wake();
        let events = self.host.wait(Some(at_most)).await;
        self.take_in(events);
        self.pass();
    }

    /// Takes in events without a pass: for who waits on other things beside the host. What they tell is found out
    /// again by whoever follows a reconciler that died over them, so it is one write.
    pub fn take_in(&mut self, events: Vec<Event>) {
        self.memory.gather();
        for event in events {
            self.absorb(event);
        }
        // The reason stays visible as `ledger-unwritable` until a later write succeeds.
        let _ = self.memory.flush(&mut self.host);
    }

    /// What could not be looked at for want of descriptors is looked at again soon.
    fn between_full_passes(&self) -> Duration {
        let was_not_seen = |live: &Service| matches!(&live.seen, Seen::Unverifiable(why) if why.passes());
        let between = self.settings.config.resync();
        if self.observed.services.values().any(was_not_seen) { between.min(LOOK_AGAIN) } else { between }
    }

    /// Says whether everything is to be looked at, and if so begins with the manifests.
    fn full_pass_is_due(&mut self) -> bool {
        let now = self.host.now();
        let between = self.between_full_passes();
        let left = self.last_resync.as_ref().map(|last| now.left_of(last, between, Clock::Awake));
        let due = left.flatten().is_none();
        if due {
            self.last_resync = Some(now);
            self.dirty = Some(Dirty::Everything);
        }
        due
    }

    /// Observes every claim, and compares what runs with the policy.
    fn look_at_the_machine(&mut self) {
        self.observe_everything();
        self.refresh_observed();
        self.look_at_all_ports();
        // How large logs may be, and what may run, the configuration says.
        if self.without_policy.is_none() {
            self.compare_executables();
            if !self.hands_off {
                self.put_all_limits();
            }
            let logs = &self.settings.config.logs;
            self.host.tend_logs(logs.max_size(), logs.keep());
        }
        // A ledger that could not be written gets another chance; `unwritable` keeps the reason.
        if self.memory.flush(&mut self.host).is_ok() {
            let claims = self.claims();
            self.host.trim_journals(&claims);
        }
    }

    /// Where an intent cannot be written nothing can be started, so nothing is stopped to be started again.
    fn close_gates_if_unwritable(&mut self) {
        let Some(message) = self.memory.unwritable() else { return };
        for want in self.desired.services.values_mut() {
            want.gate.get_or_insert_with(|| Reason::LedgerUnwritable { detail: message.to_owned() });
        }
        // Looked at anew soon: the gates are worked out again with the manifests.
        self.dirty.get_or_insert(Dirty::Everything);
    }

    /// A removal that was confirmed by name is confirmed once: declared again, the service has its guards back.
    fn forget_confirmed_prunes(&mut self) {
        let services = &self.desired.services;
        self.desired.prune.named.retain(|service| {
            services.get(service).is_some_and(|want| matches!(want.presence, Presence::Absent { .. }))
        });
    }
}

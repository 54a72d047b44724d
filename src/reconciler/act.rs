//! Carries a plan out: a `match` over actions. Choices belong in `plan`.

use super::Reconciler;
use super::sightings::claim;
use super::start::Prepared;
use super::status::StepReport;
use crate::host::{Host, JobOutcome, JobPurpose, JobRequest};
use crate::identity::{Nonce, ServiceId};
use crate::manifest::{PortBlocks, SignalName, SignalTo};
use crate::plan::{Accepted, Action, Flight, Plan, ReloadTry, Seen, Step};
use crate::policy::Purpose;
use crate::state::{Contents, ExitStatus, Reason, Record, Run};
use crate::time::human;

/// How a step went, in the report of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// Begun; how it ends is an event.
    Begun,
    /// A gate is closed.
    Pending,
    Failed,
    /// Nothing was to be done.
    None,
}

impl Outcome {
    pub(super) fn as_str(self) -> Option<String> {
        match self {
            Self::Done => Some("done".to_owned()),
            Self::Begun => Some("begun".to_owned()),
            Self::Pending => Some("pending".to_owned()),
            Self::Failed => Some("failed".to_owned()),
            Self::None => None,
        }
    }
}

/// The drift of a run that was to take up files and did not.
const RELOAD_FAILED: &str = "reload-failed";

/// What is not there now, or cannot be read, was taken up as it is known.
fn taken_up(service: &ServiceId, run: &Run, now: &Contents) -> Record {
    let mut files = run.files.as_deref().cloned().unwrap_or_default();
    for (pattern, now) in now {
        files.reload.entry(pattern.clone()).or_default().extend(now.clone());
    }
    Record::Files { service: service.clone(), nonce: run.nonce.clone(), files }
}

impl<H: Host> Reconciler<H> {
    pub(super) fn act(&mut self, plan: &Plan) -> Vec<StepReport> {
        if !plan.notes.is_empty() {
            self.memory.note(&mut self.host, plan.notes.clone());
        }
        for service in &plan.probes {
            self.probe(service);
        }
        let mut reports = Vec::with_capacity(plan.steps.len());
        let mut starts = Vec::new();
        for step in &plan.steps {
            let outcome = match step.action {
                Action::Start => {
                    starts.push(step);
                    continue;
                }
                Action::Stop | Action::Restart => self.begin_stop(step),
                Action::Signal => self.send_stop_signal(&step.service),
                Action::Kill => self.kill(&step.service),
                Action::Adopt => self.adopt(step),
                Action::Update => self.update(&step.service),
                Action::Reload => self.reload(&step.service),
                Action::Forget => self.forget(&step.service),
                Action::Hold | Action::Reject => Outcome::None,
            };
            reports.push(self.report_step(step, outcome));
        }
        let outcomes = self.start_all(&starts);
        reports.extend(starts.iter().zip(outcomes).map(|(step, outcome)| self.report_step(step, outcome)));
        reports
    }

    pub(super) fn report_step(&self, step: &Step, outcome: Outcome) -> StepReport {
        if outcome != Outcome::None {
            let (action, service) = (step.action, &step.service);
            tracing::info!(%service, ?action, reason = step.reason.code(), "{}", self.step_message(step));
        }
        StepReport { outcome: outcome.as_str(), ..self.preview_step(step) }
    }

    fn begin_stop(&mut self, step: &Step) -> Outcome {
        let now = self.host.now();
        let Some(run) = self.memory.ledger().entry(&step.service).and_then(|entry| entry.run.as_ref()) else {
            return Outcome::Done;
        };
        let nonce = run.nonce.clone();
        if run.stopping.is_none() {
            let record = Record::Stopping {
                service: step.service.clone(),
                nonce: nonce.clone(),
                why: step.reason.clone(),
                at: now.clone(),
            };
            // A start is to follow, and cannot where the disk is full: then nothing is stopped for it.
            if step.action == Action::Restart {
                if self.memory.promise(&mut self.host, std::slice::from_ref(&record)).is_err() {
                    return Outcome::Pending;
                }
            } else {
                self.memory.note(&mut self.host, vec![record]);
            }
        }
        let leader_lives =
            self.observed.services.get(&step.service).is_some_and(|live| live.seen == Seen::Alive);
        if leader_lives && let Some((request, grace)) = self.stop_command(&step.service) {
            self.host.run_job(JobRequest {
                purpose: JobPurpose::Stop,
                of: nonce,
                spawn: request,
                timeout: grace,
            });
            self.service_mut(&step.service).flight = Flight::StopCommand { since: now };
            return Outcome::Begun;
        }
        self.send_stop_signal(&step.service)
    }

    /// Sends the declared signal; the grace period begins.
    pub(super) fn send_stop_signal(&mut self, service: &ServiceId) -> Outcome {
        let (signal, to) =
            self.spec_in_force(service).map_or((SignalName(libc::SIGTERM), SignalTo::Group), |accepted| {
                (accepted.spec.stop.signal, accepted.spec.stop.signal_to)
            });
        let Some(run) = self.memory.ledger().entry(service).and_then(|entry| entry.run.as_ref()) else {
            return Outcome::Done;
        };
        let claim = claim(service, run);
        self.host.signal(&claim, signal.0, to);
        let since = self.host.now();
        self.service_mut(service).flight = Flight::Signalled { since };
        Outcome::Begun
    }

    /// The stop goes on with what the leader has left outside of its group; the grace period does, too.
    pub(super) fn signal_the_rest(&mut self, service: &ServiceId) {
        let signal =
            self.spec_in_force(service).map_or(libc::SIGTERM, |accepted| accepted.spec.stop.signal.0);
        if let Some(run) = self.memory.ledger().entry(service).and_then(|entry| entry.run.as_ref()) {
            let claim = claim(service, run);
            self.host.signal(&claim, signal, SignalTo::Group);
        }
    }

    fn kill(&mut self, service: &ServiceId) -> Outcome {
        let Some(run) = self.memory.ledger().entry(service).and_then(|entry| entry.run.as_ref()) else {
            return Outcome::Done;
        };
        let claim = claim(service, run);
        self.host.kill(&claim);
        let since = self.host.now();
        // The flight of a spawn that is killed goes on until the keeper says what came of it.
        self.service_mut(service).flight = Flight::Killed { since };
        Outcome::Begun
    }

    /// Attaches: the host watches it since it was observed, and no line is written for it.
    fn adopt(&mut self, step: &Step) -> Outcome {
        self.service_mut(&step.service).attached = true;
        Outcome::Done
    }

    fn update(&mut self, service: &ServiceId) -> Outcome {
        let Some(digest) = self.accepted(service).map(|accepted| accepted.digest.clone()) else {
            return Outcome::Done;
        };
        let Some(run) = self.memory.ledger().entry(service).and_then(|entry| entry.run.as_ref()) else {
            return Outcome::Done;
        };
        let record = Record::Updated { service: service.clone(), nonce: run.nonce.clone(), digest };
        // Put first, then written down: after a death of ours between the two they are put twice.
        if self.live_changes(service, "limits") {
            self.put_limits(service);
        }
        if self.live_changes(service, "reload") {
            // What has failed before may be mended by that.
            let tried = &mut self.service_mut(service).reload;
            *tried = ReloadTry { in_flight: tried.in_flight, ..ReloadTry::default() };
            self.hide_drift(service, RELOAD_FAILED);
        }
        self.memory.note(&mut self.host, vec![record]);
        Outcome::Done
    }

    fn live_changes(&self, service: &ServiceId, section: &str) -> bool {
        let changed = self.observed.services.get(service).map(|live| live.live_changed.as_slice());
        let is_of = |field: &String| field.split('.').next() == Some(section);
        changed.unwrap_or_default().iter().any(is_of)
    }

    /// Told first, then written down: after a death of ours between the two it is told twice, and never not at all.
    fn reload(&mut self, service: &ServiceId) -> Outcome {
        let Some(accepted) = self.spec_in_force(service) else { return Outcome::Done };
        let now = self.desired.services.get(service).and_then(|want| want.files.clone());
        if accepted.spec.reload.command.is_some() {
            return self.run_reload_command(&accepted, now.map(|now| now.reload.clone()).unwrap_or_default());
        }
        let run = self.memory.ledger().entry(service).and_then(|entry| entry.run.as_ref());
        let (Some(run), Some(now)) = (run, now) else { return Outcome::Done };
        let record = taken_up(service, run, &now.reload);
        let claim = claim(service, run);
        self.host.signal(&claim, accepted.spec.reload.signal.0, SignalTo::Leader);
        self.memory.note(&mut self.host, vec![record]);
        Outcome::Done
    }

    /// Written down once the command has done it; one that fails is tried again when the plan says so.
    fn run_reload_command(&mut self, accepted: &Accepted, now: Contents) -> Outcome {
        let spec = &accepted.spec;
        let Some(of) =
            self.memory.ledger().entry(&spec.id).and_then(|entry| Some(entry.run.as_ref()?.nonce.clone()))
        else {
            return Outcome::Done;
        };
        let rendered = self.render(spec);
        let Some(argv) = rendered.reload_command.as_deref() else { return Outcome::Done };
        let tried = &mut self.service_mut(&spec.id).reload;
        if tried.tried != now {
            *tried = ReloadTry { tried: now, ..ReloadTry::default() };
        }
        match self.job_request(spec, &rendered, Purpose::Reload, argv) {
            Ok(spawn) => {
                self.service_mut(&spec.id).reload.in_flight = true;
                let timeout = spec.reload.timeout;
                self.host.run_job(JobRequest { purpose: JobPurpose::Reload, of, spawn, timeout });
                Outcome::Begun
            }
            Err(reason) => {
                self.reload_failed(&spec.id, &reason.message());
                Outcome::Failed
            }
        }
    }

    pub(super) fn reload_done(&mut self, service: &ServiceId, of: &Nonce, outcome: &JobOutcome) {
        let Some(run) = self.run(service, of).cloned() else { return };
        let timeout = self.accepted(service).map(|accepted| accepted.spec.reload.timeout).unwrap_or_default();
        let now = self.host.now();
        let tried = &mut self.service_mut(service).reload;
        tried.in_flight = false;
        let why = match outcome {
            JobOutcome::Exit { status: ExitStatus::Code(0), .. } => {
                let tried = std::mem::take(tried).tried;
                self.memory.note(&mut self.host, vec![taken_up(service, &run, &tried)]);
                return self.hide_drift(service, RELOAD_FAILED);
            }
            JobOutcome::Exit { status, .. } => format!("it ended with {status}"),
            JobOutcome::TimedOut => format!("it was not done within {}", human(timeout)),
            JobOutcome::NotStarted(failure) => failure.message.clone(),
            // With the service, or with the keeper: it is begun anew, after a wait, and does not count.
            JobOutcome::Cancelled => {
                tried.failures = tried.failures.max(1);
                tried.failed_at = Some(now);
                return;
            }
        };
        self.reload_failed(service, &why);
    }

    fn reload_failed(&mut self, service: &ServiceId, why: &str) {
        let now = self.host.now();
        let tried = &mut self.service_mut(service).reload;
        tried.failures += 1;
        tried.failed_at = Some(now);
        let message = format!("it has not taken up its files, for its reload command failed: {why}");
        self.show_drift(service, RELOAD_FAILED, &message);
    }

    fn forget(&mut self, service: &ServiceId) -> Outcome {
        self.memory.note(&mut self.host, vec![Record::Forgotten { service: service.clone() }]);
        self.desired.services.remove(service);
        self.desired.prune.named.remove(service);
        self.drift.remove(service);
        // Its file may be of no use to anybody now; that is found out by the next look.
        self.dirty.get_or_insert(crate::host::Dirty::Paths(Vec::new()));
        Outcome::Done
    }

    fn start_all(&mut self, steps: &[&Step]) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::Begun; steps.len()];
        let mut prepared: Vec<(usize, Prepared)> = Vec::new();
        let mut ports = self.give_ports(steps);
        for (index, step) in steps.iter().enumerate() {
            let given = ports.remove(&step.service).unwrap_or_else(|| Ok(PortBlocks::new()));
            match given.and_then(|given| self.prepare_start(step, given)) {
                Ok(start) => prepared.push((index, start)),
                Err(gate) => {
                    self.close_gate(&step.service, gate);
                    outcomes[index] = Outcome::Pending;
                }
            }
        }
        let intents: Vec<Record> = prepared.iter().map(|(_, start)| start.intent.clone()).collect();
        if !intents.is_empty() && self.memory.promise(&mut self.host, &intents).is_err() {
            let message = self.memory.unwritable().unwrap_or_default().to_owned();
            for (index, start) in prepared {
                let gate = Reason::LedgerUnwritable { detail: message.clone() };
                self.close_gate(&start.request.service, gate);
                outcomes[index] = Outcome::Failed;
            }
            return outcomes;
        }
        for (_, start) in prepared {
            let nonce = start.request.nonce.clone();
            if let Some(want) = self.desired.services.get_mut(&start.request.service) {
                want.retry = false;
            }
            self.service_mut(&start.request.service).flight = Flight::Spawning { nonce };
            self.host.spawn(start.request);
        }
        outcomes
    }

    /// A start that cannot be now; looked at again when files change, and at the next full pass.
    pub(super) fn close_gate(&mut self, service: &ServiceId, gate: Reason) {
        if let Some(want) = self.desired.services.get_mut(service) {
            want.gate = Some(gate);
        }
    }
}

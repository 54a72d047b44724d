//! What the host reports, taken into the observed state and the ledger.
//!
//! Events are hints that arrive early; `observe_everything` finds out the same from the machine, so a lost
//! one costs time and never correctness.

use super::Reconciler;
use super::status::Drift;
use crate::host::probe::{self, ProbeError};
use crate::host::{CgroupLimits, Dirty, Event, Host, JobOutcome, JobPurpose, LogTrouble};
use crate::identity::{Nonce, ProcessIdentity, ServiceId};
use crate::manifest::HealthCheck;
use crate::plan::{self, Flight, Health, Remains, Seen};
use crate::state::{Containment, End, ExitStatus, Reason, Record, Run, Said, SpawnFailure, SpawnStage};
use crate::time::Stamp;

impl<H: Host> Reconciler<H> {
    pub(super) fn absorb(&mut self, event: Event) {
        match event {
            Event::Changed(dirty) => self.mark_dirty(dirty),
            Event::Spawned { service, nonce, process, containment } => {
                self.spawned(&service, &nonce, process, containment);
            }
            Event::SpawnFailed { service, nonce, failure } => self.spawn_failed(&service, &nonce, failure),
            Event::Exited { nonce, status, others } => {
                if let Some(service) = self.service_of(&nonce) {
                    let at = self.host.now();
                    self.leader_ended(&service, &nonce, Ended { status, at, others, other_boot: false });
                }
            }
            Event::Gone { nonce } => self.gone(&nonce),
            Event::Unkillable { nonce, pids } => {
                self.unkillable(&nonce, pids);
            }
            Event::Probed { service, nonce, result } => self.probed(&service, &nonce, result),
            Event::JobDone { purpose, service, of, outcome } => {
                self.job_done(purpose, &service, &of, &outcome);
            }
            Event::Said { nonce, said } => self.said(&nonce, said),
            Event::LogTroubled { service, trouble } => self.log_troubled(&service, trouble),
            Event::HolderEnded { process } => self.holder_ended(process),
            Event::Connected { key } => self.connected(&key),
            Event::SocketHeld { key } => self.socket_held(&key),
            // Who needs it opens it anew in the pass that follows.
            Event::SocketLost { .. } => {}
            Event::SocketNotHeld { key, why } => self.socket_not_held(&key, why),
            Event::KeeperLost => {
                self.forget_flights();
                self.forget_opening_sockets();
                self.forget_attended();
                self.observe_everything();
            }
        }
    }

    pub(super) fn mark_dirty(&mut self, dirty: Dirty) {
        self.dirty = Some(match (self.dirty.take(), dirty) {
            (None, dirty) => dirty,
            (Some(Dirty::Paths(mut before)), Dirty::Paths(more)) => {
                before.extend(more);
                Dirty::Paths(before)
            }
            (Some(Dirty::Everything), _) | (_, Dirty::Everything) => Dirty::Everything,
        });
    }

    pub(super) fn note_born(
        &mut self,
        service: &ServiceId,
        nonce: &Nonce,
        born: Option<(ProcessIdentity, Containment)>,
    ) {
        let Some((process, containment)) = born else { return };
        let at = self.run(service, nonce).map_or_else(|| self.host.now(), |run| run.intent_at.clone());
        let record =
            Record::Started { service: service.clone(), nonce: nonce.clone(), process, containment, at };
        self.memory.note(&mut self.host, vec![record]);
    }

    fn spawned(
        &mut self,
        service: &ServiceId,
        nonce: &Nonce,
        process: ProcessIdentity,
        containment: Containment,
    ) {
        if self.run(service, nonce).is_none() {
            return;
        }
        tracing::info!(%service, pid = process.pid.get(), "started");
        let at = self.host.now();
        let record =
            Record::Started { service: service.clone(), nonce: nonce.clone(), process, containment, at };
        self.memory.note(&mut self.host, vec![record]);
        let live = self.service_mut(service);
        live.seen = Seen::Alive;
        live.flight = Flight::None;
        live.health = Health::default();
        live.usage.waiting = false;
        live.attached = true;
        let has_limits = |accepted: &plan::Accepted| !CgroupLimits::from(&accepted.spec.limits).is_empty();
        if self.accepted(service).is_some_and(|accepted| has_limits(&accepted)) {
            self.put_limits(service);
        }
    }

    pub(super) fn spawn_failed(&mut self, service: &ServiceId, nonce: &Nonce, failure: SpawnFailure) {
        if self.run(service, nonce).is_none() {
            return;
        }
        tracing::warn!(%service, stage = ?failure.stage, "not started: {}", failure.message);
        let at = self.host.now();
        let record = Record::SpawnFailed { service: service.clone(), nonce: nonce.clone(), failure, at };
        self.memory.note(&mut self.host, vec![record]);
        self.clear_run(service);
        // Who has connected is told, and does not wait for the next try.
        self.service_mut(service).usage.waiting = false;
    }

    /// Of one that left nothing behind, its end and that it is gone are one write.
    pub(super) fn leader_ended(&mut self, service: &ServiceId, nonce: &Nonce, ended: Ended) {
        let Some(run) = self.run(service, nonce) else { return };
        let mut records = Vec::new();
        if run.end.is_none() {
            let end = ended.as_end(run);
            let spec_of = self.spec_in_force(service);
            let entry = self.memory.ledger().entry(service).expect("its run was found there");
            let spec = spec_of.as_ref().map(|accepted| &accepted.spec);
            let remains = if ended.others { Remains::Others } else { Remains::Nothing };
            let counted = plan::failures_after(entry, spec, &end, remains, &ended.at);
            let failures = match spec.is_some_and(|spec| self.misses_a_dependency(spec)) {
                true => counted.min(plan::failures_now(entry, spec, &ended.at)),
                false => counted,
            };
            tracing::info!(%service, ?end, failures, "ended");
            records.push(Record::Exited {
                service: service.clone(),
                nonce: nonce.clone(),
                end,
                failures,
                at: ended.at,
            });
        }
        if !ended.others {
            records.push(Record::Gone { service: service.clone(), nonce: nonce.clone() });
        }
        self.memory.note(&mut self.host, records);
        if !ended.others {
            return self.clear_run(service);
        }
        let live = self.service_mut(service);
        live.health.in_flight = false;
        live.seen = Seen::Leftovers;
        if matches!(live.flight, Flight::Signalled { .. }) {
            self.signal_the_rest(service);
        }
    }

    fn gone(&mut self, nonce: &Nonce) {
        let Some(service) = self.service_of(nonce) else { return };
        let at = self.host.now();
        let ended = Ended { status: None, at, others: false, other_boot: false };
        self.leader_ended(&service, nonce, ended);
    }

    /// Shown until the run ends: what is missing from its log is missing for good.
    fn log_troubled(&mut self, service: &ServiceId, trouble: LogTrouble) {
        let (code, message) = match trouble {
            LogTrouble::Truncated => (
                "log-truncated",
                "it truncates its own log, and lines are lost; let it append to its output, which is rotated for it",
            ),
            LogTrouble::NotRotated => (
                "log-not-rotated",
                "its log has outgrown its size and cannot be rotated: the disk is full, it is being read all the time, \
                 or its file system can neither collapse nor punch files (`reconcile doctor` tells)",
            ),
        };
        self.show_drift(service, code, message);
    }

    /// Says it once for a run, and shows what is newest.
    pub(super) fn show_drift(&mut self, service: &ServiceId, code: &str, message: &str) {
        let is_running = self.memory.ledger().entry(service).is_some_and(|entry| entry.run.is_some());
        if !is_running {
            return;
        }
        let shown = self.drift.entry(service.clone()).or_default();
        match shown.iter_mut().find(|drift| drift.code == code) {
            Some(drift) => message.clone_into(&mut drift.message),
            None => {
                tracing::warn!(%service, code, "{message}");
                shown.push(Drift { code: code.to_owned(), message: message.to_owned() });
            }
        }
    }

    pub(super) fn hide_drift(&mut self, service: &ServiceId, code: &str) {
        if let Some(drifts) = self.drift.get_mut(service) {
            drifts.retain(|drift| drift.code != code);
            if drifts.is_empty() {
                self.drift.remove(service);
            }
        }
    }

    pub(super) fn clear_run(&mut self, service: &ServiceId) {
        self.drift.remove(service);
        self.port_gates.look_now();
        let live = self.service_mut(service);
        live.seen = Seen::None;
        live.flight = Flight::None;
        live.health = Health::default();
        live.reload = plan::ReloadTry::default();
        live.attached = false;
    }

    fn probed(&mut self, service: &ServiceId, nonce: &Nonce, result: Result<(), ProbeError>) {
        if self.run(service, nonce).is_none() {
            return;
        }
        let verdict = match result {
            Ok(()) => Ok(()),
            Err(ProbeError::Failed(why)) => Err(why),
            Err(ProbeError::NotMade(why)) => return self.probe_not_made(service, nonce, &why),
        };
        self.hide_drift(service, CHECK_NOT_MADE);
        // An answer on a port of somebody else is not its own.
        self.look_whose_ports(service);
        let now = self.host.now();
        let health = &mut self.service_mut(service).health;
        match health.foreign.as_ref().map(Reason::message) {
            Some(foreign) => plan::fold(health, &Err(foreign), &now),
            None => plan::fold(health, &verdict, &now),
        }
    }

    /// Told when it is news, and when it was asked for.
    fn said(&mut self, nonce: &Nonce, said: Option<Box<Said>>) {
        let Some(service) = self.service_of(nonce) else { return };
        let Some(said) = said else {
            return self.probe_not_made(&service, nonce, "the keeper does not hold it");
        };
        let Some(accepted) = self.spec_in_force(&service) else { return };
        self.hide_drift(&service, CHECK_NOT_MADE);
        self.look_whose_ports(&service);
        let now = self.host.now();
        let Some(run) = self.run(&service, nonce).cloned() else { return };
        let health = &mut self.service_mut(&service).health;
        plan::hear(health, *said, &accepted.spec, &run, &now);
    }

    /// Whose health nobody knows is not stopped for it. Said until there is a verdict again.
    pub(super) fn probe_not_made(&mut self, service: &ServiceId, of: &Nonce, why: &str) {
        self.probe_cancelled(service, of);
        let message = format!("its check cannot be made, which counts neither for nor against it: {why}");
        self.show_drift(service, CHECK_NOT_MADE, &message);
    }

    /// No verdict; the next probe is due after an interval, or one that is always cancelled would never rest.
    fn probe_cancelled(&mut self, service: &ServiceId, of: &Nonce) {
        if self.run(service, of).is_none() {
            return;
        }
        let now = self.host.now();
        let health = &mut self.service_mut(service).health;
        health.in_flight = false;
        health.last_probe = Some(now);
    }

    fn job_done(&mut self, purpose: JobPurpose, service: &ServiceId, of: &Nonce, outcome: &JobOutcome) {
        match purpose {
            JobPurpose::Health if *outcome == JobOutcome::Cancelled => self.probe_cancelled(service, of),
            JobPurpose::Health => {
                let expect =
                    self.accepted(service).and_then(|accepted| match &accepted.spec.health.as_ref()?.check {
                        HealthCheck::Command { expect_regex, .. } => expect_regex.clone(),
                        _ => None,
                    });
                let result = probe::judge_command(outcome, expect.as_deref());
                self.probed(service, of, result);
            }
            JobPurpose::Reload => self.reload_done(service, of, outcome),
            JobPurpose::Secret => self.secret_command_done(of, outcome),
            JobPurpose::Stop => {
                if let JobOutcome::NotStarted(failure) = outcome {
                    tracing::warn!(%service, "the stop command was not started: {}", failure.message);
                }
                let waits = self
                    .observed
                    .services
                    .get(service)
                    .is_some_and(|live| matches!(live.flight, Flight::StopCommand { .. }));
                if waits && self.run(service, of).is_some() {
                    self.send_stop_signal(service);
                }
            }
        }
    }

    pub(super) fn run(&self, service: &ServiceId, nonce: &Nonce) -> Option<&Run> {
        self.memory.ledger().entry(service)?.run.as_ref().filter(|run| run.nonce == *nonce)
    }

    pub(super) fn service_mut(&mut self, service: &ServiceId) -> &mut plan::Service {
        self.observed.services.entry(service.clone()).or_default()
    }

    pub(super) fn service_of(&self, nonce: &Nonce) -> Option<ServiceId> {
        self.memory.service_of(nonce).cloned()
    }
}

/// The drift of a run whose health cannot be asked for.
const CHECK_NOT_MADE: &str = "check-not-made";

/// A spawn that a death of ours cut off before anything was executed.
pub(super) fn interrupted() -> SpawnFailure {
    SpawnFailure {
        stage: SpawnStage::Epoch,
        errno: 0,
        message: "its last start was interrupted before anything was executed".to_owned(),
    }
}

/// The end of a leader, however it was learnt.
pub(super) struct Ended {
    pub status: Option<ExitStatus>,
    pub at: Stamp,
    pub others: bool,
    pub other_boot: bool,
}

impl Ended {
    fn as_end(&self, run: &Run) -> End {
        match (self.other_boot, &run.stopping, self.status) {
            (true, _, _) => End::OtherBoot,
            (false, Some(_), status) => End::Ours { status },
            (false, None, Some(status)) => End::Exit { status },
            (false, None, None) => End::Unknown,
        }
    }
}

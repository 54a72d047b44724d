//! Rows 7 to 10 of the table in `decide`: a process that is wanted and alive.
//!
//! Pure. A process is only ended for a restart if a start may follow: a manifest that asks for a program which
//! is not installed does not stop the good service that runs.

use std::time::Duration;

use super::case::Case;
use super::demand::{self, Idle};
use super::dependencies::Before;
use super::files::{self, Turn};
use super::health::{self, Probe, Standing};
use super::input::{Accepted, Flight, Presence, Seen, Service};
use super::output::{Action, Phase, PhaseView};
use super::phase;
use super::restart;
use super::verdict::Verdict;
use crate::identity::ServiceId;
use crate::manifest::Spec;
use crate::state::{LOST_FINGERPRINT, Reason, Record, Request, Run};
use crate::time::{Clock, Stamp};

pub(super) fn alive(case: &Case<'_>, run: &Run) -> Verdict {
    let health = &case.service.health;
    let spec = case.spec_in_force();
    let standing = health::standing(run, spec, health, case.now);
    let bad = || health::complaint(&standing, health).filter(|_| health::restarts_when_bad(spec));
    let anew = || case.needs.started_anew(run);
    let is_starting = matches!(standing, Standing::Starting { .. });
    let idle = spec.map_or(Idle::No, |spec| demand::idle(case, run, spec, is_starting));
    let rests_in = match idle {
        Idle::Over(why) => return Verdict::with_step(Action::Stop, Phase::Stopping, why),
        Idle::In(left) => Some(left),
        Idle::No => None,
    };
    let (file, wait) = other_files(case, run);
    let wanted =
        restart_wanted(case, run).or(file).or_else(|| replaced(case, run)).or_else(bad).or_else(anew);
    let verdict = match (wanted, &case.want.accepted) {
        (Some(why), Some(_)) => match gate_of_restart(case) {
            None => Verdict::with_step(Action::Restart, Phase::Stopping, why),
            Some((gate, wake)) => {
                supervised(case, run, spec, &standing).hold_if_unchanged(&gate).wake_if(wake)
            }
        },
        (Some(_), None) => match &case.want.gate {
            Some(gate) => supervised(case, run, spec, &standing).hold_if_unchanged(gate),
            None => supervised(case, run, spec, &standing),
        },
        (None, _) => supervised(case, run, spec, &standing),
    };
    verdict.wake_if(rests_in).wake_if(wait)
}

/// Of one that lives and that nobody has begun to stop: how it stands, whatever a pass would do about it.
pub fn as_it_runs(service: &Service, accepted: Option<&Accepted>, now: &Stamp) -> Option<PhaseView> {
    let run = service.entry.run.as_ref().filter(|run| run.goes_on() && run.process.is_some())?;
    if service.seen != Seen::Alive || service.flight != Flight::None {
        return None;
    }
    let spec = service.running.as_deref().or(accepted).map(|accepted| &accepted.spec);
    Some(phase::of_alive(&health::standing(run, spec, &service.health, now), spec, &service.health))
}

/// Row 7, of files: after a restart for a file, at most one more a `backoff`, or a service that writes a file of its own at
/// its start would be restarted as fast as it can be. Else how long until it is due.
fn other_files(case: &Case<'_>, run: &Run) -> (Option<Reason>, Option<Duration>) {
    let Some(accepted) = &case.want.accepted else { return (None, None) };
    let Some(why) = files::changed(run.files.as_deref(), case.want) else { return (None, None) };
    let may_be_its_own = matches!(run.why, Reason::FileChanged { .. } | Reason::SecretChanged { .. });
    let backoff = accepted.spec.restart.backoff;
    match case.now.left_of(restart::started(run), backoff, Clock::Awake).filter(|_| may_be_its_own) {
        None => (Some(why), None),
        left => (None, left),
    }
}

fn replaced(case: &Case<'_>, run: &Run) -> Option<Reason> {
    (case.service.replaced.as_ref() == Some(&run.nonce) && case.want.accepted.is_some())
        .then_some(Reason::ExeChanged)
}

/// What the start after a restart would have to wait for, and when that may be over.
fn gate_of_restart(case: &Case<'_>) -> Option<(Reason, Option<Duration>)> {
    let gate = case.want.gate.clone().map(|gate| (gate, None));
    gate.or_else(|| case.needs.blocked(Before::Restart).map(|blocked| (blocked.reason, blocked.wake)))
}

/// Of one that is to be stopped, once these that depend on it have ended.
pub(super) fn until_dependents_end(case: &Case<'_>, run: &Run, dependents: Vec<ServiceId>) -> Verdict {
    let spec = case.spec_in_force();
    let standing = health::standing(run, spec, &case.service.health, case.now);
    let mut verdict = supervised(case, run, spec, &standing);
    let is_elsewhere = matches!(case.want.presence, Presence::OtherRoot { .. });
    verdict.step.take_if(|(action, _)| *action != Action::Adopt || is_elsewhere);
    verdict.view.reason = Reason::DependentsFirst { dependents };
    verdict.wake_if(case.expires_in())
}

/// Row 7, of what is asked for and declared.
fn restart_wanted(case: &Case<'_>, run: &Run) -> Option<Reason> {
    if case.service.entry.request == Some(Request::Restart) {
        return Some(Reason::Requested { request: "restart".to_owned() });
    }
    let accepted = case.want.accepted.as_ref()?;
    let changed = &case.service.changed;
    needs_restart(&run.fingerprint, accepted, changed)
        .then(|| Reason::SpecChanged { fields: changed.clone() })
}

/// True if what was started with this fingerprint differs from `accepted` in a field of class restart.
///
/// Fingerprints of two versions cannot be compared; then the fields count, and where the old text is gone
/// nothing is known to differ: an upgrade of ours restarts nothing.
pub(super) fn needs_restart(fingerprint: &str, accepted: &Accepted, changed: &[String]) -> bool {
    fn version(fingerprint: &str) -> Option<&str> {
        fingerprint.split_once(':').map(|(version, _)| version)
    }
    let same_version = version(fingerprint) == version(&accepted.fingerprint);
    fingerprint != accepted.fingerprint && (same_version || !changed.is_empty())
}

/// Rows 9 and 10, with what supervision brings: first readiness, probes, deadlines.
fn supervised(case: &Case<'_>, run: &Run, spec: Option<&Spec>, standing: &Standing) -> Verdict {
    let service = case.service;
    let mut verdict = Verdict::from(phase::of_alive(standing, spec, &service.health))
        .note_if(case.needs.beside(case.id, run))
        .note_if(files::unrecorded(case, &run.nonce, run.files.as_deref()));
    match standing {
        Standing::Starting { left } => verdict = verdict.wake_if(*left),
        Standing::Up if run.ready_at.is_none() && spec.is_some() => {
            let at = service.health.ready_since.as_ref().unwrap_or(case.now).clone();
            verdict = verdict.note(Record::Ready { service: case.id.clone(), nonce: run.nonce.clone(), at });
        }
        Standing::Up | Standing::Unhealthy | Standing::Late { .. } => {}
    }
    if let Some(check) = spec.and_then(|spec| spec.health.as_ref()) {
        verdict = match health::next_probe(check, run, &service.health, standing, case.now) {
            Probe::None => verdict,
            Probe::Due => verdict.probe(),
            Probe::In(left) => verdict.wake(left),
        };
    }
    if !service.live_changed.is_empty() && case.want.accepted.is_some() {
        return verdict.step(Action::Update, Reason::LiveChanged { fields: service.live_changed.clone() });
    }
    if run.fingerprint == LOST_FINGERPRINT && service.running.is_none() && case.want.accepted.is_some() {
        return verdict.step(Action::Update, Reason::TextLost);
    }
    match &run.process {
        Some(process) if !service.attached => {
            verdict.step(Action::Adopt, Reason::Adopted { pid: process.pid })
        }
        Some(_) | None => match files::to_be_taken_up(case, run) {
            // What is not up yet may not know the signal, and would be ended by it.
            Some(why) if *standing == Standing::Up => match files::turn_of_reload(case) {
                Turn::Now => verdict.step(Action::Reload, why),
                Turn::In(left) => verdict.wake(left),
                Turn::No => verdict,
            },
            Some(_) | None => verdict,
        },
    }
}

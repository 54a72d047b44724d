//! Rows 11 to 14 of the table in `decide`: a service that is wanted and of which nothing runs.
//!
//! Pure. Whatever row asks for a start, it passes the same gates: the delay before a removal, the gate that the
//! reconciler found closed, the dependencies, and the wait after a spawn that came to nothing.

use super::alive::needs_restart;
use super::case::Case;
use super::demand;
use super::dependencies::{Before, Blocked};
use super::files;
use super::input::Accepted;
use super::output::{Action, Phase};
use super::prune::Removal;
use super::restart::{Ruling, file_wait, rule, spawn_wait, was_interrupted};
use super::verdict::{LaterStep, Verdict};
use crate::state::{LastRun, Reason, Request};

pub(super) fn start_if_due(case: &Case<'_>, accepted: &Accepted) -> Verdict {
    let entry = &case.service.entry;
    if let Some(request) = requested(entry.request.as_ref()) {
        return through_gates(case, accepted, Reason::Requested { request: request.to_owned() });
    }
    if let Some(asleep) = demand::at_rest(case, accepted) {
        return asleep;
    }
    by_its_end(case, accepted).wake_if(demand::rests_in(case, accepted))
}

fn by_its_end(case: &Case<'_>, accepted: &Accepted) -> Verdict {
    let entry = &case.service.entry;
    if let Some(why) = entry.last.as_ref().and_then(|last| spec_changed(case, accepted, last)) {
        return through_gates(case, accepted, why);
    }
    if let Some((failure, _)) = entry.spawn_failure.as_deref() {
        let why = if was_interrupted(failure) {
            Reason::NeverBorn
        } else {
            Reason::SpawnRetry { failure: failure.clone() }
        };
        return through_gates(case, accepted, why);
    }
    match &entry.last {
        None => through_gates(case, accepted, Reason::New),
        Some(last) => after_an_end(case, accepted, last),
    }
}

/// Rows 12 to 14. Files are asked once a start may be: a change of them is no way past a backoff.
fn after_an_end(case: &Case<'_>, accepted: &Accepted, last: &LastRun) -> Verdict {
    let entry = &case.service.entry;
    let restart = &accepted.spec.restart;
    let changed = || files::changed(last.files.as_deref(), case.want);
    let rest = |verdict: Verdict| match (changed(), file_wait(entry, last, restart, case.now)) {
        (None, _) => verdict.note_if(files::unrecorded(case, &last.nonce, last.files.as_deref())),
        (Some(_), Some(left)) => verdict.wake(left),
        (Some(why), None) => through_gates(case, accepted, why),
    };
    match rule(entry, last, restart, case.now) {
        Ruling::Start(why) => through_gates(case, accepted, changed().unwrap_or(why)),
        Ruling::Wait { left, reason } => Verdict::of(Phase::Backoff, reason).wake(left),
        Ruling::Completed(reason) => rest(Verdict::of(Phase::Completed, reason)),
        Ruling::Failed(_) if case.service.parked_changed => {
            let fields = case.service.live_changed.clone();
            through_gates(case, accepted, Reason::SpecChanged { fields })
        }
        Ruling::Failed(reason) => rest(Verdict::of(Phase::Failed, reason)),
    }
}

fn requested(request: Option<&Request>) -> Option<&'static str> {
    match request? {
        Request::Start => Some("start"),
        Request::Restart => Some("restart"),
        Request::Reset => Some("reset"),
        // These act at once when they are written down, and are never left to be done.
        Request::Stop | Request::Renew | Request::Touch => None,
    }
}

/// Row 11. The fields are those of the stop that was made for this start, where the old text is gone since.
fn spec_changed(case: &Case<'_>, accepted: &Accepted, last: &LastRun) -> Option<Reason> {
    let changed = &case.service.changed;
    if !needs_restart(&last.fingerprint, accepted, changed) {
        return None;
    }
    match &last.stopped_why {
        Some(why @ Reason::SpecChanged { .. }) if changed.is_empty() => Some(why.clone()),
        Some(_) | None => Some(Reason::SpecChanged { fields: changed.clone() }),
    }
}

pub(super) fn through_gates(case: &Case<'_>, accepted: &Accepted, why: Reason) -> Verdict {
    if matches!(*case.removal, Removal::Waits { .. }) {
        return Verdict::of(Phase::Pending, Reason::PruneDelay);
    }
    if let Some(gate) = &case.want.gate {
        return Verdict::of(Phase::Pending, gate.clone());
    }
    if let Some(Blocked { reason, wake, after }) = case.needs.blocked(Before::Start) {
        let mut verdict = Verdict::of(Phase::Pending, reason).wake_if(wake);
        verdict.later =
            after.map(|(wave, after)| LaterStep { action: Action::Start, reason: why, wave, after });
        return verdict;
    }
    let entry = &case.service.entry;
    let at_once = case.want.retry || requested(entry.request.as_ref()).is_some();
    match (entry.spawn_failure.as_deref(), spawn_wait(case.id, entry, &accepted.spec.restart, case.now)) {
        (Some((failure, _)), Some(left)) if !at_once => {
            Verdict::of(Phase::Pending, Reason::ExecFailed { failure: failure.clone() }).wake(left)
        }
        (Some(_) | None, Some(_) | None) => Verdict::with_step(Action::Start, Phase::Starting, why),
    }
}

//! Services that run while they are used: what starts one, and when it has rested long enough.
//!
//! Pure. Such a service is *asleep* while it has no activation: one begins with a start for somebody's sake, and ends when
//! nobody has used it for `idle` or its last holder has let go of it, when it is done, and with the machine. In between it is supervised like any other, its
//! failures and backoff included.

use std::time::Duration;

use super::case::Case;
use super::input::{Accepted, Usage};
use super::leases::Leased;
use super::output::Phase;
use super::restart::{Ending, Ruling, ending_of, rule, started, was_interrupted};
use super::start::through_gates;
use super::verdict::Verdict;
use crate::manifest::{ActivateOn, Spec, StopPolicy};
use crate::state::{Entry, LastRun, Reason, Record, Release, Run};
use crate::time::{Clock, Stamp};

/// Of one of which nothing runs; `None`: it is not asleep, and goes by the rows of all others.
pub(super) fn at_rest(case: &Case<'_>, accepted: &Accepted) -> Option<Verdict> {
    let spec = &accepted.spec;
    if !spec.is_on_demand() {
        return None;
    }
    let entry = &case.service.entry;
    let on = spec.activates_on();
    if entry.activation.is_none() {
        return Some(asleep(case, accepted, on));
    }
    if case.is_held() {
        return None;
    }
    let last = entry.last.as_deref();
    let has_rested = match spec.when_unused() {
        StopPolicy::Manual => false,
        StopPolicy::OnRelease => let_go(case).is_some(),
        StopPolicy::Idle(idle) => left(case, idle, last.map(|last| &last.ended_at)).is_none(),
    };
    if has_rested || case.has_expired() || last.is_some_and(|last| is_done(case, accepted, last)) {
        let verdict = Verdict::of(Phase::Stopped, Reason::OnDemand { on });
        return Some(verdict.note(Record::Deactivated { service: case.id.clone() }));
    }
    None
}

/// While it is not as it should be: when it will have rested long enough.
pub(super) fn rests_in(case: &Case<'_>, accepted: &Accepted) -> Option<Duration> {
    let ended = case.service.entry.last.as_ref().map(|last| &last.ended_at);
    left(case, accepted.spec.idle().filter(|_| !case.is_held())?, ended)
}

fn asleep(case: &Case<'_>, accepted: &Accepted, on: ActivateOn) -> Verdict {
    let is_connected = case.service.usage.waiting && on != ActivateOn::Lease;
    if let Some(why) = case.held_by().or(is_connected.then_some(Reason::Connected)) {
        return through_gates(case, accepted, why);
    }
    // A socket that is not open is waited for by nobody.
    if let Some(gate) = case.want.gate.as_ref().filter(|gate| gate.is_about_a_socket()) {
        return Verdict::of(Phase::Pending, gate.clone());
    }
    match case.service.entry.spawn_failure.as_deref() {
        Some((failure, _)) if was_interrupted(failure) => through_gates(case, accepted, Reason::NeverBorn),
        Some((failure, _)) => Verdict::of(Phase::Pending, Reason::ExecFailed { failure: failure.clone() }),
        None => Verdict::of(Phase::Stopped, Reason::OnDemand { on }),
    }
}

/// Its last run asks for no other: a clean end, the machine's, or one that was made since nobody wanted it.
fn is_done(case: &Case<'_>, accepted: &Accepted, last: &LastRun) -> bool {
    let restart = &accepted.spec.restart;
    let was_let_go =
        matches!(&last.stopped_why, Some(why) if why.is_want_of_use() || *why == Reason::Shutdown);
    was_let_go
        || ending_of(last, restart) == Ending::OtherBoot
        || matches!(rule(&case.service.entry, last, restart, case.now), Ruling::Completed(_))
}

/// Of one that runs: why it is stopped, or when it will be. One that is let go of is not waited for until it is up.
pub(super) fn idle(case: &Case<'_>, run: &Run, spec: &Spec, is_starting: bool) -> Idle {
    let idle = match spec.when_unused() {
        StopPolicy::Manual => return Idle::No,
        StopPolicy::OnRelease | StopPolicy::Idle(_) if case.is_held() => return Idle::No,
        StopPolicy::OnRelease => return let_go(case).map_or(Idle::No, Idle::Over),
        StopPolicy::Idle(_) if is_starting => return Idle::No,
        StopPolicy::Idle(idle) => idle,
    };
    if case.service.usage.open || matches!(case.leased, Leased::Over(..)) {
        // By then it may be known when that was closed.
        return Idle::In(idle);
    }
    match left(case, idle, Some(run.ready_at.as_ref().unwrap_or(started(run)))) {
        Some(left) => Idle::In(left),
        None => Idle::Over(Reason::Idle { idle }),
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Idle {
    No,
    In(Duration),
    Over(Reason),
}

/// Of one that nobody holds: who held it in this activation, and has let go of it. What was started by hand, and never
/// held, is not let go of.
fn let_go(case: &Case<'_>) -> Option<Reason> {
    let entry = &case.service.entry;
    if let Leased::Over(holder, how) = case.leased {
        return Some(Reason::Released { holder: holder.to_string(), how });
    }
    let released = entry.released.as_deref();
    released
        .map(|Release { holder, how }| Reason::Released { holder: holder.clone(), how: *how })
        .or(entry.needed.then_some(Reason::NotNeeded))
}

/// Until nobody has used it for this long, counted from `since` at least.
fn left(case: &Case<'_>, idle: Duration, since: Option<&Stamp>) -> Option<Duration> {
    let Entry { used, .. } = &*case.service.entry;
    let Usage { last, .. } = &case.service.usage;
    let uses = [since, used.as_ref(), last.as_ref()];
    uses.into_iter().flatten().filter_map(|at| case.now.left_of(at, idle, Clock::Awake)).max()
}

/// True of a service that is up, or to be: what it depends on is needed.
pub(super) fn is_to_run(case: &Case<'_>) -> bool {
    let entry = &case.service.entry;
    let Some(accepted) = case.want.accepted.as_deref().filter(|_| case.unwanted().is_none()) else {
        return false;
    };
    if entry.run.is_some() || entry.request.is_some() {
        return true;
    }
    let is_asleep = accepted.spec.is_on_demand()
        && entry.activation.is_none()
        && !case.is_held()
        && !(case.service.usage.waiting && accepted.spec.activates_on() != ActivateOn::Lease);
    let ruling = entry.last.as_deref().map(|last| rule(entry, last, &accepted.spec.restart, case.now));
    !is_asleep && !matches!(ruling, Some(Ruling::Completed(_) | Ruling::Failed(_)))
}

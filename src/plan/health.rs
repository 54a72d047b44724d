//! What probes say about a run: ready, settled, unhealthy, too late; and when the next probe is due.
//!
//! Pure. Probe results are folded into [`Health`] by `reconciler` through [`fold`]; verdicts are for `decide`.
//! Times are on the clock that stands still during suspend: a laptop that wakes is not late.

use std::time::Duration;

use super::input::Health;
use super::restart::{jittered, started};
use crate::manifest::{Health as Check, OnUnhealthy, Spec};
use crate::state::{Reason, Run};
use crate::time::{Clock, Stamp};

/// The largest part of an interval that jitter adds to it, so that services started together do not probe
/// together for ever.
const MAX_JITTER: f64 = 0.1;

/// Folds the result of one probe in; `Err` is a sentence. `at` is when the result came.
pub fn fold(health: &mut Health, result: &Result<(), String>, at: &Stamp) {
    health.in_flight = false;
    health.last_probe = Some(at.clone());
    match result {
        Ok(()) => {
            health.failures = 0;
            health.last_error = None;
            health.ready_since.get_or_insert_with(|| at.clone());
        }
        Err(error) => {
            health.failures = health.failures.saturating_add(1);
            health.last_error = Some(error.clone());
            health.ready_since = None;
        }
    }
}

/// Until a port that somebody else has is looked at again: nobody tells when it is let go of.
const FOREIGN_AGAIN: Duration = Duration::from_secs(1);

/// How a live run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not yet ready or settled. `left` until it has settled, or until the start deadline.
    Starting {
        left: Option<Duration>,
    },
    Up,
    /// It was ready, and `retries` probes in a row have failed.
    Unhealthy,
    /// The start deadline is over.
    Late {
        timeout: Duration,
    },
}

/// Without a spec nothing is known against it: it is up.
pub(super) fn standing(run: &Run, spec: Option<&Spec>, health: &Health, now: &Stamp) -> Standing {
    let Some(spec) = spec else { return Standing::Up };
    let was_ready = run.ready_at.is_some() || health.ready_since.is_some();
    match &spec.health {
        None if was_ready => Standing::Up,
        None => match now.left_of(started(run), spec.start_settle, Clock::Awake) {
            Some(left) => Standing::Starting { left: Some(left) },
            None if health.foreign.is_some() => Standing::Starting { left: Some(FOREIGN_AGAIN) },
            None => Standing::Up,
        },
        Some(check) if was_ready && check.check.passes_for_good() => Standing::Up,
        Some(check) if was_ready && health.failures >= check.retries => Standing::Unhealthy,
        Some(_) if was_ready => Standing::Up,
        Some(check) => match now.left_of(started(run), check.start_timeout, Clock::Awake) {
            Some(left) => Standing::Starting { left: Some(left) },
            // The deadline may have passed while no reconciler was there to probe: one must have failed.
            None if health.failures == 0 => Standing::Starting { left: None },
            None => Standing::Late { timeout: check.start_timeout },
        },
    }
}

/// Why a run of this standing is bad, as the reason of the stop that may follow.
pub(super) fn complaint(standing: &Standing, health: &Health) -> Option<Reason> {
    match standing {
        Standing::Starting { .. } | Standing::Up => None,
        Standing::Unhealthy => {
            Some(Reason::Unhealthy { failures: health.failures, last_error: last_error(health) })
        }
        Standing::Late { timeout } => Some(too_late(*timeout, health)),
    }
}

pub(super) fn too_late(timeout: Duration, health: &Health) -> Reason {
    Reason::StartTimeout { timeout, last_error: last_error(health) }
}

pub(super) fn last_error(health: &Health) -> String {
    health.last_error.clone().unwrap_or_default()
}

/// True if a bad run is to be ended, not only reported.
pub(super) fn restarts_when_bad(spec: Option<&Spec>) -> bool {
    match spec.and_then(|spec| spec.health.as_ref()).map(|check| check.on_unhealthy) {
        Some(OnUnhealthy::Restart) => true,
        Some(OnUnhealthy::Report) | None => false,
    }
}

/// The next probe of a live run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// There is no check, or none that is still to be made, or a probe is in flight.
    None,
    Due,
    In(Duration),
}

/// The first probe is due at once, the next after `start_interval` until the run was ready or too late, then
/// after `interval`. A check that passes for good is made no more once the run was ready.
pub(super) fn next_probe(
    check: &Check,
    run: &Run,
    health: &Health,
    standing: &Standing,
    now: &Stamp,
) -> Probe {
    let has_passed = run.ready_at.is_some() || health.ready_since.is_some();
    if health.in_flight || (has_passed && check.check.passes_for_good()) {
        return Probe::None;
    }
    let Some(last_probe) = &health.last_probe else { return Probe::Due };
    let interval = match standing {
        _ if check.check.passes_for_good() => check.start_interval,
        Standing::Starting { .. } => check.start_interval,
        Standing::Up | Standing::Unhealthy | Standing::Late { .. } => check.interval,
    };
    let span = jittered(interval, MAX_JITTER, run.nonce.as_str());
    now.left_of(last_probe, span, Clock::Awake).map_or(Probe::Due, Probe::In)
}

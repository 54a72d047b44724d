//! What probes say about a run: ready, settled, unhealthy, too late; and when the next probe is due.
//!
//! Pure. Probe results are folded into [`Health`] by `reconciler` through [`fold`]; verdicts are for `decide`.
//! Times are on the clock that stands still during suspend: a laptop that wakes is not late.

use std::time::Duration;

use super::input::Health;
use super::restart::{jittered, started};
use crate::manifest::{Health as Check, HealthCheck, OnUnhealthy, Spec};
use crate::state::{Reason, Run, Said};
use crate::time::{Clock, Stamp, human};

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

/// Takes in what a run has said of itself, heard of `at`; nothing where its check does not go by that.
pub fn hear(health: &mut Health, said: Said, spec: &Spec, run: &Run, at: &Stamp) {
    let Some(HealthCheck::Notify { watchdog, .. }) = spec.health.as_ref().map(|check| &check.check) else {
        return;
    };
    // What it said while nobody was there to judge it is not held against it.
    let newest = [&said.alive, &said.ready].into_iter().flatten().max_by_key(|stamp| stamp.awake_ms);
    let alive = health.alive.take().unwrap_or_else(|| at.clone());
    health.alive = Some(newest.filter(|newest| newest.awake_ms > alive.awake_ms).cloned().unwrap_or(alive));
    let is_ready = run.ready_at.is_some() || said.ready.is_some();
    let verdict = match watchdog {
        _ if health.foreign.is_some() => {
            Err(health.foreign.as_ref().map(Reason::message).unwrap_or_default())
        }
        _ if !is_ready => Err("it has not said that it is ready yet".to_owned()),
        Some(watchdog) => is_alive(health, &said, *watchdog, spec.stop.grace, at),
        None => Ok(()),
    };
    health.said = Some(Box::new(said));
    fold(health, &verdict, at);
}

/// Whoever stops by itself, or has asked for more time, may be silent until that is over.
fn is_alive(
    health: &Health,
    said: &Said,
    watchdog: Duration,
    grace: Duration,
    at: &Stamp,
) -> Result<(), String> {
    let stops = said.stopping.as_ref().is_some_and(|since| at.left_of(since, grace, Clock::Awake).is_some());
    if stops || extended(said, at).is_some() {
        return Ok(());
    }
    if said.broken.is_some() {
        return Err("it says that it is broken".to_owned());
    }
    let alive =
        health.alive.as_ref().is_some_and(|alive| at.left_of(alive, watchdog, Clock::Awake).is_some());
    if alive { Ok(()) } else { Err(format!("it has not said for {} that it lives", human(watchdog))) }
}

/// What is left of the time that it has asked for.
fn extended(said: &Said, now: &Stamp) -> Option<Duration> {
    let extension = said.extended.as_ref()?;
    now.left_of(&extension.at, Duration::from_millis(extension.by_ms), Clock::Awake)
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
        Some(check) => {
            match now.left_of(started(run), check.start_timeout, Clock::Awake).max(more(health, now)) {
                Some(left) => Standing::Starting { left: Some(left) },
                // The deadline may have passed while no reconciler was there to probe: one must have failed.
                None if health.failures == 0 => Standing::Starting { left: None },
                None => Standing::Late { timeout: check.start_timeout },
            }
        }
    }
}

fn more(health: &Health, now: &Stamp) -> Option<Duration> {
    extended(health.said.as_deref()?, now)
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
    if let HealthCheck::Notify { watchdog, .. } = &check.check {
        return next_question(*watchdog, check, health, standing, now);
    }
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

/// What a run says is told; only once, and where it may have fallen silent, is it asked for.
fn next_question(
    watchdog: Option<Duration>,
    check: &Check,
    health: &Health,
    standing: &Standing,
    now: &Stamp,
) -> Probe {
    let in_time = |since: &Stamp, span| now.left_of(since, span, Clock::Awake).map_or(Probe::Due, Probe::In);
    match (&health.last_probe, standing, watchdog) {
        _ if health.in_flight => Probe::None,
        (None, ..) => Probe::Due,
        (Some(last), Standing::Starting { .. }, _) if health.foreign.is_some() => {
            in_time(last, check.start_interval)
        }
        (Some(last), Standing::Up | Standing::Unhealthy, Some(watchdog)) => {
            in_time(health.alive.as_ref().filter(|_| health.failures == 0).unwrap_or(last), watchdog)
        }
        (Some(_), _, _) => Probe::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{BootId, Digest, Nonce, ServiceId};
    use crate::manifest::CommandLine;
    use crate::state::{ExecFacts, Extension, Intent, Ledger, Record};

    fn at(awake_ms: u64) -> Stamp {
        Stamp { boot: BootId::new("b"), boottime_ms: awake_ms, awake_ms, wall_ms: awake_ms as i64 }
    }

    fn web(ready_at: Option<Stamp>) -> (Spec, Run) {
        let id = ServiceId::parse("web").unwrap();
        let mut spec = Spec::minimal(id.clone(), CommandLine::Argv(vec!["web".into()]));
        let watchdog = Some(Duration::from_secs(10));
        spec.health = Some(Check { retries: 1, ..Check::new(HealthCheck::Notify { watchdog, fd: None }) });
        let lost = Intent::lost(id.clone(), Nonce::from_u64(1), Digest::of(b""), at(0));
        let exec = ExecFacts { files: Vec::new(), uid: 0, allowed: Vec::new() };
        let ledger = Ledger::replay(&[Record::Intent(Box::new(Intent { exec, ..lost }))]);
        (spec, Run { ready_at, ..ledger.entry(&id).unwrap().run.clone().unwrap() })
    }

    fn ready(health: &Health, spec: &Spec, run: &Run, now: u64) -> Standing {
        standing(run, Some(spec), health, &at(now))
    }

    #[test]
    fn who_says_that_it_stops_may_be_silent_for_its_grace_and_no_longer() {
        let (spec, run) = web(Some(at(1_000)));
        let mut health = Health::default();
        let said = Said { ready: Some(at(1_000)), stopping: Some(at(5_000)), ..Said::default() };
        hear(&mut health, said.clone(), &spec, &run, &at(14_000));
        assert_eq!(ready(&health, &spec, &run, 14_000), Standing::Up);
        // Silence is counted from when it was first listened to.
        hear(&mut health, said.clone(), &spec, &run, &at(23_999));
        assert_eq!(ready(&health, &spec, &run, 23_999), Standing::Up);
        hear(&mut health, said, &spec, &run, &at(24_000));
        assert_eq!(ready(&health, &spec, &run, 24_000), Standing::Unhealthy);
    }

    #[test]
    fn who_has_asked_for_more_time_may_be_silent_until_it_is_over() {
        let (spec, run) = web(Some(at(1_000)));
        let mut health = Health::default();
        let extended = Some(Extension { at: at(2_000), by_ms: 60_000 });
        let said = Said { ready: Some(at(1_000)), extended, ..Said::default() };
        for (now, standing) in [(1_500, Standing::Up), (61_000, Standing::Up), (62_000, Standing::Unhealthy)]
        {
            hear(&mut health, said.clone(), &spec, &run, &at(now));
            assert_eq!(ready(&health, &spec, &run, now), standing, "at {now}");
        }
    }

    #[test]
    fn who_says_that_it_is_broken_is_unhealthy_at_once() {
        let (spec, run) = web(Some(at(1_000)));
        let mut health = Health::default();
        let said = Said { ready: Some(at(1_000)), broken: Some(at(2_000)), ..Said::default() };
        hear(&mut health, said, &spec, &run, &at(2_001));
        assert_eq!(health.failures, 1);
    }

    #[test]
    fn what_is_told_is_not_asked_for_but_once_and_where_it_may_have_fallen_silent() {
        let (spec, run) = web(None);
        let check = spec.health.as_ref().unwrap();
        let mut health = Health::default();
        let next = |health: &Health, now| {
            let standing = standing(&run, Some(&spec), health, &at(now));
            next_probe(check, &run, health, &standing, &at(now))
        };
        assert_eq!(next(&health, 1_000), Probe::Due);
        hear(&mut health, Said::default(), &spec, &run, &at(1_000));
        assert_eq!(next(&health, 2_000), Probe::None);
        hear(&mut health, Said { ready: Some(at(2_000)), ..Said::default() }, &spec, &run, &at(2_000));
        assert_eq!(next(&health, 5_000), Probe::In(Duration::from_secs(7)));
        assert_eq!(next(&health, 12_000), Probe::Due);
    }
}

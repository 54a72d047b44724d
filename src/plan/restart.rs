//! The restart policy: what an end means, when to start again, and when to give up.
//!
//! Pure and without chance: jitter is drawn from the nonce of the run that ended, so that the same state
//! always gives the same plan. Called by `decide`, and by `reconciler` when it writes down an exit
//! ([`failures_after`]). Times here are on the clock that stands still during suspend.

use std::time::Duration;

use crate::identity::ServiceId;
use crate::manifest::{Restart, RestartPolicy, Spec};
use crate::state::{End, Entry, ExitStatus, LastRun, Reason, Run, SpawnFailure, SpawnStage};
use crate::time::{Clock, Stamp};

/// The largest part of a backoff that jitter adds to it.
const MAX_JITTER: f64 = 0.2;

/// What was left of a service when its leader had ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    Nothing,
    /// Descendants of the leader were alive.
    Others,
}

/// What the end of a run means.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ending {
    /// A stop of ours that is not its failure: the policy is not asked.
    Ours,
    OtherBoot,
    Clean(ExitStatus),
    /// Also of a service that we stopped because it was at fault. `None`: nobody saw how.
    Failure(Option<ExitStatus>),
}

/// What the restart policy says about a service that has ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ruling {
    Start(Reason),
    /// Start again after `left`; the reason is that of the phase `backoff`.
    Wait {
        left: Duration,
        reason: Reason,
    },
    Completed(Reason),
    Failed(Reason),
}

/// Failures in a row once the run of `entry` has ended like this; what [`crate::state::Record::Exited`] holds.
///
/// A failure after more than `window`, or after `stable_after` of being ready, counts as the first. A clean
/// exit counts back to 0. A stop of ours and a reboot change nothing, unless the stop was the service's own
/// fault. `spec` is the one in force for the run, without which nothing is judged; `at` is when it ended.
pub fn failures_after(entry: &Entry, spec: Option<&Spec>, end: &End, remains: Remains, at: &Stamp) -> u32 {
    let (Some(run), Some(spec)) = (&entry.run, spec) else { return entry.failures };
    let left = remains == Remains::Others && left_the_foreground(run, end, at, spec);
    let why = if left { Some(&Reason::LeftTheForeground) } else { stopping_why(run) };
    match ending(end, why, &spec.restart) {
        Ending::Ours => failures_now(entry, Some(spec), at),
        Ending::OtherBoot => entry.failures,
        Ending::Clean(_) => 0,
        Ending::Failure(_) => {
            let lived = at.since(started(run), Clock::Awake);
            let before = if lived > spec.restart.window { 0 } else { failures_now(entry, Some(spec), at) };
            before.saturating_add(1)
        }
    }
}

/// Failures in a row as of now: 0 for a run that has been ready for `stable_after`.
pub fn failures_now(entry: &Entry, spec: Option<&Spec>, now: &Stamp) -> u32 {
    let ready_at = entry.run.as_ref().and_then(|run| run.ready_at.as_ref());
    match (ready_at, spec) {
        (Some(at), Some(spec)) if now.since(at, Clock::Awake) >= spec.restart.stable_after => 0,
        (Some(_) | None, Some(_) | None) => entry.failures,
    }
}

/// True if a leader that ended so, and left others behind, has put its service in the background: a clean
/// end before it was ready, or within `start_settle`.
pub(super) fn left_the_foreground(run: &Run, end: &End, at: &Stamp, spec: &Spec) -> bool {
    let End::Exit { status } = end else { return false };
    let at_once = run.ready_at.is_none() || at.since(started(run), Clock::Awake) <= spec.start_settle;
    at_once && is_success(*status, &spec.restart)
}

/// When the run was started, as far as that is known.
pub(super) fn started(run: &Run) -> &Stamp {
    run.started_at.as_ref().unwrap_or(&run.intent_at)
}

fn stopping_why(run: &Run) -> Option<&Reason> {
    run.stopping.as_ref().map(|stopping| &stopping.why)
}

/// What the end of the newest finished run means under this policy.
pub(super) fn ending_of(last: &LastRun, restart: &Restart) -> Ending {
    ending(&last.end, last.stopped_why.as_ref(), restart)
}

/// It ended of its own accord, as a success under this policy.
pub fn is_clean(last: &LastRun, restart: &Restart) -> bool {
    matches!(ending_of(last, restart), Ending::Clean(_))
}

/// Why we stopped it goes before how it ended: the exit status of a service that we stopped says nothing
/// about it. Ending what a dead leader has left behind is no stop of the service.
fn ending(end: &End, stopped_why: Option<&Reason>, restart: &Restart) -> Ending {
    let status = status_of(end);
    match (stopped_why, end, status) {
        (_, End::OtherBoot, _) => Ending::OtherBoot,
        (Some(why), _, _) if why.counts_as_failure() => Ending::Failure(status),
        (Some(Reason::Leftovers { .. }), _, status) => by_status(status, restart),
        (_, End::Ours { .. }, _) => Ending::Ours,
        (_, End::Exit { .. } | End::Unknown, status) => by_status(status, restart),
    }
}

pub(super) fn status_of(end: &End) -> Option<ExitStatus> {
    match end {
        End::Ours { status } => *status,
        End::Exit { status } => Some(*status),
        End::Unknown | End::OtherBoot => None,
    }
}

fn by_status(status: Option<ExitStatus>, restart: &Restart) -> Ending {
    match status {
        Some(status) if is_success(status, restart) => Ending::Clean(status),
        Some(_) | None => Ending::Failure(status),
    }
}

fn is_success(status: ExitStatus, restart: &Restart) -> bool {
    match status {
        ExitStatus::Code(code) => restart.success_codes.contains(&code),
        ExitStatus::Signal(signal) => restart.success_signals.iter().any(|name| name.0 == signal),
    }
}

/// Row 14, and which services row 12 means: `completed` and `failed` are worked out anew each pass.
pub(super) fn rule(entry: &Entry, last: &LastRun, restart: &Restart, now: &Stamp) -> Ruling {
    let status = match ending_of(last, restart) {
        Ending::OtherBoot => return Ruling::Start(Reason::OtherBoot),
        Ending::Ours => return Ruling::Start(after_our_stop(last)),
        Ending::Clean(status) => return after_clean_end(last, status, restart, now),
        Ending::Failure(status) => status,
    };
    let at_fault = last.stopped_why.as_ref().filter(|why| why.counts_as_failure());
    // The hint to run it in the foreground is worth more than the count.
    let told = |reason| match at_fault {
        Some(Reason::LeftTheForeground) => Reason::LeftTheForeground,
        Some(_) | None => reason,
    };
    let cause = at_fault.cloned().map(Box::new);
    // One that is not counted waits like the first, and is no reason to give up.
    let failures = entry.failures.max(1);
    let max_failures = restart.max_failures;
    match restart.policy {
        RestartPolicy::Never => Ruling::Failed(told(Reason::NotRestarted { status, cause })),
        RestartPolicy::Always | RestartPolicy::OnFailure if entry.failures >= max_failures => {
            Ruling::Failed(told(Reason::Failed { failures, status, cause }))
        }
        RestartPolicy::Always | RestartPolicy::OnFailure => {
            let delay = backoff(restart, failures, last.nonce.as_str());
            match now.left_of(&last.ended_at, delay, Clock::Awake) {
                Some(left) => Ruling::Wait {
                    left,
                    reason: told(Reason::Backoff { failures, max_failures, status, left, cause }),
                },
                None => Ruling::Start(at_fault.cloned().unwrap_or(Reason::Crashed { status, failures })),
            }
        }
    }
}

/// A stop that was made for a start has its reason.
fn after_our_stop(last: &LastRun) -> Reason {
    match &last.stopped_why {
        Some(why @ Reason::DependencyRestarted { .. }) => why.clone(),
        Some(_) | None => Reason::WantedAgain,
    }
}

/// A clean end under `always` is no failure, but a loop of them is held to one start per `backoff`.
fn after_clean_end(last: &LastRun, status: ExitStatus, restart: &Restart, now: &Stamp) -> Ruling {
    let reason = Reason::Ended { status };
    match restart.policy {
        RestartPolicy::OnFailure | RestartPolicy::Never => {
            Ruling::Completed(Reason::Completed { status: Some(status) })
        }
        RestartPolicy::Always => {
            match now.left_of(&last.started_at, backoff(restart, 1, last.nonce.as_str()), Clock::Awake) {
                Some(left) => Ruling::Wait { left, reason },
                None => Ruling::Start(reason),
            }
        }
    }
}

/// How long other files wait to start anew what is at rest: as after a failure, or for what had none one `backoff` from
/// its start. `None`: they are due.
pub(super) fn file_wait(entry: &Entry, last: &LastRun, restart: &Restart, now: &Stamp) -> Option<Duration> {
    let since = if entry.failures > 0 { &last.ended_at } else { &last.started_at };
    now.left_of(since, backoff(restart, entry.failures.max(1), last.nonce.as_str()), Clock::Awake)
}

/// Nobody tells when the machine has again what it was out of, and the manifest has nothing to do with that.
const LONGEST_SHORTAGE: Duration = Duration::from_secs(15);

/// How long a spawn that came to nothing waits before it is tried again; `None`: it is due.
///
/// One that was interrupted (its `born` never came) is due at once the first time. Where the machine was out
/// of something the wait grows like a backoff, up to a quarter of a minute; where the manifest or a file is at fault it is `backoff_max`,
/// and whoever sees a file change sets [`super::Want::retry`].
pub(super) fn spawn_wait(id: &ServiceId, entry: &Entry, restart: &Restart, now: &Stamp) -> Option<Duration> {
    let (failure, at) = entry.spawn_failure.as_deref()?;
    let count = entry.spawn_failures.max(1);
    if was_interrupted(failure) && count == 1 {
        return None;
    }
    let delay = if failure.is_of_the_machine() {
        backoff(restart, count, id.key()).min(jittered(LONGEST_SHORTAGE, MAX_JITTER, id.key()))
    } else {
        jittered(restart.backoff_max, MAX_JITTER, id.key())
    };
    now.left_of(at, delay, Clock::Awake)
}

/// True if nobody was at fault: the spawn was cut off by the end of a reconciler or keeper before anything was
/// executed.
pub(super) fn was_interrupted(failure: &SpawnFailure) -> bool {
    match failure.stage {
        SpawnStage::Born => failure.errno == 0,
        // Its keeper was replaced in the moment between, and the sockets went with it.
        SpawnStage::Socket => failure.errno == 0,
        SpawnStage::Epoch => true,
        SpawnStage::Keeper
        | SpawnStage::Cgroup
        | SpawnStage::Fork
        | SpawnStage::Session
        | SpawnStage::Limits
        | SpawnStage::Log
        | SpawnStage::User
        | SpawnStage::Cwd
        | SpawnStage::Credentials
        | SpawnStage::ExecChanged
        | SpawnStage::Exec => false,
    }
}

/// `backoff` × factor per further failure, at most `backoff_max`, plus the jitter.
pub(super) fn backoff(restart: &Restart, failures: u32, seed: &str) -> Duration {
    let steps = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
    let grown = restart.backoff.as_secs_f64() * restart.backoff_factor.powi(steps);
    let bounded = Duration::try_from_secs_f64(grown)
        .map_or(restart.backoff_max, |grown| grown.min(restart.backoff_max));
    jittered(bounded, MAX_JITTER, seed)
}

/// `span` and up to `most` of it more, in whole milliseconds like every clock reading here.
pub(super) fn jittered(span: Duration, most: f64, seed: &str) -> Duration {
    let extra = span.as_millis() as f64 * most * draw(seed);
    Duration::from_millis(span.as_millis() as u64).saturating_add(Duration::from_millis(extra as u64))
}

/// A number in `0.0..1.0`, always the same for the same text and spread evenly over different ones (FNV-1a).
fn draw(seed: &str) -> f64 {
    let hash = seed
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    // FNV leaves the high bits of short texts alike; one multiply-and-shift spreads them.
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

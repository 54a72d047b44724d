//! Decides what to do with one service. Pure: no clock, no files, no signals. Called by `plan` once a service.
//!
//! *E* is the accepted spec; a newer one that did not pass is shown beside it and never an input to a step. *P*
//! is the process of the run that the ledger remembers ([`Process`]), *End* how the newest finished run ended.
//! The first row that matches:
//!
//! | # | when | step |
//! | --- | --- | --- |
//! | 1 | P unverifiable | hold |
//! | 2 | a spawn or stop of it is in flight, or its birth or end is not yet written down | wait; grace over: signal, then kill, and again; a spawn that hangs is killed. A stop once begun is not taken back |
//! | 2a | it belongs to a root that this run was not given | nothing, unless it runs and is to stop: by name, or with all by `down` |
//! | 2b | a stop of it was begun by an earlier reconciler | go on with it |
//! | 3 | P leftovers | stop them; never start beside them |
//! | 4 | no E, no process | reject |
//! | 5 | not wanted, P alive | stop, with that reason |
//! | 6 | not wanted, no process | absent: forget; refused: reject; else nothing, and the activation ends unless its TTL is over |
//! | 6a | P alive, on demand, held by nobody: up, and nobody has used it for `idle`; or let go of by the last who held it | stop |
//! | 7 | P alive: restart asked for, or a field of class restart, the values of an `env_file` or of a secret, a file of `restart_on` or (where asked for) the executable differs | restart, if a start may follow |
//! | 8 | P alive: unhealthy, or start deadline over, and `on_unhealthy = "restart"` | restart as a failure, if a start may follow |
//! | 8a | P alive: a dependency with `restart = true` was started anew, and is up | restart, if a start may follow |
//! | 9 | P alive: a field of class live differs, or the text it was started from is lost | update |
//! | 9a | P alive and up: a file of `reload.on` differs | reload; by a command that failed again after the waits of `restart`, and after `max_failures` not before other content |
//! | 10 | P alive | nothing; the first time adopt |
//! | 10a | no process, on demand, nothing asked for: asleep, which has no activation | start, counters cleared, if somebody uses or holds it; else nothing |
//! | 10b | no process, on demand, nothing asked for, held by nobody: done, or as 6a | nothing, and the activation ends |
//! | 11 | no process: start, restart or reset asked for, or class restart differs from the last start | start, counters cleared |
//! | 11a | no process: the newest spawn came to nothing | start, when that is due again |
//! | 12 | no process: `failed` or `completed` | nothing; `failed` and a field of `restart` or `health` differs: start, counters cleared; a file (row 7) differs and the backoff is over: start |
//! | 13 | no process: no record · End ours · End other-boot | start |
//! | 14 | no process: End exit or unknown | restart policy: completed, failed, backoff until T, or start |
//!
//! *Not wanted* is, in this order: a shutdown · absent, with no guard or delay before it · E refused by the
//! policy in force · `state = "stopped"` · operator stop · TTL over. Rows 6a, 10a and 10b are in `demand`. Rows 11 to 14 are in `start`, and every
//! start passes the same gates there: what the reconciler found closed, a port that is not
//! to be had among that, then the dependencies (`dependencies`).
//! Absent behind a guard is wanted as before, and the hold is shown. Up is nothing on whose port somebody else is
//! proved to listen.
//!
//! The stop of rows 5, 7, 8 and 8a is begun once nothing that depends on the service is ending any more; until then it
//! is supervised as before, and shown as `dependents-first`. A kill waits for nobody, and nobody waits for what was
//! killed in an earlier pass.
//!
//! *Held* is what is leased, or depended on by what is to run. A lease is over when its holder has ended or its time is
//! (`leases`); that is noted, and what is decided is as if it was over before.
//!
//! *Files* (the values of an `env_file` or of a secret, `restart_on`) are the one cause that a service can make itself. So
//! they are no way past the restart policy: they restart what they have started once `restart.backoff` is over since then, they
//! are asked at rest only where the policy would start it, or has come to its end and the backoff is over, and they
//! leave the count of failures to the policy, which clears it for a run that was stable.

use std::time::Duration;

use super::alive::alive;
use super::case::{Case, Shutdown, Unwanted};
use super::input::Flight;
use super::output::{Action, Phase};
use super::process::Process;
use super::prune::Removal;
use super::restart;
use super::start::start_if_due;
use super::verdict::Verdict;
use crate::state::{Reason, Record, Run};
use crate::time::{Clock, Stamp};

pub(super) fn decide(case: &Case<'_>) -> Verdict {
    let verdict = match Process::of(case.service) {
        Process::Unverifiable(why) => Verdict::with_step(Action::Hold, Phase::Held, why.into_owned()),
        Process::Unrecorded(run) => spawning(case)
            .or_else(|| elsewhere(case))
            .unwrap_or_else(|| Verdict::of(unrecorded_phase(run), Reason::Unrecorded)),
        Process::Leftovers(run) => in_flight(case, run)
            .or_else(|| untouched_elsewhere(case))
            .or_else(|| resumed(case, run))
            .unwrap_or_else(|| leftovers(case, run)),
        Process::Alive(run) => in_flight(case, run)
            .or_else(|| untouched_elsewhere(case))
            .or_else(|| resumed(case, run))
            .or_else(|| unwanted_alive(case))
            .unwrap_or_else(|| alive(case, run).wake_if(case.expires_in())),
        Process::None => spawning(case).or_else(|| elsewhere(case)).unwrap_or_else(|| at_rest(case)),
    };
    show_guard(case, verdict)
}

/// Row 2 for a run that is seen.
fn in_flight(case: &Case<'_>, run: &Run) -> Option<Verdict> {
    let (since, next) = match &case.service.flight {
        Flight::None => return None,
        // It lives, so that spawn has been answered.
        Flight::Spawning { nonce } if *nonce == run.nonce && run.process.is_some() => return None,
        Flight::Spawning { nonce } if *nonce == run.nonce => return Some(being_born(case, run)),
        Flight::Spawning { .. } => return Some(Verdict::of(Phase::Starting, Reason::Starting)),
        Flight::Killed { since } => return Some(being_killed(case, run, since)),
        Flight::StopCommand { since } => (since, Action::Signal),
        Flight::Signalled { since } => (since, Action::Kill),
    };
    let wait = Verdict::of(Phase::Stopping, stopping_why(run));
    if case.shutdown == Shutdown::AtOnce {
        return Some(wait.step(Action::Kill, Reason::Shutdown));
    }
    let grace = case.grace();
    Some(match (case.now.left_of(since, grace, Clock::Awake), next) {
        (Some(left), _) => wait.wake(left),
        (None, Action::Kill) => wait.step(Action::Kill, Reason::GraceOver { grace }),
        (None, next) => wait.step(next, stopping_why(run)),
    })
}

/// A spawn that takes this long hangs, for instance on a disk that does not answer.
const SPAWN_DEADLINE: Duration = Duration::from_secs(60);

/// What SIGKILL has not ended by then is killed again: the first may have been lost with its keeper.
const KILL_AGAIN: Duration = Duration::from_secs(10);

fn being_born(case: &Case<'_>, run: &Run) -> Verdict {
    let verdict = Verdict::of(Phase::Starting, Reason::Starting);
    if case.shutdown == Shutdown::AtOnce {
        return verdict.step(Action::Kill, Reason::Shutdown);
    }
    match case.now.left_of(&run.intent_at, SPAWN_DEADLINE, Clock::Awake) {
        Some(left) => verdict.wake(left),
        None => verdict.step(Action::Kill, Reason::GraceOver { grace: SPAWN_DEADLINE }),
    }
}

fn being_killed(case: &Case<'_>, run: &Run, since: &Stamp) -> Verdict {
    let verdict = Verdict::of(Phase::Stopping, stopping_why(run));
    match case.now.left_of(since, KILL_AGAIN, Clock::Awake) {
        Some(left) => verdict.wake(left),
        None => verdict.step(Action::Kill, Reason::GraceOver { grace: KILL_AGAIN }),
    }
}

/// Row 2 where nothing is seen: a stop that is still in flight has nothing left to stop.
fn spawning(case: &Case<'_>) -> Option<Verdict> {
    match &case.service.flight {
        Flight::Spawning { nonce } => Some(match &case.service.entry.run {
            Some(run) if run.nonce == *nonce => being_born(case, run),
            Some(_) | None => Verdict::of(Phase::Starting, Reason::Starting),
        }),
        Flight::None | Flight::StopCommand { .. } | Flight::Signalled { .. } | Flight::Killed { .. } => None,
    }
}

/// Row 2a.
fn elsewhere(case: &Case<'_>) -> Option<Verdict> {
    match case.removal {
        Removal::Elsewhere { path } => {
            Some(Verdict::of(Phase::Held, Reason::ForeignRoot { path: path.clone() }))
        }
        Removal::No | Removal::Due | Removal::Waits { .. } | Removal::Held(_) => None,
    }
}

/// Row 2a for what runs: whoever asks for its end by name, or for that of all, means it.
fn untouched_elsewhere(case: &Case<'_>) -> Option<Verdict> {
    let is_asked_for = case.shutdown != Shutdown::No || case.service.entry.stopped.is_some();
    if is_asked_for { None } else { elsewhere(case) }
}

/// Row 2b: the stop command is not run again once its time is over.
fn resumed(case: &Case<'_>, run: &Run) -> Option<Verdict> {
    let stopping = run.stopping.as_ref()?;
    let left = case.now.left_of(&stopping.since, case.grace(), Clock::Awake);
    let action = if left.is_some() { Action::Stop } else { Action::Signal };
    Some(Verdict::with_step(action, Phase::Stopping, stopping.why.clone()).wake_if(left))
}

fn unrecorded_phase(run: &Run) -> Phase {
    if run.stopping.is_some() || run.end.is_some() { Phase::Stopping } else { Phase::Starting }
}

fn stopping_why(run: &Run) -> Reason {
    run.stopping.as_ref().map_or(Reason::Stopping, |stopping| stopping.why.clone())
}

/// Row 3.
fn leftovers(case: &Case<'_>, run: &Run) -> Verdict {
    let background = match (&run.end, case.spec_in_force()) {
        (Some((end, at)), Some(spec)) => restart::left_the_foreground(run, end, at, spec),
        (Some(_) | None, Some(_) | None) => false,
    };
    let why = if background {
        Reason::LeftTheForeground
    } else {
        Reason::Leftovers { status: run.end.as_ref().and_then(|(end, _)| restart::status_of(end)) }
    };
    Verdict::with_step(Action::Stop, Phase::Stopping, why)
}

/// Row 5.
fn unwanted_alive(case: &Case<'_>) -> Option<Verdict> {
    let why = case.unwanted()?.reason();
    Some(Verdict::with_step(Action::Stop, Phase::Stopping, why))
}

/// Rows 4 and 6, and for what is wanted rows 11 to 14.
fn at_rest(case: &Case<'_>) -> Verdict {
    match (case.unwanted(), &case.want.accepted) {
        (Some(Unwanted::Removed), _) => Verdict::with_step(Action::Forget, Phase::Stopped, Reason::Forgotten),
        (_, None) => without_spec(case),
        (Some(unwanted), Some(_)) => {
            let verdict = match unwanted {
                Unwanted::Refused { .. } => {
                    Verdict::with_step(Action::Reject, unwanted.phase(), unwanted.reason())
                }
                _ => Verdict::of(unwanted.phase(), unwanted.reason()),
            };
            if unwanted.ends_activation() && case.service.entry.activation.is_some() {
                return verdict.note(Record::Deactivated { service: case.id.clone() });
            }
            verdict
        }
        (None, Some(accepted)) => start_if_due(case, accepted).wake_if(case.expires_in()),
    }
}

/// Row 4. One that is absent, and not yet to be forgotten, has nothing to be rejected.
fn without_spec(case: &Case<'_>) -> Verdict {
    match case.removal {
        Removal::Held(why) => Verdict::of(Phase::Held, why.clone()),
        Removal::Waits { .. } => Verdict::of(Phase::Stopped, Reason::PruneDelay),
        Removal::No | Removal::Due | Removal::Elsewhere { .. } => {
            let problems = &case.want.problems;
            let first = problems.first().map_or_else(
                || "no version of its manifest has been accepted".to_owned(),
                |problem| problem.message.clone(),
            );
            let reason = Reason::Rejected { problems: problems.len().max(1), first };
            Verdict::with_step(Action::Reject, Phase::Rejected, reason)
        }
    }
}

/// Until a git that holds up a removal is looked for again: nobody tells of its end.
const CHECKOUT_AGAIN: Duration = Duration::from_secs(5);

/// A removal that waits is seen, whatever else becomes of the service.
fn show_guard(case: &Case<'_>, verdict: Verdict) -> Verdict {
    let (why, verdict) = match case.removal {
        Removal::No | Removal::Due | Removal::Elsewhere { .. } => return verdict,
        Removal::Waits { left } => (&Reason::PruneDelay, verdict.wake(*left)),
        Removal::Held(why @ Reason::GuardCheckout { .. }) => (why, verdict.wake(CHECKOUT_AGAIN)),
        Removal::Held(why) => (why, verdict),
    };
    let mut verdict = verdict.hold_if_unchanged(why);
    if matches!(verdict.view.phase, Phase::Running | Phase::Ready) {
        verdict.view.reason = why.clone();
    }
    verdict
}

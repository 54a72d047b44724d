//! Signals and kills.

use std::time::Duration;

use super::behaviour::{OnKill, OnSignal};
use super::faults::Op;
use super::run::{Body, Knowledge, Stage};
use super::world::{Occurrence, World};
use crate::host::{Claim, Event};
use crate::identity::{Nonce, Pid};
use crate::manifest::SignalTo;
use crate::state::ExitStatus;

const SIGKILL: i32 = 9;

/// From SIGKILL to the end of everything.
const KILL_TAKES: Duration = Duration::from_millis(2);

/// How long the host goes on killing what does not die.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

impl World {
    pub fn signal(&mut self, claim: &Claim, signal: i32, to: SignalTo) {
        self.counts.signals += 1;
        self.tell(format_args!("signal    {} ({}): {signal} to its {to:?}", claim.service, claim.nonce));
        self.check_target(claim, "signal");
        if let Some(errno) = self.faults.take(Op::Signal) {
            self.tell(format_args!("          reaches nobody: {}", errno.desc()));
            return;
        }
        self.signal_leader(&claim.nonce, signal);
        if to == SignalTo::Group {
            self.signal_others(&claim.nonce);
        }
    }

    fn signal_leader(&mut self, nonce: &Nonce, signal: i32) {
        let Some(run) = self.runs.get(nonce) else { return };
        if !run.body().is_some_and(Body::leader_lives) {
            self.tell("          finds no leader");
            return;
        }
        let status = run.script.last_words.unwrap_or(ExitStatus::Signal(signal));
        match run.script.leader {
            OnSignal::Obeys(delay) => self.schedule(delay, Occurrence::LeaderEnds(nonce.clone(), status)),
            OnSignal::Ignores => self.tell("          is ignored"),
        }
    }

    fn signal_others(&mut self, nonce: &Nonce) {
        let Some(body) = self.runs.get(nonce).and_then(|run| run.body()) else { return };
        for (pid, on_signal) in body.others.clone() {
            if let OnSignal::Obeys(delay) = on_signal {
                self.schedule(delay, Occurrence::DescendantEnds(nonce.clone(), pid));
            }
        }
    }

    pub fn kill(&mut self, claim: &Claim) {
        self.counts.kills += 1;
        self.tell(format_args!("kill      {} ({})", claim.service, claim.nonce));
        self.check_target(claim, "kill");
        let nonce = &claim.nonce;
        let Some(run) = self.runs.get_mut(nonce) else { return };
        // Whoever kills hears of the end, as `Gone`.
        let was_told = run.is_told();
        if !was_told {
            run.knowledge = Knowledge::Attached;
        }
        let script_dies = run.script.on_kill == OnKill::Dies;
        match &run.stage {
            Stage::Born(body) if body.anything_lives() && script_dies => {
                self.schedule(KILL_TAKES, Occurrence::KillLands(nonce.clone()));
            }
            Stage::Born(body) if body.anything_lives() => {
                self.schedule(KILL_PATIENCE, Occurrence::KillIsGivenUp(nonce.clone()));
            }
            // An attached reconciler has the end of it in its queue already.
            Stage::Born(_) if was_told => {}
            Stage::Born(_) | Stage::NeverBorn => self.queue(Event::Gone { nonce: nonce.clone() }),
            Stage::InFlight => {
                self.cancel_birth(nonce);
                self.queue(Event::Gone { nonce: nonce.clone() });
            }
        }
    }

    pub fn kill_lands(&mut self, nonce: &Nonce) {
        let Some(body) = self.runs.get_mut(nonce).and_then(|run| run.body_mut()) else { return };
        let others: Vec<Pid> = body.others.drain(..).map(|(pid, _)| pid).collect();
        let leader_lives = body.leader_lives();
        for pid in &others {
            self.pids.free(*pid);
        }
        if leader_lives {
            self.leader_ends(nonce, ExitStatus::Signal(SIGKILL));
        } else if !others.is_empty() {
            self.tell(format_args!("ended     {} left over of {nonce}", others.len()));
            self.say_if_gone(nonce);
        }
    }

    pub fn kill_is_given_up(&mut self, nonce: &Nonce) {
        let Some(run) = self.runs.get(nonce) else { return };
        let pids = run.body().map(Body::pids).unwrap_or_default();
        if pids.is_empty() || !run.is_told() {
            return;
        }
        self.tell(format_args!("unkillable {nonce}: {pids:?}"));
        self.queue(Event::Unkillable { nonce: nonce.clone(), pids });
    }
}

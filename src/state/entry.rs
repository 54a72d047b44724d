//! What is remembered of one service, and how a record of it changes that.
//!
//! Serialized as a whole in [`Record::Entry`](super::Record::Entry): stored for ever, new fields have a
//! default. Every change is total: it does as much as it can and never panics. Called by `ledger`; pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Containment, End, ExecFacts, ExitStatus, FileKey, FileMarks, Intent, LOST_FINGERPRINT, LogMark, Reason,
    Release, Request, SpawnFailure,
};
use crate::identity::{Digest, Nonce, ProcessIdentity, ServiceId};
use crate::manifest::PortBlocks;
use crate::time::Stamp;

/// What is remembered of one service. Boxed is what most have not: there is one of these a service, for ever.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// The file whose accepted text declares it; `None` once that was forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileKey>,
    /// The run whose process, or remains, may still be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// How the newest finished run went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Box<LastRun>>,
    /// Why nothing was executed, if the newest intent came to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spawn_failure: Option<Box<(SpawnFailure, Stamp)>>,
    /// Spawn failures in a row.
    #[serde(skip_serializing_if = "is_zero")]
    pub spawn_failures: u32,
    /// Consecutive failures that count towards the breaker.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Starts since the activation, less one; a start that executed nothing is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub restarts: u32,
    /// The first start since the service became wanted; the TTL counts from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Stamp>,
    /// Somebody has said that it is used, last at this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<Stamp>,
    /// Somebody who had leased it in this activation has let go of it, the last of them so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released: Option<Box<Release>>,
    /// This activation was begun for the sake of a service that depends on it.
    #[serde(skip_serializing_if = "is_false")]
    pub needed: bool,
    /// Stopped by the operator since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stamp>,
    /// Asked for and not yet done; never what acts at once: a stop, a renewal, a touch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<Box<Reason>>,
    /// What its newest start was given; kept while it is stopped, and after failures.
    #[serde(skip_serializing_if = "PortBlocks::is_empty")]
    pub ports: PortBlocks,
}

/// One spawn, from its intent until nothing is left of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub nonce: Nonce,
    pub fingerprint: String,
    /// The text it was started from.
    pub started_digest: Digest,
    /// The text whose live fields are in force.
    pub digest: Digest,
    pub exec: ExecFacts,
    pub why: Reason,
    pub intent_at: Stamp,
    pub epoch: u64,
    /// The runs of its dependencies that it goes on beside, of those that it follows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub beside: BTreeMap<ServiceId, Nonce>,
    /// The files that it goes on with; `None` where it named none, or that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Box<FileMarks>>,
    /// Where its output begins in its log; `None` where that was not asked for, or is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Box<LogMark>>,
    /// Which directory it was started in, where it was one of several; `None` also where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// `None` while the intent is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessIdentity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containment: Option<Containment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping: Option<Box<Stopping>>,
    /// The leader has ended; the rest may not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<(End, Stamp)>,
}

/// A stop of ours that was begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stopping {
    pub why: Reason,
    pub since: Stamp,
}

/// A run of which nothing is left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastRun {
    pub nonce: Nonce,
    pub fingerprint: String,
    /// The text whose live fields were in force.
    pub digest: Digest,
    pub started_at: Stamp,
    pub ended_at: Stamp,
    pub end: End,
    /// Why we stopped it, if we did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_why: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Stamp>,
    /// The files that it had gone on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Box<FileMarks>>,
}

fn is_false(fact: &bool) -> bool {
    !fact
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl LastRun {
    pub fn status(&self) -> Option<ExitStatus> {
        match self.end {
            End::Ours { status } => status,
            End::Exit { status } => Some(status),
            End::Unknown | End::OtherBoot => None,
        }
    }
}

impl Run {
    /// True unless the leader has ended or a stop of ours was begun.
    pub fn goes_on(&self) -> bool {
        self.end.is_none() && self.stopping.is_none()
    }

    /// A stop that is resumed, or gets another reason, keeps its start: the grace period counts from there.
    pub(super) fn stop(&mut self, why: &Reason, at: &Stamp) {
        let since = self.stopping.take().map_or_else(|| at.clone(), |stopping| stopping.since);
        self.stopping = Some(Box::new(Stopping { why: why.clone(), since }));
    }

    /// True once there is a sign that something was executed.
    fn was_born(&self) -> bool {
        self.process.is_some() || self.end.is_some()
    }
}

impl Entry {
    /// The run that `nonce` names, if it is the current one.
    pub(super) fn run_of(&mut self, nonce: &Nonce) -> Option<&mut Run> {
        self.run.as_mut().filter(|run| run.nonce == *nonce)
    }

    /// Of the current run, or of the newest that has ended.
    pub(super) fn goes_on_with(&mut self, nonce: &Nonce, files: &FileMarks) {
        let run = self.run.as_mut().filter(|run| run.nonce == *nonce).map(|run| &mut run.files);
        let last = self.last.as_deref_mut().filter(|last| last.nonce == *nonce).map(|last| &mut last.files);
        if let Some(of_run) = run.or(last) {
            *of_run = Some(Box::new(files.clone()));
        }
    }

    pub(super) fn undeclare(&mut self, file: &FileKey) {
        self.file.take_if(|declared_in| declared_in == file);
    }

    /// An intent: the run before it, if a lost record left one, is over.
    pub(super) fn begin(&mut self, intent: &Intent) {
        if let Some(run) = self.run.take() {
            self.finish_run(run);
        }
        if self.activation.is_some() {
            self.restarts = self.restarts.saturating_add(1);
        } else {
            self.deactivate();
            self.activation = Some(intent.at.clone());
            self.needed = matches!(intent.why, Reason::NeededBy { .. });
        }
        if intent.clears_failures {
            self.clear_failures();
        }
        self.request = None;
        // Of a start whose own intent is lost nobody knows what it was given: at worst what the one before was.
        if intent.fingerprint != LOST_FINGERPRINT {
            self.ports.clone_from(&intent.ports);
        }
        self.run = Some(Run {
            nonce: intent.nonce.clone(),
            fingerprint: intent.fingerprint.clone(),
            started_digest: intent.digest.clone(),
            digest: intent.digest.clone(),
            exec: intent.exec.clone(),
            why: intent.why.clone(),
            intent_at: intent.at.clone(),
            epoch: intent.epoch,
            beside: intent.beside.clone(),
            files: intent.files.clone(),
            log: intent.log.clone(),
            cwd: intent.cwd.clone(),
            process: None,
            containment: None,
            started_at: None,
            ready_at: None,
            stopping: None,
            end: None,
        });
    }

    pub(super) fn started(
        &mut self,
        nonce: &Nonce,
        process: &ProcessIdentity,
        containment: &Containment,
        at: &Stamp,
    ) {
        let Some(run) = self.run_of(nonce) else { return };
        run.process = Some(process.clone());
        run.containment = Some(containment.clone());
        run.started_at = Some(at.clone());
        self.clear_spawn_failures();
    }

    /// A failure of an older spawn changes nothing.
    pub(super) fn spawn_failed(&mut self, nonce: &Nonce, failure: &SpawnFailure, at: &Stamp) {
        if self.run.take_if(|run| run.nonce == *nonce).is_none() {
            return;
        }
        self.undo_start();
        self.spawn_failure = Some(Box::new((failure.clone(), at.clone())));
        self.spawn_failures = self.spawn_failures.saturating_add(1);
    }

    pub(super) fn exited(&mut self, nonce: &Nonce, end: &End, failures: u32, at: &Stamp) {
        let Some(run) = self.run_of(nonce) else { return };
        run.end = Some((end.clone(), at.clone()));
        self.failures = failures;
    }

    pub(super) fn gone(&mut self, nonce: &Nonce) {
        if let Some(run) = self.run.take_if(|run| run.nonce == *nonce) {
            self.finish_run(run);
        }
    }

    /// A run that was never born leaves no trace: it is not the one that `last` is about.
    fn finish_run(&mut self, run: Run) {
        if !run.was_born() {
            self.undo_start();
            return;
        }
        self.clear_spawn_failures();
        let started_at = run.started_at.unwrap_or(run.intent_at);
        // Without a record of its end, what is known is whether we had begun to stop it.
        let unseen = if run.stopping.is_some() { End::Ours { status: None } } else { End::Unknown };
        let (end, ended_at) = run.end.unwrap_or_else(|| (unseen, started_at.clone()));
        self.last = Some(Box::new(LastRun {
            nonce: run.nonce,
            fingerprint: run.fingerprint,
            digest: run.digest,
            started_at,
            ended_at,
            end,
            stopped_why: run.stopping.map(|stopping| stopping.why),
            ready_at: run.ready_at,
            files: run.files,
        }));
    }

    /// Takes back what [`Entry::begin`] counted for a start that executed nothing.
    fn undo_start(&mut self) {
        match self.restarts.checked_sub(1) {
            Some(before) => self.restarts = before,
            None => self.activation = None,
        }
    }

    pub(super) fn deactivate(&mut self) {
        self.activation = None;
        self.restarts = 0;
        self.released = None;
        self.needed = false;
    }

    /// A lease of it is over. That was a use, up to now.
    pub(super) fn release(&mut self, release: Release, at: &Stamp) {
        self.used = Some(at.clone());
        self.released = self.activation.is_some().then(|| Box::new(release));
    }

    pub(super) fn request(&mut self, request: &Request, at: &Stamp) {
        match request {
            Request::Stop => {
                self.stopped = Some(at.clone());
                self.request = None;
            }
            Request::Start => {
                self.stopped = None;
                self.is_wanted_by_itself();
                self.request_start(Request::Start);
            }
            Request::Restart => {
                self.stopped = None;
                self.is_wanted_by_itself();
                self.request = Some(Request::Restart);
            }
            Request::Reset => {
                self.clear_failures();
                self.request_start(Request::Reset);
            }
            Request::Renew => self.renew(at),
            Request::Touch => self.used = Some(at.clone()),
        }
    }

    /// What was asked for by name runs until the next last release, whoever let go of it before.
    fn is_wanted_by_itself(&mut self) {
        self.released = None;
        self.needed = false;
    }

    /// A service that is up has nothing to be started: left pending, the request would turn the next crash
    /// into a first start.
    fn request_start(&mut self, request: Request) {
        if !self.run.as_ref().is_some_and(Run::goes_on) && self.request != Some(Request::Restart) {
            self.request = Some(request);
        }
    }

    /// An expired service begins a new activation with its next start, a living one goes on with its own.
    fn renew(&mut self, at: &Stamp) {
        let expired = |last: &LastRun| matches!(last.stopped_why, Some(Reason::TtlExpired { .. }));
        if self.run.is_none() && self.last.as_deref().is_some_and(expired) {
            self.deactivate();
        } else {
            self.activation = Some(at.clone());
        }
    }

    fn clear_failures(&mut self) {
        self.failures = 0;
        self.clear_spawn_failures();
    }

    fn clear_spawn_failures(&mut self) {
        self.spawn_failures = 0;
        self.spawn_failure = None;
    }
}

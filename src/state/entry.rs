//! The ledger folded: what is remembered of each service, file and root.
//!
//! [`Ledger::apply`] is total: a record that does not fit what came before (a `Started` without its intent,
//! after a lost tail) changes as much as it can and never panics. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Containment, End, ExecFacts, ExitStatus, Intent, Reason, Record, Request, SpawnFailure};
use crate::identity::{Digest, Nonce, ProcessIdentity, ServiceId};
use crate::time::Stamp;

/// Names a root in the ledger, `r1`, `r2`, …, whatever its path is today.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RootKey(pub String);

/// A manifest file: a root, and the path beneath it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileKey {
    pub root: RootKey,
    pub path: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ledger {
    pub roots: BTreeMap<RootKey, RootEntry>,
    pub files: BTreeMap<FileKey, FileEntry>,
    pub services: BTreeMap<ServiceId, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootEntry {
    pub path: PathBuf,
    pub dev: u64,
    pub inode: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    pub digest: Digest,
    pub services: BTreeSet<ServiceId>,
}

/// What is remembered of one service.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Entry {
    /// The file whose accepted text declares it; `None` once that was forgotten.
    pub file: Option<FileKey>,
    /// The run whose process, or remains, may still be there.
    pub run: Option<Run>,
    /// How the newest finished run went.
    pub last: Option<LastRun>,
    /// Why nothing was executed, if the newest intent came to that.
    pub spawn_failure: Option<(SpawnFailure, Stamp)>,
    /// Spawn failures in a row.
    pub spawn_failures: u32,
    /// Consecutive failures that count towards the breaker.
    pub failures: u32,
    /// Starts since the activation, less one.
    pub restarts: u32,
    /// The first start since the service became wanted; the TTL counts from here.
    pub activation: Option<Stamp>,
    /// Stopped by the operator since.
    pub stopped: Option<Stamp>,
    /// Asked for and not yet done; never [`Request::Stop`] or [`Request::Renew`], which act at once.
    pub request: Option<Request>,
    pub guard: Option<Reason>,
}

/// One spawn, from its intent until nothing is left of it.
#[derive(Debug, Clone, PartialEq)]
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
    /// `None` while the intent is open.
    pub process: Option<ProcessIdentity>,
    pub containment: Option<Containment>,
    pub started_at: Option<Stamp>,
    pub ready_at: Option<Stamp>,
    pub stopping: Option<Stopping>,
    /// The leader has ended; the rest may not have.
    pub end: Option<(End, Stamp)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Stopping {
    pub why: Reason,
    pub since: Stamp,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LastRun {
    pub nonce: Nonce,
    pub fingerprint: String,
    pub digest: Digest,
    pub started_at: Stamp,
    pub ended_at: Stamp,
    pub end: End,
    /// Why we stopped it, if we did.
    pub stopped_why: Option<Reason>,
    pub ready_at: Option<Stamp>,
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

impl Ledger {
    pub fn entry(&self, service: &ServiceId) -> Option<&Entry> {
        self.services.get(service)
    }

    /// Folds one record in.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Root { key, path, dev, inode } => {
                self.roots.insert(key.clone(), RootEntry { path: path.clone(), dev: *dev, inode: *inode });
            }
            Record::Accepted { file, digest, services } => self.accept(file, digest, services),
            Record::FileForgotten { file } => {
                self.files.remove(file);
                for entry in self.services.values_mut() {
                    if entry.file.as_ref() == Some(file) {
                        entry.file = None;
                    }
                }
            }
            Record::Forgotten { service } => {
                self.services.remove(service);
            }
            Record::Intent(intent) => self.services.entry(intent.service.clone()).or_default().begin(intent),
            Record::Started { service, nonce, process, containment, at } => {
                if let Some(run) = self.run_mut(service, nonce) {
                    run.process = Some(process.clone());
                    run.containment = Some(containment.clone());
                    run.started_at = Some(at.clone());
                }
            }
            Record::SpawnFailed { service, nonce, failure, at } => {
                let entry = self.services.entry(service.clone()).or_default();
                if entry.run.as_ref().is_some_and(|run| run.nonce == *nonce) {
                    entry.run = None;
                }
                entry.spawn_failure = Some((failure.clone(), at.clone()));
                entry.spawn_failures = entry.spawn_failures.saturating_add(1);
            }
            Record::Ready { service, nonce, at } => {
                if let Some(run) = self.run_mut(service, nonce) {
                    run.ready_at.get_or_insert_with(|| at.clone());
                }
            }
            Record::Updated { service, nonce, digest } => {
                if let Some(run) = self.run_mut(service, nonce) {
                    run.digest = digest.clone();
                }
            }
            Record::Stopping { service, nonce, why, at } => {
                if let Some(run) = self.run_mut(service, nonce) {
                    run.stopping = Some(Stopping { why: why.clone(), since: at.clone() });
                }
            }
            Record::Exited { service, nonce, end, failures, at } => {
                let entry = self.services.entry(service.clone()).or_default();
                if let Some(run) = entry.run.as_mut().filter(|run| run.nonce == *nonce) {
                    run.end = Some((end.clone(), at.clone()));
                    entry.failures = *failures;
                }
            }
            Record::Gone { service, nonce } => {
                if let Some(entry) = self.services.get_mut(service) {
                    entry.finish(nonce);
                }
            }
            Record::Request { service, request, at } => {
                self.services.entry(service.clone()).or_default().request(request, at);
            }
            Record::Deactivated { service } => {
                if let Some(entry) = self.services.get_mut(service) {
                    entry.activation = None;
                    entry.restarts = 0;
                }
            }
            Record::GuardLatched { service, why } => {
                self.services.entry(service.clone()).or_default().guard = Some(why.clone());
            }
            Record::GuardReleased { service } => {
                if let Some(entry) = self.services.get_mut(service) {
                    entry.guard = None;
                }
            }
        }
    }

    fn run_mut(&mut self, service: &ServiceId, nonce: &Nonce) -> Option<&mut Run> {
        self.services.get_mut(service)?.run.as_mut().filter(|run| run.nonce == *nonce)
    }

    fn accept(&mut self, file: &FileKey, digest: &Digest, services: &[ServiceId]) {
        let declared: BTreeSet<ServiceId> = services.iter().cloned().collect();
        let before = self
            .files
            .insert(file.clone(), FileEntry { digest: digest.clone(), services: declared.clone() })
            .map(|old| old.services)
            .unwrap_or_default();
        for service in before.difference(&declared) {
            if let Some(entry) = self.services.get_mut(service)
                && entry.file.as_ref() == Some(file)
            {
                entry.file = None;
            }
        }
        for service in declared {
            self.services.entry(service).or_default().file = Some(file.clone());
        }
    }
}

impl Entry {
    fn begin(&mut self, intent: &Intent) {
        if self.activation.is_some() {
            self.restarts = self.restarts.saturating_add(1);
        } else {
            self.activation = Some(intent.at.clone());
            self.restarts = 0;
        }
        if intent.clears_failures {
            self.failures = 0;
        }
        self.request = None;
        self.run = Some(Run {
            nonce: intent.nonce.clone(),
            fingerprint: intent.fingerprint.clone(),
            started_digest: intent.digest.clone(),
            digest: intent.digest.clone(),
            exec: intent.exec.clone(),
            why: intent.why.clone(),
            intent_at: intent.at.clone(),
            epoch: intent.epoch,
            process: None,
            containment: None,
            started_at: None,
            ready_at: None,
            stopping: None,
            end: None,
        });
    }

    fn finish(&mut self, nonce: &Nonce) {
        let Some(run) = self.run.take_if(|run| run.nonce == *nonce) else { return };
        let started_at = run.started_at.unwrap_or_else(|| run.intent_at.clone());
        let (end, ended_at) = run.end.unwrap_or_else(|| (End::Unknown, started_at.clone()));
        self.spawn_failure = None;
        self.spawn_failures = 0;
        self.last = Some(LastRun {
            nonce: run.nonce,
            fingerprint: run.fingerprint,
            digest: run.digest,
            started_at,
            ended_at,
            end,
            stopped_why: run.stopping.map(|stopping| stopping.why),
            ready_at: run.ready_at,
        });
    }

    fn request(&mut self, request: &Request, at: &Stamp) {
        match request {
            Request::Stop => {
                self.stopped = Some(at.clone());
                self.request = None;
            }
            Request::Start => {
                self.stopped = None;
                self.request = Some(Request::Start);
            }
            Request::Restart => {
                self.stopped = None;
                self.request = Some(Request::Restart);
            }
            Request::Reset => {
                self.failures = 0;
                self.spawn_failures = 0;
                self.spawn_failure = None;
                self.request = Some(Request::Reset);
            }
            Request::Renew => self.activation = Some(at.clone()),
        }
    }
}

//! What must never happen, checked at every call: the promises of the design as assertions.
//!
//! Each check ends the test with the story so far. A call that comes too late because its target ended a
//! moment ago is no violation, since nobody can know. One that comes when the reconciler has written the end
//! down, or has waited again since it was told, is.

use super::run::{Body, Knowledge};
use super::world::World;
use crate::host::{Claim, SpawnRequest};
use crate::identity::{Digest, Nonce, ProcessIdentity, ServiceId};
use crate::manifest::dotenv;
use crate::state::{FileMarks, Holder, LeaseEnd, Record};

impl World {
    /// A spawn is promised in the ledger, for the first time, beside nothing, and is what was promised.
    pub fn check_spawn(&self, request: &SpawnRequest) {
        let SpawnRequest { service, nonce, .. } = request;
        let Some(intent) = self.journal.newest_intent(service) else {
            self.violation(format_args!("{service} is spawned without an intent in the ledger"));
        };
        if intent.nonce != *nonce {
            let newest = &intent.nonce;
            self.violation(format_args!("{service} is spawned as {nonce}, its newest intent is {newest}"));
        }
        if self.runs.contains_key(nonce) || self.barred.contains(nonce) {
            self.violation(format_args!("{service} is spawned under {nonce}, which is used up"));
        }
        if intent.epoch != request.epoch {
            self.violation(format_args!("{service} is spawned in another epoch than promised"));
        }
        if intent.exec.files.first() != Some(&request.exec.file) {
            self.violation(format_args!(
                "{service} is spawned from another file than the one that was checked"
            ));
        }
        if let Some(doubt) = self.doubts.get(service) {
            self.violation(format_args!("{service} is spawned in the place of what is in doubt ({doubt:?})"));
        }
        self.check_alone(service, nonce);
    }

    /// No other run of the service lives or may yet be born.
    pub fn check_alone(&self, service: &ServiceId, nonce: &Nonce) {
        let others = self.runs.iter().filter(|(other, run)| *other != nonce && run.service == *service);
        for (other, run) in others {
            if run.may_be_born(self.epoch) {
                self.violation(format_args!("{service} is started as {nonce} while {other} is being born"));
            }
            if run.anything_lives() {
                self.violation(format_args!("{service} is started as {nonce} beside {other}, which lives"));
            }
        }
    }

    /// A signal or a kill goes to a process of ours that is not known to be gone.
    pub fn check_target(&self, claim: &Claim, verb: &str) {
        let Claim { service, nonce, process, .. } = claim;
        if let Some(stranger) = process.as_ref().filter(|process| self.is_stranger(process)) {
            self.violation(format_args!(
                "a {verb} for {service} would reach pid {}, a stranger",
                stranger.pid
            ));
        }
        if let Some(doubt) = self.doubts.get(service) {
            self.violation(format_args!("a {verb} for {service}, whose process is in doubt ({doubt:?})"));
        }
        let Some(run) = self.runs.get(nonce) else {
            self.violation(format_args!("a {verb} for {service} names {nonce}, which was never spawned"));
        };
        if run.service != *service {
            self.violation(format_args!(
                "a {verb} for {service} names {nonce}, which is a run of {}",
                run.service
            ));
        }
        let differs = |body: &Body| process.as_ref().is_some_and(|process| *process != body.identity);
        if run.body().is_some_and(differs) {
            self.violation(format_args!("a {verb} for {service} names another process than {nonce} is"));
        }
        if run.knowledge == Knowledge::ToldGone || self.journal.says_gone(nonce) {
            self.violation(format_args!("a {verb} for {service} ({nonce}), which is known to be gone"));
        }
    }

    fn is_stranger(&self, process: &ProcessIdentity) -> bool {
        self.strangers.get(&process.pid) == Some(process)
    }

    /// What is written is true, and what it refers to is there.
    pub fn check_records(&self, records: &[Record]) {
        for record in records {
            self.check_record(record);
        }
    }

    fn check_record(&self, record: &Record) {
        match record {
            Record::Accepted { digest, .. } => self.check_text(digest),
            Record::Intent(intent) => {
                self.check_text(&intent.digest);
                intent.files.iter().for_each(|files| self.check_files(files));
                if self.journal.promises(&intent.nonce) {
                    self.violation(format_args!("{} is promised twice", intent.nonce));
                }
            }
            Record::Started { service, nonce, process, .. } => {
                let body = self.runs.get(nonce).and_then(|run| run.body());
                let is_certain = !self.doubts.contains_key(service);
                if is_certain && body.is_some_and(|body| body.identity != *process) {
                    self.violation(format_args!(
                        "{service} ({nonce}) is recorded as another process than it is"
                    ));
                }
            }
            Record::Exited { service, nonce, .. } => {
                if self.runs.get(nonce).and_then(|run| run.body()).is_some_and(|body| body.leader_lives()) {
                    self.violation(format_args!("{service} ({nonce}) is recorded as ended, and it lives"));
                }
            }
            Record::Gone { service, nonce } | Record::SpawnFailed { service, nonce, .. } => {
                self.check_let_go(service, nonce);
            }
            Record::Files { files, .. } => self.check_files(files),
            Record::Beside { service, beside, .. } => {
                for (dependency, nonce) in beside {
                    if self.runs.get(nonce).is_some_and(|run| run.service != *dependency) {
                        let what =
                            format_args!("{service} is beside {nonce}, which is no run of {dependency}");
                        self.violation(what);
                    }
                }
            }
            Record::LeaseEnded {
                holder: Holder::Process { process, .. },
                how: LeaseEnd::HolderEnded,
                ..
            } => {
                if self.holders.alive().any(|alive| alive == process) {
                    self.violation(format_args!("pid {} is recorded as ended, and it lives", process.pid));
                }
            }
            Record::Forgotten { service } => {
                let runs = self.runs.iter().filter(|(_, run)| run.service == *service);
                runs.for_each(|(nonce, _)| self.check_let_go(service, nonce));
            }
            Record::Root { .. }
            | Record::Entry { .. }
            | Record::FileForgotten { .. }
            | Record::Ready { .. }
            | Record::Updated { .. }
            | Record::Stopping { .. }
            | Record::Request { .. }
            | Record::Leased { .. }
            | Record::LeaseEnded { .. }
            | Record::Deactivated { .. }
            | Record::GuardLatched { .. }
            | Record::GuardReleased { .. } => {}
        }
    }

    /// What is recorded of files is what they say at that moment.
    fn check_files(&self, files: &FileMarks) {
        let project = self.tree.roots()[0].parent().expect("a root is below the project directory");
        // Of a home and of templates this knows nothing.
        let is_plain = |path: &str| !path.starts_with('~') && !path.contains("{{");
        for (path, digest) in files.env.iter().filter(|(path, _)| is_plain(path)) {
            let text = self.tree.read(&project.join(path)).ok().flatten();
            let variables = text.and_then(|text| dotenv::parse(&text).ok());
            if variables.map(|variables| FileMarks::of_variables(&variables)).as_ref() != Some(digest) {
                self.violation(format_args!("{path} is recorded as it is not"));
            }
        }
    }

    fn check_text(&self, digest: &Digest) {
        if self.journal.text(digest).is_none() {
            self.violation(format_args!("the ledger names the text {digest}, which was not kept"));
        }
    }

    /// What is let go of is gone; only what is in doubt may be given up alive.
    fn check_let_go(&self, service: &ServiceId, nonce: &Nonce) {
        let Some(run) = self.runs.get(nonce).filter(|run| !self.doubts.contains_key(&run.service)) else {
            return;
        };
        if run.anything_lives() || run.may_be_born(self.epoch) {
            self.violation(format_args!("{service} ({nonce}) is let go of while it lives: an orphan"));
        }
    }
}

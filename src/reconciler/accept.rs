//! Which text of each file is accepted: judged as a candidate, settled by `ownership`, noted in the ledger.
//!
//! A file is a unit. Called by `desired` in each look; a text that is accepted already is not judged here.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Reconciler;
use super::library::Loaded;
use super::ownership::{FileStanding, InForce};
use super::roots::text_of;
use crate::host::{Host, RootScan};
use crate::identity::ServiceId;
use crate::manifest::{Problem, Severity};
use crate::state::{FileKey, Ledger, Record, RootKey};

impl<H: Host> Reconciler<H> {
    pub(super) fn standings(&mut self, keyed: &[(RootKey, RootScan)]) -> Vec<FileStanding> {
        let mut standings = Vec::new();
        for (root, scan) in keyed {
            let Ok(listing) = &scan.listing else { continue };
            for (path, file) in &listing.files {
                let key = FileKey { root: root.clone(), path: path.clone() };
                let accepted_digest = self.memory.ledger().files.get(&key).map(|entry| entry.digest.clone());
                let (candidate, mut problems) = match self.library.load(&key, file) {
                    Ok(loaded) => (Some(Arc::clone(&loaded)), loaded.problems.clone()),
                    Err(problem) => (None, vec![problem]),
                };
                let is_new_text =
                    candidate.as_ref().is_some_and(|loaded| Some(&loaded.digest) != accepted_digest.as_ref());
                if let Some(loaded) = candidate.as_ref().filter(|_| is_new_text) {
                    problems.extend(self.judge_candidate(&key, loaded));
                }
                let last = accepted_digest.and_then(|digest| self.library.recall(&mut self.host, &digest));
                standings.push(FileStanding { key, candidate, problems, last });
            }
        }
        standings
    }

    /// Problems of a text that is not accepted yet, under the policy. An executable that is not there is a
    /// problem only where an accepted version would be given up for it; else it is a gate.
    fn judge_candidate(&mut self, key: &FileKey, loaded: &Loaded) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.policy.check_file(loaded.services.len()).into_iter().collect();
        problems.extend(self.policy.check_total(self.services_beside(key) + loaded.services.len()));
        for accepted in &loaded.services {
            let judgement = self.judge(accepted);
            problems.extend(judgement.problems);
            let has_accepted = self
                .memory
                .ledger()
                .entry(&accepted.spec.id)
                .is_some_and(|entry| entry.file.as_ref() == Some(key) || entry.run.is_some());
            problems.extend(judgement.unresolved.map(|problem| {
                if has_accepted { problem } else { Problem { severity: Severity::Warning, ..problem } }
            }));
        }
        problems
    }

    /// Services of the accepted files other than this one.
    fn services_beside(&self, key: &FileKey) -> usize {
        self.memory
            .ledger()
            .files
            .iter()
            .filter(|(file, _)| *file != key)
            .map(|(_, entry)| entry.services.len())
            .sum()
    }

    pub(super) fn note_accepted(
        &mut self,
        keyed: &[(RootKey, RootScan)],
        files: &[FileStanding],
        in_force: &[InForce],
    ) {
        let mut records = Vec::new();
        for (file, choice) in files.iter().zip(in_force) {
            let InForce::Candidate(loaded) = choice else { continue };
            let known = self.memory.ledger().files.get(&file.key);
            if known.is_some_and(|entry| entry.digest == loaded.digest) {
                continue;
            }
            if known.is_none() && loaded.services.is_empty() {
                continue;
            }
            let Some((text, directory_inode)) = text_of(keyed, &file.key) else { continue };
            // Without its text on disk a version is not accepted: it could not be started again.
            if self.host.keep_text(&loaded.digest, &text).is_err() {
                continue;
            }
            records.push(Record::Accepted {
                file: file.key.clone(),
                digest: loaded.digest.clone(),
                services: loaded.services.iter().map(|accepted| accepted.spec.id.clone()).collect(),
                directory_inode,
            });
        }
        records.extend(abandoned_files(self.memory.ledger(), &records, keyed));
        if !records.is_empty() {
            self.memory.note(&mut self.host, records);
        }
    }
}

/// Files of the ledger that are gone, and whose services other files declare or nothing remembers.
fn abandoned_files(ledger: &Ledger, coming: &[Record], keyed: &[(RootKey, RootScan)]) -> Vec<Record> {
    let moved: BTreeSet<&ServiceId> = coming
        .iter()
        .filter_map(|record| match record {
            Record::Accepted { services, .. } => Some(services),
            _ => None,
        })
        .flatten()
        .collect();
    let still_owned: BTreeSet<&FileKey> = ledger
        .services
        .iter()
        .filter(|(service, _)| !moved.contains(service))
        .filter_map(|(_, entry)| entry.file.as_ref())
        .collect();
    ledger
        .files
        .keys()
        .filter(|key| !still_owned.contains(key))
        .filter(|key| {
            keyed.iter().any(|(root, scan)| {
                *root == key.root
                    && scan.listing.as_ref().is_ok_and(|listing| !listing.files.contains_key(&key.path))
            })
        })
        .map(|key| Record::FileForgotten { file: key.clone() })
        .collect()
}

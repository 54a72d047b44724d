//! What is wanted of each service: of declared ones, rejected ones, and those that only the ledger knows.
//!
//! Judges what is accepted under the policy in force. Called by `desired` in each look.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::Reconciler;
use super::judge::Judgement;
use super::ownership::{FileStanding, InForce};
use super::roots::shown_path;
use crate::host::{Host, RootScan};
use crate::identity::{DEFAULT_PROJECT, ServiceId};
use crate::manifest::Problem;
use crate::plan::{Accepted, Presence, Refusal, Want};
use crate::state::RootKey;

impl<H: Host> Reconciler<H> {
    pub(super) fn wants(
        &mut self,
        keyed: &[(RootKey, RootScan)],
        files: &[FileStanding],
        in_force: &[InForce],
    ) -> BTreeMap<ServiceId, Want> {
        let mut wants = BTreeMap::new();
        for (file, choice) in files.iter().zip(in_force) {
            let path = shown_path(keyed, &file.key);
            for accepted in choice.services() {
                let judgement = self.judge_if_needed(accepted);
                let accepted = self.with_default_ttl(accepted);
                let want = declared_want(&accepted, judgement, &file.problems, path.clone());
                wants.insert(accepted.spec.id.clone(), want);
            }
        }
        for file in files {
            for service in rejected_names(file) {
                wants.entry(service).or_insert_with(|| Want {
                    accepted: None,
                    refused: None,
                    problems: file.problems.clone(),
                    presence: Presence::Present,
                    manifest: Some(shown_path(keyed, &file.key)),
                    gate: None,
                    retry: false,
                });
            }
        }
        self.add_undeclared(keyed, &mut wants);
        wants
    }

    /// A spec that was fine since the last full look is not judged again for another file's sake.
    fn judge_if_needed(&mut self, accepted: &Accepted) -> Judgement {
        let service = &accepted.spec.id;
        if self.judged_well.get(service) == Some(&accepted.digest) {
            return Judgement::fine();
        }
        let judgement = self.judge(accepted);
        if judgement.problems.is_empty() && judgement.gate.is_none() {
            self.judged_well.insert(service.clone(), accepted.digest.clone());
        } else {
            self.judged_well.remove(service);
        }
        judgement
    }

    fn with_default_ttl(&self, accepted: &Arc<Accepted>) -> Arc<Accepted> {
        let ttl = self.policy.effective_ttl(&accepted.spec);
        if ttl == accepted.spec.ttl {
            return Arc::clone(accepted);
        }
        let mut with_ttl = Accepted::clone(accepted);
        with_ttl.spec.ttl = ttl;
        Arc::new(with_ttl)
    }

    /// Services that the ledger remembers and no file declares.
    fn add_undeclared(&mut self, keyed: &[(RootKey, RootScan)], wants: &mut BTreeMap<ServiceId, Want>) {
        let ledger = self.memory.ledger();
        let mut undeclared = Vec::new();
        for (service, entry) in &ledger.services {
            if wants.contains_key(service) {
                continue;
            }
            let root = entry.file.as_ref().map(|file| file.root.clone());
            let given = root.as_ref().is_none_or(|root| keyed.iter().any(|(key, _)| key == root));
            let presence = match root {
                Some(root) if given => Presence::Absent { root },
                Some(root) => {
                    let path = ledger.roots.get(&root).map(|entry| entry.path.clone()).unwrap_or_default();
                    Presence::OtherRoot { path }
                }
                None => Presence::Absent {
                    root: keyed.first().map_or(RootKey(String::new()), |(key, _)| key.clone()),
                },
            };
            let digest =
                entry.file.as_ref().and_then(|file| ledger.files.get(file)).map(|file| file.digest.clone());
            let digest = digest.or_else(|| entry.run.as_ref().map(|run| run.digest.clone()));
            let manifest = entry.file.as_ref().map(|file| file.path.clone());
            undeclared.push((service.clone(), presence, digest, manifest));
        }
        for (service, presence, digest, manifest) in undeclared {
            let loaded = digest.and_then(|digest| self.library.recall(&mut self.host, &digest));
            let accepted = loaded.and_then(|loaded| loaded.service(&service).cloned());
            wants.insert(
                service,
                Want {
                    accepted,
                    refused: None,
                    problems: Vec::new(),
                    presence,
                    manifest,
                    gate: None,
                    retry: false,
                },
            );
        }
    }

    /// A spawn that failed is tried again once files have changed: the executable may be there by now.
    pub(super) fn retry_failed_spawns(&mut self) {
        if !std::mem::take(&mut self.files_changed) {
            return;
        }
        for (service, want) in &mut self.desired.services {
            want.retry =
                self.memory.ledger().entry(service).is_some_and(|entry| entry.spawn_failure.is_some());
        }
    }
}

fn declared_want(
    accepted: &Arc<Accepted>,
    judgement: Judgement,
    problems: &[Problem],
    path: PathBuf,
) -> Want {
    let refused = judgement.problems.first().map(|problem| Refusal { problem: problem.message.clone() });
    Want {
        accepted: Some(Arc::clone(accepted)),
        refused,
        problems: problems.to_vec(),
        presence: Presence::Present,
        manifest: Some(path),
        gate: judgement.gate,
        retry: false,
    }
}

/// Every service that a file which is not accepted speaks of, as far as its name can be told.
fn rejected_names(file: &FileStanding) -> BTreeSet<ServiceId> {
    if !file.problems.iter().any(Problem::blocks) {
        return BTreeSet::new();
    }
    let fine =
        file.candidate.iter().flat_map(|loaded| &loaded.services).map(|accepted| accepted.spec.id.clone());
    let mut names: BTreeSet<ServiceId> = fine.collect();
    let named = file.problems.iter().filter_map(|problem| problem.service.as_deref());
    for name in named {
        if names.iter().all(|known| known.name() != name)
            && let Ok(service) = ServiceId::new(DEFAULT_PROJECT, name)
        {
            names.insert(service);
        }
    }
    names
}

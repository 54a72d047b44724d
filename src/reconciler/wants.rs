//! What is wanted of each service: of declared ones, rejected ones, and those that only the ledger knows.
//!
//! Judges what is accepted under the policy in force. Called by `desired` in each look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Reconciler;
use super::judge::Judgement;
use super::ownership::{FileStanding, InForce};
use super::pass::LEDGER_UNWRITABLE;
use super::roots::shown_path;
use super::status::Drift;
use crate::host::{Host, RootScan};
use crate::identity::{DEFAULT_PROJECT, Digest, ServiceId};
use crate::manifest::Problem;
use crate::plan::{Accepted, Presence, Refusal, Want};
use crate::state::{Reason, RootKey};

/// What runs is allowed, and what its command comes to today is not.
const NOT_AGAIN: &str = "start-refused";

/// What the policy makes of one accepted spec.
#[derive(Debug, Default)]
struct PolicyStanding {
    refused: Option<Refusal>,
    gate: Option<Reason>,
}

impl PolicyStanding {
    fn refuse(&mut self, problem: Problem) {
        self.refused.get_or_insert(Refusal { problem: problem.message });
    }

    fn wanting(self, accepted: Option<Arc<Accepted>>) -> Want {
        Want {
            accepted,
            refused: self.refused,
            problems: Vec::new(),
            presence: Presence::Present,
            manifest: None,
            gate: self.gate,
            files: None,
            retry: false,
        }
    }
}

impl<H: Host> Reconciler<H> {
    pub(super) fn wants(
        &mut self,
        keyed: &[(RootKey, RootScan)],
        files: &[FileStanding],
        in_force: &[InForce],
    ) -> BTreeMap<ServiceId, Want> {
        // Collected first: a map that is made of all at once is full, and one of one by one half empty.
        let mut in_order = Vec::new();
        for (file, choice) in files.iter().zip(in_force) {
            let path = shown_path(keyed, &file.key);
            for accepted in choice.services() {
                let standing = self.policy_standing(accepted);
                let want = Want {
                    problems: file.problems_of(&accepted.spec.id),
                    manifest: Some(path.clone()),
                    ..standing.wanting(Some(Arc::clone(accepted)))
                };
                in_order.push((accepted.spec.id.clone(), want));
            }
        }
        let mut wants: BTreeMap<ServiceId, Want> = in_order.into_iter().collect();
        for file in files.iter().filter(|file| file.is_refused()) {
            for service in self.rejected_services(file) {
                wants.entry(service).or_insert_with_key(|service| Want {
                    problems: file.problems_of(service),
                    manifest: Some(shown_path(keyed, &file.key)),
                    ..self.unkept(file, service).unwrap_or_else(|| self.remembered(service))
                });
            }
        }
        self.add_undeclared(keyed, &mut wants);
        wants
    }

    /// Where the policy stands to an accepted spec, and to what runs of it.
    fn policy_standing(&mut self, accepted: &Accepted) -> PolicyStanding {
        if let Some(Problem { code, message, .. }) = self.without_policy.clone() {
            return PolicyStanding { refused: None, gate: Some(Reason::Gate { gate: code, message }) };
        }
        let service = &accepted.spec.id;
        let judgement = self.judge_if_needed(accepted);
        let mut standing = PolicyStanding { refused: None, gate: judgement.gate };
        let mut not_again = None;
        if let Some(problem) = judgement.problems.into_iter().next() {
            let of_run = self.judge_run(&accepted.spec);
            match of_run {
                Some(Ok(())) => {
                    standing.gate =
                        Some(Reason::Gate { gate: problem.code.clone(), message: problem.message.clone() });
                    not_again = Some(problem);
                }
                Some(Err(of_run)) => standing.refuse(of_run),
                None => standing.refuse(problem),
            }
        }
        self.show_not_again(service, not_again);
        standing
    }

    /// Shows, or no longer shows, that what runs could not be started again.
    fn show_not_again(&mut self, service: &ServiceId, problem: Option<Problem>) {
        self.hide_drift(service, NOT_AGAIN);
        if let Some(problem) = problem {
            let message = format!("it runs on and could not be started again: {}", problem.message);
            self.drift
                .entry(service.clone())
                .or_default()
                .push(Drift { code: NOT_AGAIN.to_owned(), message });
        }
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
            let manifest = entry.file.as_ref().map(|file| file.path.clone());
            undeclared.push((service.clone(), presence, manifest));
        }
        for (service, presence, manifest) in undeclared {
            let want = Want { presence, manifest, ..self.remembered(&service) };
            // What belongs to a root that was not given is shown and left alone.
            let want = match want.presence {
                Presence::OtherRoot { .. } => Want { refused: None, gate: None, ..want },
                Presence::Present | Presence::Absent { .. } => want,
            };
            wants.insert(service, want);
        }
    }

    /// What is wanted of a service by the newest text that the ledger names and that declares it: nothing is
    /// lost for want of a manifest that passes.
    fn remembered(&mut self, service: &ServiceId) -> Want {
        let accepted =
            self.texts_of(service).into_iter().find_map(|digest| self.recall_service(&digest, service));
        let standing = accepted.as_ref().map(|accepted| self.policy_standing(accepted)).unwrap_or_default();
        standing.wanting(accepted)
    }

    /// Of a new service whose text has nothing against it but that the disk does not take it: it waits for that.
    fn unkept(&self, file: &FileStanding, service: &ServiceId) -> Option<Want> {
        let mut blocking = file.problems.iter().filter(|problem| problem.blocks());
        let problem = blocking.next().filter(|problem| problem.code == LEDGER_UNWRITABLE)?;
        let accepted = file.candidate.as_ref()?.service(service)?;
        let is_new = self.memory.ledger().entry(service).is_none_or(|entry| entry.run.is_none())
            && self.texts_of(service).is_empty();
        let gate = Reason::LedgerUnwritable { detail: problem.message.clone() };
        let standing = PolicyStanding { refused: None, gate: Some(gate) };
        (is_new && blocking.next().is_none()).then(|| standing.wanting(Some(Arc::clone(accepted))))
    }

    fn recall_service(&mut self, digest: &Digest, service: &ServiceId) -> Option<Arc<Accepted>> {
        self.library.recall(&mut self.host, digest)?.service(service).cloned()
    }

    /// The newest first.
    fn texts_of(&self, service: &ServiceId) -> Vec<Digest> {
        let ledger = self.memory.ledger();
        let Some(entry) = ledger.entry(service) else { return Vec::new() };
        let file = entry.file.as_ref().and_then(|file| ledger.files.get(file)).map(|file| &file.digest);
        let run = entry.run.as_ref().map(|run| &run.digest);
        let last = entry.last.as_ref().map(|last| &last.digest);
        [file, run, last].into_iter().flatten().cloned().collect()
    }

    /// Every service that a file which is not accepted speaks of, as far as its name can be told, or owns.
    fn rejected_services(&self, file: &FileStanding) -> BTreeSet<ServiceId> {
        let ledger = self.memory.ledger();
        let owned = ledger.files.get(&file.key).into_iter().flat_map(|entry| &entry.services);
        let is_owner = |service: &&ServiceId| {
            ledger.entry(service).is_some_and(|entry| entry.file.as_ref() == Some(&file.key))
        };
        rejected_names(file, owned.filter(is_owner).cloned().collect())
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

/// The services that a text with problems speaks of, beside those that its file owns: of one without a project those
/// say which is meant.
fn rejected_names(file: &FileStanding, mut names: BTreeSet<ServiceId>) -> BTreeSet<ServiceId> {
    let fine =
        file.candidate.iter().flat_map(|loaded| &loaded.services).map(|accepted| accepted.spec.id.clone());
    let rejected = file.candidate.iter().flat_map(|loaded| &loaded.rejected).cloned();
    names.extend(fine.chain(rejected));
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

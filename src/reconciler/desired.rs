//! From scanned files to what is desired: accepted, refused, pending on a gate, absent.
//!
//! Reads through `host`, judges through `policy`, settles through `ownership`, and notes in the ledger which
//! texts are accepted. Called when files or policy may have changed, not in every pass.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::Reconciler;
use super::judge::Judgement;
use super::library::Loaded;
use super::ownership::{FileStanding, InForce, settle};
use super::roots::{lost_directories, recognise};
use crate::host::{Dirty, Host, RootScan};
use crate::identity::{DEFAULT_PROJECT, ServiceId};
use crate::manifest::{Problem, Severity};
use crate::plan::{Accepted, Presence, Refusal, RootState, Want};
use crate::state::{FileKey, Ledger, Record, RootKey};
use crate::time::{Clock, Stamp};

/// A manifest file with its problems, for the status.
#[derive(Debug, Clone)]
pub struct FileView {
    pub path: PathBuf,
    pub problems: Vec<Problem>,
    pub may_show_lines: bool,
}

/// What a look at the manifests came to, beside what is desired.
#[derive(Debug, Default)]
pub struct Manifests {
    pub files: Vec<FileView>,
    /// Since when nothing below a root has changed, by root.
    pub quiet_since: BTreeMap<RootKey, Stamp>,
    /// Digest of the versions of all files at the last look, to see whether anything has changed.
    versions: BTreeMap<RootKey, u64>,
}

impl<H: Host> Reconciler<H> {
    /// Looks at what may have changed and works out anew what is desired.
    pub(super) fn look_at_manifests(&mut self, dirty: &Dirty) {
        if *dirty == Dirty::Everything {
            self.judged_well.clear();
        }
        let scans = self.host.scan(dirty);
        let now = self.host.now();
        let keyed = self.recognise_roots(scans);
        self.watch_quiet(&keyed, &now);
        let mut files = self.standings(&keyed);
        let in_force = {
            let ledger = self.memory.ledger();
            settle(&mut files, |service| ledger.entry(service)?.file.as_ref())
        };
        self.note_accepted(&keyed, &files, &in_force);
        self.desired.roots = keyed
            .iter()
            .map(|(key, scan)| {
                let lost = lost_directories(self.memory.ledger(), key, scan);
                let quiet_for = now.since(&self.manifests.quiet_since[key], Clock::Awake);
                (key.clone(), RootState { path: scan.path.clone(), lost, quiet_for })
            })
            .collect();
        self.desired.services = self.wants(&keyed, &files, &in_force);
        self.retry_failed_spawns();
        self.publish_files(&keyed, &files);
        self.forget_texts();
        let all: Vec<ServiceId> = self.observed.services.keys().cloned().collect();
        self.compare(all);
    }

    /// How long each root has been quiet, as of `now`: the one input of the plan that changes by itself.
    pub(super) fn refresh_quiet(&mut self, now: &Stamp) {
        for (key, root) in &mut self.desired.roots {
            if let Some(since) = self.manifests.quiet_since.get(key) {
                root.quiet_for = now.since(since, Clock::Awake);
            }
        }
    }

    fn recognise_roots(&mut self, scans: Vec<RootScan>) -> Vec<(RootKey, RootScan)> {
        let mut taken = BTreeSet::new();
        let mut keyed = Vec::new();
        let mut records = Vec::new();
        self.root_problems.clear();
        for scan in scans {
            if let Err((code, message)) = &scan.listing {
                let problem = Problem::new(code, format!("{} {message}", scan.path.display()));
                self.root_problems.push(FileView {
                    path: scan.path.clone(),
                    problems: vec![problem],
                    may_show_lines: false,
                });
            }
            let Some((key, record)) = recognise(self.memory.ledger(), &scan, &taken) else { continue };
            taken.insert(key.clone());
            records.extend(record);
            keyed.push((key, scan));
        }
        if !records.is_empty() {
            self.memory.note(&mut self.host, records);
        }
        keyed
    }

    fn watch_quiet(&mut self, keyed: &[(RootKey, RootScan)], now: &Stamp) {
        for (key, scan) in keyed {
            let print = versions_digest(scan);
            if self.manifests.versions.insert(key.clone(), print) != Some(print) {
                self.manifests.quiet_since.insert(key.clone(), now.clone());
            }
        }
    }

    fn standings(&mut self, keyed: &[(RootKey, RootScan)]) -> Vec<FileStanding> {
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
                let last = match (&accepted_digest, is_new_text || candidate.is_none()) {
                    (Some(digest), true) => self.library.recall(&mut self.host, digest),
                    _ => None,
                };
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

    fn note_accepted(&mut self, keyed: &[(RootKey, RootScan)], files: &[FileStanding], in_force: &[InForce]) {
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

    fn wants(
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
    fn retry_failed_spawns(&mut self) {
        if !std::mem::take(&mut self.files_changed) {
            return;
        }
        for (service, want) in &mut self.desired.services {
            want.retry =
                self.memory.ledger().entry(service).is_some_and(|entry| entry.spawn_failure.is_some());
        }
    }

    fn publish_files(&mut self, keyed: &[(RootKey, RootScan)], files: &[FileStanding]) {
        let mut views: Vec<FileView> = files
            .iter()
            .map(|file| FileView {
                path: shown_path(keyed, &file.key),
                problems: file.problems.clone(),
                may_show_lines: scan_of(keyed, &file.key).is_some_and(|scan| scan.may_show_lines),
            })
            .collect();
        views.extend(self.root_problems.iter().cloned());
        views.sort_by(|a, b| a.path.cmp(&b.path));
        self.manifests.files = views;
    }

    fn forget_texts(&mut self) {
        let ledger = self.memory.ledger();
        let mut digests: BTreeSet<_> = ledger.files.values().map(|file| file.digest.clone()).collect();
        for entry in ledger.services.values() {
            digests.extend(entry.run.iter().flat_map(|run| [run.digest.clone(), run.started_digest.clone()]));
            digests.extend(entry.last.iter().map(|last| last.digest.clone()));
        }
        let known: BTreeSet<_> = self.manifests.files.iter().map(|file| file.path.clone()).collect();
        let roots = &self.desired.roots;
        self.library.retain(
            |key| roots.get(&key.root).is_some_and(|root| known.contains(&root.path.join(&key.path))),
            |digest| digests.contains(digest),
        );
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

fn scan_of<'a>(keyed: &'a [(RootKey, RootScan)], key: &FileKey) -> Option<&'a crate::host::FileScan> {
    let (_, scan) = keyed.iter().find(|(root, _)| *root == key.root)?;
    scan.listing.as_ref().ok()?.files.get(&key.path)
}

fn shown_path(keyed: &[(RootKey, RootScan)], key: &FileKey) -> PathBuf {
    let root = keyed.iter().find(|(root, _)| *root == key.root);
    root.map_or_else(|| key.path.clone(), |(_, scan)| scan.path.join(&key.path))
}

fn text_of(keyed: &[(RootKey, RootScan)], key: &FileKey) -> Option<(Arc<str>, u64)> {
    let (_, scan) = keyed.iter().find(|(root, _)| *root == key.root)?;
    let listing = scan.listing.as_ref().ok()?;
    let text = listing.files.get(&key.path)?.content.as_ref().ok()?;
    let directory = key.path.parent().unwrap_or(std::path::Path::new(""));
    let inode =
        listing.directories.get(directory).and_then(|found| found.as_ref().ok()).copied().unwrap_or(0);
    Some((Arc::clone(text), inode))
}

fn versions_digest(scan: &RootScan) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    match &scan.listing {
        Err((code, _)) => code.hash(&mut hasher),
        Ok(listing) => {
            for (path, file) in &listing.files {
                path.hash(&mut hasher);
                file.version.hash(&mut hasher);
            }
            for (path, found) in &listing.directories {
                path.hash(&mut hasher);
                found.as_ref().ok().hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}

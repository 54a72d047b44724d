//! Which text of each file is accepted: judged as a candidate, settled by `ownership`, noted in the ledger.
//!
//! A file is a unit. Called by `desired` in each look; a text that is accepted already is not judged here.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::Reconciler;
use super::library::Loaded;
use super::ownership::{FileStanding, InForce};
use super::pass::LEDGER_UNWRITABLE;
use super::roots::inode_of;
use crate::host::{FileScan, Host, RootScan};
use crate::identity::ServiceId;
use crate::manifest::{Places, Problem, Severity};
use crate::plan::Accepted;
use crate::policy::code::key_of;
use crate::state::{FileKey, Ledger, Record, RootKey};

/// A file that declared services and has nothing in it any more is what a failed save leaves, not a decision.
fn emptied(file: &FileScan, declared: usize) -> Option<Problem> {
    let is_blank = file.content.as_ref().is_ok_and(|text| text.trim().is_empty());
    (is_blank && declared > 0).then(|| {
        Problem::new("empty-file", "it is empty, and declared services before")
            .help("delete the file to remove them, or leave a comment in it")
    })
}

impl<H: Host> Reconciler<H> {
    pub(super) fn standings(&mut self, keyed: &[(RootKey, RootScan)]) -> Vec<FileStanding> {
        let mut standings = Vec::new();
        let mut tally = Tally::of(self.memory.ledger());
        for (root, scan) in keyed {
            let Ok(listing) = &scan.listing else { continue };
            let shelf = self.shelf(root, listing);
            for (path, file) in &listing.files {
                let key = FileKey { root: root.clone(), path: path.clone() };
                let accepted_digest = self.memory.ledger().files.get(&key).map(|entry| entry.digest.clone());
                let (candidate, whole_text, mut problems) = match self.library.load(&key, file) {
                    Ok(own) => {
                        let text = file.content.as_deref().unwrap_or_default();
                        let whole = shelf.make_whole(&mut self.library, &key, &own, text);
                        let loaded = whole.as_ref().map_or(own, |whole| Arc::clone(&whole.loaded));
                        let problems = shelf.explain(path, &loaded);
                        (Some(loaded), whole.map(|whole| whole.text), problems)
                    }
                    Err(problem) => (None, None, vec![problem]),
                };
                let is_new_text =
                    candidate.as_ref().is_some_and(|loaded| Some(&loaded.digest) != accepted_digest.as_ref());
                if let Some(loaded) = candidate.as_ref().filter(|_| is_new_text) {
                    match &self.without_policy {
                        Some(why) => problems.push(why.clone()),
                        None => {
                            let text = file.content.as_deref().unwrap_or_default();
                            problems.extend(self.judge_candidate(&key, loaded, text));
                        }
                    }
                    let owned = self.owned_by(&key);
                    problems.extend(emptied(file, owned.len()));
                    problems.extend(self.policy.check_total(tally.total_with(&owned, loaded)));
                    if !problems.iter().any(Problem::blocks) {
                        tally.take_up(&owned, loaded);
                    }
                }
                let last = accepted_digest.and_then(|digest| self.library.recall(&mut self.host, &digest));
                let directory_inode = inode_of(listing, path.parent().unwrap_or(Path::new("")));
                let scan = Arc::clone(file);
                standings.push(FileStanding {
                    key,
                    scan,
                    directory_inode,
                    whole_text,
                    candidate,
                    problems,
                    last,
                });
            }
        }
        standings
    }

    /// Problems of a text that is not accepted yet, under the policy. An executable, user or directory that is not
    /// there is a problem only where an accepted version would be given up for it, or where somebody asks for all
    /// that stands in the way of a start; else it is a gate.
    fn judge_candidate(&mut self, key: &FileKey, loaded: &Loaded, text: &str) -> Vec<Problem> {
        let places = Places::of(text);
        let mut problems: Vec<Problem> = self.policy.check_file(loaded.services.len()).into_iter().collect();
        for accepted in &loaded.services {
            let judgement = self.judge(accepted);
            let id = &accepted.spec.id;
            let placed = |problem: Problem| {
                let field = problem.field.as_deref().or_else(|| key_of(&problem.code));
                match field.and_then(|field| places.find(id.name(), field)) {
                    Some(span) => problem.at(span),
                    None => loaded.placed(problem, id),
                }
            };
            problems.extend(judgement.problems.into_iter().map(placed));
            let has_accepted = self
                .memory
                .ledger()
                .entry(&accepted.spec.id)
                .is_some_and(|entry| entry.file.as_ref() == Some(key) || entry.run.is_some());
            problems.extend(judgement.unresolved.map(placed).map(|problem| {
                if has_accepted || self.is_strict {
                    problem
                } else {
                    Problem { severity: Severity::Warning, ..problem }
                }
            }));
        }
        problems
    }

    /// What the file's accepted version counts for.
    fn owned_by(&self, key: &FileKey) -> HashSet<ServiceId> {
        let ledger = self.memory.ledger();
        let is_owner = |service: &&ServiceId| {
            ledger.entry(service).is_some_and(|entry| entry.file.as_ref() == Some(key))
        };
        let services = ledger.files.get(key).into_iter().flat_map(|entry| &entry.services);
        services.filter(is_owner).cloned().collect()
    }

    /// Keeps the texts that are about to be accepted. One that cannot be kept is a problem of its file: it
    /// could not be started again. Says whether there was any.
    pub(super) fn keep_texts(&mut self, files: &mut [FileStanding], in_force: &[InForce]) -> bool {
        let mut any_lost = false;
        for (file, choice) in files.iter_mut().zip(in_force) {
            let InForce::Candidate(loaded) = choice else { continue };
            if !is_news(self.memory.ledger(), &file.key, loaded) {
                continue;
            }
            let Ok(own) = &file.scan.content else { continue };
            let text = file.whole_text.as_ref().unwrap_or(own);
            if let Err(error) = self.host.keep_text(&loaded.digest, text) {
                let message = format!("{error}: {}; what was accepted before stays in force", error.source);
                file.problems.push(Problem::new(LEDGER_UNWRITABLE, message));
                any_lost = true;
            }
        }
        any_lost
    }

    /// Notes which texts are accepted, and anew the directory of one that was recreated around it.
    pub(super) fn note_accepted(
        &mut self,
        keyed: &[(RootKey, RootScan)],
        files: &[FileStanding],
        in_force: &[InForce],
    ) {
        let ledger = self.memory.ledger();
        let mut records = Vec::new();
        for (file, choice) in files.iter().zip(in_force) {
            let InForce::Candidate(loaded) = choice else { continue };
            let directory_inode = file.directory_inode;
            let is_moved = ledger.files.get(&file.key).is_some_and(|known| {
                // The file was found in it: the directory is not lost.
                directory_inode != 0 && known.directory_inode != directory_inode
            });
            if is_moved || is_news(ledger, &file.key, loaded) {
                records.push(Record::Accepted {
                    file: file.key.clone(),
                    digest: loaded.digest.clone(),
                    services: loaded.services.iter().map(|accepted| accepted.spec.id.clone()).collect(),
                    directory_inode,
                });
            }
        }
        records.extend(abandoned_files(ledger, &records, keyed));
        if !records.is_empty() {
            self.memory.note(&mut self.host, records);
        }
    }
}

/// The ledger does not have this text for the file; nor does it need one that never declared anything.
fn is_news(ledger: &Ledger, key: &FileKey, loaded: &Loaded) -> bool {
    match ledger.files.get(key) {
        Some(known) => known.digest != loaded.digest,
        None => !loaded.services.is_empty(),
    }
}

/// The distinct services there are, with those of the new texts that the look has found good so far: in the
/// order of the files, a cap on all of them is used up.
#[derive(Debug)]
struct Tally {
    counted: HashSet<ServiceId>,
    /// Those that a text of this look brings: the file that had one before does not take it away any more.
    taken_up: HashSet<ServiceId>,
}

impl Tally {
    fn of(ledger: &Ledger) -> Self {
        Self { counted: ledger.services.keys().cloned().collect(), taken_up: HashSet::new() }
    }

    /// How many there are once `loaded` is accepted in place of what its file `owned`.
    fn total_with(&self, owned: &HashSet<ServiceId>, loaded: &Loaded) -> usize {
        let is_given_up =
            |service: &&ServiceId| loaded.service(service).is_none() && !self.taken_up.contains(*service);
        let given_up = owned.iter().filter(is_given_up).count();
        let is_new = |accepted: &&Arc<Accepted>| !self.counted.contains(&accepted.spec.id);
        self.counted.len() + loaded.services.iter().filter(is_new).count() - given_up
    }

    fn take_up(&mut self, owned: &HashSet<ServiceId>, loaded: &Loaded) {
        for service in owned.difference(&self.taken_up) {
            self.counted.remove(service);
        }
        for accepted in &loaded.services {
            self.counted.insert(accepted.spec.id.clone());
            self.taken_up.insert(accepted.spec.id.clone());
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

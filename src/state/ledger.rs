//! The ledger folded: what is remembered of every root, file and service.
//!
//! [`Ledger::apply`] is total: a record that does not fit what came before (a `Started` without its intent,
//! after a lost tail) changes as much as it can and never panics. [`Ledger::snapshot`] is the way back.
//! Called by `host::ledger_file` to replay and compact, by `reconciler` to keep up with what it appends. Pure.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Entry, Holder, Lease, LeaseEnd, LeaseId, Record, Release, Run};
use crate::identity::{Digest, Nonce, ServiceId};
use crate::time::Stamp;

/// Names a root in the ledger, `r1`, `r2`, …, whatever its path is today.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RootKey(pub String);

/// A manifest file: a root, and the path beneath it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileKey {
    pub root: RootKey,
    #[serde(with = "super::paths")]
    pub path: PathBuf,
}

impl FileKey {
    /// What it is compared by: the bytes of the path. Paths are taken apart whenever two are compared, and finding
    /// files was a sixth of a look at a thousand of them.
    fn key(&self) -> (&RootKey, &OsStr) {
        (&self.root, self.path.as_os_str())
    }
}

impl PartialEq for FileKey {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for FileKey {}

impl Hash for FileKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl Ord for FileKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for FileKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ledger {
    pub roots: BTreeMap<RootKey, RootEntry>,
    pub files: BTreeMap<FileKey, FileEntry>,
    /// Each shared with whoever plans with it: a change makes a new one only while somebody still looks at the old.
    pub services: BTreeMap<ServiceId, Arc<Entry>>,
    /// Of each holder.
    pub leases: BTreeMap<LeaseId, Lease>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootEntry {
    pub path: PathBuf,
    pub dev: u64,
    pub inode: u64,
    /// `None` where it is not known.
    pub born_ns: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    pub digest: Digest,
    /// Of the directory it was in when accepted; 0 if unknown.
    pub directory_inode: u64,
    /// In the order of the names, each once: nearly always one, for which a set would keep room for eleven.
    pub services: Box<[ServiceId]>,
}

impl Ledger {
    /// The ledger that these records make, from nothing.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut ledger = Self::default();
        records.into_iter().for_each(|record| ledger.apply(record));
        ledger
    }

    pub fn entry(&self, service: &ServiceId) -> Option<&Entry> {
        self.services.get(service).map(Arc::as_ref)
    }

    /// Folds one record in.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Root { key, path, dev, inode, born_ns } => {
                let (dev, inode, born_ns) = (*dev, *inode, *born_ns);
                self.roots.insert(key.clone(), RootEntry { path: path.clone(), dev, inode, born_ns });
            }
            Record::Accepted { file, digest, services, directory_inode } => {
                self.accept(file, digest, services, *directory_inode);
            }
            Record::FileForgotten { file } => self.forget_file(file),
            Record::Forgotten { service } => {
                self.services.remove(service);
                self.leases.retain(|_, lease| !lease.services.remove(service) || !lease.services.is_empty());
            }
            Record::Leased { lease } => {
                self.leases.insert(lease.holder.id(), Lease::clone(lease));
            }
            Record::LeaseEnded { holder, services, how, at } => self.end_lease(holder, services, *how, at),
            Record::Intent(intent) => self.known(&intent.service).begin(intent),
            Record::Started { service, nonce, process, containment, at } => {
                self.alter(service, |entry| entry.started(nonce, process, containment, at));
            }
            Record::SpawnFailed { service, nonce, failure, at } => {
                self.alter(service, |entry| entry.spawn_failed(nonce, failure, at));
            }
            Record::Exited { service, nonce, end, failures, at } => {
                self.alter(service, |entry| entry.exited(nonce, end, *failures, at));
            }
            Record::Gone { service, nonce } => self.alter(service, |entry| entry.gone(nonce)),
            Record::Ready { service, nonce, at } => {
                self.alter_run(service, nonce, |run| {
                    run.ready_at.get_or_insert_with(|| at.clone());
                });
            }
            Record::Updated { service, nonce, digest } => {
                self.alter_run(service, nonce, |run| run.digest = digest.clone());
            }
            Record::Beside { service, nonce, beside } => {
                self.alter_run(service, nonce, |run| run.beside.clone_from(beside));
            }
            Record::Files { service, nonce, files } => {
                self.alter(service, |entry| entry.goes_on_with(nonce, files));
            }
            Record::Stopping { service, nonce, why, at } => {
                self.alter_run(service, nonce, |run| run.stop(why, at));
            }
            Record::Request { service, request, at } => self.known(service).request(request, at),
            Record::Deactivated { service } => self.alter(service, Entry::deactivate),
            Record::GuardLatched { service, why } => self.known(service).guard = Some(Box::new(why.clone())),
            Record::GuardReleased { service } => self.alter(service, |entry| entry.guard = None),
            Record::Entry { service, entry } => {
                self.services.insert(service.clone(), Arc::clone(entry));
            }
        }
    }

    /// The fewest records that [`Ledger::replay`] makes this ledger from.
    pub fn snapshot(&self) -> Vec<Record> {
        let roots = self.roots.iter().map(|(key, root)| Record::Root {
            key: key.clone(),
            path: root.path.clone(),
            dev: root.dev,
            inode: root.inode,
            born_ns: root.born_ns,
        });
        let files = self.files.iter().map(|(file, accepted)| Record::Accepted {
            file: file.clone(),
            digest: accepted.digest.clone(),
            services: accepted.services.to_vec(),
            directory_inode: accepted.directory_inode,
        });
        // `Accepted` makes an entry for each service; one that was forgotten since has none.
        let declared: BTreeSet<&ServiceId> = self.files.values().flat_map(|file| &file.services).collect();
        let forgotten = declared
            .into_iter()
            .filter(|service| !self.services.contains_key(service))
            .map(|service| Record::Forgotten { service: service.clone() });
        let entries = self
            .services
            .iter()
            .map(|(service, entry)| Record::Entry { service: service.clone(), entry: Arc::clone(entry) });
        let leases = self.leases.values().map(|lease| Record::Leased { lease: Box::new(lease.clone()) });
        roots.chain(files).chain(forgotten).chain(entries).chain(leases).collect()
    }

    /// The accepted texts that anything still names.
    pub fn texts(&self) -> BTreeSet<&Digest> {
        let of_files = self.files.values().map(|file| &file.digest);
        let of_runs = self.services.values().filter_map(|entry| entry.run.as_ref());
        let of_ends = self.services.values().filter_map(|entry| entry.last.as_ref());
        of_files
            .chain(of_runs.flat_map(|run| [&run.started_digest, &run.digest]))
            .chain(of_ends.map(|last| &last.digest))
            .collect()
    }

    /// Drops every claim to a process, for a copy that shall begin anew; what was accepted, asked for by the
    /// operator and counted stays.
    pub fn disown(&mut self) {
        self.leases.clear();
        for entry in self.services.values_mut() {
            let entry = Arc::make_mut(entry);
            entry.run = None;
            // They are those of whoever this was copied from.
            entry.ports.clear();
            entry.deactivate();
        }
    }

    fn end_lease(&mut self, holder: &Holder, services: &BTreeSet<ServiceId>, how: LeaseEnd, at: &Stamp) {
        let id = holder.id();
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.services.retain(|service| !services.contains(service));
            if lease.services.is_empty() {
                self.leases.remove(&id);
            }
        }
        for service in services {
            let release = Release { holder: holder.to_string(), how };
            self.alter(service, |entry| entry.release(release, at));
        }
    }

    fn known(&mut self, service: &ServiceId) -> &mut Entry {
        Arc::make_mut(self.services.entry(service.clone()).or_default())
    }

    fn alter(&mut self, service: &ServiceId, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.services.get_mut(service) {
            change(Arc::make_mut(entry));
        }
    }

    fn alter_run(&mut self, service: &ServiceId, nonce: &Nonce, change: impl FnOnce(&mut Run)) {
        let entry = self.services.get_mut(service).map(Arc::make_mut);
        if let Some(run) = entry.and_then(|entry| entry.run_of(nonce)) {
            change(run);
        }
    }

    /// A service that the file no longer declares, and no other does, is declared by none.
    fn accept(&mut self, file: &FileKey, digest: &Digest, services: &[ServiceId], directory_inode: u64) {
        let before = self.files.remove(file).map(|old| old.services).unwrap_or_default();
        for service in before.iter().filter(|service| !services.contains(service)) {
            self.alter(service, |entry| entry.undeclare(file));
        }
        let services: BTreeSet<ServiceId> = services.iter().cloned().collect();
        let services: Box<[ServiceId]> = services.into_iter().collect();
        for service in &services {
            self.known(service).file = Some(file.clone());
        }
        self.files.insert(file.clone(), FileEntry { digest: digest.clone(), directory_inode, services });
    }

    /// Looks at every service: the record that said which ones the file declares may be lost.
    fn forget_file(&mut self, file: &FileKey) {
        self.files.remove(file);
        for entry in self.services.values_mut().filter(|entry| entry.file.as_ref() == Some(file)) {
            Arc::make_mut(entry).undeclare(file);
        }
    }
}

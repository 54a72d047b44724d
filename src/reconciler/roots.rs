//! Roots, by the names the ledger knows them under, and what of them has been lost.
//!
//! A root is recognised by its path, or by device and inode when a project has moved. Reports facts for the
//! prune guards of `plan`; decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ownership::FileStanding;
use crate::host::{RootListing, RootScan};
use crate::manifest::Unread;
use crate::plan::UnreadFile;
use crate::state::{FileKey, Ledger, Record, RootEntry, RootKey};

/// The key of a scanned root, and the record to write if the ledger does not have it so.
///
/// `None` for a root that cannot be listed and that the ledger has never seen.
pub fn recognise(
    ledger: &Ledger,
    scan: &RootScan,
    taken: &BTreeSet<RootKey>,
) -> Option<(RootKey, Option<Record>)> {
    let by_path = || ledger.roots.iter().find(|(key, root)| root.path == scan.path && !taken.contains(*key));
    let Ok(listing) = &scan.listing else {
        return by_path().map(|(key, _)| (key.clone(), None));
    };
    let by_inode = || {
        ledger.roots.iter().find(|(key, root)| {
            root.dev == listing.dev && is_directory(root, listing) && !taken.contains(*key)
        })
    };
    let known = by_path().or_else(by_inode).map(|(key, root)| (key.clone(), root.clone()));
    let (key, unchanged) = match known {
        Some((key, root)) => {
            let same = root.path == scan.path
                && (root.dev, root.inode, root.born_ns) == (listing.dev, listing.inode, listing.born_ns);
            // An empty directory in place of the one that held manifests may be a lost mount: what was known
            // of the root is the evidence for its guard, and stays.
            let lost = listing.files.is_empty() && holds_files(ledger, &key);
            (key, same || lost)
        }
        None => (fresh_key(ledger, taken), false),
    };
    let record = (!unchanged).then(|| Record::Root {
        key: key.clone(),
        path: scan.path.clone(),
        dev: listing.dev,
        inode: listing.inode,
        born_ns: listing.born_ns,
    });
    Some((key, record))
}

/// Whether it is the directory of then; one that was made anew may have its inode number.
fn is_directory(root: &RootEntry, listing: &RootListing) -> bool {
    let same_birth = root.born_ns.zip(listing.born_ns).is_none_or(|(then, now)| then == now);
    root.inode == listing.inode && same_birth
}

fn holds_files(ledger: &Ledger, key: &RootKey) -> bool {
    ledger.files.keys().any(|file| file.root == *key)
}

/// Not one that files go by whose root was lost from the ledger: they are not below this one.
fn fresh_key(ledger: &Ledger, taken: &BTreeSet<RootKey>) -> RootKey {
    (1..)
        .map(|n| RootKey(format!("r{n}")))
        .find(|key| !ledger.roots.contains_key(key) && !holds_files(ledger, key) && !taken.contains(key))
        .expect("there are more numbers than roots")
}

/// Directories that held accepted manifests and are missing, unreadable, or empty with another inode; with
/// what is the matter, to be read after the path.
pub fn lost_directories(ledger: &Ledger, key: &RootKey, scan: &RootScan) -> BTreeMap<PathBuf, String> {
    let held: BTreeSet<&Path> = ledger
        .files
        .keys()
        .filter(|file| file.root == *key)
        .map(|file| file.path.parent().unwrap_or(Path::new("")))
        .collect();
    let listing = match &scan.listing {
        Ok(listing) => listing,
        Err((_, message)) => return held.into_iter().map(|dir| (dir.to_owned(), message.clone())).collect(),
    };
    held.into_iter()
        .filter_map(|directory| Some((directory.to_owned(), what_is_lost(ledger, key, listing, directory)?)))
        .collect()
}

fn what_is_lost(ledger: &Ledger, key: &RootKey, listing: &RootListing, directory: &Path) -> Option<String> {
    let inode = match listing.directories.get(directory) {
        None => return Some("is missing".to_owned()),
        Some(Err(error)) => return Some(format!("cannot be read ({error})")),
        Some(Ok(inode)) => *inode,
    };
    let is_empty = !listing.files.keys().any(|file| file.parent() == Some(directory));
    let is_the_same = if directory == Path::new("") {
        is_directory(ledger.roots.get(key)?, listing)
    } else {
        inode == inode_before(ledger, key, directory)?
    };
    (is_empty && !is_the_same).then(|| "is empty and not the directory that it was".to_owned())
}

/// Of a directory below the root.
fn inode_before(ledger: &Ledger, key: &RootKey, directory: &Path) -> Option<u64> {
    let in_directory = |file: &FileKey| file.root == *key && file.path.parent() == Some(directory);
    ledger.files.iter().find(|(file, _)| in_directory(file)).map(|(_, entry)| entry.directory_inode)
}

/// Refused files of the root that may declare more than is known.
pub fn unread_files(key: &RootKey, scan: &RootScan, files: &[FileStanding]) -> Vec<UnreadFile> {
    let Ok(listing) = &scan.listing else { return Vec::new() };
    let refused = files.iter().filter(|file| file.key.root == *key && file.is_refused());
    refused
        .filter_map(|file| {
            let services = match &file.candidate {
                Some(loaded) => Arc::clone(&loaded.unread),
                None => Arc::new(Unread::Anything),
            };
            let changed_ns = listing.files.get(&file.key.path)?.version.ctime_ns;
            let problem = file.problems.iter().find(|problem| problem.blocks())?;
            (*services != Unread::Nothing).then(|| UnreadFile {
                path: file.key.path.clone(),
                services,
                changed_wall_ms: changed_ns / 1_000_000,
                problem: problem.message.clone(),
            })
        })
        .collect()
}

pub fn shown_path(keyed: &[(RootKey, RootScan)], key: &FileKey) -> PathBuf {
    let root = keyed.iter().find(|(root, _)| *root == key.root);
    root.map_or_else(|| key.path.clone(), |(_, scan)| scan.path.join(&key.path))
}

/// Of a listed directory; 0 if unknown.
pub fn inode_of(listing: &RootListing, directory: &Path) -> u64 {
    listing.directories.get(directory).and_then(|found| found.as_ref().ok()).copied().unwrap_or(0)
}

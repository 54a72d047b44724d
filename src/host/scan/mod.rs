//! The manifests as they are on disk: texts and problems, never what they mean.
//!
//! [`Scanner`] lists every root and keeps what it read, so that a scan in which nothing changed reads no
//! file. It never hangs (see `file`), never follows a link out of a root unless told to, and reports
//! what it cannot read rather than leaving it out: a manifest that is missing from a listing is a
//! service to be stopped. Called by the host for each batch of file events and for each full pass.

mod file;
mod named;
mod names;
mod trouble;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::{Dirty, RootScan, trust};
pub(super) use file::{Completeness, completeness, now_ns, real_path, version};
use file::{Reach, Trust};
pub use named::{Named, named};
pub use trouble::OUT_OF_DESCRIPTORS;
use trouble::Trouble;
use walk::{Identity, Tree};

/// Reads manifests below the roots it was made for.
#[derive(Debug)]
pub struct Scanner {
    roots: Vec<Root>,
    outside_links: bool,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    tree: Result<Tree, Trouble>,
}

/// What a watcher must watch to notice every change of the next scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchSet {
    /// As given to the scanner, made absolute.
    pub roots: Vec<PathBuf>,
    /// Listed directories and directories of link targets; each inode under one path.
    pub directories: BTreeMap<PathBuf, Identity>,
}

impl Scanner {
    /// `outside_links`: links that leave a root are followed too. Relative roots start at the working directory.
    pub fn new(roots: Vec<PathBuf>, outside_links: bool) -> Self {
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let unseen = || Err(trouble::trouble("root-missing", "was not looked at yet"));
        let roots = roots.into_iter().map(|path| Root { path: absolute(path), tree: unseen() }).collect();
        Self { roots, outside_links }
    }

    /// As given, made absolute.
    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        self.roots.iter().map(|root| root.path.as_path())
    }

    /// All roots, in the order given. With [`Dirty::Paths`] only what is at or below those is looked at, and what
    /// is reached over links or has several names; the rest is as it was.
    pub fn scan(&mut self, what: &Dirty) -> Vec<RootScan> {
        for root in &mut self.roots {
            match what {
                Dirty::Everything => root.relist(self.outside_links),
                Dirty::Paths(paths) => root.update(paths, self.outside_links),
            }
        }
        let in_progress = |root: &Root| match what {
            Dirty::Everything => trust::checkout_in_progress(&root.path),
            Dirty::Paths(_) => None,
        };
        self.roots.iter().map(|root| RootScan { checkout: in_progress(root), ..root.report() }).collect()
    }

    /// For the listing of the newest scan.
    pub fn watch_set(&self) -> WatchSet {
        let mut set = WatchSet {
            roots: self.roots.iter().map(|root| root.path.clone()).collect(),
            ..WatchSet::default()
        };
        let mut seen = BTreeSet::new();
        for root in &self.roots {
            let Ok(tree) = &root.tree else { continue };
            for (path, directory) in tree.listed() {
                if seen.insert(directory.identity) {
                    set.directories.insert(root.path.join(path), directory.identity);
                }
            }
        }
        for path in self.link_targets() {
            let Ok(stat) = rustix::fs::stat(&path) else { continue };
            if seen.insert((stat.st_dev, stat.st_ino)) {
                set.directories.insert(path, (stat.st_dev, stat.st_ino));
            }
        }
        set
    }

    /// Directories that hold what links lead to.
    fn link_targets(&self) -> BTreeSet<PathBuf> {
        let trees = self.roots.iter().filter_map(|root| root.tree.as_ref().ok());
        let files = trees.flat_map(Tree::listed).flat_map(|(_, directory)| directory.files.values());
        files
            .filter_map(|known| match &known.reach {
                Reach::Link(directory) => Some(directory.clone()),
                Reach::Name | Reach::Shared | Reach::BrokenLink => None,
            })
            .collect()
    }
}

impl Root {
    fn report(&self) -> RootScan {
        let listing = self.tree.as_ref().map(|tree| Arc::clone(&tree.report)).map_err(Clone::clone);
        RootScan { path: self.path.clone(), listing, checkout: None }
    }

    fn relist(&mut self, outside_links: bool) {
        let unfinished = Err(trouble::trouble("root-unreadable", "was not listed to its end"));
        let old = std::mem::replace(&mut self.tree, unfinished).ok();
        self.tree = walk::walk(&self.path, outside_links, old);
    }

    /// Looks at what is named; lists the whole root where more than files may have changed.
    fn update(&mut self, paths: &[PathBuf], outside_links: bool) {
        let Ok(tree) = &mut self.tree else { return self.relist(outside_links) };
        let concerned = |path: &&PathBuf| path.starts_with(&self.path) || self.path.starts_with(path);
        for path in paths.iter().filter(concerned) {
            let done = path.strip_prefix(&self.path).is_ok_and(|below| tree.update(&self.path, below));
            if !done {
                return self.relist(outside_links);
            }
        }
        if !tree.update_linked(&self.path) {
            self.relist(outside_links);
        }
    }
}

impl Tree {
    /// Looks at one path again. False if the root must be listed anew: a directory came, went or changed.
    fn update(&mut self, root: &Path, path: &Path) -> bool {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
        let name = name.as_bytes();
        let skipped = parent.iter().any(|part| !names::is_entered(part.as_bytes()));
        if skipped {
            return true;
        }
        if self.directories.contains_key(path) {
            return false;
        }
        let Some(fd) = self.open(root, parent) else { return false };
        if !names::is_manifest(name) {
            return !may_concern_others(&fd, name);
        }
        self.examine(&fd, parent, name, Trust::Nothing);
        true
    }

    /// Looks at everything that may have changed without an event that names it.
    fn update_linked(&mut self, root: &Path) -> bool {
        let linked: Vec<(PathBuf, Vec<Box<[u8]>>)> = self
            .listed()
            .map(|(path, directory)| {
                let files = directory.files.iter().filter(|(_, known)| known.reach != Reach::Name);
                (path.to_owned(), files.map(|(name, _)| name.clone()).collect())
            })
            .filter(|(_, names): &(_, Vec<_>)| !names.is_empty())
            .collect();
        linked.into_iter().all(|(parent, names)| {
            let Some(fd) = self.open(root, &parent) else { return false };
            for name in &names {
                self.examine(&fd, &parent, name, Trust::Version);
            }
            true
        })
    }

    fn examine(&mut self, fd: &OwnedFd, parent: &Path, name: &[u8], trust: Trust) {
        let Some(Ok(directory)) = self.directories.get_mut(parent) else { return };
        let old = directory.files.remove(name);
        let known = walk::examine(fd.as_fd(), name, &self.bounds, old, trust);
        let shown = walk::shown(parent, name);
        // Copied only while somebody still looks at the report before.
        let report = Arc::make_mut(&mut self.report);
        match known {
            Some(known) => {
                report.files.insert(shown, Arc::clone(&known.scan));
                directory.files.insert(name.into(), known);
            }
            None => {
                report.files.remove(&shown);
            }
        }
    }

    /// A listed directory, if it is still the one that was listed.
    fn open(&self, root: &Path, path: &Path) -> Option<OwnedFd> {
        let listed = self.directories.get(path)?.as_ref().ok()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root.join(path), flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&fd).ok()?;
        ((stat.st_dev, stat.st_ino) == listed.identity).then_some(fd)
    }
}

/// True for what is not loaded itself and may change what is: a directory, a link to one, another name of a file.
fn may_concern_others(parent: &OwnedFd, name: &[u8]) -> bool {
    let Ok(stat) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory | FileType::Symlink => names::is_entered(name),
        FileType::RegularFile => stat.st_nlink > 1,
        _ => false,
    }
}

//! The walk over one root: which directories are entered, which files are looked at, within which bounds.
//!
//! Goes from descriptor to descriptor, so that a directory that is swapped for a link while we walk is not
//! followed. Real directories come before linked ones, and each is listed once, by its first path: a loop of
//! links ends, and a directory that is linked to its neighbour does not declare everything twice.
//! A root beyond its bounds is an error as a whole: a listing cut short would look like deleted manifests.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::file::{self, Bounds, Known, Trust};
use super::names;
use super::trouble::{Trouble, cause, trouble};
use crate::host::RootListing;

/// Levels of directories below a root.
const MAX_DEPTH: usize = 32;
/// Manifests below a root.
const MAX_MANIFESTS: usize = 50_000;
/// Names looked at below a root, whatever they are.
const MAX_NAMES: usize = 250_000;

/// Device and inode.
pub type Identity = (u64, u64);

/// Everything known of a root.
#[derive(Debug)]
pub struct Tree {
    pub bounds: Bounds,
    /// By path below the root.
    pub directories: BTreeMap<PathBuf, Result<Directory, String>>,
    /// The same for the reconciler, kept up to date: a scan of one file in 10,000 must not build it anew.
    pub report: Arc<RootListing>,
}

/// The manifests of one directory, by name as the kernel has it.
#[derive(Debug)]
pub struct Directory {
    pub identity: Identity,
    pub files: BTreeMap<Box<[u8]>, Known>,
}

impl Tree {
    fn new(
        root: Identity,
        born_ns: Option<u64>,
        bounds: Bounds,
        directories: BTreeMap<PathBuf, Result<Directory, String>>,
    ) -> Self {
        let inodes = directories.iter().map(|(path, found)| {
            (path.clone(), found.as_ref().map(|found| found.identity.1).map_err(Clone::clone))
        });
        let files = listed(&directories).flat_map(|(path, directory)| {
            directory.files.iter().map(move |(name, known)| (shown(path, name), Arc::clone(&known.scan)))
        });
        let (dev, inode) = root;
        let report =
            RootListing { dev, inode, born_ns, directories: inodes.collect(), files: files.collect() };
        Self { bounds, directories, report: Arc::new(report) }
    }

    pub fn listed(&self) -> impl Iterator<Item = (&Path, &Directory)> {
        listed(&self.directories)
    }
}

fn listed(
    directories: &BTreeMap<PathBuf, Result<Directory, String>>,
) -> impl Iterator<Item = (&Path, &Directory)> {
    directories.iter().filter_map(|(path, found)| Some((path.as_path(), found.as_ref().ok()?)))
}

/// The path under which a name is reported.
pub fn shown(directory: &Path, name: &[u8]) -> PathBuf {
    match names::presentable(name) {
        Some(name) => directory.join(name),
        None => directory.join(names::escaped(name)),
    }
}

/// Looks at one name that is a manifest's.
pub fn examine(
    directory: BorrowedFd<'_>,
    name: &[u8],
    bounds: &Bounds,
    known: Option<Known>,
    trust: Trust,
) -> Option<Known> {
    let known = file::examine(directory, name, bounds, known, trust)?;
    if names::presentable(name).is_some() {
        return Some(known);
    }
    let sentence = "has a name that is not plain UTF-8 text; rename it";
    Some(Known::bad(known.scan.version, trouble("bad-file-name", sentence)))
}

/// Lists a root. `old` is what was known: files with the same version are not read again.
pub fn walk(path: &Path, outside_links: bool, old: Option<Tree>) -> Result<Tree, Trouble> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).map_err(root_trouble)?;
    let stat = rustix::fs::fstat(&root).map_err(root_trouble)?;
    let real = file::real_path(root.as_fd()).map_err(root_trouble)?;
    let bounds = Bounds { real, uid: stat.st_uid, gid: stat.st_gid, outside_links };
    // What is known was judged within the bounds of then.
    let old = old.filter(|old| old.bounds == bounds);
    let mut walk = Walk {
        bounds,
        old: old.map(|old| old.directories).unwrap_or_default(),
        directories: BTreeMap::new(),
        visited: HashSet::new(),
        links: VecDeque::new(),
        names: 0,
        manifests: 0,
    };
    walk.enter(root.as_fd(), PathBuf::new())?;
    while let Some(link) = walk.links.pop_front() {
        walk.enter_linked(root.as_fd(), link)?;
    }
    if let Some(Err(sentence)) = walk.directories.get(Path::new("")) {
        return Err(trouble("root-unreadable", sentence.clone()));
    }
    Ok(Tree::new((stat.st_dev, stat.st_ino), born_ns(root.as_fd()), walk.bounds, walk.directories))
}

/// Source: statx(2).
fn born_ns(directory: BorrowedFd<'_>) -> Option<u64> {
    let found = rustix::fs::statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    let is_told = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    let seconds = u64::try_from(found.stx_btime.tv_sec).ok().filter(|_| is_told)?;
    Some(seconds * 1_000_000_000 + u64::from(found.stx_btime.tv_nsec))
}

fn root_trouble(errno: Errno) -> Trouble {
    match errno {
        Errno::NOENT => trouble("root-missing", "does not exist"),
        Errno::NOTDIR => trouble("root-not-a-directory", "is not a directory"),
        other => trouble("root-unreadable", format!("cannot be listed: {}", cause(other))),
    }
}

struct Walk {
    bounds: Bounds,
    old: BTreeMap<PathBuf, Result<Directory, String>>,
    directories: BTreeMap<PathBuf, Result<Directory, String>>,
    visited: HashSet<Identity>,
    /// Links that may lead to directories, for when all real directories are done.
    links: VecDeque<PathBuf>,
    names: usize,
    manifests: usize,
}

impl Walk {
    /// Lists one directory and what is below it; each at most once.
    fn enter(&mut self, fd: BorrowedFd<'_>, path: PathBuf) -> Result<(), Trouble> {
        if path.components().count() > MAX_DEPTH {
            let sentence = format!("is more than {MAX_DEPTH} directories deep and is not entered");
            self.directories.insert(path, Err(sentence));
            return Ok(());
        }
        let entries = rustix::fs::fstat(fd).and_then(|stat| Ok((stat, entries(fd)?)));
        let (stat, entries) = match entries {
            Ok(found) => found,
            Err(errno) => {
                self.directories.insert(path, Err(format!("cannot be listed: {}", cause(errno))));
                return Ok(());
            }
        };
        let identity = (stat.st_dev, stat.st_ino);
        if !self.visited.insert(identity) {
            return Ok(());
        }
        self.names += entries.len();
        let mut old = self.old.remove(&path).and_then(Result::ok).map(|old| old.files).unwrap_or_default();
        let mut files = Vec::with_capacity(entries.len());
        let mut below = Vec::new();
        for (name, kind) in entries {
            match self.classify(fd, &name, kind) {
                Entry::Manifest => {
                    let known = old.remove(&name);
                    let known = examine(fd, &name, &self.bounds, known, Trust::Version);
                    files.extend(known.map(|known| (name, known)));
                }
                Entry::Directory => below.push(name),
                Entry::Link => self.links.push_back(path.join(OsStr::from_bytes(&name))),
                Entry::Other => {}
            }
        }
        // Made of all at once it is full; one by one, in their order, it would be half empty.
        let directory = Directory { identity, files: files.into_iter().collect() };
        self.manifests += directory.files.len();
        self.within_bounds()?;
        self.directories.insert(path.clone(), Ok(directory));
        below.into_iter().try_for_each(|name| self.enter_below(fd, &path, &name))
    }

    fn enter_below(&mut self, parent: BorrowedFd<'_>, path: &Path, name: &[u8]) -> Result<(), Trouble> {
        let Some(text) = names::presentable(name) else {
            let sentence = "has a name that is not plain UTF-8 text and is not entered";
            self.directories.insert(shown(path, name), Err(sentence.to_owned()));
            return Ok(());
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(fd) => self.enter(fd.as_fd(), path.join(text)),
            // Gone, or something else by now: its own event follows.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(errno) => {
                self.directories.insert(path.join(text), Err(format!("cannot be listed: {}", cause(errno))));
                Ok(())
            }
        }
    }

    fn enter_linked(&mut self, root: BorrowedFd<'_>, path: PathBuf) -> Result<(), Trouble> {
        let place = rustix::fs::openat(root, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        // A link to nothing may be anything, an editor's lock for instance.
        let Ok(place) = place else { return Ok(()) };
        let is_directory = rustix::fs::fstat(&place)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        if !is_directory {
            return Ok(());
        }
        let allowed = self.bounds.outside_links
            || file::real_path(place.as_fd()).is_ok_and(|target| target.starts_with(&self.bounds.real));
        if !allowed {
            let sentence = "is a link that leads out of the directory of manifests and is not followed";
            self.directories.insert(path, Err(sentence.to_owned()));
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(&place, ".", flags, Mode::empty()) {
            Ok(fd) => self.enter(fd.as_fd(), path),
            Err(errno) => {
                self.directories.insert(path, Err(format!("cannot be listed: {}", cause(errno))));
                Ok(())
            }
        }
    }

    fn classify(&self, directory: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Entry {
        if names::is_manifest(name) {
            return Entry::Manifest;
        }
        if !names::is_entered(name) {
            return Entry::Other;
        }
        let kind = match kind {
            // Some file systems do not say.
            FileType::Unknown => rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
            known => known,
        };
        match kind {
            FileType::Directory => Entry::Directory,
            FileType::Symlink => Entry::Link,
            _ => Entry::Other,
        }
    }

    fn within_bounds(&self) -> Result<(), Trouble> {
        if self.manifests > MAX_MANIFESTS {
            return Err(trouble("root-too-large", format!("holds more than {MAX_MANIFESTS} manifests")));
        }
        if self.names > MAX_NAMES {
            return Err(trouble("root-too-large", format!("holds more than {MAX_NAMES} files")));
        }
        Ok(())
    }
}

enum Entry {
    Manifest,
    Directory,
    Link,
    Other,
}

type Name = (Box<[u8]>, FileType);

/// Names and kinds, in the order of the names.
fn entries(fd: BorrowedFd<'_>) -> Result<Vec<Name>, Errno> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries.push((name.into(), entry.file_type()));
        }
        if entries.len() > MAX_NAMES {
            break;
        }
    }
    entries.sort_unstable_by(|a: &Name, b| a.0.cmp(&b.0));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_beyond_its_bounds_is_an_error_as_a_whole() {
        let walk = |names, manifests| Walk {
            bounds: Bounds { real: PathBuf::new(), uid: 0, gid: 0, outside_links: false },
            old: BTreeMap::new(),
            directories: BTreeMap::new(),
            visited: HashSet::new(),
            links: VecDeque::new(),
            names,
            manifests,
        };
        assert_eq!(walk(MAX_NAMES, MAX_MANIFESTS).within_bounds(), Ok(()));
        for beyond in [walk(MAX_NAMES + 1, 0), walk(0, MAX_MANIFESTS + 1)] {
            assert_eq!(beyond.within_bounds().unwrap_err().0, "root-too-large");
        }
    }
}

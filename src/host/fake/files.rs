//! The manifest directories of the model: a tree with inodes and times, and what a scan shows of it.
//!
//! Keeps the one property of a real scanner that matters: a scan of some paths looks at those paths alone, and
//! shows the rest as it was at the scan before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::host::files::{Pattern, Room, Unseen};
use crate::host::{Dirty, FileScan, FileVersion, RootListing, RootScan};
use crate::identity::Digest;

const DEVICE: u64 = 7;

type Listing = Result<RootListing, (String, String)>;

#[derive(Debug)]
pub(super) struct Tree {
    roots: Vec<PathBuf>,
    nodes: BTreeMap<PathBuf, Node>,
    /// Directories that were moved out of sight, with all below them.
    lost: BTreeMap<PathBuf, Vec<(PathBuf, Node)>>,
    inodes: u64,
    /// The lock of a git at work.
    pub checkout: Option<PathBuf>,
    /// Added to every time, so that two changes in one instant still differ.
    changes: i64,
}

#[derive(Debug, Clone)]
struct Node {
    inode: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    access: Access,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Readable,
    Denied,
}

#[derive(Debug, Clone)]
enum Kind {
    Directory,
    File(Arc<str>),
}

impl Tree {
    pub fn new(roots: &[PathBuf]) -> Self {
        let mut tree = Self {
            roots: roots.to_vec(),
            nodes: BTreeMap::new(),
            lost: BTreeMap::new(),
            inodes: 1_000,
            checkout: None,
            changes: 0,
        };
        for root in roots {
            tree.make_directories(root, 0);
        }
        tree
    }

    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    pub fn add_root(&mut self, root: &Path, wall_ns: i64) {
        self.make_directories(root, wall_ns);
        self.roots.push(root.to_owned());
    }

    /// Relative paths start at the first root.
    pub fn absolute(&self, path: &Path) -> PathBuf {
        self.roots.first().map_or_else(|| path.to_owned(), |root| root.join(path))
    }

    /// Writes a file in place; returns the topmost path that changed.
    pub fn write(&mut self, path: &Path, text: &str, wall_ns: i64) -> PathBuf {
        let parent = path.parent().expect("a manifest has a directory");
        let created = self.make_directories(parent, wall_ns);
        let known = self.nodes.get(path).map(|node| (node.inode, node.access));
        let (inode, access) = known.unwrap_or_else(|| (self.fresh_inode(), Access::Readable));
        let time = self.fresh_time(wall_ns);
        let kind = Kind::File(text.into());
        self.nodes.insert(path.to_owned(), Node { inode, mtime_ns: time, ctime_ns: time, access, kind });
        created.unwrap_or_else(|| path.to_owned())
    }

    /// The text of any file; as [`crate::host::Host::read_file`] without a reader.
    pub fn read(&self, path: &Path) -> Result<Option<Arc<str>>, String> {
        match self.nodes.get(path) {
            None => Ok(None),
            Some(Node { access: Access::Denied, .. }) => Err("cannot be read: permission denied".to_owned()),
            Some(Node { kind: Kind::Directory, .. }) => Err("is not a regular file".to_owned()),
            Some(Node { kind: Kind::File(text), .. }) => Ok(Some(Arc::clone(text))),
        }
    }

    /// As [`crate::host::Host::digest_files`].
    pub fn digests(&self, pattern: &Path, room: &mut Room) -> Result<Vec<(PathBuf, Digest)>, Unseen> {
        let fits = Pattern::of(pattern);
        let fitting = self.nodes.iter().filter(|(path, node)| {
            matches!(node.kind, Kind::File(_))
                && (*path == pattern || path.parent() == pattern.parent() && fits.fits(path))
        });
        let digest = |path: &Path| {
            let text = self.read(path).map_err(|sentence| Unseen::at(path, &sentence))?;
            let text = text.expect("it is there");
            room.take(path, text.len() as u64)?;
            Ok((path.to_owned(), Digest::of(text.as_bytes())))
        };
        fitting.map(|(path, _)| path.as_path()).map(digest).collect()
    }

    /// Removes a file, or a directory with all below it.
    pub fn remove(&mut self, path: &Path) {
        assert!(!self.take(path).is_empty(), "{} is there to be removed", path.display());
    }

    /// As rename(2): the inode goes along, and what was at `to` is gone.
    pub fn rename(&mut self, from: &Path, to: &Path, wall_ns: i64) {
        let moved = self.take(from);
        assert!(!moved.is_empty(), "{} is there to be renamed", from.display());
        self.take(to);
        self.make_directories(to.parent().expect("a manifest has a directory"), wall_ns);
        let time = self.fresh_time(wall_ns);
        for (path, mut node) in moved {
            let rest = path.strip_prefix(from).expect("it was taken from below");
            let target = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            if target == to {
                node.ctime_ns = time;
            }
            self.nodes.insert(target, node);
        }
    }

    /// Changes the times alone, as touch(1).
    pub fn touch(&mut self, path: &Path, wall_ns: i64) {
        let time = self.fresh_time(wall_ns);
        let node = self.nodes.get_mut(path).expect("it is there to be touched");
        node.mtime_ns = time;
        node.ctime_ns = time;
    }

    pub fn set_readable(&mut self, path: &Path, readable: bool, wall_ns: i64) {
        let time = self.fresh_time(wall_ns);
        let node = self.nodes.get_mut(path).expect("it is there to change its mode");
        node.access = if readable { Access::Readable } else { Access::Denied };
        node.ctime_ns = time;
    }

    /// Moves a directory out of sight, as an unmount or a rename of its parent does.
    pub fn lose(&mut self, path: &Path) {
        let taken = self.take(path);
        assert!(!taken.is_empty(), "{} is there to be lost", path.display());
        self.lost.insert(path.to_owned(), taken);
    }

    /// Brings back what was lost or replaced, with its inodes.
    pub fn bring_back(&mut self, path: &Path) {
        let found = self.lost.remove(path).expect("only what was lost returns");
        self.take(path);
        self.nodes.extend(found);
    }

    /// An empty directory in the place of one, as a mount that is gone leaves behind.
    pub fn replace_empty(&mut self, path: &Path, wall_ns: i64) {
        self.lose(path);
        self.make_directories(path, wall_ns);
    }

    fn take(&mut self, path: &Path) -> Vec<(PathBuf, Node)> {
        let paths: Vec<PathBuf> = self.below(path).map(|(path, _)| path.clone()).collect();
        paths.into_iter().filter_map(|path| self.nodes.remove_entry(&path)).collect()
    }

    /// `path` itself, if it is there, and all below it.
    fn below(&self, path: &Path) -> impl Iterator<Item = (&PathBuf, &Node)> {
        self.nodes.range(path.to_owned()..).take_while(move |(other, _)| other.starts_with(path))
    }

    fn make_directories(&mut self, path: &Path, wall_ns: i64) -> Option<PathBuf> {
        let mut topmost = None;
        for directory in path.ancestors().filter(|path| !path.as_os_str().is_empty()) {
            if self.nodes.contains_key(directory) {
                break;
            }
            let time = self.fresh_time(wall_ns);
            let node = Node {
                inode: self.fresh_inode(),
                mtime_ns: time,
                ctime_ns: time,
                access: Access::Readable,
                kind: Kind::Directory,
            };
            self.nodes.insert(directory.to_owned(), node);
            topmost = Some(directory.to_owned());
        }
        topmost
    }

    fn fresh_inode(&mut self) -> u64 {
        self.inodes += 1;
        self.inodes
    }

    fn fresh_time(&mut self, wall_ns: i64) -> i64 {
        self.changes += 1;
        wall_ns + self.changes
    }

    fn list(&self, root: &Path) -> Listing {
        let Some(node) = self.nodes.get(root) else {
            return Err(("root-missing".to_owned(), "does not exist".to_owned()));
        };
        if node.access == Access::Denied {
            return Err(("root-unreadable".to_owned(), "cannot be listed: permission denied".to_owned()));
        }
        let mut listing = RootListing {
            dev: DEVICE,
            inode: node.inode,
            // Inodes are not used again here.
            born_ns: None,
            directories: BTreeMap::new(),
            files: BTreeMap::new(),
        };
        for (path, node) in self.below(root) {
            let relative = path.strip_prefix(root).expect("it is below the root").to_owned();
            if !is_entered(&listing, &relative) {
                continue;
            }
            match &node.kind {
                Kind::Directory => {
                    let inode = match node.access {
                        Access::Readable => Ok(node.inode),
                        Access::Denied => Err("permission denied".to_owned()),
                    };
                    listing.directories.insert(relative, inode);
                }
                Kind::File(text) if is_manifest(&relative) => {
                    listing.files.insert(relative, Arc::new(scan_file(node, text)));
                }
                Kind::File(_) => {}
            }
        }
        Ok(listing)
    }
}

/// Every directory above it is listed.
fn is_entered(listing: &RootListing, relative: &Path) -> bool {
    let skipped = |name: &str| name.starts_with('.') || name == "node_modules" || name == "target";
    let Some(parent) = relative.parent() else { return true };
    let parent_is_listed = listing.directories.get(parent).is_some_and(Result::is_ok);
    parent_is_listed && !relative.file_name().and_then(|name| name.to_str()).is_none_or(skipped)
}

fn is_manifest(relative: &Path) -> bool {
    let name = relative.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with(".toml") && !name.starts_with(['.', '_'])
}

fn scan_file(node: &Node, text: &Arc<str>) -> FileScan {
    FileScan {
        version: FileVersion {
            dev: DEVICE,
            inode: node.inode,
            mtime_ns: node.mtime_ns,
            ctime_ns: node.ctime_ns,
            size: text.len() as u64,
        },
        content: match node.access {
            Access::Readable => Ok(Arc::clone(text)),
            Access::Denied => Err(("unreadable".to_owned(), "cannot be read: permission denied".to_owned())),
        },
        may_show_lines: true,
    }
}

/// What one reconciler has seen of the tree.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    seen: BTreeMap<PathBuf, Listing>,
}

impl Scanner {
    pub fn scan(&mut self, tree: &Tree, what: &Dirty) -> Vec<RootScan> {
        for root in tree.roots() {
            let fresh = tree.list(root);
            let listing = match (what, self.seen.remove(root)) {
                (Dirty::Paths(paths), Some(seen)) => renew(root, paths, seen, fresh),
                (Dirty::Everything, _) | (Dirty::Paths(_), None) => fresh,
            };
            self.seen.insert(root.clone(), listing);
        }
        let checkout = tree.checkout.clone().filter(|_| *what == Dirty::Everything);
        let shown = |root: &PathBuf| RootScan {
            path: root.clone(),
            listing: self.seen[root].clone().map(Arc::new),
            checkout: checkout.clone(),
        };
        tree.roots().iter().map(shown).collect()
    }
}

fn renew(root: &Path, paths: &[PathBuf], seen: Listing, fresh: Listing) -> Listing {
    if paths.iter().any(|path| root.starts_with(path)) {
        return fresh;
    }
    let dirty: Vec<&Path> = paths.iter().filter_map(|path| path.strip_prefix(root).ok()).collect();
    if dirty.is_empty() {
        return seen;
    }
    let (Ok(mut seen), Ok(fresh)) = (seen, fresh.clone()) else { return fresh };
    let is_dirty = |path: &Path| dirty.iter().any(|dirty| path.starts_with(dirty));
    seen.files.retain(|path, _| !is_dirty(path));
    seen.files.extend(fresh.files.into_iter().filter(|(path, _)| is_dirty(path)));
    seen.directories.retain(|path, _| !is_dirty(path));
    seen.directories.extend(fresh.directories.into_iter().filter(|(path, _)| is_dirty(path)));
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        PathBuf::from("/app/manifests")
    }

    fn tree() -> Tree {
        let mut tree = Tree::new(&[root()]);
        tree.write(&root().join("web.toml"), "one", 0);
        tree.write(&root().join("sub/db.toml"), "two", 0);
        tree
    }

    fn files(scans: &[RootScan]) -> Vec<String> {
        let listing = scans[0].listing.as_ref().expect("the root is there");
        listing.files.keys().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn only_manifests_outside_of_hidden_directories_are_listed() {
        let mut tree = tree();
        for path in [".git/a.toml", "node_modules/b.toml", "_off.toml", ".#web.toml", "web.toml.bak"] {
            tree.write(&root().join(path), "", 0);
        }
        let scans = Scanner::default().scan(&tree, &Dirty::Everything);
        assert_eq!(files(&scans), ["sub/db.toml", "web.toml"]);
    }

    #[test]
    fn every_change_makes_another_version_even_in_one_instant() {
        let mut tree = tree();
        let mut scanner = Scanner::default();
        let version =
            |scans: Vec<RootScan>| scans[0].listing.as_ref().unwrap().files[Path::new("web.toml")].version;
        let first = version(scanner.scan(&tree, &Dirty::Everything));
        tree.write(&root().join("web.toml"), "ONE", 0);
        let second = version(scanner.scan(&tree, &Dirty::Everything));
        assert_eq!(first.inode, second.inode);
        assert_ne!(first, second);
    }

    #[test]
    fn a_scan_of_some_paths_does_not_see_changes_elsewhere() {
        let mut tree = tree();
        let mut scanner = Scanner::default();
        scanner.scan(&tree, &Dirty::Everything);
        tree.write(&root().join("new.toml"), "", 0);
        tree.remove(&root().join("web.toml"));
        let dirty = Dirty::Paths(vec![root().join("new.toml")]);
        assert_eq!(files(&scanner.scan(&tree, &dirty)), ["new.toml", "sub/db.toml", "web.toml"]);
        assert_eq!(files(&scanner.scan(&tree, &Dirty::Everything)), ["new.toml", "sub/db.toml"]);
    }

    #[test]
    fn a_lost_root_is_missing_and_returns_with_its_inode() {
        let mut tree = tree();
        let mut scanner = Scanner::default();
        let inode = |scans: Vec<RootScan>| scans[0].listing.as_ref().map(|listing| listing.inode).ok();
        let before = inode(scanner.scan(&tree, &Dirty::Everything));
        tree.lose(&root());
        assert_eq!(inode(scanner.scan(&tree, &Dirty::Paths(vec![root()]))), None);
        tree.bring_back(&root());
        let scans = scanner.scan(&tree, &Dirty::Everything);
        assert_eq!(files(&scans), ["sub/db.toml", "web.toml"]);
        assert_eq!(inode(scans), before);
    }

    #[test]
    fn an_empty_directory_in_place_of_a_root_has_another_inode() {
        let mut tree = tree();
        let before = tree.list(&root()).unwrap().inode;
        tree.replace_empty(&root(), 0);
        let after = tree.list(&root()).unwrap();
        assert!(after.files.is_empty());
        assert_ne!(after.inode, before);
    }

    #[test]
    fn an_unreadable_directory_is_listed_with_its_error_and_not_entered() {
        let mut tree = tree();
        tree.set_readable(&root().join("sub"), false, 0);
        let listing = tree.list(&root()).unwrap();
        assert!(listing.directories[Path::new("sub")].is_err());
        assert!(!listing.files.contains_key(Path::new("sub/db.toml")));
    }

    #[test]
    fn a_renamed_file_keeps_its_inode() {
        let mut tree = tree();
        let before = tree.list(&root()).unwrap().files[Path::new("web.toml")].clone();
        tree.rename(&root().join("web.toml"), &root().join("sub/site.toml"), 0);
        let after = tree.list(&root()).unwrap().files[Path::new("sub/site.toml")].clone();
        assert_eq!(after.version.inode, before.version.inode);
        assert_eq!(after.content, before.content);
    }
}

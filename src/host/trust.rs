//! Who can write here: whether manifests, project and configuration are one user's alone.
//!
//! Reads owners and modes, follows links as loading does, and decides no more than that: what follows from it
//! is in `policy`. Called when a configuration is loaded, and in each full pass: it costs a few stat(2) for each
//! manifest. Sources: path_resolution(7), acl(5).

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, geteuid, getuid};

use crate::policy::{SYSTEM_PATH, Trust};

mod git;

pub use git::{checkout_in_progress, is_git_worktree};

/// Whose manifests those below `roots` are.
pub fn judge(roots: &[PathBuf], project_dir: &Path) -> Trust {
    let uid = geteuid();
    if uid.is_root() || getuid() != uid {
        return Trust::Strangers;
    }
    judge_as(uid.as_raw(), roots, project_dir)
}

fn judge_as(uid: u32, roots: &[PathBuf], project_dir: &Path) -> Trust {
    match (Look::new(uid).strangers(roots, project_dir), std::fs::canonicalize(project_dir)) {
        (None, Ok(home_project)) => Trust::OneUser { uid, home_project, search_path: callers_path() },
        _ => Trust::Strangers,
    }
}

/// Why somebody but us could have written a manifest below `roots`, or into `dir`; `None` if nobody could.
/// A sentence fragment that names the file.
pub fn strangers(roots: &[PathBuf], dir: &Path) -> Option<String> {
    Look::new(geteuid().as_raw()).strangers(roots, dir)
}

/// Whether a configuration may be believed: it is root's or ours, and nobody else can change it. `Err` says
/// why not.
pub fn config_is_safe(path: &Path, metadata: &Metadata) -> Result<(), String> {
    let us = geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != us {
        return Err(format!("it belongs to {}, and not to root or us", name_of(metadata.uid())));
    }
    match Writers::default().others(path, metadata) {
        Some(who) => Err(format!("{who} can write it; `chmod go-w` takes that away")),
        None => Ok(()),
    }
}

/// The absolute directories of our `PATH`.
fn callers_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").filter(|path| !path.is_empty());
    match path {
        Some(path) => std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect(),
        None => SYSTEM_PATH.iter().map(PathBuf::from).collect(),
    }
}

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// One look at directories, for one user.
struct Look {
    uid: u32,
    writers: Writers,
    seen: HashSet<(u64, u64)>,
}

impl Look {
    fn new(uid: u32) -> Self {
        Self { uid, writers: Writers::default(), seen: HashSet::new() }
    }

    fn strangers(&mut self, roots: &[PathBuf], dir: &Path) -> Option<String> {
        let mut found = self.of_directory(dir);
        for root in roots {
            found = found.or_else(|| self.of_directory(root)).or_else(|| self.of_tree(root));
        }
        found
    }

    /// The directory itself, those above it, and the links on the way: who can write there can put another one
    /// in its place.
    fn of_directory(&mut self, dir: &Path) -> Option<String> {
        let way = self.of_way(dir, MAX_LINKS);
        if way.is_some() {
            return way;
        }
        let real = match std::fs::canonicalize(dir) {
            Ok(real) => real,
            Err(error) => return Some(format!("{} cannot be looked at: {error}", dir.display())),
        };
        let mut found = match std::fs::metadata(&real) {
            Ok(metadata) => self.of_own(&real, &metadata),
            Err(error) => Some(format!("{} cannot be looked at: {error}", real.display())),
        };
        for above in real.ancestors().skip(1) {
            found = found.or_else(|| self.of_ancestor(above));
        }
        found
    }

    /// Every link that the path leads through, one after the other: whose it is, and who could lead it
    /// elsewhere.
    fn of_way(&mut self, path: &Path, links_left: usize) -> Option<String> {
        let path = match std::path::absolute(path) {
            Ok(path) => path,
            Err(error) => return Some(format!("{} cannot be looked at: {error}", path.display())),
        };
        let parts: Vec<_> = path.ancestors().collect();
        let link = parts.into_iter().rev().find(|part| part.is_symlink())?;
        let failed =
            |error: &dyn std::fmt::Display| format!("{} cannot be followed: {error}", link.display());
        if links_left == 0 {
            return Some(failed(&"too many links"));
        }
        let (metadata, target) = match (std::fs::symlink_metadata(link), std::fs::read_link(link)) {
            (Ok(metadata), Ok(target)) => (metadata, target),
            (Err(error), _) | (_, Err(error)) => return Some(failed(&error)),
        };
        if metadata.uid() != 0 && metadata.uid() != self.uid {
            return Some(format!("the link {} belongs to {}", link.display(), name_of(metadata.uid())));
        }
        // All that is above the first link is no link itself.
        let mut found = None;
        for above in link.ancestors().skip(1) {
            found = found.or_else(|| self.of_ancestor(above));
        }
        let rest = path.strip_prefix(link).unwrap_or(Path::new(""));
        let onward = link.parent().unwrap_or(Path::new("/")).join(target);
        let onward = if rest.as_os_str().is_empty() { onward } else { onward.join(rest) };
        found.or_else(|| self.of_way(&onward, links_left - 1))
    }

    fn of_ancestor(&mut self, dir: &Path) -> Option<String> {
        const STICKY: u32 = 0o1000;
        let metadata = match std::fs::metadata(dir) {
            Ok(metadata) => metadata,
            Err(error) => return Some(format!("{} cannot be looked at: {error}", dir.display())),
        };
        if metadata.uid() != 0 && metadata.uid() != self.uid {
            return Some(format!("{} belongs to {}", dir.display(), name_of(metadata.uid())));
        }
        // In a sticky directory only the owner of what is below, which is looked at too, can replace it.
        if metadata.mode() & STICKY != 0 {
            return None;
        }
        self.writers.others(dir, &metadata).map(|who| format!("{who} can write {}", dir.display()))
    }

    /// Everything below a root that is loaded or entered.
    fn of_tree(&mut self, dir: &Path) -> Option<String> {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => return Some(format!("{} cannot be listed: {error}", dir.display())),
        };
        for entry in entries {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(error) => return Some(format!("{} cannot be listed: {error}", dir.display())),
            };
            let found = self.of_entry(&path);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// What a link leads to counts, and who could put something else there.
    fn of_entry(&mut self, path: &Path) -> Option<String> {
        let is_manifest = path.extension().is_some_and(|suffix| suffix == "toml");
        // A link that leads nowhere is nothing yet.
        let metadata = std::fs::metadata(path).ok()?;
        let is_looked_at = match metadata.is_dir() {
            true => is_entered(path) && self.seen.insert((metadata.dev(), metadata.ino())),
            false => is_manifest,
        };
        if !is_looked_at {
            return None;
        }
        let mut found = self.of_own(path, &metadata);
        if path.is_symlink() {
            let target = std::fs::canonicalize(path).ok()?;
            found = found.or_else(|| self.of_way(path, MAX_LINKS));
            found = found.or_else(|| self.of_directory(target.parent()?));
        }
        if metadata.is_dir() {
            found = found.or_else(|| self.of_tree(path));
        }
        found
    }

    fn of_own(&mut self, path: &Path, metadata: &Metadata) -> Option<String> {
        if metadata.uid() != self.uid {
            return Some(format!("{} belongs to {}", path.display(), name_of(metadata.uid())));
        }
        self.writers.others(path, metadata).map(|who| format!("{who} can write {}", path.display()))
    }
}

/// The same directories as manifests are loaded from.
fn is_entered(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.starts_with('.') && !matches!(name.as_ref(), "node_modules" | "target")
}

/// Tells whether somebody but the owner and root can write a file; remembers whose groups are whose.
#[derive(Debug, Default)]
pub(super) struct Writers {
    own_groups: HashMap<(u32, u32), bool>,
}

impl Writers {
    pub(super) fn has_others(&mut self, path: &Path, metadata: &Metadata) -> bool {
        self.others(path, metadata).is_some()
    }

    /// Who, in words.
    fn others(&mut self, path: &Path, metadata: &Metadata) -> Option<String> {
        const GROUP: u32 = 0o020;
        const OTHERS: u32 = 0o002;
        if metadata.mode() & OTHERS != 0 {
            return Some("everybody".to_owned());
        }
        if metadata.mode() & GROUP == 0 {
            return None;
        }
        let (uid, gid) = (metadata.uid(), metadata.gid());
        let is_own = *self.own_groups.entry((uid, gid)).or_insert_with(|| is_own_group(uid, gid));
        if !is_own {
            return Some(format!("the group {gid}"));
        }
        // With an access control list the bits of the group are its mask: some entry may write.
        let has_list = rustix::fs::getxattr(path, "system.posix_acl_access", &mut [0_u8; 0][..]);
        has_list.is_ok_and(|bytes| bytes > 0).then(|| "an access control list's users".to_owned())
    }
}

/// True if nobody but the user is in the group: as user-private groups are set up, of the same name.
fn is_own_group(uid: u32, gid: u32) -> bool {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    match (user, group) {
        (Some(user), Some(group)) => {
            user.gid.as_raw() == gid
                && user.name == group.name
                && group.mem.iter().all(|name| *name == user.name)
        }
        // Known to no database, as often in containers: the same number is the same user.
        (None, None) => uid == gid,
        _ => false,
    }
}

fn name_of(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("`{}`", user.name),
        _ => format!("uid {uid}"),
    }
}

#[cfg(test)]
mod tests;

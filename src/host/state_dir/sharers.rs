//! Who else manages a root: reconcilers and keepers of other state directories that were used for it.
//!
//! Each would start the same services once more, and neither sees the other in its own directory. So they are
//! looked for where processes are: who holds a lock (proc_locks(5)) and is this program has its state directory
//! open, as its working directory or by a descriptor; and in that is written of which roots it is. What may not be
//! read tells nothing. Looks only: nothing is written or locked, in the root or elsewhere. Called by the hosts in
//! each full pass, and by `doctor`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::locate::{self, RootPlace};
use super::node::Node;
use crate::host::StateLayout;
use crate::host::flock;

/// More is no list of roots of ours.
const MAX_ROOTS_BYTES: u64 = 1 << 20;

/// Another state directory over one of our roots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sharer {
    /// The root, as we call it.
    pub root: PathBuf,
    pub state_dir: PathBuf,
    /// Who lives in that directory, with what each is.
    pub by: Vec<(Who, i32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Keeper,
    Reconciler,
}

impl Sharer {
    /// One of them, rather the keeper: it stays, while reconcilers come and go.
    pub fn who(&self) -> String {
        match self.by.first() {
            Some((Who::Keeper, pid)) => format!("keeper pid {pid}"),
            Some((Who::Reconciler, pid)) => format!("reconciler pid {pid}"),
            None => "somebody".to_owned(),
        }
    }
}

/// Everybody who lives and manages one of `roots` from another directory than `here`; sorted.
pub fn sharers<'a>(here: &Path, roots: impl Iterator<Item = &'a Path>) -> Vec<Sharer> {
    let node = |path: &Path| fs::metadata(path).ok().map(|found| Node::of(&found));
    let ours = node(here);
    let roots: Vec<RootPlace> = roots.map(RootPlace::look).collect();
    let mut homes: BTreeMap<PathBuf, Home> = BTreeMap::new();
    for (pid, held) in flock::holders() {
        for (who, way, path) in homes_of(pid, &held) {
            let is_ours = node(&way).is_none_or(|found| ours.is_some_and(|ours| ours.is(&found)));
            if !is_ours {
                homes.entry(path).or_insert_with(|| Home { way, by: Vec::new() }).by.push((who, pid));
            }
        }
    }
    let mut found = Vec::new();
    for (state_dir, Home { way, mut by }) in homes {
        by.sort_unstable();
        let theirs = roots_in(&way);
        let shared = roots.iter().filter(|root| theirs.iter().any(|other| other.is_shared_with(root)));
        found.extend(shared.map(|root| Sharer {
            root: root.path().to_owned(),
            state_dir: state_dir.clone(),
            by: by.clone(),
        }));
    }
    found.sort();
    found
}

/// A state directory that somebody lives in: the way to it through `/proc`, which holds also across mounts.
struct Home {
    way: PathBuf,
    by: Vec<(Who, i32)>,
}

/// The state directories whose locks this process holds; with the way there, and the name.
fn homes_of(pid: i32, held: &BTreeSet<(u64, u64)>) -> Vec<(Who, PathBuf, PathBuf)> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    if pid == std::process::id() as i32 || !is_this_program(&process) {
        return Vec::new();
    }
    let listed = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let ways = listed.map(|entry| entry.path()).chain([process.join("cwd")]);
    // By their links alone: nothing else that it has open is touched.
    let open: Vec<(PathBuf, PathBuf)> =
        ways.filter_map(|way| fs::read_link(&way).ok().map(|path| (way, path))).collect();
    let mut homes = Vec::new();
    for (lock, path) in &open {
        let Some(dir) = path.parent() else { continue };
        let layout = StateLayout { dir: dir.to_owned() };
        let who = match path {
            path if *path == layout.lock() => Who::Reconciler,
            path if *path == layout.keeper_lock() => Who::Keeper,
            _ => continue,
        };
        // Without the device, which some file systems show otherwise than the kernel.
        let holds_it =
            fs::metadata(lock).is_ok_and(|found| held.iter().any(|(_, inode)| *inode == found.ino()));
        let way = open.iter().find(|(_, path)| path == dir).map(|(way, _)| way.clone());
        if let Some(way) = way.filter(|_| holds_it) {
            homes.push((who, way, dir.to_owned()));
        }
    }
    homes
}

/// By the name of the file that it executes: other versions of it, also one that was replaced since.
fn is_this_program(process: &Path) -> bool {
    let name = |exe: &Path| {
        let exe = fs::read_link(exe).ok()?;
        let name = exe.file_name()?.to_string_lossy().into_owned();
        Some(name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned())
    };
    let theirs = name(&process.join("exe"));
    theirs.is_some()
        && (theirs == name(Path::new("/proc/self/exe")) || theirs.as_deref() == Some("reconcile"))
}

/// It may be somebody else's directory: nothing but a file of a fitting size is read.
fn roots_in(way: &Path) -> Vec<RootPlace> {
    let open = || {
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(way.join(locate::ROOTS)).ok()?;
        file.metadata().ok().filter(fs::Metadata::is_file)?;
        let mut text = Vec::new();
        file.take(MAX_ROOTS_BYTES).read_to_end(&mut text).ok()?;
        Some(text)
    };
    open().map(|text| locate::roots_of(&text)).unwrap_or_default()
}

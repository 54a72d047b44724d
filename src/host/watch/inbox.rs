//! What the kernel has told and nobody has asked for yet.
//!
//! Filled on the thread of `notify`, emptied by the reconciler. Bounded: past [`MAX_PATHS`] it says "everything",
//! as after an overflow of the kernel's own queue. Decides which events matter and forgets watches that the
//! kernel drops together with their directories.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{Event, EventKind};
use tokio::sync::Notify;

use super::{Change, Identity, Watched};
use crate::host::Dirty;
use crate::host::scan::WatchSet;

/// Beyond this, listing everything is cheaper than looking at each.
const MAX_PATHS: usize = 1024;

#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    pending: Pending,
    /// What the kernel watches for us, as far as we know.
    watched: Watched,
    /// Directories of which every change matters; of the others only what leads to a root.
    listed: BTreeSet<PathBuf>,
    roots: Vec<PathBuf>,
}

#[derive(Debug)]
enum Pending {
    Paths(BTreeSet<PathBuf>),
    Everything,
}

impl Default for Pending {
    fn default() -> Self {
        Self::Paths(BTreeSet::new())
    }
}

/// What an event means to a watch on its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// It is told again when it is complete, or changes nothing for us.
    Nothing,
    Changed,
    /// The path is another thing than before, or none: a watch on it is void.
    Replaced,
}

impl Inbox {
    /// Called by `notify` for each event.
    pub fn take_in(&self, event: notify::Result<Event>) {
        let mut state = self.state();
        match event {
            Ok(event) if event.need_rescan() => state.pending = Pending::Everything,
            Ok(event) => {
                let weight = weigh(&event);
                if weight == Weight::Nothing || !state.note(event.paths, weight) {
                    return;
                }
            }
            // Whatever it could not tell us, we look for ourselves.
            Err(_) => state.pending = Pending::Everything,
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Takes all that has come; `None` if nothing has.
    pub fn drain(&self) -> Option<Dirty> {
        match std::mem::take(&mut self.state().pending) {
            Pending::Everything => Some(Dirty::Everything),
            Pending::Paths(paths) if paths.is_empty() => None,
            Pending::Paths(paths) => Some(Dirty::Paths(paths.into_iter().collect())),
        }
    }

    /// Returns once there may be something to drain. Cancel safe.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    pub fn suspect_everything(&self) {
        self.state().pending = Pending::Everything;
        self.filled.notify_one();
    }

    /// Takes note of what is to be watched; returns what must be done for it.
    pub fn expect(&self, set: &WatchSet, wanted: &Watched) -> Change {
        let mut state = self.state();
        let change = Change::between(&state.watched, wanted);
        for path in &change.stale {
            state.watched.remove(path);
        }
        state.listed = set.directories.keys().cloned().collect();
        state.roots.clone_from(&set.roots);
        change
    }

    pub fn watching(&self, path: &Path, identity: Identity) {
        self.state().watched.insert(path.to_owned(), identity);
    }

    pub fn not_watching(&self, path: &Path) {
        self.state().watched.remove(path);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the inbox")
    }
}

impl State {
    /// True if anything of it matters.
    fn note(&mut self, paths: Vec<PathBuf>, weight: Weight) -> bool {
        let mut matters = false;
        for path in paths {
            if weight == Weight::Replaced {
                self.forget(&path);
            }
            if self.concerns(&path) {
                self.add(path);
                matters = true;
            }
        }
        matters
    }

    fn concerns(&self, path: &Path) -> bool {
        let listed = |path: &Path| self.listed.contains(path);
        listed(path)
            || path.parent().is_some_and(listed)
            || self.roots.iter().any(|root| root.starts_with(path))
    }

    /// The kernel drops watches with their directories, and `notify` those below a path that was renamed.
    fn forget(&mut self, path: &Path) {
        let below: Vec<PathBuf> = self
            .watched
            .range(path.to_owned()..)
            .map(|(watched, _)| watched)
            .take_while(|watched| watched.starts_with(path))
            .cloned()
            .collect();
        for path in below {
            self.watched.remove(&path);
        }
    }

    fn add(&mut self, path: PathBuf) {
        let Pending::Paths(paths) = &mut self.pending else { return };
        paths.insert(path);
        if paths.len() > MAX_PATHS {
            self.pending = Pending::Everything;
        }
    }
}

fn weigh(event: &Event) -> Weight {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Weight::Changed,
        // `From` and `To` are told by themselves.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => Weight::Nothing,
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Weight::Replaced,
        EventKind::Modify(ModifyKind::Metadata(_)) => Weight::Changed,
        EventKind::Create(CreateKind::File) if event.paths.iter().all(|path| is_just_begun(path)) => {
            Weight::Nothing
        }
        EventKind::Create(_) => Weight::Replaced,
        EventKind::Access(_) | EventKind::Modify(_) => Weight::Nothing,
        EventKind::Any | EventKind::Other => Weight::Changed,
    }
}

/// True for a file that somebody has open to write it: its close is told. A link, or a file that appeared with
/// its content (link(2)), is told of now or never.
fn is_just_begun(path: &Path) -> bool {
    rustix::fs::lstat(path).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile
            && stat.st_nlink == 1
            && stat.st_size == 0
    })
}

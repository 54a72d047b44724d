//! What the kernel has told and nobody has asked for yet.
//!
//! Filled on the thread of `notify`, emptied by the reconciler. Bounded: past [`MAX_PATHS`] it says "everything",
//! as after an overflow of the kernel's own queue. Decides which events matter and forgets watches that the
//! kernel drops together with their directories.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{Event, EventKind};
use tokio::sync::Notify;

use super::{Change, Identity, Watched};
use crate::host::Dirty;
use crate::host::files::Pattern;
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
    roots: Vec<Root>,
    /// Other paths of directories that are watched.
    others: BTreeMap<PathBuf, Vec<PathBuf>>,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    fits: Pattern,
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

    /// Takes note of what is to be watched, of the roots all that there are, and of what other paths the watched
    /// directories have; returns what must be done for it.
    pub fn expect(
        &self,
        set: &WatchSet,
        roots: Vec<PathBuf>,
        wanted: &Watched,
        others: BTreeMap<PathBuf, Vec<PathBuf>>,
    ) -> Change {
        let mut state = self.state();
        let change = Change::between(&state.watched, wanted);
        for path in &change.stale {
            state.watched.remove(path);
        }
        state.listed = set.directories.keys().cloned().collect();
        state.roots = roots.into_iter().map(|path| Root { fits: Pattern::of(&path), path }).collect();
        state.others = others;
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
            // The kernel tells of a directory by one of its paths.
            let (parent, name) = (path.parent(), path.file_name());
            let directories = parent.and_then(|parent| self.others.get(parent)).into_iter().flatten();
            let others = directories.filter_map(|directory| Some(directory.join(name?)));
            let ways: Vec<PathBuf> =
                others.chain([path.clone()]).filter(|path| self.concerns(path)).collect();
            matters |= !ways.is_empty();
            for path in ways {
                self.add(path);
            }
        }
        matters
    }

    fn concerns(&self, path: &Path) -> bool {
        let listed = |path: &Path| self.listed.contains(path);
        listed(path)
            || path.parent().is_some_and(listed)
            || self.roots.iter().any(|root| {
                root.path.starts_with(path) || root.path.parent() == path.parent() && root.fits.fits(path)
            })
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

#[cfg(test)]
mod tests {
    use notify::event::{DataChange, Flag};

    use super::*;

    fn inbox() -> Inbox {
        let inbox = Inbox::default();
        let directories: Watched =
            ["/r", "/r/a", "/r/a/b", "/r/a-b"].map(|path| (PathBuf::from(path), (1, 1))).into();
        let set = WatchSet { roots: vec![PathBuf::from("/r")], directories: directories.clone() };
        inbox.expect(&set, set.roots.clone(), &directories, BTreeMap::new());
        for (path, identity) in &directories {
            inbox.watching(path, *identity);
        }
        inbox
    }

    fn event(kind: EventKind, path: &str) -> notify::Result<Event> {
        Ok(Event::new(kind).add_path(PathBuf::from(path)))
    }

    fn told(inbox: &Inbox, kind: EventKind, path: &str) -> Option<Dirty> {
        inbox.take_in(event(kind, path));
        inbox.drain()
    }

    #[test]
    fn an_overflow_and_an_error_mean_everything() {
        let inbox = inbox();
        inbox.take_in(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        assert_eq!(inbox.drain(), Some(Dirty::Everything));
        inbox.take_in(Err(notify::Error::generic("?")));
        inbox.take_in(event(EventKind::Remove(notify::event::RemoveKind::File), "/r/x"));
        assert_eq!(inbox.drain(), Some(Dirty::Everything));
        assert_eq!(inbox.drain(), None);
    }

    #[test]
    fn only_what_is_listed_or_leads_to_a_root_matters() {
        let removed = EventKind::Remove(notify::event::RemoveKind::Any);
        for path in ["/r/x", "/r/a/x", "/r", "/"] {
            assert_eq!(told(&inbox(), removed, path), Some(Dirty::Paths(vec![path.into()])), "{path}");
        }
        for path in ["/x", "/r/node_modules/x", "/rr"] {
            assert_eq!(told(&inbox(), removed, path), None, "{path}");
        }
    }

    #[test]
    fn writes_in_progress_and_reads_do_not_matter() {
        let modified = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let both = EventKind::Modify(ModifyKind::Name(RenameMode::Both));
        for kind in [modified, opened, both] {
            assert_eq!(told(&inbox(), kind, "/r/x"), None, "{kind:?}");
        }
    }

    #[test]
    fn with_a_directory_all_watches_below_it_are_void_and_no_others() {
        let inbox = inbox();
        told(&inbox, EventKind::Modify(ModifyKind::Name(RenameMode::From)), "/r/a");
        let wanted = inbox.state().listed.iter().map(|path| (path.clone(), (1, 1))).collect();
        let change = inbox.expect(&WatchSet::default(), Vec::new(), &wanted, BTreeMap::new());
        let missing: Vec<PathBuf> = change.missing.into_iter().map(|(path, _)| path).collect();
        assert_eq!(missing, [PathBuf::from("/r/a"), PathBuf::from("/r/a/b")]);
        assert_eq!(change.stale, Vec::<PathBuf>::new());
    }
}

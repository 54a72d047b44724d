//! Wakes the reconciler when something below a root may have changed.
//!
//! Watches exactly the directories that the scanner lists (so never `node_modules`), and what leads to the roots,
//! so that a root that vanishes is noticed when it returns. Says only *where* to look again; what is there is the
//! scanner's. Where inotify cannot be had or cannot be trusted (its limits, network file systems) everything is
//! looked at every two seconds, and [`Watcher::mode`] says so. No debounce: what has come is handed over at
//! once, as one (a rename is told within 100 µs). Sources: inotify(7), statfs(2).

mod inbox;
mod paths;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{INotifyWatcher, RecursiveMode, Watcher as _};
use tokio::time::Instant;

use super::cause::plain;
use super::scan::{Scanner, WatchSet};
use super::{Dirty, RootScan};
use inbox::Inbox;
pub use paths::{is_remote, way_to};

/// Between two looks at everything where inotify does not do.
const POLL_EVERY: Duration = Duration::from_secs(2);

/// Rounds of listing and watching before the rest is left to the next event.
const SETTLE_ROUNDS: usize = 8;

/// How changes are noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// At once.
    Inotify,
    /// Within two seconds; `why` is a sentence.
    Polling { why: String },
}

#[derive(Debug)]
pub struct Watcher {
    inotify: Option<INotifyWatcher>,
    inbox: Arc<Inbox>,
    mode: Mode,
    next_poll: Instant,
    /// Beside what each call of [`Watcher::cover`] names.
    also: Vec<PathBuf>,
}

impl Watcher {
    /// Watches nothing until [`Watcher::cover`].
    pub fn new() -> Self {
        let inbox = Arc::new(Inbox::default());
        let handler = Arc::clone(&inbox);
        let started = INotifyWatcher::new(move |event| handler.take_in(event), notify::Config::default());
        match started {
            Ok(inotify) => Self {
                inotify: Some(inotify),
                inbox,
                mode: Mode::Inotify,
                next_poll: Instant::now(),
                also: Vec::new(),
            },
            Err(error) => Self::without_inotify(format!("inotify cannot be had: {}", sentence(&error))),
        }
    }

    /// Looks at everything every two seconds; `why` is a sentence.
    pub fn without_inotify(why: String) -> Self {
        let next_poll = Instant::now() + POLL_EVERY;
        Self {
            inotify: None,
            inbox: Arc::default(),
            mode: Mode::Polling { why },
            next_poll,
            also: Vec::new(),
        }
    }

    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// Watches what becomes of these paths, in each [`Watcher::cover`] from the next one on. Returns whether they are
    /// others than before.
    pub fn watch_also(&mut self, paths: Vec<PathBuf>) -> bool {
        let is_new = self.also != paths;
        self.also = paths;
        is_new
    }

    /// The next answer is that everything may have changed.
    pub fn suspect_everything(&self) {
        self.inbox.suspect_everything();
    }

    /// Watches exactly this set. Returns the directories that were not watched before: they must be listed once
    /// more, since what happened in them between their listing and now was told to nobody.
    pub fn cover(&mut self, set: &WatchSet) -> Vec<PathBuf> {
        let roots = [set.roots.as_slice(), &self.also].concat();
        let ways = paths::ways_to(&roots);
        let mut wanted = set.directories.clone();
        // The kernel has one watch a directory, however many paths lead to it.
        let mut by_identity: HashMap<Identity, PathBuf> =
            wanted.iter().map(|(path, identity)| (*identity, path.clone())).collect();
        let mut others: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        for directory in ways {
            let Some(identity) = paths::identity(&directory) else { continue };
            match by_identity.entry(identity) {
                Entry::Occupied(watched) if *watched.get() == directory => {}
                Entry::Occupied(watched) => {
                    others.entry(watched.get().clone()).or_default().push(directory);
                }
                Entry::Vacant(free) => {
                    free.insert(directory.clone());
                    wanted.insert(directory, identity);
                }
            }
        }
        let Some(inotify) = &mut self.inotify else { return Vec::new() };
        let mut trouble = remote(&roots);
        let change = self.inbox.expect(set, roots, &wanted, others);
        for path in change.stale {
            // It fails where the kernel has dropped the watch with its directory.
            let _ = inotify.unwatch(&path);
        }
        let mut fresh = Vec::new();
        for (path, identity) in change.missing {
            // Another directory may have had this path.
            let _ = inotify.unwatch(&path);
            // Noted before it is done: whatever the kernel tells from then on may make it void again.
            self.inbox.watching(&path, identity);
            let Err(error) = inotify.watch(&path, RecursiveMode::NonRecursive) else {
                fresh.push(path);
                continue;
            };
            self.inbox.not_watching(&path);
            // What is gone since it was listed is told of by its parent.
            if !is_gone(&error) {
                trouble = Some(format!("{} cannot be watched: {}", path.display(), sentence(&error)));
            }
        }
        self.mode = trouble.map_or(Mode::Inotify, |why| Mode::Polling { why });
        fresh
    }

    /// Waits until something may have changed. Cancel safe: nothing is lost with a dropped future.
    pub async fn changed(&mut self) -> Dirty {
        loop {
            if let Some(dirty) = self.inbox.drain() {
                return dirty;
            }
            match self.mode {
                Mode::Inotify => self.inbox.filled().await,
                Mode::Polling { .. } => {
                    if tokio::time::timeout_at(self.next_poll, self.inbox.filled()).await.is_err() {
                        self.next_poll = Instant::now() + POLL_EVERY;
                        return Dirty::Everything;
                    }
                }
            }
        }
    }

    /// What has changed up to now, if anything.
    pub fn drain(&mut self) -> Option<Dirty> {
        self.inbox.drain()
    }
}

impl Default for Watcher {
    fn default() -> Self {
        Self::new()
    }
}

/// Scans, watches what was found, and lists again what was not watched while it was listed, until every listed
/// directory was watched first.
pub fn scan_and_watch(scanner: &mut Scanner, watcher: &mut Watcher, what: &Dirty) -> Vec<RootScan> {
    let mut scans = scanner.scan(what);
    for _ in 0..SETTLE_ROUNDS {
        let fresh = watcher.cover(&scanner.watch_set());
        if fresh.is_empty() {
            return scans;
        }
        // Nobody looks at these any more: what is shared with them is changed in place.
        drop(scans);
        scans = scanner.scan(&Dirty::Paths(fresh));
    }
    // Directories come faster than they can be watched.
    watcher.suspect_everything();
    scans
}

/// Why the kernel may not tell of changes below these, because another machine makes them.
fn remote(roots: &[PathBuf]) -> Option<String> {
    let remote = |root: &&PathBuf| is_remote(root);
    let root = roots.iter().find(remote)?;
    Some(format!("{} is on a file system that others change without our kernel's knowledge", root.display()))
}

fn is_gone(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(error) => {
            matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
        }
        _ => false,
    }
}

/// The error without its list of paths.
fn sentence(error: &notify::Error) -> String {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => {
            "the limit of watches is reached (sysctl fs.inotify.max_user_watches)".to_owned()
        }
        notify::ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => {
            "the limit of instances or of open files is reached (sysctl fs.inotify.max_user_instances, ulimit -n)"
                .to_owned()
        }
        notify::ErrorKind::Io(error) if error.raw_os_error() == Some(libc::ENFILE) => {
            "the system's table of open files is full (sysctl fs.file-max)".to_owned()
        }
        notify::ErrorKind::Io(error) => plain(error),
        other => format!("{other:?}"),
    }
}

/// What is watched and ought not to be, and the other way round.
#[derive(Debug, Default, PartialEq, Eq)]
struct Change {
    stale: Vec<PathBuf>,
    missing: Vec<(PathBuf, Identity)>,
}

/// Device and inode.
type Identity = (u64, u64);

/// Watched directories by path.
type Watched = BTreeMap<PathBuf, Identity>;

impl Change {
    fn between(watched: &Watched, wanted: &Watched) -> Self {
        let differs = |a: &Watched, path: &Path, identity| a.get(path) != Some(identity);
        Self {
            stale: watched
                .iter()
                .filter(|(path, id)| differs(wanted, path, id))
                .map(|(path, _)| path.clone())
                .collect(),
            missing: wanted
                .iter()
                .filter(|(path, id)| differs(watched, path, id))
                .map(|(path, id)| (path.clone(), *id))
                .collect(),
        }
    }
}

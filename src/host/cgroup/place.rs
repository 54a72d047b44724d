//! The place of a process of ours that is to outlast whoever started it: a cgroup beside those of its runs.
//!
//! Leaving a session does not leave the unit of a service manager, which ends with all that is in it. Called by the
//! keeper, and for a watcher in the background.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Ground, enter};
use crate::identity::InstanceId;

/// Where we are until we [`leave`](Place::leave) it.
#[derive(Debug)]
pub struct Place {
    base: PathBuf,
    /// Not that of a run, which has a dot in it.
    name: &'static str,
}

/// Tries of making the directory while a keeper that starts clears out what is empty.
const TRIES: u32 = 10;

impl Place {
    /// Below what runs of an instance have their cgroups below.
    pub fn of_keeper(base: &Path) -> Self {
        Self { base: base.to_owned(), name: "keeper" }
    }

    /// `None` where runs have holders.
    pub fn of_watcher(instance: &InstanceId) -> Option<Self> {
        match Ground::detect(instance) {
            Ground::Cgroup { base } => Some(Self { base, name: "watcher" }),
            Ground::Holder { .. } => None,
        }
    }

    /// Moves the calling process there.
    pub fn take(&self) -> io::Result<()> {
        let dir = self.dir();
        let take = || fs::create_dir_all(&dir).and_then(|()| enter(&dir));
        for _ in 1..TRIES {
            match take() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                taken => return taken,
            }
        }
        take()
    }

    fn dir(&self) -> PathBuf {
        self.base.join(self.name)
    }

    /// Out of it, so that it can be removed; whatever fails leaves an empty directory.
    pub fn leave(&self) {
        if let Some(root) = self.base.ancestors().nth(2) {
            let _ = enter(root);
        }
        for dir in [Some(self.dir().as_path()), Some(&self.base), self.base.parent()].into_iter().flatten() {
            let _ = fs::remove_dir(dir);
        }
    }
}

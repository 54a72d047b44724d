//! A home with some projects, for the tests of state directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reconcile::host::StateLayout;
use reconcile::host::state_dir::{Environment, ReconcilerLock, RootPlace, StateDir, StateDirError, Wanted};
use tempfile::TempDir;

/// A home and some projects.
pub struct World {
    dir: TempDir,
    pub environment: Environment,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let environment =
            Environment { home: Some(path.join("home")), working_directory: path, ..Environment::default() };
        Self { dir, environment }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    pub fn project(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.join("manifests")).unwrap();
        path
    }

    pub fn with<T>(&self, flag: Option<&Path>, project: &Path, ask: impl FnOnce(&Wanted<'_>) -> T) -> T {
        let roots = [RootPlace::look(&project.join("manifests"))];
        ask(&Wanted { flag, environment: &self.environment, project_dir: project, roots: &roots })
    }

    /// Opens it as a reconciler does, and remembers the roots.
    pub fn used(&self, project: &Path) -> PathBuf {
        self.with(None, project, |wanted| {
            let state = StateDir::open(wanted).unwrap();
            state.record_roots(wanted.roots, &lock(state.layout())).unwrap();
            state.layout().dir.clone()
        })
    }

    pub fn open(&self, flag: &str) -> Result<StateDir, StateDirError> {
        let project = self.project("project");
        self.with(Some(Path::new(flag)), &project, StateDir::open)
    }
}

/// Waits a little: another test that starts a process at this moment holds a copy of it until it executes.
pub fn lock(layout: &StateLayout) -> ReconcilerLock {
    ReconcilerLock::acquire(layout, Duration::from_secs(10)).unwrap()
}

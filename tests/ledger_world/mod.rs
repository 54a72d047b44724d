//! A state directory with its lock for one test.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use reconcile::host::StateLayout;
use reconcile::host::ledger_file::{LedgerFile, OpenReport};
use reconcile::host::state_dir::ReconcilerLock;
use reconcile::identity::InstanceId;
use reconcile::state::{Ledger, Record};
use tempfile::TempDir;

use crate::ledger_samples::{exited, gone, intent, started};

/// Nothing that runs has its mark.
pub fn instance() -> InstanceId {
    InstanceId::from_u64(1)
}

pub struct World {
    pub layout: StateLayout,
    pub lock: ReconcilerLock,
    _dir: Option<TempDir>,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = Self::at(dir.path());
        Self { _dir: Some(dir), ..world }
    }

    /// In a directory that outlives it, made where there is none.
    pub fn at(dir: &Path) -> Self {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).unwrap();
        let layout = StateLayout { dir: dir.to_owned() };
        let lock = ReconcilerLock::acquire(&layout, Duration::from_secs(10)).unwrap();
        Self { layout, lock, _dir: None }
    }

    pub fn open(&self) -> (LedgerFile, Ledger, OpenReport) {
        LedgerFile::open(&self.layout, &instance(), &self.lock).unwrap()
    }
}

/// Lines of the journal, with its header.
pub fn lines_of(layout: &StateLayout) -> usize {
    std::fs::read_to_string(layout.ledger()).unwrap().lines().count()
}

/// One start, crash and end of `web`: a step in a long life.
pub fn life(n: u64) -> Vec<Record> {
    let intent = Record::Intent(Box::new(intent("web", n, n)));
    vec![intent, started("web", n, n), exited("web", n, n as u32, n + 1), gone("web", n)]
}

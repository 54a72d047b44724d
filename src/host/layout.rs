//! Where things are in a state directory: the one place that knows the names.

use std::path::{Path, PathBuf};

use crate::identity::{Digest, ServiceId};

/// Where things are in a state directory.
#[derive(Debug, Clone)]
pub struct StateLayout {
    pub dir: PathBuf,
}

impl StateLayout {
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub fn log(&self, service: &ServiceId) -> PathBuf {
        self.logs().join(format!("{}.log", service.file_stem()))
    }

    pub fn accepted_dir(&self) -> PathBuf {
        self.dir.join("accepted")
    }

    pub fn accepted(&self, digest: &Digest) -> PathBuf {
        self.accepted_dir().join(format!("{digest}.toml"))
    }

    pub fn ledger(&self) -> PathBuf {
        self.dir.join("ledger.journal")
    }

    pub fn instance(&self) -> PathBuf {
        self.dir.join("instance.json")
    }

    /// The directory of a service for what it keeps.
    pub fn work(&self, service: &ServiceId) -> PathBuf {
        self.dir.join("work").join(service.file_stem())
    }

    pub fn secret_key(&self) -> PathBuf {
        self.dir.join("secret.key")
    }

    /// Held exclusively by the reconciler in charge; never renamed.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("reconciler.lock")
    }

    /// Held exclusively by the keeper for life.
    pub fn keeper_lock(&self) -> PathBuf {
        self.dir.join("keeper.lock")
    }

    pub fn keeper_socket(&self) -> &Path {
        Path::new("keeper.sock")
    }

    /// The birth gate: locked shared by a child while it is born; holds the epoch.
    pub fn birth_gate(&self) -> PathBuf {
        self.dir.join("births.gate")
    }

    pub fn births(&self) -> PathBuf {
        self.dir.join("births.journal")
    }

    pub fn exits(&self) -> PathBuf {
        self.dir.join("exits.journal")
    }

    pub fn keeper_log(&self) -> PathBuf {
        self.dir.join("keeper.log")
    }
}

//! The state directory: which one it is, that it is ours alone, who holds it, and whose claims are in it.
//!
//! `locate` chooses the path, this file makes and checks the directory, `lock` keeps a second reconciler out,
//! `instance` tells a directory that was restored or moved from one that was copied, `sharers` who manages the same
//! roots from another one. Read-only commands use
//! [`StateDir::find`] and [`StateDir::standing`], which write nothing. Called by `commands` before anything
//! else of the host.

mod instance;
mod locate;
mod lock;
mod node;
mod original;
mod sharers;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::StateLayout;

pub use instance::{Standing, is_restored};
pub use locate::{Environment, RootPlace, Source, Wanted};
pub use lock::{HeldBy, LockError, ReconcilerLock, ended_namespaces};
pub use original::InUse;
pub use sharers::{Sharer, Who, sharers};

/// Why a state directory cannot be used; each with a stable [`code`](StateDirError::code).
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    #[error(
        "cannot find a state directory: there is neither $XDG_STATE_HOME nor a home of ours; give --state-dir"
    )]
    NoHome,
    #[error(
        "cannot use the state directory {path}: it belongs to uid {owner}, we are uid {us}; give --state-dir"
    )]
    Owner { path: PathBuf, owner: u32, us: u32 },
    #[error(
        "cannot use the state directory {path}: mode {mode:03o} lets others in; `chmod 700 {path}` if it is ours alone"
    )]
    Mode { path: PathBuf, mode: u32 },
    #[error(
        "cannot use the state directory {path}: it is a symbolic link of uid {owner}, who could point it elsewhere"
    )]
    Symlink { path: PathBuf, owner: u32 },
    #[error("cannot use the state directory {path}: it is not a directory")]
    NotADirectory { path: PathBuf },
    #[error(
        "cannot take over the state directory {path}: {by}; end it there first (`reconcile --state-dir {} down`), or \
         give this one an empty --state-dir", by.path.display()
    )]
    InUse { path: PathBuf, by: Box<InUse> },
    #[error("cannot {doing} {path}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl StateDirError {
    /// Stable, kebab-case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoHome => "state-dir-no-home",
            Self::Owner { .. } => "state-dir-owner",
            Self::Mode { .. } => "state-dir-mode",
            Self::Symlink { .. } => "state-dir-symlink",
            Self::NotADirectory { .. } => "state-dir-not-a-directory",
            Self::InUse { .. } => "state-dir-in-use",
            Self::Io { .. } => "state-dir-io",
        }
    }

    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// A directory that exists, is ours, and lets nobody else in.
#[derive(Debug)]
pub struct StateDir {
    layout: StateLayout,
    source: Source,
    directory: File,
}

impl StateDir {
    /// The directory for these manifests; made, with its parents, where there is none.
    pub fn open(wanted: &Wanted<'_>) -> Result<Self, StateDirError> {
        let place = locate::locate(wanted)?;
        make(&place.path)?;
        let this = Self::check(&place.path, place.source)?;
        this.close_to_others()?;
        Ok(this)
    }

    /// The directory for these manifests, if there is one. Writes nothing.
    pub fn find(wanted: &Wanted<'_>) -> Result<Option<Self>, StateDirError> {
        let place = locate::locate(wanted)?;
        match fs::symlink_metadata(&place.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateDirError::io("look at the state directory", &place.path)(error)),
            Ok(_) => Self::check(&place.path, place.source).map(Some),
        }
    }

    /// Where the directory for these manifests is, or would be. Writes nothing.
    pub fn path(wanted: &Wanted<'_>) -> Result<PathBuf, StateDirError> {
        locate::locate(wanted).map(|place| place.path)
    }

    /// By canonical path.
    pub fn layout(&self) -> &StateLayout {
        &self.layout
    }

    /// How the directory was chosen.
    pub fn source(&self) -> Source {
        self.source
    }

    /// The directory itself: sockets are addressed through it, since their paths may be too long.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Remembers where the roots are, so that the directory is found again when the project has moved. Writes
    /// nothing if that is known.
    pub fn record_roots(&self, roots: &[RootPlace], _held: &ReconcilerLock) -> Result<(), StateDirError> {
        locate::record_roots(&self.layout.dir, roots)
            .map_err(StateDirError::io("remember the roots in", &self.layout.dir))
    }

    /// Opens first and asks the descriptor, so that what was checked is what is used.
    fn check(path: &Path, source: Source) -> Result<Self, StateDirError> {
        let us = geteuid().as_raw();
        let io_error = || StateDirError::io("open the state directory", path);
        let link = fs::symlink_metadata(path).map_err(io_error())?;
        if link.is_symlink() && link.uid() != us && link.uid() != 0 {
            return Err(StateDirError::Symlink { path: path.to_owned(), owner: link.uid() });
        }
        let directory =
            OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path).map_err(|error| {
                match error.kind() {
                    io::ErrorKind::NotADirectory => StateDirError::NotADirectory { path: path.to_owned() },
                    // Closed to us because it is somebody else's.
                    io::ErrorKind::PermissionDenied if link.is_dir() && link.uid() != us => {
                        StateDirError::Owner { path: path.to_owned(), owner: link.uid(), us }
                    }
                    _ => io_error()(error),
                }
            })?;
        let found = directory.metadata().map_err(io_error())?;
        if found.uid() != us {
            return Err(StateDirError::Owner { path: path.to_owned(), owner: found.uid(), us });
        }
        let mode = found.mode() & 0o777;
        if mode & 0o077 != 0 && source != Source::ServiceManager {
            return Err(StateDirError::Mode { path: path.to_owned(), mode });
        }
        let dir = path.canonicalize().map_err(io_error())?;
        Ok(Self { layout: StateLayout { dir }, source, directory })
    }

    /// A service manager makes its directories 0755 unless it is told otherwise, at each start anew.
    fn close_to_others(&self) -> Result<(), StateDirError> {
        let error = || StateDirError::io("close to others", &self.layout.dir);
        if self.directory.metadata().map_err(error())?.mode() & 0o077 != 0 {
            self.directory.set_permissions(Permissions::from_mode(0o700)).map_err(error())?;
        }
        Ok(())
    }
}

fn make(path: &Path) -> Result<(), StateDirError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            StateDirError::NotADirectory { path: path.to_owned() }
        }
        _ => StateDirError::io("make the state directory", path)(error),
    })
}

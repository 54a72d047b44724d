//! The lock of the reconciler in charge: `reconciler.lock`, held by flock(2) until our end, however it comes.
//!
//! The file is never renamed or removed; what is written in it, who holds it, is for people. No child keeps the
//! lock: the descriptor is closed on exec. Called by `commands`; [`ReconcilerLock`] is the proof that the
//! ledger and the instance may be written.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::host::flock::{self, Kind};
use crate::host::proc;
use crate::host::{StateLayout, clock};
use crate::time::Stamp;

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another reconciler holds the state: {0}")]
    Held(HeldBy),
    #[error("lock {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Who holds the lock, as far as it can be seen from here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeldBy {
    /// `None` where the holder could not say, or lives in another pid namespace.
    pub pid: Option<i32>,
    pub since: Option<Stamp>,
    /// Its command line.
    pub command: Option<String>,
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid}")?,
            None => f.write_str("a process that cannot be seen from here")?,
        }
        if let Some(command) = &self.command {
            write!(f, " ({command})")?;
        }
        if let Some(since) = &self.since {
            write!(f, ", since {}", since.rfc3339())?;
        }
        Ok(())
    }
}

/// What the holder writes into the file.
#[derive(Serialize, Deserialize)]
struct Holder {
    pid: i32,
    start_ticks: Option<u64>,
    since: Stamp,
    #[serde(default)]
    pid_ns: Option<u64>,
    /// Pid namespaces of this boot whose first process held the lock before. They have ended with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ended: Vec<u64>,
}

impl Holder {
    /// The namespaces that have ended once this holder has: all of one are killed with its first process.
    fn ended_with(&self) -> Vec<u64> {
        let own = self.pid_ns.filter(|_| self.pid == 1);
        self.ended.iter().copied().chain(own).collect()
    }
}

/// Held until it is dropped, or until the process ends.
#[derive(Debug)]
pub struct ReconcilerLock {
    _file: File,
}

impl ReconcilerLock {
    /// Takes the lock, waiting up to `patience` for whoever holds it.
    pub fn acquire(layout: &StateLayout, patience: Duration) -> Result<Self, LockError> {
        let path = layout.lock();
        let started = Instant::now();
        let failed = |source| LockError::Io { path: path.clone(), source };
        loop {
            let left = patience.saturating_sub(started.elapsed());
            if let Some(lock) = Self::try_acquire(&path, left).map_err(failed)? {
                return Ok(lock);
            }
            if started.elapsed() >= patience {
                return Err(LockError::Held(holder(&path)));
            }
        }
    }

    /// `None` if somebody else holds it, or holds by now what has its name.
    fn try_acquire(path: &Path, patience: Duration) -> io::Result<Option<Self>> {
        let file = open(path)?;
        if !flock::lock(&file, Kind::Exclusive, patience)? {
            return Ok(None);
        }
        // A lock on a file that was removed in between keeps nobody out.
        let (ours, there) = (file.metadata()?, fs::metadata(path)?);
        if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
            return Ok(None);
        }
        // On a full or read-only disk the lock holds all the same.
        let _ = sign(&file);
        Ok(Some(Self { _file: file }))
    }
}

/// Read-only where it cannot be written, which does for flock(2).
fn open(path: &Path) -> io::Result<File> {
    let writable =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    match writable {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(path),
        result => result,
    }
}

fn sign(file: &File) -> io::Result<()> {
    let pid = process::id() as i32;
    let pid_ns = fs::metadata("/proc/self/ns/pid").ok().map(|ns| ns.ino());
    let since = clock::now();
    let before = read(file).filter(|before| before.since.boot == since.boot);
    let mut ended = before.map_or_else(Vec::new, |before| before.ended_with());
    // The number of a namespace that has ended is given to another one.
    ended.retain(|ns| Some(*ns) != pid_ns);
    ended.sort_unstable();
    ended.dedup();
    let holder = Holder { pid, start_ticks: start_ticks(pid), since, pid_ns, ended };
    let text = serde_json::to_vec(&holder)?;
    file.write_all_at(&text, 0)?;
    file.set_len(text.len() as u64)
}

/// Pid namespaces of this boot of which no process is left, as far as the holders of the lock prove it: those whose
/// first process held it and holds it no more. A container's state outlasts it with the number of its namespace.
pub fn ended_namespaces(layout: &StateLayout) -> io::Result<Vec<u64>> {
    let path = layout.lock();
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let Some(holder) =
        read(&file).filter(|holder| clock::boot_id().is_ok_and(|boot| boot == holder.since.boot))
    else {
        return Ok(Vec::new());
    };
    // Read before this: whoever takes the lock now signs it only then.
    Ok(if flock::is_held(&path)? { holder.ended } else { holder.ended_with() })
}

/// Who holds this lock of a reconciler, if anybody does.
pub(super) fn held_by(path: &Path) -> io::Result<Option<HeldBy>> {
    Ok(flock::is_held(path)?.then(|| holder(path)))
}

/// As the kernel tells who holds a lock in which nothing is written, or what is not true.
pub(super) fn of_lock(path: &Path) -> HeldBy {
    let pid = flock::holder(path);
    HeldBy { pid, since: None, command: pid.and_then(command) }
}

fn read(mut file: &File) -> Option<Holder> {
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn holder(path: &Path) -> HeldBy {
    let signed = File::open(path).ok().and_then(|file| read(&file));
    match signed.filter(|by| by.start_ticks.is_some() && start_ticks(by.pid) == by.start_ticks) {
        Some(by) => HeldBy { pid: Some(by.pid), since: Some(by.since), command: command(by.pid) },
        // It has not signed yet, or could not: on a full disk.
        None => of_lock(path),
    }
}

fn start_ticks(pid: i32) -> Option<u64> {
    Some(proc::stat(pid).ok()??.start_ticks)
}

fn command(pid: i32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> =
        bytes.split(|&b| b == 0).filter(|word| !word.is_empty()).map(String::from_utf8_lossy).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

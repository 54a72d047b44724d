//! Rotations of logs, beside the loop: at most one at a time for a log.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::host::logs::{self, Rotation};

/// The logs that are being rotated; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Rotations {
    under_way: Arc<Mutex<HashSet<PathBuf>>>,
}

/// A log that is being rotated, until this is dropped.
#[derive(Debug)]
struct Rotating {
    path: PathBuf,
    rotations: Rotations,
}

impl Rotations {
    /// Nothing happens for a log that is not larger than `max_size` bytes, or is being rotated already.
    pub fn begin_if_needed(&self, path: PathBuf, max_size: u64, keep: NonZeroU32) {
        if !path.metadata().is_ok_and(|log| log.len() > max_size) {
            return;
        }
        let Some(rotating) = self.begin(path) else { return };
        tokio::task::spawn_blocking(move || rotate(&rotating.path, max_size, keep));
    }

    fn begin(&self, path: PathBuf) -> Option<Rotating> {
        self.under_way().insert(path.clone()).then(|| Rotating { path, rotations: self.clone() })
    }

    fn under_way(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.under_way.lock().expect("nothing panics while it holds this lock")
    }
}

impl Drop for Rotating {
    fn drop(&mut self) {
        self.rotations.under_way().remove(&self.path);
    }
}

fn rotate(path: &Path, max_size: u64, keep: NonZeroU32) {
    match logs::rotate(path, max_size, keep) {
        Ok(Rotation::NotNeeded | Rotation::Rotated { .. }) => {}
        Ok(other) => tracing::warn!(log = %path.display(), "not rotated: {other:?}"),
        Err(error) => tracing::warn!("{error}: {}", error.source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_rotated_once_at_a_time() {
        let rotations = Rotations::default();
        let first = rotations.begin("/logs/web.log".into());
        assert!(first.is_some());
        assert!(rotations.begin("/logs/web.log".into()).is_none());
        assert!(rotations.begin("/logs/db.log".into()).is_some());
        drop(first);
        assert!(rotations.begin("/logs/web.log".into()).is_some());
    }
}

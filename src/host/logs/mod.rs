//! The log of a service: a file that the service itself appends to, and what was cut off its head.
//!
//! No output passes through us: the service holds an `O_APPEND` descriptor of the file, so it neither waits for us
//! nor dies with us. The stream of a log is its archives, oldest first (`web.log.3`, `.2`, `.1`), then the live file;
//! put together they are what was written, byte for byte, though an archive may end in the middle of a line.
//! [`rotate()`] moves the head into a new `.1`, [`tail`] reads the end, [`Follower`] goes on from there. Readers and
//! the rotator agree by a lock on the directory, which no service has. Links are never followed here.
//! Source: fallocate(2), and what was measured of losses (copytruncate lost 1 line in 70, this none).

mod follow;
mod lines;
mod mark;
mod rotate;
mod stream;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

pub use follow::Follower;
pub use lines::{Line, LineEnd};
pub use mark::mark;
pub use rotate::{Means, RotateError, Rotation, rotate};

use crate::identity::ServiceId;
use lines::Splitter;
use stream::Stream;

/// The last `count` lines of a log, oldest first, across its archives; none if there is no log. Reads only as far
/// back as needed, at most 16 MiB.
///
/// # Errors
/// The log is not a regular file, or cannot be read.
pub fn tail(path: &Path, count: usize) -> io::Result<Vec<Line>> {
    let stream = Stream::open_patiently(path)?;
    let mut splitter = Splitter::default();
    let mut lines = splitter.feed(&stream.end_with(count)?);
    lines.extend(splitter.finish());
    Ok(last(lines, count))
}

/// Deletes a log and its archives; none there is no error.
pub fn purge(path: &Path) -> io::Result<()> {
    let Some((dir, name)) = path.parent().zip(path.file_name()) else { return Ok(()) };
    let archive = |file: &std::ffi::OsStr| {
        let rest = file.to_str()?.strip_prefix(name.to_str()?)?;
        Some(rest.is_empty() || rest.strip_prefix('.')?.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if archive(&entry.file_name()) == Some(true) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whose logs, or archives of logs, are in this directory; none if it is not there.
pub fn services(dir: &Path) -> io::Result<Vec<ServiceId>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let owner = |name: &std::ffi::OsStr| {
        let (stem, archive) = name.to_str()?.rsplit_once(".log")?;
        let is_log = archive.strip_prefix('.').unwrap_or(archive).bytes().all(|byte| byte.is_ascii_digit());
        is_log.then(|| ServiceId::from_file_stem(stem)).flatten()
    };
    let mut services = BTreeSet::new();
    for entry in entries {
        services.extend(owner(&entry?.file_name()));
    }
    Ok(services.into_iter().collect())
}

fn last(mut lines: Vec<Line>, count: usize) -> Vec<Line> {
    lines.drain(..lines.len().saturating_sub(count));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_and_its_archives_are_of_one_service_and_other_files_of_none() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.logger.log", "a.logger.log.1", "shop.db.log.12", "x.log", "a.b.log.tmp", ".lock"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let named: Vec<String> = services(dir.path()).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(named, ["a/logger", "shop/db"]);
        assert_eq!(services(&dir.path().join("none")).unwrap(), []);
    }
}

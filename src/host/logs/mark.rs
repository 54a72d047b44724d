//! A place in a log that outlives the reader: where it ended at one moment, found again after rotations.
//!
//! What was written before the mark is never taken for later, for a line of the run before would say that this one
//! is ready. So where archives in between are gone, some of what came after it is passed over: as much as the live
//! file held then, for the head of what was cut off first cannot have been longer. The live file stays the same
//! file through rotations; another one was put there after the mark.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::stream::{Segment, Stream};
use crate::state::LogMark;

/// Where the log ends now; nothing is there if there is none.
///
/// # Errors
/// The log is not a regular file, or cannot be read.
pub fn mark(path: &Path) -> io::Result<LogMark> {
    let stream = Stream::open_patiently(path)?;
    let archive = stream.archives.last().map(inode).transpose()?;
    Ok(match &stream.live {
        Some(live) => LogMark { inode: Some(inode(live)?), bytes: live.len(), archive },
        None => LogMark { archive, ..LogMark::default() },
    })
}

fn inode(segment: &Segment) -> io::Result<u64> {
    Ok(segment.file.metadata()?.ino())
}

/// What a log holds after a mark.
pub(super) struct Rest {
    pub archives: Vec<Segment>,
    /// With the bytes to pass over, from where its data begins.
    pub live: Option<(File, u64)>,
    /// The newest archive, whether it came before the mark or after.
    pub newest: Option<File>,
}

pub(super) fn after(stream: Stream, mark: &LogMark) -> io::Result<Rest> {
    let Stream { mut archives, live } = stream;
    let newest = archives.last().map(|newest| newest.file.try_clone()).transpose()?;
    let mut known = None;
    for (index, archive) in archives.iter().enumerate() {
        if mark.archive == Some(inode(archive)?) {
            known = Some(index);
        }
    }
    if let Some(known) = known {
        archives.drain(..=known);
    }
    let live_inode = live.as_ref().map(inode).transpose()?;
    let mut place = if archives.is_empty() && live_inode != mark.inode { 0 } else { mark.bytes };
    for archive in &mut archives {
        let passed = place.min(archive.len());
        archive.start += passed;
        place -= passed;
    }
    archives.retain(|archive| archive.len() > 0);
    // Somebody emptied it: what is in it now is new.
    let live = live.map(|live| (if place > live.len() { 0 } else { place }, live.file));
    Ok(Rest { archives, live: live.map(|(place, file)| (file, place)), newest })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::num::NonZeroU32;

    use super::super::{Follower, Rotation, rotate};
    use super::*;

    fn append(path: &Path, text: &str) {
        let mut log = OpenOptions::new().create(true).append(true).open(path).unwrap();
        log.write_all(text.as_bytes()).unwrap();
    }

    /// Cuts all but the end of it off.
    fn cut(path: &Path, keep: u32) {
        append(path, &"filler\n".repeat(3000));
        let rotated = rotate(path, 4096, NonZeroU32::new(keep).unwrap()).unwrap();
        assert!(matches!(rotated, Rotation::Rotated { .. }), "{rotated:?}");
    }

    /// Each line that is not filler.
    fn lines_after(path: &Path, mark: &LogMark) -> Vec<String> {
        let mut follower = Follower::from_mark(path, mark).unwrap();
        let mut lines = Vec::new();
        loop {
            let more = follower.poll().unwrap();
            if more.is_empty() {
                lines.retain(|line: &String| line.starts_with("run"));
                return lines;
            }
            lines.extend(more.into_iter().map(|line| line.text));
        }
    }

    #[test]
    fn what_was_written_after_a_mark_is_found_again_across_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("default.web.log");
        assert_eq!(lines_after(&log, &mark(&log).unwrap()), [""; 0]);
        let before = mark(&log).unwrap();
        append(&log, "run 1\nrun 1, with no end");
        let first = mark(&log).unwrap();
        append(&log, "run 2\n");
        assert_eq!(lines_after(&log, &before), ["run 1", "run 1, with no endrun 2"]);
        assert_eq!(lines_after(&log, &first), ["run 2"]);
        for _ in 0..3 {
            cut(&log, 20);
        }
        assert_eq!(lines_after(&log, &first), ["run 2"]);
        let second = mark(&log).unwrap();
        append(&log, "run 3\n");
        assert_eq!(lines_after(&log, &second), ["run 3"]);
        cut(&log, 20);
        assert_eq!(lines_after(&log, &second), ["run 3"]);
        assert_eq!(lines_after(&log, &first), ["run 2", "run 3"]);
    }

    #[test]
    fn where_archives_are_gone_nothing_from_before_the_mark_is_taken_for_later() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("default.web.log");
        cut(&log, 1);
        append(&log, "run 1\n");
        let first = mark(&log).unwrap();
        append(&log, "run 2\n");
        for _ in 0..4 {
            cut(&log, 1);
        }
        append(&log, "run 2, late\n");
        assert_eq!(lines_after(&log, &first), ["run 2, late"]);
    }

    #[test]
    fn a_log_that_was_emptied_or_replaced_since_is_all_new() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("default.web.log");
        append(&log, "run 1, which says much\n");
        let first = mark(&log).unwrap();
        fs::write(&log, "run 2\n").unwrap();
        assert_eq!(lines_after(&log, &first), ["run 2"]);
        let other = dir.path().join("other");
        fs::write(&other, "run 3, which says even more than that\n").unwrap();
        fs::rename(other, &log).unwrap();
        assert_eq!(lines_after(&log, &first), ["run 3, which says even more than that"]);
    }
}

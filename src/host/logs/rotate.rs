//! Cuts the head off a log that has grown too large, under a service that goes on writing.
//!
//! The order makes every instant safe to be killed at: copy (`.copying`), complete (`.cut`), drop the head, rename to
//! `.1`. The head is dropped inside the live file, so the service needs no signal and loses no line; where the
//! file system cannot do that, nothing is cut and the caller is told. Blocks for as long as the disk takes
//! (about 10 ms): called beside the loop, never in it. Source: fallocate(2).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::num::NonZeroU32;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::stream::{self, Access, Lock, Segment, archive, sibling};

/// What came of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The log is not larger than it may be, or there is none.
    NotNeeded,
    Rotated {
        /// Bytes moved into archives.
        moved: u64,
        /// Bytes dropped without a copy: more than all archives together may hold.
        discarded: u64,
        by: Means,
    },
    /// A reader holds on to the files; the next attempt may do.
    Busy,
    /// The file system can drop no head; the log goes on growing.
    Unsupported,
}

/// How the head of a file is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// The rest moves to the front (ext4, xfs).
    Collapse,
    /// The head becomes a hole: apparent size and offsets stay (btrfs, tmpfs).
    Punch,
}

#[derive(Debug, thiserror::Error)]
#[error("rotate {path}")]
pub struct RotateError {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// Cuts a log that is larger than `max_size` bytes, so that it and `keep` archives of about `max_size` remain.
/// Finishes what an interrupted rotation left. At most one caller at a time for a log.
///
/// # Errors
/// The log is not a regular file, or the disk fails or is full; the log is as before then.
pub fn rotate(path: &Path, max_size: u64, keep: NonZeroU32) -> Result<Rotation, RotateError> {
    let rotator = Rotator { path, max_size, keep: keep.get() };
    rotator.run().map_err(|source| RotateError { path: path.to_owned(), source })
}

struct Rotator<'a> {
    path: &'a Path,
    max_size: u64,
    keep: u32,
}

impl Rotator<'_> {
    fn run(&self) -> io::Result<Rotation> {
        let Some(live) = stream::open_log(self.path, Access::Modify)? else { return Ok(Rotation::NotNeeded) };
        if !self.finish_interrupted(&live)? {
            return Ok(Rotation::Busy);
        }
        if self.excess(&live)?.is_none() {
            return Ok(Rotation::NotNeeded);
        }
        let Some(by) = means(&sibling(self.path, "copying"))? else { return Ok(Rotation::Unsupported) };
        let Some(discarded) = self.discard(&live, by)? else { return Ok(Rotation::Busy) };
        let mut moved = 0;
        // Bounded: a service may write faster than we copy.
        for _ in 0..self.keep {
            let Some(head) = self.excess(&live)? else { break };
            if !self.move_head(&live, &head, by)? {
                break;
            }
            moved += head.end - head.start;
        }
        Ok(if moved == 0 { Rotation::Busy } else { Rotation::Rotated { moved, discarded, by } })
    }

    /// The head to move next; `None` if the log is small enough.
    fn excess(&self, live: &File) -> io::Result<Option<Head>> {
        let (start, end) = (stream::data_start(live)?, live.metadata()?.len());
        let block = block_of(live)?;
        let length = end.saturating_sub(start);
        if length <= self.max_size {
            return Ok(None);
        }
        let piece = self.max_size.next_multiple_of(block).max(block);
        let wanted = if length < piece.saturating_mul(2) { end } else { start + piece };
        // Something must stay: the whole of a file cannot be collapsed.
        let cut = wanted.min(end - 1) / block * block;
        Ok((cut > start).then_some(Head { start, end: cut }))
    }

    /// Drops what would fall out of the last archive at once, without copying it there first: a log that nobody
    /// looked after for weeks must not fill the disk a second time.
    fn discard(&self, live: &File, by: Means) -> io::Result<Option<u64>> {
        let (start, end) = (stream::data_start(live)?, live.metadata()?.len());
        let block = block_of(live)?;
        let piece = self.max_size.next_multiple_of(block).max(block);
        let kept = piece.saturating_mul(u64::from(self.keep) + 1);
        let cut = end.saturating_sub(kept) / block * block;
        if cut <= start {
            return Ok(Some(0));
        }
        let Some(_lock) = Lock::exclusive(self.path)? else { return Ok(None) };
        remove_archives_from(self.path, 1)?;
        drop_head(live, cut, by)?;
        Ok(Some(cut - start))
    }

    /// False if a reader was in the way.
    fn move_head(&self, live: &File, head: &Head, by: Means) -> io::Result<bool> {
        // It falls out in any case, and the copy may need its room.
        remove_if_there(&archive(self.path, self.keep))?;
        let copying = sibling(self.path, "copying");
        let copied = copy(live, head, &copying);
        let lock = copied.and_then(|()| Lock::exclusive(self.path));
        let Ok(Some(_lock)) = lock else {
            remove_if_there(&copying)?;
            return lock.map(|_| false);
        };
        let cut = sibling(self.path, "cut");
        fs::rename(&copying, &cut)?;
        if let Err(error) = drop_head(live, head.end, by) {
            remove_if_there(&cut)?;
            return Err(error);
        }
        self.archive_cut(&cut)?;
        Ok(true)
    }

    /// False if a reader was in the way.
    fn finish_interrupted(&self, live: &File) -> io::Result<bool> {
        remove_if_there(&sibling(self.path, "copying"))?;
        let cut = sibling(self.path, "cut");
        let Some(file) = stream::open_log(&cut, Access::Read)? else { return Ok(true) };
        let Some(_lock) = Lock::exclusive(self.path)? else { return Ok(false) };
        let copy = Segment { start: 0, end: file.metadata()?.len(), file };
        let head = Segment::live(live.try_clone()?)?;
        if !stream::is_dropped(&copy, Some(&head))? {
            let end = head.start + copy.len();
            drop_head(live, end, Means::Collapse).or_else(|_| drop_head(live, end, Means::Punch))?;
        }
        self.archive_cut(&cut)?;
        Ok(true)
    }

    /// Makes room for a new `.1`, and puts the cut there.
    fn archive_cut(&self, cut: &Path) -> io::Result<()> {
        let free = (1..self.keep).find(|number| !is_there(&archive(self.path, *number))).unwrap_or(self.keep);
        for number in (1..free).rev() {
            fs::rename(archive(self.path, number), archive(self.path, number + 1))?;
        }
        fs::rename(cut, archive(self.path, 1))?;
        remove_archives_from(self.path, self.keep + 1)
    }
}

/// A range of the live file; its end is on a block.
struct Head {
    start: u64,
    end: u64,
}

fn copy(live: &File, head: &Head, to: &Path) -> io::Result<()> {
    let mut archive = create(to)?;
    let mut from = live.try_clone()?;
    from.seek(io::SeekFrom::Start(head.start))?;
    let length = head.end - head.start;
    if io::copy(&mut from.take(length), &mut archive)? != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Its only copy is about to go: after a power cut one of the two must be there.
    archive.sync_data()
}

fn drop_head(live: &File, end: u64, by: Means) -> io::Result<()> {
    let flags = match by {
        Means::Collapse => FallocateFlags::COLLAPSE_RANGE,
        Means::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
    };
    Ok(rustix::fs::fallocate(live, flags, 0, end)?)
}

/// Tries on a scratch file what the file system can do.
fn means(scratch: &Path) -> io::Result<Option<Means>> {
    let file = create(scratch)?;
    let block = block_of(&file)?;
    file.set_len(block * 2)?;
    let can = |by| match drop_head(&file, block, by) {
        Ok(()) => Ok(true),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Ok(false),
            _ => Err(error),
        },
    };
    let found = if can(Means::Collapse)? {
        Some(Means::Collapse)
    } else if can(Means::Punch)? {
        Some(Means::Punch)
    } else {
        None
    };
    remove_if_there(scratch)?;
    Ok(found)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// What ranges must be aligned to; network file systems give the size of their transfers instead.
fn block_of(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blksize().clamp(4096, 1 << 20))
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// More than configured remain where `keep` was made smaller.
fn remove_archives_from(path: &Path, first: u32) -> io::Result<()> {
    let there = (first..).map(|number| archive(path, number)).take_while(|archive| is_there(archive));
    there.collect::<Vec<_>>().iter().try_for_each(|archive| remove_if_there(archive))
}

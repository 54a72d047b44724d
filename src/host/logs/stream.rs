//! The files of one log as one stream, and the lock under which they change places.
//!
//! A rotation that was killed half-way leaves `web.log.cut`: a complete copy of the head that may or may not have
//! been dropped from the live file already. [`is_dropped`] tells by comparing, so that no reader sees the head
//! twice or never, and the next rotation finishes the work.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::host::flock::{self, Kind};

/// What the end of a log is read in.
const BLOCK: usize = 64 * 1024;
/// Bytes that a tail reads at most.
const MAX_TAIL: usize = 16 * 1024 * 1024;
/// How long the other side may hold the lock before it is taken for stopped.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);

/// A part of the stream: a range of one file.
#[derive(Debug)]
pub struct Segment {
    pub file: File,
    pub start: u64,
    pub end: u64,
}

impl Segment {
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// An archive is all data.
    fn archive(file: File) -> io::Result<Self> {
        let end = file.metadata()?.len();
        Ok(Self { file, start: 0, end })
    }

    /// The head of a live file may be a hole.
    pub fn live(file: File) -> io::Result<Self> {
        let end = file.metadata()?.len();
        let start = data_start(&file)?.min(end);
        Ok(Self { file, start, end })
    }

    pub fn is_same_file(&self, other: &File) -> io::Result<bool> {
        let (a, b) = (self.file.metadata()?, other.metadata()?);
        Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
    }
}

/// A log at one moment.
#[derive(Debug, Default)]
pub struct Stream {
    /// Oldest first.
    pub archives: Vec<Segment>,
    pub live: Option<Segment>,
}

impl Stream {
    /// Call it under [`Lock::shared`].
    pub fn open(path: &Path) -> io::Result<Self> {
        let live = open_log(path, Access::Read)?.map(Segment::live).transpose()?;
        let mut archives = Vec::new();
        if let Some(cut) = open_log(&sibling(path, "cut"), Access::Read)? {
            let cut = Segment::archive(cut)?;
            if is_dropped(&cut, live.as_ref())? {
                archives.push(cut);
            }
        }
        // A rotation that was killed while it renamed leaves one number out.
        let mut missing = 0;
        for number in 1.. {
            match open_log(&archive(path, number), Access::Read)? {
                Some(file) => archives.push(Segment::archive(file)?),
                None => missing += 1,
            }
            if missing > 1 {
                break;
            }
        }
        archives.reverse();
        Ok(Self { archives, live })
    }

    /// Waits for a rotation to finish, but not for one that was stopped.
    pub fn open_patiently(path: &Path) -> io::Result<Self> {
        if !directory_of(path).is_dir() {
            return Ok(Self::default());
        }
        let _lock = Lock::within(path, Kind::Shared, LOCK_PATIENCE)?;
        Self::open(path)
    }

    /// The end of the stream, with at least `lines` whole lines if there are as many within the bound.
    pub fn end_with(&self, lines: usize) -> io::Result<Vec<u8>> {
        let mut blocks: Vec<Vec<u8>> = Vec::new();
        let (mut newlines, mut bytes) = (0, 0);
        if lines == 0 {
            return Ok(Vec::new());
        }
        'stream: for segment in self.archives.iter().chain(&self.live).rev() {
            let mut end = segment.end;
            while end > segment.start {
                let size = (end - segment.start).min(BLOCK as u64);
                let mut block = vec![0; size as usize];
                end -= size;
                segment.file.read_exact_at(&mut block, end)?;
                newlines += block.iter().filter(|&&byte| byte == b'\n').count();
                bytes += block.len();
                blocks.push(block);
                // One more than wanted: what is before it may be the end of a line.
                if newlines > lines || bytes >= MAX_TAIL {
                    break 'stream;
                }
            }
        }
        Ok(blocks.into_iter().rev().flatten().collect())
    }
}

/// True unless the live file still begins with the copy.
pub fn is_dropped(cut: &Segment, live: Option<&Segment>) -> io::Result<bool> {
    let Some(live) = live else { return Ok(true) };
    if live.len() < cut.len() {
        return Ok(true);
    }
    let (mut ours, mut theirs) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut at = 0;
    while at < cut.len() {
        let size = (cut.len() - at).min(BLOCK as u64) as usize;
        cut.file.read_exact_at(&mut ours[..size], at)?;
        live.file.read_exact_at(&mut theirs[..size], live.start + at)?;
        if ours[..size] != theirs[..size] {
            return Ok(true);
        }
        at += size as u64;
    }
    Ok(false)
}

/// Held while files of a log change places, or while that must not happen. Released when dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "open for its lock")] File);

impl Lock {
    /// `None`: a rotation is at work.
    pub fn shared(path: &Path) -> io::Result<Option<Self>> {
        Self::within(path, Kind::Shared, Duration::ZERO)
    }

    /// `None`: a reader does not let go, stopped perhaps.
    pub fn exclusive(path: &Path) -> io::Result<Option<Self>> {
        Self::within(path, Kind::Exclusive, LOCK_PATIENCE)
    }

    fn within(path: &Path, kind: Kind, patience: Duration) -> io::Result<Option<Self>> {
        let directory = File::open(directory_of(path))?;
        Ok(flock::lock(&directory, kind, patience)?.then_some(Self(directory)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// To drop its head: nothing is ever written into it.
    Modify,
}

/// `None` if there is none. Anything but a regular file is an error, and is not waited for.
pub fn open_log(path: &Path, access: Access) -> io::Result<Option<File>> {
    let mode = match access {
        Access::Read => OFlags::RDONLY,
        Access::Modify => OFlags::RDWR,
    };
    let flags = mode | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    if file.metadata()?.is_file() {
        Ok(Some(file))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// Where the data begins: behind the hole that a rotation may have left.
pub fn data_start(file: &File) -> io::Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(0)) {
        Ok(start) => Ok(start),
        // Nothing but a hole, or nothing.
        Err(Errno::NXIO) => Ok(file.metadata()?.len()),
        // Such a file system makes no holes either.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// `web.log.1` is the newest archive.
pub fn archive(path: &Path, number: u32) -> PathBuf {
    sibling(path, &number.to_string())
}

pub fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

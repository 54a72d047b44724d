//! Goes along with a log that is written and rotated meanwhile, and gives every line once.
//!
//! Its place is a number of bytes into the live file, counted from where its data begins. When an archive appears that
//! it has not seen, that archive is what used to be the head of the live file: the place is in there now, and
//! the live file comes after it. So it needs no help from the rotator, and works for both ways of dropping a
//! head. Archives are held open until they are read: being renamed or removed does not matter to them.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::lines::{Line, Splitter};
use super::stream::{Lock, Segment, Stream};
use crate::state::LogMark;

/// Bytes that one poll reads at most.
const BUDGET: usize = 256 * 1024;
/// Bytes by which the place is recognised where archives are missing.
const LANDMARK: usize = 256;

/// Reads on in a log. The log may not exist yet.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    /// What comes before the live file and is not read yet.
    queue: VecDeque<Segment>,
    live: Option<Live>,
    /// The newest archive seen. Held open, so that no other file can take its inode.
    newest: Option<File>,
    splitter: Splitter,
    /// The last bytes that were read.
    landmark: Vec<u8>,
    seen: Option<Glance>,
    missed: bool,
}

#[derive(Debug)]
struct Live {
    file: File,
    /// Bytes read, from where its data begins.
    read: u64,
}

/// Whether what was read last is still there, or archives in between may be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Found,
    Lost,
}

/// What tells cheaply that nothing has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Glance {
    dev: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Follower {
    /// Begins after the last line of the log; returns the last `count` lines before that.
    ///
    /// # Errors
    /// The log is not a regular file, or cannot be read.
    pub fn open(path: &Path, count: usize) -> io::Result<(Self, Vec<Line>)> {
        let mut stream = Stream::open_patiently(path)?;
        let mut splitter = Splitter::default();
        // One line at least, since the last may have no end yet.
        let end = stream.end_with(count.max(1))?;
        let lines = super::last(splitter.feed(&end), count);
        let live = stream.live.map(|live| Live { read: live.len(), file: live.file });
        let follower = Self {
            path: path.to_owned(),
            queue: VecDeque::new(),
            live,
            newest: stream.archives.pop().map(|newest| newest.file),
            splitter,
            landmark: end[end.len().saturating_sub(LANDMARK)..].to_vec(),
            seen: None,
            missed: false,
        };
        Ok((follower, lines))
    }

    /// Begins where the log ended when it was marked. What was rotated away since is missing; nothing from before the
    /// mark is ever taken for later.
    ///
    /// # Errors
    /// The log is not a regular file, or cannot be read.
    pub fn from_mark(path: &Path, mark: &LogMark) -> io::Result<Self> {
        let rest = super::mark::after(Stream::open_patiently(path)?, mark)?;
        Ok(Self {
            path: path.to_owned(),
            queue: rest.archives.into(),
            live: rest.live.map(|(file, read)| Live { file, read }),
            newest: rest.newest,
            splitter: Splitter::default(),
            landmark: Vec::new(),
            seen: None,
            missed: false,
        })
    }

    /// The lines that were completed since; none also while a rotation is at work. At most 256 KiB are read: after a
    /// list that is not empty there may be more. Where nothing has happened it costs one system call.
    ///
    /// # Errors
    /// The log is not a regular file any more, or cannot be read.
    pub fn poll(&mut self) -> io::Result<Vec<Line>> {
        let glance = Glance::of(&self.path)?;
        if self.queue.is_empty() && self.seen == glance && (glance.is_some() || self.live.is_none()) {
            return Ok(Vec::new());
        }
        let Some(_lock) = Lock::shared(&self.path)? else { return Ok(Vec::new()) };
        // What comes after a gap is not the end of the line before it.
        let torn = match self.catch_up(Stream::open(&self.path)?)? {
            Place::Found => None,
            Place::Lost => {
                self.missed = true;
                self.splitter.finish()
            }
        };
        let bytes = self.read()?;
        // The glance is older than what was read: whatever came in between is seen the next time.
        self.seen = glance.filter(|_| bytes.len() < BUDGET);
        self.landmark.extend_from_slice(&bytes);
        self.landmark.drain(..self.landmark.len().saturating_sub(LANDMARK));
        let mut lines = Vec::from_iter(torn);
        lines.extend(self.splitter.feed(&bytes));
        Ok(lines)
    }

    /// The line that has no end yet, when nothing more is expected.
    pub fn finish(&mut self) -> Option<Line> {
        self.splitter.finish()
    }

    /// True once after lines may have been rotated away before they could be read.
    pub fn take_missed(&mut self) -> bool {
        std::mem::take(&mut self.missed)
    }

    /// Finds the place in the log as it is now.
    fn catch_up(&mut self, stream: Stream) -> io::Result<Place> {
        let Stream { archives, live } = stream;
        let (mut newer, known) = self.newer_of(archives)?;
        let replaced = match (&self.live, &live) {
            (Some(ours), Some(now)) => !now.is_same_file(&ours.file)?,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let mut place = self.live.as_ref().map_or(0, |live| live.read);
        let mut verdict = Place::Found;
        if replaced {
            let rest = self.rest_of_live()?;
            self.queue.extend(rest);
            place = 0;
        } else if !known && !newer.is_empty() && !self.recognises(place, &newer, live.as_ref())? {
            verdict = Place::Lost;
            place = 0;
        }
        if let Some(newest) = newer.last() {
            self.newest = Some(newest.file.try_clone()?);
        }
        for segment in &mut newer {
            let skipped = place.min(segment.len());
            segment.start += skipped;
            place -= skipped;
        }
        self.queue.extend(newer.into_iter().filter(|segment| segment.len() > 0));
        self.live = live.map(|live| Live {
            // Somebody emptied it: what is in it now is new.
            read: if place > live.len() { 0 } else { place },
            file: live.file,
        });
        Ok(verdict)
    }

    /// The archives after the newest one that was seen, and whether that was found among them.
    fn newer_of(&self, mut archives: Vec<Segment>) -> io::Result<(Vec<Segment>, bool)> {
        let Some(newest) = &self.newest else { return Ok((archives, false)) };
        for index in (0..archives.len()).rev() {
            if archives[index].is_same_file(newest)? {
                archives.drain(..=index);
                return Ok((archives, true));
            }
        }
        Ok((archives, false))
    }

    /// True if the bytes before `place`, counted over the archives and the live file, are those that were read
    /// last: then no archive is missing in between.
    fn recognises(&self, place: u64, archives: &[Segment], live: Option<&Segment>) -> io::Result<bool> {
        let length = place.min(self.landmark.len() as u64);
        let expected = &self.landmark[self.landmark.len() - length as usize..];
        let mut found = Vec::with_capacity(expected.len());
        let (mut from, mut left) = (place - length, length);
        for segment in archives.iter().chain(live) {
            let size = left.min(segment.len().saturating_sub(from));
            let mut part = vec![0; size as usize];
            segment.file.read_exact_at(&mut part, segment.start + from)?;
            found.extend_from_slice(&part);
            from = from.saturating_sub(segment.len());
            left -= size;
        }
        // Behind a queue the place is in the queue, and nothing can be compared.
        Ok(self.queue.is_empty() && found == expected)
    }

    fn rest_of_live(&mut self) -> io::Result<Option<Segment>> {
        let Some(live) = self.live.take() else { return Ok(None) };
        let mut rest = Segment::live(live.file)?;
        rest.start = (rest.start + live.read).min(rest.end);
        Ok(Some(rest).filter(|rest| rest.len() > 0))
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < BUDGET {
            let Some(segment) = self.queue.front_mut() else { break };
            segment.start += append(&segment.file, segment.start, segment.end, &mut bytes)?;
            if segment.len() == 0 {
                self.queue.pop_front();
            }
        }
        if let Some(live) = &mut self.live
            && self.queue.is_empty()
        {
            let now = Segment::live(live.file.try_clone()?)?;
            live.read += append(&now.file, now.start + live.read, now.end, &mut bytes)?;
        }
        Ok(bytes)
    }
}

/// Appends what is left of the budget from a range of a file; returns how much.
fn append(file: &File, start: u64, end: u64, bytes: &mut Vec<u8>) -> io::Result<u64> {
    let before = bytes.len();
    let size = end.saturating_sub(start).min((BUDGET - before) as u64);
    bytes.resize(before + size as usize, 0);
    file.read_exact_at(&mut bytes[before..], start)?;
    Ok(size)
}

impl Glance {
    fn of(path: &Path) -> io::Result<Option<Self>> {
        match path.symlink_metadata() {
            Ok(of) => Ok(Some(Self {
                dev: of.dev(),
                inode: of.ino(),
                size: of.size(),
                mtime: (of.mtime(), of.mtime_nsec()),
                ctime: (of.ctime(), of.ctime_nsec()),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

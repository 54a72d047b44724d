//! Keeps logs below their size while services write, beside the loop.
//!
//! One watch on the directory of logs, armed for one event: the first write after a look brings the next look a
//! second later. So a log outgrows its size by what is written in that second and no more, and logs that nobody
//! writes cost nothing. A log whose end is not where it was, and that was not rotated, was truncated by its own
//! service, which is told: lines are lost that nobody will find. Source: inotify(7).

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::sync::mpsc;

use crate::host::logs::{self, Rotation};
use crate::host::{Event, LogTrouble};
use crate::identity::ServiceId;

/// From the first write until logs are looked at.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// The same when a rotation was not possible the last time.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How often they are looked at where writes cannot be watched.
const LOOK_BLINDLY_EVERY: Duration = Duration::from_secs(10);

/// So much of the end of a log tells whether it is still there.
const SAMPLE_BYTES: u64 = 64;

/// How large logs may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    /// Bytes.
    pub max_size: u64,
    /// Archives of about that size.
    pub keep: NonZeroU32,
}

/// Who tends the logs of a state directory, for as long as this value lives.
///
/// A thread and not a task: one that hangs on a dead disk must not keep this process from its end.
#[derive(Debug, Default)]
pub(super) struct Tender {
    thread: Option<Thread>,
}

#[derive(Debug)]
struct Thread {
    rules: Arc<Mutex<Rules>>,
    /// A byte: the rules have changed. Closed: the end.
    word: UnixStream,
}

impl Tender {
    /// Looks at all logs below `dir` now if this is the first time or the rules have changed, and from then on when
    /// they are written to.
    pub fn tend(&mut self, dir: &Path, rules: Rules, events: &mpsc::UnboundedSender<Event>) {
        match &mut self.thread {
            Some(thread) => {
                let before = std::mem::replace(&mut *lock(&thread.rules), rules);
                if before != rules {
                    // If nobody listens the thread has panicked, which was told.
                    let _ = thread.word.write_all(b"!");
                }
            }
            None => match Thread::start(dir, rules, events.clone()) {
                Ok(thread) => self.thread = Some(thread),
                // Tried again by the next full pass.
                Err(error) => tracing::warn!("logs are not rotated: {error}"),
            },
        }
    }
}

fn lock(rules: &Mutex<Rules>) -> std::sync::MutexGuard<'_, Rules> {
    rules.lock().expect("nothing panics while it holds the rules")
}

impl Thread {
    fn start(dir: &Path, rules: Rules, events: mpsc::UnboundedSender<Event>) -> io::Result<Self> {
        let (word, heard) = UnixStream::pair()?;
        let rules = Arc::new(Mutex::new(rules));
        let tending = Tending {
            alarm: Alarm::new()?,
            word: heard,
            rules: Arc::clone(&rules),
            logs: Logs::new(dir),
            events,
        };
        std::thread::Builder::new().name("logs".into()).spawn(move || tending.run())?;
        Ok(Self { rules, word })
    }
}

struct Tending {
    alarm: Alarm,
    word: UnixStream,
    rules: Arc<Mutex<Rules>>,
    logs: Logs,
    events: mpsc::UnboundedSender<Event>,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    InTime,
    ByWrite,
    ByWord,
    ByEnd,
}

impl Tending {
    fn run(mut self) {
        loop {
            let rules = *lock(&self.rules);
            let look = self.logs.look(rules);
            for (service, trouble) in look.news {
                // The reconciler may have ended meanwhile.
                let _ = self.events.send(Event::LogTroubled { service, trouble });
            }
            // Armed after the look, whose own files would ring it; so what was written since is looked for.
            let at_most = match self.alarm.arm(&self.logs.dir) {
                Ok(()) if self.logs.were_written_to() => Some(Duration::ZERO),
                Ok(()) => None,
                Err(_) => Some(LOOK_BLINDLY_EVERY),
            };
            let woken = match self.wait(at_most) {
                Woken::ByWrite | Woken::InTime => {
                    self.alarm.silence();
                    self.wait(Some(if look.all_is_well { LOOK_AFTER } else { LOOK_AGAIN_AFTER }))
                }
                woken => woken,
            };
            if woken == Woken::ByEnd {
                return;
            }
        }
    }

    fn wait(&mut self, at_most: Option<Duration>) -> Woken {
        let timeout = at_most.map_or(PollTimeout::NONE, |time| {
            PollTimeout::try_from(time).expect("some seconds are few milliseconds")
        });
        let mut fds =
            [&self.word.as_fd(), &self.alarm.inotify.as_fd()].map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
        // Interrupted or out of memory: one look too many.
        let _ = poll(&mut fds, timeout);
        let [has_word, was_written] = fds.map(|fd| fd.any() == Some(true));
        if !has_word {
            return if was_written { Woken::ByWrite } else { Woken::InTime };
        }
        match self.word.read(&mut [0; 16]) {
            Ok(1..) => Woken::ByWord,
            Ok(0) | Err(_) => Woken::ByEnd,
        }
    }
}

/// Tells of the first write to anything in a directory.
struct Alarm {
    inotify: OwnedFd,
}

impl Alarm {
    fn new() -> io::Result<Self> {
        Ok(Self { inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)? })
    }

    fn arm(&self, dir: &Path) -> io::Result<()> {
        let flags = WatchFlags::MODIFY | WatchFlags::ONESHOT | WatchFlags::ONLYDIR;
        inotify::add_watch(&self.inotify, dir, flags)?;
        Ok(())
    }

    /// Takes what was told: it is only of use that it was.
    fn silence(&self) {
        while rustix::io::read(&self.inotify, &mut [0; 4096]).is_ok_and(|read| read > 0) {}
    }
}

struct Logs {
    dir: PathBuf,
    /// What was there at the last look, of those that were not rotated by it.
    before: HashMap<ServiceId, End>,
    /// What was told of a log, and still is so.
    told: HashMap<ServiceId, LogTrouble>,
}

/// What a look found.
struct Look {
    /// Of services of which that was not told before.
    news: Vec<(ServiceId, LogTrouble)>,
    /// What was to be rotated was.
    all_is_well: bool,
}

/// The end of a log at one moment: as long as it is only appended to, the same bytes stay in the same place.
#[derive(Debug)]
struct End {
    file: FileAt,
    bytes: Vec<u8>,
}

/// A file, and when it was what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileAt {
    inode: u64,
    /// Inode numbers are given again; `None` where the file system does not tell.
    created: Option<SystemTime>,
    modified: Option<SystemTime>,
    size: u64,
}

impl FileAt {
    fn of(meta: &Metadata) -> Self {
        Self {
            inode: meta.ino(),
            created: meta.created().ok(),
            modified: meta.modified().ok(),
            size: meta.len(),
        }
    }

    fn is_same_file(&self, other: &Self) -> bool {
        (self.inode, self.created) == (other.inode, other.created)
    }
}

impl End {
    fn of(log: &File) -> io::Result<Self> {
        let file = FileAt::of(&log.metadata()?);
        Ok(Self { file, bytes: bytes_before(log, file.size)? })
    }

    /// It is the same file, and does not hold any more what it held.
    fn was_truncated(&self, log: &File) -> bool {
        let Ok(meta) = log.metadata() else { return false };
        self.file.is_same_file(&FileAt::of(&meta))
            && match bytes_before(log, self.file.size) {
                Ok(bytes) => bytes != self.bytes,
                Err(error) => error.kind() == io::ErrorKind::UnexpectedEof,
            }
    }
}

fn bytes_before(log: &File, end: u64) -> io::Result<Vec<u8>> {
    let length = end.min(SAMPLE_BYTES);
    let mut bytes = vec![0; length as usize];
    log.read_exact_at(&mut bytes, end - length)?;
    Ok(bytes)
}

impl Logs {
    fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), before: HashMap::new(), told: HashMap::new() }
    }

    /// Rotates what has grown too large, and tells what services do to their logs, or what cannot be done for them.
    fn look(&mut self, rules: Rules) -> Look {
        let mut look = Look { news: Vec::new(), all_is_well: true };
        let mut before = std::mem::take(&mut self.before);
        for (service, path) in logs_in(&self.dir) {
            let Ok(meta) = path.symlink_metadata() else { continue };
            let was_large = |end: &End| end.file.size > rules.max_size;
            if let Some(end) = before.remove(&service) {
                if end.file == FileAt::of(&meta) && !was_large(&end) {
                    self.before.insert(service, end);
                    continue;
                }
                // One that cannot be opened is told of when it is rotated.
                if open(&path).is_ok_and(|log| end.was_truncated(&log)) {
                    look.news.push((service.clone(), LogTrouble::Truncated));
                }
            }
            let rotated = if meta.len() > rules.max_size { rotate(&path, rules) } else { Rotated::No };
            look.all_is_well &= rotated != Rotated::CouldNot;
            match rotated {
                Rotated::CouldNot | Rotated::CanNot => {
                    if self.told.insert(service.clone(), LogTrouble::NotRotated).is_none() {
                        look.news.push((service.clone(), LogTrouble::NotRotated));
                    }
                }
                Rotated::Yes | Rotated::No => drop(self.told.remove(&service)),
            }
            if rotated != Rotated::Yes
                && let Ok(end) = open(&path).and_then(|log| End::of(&log))
            {
                self.before.insert(service, end);
            }
        }
        look
    }

    /// Since the last look.
    fn were_written_to(&self) -> bool {
        logs_in(&self.dir).iter().any(|(service, path)| {
            let now = path.symlink_metadata().ok().map(|meta| FileAt::of(&meta));
            now.is_some() && now != self.before.get(service).map(|end| end.file)
        })
    }
}

/// Never blocks, and follows no link: the directory may have been tampered with.
fn open(path: &Path) -> io::Result<File> {
    let log = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if log.metadata()?.is_file() { Ok(log) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotated {
    Yes,
    /// There was no need.
    No,
    /// It may be possible another time: a reader, a full disk.
    CouldNot,
    /// Its file system has no way to do it.
    CanNot,
}

fn rotate(path: &Path, rules: Rules) -> Rotated {
    match logs::rotate(path, rules.max_size, rules.keep) {
        Ok(Rotation::NotNeeded) => Rotated::No,
        Ok(Rotation::Rotated { .. }) => Rotated::Yes,
        Ok(Rotation::Busy) => {
            tracing::debug!(log = %path.display(), "not rotated now: it is being read");
            Rotated::CouldNot
        }
        Ok(Rotation::Unsupported) => Rotated::CanNot,
        Err(error) => {
            tracing::debug!("{error}: {}", error.source);
            Rotated::CouldNot
        }
    }
}

/// The live logs; archives and what a rotation leaves half-way have more in their names.
fn logs_in(dir: &Path) -> Vec<(ServiceId, PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut logs: Vec<(ServiceId, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let service = ServiceId::from_file_stem(name.to_str()?.strip_suffix(".log")?)?;
            Some((service, entry.path()))
        })
        .collect();
    logs.sort();
    logs
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { max_size: 8192, keep: NonZeroU32::new(2).unwrap() };

    fn logs() -> (tempfile::TempDir, Logs, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::new(dir.path());
        let web = dir.path().join("default.web.log");
        (dir, logs, web)
    }

    fn news(logs: &mut Logs) -> Vec<LogTrouble> {
        logs.look(RULES).news.into_iter().map(|(_, trouble)| trouble).collect()
    }

    fn append(log: &Path, bytes: &[u8]) {
        OpenOptions::new().append(true).open(log).unwrap().write_all(bytes).unwrap();
    }

    #[test]
    fn a_log_that_lost_its_end_was_truncated_and_one_that_was_rotated_was_not() {
        let (_dir, mut logs, web) = logs();
        std::fs::write(&web, [b'x'; 100]).unwrap();
        assert_eq!(news(&mut logs), []);
        std::fs::write(&web, b"y").unwrap();
        assert_eq!(news(&mut logs), [LogTrouble::Truncated]);
        std::fs::write(&web, b"longer than it was").unwrap();
        assert_eq!(news(&mut logs), [LogTrouble::Truncated]);
        assert_eq!(news(&mut logs), []);
        append(&web, &[b'z'; 20_000]);
        assert_eq!(news(&mut logs), []);
        assert!(web.metadata().unwrap().len() < 20_000);
        assert_eq!(news(&mut logs), []);
    }

    #[test]
    fn a_new_file_of_that_name_is_no_truncation() {
        let (dir, mut logs, web) = logs();
        std::fs::write(&web, [b'x'; 100]).unwrap();
        logs.look(RULES);
        let other = dir.path().join("other");
        std::fs::write(&other, b"y").unwrap();
        std::fs::rename(other, &web).unwrap();
        assert_eq!(news(&mut logs), []);
    }

    #[test]
    fn a_log_that_cannot_be_rotated_is_told_of_once_until_it_can() {
        let (_dir, mut logs, web) = logs();
        std::fs::write(&web, [b'x'; 20_000]).unwrap();
        // Where the rotation puts its copy, something is that it may not remove.
        let copying = web.with_extension("log.copying");
        std::fs::create_dir(&copying).unwrap();
        assert_eq!(news(&mut logs), [LogTrouble::NotRotated]);
        assert_eq!(news(&mut logs), []);
        std::fs::remove_dir(&copying).unwrap();
        assert_eq!(news(&mut logs), []);
        assert!(web.metadata().unwrap().len() < 20_000);
    }

    #[test]
    fn what_a_look_does_itself_is_no_write_of_a_service() {
        let (_dir, mut logs, web) = logs();
        std::fs::write(&web, [b'x'; 100]).unwrap();
        logs.look(RULES);
        assert!(!logs.were_written_to());
        append(&web, b"y");
        assert!(logs.were_written_to());
    }

    #[test]
    fn the_first_write_after_it_was_armed_rings_and_later_ones_do_not() {
        let (_dir, logs, web) = logs();
        let alarm = Alarm::new().unwrap();
        let has_rung = |alarm: &Alarm| {
            let mut fds = [PollFd::new(alarm.inotify.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
        };
        for round in 0..2 {
            assert!(!has_rung(&alarm));
            alarm.arm(&logs.dir).unwrap();
            std::fs::write(&web, format!("{round}")).unwrap();
            assert!(has_rung(&alarm));
            alarm.silence();
            std::fs::write(&web, format!("again {round}")).unwrap();
        }
    }
}

//! Keeps logs below their size while services write, beside the loop.
//!
//! One watch on the directory of logs, armed for one event: the first write after a look brings the next look a
//! second later. So a log outgrows its size by what is written in that second and no more, and logs that nobody
//! writes cost nothing. A log whose end is not where it was, and that was not rotated, was truncated by its own
//! service, which is told: lines are lost that nobody will find. Source: inotify(7).

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::sync::mpsc;

use crate::host::Event;
use crate::host::logs::{self, Rotation};
use crate::identity::ServiceId;

/// From the first write until logs are looked at.
const LOOK_AFTER: Duration = Duration::from_secs(1);

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
            logs: Logs { dir: dir.to_owned(), before: HashMap::new() },
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
            // Armed before the look: what is written during it is not missed.
            let armed = self.alarm.arm(&self.logs.dir).is_ok();
            let rules = *lock(&self.rules);
            for service in self.logs.look(rules) {
                // The reconciler may have ended meanwhile.
                let _ = self.events.send(Event::LogTruncated { service });
            }
            let at_most = if armed { None } else { Some(LOOK_BLINDLY_EVERY) };
            let woken = match self.wait(at_most) {
                Woken::ByWrite => {
                    self.alarm.silence();
                    self.wait(Some(LOOK_AFTER))
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
}

/// The end of a log at one moment: as long as it is only appended to, the same bytes stay in the same place.
#[derive(Debug, PartialEq, Eq)]
struct End {
    inode: u64,
    size: u64,
    bytes: Vec<u8>,
}

impl End {
    /// Where the file ends, or what is where it ended before.
    fn of(log: &File, size: Option<u64>) -> io::Result<Self> {
        let meta = log.metadata()?;
        let size = size.unwrap_or(meta.len());
        let length = size.min(SAMPLE_BYTES);
        let mut bytes = vec![0; length as usize];
        log.read_exact_at(&mut bytes, size - length)?;
        Ok(Self { inode: meta.ino(), size, bytes })
    }

    /// It is the same file, and not what it was.
    fn was_truncated(&self, log: &File) -> bool {
        match Self::of(log, Some(self.size)) {
            Ok(now) => now.inode == self.inode && now.bytes != self.bytes,
            Err(error) => {
                let is_same = log.metadata().is_ok_and(|meta| meta.ino() == self.inode);
                is_same && error.kind() == io::ErrorKind::UnexpectedEof
            }
        }
    }
}

impl Logs {
    /// Rotates what has grown too large, and names the services that have truncated their logs since the last look.
    fn look(&mut self, rules: Rules) -> Vec<ServiceId> {
        let mut truncated = Vec::new();
        let mut ends = HashMap::new();
        for (service, path) in logs_in(&self.dir) {
            // One that cannot be opened is told of when it is rotated.
            let Ok(log) = open(&path) else { continue };
            if self.before.get(&service).is_some_and(|end| end.was_truncated(&log)) {
                truncated.push(service.clone());
            }
            let is_large = log.metadata().is_ok_and(|meta| meta.len() > rules.max_size);
            if is_large && rotate(&path, rules) {
                continue;
            }
            if let Ok(end) = End::of(&log, None) {
                ends.insert(service, end);
            }
        }
        self.before = ends;
        truncated
    }
}

/// Never blocks, and follows no link: the directory may have been tampered with.
fn open(path: &Path) -> io::Result<File> {
    let log = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if log.metadata()?.is_file() { Ok(log) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// True if the log may have been changed.
fn rotate(path: &Path, rules: Rules) -> bool {
    match logs::rotate(path, rules.max_size, rules.keep) {
        Ok(Rotation::NotNeeded) => false,
        Ok(Rotation::Rotated { .. }) => true,
        Ok(Rotation::Busy) => {
            tracing::debug!(log = %path.display(), "not rotated now: it is being read");
            true
        }
        Ok(Rotation::Unsupported) => {
            tracing::warn!(
                log = %path.display(),
                code = "rotation-unsupported",
                "not rotated: its file system can neither collapse nor punch files"
            );
            false
        }
        Err(error) => {
            tracing::warn!("{error}: {}", error.source);
            true
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
        let logs = Logs { dir: dir.path().to_owned(), before: HashMap::new() };
        let web = dir.path().join("default.web.log");
        (dir, logs, web)
    }

    #[test]
    fn a_log_that_lost_its_end_was_truncated_and_one_that_was_rotated_was_not() {
        let (_dir, mut logs, web) = logs();
        std::fs::write(&web, [b'x'; 100]).unwrap();
        assert_eq!(logs.look(RULES), []);
        std::fs::write(&web, b"y").unwrap();
        assert_eq!(logs.look(RULES).len(), 1);
        std::fs::write(&web, b"longer than it was").unwrap();
        assert_eq!(logs.look(RULES).len(), 1);
        assert_eq!(logs.look(RULES), []);
        let mut log = OpenOptions::new().append(true).open(&web).unwrap();
        log.write_all(&[b'z'; 20_000]).unwrap();
        assert_eq!(logs.look(RULES), []);
        assert!(web.metadata().unwrap().len() < 20_000);
        assert_eq!(logs.look(RULES), []);
    }

    #[test]
    fn a_new_file_of_that_name_is_no_truncation() {
        let (dir, mut logs, web) = logs();
        std::fs::write(&web, [b'x'; 100]).unwrap();
        logs.look(RULES);
        let other = dir.path().join("other");
        std::fs::write(&other, b"y").unwrap();
        std::fs::rename(other, &web).unwrap();
        assert_eq!(logs.look(RULES), []);
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

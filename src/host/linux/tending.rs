//! Keeps logs below their size while services write, beside the loop.
//!
//! One watch on the directory of logs, armed for one event: the first write after a look brings the next look a
//! second later. So a log outgrows its size by what is written in that second and no more, and logs that nobody
//! writes cost nothing. A log whose end is not where it was, and that was not rotated, was truncated by its own
//! service, which is told: lines are lost that nobody will find. Source: inotify(7).

mod look;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::sync::mpsc;

use look::Logs;
pub(super) use look::Rules;

use crate::host::Event;

/// From the first write until logs are looked at.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// The same when a rotation was not possible the last time.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How often they are looked at where writes cannot be watched.
const LOOK_BLINDLY_EVERY: Duration = Duration::from_secs(10);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_write_after_it_was_armed_rings_and_later_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let web = dir.path().join("default.web.log");
        let alarm = Alarm::new().unwrap();
        let has_rung = |alarm: &Alarm| {
            let mut fds = [PollFd::new(alarm.inotify.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
        };
        for round in 0..2 {
            assert!(!has_rung(&alarm));
            alarm.arm(dir.path()).unwrap();
            std::fs::write(&web, format!("{round}")).unwrap();
            assert!(has_rung(&alarm));
            alarm.silence();
            std::fs::write(&web, format!("again {round}")).unwrap();
        }
    }
}

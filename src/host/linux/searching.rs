//! Waits for lines in the logs of services, beside the loop.
//!
//! Each search reads its log from where the run began and goes along with it, across rotations, until a line matches or
//! its time is over; asked again, it goes on where it was. Woken by writes to just those logs; where no line is
//! waited for it sleeps. A thread and not a task: a hostile pattern or a dead disk must not hold up the loop.
//! Source: inotify(7).

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc as orders;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use regex::Regex;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::sync::mpsc;

use crate::host::logs::{Follower, Line, LineEnd};
use crate::host::probe::{ProbeError, compiled};
use crate::host::{Event, LineRequest};
use crate::identity::{Nonce, ServiceId};
use crate::state::is_shortage;

/// Bytes of a line that are looked at.
const MAX_MATCHED: usize = 4096;

/// From a write until it is read: who writes all the time is read this often.
const GATHER: Duration = Duration::from_millis(5);

/// How often a log is looked at of which no write is told: a rotation is in the way, or it cannot be watched.
const LOOK_ANYWAY: Duration = Duration::from_millis(500);

/// A search that nobody has asked about for so long is given up.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// A line to wait for.
#[derive(Debug)]
pub(super) struct Order {
    pub request: LineRequest,
    pub log: PathBuf,
}

/// Who searches logs, for as long as this value lives.
#[derive(Debug, Default)]
pub(super) struct Searches {
    thread: Option<Thread>,
}

#[derive(Debug)]
struct Thread {
    orders: orders::Sender<Order>,
    /// A byte: there is an order. Closed: the end.
    word: UnixStream,
}

impl Searches {
    pub fn begin(&mut self, order: Order, events: &mpsc::UnboundedSender<Event>) {
        let (service, nonce) = (order.request.service.clone(), order.request.nonce.clone());
        if let Err(error) = self.give(order, events) {
            self.thread = None;
            let why = format!("its log cannot be searched: {error}");
            // The reconciler may have ended meanwhile.
            let _ = events.send(Event::Probed { service, nonce, result: Err(ProbeError::NotMade(why)) });
        }
    }

    fn give(&mut self, order: Order, events: &mpsc::UnboundedSender<Event>) -> io::Result<()> {
        let thread = match &mut self.thread {
            Some(thread) => thread,
            None => self.thread.insert(Thread::start(events.clone())?),
        };
        thread.orders.send(order).map_err(|_| io::Error::other("the thread that does has ended"))?;
        thread.word.write_all(b"!")
    }
}

impl Thread {
    fn start(events: mpsc::UnboundedSender<Event>) -> io::Result<Self> {
        let (word, heard) = UnixStream::pair()?;
        heard.set_nonblocking(true)?;
        let (orders, taken) = orders::channel();
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        let searching = Searching {
            inotify: inotify.inspect_err(|error| tracing::debug!("logs are not watched: {error}")).ok(),
            word: heard,
            orders: taken,
            searches: HashMap::new(),
            events,
        };
        std::thread::Builder::new().name("lines".into()).spawn(move || searching.run())?;
        Ok(Self { orders, word })
    }
}

struct Searching {
    inotify: Option<OwnedFd>,
    word: UnixStream,
    orders: orders::Receiver<Order>,
    searches: HashMap<ServiceId, Search>,
    events: mpsc::UnboundedSender<Event>,
}

struct Search {
    nonce: Nonce,
    pattern: String,
    regex: Regex,
    log: PathBuf,
    follower: Follower,
    /// The start of the run is known.
    from_start: bool,
    /// The line that comes next is the rest of a long one.
    within_line: bool,
    has_matched: bool,
    watch: Option<i32>,
    /// When an answer is owed; `None`: there was one.
    answer_at: Option<Instant>,
    asked_at: Instant,
}

impl Searching {
    fn run(mut self) {
        loop {
            if self.take_orders().is_err() {
                return;
            }
            let now = Instant::now();
            let mut next = None;
            let names: Vec<ServiceId> = self.searches.keys().cloned().collect();
            for service in names {
                let wake = self.look(&service, now);
                next = [next, wake].into_iter().flatten().min();
            }
            if self.wait(next).is_err() {
                return;
            }
        }
    }

    /// `Err`: nobody will order anything any more.
    fn take_orders(&mut self) -> Result<(), orders::TryRecvError> {
        loop {
            match self.orders.try_recv() {
                Ok(order) => self.take(&order),
                Err(orders::TryRecvError::Empty) => return Ok(()),
                Err(end) => return Err(end),
            }
        }
    }

    fn take(&mut self, order: &Order) {
        let now = Instant::now();
        let answer_at = Some(now + order.request.timeout);
        let LineRequest { service, nonce, pattern, .. } = &order.request;
        if let Some(search) = self.searches.get_mut(service)
            && (&search.nonce, &search.pattern) == (nonce, pattern)
        {
            search.asked_at = now;
            search.answer_at = answer_at;
            return;
        }
        self.forget(service);
        match Search::begin(order, now) {
            Ok(search) => {
                self.searches.insert(service.clone(), Search { answer_at, ..search });
            }
            Err(error) => self.answer(service, nonce, Err(error)),
        }
    }

    fn forget(&mut self, service: &ServiceId) {
        if let Some(mut gone) = self.searches.remove(service) {
            gone.unwatch(self.inotify.as_ref());
        }
    }

    fn answer(&self, service: &ServiceId, nonce: &Nonce, result: Result<(), ProbeError>) {
        let (service, nonce) = (service.clone(), nonce.clone());
        // The reconciler may have ended meanwhile.
        let _ = self.events.send(Event::Probed { service, nonce, result });
    }

    /// Goes on with a search; returns when to look again at the latest.
    fn look(&mut self, service: &ServiceId, now: Instant) -> Option<Instant> {
        let search = self.searches.get_mut(service)?;
        let Some(answer_at) = search.answer_at else {
            let over = search.asked_at + FORGET_AFTER;
            if over <= now {
                self.forget(service);
                return None;
            }
            return Some(over);
        };
        search.watch(self.inotify.as_ref());
        let nonce = search.nonce.clone();
        let found = search.read_on();
        let result = match found {
            Ok(Progress::Matched) => Ok(()),
            Ok(Progress::More) if now < answer_at => return Some(now),
            Ok(Progress::End) if now < answer_at => return Some(answer_at.min(now + LOOK_ANYWAY)),
            Ok(Progress::More | Progress::End) => Err(ProbeError::Failed(search.none_yet())),
            Err(error) => {
                self.forget(service);
                self.answer(service, &nonce, Err(unreadable(&error)));
                return None;
            }
        };
        search.answer_at = None;
        search.asked_at = now;
        search.unwatch(self.inotify.as_ref());
        self.answer(service, &nonce, result);
        Some(now + FORGET_AFTER)
    }

    /// `Err`: the end.
    fn wait(&mut self, until: Option<Instant>) -> Result<(), ()> {
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            // Rounded up: what is due in less than a millisecond would be looked for all the time.
            let left = until.saturating_duration_since(Instant::now());
            PollTimeout::try_from(left.as_millis() + u128::from(!left.is_zero())).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![PollFd::new(self.word.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.inotify.as_ref().map(|inotify| PollFd::new(inotify.as_fd(), PollFlags::POLLIN)));
        // Interrupted or out of memory: one look too many.
        let _ = poll(&mut fds, timeout);
        let was_written = fds.get(1).is_some_and(|fd| fd.any() == Some(true));
        let has_word = fds[0].any() == Some(true);
        if was_written && let Some(inotify) = &self.inotify {
            std::thread::sleep(GATHER);
            // It is only of use that it was told.
            while rustix::io::read(inotify, &mut [0; 4096]).is_ok_and(|read| read > 0) {}
        }
        match has_word.then(|| self.word.read(&mut [0; 64])) {
            Some(Ok(0)) => Err(()),
            Some(Ok(_) | Err(_)) | None => Ok(()),
        }
    }
}

/// How far a search has come.
enum Progress {
    Matched,
    /// There may be more to read.
    More,
    End,
}

impl Search {
    fn begin(order: &Order, now: Instant) -> Result<Self, ProbeError> {
        let LineRequest { nonce, pattern, from, .. } = &order.request;
        let follower = match from {
            Some(mark) => Follower::from_mark(&order.log, mark),
            None => Follower::open(&order.log, 0).map(|(follower, _)| follower),
        };
        Ok(Self {
            nonce: nonce.clone(),
            pattern: pattern.clone(),
            regex: compiled(pattern).map_err(ProbeError::Failed)?,
            log: order.log.clone(),
            follower: follower.map_err(|error| unreadable(&error))?,
            from_start: from.is_some(),
            within_line: false,
            has_matched: false,
            watch: None,
            answer_at: None,
            asked_at: now,
        })
    }

    /// Before it is read, so that nothing is written unseen in between.
    fn watch(&mut self, inotify: Option<&OwnedFd>) {
        let Some(inotify) = inotify else { return };
        let flags = WatchFlags::MODIFY | WatchFlags::DONT_FOLLOW;
        // Of the file that has this name now; where there is none, it is looked for now and then.
        let watch = inotify::add_watch(inotify, self.log.as_path(), flags).ok();
        let before = std::mem::replace(&mut self.watch, watch);
        if let Some(before) = before.filter(|_| before != watch) {
            let _ = inotify::remove_watch(inotify, before);
        }
    }

    /// What nobody waits for wakes nobody.
    fn unwatch(&mut self, inotify: Option<&OwnedFd>) {
        if let (Some(inotify), Some(watch)) = (inotify, self.watch.take()) {
            // It may be gone with its file.
            let _ = inotify::remove_watch(inotify, watch);
        }
    }

    fn read_on(&mut self) -> io::Result<Progress> {
        if self.has_matched {
            return Ok(Progress::Matched);
        }
        let lines = self.follower.poll()?;
        for line in &lines {
            self.has_matched |= self.matches(line);
            self.within_line = line.end == LineEnd::Split;
        }
        Ok(match (self.has_matched, lines.is_empty()) {
            (true, _) => Progress::Matched,
            (false, true) => Progress::End,
            (false, false) => Progress::More,
        })
    }

    fn matches(&self, line: &Line) -> bool {
        let text = &line.text[..line.text.floor_char_boundary(MAX_MATCHED)];
        !self.within_line && self.regex.is_match(text)
    }

    fn none_yet(&self) -> String {
        let pattern = &self.pattern;
        match self.from_start {
            true => format!("no line of its log matches `{pattern}` yet"),
            false => format!(
                "where this run begins in its log is not known, and no line since matches `{pattern}`; \
                 restart it to have it read from the start"
            ),
        }
    }
}

fn unreadable(error: &io::Error) -> ProbeError {
    let why = format!("its log cannot be read: {error}");
    match error.raw_os_error() {
        Some(errno) if is_shortage(errno) => ProbeError::NotMade(why),
        Some(_) | None => ProbeError::Failed(why),
    }
}

//! The keeper's loop: one thread, one poll(2), nothing that blocks.
//!
//! Gathers what to wait for, waits, and hands each event to the file it belongs to: `requests` (what the client
//! says), `runs` (spawns, exits, kills), `jobs`. The order within a turn matters: what children said
//! before what became of them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt};

use super::cell::{Cell, Hold, Hull, Leader};
use super::conn::Conn;
use super::jobs::Job;
use super::journal::{self, ExitEntry};
use super::notify::Ear;
use super::pipe::{log, status_pipe};
use super::protocol::Message;
use super::queue::Queue;
use super::sockets::Sockets;
use crate::host::StateLayout;
use crate::host::cgroup::{Ground, Group, Place};
use crate::host::descriptors::Reserve;
use crate::host::failpoint;
use crate::host::proc::Here;
use crate::host::socket::Directory;
use crate::identity::{InstanceId, Nonce};

/// Without a client for this long after its start, a keeper that holds nothing leaves; likewise a connection
/// that says nothing is closed.
const SILENCE: Duration = Duration::from_secs(10);

/// Connections at a time; the client's and those that only ask.
const MAX_CONNS: usize = 16;

/// How soon what could not be written is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// How soon the listener is looked at again after an error.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// What [`super::start`] hands over.
#[derive(Debug)]
pub struct Parts {
    pub layout: StateLayout,
    pub here: Here,
    pub nofile: (u64, u64),
    pub listener: UnixListener,
    pub lock: File,
    /// The pipe of the holders, where a keeper before us had one.
    pub reports: Option<(File, File)>,
}

/// A spawn that waits for its turn.
#[derive(Debug)]
pub struct Order {
    /// The request, to be read as [`Spawning`](super::protocol::Spawning).
    pub text: Vec<u8>,
    pub job: Option<Box<Job>>,
}

#[derive(Debug)]
pub struct Keeper {
    pub layout: StateLayout,
    pub here: Here,
    /// Soft and hard limit of open files that children get.
    pub nofile: (u64, u64),
    pub instance: Option<InstanceId>,
    pub ground: Option<Ground>,
    pub cells: BTreeMap<Nonce, Cell>,
    /// Children of ours that belong to a cell: leaders and holders.
    pub children: HashMap<i32, Nonce>,
    pub queue: Queue<Order>,
    /// Cgroups of what is over, to be removed at the end of the turn.
    pub emptied: Vec<Group>,
    /// State directories that holders write to which were started from another one, before it was copied.
    pub elsewhere: HashMap<Nonce, StateLayout>,
    /// Lines for the journal of exits that could not be written yet.
    pub owed: Vec<ExitEntry>,
    pub owed_again: Instant,
    pub reserve: Reserve,
    /// Room for what a child writes: made once, and empty here for ever.
    pub birth_line: Vec<u8>,
    pub sockets: Sockets,
    /// Reading and writing end of the pipe that all holders share.
    pub reports: (File, File),
    pub heard: Vec<u8>,
    /// What services say of themselves; `None` before the first hello, or where there can be none.
    pub ear: Option<Ear>,
    pub conns: BTreeMap<u64, Conn>,
    /// The connection that said hello last.
    pub client: Option<u64>,
    next_conn: u64,
    signals: SignalFd,
    listener: UnixListener,
    /// When it is looked at again, after an error.
    accept_again: Option<Instant>,
    started: Instant,
    had_client: bool,
    lock: File,
}

/// What became ready.
#[derive(Debug, Clone)]
enum Source {
    Signals,
    Reports,
    Notifications,
    Listener,
    Conn(u64),
    Birth(Nonce),
    Ready(Nonce),
    Output(Nonce),
    Leader(Nonce),
    Holder(Nonce),
    Emptiness(Nonce),
}

impl Keeper {
    pub fn new(parts: Parts) -> Self {
        let set_up = || -> io::Result<_> {
            // None but SIGKILL may end a keeper, whose end would cost the ends of its services.
            SigSet::all().thread_block()?;
            let mut awaited = SigSet::empty();
            awaited.add(Signal::SIGCHLD);
            let signals = SignalFd::with_flags(&awaited, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
            Ok((signals, parts.reports.map_or_else(status_pipe, Ok)?))
        };
        let (signals, reports) = set_up().expect("a new process can open three descriptors");
        let now = Instant::now();
        let mut reserve = Reserve::default();
        // The first spawn tries again.
        let _ = reserve.fill();
        Self {
            layout: parts.layout,
            here: parts.here,
            nofile: parts.nofile,
            instance: None,
            ground: None,
            cells: BTreeMap::new(),
            children: HashMap::new(),
            queue: Queue::default(),
            emptied: Vec::new(),
            elsewhere: HashMap::new(),
            owed: Vec::new(),
            owed_again: now,
            reserve,
            birth_line: Vec::new(),
            sockets: Sockets::default(),
            reports,
            heard: Vec::new(),
            ear: None,
            conns: BTreeMap::new(),
            client: None,
            next_conn: 0,
            signals,
            listener: parts.listener,
            accept_again: None,
            started: now,
            had_client: false,
            lock: parts.lock,
        }
    }

    /// Until there is nothing to hold and nobody to serve.
    pub fn serve(mut self) {
        loop {
            let ready = self.wait();
            let now = Instant::now();
            for source in ready {
                self.handle(&source, now);
            }
            self.run_timers(now);
            self.start_queued();
            self.flush();
            self.remove_emptied();
            if self.may_leave(now) && self.leave() {
                return;
            }
        }
    }

    /// The lock and the socket: what must not be free for a moment while the program changes.
    pub(super) fn handed_over(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.lock.as_fd(), self.listener.as_fd())
    }

    fn wait(&self) -> Vec<Source> {
        let sources = self.sources();
        let mut fds: Vec<PollFd<'_>> =
            sources.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        let timeout = match self.next_deadline() {
            None => PollTimeout::NONE,
            Some(at) => {
                // Rounded up: woken before its time, the loop would turn for nothing.
                let left = at.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
                PollTimeout::from(u16::try_from(left.as_millis()).unwrap_or(u16::MAX))
            }
        };
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Vec::new(),
            Err(error) => {
                // Out of memory for a moment: the timers still run.
                log(&format!("poll: {error}"));
                std::thread::sleep(Duration::from_millis(10));
                return Vec::new();
            }
        }
        sources
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| fd.revents().is_some_and(|events| !events.is_empty()))
            .map(|((source, _, _), _)| source.clone())
            .collect()
    }

    fn sources(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let input = PollFlags::POLLIN;
        let mut sources = Vec::new();
        for (nonce, cell) in &self.cells {
            if let Leader::Unborn { status, .. } = &cell.leader {
                // Only its end is news: what a child says fits into the pipe, and settles nothing before.
                sources.push((Source::Birth(nonce.clone()), status.as_fd(), PollFlags::empty()));
            }
            if let Some(ready) = &cell.ready {
                sources.push((Source::Ready(nonce.clone()), ready.as_fd(), input));
            }
            if let Some(output) = cell.job.as_ref().and_then(|job| job.output.as_ref()) {
                sources.push((Source::Output(nonce.clone()), output.as_fd(), input));
            }
            if let Leader::Watched { pidfd, died } = &cell.leader {
                // Dead but not reaped it stays readable: then only the hang-up is news.
                let flags = if died.is_some() { PollFlags::empty() } else { input };
                sources.push((Source::Leader(nonce.clone()), pidfd.as_fd(), flags));
            }
            if let Hull::Holder { hold: Hold::Watched(pidfd), .. } = &cell.hull {
                sources.push((Source::Holder(nonce.clone()), pidfd.as_fd(), input));
            }
            if let Some(events) = &cell.events {
                sources.push((Source::Emptiness(nonce.clone()), events.as_fd(), PollFlags::POLLPRI));
            }
        }
        if let Some(ear) = &self.ear {
            sources.push((Source::Notifications, ear.as_fd(), input));
        }
        sources.push((Source::Reports, self.reports.0.as_fd(), input));
        sources.push((Source::Signals, self.signals.as_fd(), input));
        for (&id, conn) in &self.conns {
            let write = if conn.wants_to_write() { PollFlags::POLLOUT } else { PollFlags::empty() };
            sources.push((Source::Conn(id), conn.stream.as_fd(), input | write));
        }
        if self.accept_again.is_none() {
            sources.push((Source::Listener, self.listener.as_fd(), input));
        }
        sources
    }

    fn handle(&mut self, source: &Source, now: Instant) {
        match source {
            Source::Birth(nonce) => self.hear_birth(nonce),
            Source::Ready(nonce) => self.hear_readiness(nonce),
            Source::Output(nonce) => self.drain_output(nonce, now),
            Source::Leader(nonce) => self.watched_leader_stirred(nonce, now),
            Source::Holder(nonce) => self.watched_holder_ended(nonce),
            Source::Emptiness(nonce) => self.settle(nonce),
            Source::Reports => self.hear_reports(),
            Source::Notifications => self.hear_notifications(now),
            Source::Signals => {
                // The one that is awaited is pending once at most; poll(2) would tell of another.
                let _ = self.signals.read_signal();
                self.reap();
            }
            Source::Conn(id) => self.hear_conn(*id),
            Source::Listener => self.accept(now),
        }
    }

    fn accept(&mut self, now: Instant) {
        self.accept_again = None;
        // The directory may have been moved since, and we in it.
        if let Ok(dir) = std::env::current_dir() {
            self.layout.dir = dir;
        }
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Out of descriptors: whoever waits there would be told of again and again.
                    log(&format!("accept: {error}"));
                    self.accept_again = Some(now + ACCEPT_AGAIN);
                    return;
                }
            };
            let Ok(peer) = getsockopt(&stream, sockopt::PeerCredentials) else { continue };
            let is_ours = peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw();
            if !is_ours || self.conns.len() >= MAX_CONNS {
                continue;
            }
            if let Ok(conn) = Conn::new(stream, peer.pid(), now) {
                self.next_conn += 1;
                self.conns.insert(self.next_conn, conn);
            }
        }
    }

    fn hear_conn(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        for line in conn.read() {
            self.request(id, line);
        }
    }

    /// Who is never signalled: this process and its client.
    pub(super) fn spared(&self) -> Vec<i32> {
        let client = self.client.and_then(|id| self.conns.get(&id)).map(|conn| conn.peer);
        std::iter::once(std::process::id() as i32).chain(client).collect()
    }

    /// To the client, if there is one; without one, the next asks for what it wants to know.
    pub fn tell(&mut self, message: &Message) {
        if let Some(conn) = self.client.and_then(|id| self.conns.get_mut(&id)) {
            conn.send(message);
        }
    }

    pub(super) fn flush(&mut self) {
        for conn in self.conns.values_mut() {
            conn.flush();
        }
        let dead: Vec<u64> =
            self.conns.iter().filter(|(_, conn)| conn.is_dead()).map(|(&id, _)| id).collect();
        for id in dead {
            self.conns.remove(&id);
            if self.client == Some(id) {
                self.client = None;
                self.client_left();
            }
        }
    }

    /// Makes this connection the one that is served.
    pub fn serve_client(&mut self, id: u64) {
        if let Some(before) = self.client.replace(id).filter(|before| *before != id) {
            self.conns.remove(&before);
            self.client_left();
        }
        self.had_client = true;
    }

    fn run_timers(&mut self, now: Instant) {
        self.run_kills(now);
        self.run_job_timers(now);
        self.run_watched_deadlines(now);
        self.look_again(now);
        self.tell_what_was_said(now);
        if !self.owed.is_empty() && self.owed_again <= now {
            self.write_owed(now);
        }
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept(now);
        }
        let client = self.client;
        self.conns.retain(|id, conn| Some(*id) == client || now.duration_since(conn.since) < SILENCE);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let cells = self.cells.values().flat_map(|cell| {
            let kill = cell.killing.as_ref().map(|killing| killing.next);
            let job = cell.job.as_deref().and_then(Job::next_deadline);
            [kill, job, cell.status_deadline(), cell.look_again, cell.tell_said]
        });
        let visitors = self.conns.iter().filter(|(id, _)| Some(**id) != self.client);
        let leave = (!self.had_client).then_some(self.started + SILENCE);
        let owed = (!self.owed.is_empty()).then_some(self.owed_again);
        cells
            .flatten()
            .chain(visitors.map(|(_, conn)| conn.since + SILENCE))
            .chain(leave)
            .chain(owed)
            .chain(self.accept_again)
            .chain(self.queue_deadline())
            .min()
    }

    /// On disk before the child is reaped; on a full disk, later.
    pub fn record_exit(&mut self, entry: ExitEntry) {
        if let Err(error) = journal::append_exit(&self.layout.exits(), &entry) {
            log(&format!("exits.journal: {error}; trying again"));
            self.owed_again = Instant::now() + WRITE_AGAIN;
            self.owed.push(entry);
        }
    }

    fn write_owed(&mut self, now: Instant) {
        while let Some(entry) = self.owed.first() {
            if journal::append_exit(&self.layout.exits(), entry).is_err() {
                self.owed_again = now + WRITE_AGAIN;
                return;
            }
            self.owed.remove(0);
        }
    }

    fn may_leave(&self, now: Instant) -> bool {
        let greeted = self.had_client || now.duration_since(self.started) >= SILENCE;
        let holds_nothing = self.cells.values().all(|cell| cell.is_lost() && cell.has_ended());
        greeted
            && holds_nothing
            && self.sockets.is_empty()
            && self.conns.is_empty()
            && self.queue.is_empty()
            && self.owed.is_empty()
            && self.has_no_children()
    }

    /// Takes the socket away, then looks for who connected before that; false if there was somebody.
    fn leave(&mut self) -> bool {
        failpoint::reach("keeper.leave");
        let name = self.layout.keeper_socket().to_owned();
        // A socket that cannot be removed is removed by the next keeper.
        let _ = std::fs::remove_file(&name);
        self.accept(Instant::now());
        if self.conns.is_empty() {
            self.leave_cgroup();
            return true;
        }
        // Our working directory, wherever it has been moved.
        match Directory::open(Path::new(".")).and_then(|dir| dir.listen(&name)) {
            Ok(listener) => self.listener = listener,
            Err(error) => log(&format!("{}: {error}", name.display())),
        }
        false
    }

    fn leave_cgroup(&self) {
        if let Some(Ground::Cgroup { base }) = &self.ground {
            Place::of_keeper(base).leave();
        }
    }
}

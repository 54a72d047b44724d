//! The reconciler's side: finds the keeper or starts one, asks, and hears what happens.
//!
//! Asking never waits: requests go to a task that writes them. What happens arrives as [`Event`]s. A keeper
//! that holds its lock and does not answer is an error, never a reason to start a second one.

mod hearing;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use hearing::Hearing;

use super::conn::send_descriptor;
use super::protocol::{CellInfo, Message, OLDEST_PROTOCOL, PROTOCOL, Request, encode};
use super::start::{EXIT_HELD, NOFILE};
use crate::host::descriptors::limit_before;
use crate::host::failpoint;
use crate::host::first::Awaited;
use crate::host::flock;
use crate::host::listen::{HeldSocket, SocketKey};
use crate::host::socket::Directory;
use crate::host::{Claim, Event, JobOutcome, JobPurpose, JobRequest, SpawnRequest, StateLayout};
use crate::identity::{InstanceId, Nonce, Pid, ProcessIdentity, ServiceId};
use crate::manifest::SignalTo;
use crate::state::FileIdentity;

/// A keeper answers a hello or a ping within this, or counts as unresponsive.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Written at once, about: what a keeper takes in while it starts what was asked for before.
const WRITE_BYTES: usize = 16 << 10;

/// From the start of a keeper until it listens.
const START_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// `keeper-unresponsive`: what it holds must not be touched by another one.
    #[error("the keeper of {dir} holds its lock and does not answer")]
    Unresponsive { dir: PathBuf },
    #[error("the keeper of {dir} refuses: {detail}")]
    Refused { dir: PathBuf, detail: String },
    /// An older program, of before the oldest version that is still understood.
    #[error(
        "the keeper of {dir} (pid {pid}, version {version}) speaks protocol {theirs}, this program {OLDEST_PROTOCOL} to \
         {PROTOCOL}: stop its services with that version, or end it with `kill -KILL {pid}`, which they survive"
    )]
    TooOld { dir: PathBuf, pid: Pid, version: String, theirs: u32 },
    #[error("the keeper of {dir} did not start: {detail}")]
    NotStarted { dir: PathBuf, detail: String },
    #[error("the keeper of {dir} cannot be reached")]
    Io {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What a keeper says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct KeeperInfo {
    pub keeper: ProcessIdentity,
    pub version: String,
    pub protocol: u32,
    /// `None`: runs have cgroups. Otherwise they have holders, and this says why.
    pub holders: Option<String>,
    /// What it holds as it is met. `None`: an older program, which can hold none.
    pub sockets: Option<Vec<HeldSocket>>,
    /// It hears what services say of themselves.
    pub notify: bool,
    /// It runs jobs beside no run, and gives secrets as files.
    pub secrets: bool,
}

/// A line, and a descriptor that goes along with it.
type Asking = (Vec<u8>, Option<OwnedFd>);

/// Jobs under way: what they are for, and which service and run they belong to.
type Jobs = Arc<Mutex<HashMap<Nonce, (JobPurpose, ServiceId, Nonce)>>>;

/// What a client hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Event(Event),
    /// The keeper stays the program that it is, a sentence says why; `busy`: for now.
    NotUpgraded {
        busy: bool,
        detail: String,
    },
    Socket(SocketNews),
}

/// What became of a socket at the keeper.
#[derive(Debug, Clone, PartialEq)]
pub enum SocketNews {
    Holding(HeldSocket),
    /// A sentence says why.
    NotHolding {
        key: SocketKey,
        detail: String,
    },
    Released(HeldSocket),
}

/// A connection to the keeper, as its one client.
#[derive(Debug)]
pub struct KeeperClient {
    pub info: KeeperInfo,
    requests: mpsc::UnboundedSender<Asking>,
    heard: mpsc::UnboundedReceiver<Heard>,
    lists: mpsc::UnboundedReceiver<Vec<CellInfo>>,
    jobs: Jobs,
    pings: mpsc::UnboundedSender<u64>,
    last_ping: AtomicU64,
    silent: Arc<AtomicBool>,
    hearing: tokio::task::AbortHandle,
    lost: bool,
}

/// What was asked for is still written; then the connection ends, whether or not the keeper reads.
impl Drop for KeeperClient {
    fn drop(&mut self) {
        self.hearing.abort();
    }
}

impl KeeperClient {
    /// Connects, or starts a keeper with `exe keeper --state-dir DIR` and connects.
    pub async fn connect_or_start(
        layout: &StateLayout,
        instance: &InstanceId,
        exe: &Path,
    ) -> Result<Self, KeeperError> {
        let deadline = Instant::now() + START_WITHIN;
        loop {
            if let Some(client) = Self::connect(layout, instance).await? {
                return Ok(client);
            }
            if Instant::now() >= deadline {
                return Err(KeeperError::Unresponsive { dir: layout.dir.clone() });
            }
            if is_held(layout)? {
                // It is about to listen, or about to leave.
                sleep(Duration::from_millis(5)).await;
            } else {
                start_keeper(layout, exe).await?;
            }
        }
    }

    /// `Ok(None)`: nobody listens.
    pub async fn connect(layout: &StateLayout, instance: &InstanceId) -> Result<Option<Self>, KeeperError> {
        let io = |source| KeeperError::Io { dir: layout.dir.clone(), source };
        let stream = match connect_socket(layout).await {
            Ok(stream) => stream,
            Err(error) if is_nobody(&error) => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let hello = Request::Hello { protocol: PROTOCOL, instance: instance.clone() };
        let greeted = timeout(ANSWER_WITHIN, greet(&mut reader, &mut writer, &hello)).await;
        let answer = match greeted {
            Err(_) => return Err(KeeperError::Unresponsive { dir: layout.dir.clone() }),
            // It left between our connecting and its hearing us.
            Ok(Ok(None)) => return Ok(None),
            Ok(Err(error)) if is_nobody(&error) => return Ok(None),
            Ok(Err(error)) => return Err(io(error)),
            Ok(Ok(Some(answer))) => answer,
        };
        let info = match answer {
            Message::Hello { protocol, version, keeper, holders, sockets, notify, secrets }
                if (OLDEST_PROTOCOL..=PROTOCOL).contains(&protocol) =>
            {
                KeeperInfo { keeper, version, protocol, holders, sockets, notify, secrets }
            }
            Message::Hello { protocol, version, keeper, .. } if protocol < OLDEST_PROTOCOL => {
                let (dir, pid) = (layout.dir.clone(), keeper.pid);
                return Err(KeeperError::TooOld { dir, pid, version, theirs: protocol });
            }
            Message::Refused { detail, .. } => {
                return Err(KeeperError::Refused { dir: layout.dir.clone(), detail });
            }
            other => {
                let detail = format!("its answer to a hello is not understood: {other:?}");
                return Err(KeeperError::Refused { dir: layout.dir.clone(), detail });
            }
        };
        Ok(Some(Self::run(info, reader, writer)))
    }

    fn run(info: KeeperInfo, reader: BufReader<OwnedReadHalf>, writer: OwnedWriteHalf) -> Self {
        let (requests, to_write) = mpsc::unbounded_channel();
        let (to_hear, heard) = mpsc::unbounded_channel();
        let (to_list, lists) = mpsc::unbounded_channel();
        let (pings, pinged) = mpsc::unbounded_channel();
        let jobs = Jobs::default();
        let silent = Arc::<AtomicBool>::default();
        tokio::spawn(write_requests(to_write, writer));
        let hearing = Hearing {
            heard: to_hear,
            lists: to_list,
            jobs: jobs.clone(),
            pinged,
            awaited: None,
            silent: silent.clone(),
        };
        let hearing = tokio::spawn(hearing.read(reader)).abort_handle();
        let last_ping = AtomicU64::default();
        Self { info, requests, heard, lists, jobs, pings, last_ping, silent, hearing, lost: false }
    }

    fn ask(&self, request: &Request) {
        // A keeper that is gone is told by `next`; nothing that was asked for has happened.
        let _ = self.requests.send((encode(request), None));
    }

    /// Has the keeper hold a socket, in place of the one of this name before; answered by
    /// [`SocketNews::Holding`] or [`SocketNews::NotHolding`].
    pub fn hold(&self, socket: HeldSocket, descriptor: OwnedFd) {
        let _ = self.requests.send((encode(&Request::Hold { socket }), Some(descriptor)));
    }

    /// Answered by [`SocketNews::Released`], if it is held.
    pub fn release(&self, key: &SocketKey) {
        self.ask(&Request::Release { key: key.clone() });
    }

    pub fn spawn(&self, spawn: SpawnRequest) {
        self.ask(&Request::Spawn { spawn: Box::new(spawn) });
    }

    /// Signals the leader or its group; a run that this keeper does not know is attached to first.
    pub fn signal(&self, claim: &Claim, signal: i32, to: SignalTo) {
        self.ask(&Request::Signal { claim: claim.clone(), signal, to });
    }

    /// SIGKILL to all of the run, until [`Event::Gone`]. Of a spawn under way: until [`Event::SpawnFailed`].
    pub fn kill(&self, claim: &Claim) {
        self.ask(&Request::Kill { claim: claim.clone() });
    }

    /// Has the keeper watch a run; one that has ended is answered by [`Event::Exited`], then [`Event::Gone`].
    pub fn attach(&self, claim: &Claim) {
        self.ask(&Request::Attach { claim: claim.clone() });
    }

    /// Answered by [`Event::JobDone`]. A job goes by the nonce of its spawn.
    pub fn run_job(&self, job: JobRequest) {
        let entry = (job.purpose, job.spawn.service.clone(), job.of.clone());
        self.jobs().insert(job.spawn.nonce.clone(), entry);
        let timeout_ms = job.timeout.as_millis() as u64;
        self.ask(&Request::Job { of: job.of, timeout_ms, spawn: Box::new(job.spawn) });
    }

    /// Answered by [`Event::Said`].
    pub fn ask_said(&self, nonce: &Nonce) {
        self.ask(&Request::Ask { nonce: nonce.clone() });
    }

    /// A job that was asked for has not been answered.
    pub fn has_jobs(&self) -> bool {
        !self.jobs().is_empty()
    }

    pub fn cancel_job(&self, nonce: &Nonce) {
        self.ask(&Request::CancelJob { nonce: nonce.clone() });
    }

    /// Forgets the recorded exits of all other runs.
    pub fn trim_exits(&self, keep: Vec<Nonce>) {
        self.ask(&Request::TrimExits { keep });
    }

    /// Has the keeper become this program, in place: if it does, [`Event::KeeperLost`], and connect again. What is
    /// asked for in between is lost. If it does not, [`Heard::NotUpgraded`] says why.
    pub fn upgrade(&self, exe: &FileIdentity) {
        self.ask(&Request::Upgrade { exe: exe.clone() });
        self.ping();
    }

    /// Has the keeper show that it still serves us: if it says nothing in time, it is lost.
    pub fn ping(&self) {
        let id = self.last_ping.fetch_add(1, Ordering::Relaxed) + 1;
        self.ask(&Request::Ping { id });
        let _ = self.pings.send(id);
    }

    /// Why it is lost: it is connected, and does not answer.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// What the keeper holds, for people. `None` once it is lost.
    pub async fn list(&mut self) -> Option<Vec<CellInfo>> {
        self.ask(&Request::List);
        self.lists.recv().await
    }

    /// The next thing that is heard. Cancel safe. [`Event::KeeperLost`] is the last; before it, every job that
    /// is under way ends as cancelled.
    pub async fn next(&mut self) -> Heard {
        if self.lost {
            return std::future::pending().await;
        }
        if let Some(heard) = self.heard.recv().await {
            return heard;
        }
        if let Some(event) = self.cancel_one_job() {
            return Heard::Event(event);
        }
        self.lost = true;
        Heard::Event(Event::KeeperLost)
    }

    /// Whoever asked for a job of this connection hears nothing else of it any more.
    pub fn cancel_one_job(&self) -> Option<Event> {
        let mut jobs = self.jobs();
        let nonce = jobs.keys().next()?.clone();
        let (purpose, service, of) = jobs.remove(&nonce)?;
        Some(Event::JobDone { purpose, service, of, outcome: JobOutcome::Cancelled })
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, HashMap<Nonce, (JobPurpose, ServiceId, Nonce)>> {
        self.jobs.lock().expect("nothing panics while it holds this lock")
    }
}

async fn connect_socket(layout: &StateLayout) -> io::Result<UnixStream> {
    let directory = Directory::open(&layout.dir)?;
    UnixStream::connect(directory.path_of(layout.keeper_socket())).await
}

fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | BrokenPipe)
}

async fn greet(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    hello: &Request,
) -> io::Result<Option<Message>> {
    writer.write_all(&encode(hello)).await?;
    let mut line = String::new();
    if reader.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}

/// True while a keeper lives: it holds its lock from before it listens until it is gone.
pub fn is_held(layout: &StateLayout) -> Result<bool, KeeperError> {
    let io = |source| KeeperError::Io { dir: layout.dir.clone(), source };
    flock::is_held(&layout.keeper_lock()).map_err(io)
}

async fn start_keeper(layout: &StateLayout, exe: &Path) -> Result<(), KeeperError> {
    let fail = |detail: String| KeeperError::NotStarted { dir: layout.dir.clone(), detail };
    let mut command = tokio::process::Command::new(exe);
    command.arg("keeper").arg("--state-dir").arg(&layout.dir);
    // It lives long and needs none of it, least of all secrets.
    command.env_clear();
    let passed_on = ["RECONCILE_CONTAINMENT", "RUST_BACKTRACE"].into_iter().chain(failpoint::VARIABLE);
    command.envs(passed_on.filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.envs(limit_before().map(|soft| (NOFILE, soft.to_string())));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    // Ctrl-C is for us, who then stop what was started; a keeper that dies of it leaves us with nothing to ask.
    command.process_group(0);
    let child = command.spawn().map_err(|error| fail(format!("{}: {error}", exe.display())))?;
    let _awaited = child.id().map(|pid| Awaited::new(pid as i32));
    let started = timeout(START_WITHIN, child.wait_with_output()).await;
    let output = started
        .map_err(|_| fail(format!("it did not listen within {} s", START_WITHIN.as_secs())))?
        .map_err(|error| fail(format!("{}: {error}", exe.display())))?;
    match output.status.code() {
        // Somebody else was faster: we shall meet theirs.
        Some(0) => Ok(()),
        Some(code) if code == i32::from(EXIT_HELD) => Ok(()),
        _ if output.stderr.is_empty() => Err(fail(output.status.to_string())),
        _ => Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// Writes all that waits at once: each write wakes the keeper.
async fn write_requests(mut requests: mpsc::UnboundedReceiver<Asking>, mut writer: OwnedWriteHalf) {
    let mut next = None;
    while let Some((mut lines, descriptor)) = match next.take() {
        Some(asking) => Some(asking),
        None => requests.recv().await,
    } {
        if let Some(descriptor) = descriptor {
            match send_along(&writer, &lines, &descriptor).await {
                Ok(sent) => drop(lines.drain(..sent)),
                Err(_) => return,
            }
        }
        while lines.len() < WRITE_BYTES
            && let Ok(asking) = requests.try_recv()
        {
            match asking {
                (line, None) => lines.extend_from_slice(&line),
                with_descriptor => {
                    next = Some(with_descriptor);
                    break;
                }
            }
        }
        if writer.write_all(&lines).await.is_err() {
            return;
        }
    }
}

/// Writes the first bytes, and the descriptor with them; how many that were.
async fn send_along(writer: &OwnedWriteHalf, line: &[u8], descriptor: &OwnedFd) -> io::Result<usize> {
    let stream = writer.as_ref();
    loop {
        stream.writable().await?;
        let sent = stream
            .try_io(tokio::io::Interest::WRITABLE, || send_descriptor(stream, line, descriptor.as_fd()));
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
    }
}

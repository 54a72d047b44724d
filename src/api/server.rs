//! The watcher's end of the control socket: forwards commands into the inbox, carries answers back.
//!
//! One task a client, so that a slow one holds nobody back, and bounds on everything a client can make it
//! keep: request size, number of clients, time to speak and time to listen. It decides nothing and keeps
//! no status of its own. Runs on a thread of its own, since a pass over a large directory takes seconds and a
//! client is to know at once that the watcher lives; ends when the inbox is closed, and then still delivers the
//! answers that were given.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Uid;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::SOCKET;
use super::framing::{Line, read_line};
use super::protocol::{
    Body, Hello, MAX_REQUEST_BYTES, NEWEST, OLDEST, ProtocolError, Response, parse_request,
};
use crate::host::socket::Directory;
use crate::reconciler::command::{Answer, Command};
use crate::reconciler::inbox::{InboxSender, Message};

/// Clients served at once; one more is told `busy`.
const MAX_CLIENTS: usize = 64;
/// How long a client may be silent before and between requests.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a client may take to read an answer.
const DELIVERY: Duration = Duration::from_secs(10);
/// How often a client that closed its writing half is looked at for being gone altogether.
const PRESENCE: Duration = Duration::from_secs(1);
/// After a failed accept (out of descriptors, say): time for the cause to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
#[error("the control socket in {} cannot be made", directory.display())]
pub struct ServeError {
    pub directory: PathBuf,
    #[source]
    pub source: io::Error,
}

/// A listening control socket; removed when dropped.
#[derive(Debug)]
pub struct Server {
    directory: Directory,
    listener: UnixListener,
}

impl Server {
    /// Listens in `state_dir`. The caller holds the lock of the state directory and is on a tokio runtime
    /// with I/O.
    pub fn bind(state_dir: &Path) -> Result<Self, ServeError> {
        let failed = |source| ServeError { directory: state_dir.to_owned(), source };
        let directory = Directory::open(state_dir).map_err(failed)?;
        let listener =
            directory.listen(Path::new(SOCKET)).and_then(UnixListener::from_std).map_err(failed)?;
        Ok(Self { directory, listener })
    }

    /// Serves until the receiver of `inbox` is dropped and the last answer is delivered.
    /// Cancelled, it drops its clients and removes the socket.
    pub async fn serve(self, inbox: InboxSender) {
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        clients.spawn(admit(stream, inbox.clone(), Arc::clone(&places)));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a client could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = clients.join_next() => {}
                () = inbox.closed() => break,
            }
        }
        while clients.join_next().await.is_some() {}
    }
}

/// A server at work.
#[derive(Debug)]
pub struct Serving {
    thread: JoinHandle<()>,
}

impl Serving {
    /// Listens in `state_dir` from when this returns. The caller holds the lock of the state directory.
    pub fn start(state_dir: &Path, inbox: InboxSender) -> Result<Self, ServeError> {
        let failed = |source| ServeError { directory: state_dir.to_owned(), source };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let server = {
            let _context = runtime.enter();
            Server::bind(state_dir)?
        };
        let serve = move || runtime.block_on(server.serve(inbox));
        let thread = std::thread::Builder::new().name("control".into()).spawn(serve).map_err(failed)?;
        Ok(Self { thread })
    }

    /// Waits until the last answer is delivered; the receiver of the inbox was dropped before.
    pub fn finish(self) {
        if self.thread.join().is_err() {
            tracing::error!("the control socket was served by a thread that panicked");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.directory.remove(Path::new(SOCKET)) {
            tracing::warn!(%error, "the control socket could not be removed");
        }
    }
}

/// True for root and for the user the server runs as.
fn may_speak(peer_uid: u32) -> bool {
    peer_uid == 0 || peer_uid == Uid::effective().as_raw()
}

/// Lets a client in, or says why not.
async fn admit(stream: UnixStream, inbox: InboxSender, places: Arc<Semaphore>) {
    let mut client = Client::new(stream);
    let refusal = match client.reader.get_ref().peer_cred() {
        Ok(peer) if may_speak(peer.uid()) => None,
        Ok(peer) => {
            Some(ProtocolError::new("forbidden", format!("user {} may not control this", peer.uid())))
        }
        Err(error) => Some(ProtocolError::new("forbidden", format!("who asks is unknown: {error}"))),
    };
    let place = places.try_acquire();
    let refusal = refusal.or_else(|| {
        place.is_err().then(|| ProtocolError::new("busy", format!("{MAX_CLIENTS} clients are being served")))
    });
    let ended = match refusal {
        Some(error) => client.respond(None, Body::Error(error)).await,
        None => client.converse(&inbox).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client of the control socket went away");
    }
}

struct Client {
    reader: BufReader<UnixStream>,
}

impl Client {
    fn new(stream: UnixStream) -> Self {
        Self { reader: BufReader::new(stream) }
    }

    async fn converse(&mut self, inbox: &InboxSender) -> io::Result<()> {
        let hello = Hello {
            reconcile: env!("CARGO_PKG_VERSION").to_owned(),
            oldest: OLDEST,
            newest: NEWEST,
            pid: std::process::id(),
        };
        self.send(&hello).await?;
        loop {
            let line = tokio::select! {
                line = self.line() => line?,
                () = inbox.closed() => return Ok(()),
            };
            match line {
                Line::End => return Ok(()),
                Line::TooLong => {
                    let message = format!("a request has at most {MAX_REQUEST_BYTES} bytes");
                    let error = ProtocolError::new("request-too-long", message);
                    return self.respond(None, Body::Error(error)).await;
                }
                Line::Whole(line) => match parse_request(&line) {
                    Err((id, error)) => self.respond(id, Body::Error(error)).await?,
                    Ok(request) => {
                        let Some(body) = self.carry_out(request.request, inbox).await? else { return Ok(()) };
                        self.respond(Some(request.id), body).await?;
                    }
                },
            }
        }
    }

    /// The next line; the end of the stream and too long a silence are the same to us.
    async fn line(&mut self) -> io::Result<Line> {
        let line = timeout(SILENCE, read_line(&mut self.reader, MAX_REQUEST_BYTES)).await;
        line.unwrap_or(Ok(Line::End))
    }

    /// Puts the command into the inbox and waits for its answer; `None` if the client left meanwhile.
    async fn carry_out(&mut self, command: Command, inbox: &InboxSender) -> io::Result<Option<Body>> {
        let (answer, answered) = oneshot::channel();
        let shutting_down =
            || Body::Error(ProtocolError::new("shutting-down", "the watcher is ending, ask again"));
        if inbox.send(Message::Command { command, answer }).await.is_err() {
            return Ok(Some(shutting_down()));
        }
        let answer: Option<Answer> = tokio::select! {
            answer = answered => answer.ok(),
            gone = self.gone() => { gone?; return Ok(None) }
        };
        Ok(Some(answer.map_or_else(shutting_down, Body::Answer)))
    }

    /// Returns once the client has left. A client that only closed its writing half still listens
    /// (`nc -N`), and one that sent its next request ahead is there.
    async fn gone(&mut self) -> io::Result<()> {
        if !self.reader.fill_buf().await?.is_empty() {
            return std::future::pending().await;
        }
        loop {
            let mut look = [PollFd::new(self.reader.get_ref().as_fd(), PollFlags::empty())];
            poll(&mut look, PollTimeout::ZERO)?;
            let left = look[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP));
            if left {
                return Ok(());
            }
            tokio::time::sleep(PRESENCE).await;
        }
    }

    async fn respond(&mut self, id: Option<u64>, body: Body) -> io::Result<()> {
        self.send(&Response { id, body }).await
    }

    async fn send(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        match timeout(DELIVERY, self.reader.write_all(&line)).await {
            Ok(written) => written,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

//! The command line's end of the control socket. Blocking: a command has nothing else to do.
//!
//! Nobody listening is an answer (`None`), not an error: the caller then becomes the reconciler itself.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::SOCKET;
use super::protocol::{Body, Hello, MAX_ANSWER_BYTES, NEWEST, OLDEST, ProtocolError, Request, Response};
use crate::host::socket::Directory;
use crate::reconciler::command::{Answer, Command};

/// How long the watcher may take to accept us and say hello, which never waits for a pass.
const GREETING: Duration = Duration::from_secs(5);
/// After this long without an answer that is given at once, a long pass is in the way: thousands of manifests, say.
const BUSY: Duration = Duration::from_secs(2);
/// How long such a pass may keep an answer waiting that is given at once.
const AT_ONCE: Duration = Duration::from_secs(120);
/// Added to the time that a command itself may take.
const MARGIN: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the watcher at {} cannot be reached", socket.display())]
    Unreachable {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the watcher (pid {pid}) does not answer")]
    Silent { pid: u32 },
    #[error("the watcher at {} does not answer", socket.display())]
    NoHello { socket: PathBuf },
    #[error("the watcher (pid {pid}) ended before it answered")]
    Ended { pid: u32 },
    #[error(
        "the watcher (pid {pid}) is version {version} and understands protocol {oldest} to {newest}, not {NEWEST}"
    )]
    OtherVersion { pid: u32, version: String, oldest: u32, newest: u32 },
    #[error("the watcher did not take the request ({}): {}", .0.code, .0.message)]
    Declined(ProtocolError),
    #[error("what the watcher says is not understood")]
    Garbled(#[source] serde_json::Error),
    #[error("the connection to the watcher broke")]
    Io(#[source] io::Error),
}

/// A connection to the running watcher.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    hello: Hello,
    next_id: u64,
}

impl Client {
    /// Connects to the watcher of `state_dir`; `None` if nobody listens there, or there is no such directory.
    pub fn connect(state_dir: &Path) -> Result<Option<Self>, ClientError> {
        let socket = state_dir.join(SOCKET);
        let unreachable = |source| ClientError::Unreachable { socket: socket.clone(), source };
        let directory = match Directory::open(state_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(unreachable)?,
        };
        let stream = match directory.connect(Path::new(SOCKET), GREETING) {
            Err(error) if is_timeout(&error) => return Err(ClientError::NoHello { socket }),
            connected => connected.map_err(unreachable)?,
        };
        match stream.map(|stream| Self::greet(stream, socket)).transpose() {
            // It died before it said hello: nobody listens any more.
            Err(ClientError::Unreachable { source, .. })
                if source.kind() == io::ErrorKind::ConnectionReset =>
            {
                Ok(None)
            }
            greeted => greeted,
        }
    }

    fn greet(stream: UnixStream, socket: PathBuf) -> Result<Self, ClientError> {
        stream.set_write_timeout(Some(GREETING)).map_err(ClientError::Io)?;
        let mut stream = BufReader::new(stream);
        let line = match read_line(&mut stream, GREETING) {
            Ok(line) => line,
            Err(error) if is_timeout(&error) => return Err(ClientError::NoHello { socket }),
            Err(source) => return Err(ClientError::Unreachable { socket, source }),
        };
        let Ok(hello) = serde_json::from_slice::<Hello>(&line) else {
            return Err(declined(&line));
        };
        if hello.oldest > NEWEST || hello.newest < OLDEST {
            let Hello { pid, reconcile: version, oldest, newest } = hello;
            return Err(ClientError::OtherVersion { pid, version, oldest, newest });
        }
        Ok(Self { stream, hello, next_id: 1 })
    }

    /// Of the watcher.
    pub fn pid(&self) -> u32 {
        self.hello.pid
    }

    /// Sends a command and waits for its answer, at most as long as the command itself may take.
    pub fn ask(&mut self, command: Command) -> Result<Answer, ClientError> {
        self.ask_patiently(command, |_| ())
    }

    /// As [`Client::ask`]; calls `busy` with the watcher's pid if what is answered at once has to wait.
    pub fn ask_patiently(&mut self, command: Command, busy: impl FnOnce(u32)) -> Result<Answer, ClientError> {
        let patience = patience(&command);
        let id = self.next_id;
        self.next_id += 1;
        let request = Request { protocol: NEWEST.min(self.hello.newest), id, request: command };
        let mut line = serde_json::to_vec(&request).map_err(ClientError::Garbled)?;
        line.push(b'\n');
        let pid = self.pid();
        self.stream.get_mut().write_all(&line).map_err(|error| lost(error, pid))?;
        if patience == AT_ONCE && !self.hears_within(BUSY).map_err(|error| lost(error, pid))? {
            busy(pid);
        }
        let line = read_line(&mut self.stream, patience).map_err(|error| lost(error, pid))?;
        let response: Response = serde_json::from_slice(&line).map_err(ClientError::Garbled)?;
        match response.body {
            Body::Answer(answer) => Ok(answer),
            Body::Error(error) => Err(ClientError::Declined(error)),
        }
    }

    /// True once something can be read, or never will be.
    fn hears_within(&mut self, time: Duration) -> io::Result<bool> {
        self.stream.get_ref().set_read_timeout(Some(time))?;
        match self.stream.fill_buf() {
            Err(error) if is_timeout(&error) => Ok(false),
            heard => heard.map(|_| true),
        }
    }
}

/// How long the answer to a command may take before the watcher counts as silent. What stops or starts
/// services takes as long as their graces do, which only the watcher knows.
fn patience(command: &Command) -> Duration {
    match command {
        Command::Status | Command::Plan { .. } => AT_ONCE,
        Command::Converge { timeout, .. }
        | Command::Wait { timeout, .. }
        | Command::Ensure { timeout, .. } => *timeout + MARGIN,
        Command::Stop { .. }
        | Command::Start { .. }
        | Command::Restart { .. }
        | Command::Reset { .. }
        | Command::Renew { .. }
        | Command::Touch { .. }
        | Command::Lease { .. }
        | Command::RenewLease { .. }
        | Command::EndLease { .. }
        | Command::Down { .. }
        | Command::DownSome { .. }
        | Command::Prune { .. }
        | Command::Adopt { .. }
        | Command::Forget { .. }
        | Command::Takeover => Duration::MAX,
    }
}

/// One line without its end. The timeout is for each read, and an answer comes in one piece.
fn read_line(stream: &mut BufReader<UnixStream>, patience: Duration) -> io::Result<Vec<u8>> {
    let limit = (patience != Duration::MAX).then_some(patience);
    stream.get_ref().set_read_timeout(limit)?;
    let mut line = Vec::new();
    stream.take(MAX_ANSWER_BYTES as u64).read_until(b'\n', &mut line)?;
    match line.pop() {
        Some(b'\n') => Ok(line),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A first line that is no hello: an error that turns us away, or not our protocol at all.
fn declined(line: &[u8]) -> ClientError {
    match serde_json::from_slice::<Response>(line) {
        Ok(Response { body: Body::Error(error), .. }) => ClientError::Declined(error),
        Ok(_) => ClientError::Declined(ProtocolError::new("no-hello", "it answered before it was asked")),
        Err(error) => ClientError::Garbled(error),
    }
}

fn lost(error: io::Error, pid: u32) -> ClientError {
    match error.kind() {
        _ if is_timeout(&error) => ClientError::Silent { pid },
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            ClientError::Ended { pid }
        }
        _ => ClientError::Io(error),
    }
}

/// A timed-out read or write on a socket is `EAGAIN`.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

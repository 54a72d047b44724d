//! Server and client over a real socket in a temporary directory, with an answerer in place of the loop.

#![expect(clippy::disallowed_methods, reason = "tests lay out directories")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::protocol::MAX_REQUEST_BYTES;
use super::{Client, ClientError, Server, Serving};
use crate::reconciler::command::{Answer, Command, Refusal, WaitFor};
use crate::reconciler::inbox::{Message, inbox};

/// Far more than anything here takes; only a hang meets it.
const BOUND: Duration = Duration::from_secs(20);

type Held = (Command, oneshot::Sender<Answer>);

/// A watcher that answers `Stop` with its names at once, hands every other command to the test, and ends
/// on `Down`.
struct Watcher {
    thread: Option<JoinHandle<()>>,
    held: mpsc::Receiver<Held>,
}

impl Watcher {
    fn start(dir: &Path) -> Self {
        let (hold, held) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let dir = dir.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (sender, mut inbox) = inbox();
                let server = tokio::spawn(Server::bind(&dir).unwrap().serve(sender));
                ready.send(()).unwrap();
                while let Some(message) = inbox.recv().await {
                    let Message::Command { command, answer } = message else { continue };
                    match command {
                        Command::Stop { names } => drop(answer.send(refusal(&names[0].to_string()))),
                        Command::Down { .. } => {
                            answer.send(refusal("down")).unwrap();
                            break;
                        }
                        other => hold.send((other, answer)).unwrap(),
                    }
                }
                drop(inbox);
                server.await.unwrap();
            });
        });
        is_ready.recv_timeout(BOUND).unwrap();
        Self { thread: Some(thread), held }
    }

    fn next_held(&self) -> Held {
        self.held.recv_timeout(BOUND).expect("the command reaches the inbox")
    }

    fn end(mut self, dir: &Path) {
        let answer = connect(dir).ask(Command::Down { project: None, purge: false }).unwrap();
        assert_eq!(answer, refusal("down"));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn refusal(message: &str) -> Answer {
    Answer::Refused(Refusal { code: "test".into(), message: message.into(), help: None })
}

fn connect(dir: &Path) -> Client {
    Client::connect(dir).unwrap().expect("the watcher listens")
}

fn stop(name: &str) -> Command {
    Command::Stop { names: vec![name.into()] }
}

/// A connection without the client's manners; the hello is read.
fn raw(dir: &Path) -> BufReader<UnixStream> {
    let mut stream = BufReader::new(UnixStream::connect(dir.join("control.sock")).unwrap());
    stream.get_ref().set_read_timeout(Some(BOUND)).unwrap();
    let hello = line(&mut stream);
    assert!(hello.contains(r#""oldest":1"#), "{hello}");
    stream
}

fn line(stream: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    line
}

#[test]
fn a_command_goes_in_and_its_answer_comes_out() {
    let dir = tempfile::tempdir().unwrap();
    let watcher = Watcher::start(dir.path());
    let mut client = connect(dir.path());
    assert_eq!(client.pid(), std::process::id());
    assert_eq!(client.ask(stop("web")).unwrap(), refusal("web"));
    assert_eq!(client.ask(stop("api")).unwrap(), refusal("api"), "a connection serves several requests");
    watcher.end(dir.path());
}

#[test]
fn only_the_owner_may_open_the_socket_and_it_goes_with_the_watcher() {
    let dir = tempfile::tempdir().unwrap();
    let watcher = Watcher::start(dir.path());
    let socket = dir.path().join("control.sock");
    assert_eq!(socket.symlink_metadata().unwrap().permissions().mode() & 0o777, 0o600);
    watcher.end(dir.path());
    assert!(!socket.exists());
    assert!(Client::connect(dir.path()).unwrap().is_none());
}

#[test]
fn nobody_there_is_not_an_error() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Client::connect(dir.path()).unwrap().is_none(), "no socket");
    assert!(Client::connect(&dir.path().join("none")).unwrap().is_none(), "no directory");
    drop(UnixListener::bind(dir.path().join("control.sock")).unwrap());
    assert!(Client::connect(dir.path()).unwrap().is_none(), "the socket of one that was killed");
}

#[test]
fn what_a_killed_watcher_left_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(dir.path().join("control.sock")).unwrap());
    let watcher = Watcher::start(dir.path());
    assert_eq!(connect(dir.path()).ask(stop("web")).unwrap(), refusal("web"));
    watcher.end(dir.path());
}

#[test]
fn a_state_directory_may_lie_deeper_than_a_socket_address_is_long() {
    let dir = tempfile::tempdir().unwrap();
    let deep: PathBuf = dir.path().join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    let watcher = Watcher::start(&deep);
    assert_eq!(connect(&deep).ask(stop("web")).unwrap(), refusal("web"));
    watcher.end(&deep);
}

#[test]
fn clients_that_say_nothing_or_wait_hold_nobody_back() {
    let dir = tempfile::tempdir().unwrap();
    let watcher = Watcher::start(dir.path());
    let silent = raw(dir.path());
    let path = dir.path().to_owned();
    let waiting = std::thread::spawn(move || {
        let wait = Command::Wait { names: vec![], until: WaitFor::Ready, timeout: BOUND };
        connect(&path).ask(wait)
    });
    let (_, answer) = watcher.next_held();
    assert_eq!(connect(dir.path()).ask(stop("web")).unwrap(), refusal("web"));
    answer.send(refusal("waited")).unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), refusal("waited"));
    drop(silent);
    watcher.end(dir.path());
}

#[test]
fn a_client_is_greeted_during_a_long_pass_and_told_that_it_has_to_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, mut inbox) = inbox();
    let serving = Serving::start(dir.path(), sender).unwrap();
    let mut client = connect(dir.path());
    let (tell, told) = mpsc::channel();
    let asking =
        std::thread::spawn(move || client.ask_patiently(Command::Status, |pid| tell.send(pid).unwrap()));
    // The loop is in a pass: nobody receives, on no runtime.
    assert_eq!(told.recv_timeout(BOUND), Ok(std::process::id()));
    let Some(Message::Command { answer, .. }) = inbox.blocking_recv() else { panic!("it was asked") };
    answer.send(refusal("at last")).unwrap();
    assert_eq!(asking.join().unwrap().unwrap(), refusal("at last"));
    drop(inbox);
    serving.finish();
}

#[test]
fn too_long_a_request_is_refused_and_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let watcher = Watcher::start(dir.path());
    let mut stream = raw(dir.path());
    stream.get_mut().write_all(&vec![b'x'; MAX_REQUEST_BYTES + 1]).unwrap();
    let answer = line(&mut stream);
    assert!(answer.contains("request-too-long"), "{answer}");
    let mut rest = Vec::new();
    // The server closes with bytes of ours unread or not: an end or a reset, never another answer.
    drop(stream.read_to_end(&mut rest));
    assert!(rest.is_empty());
    watcher.end(dir.path());
}

#[test]
fn nonsense_is_answered_and_the_connection_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let watcher = Watcher::start(dir.path());
    let mut stream = raw(dir.path());
    stream.get_mut().write_all(b"hello\n").unwrap();
    assert!(line(&mut stream).contains("bad-request"));
    stream.get_mut().write_all(b"{\"protocol\":99,\"id\":4,\"request\":{}}\n").unwrap();
    let answer = line(&mut stream);
    assert!(answer.contains("unsupported-protocol") && answer.contains("\"id\":4"), "{answer}");
    let stop = b"{\"protocol\":1,\"id\":5,\"request\":{\"command\":\"stop\",\"names\":[\"web\"]}}\n";
    stream.get_mut().write_all(stop).unwrap();
    assert!(line(&mut stream).contains("\"id\":5"));
    watcher.end(dir.path());
}

#[test]
fn a_client_that_closed_its_writing_half_still_gets_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let watcher = Watcher::start(dir.path());
    let mut stream = raw(dir.path());
    stream
        .get_mut()
        .write_all(b"{\"protocol\":1,\"id\":1,\"request\":{\"command\":\"takeover\"}}\n")
        .unwrap();
    stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    let (command, answer) = watcher.next_held();
    assert_eq!(command, Command::Takeover);
    answer.send(refusal("late")).unwrap();
    assert!(line(&mut stream).contains("late"));
    watcher.end(dir.path());
}

#[test]
fn the_reconciler_sees_that_a_client_left() {
    let dir = tempfile::tempdir().unwrap();
    let watcher = Watcher::start(dir.path());
    let mut stream = raw(dir.path());
    stream
        .get_mut()
        .write_all(b"{\"protocol\":1,\"id\":1,\"request\":{\"command\":\"takeover\"}}\n")
        .unwrap();
    let (_, mut answer) = watcher.next_held();
    drop(stream);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(BOUND, answer.closed()).await }).expect("it is told");
    watcher.end(dir.path());
}

#[test]
fn a_watcher_that_ends_without_an_answer_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let watcher = Watcher::start(dir.path());
    let path = dir.path().to_owned();
    let asking = std::thread::spawn(move || connect(&path).ask(Command::Takeover));
    drop(watcher.next_held());
    match asking.join().unwrap() {
        Err(ClientError::Declined(error)) => assert_eq!(error.code, "shutting-down"),
        other => panic!("{other:?}"),
    }
    watcher.end(dir.path());
}

/// One that is no watcher: says `greeting` and closes.
fn impostor(greeting: &'static str) -> Result<Option<Client>, ClientError> {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
    let thread = std::thread::spawn(move || listener.accept().unwrap().0.write_all(greeting.as_bytes()));
    let result = Client::connect(dir.path());
    thread.join().unwrap().unwrap();
    result
}

#[test]
fn a_stranger_on_the_socket_is_named_for_what_it_is() {
    let other = "{\"reconcile\":\"9.0.0\",\"oldest\":7,\"newest\":9,\"pid\":5}\n";
    assert!(matches!(impostor(other), Err(ClientError::OtherVersion { pid: 5, oldest: 7, .. })));
    assert!(matches!(impostor("220 smtp\n"), Err(ClientError::Garbled(_))));
    assert!(matches!(impostor(""), Err(ClientError::Unreachable { .. })));
    let forbidden = "{\"id\":null,\"error\":{\"code\":\"forbidden\",\"message\":\"no\"}}\n";
    assert!(matches!(impostor(forbidden), Err(ClientError::Declined(error)) if error.code == "forbidden"));
}

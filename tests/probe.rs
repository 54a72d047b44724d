//! Probes against servers that behave, misbehave, or are not there. Loopback only.

#![allow(clippy::disallowed_methods, reason = "one test runs itself again in another environment")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reconcile::host::ProbeTarget;
use reconcile::host::probe::{ProbeError, Prober};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PATIENCE: Duration = Duration::from_secs(10);
/// For probes that are expected to run out of time.
const SHORT: Duration = Duration::from_millis(150);

/// What a server does after it has read a request.
#[derive(Clone, Copy)]
enum Manner {
    Answers(&'static str),
    /// Headers, then a body without end.
    Streams,
    /// Never answers.
    Silent,
    /// One byte of a header line at a time.
    Drips,
    /// Header lines without end.
    Floods,
    HangsUp,
}

struct Server {
    port: u16,
    accepted: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

impl Server {
    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { port, accepted: Arc::default(), closed: Arc::default() };
        let (accepted, closed) = (Arc::clone(&server.accepted), Arc::clone(&server.closed));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                let closed = Arc::clone(&closed);
                tokio::spawn(async move {
                    serve(stream, manner).await;
                    closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    fn http(&self, path: &str) -> ProbeTarget {
        ProbeTarget::Http { url: format!("http://127.0.0.1:{}{path}", self.port), expect_status: None }
    }
}

/// Returns when the client has gone.
async fn serve(mut stream: TcpStream, manner: Manner) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let part: &[u8] = match manner {
        Manner::Answers(status) => {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nLocation: /healthy\r\n\r\nok");
            let _ = stream.write_all(answer.as_bytes()).await;
            b""
        }
        Manner::Streams => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            &[b'x'; 4096]
        }
        Manner::Silent => b"",
        Manner::Drips => b"X",
        Manner::Floods => b"X-Header: flood\r\n",
        Manner::HangsUp => return,
    };
    if matches!(manner, Manner::Drips | Manner::Floods) {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
    }
    if part.is_empty() {
        while stream.read_u8().await.is_ok() {}
        return;
    }
    while stream.write_all(part).await.is_ok() {
        if matches!(manner, Manner::Drips) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn failed(sentence: &str) -> Result<(), ProbeError> {
    Err(ProbeError::Failed(sentence.to_owned()))
}

/// Of a probe that has failed by what it probed.
fn sentence(verdict: Result<(), ProbeError>) -> String {
    match verdict {
        Err(ProbeError::Failed(sentence)) => sentence,
        other => panic!("it has failed, not {other:?}"),
    }
}

async fn verdict(manner: Manner, timeout: Duration) -> Result<(), ProbeError> {
    let server = Server::start(manner).await;
    Prober::new().run(&server.http("/health"), timeout).await
}

#[tokio::test]
async fn any_2xx_passes_and_all_else_says_what_came() {
    for status in ["200 OK", "204 No Content", "299 Whatever"] {
        assert_eq!(verdict(Manner::Answers(status), PATIENCE).await, Ok(()), "{status}");
    }
    for (status, sentence) in [
        ("503 Busy", "answered 503"),
        ("404 Not Found", "answered 404"),
        ("302 Found", "answered 302; redirects are not followed"),
    ] {
        assert_eq!(verdict(Manner::Answers(status), PATIENCE).await, failed(sentence));
    }
}

#[tokio::test]
async fn an_expected_status_is_the_only_one_that_passes() {
    let server = Server::start(Manner::Answers("404 Not Found")).await;
    let target = |expect| ProbeTarget::Http {
        url: format!("http://127.0.0.1:{}/", server.port),
        expect_status: Some(expect),
    };
    let prober = Prober::new();
    assert_eq!(prober.run(&target(404), PATIENCE).await, Ok(()));
    assert_eq!(prober.run(&target(200), PATIENCE).await, failed("answered 404, not 200"));
}

#[tokio::test]
async fn an_endless_body_is_not_read() {
    let server = Server::start(Manner::Streams).await;
    assert_eq!(Prober::new().run(&server.http("/"), PATIENCE).await, Ok(()));
    until_closed(&server, 1).await;
}

#[tokio::test]
async fn a_probe_ends_with_its_timeout_whatever_the_server_does() {
    for manner in [Manner::Silent, Manner::Drips] {
        let start = Instant::now();
        assert_eq!(verdict(manner, SHORT).await, failed("timed out after 150ms"));
        assert!(start.elapsed() >= SHORT && start.elapsed() < PATIENCE);
    }
}

#[tokio::test]
async fn a_flood_of_headers_is_an_error() {
    let sentence = sentence(verdict(Manner::Floods, PATIENCE).await);
    assert!(!sentence.contains("timed out"), "{sentence}");
}

#[tokio::test]
async fn a_server_that_hangs_up_or_talks_nonsense_fails() {
    let hung_up = sentence(verdict(Manner::HangsUp, PATIENCE).await);
    assert!(hung_up.contains("connection"), "{hung_up}");
    assert!(!hung_up.contains("http://"), "{hung_up}");
    let nonsense = sentence(verdict(Manner::Answers("what?"), PATIENCE).await);
    assert!(!nonsense.is_empty());
}

#[tokio::test]
async fn a_closed_port_is_refused_at_once() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let http = ProbeTarget::Http { url: format!("http://127.0.0.1:{port}/"), expect_status: None };
    let tcp = ProbeTarget::Tcp { host: "127.0.0.1".to_owned(), port };
    let prober = Prober::new();
    assert_eq!(prober.run(&http, PATIENCE).await, failed("connection refused"));
    assert_eq!(prober.run(&tcp, PATIENCE).await, failed("connection refused"));
}

#[tokio::test]
async fn a_tcp_probe_passes_where_somebody_listens() {
    let server = Server::start(Manner::Silent).await;
    for host in ["127.0.0.1", "localhost"] {
        let target = ProbeTarget::Tcp { host: host.to_owned(), port: server.port };
        assert_eq!(Prober::new().run(&target, PATIENCE).await, Ok(()), "{host}");
    }
    until_closed(&server, 2).await;
}

#[tokio::test]
async fn a_listener_that_accepts_nobody_passes_tcp_and_fails_http() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tcp = ProbeTarget::Tcp { host: "127.0.0.1".to_owned(), port };
    let http = ProbeTarget::Http { url: format!("http://127.0.0.1:{port}/"), expect_status: None };
    assert_eq!(Prober::new().run(&tcp, PATIENCE).await, Ok(()));
    assert_eq!(Prober::new().run(&http, SHORT).await, failed("timed out after 150ms"));
}

#[tokio::test]
async fn no_connection_outlives_its_probe() {
    let server = Server::start(Manner::Answers("200 OK")).await;
    let prober = Prober::new();
    for _ in 0..10 {
        assert_eq!(prober.run(&server.http("/"), PATIENCE).await, Ok(()));
    }
    until_closed(&server, 10).await;
    assert_eq!(server.accepted.load(Ordering::SeqCst), 10);
}

/// Self-signed, plain HTTP behind `https`, an unusable URL: errors, and no panic for want of a provider.
#[tokio::test]
async fn what_cannot_be_probed_is_an_error_without_the_url() {
    let server = Server::start(Manner::Silent).await;
    let prober = Prober::new();
    for url in [
        format!("https://user:hunter2@127.0.0.1:{}/", server.port),
        "http://user:hunter2@[::bad/".to_owned(),
        "http://".to_owned(),
    ] {
        let error = prober.run(&ProbeTarget::Http { url, expect_status: None }, SHORT).await.unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn proxies_of_the_environment_are_not_used() {
    const NAME: &str = "proxies_of_the_environment_are_not_used";
    if std::env::var("http_proxy").is_err() {
        let again = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME])
            .env("http_proxy", "http://127.0.0.1:1")
            .env("all_proxy", "http://127.0.0.1:1")
            .output()
            .unwrap();
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(verdict(Manner::Answers("200 OK"), PATIENCE)), Ok(()));
}

#[tokio::test]
async fn many_probes_at_once_share_one_client() {
    let server = Server::start(Manner::Answers("200 OK")).await;
    let prober = Arc::new(Prober::new());
    let probes: Vec<_> = (0..100)
        .map(|index| {
            let (prober, target) = (Arc::clone(&prober), server.http(&format!("/{index}")));
            tokio::spawn(async move { prober.run(&target, PATIENCE).await })
        })
        .collect();
    for probe in probes {
        assert_eq!(probe.await.unwrap(), Ok(()));
    }
}

async fn until_closed(server: &Server, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while server.closed.load(Ordering::SeqCst) < count {
        assert!(Instant::now() < deadline, "a connection is still open");
        tokio::task::yield_now().await;
    }
}

//! The services that are shipped as examples: they need what a bare Debian has, and they pass their own checks.

#![allow(clippy::disallowed_methods, reason = "tests start the example services")]

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reconcile::host::probe::{Prober, judge_command};
use reconcile::host::{JobOutcome, ProbeTarget};
use reconcile::state::ExitStatus;

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a script with the modules of Debian's essential `perl-base` alone, where this is a Debian.
const BARE: &str = r"@INC = grep { /perl-base$/ } @INC if grep { /perl-base$/ } @INC;
    my $script = shift; do qq(./$script); die $@ if $@;";

struct Running(Child);

impl Running {
    fn start(words: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = perl(words);
        let child = command.envs(env.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        Self(child.expect("perl is essential on Debian, and the examples need it"))
    }

    /// Asks it to stop; returns its exit code and all that it has said.
    fn stop(mut self) -> (Option<i32>, String) {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn perl(words: &[&str]) -> Command {
    let mut command = Command::new("perl");
    command.args(["-e", BARE]).args(words).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The words of `command` of the only service in a shipped manifest.
fn declared(name: &str) -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests").join(format!("{name}.toml"));
    let manifest: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    manifest["service"][name].as_table().unwrap().clone()
}

fn words(command: &toml::Value) -> Vec<&str> {
    command.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

#[test]
fn every_example_runs_a_script_that_is_there_by_perl_alone() {
    for name in ["web", "ticker", "counter"] {
        let service = declared(name);
        let command = words(&service["command"]);
        assert_eq!(command[0], "perl", "{name}");
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(command[1]).is_file(), "{name}");
    }
}

#[tokio::test]
async fn the_web_server_becomes_healthy_greets_and_stops_cleanly() {
    let service = declared("web");
    let port = free_port().to_string();
    let server = Running::start(&words(&service["command"])[1..], &[("PORT", &port), ("GREETING", "salut")]);
    let health = format!("http://127.0.0.1:{port}{}", service["health"].as_str().unwrap());
    let target = ProbeTarget::Http { url: health, expect_status: None };
    let prober = Prober::new();
    let deadline = Instant::now() + PATIENCE;
    while let Err(sentence) = prober.run(&target, PATIENCE).await {
        assert!(Instant::now() < deadline, "{sentence:?}");
    }
    let elsewhere =
        ProbeTarget::Http { url: format!("http://127.0.0.1:{port}/no"), expect_status: Some(404) };
    assert_eq!(prober.run(&elsewhere, PATIENCE).await, Ok(()));
    // A client that says nothing delays the next one, and does not end the server.
    let silent = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    assert_eq!(prober.run(&target, PATIENCE).await, Ok(()));
    drop(silent);
    let (code, said) = server.stop();
    assert_eq!(code, Some(0));
    assert!(said.contains("404 Not Found /no") && said.contains("asked to stop"), "{said}");
}

#[test]
fn the_counter_passes_its_own_check_and_fails_it_when_it_is_gone() {
    let service = declared("counter");
    let port = free_port().to_string();
    let health = service["health"].as_table().unwrap();
    let check = words(&health["command"]);
    let expression = health["expect_regex"].as_str();
    assert_eq!(words(&service["command"]).last(), check.last(), "the check asks another port");
    let verdict = || {
        let output = perl(&[check[1], check[2], &port]).output().unwrap();
        let status = ExitStatus::Code(output.status.code().unwrap());
        let output = String::from_utf8(output.stdout).unwrap();
        judge_command(&JobOutcome::Exit { status, output }, expression)
    };
    let server = Running::start(&[check[1], "serve", &port], &[]);
    let deadline = Instant::now() + PATIENCE;
    while let Err(sentence) = verdict() {
        assert!(Instant::now() < deadline, "{sentence:?}");
    }
    assert_eq!(server.stop().0, Some(0));
    assert!(verdict().is_err());
}

#[test]
fn the_ticker_ticks_into_a_file_at_once() {
    let service = declared("ticker");
    let mut ticker = Running::start(&words(&service["command"])[1..], &[]);
    let mut first = [0; 7];
    ticker.0.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"tick 1\n");
    assert_eq!(ticker.stop().0, Some(0));
}

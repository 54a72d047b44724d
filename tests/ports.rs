//! Ports with the real binary: told and kept, waited for, proved to be the service's own, and never given twice.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use support::{As, World, cannot_run_as, nobody};

/// Binds `PORT` as soon as it can, and answers every request with its pid.
const SERVER: &str = r#"
use strict; use IO::Socket::INET;
my $server;
select(undef, undef, undef, 0.02) until $server = IO::Socket::INET->new(
    LocalAddr => "127.0.0.1", LocalPort => $ENV{PORT}, Listen => 16, ReuseAddr => 1);
while (my $client = $server->accept) {
    sysread $client, my $request, 4096;
    print $client "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n";
    close $client;
}
"#;

/// `web`, which serves on its port `http`.
fn serve(world: &World, port: &str, more: &str) {
    std::fs::write(world.project().join("server.pl"), SERVER).unwrap();
    world.manifest(
        "web.toml",
        &format!(
            "[service.web]\ncommand = [\"perl\", \"{{{{cwd}}}}/server.pl\"]\nports.http = {port}\n\
             url = \"http://127.0.0.1:{{{{ports.http}}}}\"\nhealth = {{ url = \"/\", start_interval = \"20ms\", \
             interval = \"50ms\", retries = 1 }}\n{more}\n"
        ),
    );
}

fn port_of(world: &World, name: &str) -> u16 {
    let status =
        world.service_status(name).unwrap_or_else(|| panic!("{name} is there\n{}", world.describe()));
    u16::try_from(status["ports"]["http"].as_u64().unwrap_or_else(|| panic!("{status}"))).unwrap()
}

fn message(world: &World, name: &str) -> (String, String) {
    let status = world.service_status(name).unwrap_or(Value::Null);
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("message"))
}

fn environment(pid: i32) -> BTreeMap<String, String> {
    let environ = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap_or_default();
    let pairs = environ.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Answers every request with 200, until it is dropped.
struct Squatter {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Squatter {
    fn on(address: &str) -> Option<Self> {
        let listener = TcpListener::bind(address).ok()?;
        let address = listener.local_addr().unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            for client in listener.incoming() {
                if told.load(Ordering::SeqCst) {
                    break;
                }
                if let Ok(mut client) = client {
                    let _ = client.read(&mut [0; 4096]);
                    let _ = client.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n");
                }
            }
        });
        Some(Self { address, ends, thread: Some(thread) })
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let port = self.address.port();
        let _ = std::net::TcpStream::connect(("127.0.0.1", port));
        let _ = std::net::TcpStream::connect(("::1", port));
        self.thread.take().expect("it ends once").join().unwrap();
    }
}

#[test]
fn a_service_is_told_its_port_and_keeps_it() {
    let world = World::new();
    serve(&world, "\"auto\"", "attrs = { api = \"{{ports.http}}\" }");
    world.once().expect_code(0);
    let status = world.service_status("web").unwrap();
    let port = port_of(&world, "web");
    assert!((37_100..=37_900).contains(&port), "{port}");
    assert_eq!(status["phase"], "ready");
    assert_eq!(status["url"], format!("http://127.0.0.1:{port}"));
    assert_eq!(status["attrs"]["api"], port.to_string());
    let told = environment(world.pid("web").unwrap());
    assert_eq!((told["PORT"].as_str(), told["PORT_HTTP"].as_str()), (&*port.to_string(), &*port.to_string()));
    let table = world.run(&["status"]).stdout;
    assert!(table.contains("PORTS") && table.contains(&format!("http={port}")), "{table}");

    let ledger = std::fs::read(world.path("state/ledger.journal")).unwrap();
    world.once().expect_code(0);
    assert_eq!(
        std::fs::read(world.path("state/ledger.journal")).unwrap(),
        ledger,
        "a second pass does nothing"
    );
    let before = world.pid("web");
    world.run(&["restart", "web"]).expect_code(0);
    world.until("it is another process", |world| world.pid("web").is_some_and(|pid| Some(pid) != before));
    world.run(&["stop", "web"]).expect_code(0);
    assert_eq!(port_of(&world, "web"), port);
    world.run(&["start", "web"]).expect_code(0);
    world.until_phase("web", "ready");
    assert_eq!(port_of(&world, "web"), port);
    world.run(&["down"]).expect_code(0);
}

#[test]
fn a_fixed_port_of_somebody_else_is_waited_for_and_named() {
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        let Some(squatter) = Squatter::on(address) else {
            eprintln!("skipped: no {address} here");
            continue;
        };
        let mut world = World::new();
        let port = squatter.address.port();
        serve(&world, &port.to_string(), "");
        let run = world.once().expect_code(5);
        let own = format!("port {port} is held by pid {} (", std::process::id());
        assert!(run.stderr.contains(&own) || run.stdout.contains(&own), "{address}: {run:?}");
        world.watch();
        world.until_phase("web", "pending");
        let (reason, told) = message(&world, "web");
        assert!(reason == "port-taken" && told.contains(&own), "{address}: {told}");
        drop(squatter);
        world.until_phase("web", "ready");
        assert_eq!(port_of(&world, "web"), port);
    }
}

/// pitchfork#350 and paperclip#9407: the health check is answered by somebody else.
fn an_answer_of_somebody_else_is_not_ready(who: As) {
    if cannot_run_as(who) {
        return;
    }
    let mut world = World::run_as(who);
    // It binds once it may, and lives meanwhile.
    serve(&world, "\"auto\"", "");
    let gate = world.project().join("bind");
    let script = format!("select(undef, undef, undef, 0.02) until -e '{}';\n{SERVER}", gate.display());
    std::fs::write(world.project().join("server.pl"), script).unwrap();
    world.watch();
    world.until("it runs", |world| world.pid("web").is_some());
    let (port, pid) = (port_of(&world, "web"), world.pid("web"));
    let squatter = Squatter::on(&format!("127.0.0.1:{port}")).expect("nobody listens yet");
    world.until("the squatter is told of", |world| {
        let (reason, told) = message(world, "web");
        reason == "port-foreign" && told.contains(&format!("pid {} (", std::process::id()))
    });
    assert_eq!(world.phase("web"), "starting", "{who:?}");
    std::fs::write(gate, "").unwrap();
    drop(squatter);
    world.until_phase("web", "ready");
    assert_eq!((world.pid("web"), port_of(&world, "web")), (pid, port), "{who:?}");
}

#[test]
fn an_answer_of_somebody_else_is_not_ready_with_cgroups() {
    an_answer_of_somebody_else_is_not_ready(As::Caller);
}

#[test]
fn an_answer_of_somebody_else_is_not_ready_with_holders() {
    an_answer_of_somebody_else_is_not_ready(As::Holders);
}

/// A service whose listener is a child's child in a session of its own.
#[test]
fn a_listener_that_has_wandered_off_is_the_services_own() {
    for who in [As::Caller, As::Holders] {
        let world = World::run_as(who);
        serve(&world, "\"auto\"", "");
        world.manifest(
            "web.toml",
            "[service.web]\ncommand = \"setsid -f perl server.pl; exec sleep 1000\"\nshell = true\n\
             ports.http = \"auto\"\nhealth = { port = \"http\", start_interval = \"20ms\" }\n",
        );
        world.once().expect_code(0);
        assert_eq!(world.phase("web"), "ready", "{who:?}");
    }
}

const AT_ONCE: usize = 4;
const SERVICES: usize = 10;
const ROUNDS: usize = 2;

fn once_in_background(world: &World) -> Child {
    let mut command = world.command();
    command.args(["--once", "--timeout", "50s"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Every port of a world, with the service that has it.
fn ports_of(world: &World) -> Vec<(u64, String)> {
    let status = world.status().unwrap_or_else(|| panic!("{}", world.describe()));
    let mut ports = Vec::new();
    for service in status["services"].as_array().unwrap() {
        let name = service["name"].as_str().unwrap();
        for (port, number) in service["ports"].as_object().unwrap() {
            ports.push((number.as_u64().unwrap(), format!("{}:{name}.{port}", world.state().display())));
        }
    }
    ports
}

/// Services that do not listen: nothing but what the reconcilers tell each other keeps them apart.
#[test]
fn reconcilers_of_different_state_directories_never_give_a_port_twice() {
    let mut worlds: Vec<World> = (0..AT_ONCE).map(|_| World::new()).collect();
    if nix::unistd::Uid::effective().is_root() {
        worlds.push(World::run_as(As::Nobody));
    }
    for round in 0..ROUNDS {
        for (at, world) in worlds.iter().enumerate() {
            for n in 0..SERVICES {
                world.manifest(
                    &format!("s{round}-{n}.toml"),
                    &format!(
                        "[service.s{round}-{n}]\ncommand = [\"sleep\", \"1000\"]\nstart_settle = \"10ms\"\n\
                         ports = {{ http = \"auto\", agent = {{ auto = true, count = {} }} }}\n",
                        1 + (at + n) % 3
                    ),
                );
            }
        }
        let running: Vec<Child> = worlds.iter().map(once_in_background).collect();
        for mut child in running {
            assert!(child.wait().unwrap().success());
        }
        let mut seen: BTreeMap<u64, String> = BTreeMap::new();
        for (port, who) in worlds.iter().flat_map(ports_of) {
            if let Some(other) = seen.insert(port, who.clone()) {
                panic!("round {round}: {port} was given to {other} and {who}");
            }
        }
        assert!(seen.len() >= worlds.len() * SERVICES * (round + 1) * 2, "{}", seen.len());
    }
    // What is given back, and the ports of a state directory that is gone, are free again.
    let first: BTreeSet<u64> = ports_of(&worlds[0]).into_iter().map(|(port, _)| port).collect();
    let gone = worlds.remove(0);
    gone.run(&["down"]).expect_code(0);
    drop(gone);
    let next = &worlds[0];
    let lowest = *first.iter().next().unwrap();
    next.manifest("late.toml", "[service.late]\ncommand = [\"sleep\", \"1000\"]\nports.http = \"auto\"\n");
    next.run(&["--once", "late"]).expect_code(0);
    assert!(u64::from(port_of(next, "late")) <= lowest, "{} and {lowest}", port_of(next, "late"));
}

/// A port of another user's process may be seen and not be looked at: nobody is accused.
#[test]
fn a_holder_that_may_not_be_looked_at_is_unknown() {
    if cannot_run_as(As::Nobody) {
        return;
    }
    let world = World::run_as(As::Nobody);
    let squatter = Squatter::on("127.0.0.1:0").unwrap();
    serve(&world, &squatter.address.port().to_string(), "");
    nix::unistd::chown(&world.project().join("server.pl"), Some(nobody().0), Some(nobody().1)).unwrap();
    world.once().expect_code(5);
    let mut plan = world.command();
    plan.args(["status", "web"]).uid(nobody().0.as_raw());
    let told = world.finish(plan).stdout;
    assert!(told.contains("cannot be looked at"), "{told}");
}

/// `up` as it is used: nothing but the manifest, and what `status` says.
#[test]
fn an_exhausted_range_names_who_has_it() {
    let world = World::new();
    // Outside of where connections get ports by themselves.
    world.config("[policy]\nexecutables = [\"sleep\"]\n[ports]\nrange = \"21790-21791\"\n");
    for name in ["a", "b", "c"] {
        world.manifest(
            &format!("{name}.toml"),
            &format!("[service.{name}]\ncommand = [\"sleep\", \"1000\"]\nstart_settle = \"10ms\"\nports.http = \"auto\"\n"),
        );
    }
    let run = world.once().expect_code(5);
    let (reason, told) = message(&world, "c");
    assert!(
        told.contains("21790-21791") && told.contains("service a: 1; service b: 1"),
        "{reason}: {told}\n{run:?}"
    );
    assert_eq!(world.phase("c"), "pending");
}

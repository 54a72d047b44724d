//! Services that run on demand, with the real binary.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::Value;
use support::{As, World, cannot_run_as, is_missing};

/// Answers one request after the other with its pid, on descriptor 3.
const SERVER: &str = r#"
use strict;
open my $listening, "+<&=", 3 or die "no descriptor 3: $!";
while (accept my $client, $listening) {
    sysread $client, my $request, 4096;
    sleep 2 if $request =~ m{^GET /slow};
    syswrite $client, "HTTP/1.0 200 OK\r\nContent-Length: " . length($$) . "\r\n\r\n$$";
    close $client;
}
"#;

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn declare(world: &World, address: SocketAddr, idle: &str, more: &str) {
    fs::write(world.project().join("server.pl"), SERVER).unwrap();
    world.manifest(
        "web.toml",
        &format!(
            "[service.web]\ncommand = [\"perl\", \"server.pl\"]\nsockets.http = \"{address}\"\nstart_settle = \"10ms\"\n\
             activation = {{ on = \"connection\", idle = \"{idle}\" }}\n{more}\n"
        ),
    );
}

fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// A server that knows nothing of sockets that are passed, on a port that was chosen for it.
fn declare_proxied(world: &World, address: &str, more: &str) {
    world.manifest(
        "web.toml",
        &format!(
            "[service.web]\ncommand = [\"python3\", \"-m\", \"http.server\", \"--bind\", \"127.0.0.1\", \"{{{{ports.own}}}}\"]\n\
             sockets.http = \"{address}\"\nports.own = \"auto\"\n\
             health = {{ url = \"http://127.0.0.1:{{{{ports.own}}}}/\", start_interval = \"20ms\" }}\n\
             activation = {{ on = \"connection\", proxy = \"{{{{ports.own}}}}\", idle = \"1s\" }}\n{more}\n"
        ),
    );
}

/// Until a service that may be idle for a second has been so, twice.
fn let_idle_times_pass(world: &World) {
    world.manifest(
        "clock.toml",
        "[service.clock]\ncommand = [\"sleep\", \"1000\"]\nstart_settle = \"10ms\"\n\
         activation = { on = \"request\", idle = \"1s\" }\n",
    );
    for _ in 0..2 {
        world.until("the clock is wound", |world| world.run(&["ensure", "clock"]).code == 0);
        world.until("the clock has run down", |world| reason(world, "clock") == "on-demand");
    }
}

fn reason(world: &World, name: &str) -> String {
    let status = world.service_status(name).unwrap_or(Value::Null);
    status["reason"].as_str().unwrap_or_default().to_owned()
}

fn until_asleep(world: &World) {
    world.until("it sleeps", |world| reason(world, "web") == "on-demand");
}

/// Ancestor A: a request for a project starts its runtime; concurrent requests share one start in flight.
fn first_connections_share_one_start(who: As) {
    if cannot_run_as(who) {
        return;
    }
    let mut world = World::run_as(who);
    let address = free();
    declare(&world, address, "1h", "");
    world.watch();
    until_asleep(&world);
    world.run(&["status", "web"]).expect_code(0);
    assert_eq!(world.pid("web"), None);
    let clients: Vec<_> = (0..8).map(|_| std::thread::spawn(move || get(address, "/").unwrap())).collect();
    let pids: Vec<String> =
        clients.into_iter().map(|client| body(&client.join().unwrap()).to_owned()).collect();
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    assert_eq!(world.pid("web").map(|pid| pid.to_string()), Some(pids[0].clone()));
    let status = world.service_status("web").unwrap();
    assert_eq!(status["restarts"], 0, "{status}");
}

#[test]
fn a_request_starts_its_runtime_and_concurrent_ones_share_that_start() {
    first_connections_share_one_start(As::Caller);
}

#[test]
fn a_request_starts_a_runtime_of_nobody() {
    first_connections_share_one_start(As::Nobody);
}

/// Ancestor A: an idle runtime is stopped, and started again by the next request.
#[test]
fn an_idle_runtime_is_stopped_and_the_next_request_starts_it_again() {
    let mut world = World::new();
    let address = free();
    declare(&world, address, "1s", "");
    world.watch();
    until_asleep(&world);
    let first = get(address, "/").unwrap();
    until_asleep(&world);
    assert_eq!(world.pid("web"), None);
    let second = get(address, "/").unwrap();
    assert_ne!(body(&first), body(&second));
    // And again, with a reconciler that knows of nothing.
    world.kill_watcher();
    let waiting = std::thread::spawn(move || get(address, "/").unwrap());
    world.watch();
    assert!(!body(&waiting.join().unwrap()).is_empty());
    until_asleep(&world);
}

/// Ancestor D: as long as somebody uses it, it stays.
#[test]
fn what_is_used_all_the_time_is_not_stopped() {
    let mut world = World::new();
    let address = free();
    declare(&world, address, "1s", "");
    world.watch();
    until_asleep(&world);
    let first = get(address, "/").unwrap();
    std::thread::scope(|scope| {
        let clock = scope.spawn(|| let_idle_times_pass(&world));
        while !clock.is_finished() {
            assert_eq!(get(address, "/").unwrap(), first);
        }
    });
}

/// Ancestor D: an open connection keeps it, however little is said on it.
#[test]
fn an_open_connection_is_not_idle() {
    let mut world = World::new();
    let address = free();
    declare(&world, address, "1s", "");
    world.watch();
    until_asleep(&world);
    assert!(
        get(address, "/slow").unwrap().starts_with("HTTP/1.0 200 OK"),
        "it takes longer than it may be idle"
    );
    until_asleep(&world);
}

/// Ancestor A: a start that fails is reported to whoever waits.
#[test]
fn who_waits_for_a_start_that_fails_is_told_why() {
    let mut world = World::new();
    let address = free();
    declare(&world, address, "1h", "restart = { backoff = \"1h\", backoff_max = \"1h\" }");
    fs::write(world.project().join("server.pl"), "exit 3").unwrap();
    world.watch();
    until_asleep(&world);
    let answer = get(address, "/").unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(body(&answer).contains("it ended with exit code 3"), "{answer}");
}

/// Ancestor A: `ensure` waits until it is healthy, and answers with its URL and ports; ancestor D: it is shared.
#[test]
fn ensure_starts_once_waits_until_ready_and_answers_where_it_is() {
    let mut world = World::new();
    world.manifest(
        "api.toml",
        "[service.api]\ncommand = [\"perl\", \"-MIO::Socket::INET\", \"-e\", \"sleep 1; my $l = IO::Socket::INET->new(\
         LocalAddr => '127.0.0.1', LocalPort => $ENV{PORT}, Listen => 9) or die; while (my $c = $l->accept) { sysread $c, \
         my $r, 4096; print $c \\\"HTTP/1.0 200 OK\\\\r\\\\nContent-Length: 0\\\\r\\\\n\\\\r\\\\n\\\"; close $c }\"]\n\
         ports.http = \"auto\"\nurl = \"http://127.0.0.1:{{ports.http}}\"\nhealth = { url = \"/\", start_interval = \"20ms\" }\n\
         activation = { on = \"request\", idle = \"1h\" }\n",
    );
    world.watch();
    world.until("it sleeps", |world| reason(world, "api") == "on-demand");
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asks: Vec<_> =
            (0..3).map(|_| scope.spawn(|| world.run(&["ensure", "api", "-o", "json"]))).collect();
        asks.into_iter().map(|ask| ask.join().unwrap().expect_code(0).json()).collect()
    });
    for answer in &answers {
        let api = &answer["services"][0];
        assert_eq!((&api["phase"], &api["pid"]), (&Value::from("ready"), &answers[0]["services"][0]["pid"]));
        assert_eq!(api["url"], format!("http://127.0.0.1:{}", api["ports"]["http"]));
    }
    let text = world.run(&["ensure", "api"]).expect_code(0).stdout;
    assert!(text.contains("api") && text.contains("http://127.0.0.1:"), "{text}");
    world.run(&["touch", "api"]).expect_code(0);
    world.run(&["ensure", "nobody"]).expect_code(1);
    world.run(&["stop", "api"]).expect_code(0);
    let refused = world.run(&["ensure", "api", "-o", "json"]).expect_code(1).json();
    assert_eq!(refused["refused"]["code"], "stopped");
}

#[test]
fn a_convergence_without_a_watcher_leaves_a_socket_on_which_the_next_one_accepts() {
    let world = World::new();
    let address = free();
    declare(&world, address, "1h", "");
    world.once().expect_code(0);
    assert_eq!((world.pid("web"), reason(&world, "web").as_str()), (None, "on-demand"));
    world.run(&["ensure", "web"]).expect_code(0);
    let served = get(address, "/").unwrap();
    assert_eq!(world.pid("web").map(|pid| pid.to_string()).as_deref(), Some(body(&served)));
    world.run(&["down"]).expect_code(0);
    world.until("nothing is left", |world| world.keeper().is_none());
}

/// Ancestor A: a request to a runtime that is not there starts it, and is sent on to its local address.
#[test]
fn a_plain_server_is_started_by_a_request_that_is_handed_on_to_it() {
    if is_missing("python3") {
        return;
    }
    let mut world = World::new();
    let address = free();
    fs::write(world.project().join("hello.txt"), "hello").unwrap();
    declare_proxied(&world, &address.to_string(), "");
    world.watch();
    until_asleep(&world);
    let clients: Vec<_> =
        (0..4).map(|_| std::thread::spawn(move || get(address, "/hello.txt").unwrap())).collect();
    for client in clients {
        let answer = client.join().unwrap();
        assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("hello"), "{answer}");
    }
    assert_eq!(world.service_status("web").unwrap()["restarts"], 0);
    until_asleep(&world);
    // A keeper that becomes another program, and a connection that waits meanwhile.
    let keeper = world.keeper().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(keeper), nix::sys::signal::Signal::SIGKILL).unwrap();
    world.until("another keeper holds its socket", |world| {
        world.keeper().is_some_and(|pid| pid != keeper) && get(address, "/hello.txt").is_ok()
    });
    assert!(get(address, "/hello.txt").unwrap().ends_with("hello"));
}

/// Ancestor D: an open connection keeps it; a path does as well as a port.
#[test]
fn a_connection_that_is_handed_on_keeps_a_server_and_its_end_lets_it_sleep() {
    if is_missing("python3") {
        return;
    }
    let mut world = World::new();
    fs::write(world.project().join("hello.txt"), "hello").unwrap();
    declare_proxied(&world, "./web.sock", "");
    world.watch();
    until_asleep(&world);
    let mut stream = std::os::unix::net::UnixStream::connect(world.project().join("web.sock")).unwrap();
    world.until_phase("web", "ready");
    let_idle_times_pass(&world);
    assert_eq!(world.phase("web"), "ready", "somebody is connected");
    stream.write_all(b"GET /hello.txt HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    drop(stream);
    until_asleep(&world);
}

#[test]
fn a_server_that_does_not_come_up_refuses_who_waits_with_its_reason() {
    if is_missing("python3") {
        return;
    }
    let mut world = World::new();
    let address = free();
    declare_proxied(&world, &address.to_string(), "cwd = \"gone\"");
    world.watch();
    world.until("it is declared", |world| world.service_status("web").is_some());
    fs::create_dir(world.project().join("gone")).unwrap();
    until_asleep(&world);
    fs::remove_dir(world.project().join("gone")).unwrap();
    let answer = get(address, "/").unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("no directory"), "{answer}");
}

#[test]
fn the_next_watcher_opens_the_socket_of_one_whose_start_has_failed() {
    let mut world = World::new();
    let address = free();
    let server = world.project().join("server");
    world.config(&format!("[policy]\nexecutables = [\"@default\", \"{}\"]\n", server.display()));
    let write = |text: &str| {
        fs::write(&server, text).unwrap();
        fs::set_permissions(&server, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    write("\x7fELF, and nothing of the kind");
    world.manifest(
        "web.toml",
        &format!(
            "[service.web]\ncommand = [\"./server\"]\nsockets.http = \"{address}\"\n\
             restart.backoff_max = \"1s\"\nactivation = {{ on = \"connection\", idle = \"1h\" }}\n"
        ),
    );
    world.watch();
    until_asleep(&world);
    let answer = get(address, "/").unwrap();
    assert!(answer.contains("failed to execute"), "{answer}");
    world.run(&["down"]).expect_code(0);
    world.until("nothing is left", |world| world.keeper().is_none());
    world.watch();
    world.until("it remembers that", |world| reason(world, "web") == "exec-failed");
    world.until("its socket is open", |_| TcpStream::connect(address).is_ok());
    write(
        "#!/usr/bin/perl\nopen my $l, \"+<&=\", 3; \nwhile (accept my $c, $l) { syswrite $c, \"here\"; close $c }",
    );
    world.until("it serves", |_| get(address, "/").is_ok_and(|answer| answer == "here"));
}

/// A keeper that is new holds nothing yet, and the next start is an hour away.
#[test]
fn one_that_waits_out_a_backoff_has_its_socket_open_with_the_next_watcher() {
    let mut world = World::new();
    let address = free();
    fs::write(world.project().join("server.pl"), "exit 3").unwrap();
    world.manifest(
        "web.toml",
        &format!(
            "[service.web]\ncommand = [\"perl\", \"server.pl\"]\nsockets.http = \"{address}\"\n\
             restart = {{ backoff = \"1h\", backoff_max = \"1h\" }}\n"
        ),
    );
    world.watch();
    world.until_phase("web", "backoff");
    world.run(&["down"]).expect_code(0);
    world.until("nothing is left", |world| world.keeper().is_none());
    world.watch();
    world.until("its socket is open", |_| TcpStream::connect(address).is_ok());
    assert_eq!(world.phase("web"), "backoff");
}

/// With fewer descriptors than there are clients: those that are not handed on wait, and what looks after services goes on.
#[test]
fn connections_that_are_handed_on_leave_descriptors_to_look_after_services_with() {
    if is_missing("python3") || is_missing("prlimit") {
        return;
    }
    let mut world = World::new();
    let address = free();
    fs::write(world.project().join("hello.txt"), "hello").unwrap();
    declare_proxied(&world, &address.to_string(), "");
    world.service("other", "exec sleep 1000", "");
    let command = world.behind("prlimit", &["--nofile=128:128"]);
    world.watch_with(command);
    world.until_phase("other", "running");
    let clients: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    world.until_phase("web", "ready");
    let files = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let watcher = world.watcher().id();
    world.run(&["restart", "other"]).expect_code(0);
    assert!(files(watcher) < 110, "{}", files(watcher));
    // Whoever goes makes room for who waits.
    drop(clients);
    assert!(get(address, "/hello.txt").unwrap().ends_with("hello"));
    let clients: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    let (web, other) = (world.pid("web").unwrap(), world.pid("other").unwrap());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(watcher as i32), nix::sys::signal::Signal::SIGINT)
        .unwrap();
    assert!(world.watcher().wait().unwrap().success(), "{}", world.describe());
    assert!(!support::is_alive(web) && !support::is_alive(other));
    drop(clients);
}

/// It sleeps all the while: nothing but the socket becomes another one.
#[test]
fn who_connects_to_a_changed_address_wakes_it() {
    let mut world = World::new();
    let (before, after) = (free(), free());
    declare(&world, before, "1s", "");
    world.watch();
    until_asleep(&world);
    assert!(get(before, "/").unwrap().starts_with("HTTP/1.0 200 OK"));
    until_asleep(&world);
    declare(&world, after, "1h", "");
    let shown = |world: &World| world.service_status("web").unwrap()["sockets"]["http"].clone();
    world.until("it has the other one", |world| shown(world) == after.to_string());
    world.until("who connects there is served", |_| get(after, "/").is_ok());
    assert!(TcpStream::connect(before).is_err());
}

#[test]
fn connections_to_a_changed_address_are_handed_on() {
    if is_missing("python3") {
        return;
    }
    let mut world = World::new();
    let (before, after) = (free(), free());
    fs::write(world.project().join("hello.txt"), "hello").unwrap();
    declare_proxied(&world, &before.to_string(), "");
    world.watch();
    until_asleep(&world);
    assert!(get(before, "/hello.txt").unwrap().ends_with("hello"));
    declare_proxied(&world, &after.to_string(), "");
    world.until("it is served there", |_| {
        get(after, "/hello.txt").is_ok_and(|answer| answer.ends_with("hello"))
    });
    assert!(TcpStream::connect(before).is_err());
}

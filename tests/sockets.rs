//! Sockets with the real binary: a load generator on loopback that is never refused, whatever happens to the service, to
//! `reconcile` or to its keeper.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use support::{As, World, cannot_run_as, copy_program, is_missing, nobody};

/// Answers one request after the other with its pid; ends by itself at `/crash`, and after the one at hand when told to.
const SERVER: &str = r#"
use strict;
my $told = 0;
$SIG{TERM} = sub { $told = 1 };
open my $listening, "+<&=", 3 or die "no descriptor 3: $!";
die "for pid $ENV{LISTEN_PID}, and this is $$" unless $ENV{LISTEN_PID} == $$;
until ($told) {
    accept my $client, $listening or next;
    sysread $client, my $request, 4096;
    syswrite $client, "HTTP/1.0 200 OK\r\nContent-Length: " . length($$) . "\r\n\r\n$$";
    close $client;
    exit 3 if $request =~ m{^GET /crash};
}
"#;

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn serve(world: &World, sockets: &str, more: &str) {
    fs::write(world.project().join("server.pl"), SERVER).unwrap();
    world.manifest(
        "web.toml",
        &format!(
            "[service.web]\ncommand = [\"perl\", \"server.pl\"]\nsockets.http = {sockets}\nstart_settle = \"10ms\"\n\
             restart = {{ backoff = \"50ms\", backoff_max = \"50ms\", max_failures = 1000 }}\nstop.grace = \"2s\"\n{more}\n"
        ),
    );
}

/// The body of the answer; an error is a connection that was refused or cut off.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    ask(&mut stream, path)
}

fn ask(stream: &mut (impl Read + Write), path: &str) -> std::io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.filter(|body| !body.is_empty())
        .ok_or_else(|| std::io::Error::other(format!("it answered {answer:?}")))
}

/// Asks all the time, from several sides.
struct Load {
    ends: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn on(address: SocketAddr) -> Self {
        let (ends, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let threads = (0..4).map(|_| {
            let (ends, served) = (Arc::clone(&ends), Arc::clone(&served));
            std::thread::spawn(move || {
                let mut failed = Vec::new();
                while !ends.load(Ordering::Relaxed) {
                    match get(address, "/") {
                        Ok(_) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failed.push(error.to_string()),
                    }
                }
                failed
            })
        });
        Self { threads: threads.collect(), ends, served }
    }

    /// More is served, after what has just happened.
    #[track_caller]
    fn goes_on(&self, world: &World) {
        let before = self.served.load(Ordering::Relaxed);
        world.until("more is served", |_| self.served.load(Ordering::Relaxed) > before + 20);
    }

    /// Everything that failed.
    fn end(self) -> (u64, Vec<String>) {
        self.ends.store(true, Ordering::Relaxed);
        let failed = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (self.served.load(Ordering::Relaxed), failed)
    }
}

/// The same program, written later.
fn newer_program(world: &World, name: &str, age: u64) -> PathBuf {
    let file = world.path(name);
    copy_program(env!("CARGO_BIN_EXE_reconcile"), &file);
    let at = SystemTime::now() + Duration::from_secs(60 * age);
    fs::File::open(&file).unwrap().set_modified(at).unwrap();
    file
}

fn nobody_is_refused(who: As) {
    if cannot_run_as(who) {
        return;
    }
    let mut world = World::run_as(who);
    let address = free();
    serve(&world, &format!("\"{address}\""), "");
    world.watch();
    world.until_phase("web", "running");
    let load = Load::on(address);
    load.goes_on(&world);
    let mut before = world.pid("web");
    let mut changed = |world: &World| {
        world
            .until("another process serves", |world| world.pid("web").is_some_and(|pid| Some(pid) != before));
        before = world.pid("web");
        load.goes_on(world);
    };
    world.run(&["restart", "web"]).expect_code(0);
    changed(&world);
    serve(&world, &format!("\"{address}\""), "env.VERSION = \"2\"");
    changed(&world);
    for _ in 0..3 {
        get(address, "/crash").unwrap();
        changed(&world);
    }
    let keeper = world.keeper();
    world.kill_watcher();
    load.goes_on(&world);
    get(address, "/crash").unwrap();
    world.watch();
    changed(&world);
    // A newer program starts, and its keeper becomes it.
    let running = |world: &World| fs::read_link(format!("/proc/{}/exe", world.keeper().unwrap())).unwrap();
    world.kill_watcher();
    let newer = newer_program(&world, "newer", 1);
    world.install(&newer);
    world.watch();
    world.until("the keeper is upgraded", |world| running(world) == newer.canonicalize().unwrap());
    assert_eq!(world.keeper(), keeper);
    load.goes_on(&world);
    world.run(&["restart", "web"]).expect_code(0);
    changed(&world);
    let status = world.service_status("web").unwrap();
    assert_eq!(
        (status["sockets"]["http"].as_str(), &status["drift"]),
        (Some(&*address.to_string()), &serde_json::json!([]))
    );
    let (served, failed) = load.end();
    assert_eq!(failed, [""; 0], "of {served}\n{}", world.describe());

    world.run(&["stop", "web"]).expect_code(0);
    let is_refused = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    world.until("it is closed", |_| get(address, "/").is_err_and(is_refused));
    world.run(&["down"]).expect_code(0);
    world.until("nothing is left", |world| world.keeper().is_none());
}

#[test]
fn nobody_is_refused_through_restarts_crashes_edits_deaths_and_upgrades() {
    nobody_is_refused(As::Caller);
}

#[test]
fn nobody_is_refused_where_services_have_holders() {
    nobody_is_refused(As::Holders);
}

#[test]
fn nobody_is_refused_by_services_of_nobody() {
    nobody_is_refused(As::Nobody);
}

#[test]
fn a_connection_waits_for_one_convergence_after_the_other() {
    let world = World::new();
    let address = free();
    serve(&world, &format!("\"{address}\""), "");
    world.once().expect_code(0);
    let first = get(address, "/crash").unwrap();
    let waiting = std::thread::spawn(move || get(address, "/"));
    world.until("it has ended", |world| world.pid("web").is_none_or(|pid| pid.to_string() != first));
    world.once().expect_code(0);
    assert_ne!(waiting.join().unwrap().unwrap(), first);
}

#[test]
fn a_path_has_its_mode_and_is_taken_away_with_the_service() {
    let world = World::new();
    let path = world.project().join("run.sock");
    // What a death has left behind is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    serve(&world, "{ listen = \"./run.sock\", mode = \"660\" }", "");
    world.once().expect_code(0);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let first = ask(&mut UnixStream::connect(&path).unwrap(), "/").unwrap();
    serve(&world, "{ listen = \"./run.sock\", mode = \"600\" }", "");
    world.once().expect_code(0);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_ne!(ask(&mut UnixStream::connect(&path).unwrap(), "/").unwrap(), first);
    world.run(&["down"]).expect_code(0);
    world.until("it is taken away", |_| !path.exists());
}

/// As after a directory of temporary files was cleared.
#[test]
fn a_path_that_was_taken_away_is_there_again_after_a_restart() {
    let mut world = World::new();
    world.config("resync = \"1s\"\n[policy]\nexecutables = [\"perl\"]\n");
    let path = world.project().join("run.sock");
    serve(&world, "\"./run.sock\"", "");
    world.watch();
    world.until_phase("web", "running");
    fs::remove_file(&path).unwrap();
    world.until("that is seen", |world| {
        world.service_status("web").is_some_and(|web| web["drift"][0]["code"] == "socket-not-held")
    });
    world.run(&["restart", "web"]).expect_code(0);
    ask(&mut UnixStream::connect(&path).unwrap(), "/").unwrap();
}

#[test]
fn a_path_belongs_to_the_user_of_the_service() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root can become nobody");
        return;
    }
    let world = World::new();
    for dir in [world.path("."), world.project()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    serve(&world, "\"./run.sock\"", "user = \"nobody\"");
    world.once().expect_code(0);
    let meta = fs::metadata(world.project().join("run.sock")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((meta.uid(), meta.mode() & 0o777), (nobody().0.as_raw(), 0o600));
}

#[test]
fn an_address_that_somebody_else_has_is_told_with_its_holder_and_taken_once_it_is_free() {
    let mut world = World::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    serve(&world, &format!("\"{address}\""), "");
    world.watch();
    world.until("it waits", |world| {
        world.service_status("web").is_some_and(|web| web["reason"] == "socket-unavailable")
    });
    let message = world.service_status("web").unwrap()["message"].as_str().unwrap().to_owned();
    assert!(message.contains(&format!("pid {}", std::process::id())), "{message}");
    drop(other);
    world.until_phase("web", "running");
    get(address, "/").unwrap();
}

/// It takes listening sockets in a variable of its own.
#[test]
fn nginx_is_restarted_and_reloaded_under_load_without_a_failed_request() {
    if is_missing("nginx") {
        return;
    }
    let mut world = World::new();
    world.config("[policy]\nexecutables = [\"nginx\"]\nenv_keys = [\"NGINX\", \"VERSION\"]\n");
    let address = free();
    let dir = world.path("nginx");
    fs::create_dir(&dir).unwrap();
    let dir = dir.display();
    fs::write(
        world.project().join("nginx.conf"),
        format!(
            "daemon off;\npid {dir}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{ access_log off;\n\
             client_body_temp_path {dir}/1; proxy_temp_path {dir}/2; fastcgi_temp_path {dir}/3;\n\
             uwsgi_temp_path {dir}/4; scgi_temp_path {dir}/5;\n\
             server {{ listen {address}; location / {{ return 200 \"$pid\"; }} }} }}\n"
        ),
    )
    .unwrap();
    let declare = |world: &World, version: u32| {
        world.manifest(
            "web.toml",
            &format!(
                "[service.web]\ncommand = [\"nginx\", \"-c\", \"{{{{cwd}}}}/nginx.conf\"]\n\
                 env = {{ NGINX = \"3;\", VERSION = \"{version}\" }}\n\
                 sockets.http = \"{address}\"\nstart_settle = \"50ms\"\nstop = {{ signal = \"QUIT\", signal_to = \"leader\" }}\n"
            ),
        );
    };
    declare(&world, 1);
    world.watch();
    world.until_phase("web", "running");
    let load = Load::on(address);
    load.goes_on(&world);
    for version in 2..5 {
        let before = world.pid("web");
        match version {
            2 => drop(world.run(&["restart", "web"]).expect_code(0)),
            version => declare(&world, version),
        }
        world.until("another one serves", |world| world.pid("web").is_some_and(|pid| Some(pid) != before));
        load.goes_on(&world);
        let pid = nix::unistd::Pid::from_raw(world.pid("web").unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
        load.goes_on(&world);
    }
    let (served, failed) = load.end();
    assert_eq!(failed, [""; 0], "of {served}\n{}", world.describe());
}

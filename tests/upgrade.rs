//! A newer `reconcile` beside what an older one started: nothing is restarted, nothing is lost, and where the two do
//! not understand each other, nothing is touched.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

#[path = "../examples/chaos/register.rs"]
#[allow(dead_code, reason = "the chaos test uses the rest")]
mod register;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use reconcile::host::keeper::journal::{self, Ending};
use reconcile::host::keeper::protocol::{Message, OLDEST_PROTOCOL, PROTOCOL, Request, encode};
use reconcile::host::proc::Here;
use reconcile::state::{End, ExitStatus, Record, decode_journal};
use register::{Process, Register};
use support::{As, World, cannot_run_as, copy_program, is_missing};

const STEADY: usize = 55;
const FORKING: usize = 20;
const CRASHING: usize = 25;

/// Two programs, each of which can be made the newer one.
struct Programs {
    files: [PathBuf; 2],
    age: SystemTime,
    installed: usize,
}

impl Programs {
    fn new(world: &World) -> Self {
        let files = ["one", "two"].map(|name| world.path(name));
        for file in &files {
            copy_program(env!("CARGO_BIN_EXE_reconcile"), file);
        }
        Self { files, age: SystemTime::now() - Duration::from_secs(3_600), installed: 0 }
    }

    /// The inode of the program that is `reconcile` from now on: of the same version, and written later.
    fn install_newer(&mut self, world: &mut World) -> u64 {
        self.age += Duration::from_secs(60);
        self.installed += 1;
        let file = &self.files[self.installed % 2];
        fs::File::open(file).unwrap().set_modified(self.age).unwrap();
        world.install(file);
        file.metadata().unwrap().ino()
    }
}

/// All of the services in one file, each of which writes down what becomes of it.
fn declare(world: &World, register: &Path) {
    fs::create_dir(register).unwrap();
    let worker = world.path("worker.pl");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/chaos/worker.pl"), &worker).unwrap();
    let behaviours = [("steady", STEADY), ("forking", FORKING), ("crashing", CRASHING)];
    let mut text = String::new();
    for (behaviour, many) in behaviours {
        for n in 0..many {
            let name = format!("{behaviour}-{n}");
            let (worker, register) = (worker.display(), register.display());
            text += &format!(
                "[service.{name}]\ncommand = [\"perl\", \"{worker}\", \"{register}\", \"{name}\", \"1\", \
                 \"{behaviour}\"]\nstart_settle = \"50ms\"\n[service.{name}.restart]\npolicy = \"always\"\n\
                 backoff = \"1s\"\nbackoff_max = \"1s\"\nmax_failures = 10000\n"
            );
        }
    }
    world.manifest("all.toml", &text);
}

/// Every end of its own accord that a leader has written down, with its code.
fn ends(register: &Path) -> Vec<(Process, i32)> {
    let mut ends = Vec::new();
    for entry in fs::read_dir(register).unwrap() {
        for line in fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if let ["exit", pid, ticks, _, code, _] = words[..] {
                let process = Process { pid: pid.parse().unwrap(), ticks: ticks.parse().unwrap() };
                ends.push((process, code.parse().unwrap()));
            }
        }
    }
    ends
}

/// What the keeper has on record of how leaders ended.
fn recorded(world: &World) -> BTreeMap<Process, ExitStatus> {
    let endings = journal::exits(&world.state().join("exits.journal")).unwrap();
    let lines = endings.into_values().filter_map(|Ending { leader, .. }| leader);
    lines.map(|line| (Process { pid: line.pid.get(), ticks: line.start_ticks }, line.status)).collect()
}

fn live_leaders(register: &Path, crashing: bool) -> BTreeMap<String, Vec<Process>> {
    let lives = Register::new(register).read().into_iter();
    lives
        .filter(|(name, _)| name.starts_with("crashing") == crashing)
        .map(|(name, life)| (name, life.live_leaders().iter().map(|birth| birth.process).collect()))
        .collect()
}

fn three_upgrades(who: As) {
    if cannot_run_as(who) || is_missing("perl") {
        return;
    }
    let mut world = World::run_as(who);
    let register = world.path("register");
    declare(&world, &register);
    if who == As::Nobody {
        let (uid, gid) = support::nobody();
        nix::unistd::chown(&register, Some(uid), Some(gid)).unwrap();
    }
    let mut programs = Programs::new(&world);
    programs.install_newer(&mut world);
    world.watch();
    world.until("all are up", |_| {
        let lives = live_leaders(&register, false);
        lives.len() == STEADY + FORKING && lives.values().all(|leaders| leaders.len() == 1)
    });
    let before = live_leaders(&register, false);
    let keeper = world.keeper().expect("there is a keeper");
    let mut restarted = Vec::new();
    for round in 0..3 {
        // The keeper goes on alone for a moment, and then under a newer program.
        world.kill_watcher();
        let inode = programs.install_newer(&mut world);
        world.watch();
        let restart = format!("steady-{round}");
        world.run(&["restart", &restart]).expect_code(0);
        restarted.push(restart);
        world.until("the keeper is the newer program", |_| {
            fs::metadata(format!("/proc/{keeper}/exe")).is_ok_and(|exe| exe.ino() == inode)
        });
        let so_far = ends(&register).len();
        world.until("more have crashed", |_| ends(&register).len() >= so_far + CRASHING);
        assert_eq!(world.keeper(), Some(keeper), "{}", world.describe());
    }
    let after = live_leaders(&register, false);
    for (name, leaders) in &before {
        let same = after.get(name) == Some(leaders);
        assert_eq!(same, !restarted.contains(name), "{name}: {leaders:?} {:?}", after.get(name));
    }
    world.run(&["down"]).expect_code(0);
    let lives = Register::new(&register).read();
    for (name, life) in &lives {
        assert!(life.beside.is_empty(), "{name} was there twice: {:?}", life.beside);
        assert!(life.alive().is_empty(), "{name} is left");
    }
    // Counted from outside: how each ended is on record, as it says itself.
    let (ends, recorded) = (ends(&register), recorded(&world));
    assert!(ends.len() >= 3 * CRASHING);
    for (process, code) in &ends {
        assert_eq!(recorded.get(process), Some(&ExitStatus::Code(*code)), "{process:?} of {}", ends.len());
    }
    let ledger = decode_journal(&fs::read(world.state().join("ledger.journal")).unwrap());
    let unknown = ledger.records.iter().find(|record| match record {
        Record::Exited { end, .. } => *end == End::Unknown,
        Record::Entry { entry, .. } => entry.last.as_ref().is_some_and(|last| last.end == End::Unknown),
        _ => false,
    });
    assert_eq!(unknown, None);
    eprintln!("{who:?}: {} ends, {} on record", ends.len(), recorded.len());
}

#[test]
fn a_hundred_services_notice_nothing_of_three_upgrades_of_their_keeper() {
    three_upgrades(As::Caller);
}

#[test]
fn a_hundred_services_with_holders_notice_nothing_of_three_upgrades_of_their_keeper() {
    three_upgrades(As::Holders);
}

#[test]
fn a_hundred_services_of_nobody_notice_nothing_of_three_upgrades_of_their_keeper() {
    three_upgrades(As::Nobody);
}

#[test]
fn an_older_program_leaves_a_newer_keeper_as_it_is() {
    let mut world = World::new();
    world.service("web", "exec sleep 98765", "");
    let mut programs = Programs::new(&world);
    let older = programs.files[0].clone();
    let newer = programs.install_newer(&mut world);
    world.once().expect_code(0);
    let keeper = world.keeper().unwrap();
    let (pid, exe) = (world.pid("web").unwrap(), format!("/proc/{keeper}/exe"));
    fs::File::open(&older).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    world.install(&older);
    world.service("other", "exec sleep 98765", "");
    world.once().expect_code(0);
    assert_eq!(fs::metadata(exe).unwrap().ino(), newer);
    assert_eq!((world.keeper(), world.pid("web")), (Some(keeper), Some(pid)));
    world.run(&["down"]).expect_code(0);
}

/// A keeper that holds its lock, says hello as it is told, and hears everything.
struct FakeKeeper {
    heard: Arc<Mutex<Vec<String>>>,
    socket: PathBuf,
    _lock: Flock<fs::File>,
}

impl Drop for FakeKeeper {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

impl FakeKeeper {
    /// In the place of the real one, which is killed first; what it started lives on.
    fn replace(world: &World, hello: impl Fn() -> Message + Send + 'static) -> Self {
        let keeper = world.keeper().unwrap();
        support::kill(keeper);
        world.until("the keeper is gone", |_| !support::is_alive(keeper));
        let lock = fs::File::options().write(true).open(world.state().join("keeper.lock")).unwrap();
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
        let socket = world.state().join("keeper.sock");
        fs::remove_file(&socket).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let hearing = Arc::clone(&heard);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                converse(stream.unwrap(), &hello(), &hearing);
            }
        });
        Self { heard, socket, _lock: lock }
    }

    fn heard(&self, request: &str) -> usize {
        let start = format!("{{\"request\":\"{request}\"");
        self.heard.lock().unwrap().iter().filter(|line| line.starts_with(&start)).count()
    }

    /// All that was said to it, but greetings and questions.
    fn asked(&self) -> Vec<String> {
        let harmless = ["hello", "ping", "list"].map(|request| format!("{{\"request\":\"{request}\""));
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|line| !harmless.iter().any(|start| line.starts_with(start))).cloned().collect()
    }
}

fn converse(mut stream: UnixStream, hello: &Message, heard: &Mutex<Vec<String>>) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        let answer = match serde_json::from_str(&line).unwrap() {
            Request::Hello { .. } => Some(encode(hello)),
            Request::Ping { id } => Some(encode(&Message::Pong { id })),
            // Among words that only the future knows.
            Request::List => Some(
                [b"{\"message\":\"weather\"}\n", &encode(&Message::Cells { cells: vec![] })[..]].concat(),
            ),
            _ => None,
        };
        heard.lock().unwrap().push(line);
        if answer.is_some_and(|answer| stream.write_all(&answer).is_err()) {
            return;
        }
    }
}

fn hello(protocol: u32, version: &str) -> Message {
    let keeper = Here::read().unwrap().own_identity().unwrap();
    Message::Hello {
        protocol,
        version: version.into(),
        keeper,
        holders: None,
        sockets: None,
        notify: true,
        secrets: true,
    }
}

/// One service that runs, one whose command was edited, one that is new, one that is to be stopped.
fn world_with_work() -> (World, Vec<i32>) {
    let world = World::new();
    let names = ["web", "edited", "removed"];
    for name in names {
        world.service(name, "exec sleep 98765", "");
    }
    world.once().expect_code(0);
    let pids = names.map(|name| world.pid(name).unwrap()).to_vec();
    world.service("edited", "exec sleep 98766", "");
    world.service("new", "exec sleep 98765", "");
    world.remove("removed.toml");
    (world, pids)
}

#[test]
fn beside_a_keeper_of_a_version_that_is_not_understood_nothing_is_touched() {
    let too_old = || hello(OLDEST_PROTOCOL - 1, "0.0.1");
    let too_new = || Message::Refused {
        nonce: None,
        detail: "protocol 1 is too old for it: version 9.9.9 speaks 8 to 9".into(),
    };
    type Says = fn() -> Message;
    let cases: [(Says, [&str; 2]); 2] =
        [(too_old, ["version 0.0.1", "kill -KILL"]), (too_new, ["version 9.9.9", "too old"])];
    for (says, named) in cases {
        let (world, pids) = world_with_work();
        let keeper = FakeKeeper::replace(&world, says);
        for arguments in [&["--once", "--timeout", "3s"][..], &["down"]] {
            let run = world.run(arguments);
            assert_ne!(run.code, 0, "{arguments:?}\n{}\n{}", run.stdout, run.stderr);
            for name in named {
                assert!(run.stderr.contains(name), "{arguments:?}: {name} is not in\n{}", run.stderr);
            }
            assert_eq!(keeper.asked(), [""; 0], "{arguments:?}");
            assert!(pids.iter().all(|&pid| support::is_alive(pid)), "{arguments:?}\n{}", world.describe());
            assert_eq!(world.keeper(), None, "a second keeper");
            assert_eq!((world.pid("edited"), world.pid("new")), (Some(pids[1]), None), "{arguments:?}");
        }
        assert!(keeper.heard("hello") > 0);
        // No step was begun that would be carried out later.
        let ledger = decode_journal(&fs::read(world.state().join("ledger.journal")).unwrap());
        assert!(!ledger.records.iter().any(|record| matches!(record, Record::Stopping { .. })));
        drop(keeper);
        world.remove("edited.toml");
        world.once().expect_code(0);
        assert_eq!(world.pid("web"), Some(pids[0]), "{}", world.describe());
        world.run(&["down"]).expect_code(0);
    }
}

#[test]
fn a_keeper_that_is_newer_and_understood_is_used_as_it_is() {
    let world = World::new();
    world.service("web", "exec sleep 98765", "");
    world.once().expect_code(0);
    let pid = world.pid("web").unwrap();
    let keeper = FakeKeeper::replace(&world, || hello(PROTOCOL, "9.9.9"));
    world.once().expect_code(0);
    assert_eq!((keeper.heard("attach"), keeper.heard("upgrade"), keeper.asked().len()), (1, 0, 1));
    assert!(support::is_alive(pid));
}

#[test]
fn an_older_keeper_that_stays_as_it_is_is_used_and_that_is_said_once() {
    let mut world = World::new();
    world.service("web", "exec sleep 98765", "");
    world.once().expect_code(0);
    // It never answers: as long as it pongs, it is alive.
    let keeper = FakeKeeper::replace(&world, || hello(PROTOCOL, "0.0.1"));
    world.watch();
    world.until("it was asked to change", |_| keeper.heard("upgrade") == 1);
    world.remove("web.toml");
    world.until("it is asked to stop the service", |_| keeper.heard("signal") == 1);
    assert_eq!(world.keeper(), None, "a second keeper");
    let log = support::read(&world.path("watcher.log"));
    assert_eq!(log.matches("goes on as version 0.0.1").count(), 1, "{log}");
}

#[test]
fn one_convergence_of_a_newer_program_is_enough_to_upgrade() {
    let mut world = World::new();
    world.service("web", "exec sleep 98765", "");
    let mut programs = Programs::new(&world);
    programs.install_newer(&mut world);
    world.once().expect_code(0);
    let keeper = world.keeper().unwrap();
    let pid = world.pid("web").unwrap();
    let newer = programs.install_newer(&mut world);
    let run = world.once().expect_code(0);
    assert_eq!(fs::metadata(format!("/proc/{keeper}/exe")).unwrap().ino(), newer, "{}", run.stderr);
    assert_eq!(world.pid("web"), Some(pid));
    // And with nothing to be changed, a pass changes nothing.
    let files = || fs::read(world.state().join("ledger.journal")).unwrap();
    let before = files();
    world.once().expect_code(0);
    assert_eq!(files(), before);
    world.run(&["down"]).expect_code(0);
}

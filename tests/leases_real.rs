//! Leases with the real binary: `run --with`, `lease`, with a watcher and without one, and who dies in between.
//!
//! Ancestor D: runs share services and hold them; the last release stops an ephemeral one; a run that dies holds nothing.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::{As, World, cannot_run_as, is_alive, is_missing};

const EPHEMERAL: &str = "lifecycle = \"ephemeral\"";

/// A command that says that it runs, and ends when it may: `NAME.runs` and `NAME.go` in the project directory.
fn waits(name: &str, code: i32) -> String {
    format!("touch {name}.runs; while ! test -e {name}.go; do sleep 0.02; done; exit {code}")
}

fn begin(world: &World, with: &str, script: &str) -> Child {
    let mut command = world.command();
    command.args(["run", "--with", with, "--", "sh", "-c", script]).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn until_runs(world: &World, name: &str) {
    world.until(&format!("{name} runs"), |world| world.project().join(format!("{name}.runs")).exists());
}

fn let_go(world: &World, name: &str) {
    std::fs::write(world.project().join(format!("{name}.go")), "").unwrap();
}

/// Bounded, unlike `wait`.
fn end_of(world: &World, child: Child) -> ExitStatus {
    let cell = std::cell::RefCell::new((child, None));
    world.until("the command has ended", |_| {
        let (child, status) = &mut *cell.borrow_mut();
        *status = child.try_wait().unwrap();
        status.is_some()
    });
    cell.into_inner().1.unwrap()
}

fn reason(world: &World, name: &str) -> String {
    let status = world.service_status(name).unwrap_or(Value::Null);
    status["reason"].as_str().unwrap_or_default().to_owned()
}

fn sleeps(world: &World) -> bool {
    reason(world, "db") == "on-demand"
}

fn holders(world: &World) -> Vec<Value> {
    let list = world.run(&["lease", "list", "-o", "json"]).expect_code(0).json();
    assert_eq!(list["version"], 1);
    list["leases"].as_array().unwrap().clone()
}

/// The pid of the command that holds.
fn holder(world: &World) -> i32 {
    match holders(world).as_slice() {
        [one] => one["pid"].as_i64().unwrap() as i32,
        other => panic!("one holder, not {other:?}"),
    }
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

fn world_with_db(who: As, watched: bool) -> World {
    let mut world = World::run_as(who);
    world.service("db", "exec sleep 1000", EPHEMERAL);
    if watched {
        world.watch();
        world.until("db sleeps", sleeps);
    }
    world
}

fn two_at_once_share_one_which_stops_after_the_last(who: As, watched: bool) {
    if cannot_run_as(who) {
        return;
    }
    let world = world_with_db(who, watched);
    let (one, other) = (begin(&world, "db", &waits("one", 0)), begin(&world, "db", &waits("other", 4)));
    until_runs(&world, "one");
    until_runs(&world, "other");
    let db = world.pid("db").unwrap();
    assert_eq!(holders(&world).len(), 2);
    let_go(&world, "one");
    assert_eq!(end_of(&world, one).code(), Some(0));
    assert!(is_alive(db) && world.pid("db") == Some(db), "{}", world.describe());
    assert_eq!(holders(&world).len(), 1);
    let_go(&world, "other");
    assert_eq!(end_of(&world, other).code(), Some(4));
    assert!(!is_alive(db), "it is gone when the last has returned");
    assert_eq!(world.service_status("db").unwrap()["restarts"], 0);
    assert!(sleeps(&world));
    assert_eq!(holders(&world), [] as [Value; 0]);
}

#[test]
fn two_runs_without_a_watcher_share_one_which_stops_after_the_last() {
    two_at_once_share_one_which_stops_after_the_last(As::Caller, false);
}

#[test]
fn two_runs_share_one_which_stops_after_the_last() {
    two_at_once_share_one_which_stops_after_the_last(As::Caller, true);
}

#[test]
fn two_runs_of_nobody_share_one_which_stops_after_the_last() {
    two_at_once_share_one_which_stops_after_the_last(As::Nobody, false);
}

#[test]
fn the_command_has_our_stdin_stdout_and_exit_code_and_is_told_where_services_are() {
    let world = World::new();
    world.service(
        "data-base",
        "exec sleep 1000",
        "lifecycle = \"ephemeral\"\nports.own = \"auto\"\nurl = \"pg://127.0.0.1:{{ports.own}}/x\"",
    );
    let script = "read line; echo \"$line $RECONCILE_DATA_BASE_URL pg://127.0.0.1:$RECONCILE_DATA_BASE_PORT/x \
                  $RECONCILE_DATA_BASE_PORT_OWN\"; echo oops >&2; ls /proc/self/fd; exit 7";
    let mut command = world.command();
    command.args(["run", "--with", "data-base", "--", "sh", "-c", script]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "oops\n");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = stdout.lines().collect();
    let words: Vec<&str> = lines[0].split(' ').collect();
    assert_eq!((words[0], words[1]), ("hello", words[2]));
    assert!(words[3].parse::<u16>().is_ok(), "{words:?}");
    let mut plain = std::process::Command::new("ls");
    let plain = plain.arg("/proc/self/fd").stdin(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(lines[1..].join("\n"), String::from_utf8_lossy(&plain.stdout).trim(), "no descriptor of ours");
}

#[test]
fn a_command_that_a_signal_ends_is_told_as_the_shells_do_and_one_that_is_not_there_starts_nothing() {
    let world = world_with_db(As::Caller, false);
    world.run(&["run", "--with", "db", "--", "sh", "-c", "kill -9 $$"]).expect_code(137);
    let missing = world.run(&["run", "--with", "db", "--", "no-such-command"]).expect_code(127);
    assert!(missing.stderr.contains("no-such-command"), "{missing:?}");
    let unfit = world.run(&["run", "--with", "db", "--", "/etc/passwd"]).expect_code(126);
    assert!(unfit.stderr.contains("/etc/passwd"), "{unfit:?}");
    assert!(sleeps(&world));
    world.run(&["run", "--with", "nobody", "--", "true"]).expect_code(1);
    world.run(&["run", "--with", "db"]).expect_code(64);
}

#[test]
fn signals_are_handed_on_and_the_command_decides() {
    let world = world_with_db(As::Caller, false);
    for (signal, name) in [(Signal::SIGTERM, "TERM"), (Signal::SIGINT, "INT"), (Signal::SIGUSR1, "USR1")] {
        let script = format!("trap 'echo {name}; exit 3' {name}; {}", waits(name, 0));
        let mut command = world.command();
        command.args(["run", "--with", "db", "--", "sh", "-c", &script]).stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        until_runs(&world, name);
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{name}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), name);
        assert!(sleeps(&world));
    }
}

/// Types Ctrl-C at the terminal of `reconcile run`, and then a line.
const AT_A_TERMINAL: &str = r#"
import os, pty, sys
pid, tty = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
heard = b""
def until(what):
    global heard
    while what not in heard:
        heard += os.read(tty, 1024)
until(b"begun")
os.write(tty, b"\x03")
until(b"INT 1")
os.write(tty, b"go on\n")
until(b"total")
print(heard.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

#[test]
fn ctrl_c_reaches_the_command_once_and_the_terminal_is_its_own() {
    if is_missing("python3") {
        return;
    }
    let world = world_with_db(As::Caller, false);
    let script = "n=0; trap 'n=$((n+1)); echo INT $n' INT; test -t 0 && test -t 1 && echo begun; \
                  while [ $n = 0 ]; do sleep 0.02; done; read line; echo \"total $n $line\"; exit 9";
    let inner = world.command();
    let mut command = world.command();
    command.args(["run", "--with", "db", "--", "python3", "-c", AT_A_TERMINAL]);
    // Not under `run`: at a terminal of its own.
    let mut python = std::process::Command::new("python3");
    python.args(["-c", AT_A_TERMINAL]).arg(inner.get_program());
    python.args(["run", "--with", "db", "--", "sh", "-c", script]).env_clear().current_dir(world.project());
    python.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let run = world.finish(python);
    assert_eq!(run.code, 9, "{run:?}");
    assert!(run.stdout.contains("total 1 go on"), "{run:?}");
    assert!(sleeps(&world));
}

#[test]
fn the_lease_is_the_commands_and_outlives_whoever_waits_with_it() {
    for watched in [true, false] {
        let world = world_with_db(As::Caller, watched);
        let mut run = begin(&world, "db", &waits("tests", 0));
        until_runs(&world, "tests");
        let (db, command) = (world.pid("db").unwrap(), holder(&world));
        run.kill().unwrap();
        run.wait().unwrap();
        assert!(is_alive(command) && is_alive(db));
        // A pass in between changes nothing.
        world.run(&["--once"]).expect_code(0);
        assert!(is_alive(db));
        kill(Pid::from_raw(command), Signal::SIGKILL).unwrap();
        if watched {
            world.until("it is let go of", sleeps);
        } else {
            world.run(&["--once"]).expect_code(0);
        }
        assert!(!is_alive(db) && sleeps(&world), "{}", world.describe());
    }
}

#[test]
fn a_watcher_that_dies_in_between_loses_no_lease() {
    let mut world = world_with_db(As::Caller, true);
    let run = begin(&world, "db", &waits("one", 0));
    until_runs(&world, "one");
    let db = world.pid("db").unwrap();
    world.kill_watcher();
    assert_eq!(holders(&world).len(), 1);
    world.watch();
    assert_eq!((world.pid("db"), holders(&world).len()), (Some(db), 1));
    world.kill_watcher();
    let_go(&world, "one");
    assert_eq!(end_of(&world, run).code(), Some(0));
    assert!(!is_alive(db), "without a watcher, run stops it itself");

    let mut run = begin(&world, "db", &waits("two", 0));
    until_runs(&world, "two");
    let command = holder(&world);
    run.kill().unwrap();
    run.wait().unwrap();
    kill(Pid::from_raw(command), Signal::SIGKILL).unwrap();
    world.watch();
    world.until("the next watcher finds its holder dead", sleeps);
}

#[test]
fn interrupted_while_it_waits_it_lets_go_and_runs_nothing() {
    for watched in [true, false] {
        let mut world = World::new();
        world.service("db", "exec sleep 1000", &format!("{EPHEMERAL}\nhealth = {{ command = [\"false\"] }}"));
        if watched {
            world.watch();
        }
        let run = begin(&world, "db", "touch ran");
        world.until("db starts", |world| world.pid("db").is_some());
        send(&run, Signal::SIGINT);
        assert_eq!(end_of(&world, run).code(), Some(130));
        assert!(sleeps(&world), "{}", world.describe());
        assert!(!world.project().join("ran").exists());
        assert_eq!(holders(&world), [] as [Value; 0]);
    }
}

#[test]
fn what_does_not_all_come_up_is_all_let_go_of() {
    for watched in [true, false] {
        let mut world = World::new();
        world.service("db", "exec sleep 1000", EPHEMERAL);
        world.service("bad", "echo no room; exit 1", EPHEMERAL);
        if watched {
            world.watch();
        }
        let run = world.run(&["run", "--with", "db,bad", "--", "touch", "ran"]).expect_code(5);
        assert!(run.stderr.contains("no room") && run.stdout.is_empty(), "{run:?}");
        assert!(sleeps(&world), "{}", world.describe());
        assert!(!world.project().join("ran").exists());
        assert_eq!(holders(&world), [] as [Value; 0]);
    }
}

#[test]
fn an_owner_holds_for_a_time() {
    let mut world = world_with_db(As::Caller, false);
    world.run(&["lease", "acquire", "db", "--owner", "ci 1"]).expect_code(1);
    let acquired = world.run(&["lease", "acquire", "db", "--owner", "ci-1", "--for", "1h"]).expect_code(0);
    assert!(acquired.stdout.contains("running"), "{acquired:?}");
    let [lease] = &holders(&world)[..] else { panic!("one lease") };
    assert_eq!(
        (&lease["id"], &lease["services"][0], &lease["pid"]),
        (&"ci-1".into(), &"db".into(), &Value::Null)
    );
    assert!(lease["expires_at"].is_string() && lease["since"].is_string());
    let status = world.service_status("db").unwrap();
    assert_eq!(status["leases"][0]["holder"], "ci-1");
    let detail = world.run(&["status", "db"]).expect_code(0);
    assert!(detail.stdout.contains("leased by"), "{detail:?}");
    world.run(&["--once"]).expect_code(0);
    let db = world.pid("db").unwrap();

    let before = lease["expires_at"].as_str().unwrap().to_owned();
    let renewed =
        world.run(&["lease", "renew", "--owner", "ci-1", "--for", "2h", "-o", "json"]).expect_code(0);
    let until = renewed.json()["services"][0]["leases"][0]["expires_at"].as_str().unwrap().to_owned();
    assert!(until > before, "{until} {before}");
    let released = world.run(&["lease", "release", "--owner", "ci-1"]).expect_code(0);
    assert!(released.stdout.contains("db"), "{released:?}");
    assert!(!is_alive(db) && sleeps(&world));
    world.run(&["lease", "release", "--owner", "ci-1"]).expect_code(0);
    world.run(&["lease", "renew", "--owner", "ci-1"]).expect_code(1);

    world.run(&["lease", "acquire", "db", "--owner", "ci-2", "--for", "1s"]).expect_code(0);
    world.watch();
    world.until("it runs out", sleeps);
    assert_eq!(world.run(&["lease", "list"]).expect_code(0).stdout, "nothing is leased\n");
}

#[test]
fn a_lease_that_ran_out_unwatched_is_over_in_the_next_pass() {
    let world = world_with_db(As::Caller, false);
    world.run(&["lease", "acquire", "db", "--owner", "ci-1", "--for", "1s"]).expect_code(0);
    let db = world.pid("db").unwrap();
    world.until("it has run out", |world| holders(world).is_empty());
    assert!(is_alive(db), "nobody was there");
    let once = world.run(&["--once", "-o", "json"]).expect_code(0);
    assert!(!is_alive(db));
    let step = once.json()["steps"][0].clone();
    assert_eq!(
        (&step["service"], &step["action"], &step["reason"]),
        (&"db".into(), &"stop".into(), &"released".into())
    );
    assert_eq!(step["evidence"]["reason"]["how"], "expired");
}

#[test]
fn a_service_that_is_removed_goes_although_it_is_leased() {
    let mut world = world_with_db(As::Caller, true);
    world.service("other", "exec sleep 1000", "");
    world.until_phase("other", "running");
    let run = begin(&world, "db", &waits("one", 0));
    until_runs(&world, "one");
    let db = world.pid("db").unwrap();
    world.remove("db.toml");
    world.until("it is gone", |world| world.service_status("db").is_none());
    assert!(!is_alive(db));
    let told = support::read(&world.path("watcher.log"));
    assert!(told.contains("has leased it"), "{told}");
    let_go(&world, "one");
    assert_eq!(end_of(&world, run).code(), Some(0));
    assert!(world.watcher().try_wait().unwrap().is_none());
}

#[test]
fn a_second_pass_beside_a_lease_writes_nothing() {
    let world = world_with_db(As::Caller, false);
    world.run(&["lease", "acquire", "db", "--owner", "ci-1"]).expect_code(0);
    world.run(&["--once"]).expect_code(0);
    let ledger = |world: &World| -> Vec<(std::path::PathBuf, u64)> {
        let files = std::fs::read_dir(world.state()).unwrap().map(|entry| entry.unwrap().path());
        let is_ledger =
            |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("ledger"));
        let mut sizes: Vec<_> = files
            .filter(|path| is_ledger(path))
            .map(|path| (path.clone(), path.metadata().unwrap().len()))
            .collect();
        sizes.sort();
        sizes
    };
    let before = ledger(&world);
    assert!(!before.is_empty());
    let once = world.run(&["--once", "-o", "json"]).expect_code(0);
    assert_eq!(once.json()["changes"], false, "{once:?}");
    assert_eq!(ledger(&world), before);
}

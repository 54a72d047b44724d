//! reconcile as the first process of a pid namespace, as the entry point of a container is.
//!
//! Each test has a namespace of its own, made by unshare(1), which ends with its first process.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::namespace::{self, first_process};
use support::{As, World, cannot_run_as};

const FOREVER: &str = "exec sleep 1000";

/// The binary as pid 1; `None`, with a message, where no namespace can be made.
fn entry_point(world: &World, arguments: &[&str]) -> Option<Child> {
    let mut command = namespace::pid(world)?;
    let log = std::fs::File::options().create(true).append(true).open(world.path("watcher.log")).unwrap();
    Some(command.args(arguments).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
}

fn watched(world: &World) -> Option<(Child, i32)> {
    let child = entry_point(world, &["up", "--quiet"])?;
    world.until("the watcher answers", |world| world.status().is_some_and(|it| it["watching"] == true));
    let pid = first_process(&child);
    Some((child, pid))
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn said(world: &World) -> String {
    support::read(&world.path("watcher.log"))
}

#[test]
fn every_signal_that_ends_it_stops_everything_first_and_a_hangup_rereads_the_configuration() {
    for ending in [Signal::SIGTERM, Signal::SIGINT] {
        let world = World::new();
        world.service("web", "trap 'echo bye; exit 0' TERM; while :; do sleep 0.02; done", "");
        let Some((mut child, first)) = watched(&world) else { return };
        world.until_phase("web", "running");
        signal(first, Signal::SIGHUP);
        world.until("it was read again", |world| said(world).contains("configuration was read again"));
        signal(first, ending);
        assert!(child.wait().unwrap().success(), "{ending}\n{}", said(&world));
        let log = support::read(&world.state().join("logs/default.web.log"));
        assert!(log.contains("bye"), "it was stopped, not killed with the namespace: {log}");
    }
}

#[test]
fn orphans_that_are_nobodys_service_are_reaped() {
    for who in [As::Caller, As::Nobody] {
        if cannot_run_as(who) {
            continue;
        }
        let world = World::run_as(who);
        world.service("web", FOREVER, "");
        let Some((mut child, first)) = watched(&world) else { return };
        world.until_phase("web", "running");
        // As `docker exec` does: children of a process that is no descendant of ours.
        let script = "i=0; while [ $i -lt 20 ]; do (setsid sleep 0.01 &); i=$((i+1)); done";
        let mut visitor = Command::new("nsenter");
        visitor.args(["-t", &first.to_string(), "-p", "-m", "sh", "-c", script]);
        assert!(visitor.stdin(Stdio::null()).status().unwrap().success());
        world.until("no orphan is left, dead or alive", |_| children(first).len() == 1);
        assert_eq!(world.phase("web"), "running", "{who:?}");
        signal(first, Signal::SIGTERM);
        assert!(child.wait().unwrap().success(), "{}", said(&world));
    }
}

#[test]
fn a_keeper_that_is_killed_is_replaced_and_its_orphans_are_adopted_and_reaped() {
    let world = World::run_as(As::Holders);
    world.service("web", FOREVER, "");
    world.service(
        "job",
        "while [ ! -e go ]; do sleep 0.02; done; exit 3",
        "restart = { policy = \"never\" }",
    );
    let Some((mut child, first)) = watched(&world) else { return };
    world.until_phase("web", "running");
    world.until_phase("job", "running");
    let pid = world.pid("web");
    let keeper = world.keeper().expect("a keeper is a child of pid 1");
    assert!(children(first).contains(&keeper));
    support::kill(keeper);
    world.until("another keeper serves", |world| world.keeper().is_some_and(|it| it != keeper));
    world.until_phase("web", "running");
    assert_eq!(world.pid("web"), pid);
    std::fs::write(world.project().join("go"), "").unwrap();
    world.until("the end of the job is known", |world| {
        world.service_status("job").is_some_and(|job| job["last_exit"]["code"] == 3)
    });
    world.until("nothing is left dead", |_| children(first).iter().all(|pid| support::is_alive(*pid)));
    signal(first, Signal::SIGTERM);
    assert!(child.wait().unwrap().success(), "{}", said(&world));
}

#[test]
fn once_says_that_services_end_with_it_as_they_do() {
    let world = World::new();
    world.service("web", FOREVER, "");
    let Some(mut command) = namespace::pid(&world) else { return };
    command.arg("--once");
    let run = world.finish(command).expect_code(0);
    assert!(run.stderr.contains("web ends with this process"), "{run:?}");
    assert!(run.stderr.contains("reconcile up"), "what to do: {run:?}");
    assert_eq!(world.processes().len(), 0, "{}", world.describe());
}

#[test]
fn once_ends_by_a_signal_as_anywhere_else() {
    let world = World::new();
    // It never becomes ready: `--once` waits.
    world.service("web", FOREVER, "health = { command = [\"false\"] }");
    let Some(mut child) = entry_point(&world, &["--once"]) else { return };
    let keeper = |world: &World| world.keeper().is_some();
    world.until("it is under way", keeper);
    signal(first_process(&child), Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15), "{}", said(&world));
    world.until("all is gone", |world| !keeper(world));
}

#[test]
fn what_ran_in_a_container_that_ended_is_started_anew_in_the_next_and_is_no_failure() {
    for who in [As::Caller, As::Holders, As::Nobody] {
        if cannot_run_as(who) {
            continue;
        }
        let world = World::run_as(who);
        world.service("web", FOREVER, "");
        world.service("job", "exit 0", "");
        let mut others = Vec::new();
        for round in 0..3 {
            // Somebody has to have the number of the namespace before, or it is given to the next, as in round 1.
            if round != 1 {
                others.extend(Somebody::new(&world));
            }
            let Some((mut child, first)) = watched(&world) else { return };
            world.until_phase("web", "running");
            world.until_phase("job", "completed");
            let web = world.service_status("web").unwrap();
            assert_eq!((&web["failures"], &web["restarts"]), (&0.into(), &round.into()), "{who:?}: {web}");
            // As `docker kill`: nobody stops anything.
            signal(first, Signal::SIGKILL);
            child.wait().unwrap();
            world.until("all is gone", |world| world.keeper().is_none());
            if round == 1 {
                // A container that ends before it has looked at anything forgets nothing of the one before.
                let mut glimpse = namespace::pid(&world).unwrap();
                glimpse.args(["stop", "nobody"]);
                world.finish(glimpse);
            }
        }
        // From outside nothing is guessed: these are no namespaces of ours, and all of them have ended.
        world.until("what was proved stays so", |world| {
            world.phase("web") != "held" && world.phase("job") == "completed"
        });
    }
}

#[test]
fn a_living_process_of_another_container_is_held_and_nothing_started_beside_it() {
    let world = World::run_as(As::Holders);
    world.service("web", FOREVER, "");
    // Not the first process of its namespace: what it has started outlives it.
    let options = ["-pf", "--mount-proc", "--kill-child", "sh", "-c", "\"$0\" --once; exec sleep 1000"];
    let Some(mut other) = namespace::inside(&world, &options) else { return };
    let mut child = other.stdout(Stdio::null()).spawn().unwrap();
    world
        .until("it runs", |world| support::read(&world.state().join("ledger.journal")).contains("\"ready\""));
    for _ in 0..2 {
        let mut next = namespace::pid(&world).unwrap();
        next.args(["--once", "--timeout", "5s"]);
        let run = world.finish(next).expect_code(1);
        assert!(run.stdout.contains("pid namespace"), "{run:?}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A pid namespace of its own that lives on.
struct Somebody(Child);

impl Somebody {
    fn new(world: &World) -> Option<Self> {
        namespace::pid(world)?;
        let mut sleep = Command::new("unshare");
        let child =
            sleep.args(["-pf", "--kill-child", "sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap();
        first_process(&child);
        Some(Self(child))
    }
}

impl Drop for Somebody {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Children of a process, dead ones included.
fn children(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let lists = tasks.map(|task| support::read(&task.path().join("children")));
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

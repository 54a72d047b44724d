//! What a process inherits: pipes, descriptors, locks, a terminal, an environment.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::support::{World, is_alive, is_missing, read};

const FOREVER: &str = "exec sleep 1000";

/// A shell with the world's environment; `$RECONCILE` is the binary.
fn bash(world: &World, script: &str) -> Command {
    let inner = world.command();
    let mut command = Command::new("bash");
    command.args(["-c", script]).env_clear().current_dir(world.project()).stdin(Stdio::null());
    command.env("RECONCILE", inner.get_program());
    for (name, value) in inner.get_envs() {
        command.env(name, value.expect("nothing is removed from an empty environment"));
    }
    command
}

/// Keeper, watcher and services, with whatever descends from them.
fn left_behind(world: &World) -> Vec<i32> {
    let left: Vec<i32> = world.processes().into_iter().collect();
    assert!(left.len() >= 2, "{}", world.describe());
    left
}

fn holds(pid: i32, file: &Path) -> bool {
    let wanted = file.metadata().unwrap();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|fd| fd.path().metadata().ok())
        .any(|open| open.ino() == wanted.ino() && open.dev() == wanted.dev())
}

#[test]
fn a_pipeline_ends_when_once_does() {
    let world = World::new();
    world.service("web", FOREVER, "");
    for arguments in ["--once", "up -d"] {
        let run =
            world.finish(bash(&world, &format!("\"$RECONCILE\" {arguments} 2>&1 | cat"))).expect_code(0);
        assert!(run.stdout.contains("web"), "{run:?}");
        assert!(world.pid("web").is_some_and(is_alive), "{}", world.describe());
    }
}

#[test]
fn nothing_that_is_left_behind_holds_what_the_caller_had_open() {
    let world = World::new();
    world.service("web", FOREVER, "health = { command = [\"true\"] }");
    let file = world.path("open");
    std::fs::write(&file, "").unwrap();
    let open = "for fd in {3..20}; do eval \"exec $fd<>$FILE\"; done";
    for arguments in ["--once", "up -d"] {
        let mut command = bash(&world, &format!("{open}; exec \"$RECONCILE\" {arguments}"));
        command.env("FILE", &file);
        world.finish(command).expect_code(0);
        for pid in left_behind(&world) {
            assert!(!holds(pid, &file), "{pid} after {arguments}\n{}", world.describe());
        }
    }
}

#[test]
fn a_lock_around_once_is_free_when_it_returns() {
    if is_missing("flock") {
        return;
    }
    let world = World::new();
    world.service("web", FOREVER, "");
    let locked = "flock lock \"$RECONCILE\" --once";
    world.finish(bash(&world, locked)).expect_code(0);
    world.finish(bash(&world, "flock -n lock true")).expect_code(0);
    assert!(world.pid("web").is_some_and(is_alive), "{}", world.describe());
    let report = world.finish(bash(&world, &format!("{locked} -o json"))).expect_code(0).json();
    assert_eq!(report["changes"], false, "{report}");
}

#[test]
fn a_terminal_that_goes_away_takes_nothing_along() {
    if is_missing("script") {
        return;
    }
    let world = World::new();
    world.service("web", "trap 'exit 1' HUP; while :; do sleep 0.05; done", "");
    for arguments in ["--once", "up -d"] {
        let mut terminal = bash(&world, &format!("script -qec '\"$RECONCILE\" {arguments}' /dev/null"));
        terminal.env("TERM", "xterm");
        let run = world.finish(terminal).expect_code(0);
        assert!(run.stdout.contains("web"), "{run:?}");
        for pid in left_behind(&world) {
            let stat = read(Path::new(&format!("/proc/{pid}/stat")));
            let terminal = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(4));
            assert!(matches!(terminal, Some("0") | None), "{pid} has a terminal: {stat}");
        }
        let status = world.service_status("web").unwrap();
        assert_eq!((&status["phase"], &status["restarts"]), (&"running".into(), &0.into()), "{status}");
    }
}

#[test]
fn a_start_from_cron_is_the_start_from_a_terminal() {
    let world = World::new();
    world.service("web", FOREVER, "");
    let once = |command: &mut Command| {
        command
            .args(["--once", "-o", "json", "--manifests"])
            .arg(world.manifests())
            .arg("--state-dir")
            .arg(world.state())
            .arg("--config")
            .arg(world.path("reconcile.toml"));
    };
    let mut cron = Command::new(env!("CARGO_BIN_EXE_reconcile"));
    cron.env_clear().current_dir("/").stdin(Stdio::null());
    once(&mut cron);
    let first = world.finish(cron).expect_code(0).json();
    assert_eq!(first["changes"], true, "{first}");
    let mut terminal = world.command();
    terminal.env("TERM", "xterm").env("LC_ALL", "C.UTF-8").env("SSH_CONNECTION", "127.0.0.1 1 127.0.0.1 22");
    once(&mut terminal);
    let second = world.finish(terminal).expect_code(0).json();
    assert_eq!(second["changes"], false, "{second}");
}

/// They look for what a job has left by a variable that they gave it, and end that.
#[test]
fn ci_runners_find_nothing_to_tidy_up_by_their_marks() {
    let world = World::new();
    world.service("web", FOREVER, "");
    for arguments in ["--once", "up -d"] {
        let mut step = world.command();
        step.args(arguments.split(' '));
        for mark in ["RUNNER_TRACKING_ID", "JENKINS_NODE_COOKIE", "JENKINS_SERVER_COOKIE"] {
            step.env(mark, "mark-of-a-runner");
        }
        world.finish(step).expect_code(0);
        for pid in left_behind(&world) {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let environ = String::from_utf8_lossy(&environ);
            assert!(!environ.contains("mark-of-a-runner"), "{pid} after {arguments}: {environ}");
        }
    }
}

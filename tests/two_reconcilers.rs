//! Several reconcilers on one state directory, started at the same moment, again and again: one works, the others say who
//! does, and no service is ever there twice.

#![expect(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

#[allow(dead_code, reason = "the chaos soak uses the rest")]
#[path = "../examples/chaos/register.rs"]
mod register;
mod support;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use register::Register;
use support::{Run, World};

/// Reconcilers of a round.
const AT_ONCE: usize = 4;
const ROUNDS: usize = 50;
/// Of a round; met only by a failing test.
const PATIENCE: Duration = Duration::from_secs(60);

const NAMES: [&str; 2] = ["api", "web"];

struct Started {
    child: Child,
    watches: bool,
}

fn start(world: &World, arguments: &[&str]) -> Started {
    let mut command: Command = world.command();
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    Started { child: command.spawn().unwrap(), watches: arguments.contains(&"up") }
}

fn finish(started: Started) -> Run {
    let output = started.child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits for all but the watcher that won, if one did; that one is told to leave.
fn outcomes(mut started: Vec<Started>) -> Vec<(u32, bool, Run)> {
    let mut ended = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !started.is_empty() {
        let (done, running): (Vec<_>, Vec<_>) = started.into_iter().partition(|one| {
            let pid = nix::unistd::Pid::from_raw(one.child.id() as i32);
            let look = nix::sys::wait::WaitPidFlag::WEXITED
                | nix::sys::wait::WaitPidFlag::WNOHANG
                | nix::sys::wait::WaitPidFlag::WNOWAIT;
            let state = nix::sys::wait::waitid(nix::sys::wait::Id::Pid(pid), look).unwrap();
            state != nix::sys::wait::WaitStatus::StillAlive
        });
        ended.extend(done.into_iter().map(|one| (one.child.id(), one.watches, finish(one))));
        started = running;
        if let [last] = &started[..]
            && last.watches
            && ended.len() == AT_ONCE - 1
        {
            let mut last = started.pop().expect("it is the last one");
            let pid = last.child.id();
            last.child.kill().unwrap();
            ended.push((pid, true, Run { code: 0, ..finish(last) }));
        }
        assert!(Instant::now() < deadline, "{} are still there, and one at most watches", started.len());
        std::thread::sleep(Duration::from_millis(1));
    }
    ended
}

#[test]
fn of_reconcilers_that_start_together_one_works_and_the_others_say_who() {
    let world = World::new();
    let register_dir = world.path("register");
    fs::create_dir(&register_dir).unwrap();
    let worker = fs::canonicalize("examples/chaos/worker.pl").unwrap();
    for name in NAMES {
        let command = ["perl", worker.to_str().unwrap(), register_dir.to_str().unwrap(), name, "1", "steady"];
        world.manifest(
            &format!("{name}.toml"),
            &format!("[service.{name}]\ncommand = {command:?}\nstart_settle = \"10ms\"\n"),
        );
    }
    let register = Register::new(&register_dir);
    let (mut refused, mut worked) = (0, 0);
    for round in 0..ROUNDS {
        let kinds: [&[&str]; AT_ONCE] =
            [&["--once"], &["up", "--quiet", "--leave"], &["--once"], &["up", "--quiet", "--leave"]];
        // Another one is first each time.
        let started = (0..AT_ONCE).map(|n| start(&world, kinds[(n + round) % AT_ONCE])).collect();
        let ended = outcomes(started);
        let pids: Vec<u32> = ended.iter().map(|(pid, ..)| *pid).collect();
        for (pid, watches, run) in &ended {
            match run.code {
                0 => worked += 1,
                6 => {
                    refused += 1;
                    let holder = pids
                        .iter()
                        .any(|other| other != pid && run.stderr.contains(&format!("state: pid {other} (")));
                    assert!(holder && run.stderr.contains("reconcile"), "round {round}: {}", run.stderr);
                }
                other => panic!("round {round}: {other}, watches: {watches}: {run:?}"),
            }
        }
        assert!(ended.iter().any(|(_, _, run)| run.code == 0), "round {round}: somebody works");
        // A watcher that won and was killed may have died before it asked for a single start.
        world.run(&["--once"]).expect_code(0);
        // Who was started last may not have said so yet.
        world.until("each service is there", |_| {
            let lives = register.read();
            lives.len() == NAMES.len() && lives.values().all(|life| !life.live_leaders().is_empty())
        });
        for (name, life) in register.read() {
            assert_eq!(life.beside, Vec::<String>::new(), "round {round}: {name} was there twice");
            assert_eq!(life.live_leaders().len(), 1, "round {round}: {name}\n{}", world.describe());
        }
        if round % 2 == 1 {
            // The next ones start them anew.
            world.run(&["down"]).expect_code(0);
            assert!(register.read().values().all(|life| life.alive().is_empty()), "round {round}");
        }
    }
    assert_eq!(worked + refused, AT_ONCE * ROUNDS);
    assert!(refused > 0 && worked >= ROUNDS, "{worked} worked, {refused} were refused");
}

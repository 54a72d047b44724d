//! Crashes, exits and overrides of real processes, and death of reconciler and keeper around them.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use support::{As, World, cannot_run_as, is_alive, kill};

const FOREVER: &str = "exec sleep 1000";
const QUICK: &str = "restart = { backoff = \"10ms\", backoff_max = \"20ms\" }";

#[test]
fn eight_failures_in_a_row_park_it_and_reset_revives_it() {
    let mut world = World::new();
    world.service("bad", "echo oh no; exit 3", QUICK);
    world.watch();
    world.until_phase("bad", "failed");
    let status = world.service_status("bad").unwrap();
    assert_eq!(status["failures"], 8, "{status}");
    assert_eq!(status["last_exit"]["code"], 3, "{status}");
    assert!(status["message"].as_str().unwrap().contains("reconcile reset"), "{status}");
    let start = world.run(&["start", "bad"]);
    assert_ne!(start.code, 0, "{start:?}");
    assert!(start.stderr.contains("reset"), "{start:?}");
    world.service("good", FOREVER, "");
    world.until_phase("good", "running");
    world.run(&["reset", "bad"]);
    world.until("it has failed eight times more", |world| {
        std::fs::read_to_string(world.state().join("logs/default.bad.log"))
            .unwrap_or_default()
            .lines()
            .count()
            >= 16
    });
}

#[test]
fn a_clean_exit_is_completed_and_not_restarted() {
    let mut world = World::new();
    world.service("job", "echo done", "");
    world.watch();
    world.until_phase("job", "completed");
    assert_eq!(world.service_status("job").unwrap()["last_exit"]["code"], 0);
    assert_eq!(world.service_status("job").unwrap()["restarts"], 0);
}

#[test]
fn ctrl_c_stops_everything_and_is_no_completion() {
    let mut world = World::new();
    world.service("web", "trap 'exit 0' INT TERM; while :; do sleep 0.05; done", "");
    let watcher = world.watch();
    world.until_phase("web", "running");
    let pid = world.pid("web").unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(watcher as i32), nix::sys::signal::Signal::SIGINT)
        .unwrap();
    let status = world.watcher().wait().unwrap();
    assert!(status.success(), "{status:?}\n{}", world.describe());
    assert!(!is_alive(pid));
    world.once().expect_code(0);
    assert_eq!(world.phase("web"), "running");
}

#[test]
fn death_of_the_reconciler_then_an_edit_restarts_one_of_twenty() {
    for with_keeper in [false, true] {
        for who in [As::Caller, As::Holders, As::Nobody] {
            if cannot_run_as(who) {
                continue;
            }
            twenty_services(who, with_keeper);
        }
    }
}

fn twenty_services(who: As, with_keeper: bool) {
    let mut world = World::run_as(who);
    let names: Vec<String> = (0..20).map(|n| format!("s{n}")).collect();
    for name in &names {
        world.service(name, FOREVER, "");
    }
    world.watch();
    let all_run = |world: &World| {
        let status = world.status().unwrap_or_default();
        let services = status["services"].as_array().cloned().unwrap_or_default();
        services.iter().filter(|service| service["phase"] == "running").count() == 20
    };
    world.until("all run", all_run);
    let before: Vec<_> = names.iter().map(|name| world.pid(name).unwrap()).collect();
    world.kill_watcher();
    if with_keeper {
        kill(world.keeper().expect("the keeper outlives the reconciler"));
    }
    world.service("s7", "exec sleep 1001", "");
    world.watch();
    world
        .until("s7 runs anew", |world| all_run(world) && world.pid("s7").is_some_and(|pid| pid != before[7]));
    for (name, pid) in names.iter().zip(&before).filter(|(name, _)| *name != "s7") {
        assert_eq!(
            world.pid(name),
            Some(*pid),
            "{name} ({who:?}, keeper killed: {with_keeper})\n{}",
            world.describe()
        );
    }
    let sleeps = world.processes_like("sleep 100").intersection(&world.processes()).count();
    assert!(sleeps == 20 || with_keeper, "{sleeps} processes ({who:?})\n{}", world.describe());
    assert!(!is_alive(before[7]));
}

#[test]
fn the_exit_code_of_one_that_ended_unwatched_is_known_even_of_the_last() {
    let world = World::new();
    world.service(
        "job",
        "while [ ! -e go ]; do sleep 0.02; done; exit 7",
        "restart = { policy = \"never\" }",
    );
    world.once().expect_code(0);
    let pid = world.pid("job").unwrap();
    std::fs::write(world.project().join("go"), "").unwrap();
    world.until("it has ended", |_| !is_alive(pid));
    world.until("the keeper has left", |world| world.keeper().is_none());
    world.once();
    let status = world.service_status("job").unwrap();
    assert_eq!(status["last_exit"]["code"], 7, "{status}");
}

#[test]
fn an_operator_stop_survives_edits_and_ends_with_start() {
    let world = World::new();
    world.service("web", FOREVER, "");
    world.once().expect_code(0);
    world.run(&["stop", "web"]).expect_code(0);
    assert_eq!(world.phase("web"), "stopped");
    world.service("web", "exec sleep 1001", "");
    world.once().expect_code(0);
    assert_eq!(world.phase("web"), "stopped");
    world.run(&["start", "web"]).expect_code(0);
    assert_eq!(world.phase("web"), "running");
}

#[test]
fn what_ignores_sigterm_is_killed_after_its_grace() {
    let world = World::new();
    world.service("deaf", "trap '' TERM; while :; do sleep 0.05; done", "stop = { grace = \"100ms\" }");
    world.once().expect_code(0);
    let pid = world.pid("deaf").unwrap();
    world.run(&["down"]).expect_code(0);
    assert!(!is_alive(pid));
    assert!(world.keeper().is_none() || !world.processes().is_empty());
}

#[test]
fn a_program_that_puts_itself_in_the_background_is_told_so() {
    let world = World::new();
    world.service("daemon", "setsid sleep 1000 & exit 0", QUICK);
    world.once();
    let status = world.service_status("daemon").unwrap();
    let text = status.to_string();
    assert!(text.contains("left-the-foreground") || text.contains("foreground"), "{status}");
}

#[test]
fn a_vanished_directory_stops_nothing() {
    let world = World::new();
    world.service("web", FOREVER, "");
    world.once().expect_code(0);
    let pid = world.pid("web");
    std::fs::rename(world.manifests(), world.path("elsewhere")).unwrap();
    let run = world.once();
    assert_ne!(run.code, 0, "{run:?}");
    assert!(is_alive(pid.unwrap()));
    std::fs::create_dir(world.manifests()).unwrap();
    world.once().expect_code(2);
    assert!(is_alive(pid.unwrap()), "an empty directory in its place");
    std::fs::remove_dir(world.manifests()).unwrap();
    std::fs::rename(world.path("elsewhere"), world.manifests()).unwrap();
    world.once().expect_code(0);
    assert_eq!(world.pid("web"), pid);
}

#[test]
fn a_keeper_that_hangs_holds_its_services_until_it_answers_again() {
    use nix::sys::signal::{Signal, kill};
    let mut world = World::new();
    world.service("web", FOREVER, "");
    world.watch();
    world.until_phase("web", "running");
    let pid = world.pid("web");
    let keeper = nix::unistd::Pid::from_raw(world.keeper().unwrap());
    kill(keeper, Signal::SIGSTOP).unwrap();
    // Whatever is asked of it now finds out. Each look at the status cuts a wait short.
    world.service("db", FOREVER, "");
    world.until_phase("web", "held");
    assert_eq!(world.service_status("web").unwrap()["reason"], "keeper-unresponsive");
    kill(keeper, Signal::SIGCONT).unwrap();
    world.until_phase("web", "running");
    world.until_phase("db", "running");
    assert_eq!(world.pid("web"), pid);
    assert_eq!(world.keeper(), Some(keeper.as_raw()));
}

//! Services that say themselves that they are ready, with the real binary.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::fs;

use support::World;

fn ready_by(world: &World, script: &str, more: &str) {
    world.service("web", script, &format!("[service.web.health]\n{more}\n"));
}

/// Goes on once there is a file `go` in the project directory.
const WHEN_TOLD: &str = "until [ -e go ]; do sleep 0.05; done";

fn tell(world: &World) {
    fs::write(world.project().join("go"), "").unwrap();
}

fn started(world: &World) -> bool {
    world.pid("web").is_some()
}

#[test]
fn a_service_is_ready_once_a_line_of_its_log_matches_and_a_second_pass_does_nothing() {
    let world = World::new();
    ready_by(
        &world,
        "echo starting; echo listening on port 80; exec sleep 1000",
        "log = '^listening on .* \\d+$'",
    );
    world.once().expect_code(0);
    assert_eq!(world.phase("web"), "ready");
    let (ledger, pid) = (fs::read(world.state().join("ledger.journal")).unwrap(), world.pid("web"));
    world.once().expect_code(0);
    assert_eq!(fs::read(world.state().join("ledger.journal")).unwrap(), ledger);
    assert_eq!(world.pid("web"), pid);
}

#[test]
fn a_line_of_the_run_before_does_not_count() {
    let mut world = World::new();
    ready_by(&world, &format!("{WHEN_TOLD}; rm go; echo ready; exec sleep 1000"), "log = 'ready'");
    world.watch();
    tell(&world);
    world.until_phase("web", "ready");
    let first = world.pid("web");
    // It answers once the service is ready again.
    let mut restart = world.command().args(["restart", "web"]).spawn().unwrap();
    world.until("it runs anew", |world| world.pid("web").is_some_and(|pid| Some(pid) != first));
    world.until("its log was searched", |world| {
        let status = world.service_status("web").unwrap();
        assert_ne!(status["phase"], "ready", "{status}");
        status["phase"] == "starting"
    });
    tell(&world);
    world.until_phase("web", "ready");
    assert!(restart.wait().unwrap().success());
}

#[test]
fn what_was_written_while_no_reconciler_lived_is_found_by_the_next() {
    let mut world = World::new();
    ready_by(&world, &format!("{WHEN_TOLD}; echo ready; echo more > said; exec sleep 1000"), "log = 'ready'");
    world.watch();
    world.until("it is started", started);
    let pid = world.pid("web");
    world.kill_watcher();
    tell(&world);
    world.until("it has said so", |world| world.project().join("said").exists());
    world.watch();
    world.until_phase("web", "ready");
    assert_eq!(world.pid("web"), pid);
}

#[test]
fn what_was_matched_survives_the_reconciler_though_the_log_is_gone() {
    let mut world = World::new();
    ready_by(&world, "echo ready; exec sleep 1000", "log = 'ready'\nstart_timeout = '1s'");
    world.watch();
    world.until_phase("web", "ready");
    let pid = world.pid("web");
    world.kill_watcher();
    fs::write(world.state().join("logs/default.web.log"), "").unwrap();
    world.once().expect_code(0);
    assert_eq!((world.phase("web").as_str(), world.pid("web")), ("ready", pid));
}

#[test]
fn a_line_that_comes_while_the_log_is_rotated_is_found() {
    let mut world = World::new();
    world.config(
        "[policy]\nexecutables = ['/bin/sh']\nallow_shell = true\n[logs]\nmax_size = '64KiB'\nkeep = 3\n",
    );
    let noise =
        "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo filler filler filler filler filler filler; done";
    ready_by(
        &world,
        &format!("{noise}; {WHEN_TOLD}; echo ready; {noise}; exec sleep 1000"),
        "log = '^ready$'",
    );
    world.watch();
    let archive = world.state().join("logs/default.web.log.1");
    world.until("its log was rotated", |_| archive.exists());
    tell(&world);
    world.until_phase("web", "ready");
}

#[test]
fn one_that_never_says_so_is_told_with_what_it_was_to_say() {
    let mut world = World::new();
    ready_by(
        &world,
        "echo almost; exec sleep 1000",
        "log = 'ready'\nstart_timeout = '300ms'\non_unhealthy = 'report'",
    );
    world.watch();
    world.until_phase("web", "unhealthy");
    let status = world.service_status("web").unwrap();
    assert_eq!(status["reason"], "start-timeout", "{status}");
    assert!(status["message"].as_str().unwrap().contains("no line of its log matches `ready`"), "{status}");
}

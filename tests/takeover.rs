//! A copied state directory becomes an owner only once nobody runs on its original.

#![expect(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use support::{As, Run, World, is_alive, kill};

/// Without sockets, as most tools copy.
fn copy(from: &Path, to: &Path) {
    DirBuilder::new().mode(0o700).create(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn on(world: &World, state: &Path, arguments: &[&str]) -> Run {
    let mut command = world.command();
    command.env("RECONCILE_STATE_DIR", state).args(arguments);
    world.finish(command)
}

/// A watcher with a service, and a copy of its state directory.
fn copied(who: As) -> (World, PathBuf, i32) {
    let mut world = World::run_as(who);
    world.service("web", "exec sleep 98765", "");
    world.watch();
    world.until_phase("web", "running");
    let copy_dir = world.path("copy");
    copy(&world.state(), &copy_dir);
    let pid = world.pid("web").unwrap();
    (world, copy_dir, pid)
}

#[track_caller]
fn assert_refused(run: &Run, named: &[String]) {
    assert_ne!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    for name in named {
        assert!(run.stderr.contains(name), "{name} is not in: {}", run.stderr);
    }
}

fn keeper(world: &World) -> i32 {
    world.keeper().expect("a keeper runs")
}

#[test]
fn a_copy_is_not_taken_over_beside_its_original() {
    for who in [As::Caller, As::Holders] {
        let (mut world, copied, pid) = copied(who);
        let watcher = format!("pid {}", world.watcher().id());
        let keeper_is = format!("keeper of its services, pid {}", keeper(&world));
        let original = world.state().display().to_string();
        let run = on(&world, &copied, &["takeover"]);
        assert_refused(&run, &[watcher.clone(), keeper_is.clone(), original.clone()]);
        world.kill_watcher();
        let run = on(&world, &copied, &["takeover"]);
        assert_refused(&run, std::slice::from_ref(&keeper_is));
        assert!(!run.stderr.contains(&watcher), "{}", run.stderr);
        assert!(is_alive(pid));
        let last = keeper(&world);
        kill(last);
        world.until("the keeper is gone", |_| !is_alive(last));
        on(&world, &copied, &["takeover"]).expect_code(0);
        assert!(is_alive(pid), "it is the copy's now, and the same");
        on(&world, &copied, &["down"]).expect_code(0);
        assert!(!is_alive(pid));
    }
}

#[test]
fn an_original_that_was_moved_away_is_found_by_its_keeper() {
    let (mut world, copied, pid) = copied(As::Caller);
    world.kill_watcher();
    let moved = world.path("moved");
    fs::rename(world.state(), &moved).unwrap();
    let run = on(&world, &copied, &["takeover"]);
    assert_refused(&run, &[moved.display().to_string(), "keeper of its services".to_owned()]);
    assert!(is_alive(pid));
    on(&world, &moved, &["down"]).expect_code(0);
    assert!(!is_alive(pid), "the moved original has kept its claims");
}

#[test]
fn a_new_instance_does_not_take_up_what_its_original_started() {
    // The original runs on, as it does where a work tree was copied with its state.
    let (world, copied, pid) = copied(As::Caller);
    on(&world, &copied, &["--once", "--new-instance"]).expect_code(0);
    // Nor when it loses its ledger.
    fs::remove_file(copied.join("ledger.journal")).unwrap();
    on(&world, &copied, &["--once"]).expect_code(0);
    on(&world, &copied, &["down"]).expect_code(0);
    assert!(is_alive(pid));
}

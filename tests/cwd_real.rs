//! Where a service runs, with the real binary: the first directory that exists, and the last is made.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use support::{As, World};

fn cwd(world: &World) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{}/cwd", world.pid("web")?)).ok()
}

fn first_or_made(world: &World) {
    let (first, made) = (world.project().join("first"), world.project().join("a/made"));
    let script = "echo at:{{cwd}} >> where; sleep 1000 & wait";
    world.service("web", script, "cwd = ['first', 'a/made']");
    world.once().expect_code(0);
    assert_eq!(cwd(world), Some(made.clone()));
    assert_eq!(made.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let running = fs::metadata(format!("/proc/{}", world.pid("web").unwrap())).unwrap();
    assert_eq!(made.metadata().unwrap().uid(), running.uid());
    let told = || fs::read_to_string(made.join("where")).unwrap_or_default();
    world.until("it was told", |_| told() == format!("at:{}\n", made.display()));
    let pid = world.pid("web");
    fs::create_dir(&first).unwrap();
    fs::set_permissions(&first, fs::Permissions::from_mode(0o777)).unwrap();
    world.once().expect_code(0);
    assert_eq!(world.pid("web"), pid, "which one it is counts at a start");
    world.run(&["restart", "web"]).expect_code(0);
    assert_eq!(cwd(world), Some(first));
}

#[test]
fn the_first_that_exists_is_taken_and_the_last_is_made() {
    first_or_made(&World::new());
}

#[test]
fn the_first_that_exists_is_taken_and_the_last_is_made_without_root() {
    if support::cannot_run_as(As::Nobody) {
        return;
    }
    first_or_made(&World::run_as(As::Nobody));
}

#[test]
fn its_own_directory_is_kept_over_restarts_and_purged_with_its_logs() {
    let world = World::new();
    world.service(
        "web",
        "sleep 1000 & wait",
        "cwd = ['none', '{{state.work}}']\nenv.WORK = '{{state.work}}'",
    );
    world.once().expect_code(0);
    let work = cwd(&world).unwrap();
    assert!(work.starts_with(world.state()), "{}", work.display());
    fs::write(work.join("kept"), "").unwrap();
    world.run(&["restart", "web"]).expect_code(0);
    assert_eq!(cwd(&world), Some(work.clone()));
    world.run(&["down"]).expect_code(0);
    assert!(work.join("kept").exists());
    world.once().expect_code(0);
    world.run(&["down", "--purge"]).expect_code(0);
    assert!(!work.exists());
}

#[test]
fn a_user_who_cannot_enter_the_state_directory_is_told_before_the_start() {
    if support::cannot_run_as(As::Nobody) {
        return;
    }
    let world = World::new();
    world.service("web", "sleep 1000 & wait", "user = 'nobody'\ncwd = ['{{state.work}}']");
    let once = world.once();
    assert!(once.stdout.contains("cannot enter"), "{}{}", once.stdout, once.stderr);
    assert_eq!(world.pid("web"), None);
}

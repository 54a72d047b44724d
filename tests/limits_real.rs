//! Limits of all processes of a service together, with the real binary, where the machine cannot enforce them; and where it
//! can, that they hold.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::fs;

use support::{As, World};

const LIMITS: &str = "limits = { memory_max = '64MiB', cpu_max = 0.5, pids_max = 32 }";

/// A cgroup v2 hierarchy with the controller.
fn has(controller: &str) -> bool {
    let found = ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/unified/cgroup.controllers"];
    found
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .any(|there| there.split_whitespace().any(|word| word == controller))
}

/// Runs, and says what does not hold, in both forms and in `doctor`.
fn not_enforced(mut world: World) {
    world.service("web", "sleep 1000 & wait", LIMITS);
    world.watch();
    world.until_phase("web", "running");
    world.until("it is told", |world| {
        world.service_status("web").unwrap()["drift"].to_string().contains("limits-not-enforced")
    });
    let status = world.service_status("web").unwrap()["drift"].to_string();
    assert!(status.contains("not enforced here: "), "{status}");
    let text = world.run(&["status", "web"]).stdout;
    assert!(text.contains("limits are not enforced here"), "{text}");
    let doctor = world.run(&["doctor"]);
    let line = doctor.stdout.lines().find(|line| line.contains("limits")).unwrap_or_default().to_owned();
    assert!(!line.contains("available"), "{}", doctor.stdout);
    world.kill_watcher();
    // Who only looks is told the same.
    let text = world.run(&["status", "web"]).stdout;
    assert!(text.contains("limits are not enforced here"), "{text}");
    assert!(world.run(&["-o", "json", "status"]).stdout.contains("limits-not-enforced"));
    world.watch();
    world.until_phase("web", "running");
    let pid = world.pid("web");
    world.service("web", "sleep 1000 & wait", "");
    world.until("it is told no more", |world| {
        !world.service_status("web").unwrap()["drift"].to_string().contains("limits-not-enforced")
    });
    assert_eq!(world.pid("web"), pid, "an edit of them is no restart");
}

#[test]
fn what_is_not_enforced_is_told() {
    if has("memory") {
        return;
    }
    not_enforced(World::new());
}

#[test]
fn what_is_not_enforced_is_told_without_root() {
    if support::cannot_run_as(As::Nobody) {
        return;
    }
    not_enforced(World::run_as(As::Nobody));
}

#[test]
fn what_is_required_and_not_enforced_is_not_started() {
    if has("memory") {
        return;
    }
    let world = World::new();
    world.config("[policy]\nallow_shell = true\nexecutables = ['sh', 'sleep']\nrequire = ['limits']\n");
    world.service("web", "sleep 1000 & wait", LIMITS);
    let once = world.once().expect_code(5);
    assert!(once.stdout.contains("the policy requires limits"), "{}{}", once.stdout, once.stderr);
    assert_eq!(world.pid("web"), None);
    world.service("web", "sleep 1000 & wait", "limits.nofile = 64");
    world.once().expect_code(0);
}

/// Skipped where cgroup v2 has no controllers for us.
#[test]
fn what_can_be_enforced_stands_in_its_cgroup() {
    if !["memory", "cpu", "pids"].into_iter().all(has) || !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: no controllers of cgroup v2");
        return;
    }
    let world = World::new();
    world.service("web", "sleep 1000 & wait", LIMITS);
    world.once().expect_code(0);
    let containment = world.service_status("web").unwrap()["containment"].to_string();
    let membership = fs::read_to_string(format!("/proc/{}/cgroup", world.pid("web").unwrap())).unwrap();
    let place = membership.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    let top = if fs::exists("/sys/fs/cgroup/cgroup.procs").unwrap() { "" } else { "/unified" };
    let read = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup{top}{place}/{file}")).unwrap();
    assert_eq!(read("memory.max"), format!("{}\n", 64 << 20), "{containment}");
    assert_eq!((read("cpu.max").as_str(), read("pids.max").as_str()), ("50000 100000\n", "32\n"));
}

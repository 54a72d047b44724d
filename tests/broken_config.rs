//! A mistake in the configuration stands in the way of starts, and never of stopping and looking.

#![expect(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use support::{World, is_alive};

/// Each way to spoil it, and what a warning must name.
fn spoilt(world: &World, how: &str) -> &'static str {
    let path = world.path("reconcile.toml");
    match how {
        "unparsable" => fs::write(path, "[policy]\nexecutables = [\n").unwrap(),
        "unknown key" => fs::write(path, "[policy]\nexecutabels = []\n").unwrap(),
        "writable by others" => fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap(),
        _ => fs::remove_file(path).unwrap(),
    }
    match how {
        "unparsable" | "unknown key" => "reconcile.toml:2",
        _ => "reconcile.toml",
    }
}

const WAYS: [&str; 4] = ["unparsable", "unknown key", "writable by others", "missing"];

fn world() -> World {
    let world = World::new();
    let touch = format!("stop = {{ command = [\"sh\", \"-c\", \"touch {}\"] }}", world.path("ran").display());
    world.service("web", "echo hello; exec sleep 98765", &touch);
    world.service("db", "exec sleep 98765", "");
    world.once().expect_code(0);
    world
}

#[test]
fn services_are_looked_at_and_stopped_without_a_usable_configuration() {
    for how in WAYS {
        let world = world();
        let (web, db) = (world.pid("web").unwrap(), world.pid("db").unwrap());
        let named = spoilt(&world, how);
        let says = |arguments: &[&str], code| {
            let run = world.run(arguments).expect_code(code);
            assert!(run.stderr.contains(named), "{how}: {arguments:?} names {named}: {}", run.stderr);
            run
        };
        assert!(says(&["status"], 0).stdout.contains("running"));
        assert_eq!((world.phase("web").as_str(), world.pid("web")), ("running", Some(web)), "{how}");
        assert!(says(&["logs", "web"], 0).stdout.contains("hello"));
        says(&["wait", "web", "--for", "ready"], 0);
        // A new version that nobody can judge is not taken up, nor does it end the old one.
        world.service("db", "exec sleep 98766", "");
        says(&["stop", "web"], 0);
        assert!(!is_alive(web) && is_alive(db), "{how}");
        assert_eq!(world.phase("web"), "stopped", "{how}");
        assert!(!world.path("ran").exists(), "{how}: nothing is executed that nobody allows");
        says(&["down"], 0);
        assert!(!is_alive(db), "{how}");
    }
}

#[test]
fn what_may_start_something_is_refused_and_changes_nothing() {
    for how in WAYS {
        let world = world();
        let before = world.processes();
        let named = spoilt(&world, how);
        let ledger = fs::read(world.state().join("ledger.journal")).unwrap();
        for arguments in
            [&["--once"][..], &["up"], &["plan"], &["validate"], &["start", "web"], &["restart", "web"]]
        {
            let run = world.run(arguments).expect_code(1);
            assert!(
                run.stderr.contains(named.trim_end_matches(":2")),
                "{how}: {arguments:?}: {}",
                run.stderr
            );
        }
        assert_eq!(fs::read(world.state().join("ledger.journal")).unwrap(), ledger, "{how}");
        assert_eq!(world.processes(), before, "{how}");
    }
}

#[test]
fn a_manifest_that_changed_meanwhile_takes_effect_once_the_configuration_is_mended() {
    let world = world();
    let good = fs::read_to_string(world.path("reconcile.toml")).unwrap();
    let (web, db) = (world.pid("web").unwrap(), world.pid("db").unwrap());
    spoilt(&world, "unparsable");
    world.service("db", "exec sleep 98766", "");
    world.run(&["stop", "web"]).expect_code(0);
    assert!(is_alive(db) && !is_alive(web));
    world.config(&good);
    world.once().expect_code(0);
    assert!(!is_alive(db) && world.pid("db").is_some(), "the new version is judged and taken up");
    assert_eq!(world.phase("web"), "stopped", "the stop was recorded");
}

#[test]
fn a_changed_configuration_is_taken_up_at_once() {
    let mut world = World::new();
    world.config("resync = \"1h\"\n[policy]\nexecutables = [\"true\"]\n");
    world.manifest("web.toml", "[service.web]\ncommand = [\"sleep\", \"1000\"]\nstart_settle = \"10ms\"\n");
    world.watch();
    world.until_phase("web", "rejected");
    world.config("resync = \"1h\"\n[policy]\nexecutables = [\"true\", \"sleep\"]\n");
    world.until_phase("web", "running");
}

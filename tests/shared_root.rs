//! Several state directories and several roots: each reconciler minds its own, and says what it shares.

#![expect(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{As, Run, World, cannot_run_as, is_alive};

const FOREVER: &str = "exec sleep 98765";

/// With another state directory, and perhaps another root.
fn at(world: &World, state: &str, root: Option<&Path>, arguments: &[&str]) -> Run {
    let mut command = world.command();
    command.env("RECONCILE_STATE_DIR", world.path(state)).args(arguments);
    if let Some(root) = root {
        command.env("RECONCILE_MANIFESTS", root);
    }
    world.finish(command)
}

fn pid_at(world: &World, state: &str, name: &str) -> Option<i32> {
    let status = at(world, state, None, &["status", "-o", "json"]).json();
    let services = status["services"].as_array().unwrap();
    services.iter().find(|service| service["name"] == name)?["pid"].as_i64().map(|pid| pid as i32)
}

/// Codes and messages of the problems of the root itself.
fn of_root(world: &World, status: &Value) -> Vec<(String, String)> {
    let root = fs::canonicalize(world.manifests()).unwrap();
    let files = status["manifests"].as_array().unwrap().iter();
    let problems = files.filter(|file| file["path"] == root.to_str().unwrap()).flat_map(|file| {
        assert_eq!(file["ok"], true, "a warning");
        file["problems"].as_array().unwrap().clone()
    });
    let text = |problem: &Value, key: &str| problem[key].as_str().unwrap().to_owned();
    problems.map(|problem| (text(&problem, "code"), text(&problem, "message"))).collect()
}

fn tree(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(tree(&entry.path()));
        }
        found.insert(entry.path());
    }
    found
}

#[test]
fn two_state_directories_on_one_root_mind_their_own_and_say_so() {
    for who in [As::Caller, As::Nobody] {
        if cannot_run_as(who) {
            continue;
        }
        let world = World::run_as(who);
        world.service("web", FOREVER, "");
        let before = tree(&world.manifests());
        let alone = world.once().expect_code(0);
        assert!(!alone.stderr.contains("shared-root"), "{}", alone.stderr);
        let link = world.path("link");
        symlink(world.manifests(), &link).unwrap();

        let second = at(&world, "other", Some(&link), &["--once"]).expect_code(0);
        let first_is = fs::canonicalize(world.state()).unwrap().display().to_string();
        let keeper = format!("keeper pid {}", world.keeper().unwrap());
        for part in ["warning[shared-root]", &first_is, &keeper] {
            assert!(second.stderr.contains(part), "{part} is not in: {}", second.stderr);
        }
        let first = world.once().expect_code(0);
        assert!(first.stderr.contains(world.path("other").to_str().unwrap()), "{}", first.stderr);
        let told = of_root(&world, &world.status().unwrap());
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, "shared-root");
        let doctor = world.run(&["doctor"]).expect_code(0).stdout;
        let line = doctor.lines().find(|line| line.starts_with("shared-roots")).unwrap();
        assert!(line.contains(world.path("other").to_str().unwrap()), "{line}");

        let (ours, theirs) = (world.pid("web").unwrap(), pid_at(&world, "other", "web").unwrap());
        assert_ne!(ours, theirs, "neither takes the other's for its own");
        world.run(&["stop", "web"]).expect_code(0);
        assert!(!is_alive(ours) && is_alive(theirs));
        at(&world, "other", Some(&link), &["down"]).expect_code(0);
        assert!(!is_alive(theirs));
        world.until("the other keeper has left", |world| of_root(world, &world.status().unwrap()).is_empty());
        assert_eq!(tree(&world.manifests()), before, "nothing is written into the root");
    }
}

#[test]
fn a_watcher_says_once_that_its_root_is_shared() {
    let mut world = World::new();
    world.config("resync = \"300ms\"\n[policy]\nallow_shell = true\nexecutables = [\"sleep\", \"sh\"]\n");
    world.service("web", FOREVER, "");
    world.watch();
    world.until_phase("web", "running");
    at(&world, "other", None, &["--once"]).expect_code(0);
    world.until("it is seen", |world| !of_root(world, &world.status().unwrap()).is_empty());
    let passes = |world: &World| world.status().unwrap()["last_pass"]["at"].clone();
    for _ in 0..3 {
        let before = passes(&world);
        world.until("there was another pass", |world| passes(world) != before);
    }
    let log = support::read(&world.path("watcher.log"));
    assert_eq!(log.matches("shared-root").count(), 1, "{log}");
    at(&world, "other", None, &["down"]).expect_code(0);
    world.until("it is over", |world| of_root(world, &world.status().unwrap()).is_empty());
}

#[test]
fn a_state_directory_that_turns_to_another_root_leaves_the_services_of_the_first_alone() {
    let mut world = World::new();
    world.service("web", FOREVER, "").service("db", FOREVER, "").service("api", FOREVER, "");
    world.once().expect_code(0);
    let pid = |world: &World, name: &str| world.pid(name).unwrap();
    let [web, db, api] = ["web", "db", "api"].map(|name| pid(&world, name));
    let other = world.path("other-root");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("new.toml"), "[service.new]\ncommand = [\"sleep\", \"98765\"]\n").unwrap();
    let there = |arguments: &[&str]| at(&world, "state", Some(&other), arguments);

    for _ in 0..2 {
        there(&["--once"]).expect_code(0);
        assert!([web, db, api].into_iter().all(is_alive));
    }
    let status = there(&["status", "-o", "json"]).json();
    let of_web = status["services"].as_array().unwrap().iter().find(|it| it["name"] == "web").unwrap();
    assert_eq!((&of_web["phase"], &of_web["reason"]), (&"held".into(), &"foreign-root".into()));
    let root = fs::canonicalize(world.manifests()).unwrap();
    assert!(of_web["message"].as_str().unwrap().contains(root.to_str().unwrap()), "{of_web}");

    // By name; and back at its root it is stopped, as it was asked to be.
    there(&["stop", "web"]).expect_code(0);
    assert!(!is_alive(web) && is_alive(db) && is_alive(api));
    assert_ne!(there(&["start", "web"]).code, 0, "this run was not given its manifest");
    let back = world.once();
    assert!(is_alive(db) && is_alive(api), "{}", back.stdout);
    assert_eq!((world.phase("web").as_str(), world.pid("db")), ("stopped", Some(db)));
    // `new` belongs to the other root by now.
    let new = pid_at(&world, "state", "new").unwrap();
    world.watch();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(world.watcher().id() as i32),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    assert!(world.watcher().wait().unwrap().success());
    assert!(!is_alive(db) && !is_alive(api) && is_alive(new), "Ctrl-C ends what the watcher was given");
    world.run(&["down"]).expect_code(0);
    assert!(!is_alive(new), "`down` ends everything");
}

/// ext4 gives the new root the inode number of the old one.
#[test]
fn a_root_that_was_made_where_another_was_deleted_is_not_that_one() {
    let world = World::new();
    world.service("web", FOREVER, "");
    world.once().expect_code(0);
    let web = world.pid("web").unwrap();
    fs::remove_dir_all(world.manifests()).unwrap();
    let other = world.path("other-root");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("new.toml"), "[service.new]\ncommand = [\"sleep\", \"98765\"]\n").unwrap();
    at(&world, "state", Some(&other), &["--once"]).expect_code(0);
    assert!(is_alive(web), "it is of another root");
    at(&world, "state", Some(&other), &["down"]).expect_code(0);
    assert!(!is_alive(web));
}

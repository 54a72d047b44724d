//! What SECURITY.md claims of real processes, and that every claim there has a test.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use support::World;

/// Every `name` of a test in the text: `` `room::a_sentence` `` in brackets.
fn named_tests(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let sentence = |quoted: &str| quoted.rsplit("::").next().unwrap_or_default().to_owned();
    let is_sentence = |name: &String| {
        name.matches('_').count() >= 3
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    quoted.map(sentence).filter(is_sentence).collect()
}

fn tests_below(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|suffix| suffix == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let name = |line: &str| Some(line.split_once("fn ")?.1.split_once('(')?.0.to_owned());
            found.extend(text.lines().filter_map(name));
        }
    }
}

#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut there = BTreeSet::new();
    for dir in ["src", "tests"] {
        tests_below(&top.join(dir), &mut there);
    }
    let named = named_tests(&fs::read_to_string(top.join("SECURITY.md")).unwrap());
    assert!(named.len() > 30, "{named:?}");
    let missing: Vec<&String> = named.iter().filter(|name| !there.contains(*name)).collect();
    assert!(missing.is_empty(), "named in SECURITY.md and not there: {missing:#?}");
}

#[test]
fn a_service_of_another_user_reaches_nothing_in_the_state_directory() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root starts services of other users");
        return;
    }
    let world = World::new();
    // The way there is open: what keeps it out is the state directory alone.
    fs::set_permissions(world.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(world.path("victim"), vec![b'v'; 64]).unwrap();
    let (state, victim) = (world.state(), world.path("victim"));
    let log = state.join("logs/default.nosy.log");
    let attempts = [
        format!("cat {}/ledger.journal", state.display()),
        format!("ls {}", state.display()),
        format!("ls {}/logs", state.display()),
        format!("rm {}", log.display()),
        format!("ln -sf {} {}", victim.display(), log.display()),
        format!("ln {} {}", victim.display(), log.display()),
        format!("mv /proc/self/fd/1 {}", log.display()),
    ];
    let script: String =
        attempts.iter().map(|attempt| format!("if {attempt}; then echo GOT IN; fi\n")).collect();
    world.service("nosy", &format!("{script}echo tried; exec sleep 1000"), "user = 'nobody'\ncwd = '/'");
    world.once().expect_code(0);
    world.until("it has tried", |_| fs::read_to_string(&log).unwrap_or_default().contains("tried"));
    let said = fs::read_to_string(&log).unwrap();
    assert!(!said.contains("GOT IN"), "{said}");
    let log = fs::symlink_metadata(&log).unwrap();
    assert!(log.is_file() && log.nlink() == 1);
    assert_eq!(log.mode() & 0o777, 0o640);
}

#[test]
fn a_stop_command_and_a_health_command_run_as_the_user_of_their_service() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root starts services of other users");
        return;
    }
    let world = World::new();
    fs::set_permissions(world.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    let told = world.path("told");
    fs::create_dir(&told).unwrap();
    fs::set_permissions(&told, fs::Permissions::from_mode(0o777)).unwrap();
    let tell = |name: &str| toml::Value::String(format!("id -un > {}/{name}", told.display()));
    let more = format!(
        "user = 'nobody'\ncwd = '/'\nhealth = {{ command = {}, shell = true }}\nstop = {{ command = {}, shell = true }}",
        tell("health"),
        tell("stop")
    );
    world.service("web", "exec sleep 1000", &more);
    world.once().expect_code(0);
    world.run(&["down"]).expect_code(0);
    for name in ["health", "stop"] {
        assert_eq!(fs::read_to_string(told.join(name)).unwrap().trim(), "nobody", "{name}");
    }
}

//! A `reconcile` that is a service of another: all that it starts is of that service, and ends with it.

use std::process::Command;

use super::cgroup::TestCgroup;
use super::support::{As, Run, World, cannot_run_as};

/// `outer` runs a watcher of `inner`, which leaves its services alone when it is asked to end.
fn nest(outer: &World, inner: &World) {
    inner.service("db", "setsid sleep 1001 & exec sleep 1000", "");
    let command = inner.command();
    let mut script = String::new();
    for (name, value) in command.get_envs() {
        let value = value.expect("nothing is removed from an empty environment");
        script.push_str(&format!("export {}='{}'\n", name.display(), value.display()));
    }
    let binary = command.get_program().to_str().unwrap();
    script.push_str(&format!("cd '{}'\nexec '{binary}' up --quiet --leave", inner.project().display()));
    outer.service("watcher", &script, "stop = { grace = \"2s\" }");
}

fn ends_with_it(outer: &World, inner: &World, mut first: Command) {
    nest(outer, inner);
    first.arg("--once");
    let started: Run = outer.finish(first);
    assert_eq!(started.code, 0, "{started:?}");
    inner.until_phase("db", "running");
    assert!(inner.keeper().is_some());
    outer.remove("watcher.toml");
    outer.run(&["--once", "--timeout", "30s"]).expect_code(0);
    assert!(inner.processes().is_empty(), "{}", inner.describe());
}

#[test]
fn what_an_inner_reconcile_starts_ends_with_the_service_that_it_is() {
    for outer in [As::Caller, As::Holders] {
        for inner in [As::Caller, As::Holders] {
            let (outer, inner) = (World::run_as(outer), World::run_as(inner));
            ends_with_it(&outer, &inner, outer.command());
        }
    }
}

#[test]
fn what_an_inner_reconcile_of_nobody_starts_ends_with_the_service_that_it_is() {
    if cannot_run_as(As::Nobody) {
        return;
    }
    let (outer, inner) = (World::run_as(As::Nobody), World::run_as(As::Nobody));
    ends_with_it(&outer, &inner, outer.command());
    let Some(slice) = TestCgroup::new(".slice") else { return };
    slice.delegate_to_nobody();
    let unit = slice.child("job.service");
    unit.delegate_to_nobody();
    let (outer, inner) = (World::run_as(As::Nobody), World::run_as(As::Nobody));
    ends_with_it(&outer, &inner, unit.command(&outer, true));
}

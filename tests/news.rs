//! What a watcher says of its own accord, in its log: what is wrong and what is held back, once each, and its end.

#![expect(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use support::{World, read};

const STAYS: &str = "exec sleep 98765";

fn log(world: &World) -> String {
    read(&world.path("watcher.log"))
}

#[track_caller]
fn until_said(world: &World, what: &str) {
    world.until(&format!("it says: {what}"), |world| log(world).contains(what));
}

#[test]
fn a_broken_manifest_is_told_with_its_place_and_when_it_is_well_again() {
    let mut world = World::new();
    world.watch();
    world.manifest("web.toml", "[service.web]\ncommand = [\"sleep\", \"9\"]\ncolour = 1\n");
    until_said(&world, "web.toml line=3 column=1 code=\"unknown-key\"");
    world.manifest("web.toml", "[service.web]\ncommand = [\"sleep\", \"98765\"]\n");
    until_said(&world, "it has no problem any more");
    world.until_phase("web", "running");
    assert_eq!(log(&world).matches("unknown-key").count(), 1, "{}", log(&world));
}

#[test]
fn a_removal_that_a_guard_holds_back_is_told_once_and_its_end() {
    let mut world = World::new();
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        world.service(name, STAYS, "");
    }
    world.watch();
    names.iter().for_each(|name| world.until_phase(name, "running"));
    names.iter().for_each(|name| world.remove(&format!("{name}.toml")));
    until_said(&world, "the removal of a, b, c, d, e and 1 more is held back");
    for name in names {
        world.service(name, STAYS, "");
    }
    until_said(&world, "not to be removed:");
    assert_eq!(log(&world).matches("is held back").count(), 1, "{}", log(&world));
}

#[test]
fn a_configuration_that_cannot_be_used_is_told_with_its_place_and_when_it_can_be() {
    let mut world = World::new();
    let good = read(&world.path("reconcile.toml"));
    let pid = world.watch();
    world.config("[policy]\nallow_shel = true\n");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGHUP).unwrap();
    until_said(
        &world,
        "reconcile.toml:2 cannot be used: there is no key `policy.allow_shel`; the configuration in force stays",
    );
    world.config(&good);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGHUP).unwrap();
    until_said(&world, "the configuration can be used again, and is in force");
}

#[test]
fn where_nothing_is_declared_init_is_named() {
    let mut world = World::new();
    world.watch();
    until_said(&world, "`reconcile init` makes a first manifest");
}

//! Services made of templates, with the real binary: one definition, each project a small file.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::fs;

use support::World;

const RUNTIME: &str = "[template.runtime]
command = ['sleep', '{{vars.seconds}}']
env = { PROJECT = '{{vars.title}} of {{name}}' }
start_settle = '50ms'
vars = { seconds = 1000 }
";

fn project(world: &World, name: &str, vars: &str) {
    let text = format!("[service.{name}]\ntemplate = 'runtime'\nvars = {{ {vars} }}\n");
    // The watcher takes no notice of a name that begins with a dot.
    let temporary = world.manifests().join(format!("projects/.{name}"));
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, world.manifests().join(format!("projects/{name}.toml"))).unwrap();
}

fn environment(world: &World, name: &str) -> String {
    let pid = world.pid(name).expect("it runs");
    fs::read_to_string(format!("/proc/{pid}/environ")).unwrap()
}

fn argv(world: &World, name: &str) -> String {
    let pid = world.pid(name).expect("it runs");
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().trim_end_matches('\0').replace('\0', " ")
}

#[test]
fn one_definition_runs_many_projects_and_its_edits_are_followed() {
    let world = World::new();
    fs::create_dir(world.manifests().join("projects")).unwrap();
    world.manifest("runtime.toml", RUNTIME);
    project(&world, "p1", "title = 'One'");
    project(&world, "p2", "title = 'Two', seconds = 2000");
    world.once().expect_code(0);
    assert!(environment(&world, "p1").contains("PROJECT=One of p1\0"), "{}", environment(&world, "p1"));
    assert_eq!([argv(&world, "p1"), argv(&world, "p2")], ["sleep 1000", "sleep 2000"]);
    let ledger = || fs::read(world.state().join("ledger.journal")).unwrap();
    let before = ledger();
    world.once().expect_code(0);
    assert!(ledger() == before, "a second pass writes something");

    let pids = [world.pid("p1"), world.pid("p2")];
    world.manifest("runtime.toml", &RUNTIME.replace("seconds = 1000", "seconds = 1500"));
    world.once().expect_code(0);
    assert_eq!([argv(&world, "p1"), argv(&world, "p2")], ["sleep 1500", "sleep 2000"]);
    assert!(world.pid("p1") != pids[0] && world.pid("p2") == pids[1], "p2 has a value of its own");
}

#[test]
fn a_template_that_is_gone_stops_nothing_and_what_crashes_is_started_again() {
    let mut world = World::new();
    fs::create_dir(world.manifests().join("projects")).unwrap();
    world.manifest("runtime.toml", RUNTIME);
    project(&world, "p1", "title = 'One'");
    world.once().expect_code(0);
    let pid = world.pid("p1");
    world.remove("runtime.toml");
    let run = world.once().expect_code(3);
    assert!(run.stderr.contains("no-template"), "{}", run.stderr);
    assert_eq!(world.pid("p1"), pid);
    world.watch();
    support::kill(pid.unwrap());
    world.until("it is started again", |world| world.pid("p1").is_some_and(|now| Some(now) != pid));
    assert_eq!(argv(&world, "p1"), "sleep 1000");
}

#[test]
fn a_file_is_validated_with_the_templates_of_its_root() {
    let world = World::new();
    fs::create_dir(world.manifests().join("projects")).unwrap();
    world.manifest("runtime.toml", RUNTIME);
    project(&world, "p1", "title = 'One'");
    project(&world, "p2", "titel = 'Two'");
    world.run(&["validate", "manifests/projects/p1.toml"]).expect_code(0);
    let run = world.run(&["validate", "manifests/projects/p2.toml"]).expect_code(3);
    assert!(run.stdout.contains("did you mean `title`?"), "{}", run.stdout);
    let run = world.run(&["validate", "manifests/projects"]).expect_code(3);
    assert!(
        run.stdout.contains("did you mean `title`?") && !run.stdout.contains("no-template"),
        "{}",
        run.stdout
    );
}

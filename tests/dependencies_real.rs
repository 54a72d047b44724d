//! Dependencies of real processes: started in waves, stopped in reverse, and what the command line says of it.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use support::{World, is_alive};

/// Notes in the file `order` when it begins and when it has ended; is ready once `NAME.ready` is there.
fn service(world: &World, name: &str, more: &str) {
    let script = format!(
        "trap 'sleep 0.1; echo -{name} >> order; exit 0' TERM; echo +{name} >> order; while :; do sleep 0.02; done"
    );
    world.service(name, &script, more);
}

fn needs(list: &str) -> String {
    format!("depends_on = {list}")
}

fn order(world: &World) -> Vec<String> {
    let text = std::fs::read_to_string(world.project().join("order")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The database, two servers that depend on it, and an edge before both.
fn shop(world: &World) {
    let health = "health = { command = \"test -e db.ready\", shell = true, start_interval = \"20ms\" }";
    service(world, "db", health);
    service(world, "api", &needs("['db']"));
    service(world, "web", &needs("{ db = 'ready' }"));
    service(world, "an-edge", &needs("['api', 'web']"));
}

fn make_ready(world: &World) {
    std::fs::write(world.project().join("db.ready"), "").unwrap();
}

fn signal(pid: u32, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(pid as i32), signal).unwrap();
}

#[test]
fn ancestor_a_stop_all_at_shutdown_goes_in_reverse_waves() {
    let mut world = World::new();
    shop(&world);
    let watcher = world.watch();
    world.until("db is being started", |world| order(world) == ["+db"]);
    world.until_phase("an-edge", "pending");
    let status = world.service_status("an-edge").unwrap();
    assert_eq!(status["reason"], "dependency", "{status}");
    assert!(status["message"].as_str().unwrap().contains("in the end for db"), "{status}");
    make_ready(&world);
    world.until_phase("an-edge", "running");
    let started = order(&world);
    assert_eq!((started[0].as_str(), started[3].as_str(), started.len()), ("+db", "+an-edge", 4));
    signal(watcher, Signal::SIGINT);
    assert!(world.watcher().wait().unwrap().success(), "{}", world.describe());
    let stopped = order(&world).split_off(4);
    assert_eq!((stopped[0].as_str(), stopped[3].as_str(), stopped.len()), ("-an-edge", "-db", 4));
}

#[test]
fn a_second_ctrl_c_kills_all_at_once() {
    let mut world = World::new();
    make_ready(&world);
    shop(&world);
    let stuck = "trap '' TERM; echo +stuck >> order; while :; do sleep 0.02; done";
    world.service("stuck", stuck, &format!("{}\nstop = {{ grace = \"10m\" }}", needs("['db']")));
    let watcher = world.watch();
    for name in ["stuck", "an-edge"] {
        world.until_phase(name, "running");
    }
    signal(watcher, Signal::SIGINT);
    world.until("all that depends on api and web has ended", |world| {
        order(world).iter().filter(|line| line.starts_with('-')).count() == 3
    });
    assert_eq!(world.service_status("db").unwrap()["reason"], "dependents-first");
    let pids = ["db", "stuck"].map(|name| world.pid(name).unwrap());
    signal(watcher, Signal::SIGINT);
    assert!(world.watcher().wait().unwrap().success(), "{}", world.describe());
    assert!(!order(&world).contains(&"-db".to_owned()), "it was killed");
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{pids:?}");
}

#[test]
fn once_with_a_name_brings_up_what_that_depends_on_and_nothing_else() {
    let world = World::new();
    make_ready(&world);
    shop(&world);
    let plan = world.run(&["plan", "web"]);
    assert!(plan.stderr.contains("with what is depended on: db"), "{plan:?}");
    assert!(plan.stdout.contains("after db") && plan.stdout.contains("in 2 waves"), "{plan:?}");
    assert_eq!(world.run(&["plan", "web", "-o", "json"]).json()["steps"][1]["wave"], 2);
    let once = world.run(&["--once", "web"]).expect_code(0);
    assert!(once.stderr.contains("with what is depended on: db"), "{once:?}");
    assert_eq!(order(&world), ["+db", "+web"]);
    let again = world.run(&["--once", "web", "-o", "json"]).expect_code(0).json();
    assert_eq!((&again["changes"], &again["also"][0]), (&false.into(), &"db".into()), "{again}");
    world.run(&["down"]).expect_code(0);
    assert_eq!(order(&world)[2..], ["-web", "-db"]);
}

#[test]
fn once_gives_up_on_what_waits_for_a_service_that_fails() {
    let world = World::new();
    world.service(
        "db",
        "exit 3",
        "restart = { backoff = \"10ms\", backoff_max = \"20ms\", max_failures = 2 }",
    );
    service(&world, "web", &needs("['db']"));
    let once = world.once().expect_code(5);
    assert!(once.stdout.contains("it waits for db to be ready (it has failed"), "{once:?}");
    assert_eq!(order(&world), Vec::<String>::new());
}

#[test]
fn a_restart_of_a_dependency_restarts_those_that_ask_for_it() {
    let mut world = World::new();
    make_ready(&world);
    shop(&world);
    service(&world, "follower", &needs("{ db = { restart = true } }"));
    world.watch();
    for name in ["an-edge", "follower"] {
        world.until_phase(name, "running");
    }
    let pid = |world: &World, name: &str| world.pid(name).unwrap();
    let (web, follower) = (pid(&world, "web"), pid(&world, "follower"));
    world.kill_watcher();
    world.watch();
    world.run(&["restart", "db"]).expect_code(0);
    world.until("it was restarted", |world| {
        world.phase("follower") == "running" && pid(world, "follower") != follower
    });
    assert_eq!(pid(&world, "web"), web);
    let text = order(&world).join(" ");
    assert!(text.ends_with("-db +db -follower +follower"), "{text}");
}

#[test]
fn a_circle_is_refused_with_its_place_and_a_graph_shows_the_rest() {
    let world = World::new();
    service(&world, "a", &needs("['b']"));
    service(&world, "b", &needs("['a']"));
    service(&world, "db", "");
    service(&world, "web", &needs("['db', 'other/gone']"));
    let validation = world.run(&["validate", "-o", "json"]).expect_code(3).json();
    let a = &validation["manifests"][0]["problems"][0];
    assert_eq!((a["code"].as_str(), a["line"].as_u64()), (Some("dependency-cycle"), Some(5)), "{validation}");
    let dot = world.run(&["graph"]).expect_code(0).stdout;
    assert!(dot.contains("\"web\" -> \"db\" [label = \"ready\"];"), "{dot}");
    assert!(dot.contains("\"other/gone\" [style = dashed];"), "{dot}");
    let mermaid = world.run(&["graph", "--format", "mermaid"]).expect_code(0).stdout;
    assert!(mermaid.starts_with("graph LR\n") && mermaid.contains("-->|ready|"), "{mermaid}");
    let json = world.run(&["graph", "-o", "json"]).expect_code(0).json();
    let web = json["services"].as_array().unwrap().iter().find(|it| it["name"] == "web").unwrap();
    assert_eq!((&web["wave"], web["depends_on"].as_array().unwrap().len()), (&2.into(), 2), "{json}");
}

//! D: services that belong to a workspace, shared between runs.

use super::environment;
use super::support::{World, is_alive, kill, read};

#[test]
fn what_it_is_given_stands_in_command_directory_environment_and_address() {
    let world = World::new();
    std::fs::create_dir(world.project().join("p1")).unwrap();
    world.manifest(
        "web.toml",
        "[service.web]\nproject = \"p1\"\ncommand = \"echo $0 {{name}} of {{project}} at {{ports.http}} in $PWD with \
         $ISSUE; exec sleep 1000\"\nshell = true\ncwd = \"{{project}}\"\nstart_settle = \"50ms\"\n\
         env.ISSUE = \"{{project}}-7\"\nports.http = { auto = true, env = \"LISTEN_AT\" }\n\
         url = \"http://127.0.0.1:{{ports.http}}/{{project}}\"\n",
    );
    world.once().expect_code(0);
    let status = world.service_status("p1/web").unwrap();
    let port = status["ports"]["http"].as_u64().unwrap();
    assert_eq!(status["url"], format!("http://127.0.0.1:{port}/p1"));
    let log = read(&world.state().join("logs/p1.web.log"));
    assert!(log.contains(&format!("web of p1 at {port} in ")), "{log}");
    assert!(log.contains("/p1 with p1-7"), "{log}");
    let told = environment(&world, "p1/web");
    assert_eq!(told.get("LISTEN_AT"), Some(&port.to_string()), "under the variable that is configured");
    assert_eq!(told.get("PORT"), None);
}

/// The group is ended, and who asked is told the end of what it wrote.
#[test]
fn a_service_that_is_not_ready_in_time_tells_the_end_of_its_output() {
    let mut world = World::new();
    world.service(
        "web",
        "echo 'cannot reach the database' >&2; exec sleep 1000",
        "activation.on = \"request\"\nrestart = { backoff = \"1h\", backoff_max = \"1h\" }\n\
         health = { command = \"false\", start_interval = \"20ms\", start_timeout = \"300ms\" }",
    );
    world.watch();
    let ensured = world.run(&["ensure", "web"]).expect_code(5);
    assert!(ensured.stdout.contains("cannot reach the database"), "{ensured:?}");
    assert_eq!(world.pid("web"), None);
}

/// The ancestor recorded what was unhealthy as stopped, and left it running.
#[test]
fn at_its_start_it_takes_over_what_runs_and_starts_what_should() {
    let mut world = World::new();
    for name in ["one", "two", "three"] {
        world.service(name, "exec sleep 1000", "");
    }
    world.watch();
    for name in ["one", "two", "three"] {
        world.until_phase(name, "running");
    }
    let [one, two, three] = ["one", "two", "three"].map(|name| world.pid(name).unwrap());
    world.kill_watcher();
    kill(two);
    world.watch();
    world.until_phase("two", "running");
    assert_eq!((world.pid("one"), world.pid("three")), (Some(one), Some(three)));
    assert_ne!(world.pid("two"), Some(two));
}

#[test]
fn all_services_of_a_workspace_are_stopped_and_no_others() {
    let mut world = World::new();
    for (name, project) in [("one", "p1"), ("two", "p1"), ("three", "p2")] {
        world.service(name, "exec sleep 1000", &format!("project = \"{project}\""));
    }
    world.watch();
    for name in ["p1/one", "p1/two", "p2/three"] {
        world.until_phase(name, "running");
    }
    let [one, two, three] = ["p1/one", "p1/two", "p2/three"].map(|name| world.pid(name).unwrap());
    world.run(&["down", "--project", "p1"]).expect_code(0);
    assert!(!is_alive(one) && !is_alive(two), "{}", world.describe());
    assert_eq!(world.pid("p2/three"), Some(three));
}

//! A: one runtime per project, started on demand.

use std::net::TcpListener;

use super::support::{World, kill};
use super::{environment, number};

/// A pair of the range; what anybody listens on is skipped (the ancestor asked by HTTP, and took other listeners for
/// free); kept across crashes, released when it goes.
#[test]
fn a_pair_of_ports_skips_who_listens_outlives_crashes_and_is_given_back() {
    let squatter = (28_100..28_190).find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    let squatter = squatter.expect("a port is free");
    let first = squatter.local_addr().unwrap().port();
    let mut world = World::new();
    world.config(&format!(
        "[policy]\nallow_shell = true\nexecutables = [\"sh\", \"sleep\"]\n[ports]\nrange = \"{first}-{}\"\n",
        first + 9
    ));
    let more = "ports.agent = { auto = true, count = 2 }\nrestart.backoff = \"10ms\"";
    world.service("p1", "exec sleep 1000", more);
    world.watch();
    world.until_phase("p1", "running");
    let pair = |service: &str| {
        let ports = world.service_status(service).unwrap()["ports"].clone();
        (ports["agent"].as_u64().unwrap(), ports["agent[1]"].as_u64().unwrap())
    };
    let held = pair("p1");
    assert_eq!(held.1, held.0 + 1);
    assert!(held.0 > u64::from(first), "{held:?}");
    assert_eq!(environment(&world, "p1").get("PORT_AGENT_1"), Some(&held.1.to_string()));
    kill(world.pid("p1").unwrap());
    world.until("it runs again", |world| number(world, "p1", "restarts") == Some(1));
    world.until_phase("p1", "running");
    assert_eq!(pair("p1"), held);
    world.remove("p1.toml");
    world.until("it is gone", |world| world.service_status("p1").is_none());
    world.service("p2", "exec sleep 1000", more);
    world.until_phase("p2", "running");
    assert_eq!(pair("p2"), held, "what went gave its ports back");
}

/// Told at once, not at the deadline, which is an hour away.
#[test]
fn an_exit_before_it_is_healthy_is_reported_at_once_with_its_code() {
    let mut world = World::new();
    world.service(
        "bad",
        "exit 7",
        "activation.on = \"request\"\nrestart = { backoff = \"1h\", backoff_max = \"1h\" }\n\
         health = { command = \"false\", start_timeout = \"1h\" }",
    );
    world.watch();
    let ensured = world.run(&["ensure", "bad"]).expect_code(5);
    assert!(ensured.stdout.contains("exit code 7"), "{ensured:?}");
}

#[test]
fn a_missed_deadline_is_signalled_and_counts_as_an_unclean_exit() {
    let mut world = World::new();
    world.service(
        "slow",
        "echo $$ >> pids; exec sleep 1000",
        "restart = { backoff = \"1h\", backoff_max = \"1h\" }\n\
         health = { command = \"false\", start_interval = \"20ms\", start_timeout = \"300ms\" }",
    );
    world.watch();
    world.until_phase("slow", "backoff");
    assert_eq!(number(&world, "slow", "failures"), Some(1), "{}", world.describe());
    let pids = std::fs::read_to_string(world.project().join("pids")).unwrap();
    assert_eq!(pids.lines().count(), 1);
    assert!(!super::support::is_alive(pids.trim().parse().unwrap()));
}

/// The host's, its own ports, two tokens derived for the project, and what is declared last of all.
#[test]
fn its_environment_is_the_hosts_its_tokens_and_what_is_declared_which_wins() {
    let world = World::new();
    world.config(
        "[policy]\nallow_shell = true\nexecutables = [\"sh\", \"sleep\"]\nenv_keys = [\"OF_THE_HOST\", \"PORT\", \"PROJECT\", \"TOKEN\", \"HOOK\"]\n",
    );
    for project in ["p1", "p2"] {
        let name = format!("runtime-{project}");
        world.service(
            &name,
            "exec sleep 1000",
            &format!(
                "project = \"{project}\"\ninherit_env = [\"PATH\", \"OF_THE_HOST\"]\nports.http = \"auto\"\n\
                 ports.api = \"auto\"\nenv = {{ PORT = \"1\", PROJECT = \"{{{{project}}}}\" }}\n\
                 [service.{name}.secrets]\nTOKEN = {{ derive = \"runtime\" }}\nHOOK = {{ derive = \"webhook\" }}"
            ),
        );
    }
    let mut once = world.command();
    once.env("OF_THE_HOST", "here").arg("--once");
    world.finish(once).expect_code(0);
    let told = environment(&world, "p1/runtime-p1");
    let is = |key: &str| told.get(key).map(String::as_str);
    assert_eq!((is("OF_THE_HOST"), is("PORT"), is("PROJECT")), (Some("here"), Some("1"), Some("p1")));
    assert_eq!(is("PORT_API").map(str::to_owned), number_of_port(&world, "p1/runtime-p1", "api"));
    assert!(is("TOKEN").is_some() && is("TOKEN") != is("HOOK"), "{told:?}");
    assert_ne!(environment(&world, "p2/runtime-p2").get("TOKEN"), told.get("TOKEN"), "one for each project");
    let printed = world.run(&["secret", "p1/runtime-p1", "webhook"]).expect_code(0).stdout;
    assert_eq!(Some(printed.trim()), is("HOOK"));
}

fn number_of_port(world: &World, service: &str, port: &str) -> Option<String> {
    world.service_status(service)?["ports"][port].as_u64().map(|port| port.to_string())
}

#[test]
fn an_unclean_exit_is_restarted_and_a_clean_one_ends_it() {
    let mut world = World::new();
    world.service(
        "job",
        "echo x >> runs; [ $(wc -l < runs) -lt 3 ] && exit 1; exit 0",
        "restart = { backoff = \"10ms\", backoff_max = \"20ms\" }",
    );
    world.watch();
    world.until_phase("job", "completed");
    assert_eq!(number(&world, "job", "restarts"), Some(2));
    assert_eq!(std::fs::read_to_string(world.project().join("runs")).unwrap().lines().count(), 3);
}

#[test]
fn its_status_has_state_ports_pid_times_restarts_and_the_last_error() {
    let mut world = World::new();
    world.service(
        "web",
        "[ -e crashed ] || { touch crashed; exit 9; }; exec sleep 1000",
        "ports.http = \"auto\"\nrestart = { backoff = \"10ms\" }",
    );
    world.watch();
    world.until("it runs again", |world| number(world, "web", "restarts") == Some(1));
    world.until_phase("web", "running");
    let status = world.service_status("web").unwrap();
    assert!(status["ports"]["http"].is_u64() && status["pid"].is_u64(), "{status}");
    assert!(status["started_at"].is_string(), "{status}");
    assert_eq!((&status["last_exit"]["code"], &status["restarts"]), (&9.into(), &1.into()), "{status}");
    world.run(&["touch", "web"]).expect_code(0);
}

/// Of several of one name the first in the order of the search path, which the operator gives.
#[test]
fn the_program_to_run_is_looked_for_in_order() {
    use std::os::unix::fs::PermissionsExt;

    let world = World::new();
    for dir in ["home-install", "path"] {
        let tool = world.path(dir).join("tool");
        std::fs::create_dir_all(world.path(dir)).unwrap();
        std::fs::write(&tool, format!("#!/bin/sh\necho {dir}\nexec sleep 1000\n")).unwrap();
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let [first, second] = ["home-install", "path"].map(|dir| world.path(dir).display().to_string());
    world.config(&format!(
        "[policy]\nexecutables = [\"tool\", \"sh\", \"sleep\"]\n\
         search_path = [\"{first}\", \"{second}\", \"/usr/bin\", \"/bin\"]\n"
    ));
    world.manifest("tool.toml", "[service.tool]\ncommand = [\"tool\"]\nstart_settle = \"50ms\"\n");
    world.once().expect_code(0);
    let log = || std::fs::read_to_string(world.state().join("logs/default.tool.log")).unwrap_or_default();
    assert!(log().contains("home-install"), "{}", log());
}

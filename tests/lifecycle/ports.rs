//! Ports: given and kept, waited for, and proved to be the service's own.

use std::collections::BTreeSet;

use reconcile::host::fake::{Behaviour, Birth, FakeHost};
use reconcile::identity::Pid;
use reconcile::plan::{Action, Phase};
use reconcile::reconciler::command::Command;
use reconcile::state::{ExitStatus, PortHolder, Record};

use crate::rig::{Rig, secs};

const AUTO: &str = "ports.http = 'auto'";
const HEALTH: &str = "health.port = 'http'";

fn stranger() -> PortHolder {
    PortHolder { pid: Pid::new(4242), exe: Some("/usr/bin/nginx".to_owned()), ..PortHolder::default() }
}

fn port(rig: &Rig, name: &str) -> Option<u16> {
    rig.status(name)?.ports.get("http").copied()
}

fn told(rig: &Rig, name: &str, variable: &str) -> Option<String> {
    rig.host.environment_of(name).get(variable).cloned()
}

fn up(more: &str) -> Rig {
    let mut rig = Rig::with("web", more);
    rig.run_until_phase("web", if more.contains("health") { Phase::Ready } else { Phase::Running });
    rig
}

#[test]
fn a_port_is_promised_before_it_is_used_and_told_to_the_service() {
    let mut rig = up(
        "ports = { http = 'auto', agent = { auto = true, count = 2 } }\nurl = 'http://h:{{ports.http}}'\n\
                      attrs = { agents = ['{{ports.agent}}', '{{ports.agent[1]}}'] }",
    );
    let status = rig.status("web").unwrap();
    let shown: Vec<(&str, u16)> = status.ports.iter().map(|(name, port)| (name.as_str(), *port)).collect();
    assert_eq!(shown, [("agent", 37_100), ("agent[1]", 37_101), ("http", 37_102)]);
    assert_eq!(status.url.as_deref(), Some("http://h:37102"));
    assert_eq!(status.attrs["agents"], serde_json::json!(["37100", "37101"]));
    for (variable, value) in
        [("PORT", "37102"), ("PORT_HTTP", "37102"), ("PORT_AGENT", "37100"), ("PORT_AGENT_1", "37101")]
    {
        assert_eq!(told(&rig, "web", variable).as_deref(), Some(value), "{variable}");
    }
    rig.assert_idle_for(secs(3_600));
    assert_eq!(rig.host.ports_taken(), BTreeSet::from([37_100, 37_101, 37_102]));
}

#[test]
fn a_declared_variable_wins_over_that_of_a_port() {
    let rig = up(&format!("{AUTO}\nenv = {{ PORT = '1', SEEN = '{{{{ports.http}}}}' }}"));
    assert_eq!(told(&rig, "web", "PORT").as_deref(), Some("1"));
    assert_eq!(told(&rig, "web", "SEEN").as_deref(), Some("37100"));
    let named = up("ports.http = { auto = true, env = 'LISTEN' }");
    assert_eq!(told(&named, "web", "LISTEN").as_deref(), Some("37100"));
    assert_eq!((told(&named, "web", "PORT"), told(&named, "web", "PORT_HTTP")), (None, None));
}

#[test]
fn restarts_crashes_stops_and_deaths_keep_the_port() {
    let mut rig = Rig::new();
    rig.declare("other", AUTO);
    rig.run_until_phase("other", Phase::Running);
    rig.declare("web", AUTO);
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(port(&rig, "web"), Some(37_101));
    // The number below it is free from now on.
    rig.host.remove("other.toml");
    rig.run_until("other is forgotten", |rig| rig.status("other").is_none());
    assert_eq!(rig.host.ports_taken(), BTreeSet::from([37_101]));

    rig.host.end("web", ExitStatus::Code(1));
    rig.run_until("it was restarted", |rig| rig.counts().spawns == 3);
    rig.run_until_phase("web", Phase::Running);
    rig.done(Command::Restart { names: vec!["web".into()] });
    rig.run_until_phase("web", Phase::Running);
    rig.declare("web", &format!("{AUTO}\nenv = {{ A = '1' }}"));
    rig.run_until("the new one was started", |rig| told(rig, "web", "A").is_some());
    rig.run_until_phase("web", Phase::Running);
    rig.done(Command::Stop { names: vec!["web".into()] });
    assert_eq!(port(&rig, "web"), Some(37_101), "stopped");
    rig.die(Birth::Before);
    rig.declare("first", AUTO);
    rig.run_until_phase("first", Phase::Running);
    assert_eq!(port(&rig, "first"), Some(37_100));
    rig.done(Command::Start { names: vec!["web".into()] });
    rig.run_until_phase("web", Phase::Running);
    rig.reboot();
    rig.run_until_phase("web", Phase::Running);
    assert_eq!((port(&rig, "web"), told(&rig, "web", "PORT")), (Some(37_101), Some("37101".to_owned())));
}

#[test]
fn a_port_that_somebody_else_took_meanwhile_is_given_up_for_another() {
    let mut rig = up(AUTO);
    rig.done(Command::Stop { names: vec!["web".into()] });
    rig.host.squat(37_100, stranger());
    rig.done(Command::Start { names: vec!["web".into()] });
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(port(&rig, "web"), Some(37_101));
}

#[test]
fn what_others_listen_on_or_have_taken_is_not_handed_out() {
    let mut rig = Rig::new();
    rig.host.squat(37_100, stranger());
    rig.host.claim_elsewhere(37_101);
    rig.host.snatch(37_102);
    rig.declare("fixed", "ports.http = 37103");
    rig.declare("web", AUTO);
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(port(&rig, "web"), Some(37_104));
}

#[test]
fn services_that_start_together_get_ports_of_their_own() {
    let mut rig = Rig::new();
    let names: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
    for name in &names {
        rig.declare(name, "ports.http = { auto = true, count = 3 }");
    }
    rig.host.snatch(37_110);
    rig.run_until("all run", |rig| names.iter().all(|name| rig.phase(name) == Some(Phase::Running)));
    let given: BTreeSet<u16> = names.iter().filter_map(|name| port(&rig, name)).collect();
    assert_eq!(given.len(), 40);
    assert!(given.iter().all(|first| !(37_108..=37_110).contains(first)), "{given:?}");
    assert_eq!(rig.host.ports_taken().len(), 120, "and nothing beside them");
}

#[test]
fn a_range_that_is_used_up_is_pending_and_names_who_has_it() {
    let mut rig = Rig::under(FakeHost::new(), "[ports]\nrange = '500-502'\n");
    rig.declare("db", AUTO);
    rig.run_until_phase("db", Phase::Running);
    rig.host.squat(501, stranger());
    rig.host.claim_elsewhere(502);
    rig.declare("web", AUTO);
    rig.run_until_phase("web", Phase::Pending);
    let status = rig.status("web").unwrap();
    assert_eq!(status.reason, "no-port");
    for holder in ["service db: 1", "pid 4242 (/usr/bin/nginx): 1", "/elsewhere/state: 1"] {
        assert!(status.message.contains(holder), "{}", status.message);
    }
    assert_eq!(port(&rig, "db"), Some(500));
    rig.assert_idle_for(secs(600));
    rig.host.unsquat(501);
    let took = rig.run_until_phase("web", Phase::Running);
    assert!(took < secs(7), "noticed after {took:?}");
    assert_eq!(port(&rig, "web"), Some(501));
}

#[test]
fn a_fixed_port_that_somebody_has_is_waited_for_and_nobody_is_signalled() {
    let mut rig = Rig::new();
    rig.host.squat(8080, stranger());
    rig.declare("web", "ports.http = 8080");
    rig.run_until_phase("web", Phase::Pending);
    let status = rig.status("web").unwrap();
    assert_eq!(status.reason, "port-taken");
    assert!(status.message.contains("port 8080 is held by pid 4242 (/usr/bin/nginx)"), "{}", status.message);
    assert_eq!(status.ports["http"], 8080);
    rig.assert_idle_for(secs(600));
    rig.host.unsquat(8080);
    let took = rig.run_until_phase("web", Phase::Running);
    assert!(took < secs(7), "noticed after {took:?}");
    assert_eq!((rig.counts().signals, rig.counts().kills), (0, 0));
}

#[test]
fn of_two_services_with_one_port_the_second_waits_for_the_first() {
    let mut rig = Rig::new();
    rig.declare("a", "ports.http = 8080");
    rig.declare("b", "ports.http = 8080");
    rig.run_until_phase("a", Phase::Running);
    assert_eq!((rig.phase("b"), rig.reason("b")), (Some(Phase::Pending), "port-taken".to_owned()));
    assert!(rig.status("b").unwrap().message.contains("service a"));
    rig.done(Command::Stop { names: vec!["a".into()] });
    let took = rig.run_until_phase("b", Phase::Running);
    assert!(took < secs(3), "our own ports are seen to be let go of: {took:?}");
    rig.order(Command::Start { names: vec!["a".into()] });
    rig.run_until_phase("a", Phase::Pending);
    assert!(rig.status("a").unwrap().message.contains("service b"));
}

#[test]
fn what_runs_is_not_stopped_for_a_port_that_is_not_to_be_had() {
    let mut rig = up("ports.http = 8080");
    let before = rig.pid("web");
    rig.host.squat(9090, stranger());
    rig.declare("web", "ports.http = 9090");
    rig.run_for(secs(60));
    assert_eq!((rig.pid("web"), port(&rig, "web")), (before, Some(8080)));
    let held = rig.plan();
    assert!(held.iter().any(|step| step.action == Action::Hold && step.reason == "port-taken"), "{held:?}");
    rig.host.unsquat(9090);
    rig.run_until("it moved", |rig| port(rig, "web") == Some(9090));
}

#[test]
fn a_restart_does_not_find_its_own_port_taken() {
    let mut rig = up("ports.http = 8080");
    rig.declare("web", "ports.http = 8080\nenv = { A = '1' }");
    rig.run_until("the new one was started", |rig| rig.counts().spawns == 2);
    rig.run_until_phase("web", Phase::Running);
}

/// paperclip#9407: a server of another worktree answered the health check.
#[test]
fn an_answer_of_somebody_elses_listener_is_not_ready() {
    let mut rig = Rig::with("web", &format!("ports.http = 8080\nport_owner = 'any'\n{HEALTH}"));
    rig.host.squat(8080, stranger());
    rig.run_until_phase("web", Phase::Ready);
    rig.declare("web", &format!("ports.http = 8080\n{HEALTH}"));
    rig.run_until_phase("web", Phase::Unhealthy);
    let status = rig.status("web").unwrap();
    assert!(status.message.contains("pid 4242 (/usr/bin/nginx), not by it"), "{}", status.message);
    let before = rig.pid("web");
    rig.run_for(secs(60));
    assert_eq!(rig.pid("web"), before, "it is not stopped: it could not be started again");
    rig.host.unsquat(8080);
    rig.run_until_phase("web", Phase::Ready);
}

#[test]
fn without_a_check_it_is_not_up_while_somebody_else_has_its_port() {
    let mut rig = Rig::with("web", "ports.http = 8080\nport_owner = 'any'\nstart_settle = '1m'");
    rig.host.squat(8080, stranger());
    rig.run_until_phase("web", Phase::Starting);
    rig.declare("web", "ports.http = 8080\nstart_settle = '1m'");
    rig.run_for(secs(120));
    assert_eq!((rig.phase("web"), rig.reason("web")), (Some(Phase::Starting), "port-foreign".to_owned()));
    rig.host.unsquat(8080);
    let took = rig.run_until_phase("web", Phase::Running);
    assert!(took < secs(3), "looked at again after {took:?}");
}

#[test]
fn an_owner_that_cannot_be_told_holds_nothing_up() {
    let mut rig = Rig::with("web", &format!("ports.http = 8080\nport_owner = 'any'\n{HEALTH}"));
    rig.host.squat_unseen(8080);
    rig.run_until_phase("web", Phase::Ready);
    rig.declare("web", &format!("ports.http = 8080\n{HEALTH}"));
    rig.run_for(secs(120));
    assert_eq!(rig.phase("web"), Some(Phase::Ready));
}

#[test]
fn a_command_that_goes_by_a_port_is_judged_before_there_is_one() {
    let mut rig = Rig::under(FakeHost::new(), "[policy]\nexecutables = ['node']\n");
    rig.declare("web", &format!("{AUTO}\nhealth.command = ['curl', 'http://h:{{{{ports.http}}}}']"));
    rig.run_for(secs(1));
    assert_eq!(rig.problem_codes("web.toml"), ["exec-not-allowed"]);
    assert_eq!((rig.phase("web"), rig.counts().spawns), (Some(Phase::Rejected), 0));
}

#[test]
fn a_start_that_fails_keeps_its_port_and_a_removal_releases_it() {
    let mut rig = Rig::with("web", AUTO);
    rig.host.behave("web", Behaviour::default().exits(secs(2), ExitStatus::Code(1)));
    rig.run_until("it has failed twice", |rig| rig.failures("web") == 2);
    let given: BTreeSet<_> = rig
        .host
        .records()
        .into_iter()
        .filter_map(|record| match record {
            Record::Intent(intent) => intent.ports.get("http").copied(),
            _ => None,
        })
        .collect();
    assert_eq!(given.into_iter().map(|block| block.first).collect::<Vec<_>>(), [37_100]);
    rig.host.remove("web.toml");
    rig.run_until("it is forgotten", |rig| rig.status("web").is_none());
    assert_eq!(rig.host.ports_taken(), BTreeSet::new());
}

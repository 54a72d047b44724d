//! Sockets: open from before the first start until nobody will accept any more.

use reconcile::host::fake::{Behaviour, Birth};
use reconcile::plan::Phase;
use reconcile::reconciler::command::Command;
use reconcile::reconciler::selection::Selector;
use reconcile::state::ExitStatus;

use crate::rig::{Rig, secs};

const HTTP: &str = "127.0.0.1:8080";
const SOCKET: &str = "sockets.http = '127.0.0.1:8080'";

fn up(more: &str) -> Rig {
    let mut rig = Rig::with("web", more);
    rig.run_until_phase("web", Phase::Running);
    assert!(rig.host.can_connect(HTTP));
    rig
}

/// Nobody is refused from now until this is so.
#[track_caller]
fn open_until(rig: &mut Rig, what: &str, condition: impl Fn(&Rig) -> bool) {
    rig.run_until(what, |rig| {
        assert!(rig.host.can_connect(HTTP), "somebody is refused before {what}\n{}", rig.host.story());
        condition(rig)
    });
}

fn names() -> Vec<Selector> {
    vec!["web".into()]
}

#[test]
fn a_socket_is_open_through_restarts_crashes_edits_and_the_death_of_a_reconciler() {
    let mut rig = up(SOCKET);
    assert_eq!(rig.status("web").unwrap().sockets["http"], HTTP);
    rig.assert_idle_for(secs(3_600));
    rig.host.end("web", ExitStatus::Code(1));
    open_until(&mut rig, "it was restarted", |rig| rig.counts().spawns == 2);
    open_until(&mut rig, "it is up", |rig| rig.phase("web") == Some(Phase::Running));
    rig.declare("web", &format!("{SOCKET}\nenv.A = '1'"));
    open_until(&mut rig, "its new version runs", |rig| rig.counts().spawns == 3);
    open_until(&mut rig, "it is up", |rig| rig.phase("web") == Some(Phase::Running));
    rig.host.end("web", ExitStatus::Code(1));
    rig.die(Birth::Before);
    open_until(&mut rig, "the next reconciler has started it", |rig| rig.counts().spawns == 4);
}

#[test]
fn a_socket_is_closed_once_nobody_will_accept() {
    let mut rig = up(SOCKET);
    rig.done(Command::Stop { names: names() });
    assert!(!rig.host.can_connect(HTTP), "stopped");
    rig.done(Command::Start { names: names() });
    rig.run_until_phase("web", Phase::Running);
    assert!(rig.host.can_connect(HTTP));
    rig.declare("web", &format!("{SOCKET}\nstate = 'stopped'"));
    rig.run_until_phase("web", Phase::Stopped);
    assert!(!rig.host.can_connect(HTTP), "declared so");
    rig.declare("web", SOCKET);
    rig.run_until_phase("web", Phase::Running);
    rig.host.remove("web.toml");
    rig.run_until("it is forgotten", |rig| rig.status("web").is_none());
    assert!(!rig.host.can_connect(HTTP), "removed");

    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exits(secs(1), ExitStatus::Code(1)));
    rig.declare("web", SOCKET);
    rig.run_until_phase("web", Phase::Backoff);
    assert!(rig.host.can_connect(HTTP), "it is tried again");
    rig.run_until_phase("web", Phase::Failed);
    rig.run_for(secs(1));
    assert!(!rig.host.can_connect(HTTP), "failed");
}

#[test]
fn an_address_that_somebody_else_has_is_waited_for_and_costs_nobody_anything() {
    let mut rig = Rig::new();
    rig.host.occupy(HTTP);
    rig.declare("web", SOCKET);
    rig.run_until("it waits", |rig| rig.status("web").is_some_and(|web| web.reason == "socket-unavailable"));
    assert_eq!(rig.phase("web"), Some(Phase::Pending));
    rig.run_for(secs(60));
    assert_eq!(rig.counts().spawns, 0);
    rig.host.vacate(HTTP);
    let took = rig.run_until("it was started", |rig| rig.counts().spawns == 1);
    assert!(took <= secs(6), "{took:?}");
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(rig.status("web").unwrap().failures, 0);
}

#[test]
fn what_runs_goes_on_while_its_new_address_is_not_to_be_had() {
    let mut rig = up(SOCKET);
    rig.host.occupy("127.0.0.1:9090");
    rig.declare("web", "sockets.http = '127.0.0.1:9090'");
    rig.run_for(secs(60));
    assert_eq!((rig.counts().spawns, rig.phase("web")), (1, Some(Phase::Running)));
    assert!(rig.host.can_connect(HTTP));
    rig.host.vacate("127.0.0.1:9090");
    rig.run_until("it listens there", |rig| rig.counts().spawns == 2);
    rig.run_until_phase("web", Phase::Running);
    rig.run_for(secs(1));
    assert!(rig.host.can_connect("127.0.0.1:9090") && !rig.host.can_connect(HTTP));
}

#[test]
fn a_socket_that_gets_another_name_is_never_closed() {
    let mut rig = up(SOCKET);
    rig.declare("web", "sockets.web = '127.0.0.1:8080'");
    open_until(&mut rig, "it was passed on under its new name", |rig| rig.counts().spawns == 2);
    open_until(&mut rig, "it is up", |rig| rig.phase("web") == Some(Phase::Running));
    rig.run_for(secs(1));
    let held = reconcile::host::Host::held_sockets(&rig.host).unwrap();
    assert_eq!(held.keys().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["web"]);
}

#[test]
fn a_lost_keeper_loses_them_which_is_said_until_the_next_start() {
    let mut rig = up(SOCKET);
    rig.host.kill_keeper(Birth::Before);
    rig.run_until("it is said", |rig| {
        rig.status("web").is_some_and(|web| web.drift.iter().any(|drift| drift.code == "socket-not-held"))
    });
    assert!(rig.host.can_connect(HTTP), "its process has it");
    rig.done(Command::Restart { names: names() });
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(rig.counts().spawns, 2);
    assert_eq!(rig.status("web").unwrap().drift, []);
    rig.host.end("web", ExitStatus::Code(1));
    open_until(&mut rig, "it was restarted", |rig| rig.counts().spawns == 3);
}

#[test]
fn a_port_that_is_held_for_a_service_is_its_own() {
    let fields = "ports.http = 8080\nsockets.http = '127.0.0.1:{{ports.http}}'";
    let mut rig = up(fields);
    rig.host.end("web", ExitStatus::Code(1));
    open_until(&mut rig, "it was restarted", |rig| rig.counts().spawns == 2);
    rig.run_until_phase("web", Phase::Running);
}

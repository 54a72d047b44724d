//! Services that run on demand: woken by a connection or by name, shared, and put to sleep again.

use nix::errno::Errno;
use reconcile::host::fake::{Behaviour, Birth};
use reconcile::manifest::ListenOn;
use reconcile::plan::Phase;
use reconcile::reconciler::command::{Answer, Command};
use reconcile::reconciler::selection::Selector;
use reconcile::state::{ExitStatus, SpawnStage};

use crate::rig::{Rig, millis, secs};

const HTTP: &str = "127.0.0.1:8080";
const LAZY: &str = "sockets.http = '127.0.0.1:8080'\nactivation = { on = 'connection', idle = '15m' }";
const ASKED: &str = "activation = { on = 'request', idle = '15m' }";

fn names() -> Vec<Selector> {
    vec!["web".into()]
}

fn ensure() -> Command {
    Command::Ensure { names: names(), timeout: secs(30) }
}

fn asleep(more: &str) -> Rig {
    let mut rig = Rig::with("web", more);
    rig.run_until("it sleeps", |rig| rig.reason("web") == "on-demand");
    rig
}

#[track_caller]
fn ensured(rig: &mut Rig) {
    match rig.ask(ensure()) {
        Answer::Status(status) => {
            assert_eq!(status.services.iter().map(|web| web.name.as_str()).collect::<Vec<_>>(), ["web"]);
            assert!(matches!(status.services[0].phase, Phase::Running | Phase::Ready));
        }
        other => panic!("it is up, not {other:?}"),
    }
}

#[test]
fn the_first_connection_starts_a_service_and_the_others_share_that_start() {
    let mut rig = asleep(LAZY);
    rig.assert_idle_for(secs(3_600));
    assert_eq!((rig.phase("web"), rig.counts().spawns), (Some(Phase::Stopped), 0));
    assert!((0..5).all(|_| rig.host.connect(HTTP)));
    rig.run_until_phase("web", Phase::Running);
    assert!(rig.host.connect(HTTP));
    rig.run_for(secs(60));
    assert_eq!(rig.counts().spawns, 1);
}

#[test]
fn it_sleeps_again_when_nobody_has_connected_for_long_enough() {
    let mut rig = asleep(LAZY);
    rig.host.connect(HTTP);
    rig.run_until_phase("web", Phase::Running);
    rig.run_for(secs(10 * 60));
    rig.host.connect(HTTP);
    rig.run_for(secs(10 * 60));
    assert_eq!(rig.phase("web"), Some(Phase::Running), "it was used meanwhile");
    let took = rig.run_until("it sleeps", |rig| rig.reason("web") == "on-demand");
    assert!(took <= secs(6 * 60), "{took:?}");
    rig.assert_idle_for(secs(3_600));
    assert!(rig.host.connect(HTTP), "it wakes again");
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(rig.counts().spawns, 2);
}

#[test]
fn an_open_connection_is_not_idle() {
    let mut rig = asleep(LAZY);
    rig.host.connect(HTTP);
    rig.run_until_phase("web", Phase::Running);
    rig.host.stay_connected(HTTP, true);
    rig.run_for(secs(3_600));
    assert_eq!((rig.phase("web"), rig.counts().spawns), (Some(Phase::Running), 1));
    rig.host.stay_connected(HTTP, false);
    rig.run_for(secs(16 * 60));
    assert_eq!(rig.reason("web"), "on-demand");
}

#[test]
fn a_reconciler_that_dies_forgets_neither_who_sleeps_nor_who_connects() {
    let mut rig = asleep(LAZY);
    rig.die(Birth::Before);
    rig.run_until("it sleeps", |rig| rig.reason("web") == "on-demand");
    rig.die(Birth::Before);
    rig.host.connect(HTTP);
    rig.run_until_phase("web", Phase::Running);
    rig.host.kill_keeper(Birth::Before);
    rig.run_for(secs(60));
    assert_eq!((rig.phase("web"), rig.counts().spawns), (Some(Phase::Running), 1));
}

#[test]
fn a_lost_keeper_is_replaced_for_those_who_sleep() {
    let mut rig = asleep(LAZY);
    rig.host.kill_keeper(Birth::Before);
    rig.run_until("its socket is open again", |rig| rig.host.can_connect(HTTP));
    rig.run_for(secs(1));
    rig.host.connect(HTTP);
    rig.run_until_phase("web", Phase::Running);
}

#[test]
fn who_waits_for_a_start_that_fails_is_told_at_once_and_not_asked_to_wait_for_the_next() {
    let mut rig = Rig::new();
    rig.host.behave_in_turn(
        "web",
        [Behaviour::default().exec_fails(SpawnStage::Cwd, Errno::ENOENT), Behaviour::default()],
    );
    rig.declare("web", LAZY);
    rig.run_until("it sleeps", |rig| rig.reason("web") == "on-demand");
    rig.host.connect(HTTP);
    rig.host.connect(HTTP);
    rig.run_until("they are told", |rig| rig.host.turned_away().len() == 2);
    assert_eq!(rig.reason("web"), "exec-failed");
    let before = rig.counts().spawns;
    rig.host.connect(HTTP);
    rig.run_until("this one is told as well", |rig| rig.host.turned_away().len() == 3);
    assert_eq!(rig.counts().spawns, before, "the start is not due");
    rig.run_for(secs(120));
    assert_eq!(rig.counts().spawns, before, "nobody asks for it");
    rig.host.connect(HTTP);
    rig.run_until_phase("web", Phase::Running);
}

#[test]
fn one_that_fails_for_good_refuses_who_connects_until_it_has_rested() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exits(millis(10), ExitStatus::Code(1)));
    rig.declare("web", &LAZY.replace("15m", "5m"));
    rig.run_until("it sleeps", |rig| rig.reason("web") == "on-demand");
    rig.host.connect(HTTP);
    rig.run_until_phase("web", Phase::Failed);
    rig.run_for(secs(1));
    assert!(!rig.host.can_connect(HTTP));
    rig.run_until("it sleeps again", |rig| rig.reason("web") == "on-demand");
    rig.run_for(secs(1));
    rig.host.behave("web", Behaviour::default());
    assert!(rig.host.connect(HTTP));
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(rig.failures("web"), 0);
}

#[test]
fn ensure_starts_shares_and_answers() {
    let mut rig = asleep(ASKED);
    rig.assert_idle_for(secs(60));
    ensured(&mut rig);
    ensured(&mut rig);
    assert_eq!(rig.counts().spawns, 1);
    rig.run_for(secs(14 * 60));
    ensured(&mut rig);
    rig.run_for(secs(14 * 60));
    rig.done(Command::Touch { names: names() });
    rig.run_for(secs(14 * 60));
    assert_eq!((rig.phase("web"), rig.counts().spawns), (Some(Phase::Running), 1), "each was a use");
    rig.run_for(secs(2 * 60));
    assert_eq!(rig.reason("web"), "on-demand");
    ensured(&mut rig);
    assert_eq!(rig.counts().spawns, 2);
}

#[test]
fn a_touch_outlives_the_reconciler_that_it_was_told() {
    let mut rig = asleep(ASKED);
    ensured(&mut rig);
    rig.run_for(secs(14 * 60));
    rig.done(Command::Touch { names: names() });
    rig.die(Birth::Before);
    rig.run_for(secs(14 * 60));
    assert_eq!(rig.phase("web"), Some(Phase::Running));
}

#[test]
fn ensure_refuses_what_cannot_be_ready_and_tells_of_a_start_that_fails() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exits(millis(10), ExitStatus::Code(1)));
    rig.declare("web", ASKED);
    rig.run_until("it sleeps", |rig| rig.reason("web") == "on-demand");
    let report = rig.done(ensure());
    assert_eq!((report.converged, report.unwell[0].reason.as_str()), (Some(false), "backoff"));
    rig.run_until_phase("web", Phase::Failed);
    assert_eq!(rig.refused(ensure()).code, "failed");
    rig.host.behave("web", Behaviour::default());
    rig.done(Command::Reset { names: names() });
    rig.run_until_phase("web", Phase::Running);
    rig.done(Command::Stop { names: names() });
    assert_eq!(rig.refused(ensure()).code, "stopped");
    rig.done(Command::Start { names: names() });
    rig.run_until_phase("web", Phase::Running);
    rig.declare("web", &format!("{ASKED}\nstate = 'stopped'"));
    rig.run_until_phase("web", Phase::Stopped);
    assert_eq!(rig.refused(ensure()).code, "declared-stopped");
}

#[test]
fn a_dependency_runs_while_a_service_that_needs_it_does() {
    let mut rig = asleep("activation = { on = 'request', idle = '1m' }");
    rig.declare("app", "depends_on = ['web']");
    rig.run_until_phase("app", Phase::Running);
    rig.run_for(secs(600));
    assert_eq!(rig.phase("web"), Some(Phase::Running));
    rig.done(Command::Stop { names: vec!["app".into()] });
    let took = rig.run_until("it sleeps", |rig| rig.reason("web") == "on-demand");
    assert!(took <= secs(61), "{took:?}");
}

#[test]
fn a_convergence_is_content_with_what_sleeps() {
    let mut rig = asleep(LAZY);
    let report = rig.done(Command::Converge { names: vec![], timeout: secs(30), allow_prune: false });
    assert_eq!((report.converged, report.unwell.len(), report.apart.len()), (Some(true), 0, 0));
    rig.declare("other", "");
    rig.run_until_phase("other", Phase::Running);
    rig.declare("web", &format!("{LAZY}\nenv.A = '1'"));
    rig.run_for(secs(60));
    assert_eq!((rig.reason("web").as_str(), rig.counts().spawns), ("on-demand", 1), "an edit wakes nobody");
}

#[test]
fn one_that_is_no_longer_on_demand_is_started() {
    let mut rig = asleep(ASKED);
    rig.declare("web", "");
    rig.run_until_phase("web", Phase::Running);
    rig.declare("web", &ASKED.replace("15m", "5m"));
    rig.run_for(secs(60));
    assert_eq!((rig.phase("web"), rig.counts().spawns), (Some(Phase::Running), 1), "it is not touched");
    rig.run_until("it sleeps", |rig| rig.reason("web") == "on-demand");
}

const PROXIED: &str = "sockets.http = '127.0.0.1:8080'\nports.own = 'auto'\n\
                       activation = { on = 'connection', idle = '15m', proxy = '{{ports.own}}' }";

#[test]
fn a_program_that_cannot_be_passed_a_socket_is_connected_to_once_it_is_up() {
    let mut rig = asleep(PROXIED);
    rig.host.connect(HTTP);
    rig.run_until_phase("web", Phase::Running);
    rig.run_for(secs(1));
    assert_eq!(rig.host.handed_on_to("web"), Some("127.0.0.1:37100".parse().map(ListenOn::Tcp).unwrap()));
    assert!(!rig.host.environment_of("web").contains_key("LISTEN_FDS"));
    rig.host.stay_connected(HTTP, true);
    rig.run_for(secs(3_600));
    assert_eq!((rig.phase("web"), rig.counts().spawns), (Some(Phase::Running), 1), "somebody is connected");
    rig.host.stay_connected(HTTP, false);
    rig.run_for(secs(16 * 60));
    assert_eq!((rig.reason("web").as_str(), rig.host.handed_on_to("web")), ("on-demand", None));
}

#[test]
fn who_waits_to_be_handed_on_is_told_of_a_start_that_fails() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exits(millis(10), ExitStatus::Code(1)));
    rig.declare("web", PROXIED);
    rig.run_until("it sleeps", |rig| rig.reason("web") == "on-demand");
    rig.host.connect(HTTP);
    rig.run_until_phase("web", Phase::Backoff);
    rig.run_for(millis(100));
    assert_eq!(rig.host.turned_away().len(), 1);
}

#[test]
fn one_that_always_runs_may_be_handed_connections_too() {
    let mut rig = Rig::with("web", "sockets.http = '127.0.0.1:8080'\nactivation.proxy = '9000'");
    rig.run_until_phase("web", Phase::Running);
    rig.run_for(secs(1));
    assert_eq!(rig.host.handed_on_to("web").unwrap().to_string(), "127.0.0.1:9000");
    rig.assert_idle_for(secs(3_600));
}

//! What the operator asks for, and how long it lasts.

use reconcile::host::fake::{Behaviour, Birth, JobScript};
use reconcile::plan::{Action, Phase};
use reconcile::reconciler::command::Command;
use reconcile::reconciler::selection::Selector;
use reconcile::state::ExitStatus;

use crate::rig::{Rig, secs};

fn web() -> Vec<Selector> {
    vec!["web".into()]
}

fn running(more: &str) -> Rig {
    let mut rig = Rig::with("web", more);
    rig.run_until_phase("web", Phase::Running);
    rig
}

#[test]
fn a_stop_survives_edits_deaths_and_reboots_until_start() {
    let mut rig = running("");
    rig.done(Command::Stop { names: web() });
    assert_eq!(rig.phase("web"), Some(Phase::Stopped));
    rig.host.assert_alive(&[]);
    rig.declare("web", "env = { A = \"1\" }");
    rig.run_for(secs(60));
    rig.die(Birth::Never);
    rig.run_for(secs(60));
    rig.reboot();
    rig.run_for(secs(60));
    assert_eq!((rig.phase("web"), rig.counts().spawns), (Some(Phase::Stopped), 1));
    rig.done(Command::Start { names: web() });
    rig.host.assert_alive(&["web"]);
}

#[test]
fn a_stop_ends_when_the_manifest_is_deleted() {
    let mut rig = running("");
    rig.done(Command::Stop { names: web() });
    rig.host.remove("web.toml");
    rig.run_for(secs(60));
    rig.declare("web", "");
    rig.run_for(secs(60));
    rig.host.assert_alive(&["web"]);
}

#[test]
fn a_restart_is_done_once() {
    let mut rig = running("");
    let before = rig.pid("web");
    rig.done(Command::Restart { names: web() });
    assert_ne!(rig.pid("web"), before);
    rig.run_for(secs(600));
    rig.die(Birth::Never);
    rig.run_for(secs(600));
    assert_eq!(rig.counts().spawns, 2);
}

#[test]
fn a_start_of_what_is_declared_stopped_is_refused() {
    let mut rig = Rig::with("web", "state = \"stopped\"");
    rig.run_for(secs(10));
    assert_eq!(rig.phase("web"), Some(Phase::Stopped));
    assert_eq!(rig.refused(Command::Start { names: web() }).code, "declared-stopped");
    assert_eq!(rig.counts().spawns, 0);
}

#[test]
fn an_exit_after_a_stop_never_reaches_the_restart_policy() {
    let mut rig = running("restart.policy = \"always\"");
    rig.host.behave("web", Behaviour::default().obeys_with(ExitStatus::Code(1)));
    rig.done(Command::Restart { names: web() });
    rig.done(Command::Stop { names: web() });
    rig.run_for(secs(600));
    assert_eq!((rig.phase("web"), rig.failures("web")), (Some(Phase::Stopped), 0));
}

#[test]
fn a_stop_command_comes_before_the_signal_and_its_time_is_bounded() {
    let stop = "[service.web.stop]\ncommand = [\"node\", \"stop.js\"]\ngrace = \"5s\"\n";
    let mut rig = Rig::with("web", stop);
    let polite = Behaviour::default().stop_command(JobScript::default().ends_service());
    rig.host.behave_in_turn("web", [polite, Behaviour::default().stop_command(JobScript::hangs())]);
    rig.run_until_phase("web", Phase::Running);
    rig.done(Command::Restart { names: web() });
    let last_exit = rig.status("web").and_then(|status| status.last_exit).expect("it has ended once");
    assert_eq!((last_exit.code, rig.counts().jobs), (Some(0), 1));
    let before = rig.counts().signals;
    let start = rig.now();
    rig.done(Command::Stop { names: web() });
    assert_eq!((rig.counts().jobs, rig.counts().signals - before, rig.counts().kills), (2, 1, 0));
    assert!((secs(5)..secs(6)).contains(&(rig.now() - start)));
    rig.host.assert_alive(&[]);
}

#[test]
fn a_stop_that_was_cut_off_is_finished_by_the_next_reconciler() {
    let mut rig = Rig::with("web", "stop.grace = \"5s\"");
    rig.host.behave("web", Behaviour::default().ignores_term());
    rig.run_until_phase("web", Phase::Running);
    rig.host.remove("web.toml");
    rig.run_until("it is signalled", |rig| rig.counts().signals == 1);
    rig.die(Birth::Never);
    rig.run_for(secs(30));
    rig.host.assert_alive(&[]);
    assert_eq!(rig.counts().kills, 1);
}

#[test]
fn down_stops_everything_and_the_next_watcher_starts_it_again() {
    let mut rig = running("");
    rig.declare("db", "");
    rig.run_for(secs(10));
    rig.done(Command::Down { project: None, purge: true });
    rig.host.assert_alive(&[]);
    assert!(rig.host.logs_are_purged("web"));
    rig.die(Birth::Never);
    rig.run_for(secs(10));
    rig.host.assert_alive(&["db", "web"]);
}

#[test]
fn a_restart_is_done_once_it_is_up_again() {
    let mut rig = running("restart.max_failures = 1");
    let outcome = |rig: &mut Rig| {
        let report = rig.done(Command::Restart { names: vec!["web".into()] });
        let restart = report.steps.into_iter().find(|step| step.action == Action::Restart);
        restart.and_then(|step| step.outcome)
    };
    assert_eq!(outcome(&mut rig).as_deref(), Some("done"));
    rig.host.behave("web", Behaviour::default().exits(secs(0), ExitStatus::Code(3)));
    assert_eq!(outcome(&mut rig).as_deref(), Some("failed"));
    assert_eq!(rig.phase("web"), Some(Phase::Failed));
}

#[test]
fn a_purge_takes_the_logs_of_removed_services_along() {
    let mut rig = running("");
    for name in ["old", "shop-one"] {
        rig.declare(name, "");
    }
    rig.run_for(secs(10));
    rig.host.remove("old.toml");
    rig.run_until("it is forgotten", |rig| rig.phase("old").is_none());
    rig.done(Command::Down { project: Some("default".to_owned()), purge: true });
    for name in ["web", "old", "shop-one"] {
        assert!(rig.host.logs_are_purged(name), "{name}");
    }
}

#[test]
fn labels_choose_whom_a_command_is_about() {
    let mut rig = Rig::new();
    for (name, owner) in [("one", "agent-7"), ("two", "agent-7"), ("three", "agent-8")] {
        rig.declare(name, &format!("labels = {{ owner = '{owner}' }}\n"));
    }
    rig.run_until_phase("three", Phase::Running);
    let of = |owner: &str| Selector::labelled(None, &[format!("owner={owner}").parse().unwrap()]);
    rig.declare("old", "labels = { owner = 'agent-8' }\n");
    rig.run_until_phase("old", Phase::Running);
    rig.host.remove("old.toml");
    rig.run_until("it is forgotten", |rig| rig.phase("old").is_none());
    rig.done(Command::DownSome { names: of("agent-7").into_iter().collect(), purge: true });
    assert!(rig.host.logs_are_purged("one") && !rig.host.logs_are_purged("old"), "only theirs");
    rig.host.assert_alive(&["three"]);
    assert_eq!([rig.phase("one"), rig.phase("two")], [Some(Phase::Stopped); 2]);
    let nobody = of("agent-9").into_iter().collect();
    assert_eq!(
        rig.refused(Command::Stop { names: nobody }).message,
        "no service is meant by -l owner=agent-9"
    );
}

#[test]
fn after_a_reboot_everything_is_started_again() {
    let mut rig = running("");
    rig.reboot();
    rig.run_for(secs(10));
    rig.host.assert_alive(&["web"]);
    assert_eq!((rig.counts().spawns, rig.failures("web")), (2, 0));
}

//! Exits, backoff, the breaker.

use reconcile::host::fake::{Behaviour, Birth, OnSignal};
use reconcile::plan::Phase;
use reconcile::reconciler::command::Command;
use reconcile::reconciler::selection::Selector;
use reconcile::state::{ExitStatus, SpawnStage};

use crate::rig::{Rig, millis, secs};

const CRASH: ExitStatus = ExitStatus::Code(1);

fn names(name: &str) -> Vec<Selector> {
    vec![name.into()]
}

#[test]
fn a_declared_service_runs_and_a_second_pass_does_nothing() {
    let mut rig = Rig::with("web", "");
    rig.run_until_phase("web", Phase::Running);
    rig.run_for(secs(5));
    rig.host.assert_alive(&["web"]);
    assert_eq!(rig.counts().spawns, 1);
    rig.assert_idle_for(secs(3_600));
}

#[test]
fn backoff_doubles_from_crash_to_crash() {
    let mut rig = Rig::with("web", "");
    rig.host.behave("web", Behaviour::default().exits(millis(10), CRASH));
    let mut expected = 1.0;
    for spawns in 1..=6 {
        rig.run_until("it has crashed", |rig| rig.failures("web") == spawns);
        let pause = rig
            .run_until("it is started again", |rig| rig.counts().spawns == spawns as usize + 1)
            .as_secs_f64();
        assert!((expected..=expected * 1.21).contains(&pause), "pause {spawns} lasts {pause} s");
        expected *= 2.0;
    }
}

#[test]
fn eight_failures_in_a_row_park_a_service_until_it_is_reset() {
    let mut rig = Rig::with("web", "");
    rig.host.behave("web", Behaviour::default().exits(millis(10), CRASH));
    rig.run_until_phase("web", Phase::Failed);
    assert_eq!((rig.counts().spawns, rig.failures("web")), (8, 8));
    rig.assert_idle_for(secs(7_200));
    assert_eq!(rig.refused(Command::Start { names: names("web") }).code, "failed");

    rig.host.behave("web", Behaviour::default());
    rig.done(Command::Reset { names: names("web") });
    rig.run_for(secs(5));
    assert_eq!((rig.phase("web"), rig.failures("web")), (Some(Phase::Running), 0));
}

#[test]
fn a_parked_service_stays_parked_for_the_next_reconciler() {
    let mut rig = Rig::with("web", "");
    rig.host.behave("web", Behaviour::default().exits(millis(10), CRASH));
    rig.run_until_phase("web", Phase::Failed);
    rig.die(Birth::Never);
    rig.run_for(secs(600));
    assert_eq!(rig.phase("web"), Some(Phase::Failed));
    assert_eq!(rig.counts().spawns, 8);
}

#[test]
fn a_clean_exit_completes_a_service() {
    let mut rig = Rig::with("job", "");
    rig.host.behave("job", Behaviour::default().exits(secs(5), ExitStatus::Code(0)));
    rig.run_until_phase("job", Phase::Completed);
    rig.assert_idle_for(secs(3_600));
    assert_eq!(rig.counts().spawns, 1);
}

#[test]
fn a_clean_exit_is_restarted_where_the_policy_is_always() {
    let mut rig = Rig::with("job", "restart.policy = \"always\"");
    rig.host.behave_in_turn(
        "job",
        [Behaviour::default().exits(secs(5), ExitStatus::Code(0)), Behaviour::default()],
    );
    rig.run_until("it is started again", |rig| rig.counts().spawns == 2);
    rig.run_for(secs(5));
    rig.host.assert_alive(&["job"]);
}

#[test]
fn a_crash_is_final_where_the_policy_is_never() {
    let mut rig = Rig::with("job", "restart.policy = \"never\"");
    rig.host.behave("job", Behaviour::default().exits(secs(5), CRASH));
    rig.run_for(secs(600));
    assert_eq!(rig.counts().spawns, 1);
    assert_eq!(rig.reason("job"), "not-restarted");
}

#[test]
fn a_service_that_is_stable_has_its_failures_forgiven() {
    let mut rig = Rig::with("web", "");
    let crash = || Behaviour::default().exits(millis(10), CRASH);
    rig.host.behave_in_turn("web", [crash(), crash(), crash(), Behaviour::default()]);
    rig.run_until("it lives after three crashes", |rig| rig.counts().spawns == 4 && rig.failures("web") == 3);
    rig.run_for(secs(90));
    rig.host.end("web", CRASH);
    rig.run_until_phase("web", Phase::Backoff);
    assert_eq!(rig.failures("web"), 1);
}

#[test]
fn a_crash_after_a_long_run_counts_as_the_first() {
    let mut rig = Rig::with("web", "");
    let crash = || Behaviour::default().exits(millis(10), CRASH);
    let long = Behaviour::default().exits(secs(301), CRASH);
    rig.host.behave_in_turn("web", [crash(), crash(), long, Behaviour::default()]);
    rig.run_until("it has crashed three times", |rig| rig.counts().spawns == 3);
    rig.run_until("the long run has crashed", |rig| rig.phase("web") == Some(Phase::Backoff));
    assert_eq!(rig.failures("web"), 1);
}

#[test]
fn suspend_does_not_shorten_a_backoff() {
    let mut rig = Rig::with("web", "restart.backoff = \"20s\"");
    rig.host.behave("web", Behaviour::default().exits(millis(10), CRASH));
    rig.run_until_phase("web", Phase::Backoff);
    rig.host.suspend(secs(3_600));
    rig.run_for(secs(15));
    assert_eq!(rig.counts().spawns, 1);
    rig.run_for(secs(10));
    assert_eq!(rig.counts().spawns, 2);
}

#[test]
fn backoff_goes_on_where_it_was_after_a_death() {
    let mut rig = Rig::with("web", "restart.backoff = \"20s\"");
    rig.host.behave("web", Behaviour::default().exits(millis(10), CRASH));
    rig.run_until_phase("web", Phase::Backoff);
    rig.run_for(secs(10));
    rig.die(Birth::Never);
    let left = rig.run_until("it is started again", |rig| rig.counts().spawns == 2);
    assert!((secs(8)..=secs(15)).contains(&left), "{left:?} later");
}

#[test]
fn what_puts_itself_in_the_background_is_told_to_run_in_the_foreground() {
    let mut rig = Rig::with("web", "");
    rig.host.behave("web", Behaviour::default().backgrounds());
    rig.run_for(secs(30));
    let told = rig.host.records().iter().any(|record| format!("{record:?}").contains("LeftTheForeground"));
    assert!(told, "{}", rig.host.story());
    rig.host.assert_alive(&[]);
}

#[test]
fn what_a_crashed_leader_left_behind_is_ended_before_the_next_start() {
    let mut rig = Rig::with("web", "stop.grace = \"3s\"");
    let crash = Behaviour::default().exits(secs(5), CRASH).forks_descendant(OnSignal::Ignores);
    rig.host.behave_in_turn("web", [crash, Behaviour::default()]);
    rig.run_until("it is started again", |rig| rig.counts().spawns == 2);
    assert_eq!(rig.counts().kills, 1);
    rig.run_for(secs(5));
    rig.host.assert_alive(&["web"]);
}

#[test]
fn a_command_that_cannot_be_executed_is_pending_and_never_a_crash() {
    let mut rig = Rig::with("web", "");
    rig.host.behave("web", Behaviour::default().exec_fails(SpawnStage::Cwd, nix::errno::Errno::ENOENT));
    rig.run_for(secs(600));
    assert_eq!((rig.phase("web"), rig.failures("web")), (Some(Phase::Pending), 0));
    assert_eq!(rig.reason("web"), "exec-failed");
    rig.host.behave("web", Behaviour::default());
    rig.run_until_phase("web", Phase::Running);
}

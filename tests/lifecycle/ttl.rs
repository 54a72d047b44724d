//! Time to live: from the activation, on the clock that counts suspend.

use reconcile::host::fake::{Birth, FakeHost};
use reconcile::plan::Phase;
use reconcile::reconciler::command::Command;

use crate::rig::{Rig, secs};

fn renew() -> Command {
    Command::Renew { names: vec!["web".into()] }
}

fn leased() -> Rig {
    let mut rig = Rig::with("web", "ttl = \"1h\"");
    rig.run_until_phase("web", Phase::Running);
    rig
}

#[test]
fn a_service_expires_when_its_ttl_is_over_and_renew_revives_it() {
    let mut rig = leased();
    rig.run_for(secs(3_590));
    rig.host.assert_alive(&["web"]);
    rig.run_for(secs(20));
    assert_eq!(rig.phase("web"), Some(Phase::Expired));
    rig.host.assert_alive(&[]);
    rig.assert_idle_for(secs(7_200));

    rig.done(renew());
    rig.run_for(secs(3_500));
    rig.host.assert_alive(&["web"]);
    rig.run_for(secs(200));
    assert_eq!(rig.phase("web"), Some(Phase::Expired));
}

#[test]
fn renew_in_time_prolongs_and_touches_nothing() {
    let mut rig = leased();
    let before = rig.pid("web");
    rig.run_for(secs(3_000));
    rig.done(renew());
    rig.run_for(secs(3_500));
    assert_eq!(rig.pid("web"), before);
    rig.run_for(secs(200));
    assert_eq!(rig.phase("web"), Some(Phase::Expired));
}

#[test]
fn suspend_counts_towards_a_ttl() {
    let mut rig = leased();
    rig.host.suspend(secs(3_700));
    rig.run_for(secs(61));
    assert_eq!(rig.phase("web"), Some(Phase::Expired));
}

#[test]
fn a_restart_does_not_prolong_a_ttl() {
    let mut rig = leased();
    rig.run_for(secs(3_000));
    rig.done(Command::Restart { names: vec!["web".into()] });
    rig.run_for(secs(700));
    assert_eq!(rig.phase("web"), Some(Phase::Expired));
}

#[test]
fn an_expired_service_stays_expired_for_the_next_reconciler_and_the_next_boot() {
    let mut rig = leased();
    rig.run_for(secs(3_700));
    rig.die(Birth::Never);
    rig.run_for(secs(120));
    assert_eq!(rig.phase("web"), Some(Phase::Expired));
    rig.reboot();
    rig.run_for(secs(120));
    assert_eq!(rig.phase("web"), Some(Phase::Expired));
    assert_eq!(rig.counts().spawns, 1);
}

const DEFAULT_TTL: &str = "[policy]\ndefault_ttl = \"1h\"\n";

#[test]
fn the_default_ttl_ends_a_service_that_a_guard_holds_too() {
    let mut rig = Rig::under(FakeHost::new(), DEFAULT_TTL);
    rig.declare("web", "");
    rig.run_for(secs(10));
    rig.host.lose_root(FakeHost::ROOT);
    rig.run_for(secs(3_000));
    rig.host.assert_alive(&["web"]);
    rig.run_for(secs(700));
    rig.host.assert_alive(&[]);
}

#[test]
fn a_comment_under_a_default_ttl_is_no_update() {
    let mut rig = Rig::under(FakeHost::new(), DEFAULT_TTL);
    rig.declare("web", "");
    rig.run_for(secs(10));
    rig.declare("web", "# a comment");
    let steps = rig.plan();
    assert!(steps.is_empty(), "{steps:?}");
}

#[test]
fn another_default_ttl_holds_for_what_runs() {
    let mut rig = Rig::under(FakeHost::new(), DEFAULT_TTL);
    rig.declare("web", "");
    rig.run_for(secs(10));
    rig.configure("[policy]\ndefault_ttl = \"2h\"\n");
    rig.run_for(secs(5_000));
    rig.host.assert_alive(&["web"]);
    rig.run_for(secs(3_000));
    rig.host.assert_alive(&[]);
}

//! A disk that is full, a keeper that is gone, a process that cannot be told from a stranger.

use nix::errno::Errno;
use reconcile::host::fake::{Behaviour, Birth, Doubt, Op};
use reconcile::identity::Pid;
use reconcile::plan::Phase;
use reconcile::reconciler::command::Command;
use reconcile::state::ExitStatus;

use crate::rig::{Rig, manifest, secs};

fn running() -> Rig {
    let mut rig = Rig::with("web", "");
    rig.run_for(secs(10));
    rig.host.assert_alive(&["web"]);
    rig
}

#[test]
fn without_an_intent_on_disk_nothing_is_started() {
    let mut rig = running();
    rig.host.fail_always(Op::Append, Errno::ENOSPC);
    rig.declare("db", "");
    rig.host.end("web", ExitStatus::Code(1));
    rig.run_for(secs(300));
    rig.host.assert_alive(&[]);
    rig.host.heal(Op::Append);
    rig.run_for(secs(180));
    rig.host.assert_alive(&["db", "web"]);
}

#[test]
fn a_stop_goes_on_without_the_ledger() {
    let mut rig = running();
    rig.host.fail_always(Op::Append, Errno::ENOSPC);
    rig.host.remove("web.toml");
    rig.run_for(secs(60));
    rig.host.assert_alive(&[]);
}

/// The model says so if anything is forgotten that the ledger on disk still asks about.
#[test]
fn while_the_ledger_cannot_be_written_nothing_on_record_is_forgotten() {
    let mut rig = Rig::with("web", "");
    rig.declare("db", "restart = { policy = \"never\" }");
    rig.run_until("both are asked for", |rig| rig.counts().spawns == 2);
    rig.host.fail_always(Op::Append, Errno::ENOSPC);
    rig.run_for(secs(10));
    rig.host.end("db", ExitStatus::Code(0));
    rig.run_for(secs(200));
    rig.host.heal(Op::Append);
    rig.run_for(secs(200));
    rig.host.assert_alive(&["web"]);
}

#[test]
fn services_outlive_their_keeper() {
    let mut rig = running();
    let before = rig.pid("web");
    rig.host.kill_keeper(Birth::Never);
    rig.run_for(secs(120));
    assert_eq!((rig.pid("web"), rig.counts().spawns), (before, 1));
    rig.host.end("web", ExitStatus::Code(1));
    rig.run_for(secs(60));
    rig.host.assert_alive(&["web"]);
    assert_eq!(rig.counts().spawns, 2);
}

#[test]
fn a_crash_after_the_death_of_the_keeper_is_seen_at_once() {
    let mut rig = running();
    rig.host.kill_keeper(Birth::Never);
    rig.run_for(secs(1));
    rig.host.end("web", ExitStatus::Code(1));
    let took = rig.run_until("it is started again", |rig| rig.counts().spawns == 2);
    assert!(took < secs(2), "after {took:?}");
}

#[test]
fn a_spawn_that_the_keeper_took_with_it_is_asked_for_again() {
    for births in [Birth::Before, Birth::Never] {
        let mut rig = Rig::with("web", "");
        let slow = Behaviour::default().spawn_delay(secs(20));
        rig.host.behave_in_turn("web", [slow, Behaviour::default()]);
        rig.run_until("it is asked for", |rig| rig.counts().spawns == 1);
        rig.host.kill_keeper(births);
        rig.run_for(secs(180));
        rig.host.assert_alive(&["web"]);
    }
}

#[test]
fn a_process_that_cannot_be_verified_is_held_and_nothing_starts_in_its_place() {
    for doubt in [Doubt::Unverifiable, Doubt::ContainmentLost, Doubt::KeeperUnresponsive] {
        let mut rig = running();
        rig.host.make_unverifiable("web", doubt);
        rig.run_for(secs(61));
        assert_eq!(rig.phase("web"), Some(Phase::Held), "{doubt:?}");
        rig.declare("web", "env = { A = \"1\" }");
        rig.run_for(secs(600));
        assert_eq!((rig.counts().spawns, rig.counts().signals, rig.counts().kills), (1, 0, 0), "{doubt:?}");
        rig.host.make_verifiable("web");
        rig.run_for(secs(120));
        assert_eq!(rig.phase("web"), Some(Phase::Running), "{doubt:?}");
        assert_eq!(rig.counts().spawns, 2, "{doubt:?}");
    }
}

#[test]
fn what_could_not_be_looked_at_for_want_of_descriptors_is_looked_at_again_soon() {
    let mut rig = running();
    rig.host.make_unverifiable("web", Doubt::OutOfDescriptors);
    rig.run_for(secs(61));
    assert_eq!((rig.phase("web"), rig.reason("web")), (Some(Phase::Held), "out-of-descriptors".to_owned()));
    rig.host.make_verifiable("web");
    rig.run_for(secs(2));
    assert_eq!(rig.phase("web"), Some(Phase::Running));
}

#[test]
fn a_held_service_is_let_go_of_by_hand() {
    let mut rig = running();
    rig.host.make_unverifiable("web", Doubt::ContainmentLost);
    rig.run_for(secs(61));
    rig.host.end("web", ExitStatus::Code(1));
    rig.host.make_verifiable("web");
    rig.done(Command::Forget { name: "web".into(), more: vec![] });
    rig.run_for(secs(60));
    rig.host.assert_alive(&["web"]);
}

#[test]
fn a_held_service_shows_no_process_that_is_gone() {
    let mut rig = running();
    rig.host.make_unverifiable("web", Doubt::ContainmentLost);
    rig.run_for(secs(61));
    let shown =
        |rig: &Rig| rig.status("web").map(|web| (web.phase, web.pid.is_some(), web.uptime_s.is_some()));
    assert_eq!(shown(&rig), Some((Phase::Held, true, true)));
    rig.host.end("web", ExitStatus::Code(1));
    assert_eq!(shown(&rig), Some((Phase::Held, false, false)));
}

#[test]
fn a_stranger_with_the_pid_of_a_service_is_never_signalled() {
    let mut rig = running();
    let pid: Pid = rig.pid("web");
    let next = rig.host.reconciler_dies(Birth::Never);
    next.end("web", ExitStatus::Code(1));
    next.add_stranger(pid);
    next.remove("web.toml");
    rig = Rig::over(next);
    rig.run_for(secs(60));
    assert_eq!((rig.counts().signals, rig.counts().kills), (0, 0));
    assert_eq!(rig.phase("web"), None);
}

#[test]
fn an_exit_that_nobody_saw_is_judged_by_its_status() {
    let mut rig = Rig::with("job", "");
    rig.run_for(secs(10));
    let next = rig.host.reconciler_dies(Birth::Never);
    next.end("job", ExitStatus::Code(0));
    next.advance(secs(3_600));
    rig = Rig::over(next);
    rig.run_for(secs(60));
    assert_eq!((rig.phase("job"), rig.counts().spawns), (Some(Phase::Completed), 1));
}

#[test]
fn an_executable_that_is_gone_is_pending_until_it_returns() {
    let mut rig = running();
    rig.host.remove_executable("node");
    rig.host.end("web", ExitStatus::Code(1));
    rig.run_for(secs(300));
    assert_eq!(rig.phase("web"), Some(Phase::Pending));
    rig.host.replace_executable("node");
    rig.run_for(secs(120));
    rig.host.assert_alive(&["web"]);
}

#[test]
fn without_a_descriptor_to_look_at_executables_what_runs_goes_on() {
    let check = "[service.web.health]\ncommand = [\"node\", \"check.js\"]\nretries = 1\ninterval = \"10s\"\n";
    let mut rig = Rig::with("web", check);
    rig.run_until_phase("web", Phase::Ready);
    rig.host.fail_always(Op::Resolve, Errno::ENFILE);
    rig.run_for(secs(300));
    assert_eq!((rig.counts().spawns, rig.phase("web")), (1, Some(Phase::Ready)));
    assert_eq!((rig.counts().signals, rig.counts().kills), (0, 0));
}

#[test]
fn a_directory_that_is_gone_restarts_nothing_and_is_waited_for() {
    let mut rig = running();
    rig.host.lose_directory("/srv/app/sub", true);
    rig.declare("web", "cwd = \"sub\"");
    rig.run_for(secs(120));
    rig.host.assert_alive(&["web"]);
    assert_eq!((rig.counts().spawns, rig.problem_codes("web.toml")), (1, vec!["no-directory".to_owned()]));
    rig.declare("new", "cwd = \"sub\"");
    rig.run_for(secs(120));
    assert_eq!((rig.phase("new"), rig.counts().spawns), (Some(Phase::Pending), 1));
    rig.host.lose_directory("/srv/app/sub", false);
    rig.run_for(secs(120));
    rig.host.assert_alive(&["new", "web"]);
    assert_eq!(rig.counts().spawns, 3);
}

#[test]
fn an_executable_that_was_replaced_is_shown_as_drift_and_restarts_nothing() {
    let mut rig = running();
    rig.host.replace_executable("node");
    rig.run_for(secs(300));
    assert_eq!(rig.counts().spawns, 1);
    let drift: Vec<String> =
        rig.status("web").expect("it is listed").drift.into_iter().map(|drift| drift.code).collect();
    assert_eq!(drift, ["exe-changed"]);
}

#[test]
fn what_survives_sigkill_holds_up_no_other_service() {
    let mut rig = Rig::with("web", "stop.grace = \"1s\"");
    rig.host.behave("web", Behaviour::default().unkillable());
    rig.run_for(secs(10));
    rig.host.remove("web.toml");
    rig.run_for(secs(60));
    rig.declare("db", "");
    rig.run_for(secs(10));
    rig.host.assert_alive(&["db", "web"]);
    rig.host.end("web", ExitStatus::Signal(9));
    rig.run_for(secs(10));
    rig.host.assert_alive(&["db"]);
}

#[test]
fn a_process_is_found_by_its_intent_where_the_ledger_has_lost_what_came_after() {
    for lost in 1..=2 {
        let mut rig = running();
        let before = rig.pid("web");
        rig.host.lose_ledger_tail(lost);
        rig.die(Birth::Never);
        rig.run_for(secs(60));
        assert_eq!((rig.pid("web"), rig.counts().spawns), (before, 1), "{lost} records lost");
    }
}

#[test]
fn a_text_that_cannot_be_kept_is_not_in_force() {
    let mut rig = running();
    let before = rig.pid("web");
    rig.host.fail_always(Op::KeepText, Errno::ENOSPC);
    rig.declare("web", "env = { A = \"1\" }");
    rig.declare("db", "");
    rig.run_for(secs(200));
    assert_eq!((rig.pid("web"), rig.counts().spawns), (before, 1));
    assert!(rig.problem_codes("web.toml").contains(&"ledger-unwritable".to_owned()));
    rig.host.heal(Op::KeepText);
    rig.run_for(secs(70));
    rig.host.assert_alive(&["db", "web"]);
    assert_ne!(rig.pid("web"), before);
    assert!(rig.problem_codes("web.toml").is_empty());
}

#[test]
fn a_start_that_could_not_be_put_down_is_made_soon_after_the_disk_has_room() {
    let mut rig = running();
    rig.host.end("web", ExitStatus::Code(1));
    rig.run_until_phase("web", Phase::Backoff);
    // Everything is written by now, and nothing but the next start is to be.
    rig.host.fail_always(Op::Append, Errno::ENOSPC);
    rig.run_for(secs(5));
    assert_eq!((rig.phase("web"), rig.reason("web").as_str()), (Some(Phase::Pending), "ledger-unwritable"));
    rig.host.heal(Op::Append);
    let took = rig.run_until("it is started", |rig| rig.counts().spawns == 2);
    assert!(took < secs(10), "after {took:?}");
    assert_eq!(rig.failures("web"), 1);
}

#[test]
fn a_new_service_whose_text_cannot_be_kept_is_pending_and_started_soon_after_there_is_room() {
    let mut rig = running();
    rig.host.fail_always(Op::KeepText, Errno::ENOSPC);
    rig.declare("db", "");
    rig.declare("web", "env = { A = \"1\" }");
    rig.run_for(secs(5));
    assert_eq!((rig.phase("db"), rig.reason("db").as_str()), (Some(Phase::Pending), "ledger-unwritable"));
    assert_eq!(rig.counts().spawns, 1, "what runs goes on by its last text");
    rig.host.heal(Op::KeepText);
    let took = rig.run_until("both are started", |rig| rig.counts().spawns == 3);
    assert!(took < secs(10), "after {took:?}");
    rig.run_for(secs(5));
    rig.host.assert_alive(&["db", "web"]);
}

/// As often as it was found full at first would be a write every few seconds, for hours.
#[test]
fn a_disk_that_stays_full_is_tried_less_and_less_often() {
    let mut rig = running();
    rig.host.fail_always(Op::KeepText, Errno::ENOSPC);
    rig.declare("db", "");
    rig.run_for(secs(1_000));
    rig.host.heal(Op::KeepText);
    let took = rig.run_until("it is started", |rig| rig.counts().spawns == 2);
    assert!(took <= secs(61), "after {took:?}");
}

#[test]
fn a_service_that_moves_to_a_text_that_cannot_be_kept_goes_on() {
    let mut rig = running();
    let before = rig.pid("web");
    rig.host.fail_always(Op::KeepText, Errno::ENOSPC);
    rig.host.remove("web.toml");
    rig.host.write("site.toml", &manifest("web", "description = \"moved\""));
    rig.run_for(secs(200));
    assert_eq!((rig.pid("web"), rig.counts().signals), (before, 0));
}

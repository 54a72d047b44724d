//! Probes: ready, unhealthy, and the deadline of a start.

use nix::errno::Errno;
use reconcile::host::fake::{Behaviour, Birth, Op};
use reconcile::plan::Phase;

use crate::rig::{Rig, millis, secs};

const HEALTH: &str = "[service.web.health]\nurl = \"http://127.0.0.1:8080/\"\n";

fn checked(more: &str) -> Rig {
    Rig::with("web", &format!("{HEALTH}{more}"))
}

#[test]
fn a_service_is_ready_once_it_answers() {
    let mut rig = checked("");
    rig.host.behave("web", Behaviour::default().healthy_after(secs(7)));
    let took = rig.run_until_phase("web", Phase::Ready);
    assert!((secs(7)..secs(8)).contains(&took), "after {took:?}");
    rig.assert_idle_for(secs(3_600));
}

#[test]
fn a_service_that_is_not_ready_in_time_has_failed() {
    let mut rig = checked("start_timeout = \"5s\"\n");
    rig.host.behave("web", Behaviour::default().healthy_after(secs(3_600)));
    rig.run_until("the first start has failed", |rig| rig.failures("web") == 1);
    assert_eq!(rig.host.leader("web"), None);
    rig.run_until_phase("web", Phase::Failed);
    assert_eq!((rig.counts().spawns, rig.failures("web")), (8, 8));
}

#[test]
fn a_service_that_hangs_is_restarted() {
    let mut rig = checked("interval = \"10s\"\n");
    rig.host.behave_in_turn("web", [Behaviour::default().unhealthy_at(secs(60)), Behaviour::default()]);
    rig.run_until_phase("web", Phase::Ready);
    let before = rig.pid("web");
    rig.run_until("it was restarted", |rig| rig.counts().spawns == 2);
    rig.run_until_phase("web", Phase::Ready);
    assert_ne!(rig.pid("web"), before);
    rig.run_for(secs(600));
    assert_eq!(rig.counts().spawns, 2);
}

#[test]
fn a_service_that_is_to_be_reported_is_unhealthy_and_left_alone() {
    let mut rig = checked("on_unhealthy = \"report\"\n");
    rig.run_until_phase("web", Phase::Ready);
    let before = rig.pid("web");
    rig.host.probes_say("web", Err("status 500".to_owned()));
    rig.run_until_phase("web", Phase::Unhealthy);
    rig.assert_idle_for(secs(600));
    assert_eq!(rig.pid("web"), before);
    rig.host.probes_say("web", Ok(()));
    rig.run_until_phase("web", Phase::Ready);
}

#[test]
fn two_failed_probes_of_three_are_no_reason_to_restart() {
    let mut rig = checked("interval = \"10s\"\n");
    rig.run_until_phase("web", Phase::Ready);
    rig.run_for(secs(60));
    rig.host.probes_say("web", Err("status 500".to_owned()));
    let probes = rig.counts().probes;
    rig.run_until("two probes are on their way", |rig| rig.counts().probes == probes + 2);
    rig.run_for(secs(1));
    rig.host.probes_say("web", Ok(()));
    rig.run_for(secs(120));
    assert_eq!((rig.counts().spawns, rig.phase("web")), (1, Some(Phase::Ready)));
}

#[test]
fn a_probe_that_hangs_costs_its_timeout_and_no_other_service_waits_for_it() {
    let mut rig = checked("timeout = \"30s\"\nstart_timeout = \"10m\"\n");
    rig.host.behave("web", Behaviour::default().probe_hangs());
    rig.run_for(secs(5));
    rig.declare("db", "");
    let took = rig.run_until_phase("db", Phase::Running);
    assert!(took < secs(3), "after {took:?}");
}

#[test]
fn a_health_command_runs_beside_its_service() {
    let mut rig = Rig::with("web", "[service.web.health]\ncommand = [\"node\", \"check.js\"]\n");
    rig.host.behave("web", Behaviour::default().healthy_after(secs(3)));
    rig.run_until_phase("web", Phase::Ready);
    assert!(rig.counts().jobs > 1);
    assert_eq!(rig.counts().probes, 0);
}

#[test]
fn a_check_that_is_cut_off_by_the_keepers_death_is_no_verdict() {
    let check = "[service.web.health]\ncommand = [\"node\", \"check.js\"]\nretries = 1\ninterval = \"10s\"\n";
    let mut rig = Rig::with("web", check);
    rig.host.behave("web", Behaviour::default().probe_latency(secs(1)));
    rig.run_until_phase("web", Phase::Ready);
    let before = rig.counts().jobs;
    rig.run_until("a check is on its way", |rig| rig.counts().jobs > before);
    rig.host.kill_keeper(Birth::Never);
    rig.run_for(millis(500));
    assert_eq!(rig.phase("web"), Some(Phase::Ready));
    rig.run_for(secs(60));
    assert!(rig.counts().jobs > before + 4, "{}", rig.host.story());
    assert_eq!((rig.counts().spawns, rig.phase("web")), (1, Some(Phase::Ready)));
}

fn drift(rig: &Rig) -> Vec<String> {
    rig.status("web").expect("it is listed").drift.into_iter().map(|drift| drift.code).collect()
}

#[test]
fn a_probe_for_which_the_machine_had_no_descriptor_is_no_verdict() {
    for errno in [Errno::EMFILE, Errno::ENFILE] {
        let mut rig = checked("interval = \"10s\"\nretries = 1\n");
        rig.run_until_phase("web", Phase::Ready);
        rig.host.fail_always(Op::Probe, errno);
        rig.run_for(secs(300));
        assert_eq!((rig.counts().spawns, rig.phase("web")), (1, Some(Phase::Ready)), "{errno}");
        assert_eq!(drift(&rig), ["check-not-made"]);
        rig.host.heal(Op::Probe);
        rig.run_for(secs(20));
        assert_eq!(drift(&rig), [""; 0]);
        rig.host.probes_say("web", Err("status 500".to_owned()));
        rig.run_until("it is judged again", |rig| rig.counts().spawns == 2);
    }
}

#[test]
fn a_health_command_for_which_the_machine_had_no_process_is_no_verdict() {
    let check = "[service.web.health]\ncommand = [\"node\", \"check.js\"]\nretries = 1\ninterval = \"10s\"\n";
    let mut rig = Rig::with("web", check);
    rig.run_until_phase("web", Phase::Ready);
    rig.host.fail_always(Op::Probe, Errno::EAGAIN);
    rig.run_for(secs(300));
    assert_eq!((rig.counts().spawns, rig.phase("web")), (1, Some(Phase::Ready)));
    assert_eq!(drift(&rig), ["check-not-made"]);
    // One that is not there is the manifest's own mistake.
    rig.host.fail_always(Op::Probe, Errno::ENOENT);
    rig.run_until("it is judged again", |rig| rig.counts().spawns == 2);
}

#[test]
fn a_service_that_could_not_be_probed_in_time_is_not_late() {
    let mut rig = checked("start_timeout = \"5s\"\n");
    rig.host.fail_always(Op::Probe, Errno::ENFILE);
    rig.run_for(secs(60));
    assert_eq!((rig.phase("web"), rig.failures("web")), (Some(Phase::Starting), 0));
    rig.host.heal(Op::Probe);
    rig.run_until_phase("web", Phase::Ready);
}

//! How processes are born and end.

use super::*;

#[test]
fn a_process_obeys_term_after_its_delay() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().obeys_after(secs(2)));
    let claim = rig.start("web");
    let before = rig.host.now();
    rig.host.signal(&claim, TERM, SignalTo::Leader);
    let events = rig.wait();
    assert!(matches!(events[0], Event::Exited { status: Some(ExitStatus::Signal(TERM)), others: false, .. }));
    assert_eq!(rig.host.now().awake_ms - before.awake_ms, 2_000);
}

#[test]
fn what_ignores_term_ends_by_kill_with_all_of_it() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().ignores_term().forks_descendant(OnSignal::Ignores));
    let claim = rig.start("web");
    rig.host.signal(&claim, TERM, SignalTo::Group);
    assert_eq!(rig.wait_at_most(60_000), []);
    rig.host.kill(&claim);
    let events = rig.wait();
    assert!(matches!(events[0], Event::Exited { status: Some(ExitStatus::Signal(9)), others: false, .. }));
    assert_eq!(events[1..], [Event::Gone { nonce: claim.nonce }]);
    rig.host.assert_alive(&[]);
}

#[test]
fn a_descendant_outlives_its_leader_until_it_is_killed() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().backgrounds());
    let claim = rig.start("web");
    let exited = Event::Exited { nonce: claim.nonce.clone(), status: Some(code(0)), others: true };
    assert_eq!(rig.wait(), [exited]);
    assert_eq!(rig.host.population(), [("web".to_owned(), 1)]);
    assert_eq!(rig.host.leader("web"), None);
    rig.host.kill(&claim);
    assert_eq!(rig.wait(), [Event::Gone { nonce: claim.nonce }]);
}

#[test]
fn a_signal_to_the_group_reaches_descendants() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().forks_descendant(OnSignal::Obeys(secs(1))));
    let claim = rig.start("web");
    rig.host.signal(&claim, TERM, SignalTo::Group);
    assert!(matches!(rig.wait()[..], [Event::Exited { others: true, .. }]));
    assert_eq!(rig.wait(), [Event::Gone { nonce: claim.nonce }]);
}

#[test]
fn the_unkillable_is_reported_with_its_pids_and_lives_on() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().unkillable());
    let claim = rig.start("web");
    rig.host.kill(&claim);
    let pid = claim.process.as_ref().unwrap().pid;
    assert_eq!(rig.wait(), [Event::Unkillable { nonce: claim.nonce.clone(), pids: vec![pid] }]);
    rig.host.end("web", ExitStatus::Signal(9));
    assert!(matches!(rig.wait()[..], [Event::Exited { .. }, Event::Gone { .. }]));
}

#[test]
fn each_start_has_its_own_behaviour_and_the_last_one_stays() {
    let mut rig = Rig::new();
    rig.host.behave_in_turn("web", [Behaviour::default().exits(secs(1), code(1)), Behaviour::default()]);
    rig.start("web");
    assert!(matches!(rig.wait()[..], [Event::Exited { .. }, Event::Gone { .. }]));
    for _ in 0..2 {
        let claim = rig.start("web");
        assert_eq!(rig.wait_at_most(60_000), []);
        rig.host.kill(&claim);
        rig.wait();
    }
}

#[test]
fn an_exec_failure_names_its_stage() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exec_fails(SpawnStage::Cwd, Errno::ENOENT));
    let claim = rig.spawn("web");
    let events = rig.wait();
    let [Event::SpawnFailed { failure, .. }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((failure.stage, failure.errno), (SpawnStage::Cwd, libc::ENOENT));
    assert_eq!(rig.found(&claim), Found::NeverBorn);
}

#[test]
fn an_executable_that_was_replaced_since_the_check_is_not_executed() {
    let mut rig = Rig::new();
    rig.spawn("web");
    rig.host.replace_executable("node");
    let events = rig.wait();
    let [Event::SpawnFailed { failure, .. }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(failure.stage, SpawnStage::ExecChanged);
}

#[test]
fn a_replaced_executable_leaves_what_runs_with_the_old_one() {
    let mut rig = Rig::new();
    let claim = rig.start("web");
    let process = claim.process.unwrap();
    let before = rig.executable(&process);
    rig.host.replace_executable("node");
    let after = rig.executable(&process);
    assert_eq!(after.inode, before.inode);
    assert_eq!(after.path, Path::new("/usr/bin/node (deleted)"));
    assert_ne!(rig.request("web").exec.file, before);
}

#[test]
fn a_kill_of_a_spawn_in_flight_cancels_it() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().spawn_delay(secs(100)));
    let claim = rig.spawn("web");
    assert_eq!(rig.found(&claim), Found::InFlight);
    rig.host.kill(&claim);
    assert_eq!(rig.wait(), [Event::Gone { nonce: claim.nonce }]);
    assert_eq!(rig.wait_at_most(200_000), []);
    rig.host.assert_alive(&[]);
}

#[test]
fn a_reused_pid_does_not_count_as_alive() {
    let mut rig = Rig::new();
    let claim = rig.start("web");
    let pid = claim.process.as_ref().unwrap().pid;
    rig.host = rig.host.reconciler_dies(Birth::Never);
    rig.host.end("web", code(1));
    rig.host.reuse_pid(pid);
    let other = rig.start("api");
    assert_eq!(other.process.as_ref().unwrap().pid, pid);
    assert!(matches!(rig.found(&claim), Found::Ended { others: false, .. }));
    assert_eq!(rig.found(&other), Found::Alive { born: None });
}

#[test]
fn a_service_is_held_together_by_a_cgroup_where_there_are_some() {
    let mut rig = Rig::new();
    assert!(matches!(rig.start("web").containment, Some(Containment::Holder { .. })));
    rig.host.use_cgroups();
    assert!(matches!(rig.start("api").containment, Some(Containment::Cgroup { .. })));
}

#[test]
fn a_script_runs_as_its_interpreter() {
    let mut rig = Rig::new();
    rig.host.make_script("node", "python3");
    let claim = rig.start("web");
    assert_eq!(rig.executable(&claim.process.unwrap()).path, Path::new("/usr/bin/python3"));
}

//! Time, files, the ledger, and the deaths of reconciler and keeper.

use super::*;

#[test]
fn time_passes_only_as_far_as_the_next_event() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exits(secs(30), code(3)));
    let claim = rig.start("web");
    let before = rig.host.now();
    assert_eq!(rig.wait_at_most(10_000), []);
    assert_eq!(rig.host.now().awake_ms - before.awake_ms, 10_000);
    let events = rig.wait_at_most(60_000);
    assert_eq!(rig.host.now().awake_ms - before.awake_ms, 30_000);
    let nonce = claim.nonce;
    let exited = Event::Exited { nonce: nonce.clone(), status: Some(code(3)), others: false };
    assert_eq!(events, [exited, Event::Gone { nonce }]);
}

#[test]
#[should_panic(expected = "nothing will ever happen")]
fn waiting_for_ever_with_nothing_to_come_is_a_failure() {
    Rig::new().wait();
}

#[test]
#[should_panic(expected = "the reconciler spins")]
fn waiting_again_and_again_in_one_instant_is_a_failure() {
    let mut rig = Rig::new();
    loop {
        rig.wait_at_most(0);
    }
}

#[test]
fn an_exit_that_no_reconciler_saw_is_in_the_journal_of_exits() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exits(secs(10), code(7)));
    let claim = rig.start("web");
    rig.host = rig.host.reconciler_dies(Birth::Never);
    rig.host.advance(secs(60));
    let Found::Ended { status, at, others, other_boot, born } = rig.found(&claim) else {
        panic!("{}", rig.host.story());
    };
    assert_eq!((status, others, other_boot, born), (Some(code(7)), false, false, None));
    assert_eq!(rig.host.now().since(&at.unwrap(), crate::time::Clock::Awake), secs(50));
}

#[test]
fn a_new_reconciler_hears_of_a_run_once_it_has_looked_at_it() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exits(secs(10), code(7)));
    let claim = rig.start("web");
    rig.host = rig.host.reconciler_dies(Birth::Never);
    assert_eq!(rig.found(&claim), Found::Alive { born: None });
    assert!(matches!(rig.wait()[..], [Event::Exited { .. }, Event::Gone { .. }]));
}

#[test]
fn a_spawn_in_flight_when_the_reconciler_dies_ends_as_chosen() {
    for births in [Birth::Before, Birth::After, Birth::TooLate, Birth::Never] {
        let mut rig = Rig::new();
        let claim = rig.spawn("web");
        rig.host = rig.host.reconciler_dies(births);
        let found = rig.found(&claim);
        match births {
            Birth::Before => assert!(matches!(found, Found::Alive { born: Some(_) })),
            Birth::Never => assert_eq!(found, Found::NeverBorn),
            Birth::After => {
                assert_eq!(found, Found::InFlight);
                assert!(matches!(rig.wait()[..], [Event::Spawned { .. }]));
            }
            Birth::TooLate => {
                assert_eq!(found, Found::NeverBorn);
                assert!(matches!(rig.wait()[..], [Event::SpawnFailed { .. }]));
                rig.host.assert_alive(&[]);
            }
        }
    }
}

#[test]
fn without_its_keeper_how_a_service_ends_is_unknown() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exits(secs(10), code(7)));
    let claim = rig.start("web");
    rig.host.kill_keeper(Birth::Never);
    assert_eq!(rig.wait(), [Event::KeeperLost]);
    assert_eq!(rig.found(&claim), Found::Alive { born: None });
    assert!(matches!(rig.wait()[0], Event::Exited { status: None, .. }));
}

#[test]
fn a_service_of_the_next_keeper_is_seen_to_end() {
    let mut rig = Rig::new();
    rig.host.kill_keeper(Birth::Never);
    rig.wait();
    rig.host.behave("web", Behaviour::default().exits(secs(10), code(7)));
    rig.start("web");
    assert!(matches!(rig.wait()[0], Event::Exited { status: Some(ExitStatus::Code(7)), .. }));
}

#[test]
fn after_a_reboot_nothing_lives_and_claims_are_of_another_boot() {
    let mut rig = Rig::new();
    let claim = rig.start("web");
    rig.host = rig.host.reboot(secs(30));
    rig.host.assert_alive(&[]);
    assert!(matches!(rig.found(&claim), Found::Ended { other_boot: true, status: None, .. }));
}

#[test]
fn suspend_lets_nothing_happen() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exits(secs(10), code(7)));
    rig.start("web");
    rig.host.suspend(secs(3_600));
    let before = rig.host.now();
    rig.wait();
    assert_eq!(rig.host.now().awake_ms - before.awake_ms, 10_000);
}

#[test]
fn file_changes_are_told_unless_they_are_lost() {
    let mut rig = Rig::new();
    rig.host.write("web.toml", "");
    let path = Path::new(FakeHost::ROOT).join("web.toml");
    assert_eq!(rig.wait_at_most(0), [Event::Changed(Dirty::Paths(vec![path]))]);
    rig.host.lose_file_events();
    rig.host.write("db.toml", "");
    assert_eq!(rig.wait_at_most(1_000), []);
    let scans = rig.host.scan(&Dirty::Everything);
    assert_eq!(scans[0].listing.as_ref().unwrap().files.len(), 2);
}

#[test]
fn an_append_that_fails_stores_nothing() {
    let mut rig = Rig::new();
    rig.host.fail_next(Op::Append, Errno::ENOSPC);
    let record = Record::Deactivated { service: ServiceId::parse("web").unwrap() };
    let error = rig.host.append(std::slice::from_ref(&record)).unwrap_err();
    assert_eq!(error.source.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!((rig.host.records().len(), rig.host.counts().appends), (0, 0));
    rig.host.append(std::slice::from_ref(&record)).unwrap();
    assert_eq!(rig.host.records(), [record]);
}

#[test]
fn a_reconciler_is_killed_between_two_calls() {
    let mut rig = Rig::new();
    rig.host.die_after(2);
    let outcome = FakeHost::until_killed(|| rig.start("web"));
    assert_eq!(outcome.unwrap_err(), Killed);
    assert_eq!(rig.host.counts().spawns, 0, "killed after text and intent");
    assert_eq!(rig.host.ledger().services.len(), 1);
    let mut next = rig.host.reconciler_dies(Birth::Never);
    next.append(&[]).unwrap();
}

#[test]
fn what_is_shut_out_by_the_epoch_is_no_obstacle_to_the_next_start() {
    let mut rig = Rig::new();
    rig.host.behave_in_turn("web", [Behaviour::default().spawn_delay(secs(10)), Behaviour::default()]);
    let claim = rig.spawn("web");
    rig.host = rig.host.reconciler_dies(Birth::TooLate);
    assert_eq!(rig.found(&claim), Found::NeverBorn);
    rig.start("web");
    assert!(matches!(rig.wait()[..], [Event::SpawnFailed { .. }]));
    rig.host.assert_alive(&["web"]);
}

#[test]
fn the_end_of_a_run_is_told_again_to_whoever_attaches() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exits(secs(10), code(7)));
    let claim = rig.start("web");
    rig.host = rig.host.reconciler_dies(Birth::Never);
    rig.host.advance(secs(60));
    assert!(matches!(rig.found(&claim), Found::Ended { .. }));
    assert!(matches!(rig.wait()[..], [Event::Exited { .. }, Event::Gone { .. }]));
    assert!(matches!(rig.found(&claim), Found::Ended { .. }));
    assert_eq!(rig.wait_at_most(1_000), []);
}

#[test]
fn a_reconciler_that_waits_is_woken_by_stale_news() {
    let mut rig = Rig::new();
    let claim = rig.start("web");
    rig.host.wake_after(secs(5));
    let before = rig.host.now();
    let events = rig.wait();
    let [Event::Gone { nonce }] = events.as_slice() else { panic!("{events:?}") };
    assert_ne!(*nonce, claim.nonce);
    assert_eq!(rig.host.now().awake_ms - before.awake_ms, 5_000);
}

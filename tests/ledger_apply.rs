//! What each record does to what is remembered, in order and out of it.

mod ledger_samples;

use std::collections::BTreeSet;

use ledger_samples::*;
use proptest::prelude::*;
use proptest::sample::select;
use reconcile::identity::ServiceId;
use reconcile::manifest::{PortBlock, PortBlocks};
use reconcile::state::{
    End, Entry, ExitStatus, Intent, Ledger, Reason, Record, Request, RootKey, SpawnStage, decode_journal,
};

fn after(records: &[Record]) -> Ledger {
    Ledger::replay(records)
}

fn web(records: &[Record]) -> Entry {
    after(records).entry(&service("web")).cloned().expect("`web` is remembered")
}

fn start(n: u64, seconds: u64) -> [Record; 2] {
    [Record::Intent(Box::new(intent("web", n, seconds))), started("web", n, seconds + 1)]
}

fn crash(n: u64, failures: u32, seconds: u64) -> [Record; 2] {
    [exited("web", n, failures, seconds), gone("web", n)]
}

fn intent_of(change: impl FnOnce(&mut Intent), n: u64) -> Record {
    let mut intent = intent("web", n, 0);
    change(&mut intent);
    Record::Intent(Box::new(intent))
}

#[test]
fn a_root_is_known_by_its_key() {
    let root = |path: &str, inode| Record::Root {
        key: RootKey("r1".into()),
        path: path.into(),
        dev: 1,
        inode,
        born_ns: None,
    };
    let ledger = after(&[root("/a", 5), root("/b", 5)]);
    assert_eq!(ledger.roots.len(), 1);
    assert_eq!(ledger.roots[&RootKey("r1".into())].path.to_str(), Some("/b"));
}

#[test]
fn a_service_belongs_to_the_file_that_declared_it_last() {
    let moved = after(&[accepted("a.toml", &["web", "db"]), accepted("b.toml", &["web"])]);
    assert_eq!(moved.services[&service("web")].file, Some(file("b.toml")));
    assert_eq!(moved.services[&service("db")].file, Some(file("a.toml")));

    let mut settled = moved;
    settled.apply(&accepted("a.toml", &[]));
    assert_eq!(settled.services[&service("web")].file, Some(file("b.toml")), "the old file has no say");
    assert_eq!(settled.services[&service("db")].file, None);

    settled.apply(&Record::FileForgotten { file: file("b.toml") });
    assert_eq!(settled.services[&service("web")].file, None);
    assert_eq!(settled.files.keys().collect::<Vec<_>>(), [&file("a.toml")]);
}

#[test]
fn an_intent_opens_a_run_and_its_answer_fills_it() {
    let open = web(&start(1, 10)[..1]).run.unwrap();
    assert_eq!((open.process.as_ref(), open.started_at.as_ref(), open.epoch), (None, None, 7));
    assert_eq!((open.digest.clone(), open.started_digest), (digest("web"), digest("web")));

    let entry = web(&start(1, 10));
    let run = entry.run.unwrap();
    assert_eq!((run.process, run.containment), (Some(process(1_001)), Some(cgroup("web"))));
    assert_eq!((entry.activation, run.started_at), (Some(at(10)), Some(at(11))));
}

#[test]
fn ports_are_those_of_the_newest_start_until_the_service_is_forgotten() {
    let given = |first| PortBlocks::from([("http".to_owned(), PortBlock { first, count: 1, fixed: false })]);
    let start = |n, first| intent_of(|intent| intent.ports = given(first), n);
    let mut history = vec![start(1, 100), started("web", 1, 1)];
    assert_eq!(web(&history).ports, given(100));
    history.extend(crash(1, 1, 5));
    history.push(request("web", Request::Stop, 6));
    assert_eq!(web(&history).ports, given(100), "stopped");
    history.extend([start(2, 200), spawn_failed("web", 2, 7)]);
    assert_eq!(web(&history).ports, given(200), "not started");
    let lost = Intent::lost(service("web"), nonce(3), digest("web"), at(8));
    history.push(Record::Intent(Box::new(lost)));
    assert_eq!(web(&history).ports, given(200), "what it was given is not known");
    assert_eq!(Ledger::replay(&after(&history).snapshot()), after(&history));
    let mut copy = after(&history);
    copy.disown();
    assert_eq!(copy.services[&service("web")].ports, PortBlocks::new(), "of a copy");
    assert_eq!(web(&[start(1, 100), intent_of(|_| (), 2)]).ports, PortBlocks::new(), "declared no more");
    history.push(Record::Forgotten { service: service("web") });
    assert_eq!(after(&history).entry(&service("web")), None);
}

#[test]
fn the_first_ready_of_a_run_counts() {
    let ready = |n, seconds| Record::Ready { service: service("web"), nonce: nonce(n), at: at(seconds) };
    let [intent, started] = start(1, 10);
    let run = web(&[intent, started, ready(1, 12), ready(1, 30), ready(2, 5)]).run.unwrap();
    assert_eq!(run.ready_at, Some(at(12)));
}

#[test]
fn a_live_change_moves_the_text_in_force_and_not_the_one_started_from() {
    let [intent, started] = start(1, 10);
    let updated = Record::Updated { service: service("web"), nonce: nonce(1), digest: digest("newer") };
    let run = web(&[intent, started, updated]).run.unwrap();
    assert_eq!((run.digest, run.started_digest), (digest("newer"), digest("web")));
}

#[test]
fn an_end_is_kept_until_nothing_is_left_of_the_run() {
    let ended = web(&[&start(1, 10)[..], &crash(1, 2, 20)[..1]].concat());
    assert_eq!(ended.failures, 2);
    assert!(ended.run.is_some() && ended.last.is_none());

    let entry = web(&[&start(1, 10)[..], &crash(1, 2, 20)].concat());
    let last = entry.last.unwrap();
    assert_eq!(entry.run, None);
    assert_eq!(last.end, End::Exit { status: ExitStatus::Code(3) });
    assert_eq!((last.started_at, last.ended_at, last.stopped_why), (at(11), at(20), None));
}

#[test]
fn a_stop_that_is_resumed_keeps_its_start_and_takes_the_newer_reason() {
    let [intent, started] = start(1, 10);
    let run = web(&[
        intent,
        started,
        stopping("web", 1, Reason::Removed, 20),
        stopping("web", 1, Reason::Shutdown, 25),
    ])
    .run
    .unwrap();
    let stopping = run.stopping.unwrap();
    assert_eq!((stopping.why, stopping.since), (Reason::Shutdown, at(20)));
}

#[test]
fn a_run_of_ours_whose_end_nobody_recorded_is_still_ours() {
    let [intent, started] = start(1, 10);
    let stop = stopping("web", 1, Reason::OperatorStop, 20);
    let ours = web(&[intent.clone(), started.clone(), stop, gone("web", 1)]).last.unwrap();
    assert_eq!((ours.end, ours.stopped_why), (End::Ours { status: None }, Some(Reason::OperatorStop)));
    assert_eq!(web(&[intent, started, gone("web", 1)]).last.unwrap().end, End::Unknown);
}

#[test]
fn starts_count_as_restarts_from_the_second_on() {
    let records = [&start(1, 10)[..], &crash(1, 1, 20), &start(2, 21)].concat();
    assert_eq!((web(&records).restarts, web(&records).activation), (1, Some(at(10))));

    let deactivated = Record::Deactivated { service: service("web") };
    let anew = web(&[&records[..], &crash(2, 2, 30), &[deactivated], &start(3, 40)].concat());
    assert_eq!((anew.restarts, anew.activation), (0, Some(at(40))));
}

#[test]
fn a_start_that_executed_nothing_is_neither_a_restart_nor_an_activation() {
    let failed = web(&[start(1, 10)[0].clone(), spawn_failed("web", 1, 11)]);
    assert_eq!((failed.run, failed.last, failed.activation, failed.restarts), (None, None, None, 0));
    assert_eq!(failed.spawn_failures, 1);
    assert_eq!(failed.spawn_failure, Some(Box::new((failure(SpawnStage::Exec), at(11)))));

    let never_born =
        web(&[&start(1, 10)[..], &crash(1, 1, 20), &start(2, 21)[..1], &[gone("web", 2)]].concat());
    assert_eq!((never_born.restarts, never_born.last.unwrap().nonce), (0, nonce(1)));
    assert_eq!((never_born.run, never_born.activation), (None, Some(at(10))));
}

#[test]
fn spawn_failures_count_in_a_row_and_end_with_an_execution() {
    let fail = |n| [start(n, 10)[0].clone(), spawn_failed("web", n, 11)];
    let twice = [fail(1), fail(2)].concat();
    assert_eq!(web(&twice).spawn_failures, 2);
    let started = web(&[&twice[..], &start(3, 20)].concat());
    assert_eq!((started.spawn_failures, started.spawn_failure), (0, None));
}

#[test]
fn a_late_failure_of_an_older_spawn_changes_nothing() {
    let records = start(2, 20);
    assert_eq!(web(&[&records[..], &[spawn_failed("web", 1, 21)]].concat()), web(&records));
}

#[test]
fn an_intent_that_clears_failures_clears_both_kinds() {
    let failed =
        [&start(1, 10)[..], &crash(1, 5, 20), &[start(2, 21)[0].clone(), spawn_failed("web", 2, 22)]]
            .concat();
    assert_eq!((web(&failed).failures, web(&failed).spawn_failures), (5, 1));
    let kept = web(&[&failed[..], &[intent_of(|_| {}, 3)]].concat());
    assert_eq!((kept.failures, kept.spawn_failures), (5, 1));
    let cleared = web(&[&failed[..], &[intent_of(|intent| intent.clears_failures = true, 3)]].concat());
    assert_eq!((cleared.failures, cleared.spawn_failures, cleared.spawn_failure), (0, 0, None));
}

#[test]
fn an_operator_stop_lasts_until_start_or_restart() {
    for (ending, pending) in [(Request::Start, Request::Start), (Request::Restart, Request::Restart)] {
        let stopped = [request("web", Request::Restart, 1), request("web", Request::Stop, 5)];
        assert_eq!((web(&stopped).stopped, web(&stopped).request), (Some(at(5)), None));
        let entry = web(&[&stopped[..], &[request("web", ending, 6)]].concat());
        assert_eq!((entry.stopped, entry.request), (None, Some(pending)));
    }
}

#[test]
fn a_request_ends_with_the_start_it_asked_for() {
    let entry = web(&[request("web", Request::Start, 1), start(1, 10)[0].clone()]);
    assert_eq!(entry.request, None);
}

#[test]
fn asking_for_the_start_of_what_is_up_leaves_nothing_pending() {
    for what in [Request::Start, Request::Reset] {
        let up = web(&[&start(1, 10)[..], &[request("web", what.clone(), 20)]].concat());
        assert_eq!(up.request, None, "{what:?}");
        let stop = stopping("web", 1, Reason::OperatorStop, 20);
        let stopping = web(&[&start(1, 10)[..], &[stop, request("web", what.clone(), 21)]].concat());
        assert_eq!(stopping.request, Some(what));
    }
    let both = [request("web", Request::Restart, 20), request("web", Request::Start, 21)];
    assert_eq!(web(&[&start(1, 10)[..], &both].concat()).request, Some(Request::Restart));
}

#[test]
fn a_reset_clears_the_counters_and_asks_for_a_start() {
    let entry = web(&[&start(1, 10)[..], &crash(1, 8, 20), &[request("web", Request::Reset, 30)]].concat());
    assert_eq!((entry.failures, entry.request), (0, Some(Request::Reset)));
}

#[test]
fn a_renewal_counts_the_ttl_from_now_and_revives_an_expired_service() {
    let renewed = web(&[&start(1, 10)[..], &[request("web", Request::Renew, 100)]].concat());
    assert_eq!((renewed.activation, renewed.request), (Some(at(100)), None));

    let expire = stopping("web", 1, Reason::TtlExpired { ttl: std::time::Duration::from_secs(5) }, 20);
    let expired = [&start(1, 10)[..], &[expire], &crash(1, 0, 21)].concat();
    assert_eq!(web(&expired).activation, Some(at(10)), "an expired service stays expired");
    let revived = [&expired[..], &[request("web", Request::Renew, 100)]].concat();
    assert_eq!(web(&revived).activation, None);
    let again = web(&[&revived[..], &start(2, 101)].concat());
    assert_eq!((again.activation, again.restarts), (Some(at(101)), 0));
}

#[test]
fn a_guard_is_latched_until_it_is_released() {
    let latched =
        Record::GuardLatched { service: service("web"), why: Reason::GuardFraction { removed: 5, of: 6 } };
    assert_eq!(
        web(std::slice::from_ref(&latched)).guard.as_deref(),
        Some(&Reason::GuardFraction { removed: 5, of: 6 })
    );
    assert_eq!(web(&[latched, Record::GuardReleased { service: service("web") }]).guard, None);
}

#[test]
fn a_forgotten_service_is_gone() {
    let forgotten = Record::Forgotten { service: service("web") };
    assert_eq!(after(&[&start(1, 10)[..], &[forgotten]].concat()), Ledger::default());
}

#[test]
fn an_intent_beside_an_unfinished_run_ends_that_run() {
    let entry = web(&[start(1, 10), start(2, 20)].concat());
    assert_eq!(entry.last.unwrap().nonce, nonce(1));
    assert_eq!((entry.run.unwrap().nonce, entry.restarts), (nonce(2), 1));
}

#[test]
fn records_without_their_intent_invent_no_service() {
    let strays = [
        started("web", 1, 1),
        spawn_failed("web", 1, 1),
        stopping("web", 1, Reason::Removed, 1),
        exited("web", 1, 1, 1),
        gone("web", 1),
        Record::Deactivated { service: service("web") },
        Record::GuardReleased { service: service("web") },
    ];
    assert_eq!(after(&strays), Ledger::default());
}

#[test]
fn every_text_that_is_still_needed_is_named() {
    let updated = Record::Updated { service: service("web"), nonce: nonce(2), digest: digest("live") };
    let records = [
        &[accepted("a.toml", &["web"])],
        &start(1, 10)[..],
        &crash(1, 1, 20),
        &[intent_of(|intent| intent.digest = digest("second"), 2), updated],
    ]
    .concat();
    let expected: BTreeSet<_> = ["a.toml", "web", "second", "live"].map(digest).into();
    assert_eq!(after(&records).texts().into_iter().cloned().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn a_disowned_ledger_claims_no_process_and_keeps_what_was_asked_for() {
    let stop = request("web", Request::Stop, 15);
    let mut ledger = after(&[&[accepted("a.toml", &["web"])], &start(1, 10)[..], &[stop]].concat());
    ledger.disown();
    let entry = &ledger.services[&service("web")];
    assert_eq!((&entry.run, &entry.activation, entry.stopped.as_ref()), (&None, &None, Some(&at(15))));
    assert_eq!(entry.file, Some(file("a.toml")));
}

#[test]
fn a_snapshot_of_every_kind_of_record_makes_the_same_ledger() {
    let ledger = after(&history());
    assert_eq!(after(&ledger.snapshot()), ledger);
    assert_eq!(ledger.snapshot().len(), 5, "a root, a file and three services");
}

fn any_service() -> impl Strategy<Value = ServiceId> {
    select(vec![service("web"), service("shop/db"), service("odd")])
}

fn any_reason() -> impl Strategy<Value = Reason> {
    prop_oneof![
        Just(Reason::New),
        Just(Reason::Removed),
        (0..9_u64).prop_map(|s| Reason::TtlExpired { ttl: std::time::Duration::from_millis(s) }),
        any::<u32>().prop_map(|failures| Reason::Crashed { status: Some(ExitStatus::Signal(9)), failures }),
    ]
}

fn any_end() -> impl Strategy<Value = End> {
    let status = prop_oneof![any::<i32>().prop_map(ExitStatus::Code), (1..64).prop_map(ExitStatus::Signal)];
    prop_oneof![
        Just(End::Unknown),
        Just(End::OtherBoot),
        status.clone().prop_map(|status| End::Exit { status }),
        proptest::option::of(status).prop_map(|status| End::Ours { status }),
    ]
}

fn any_request() -> impl Strategy<Value = Request> {
    select(vec![Request::Stop, Request::Start, Request::Restart, Request::Reset, Request::Renew])
}

/// Any record at all, of few services, runs and files, so that they meet.
fn any_record() -> impl Strategy<Value = Record> {
    let run = || (any_service(), (0..4_u64).prop_map(nonce), (0..1_000_u64).prop_map(at));
    let path = || select(vec![file("a.toml"), file("b.toml")]);
    let services = proptest::collection::vec(any_service(), 0..3);
    prop_oneof![
        (any::<u64>(), any::<u64>(), any::<Option<u64>>()).prop_map(|(dev, inode, born_ns)| Record::Root {
            key: RootKey("r1".into()),
            path: "/srv".into(),
            dev,
            inode,
            born_ns
        }),
        (path(), select(vec!["x", "y"]), services).prop_map(|(file, text, services)| Record::Accepted {
            file,
            digest: digest(text),
            services,
            directory_inode: 3,
        }),
        path().prop_map(|file| Record::FileForgotten { file }),
        (run(), any_reason(), any::<bool>()).prop_map(|((service, nonce, at), why, clears_failures)| {
            let base = intent("web", 0, 0);
            Record::Intent(Box::new(Intent { service, nonce, why, at, clears_failures, ..base }))
        }),
        (run(), 2..9).prop_map(|((service, nonce, at), pid)| Record::Started {
            containment: cgroup(&service.file_stem()),
            service,
            nonce,
            process: process(pid),
            at
        }),
        run().prop_map(|(service, nonce, at)| Record::SpawnFailed {
            service,
            nonce,
            failure: failure(SpawnStage::Fork),
            at
        }),
        run().prop_map(|(service, nonce, at)| Record::Ready { service, nonce, at }),
        run().prop_map(|(service, nonce, _)| Record::Updated { service, nonce, digest: digest("z") }),
        (run(), any_reason()).prop_map(|((service, nonce, at), why)| Record::Stopping {
            service,
            nonce,
            why,
            at
        }),
        (run(), any_end(), any::<u32>()).prop_map(|((service, nonce, at), end, failures)| Record::Exited {
            service,
            nonce,
            end,
            failures,
            at
        }),
        run().prop_map(|(service, nonce, _)| Record::Gone { service, nonce }),
        (run(), any_request()).prop_map(|((service, _, at), request)| Record::Request {
            service,
            request,
            at
        }),
        any_service().prop_map(|service| Record::Deactivated { service }),
        any_service().prop_map(|service| Record::Forgotten { service }),
        (any_service(), any_reason()).prop_map(|(service, why)| Record::GuardLatched { service, why }),
        any_service().prop_map(|service| Record::GuardReleased { service }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Compaction changes nothing, wherever in the history it happens, and through the bytes.
    #[test]
    fn a_compacted_journal_makes_the_same_ledger(
        records in proptest::collection::vec(any_record(), 0..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let (before, later) = records.split_at(cut.index(records.len() + 1));
        let snapshot = Ledger::replay(before).snapshot();
        let compacted = decode_journal(&journal(&snapshot));
        prop_assert_eq!(&compacted.damage, &vec![]);
        prop_assert_eq!(Ledger::replay(compacted.records.iter().chain(later)), Ledger::replay(&records));
    }

    /// A part of a history, as after damage, still folds, and what it makes can be compacted.
    #[test]
    fn any_part_of_a_history_folds(
        records in proptest::collection::vec(any_record(), 0..60),
        kept in proptest::collection::vec(any::<bool>(), 60),
    ) {
        let part: Vec<_> = records.into_iter().zip(kept).filter_map(|(record, kept)| kept.then_some(record)).collect();
        let ledger = Ledger::replay(&part);
        prop_assert_eq!(Ledger::replay(&ledger.snapshot()), ledger);
    }
}

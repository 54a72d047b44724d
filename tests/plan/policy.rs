//! What an exit does to the count of failures, and a probe to the health of a run.

use std::collections::BTreeMap;

use reconcile::identity::{Digest, Nonce};
use reconcile::manifest::Spec;
use reconcile::plan::{Health, Remains, failures_after, failures_now, fold};
use reconcile::state::{End, Entry, ExitStatus, Reason, Run, Stopping};

use super::worlds::{at, containment, exec, process, spec};

const STARTED_MS: u64 = 1_000;
const CRASH: End = End::Exit { status: ExitStatus::Code(1) };
const CLEAN: End = End::Exit { status: ExitStatus::Code(0) };

/// Three failures so far, and a run that was started at one second.
fn entry() -> Entry {
    let run = Run {
        nonce: Nonce::from_u64(1),
        fingerprint: "v1:a".to_owned(),
        started_digest: Digest::of(b"a"),
        digest: Digest::of(b"a"),
        exec: exec(),
        why: Reason::New,
        intent_at: at(STARTED_MS),
        epoch: 1,
        beside: BTreeMap::new(),
        files: None,
        log: None,
        cwd: None,
        process: Some(process()),
        containment: Some(containment()),
        started_at: Some(at(STARTED_MS)),
        ready_at: None,
        stopping: None,
        end: None,
    };
    Entry { run: Some(run), failures: 3, ..Entry::default() }
}

fn ready(mut entry: Entry, ms: u64) -> Entry {
    entry.run.as_mut().unwrap().ready_at = Some(at(ms));
    entry
}

fn stopped(mut entry: Entry, why: Reason) -> Entry {
    entry.run.as_mut().unwrap().stopping = Some(Box::new(Stopping { why, since: at(STARTED_MS) }));
    entry
}

/// Window five minutes, stable after one.
fn web() -> Spec {
    spec("web")
}

fn after(entry: &Entry, end: &End, lived_ms: u64) -> u32 {
    failures_after(entry, Some(&web()), end, Remains::Nothing, &at(STARTED_MS + lived_ms))
}

#[test]
fn a_crash_and_an_unknown_end_count_one_more() {
    assert_eq!(after(&entry(), &CRASH, 2_000), 4);
    assert_eq!(after(&entry(), &End::Unknown, 2_000), 4);
}

#[test]
fn a_clean_exit_counts_back_to_nothing() {
    assert_eq!(after(&entry(), &CLEAN, 2_000), 0);
}

#[test]
fn a_failure_after_more_than_the_window_is_the_first() {
    assert_eq!(after(&entry(), &CRASH, 300_000), 4);
    assert_eq!(after(&entry(), &CRASH, 300_001), 1);
}

#[test]
fn a_failure_after_a_stable_time_is_the_first() {
    let entry = ready(entry(), 2_000);
    assert_eq!(after(&entry, &CRASH, 60_999), 4);
    assert_eq!(after(&entry, &CRASH, 61_000), 1);
}

#[test]
fn what_is_stable_shows_no_failures() {
    let entry = ready(entry(), 2_000);
    assert_eq!(failures_now(&entry, Some(&web()), &at(61_999)), 3);
    assert_eq!(failures_now(&entry, Some(&web()), &at(62_000)), 0);
    assert_eq!(failures_now(&entry, None, &at(62_000)), 3);
}

#[test]
fn a_stop_of_ours_is_no_failure_unless_the_service_was_at_fault() {
    let ours = End::Ours { status: Some(ExitStatus::Signal(15)) };
    let unhealthy = Reason::Unhealthy { failures: 3, last_error: "refused".to_owned() };
    let late = Reason::StartTimeout { timeout: web().stop.grace, last_error: "refused".to_owned() };
    assert_eq!(after(&stopped(entry(), Reason::Shutdown), &ours, 2_000), 3);
    assert_eq!(after(&stopped(entry(), unhealthy), &ours, 2_000), 4);
    assert_eq!(after(&stopped(entry(), late), &ours, 2_000), 4);
}

#[test]
fn a_stop_of_ours_after_a_stable_time_leaves_no_failures() {
    let entry = stopped(ready(entry(), 2_000), Reason::Shutdown);
    assert_eq!(after(&entry, &End::Ours { status: None }, 70_000), 0);
}

#[test]
fn a_reboot_changes_nothing() {
    assert_eq!(after(&entry(), &End::OtherBoot, 400_000), 3);
}

#[test]
fn leaving_the_foreground_is_a_failure_and_a_clean_end_after_a_while_is_not() {
    let leaves = |entry: &Entry, lived_ms: u64| {
        failures_after(entry, Some(&web()), &CLEAN, Remains::Others, &at(STARTED_MS + lived_ms))
    };
    assert_eq!(leaves(&entry(), 500), 4);
    assert_eq!(leaves(&entry(), 30_000), 4, "it never became ready");
    assert_eq!(leaves(&ready(entry(), 1_500), 1_000), 4, "within start_settle");
    assert_eq!(leaves(&ready(entry(), 1_500), 30_000), 0);
}

#[test]
fn without_a_spec_nothing_is_judged() {
    assert_eq!(failures_after(&entry(), None, &CRASH, Remains::Nothing, &at(9_000)), 3);
}

#[test]
fn probes_in_a_row_are_counted_and_one_that_passes_counts_back() {
    let mut health = Health { in_flight: true, ..Health::default() };
    let refused = Err("refused".to_owned());
    fold(&mut health, &Ok(()), &at(1));
    fold(&mut health, &Ok(()), &at(2));
    assert_eq!((health.ready_since.clone(), health.in_flight), (Some(at(1)), false));
    fold(&mut health, &refused, &at(3));
    fold(&mut health, &refused, &at(4));
    assert_eq!((health.failures, health.ready_since.clone()), (2, None));
    assert_eq!(health.last_error.as_deref(), Some("refused"));
    fold(&mut health, &Ok(()), &at(5));
    let expected = Health {
        failures: 0,
        last_error: None,
        last_probe: Some(at(5)),
        ready_since: Some(at(5)),
        in_flight: false,
        ..Health::default()
    };
    assert_eq!(health, expected);
}

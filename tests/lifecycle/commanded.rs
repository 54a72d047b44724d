//! Secrets that commands write: before each start, beside what runs, and never a reason to stop it.

use std::time::Duration;

use reconcile::host::fake::JobScript;
use reconcile::plan::Phase;
use reconcile::state::ExitStatus;

use crate::rig::{Rig, secs};

fn told(rig: &Rig, variable: &str) -> Option<String> {
    rig.host.environment_of("web").get(variable).cloned()
}

fn says(rig: &Rig, value: &str) {
    let script = JobScript::exits(Duration::from_millis(100), ExitStatus::Code(0), value);
    rig.host.secret_commands_do("web", script);
}

fn fails(rig: &Rig) {
    let script = JobScript::exits(Duration::from_millis(100), ExitStatus::Code(3), "canary");
    rig.host.secret_commands_do("web", script);
}

fn drift(rig: &Rig) -> String {
    format!("{:?}", rig.status("web").unwrap().drift)
}

const ONCE: &str = "secrets.A = { command = ['node', 'read'] }";
const AGAIN: &str = "secrets.A = { command = ['node', 'read'], refresh = '10m' }";

fn up(more: &str) -> Rig {
    let mut rig = Rig::new();
    says(&rig, "one\r\n");
    rig.declare("web", more);
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(told(&rig, "A").as_deref(), Some("one"));
    rig
}

#[test]
fn it_is_run_at_each_start_and_what_it_says_meanwhile_is_no_change() {
    let mut rig = up(ONCE);
    assert_eq!(rig.host.counts().jobs, 1);
    says(&rig, "two");
    rig.assert_idle_for(secs(3_600));
    assert_eq!(rig.host.counts().jobs, 1);
    rig.host.end("web", ExitStatus::Code(1));
    rig.run_until("it was told", |rig| told(rig, "A").as_deref() == Some("two"));
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(rig.host.counts().jobs, 2);
    let records = format!("{:?}", rig.host.records());
    assert!(!records.contains("two"), "{records}");
}

#[test]
fn a_start_waits_for_one_that_fails_and_tries_it_again_less_and_less_often() {
    let mut rig = Rig::new();
    fails(&rig);
    rig.declare("web", ONCE);
    rig.run_until("it has failed", |rig| rig.reason("web") == "secret-unavailable");
    let message = rig.status("web").unwrap().message;
    assert_eq!(message, "the secret A cannot be had: its command ended with exit code 3");
    rig.assert_idle_for(secs(600));
    let tries = rig.host.counts().jobs;
    assert!((40..50).contains(&tries), "{tries} tries in ten minutes");
    says(&rig, "one");
    rig.run_until_phase("web", Phase::Running);
    rig.assert_idle_for(secs(600));
}

#[test]
fn what_runs_is_not_stopped_for_a_restart_before_its_secrets_are_had() {
    let mut rig = up(ONCE);
    let pid = rig.pid("web");
    fails(&rig);
    rig.declare("web", &format!("{ONCE}\nenv = {{ B = '1' }}"));
    rig.run_until("it has failed", |rig| rig.host.counts().jobs > 1);
    rig.assert_idle_for(secs(600));
    assert_eq!(rig.pid("web"), pid);
    says(&rig, "two");
    rig.run_until("it was told", |rig| told(rig, "A").as_deref() == Some("two"));
    assert_eq!(told(&rig, "B").as_deref(), Some("1"));
}

#[test]
fn an_optional_one_is_left_out() {
    let mut rig = Rig::new();
    fails(&rig);
    rig.declare("web", "secrets.A = { command = ['node', 'read'], optional = true }");
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(told(&rig, "A"), None);
}

#[test]
fn one_that_is_looked_at_again_restarts_the_service_when_it_is_another() {
    let mut rig = up(AGAIN);
    let pid = rig.pid("web");
    rig.assert_idle_for(secs(3_600));
    assert_eq!((rig.pid("web"), rig.host.counts().jobs), (pid, 7));
    says(&rig, "two");
    rig.run_until("it was told", |rig| told(rig, "A").as_deref() == Some("two"));
    rig.run_until_phase("web", Phase::Running);
    let pid = rig.pid("web");
    rig.assert_idle_for(secs(1_200));
    assert_eq!(rig.pid("web"), pid);
    let records = format!("{:?}", rig.host.records());
    assert!(records.contains("SecretChanged") && !records.contains("two"), "{records}");
}

#[test]
fn one_that_cannot_be_looked_at_again_is_shown_and_changes_nothing() {
    let mut rig = up(AGAIN);
    let pid = rig.pid("web");
    fails(&rig);
    rig.run_until("it is shown", |rig| drift(rig).contains("secret-not-refreshed"));
    assert!(!drift(&rig).contains("canary"), "{}", drift(&rig));
    rig.assert_idle_for(secs(1_200));
    assert_eq!(rig.pid("web"), pid);
    says(&rig, "one");
    rig.run_until("it is shown no more", |rig| !drift(rig).contains("secret-not-refreshed"));
    assert_eq!(rig.pid("web"), pid);
}

#[test]
fn one_that_says_another_thing_each_time_is_no_loop() {
    let mut rig = up(AGAIN);
    says(&rig, "two");
    rig.run_until("it was told", |rig| told(rig, "A").as_deref() == Some("two"));
    says(&rig, "three");
    rig.run_until_phase("web", Phase::Running);
    rig.assert_idle_for(secs(590));
    rig.run_until("it was told", |rig| told(rig, "A").as_deref() == Some("three"));
}

#[test]
fn secrets_as_files_are_no_variables_and_other_ones_are_a_restart() {
    let mut rig = Rig::new();
    rig.host.write("/srv/app/token", "one");
    rig.declare("web", "secrets.A = { file = 'token', as = 'file' }");
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(told(&rig, "A"), None);
    let place = told(&rig, "CREDENTIALS_DIRECTORY").unwrap();
    rig.host.write("/srv/app/token", "two");
    rig.run_until("it is another run", |rig| {
        told(rig, "CREDENTIALS_DIRECTORY").is_some_and(|other| other != place)
    });
}

fn says_after(rig: &Rig, service: &str, takes: u64, value: &str) {
    let script = JobScript::exits(secs(takes), ExitStatus::Code(0), value);
    rig.host.secret_commands_do(service, script);
}

#[test]
fn one_that_takes_longer_than_values_are_kept_is_run_once() {
    let mut rig = Rig::new();
    says_after(&rig, "web", 120, "one");
    rig.declare("web", "secrets.A = { command = ['node', 'read'], timeout = '3m' }");
    rig.run_until_phase("web", Phase::Running);
    assert_eq!((told(&rig, "A").as_deref(), rig.host.counts().jobs), (Some("one"), 1));
}

#[test]
fn what_a_version_before_has_asked_for_is_not_given_to_the_next() {
    let mut rig = Rig::new();
    says_after(&rig, "web", 5, "one");
    rig.declare("web", ONCE);
    rig.run_until("it is run", |rig| rig.host.counts().jobs == 1);
    says_after(&rig, "web", 8, "two");
    rig.declare("web", "secrets.A = { command = ['node', 'read', 'other'] }");
    rig.run_until_phase("web", Phase::Running);
    assert_eq!((told(&rig, "A").as_deref(), rig.host.counts().jobs), (Some("two"), 2));
}

#[test]
fn what_was_looked_at_beside_a_run_before_is_no_news_to_the_next() {
    let mut rig = up(AGAIN);
    says_after(&rig, "web", 9, "one");
    rig.run_until("it is looked at again", |rig| rig.host.counts().jobs == 2);
    says(&rig, "two");
    rig.host.end("web", ExitStatus::Code(1));
    rig.run_until("it was told", |rig| told(rig, "A").as_deref() == Some("two"));
    rig.run_until_phase("web", Phase::Running);
    let pid = rig.pid("web");
    rig.assert_idle_for(secs(3_600));
    assert_eq!(rig.pid("web"), pid);
}

#[test]
fn one_that_can_start_for_another_waits_has_its_own_command_run() {
    let mut rig = up(ONCE);
    fails(&rig);
    rig.declare("web", &format!("{ONCE}\nenv = {{ B = '1' }}"));
    rig.declare("db", &format!("{ONCE}\ndepends_on = ['web']"));
    rig.run_until_phase("db", Phase::Running);
}

#[test]
fn to_be_looked_at_again_is_no_change_of_what_it_says() {
    let mut rig = up(ONCE);
    let pid = rig.pid("web");
    rig.declare("web", AGAIN);
    rig.run_until("it is looked at again", |rig| rig.host.counts().jobs > 1);
    rig.assert_idle_for(secs(3_300));
    assert_eq!(rig.pid("web"), pid);
    says(&rig, "two");
    rig.run_until("it was told", |rig| told(rig, "A").as_deref() == Some("two"));
}

#[test]
fn an_optional_one_that_was_not_there_and_now_is_restarts_the_service() {
    let mut rig = Rig::new();
    fails(&rig);
    rig.declare("web", "secrets.A = { command = ['node', 'read'], optional = true, refresh = '10m' }");
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(told(&rig, "A"), None);
    rig.assert_idle_for(secs(1_800));
    says(&rig, "one");
    rig.run_until("it was told", |rig| told(rig, "A").as_deref() == Some("one"));
}

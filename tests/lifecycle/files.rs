//! Files that matter: read at each start, looked at when they change, and never a reason to stop what runs.

use reconcile::host::fake::{Behaviour, Birth, FakeHost, JobScript};
use reconcile::plan::Phase;
use reconcile::reconciler::command::Command;
use reconcile::state::{ExitStatus, Record};

use crate::rig::{Rig, secs};

const ENV: &str = "/srv/app/.env";
const NAMED: &str = "env_file = '.env'";

fn told(rig: &Rig, variable: &str) -> Option<String> {
    rig.host.environment_of("web").get(variable).cloned()
}

fn message(rig: &Rig) -> String {
    rig.status("web").unwrap().message
}

fn drift(rig: &Rig) -> Vec<String> {
    rig.status("web")
        .unwrap()
        .drift
        .into_iter()
        .map(|drift| format!("{}: {}", drift.code, drift.message))
        .collect()
}

/// `web` up, with this in its file of variables.
fn up(text: &str, more: &str) -> Rig {
    let mut rig = Rig::new();
    rig.host.write(ENV, text);
    rig.declare("web", &format!("{NAMED}\n{more}"));
    rig.run_until_phase("web", Phase::Running);
    rig
}

#[test]
fn later_files_win_over_earlier_ones_and_what_is_declared_over_all() {
    let mut rig = Rig::new();
    rig.host.write(ENV, "A=1\nB=1\nC=1\nPORT=1");
    rig.host.write("/home/op/web.env", "B=2\nC=2");
    rig.declare(
        "web",
        "env_file = ['.env', '~/{{name}}.env', { path = 'local.env', optional = true }]\nenv = { C = '3' }\nports.http = 'auto'",
    );
    rig.run_until_phase("web", Phase::Running);
    for (variable, value) in [("A", "1"), ("B", "2"), ("C", "3"), ("PORT", "1"), ("PORT_HTTP", "37100")] {
        assert_eq!(told(&rig, variable).as_deref(), Some(value), "{variable}");
    }
    rig.assert_idle_for(secs(3_600));
}

#[test]
fn other_variables_restart_the_service_and_the_same_ones_do_not() {
    let mut rig = up("A=1", "");
    rig.declare("db", "");
    rig.run_until_phase("db", Phase::Running);
    let (web, db) = (rig.pid("web"), rig.pid("db"));
    rig.host.write(ENV, "# the same\n\nA='1'\n");
    rig.assert_idle_for(secs(600));
    rig.host.write(ENV, "A=2");
    rig.run_until("it was told", |rig| told(rig, "A").as_deref() == Some("2"));
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(rig.reason("web"), "running");
    assert!(rig.pid("web") != web && rig.pid("db") == db);
    assert_eq!(rig.failures("web"), 0);
    rig.assert_idle_for(secs(3_600));
}

#[test]
fn a_change_that_nobody_told_of_is_found_by_the_full_look() {
    let mut rig = up("A=1", "");
    rig.host.lose_file_events();
    rig.host.write(ENV, "A=2");
    assert!(rig.run_until("it was told", |rig| told(rig, "A").as_deref() == Some("2")) <= secs(61));
}

#[test]
fn a_start_waits_for_its_file() {
    let mut rig = Rig::with("web", NAMED);
    rig.run_until_phase("web", Phase::Pending);
    assert!(message(&rig).starts_with("there is no /srv/app/.env, its `env_file`"), "{}", message(&rig));
    rig.assert_idle_for(secs(600));
    rig.host.write(ENV, "A=1\nB");
    rig.run_until("its mistake is told", |rig| message(rig).contains("/srv/app/.env:2: it has no `=`"));
    rig.host.write(ENV, "A=1");
    rig.host.make_unreadable(ENV);
    rig.run_until("it cannot be read", |rig| message(rig).contains("permission denied"));
    rig.host.make_readable(ENV);
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(told(&rig, "A").as_deref(), Some("1"));
}

#[test]
fn a_file_that_is_gone_or_cannot_be_used_stops_nothing_that_runs() {
    let mut rig = up("A=1", "");
    let pid = rig.pid("web");
    rig.host.remove(ENV);
    rig.run_until("it is shown", |rig| !drift(rig).is_empty());
    assert_eq!(drift(&rig).len(), 1);
    assert!(drift(&rig)[0].starts_with("file-not-usable: it runs on"), "{:?}", drift(&rig));
    rig.host.write(ENV, "A");
    rig.run_for(secs(60));
    rig.host.make_unreadable(ENV);
    rig.assert_idle_for(secs(600));
    rig.host.make_readable(ENV);
    rig.host.write(ENV, "A=1");
    rig.run_until("it is well again", |rig| drift(rig).is_empty());
    rig.assert_idle_for(secs(600));
    assert_eq!(rig.pid("web"), pid);
    // A crash without its file waits for it, and is started at once when it is back.
    rig.host.remove(ENV);
    rig.run_for(secs(1));
    rig.host.end("web", ExitStatus::Code(1));
    rig.run_until_phase("web", Phase::Pending);
    rig.assert_idle_for(secs(600));
    rig.host.write(ENV, "A=2");
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(told(&rig, "A").as_deref(), Some("2"));
}

#[test]
fn what_was_started_is_remembered_across_deaths_and_reboots() {
    let mut rig = up("A=1", "");
    let pid = rig.pid("web");
    rig.die(Birth::Before);
    rig.assert_idle_for(secs(600));
    assert_eq!(rig.pid("web"), pid);
    rig.die(Birth::Before);
    rig.host.write(ENV, "A=2");
    rig.run_until("it was told", |rig| told(rig, "A").as_deref() == Some("2"));
    rig.run_until_phase("web", Phase::Running);
    rig.reboot();
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(told(&rig, "A").as_deref(), Some("2"));
}

#[test]
fn what_stands_in_a_file_is_nowhere_in_the_ledger() {
    let mut rig = up("A=hunter2", "");
    rig.host.write(ENV, "A=hunter2x");
    rig.run_until("it was told", |rig| told(rig, "A").as_deref() == Some("hunter2x"));
    rig.run_until_phase("web", Phase::Running);
    let records = format!("{:?}", rig.host.records());
    assert!(records.contains("FileChanged") && !records.contains("hunter2"), "{records}");
    assert!(
        rig.host
            .records()
            .iter()
            .any(|record| matches!(record, Record::Intent(intent) if intent.files.is_some()))
    );
}

#[test]
fn the_policy_speaks_about_variables_wherever_they_come_from() {
    let mut rig = Rig::under(FakeHost::new(), "");
    rig.host.write(ENV, "LD_PRELOAD=/tmp/x.so");
    rig.declare("web", NAMED);
    rig.run_until_phase("web", Phase::Pending);
    let message = message(&rig);
    assert!(message.contains("LD_PRELOAD") && !message.contains("x.so"), "{message}");
    assert!(message.contains("/srv/app/.env"), "{message}");
    rig.host.write(ENV, "A=1");
    rig.run_until_phase("web", Phase::Running);
    rig.host.write(ENV, "LD_PRELOAD=/tmp/x.so");
    rig.run_until("it is shown", |rig| !drift(rig).is_empty());
    rig.assert_idle_for(secs(600));
}

#[test]
fn a_stopped_service_is_not_started_for_a_file() {
    let mut rig = up("A=1", "");
    rig.done(Command::Stop { names: vec!["web".into()] });
    rig.host.write(ENV, "A=2");
    rig.assert_idle_for(secs(600));
    rig.done(Command::Start { names: vec!["web".into()] });
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(told(&rig, "A").as_deref(), Some("2"));
}

#[test]
fn files_by_their_content_restart_or_reload() {
    let mut rig = Rig::new();
    rig.host.write("/srv/app/conf/a.yml", "1");
    rig.host.write("/srv/app/web.conf", "1");
    rig.declare("web", "restart_on = ['conf/*.yml']\nreload = { on = ['web.conf'], signal = 'USR1' }");
    rig.host.behave("web", Behaviour::default().ignores_term());
    rig.run_until_phase("web", Phase::Running);
    rig.assert_idle_for(secs(600));
    let pid = rig.pid("web");
    // The same content anew, another name, and a file that is gone.
    rig.host.write("/srv/app/conf/a.yml", "1");
    rig.host.write("/srv/app/conf/.b.yml", "1");
    rig.assert_idle_for(secs(600));
    rig.host.write("/srv/app/web.conf", "2");
    let signals = rig.counts().signals;
    rig.run_until("it was told", |rig| rig.counts().signals == signals + 1);
    rig.assert_idle_for(secs(600));
    assert_eq!(rig.pid("web"), pid);
    rig.die(Birth::Before);
    rig.assert_idle_for(secs(600));
    rig.host.remove("/srv/app/web.conf");
    rig.host.remove("/srv/app/conf/a.yml");
    rig.assert_idle_for(secs(600));
    assert_eq!(rig.pid("web"), pid);
    rig.host.write("/srv/app/conf/c.yml", "1");
    rig.run_until("it is another", |rig| rig.host.leader("web").is_some_and(|now| now != pid));
    rig.run_until_phase("web", Phase::Running);
    rig.assert_idle_for(secs(600));
}

#[test]
fn what_cannot_be_read_for_a_while_is_no_change() {
    let mut rig = Rig::new();
    for name in ["a.yml", "b.yml"] {
        rig.host.write(format!("/srv/app/conf/{name}"), "1");
    }
    rig.host.make_unreadable("/srv/app/conf/a.yml");
    rig.declare("web", "restart_on = ['conf/*.yml']");
    rig.run_until_phase("web", Phase::Running);
    let pid = rig.pid("web");
    rig.run_until("it is shown", |rig| drift(rig).iter().any(|drift| drift.contains("conf/a.yml")));
    rig.assert_idle_for(secs(600));
    rig.host.make_readable("/srv/app/conf/a.yml");
    rig.run_until("it is well again", |rig| drift(rig).is_empty());
    rig.assert_idle_for(secs(600));
    rig.host.make_unreadable("/srv/app/conf/a.yml");
    rig.run_for(secs(60));
    rig.host.make_readable("/srv/app/conf/a.yml");
    rig.host.make_unreadable("/srv/app/conf/b.yml");
    rig.run_until("the other is shown", |rig| drift(rig).iter().any(|drift| drift.contains("conf/b.yml")));
    rig.declare("web", "");
    rig.run_until("nobody asks", |rig| drift(rig).is_empty());
    assert_eq!(rig.pid("web"), pid);
    rig.declare("web", "restart_on = ['conf/*.yml']");
    rig.host.make_readable("/srv/app/conf/b.yml");
    rig.run_for(secs(60));
    assert_eq!(rig.pid("web"), pid);
    rig.host.write("/srv/app/conf/a.yml", "2");
    rig.run_until("it is another", |rig| rig.host.leader("web").is_some_and(|now| now != pid));
}

#[test]
fn what_was_told_is_not_told_again_when_a_file_is_back() {
    let mut rig = Rig::new();
    for name in ["a.conf", "b.conf"] {
        rig.host.write(format!("/srv/app/{name}"), "1");
    }
    rig.declare("web", "reload.on = ['a.conf', 'b.conf']");
    rig.host.behave("web", Behaviour::default().ignores_term());
    rig.run_until_phase("web", Phase::Running);
    let signals = rig.counts().signals;
    rig.host.make_unreadable("/srv/app/b.conf");
    rig.host.write("/srv/app/a.conf", "2");
    rig.run_until("it was told", |rig| rig.counts().signals == signals + 1);
    rig.host.make_readable("/srv/app/b.conf");
    rig.assert_idle_for(secs(600));
    assert_eq!(rig.counts().signals, signals + 1);
}

#[test]
fn a_stop_command_runs_with_the_variables_that_can_be_had() {
    let mut rig = Rig::new();
    rig.host.write(ENV, "A=1");
    rig.host.write("/srv/app/b.env", "B=1");
    rig.declare("web", "env_file = ['.env', 'b.env']\nstop.command = ['node', 'stop.js']");
    rig.host.behave(
        "web",
        Behaviour::default().stop_command(JobScript::exits(secs(1), ExitStatus::Code(0), "").ends_service()),
    );
    rig.run_until_phase("web", Phase::Running);
    rig.host.remove(ENV);
    rig.run_until("it is shown", |rig| !drift(rig).is_empty());
    let (jobs, signals) = (rig.counts().jobs, rig.counts().signals);
    rig.done(Command::Stop { names: vec!["web".into()] });
    rig.run_until_phase("web", Phase::Stopped);
    assert_eq!((rig.counts().jobs, rig.counts().signals), (jobs + 1, signals + 1));
}

#[test]
fn naming_other_files_touches_nothing() {
    let mut rig = Rig::new();
    rig.host.write("/srv/app/a.yml", "1");
    rig.host.write("/srv/app/b.yml", "1");
    rig.declare("web", "");
    rig.run_until_phase("web", Phase::Running);
    let pid = rig.pid("web");
    rig.declare("web", "restart_on = ['a.yml']");
    rig.run_for(secs(60));
    rig.declare("web", "restart_on = ['a.yml', 'b.yml']");
    rig.run_for(secs(60));
    rig.assert_idle_for(secs(600));
    assert_eq!(rig.pid("web"), pid);
    rig.host.write("/srv/app/b.yml", "2");
    rig.run_until("it is another", |rig| rig.host.leader("web").is_some_and(|now| now != pid));
}

#[test]
fn an_executable_that_was_replaced_is_reported_ignored_or_followed() {
    for (on_change, is_shown, is_followed) in [
        ("", true, false),
        ("on_exe_change = 'ignore'", false, false),
        ("on_exe_change = 'restart'", false, true),
    ] {
        let mut rig = Rig::with("web", on_change);
        rig.run_until_phase("web", Phase::Running);
        let pid = rig.pid("web");
        rig.host.replace_executable("node");
        rig.run_for(secs(180));
        assert_eq!(!drift(&rig).is_empty(), is_shown, "{on_change}: {:?}", drift(&rig));
        assert_eq!(rig.pid("web") != pid, is_followed, "{on_change}");
        rig.assert_idle_for(secs(600));
    }
}

#[test]
fn secrets_come_from_files_the_environment_and_the_key() {
    let mut rig = Rig::over(FakeHost::new().with_variable("OURS", "of ours"));
    rig.host.write("/srv/app/token", "hunter2\n");
    rig.declare(
        "web",
        "[service.web.secrets]\nA = { file = 'token' }\nB = { env = 'OURS' }\nC = { derive = 'webhook' }\n\
         D = { env = 'NONE', optional = true }",
    );
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(told(&rig, "A").as_deref(), Some("hunter2"));
    assert_eq!(told(&rig, "B").as_deref(), Some("of ours"));
    let derived = told(&rig, "C").unwrap();
    assert_eq!((derived.len(), told(&rig, "D")), (64, None));
    rig.host.write("/srv/app/token", "hunter2");
    rig.assert_idle_for(secs(600));
    rig.host.write("/srv/app/token", "hunter3");
    rig.run_until("it was told", |rig| told(rig, "A").as_deref() == Some("hunter3"));
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(told(&rig, "C"), Some(derived));
    rig.assert_idle_for(secs(600));
    let records = format!("{:?}", rig.host.records());
    assert!(records.contains("SecretChanged") && !records.contains("hunter"), "{records}");
}

#[test]
fn a_start_waits_for_a_secret_and_what_runs_does_not() {
    let mut rig = Rig::with("web", "secrets.A = { file = 'token' }");
    rig.run_until_phase("web", Phase::Pending);
    assert_eq!(rig.reason("web"), "secret-unavailable");
    assert_eq!(message(&rig), "the secret A cannot be had: there is no /srv/app/token");
    rig.host.write("/srv/app/token", "1");
    rig.run_until_phase("web", Phase::Running);
    let pid = rig.pid("web");
    rig.host.remove("/srv/app/token");
    rig.run_until("it is shown", |rig| !drift(rig).is_empty());
    rig.assert_idle_for(secs(600));
    assert_eq!(rig.pid("web"), pid);
}

/// `web`, told to take up `web.conf` by a command.
fn reloaded_by_command(does: JobScript) -> Rig {
    let mut rig = Rig::new();
    rig.host.write("/srv/app/web.conf", "1");
    rig.host.reload_command_does("web", does);
    rig.declare(
        "web",
        "reload = { on = ['web.conf'], command = ['node', 'reload.js'] }\nrestart.max_failures = 4",
    );
    rig.run_until_phase("web", Phase::Running);
    rig.assert_idle_for(secs(120));
    rig
}

#[test]
fn a_reload_command_is_run_once_for_what_it_has_taken_up() {
    let mut rig = reloaded_by_command(JobScript::default());
    let (pid, signals) = (rig.pid("web"), rig.host.counts().signals);
    rig.host.write("/srv/app/web.conf", "2");
    rig.run_until("it is run", |rig| rig.host.counts().jobs == 1);
    rig.run_for(secs(1));
    rig.assert_idle_for(secs(3_600));
    assert_eq!((rig.host.counts().jobs, rig.host.counts().signals, rig.pid("web")), (1, signals, pid));
    rig.die(Birth::Before);
    rig.run_for(secs(120));
    assert_eq!(rig.host.counts().jobs, 1, "what was taken up is on record");
}

#[test]
fn a_reload_command_that_fails_is_tried_again_and_not_for_ever() {
    let mut rig = reloaded_by_command(JobScript::exits(secs(1), ExitStatus::Code(3), "canary"));
    let pid = rig.pid("web");
    rig.host.write("/srv/app/web.conf", "2");
    rig.run_until("it is shown", |rig| !drift(rig).is_empty());
    assert_eq!(
        drift(&rig),
        [
            "reload-failed: it has not taken up its files, for its reload command failed: it ended with exit code 3"
        ]
    );
    rig.run_for(secs(3_600));
    assert_eq!((rig.host.counts().jobs, rig.pid("web")), (4, pid));
    rig.host.reload_command_does("web", JobScript::default());
    rig.run_for(secs(120));
    assert_eq!(rig.host.counts().jobs, 4, "not before other content");
    rig.host.write("/srv/app/web.conf", "3");
    rig.run_until("it is done", |rig| drift(rig).is_empty());
    rig.assert_idle_for(secs(3_600));
    assert_eq!((rig.host.counts().jobs, rig.pid("web")), (5, pid));
}

#[test]
fn a_reload_command_that_is_mended_is_tried_without_other_content() {
    let mut rig = reloaded_by_command(JobScript::exits(secs(1), ExitStatus::Code(3), ""));
    let pid = rig.pid("web");
    rig.host.write("/srv/app/web.conf", "2");
    rig.run_for(secs(3_600));
    rig.host.reload_command_does("web", JobScript::default());
    rig.declare(
        "web",
        "reload = { on = ['web.conf'], command = ['node', 'other.js'] }\nrestart.max_failures = 4",
    );
    rig.run_until("it is done", |rig| drift(rig).is_empty() && rig.host.counts().jobs == 5);
    rig.run_for(secs(1));
    rig.assert_idle_for(secs(3_600));
    assert_eq!((rig.host.counts().jobs, rig.pid("web")), (5, pid));
}

#[test]
fn a_reload_command_that_hangs_is_ended_and_has_failed() {
    let mut rig = reloaded_by_command(JobScript::hangs());
    rig.host.write("/srv/app/web.conf", "2");
    rig.run_until("it is shown", |rig| !drift(rig).is_empty());
    assert!(drift(&rig)[0].ends_with("it was not done within 10s"), "{:?}", drift(&rig));
}

#[test]
fn what_runs_is_where_it_was_started_though_a_directory_before_exists_by_now() {
    let mut rig = Rig::new();
    rig.host.lose_directory("/srv/app/first", true);
    rig.host.write("/srv/app/first/x", "2");
    rig.host.write("/srv/app/last/x", "1");
    rig.declare("web", "cwd = ['first', 'last']\nrestart_on = ['{{cwd}}/x']");
    rig.run_until_phase("web", Phase::Running);
    let pid = rig.pid("web");
    rig.host.lose_directory("/srv/app/first", false);
    rig.assert_idle_for(secs(600));
    assert_eq!(rig.pid("web"), pid);
}

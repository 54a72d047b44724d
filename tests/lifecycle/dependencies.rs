//! Services that depend on each other: who is started and stopped when, and what a failing one does to the others.

use reconcile::host::fake::{Behaviour, Birth};
use reconcile::plan::{Action, Phase};
use reconcile::reconciler::command::Command;
use reconcile::state::{ExitStatus, Record};

use crate::rig::{Rig, millis, secs};

const CHECKED: &str = "health = { url = \"http://127.0.0.1:1/\" }\n";
const CRASH: ExitStatus = ExitStatus::Code(1);

fn needs(list: &str) -> String {
    format!("depends_on = {list}\n")
}

/// A database, checked, and a web server that depends on it; `more` is the server's.
fn pair(more: &str) -> Rig {
    let rig = Rig::new();
    rig.declare("db", CHECKED);
    rig.declare("web", more);
    rig
}

fn up(more: &str) -> Rig {
    let mut rig = pair(more);
    rig.run_until_phase("db", Phase::Ready);
    rig.run_until_phase("web", Phase::Running);
    rig
}

/// What was begun since, in its order: `start web`, `stop db`, and `gone db` when nothing was left.
fn order(rig: &Rig, since: usize) -> Vec<String> {
    let lines = rig.host.records().into_iter().skip(since).filter_map(|record| match record {
        Record::Intent(intent) => Some(format!("start {}", intent.service)),
        Record::Stopping { service, .. } => Some(format!("stop {service}")),
        Record::Gone { service, .. } => Some(format!("gone {service}")),
        _ => None,
    });
    lines.collect()
}

fn mark(rig: &Rig) -> usize {
    rig.host.records().len()
}

#[test]
fn a_dependent_is_started_once_its_dependency_is_ready_whatever_their_names() {
    let mut rig = Rig::new();
    rig.declare("zzz", CHECKED);
    rig.declare("mmm", &needs("{ zzz = 'started' }"));
    rig.declare("aaa", &needs("['mmm', 'zzz']"));
    rig.host.behave("zzz", Behaviour::default().healthy_after(secs(7)));
    rig.run_until_phase("mmm", Phase::Running);
    assert_eq!((rig.phase("zzz"), rig.phase("aaa")), (Some(Phase::Starting), Some(Phase::Pending)));
    assert_eq!(rig.reason("aaa"), "dependency");
    let status = rig.status("aaa").unwrap();
    assert_eq!(status.message, "it waits for zzz to be ready (it is starting)");
    rig.run_until_phase("aaa", Phase::Running);
    assert_eq!(order(&rig, 0), ["start zzz", "start mmm", "start aaa"]);
    rig.assert_idle_for(secs(3_600));
}

#[test]
fn what_does_not_depend_on_each_other_is_started_at_once() {
    let mut rig = Rig::new();
    rig.declare("db", CHECKED);
    rig.host.behave("db", Behaviour::default().healthy_after(secs(5)));
    (0..5).for_each(|n| rig.declare(&format!("web-{n}"), &needs("['db']")));
    rig.run_until_phase("db", Phase::Ready);
    rig.run_until_phase("web-0", Phase::Starting);
    assert_eq!(rig.counts().spawns, 6);
}

#[test]
fn a_job_is_waited_for_and_not_done_again() {
    let mut rig = Rig::with("job", "");
    rig.declare("web", &needs("{ job = 'completed' }"));
    rig.host.behave("job", Behaviour::default().exits(secs(30), ExitStatus::Code(0)));
    rig.run_for(secs(29));
    assert_eq!((rig.phase("job"), rig.phase("web")), (Some(Phase::Running), Some(Phase::Pending)));
    rig.run_until_phase("web", Phase::Running);
    rig.die(Birth::Never);
    rig.run_for(secs(600));
    assert_eq!((rig.phase("job"), rig.counts().spawns), (Some(Phase::Completed), 2));
}

#[test]
fn a_dependent_of_a_failing_service_waits_and_keeps_its_budget() {
    let mut rig = pair(&needs("['db']"));
    rig.host.behave("db", Behaviour::default().exits(millis(100), CRASH).healthy_after(secs(10)));
    rig.run_until_phase("db", Phase::Failed);
    assert_eq!((rig.phase("web"), rig.failures("web")), (Some(Phase::Pending), 0));
    assert!(!order(&rig, 0).contains(&"start web".to_owned()));
    rig.assert_idle_for(secs(3_600));
    rig.host.behave("db", Behaviour::default());
    rig.done(Command::Reset { names: vec!["db".into()] });
    rig.run_until_phase("web", Phase::Running);
}

#[test]
fn what_runs_goes_on_whatever_becomes_of_its_dependency() {
    let mut rig = up(&needs("['db']"));
    let before = rig.pid("web");
    rig.done(Command::Stop { names: vec!["db".into()] });
    rig.assert_idle_for(secs(600));
    rig.host.remove("db.toml");
    rig.run_for(secs(600));
    assert_eq!((rig.phase("db"), rig.pid("web")), (None, before));
    rig.host.end("web", CRASH);
    rig.run_for(secs(600));
    assert_eq!((rig.phase("web"), rig.failures("web")), (Some(Phase::Pending), 0));
    let message = rig.status("web").unwrap().message;
    assert_eq!(message, "it waits for db to be ready (no manifest declares it)");
    rig.declare("db", CHECKED);
    rig.run_until_phase("web", Phase::Running);
}

#[test]
fn an_edit_of_what_it_depends_on_touches_nothing_that_runs() {
    let mut rig = up("");
    let before = rig.pid("web");
    for list in ["['db', 'unknown']", "{ db = { restart = true } }", "{ db = 'completed' }", "[]"] {
        rig.declare("web", &needs(list));
        rig.run_for(secs(60));
        assert_eq!((rig.pid("web"), rig.counts().spawns), (before, 2), "{list}");
    }
}

#[test]
fn when_both_change_the_dependent_stops_first_and_starts_last() {
    let mut rig = up(&needs("['db']"));
    let since = mark(&rig);
    rig.declare("db", &format!("{CHECKED}env = {{ A = '1' }}\n"));
    rig.declare("web", &format!("{}env = {{ A = '1' }}\n", needs("['db']")));
    rig.run_until("both were started anew", |rig| rig.counts().spawns == 4);
    rig.run_until_phase("web", Phase::Running);
    assert_eq!(order(&rig, since), ["stop web", "gone web", "stop db", "gone db", "start db", "start web"]);
    rig.assert_idle_for(secs(3_600));
}

#[test]
fn a_restart_waits_for_a_dependency_that_is_down() {
    let mut rig = up(&needs("['db']"));
    let before = rig.pid("web");
    rig.done(Command::Stop { names: vec!["db".into()] });
    rig.declare("web", &format!("{}env = {{ A = '1' }}\n", needs("['db']")));
    rig.run_for(secs(60));
    assert_eq!(rig.pid("web"), before);
    let held: Vec<_> = rig.plan().into_iter().map(|step| (step.service, step.reason)).collect();
    assert_eq!(held, [("web".to_owned(), "dependency".to_owned())]);
    rig.done(Command::Start { names: vec!["db".into()] });
    rig.run_until("it was restarted", |rig| rig.host.leader("web").is_some_and(|pid| pid != before));
}

#[test]
fn a_restart_that_cannot_be_made_is_not_done() {
    let mut rig = up(&needs("['db']"));
    let before = rig.pid("web");
    rig.declare("web", &needs("['db', 'unknown']"));
    rig.run_for(secs(1));
    let report = rig.done(Command::Restart { names: vec!["web".into()] });
    assert_eq!((report.converged, rig.pid("web")), (Some(false), before));
    let held: Vec<_> = report.steps.iter().map(|step| (step.action, step.reason.as_str())).collect();
    assert_eq!(held, [(Action::Hold, "dependency")]);
    rig.declare("web", &needs("['db']"));
    rig.run_until("it was restarted", |rig| rig.host.leader("web").is_some_and(|pid| pid != before));
}

#[test]
fn a_crash_beside_one_of_a_dependency_is_no_reason_to_give_up() {
    let mut rig = up(&(needs("['db']") + "restart = { max_failures = 1 }\n"));
    rig.host.end("db", CRASH);
    rig.run_until("the end of db is known", |rig| rig.phase("db") != Some(Phase::Ready));
    rig.host.end("web", CRASH);
    rig.run_until_phase("web", Phase::Running);
    rig.run_for(secs(120));
    rig.host.end("web", CRASH);
    rig.run_until_phase("web", Phase::Failed);
}

#[test]
fn everything_is_stopped_in_reverse_waves_and_a_stuck_one_holds_for_its_grace() {
    let mut rig = up(&(needs("['db']") + "stop = { grace = \"30s\" }\n"));
    rig.declare("api", &needs("['db']"));
    rig.run_until_phase("api", Phase::Running);
    rig.host.behave("web", Behaviour::default().ignores_term());
    rig.done(Command::Restart { names: vec!["web".into()] });
    rig.run_until_phase("web", Phase::Running);
    let (since, start) = (mark(&rig), rig.now());
    rig.done(Command::Down { project: None, purge: false });
    assert_eq!(
        order(&rig, since),
        ["stop web", "stop api", "gone api", "stop db", "gone web", "gone db"],
        "what was killed is waited for no more"
    );
    let took = rig.now() - start;
    assert!((secs(30)..secs(32)).contains(&took), "{took:?}");
}

#[test]
fn a_dependency_that_was_started_anew_restarts_who_follows_it_once() {
    let mut rig = up(&needs("{ db = { restart = true } }"));
    let since = mark(&rig);
    rig.host.end("db", CRASH);
    rig.run_until("web was started anew", |rig| rig.counts().spawns == 4);
    rig.run_until_phase("web", Phase::Running);
    rig.die(Birth::Never);
    rig.run_for(secs(600));
    assert_eq!(order(&rig, since), ["gone db", "start db", "stop web", "gone web", "start web"]);
    assert_eq!((rig.phase("web"), rig.failures("web")), (Some(Phase::Running), 0));
    rig.assert_idle_for(secs(3_600));
}

#[test]
fn who_does_not_follow_its_dependency_is_left_alone() {
    let mut rig = up(&needs("['db']"));
    let before = rig.pid("web");
    rig.done(Command::Restart { names: vec!["db".into()] });
    rig.host.end("db", CRASH);
    rig.run_for(secs(600));
    assert_eq!((rig.pid("web"), rig.counts().spawns), (before, 4));
}

#[test]
fn a_circle_is_a_problem_of_its_members_which_run_on() {
    let mut rig = up("");
    rig.declare("db", &format!("{CHECKED}{}", needs("['web']")));
    rig.declare("web", &needs("['db']"));
    rig.declare("api", &needs("['web']"));
    rig.run_until_phase("api", Phase::Running);
    for file in ["db.toml", "web.toml"] {
        assert_eq!(rig.problem_codes(file), ["dependency-cycle"], "{file}");
    }
    assert_eq!(rig.problem_codes("api.toml"), [""; 0]);
    assert_eq!((rig.phase("db"), rig.phase("web")), (Some(Phase::Ready), Some(Phase::Running)));
    assert_eq!(rig.counts().spawns, 3);
    rig.declare("db", CHECKED);
    rig.run_for(secs(60));
    assert_eq!(rig.problem_codes("web.toml"), [""; 0]);
    assert_eq!(rig.counts().spawns, 3);
}

#[test]
fn a_start_takes_along_what_it_depends_on_and_says_so() {
    let mut rig = up(&needs("['db']"));
    rig.done(Command::Stop { names: vec!["web".into(), "db".into()] });
    rig.host.assert_alive(&[]);
    let report = rig.done(Command::Start { names: vec!["web".into()] });
    assert_eq!((report.also, report.converged), (vec!["db".to_owned()], Some(true)));
    rig.host.assert_alive(&["db", "web"]);
}

#[test]
fn whoever_waits_is_told_when_a_dependency_cannot_come_up() {
    let mut rig = pair(&needs("['db']"));
    rig.host.behave("db", Behaviour::default().exits(millis(100), CRASH).healthy_after(secs(10)));
    let (timeout, start) = (secs(600), rig.now());
    let report = rig.done(Command::Converge { names: vec!["web".into()], timeout, allow_prune: false });
    assert_eq!(report.converged, Some(false), "{report:#?}");
    let unwell: Vec<_> = report.unwell.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(unwell, ["db", "web"]);
    assert!(rig.now() - start < secs(60), "after {:?}", rig.now() - start);
}

#[test]
fn a_plan_shows_the_waves() {
    let mut rig = Rig::new();
    rig.declare("db", CHECKED);
    rig.declare("web", &needs("['db']"));
    rig.declare("edge", &needs("['web']"));
    let report = rig.done(Command::Plan { names: vec!["edge".into()] });
    assert_eq!(report.also, ["db", "web"]);
    let mut waves: Vec<_> =
        report.steps.iter().map(|step| (step.service.as_str(), step.wave, step.after.join(" "))).collect();
    waves.sort_unstable();
    assert_eq!(
        waves,
        [
            ("db", Some(1), String::new()),
            ("edge", Some(3), "web".to_owned()),
            ("web", Some(2), "db".to_owned()),
        ]
    );
}

#[test]
fn what_crashes_for_want_of_its_dependency_keeps_its_budget() {
    let mut rig = up(&needs("['db']"));
    for _ in 0..20 {
        rig.host.end("db", CRASH);
        rig.run_until("the end of db is known", |rig| rig.phase("db") != Some(Phase::Ready));
        rig.host.end("web", CRASH);
        rig.run_until_phase("web", Phase::Running);
        rig.run_for(secs(120));
    }
    assert_eq!((rig.phase("web"), rig.failures("web"), rig.counts().spawns), (Some(Phase::Running), 0, 42));
    rig.host.end("web", CRASH);
    rig.run_for(millis(100));
    assert_eq!(rig.failures("web"), 1, "its own failure counts");
}

#[test]
fn what_counts_as_done_is_what_the_policy_of_the_dependency_calls_a_success() {
    let mut rig = Rig::new();
    rig.declare("setup", "restart = { success_codes = [0, 3] }\n");
    rig.host.behave("setup", Behaviour::default().exits(secs(2), ExitStatus::Code(3)));
    rig.declare("web", &needs("['setup']"));
    rig.run_until_phase("setup", Phase::Completed);
    rig.run_until_phase("web", Phase::Running);
    rig.host.end("web", CRASH);
    rig.run_for(millis(100));
    assert_eq!(rig.failures("web"), 1, "nothing that it needs is down");
}

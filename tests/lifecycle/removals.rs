//! Deleted manifests, vanished directories, and the guards between them.

use reconcile::host::fake::{Birth, FakeHost};
use reconcile::plan::Phase;
use reconcile::reconciler::command::Command;
use reconcile::reconciler::status::StepReport;

use crate::rig::{Rig, manifest, millis, secs};

const SIX: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn many(names: &[&str]) -> Rig {
    let mut rig = Rig::new();
    for name in names {
        rig.declare(name, "");
    }
    rig.run_for(secs(10));
    rig.host.assert_alive(names);
    rig
}

#[test]
fn a_deleted_manifest_stops_its_service_after_the_delay() {
    let mut rig = many(&["a", "b", "c"]);
    rig.host.remove("b.toml");
    rig.run_for(millis(1_900));
    rig.host.assert_alive(&["a", "b", "c"]);
    rig.run_for(secs(1));
    rig.host.assert_alive(&["a", "c"]);
    rig.run_until("b is forgotten", |rig| rig.phase("b").is_none());
    rig.assert_idle_for(secs(600));
}

#[test]
fn a_manifest_that_returns_within_the_delay_is_no_removal() {
    let mut rig = many(&["a", "b", "c"]);
    let before = rig.pid("b");
    rig.host.remove("b.toml");
    rig.run_for(secs(1));
    rig.declare("b", "");
    rig.run_for(secs(60));
    assert_eq!(rig.pid("b"), before);
    assert_eq!(rig.counts().signals, 0);
}

#[test]
fn a_vanished_root_prunes_nothing_until_it_returns() {
    let mut rig = many(&["a", "b"]);
    let before = rig.pid("a");
    rig.host.lose_root(FakeHost::ROOT);
    rig.run_for(secs(600));
    rig.host.assert_alive(&["a", "b"]);
    rig.host.bring_back(FakeHost::ROOT);
    rig.run_for(secs(60));
    assert_eq!((rig.pid("a"), rig.counts().signals), (before, 0));
    rig.host.remove("a.toml");
    rig.run_for(secs(10));
    rig.host.assert_alive(&["b"]);
}

#[test]
fn an_empty_directory_in_place_of_the_root_prunes_nothing() {
    let mut rig = many(&["a", "b"]);
    rig.host.replace_root_empty(FakeHost::ROOT);
    rig.run_for(secs(600));
    rig.host.assert_alive(&["a", "b"]);
    rig.die(Birth::Never);
    rig.run_for(secs(600));
    rig.host.assert_alive(&["a", "b"]);
}

#[test]
fn an_unreadable_root_prunes_nothing() {
    let mut rig = many(&["a", "b"]);
    rig.host.make_unreadable(FakeHost::ROOT);
    rig.run_for(secs(600));
    rig.host.assert_alive(&["a", "b"]);
}

#[test]
fn a_guarded_service_is_still_looked_after() {
    let mut rig = many(&["a", "b"]);
    rig.host.lose_root(FakeHost::ROOT);
    rig.run_for(secs(60));
    rig.host.end("a", reconcile::state::ExitStatus::Code(1));
    rig.run_for(secs(60));
    rig.host.assert_alive(&["a", "b"]);
}

#[test]
fn a_mass_removal_is_held_until_it_is_confirmed_by_name() {
    let mut rig = many(&SIX);
    for name in &SIX[..5] {
        rig.host.remove(format!("{name}.toml"));
    }
    rig.run_for(secs(600));
    rig.host.assert_alive(&SIX);
    let held = rig.plan().iter().filter(|step| step.reason == "guard-fraction").count();
    assert_eq!(held, 5, "{}", rig.host.story());

    rig.done(Command::Prune { names: SIX[..2].iter().map(|name| (*name).into()).collect() });
    rig.run_for(secs(60));
    rig.host.assert_alive(&SIX[2..]);
}

#[test]
fn a_held_removal_stays_held_for_the_next_reconciler() {
    let mut rig = many(&SIX);
    for name in &SIX[..5] {
        rig.host.remove(format!("{name}.toml"));
    }
    rig.run_for(secs(60));
    rig.die(Birth::Never);
    rig.run_for(secs(600));
    rig.host.assert_alive(&SIX);
    for name in &SIX[..5] {
        rig.declare(name, "");
    }
    rig.run_for(secs(60));
    rig.host.remove("a.toml");
    rig.run_for(secs(60));
    rig.host.assert_alive(&SIX[1..]);
}

#[test]
fn a_removed_service_that_ignores_its_signal_is_killed_after_its_grace() {
    let mut rig = Rig::with("web", "stop.grace = \"7s\"");
    rig.host.behave("web", reconcile::host::fake::Behaviour::default().ignores_term());
    rig.run_until_phase("web", Phase::Running);
    rig.host.remove("web.toml");
    rig.run_for(secs(8));
    rig.host.assert_alive(&["web"]);
    rig.run_for(secs(5));
    rig.host.assert_alive(&[]);
    assert_eq!((rig.counts().signals, rig.counts().kills), (1, 1));
}

#[test]
fn a_removal_that_no_reconciler_saw_is_carried_out_by_the_next() {
    let mut rig = many(&["a", "b", "c"]);
    rig.host.remove("b.toml");
    rig.die(Birth::Never);
    rig.run_for(secs(30));
    rig.host.assert_alive(&["a", "c"]);
}

#[test]
fn a_directory_that_was_recreated_with_its_files_is_guarded_as_the_new_one() {
    let mut rig = Rig::new();
    rig.host.write("site/web.toml", &manifest("web", ""));
    rig.host.write("db.toml", &manifest("db", ""));
    rig.run_for(secs(10));
    rig.host.remove("site");
    rig.host.write("site/web.toml", &manifest("web", ""));
    rig.run_for(secs(10));
    rig.assert_idle_for(secs(200));
    rig.host.remove("site/web.toml");
    rig.run_for(secs(10));
    rig.host.assert_alive(&["db"]);
}

const TORN: &str = "[service.web]\ncommand = [\"node\"\n";

#[test]
fn a_manifest_that_is_renamed_and_torn_at_once_loses_no_service() {
    let mut rig = many(&["api", "web"]);
    let before = rig.pid("web");
    rig.host.remove("web.toml");
    rig.host.write("site.toml", TORN);
    rig.run_for(secs(60));
    assert_eq!(rig.pid("web"), before);
    assert_eq!(
        rig.plan().iter().map(|step| step.reason.as_str()).collect::<Vec<_>>(),
        ["guard-unread-manifest"]
    );
    rig.host.end("web", reconcile::state::ExitStatus::Code(1));
    rig.run_for(secs(60));
    rig.host.assert_alive(&["api", "web"]);
    rig.assert_idle_for(secs(600));

    let again = rig.pid("web");
    rig.host.write("site.toml", &manifest("web", ""));
    rig.run_for(secs(60));
    assert_eq!((rig.pid("web"), rig.counts().signals), (again, 0));
    assert_eq!(rig.plan().len(), 0);
}

#[test]
fn a_service_that_moves_into_an_accepted_file_which_is_torn_at_once_goes_on() {
    let mut rig = many(&["api", "web"]);
    rig.host.remove("web.toml");
    rig.host.write("api.toml", &format!("{}[service.web]\ncommand: node\n", manifest("api", "")));
    rig.run_for(secs(60));
    rig.host.assert_alive(&["api", "web"]);
    rig.host.write("api.toml", &manifest("api", ""));
    rig.run_for(secs(60));
    rig.host.assert_alive(&["api"]);
}

#[test]
fn a_torn_manifest_that_names_another_service_holds_nothing() {
    let mut rig = many(&["api", "web"]);
    rig.host.write("old.toml", "# web\n[service.other]\ncommand = [\"web\"\n");
    rig.run_for(secs(60));
    rig.host.remove("web.toml");
    rig.run_for(secs(60));
    rig.host.assert_alive(&["api"]);
}

#[test]
fn a_manifest_that_cannot_be_read_holds_what_is_older_than_itself() {
    let mut rig = many(&["web"]);
    rig.host.write("site.toml", "");
    rig.host.make_unreadable("site.toml");
    rig.run_for(secs(10));
    rig.declare("api", "");
    rig.run_for(secs(10));
    rig.host.remove("api.toml");
    rig.host.remove("web.toml");
    rig.run_for(secs(60));
    rig.host.assert_alive(&["web"]);
    assert_eq!(rig.plan()[0].reason, "guard-unread-manifest");
    rig.done(Command::Prune { names: vec!["web".into()] });
    rig.run_for(secs(60));
    rig.host.assert_alive(&[]);
}

#[test]
fn a_held_removal_is_not_converged_and_no_failure_of_its_service() {
    let mut rig = many(&["api", "web"]);
    rig.host.remove("web.toml");
    rig.host.write("site.toml", TORN);
    rig.run_for(secs(60));
    let held = |steps: &[StepReport]| steps.iter().any(|step| step.reason == "guard-unread-manifest");
    let converge = |names: &[&str]| Command::Converge {
        names: names.iter().map(|name| (*name).into()).collect(),
        timeout: secs(60),
        allow_prune: false,
    };
    let report = rig.done(converge(&[]));
    assert_eq!((report.converged, report.unwell.len()), (Some(false), 0));
    assert!(held(&report.steps));
    assert_eq!(rig.done(converge(&["api"])).converged, Some(true));
}

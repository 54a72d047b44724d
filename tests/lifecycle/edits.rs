//! Only what changed is touched.

use reconcile::host::fake::{Behaviour, Birth, OnSignal};
use reconcile::plan::Phase;

use crate::rig::{Rig, manifest, secs};

fn three() -> Rig {
    let mut rig = Rig::new();
    for name in ["api", "db", "web"] {
        rig.declare(name, "");
    }
    rig.run_for(secs(10));
    rig.host.assert_alive(&["api", "db", "web"]);
    rig
}

#[test]
fn an_edit_of_a_command_restarts_that_service_alone() {
    let mut rig = three();
    let before = ["api", "db", "web"].map(|name| rig.pid(name));
    rig.declare("web", "env = { NODE_ENV = \"production\" }");
    rig.run_for(secs(10));
    rig.host.assert_alive(&["api", "db", "web"]);
    let after = ["api", "db", "web"].map(|name| rig.pid(name));
    assert_eq!(before[..2], after[..2]);
    assert_ne!(before[2], after[2]);
    rig.assert_idle_for(secs(600));
}

#[test]
fn an_edit_of_a_description_touches_no_process() {
    let mut rig = three();
    let before = (rig.pid("web"), rig.counts());
    rig.declare("web", "description = \"the site\"\nlabels = { owner = \"me\" }\nattrs = { a = 1 }");
    rig.run_for(secs(10));
    assert_eq!(rig.pid("web"), before.0);
    let after = rig.counts();
    assert_eq!(
        (after.spawns, after.signals, after.kills),
        (before.1.spawns, before.1.signals, before.1.kills)
    );
    rig.assert_idle_for(secs(600));
}

#[test]
fn comments_order_and_times_of_a_file_change_nothing() {
    let mut rig = three();
    let before = rig.counts();
    rig.host.touch("web.toml");
    rig.run_for(secs(10));
    assert_eq!(rig.counts(), before);
    rig.host.write("web.toml", "# the site\n[service.web]\ncommand = [ \"node\", 'web.js' ]  # as before\n");
    rig.run_for(secs(10));
    let after = rig.counts();
    assert_eq!((after.spawns, after.signals, after.kills), (before.spawns, before.signals, before.kills));
}

#[test]
fn an_edit_of_a_live_field_takes_effect_without_touching_the_process() {
    let mut rig = three();
    let before = rig.pid("web");
    rig.declare("web", "ttl = \"2h\"");
    rig.run_for(secs(10));
    assert_eq!(rig.pid("web"), before);
    assert_eq!(rig.counts().signals, 0);
    rig.run_for(secs(7_200));
    assert_eq!(rig.phase("web"), Some(Phase::Expired));
}

#[test]
fn a_renamed_file_changes_nothing_for_its_service() {
    let mut rig = three();
    let before = rig.pid("web");
    rig.host.rename("web.toml", "site/frontend.toml");
    rig.run_for(secs(60));
    assert_eq!(rig.pid("web"), before);
    assert_eq!((rig.counts().spawns, rig.counts().signals), (3, 0));
    rig.assert_idle_for(secs(600));
}

#[test]
fn a_service_that_moves_into_another_file_goes_on() {
    let mut rig = three();
    let before = rig.pid("web");
    rig.host.remove("web.toml");
    rig.host.write("db.toml", &format!("{}{}", manifest("db", ""), manifest("web", "")));
    rig.run_for(secs(60));
    assert_eq!(rig.pid("web"), before);
    assert_eq!((rig.counts().spawns, rig.counts().signals), (3, 0));
}

#[test]
fn a_manifest_with_an_error_keeps_its_last_accepted_version_in_force() {
    let mut rig = three();
    let before = rig.pid("web");
    for broken in ["[service.web]\n", "[service.web]\ncommand = [\"node\"]\ncolour = 1\n", "[[[", "", " \n"] {
        rig.host.write("web.toml", broken);
        rig.run_for(secs(60));
        assert_eq!(rig.pid("web"), before, "{broken}");
    }
    rig.host.make_unreadable("web.toml");
    rig.run_for(secs(60));
    assert_eq!(rig.pid("web"), before);
    rig.host.end("web", reconcile::state::ExitStatus::Code(1));
    rig.run_for(secs(60));
    rig.host.assert_alive(&["api", "db", "web"]);
}

#[test]
fn a_lost_file_event_is_made_good_by_the_next_full_look() {
    let mut rig = three();
    rig.host.lose_file_events();
    rig.declare("cache", "");
    rig.run_for(secs(61));
    rig.host.assert_alive(&["api", "cache", "db", "web"]);
}

#[test]
fn an_edit_while_no_reconciler_runs_is_found_by_the_next() {
    let mut rig = three();
    let before = ["db", "web"].map(|name| rig.pid(name));
    rig.declare("web", "umask = \"077\"");
    rig.die(Birth::Never);
    rig.run_for(secs(10));
    assert_eq!(rig.pid("db"), before[0]);
    assert_ne!(rig.pid("web"), before[1]);
}

#[test]
fn a_restart_waits_for_all_of_the_old_run() {
    let mut rig = Rig::with("web", "stop.grace = \"5s\"");
    let stubborn = Behaviour::default().forks_descendant(OnSignal::Ignores);
    rig.host.behave_in_turn("web", [stubborn, Behaviour::default()]);
    rig.run_for(secs(10));
    rig.declare("web", "stop.grace = \"5s\"\nenv = { A = \"1\" }");
    rig.run_for(secs(4));
    assert_eq!(rig.counts().spawns, 1);
    rig.run_for(secs(10));
    assert_eq!((rig.counts().kills, rig.counts().spawns), (1, 2));
    rig.host.assert_alive(&["web"]);
}

#[test]
fn another_terminal_changes_nothing() {
    let mut rig = three();
    let before = rig.counts();
    let next =
        rig.host.reconciler_dies(Birth::Never).with_variable("PATH", "/opt/bin").with_variable("X", "1");
    rig = Rig::over(next);
    rig.run_for(secs(120));
    assert_eq!(rig.counts().changes(), before.changes());
}

#[test]
fn a_file_that_is_renamed_and_broken_at_once_loses_nothing() {
    let mut rig = three();
    let before = rig.pid("web");
    rig.host.remove("web.toml");
    rig.host.write("site.toml", &manifest("web", "colour = 1"));
    rig.run_for(secs(60));
    assert_eq!(rig.pid("web"), before);
    rig.host.end("web", reconcile::state::ExitStatus::Code(1));
    rig.run_for(secs(60));
    rig.host.assert_alive(&["api", "db", "web"]);
    rig.assert_idle_for(secs(600));
}

#[test]
fn a_duplicate_in_an_edited_file_leaves_its_other_services_alone() {
    let mut rig = Rig::new();
    rig.host.write("a.toml", &format!("{}{}", manifest("x", ""), manifest("y", "")));
    rig.host.write("b.toml", &manifest("z", ""));
    rig.run_for(secs(10));
    rig.host.write("a.toml", &format!("{}{}", manifest("x", ""), manifest("z", "")));
    rig.run_for(secs(60));
    rig.host.assert_alive(&["x", "y", "z"]);
    assert_eq!((rig.counts().spawns, rig.counts().signals), (3, 0));
}

#[test]
fn a_broken_file_whose_last_text_is_lost_prunes_nothing() {
    let mut rig = three();
    rig.die(Birth::Never);
    rig.host.lose_texts();
    rig.host.write("web.toml", "[[[");
    rig.run_for(secs(120));
    rig.host.assert_alive(&["api", "db", "web"]);
    assert_eq!(rig.counts().signals, 0);
}

#[test]
fn a_service_is_told_its_own_problem_before_any_of_its_neighbours() {
    let mut rig = Rig::new();
    let file = [manifest("api", "ttl = \"0s\""), manifest("db", ""), manifest("web", "colour = 1")].concat();
    rig.host.write("site.toml", &file);
    rig.run_for(secs(10));
    let steps = rig.plan();
    for (name, word, code) in [("api", "ttl", "rejected"), ("web", "colour", "rejected")] {
        let message = rig.status(name).unwrap().message;
        assert!(message.contains(word) && !message.contains("more)"), "{name}: {message}");
        let step = steps.iter().find(|step| step.service == name).unwrap();
        assert_eq!((step.message.as_str(), step.reason.as_str()), (message.as_str(), code));
    }
    let message = rig.status("db").unwrap().message;
    assert!(message.starts_with("it has no problem of its own; its file is refused for api: "), "{message}");
}

#[test]
fn a_broken_service_is_known_by_its_project_too() {
    let mut rig = Rig::new();
    rig.host.write("web.toml", &manifest("web", "project = \"shop\""));
    rig.run_for(secs(10));
    let before = rig.pid("shop/web");
    rig.host.remove("web.toml");
    rig.host.write("site.toml", &manifest("web", "project = \"shop\"\ncolour = 1"));
    rig.run_for(secs(60));
    assert_eq!((rig.pid("shop/web"), rig.phase("web")), (before, None));
    assert_eq!(rig.plan().len(), 0, "it is declared, and its new version refused");
}

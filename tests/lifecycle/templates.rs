//! Templates that files share: an edit is followed where it matters, and no other file can take away what is accepted.

use reconcile::plan::Phase;

use crate::rig::{Rig, secs};

fn template(command: &str, more: &str) -> String {
    format!("[template.runtime]\ncommand = ['node', '{command}', '{{{{vars.root}}}}']\n{more}\n")
}

fn project(name: &str, more: &str) -> String {
    format!("[service.{name}]\ntemplate = 'runtime'\nvars = {{ root = '/srv/{name}' }}\n{more}\n")
}

/// Two projects of one template, each in a file of its own, and a service that has nothing to do with it.
fn up() -> Rig {
    let mut rig = Rig::new();
    rig.host.write("p1.toml", &project("p1", ""));
    rig.host.write(
        "p2.toml",
        &project("p2", "command = ['node', 'own.js']\nvars = {}").replacen(
            "vars = { root = '/srv/p2' }\n",
            "",
            1,
        ),
    );
    rig.host.write("base.toml", &template("server.js", "ttl = '100h'"));
    rig.declare("web", "");
    rig.run_for(secs(10));
    rig.host.assert_alive(&["p1", "p2", "web"]);
    rig
}

fn pids(rig: &Rig) -> [String; 3] {
    ["p1", "p2", "web"].map(|name| format!("{:?}", rig.pid(name)))
}

fn reason_of_file(rig: &Rig, path: &str) -> Vec<String> {
    rig.problem_codes(path)
}

#[test]
fn an_edit_of_a_template_restarts_those_whose_own_fields_differ_and_nobody_else() {
    let mut rig = up();
    let before = pids(&rig);
    rig.host.write("base.toml", &template("other.js", "ttl = '100h'"));
    rig.run_for(secs(10));
    let after = pids(&rig);
    assert_ne!(before[0], after[0]);
    assert_eq!(before[1..], after[1..], "p2 has a command of its own");
    rig.assert_idle_for(secs(600));
}

#[test]
fn an_edit_that_changes_nothing_of_class_restart_touches_no_process() {
    let mut rig = up();
    let before = rig.counts();
    rig.host.write("base.toml", &template("server.js", "ttl = '200h'\ndescription = 'x'"));
    rig.run_for(secs(10));
    let after = rig.counts();
    assert_eq!((after.spawns, after.signals, after.kills), (before.spawns, before.signals, before.kills));
    assert!(rig.status("p1").unwrap().ttl_expires_at.is_some());
    rig.assert_idle_for(secs(600));
}

#[test]
fn comments_and_layout_of_the_file_of_a_template_change_nothing() {
    let mut rig = up();
    let before = rig.counts();
    rig.host.write("base.toml", &format!("# ours\n{}", template("server.js", "\n\nttl = \"100h\" # long")));
    rig.host.write("sub.toml", "# nothing here");
    rig.run_for(secs(10));
    assert_eq!(rig.counts(), before);
}

#[test]
fn a_template_that_breaks_or_vanishes_stops_and_changes_nothing() {
    for text in ["[template.runtime\n", "[template.runtime]\nttl = 'soon'\n", "# gone\n"] {
        let mut rig = up();
        let before = pids(&rig);
        rig.host.write("base.toml", text);
        rig.run_for(secs(600));
        assert_eq!(pids(&rig), before, "{text}");
        assert_eq!(reason_of_file(&rig, "p1.toml"), ["no-template"], "{text}");
        assert_eq!(rig.phase("p1"), Some(Phase::Running));
        // What is accepted can be started again, by another reconciler too.
        rig.reboot();
        rig.run_for(secs(60));
        rig.host.assert_alive(&["p1", "p2", "web"]);
        rig.host.write("base.toml", &template("other.js", ""));
        rig.run_for(secs(10));
        assert_eq!(reason_of_file(&rig, "p1.toml"), Vec::<String>::new());
        rig.host.assert_alive(&["p1", "p2", "web"]);
    }
}

#[test]
fn a_template_of_two_files_is_nobodys_but_of_its_own_services() {
    let mut rig = up();
    let before = pids(&rig);
    rig.host.write("again.toml", &format!("{}{}", template("again.js", ""), project("p3", "")));
    rig.run_for(secs(10));
    assert_eq!(pids(&rig), before);
    rig.host.assert_alive(&["p1", "p2", "p3", "web"]);
    assert_eq!(reason_of_file(&rig, "p1.toml"), ["no-template"]);
    rig.host.remove("again.toml");
    rig.run_for(secs(10));
    assert_eq!(reason_of_file(&rig, "p1.toml"), Vec::<String>::new());
    rig.host.assert_alive(&["p1", "p2", "web"]);
    assert_eq!(rig.phase("p3"), None);
}

#[test]
fn who_comes_before_the_template_waits_for_it_and_a_second_pass_does_nothing() {
    let mut rig = Rig::new();
    rig.host.write("p1.toml", &project("p1", ""));
    rig.run_for(secs(10));
    assert_eq!(rig.phase("p1"), Some(Phase::Rejected));
    rig.host.write("base.toml", &template("server.js", "project = 'shop'"));
    rig.run_for(secs(10));
    rig.host.assert_alive(&["shop/p1"]);
    rig.assert_idle_for(secs(3_600));
    rig.host.write("base.toml", "[template.runtime");
    rig.run_for(secs(10));
    rig.host.assert_alive(&["shop/p1"]);
    assert_eq!(rig.phase("p1"), None, "no other service is spoken of");
}

#[test]
fn the_edit_of_a_service_is_followed_with_its_template() {
    let mut rig = up();
    let before = pids(&rig);
    rig.host.write("p1.toml", &project("p1", "env = { A = '1' }"));
    rig.run_for(secs(10));
    assert_ne!(pids(&rig)[0], before[0]);
    assert_eq!(rig.host.environment_of("p1").get("A").map(String::as_str), Some("1"));
    rig.host.remove("p1.toml");
    rig.run_for(secs(10));
    assert_eq!(rig.phase("p1"), None);
    assert_eq!(pids_of_others(&rig), before[1..]);
}

fn pids_of_others(rig: &Rig) -> [String; 2] {
    ["p2", "web"].map(|name| format!("{:?}", rig.pid(name)))
}

#[test]
fn the_file_that_may_have_a_template_is_named_and_is_never_the_one_that_asks() {
    let mut rig = up();
    let help = |rig: &Rig| {
        rig.problems("p3.toml").into_iter().filter_map(|problem| problem.help).collect::<String>()
    };
    rig.host.write("p3.toml", &project("p3", "ttl = 'soon'").replace("runtime", "elsewhere"));
    rig.run_for(secs(10));
    assert!(help(&rig).contains("declare it as `[template.elsewhere]`"), "{}", help(&rig));
    rig.host.write("base.toml", "[template.elsewhere]\nttl = 'soon'\n");
    rig.run_for(secs(10));
    assert!(help(&rig).contains("it may be in base.toml, which has problems"), "{}", help(&rig));
}

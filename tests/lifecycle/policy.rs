//! A policy that changes stops what it refuses; files that change stop nothing.

use reconcile::host::fake::FakeHost;
use reconcile::plan::Phase;
use reconcile::state::ExitStatus;

use crate::rig::{Rig, secs};

fn running(name: &str, manifest: &str) -> Rig {
    let mut rig = Rig::new();
    rig.host.write(format!("{name}.toml"), manifest);
    rig.run_for(secs(10));
    rig.host.assert_alive(&[name]);
    rig
}

#[test]
fn a_package_upgrade_stops_nothing_at_any_kind_of_look() {
    let mut rig = running("web", "[service.web]\ncommand = [\"node\", \"web.js\"]\n");
    let before = rig.pid("web");
    rig.host.replace_executable("node");
    rig.host.overflow_file_events();
    rig.run_for(secs(5));
    rig.host.replace_executable("node");
    rig.declare("web", "description = \"another text\"");
    rig.run_for(secs(5));
    assert_eq!(rig.pid("web"), before);
    rig.run_for(secs(200));
    assert_eq!((rig.pid("web"), rig.counts().signals), (before, 0), "{}", rig.host.story());
    assert_eq!(rig.status("web").unwrap().drift[0].code, "exe-changed");
}

#[test]
fn a_new_manifest_after_a_package_upgrade_is_accepted_at_once() {
    let mut rig = running("web", "[service.web]\ncommand = [\"node\", \"web.js\"]\n");
    rig.host.replace_executable("node");
    rig.declare("api", "");
    rig.run_for(secs(5));
    rig.host.assert_alive(&["api", "web"]);
}

#[test]
fn a_crash_after_a_package_upgrade_is_followed_by_a_start() {
    let mut rig = running("web", "[service.web]\ncommand = [\"node\", \"web.js\"]\n");
    rig.host.replace_executable("node");
    rig.host.end("web", ExitStatus::Code(1));
    rig.run_for(secs(5));
    rig.host.assert_alive(&["web"]);
}

#[test]
fn an_edited_interpreter_line_stops_nothing_and_holds_the_next_start() {
    let mut rig = Rig::new();
    rig.host.make_script("/srv/app/serve", "node");
    rig.host.write("web.toml", "[service.web]\ncommand = [\"/srv/app/serve\"]\n");
    rig.run_for(secs(10));
    let before = rig.pid("web");
    rig.host.make_script("/srv/app/serve", "/opt/miner");
    rig.run_for(secs(300));
    assert_eq!((rig.pid("web"), rig.counts().signals), (before, 0));
    let drift = rig.status("web").unwrap().drift;
    assert!(drift.iter().any(|drift| drift.code == "start-refused"), "{drift:?}");
    rig.host.make_script("/srv/app/serve", "node");
    rig.run_for(secs(120));
    assert!(rig.status("web").unwrap().drift.is_empty());
    assert_eq!(rig.pid("web"), before);
}

#[test]
fn a_policy_that_changes_stops_what_it_refuses_and_nothing_else() {
    let mut rig = running("web", "[service.web]\ncommand = [\"node\", \"web.js\"]\n");
    rig.host.write("db.toml", "[service.db]\ncommand = [\"python3\", \"db.py\"]\n");
    rig.run_for(secs(10));
    rig.host.replace_executable("node");
    rig.host.replace_executable("python3");
    rig.configure("[policy]\nexecutables = [\"python3\"]\n");
    rig.run_for(secs(10));
    rig.host.assert_alive(&["db"]);
    assert_eq!(rig.phase("web"), Some(Phase::Rejected));
    rig.configure("");
    rig.run_for(secs(10));
    rig.host.assert_alive(&["db", "web"]);
}

#[test]
fn a_policy_that_refuses_the_spec_itself_stops_it() {
    let mut rig = running("web", "[service.web]\ncommand = [\"node\"]\nenv = { A = \"1\" }\n");
    rig.configure("[policy]\nenv_keys = [\"B\"]\n");
    rig.run_for(secs(10));
    rig.host.assert_alive(&[]);
}

#[test]
fn a_working_directory_that_is_no_git_worktree_any_more_stops_nothing() {
    let host = FakeHost::new();
    let git = "[policy]\nrequire = [\"git-workdir\"]\n";
    host.add_git_worktree("/srv/app");
    let mut rig = Rig::under(host, git);
    rig.declare("web", "");
    rig.run_for(secs(10));
    rig.host.assert_alive(&["web"]);
    rig.host.remove_git_worktree("/srv/app");
    rig.run_for(secs(300));
    rig.host.assert_alive(&["web"]);
    assert_eq!(rig.counts().signals, 0);
}

const TWO_AT_MOST: &str = "[policy.caps]\nservices = 2\n";

#[test]
fn the_cap_on_services_holds_for_files_that_come_together() {
    let mut rig = Rig::under(FakeHost::new(), TWO_AT_MOST);
    for name in ["a", "b", "c", "d"] {
        rig.declare(name, "");
    }
    rig.run_for(secs(200));
    rig.host.assert_alive(&["a", "b"]);
}

#[test]
fn a_rename_at_the_cap_is_no_growth() {
    let mut rig = Rig::under(FakeHost::new(), TWO_AT_MOST);
    rig.declare("a", "");
    rig.declare("b", "");
    rig.run_for(secs(10));
    rig.host.rename("a.toml", "sub/c.toml");
    rig.run_for(secs(60));
    assert_eq!(rig.problem_codes("sub/c.toml"), [""; 0]);
    rig.host.assert_alive(&["a", "b"]);
    assert_eq!((rig.counts().spawns, rig.counts().signals), (2, 0));
    rig.host.write("b.toml", "[service.other]\ncommand = [\"node\"]\n");
    rig.run_for(secs(60));
    rig.host.assert_alive(&["a", "other"]);
}

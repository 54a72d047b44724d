//! Files that matter, with the real binary: read for each start, watched, and never a reason to stop what runs.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use support::{As, World, cannot_run_as};

fn file(world: &World, name: &str) -> PathBuf {
    world.project().join(name)
}

/// As an editor should: to another name, then renamed.
fn replace(world: &World, name: &str, text: &str) {
    let temporary = file(world, ".temporary");
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, file(world, name)).unwrap();
}

fn told(world: &World, variable: &str) -> Option<String> {
    let environ = fs::read_to_string(format!("/proc/{}/environ", world.pid("web")?)).ok()?;
    let pairs: BTreeMap<&str, &str> = environ.split('\0').filter_map(|pair| pair.split_once('=')).collect();
    pairs.get(variable).map(|value| (*value).to_owned())
}

fn serve(world: &World, more: &str) {
    world.manifest(
        "web.toml",
        &format!("[service.web]\ncommand = ['sleep', '1000']\nstart_settle = '50ms'\n{more}\n"),
    );
}

fn ledger(world: &World) -> Vec<u8> {
    fs::read(world.state().join("ledger.journal")).unwrap()
}

#[test]
fn a_service_gets_the_variables_of_its_files_and_a_second_pass_does_nothing() {
    let world = World::new();
    replace(&world, ".env", "A='of the file'\nB=1\n");
    serve(&world, "env_file = ['.env', { path = 'none.env', optional = true }]\nenv.B = '2'");
    world.once().expect_code(0);
    assert_eq!(told(&world, "A").as_deref(), Some("of the file"));
    assert_eq!(told(&world, "B").as_deref(), Some("2"));
    let (before, pid) = (ledger(&world), world.pid("web"));
    replace(&world, ".env", "# written anew\nB=1\nA='of the file'\n");
    world.once().expect_code(0);
    assert_eq!(ledger(&world), before);
    replace(&world, ".env", "A=other\n");
    let plan = world.run(&["plan"]).expect_code(0).stdout;
    assert!(plan.contains("restart") && plan.contains(".env changed") && !plan.contains("other"), "{plan}");
    assert_eq!(world.pid("web"), pid);
    world.once().expect_code(0);
    assert_eq!(told(&world, "A").as_deref(), Some("other"));
    let kept = String::from_utf8(ledger(&world)).unwrap();
    assert!(
        kept.contains("file-changed") && !kept.contains("other") && !kept.contains("of the file"),
        "{kept}"
    );
    let births = fs::read_to_string(world.state().join("births.journal")).unwrap();
    assert!(births.contains(".env") && !births.contains("other"), "{births}");
}

#[test]
fn a_watcher_follows_a_file_through_links_and_directories() {
    let mut world = World::new();
    serve(&world, "env_file = 'config/current/web.env'");
    world.watch();
    world.until_phase("web", "pending");
    let status = world.service_status("web").unwrap();
    assert!(status["message"].as_str().unwrap().contains("config/current/web.env"), "{status}");
    // As a mounted ConfigMap does it: directories by version, and a link that is replaced.
    let link = |to: &str| {
        std::os::unix::fs::symlink(to, file(&world, "config/.next")).unwrap();
        fs::rename(file(&world, "config/.next"), file(&world, "config/current")).unwrap();
    };
    fs::create_dir_all(file(&world, "config/1")).unwrap();
    fs::create_dir_all(file(&world, "config/2")).unwrap();
    fs::write(file(&world, "config/1/web.env"), "A=1").unwrap();
    fs::write(file(&world, "config/2/web.env"), "A=2").unwrap();
    link("1");
    world.until("it is started", |world| told(world, "A").as_deref() == Some("1"));
    link("2");
    world.until("the link is followed", |world| told(world, "A").as_deref() == Some("2"));
    fs::write(file(&world, "config/2/web.env"), "A=3").unwrap();
    world.until("the file is watched where it is", |world| told(world, "A").as_deref() == Some("3"));
    world.until_phase("web", "running");
    let pid = world.pid("web");
    fs::remove_dir_all(file(&world, "config")).unwrap();
    world.until("it is told", |world| {
        world.service_status("web").unwrap()["drift"].to_string().contains("file-not-usable")
    });
    assert_eq!((world.pid("web"), world.phase("web")), (pid, "running".to_owned()));
    world.run(&["restart", "web"]);
    assert_eq!(world.pid("web"), pid, "not stopped for a start that would have to wait");
}

#[test]
fn a_service_is_told_nothing_that_its_user_may_not_read() {
    if cannot_run_as(As::Nobody) {
        return;
    }
    let world = World::new();
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    replace(&world, ".env", "A=1");
    fs::set_permissions(file(&world, ".env"), fs::Permissions::from_mode(0o600)).unwrap();
    world.config("[policy]\nexecutables = ['sleep']\nusers = ['nobody']\n");
    serve(&world, "env_file = '.env'\nuser = 'nobody'");
    world.run(&["--once", "--timeout", "1s"]).expect_code(5);
    let status = world.service_status("web").unwrap();
    assert_eq!(status["phase"], "pending", "{status}");
    assert!(status["message"].as_str().unwrap().contains("is closed to nobody"), "{status}");
    fs::set_permissions(file(&world, ".env"), fs::Permissions::from_mode(0o644)).unwrap();
    world.once().expect_code(0);
    assert_eq!(told(&world, "A").as_deref(), Some("1"));
}

#[test]
fn a_watcher_restarts_and_reloads_by_content() {
    let mut world = World::new();
    fs::create_dir(file(&world, "conf")).unwrap();
    replace(&world, "conf/a.yml", "1");
    replace(&world, "live.conf", "1");
    let script = "trap 'cat live.conf >> seen' USR1; echo up >> seen; while :; do sleep 0.02; done";
    world.service(
        "web",
        script,
        "restart_on = ['conf/*.yml']\nreload = { on = ['live.conf'], signal = 'USR1' }",
    );
    world.watch();
    world.until_phase("web", "running");
    let seen = |world: &World| fs::read_to_string(file(world, "seen")).unwrap_or_default();
    let pid = world.pid("web");
    replace(&world, "live.conf", "2");
    world.until("it was told", |world| seen(world) == "up\n2");
    replace(&world, "conf/a.yml", "1");
    fs::write(file(&world, "live.conf"), "3").unwrap();
    world.until("it was told again", |world| seen(world) == "up\n23");
    assert_eq!(world.pid("web"), pid);
    fs::write(file(&world, "conf/b.yml"), "1").unwrap();
    world.until("it was restarted", |world| seen(world) == "up\n23up\n");
    world.until_phase("web", "running");
    assert_ne!(world.pid("web"), pid);
}

#[test]
fn a_reload_command_takes_up_what_changed_beside_its_service() {
    let mut world = World::new();
    world.config("[policy]\nallow_shell = true\nexecutables = ['sh', 'sleep', 'cat', 'false']\n");
    replace(&world, "web.conf", "1");
    serve(
        &world,
        "reload = { on = ['web.conf'], command = 'cat web.conf >> taken', shell = true }\nenv.A = '1'",
    );
    world.once().expect_code(0);
    let pid = world.pid("web");
    replace(&world, "web.conf", "2");
    // Waited for, also by who does not watch.
    world.once().expect_code(0);
    assert_eq!(fs::read_to_string(file(&world, "taken")).unwrap(), "2");
    let before = ledger(&world);
    world.once().expect_code(0);
    assert_eq!((ledger(&world), world.pid("web")), (before, pid));
    serve(&world, "reload = { on = ['web.conf'], command = ['false'] }\nenv.A = '1'");
    world.watch();
    replace(&world, "web.conf", "3");
    world.until("it is shown", |world| {
        world.service_status("web").unwrap()["drift"].to_string().contains("reload-failed")
    });
    assert_eq!(world.pid("web"), pid);
}

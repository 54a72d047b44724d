//! `--once` and the watcher with real processes: what the manifests say is what runs.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::process::Stdio;

use support::{As, World, cannot_run_as, is_alive, is_missing, read};

const FOREVER: &str = "exec sleep 1000";

/// Bytes of every file of the state directory that a pass may write.
fn written(world: &World) -> Vec<(String, Vec<u8>)> {
    ["ledger.journal", "exits.journal", "births.journal"]
        .iter()
        .map(|name| ((*name).to_owned(), std::fs::read(world.state().join(name)).unwrap_or_default()))
        .collect()
}

#[test]
fn a_second_once_does_nothing() {
    for who in [As::Caller, As::Holders, As::Nobody] {
        if cannot_run_as(who) {
            continue;
        }
        let world = World::run_as(who);
        world.service("web", FOREVER, "").service("db", FOREVER, "");
        world.once().expect_code(0);
        let (pids, before, processes) =
            ([world.pid("web"), world.pid("db")], written(&world), world.processes());
        assert!(pids.iter().all(Option::is_some), "{}", world.describe());
        let second = world.run(&["--once", "-o", "json"]).expect_code(0).json();
        assert_eq!(second["changes"], false, "{second}");
        assert_eq!([world.pid("web"), world.pid("db")], pids);
        assert_eq!(written(&world), before, "the second pass wrote something");
        assert_eq!(world.processes(), processes);
    }
}

#[test]
fn what_once_has_left_ready_is_shown_as_ready_by_status() {
    let world = World::new();
    world.service("web", FOREVER, "health = { command = [\"true\"] }");
    world.once().expect_code(0);
    let status = world.service_status("web").unwrap();
    assert_eq!((&status["phase"], &status["health"]["ready"]), (&"ready".into(), &true.into()), "{status}");
    let shown = world.run(&["status", "web"]).expect_code(0).stdout;
    assert!(!shown.contains("not ready"), "{shown}");
}

#[test]
fn what_a_pass_would_restart_is_shown_as_it_runs_with_the_change_beside_it() {
    let world = World::new();
    let declare = |more: &str| {
        world.service("web", FOREVER, &format!("health = {{ command = [\"true\"] }}\n{more}"));
    };
    declare("");
    world.service("app", FOREVER, "depends_on = { web = { condition = \"ready\", restart = true } }");
    world.once().expect_code(0);
    declare("env.VERSION = \"2\"");
    let status = world.service_status("web").unwrap();
    assert_eq!((&status["phase"], &status["health"]["ready"]), (&"ready".into(), &true.into()), "{status}");
    assert_eq!(status["drift"][0]["code"], "spec-changed", "{status}");
    let shown = world.run(&["status", "web"]).expect_code(0).stdout;
    assert!(shown.contains("a pass would restart it"), "{shown}");
    world.run(&["wait", "web", "--for", "ready", "--timeout", "5s"]).expect_code(0);
    assert_eq!(world.phase("app"), "running");
}

#[test]
fn a_bare_environment_and_another_terminal_change_nothing() {
    let world = World::new();
    world.service("web", FOREVER, "");
    world.once().expect_code(0);
    let pid = world.pid("web");
    let mut cron = world.command();
    cron.env("PATH", "/usr/bin:/bin")
        .env("TERM", "dumb")
        .env("LANG", "de_DE.UTF-8")
        .current_dir("/")
        .arg("--once");
    cron.args(["-o", "json"]);
    let report = world.finish(cron).expect_code(0).json();
    assert_eq!(report["changes"], false, "{report}");
    assert_eq!(world.pid("web"), pid);
}

#[test]
fn a_moved_project_is_recognised_and_nothing_restarts() {
    let world = World::new();
    world.service("web", FOREVER, "");
    // Without --state-dir: the directory is found by the root.
    let once = |world: &World, project: &str| {
        let mut command = world.command();
        command
            .env_remove("RECONCILE_STATE_DIR")
            .env_remove("RECONCILE_MANIFESTS")
            .current_dir(world.path(project))
            .args(["--once", "-o", "json"]);
        world.finish(command).expect_code(0).json()
    };
    let first = once(&world, "project");
    assert_eq!(first["changes"], true, "{first}");
    let sleeps = |world: &World| -> Vec<i32> {
        world.processes_like("sleep 1000").intersection(&world.processes()).copied().collect()
    };
    let before = sleeps(&world);
    assert_eq!(before.len(), 1);
    std::fs::rename(world.project(), world.path("moved")).unwrap();
    let second = once(&world, "moved");
    assert_eq!(second["changes"], false, "{second}");
    assert_eq!(sleeps(&world), before);
    let below = std::fs::read_dir(world.path("home/.local/state/reconcile")).unwrap();
    assert_eq!(below.count(), 1, "one state directory");
}

#[test]
fn an_edit_restarts_only_what_it_changes_and_plan_names_the_field() {
    let world = World::new();
    for name in ["a", "b", "c"] {
        world.service(name, FOREVER, "");
    }
    world.once().expect_code(0);
    let before = ["a", "b", "c"].map(|name| world.pid(name));
    world.service("b", "exec sleep 1001", "");
    let plan = world.run(&["plan", "-o", "json"]).expect_code(0).json();
    let steps: Vec<_> =
        plan["steps"].as_array().unwrap().iter().filter(|step| step["action"] != "adopt").collect();
    assert_eq!(steps.len(), 1, "{plan}");
    assert_eq!(steps[0]["action"], "restart");
    assert_eq!(steps[0]["fields"][0], "command");
    assert_eq!(world.run(&["plan", "--detailed-exitcode"]).code, 2);
    world.once().expect_code(0);
    let after = ["a", "b", "c"].map(|name| world.pid(name));
    assert_eq!((after[0], after[2]), (before[0], before[2]));
    assert_ne!(after[1], before[1]);
}

#[test]
fn edits_that_matter_to_no_process_touch_none() {
    let world = World::new();
    world.service("web", FOREVER, "description = \"one\"");
    world.once().expect_code(0);
    let pid = world.pid("web");
    world.service("web", FOREVER, "description = \"two\" # and a comment");
    world.once().expect_code(0);
    world.service("web", FOREVER, "stop = { grace = \"3s\" }");
    world.once().expect_code(0);
    std::fs::rename(world.manifests().join("web.toml"), world.manifests().join("other.toml")).unwrap();
    let report = world.run(&["--once", "-o", "json"]).expect_code(0).json();
    assert_eq!(report["changes"], false, "{report}");
    assert_eq!(world.pid("web"), pid);
}

/// Descendants that leave the group, the session and the environment behind.
const ESCAPES: &str = "(setsid env -i sh -c 'sleep 2001 & sleep 2002' &) ; sleep 2003 & exec sleep 2004";

#[test]
fn a_deleted_manifest_takes_all_descendants_along_and_nobody_else() {
    for who in [As::Caller, As::Holders, As::Nobody] {
        if cannot_run_as(who) {
            continue;
        }
        let mut world = World::run_as(who);
        world.service("keep", FOREVER, "").service("goes", ESCAPES, "");
        world.watch();
        world.until_phase("goes", "running");
        let of_it = |world: &World| -> Vec<i32> {
            world.processes_like("sleep 200").intersection(&world.processes()).copied().collect()
        };
        world.until("all four of it run", |world| of_it(world).len() >= 4);
        let (gone, kept) = (of_it(&world), world.pid("keep"));
        world.remove("goes.toml");
        world.until("it is forgotten", |world| world.service_status("goes").is_none());
        for pid in gone {
            assert!(!is_alive(pid), "{pid} lives ({who:?})\n{}", world.describe());
        }
        assert_eq!(world.pid("keep"), kept);
    }
}

#[test]
fn a_typo_in_the_manifest_of_a_running_service_leaves_it_running() {
    let world = World::new();
    world.manifest("web.toml", "[service.web]\ncommand = [\"sleep\", \"1000\"]\n");
    world.once().expect_code(0);
    let pid = world.pid("web");
    world.manifest("web.toml", "[service.web]\ncommand = [\"slep\", \"1000\"]\n");
    let run = world.once();
    assert!([3, 4].contains(&run.code), "{run:?}");
    assert!(run.stderr.contains("slep"), "{run:?}");
    world.manifest("web.toml", "[service.web]\ncomand = [\"sleep\", \"1000\"]\n");
    let run = world.once().expect_code(3);
    assert!(run.stderr.contains("command"), "{run:?}");
    assert_eq!(world.pid("web"), pid);
    assert!(is_alive(pid.unwrap()));
}

#[test]
fn a_policy_that_no_longer_allows_it_stops_it() {
    let world = World::new();
    world.manifest("web.toml", "[service.web]\ncommand = [\"sleep\", \"1000\"]\n");
    world.once().expect_code(0);
    let pid = world.pid("web").unwrap();
    world.config("[policy]\nexecutables = [\"cat\"]\n");
    let run = world.once().expect_code(4);
    assert!(run.stderr.contains("sleep") || run.stdout.contains("sleep"), "{run:?}");
    assert!(!is_alive(pid));
}

#[test]
fn once_holds_no_inherited_descriptor_open() {
    let world = World::new();
    world.service("web", FOREVER, "");
    // The read end sees the end of file only when nobody holds the write end any more; descriptor 9 stands
    // for what `flock`, `ssh` and CI runners leave open.
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", &format!("{} --once 9>&1", env!("CARGO_BIN_EXE_reconcile"))])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in world.command().get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let run = world.finish(command).expect_code(0);
    assert!(world.pid("web").is_some_and(is_alive), "{run:?}");
}

#[test]
fn the_state_directory_of_another_user_is_named_as_such() {
    if cannot_run_as(As::Nobody) {
        return;
    }
    let world = World::run_as(As::Nobody);
    world.service("web", FOREVER, "");
    std::fs::create_dir(world.state()).unwrap();
    std::fs::set_permissions(world.state(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for arguments in [&["--once"][..], &["status"], &["plan"], &["stop", "web"]] {
        let run = world.run(arguments).expect_code(1);
        assert!(
            run.stderr.starts_with("error[state-dir-owner]") && run.stderr.contains("it belongs to uid 0"),
            "{arguments:?}: {}",
            run.stderr
        );
    }
}

/// Writes the text to the path.
type Save = fn(&std::path::Path, &str);

#[test]
fn however_a_manifest_is_saved_its_process_goes_on_and_no_error_is_shown() {
    use std::io::Write as _;
    let mut world = World::new();
    world.service("web", FOREVER, "labels = { save = \"0\" }");
    world.service("api", FOREVER, "");
    world.watch();
    world.until_phase("web", "running");
    let before = [world.pid("web"), world.pid("api")];
    let file = world.manifests().join("web.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let saves: [(&str, Save); 5] = [
        ("vim: the old file is renamed away, a new one written", |file, text| {
            let backup = file.with_extension("toml~");
            std::fs::rename(file, &backup).unwrap();
            std::fs::write(file, text).unwrap();
            std::fs::remove_file(backup).unwrap();
        }),
        ("sed -i: another file is renamed over it", |file, text| {
            let other = file.with_file_name("sedAbCdEf");
            std::fs::write(&other, text).unwrap();
            std::fs::rename(other, file).unwrap();
        }),
        ("cp, nano: truncated and written in place", |file, text| std::fs::write(file, text).unwrap()),
        ("VS Code: truncated, and written in pieces", |file, text| {
            let mut open = std::fs::File::options().write(true).truncate(true).open(file).unwrap();
            for piece in text.as_bytes().chunks(20) {
                open.write_all(piece).unwrap();
                open.sync_all().unwrap();
            }
        }),
        ("git checkout: removed, and written anew", |file, text| {
            std::fs::remove_file(file).unwrap();
            std::fs::write(file, text).unwrap();
        }),
    ];
    for (number, (how, save)) in saves.into_iter().enumerate() {
        let label = (number + 1).to_string();
        save(&file, &text.replace("\"0\"", &format!("\"{label}\"")));
        let is_saved = |world: &World| {
            world.service_status("web").is_some_and(|status| status["labels"]["save"] == label.as_str())
        };
        world.until(how, is_saved);
        assert_eq!([world.pid("web"), world.pid("api")], before, "{how}");
        let status = world.status().unwrap();
        let all = status["manifests"].as_array().unwrap();
        assert!(all.iter().all(|manifest| manifest["problems"] == serde_json::json!([])), "{how}: {all:?}");
    }
    let log = read(&world.path("watcher.log"));
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn a_checkout_of_another_branch_touches_only_what_differs() {
    if is_missing("git") {
        return;
    }
    let mut world = World::new();
    let git = |world: &World, line: &str| {
        let mut command = std::process::Command::new("git");
        command.current_dir(world.project()).args(["-c", "user.name=x", "-c", "user.email=x@localhost"]);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").args(line.split(' '));
        assert!(command.output().unwrap().status.success(), "git {line}");
    };
    for name in ["api", "db", "web"] {
        world.service(name, FOREVER, "");
    }
    git(&world, "init -q -b main");
    git(&world, "add -A");
    git(&world, "commit -q -m one");
    git(&world, "checkout -q -b other");
    world.service("web", "exec sleep 2000", "");
    world.service("new", FOREVER, "");
    std::fs::rename(world.manifests().join("api.toml"), world.manifests().join("renamed.toml")).unwrap();
    git(&world, "add -A");
    git(&world, "commit -q -m two");
    git(&world, "checkout -q main");
    world.watch();
    for name in ["api", "db", "web"] {
        world.until_phase(name, "running");
    }
    let before = ["api", "db", "web"].map(|name| world.pid(name));
    git(&world, "checkout -q other");
    world.until_phase("new", "running");
    world
        .until("web has its new command", |world| world.pid("web").is_some_and(|pid| Some(pid) != before[2]));
    world.until_phase("web", "running");
    let other = world.pid("web");
    git(&world, "checkout -q main");
    world.until("new is gone", |world| world.phase("new").is_empty());
    world.until("web has its old command", |world| world.pid("web").is_some_and(|pid| Some(pid) != other));
    assert_eq!(["api", "db"].map(|name| world.pid(name)), before[..2]);
    let log = read(&world.path("watcher.log"));
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn a_script_that_was_found_through_a_link_sees_the_name_it_was_called_by() {
    let world = World::new();
    let (real, called) = (world.project().join("real.sh"), world.project().join("called"));
    std::fs::write(&real, "#!/bin/sh\necho \"I am $0\"\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("real.sh", &called).unwrap();
    world.config(&format!(
        "[policy]\nexecutables = [\"sh\", \"sleep\", \"{}\", \"{}\"]\n",
        called.display(),
        real.display()
    ));
    world.manifest("web.toml", "[service.web]\ncommand = [\"./called\"]\nstart_settle = \"50ms\"\n");
    world.once().expect_code(0);
    world.until("it says its name", |world| {
        read(&world.state().join("logs/default.web.log")).trim() == format!("I am {}", called.display())
    });
}

#[test]
fn failures_of_before_do_not_end_the_wait_of_a_command() {
    let world = World::new();
    let script = "test -e mended && exec sleep 1000; exit 3";
    world.service("web", script, "restart = { backoff = \"1s\", backoff_max = \"1s\", max_failures = 100 }");
    let first = world.once().expect_code(5);
    assert!(first.stdout.contains("failure 3 of 100"), "{first:?}");
    std::fs::write(world.project().join("mended"), "").unwrap();
    world.once().expect_code(0);
    assert_eq!(world.phase("web"), "running");
}

#[test]
fn a_service_that_the_policy_refuses_is_rejected_each_time() {
    let world = World::new();
    world.service("web", "exec sleep 1000", "");
    world.once().expect_code(0);
    world.config("[policy]\nexecutables = [\"cat\"]\n");
    for _ in 0..2 {
        world.once().expect_code(4);
        world.run(&["plan"]).expect_code(4);
    }
}

//! What needs no watcher and no state: usage, help, completions, `init`, `schema`, `doctor`.

use super::*;

#[test]
fn usage_errors_exit_with_64_and_say_so_on_stderr() {
    let world = World::new();
    for line in [
        "--no-such-option",
        "statsu",
        "stop",
        "adopt web",
        "adopt web --pid 1",
        "--once web status --nope",
        "--quiet status",
        "--once --detach",
        "plan --timeout 5s",
        "wait web --timeout soon",
        "-o yaml status",
        "completions tcsh",
    ] {
        let ran = world.run(line);
        assert_eq!(ran.code, Some(64), "{line}: {ran:?}");
        assert!(ran.stdout.is_empty() && ran.stderr.starts_with("error: "), "{line}: {ran:?}");
    }
}

#[test]
fn help_and_version_are_results() {
    let world = World::new();
    for line in ["--help", "-h", "--version", "help status", "status --help", "keeper --help"] {
        let ran = world.run(line);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{line}");
        assert!(!ran.stdout.is_empty(), "{line}");
    }
    let help = world.run("--help").stdout;
    assert!(help.contains("RECONCILE_STATE_DIR") && help.contains("64  usage"), "{help}");
    assert!(!help.contains("keeper"), "hidden: {help}");
}

#[test]
fn completions_know_the_commands_and_parse() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = world.run(&format!("completions {shell}"));
        assert_eq!(ran.code, Some(0), "{shell}");
        assert!(ran.stdout.contains("takeover"), "{shell}");
    }
    let script = world.path().join("completions.bash");
    fs::write(&script, world.run("completions bash").stdout).unwrap();
    let checked = Process::new("bash").arg("-n").arg(&script).output();
    if let Ok(checked) = checked {
        assert!(checked.status.success(), "{checked:?}");
    }
}

#[test]
fn init_makes_what_is_missing_and_keeps_what_is_there() {
    let world = World::new();
    let ran = world.run("init");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let example = world.path().join("manifests/hello.toml");
    assert!(fs::read_to_string(&example).unwrap().contains("[service.hello]"));
    assert!(world.path().join("manifests/_reference.toml").exists());
    fs::write(&example, "mine").unwrap();
    let again = world.run("init");
    assert_eq!(again.code, Some(0));
    assert!(again.stdout.lines().all(|line| line.starts_with("kept ")), "{again:?}");
    assert_eq!(fs::read_to_string(&example).unwrap(), "mine");
}

#[test]
fn init_adds_no_service_to_those_that_are_there() {
    let world = World::new();
    let manifests = world.path().join("manifests/sub");
    fs::create_dir_all(&manifests).unwrap();
    fs::write(manifests.join("web.toml"), "[service.web]\n").unwrap();
    let ran = world.run("init");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("left out manifests/hello.toml: there is 1 manifest already\n"), "{ran:?}");
    assert!(!world.path().join("manifests/hello.toml").exists());
    assert!(world.path().join("manifests/_reference.toml").exists());
}

#[test]
fn the_schema_is_json_on_stdout_or_beside_the_manifests() {
    let world = World::new();
    let printed = world.run("schema").json();
    assert!(printed.is_object());
    fs::create_dir(world.path().join("services")).unwrap();
    assert_eq!(world.run("-m services schema --write").code, Some(0));
    let written = fs::read(world.path().join("services/reconcile.schema.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), printed);
    let nowhere = world.run("-m none schema --write");
    assert_eq!(nowhere.code, Some(1));
    assert!(nowhere.stderr.contains("because: "), "{nowhere:?}");
}

#[test]
fn doctor_tells_facts_without_touching_anything() {
    let world = World::new();
    let ran = world.run("doctor -o json");
    let facts = ran.json()["facts"].as_array().unwrap().clone();
    let names: Vec<_> = facts.iter().map(|fact| fact["name"].as_str().unwrap()).collect();
    for name in ["kernel", "pidfd", "cgroup", "inotify", "state-directory", "log-rotation", "keeper"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert_eq!(fs::read_dir(world.state()).unwrap().count(), 0);
}

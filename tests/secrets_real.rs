//! Secrets with the real binary: told to the service, and found nowhere else.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::{As, Run, World};

const OF_FILE: &str = "canary-of-the-file-7c1f";
const OF_ENV: &str = "canary-of-the-environment-93ab";

fn token(world: &World, value: &str) {
    let temporary = world.project().join(".token");
    fs::write(&temporary, value).unwrap();
    fs::rename(temporary, world.project().join("token")).unwrap();
}

fn told(world: &World, variable: &str) -> Option<String> {
    let environ = fs::read_to_string(format!("/proc/{}/environ", world.pid("web")?)).ok()?;
    let mut pairs = environ.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == variable).map(|(_, value)| value.to_owned())
}

/// With the variable that a secret comes from.
fn run(world: &World, arguments: &[&str]) -> Run {
    let mut command = world.command();
    command.env("OURS", OF_ENV).args(arguments);
    world.finish(command)
}

fn files_below(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

fn assert_clean(what: &str, bytes: &[u8], secrets: &[&str]) {
    for secret in secrets {
        let is_there = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!is_there, "a secret is in {what}:\n{}", String::from_utf8_lossy(bytes));
    }
}

/// A whole life: a start, a crash, another value, a mistake, a death of the keeper's and a stop.
#[test]
fn no_value_is_in_any_artefact_log_or_output() {
    let world = World::new();
    token(&world, OF_FILE);
    world.config("[policy]\nallow_shell = true\nexecutables = ['sh', 'sleep', 'test', 'touch', 'true']\nenv_keys = ['TOKEN', 'OURS', 'HOOK']\n");
    // Ready only past the crash.
    let script = "test -e crash && rm crash && exit 3; touch up; sleep 1000 & wait";
    world.service(
        "web",
        script,
        "restart.backoff = '10ms'\nhealth = { command = 'test -e up', interval = '50ms', start_interval = '20ms' }\n\
         [service.web.secrets]\nTOKEN = { file = 'token' }\nOURS = { env = 'OURS' }\nHOOK = { derive = 'webhook' }",
    );
    let mut said = Vec::new();
    let mut say = |run: Run| said.push(format!("{}{}", run.stdout, run.stderr));
    say(run(&world, &["plan"]));
    say(run(&world, &["-o", "json", "plan"]));
    fs::write(world.project().join("crash"), "").unwrap();
    say(run(&world, &["--once"]));
    world.until_phase("web", "ready");
    assert_eq!(told(&world, "TOKEN").as_deref(), Some(OF_FILE));
    assert_eq!(told(&world, "OURS").as_deref(), Some(OF_ENV));
    let derived = told(&world, "HOOK").unwrap();
    assert_eq!(world.run(&["secret", "web", "webhook"]).expect_code(0).stdout, format!("{derived}\n"));
    let ledger = || fs::read(world.state().join("ledger.journal")).unwrap();
    let before = ledger();
    say(run(&world, &["--once"]));
    assert_eq!(ledger(), before, "a second pass does nothing");
    let pid = world.pid("web").unwrap();
    let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert_clean("the title", &title, &[OF_FILE, OF_ENV, &derived]);

    let other = format!("{OF_FILE}-other");
    token(&world, &other);
    let plan = run(&world, &["plan"]);
    assert!(plan.stdout.contains("the secret TOKEN changed"), "{}", plan.stdout);
    say(plan);
    say(run(&world, &["-o", "json", "plan"]));
    say(run(&world, &["--once"]));
    assert_eq!(told(&world, "TOKEN"), Some(other));
    fs::write(world.project().join("token"), format!("{OF_FILE}\0")).unwrap();
    for arguments in
        [&["status"][..], &["status", "web"], &["-o", "json", "status"], &["restart", "web"], &["logs"]]
    {
        say(run(&world, arguments));
    }
    fs::remove_file(world.project().join("token")).unwrap();
    say(run(&world, &["status", "web"]));
    say(run(&world, &["validate"]));
    support::kill(world.keeper().unwrap());
    world.until("its keeper is gone", |world| world.keeper().is_none());
    say(run(&world, &["status", "web"]));
    say(run(&world, &["down"]));

    let secrets = [OF_FILE, OF_ENV, derived.as_str()];
    for output in &said {
        assert_clean("what was said", output.as_bytes(), &secrets);
    }
    let mut files = Vec::new();
    files_below(&world.state(), &mut files);
    assert!(files.len() > 5, "{files:?}");
    for path in files {
        assert_clean(&path.display().to_string(), &fs::read(&path).unwrap(), &secrets);
    }
    let key = fs::metadata(world.state().join("secret.key")).unwrap();
    assert_eq!((key.permissions().mode() & 0o777, key.len()), (0o600, 32));
}

#[test]
fn a_start_waits_for_a_secret_and_other_services_do_not() {
    let mut world = World::new();
    world.service("web", "sleep 1000 & wait", "secrets.TOKEN = { file = 'token' }");
    world.service("db", "sleep 1000 & wait", "");
    world.watch();
    world.until_phase("db", "running");
    world.until_phase("web", "pending");
    let status = world.service_status("web").unwrap();
    assert_eq!(status["reason"], "secret-unavailable", "{status}");
    token(&world, "1");
    world.until_phase("web", "running");
    assert_eq!(told(&world, "TOKEN").as_deref(), Some("1"));
    let pid = world.pid("web");
    fs::remove_file(world.project().join("token")).unwrap();
    world.until("it is shown", |world| {
        world.service_status("web").unwrap()["drift"].to_string().contains("file-not-usable")
    });
    assert_eq!(world.pid("web"), pid);
}

#[test]
fn a_key_that_was_lost_restarts_nothing() {
    let world = World::new();
    token(&world, "1");
    world.service("web", "sleep 1000 & wait", "secrets.TOKEN = { file = 'token' }");
    world.once().expect_code(0);
    let pid = world.pid("web");
    fs::remove_file(world.state().join("secret.key")).unwrap();
    world.once().expect_code(0);
    assert_eq!(world.pid("web"), pid);
    token(&world, "2");
    world.once().expect_code(0);
    assert_eq!(told(&world, "TOKEN").as_deref(), Some("2"));
}

const OF_COMMAND: &str = "canary-of-the-command-51d0";

/// `vault` has it.
fn vault(world: &World, value: &str) {
    fs::write(world.project().join("vault"), value).unwrap();
}

const POLICY: &str = "[policy]\nallow_shell = true\nexecutables = ['sh', 'sleep', 'cat', 'true', 'touch']\n";

/// Where the secrets of a run are, told to it.
fn credentials(world: &World) -> Option<std::path::PathBuf> {
    told(world, "CREDENTIALS_DIRECTORY").map(Into::into)
}

fn command_life(mut world: World) {
    world.config(POLICY);
    vault(&world, &format!("{OF_COMMAND}\n"));
    let script = "test -e crash && rm crash && exit 3; sleep 1000 & wait";
    let more = "restart.backoff = '10ms'\n[service.web.secrets]\n\
                TOKEN = { command = ['sh', '-c', 'cat vault; cat vault >&2'] }\n\
                FILED = { command = ['cat', 'vault'], as = 'file' }\nHOOK = { derive = 'webhook', as = 'file' }";
    world.service("web", script, more);
    let mut said = Vec::new();
    let mut say = |run: Run| said.push(format!("{}{}", run.stdout, run.stderr));
    say(run(&world, &["plan"]));
    say(run(&world, &["validate"]));
    say(run(&world, &["status"]));
    assert!(world.pid("web").is_none());
    world.watch();
    world.until_phase("web", "running");
    world.until("it was told", |world| told(world, "TOKEN").as_deref() == Some(OF_COMMAND));
    assert_eq!(told(&world, "FILED"), None);
    let first = credentials(&world).unwrap();
    assert_eq!(fs::read_to_string(first.join("FILED")).unwrap(), OF_COMMAND);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&first), mode(&first.join("FILED"))), (0o500, 0o400));
    assert_eq!(fs::read_dir(&first).unwrap().count(), 2);

    // Another value is no change; the next start has it.
    let other = format!("{OF_COMMAND}-other");
    vault(&world, &other);
    say(run(&world, &["--once"]));
    assert_eq!(told(&world, "TOKEN").as_deref(), Some(OF_COMMAND));
    say(run(&world, &["restart", "web"]));
    world.until("it was told", |world| told(world, "TOKEN").as_deref() == Some(&other));
    world.until("the first run's are gone", |_| !first.exists());
    let second = credentials(&world).unwrap();

    // A reconciler, and the keeper, that died.
    world.kill_watcher();
    support::kill(world.keeper().unwrap());
    world.until("its keeper is gone", |world| world.keeper().is_none());
    assert!(second.exists(), "what runs has them");
    support::kill(world.pid("web").unwrap());
    for arguments in [&["status", "web"][..], &["-o", "json", "status"], &["--once"], &["logs"]] {
        say(run(&world, arguments));
    }
    world.until("those of the second run are gone", |_| !second.exists());
    let third = credentials(&world).unwrap();
    assert!(third.exists());
    say(run(&world, &["down"]));
    world.until("those of the third run are gone", |_| !third.exists());
    for output in &said {
        assert_clean("what was said", output.as_bytes(), &[OF_COMMAND]);
    }
    let mut files = Vec::new();
    files_below(&world.state(), &mut files);
    for path in files {
        assert_clean(&path.display().to_string(), &fs::read(&path).unwrap(), &[OF_COMMAND]);
    }
}

#[test]
fn what_commands_write_is_told_to_the_service_alone() {
    command_life(World::new());
}

#[test]
fn what_commands_write_is_told_to_the_service_alone_without_root() {
    if support::cannot_run_as(As::Nobody) {
        return;
    }
    command_life(World::run_as(As::Nobody));
}

#[test]
fn looking_runs_no_command_of_a_secret() {
    let world = World::new();
    world.config(POLICY);
    world.service("web", "sleep 1000 & wait", "secrets.TOKEN = { command = ['touch', 'was-run'] }");
    for arguments in [&["plan"][..], &["validate"], &["status"]] {
        world.run(arguments);
    }
    assert!(!world.project().join("was-run").exists());
    // It writes nothing, and that is no secret.
    let once = world.once();
    assert!(world.project().join("was-run").exists(), "{}", once.stderr);
    assert!(
        once.stdout.contains("the secret TOKEN cannot be had: its command wrote nothing"),
        "{}",
        once.stdout
    );
}

#[test]
fn a_command_that_hangs_is_ended_with_all_of_it_and_holds_up_nobody() {
    let mut world = World::new();
    world.config(POLICY);
    let hangs = "secrets.TOKEN = { command = ['sh', '-c', 'setsid sleep 31337 & exec sleep 31338'], timeout = '300ms' }";
    world.config(&POLICY.replace("'touch'", "'touch', 'setsid'"));
    world.service("web", "sleep 1000 & wait", hangs);
    world.service("db", "sleep 1000 & wait", "");
    world.watch();
    world.until_phase("db", "running");
    world.until("it is told", |world| {
        world.service_status("web").unwrap()["message"].to_string().contains("was not done within 300ms")
    });
    world.remove("web.toml");
    world.until("nothing of it is left", |world| world.processes_like("3133").is_empty());
}

#[test]
fn a_secret_that_is_looked_at_again_restarts_the_service_when_it_is_another() {
    let mut world = World::new();
    world.config(POLICY);
    vault(&world, "1");
    let more = "restart.backoff = '10ms'\nsecrets.TOKEN = { command = ['cat', 'vault'], refresh = '1s' }";
    world.service("web", "sleep 1000 & wait", more);
    world.watch();
    world.until("it was told", |world| told(world, "TOKEN").as_deref() == Some("1"));
    let pid = world.pid("web");
    fs::remove_file(world.project().join("vault")).unwrap();
    world.until("it is shown", |world| {
        world.service_status("web").unwrap()["drift"].to_string().contains("secret-not-refreshed")
    });
    assert_eq!(world.pid("web"), pid);
    vault(&world, "2");
    world.until("it was told", |world| told(world, "TOKEN").as_deref() == Some("2"));
}

#[test]
fn a_command_that_the_policy_does_not_allow_is_refused_at_its_line() {
    let world = World::new();
    world.config("[policy]\nallow_shell = true\nexecutables = ['sh', 'sleep']\n");
    let more = "[service.web.secrets]\nA = { derive = 'a' }\nTOKEN = { command = ['cat', 'vault'] }\nZ = { derive = 'z' }";
    world.service("web", "sleep 1000 & wait", more);
    let refused = world.run(&["-o", "json", "validate"]).expect_code(4);
    let line = fs::read_to_string(world.manifests().join("web.toml")).unwrap();
    let line = line.lines().position(|line| line.starts_with("TOKEN")).unwrap() + 1;
    assert!(refused.stdout.contains("exec-not-allowed"), "{}", refused.stdout);
    assert!(
        refused.stdout.contains(&format!("\"line\": {line}"))
            || refused.stdout.contains(&format!("\"line\":{line}")),
        "line {line}: {}",
        refused.stdout
    );
}

#[test]
fn a_variable_of_ours_that_is_refused_is_shown_at_its_line() {
    let world = World::new();
    world.config("[policy]\nallow_shell = true\nexecutables = ['sh', 'sleep']\nenv_keys = ['A', 'OURS']\n");
    let more = "[service.web.secrets]\nA = { derive = 'a' }\nOURS = { env = 'THEIRS' }";
    world.service("web", "sleep 1000 & wait", more);
    let refused = world.run(&["validate"]).expect_code(4);
    let shown = format!("{}{}", refused.stdout, refused.stderr);
    assert!(shown.contains("OURS = { env = 'THEIRS' }"), "{shown}");
}

#[test]
fn a_derived_secret_is_there_before_the_first_start_and_for_declared_labels_alone() {
    let world = World::new();
    world.config(POLICY);
    world.service("web", "sleep 1000 & wait", "secrets.HOOK = { derive = 'webhook' }");
    let unknown = world.run(&["-o", "json", "secret", "web", "other"]).expect_code(1).stdout;
    assert!(unknown.contains("unknown-label") && unknown.contains("its labels are webhook"), "{unknown}");
    let unknown = world.run(&["-o", "json", "secret", "api", "webhook"]).expect_code(1).stdout;
    assert!(unknown.contains("unknown-service"), "{unknown}");
    assert!(!world.state().join("secret.key").exists(), "who is refused is given no key");
    let derived = world.run(&["secret", "web", "webhook"]).expect_code(0).stdout;
    let key = fs::metadata(world.state().join("secret.key")).unwrap();
    assert_eq!((key.permissions().mode() & 0o777, key.len()), (0o600, 32));
    world.once().expect_code(0);
    assert_eq!(told(&world, "HOOK"), Some(derived.trim_end().to_owned()));
    assert_eq!(world.run(&["secret", "web", "webhook"]).expect_code(0).stdout, derived);
}

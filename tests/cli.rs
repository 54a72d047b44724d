//! The command line as its users meet it: the real binary, its exit codes, and what goes where.
//!
//! What is asked of a reconciler is answered by a made-up watcher on a real control socket, so that these
//! tests are about the command line alone.

#![expect(clippy::disallowed_methods, reason = "tests start the binary and look at files")]

#[path = "cli/alone.rs"]
mod alone;
#[path = "cli/validate.rs"]
mod validate;
#[path = "cli/watcher.rs"]
mod watcher;

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output, Stdio};
use std::time::Duration;

use reconcile::identity::Pid;
use reconcile::reconciler::command::{Answer, Command, Refusal, WaitFor};
use reconcile::reconciler::selection::Selector;
use reconcile::reconciler::status::{PassReport, Status};
use serde_json::{Value, json};
use tempfile::TempDir;
use watcher::Watcher;

struct World {
    dir: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), variables: vec![] }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn state(&self) -> PathBuf {
        let dir = self.path().join("state");
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn process(&self, line: &str) -> Process {
        let mut process = Process::new(env!("CARGO_BIN_EXE_reconcile"));
        process.args(line.split_whitespace()).current_dir(self.path()).stdin(Stdio::null());
        process.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.path()).env("TZ", "UTC");
        process.env("RECONCILE_STATE_DIR", self.state());
        process.envs(self.variables.iter().map(|(name, value)| (name, value)));
        process
    }

    fn run(&self, line: &str) -> Ran {
        Ran::of(self.process(line).output().unwrap())
    }

    fn watcher(&self, answer: impl Fn(&Command) -> Option<Answer> + Send + 'static) -> Watcher {
        Watcher::start(&self.state(), answer)
    }
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn service(name: &str, phase: &str) -> Value {
    json!({
        "name": name, "project": "default", "phase": phase, "reason": phase, "message": format!("{name} is {phase}"),
        "pid": null, "started_at": null, "uptime_s": null, "restarts": 0, "failures": 0, "failures_max": 8,
        "ports": {}, "url": null, "fingerprint": null, "manifest": null, "ttl_expires_at": null, "health": null,
        "last_exit": null, "cpu_percent": null, "memory_bytes": null, "log": "/none/web.log", "containment": null,
        "drift": [], "labels": {}, "attrs": {},
    })
}

fn status(services: &[Value]) -> Answer {
    let status = json!({
        "version": 1, "instance": "i", "watching": true, "services": services, "manifests": [],
        "last_pass": { "at": "2026-08-22T11:02:05.000Z", "age_ms": 4, "steps": 0 },
    });
    Answer::Status(Box::new(serde_json::from_value::<Status>(status).unwrap()))
}

fn three() -> Answer {
    status(&[service("web", "ready"), service("db", "backoff"), service("odd", "held")])
}

fn report(changes: bool, steps: &Value, manifests: &Value) -> Answer {
    let report = json!({ "version": 1, "changes": changes, "steps": steps, "manifests": manifests });
    Answer::Report(Box::new(serde_json::from_value::<PassReport>(report).unwrap()))
}

/// A pass that did nothing and reached what it was asked for, with services that are not as declared.
fn nothing_to_do(apart: &Value, manifests: &Value) -> Answer {
    let report = json!({
        "version": 1, "changes": false, "steps": [], "converged": true, "apart": apart, "manifests": manifests,
    });
    Answer::Report(Box::new(serde_json::from_value::<PassReport>(report).unwrap()))
}

fn nothing_done() -> Answer {
    report(false, &json!([]), &json!([]))
}

fn one_step(action: &str) -> Value {
    json!([{
        "service": "web", "action": action, "reason": "spec-changed", "message": "command changed",
        "fields": ["command"], "evidence": { "code": "spec-changed", "pid": 4711 }, "outcome": "done",
    }])
}

/// What tells that a file is the one that was judged.
fn version_of(path: &Path) -> Value {
    let stat = fs::metadata(path).unwrap();
    let ns = |seconds: i64, nanos: i64| seconds * 1_000_000_000 + nanos;
    json!({
        "dev": stat.dev(), "inode": stat.ino(), "size": stat.size(),
        "mtime_ns": ns(stat.mtime(), stat.mtime_nsec()), "ctime_ns": ns(stat.ctime(), stat.ctime_nsec()),
    })
}

fn broken(path: &str, severity: &str) -> Value {
    json!([{ "path": path, "ok": false, "may_show_lines": true, "problems": [{
        "span": { "start": 14, "end": 18, "line": 2, "column": 1 }, "code": "unknown-key", "severity": severity,
        "service": "web", "message": "there is no key `comm`", "help": "did you mean `command`?",
    }] }])
}

#[test]
fn status_is_a_table_for_people_and_an_object_for_programs() {
    let world = World::new();
    let _watcher = world.watcher(|_| Some(three()));
    let table = world.run("ps");
    assert_eq!((table.code, table.stderr.as_str()), (Some(0), ""));
    let first: Vec<_> = table.stdout.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(first, ["NAME", "web", "db", "odd"]);
    let value = world.run("status -o json").json();
    assert_eq!(value["services"][1]["phase"], "backoff");
    assert_eq!(value["services"][1]["pid"], Value::Null);
}

#[test]
fn status_of_one_answers_like_an_init_script() {
    let world = World::new();
    let _watcher = world.watcher(|_| Some(three()));
    for (name, code) in [("web", 0), ("db", 3), ("odd", 4)] {
        let ran = world.run(&format!("status {name}"));
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(ran.stdout.starts_with(&format!("{name} is ")), "{ran:?}");
    }
    for (names, code) in [("web db", 3), ("web odd db", 4), ("default/*", 4), ("web web", 0)] {
        let ran = world.run(&format!("status {names}"));
        assert_eq!(ran.code, Some(code), "{names}: {ran:?}");
        let all = if names == "default/*" { "web db odd" } else { names };
        for name in all.split(' ') {
            assert!(
                ran.stdout.lines().any(|line| line.starts_with(&format!("{name} is "))),
                "{names}: {ran:?}"
            );
        }
    }
    let unknown = world.run("status wbe");
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(4), ""));
    assert!(unknown.stderr.contains("did you mean `web`?"), "{unknown:?}");
    assert_eq!(world.run("status wbe -o json").json()["services"], json!([]));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let world = World::new();
    let many: Vec<_> = (0..5000).map(|number| service(&format!("web-{number}"), "ready")).collect();
    let _watcher = world.watcher(move |_| Some(status(&many)));
    for line in ["status", "status -o json"] {
        let mut process = world.process(line);
        let mut child = process.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 1]).unwrap();
        drop(stdout);
        let ran = Ran::of(child.wait_with_output().unwrap());
        // On a busy machine it says that it waits.
        let mut told = ran.stderr.lines().filter(|line| !line.contains("is busy with a pass"));
        assert_eq!((ran.code, told.next()), (Some(0), None), "{line}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    let world = World::new();
    let ran = Ran::of(world.process("schema").stdout(full).output().unwrap());
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("standard output cannot be written"), "{ran:?}");
}

#[test]
fn plan_counts_changes_only_when_asked_to() {
    let world = World::new();
    let watcher = world.watcher(|_| Some(report(true, &one_step("restart"), &json!([]))));
    let plain = world.run("plan web");
    assert_eq!(plain.code, Some(0));
    assert_eq!(plain.stdout.lines().next(), Some("~  restart  web  command changed"));
    assert_eq!(watcher.asked(), Command::Plan { names: vec!["web".into()] });
    assert_eq!(world.run("plan --detailed-exitcode").code, Some(2));
    let value = world.run("plan --detailed-exitcode -o json").json();
    assert_eq!((&value["exit_codes"], &value["steps"][0]["action"]), (&json!([2]), &json!("restart")));
    assert_eq!(value["converged"], Value::Null);
}

#[test]
fn every_command_asks_for_what_it_says() {
    let world = World::new();
    let watcher = world.watcher(|_| Some(nothing_done()));
    let web = || vec!["web".into()];
    let labelled = |name: Option<&str>| {
        let labels = ["owner=a".parse().unwrap()];
        Selector::labelled(name.map(str::to_owned), &labels).into_iter().collect()
    };
    let minute = Duration::from_secs(60);
    let cases = [
        ("stop web", Command::Stop { names: web() }),
        ("start web api", Command::Start { names: vec!["web".into(), "api".into()] }),
        ("restart web", Command::Restart { names: web() }),
        ("reset web", Command::Reset { names: web() }),
        ("renew --project shop web", Command::Renew { names: vec!["shop/web".into()] }),
        ("down --purge", Command::Down { project: None, purge: true }),
        ("down --project shop", Command::Down { project: Some("shop".into()), purge: false }),
        ("down -l owner=a", Command::DownSome { names: labelled(None), purge: false }),
        ("stop --project shop web -l owner=a", Command::Stop { names: labelled(Some("shop/web")) }),
        ("prune web", Command::Prune { names: web() }),
        ("adopt web --pid 4711", Command::Adopt { name: "web".into(), pid: Pid::new(4711).unwrap() }),
        ("forget --project shop web", Command::Forget { name: "shop/web".into(), more: vec![] }),
        ("forget web api", Command::Forget { name: "web".into(), more: vec!["api".into()] }),
        ("takeover", Command::Takeover),
        (
            "wait web --for stopped --timeout 1m",
            Command::Wait { names: web(), until: WaitFor::Stopped, timeout: minute },
        ),
        (
            "--once status --timeout 1m --allow-prune",
            Command::Converge { names: vec!["status".into()], timeout: minute, allow_prune: true },
        ),
        (
            "--project shop --once",
            Command::Converge { names: vec!["shop/*".into()], timeout: 2 * minute, allow_prune: false },
        ),
    ];
    for (line, command) in cases {
        let ran = world.run(line);
        assert_eq!(ran.code, Some(0), "{line}: {ran:?}");
        assert_eq!(watcher.asked(), command, "{line}");
    }
}

#[test]
fn ways_out_of_held_print_their_evidence() {
    let world = World::new();
    let _watcher = world.watcher(|_| Some(report(true, &one_step("adopt"), &json!([]))));
    let ran = world.run("adopt web --pid 4711");
    assert!(ran.stdout.contains("evidence for adopt web:") && ran.stdout.contains("pid   4711"), "{ran:?}");
    assert!(!world.run("restart web").stdout.contains("evidence"));
}

#[test]
fn a_refusal_says_why_and_what_to_do() {
    let world = World::new();
    let _watcher = world.watcher(|_| {
        Some(Answer::Refused(Refusal {
            code: "failed".into(),
            message: "web is parked as failed".into(),
            help: Some("`reconcile reset web` ends that".into()),
        }))
    });
    let ran = world.run("start web");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert_eq!(ran.stderr, "refused: web is parked as failed\nhelp: `reconcile reset web` ends that\n");
    let value = world.run("start web -o json").json();
    assert_eq!((&value["refused"]["code"], &value["exit_codes"]), (&json!("failed"), &json!([1])));
}

#[test]
fn problems_are_drawn_with_their_line_and_annotated_in_ci() {
    let world = World::new();
    let path = world.path().join("web.toml");
    fs::write(&path, "[service.web]\ncomm = [\"x\"]\n").unwrap();
    let named = path.to_str().unwrap().to_owned();
    let mut problems = broken(&named, "invalid");
    problems[0]["file"] = version_of(&path);
    let _watcher = world.watcher(move |_| Some(report(false, &json!([]), &problems)));
    let ran = world.run("plan");
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(
        ran.stderr.contains("error[unknown-key]") && ran.stderr.contains("2 | comm = [\"x\"]"),
        "{ran:?}"
    );
    assert!(!ran.stderr.contains("::error"), "{ran:?}");

    let workspace = world.path().to_str().unwrap().to_owned();
    let ci = world.with("GITHUB_ACTIONS", "true").with("GITHUB_WORKSPACE", workspace);
    let ran = ci.run("plan -o json");
    let note =
        "::error file=web.toml,line=2,col=1,title=unknown-key::web: there is no key `comm`%0Adid you mean";
    assert!(ran.stderr.contains(note), "{ran:?}");
    assert_eq!(ran.json()["exit_codes"], json!([3]), "stdout is JSON all the same");
}

#[test]
fn a_refused_manifest_has_a_code_of_its_own() {
    let world = World::new();
    let _watcher = world.watcher(|_| Some(report(false, &json!([]), &broken("/none.toml", "refused"))));
    assert_eq!(world.run("--once").code, Some(4));
}

#[test]
fn colour_only_where_it_is_wanted() {
    let world = World::new();
    let _watcher = world.watcher(|_| Some(three()));
    assert!(!world.run("status").stdout.contains('\u{1b}'), "no terminal");
    let forced = world.with("CLICOLOR_FORCE", "1");
    assert!(forced.run("status").stdout.contains('\u{1b}'));
    assert!(!forced.run("status -o json").stdout.contains('\u{1b}'));
    assert!(!forced.with("NO_COLOR", "1").run("status").stdout.contains('\u{1b}'));
}

#[test]
fn what_others_wrote_does_not_act_on_the_terminal() {
    let world = World::new().with("CLICOLOR_FORCE", "1");
    let _watcher = world.watcher(|_| {
        let mut evil = service("web", "ready");
        evil["message"] = json!("\u{1b}[2J\u{9b}2Jgone\nroot  ready");
        evil["labels"] = json!({ "\u{7}": "\u{202e}" });
        Some(status(&[evil]))
    });
    for line in ["status", "status web", "status -o json"] {
        let ran = world.run(line);
        let bare = anstream::adapter::strip_str(&ran.stdout).to_string();
        let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!bare.chars().any(acts), "{line}: {bare:?}");
        assert!(!ran.stdout.contains("\u{1b}[2J"), "{line}: {ran:?}");
    }
}

#[test]
fn a_failure_is_an_object_for_programs() {
    let world = World::new();
    fs::write(world.path().join("reconcile.toml"), "[polcy]\n").unwrap();
    fs::create_dir(world.path().join("manifests")).unwrap();
    for line in ["validate -o json", "plan -o json", "--once -o json", "up -d -o json"] {
        let ran = world.run(line);
        let value = ran.json();
        assert_eq!((ran.code, &value["exit_codes"]), (Some(1), &json!([1])), "{line}: {ran:?}");
        assert!(value["error"]["message"].is_string() && ran.stderr.starts_with("error"), "{line}: {ran:?}");
    }
    let error = &world.run("validate -o json").json()["error"];
    assert_eq!(error["code"], "config-invalid", "{error}");
    assert!(error["message"].as_str().unwrap().contains("reconcile.toml:1"), "{error}");
    fs::remove_file(world.path().join("reconcile.toml")).unwrap();
    let _watcher = world.watcher(|_| Some(three()));
    let ran = world.run("up -d -o json");
    assert_eq!((ran.code, &ran.json()["error"]["code"]), (Some(6), &json!("another-reconciler")), "{ran:?}");
}

#[test]
fn a_watcher_that_ends_meanwhile_is_named() {
    let world = World::new();
    let _watcher = world.watcher(|_| None);
    let ran = world.run("stop web");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert!(ran.stderr.contains("shutting-down"), "{ran:?}");
}

#[test]
fn a_second_watcher_in_the_background_is_refused() {
    let world = World::new();
    let _watcher = world.watcher(|_| Some(three()));
    let ran = world.run("up -d");
    assert_eq!(ran.code, Some(6), "{ran:?}");
    assert!(ran.stderr.contains(&format!("pid {}", std::process::id())), "{ran:?}");
}

#[test]
fn variables_stand_in_for_options_and_empty_ones_for_nothing() {
    let world = World::new().with("RECONCILE_OUTPUT", "json").with("RECONCILE_CONFIG", "");
    let watcher = world.watcher(|_| Some(three()));
    assert!(world.run("status").json().is_object());
    assert_eq!(watcher.asked(), Command::Status);
    assert!(world.run("status -o text").stdout.starts_with("NAME"));
    let listed = World::new().with("RECONCILE_MANIFESTS", "one:two");
    for dir in ["one", "two"] {
        fs::create_dir(listed.path().join(dir)).unwrap();
    }
    assert_eq!(listed.run("init").code, Some(0));
    for dir in ["one", "two"] {
        assert!(listed.path().join(dir).join("hello.toml").exists(), "{dir}");
    }
}

#[test]
fn a_command_about_one_service_is_not_failed_by_the_manifest_of_another() {
    let world = World::new();
    let _watcher =
        world.watcher(|_| Some(report(true, &one_step("restart"), &broken("/other.toml", "invalid"))));
    let ran = world.run("restart web");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(world.run("--once").code, Some(3));
}

#[test]
fn waiting_says_nothing_when_there_is_nothing_to_say() {
    let world = World::new();
    let _watcher = world.watcher(|_| Some(nothing_done()));
    let ran = world.run("wait web");
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "", ""));
    assert!(world.run("start web").stdout.starts_with("nothing to do"));
}

#[test]
fn a_broken_configuration_is_drawn() {
    let world = World::new();
    fs::write(world.path().join("reconcile.toml"), "[polcy]\n").unwrap();
    fs::create_dir(world.path().join("manifests")).unwrap();
    let ran = world.run("validate");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("1 | [polcy]") && !ran.stderr.contains("\\x1b"), "{ran:?}");
}

#[test]
fn what_is_parked_is_not_called_as_declared() {
    let world = World::new();
    let apart = json!([{ "service": "db", "phase": "failed" }, { "service": "web", "phase": "stopped" }]);
    let _watcher = world.watcher(move |_| Some(nothing_to_do(&apart, &json!([]))));
    let said = "nothing to do, but not all is as declared: db is failed, web is stopped\n";
    for line in ["plan", "--once"] {
        assert_eq!(world.run(line).stdout, said, "{line}");
    }
    let of_one = world.run("start web").stdout;
    assert_eq!(of_one, "nothing to do, but not all is as declared: web is stopped\n");
    assert_eq!(world.run("stop web").stdout, "nothing to do: nothing of it runs\n");
}

#[test]
fn converged_means_exit_code_0() {
    let world = World::new();
    for (manifests, code) in [(json!([]), 0), (broken("/none.toml", "invalid"), 3)] {
        let _watcher = world.watcher(move |_| Some(nothing_to_do(&json!([]), &manifests)));
        let ran = world.run("--once -o json");
        assert_eq!((ran.code, &ran.json()["converged"]), (Some(code), &json!(code == 0)), "{ran:?}");
    }
}

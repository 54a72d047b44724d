//! Clocks that jump: the wall clock by a day, and those that count suspend.
//!
//! The reconciler alone sees them jump: by libfaketime, or in a time namespace. The machine's clocks stay as they are.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::Value;
use support::{World, kill, namespace};

const FOREVER: &str = "exec sleep 1000";

/// `None`, with a message, where it is not installed.
fn libfaketime() -> Option<PathBuf> {
    let dirs =
        ["/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib/faketime"];
    let found = dirs.iter().map(|dir| Path::new(dir).join("libfaketime.so.1")).find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: libfaketime is not installed");
    }
    found
}

/// A watcher for whom the wall clock is off by what a file says.
struct Faked<'a> {
    world: &'a World,
    library: PathBuf,
    watcher: Option<Child>,
}

impl<'a> Faked<'a> {
    fn new(world: &'a World) -> Option<Self> {
        let faked = Self { world, library: libfaketime()?, watcher: None };
        faked.offset("+0");
        Some(faked)
    }

    fn offset(&self, by: &str) {
        let new = self.world.path("offset.new");
        std::fs::write(&new, by).unwrap();
        std::fs::rename(new, self.world.path("offset")).unwrap();
    }

    fn fake(&self, mut command: Command) -> Command {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", self.world.path("offset"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }

    fn start(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.world.path("watcher.log")).unwrap();
        let mut command = self.fake(self.world.command());
        command.args(["up", "--quiet"]).stdout(log.try_clone().unwrap()).stderr(log);
        self.watcher = Some(command.spawn().unwrap());
        self.world
            .until("the watcher answers", |world| world.status().is_some_and(|it| it["watching"] == true));
    }

    fn kill(&mut self) {
        let mut watcher = self.watcher.take().expect("it was started");
        watcher.kill().unwrap();
        watcher.wait().unwrap();
    }
}

impl Drop for Faked<'_> {
    fn drop(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
    }
}

/// Days between what a watcher has written down and now.
fn days_off(at: &Value) -> i64 {
    let at: jiff::Timestamp = at.as_str().expect("a time").parse().unwrap();
    let seconds = at.duration_since(jiff::Timestamp::now()).as_secs();
    (seconds + 43_200 * seconds.signum()) / 86_400
}

#[test]
fn a_step_of_the_wall_clock_changes_nothing_within_a_boot() {
    let world = World::new();
    let Some(mut faked) = Faked::new(&world) else { return };
    world.service("web", FOREVER, "ttl = \"1h\"");
    world.service("bad", "exit 3", "restart = { backoff = \"1h\", backoff_max = \"1h\" }");
    faked.start();
    world.until_phase("web", "running");
    world.until_phase("bad", "backoff");
    let before = world.pid("web");
    for (round, by) in ["+1d", "-1d", "+0", "-1d"].into_iter().enumerate() {
        faked.offset(by);
        if round >= 2 {
            faked.kill();
            faked.start();
        }
        // A pass of its own, which plans everything.
        world.service("web", FOREVER, &format!("ttl = \"1h\"\nlabels = {{ round = \"{round}\" }}"));
        let label = round.to_string();
        world.until("it is taken in", |world| {
            world.service_status("web").is_some_and(|web| web["labels"]["round"] == label.as_str())
        });
        let status = world.status().unwrap();
        // The clock of the watcher is another one indeed.
        let off = days_off(&status["last_pass"]["at"]);
        assert_eq!(
            off,
            match by {
                "+1d" => 1,
                "-1d" => -1,
                _ => 0,
            },
            "{status}"
        );
        let services = status["services"].as_array().unwrap();
        let [bad, web] = services.as_slice() else { panic!("{status}") };
        assert_eq!((&web["phase"], &web["pid"]), (&"running".into(), &before.into()), "{by}: {web}");
        assert!(web["uptime_s"].as_u64().is_some_and(|seconds| seconds < 300), "{by}: {web}");
        assert_eq!((&bad["phase"], &bad["failures"]), (&"backoff".into(), &1.into()), "{by}: {bad}");
        assert!(status["last_pass"]["age_ms"].as_u64().is_some_and(|age| age < 300_000), "{by}: {status}");
        let table = world.run(&["status"]).expect_code(0).stdout;
        assert!(!table.contains("1d "), "{by}: {table}");
    }
    // An end that is waited for comes when it is due, whatever the wall clock says.
    world.service(
        "quick",
        "exit 3",
        "restart = { backoff = \"10ms\", backoff_max = \"10ms\", max_failures = 3 }",
    );
    faked.offset("-1d");
    world.until_phase("quick", "failed");
    kill(before.unwrap());
    world.until("it is started anew", |world| world.pid("web").is_some_and(|pid| Some(pid) != before));
}

/// `--once` for which the machine was suspended for this long since, or has been awake for longer.
fn once_after(world: &World, clock: &str, seconds: u32) -> Option<support::Run> {
    let mut command = namespace::inside(world, &["-T", &format!("{clock}={seconds}")])?;
    command.args(["--once", "--timeout", "3s"]);
    Some(world.finish(command))
}

#[test]
fn a_suspend_counts_for_a_ttl_and_not_for_a_backoff_and_makes_nobody_a_stranger() {
    for holders in [false, true] {
        let world = World::run_as(if holders { support::As::Holders } else { support::As::Caller });
        world.service("long", FOREVER, "");
        world.service("short", FOREVER, "ttl = \"1h\"");
        world.service("bad", "exit 3", "restart = { backoff = \"1h\", backoff_max = \"1h\" }");
        world.run(&["--once", "--timeout", "3s"]);
        let before = world.pid("long").unwrap();
        assert_eq!(world.phase("bad"), "backoff");
        // With `--boottime` alone CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC, as after a suspend.
        let Some(run) = once_after(&world, "--boottime", 1_800) else { return };
        assert!(!run.stdout.contains("TTL"), "{run:?}");
        assert_eq!((world.phase("short").as_str(), world.pid("long")), ("running", Some(before)), "{run:?}");
        let run = once_after(&world, "--boottime", 7_200).unwrap();
        assert!(run.stdout.contains("its TTL of 1h is over"), "{run:?}");
        assert_eq!((world.phase("bad").as_str(), world.pid("long")), ("backoff", Some(before)), "{run:?}");
        // Awake for as long: now it is due, and fails again.
        once_after(&world, "--monotonic", 7_200).unwrap();
        assert_eq!(world.service_status("bad").unwrap()["failures"], 2, "{}", world.describe());
        assert_eq!(world.pid("long"), Some(before));
    }
}

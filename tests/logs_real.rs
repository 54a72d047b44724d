//! Logs of real services: bounded under a writer at full speed, whole for whoever follows, and no secret when a
//! service cuts its own off.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::process::{Child, Stdio};

use support::{World, read};

const POLICY: &str = "[policy]\nallow_shell = true\nexecutables = [\"sh\", \"perl\", \"sleep\"]\n";

/// Bytes of the log and its archives, holes not counted.
fn disk_use(world: &World) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(world.state().join("logs")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(entry.metadata().ok()?.blocks() * 512)).sum()
}

struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_log_stays_small_under_a_writer_at_full_speed() {
    let mut world = World::new();
    world.config(&format!("{POLICY}[logs]\nmax_size = \"256KiB\"\nkeep = 2\n"));
    world.watch();
    // Some 20 MB at once, then a little now and then, as services do.
    let script = "perl -e '$| = 1; print \"line $_\\n\" for 1 .. 1_500_000; open F, \">written\"; \
                  while (1) { print \"on\\n\"; select undef, undef, undef, 0.2 }'";
    world.service("web", script, "");
    world.until("all of it is written", |world| world.project().join("written").exists());
    // The log, two archives, and what the second before a look may add.
    world.until("the log is small again", |world| disk_use(world) < 4 * 256 * 1024);
    assert_eq!(world.phase("web"), "running");
}

#[test]
fn a_follower_sees_every_line_once_across_rotations() {
    let mut world = World::new();
    world.config(&format!("{POLICY}[logs]\nmax_size = \"64KiB\"\nkeep = 1000\n"));
    world.watch();
    let (go, enough) = (world.project().join("go"), world.project().join("enough"));
    let script = "perl -e '$| = 1; sleep 1 until -e \"go\"; until (-e \"enough\") { print \"line \", ++$n, \"\\n\"; \
                  select undef, undef, undef, 0.05 unless $n % 5000 } print \"end\\n\"; sleep 1000'";
    world.service("web", script, "");
    world.until_phase("web", "running");
    let seen = world.path("seen");
    let mut command = world.command();
    command.args(["logs", "web", "-f"]).stdout(std::fs::File::create(&seen).unwrap()).stderr(Stdio::null());
    let _following = Following(command.spawn().unwrap());
    std::fs::write(go, "").unwrap();
    let archives = |world: &World| std::fs::read_dir(world.state().join("logs")).unwrap().count() - 1;
    world.until("it was rotated by several looks", |world| archives(world) > 100);
    std::fs::write(enough, "").unwrap();
    world.until("the last line was seen", |_| read(&seen).ends_with("end\n"));
    let seen = read(&seen);
    let is_whole = seen.lines().zip(1..).all(|(line, n)| line == format!("line {n}") || line == "end");
    assert!(is_whole, "lines are missing, doubled or out of order");
}

#[test]
fn a_service_that_truncates_its_own_log_is_reported() {
    let mut world = World::new();
    world.watch();
    let script = "n=0; while :; do n=$((n + 1)); perl -e 'print \"$ARGV[0]\\n\" x 10000' $n; sleep 1.5; \
                  : > /dev/stdout; done";
    world.service("web", script, "");
    world.until("it is reported", |world| {
        let status = world.service_status("web").unwrap_or_default();
        status["drift"].as_array().is_some_and(|drift| drift.iter().any(|it| it["code"] == "log-truncated"))
    });
    assert!(world.run(&["status", "web"]).stdout.contains("log-truncated"));
    assert_eq!(world.phase("web"), "running");
}

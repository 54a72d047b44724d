//! Services that are slow, deaf or broken, many at a time: what one of them does delays nobody else.
//!
//! Usual doses; the full ones where `RECONCILE_TEST_FULL` is set, whose figures are for people to read: a machine that
//! starts a thousand services at once has no time for anything. Times are compared with times of the same run.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::time::Instant;

use serde_json::Value;
use support::{World, is_alive};

fn is_full() -> bool {
    std::env::var_os("RECONCILE_TEST_FULL").is_some()
}

/// Several services in one file: `lines` of each, with its number.
fn many(names: impl Iterator<Item = String>, lines: &str) -> String {
    names.map(|name| format!("[service.{name}]\n{lines}\n")).collect()
}

/// The moments that services have written down by `date +%s%N`, in milliseconds.
fn moments(world: &World, file: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(world.path(file)).unwrap_or_default();
    text.lines().filter_map(|line| Some(line.parse::<u64>().ok()? / 1_000_000)).collect()
}

#[test]
fn the_deaf_among_many_cost_a_down_one_grace_together() {
    let (all, deaf) = if is_full() { (500, 50) } else { (60, 10) };
    let world = World::new();
    let lines = "command = ['sleep', '1000']\nstart_settle = '10ms'";
    world.manifest("good.toml", &many((deaf..all).map(|n| format!("good-{n}")), lines));
    let script =
        format!("trap 'date +%s%N >> {}' TERM; while :; do sleep 1; done", world.path("told").display());
    let lines = format!(
        "command = {}\nshell = true\nstart_settle = '200ms'\nstop = {{ grace = '3s' }}",
        toml::Value::String(script)
    );
    world.manifest("deaf.toml", &many((0..=deaf).map(|n| format!("deaf-{n}")), &lines));
    world.run(&["--once", "--timeout", "5m"]).expect_code(0);
    let begun = Instant::now();
    world.run(&["stop", "deaf-0"]).expect_code(0);
    let one = begun.elapsed();
    let before = moments(&world, "told").len();
    let begun = Instant::now();
    world.run(&["down"]).expect_code(0);
    let together = begun.elapsed();
    let told = moments(&world, "told").split_off(before);
    let apart = told.iter().max().unwrap() - told.iter().min().unwrap();
    println!(
        "{deaf} of {all} deaf: one stop took {one:?}, all of them {together:?}, the first and the last were told {apart} ms apart"
    );
    assert_eq!(told.len(), deaf, "each was told once");
    assert!(together < one * 4, "{together:?} for all, {one:?} for one");
}

#[test]
fn what_hangs_in_a_stop_or_a_probe_delays_nobody_else() {
    let mut world = World::new();
    let hanging = "stop = { command = ['sleep', '1000'], grace = '10m' }";
    world.service("in-its-stop-command", "exec sleep 1000", hanging);
    world.service("in-its-stop", "trap '' TERM; while :; do sleep 1; done", "stop = { grace = '10m' }");
    let probe = "health = { command = ['sleep', '1000'], timeout = '10m', start_timeout = '30m' }";
    world.service("in-its-probe", "exec sleep 1000", probe);
    world.service("beside", "exec sleep 1000", "health = { command = ['true'] }");
    world.watch();
    world.until_phase("beside", "ready");
    for name in ["in-its-stop-command", "in-its-stop"] {
        world.until_phase(name, "running");
        world.remove(&format!("{name}.toml"));
    }
    for name in ["in-its-stop-command", "in-its-stop"] {
        world.until_phase(name, "stopping");
    }
    // A start, a probe, a stop, a restart and a command of others, all of them while three services hang.
    world.service("late", "exec sleep 1000", "health = { command = ['true'], interval = '100ms' }");
    world.until_phase("late", "ready");
    let before = world.pid("beside").unwrap();
    world.run(&["restart", "beside"]).expect_code(0);
    world.until_phase("beside", "ready");
    assert!(!is_alive(before));
    world.run(&["stop", "late"]).expect_code(0);
    assert_eq!(world.phase("late"), "stopped");
    for (name, phase) in
        [("in-its-stop-command", "stopping"), ("in-its-stop", "stopping"), ("in-its-probe", "starting")]
    {
        assert_eq!(world.phase(name), phase, "{name}\n{}", world.describe());
    }
}

/// CPU time of a process so far, all of its threads, in milliseconds.
fn cpu_ms(pid: i32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.flatten().map(of).sum::<u64>() / 1_000_000
}

fn median_interval(probes: &[u64]) -> u64 {
    let mut intervals: Vec<u64> = probes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    intervals.sort_unstable();
    intervals[intervals.len() / 2]
}

#[test]
fn many_that_crash_cost_as_much_as_they_are_started_and_no_healthy_one_waits() {
    let crashing: u32 = if is_full() { 1000 } else { 100 };
    let mut world = World::new();
    let probe = format!("date +%s%N >> {}", world.path("probes").display());
    let health =
        format!("health = {{ command = {}, shell = true, interval = '500ms' }}", toml::Value::String(probe));
    world.service("healthy", "exec sleep 1000", &health);
    let watcher = world.watch() as i32;
    world.until_phase("healthy", "ready");
    let quiet = {
        world.until("probes were made in peace", |world| moments(world, "probes").len() >= 6);
        median_interval(&moments(&world, "probes"))
    };
    let keeper = world.keeper().expect("a keeper holds the service");
    let spent = || cpu_ms(watcher) + cpu_ms(keeper);

    // What a start costs: as many that go on running.
    let before = spent();
    world.manifest(
        "calm.toml",
        &many(
            (0..crashing).map(|n| format!("calm-{n}")),
            "command = ['sleep', '1000']\nstart_settle = '10ms'",
        ),
    );
    let running = |world: &World, prefix: &str| {
        count(world, |service| name(service).starts_with(prefix) && service["phase"] == "running")
    };
    world.until("the calm ones run", |world| running(world, "calm-") == crashing as usize);
    let calm_cost = (spent() - before) as f64 / f64::from(crashing);

    let (before, begun, probed) = (spent(), Instant::now(), moments(&world, "probes").len());
    let lines = "command = ['false']\nrestart = { backoff = '1s', backoff_max = '60s', max_failures = 1000 }";
    world.manifest("crashing.toml", &many((0..crashing).map(|n| format!("crash-{n}")), lines));
    let restarts = |world: &World| -> u64 {
        let status = world.status().expect("a command is answered meanwhile");
        let services = status["services"].as_array().unwrap();
        services
            .iter()
            .filter(|service| name(service).starts_with("crash-"))
            .map(|service| service["restarts"].as_u64().unwrap())
            .sum()
    };
    world.until("each was started four times", |world| restarts(world) >= u64::from(crashing) * 3);
    let answered = Instant::now();
    world.run(&["restart", "calm-0"]).expect_code(0);
    let answered = answered.elapsed();
    let (cost, elapsed) = (spent() - before, begun.elapsed());
    let starts = restarts(&world) + u64::from(crashing);
    // Each waits for 1, 2, 4, … s: in so long it can have been started so often.
    let most = 2.0 + (1.0 + elapsed.as_secs_f64()).log2();
    assert!(starts as f64 <= f64::from(crashing) * most, "{starts} starts in {elapsed:?}");
    let crash_cost = cost as f64 / starts as f64;
    let during = moments(&world, "probes");
    let loaded = median_interval(&during[probed.saturating_sub(1)..]);
    println!(
        "{crashing} crashing: {starts} starts in {elapsed:?} for {cost} ms of CPU, {crash_cost:.2} ms each, a calm one \
         {calm_cost:.2} ms; probes every {loaded} ms, in peace {quiet} ms; a restart answered in {answered:?}"
    );
    assert!(
        crash_cost <= calm_cost.max(0.5) * 8.0,
        "{crash_cost} ms for a crash, {calm_cost} ms for a start"
    );
    let late = if is_full() { 10 } else { 4 };
    assert!(loaded <= quiet * late, "a probe every {loaded} ms, in peace every {quiet} ms");
}

fn name(service: &Value) -> &str {
    service["name"].as_str().unwrap_or_default()
}

fn count(world: &World, what: impl Fn(&Value) -> bool) -> usize {
    world.status().map_or(0, |status| {
        status["services"].as_array().unwrap().iter().filter(|service| what(service)).count()
    })
}

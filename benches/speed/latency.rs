//! From an event to the first instruction of the service that it starts.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::figure::{Aim, Figure, Samples};
use crate::floor;
use crate::stamp::{self, Program};
use crate::world::{Containment, World};

/// (c) A manifest is renamed into a watched directory.
pub fn of_a_rename(program: &Program, containment: Containment, rounds: usize) -> Vec<Figure> {
    let mut world = World::new(containment, program);
    world.start_watcher();
    let manifest = |name: &str| format!("[service.{name}]\ncommand = [{:?}]\n", program.path());
    // The first start brings up the keeper, which is not what is measured.
    let (staged, target) = world.stage("first", &manifest("first"));
    std::fs::rename(staged, target).unwrap();
    world.wait_until_running(1);
    let ours: Samples = (0..rounds)
        .map(|round| {
            let name = format!("s{round}");
            let (staged, target) = world.stage(&name, &manifest(&name));
            let begun = stamp::now();
            std::fs::rename(staged, target).unwrap();
            let started = stamp::wait_for(&world.log(&name), 0);
            std::thread::sleep(floor::PAUSE);
            started.at - begun
        })
        .collect();
    let floor = floor::rename_to_start(program, rounds);
    beside(&format!("manifest renamed in → first instruction{}", how(containment)), &ours, &floor)
}

/// (d) A service is killed.
///
/// The least backoff is longer than what is measured here. Where SIGKILL counts as a clean end, a service that
/// is always restarted waits for no backoff unless it has lived for less than one.
pub fn of_a_kill(program: &Program, containment: Containment, rounds: usize) -> Vec<Figure> {
    let mut world = World::new(containment, program);
    let policy =
        "policy = \"always\", success_signals = [\"KILL\"], backoff = \"10ms\", backoff_max = \"10ms\"";
    let text = format!("[service.s]\ncommand = [{:?}]\nrestart = {{ {policy} }}\n", program.path());
    let (staged, target) = world.stage("s", &text);
    std::fs::rename(staged, target).unwrap();
    world.start_watcher();
    world.wait_until_running(1);
    let log = world.log("s");
    let ours: Samples = (0..rounds)
        .map(|round| {
            let running = stamp::wait_for(&log, round);
            std::thread::sleep(floor::PAUSE);
            let begun = stamp::now();
            kill(Pid::from_raw(running.pid), Signal::SIGKILL).unwrap();
            stamp::wait_for(&log, round + 1).at - begun
        })
        .collect();
    let floor = floor::kill_to_start(program, rounds);
    beside(&format!("service killed → first instruction of the next{}", how(containment)), &ours, &floor)
}

fn beside(what: &str, ours: &Samples, floor: &Samples) -> Vec<Figure> {
    vec![
        Figure::new(format!("{what}, p50"), ours.p50()).beside(floor.p50()).aim(Aim::Times(5.0)),
        Figure::new(format!("{what}, p95"), ours.p95()).beside(floor.p95()),
    ]
}

pub fn how(containment: Containment) -> &'static str {
    match containment {
        Containment::Default => "",
        Containment::Holders => " (holders)",
    }
}

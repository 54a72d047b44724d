//! Many services at once: how long they take to start, what they cost while idle, how fast commands answer.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::figure::{Aim, Figure, Samples, Value};
use crate::floor;
use crate::latency::how;
use crate::stamp::{self, Program};
use crate::usage::{Memory, cpu_time};
use crate::world::{Containment, World};

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Dose {
    pub services: usize,
    pub idle: Duration,
    pub commands: usize,
}

/// (e), (f) and (g), over one and the same world.
pub fn measure(program: &Program, containment: Containment, dose: Dose) -> Vec<Figure> {
    let mut world = World::new(containment, program);
    for n in 0..dose.services {
        let text = format!("[service.s{n}]\ncommand = [{:?}]\n", program.path());
        std::fs::write(world.manifests().join(format!("s{n}.toml")), text).unwrap();
    }
    let mut figures = vec![start(&mut world, program, containment, dose.services)];
    world.wait_until_running(dose.services);
    let what = format!("{} services{}", dose.services, how(containment));
    figures.extend(idle(&world, containment, &what, dose));
    if containment == Containment::Default {
        figures.extend(commands(&mut world, dose));
    }
    figures
}

fn start(world: &mut World, program: &Program, containment: Containment, services: usize) -> Figure {
    let floor: Samples = (0..3).map(|_| floor::start_many(program, services)).collect();
    let begun = stamp::now();
    world.start_watcher();
    let last = (0..services).map(|n| stamp::wait_for(&world.log(&format!("s{n}")), 0).at).max();
    let ours = last.map_or(Duration::ZERO, |last| last - begun);
    Figure::new(format!("start {services} services{}", how(containment)), ours)
        .beside(floor.p50())
        .aim(Aim::Times(3.0))
}

/// (j) As many that sleep, each behind a socket of its own.
pub fn asleep(program: &Program, dose: Dose) -> Vec<Figure> {
    let mut world = World::new(Containment::Default, program);
    let sockets: Vec<_> = (0..dose.services).map(|n| world.path(&format!("{n}.sock"))).collect();
    for (n, socket) in sockets.iter().enumerate() {
        let text = format!(
            "[service.s{n}]\ncommand = [{:?}]\nsockets.s = {socket:?}\nactivation.on = \"connection\"\n",
            program.answering()
        );
        std::fs::write(world.manifests().join(format!("s{n}.toml")), text).unwrap();
    }
    world.start_watcher();
    world.wait_until_asleep(dose.services);
    world.wait_for_files(&sockets);
    let figures = idle(&world, Containment::Default, &format!("{} services asleep", dose.services), dose);
    figures.into_iter().map(|figure| figure.aim(Aim::None)).collect()
}

fn idle(world: &World, containment: Containment, what_there_is: &str, dose: Dose) -> Vec<Figure> {
    let (watcher, keeper) = (world.watcher(), world.keeper());
    let both = || cpu_time(watcher) + cpu_time(keeper);
    // Whoever has just been asked for the status is done with it by then.
    std::thread::sleep(Duration::from_secs(2));
    let before = both();
    std::thread::sleep(dose.idle);
    let idle = both() - before;
    kill(Pid::from_raw(watcher), Signal::SIGHUP).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let full_pass = both() - before - idle;

    let (watcher, keeper) = (Memory::of(watcher), Memory::of(keeper));
    let holders: Memory = world.holders().into_iter().map(Memory::of).sum();
    let all = watcher + keeper + holders;
    let seconds = dose.idle.as_secs();
    let figure = |what: &str, value: Value| Figure::new(format!("{what}, {what_there_is}"), value);
    // The finest that /proc/PID/stat would show.
    let tick = Duration::from_millis(10);
    let with = |what: &str, memory: Memory| figure(what, Value::Bytes(memory.proportional));
    let bound = Aim::Below(Value::Bytes(20_000_000));
    let mut figures = vec![
        figure(&format!("CPU time of {seconds} s idle"), idle.into()).aim(Aim::Below(tick.into())),
        figure("CPU time of a full pass", full_pass.into()),
        // What both cost together: pages of the program, which both have, count once.
        with("memory of reconciler and keeper, proportional", watcher + keeper).aim(bound),
        with("  of it the reconciler", watcher),
        with("  of it the keeper", keeper),
        figure("  resident, shared pages twice", Value::Bytes(watcher.resident + keeper.resident)),
    ];
    if containment == Containment::Holders {
        let share = holders.proportional / dose.services as u64;
        figures.push(figure("memory of one holder, proportional", Value::Bytes(share)));
        figures.push(with("memory of all of it, proportional", all));
    }
    figures
}

fn commands(world: &mut World, dose: Dose) -> Vec<Figure> {
    let time = |world: &World, arguments: &[&str]| -> Duration {
        (0..dose.commands).map(|_| world.time(arguments)).collect::<Samples>().p50()
    };
    let mut figures = Vec::new();
    let mut add = |world: &World, what: &str| {
        let version = time(world, &["--version"]);
        let line = |name: &str, arguments: &[&str], bound: u64| {
            Figure::new(
                format!("{name}, {} services unchanged, {what}", dose.services),
                time(world, arguments),
            )
            .beside(version)
            .aim(Aim::Below(Duration::from_millis(bound).into()))
        };
        figures.extend([line("--once", &["--once"], 100), line("status", &["status"], 20)]);
    };
    add(world, "asking the watcher");
    world.kill_watcher();
    // The first one after a death finds out what the dead one knew.
    world.time(&["--once"]);
    add(world, "no watcher");
    figures
}

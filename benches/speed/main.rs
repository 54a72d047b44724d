//! How fast `reconcile` is, each figure beside a floor that is measured in the same run.
//!
//! ```console
//! $ cargo bench --bench speed              # everything, some five minutes
//! $ cargo bench --bench speed -- c d       # some of it, by the letters of docs/benchmarks.md
//! ```
//!
//! Runs the release binary in worlds of its own below the temporary directory, and ends whatever it started.
//! Without cargo's `--bench`, as in `cargo test --all-targets`, it takes a tiny dose of everything: enough
//! to see that it works.

#![allow(clippy::disallowed_methods, reason = "it measures the world")]

mod demand;
mod figure;
mod floor;
mod latency;
mod many;
mod pure;
mod stamp;
mod usage;
mod world;

use std::time::Duration;

use demand::Traffic;
use figure::Figure;
use many::Dose;
use stamp::Program;
use world::Containment;

/// How much of everything is measured.
struct Size {
    manifests: usize,
    rounds: usize,
    starts: usize,
    many: Dose,
    traffic: Traffic,
}

impl Size {
    fn full() -> Self {
        let many = Dose { services: 1000, idle: Duration::from_secs(30), commands: 9 };
        let traffic = Traffic { bytes: 1_000_000_000, questions: 10_000, connections: 1_000 };
        Self { manifests: 10_000, rounds: 15, starts: 100, many, traffic }
    }

    fn tiny() -> Self {
        let many = Dose { services: 5, idle: Duration::from_millis(100), commands: 1 };
        let traffic = Traffic { bytes: 1_000_000, questions: 2, connections: 2 };
        Self { manifests: 20, rounds: 2, starts: 2, many, traffic }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let size = if arguments.iter().any(|word| word == "--bench") { Size::full() } else { Size::tiny() };
    let letters: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
    let chosen = |any_of: &str| {
        letters.is_empty() || letters.iter().any(|word| word.chars().any(|letter| any_of.contains(letter)))
    };
    let both = [Containment::Default, Containment::Holders];
    let program = Program::compile();
    println!("{}", figure::head());
    if chosen("a") {
        show(&[pure::load(size.manifests, size.rounds)]);
    }
    if chosen("b") {
        show(&[
            pure::planning(size.manifests, size.rounds),
            pure::planning_chains(size.manifests, size.rounds),
        ]);
    }
    for containment in both.into_iter().filter(|_| chosen("c")) {
        show(&latency::of_a_rename(&program, containment, size.starts));
    }
    for containment in both.into_iter().filter(|_| chosen("d")) {
        show(&latency::of_a_kill(&program, containment, size.starts));
    }
    for containment in both.into_iter().filter(|_| chosen("efg")) {
        show(&many::measure(&program, containment, size.many));
    }
    for containment in both.into_iter().filter(|_| chosen("h")) {
        show(&demand::of_a_connection(&program, containment, size.starts));
    }
    if chosen("i") {
        show(&demand::proxied(&program, size.traffic));
    }
    if chosen("j") {
        show(&many::asleep(&program, size.many));
    }
}

/// As soon as they are there: the whole takes minutes.
fn show(figures: &[Figure]) {
    figures.iter().for_each(|figure| println!("{}", figure.line()));
}

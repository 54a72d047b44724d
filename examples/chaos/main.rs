//! A seeded soak of the real thing: services that misbehave, manifests that change, and SIGKILL at any moment,
//! judged by an oracle that takes nobody's word.
//!
//! ```console
//! $ cargo run --release --example chaos -- --seed 7 --minutes 10
//! ```
//!
//! Everything happens in a temporary directory, with processes of its own, all of which are ended. Exits with 1
//! and leaves the directory where a promise was broken.

#![allow(clippy::disallowed_methods, reason = "it touches the world, that is what it is for")]

mod driver;
mod model;
mod oracle;
mod register;
mod soak;
mod tree;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// Break what can be broken, and see whether the promises hold.
#[derive(Debug, Parser)]
struct Options {
    /// The acts are drawn from it [default: by the clock]
    #[arg(long)]
    seed: Option<u64>,

    /// How long to go on
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,

    /// Without cgroups, by one holder a service
    #[arg(long)]
    holders: bool,

    /// As this user; only root may
    #[arg(long)]
    uid: Option<u32>,
}

fn main() -> ExitCode {
    // One command builds all there is to run: started under this name, it is the binary itself.
    let is_the_binary = std::env::current_exe().is_ok_and(|exe| exe.ends_with("reconcile"));
    if is_the_binary {
        return reconcile::commands::main();
    }
    let options = Options::parse();
    let by_clock = || std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let binary = dir.path().join("reconcile");
    let own = std::env::current_exe().expect("/proc is there");
    std::fs::copy(own, &binary).expect("the program can be copied");
    std::os::unix::fs::chown(dir.path(), options.uid, options.uid).expect("only root sets a user");
    let soak = soak::Soak {
        seed: options.seed.unwrap_or_else(by_clock),
        length: Duration::from_secs_f64(options.minutes * 60.0),
        setting: world::Setting { holders: options.holders, uid: options.uid },
    };
    let report = soak.run(&binary);
    println!("{report}");
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

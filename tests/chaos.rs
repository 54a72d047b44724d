//! A minute of the chaos example, a third of it as whoever runs the tests, with holders, and as nobody.
//!
//! One test, since a world ends whatever descends from its process. The seed is printed: the same acts again by
//! `cargo run --release --example chaos -- --seed N`.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

#[path = "../examples/chaos/driver.rs"]
mod driver;
#[path = "../examples/chaos/model.rs"]
mod model;
#[path = "../examples/chaos/oracle.rs"]
mod oracle;
#[path = "../examples/chaos/register.rs"]
mod register;
#[path = "../examples/chaos/soak.rs"]
mod soak;
#[path = "../examples/chaos/tree.rs"]
mod tree;
#[path = "../examples/chaos/world.rs"]
mod world;

use std::path::Path;
use std::time::Duration;

use soak::Soak;
use world::Setting;

const NOBODY: u32 = 65534;

#[test]
fn nothing_is_lost_and_nobody_hurt() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let is_root = nix::unistd::Uid::effective().is_root();
    let settings = [
        Setting { holders: false, uid: None },
        Setting { holders: true, uid: None },
        Setting { holders: false, uid: is_root.then_some(NOBODY) },
    ];
    for (setting, seed) in settings.into_iter().zip(seed..) {
        let soak = Soak { seed, length: Duration::from_secs(20), setting };
        let report = soak.run(Path::new(env!("CARGO_BIN_EXE_reconcile")));
        println!("{setting:?}\n{report}");
        assert!(report.violations.is_empty(), "seed {seed}, {setting:?}: {:#?}", report.violations);
    }
}

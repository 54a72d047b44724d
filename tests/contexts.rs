//! Whoever starts `--once` or a watcher: units that are tidied up, pipes, locks, terminals, bare environments.
//!
//! What is started must not depend on who started it, or it must have been said that it does.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

#[path = "contexts/cgroup.rs"]
mod cgroup;
#[path = "contexts/inherited.rs"]
mod inherited;
#[path = "contexts/nested.rs"]
mod nested;
#[path = "contexts/units.rs"]
mod units;

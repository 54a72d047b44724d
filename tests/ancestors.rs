//! What the systems did that this one replaces, row by row, with the real binary.
//!
//! Three of them: a manager of project runtimes (`runtime_manager`), the same one after an incident (`incident`), and
//! services of workspaces (`workspaces`). Rows that a suite of their own covers are there, marked with the letters
//! A, B and D: `on_demand`, `dependencies_real`, `ports`, `leases`, `secrets_real`, `templates_real`.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

#[path = "ancestors/incident.rs"]
mod incident;
#[path = "ancestors/runtime_manager.rs"]
mod runtime_manager;
#[path = "ancestors/workspaces.rs"]
mod workspaces;

use std::collections::BTreeMap;

use support::World;

/// Of the process that leads a service.
fn environment(world: &World, service: &str) -> BTreeMap<String, String> {
    let pid = world.pid(service).unwrap_or_else(|| panic!("{service} runs\n{}", world.describe()));
    let environ = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    let pairs = environ.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// One number of a service's status.
fn number(world: &World, service: &str, key: &str) -> Option<u64> {
    world.service_status(service)?[key].as_u64()
}

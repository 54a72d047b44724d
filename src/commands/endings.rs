//! Says which services end with a unit of a service manager, or with us as the first process of a container: they
//! outlast whoever started them only if it does.
//!
//! Called where services are left behind: by `--once`, `up -d`, and a watcher that leaves them.

use std::collections::BTreeMap;

use super::report::{self, Console};
use crate::host::cgroup::{Unit, Units};
use crate::host::first;
use crate::reconciler::status::Status;

/// `watcher` is the pid of a watcher that is left behind, too.
pub fn tell(console: &Console, status: &Status, watcher: Option<u32>) {
    if first::is_first() {
        let names: Vec<&str> =
            status.services.iter().filter(|it| it.pid.is_some()).map(|it| &*it.name).collect();
        if !names.is_empty() {
            console.say(&report::ending_with_us(&names));
        }
        return;
    }
    let Some(units) = Units::look() else { return };
    let services = status.services.iter().filter_map(|service| {
        let pid = u32::try_from(service.pid?.get()).ok()?;
        Some((service.name.as_str(), pid))
    });
    let mut ending: BTreeMap<Unit, Vec<&str>> = BTreeMap::new();
    for (name, pid) in services.chain(watcher.map(|pid| ("the watcher", pid))) {
        if let Some(unit) = units.of(pid) {
            ending.entry(unit).or_default().push(name);
        }
    }
    for (unit, names) in ending {
        console.say(&report::ending(&unit, &names));
    }
}

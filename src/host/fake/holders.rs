//! Processes that hold services: of others, and seen only to end.

use std::collections::BTreeSet;

use super::FakeHost;
use super::world::World;
use crate::host::Event;
use crate::identity::ProcessIdentity;

#[derive(Debug, Default)]
pub(super) struct Holders {
    alive: BTreeSet<ProcessIdentity>,
    followed: BTreeSet<ProcessIdentity>,
}

impl Holders {
    pub fn alive(&self) -> impl Iterator<Item = &ProcessIdentity> {
        self.alive.iter()
    }
}

impl World {
    pub fn follow_holders(&mut self, processes: &BTreeSet<ProcessIdentity>) -> BTreeSet<ProcessIdentity> {
        self.holders.followed.clone_from(processes);
        processes.difference(&self.holders.alive).cloned().collect()
    }

    /// Those of before a boot are gone.
    pub fn lose_holders(&mut self) {
        self.holders = Holders::default();
    }
}

/// Holders, in a test.
impl FakeHost {
    /// A process of somebody else begins.
    pub fn begin_holder(&self) -> ProcessIdentity {
        let mut world = self.world.borrow_mut();
        let process = world.new_process();
        world.tell(format_args!("a holder begins, pid {}", process.pid));
        world.holders.alive.insert(process.clone());
        process
    }

    pub fn end_holder(&self, process: &ProcessIdentity) {
        let mut world = self.world.borrow_mut();
        world.tell(format_args!("the holder with pid {} ends", process.pid));
        world.pids.free(process.pid);
        world.holders.alive.remove(process);
        if world.holders.followed.contains(process) {
            world.queue(Event::HolderEnded { process: process.clone() });
        }
    }
}

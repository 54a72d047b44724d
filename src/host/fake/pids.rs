//! Process ids: handed out in turn, wrapping, and reused on request.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::identity::Pid;

#[derive(Debug)]
pub(super) struct Pids {
    space: RangeInclusive<i32>,
    next: i32,
    alive: BTreeSet<Pid>,
    /// The newest start of each pid: two processes of one pid never share their ticks.
    last_ticks: BTreeMap<Pid, u64>,
    ordered: Vec<Pid>,
}

impl Pids {
    pub fn new() -> Self {
        Self {
            space: 101..=32_767,
            next: 101,
            alive: BTreeSet::new(),
            last_ticks: BTreeMap::new(),
            ordered: Vec::new(),
        }
    }

    /// Leaves only so many pids, so that they come around soon.
    pub fn narrow(&mut self, count: i32) {
        self.space = self.next..=self.next + count - 1;
    }

    /// The next process to be born gets this one.
    pub fn order(&mut self, pid: Pid) {
        self.ordered.push(pid);
    }

    /// A free pid, and the ticks its process starts at.
    pub fn take(&mut self, now_ticks: u64) -> (Pid, u64) {
        let pid = self.choose();
        (pid, self.take_this(pid, now_ticks))
    }

    /// As [`Pids::take`] for a given pid; panics if a process has it.
    pub fn take_this(&mut self, pid: Pid, now_ticks: u64) -> u64 {
        assert!(self.alive.insert(pid), "pid {pid} is in use");
        let earliest = self.last_ticks.get(&pid).map_or(0, |last| last + 1);
        let ticks = now_ticks.max(earliest);
        self.last_ticks.insert(pid, ticks);
        ticks
    }

    pub fn free(&mut self, pid: Pid) {
        self.alive.remove(&pid);
    }

    pub fn reboot(&mut self) {
        self.alive.clear();
        self.last_ticks.clear();
        self.next = *self.space.start();
    }

    fn choose(&mut self) -> Pid {
        if let Some(pid) = self.ordered.pop() {
            return pid;
        }
        for _ in self.space.clone() {
            let raw = self.next;
            self.next = if raw == *self.space.end() { *self.space.start() } else { raw + 1 };
            let pid = Pid::new(raw).expect("the space starts above init");
            if !self.alive.contains(&pid) {
                return pid;
            }
        }
        panic!("every pid of {:?} is in use", self.space);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_wrap_around_those_that_live() {
        let mut pids = Pids::new();
        pids.narrow(3);
        let taken: Vec<i32> = (0..3).map(|_| pids.take(5).0.get()).collect();
        assert_eq!(taken, [101, 102, 103]);
        pids.free(Pid::new(102).unwrap());
        assert_eq!(pids.take(5).0.get(), 102);
    }

    #[test]
    fn a_reused_pid_never_repeats_its_ticks() {
        let mut pids = Pids::new();
        let (pid, first) = pids.take(7);
        pids.free(pid);
        pids.order(pid);
        let (again, second) = pids.take(7);
        assert_eq!(again, pid);
        assert!(second > first);
    }
}

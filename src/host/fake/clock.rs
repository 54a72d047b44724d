//! All clocks of the model. They move when they are told to, and never by themselves.

use std::time::Duration;

use crate::identity::BootId;
use crate::time::Stamp;

/// 2026-01-01T00:00:00Z.
const FIRST_WALL: i128 = 1_767_225_600_000_000_000;

/// What the clocks that count from boot show when a machine comes into view.
const UP_SINCE: Duration = Duration::from_secs(100);

#[derive(Debug)]
pub(super) struct VirtualClock {
    boots: u64,
    boottime: Duration,
    awake: Duration,
    wall_ns: i128,
    /// Time since the beginning of the story, over all boots and suspends.
    told: Duration,
}

impl VirtualClock {
    pub fn new() -> Self {
        Self { boots: 1, boottime: UP_SINCE, awake: UP_SINCE, wall_ns: FIRST_WALL, told: Duration::ZERO }
    }

    pub fn stamp(&self) -> Stamp {
        Stamp {
            boot: self.boot(),
            boottime_ms: self.boottime.as_millis() as u64,
            awake_ms: self.awake.as_millis() as u64,
            wall_ms: self.wall_ns.div_euclid(1_000_000) as i64,
        }
    }

    pub fn boot(&self) -> BootId {
        BootId::new(&format!("00000000-0000-4000-8000-{:012x}", self.boots))
    }

    /// The clock that everything is scheduled on.
    pub fn awake(&self) -> Duration {
        self.awake
    }

    pub fn wall_ns(&self) -> i64 {
        self.wall_ns as i64
    }

    /// Clock ticks since boot, of 10 ms each.
    pub fn ticks(&self) -> u64 {
        self.boottime.as_millis() as u64 / 10
    }

    pub fn told(&self) -> Duration {
        self.told
    }

    pub fn advance(&mut self, span: Duration) {
        self.awake += span;
        self.suspend(span);
    }

    pub fn suspend(&mut self, span: Duration) {
        self.boottime += span;
        self.wall_ns += span.as_nanos() as i128;
        self.told += span;
    }

    pub fn step_wall(&mut self, by_ms: i64) {
        self.wall_ns += i128::from(by_ms) * 1_000_000;
    }

    /// A new boot; `off` passes on the wall clock.
    pub fn reboot(&mut self, off: Duration) {
        self.suspend(off);
        self.boots += 1;
        self.boottime = UP_SINCE;
        self.awake = UP_SINCE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Clock;

    #[test]
    fn suspend_moves_only_the_clocks_that_count_it() {
        let mut clock = VirtualClock::new();
        let before = clock.stamp();
        clock.suspend(Duration::from_secs(60));
        let after = clock.stamp();
        assert_eq!(after.since(&before, Clock::Awake), Duration::ZERO);
        assert_eq!(after.since(&before, Clock::Suspend), Duration::from_secs(60));
        assert_eq!(after.wall_ms - before.wall_ms, 60_000);
    }

    #[test]
    fn a_stepped_wall_clock_moves_no_other() {
        let mut clock = VirtualClock::new();
        let before = clock.stamp();
        clock.step_wall(-86_400_000);
        let after = clock.stamp();
        assert_eq!(after.wall_ms - before.wall_ms, -86_400_000);
        assert_eq!(after.since(&before, Clock::Suspend), Duration::ZERO);
    }

    #[test]
    fn a_reboot_starts_the_clocks_of_the_kernel_anew() {
        let mut clock = VirtualClock::new();
        clock.advance(Duration::from_secs(1_000));
        let before = clock.stamp();
        clock.reboot(Duration::from_secs(30));
        let after = clock.stamp();
        assert_ne!(after.boot, before.boot);
        assert!(after.boottime_ms < before.boottime_ms);
        assert_eq!(after.since(&before, Clock::Awake), Duration::from_secs(30));
    }
}

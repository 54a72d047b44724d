//! Points in time that survive a reboot, a suspend and a stepped wall clock.
//!
//! Values only: the clocks themselves are read in `host`. Within one boot only the kernel's clocks
//! count; across boots the difference of the wall clock does, and it is never negative.
//! Source: clock_gettime(2).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::identity::BootId;

/// One reading of all clocks; what the ledger stores and what a pass takes as `now`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub boot: BootId,
    /// `CLOCK_BOOTTIME` in milliseconds: goes on while the machine is suspended.
    pub boottime_ms: u64,
    /// `CLOCK_MONOTONIC` in milliseconds: stands still while the machine is suspended.
    pub awake_ms: u64,
    /// `CLOCK_REALTIME` in milliseconds since 1970.
    pub wall_ms: i64,
}

/// Which clock a span is measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Counts suspend: TTLs and leases.
    Suspend,
    /// Does not count suspend: backoff, probes, settling, grace.
    Awake,
}

impl Stamp {
    /// Time from `earlier` to `self`, zero if `earlier` is later.
    pub fn since(&self, earlier: &Stamp, clock: Clock) -> Duration {
        if self.boot != earlier.boot {
            return Duration::from_millis(self.wall_ms.saturating_sub(earlier.wall_ms).max(0) as u64);
        }
        Duration::from_millis(match clock {
            Clock::Suspend => self.boottime_ms.saturating_sub(earlier.boottime_ms),
            Clock::Awake => self.awake_ms.saturating_sub(earlier.awake_ms),
        })
    }

    /// What is left at `self` of `span` that began at `start`; `None` once it is over.
    pub fn left_of(&self, start: &Stamp, span: Duration, clock: Clock) -> Option<Duration> {
        span.checked_sub(self.since(start, clock)).filter(|left| !left.is_zero())
    }

    /// The wall-clock time for people and JSON, RFC 3339 with milliseconds, in UTC.
    pub fn rfc3339(&self) -> String {
        rfc3339(self.wall_ms)
    }
}

/// RFC 3339 with milliseconds, in UTC; a time out of jiff's range shows as the epoch.
pub fn rfc3339(wall_ms: i64) -> String {
    let timestamp = jiff::Timestamp::from_millisecond(wall_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{timestamp:.3}")
}

/// A span for people: its two largest units, `4h 10m`, `12s`, `250ms`.
pub fn human(span: Duration) -> String {
    let rounded = if span >= Duration::from_secs(1) {
        Duration::from_secs(span.as_secs())
    } else {
        Duration::from_millis(span.as_millis() as u64)
    };
    let text = humantime::format_duration(rounded).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(boot: &str, boottime_ms: u64, awake_ms: u64, wall_ms: i64) -> Stamp {
        Stamp { boot: BootId::new(boot), boottime_ms, awake_ms, wall_ms }
    }

    #[test]
    fn within_a_boot_the_wall_clock_does_not_count() {
        let start = stamp("a", 1_000, 500, 1_000_000);
        let later = stamp("a", 61_000, 10_500, -86_400_000);
        assert_eq!(later.since(&start, Clock::Suspend), Duration::from_secs(60));
        assert_eq!(later.since(&start, Clock::Awake), Duration::from_secs(10));
    }

    #[test]
    fn across_boots_the_wall_clock_counts_and_never_backwards() {
        let start = stamp("a", 1_000, 1_000, 100_000);
        assert_eq!(stamp("b", 5, 5, 130_000).since(&start, Clock::Awake), Duration::from_secs(30));
        assert_eq!(stamp("b", 5, 5, 90_000).since(&start, Clock::Suspend), Duration::ZERO);
    }

    #[test]
    fn nothing_is_left_of_a_span_at_its_very_end() {
        let start = stamp("a", 0, 0, 0);
        let span = Duration::from_millis(10);
        assert_eq!(stamp("a", 9, 9, 9).left_of(&start, span, Clock::Awake), Some(Duration::from_millis(1)));
        assert_eq!(stamp("a", 10, 10, 10).left_of(&start, span, Clock::Awake), None);
    }

    #[test]
    fn spans_read_aloud() {
        assert_eq!(human(Duration::from_millis(250)), "250ms");
        assert_eq!(human(Duration::from_secs(4 * 3600 + 601)), "4h 10m");
        assert_eq!(human(Duration::ZERO), "0s");
    }
}

//! How long to wait before a keeper is started or tried again: one that dies at once must not spin.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// A connection that lived this long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Doubles with each bad connection in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Before the next attempt; nothing before the first, and after a good connection.
    pub fn pause(&self) -> Duration {
        self.next
    }

    pub fn failed(&mut self) {
        self.next = (self.next * 2).clamp(FIRST, LONGEST);
    }

    pub fn lost_after(&mut self, lived: Duration) {
        if lived < GOOD_AFTER {
            self.failed();
        } else {
            self.next = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_connections_in_a_row_are_waited_for_longer_and_longer() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.pause(), Duration::ZERO);
        let pauses: Vec<u64> = (0..8)
            .map(|_| {
                backoff.lost_after(GOOD_AFTER / 2);
                backoff.pause().as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.lost_after(GOOD_AFTER);
        assert_eq!(backoff.pause(), Duration::ZERO);
    }
}

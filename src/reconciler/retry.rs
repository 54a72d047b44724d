//! When what the machine has refused for want of room or descriptors is tried again: soon at first, then less and less often.
//!
//! Nobody tells when there is any. Keeps count, and tries nothing itself. Called by `pass`.

use std::time::Duration;

use crate::time::{Clock, Stamp};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
pub(super) struct Retry {
    refused: Option<Refused>,
}

#[derive(Debug)]
struct Refused {
    at: Stamp,
    wait: Duration,
}

impl Retry {
    /// Whether it was refused as of the pass that ends now. One before the wait was over did not ask for it.
    pub fn note(&mut self, is_refused: bool, now: &Stamp) {
        let wait = match &self.refused {
            _ if !is_refused => return self.refused = None,
            Some(_) if !self.is_due(now) => return,
            Some(refused) => (refused.wait * 2).min(LONGEST),
            None => FIRST,
        };
        self.refused = Some(Refused { at: now.clone(), wait });
    }

    pub fn is_due(&self, now: &Stamp) -> bool {
        self.left(now).is_some_and(|left| left.is_zero())
    }

    /// Until the next try; `None`: nothing is refused.
    pub fn left(&self, now: &Stamp) -> Option<Duration> {
        let Refused { at, wait } = self.refused.as_ref()?;
        Some(now.left_of(at, *wait, Clock::Awake).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::BootId;

    fn at(second: u64) -> Stamp {
        let ms = second * 1_000;
        Stamp { boot: BootId::new("b"), boottime_ms: ms, awake_ms: ms, wall_ms: ms as i64 }
    }

    #[test]
    fn the_wait_grows_with_each_try_that_was_due_and_ends_with_success() {
        let mut retry = Retry::default();
        assert_eq!(retry.left(&at(0)), None);
        retry.note(true, &at(0));
        let mut now = 0;
        let waits: Vec<u64> = (0..8)
            .map(|_| {
                let left = retry.left(&at(now)).unwrap().as_secs();
                // A pass in between is no try.
                retry.note(true, &at(now));
                now += left;
                retry.note(true, &at(now));
                left
            })
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 15, 15, 15, 15]);
        retry.note(false, &at(now));
        assert_eq!(retry.left(&at(now)), None);
    }
}

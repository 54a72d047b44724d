//! When the time of a service is over: its TTL counts from the activation, suspend included.
//!
//! Pure. An expired service keeps its activation, and so stays expired through restarts of ours, edits of its
//! manifest and reboots, until it is renewed or no longer wanted for another reason. Called by `decide`.

use std::time::Duration;

use crate::manifest::Spec;
use crate::state::Entry;
use crate::time::{Clock, Stamp};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    /// It has no TTL, or has not been activated.
    Never,
    In(Duration),
    Over {
        ttl: Duration,
    },
}

pub(super) fn expiry(entry: &Entry, spec: Option<&Spec>, now: &Stamp) -> Expiry {
    let ttl = spec.and_then(|spec| spec.ttl);
    match (ttl, &entry.activation) {
        (Some(ttl), Some(activation)) => match now.left_of(activation, ttl, Clock::Suspend) {
            Some(left) => Expiry::In(left),
            None => Expiry::Over { ttl },
        },
        (Some(_), None) | (None, Some(_) | None) => Expiry::Never,
    }
}

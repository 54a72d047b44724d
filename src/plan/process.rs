//! *P*: what the ledger remembers and what is seen, put together into one value that has every case.
//!
//! Pure. The ledger may remember a run that nobody sees, and something may be seen that the ledger does not
//! know: neither is ever taken for "nothing is there", for a start beside a living process is the one thing
//! that cannot be taken back.

use std::borrow::Cow;

use super::input::{Seen, Service};
use crate::state::{Reason, Run};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Process<'a> {
    /// No run is remembered and none is seen.
    None,
    /// The leader lives and is proved to be ours.
    Alive(&'a Run),
    /// The leader is gone, others of it are alive.
    Leftovers(&'a Run),
    /// Not to be told from a stranger.
    Unverifiable(Cow<'a, Reason>),
    /// A run is remembered and what became of it is not yet written down: its birth, or its end.
    Unrecorded(&'a Run),
}

impl<'a> Process<'a> {
    pub(super) fn of(service: &'a Service) -> Self {
        match (&service.entry.run, &service.seen) {
            (_, Seen::Unverifiable(why)) => Self::Unverifiable(Cow::Borrowed(why)),
            (None, Seen::None) => Self::None,
            (None, Seen::Alive | Seen::Leftovers) => {
                let detail = "a process of it lives, and the ledger remembers none".to_owned();
                Self::Unverifiable(Cow::Owned(Reason::IdentityUnverifiable { detail }))
            }
            (Some(run), Seen::None) => Self::Unrecorded(run),
            (Some(run), Seen::Alive | Seen::Leftovers) if run.process.is_none() => Self::Unrecorded(run),
            (Some(run), Seen::Alive) if run.end.is_none() => Self::Alive(run),
            (Some(run), Seen::Alive | Seen::Leftovers) => Self::Leftovers(run),
        }
    }
}

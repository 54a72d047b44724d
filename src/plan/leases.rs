//! Which leases hold, and which are over.
//!
//! Pure. A lease is over when its holder has ended or its time is, whoever noticed: a lease that ran out while no
//! reconciler was there is over in the next pass. What is over is noted, and counts as a release in the same pass.
//! Called by `sweep`, once a pass.

use std::collections::BTreeMap;
use std::time::Duration;

use super::input::{HeldLease, Observed};
use crate::identity::ServiceId;
use crate::state::{Holder, Lease, LeaseEnd, Record};
use crate::time::{Clock, Stamp};

/// A service as far as it is leased.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Leased<'a> {
    #[default]
    No,
    By(&'a Holder),
    /// As of this pass by nobody any more.
    Over(&'a Holder, LeaseEnd),
}

/// How a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// For this long, if nothing happens; `None`: as long as its holder lives.
    Holds(Option<Duration>),
    Over(LeaseEnd),
}

pub fn standing_of(lease: &Lease, holder_ended: bool, now: &Stamp) -> Standing {
    if holder_ended {
        return Standing::Over(LeaseEnd::HolderEnded);
    }
    match &lease.term {
        None => Standing::Holds(None),
        Some(term) => match now.left_of(&term.renewed, term.length, Clock::Suspend) {
            Some(left) => Standing::Holds(Some(left)),
            None => Standing::Over(LeaseEnd::Expired),
        },
    }
}

/// Every lease, by the services that it is of.
#[derive(Debug, Default)]
pub(super) struct Leases<'a> {
    of_service: BTreeMap<&'a ServiceId, Leased<'a>>,
    /// For those that are over.
    pub notes: Vec<Record>,
    /// Until the next one is.
    pub wake: Option<Duration>,
}

impl<'a> Leases<'a> {
    pub(super) fn survey(observed: &'a Observed, now: &Stamp) -> Self {
        let mut leases = Self::default();
        for HeldLease { lease, holder_ended } in &observed.leases {
            let standing = standing_of(lease, *holder_ended, now);
            if let Standing::Over(how) = standing {
                let (holder, services, at) = (lease.holder.clone(), lease.services.clone(), now.clone());
                leases.notes.push(Record::LeaseEnded { holder, services, how, at });
            }
            if let Standing::Holds(Some(left)) = standing {
                leases.wake = Some(leases.wake.map_or(left, |soonest| soonest.min(left)));
            }
            for service in &lease.services {
                let known = leases.of_service.entry(service).or_default();
                *known = match (standing, *known) {
                    (_, Leased::By(first)) => Leased::By(first),
                    (Standing::Holds(_), _) => Leased::By(&lease.holder),
                    (Standing::Over(how), _) => Leased::Over(&lease.holder, how),
                };
            }
        }
        leases
    }

    pub(super) fn of(&self, service: &ServiceId) -> Leased<'a> {
        self.of_service.get(service).copied().unwrap_or_default()
    }
}

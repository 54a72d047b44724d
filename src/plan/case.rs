//! One service with all that its decision depends on, and whether it is wanted at all.
//!
//! Pure. Made by `plan` for each service, read by every row.

use std::time::Duration;

use super::dependencies::Needs;
use super::expiry::{Expiry, expiry};
use super::input::{Service, Want};
use super::leases::Leased;
use super::output::Phase;
use super::prune::Removal;
use crate::identity::ServiceId;
use crate::manifest::{Spec, WantedState};
use crate::state::Reason;
use crate::time::Stamp;

/// The grace where neither the accepted nor the running spec is known any more.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Case<'a> {
    pub id: &'a ServiceId,
    pub want: &'a Want,
    pub service: &'a Service,
    pub removal: &'a Removal,
    pub shutdown: Shutdown,
    pub now: &'a Stamp,
    pub needs: Needs<'a>,
    /// A service that is to run and depends on this one.
    pub needed_by: Option<&'a ServiceId>,
    pub leased: Leased<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shutdown {
    No,
    Graceful,
    /// Every grace is over.
    AtOnce,
}

/// Why a service is not to run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Unwanted<'a> {
    Shutdown,
    Removed,
    Refused { problem: &'a str },
    DeclaredStopped,
    OperatorStop,
    Expired { ttl: Duration },
}

impl<'a> Case<'a> {
    /// The spec whose live fields are in force: the accepted one, else that of what runs.
    pub(super) fn spec_in_force(&self) -> Option<&'a Spec> {
        self.want.accepted.as_ref().or(self.service.running.as_ref()).map(|accepted| &accepted.spec)
    }

    /// Somebody keeps it from being stopped for want of use.
    pub(super) fn is_held(&self) -> bool {
        self.needed_by.is_some() || matches!(self.leased, Leased::By(_))
    }

    /// Who keeps it from being stopped for want of use, as the reason of a start.
    pub(super) fn held_by(&self) -> Option<Reason> {
        match (self.needed_by, self.leased) {
            (_, Leased::By(holder)) => Some(Reason::Leased { holder: holder.to_string() }),
            (Some(dependent), Leased::No | Leased::Over(..)) => {
                Some(Reason::NeededBy { dependent: dependent.clone() })
            }
            (None, Leased::No | Leased::Over(..)) => None,
        }
    }

    pub(super) fn grace(&self) -> Duration {
        self.spec_in_force().map_or(DEFAULT_GRACE, |spec| spec.stop.grace)
    }

    /// Time until the TTL is over.
    pub(super) fn expires_in(&self) -> Option<Duration> {
        match self.expiry() {
            Expiry::In(left) => Some(left),
            Expiry::Never | Expiry::Over { .. } => None,
        }
    }

    /// The first reason that applies.
    pub(super) fn unwanted(&self) -> Option<Unwanted<'a>> {
        let accepted = self.want.accepted.as_ref();
        if self.shutdown != Shutdown::No {
            return Some(Unwanted::Shutdown);
        }
        if *self.removal == Removal::Due {
            return Some(Unwanted::Removed);
        }
        if let Some(refusal) = &self.want.refused {
            return Some(Unwanted::Refused { problem: &refusal.problem });
        }
        if accepted.is_some_and(|accepted| accepted.spec.state == WantedState::Stopped) {
            return Some(Unwanted::DeclaredStopped);
        }
        if self.service.entry.stopped.is_some() {
            return Some(Unwanted::OperatorStop);
        }
        match self.expiry() {
            // What sleeps is woken by its next use, however its last activation ended.
            Expiry::Over { .. } if self.rests_on_demand() => None,
            Expiry::Over { ttl } => Some(Unwanted::Expired { ttl }),
            Expiry::Never | Expiry::In(_) => None,
        }
    }

    fn rests_on_demand(&self) -> bool {
        let is_on_demand = self.want.accepted.as_ref().is_some_and(|accepted| accepted.spec.is_on_demand());
        is_on_demand && self.service.entry.run.is_none() && !self.is_held()
    }

    /// True if the time of this activation is over.
    pub(super) fn has_expired(&self) -> bool {
        matches!(self.expiry(), Expiry::Over { .. })
    }

    fn expiry(&self) -> Expiry {
        expiry(&self.service.entry, self.spec_in_force(), self.now)
    }
}

impl Unwanted<'_> {
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Shutdown => Reason::Shutdown,
            Self::Removed => Reason::Removed,
            Self::Refused { problem } => Reason::PolicyRevoked { problem: problem.to_owned() },
            Self::DeclaredStopped => Reason::DeclaredStopped,
            Self::OperatorStop => Reason::OperatorStop,
            Self::Expired { ttl } => Reason::TtlExpired { ttl },
        }
    }

    /// The phase once nothing of it runs.
    pub(super) fn phase(self) -> Phase {
        match self {
            Self::Shutdown | Self::Removed | Self::DeclaredStopped | Self::OperatorStop => Phase::Stopped,
            Self::Refused { .. } => Phase::Rejected,
            Self::Expired { .. } => Phase::Expired,
        }
    }

    /// True if the next start begins a new activation. Not for a TTL, which would bring the service back to
    /// life; not for a shutdown, after which everything is as wanted as before.
    pub(super) fn ends_activation(self) -> bool {
        match self {
            Self::Removed | Self::Refused { .. } | Self::DeclaredStopped | Self::OperatorStop => true,
            Self::Shutdown | Self::Expired { .. } => false,
        }
    }
}

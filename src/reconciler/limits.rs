//! Limits of what a service may use in all: put into force for what runs, and told where they do not hold.
//!
//! The keeper puts them before anything is executed; this looks again after each start and in each full pass, and after an
//! edit, which touches no process. Where they cannot hold, a service runs all the same, unless the policy requires them.

use super::Reconciler;
use super::sightings::claim;
use crate::host::{CgroupLimits, Host};
use crate::identity::ServiceId;
use crate::manifest::Spec;
use crate::plan::Seen;
use crate::state::Reason;

/// The drift of a run for which a declared limit does not hold.
const NOT_ENFORCED: &str = "limits-not-enforced";

impl<H: Host> Reconciler<H> {
    /// Has those of every service hold that runs; of one that has none, none.
    pub(super) fn put_all_limits(&mut self) {
        let runs = self.observed.services.iter().filter(|(_, live)| live.seen == Seen::Alive);
        let runs: Vec<ServiceId> = runs.map(|(service, _)| service.clone()).collect();
        runs.iter().for_each(|service| self.put_limits(service));
    }

    /// Also where it has none any more.
    pub(super) fn put_limits(&mut self, service: &ServiceId) {
        let Some(accepted) = self.accepted(service) else { return };
        let limits = CgroupLimits::from(&accepted.spec.limits);
        let Some(run) = self.memory.ledger().entry(service).and_then(|entry| entry.run.as_ref()) else {
            return;
        };
        let claim = claim(service, run);
        let not_enforced = self.host.put_limits(&claim, &limits);
        if not_enforced.is_empty() {
            return self.hide_drift(service, NOT_ENFORCED);
        }
        let message = format!("limits are not enforced here: {}", not_enforced.join("; "));
        self.show_drift(service, NOT_ENFORCED, &message);
    }

    /// Where the policy requires limits, those that do not hold are none.
    pub(super) fn unenforceable_limits(&mut self, spec: &Spec) -> Option<Reason> {
        let limits = CgroupLimits::from(&spec.limits);
        if limits.is_empty() || !self.policy.requires_limits() {
            return None;
        }
        let why = self.host.unenforceable(&limits)?;
        Some(Reason::LimitsNotEnforced { why })
    }
}

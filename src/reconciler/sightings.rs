//! What is seen of the processes that the ledger knows of, taken into the observed state.
//!
//! What happens is in `events`; this is what was there when one looked.

use std::sync::Arc;

use super::Reconciler;
use super::events::{Ended, interrupted};
use crate::host::{Claim, Found, Host, Sighting};
use crate::identity::{Nonce, Pid, ServiceId};
use crate::plan::{self, Flight, Seen};
use crate::state::{Reason, Record, Run};

impl<H: Host> Reconciler<H> {
    /// Brings entries that the ledger has changed into the observed state.
    pub(super) fn refresh_observed(&mut self) {
        let changed = self.memory.take_changed();
        let mut fresh = Vec::new();
        for service in &changed {
            let Some(entry) = self.memory.ledger().services.get(service).map(Arc::clone) else {
                self.observed.services.remove(service);
                continue;
            };
            match self.observed.services.get_mut(service) {
                Some(live) => live.entry = entry,
                None => fresh.push((service.clone(), plan::Service { entry, ..plan::Service::default() })),
            }
        }
        if fresh.len() > self.observed.services.len() {
            // Merged they fill their map; one by one, in their order, they leave it half empty.
            self.observed.services.append(&mut fresh.into_iter().collect());
        } else {
            self.observed.services.extend(fresh);
        }
        self.compare(changed);
    }

    /// Every claim of the ledger.
    pub(super) fn claims(&self) -> Vec<Claim> {
        let services = self.memory.ledger().services.iter();
        services.filter_map(|(service, entry)| Some(claim(service, entry.run.as_ref()?))).collect()
    }

    /// Looks at every claim of the ledger.
    pub(super) fn observe_everything(&mut self) {
        let (foreign, own): (Vec<Claim>, Vec<Claim>) =
            self.claims().into_iter().partition(|claim| self.is_foreign(&claim.nonce));
        for claim in foreign {
            self.look_at_foreign(claim);
        }
        for sighting in self.host.observe(&own) {
            self.take_in_sighting(sighting);
        }
    }

    fn take_in_sighting(&mut self, sighting: Sighting) {
        let Sighting { service, nonce, found } = sighting;
        match found {
            Found::Alive { born } => {
                self.note_born(&service, &nonce, born);
                self.service_mut(&service).seen = Seen::Alive;
            }
            Found::Ended { born, status, at, others, other_boot } => {
                self.note_born(&service, &nonce, born);
                let at = at.unwrap_or_else(|| self.host.now());
                self.leader_ended(&service, &nonce, Ended { status, at, others, other_boot });
            }
            Found::Ending { born } => {
                self.note_born(&service, &nonce, born);
                // A run that is remembered and not seen: nothing is done until the keeper has told its end.
                self.service_mut(&service).seen = Seen::None;
            }
            Found::NeverBorn => {
                self.spawn_failed(&service, &nonce, interrupted());
            }
            Found::InFlight => self.service_mut(&service).flight = Flight::Spawning { nonce },
            Found::Unverifiable { detail } => {
                self.service_mut(&service).seen = Seen::Unverifiable(Reason::IdentityUnverifiable { detail });
            }
            Found::OutOfDescriptors { detail } => {
                self.service_mut(&service).seen = Seen::Unverifiable(Reason::OutOfDescriptors { detail });
            }
            Found::ContainmentLost { pid } => {
                self.service_mut(&service).seen = Seen::Unverifiable(Reason::ContainmentLost { pid });
            }
            Found::KeeperUnresponsive => {
                self.service_mut(&service).seen = Seen::Unverifiable(Reason::KeeperUnresponsive);
            }
        }
    }

    fn is_foreign(&self, nonce: &Nonce) -> bool {
        self.foreign.as_ref().is_some_and(|foreign| foreign.nonces.contains(nonce))
    }

    /// A run of the instance that this ledger is a copy of: looked at, attached to by nobody. Of one that is
    /// not there any more the copy remembers nothing.
    fn look_at_foreign(&mut self, claim: Claim) {
        let Some(foreign) = &self.foreign else { return };
        let why = foreign.why.clone();
        let lives = claim
            .process
            .as_ref()
            .is_some_and(|process| self.host.identify(process.pid).as_ref() == Some(process));
        if lives {
            self.service_mut(&claim.service).seen = Seen::Unverifiable(why);
        } else {
            let record = Record::Gone { service: claim.service.clone(), nonce: claim.nonce };
            self.memory.note(&mut self.host, vec![record]);
            self.clear_run(&claim.service);
        }
    }

    /// What was asked of a keeper that is gone may never have been done: a stop goes on from the ledger.
    pub(super) fn forget_flights(&mut self) {
        for live in self.observed.services.values_mut() {
            live.health.in_flight = false;
            live.reload.in_flight = false;
            match live.flight {
                Flight::None | Flight::Spawning { .. } => {}
                Flight::StopCommand { .. } | Flight::Signalled { .. } | Flight::Killed { .. } => {
                    live.flight = Flight::None;
                }
            }
        }
    }

    pub(super) fn unkillable(&mut self, nonce: &Nonce, pids: Vec<Pid>) {
        let Some(service) = self.service_of(nonce) else { return };
        // Nothing that could be proved to be of it is left to be killed: what held it together is gone.
        let reason =
            if pids.is_empty() { Reason::ContainmentLost { pid: None } } else { Reason::Unkillable { pids } };
        tracing::error!(%service, code = reason.code(), "{}", reason.message());
        self.service_mut(&service).seen = Seen::Unverifiable(reason);
    }
}

pub(super) fn claim(service: &ServiceId, run: &Run) -> Claim {
    Claim {
        service: service.clone(),
        nonce: run.nonce.clone(),
        process: run.process.clone(),
        containment: run.containment.clone(),
        epoch: run.epoch,
    }
}

//! Leases: the commands that acquire, renew and release them, and who of their holders is there.
//!
//! What a lease brings about is for `plan`: `leases` there says which of them hold, `demand` what follows. What is
//! acquired is on disk before anything is started, and taken back unless all of it comes up.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Reconciler;
use super::command::{Answer, Refusal};
use super::requests::{Later, Reply, refusal};
use super::selection::Selector;
use super::status::{LeaseStatus, PassReport};
use super::waiting::Goal;
use crate::host::Host;
use crate::identity::{ProcessIdentity, ServiceId};
use crate::plan::{HeldLease, LeaseStanding, lease_standing};
use crate::state::{Holder, Lease, LeaseEnd, LeaseId, Record, Term};
use crate::time::{Clock, Stamp, human, rfc3339};

/// The processes that hold something.
#[derive(Debug, Default)]
pub(super) struct Holders {
    followed: BTreeSet<ProcessIdentity>,
    /// Those of them that are known to have ended.
    ended: BTreeSet<ProcessIdentity>,
}

/// What a command has leased that waits for it to come up.
#[derive(Debug)]
pub(super) struct Acquired {
    holder: Holder,
    /// Without what it held before.
    services: BTreeSet<ServiceId>,
}

fn process_of(lease: &Lease) -> Option<&ProcessIdentity> {
    match &lease.holder {
        Holder::Process { process, .. } => Some(process),
        Holder::Owner { .. } => None,
    }
}

fn nothing_done() -> Answer {
    Answer::Report(Box::new(PassReport::nothing_done()))
}

fn ended(lease: &Lease, services: BTreeSet<ServiceId>, how: LeaseEnd, at: &Stamp) -> Record {
    Record::LeaseEnded { holder: lease.holder.clone(), services, how, at: at.clone() }
}

impl<H: Host> Reconciler<H> {
    /// Brings the leases of the ledger into the observed state; all holders are looked at in a full pass, else those
    /// that are new.
    pub(super) fn refresh_leases(&mut self, full: bool) {
        let leases = &self.memory.ledger().leases;
        if leases.is_empty() && self.observed.leases.is_empty() {
            return;
        }
        let processes: BTreeSet<ProcessIdentity> = leases.values().filter_map(process_of).cloned().collect();
        if full || processes != self.holders.followed {
            self.holders.ended = self.host.follow_holders(&processes);
            self.holders.followed = processes;
        }
        let held = |lease: &Lease| HeldLease { lease: lease.clone(), holder_ended: self.has_ended(lease) };
        self.observed.leases = leases.values().map(held).collect();
    }

    fn has_ended(&self, lease: &Lease) -> bool {
        process_of(lease).is_some_and(|process| self.holders.ended.contains(process))
    }

    pub(super) fn holder_ended(&mut self, process: ProcessIdentity) {
        if self.holders.followed.contains(&process) {
            self.holders.ended.insert(process);
        }
    }

    fn holds(&self, lease: &Lease, now: &Stamp) -> bool {
        matches!(lease_standing(lease, self.has_ended(lease), now), LeaseStanding::Holds(_))
    }

    /// Starts these, or shares what runs of them, for as long as the holder holds them. What cannot be ready is refused
    /// before anything is done.
    pub(super) fn lease(
        &mut self,
        names: &[Selector],
        holder: Holder,
        term: Option<Duration>,
        timeout: Duration,
    ) -> Result<Reply, Refusal> {
        self.preview();
        let named = self.selected(names)?;
        for service in &named {
            self.check_ensured(service)?;
        }
        self.check_holder(&holder, term)?;
        self.check_term(term)?;
        let now = self.host.now();
        // What is over for them ends before this begins: what has failed in somebody else's hands starts anew.
        let mut records = self.over_for(&named, Some(&holder.id()));
        let mut before = self.memory.ledger().leases.get(&holder.id());
        if let Some(over) = before.take_if(|lease| !self.holds(lease, &now)) {
            records.push(ended(over, over.services.clone(), LeaseEnd::Expired, &now));
        }
        let held = before.map(|lease| lease.services.clone()).unwrap_or_default();
        let since = before.map_or_else(|| now.clone(), |lease| lease.since.clone());
        let services = held.union(&named).cloned().collect();
        let term = term.map(|length| Term { renewed: now.clone(), length });
        // What it holds already is held no shorter for more that is acquired.
        let term = before
            .and_then(|lease| lease.term.clone())
            .into_iter()
            .chain(term)
            .max_by_key(|term| now.left_of(&term.renewed, term.length, Clock::Suspend));
        let lease = Lease { holder: holder.clone(), services, since, term };
        records.push(Record::Leased { lease: Box::new(lease) });
        self.promise_records(&records)?;
        let wider = self.with_dependencies(&named);
        self.act_on_these_alone(Some(&wider.services));
        let lease = Some(Acquired { holder, services: named.difference(&held).cloned().collect() });
        Ok(Reply::Later(Later { also: wider.also, timeout, lease, ..Later::of(Goal::Ensured, Some(named)) }))
    }

    /// What the next pass would note as over for these: leases of others, and what ran for them.
    pub(super) fn over_for(&self, services: &BTreeSet<ServiceId>, but: Option<&LeaseId>) -> Vec<Record> {
        let is_about = |record: &&Record| match record {
            Record::LeaseEnded { holder, services: of, .. } => {
                Some(&holder.id()) != but && !of.is_disjoint(services)
            }
            Record::Deactivated { service } => services.contains(service),
            _ => false,
        };
        self.last_plan.notes.iter().filter(is_about).cloned().collect()
    }

    /// Of what was acquired and has come up: whether it is held still, after all the time that took.
    pub(super) fn is_held_still(&self, lease: &Acquired) -> bool {
        let now = self.host.now();
        let held = self.memory.ledger().leases.get(&lease.holder.id());
        held.is_some_and(|held| lease.services.is_subset(&held.services) && self.holds(held, &now))
    }

    pub(super) fn lost_meanwhile(&self, lease: &Acquired) -> Refusal {
        let message = format!("all is up, but {} does not hold it any more", lease.holder);
        refusal("no-lease", message, Some("ask for longer than it takes to come up"))
    }

    fn check_holder(&self, holder: &Holder, term: Option<Duration>) -> Result<(), Refusal> {
        match (holder, term) {
            (Holder::Process { process, .. }, _)
                if self.host.identify(process.pid).as_ref() != Some(process) =>
            {
                let message = format!("{holder} cannot be seen from here, as from another container");
                let help = "hold it by a name and a time: `reconcile lease acquire NAME --owner ID`";
                Err(refusal("unknown-holder", message, Some(help)))
            }
            (Holder::Owner { owner }, _) if let Err(why) = Holder::check_owner(owner) => {
                Err(refusal("bad-owner", format!("`{owner}` cannot be an owner: {why}"), None))
            }
            (Holder::Owner { .. }, None) => {
                Err(refusal("no-term", "who is no process holds for a time".to_owned(), None))
            }
            (Holder::Process { .. } | Holder::Owner { .. }, _) => Ok(()),
        }
    }

    fn check_term(&self, length: Option<Duration>) -> Result<(), Refusal> {
        match (length, self.policy.max_lease()) {
            (Some(length), Some(most)) if length > most => {
                let message =
                    format!("it would be held for {}, and `max_lease` is {}", human(length), human(most));
                Err(refusal("policy-refused", message, Some("ask for less, and renew it in time")))
            }
            (Some(_) | None, _) => Ok(()),
        }
    }

    pub(super) fn renew_lease(&mut self, id: &LeaseId, length: Option<Duration>) -> Result<Reply, Refusal> {
        self.preview();
        let now = self.host.now();
        let lease = self.leased(id, &now)?;
        let Some(term) = &lease.term else {
            let message = format!("{} holds until it ends, there is nothing to renew", lease.holder);
            return Err(refusal("no-term", message, None));
        };
        let length = length.unwrap_or(term.length);
        self.check_term(Some(length))?;
        let term = Term { renewed: now, length };
        let services = lease.services.clone();
        let record = Record::Leased { lease: Box::new(Lease { term: Some(term), ..lease.clone() }) };
        self.promise_records(&[record])?;
        Ok(Reply::Now(Answer::Status(Box::new(self.status_of(Some(&services))))))
    }

    /// A lease that is not there any more is released: whoever asks twice, or too late, has what is asked for. What they
    /// name is waited for all the same, for it may be on its way: the end of a holder is often seen before it is told.
    pub(super) fn end_lease(&mut self, id: &LeaseId, names: &[Selector]) -> Result<Reply, Refusal> {
        self.preview();
        let named = if names.is_empty() { None } else { Some(self.selected(names)) };
        let let_go: BTreeSet<ServiceId> = match (self.memory.ledger().leases.get(id), named) {
            (None, None | Some(Err(_))) => return Ok(Reply::Now(nothing_done())),
            (None, Some(Ok(named))) => named,
            (Some(lease), named) => {
                let services = match named {
                    None => lease.services.clone(),
                    // Nothing is left of it to hold some; a name that is not known any more hinders nothing.
                    Some(_) if self.has_ended(lease) => lease.services.clone(),
                    Some(named) => named?.intersection(&lease.services).cloned().collect(),
                };
                let record = ended(lease, services.clone(), LeaseEnd::Released, &self.host.now());
                self.promise_records(&[record])?;
                services
            }
        };
        let known = let_go.into_iter().filter(|service| self.last_plan.phases.contains_key(service));
        let wider = self.with_dependencies(&known.collect());
        self.act_on_these_alone(Some(&wider.services));
        Ok(Reply::Later(Later::of(Goal::LetGo, Some(wider.services))))
    }

    /// Not all came up that was asked for with it, or nobody waits for it any more.
    pub(super) fn take_back(&mut self, lease: Option<Acquired>) -> bool {
        let Some(Acquired { holder, services }) = lease.filter(|lease| !lease.services.is_empty()) else {
            return false;
        };
        let at = self.host.now();
        let record = Record::LeaseEnded { holder, services, how: LeaseEnd::NotAcquired, at };
        self.memory.note(&mut self.host, vec![record]);
        self.acted = true;
        true
    }

    fn leased(&self, id: &LeaseId, now: &Stamp) -> Result<&Lease, Refusal> {
        let lease = self.memory.ledger().leases.get(id).filter(|lease| self.holds(lease, now));
        lease.ok_or_else(|| {
            let message = format!("{id} holds no lease, or not any more");
            refusal("no-lease", message, Some("`reconcile lease acquire NAME --owner ID` acquires it"))
        })
    }

    /// Those that hold a service, as far as is known at this moment.
    pub(super) fn leases_of(&self, service: &ServiceId, now: &Stamp) -> Vec<LeaseStatus> {
        let leases = self.memory.ledger().leases.values();
        let holding = leases.filter(|lease| lease.services.contains(service) && self.holds(lease, now));
        let status = |lease: &Lease| LeaseStatus {
            id: lease.holder.id().to_string(),
            holder: lease.holder.to_string(),
            pid: process_of(lease).map(|process| process.pid),
            since: lease.since.rfc3339(),
            expires_at: lease.term.as_ref().map(|Term { renewed, length }| {
                rfc3339(renewed.wall_ms.saturating_add(length.as_millis() as i64))
            }),
        };
        holding.map(status).collect()
    }
}

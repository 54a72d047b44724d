//! Ports of services: given before a start, told to other reconcilers, and whose they are while it runs.
//!
//! What a service is given is chosen by `plan::choose_ports`, taken from everybody else by the host, and then promised
//! with the intent of the start: no number is used that is not in the ledger. Where none is to be had the gate of
//! the start is closed, and looked at again after a wait that grows: nobody tells when a port is let go of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Reconciler;
use super::sightings::claim;
use crate::host::Host;
use crate::host::ports::{PortOwnership, PortView};
use crate::identity::ServiceId;
use crate::manifest::{PortBlock, PortBlocks, PortOwner};
use crate::plan::{Accepted, Action, Plan, PortShortage, PortsTaken, Presence, Seen, Step, choose_ports};
use crate::state::{PortHolder, Reason};
use crate::time::{Clock, Stamp};

/// Until a closed gate is looked at again, at first and at most.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Others that hold ports of the range are named up to here.
const MOST_HOLDERS: usize = 5;

/// When closed gates are looked at again.
#[derive(Debug, Default)]
pub(super) struct PortGates {
    /// When they were looked at, and for how long that counts.
    closed: Option<(Stamp, Duration)>,
    /// What the host keeps for us; `None` before it was told.
    kept: Option<BTreeSet<u16>>,
}

impl PortGates {
    /// A port may have been let go of: closed gates are looked at with the next pass.
    pub(super) fn look_now(&mut self) {
        if let Some((_, wait)) = &mut self.closed {
            *wait = Duration::ZERO;
        }
    }
}

/// What there is, while ports are chosen for one step after the other.
struct Choosing {
    view: PortView,
    /// Given to services of ours, those that were chosen meanwhile included.
    given: BTreeMap<ServiceId, PortBlocks>,
    /// Numbers that stand in manifests: what is chosen goes around them.
    declared: BTreeMap<ServiceId, BTreeSet<u16>>,
    /// Services that run, or are about to.
    in_use: BTreeSet<ServiceId>,
}

impl<H: Host> Reconciler<H> {
    /// What a service was given by its newest start.
    pub(super) fn ports_given(&self, service: &ServiceId) -> PortBlocks {
        self.memory.ledger().entry(service).map(|entry| entry.ports.clone()).unwrap_or_default()
    }

    /// Opens the gates that ports have closed, once it is time to look again.
    pub(super) fn open_port_gates_if_due(&mut self, now: &Stamp) {
        let Some((since, wait)) = &self.port_gates.closed else { return };
        if now.left_of(since, *wait, Clock::Awake).is_some() {
            return;
        }
        for want in self.desired.services.values_mut() {
            want.gate.take_if(|gate| gate.waits_for_a_port());
        }
    }

    /// Closes the gates of what the plan would start without there being ports for it, and says whether there are any.
    pub(super) fn close_port_gates(&mut self, plan: &Plan, now: &Stamp) -> bool {
        let steps: Vec<&Step> = plan.steps.iter().filter(|step| self.needs_ports(step)).collect();
        let mut closed = false;
        if !steps.is_empty() {
            let mut choosing = self.choosing();
            for step in steps {
                if let Err(gate) = self.choose(&mut choosing, step) {
                    self.close_gate(&step.service, gate);
                    closed = true;
                }
            }
        }
        self.note_port_gates(now);
        closed
    }

    fn note_port_gates(&mut self, now: &Stamp) {
        let waits = self
            .desired
            .services
            .values()
            .any(|want| want.gate.as_ref().is_some_and(Reason::waits_for_a_port));
        self.port_gates.closed = match self.port_gates.closed.take() {
            _ if !waits => None,
            None => Some((now.clone(), FIRST_WAIT)),
            Some((since, wait)) if now.left_of(&since, wait, Clock::Awake).is_some() => Some((since, wait)),
            Some((_, wait)) => Some((now.clone(), (wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT))),
        };
    }

    /// Until a gate that a port has closed is looked at again.
    pub(super) fn port_gates_deadline(&self, now: &Stamp) -> Option<Duration> {
        let (since, wait) = self.port_gates.closed.as_ref()?;
        Some(now.left_of(since, *wait, Clock::Awake).unwrap_or_default())
    }

    fn needs_ports(&self, step: &Step) -> bool {
        matches!(step.action, Action::Start | Action::Restart)
            && self.accepted(&step.service).is_some_and(|accepted| !accepted.spec.ports.is_empty())
    }

    /// Takes what these starts are to be given; `Err` closes the gate of one. Services without ports are not among the
    /// answers.
    pub(super) fn give_ports(&mut self, starts: &[&Step]) -> BTreeMap<ServiceId, Result<PortBlocks, Reason>> {
        let mut answers = BTreeMap::new();
        let mut left: Vec<&Step> = starts.iter().copied().filter(|step| self.needs_ports(step)).collect();
        if left.is_empty() {
            return answers;
        }
        // The others must know of all that is ours before more is taken: a new reconciler has told them nothing yet.
        self.keep_ports();
        let mut choosing = self.choosing();
        while !left.is_empty() {
            let mut wanted: BTreeMap<&ServiceId, PortBlocks> = BTreeMap::new();
            for step in left.drain(..) {
                match self.choose(&mut choosing, step) {
                    Ok(blocks) => {
                        wanted.insert(&step.service, blocks);
                    }
                    Err(gate) => {
                        answers.insert(step.service.clone(), Err(gate));
                    }
                }
            }
            let fresh: BTreeSet<u16> =
                wanted.iter().flat_map(|(service, blocks)| self.fresh(service, blocks)).collect();
            let lost = if fresh.is_empty() { fresh } else { self.take(&fresh) };
            choosing.view.claimed.extend(lost.iter().map(|port| (*port, std::path::PathBuf::new())));
            for step in starts {
                let Some(blocks) = wanted.remove(&step.service) else { continue };
                // Somebody was faster.
                if self.fresh(&step.service, &blocks).iter().any(|port| lost.contains(port)) {
                    choosing.forget(&step.service, self.ports_given(&step.service));
                    left.push(step);
                } else {
                    answers.insert(step.service.clone(), Ok(blocks));
                }
            }
        }
        answers
    }

    fn take(&mut self, ports: &BTreeSet<u16>) -> BTreeSet<u16> {
        // What does not come to a start after all is given back at the end of the pass.
        self.port_gates.kept = None;
        self.host.take_ports(ports)
    }

    /// What has to be taken from others: what was chosen and is not the service's own already.
    fn fresh(&self, service: &ServiceId, blocks: &PortBlocks) -> BTreeSet<u16> {
        let before = self.memory.ledger().entry(service).map(|entry| &entry.ports);
        let is_new = |(name, block): &(&String, &PortBlock)| {
            !block.fixed && before.and_then(|before| before.get(*name)) != Some(*block)
        };
        blocks.iter().filter(is_new).flat_map(|(_, block)| block.numbers()).collect()
    }

    fn choosing(&mut self) -> Choosing {
        let view = self.host.ports();
        let ledger = self.memory.ledger();
        let given = ledger.services.iter().filter(|(_, entry)| !entry.ports.is_empty());
        let fixed = |accepted: &std::sync::Arc<Accepted>| -> BTreeSet<u16> {
            let blocks = accepted.spec.ports.values().filter_map(crate::manifest::Port::fixed);
            blocks.flat_map(PortBlock::numbers).collect()
        };
        let declared = self.desired.services.iter().filter_map(|(service, want)| {
            let numbers = fixed(want.accepted.as_ref()?);
            (!numbers.is_empty()).then(|| (service.clone(), numbers))
        });
        Choosing {
            view,
            given: given.map(|(service, entry)| (service.clone(), entry.ports.clone())).collect(),
            declared: declared.collect(),
            in_use: ledger
                .services
                .iter()
                .filter(|(_, entry)| entry.run.is_some())
                .map(|(id, _)| id.clone())
                .collect(),
        }
    }

    fn choose(&mut self, choosing: &mut Choosing, step: &Step) -> Result<PortBlocks, Reason> {
        let service = &step.service;
        let Some(accepted) = self.accepted(service) else { return Ok(PortBlocks::new()) };
        let before = self.ports_given(service);
        let mut taken = choosing.taken(service);
        // What its own process listens on is let go of before it starts again, unless it is not its own.
        let live = self.observed.services.get(service);
        if live.is_some_and(|live| live.entry.run.is_some() && live.health.foreign.is_none()) {
            for port in before.values().flat_map(|block| block.numbers()) {
                taken.listened.remove(&port);
            }
        }
        for port in self.ports_held_for(service) {
            taken.listened.remove(&port);
        }
        let range = self.settings.config.ports.range();
        match choose_ports(&accepted.spec, &before, range, &taken) {
            Ok(blocks) => {
                choosing.given.insert(service.clone(), blocks.clone());
                choosing.in_use.insert(service.clone());
                Ok(blocks)
            }
            Err(PortShortage::Taken { name, port }) => {
                let holder = self.holder_of(port, service, choosing);
                Err(Reason::PortTaken { name, port, holder })
            }
            Err(PortShortage::Exhausted { name, count }) => {
                let holders = self.holders_of_range(service, choosing);
                Err(Reason::NoPort { name, count, range: range.to_string(), holders })
            }
        }
    }

    /// Of a port that nobody listens on yet: the service that is about to.
    fn holder_of(&mut self, port: u16, service: &ServiceId, choosing: &Choosing) -> PortHolder {
        let listening = self.host.port_holders(&BTreeSet::from([port])).remove(&port);
        listening.unwrap_or_else(|| {
            let has_it = |(_, blocks): &(&ServiceId, &PortBlocks)| {
                blocks.values().any(|block| block.numbers().any(|other| other == port))
            };
            let mut others = choosing.given.iter().filter(|(other, _)| *other != service).filter(has_it);
            let other = others.find(|(other, _)| choosing.in_use.contains(*other)).map(|(other, _)| other);
            PortHolder { service: other.map(ToString::to_string), ..PortHolder::default() }
        })
    }

    /// The greatest first, and of equals by their names.
    fn holders_of_range(&mut self, service: &ServiceId, choosing: &Choosing) -> Vec<String> {
        let range = self.settings.config.ports.range();
        let range: BTreeSet<u16> = (range.first..=range.last).collect();
        let mut by: BTreeMap<u16, String> = BTreeMap::new();
        by.extend(choosing.view.claimed.iter().map(|(port, dir)| (*port, dir.display().to_string())));
        let listened = range.intersection(&choosing.view.listened).copied().collect();
        by.extend(
            self.host.port_holders(&listened).into_iter().map(|(port, holder)| (port, holder.to_string())),
        );
        for (other, blocks) in choosing.given.iter().filter(|(other, _)| *other != service) {
            let numbers = blocks.values().flat_map(|block| block.numbers());
            by.extend(numbers.map(|port| (port, format!("service {other}"))));
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (_, who) in by.into_iter().filter(|(port, _)| range.contains(port)) {
            *counts.entry(who).or_default() += 1;
        }
        let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let others = counts.len().saturating_sub(MOST_HOLDERS);
        let mut holders: Vec<String> =
            counts.into_iter().take(MOST_HOLDERS).map(|(who, count)| format!("{who}: {count}")).collect();
        if others > 0 {
            holders.push(format!("and {others} more"));
        }
        holders
    }

    /// Tells the other reconcilers what the ledger says is ours.
    pub(super) fn keep_ports(&mut self) {
        // Those of a copy are whose copy it is.
        if self.foreign.is_some() {
            return;
        }
        let blocks = self.memory.ledger().services.values().flat_map(|entry| entry.ports.values());
        let ports: BTreeSet<u16> = blocks.flat_map(|block| block.numbers()).collect();
        if self.port_gates.kept.as_ref() != Some(&ports) {
            self.host.keep_ports(&ports);
            self.port_gates.kept = Some(ports);
        }
    }

    /// Looks whose the ports are of what is about to count as up without a health check, or does not for that reason.
    pub(super) fn look_at_settling_ports(&mut self, now: &Stamp) {
        let is_due = |live: &crate::plan::Service| {
            let Some(run) = &live.entry.run else { return false };
            let started = run.started_at.as_ref().unwrap_or(&run.intent_at);
            live.seen == Seen::Alive
                && !live.entry.ports.is_empty()
                && (live.health.foreign.is_some()
                    || (run.ready_at.is_none() && now.since(started, Clock::Awake) > Duration::ZERO))
        };
        let due: Vec<ServiceId> = self
            .observed
            .services
            .iter()
            .filter(|(_, live)| is_due(live))
            .map(|(id, _)| id.clone())
            .collect();
        for service in due {
            let Some(accepted) = self.spec_in_force(&service) else { continue };
            if accepted.spec.health.is_none() {
                self.look_whose_ports(&service);
            }
        }
    }

    /// As [`Self::look_at_settling_ports`], of everything without a health check: with one, each probe looks.
    pub(super) fn look_at_all_ports(&mut self) {
        let has_ports =
            |live: &crate::plan::Service| live.seen == Seen::Alive && !live.entry.ports.is_empty();
        let all: Vec<ServiceId> = self
            .observed
            .services
            .iter()
            .filter(|(_, live)| has_ports(live))
            .map(|(id, _)| id.clone())
            .collect();
        for service in all {
            if self.spec_in_force(&service).is_some_and(|accepted| accepted.spec.health.is_none()) {
                self.look_whose_ports(&service);
            }
        }
    }

    /// Whether it is proved that somebody else listens on a port of what runs.
    pub(super) fn look_whose_ports(&mut self, service: &ServiceId) {
        let foreign = self.foreign_port(service);
        let live = self.service_mut(service);
        if live.health.foreign != foreign {
            if let Some(why) = &foreign {
                tracing::warn!(%service, code = why.code(), "{}", why.message());
            }
            self.service_mut(service).health.foreign = foreign;
        }
    }

    fn foreign_port(&mut self, service: &ServiceId) -> Option<Reason> {
        let entry = self.memory.ledger().entry(service)?;
        let (run, given) = (entry.run.as_ref()?, &entry.ports);
        if given.is_empty() || !run.goes_on() {
            return None;
        }
        let names: BTreeMap<u16, String> = given
            .iter()
            .flat_map(|(name, block)| block.numbers().map(move |port| (port, name.clone())))
            .collect();
        let claim = claim(service, run);
        if self.spec_in_force(service)?.spec.port_owner == PortOwner::Any {
            return None;
        }
        let owners = self.host.port_owners(&claim, &names.keys().copied().collect());
        owners.into_iter().find_map(|(port, owner)| match owner {
            PortOwnership::Foreign(holder) => {
                Some(Reason::PortForeign { name: names.get(&port)?.clone(), port, holder })
            }
            PortOwnership::Own | PortOwnership::Nobody | PortOwnership::Unknown => None,
        })
    }

    /// As consumers see them: each of several under its own name.
    pub(super) fn shown_ports(&self, service: &ServiceId) -> BTreeMap<String, u16> {
        let given = self.ports_given(service);
        let is_elsewhere = |presence: &Presence| matches!(presence, Presence::OtherRoot { .. });
        let want = self.desired.services.get(service).filter(|want| !is_elsewhere(&want.presence));
        let declared = want.and_then(|want| want.accepted.as_ref()).map(|accepted| &accepted.spec.ports);
        let fixed =
            declared.into_iter().flatten().filter_map(|(name, port)| Some((name.clone(), port.fixed()?)));
        let blocks: BTreeMap<String, PortBlock> = fixed.chain(given).collect();
        let numbered = |(name, block): (String, PortBlock)| {
            let name = move |index: usize| if index == 0 { name.clone() } else { format!("{name}[{index}]") };
            block.numbers().enumerate().map(move |(index, port)| (name(index), port)).collect::<Vec<_>>()
        };
        blocks.into_iter().flat_map(numbered).collect()
    }
}

impl Choosing {
    /// What `service` cannot have, as far as it is to be seen.
    fn taken(&self, service: &ServiceId) -> PortsTaken {
        let others = || self.given.iter().filter(|(other, _)| *other != service);
        let numbers =
            |blocks: &PortBlocks| blocks.values().flat_map(|block| block.numbers()).collect::<Vec<_>>();
        let declared =
            self.declared.iter().filter(|(other, _)| *other != service).flat_map(|(_, ports)| ports);
        let given = others().flat_map(|(_, blocks)| numbers(blocks));
        let in_use = others()
            .filter(|(other, _)| self.in_use.contains(*other))
            .flat_map(|(_, blocks)| numbers(blocks));
        PortsTaken {
            reserved: given.chain(declared.copied()).chain(self.view.claimed.keys().copied()).collect(),
            in_use: in_use.collect(),
            listened: self.view.listened.clone(),
        }
    }

    /// Nothing was chosen for it after all.
    fn forget(&mut self, service: &ServiceId, before: PortBlocks) {
        self.given.insert(service.clone(), before);
        self.in_use.remove(service);
    }
}

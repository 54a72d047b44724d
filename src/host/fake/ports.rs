//! Ports: services listen on what they were given, unless somebody else does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::FakeHost;
use super::run::{Body, Run};
use super::world::World;
use crate::host::ports::{PortOwnership, PortView};
use crate::host::{Claim, SpawnRequest};
use crate::state::PortHolder;

/// The network of the machine.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// Others that listen.
    strangers: BTreeMap<u16, PortHolder>,
    /// Strangers that may not be looked at.
    hidden: BTreeSet<u16>,
    /// Taken from other state directories.
    claimed: BTreeMap<u16, PathBuf>,
    /// Taken by us, as the others see it.
    ours: BTreeSet<u16>,
    /// Goes to somebody else in the moment that we reach for it.
    snatched: BTreeSet<u16>,
}

impl World {
    pub fn ports(&self) -> PortView {
        let own = self.runs.values().filter(|run| run.listens()).flat_map(Run::ports);
        PortView {
            listened: self.network.strangers.keys().copied().chain(own).collect(),
            claimed: self.network.claimed.clone(),
        }
    }

    pub fn take_ports(&mut self, ports: &BTreeSet<u16>) -> BTreeSet<u16> {
        let ledger = self.journal.fold();
        let mut promised =
            ledger.services.values().flat_map(|entry| entry.ports.values()).flat_map(|block| block.numbers());
        if let Some(port) = promised.find(|port| !self.network.ours.contains(port)) {
            self.violation(format_args!("ports are taken while others do not know that {port} is ours"));
        }
        let view = self.ports();
        let mut left = BTreeSet::new();
        for &port in ports {
            if self.network.snatched.remove(&port) {
                self.network.claimed.insert(port, "/snatched".into());
            }
            let is_had = self.network.claimed.contains_key(&port) || view.listened.contains(&port);
            if is_had {
                left.insert(port)
            } else {
                self.network.ours.insert(port)
            };
        }
        self.tell(format_args!("take      ports {ports:?}, not to be had: {left:?}"));
        left
    }

    pub fn keep_ports(&mut self, ports: &BTreeSet<u16>) {
        if self.network.ours != *ports {
            self.network.ours.clone_from(ports);
            self.tell(format_args!("keep      ports {ports:?}"));
        }
    }

    pub fn port_holders(&self, ports: &BTreeSet<u16>) -> BTreeMap<u16, PortHolder> {
        let strangers = self.network.strangers.iter().map(|(port, holder)| (*port, holder.clone()));
        let own = self.runs.values().filter(|run| run.listens()).flat_map(|run| {
            let pid = run.body().map(|body| body.identity.pid);
            let holder = PortHolder { pid, service: Some(run.service.to_string()), ..PortHolder::default() };
            run.ports().map(move |port| (port, holder.clone()))
        });
        own.chain(strangers).filter(|(port, _)| ports.contains(port)).collect()
    }

    pub fn port_owners(&self, claim: &Claim, ports: &BTreeSet<u16>) -> BTreeMap<u16, PortOwnership> {
        let listens = self.runs.get(&claim.nonce).is_some_and(Run::listens);
        let owner = |port: &u16| match self.network.strangers.get(port) {
            Some(_) if self.network.hidden.contains(port) => PortOwnership::Unknown,
            Some(holder) => PortOwnership::Foreign(holder.clone()),
            None if listens => PortOwnership::Own,
            None => PortOwnership::Nobody,
        };
        ports.iter().map(|port| (*port, owner(port))).collect()
    }

    /// What a start was given was taken for us, and nobody of us lives on it.
    pub fn check_ports(&self, request: &SpawnRequest) {
        let Some(intent) = &request.intent else { return };
        for (name, block) in intent.ports.iter().filter(|(_, block)| !block.fixed) {
            for port in block.numbers() {
                if !self.network.ours.contains(&port) {
                    self.violation(format_args!(
                        "{} is given port {port} as {name}, which was not taken",
                        request.service
                    ));
                }
                let others = self.runs.values().filter(|run| run.service != request.service);
                let has_it = |run: &Run| run.ports().any(|other| other == port);
                if let Some(other) =
                    others.filter(|run| run.body().is_some_and(Body::anything_lives)).find(|run| has_it(run))
                {
                    self.violation(format_args!(
                        "{} is given port {port} beside {}",
                        request.service, other.service
                    ));
                }
            }
        }
    }
}

/// Ports, in a test.
impl FakeHost {
    /// Somebody else listens on it from now on.
    pub fn squat(&self, port: u16, holder: PortHolder) {
        let mut world = self.world.borrow_mut();
        world.tell(format_args!("{holder} listens on port {port}"));
        world.network.strangers.insert(port, holder);
    }

    /// The same by somebody who may not be looked at.
    pub fn squat_unseen(&self, port: u16) {
        self.squat(port, PortHolder::default());
        self.world.borrow_mut().network.hidden.insert(port);
    }

    pub fn unsquat(&self, port: u16) {
        let mut world = self.world.borrow_mut();
        world.tell(format_args!("port {port} is let go of"));
        world.network.strangers.remove(&port);
        world.network.hidden.remove(&port);
    }

    /// A reconciler of another state directory has taken it.
    pub fn claim_elsewhere(&self, port: u16) {
        self.world.borrow_mut().network.claimed.insert(port, "/elsewhere/state".into());
    }

    /// A reconciler of another state directory takes it in the moment that ours reaches for it.
    pub fn snatch(&self, port: u16) {
        self.world.borrow_mut().network.snatched.insert(port);
    }

    /// What others see as taken by us.
    pub fn ports_taken(&self) -> BTreeSet<u16> {
        self.world.borrow().network.ours.clone()
    }

    /// What the newest start of a service was told.
    pub fn environment_of(&self, name: &str) -> BTreeMap<String, String> {
        let world = self.world.borrow();
        let mut runs = world.runs.values().filter(|run| run.service.to_string() == name);
        let newest = runs.by_ref().max_by_key(|run| run.order);
        newest.map(|run| run.env.iter().cloned().collect()).unwrap_or_default()
    }
}

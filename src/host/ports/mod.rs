//! Ports of this network namespace: who listens, what other reconcilers have taken, and which process it is.
//!
//! `listeners` asks the kernel who listens, `claims` keeps reconcilers of different state directories apart,
//! `owner` finds the process behind a socket. Signals nobody, and decides nothing: which port a service is given is
//! for `plan`. Called by the hosts.

mod claims;
mod connections;
mod listeners;
mod owner;

pub use connections::anybody_is_connected;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use super::{Claim, StateLayout};
use crate::identity::{InstanceId, Nonce};
use crate::state::PortHolder;
use claims::Claims;
use listeners::Listener;
use owner::{Descriptor, Members};

/// What can be seen of the ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortView {
    pub listened: BTreeSet<u16>,
    /// Taken by other reconcilers, with their state directories.
    pub claimed: BTreeMap<u16, PathBuf>,
}

/// Who listens on a port of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortOwnership {
    Nobody,
    /// A process of the run.
    Own,
    /// Proved: another process, and none of the run.
    Foreign(PortHolder),
    /// Not to be told: it may not be looked at, or stands for processes elsewhere.
    Unknown,
}

/// What a host remembers of ports between two looks.
#[derive(Debug)]
pub struct Ports {
    claims: Claims,
    /// Whose services are ours.
    pub instance: InstanceId,
    /// As of the newest look in this turn.
    listeners: Option<BTreeMap<u16, Vec<Listener>>>,
    /// Which descriptor of a run a port was found to be: proved anew by reading one link.
    proved: HashMap<(Nonce, u16), Descriptor>,
    /// Of sockets of others: looking for them reads all of `/proc`.
    others: HashMap<u64, (Descriptor, PortHolder)>,
    /// Sockets of whom we may not look at: not looked for again before the next full look.
    unseen: BTreeSet<u64>,
}

/// Sockets of others.
const MOST_REMEMBERED: usize = 4_096;

impl Ports {
    pub fn new(layout: &StateLayout, instance: InstanceId) -> Self {
        Self {
            claims: Claims::new(layout),
            instance,
            listeners: None,
            proved: HashMap::new(),
            others: HashMap::new(),
            unseen: BTreeSet::new(),
        }
    }

    /// Time has passed: what was seen may be so no more.
    pub fn look_again(&mut self) {
        self.listeners = None;
    }

    pub fn view(&mut self) -> PortView {
        self.listeners = None;
        PortView { listened: self.listeners().keys().copied().collect(), claimed: self.claims.of_others() }
    }

    /// Takes these for us; those that are not to be had are left.
    pub fn take(&mut self, ports: &BTreeSet<u16>) -> BTreeSet<u16> {
        self.claims.take(ports)
    }

    /// From now on these are ours, and no others.
    pub fn keep(&mut self, ports: &BTreeSet<u16>) {
        self.claims.keep(ports);
    }

    /// Who listens on these, of which somebody does.
    pub fn holders(&mut self, ports: &BTreeSet<u16>) -> BTreeMap<u16, PortHolder> {
        let wanted: BTreeMap<u16, Vec<Listener>> = self
            .listeners()
            .iter()
            .filter(|(port, _)| ports.contains(port))
            .map(|(p, l)| (*p, l.clone()))
            .collect();
        self.look_for(&wanted.values().flatten().map(|listener| listener.inode).collect());
        let holder = |listeners: &Vec<Listener>| {
            let known = listeners.iter().find_map(|listener| self.others.get(&listener.inode));
            let uid = listeners.first().map(|listener| listener.uid);
            known.map_or_else(|| PortHolder { uid, ..PortHolder::default() }, |(_, holder)| holder.clone())
        };
        wanted.iter().map(|(port, listeners)| (*port, holder(listeners))).collect()
    }

    /// Finds the processes behind these sockets, unless they are known and still have them, or were looked for.
    fn look_for(&mut self, inodes: &BTreeSet<u64>) {
        if self.others.len() + self.unseen.len() > MOST_REMEMBERED {
            self.others.clear();
            self.unseen.clear();
        }
        for inode in inodes {
            if self.others.get(inode).is_some_and(|(descriptor, _)| !descriptor.is_socket(*inode)) {
                self.others.remove(inode);
            }
        }
        let is_known = |inode: &&u64| self.others.contains_key(*inode) || self.unseen.contains(*inode);
        let unknown: BTreeSet<u64> = inodes.iter().filter(|inode| !is_known(inode)).copied().collect();
        if !unknown.is_empty() {
            let found = owner::find_holders(&unknown, &self.instance);
            self.unseen.extend(unknown.iter().filter(|inode| !found.contains_key(inode)));
            self.others.extend(found);
        }
    }

    /// Who listens on each of these ports, beside this run.
    pub fn owners(&mut self, claim: &Claim, ports: &BTreeSet<u16>) -> BTreeMap<u16, PortOwnership> {
        let mut found = BTreeMap::new();
        let mut unproved = BTreeSet::new();
        for &port in ports {
            let key = (claim.nonce.clone(), port);
            if self.proved.get(&key).is_some_and(Descriptor::is_the_same) {
                found.insert(port, PortOwnership::Own);
            } else {
                self.proved.remove(&key);
                unproved.insert(port);
            }
        }
        let listening: BTreeMap<u16, Vec<Listener>> = match unproved.is_empty() {
            true => BTreeMap::new(),
            false => {
                let listeners = self.listeners();
                unproved
                    .iter()
                    .map(|port| (*port, listeners.get(port).cloned().unwrap_or_default()))
                    .collect()
            }
        };
        let mut members = None;
        for (port, listeners) in listening {
            let ownership = match listeners.is_empty() {
                true => PortOwnership::Nobody,
                false => {
                    let members = members.get_or_insert_with(|| Members::of(claim));
                    self.prove(claim, port, &listeners, members)
                }
            };
            found.insert(port, ownership);
        }
        found
    }

    fn prove(
        &mut self,
        claim: &Claim,
        port: u16,
        listeners: &[Listener],
        members: &Members,
    ) -> PortOwnership {
        if let Some(descriptor) = listeners.iter().find_map(|listener| members.descriptor_of(listener.inode))
        {
            self.proved.insert((claim.nonce.clone(), port), descriptor);
            self.claims.let_go(port);
            return PortOwnership::Own;
        }
        if !members.are_all_seen() {
            return PortOwnership::Unknown;
        }
        let inodes: BTreeSet<u64> = listeners.iter().map(|listener| listener.inode).collect();
        self.look_for(&inodes);
        let Some((descriptor, holder)) = inodes.iter().find_map(|inode| self.others.get(inode)) else {
            return PortOwnership::Unknown;
        };
        // One that was born meanwhile is of the run as well, and a proxy listens for somebody who cannot be seen.
        if descriptor.is_a_proxys() || Members::of(claim).contains(descriptor) {
            return PortOwnership::Unknown;
        }
        PortOwnership::Foreign(holder.clone())
    }

    /// A full look: runs other than these have ended.
    pub fn forget_all_but(&mut self, claims: &[Claim]) {
        self.unseen.clear();
        if !self.proved.is_empty() {
            let nonces: BTreeSet<&Nonce> = claims.iter().map(|claim| &claim.nonce).collect();
            self.proved.retain(|(nonce, _), _| nonces.contains(nonce));
        }
    }

    fn listeners(&mut self) -> &BTreeMap<u16, Vec<Listener>> {
        self.listeners.get_or_insert_with(listeners::listeners)
    }
}

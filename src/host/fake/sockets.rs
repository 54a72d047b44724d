//! Sockets: held by the keeper of the machine, and by who was passed them.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;

use super::FakeHost;
use super::behaviour::failure;
use super::run::Run;
use super::world::World;
use crate::host::listen::{Listen, NotHeld, SocketKey};
use crate::host::{Event, SpawnRequest};
use crate::manifest::ListenOn;
use crate::state::{SpawnFailure, SpawnStage};

#[derive(Debug, Default)]
pub(super) struct Sockets {
    held: BTreeMap<SocketKey, Listen>,
    /// Others listen there.
    strangers: BTreeSet<ListenOn>,
}

impl World {
    pub fn hold_socket(&mut self, key: &SocketKey, listen: &Listen) {
        if self.sockets.held.get(key) == Some(listen) {
            return;
        }
        let is_own = |other: &SocketKey| other.service == key.service;
        let others = self.sockets.held.iter().filter(|(other, _)| !is_own(other));
        let in_the_way = others.map(|(_, held)| &held.address).chain(&self.sockets.strangers);
        let by_a_run = self.runs.values().filter(|run| run.listens()).flat_map(|run| &run.sockets);
        let is_held =
            self.sockets.held.iter().any(|(other, held)| is_own(other) && held.address == listen.address);
        let is_taken =
            in_the_way.chain(by_a_run.filter(|_| !is_held)).any(|address| *address == listen.address);
        let name = format!("{} of {} on {}", key.name, key.service, listen.address);
        if is_taken {
            self.tell(format_args!("socket    {name} is not to be had"));
            let why = NotHeld { errno: libc::EADDRINUSE, message: "address in use".to_owned() };
            return self.queue(Event::SocketNotHeld { key: key.clone(), why });
        }
        self.tell(format_args!("socket    {name} is held"));
        self.sockets.held.insert(key.clone(), listen.clone());
        self.queue(Event::SocketHeld { key: key.clone() });
    }

    pub fn release_socket(&mut self, key: &SocketKey) {
        if self.sockets.held.remove(key).is_some() {
            self.tell(format_args!("socket    {} of {} is let go of", key.name, key.service));
        }
    }

    pub fn held_sockets(&self) -> BTreeMap<SocketKey, Listen> {
        self.sockets.held.clone()
    }

    pub fn lose_sockets(&mut self) {
        self.sockets.held.clear();
    }

    /// What a start is passed, or why it comes to nothing.
    pub fn passed_on(&self, request: &SpawnRequest) -> Result<Vec<ListenOn>, SpawnFailure> {
        let held = request.sockets.iter().map(|name| {
            let key = SocketKey { service: request.service.clone(), name: name.clone() };
            self.sockets.held.get(&key).map(|listen| listen.address.clone())
        });
        held.collect::<Option<_>>()
            .ok_or_else(|| SpawnFailure { errno: 0, ..failure(SpawnStage::Socket, Errno::EBADF) })
    }
}

impl Run {
    /// It listens on it, itself.
    fn accepts_on(&self, address: &ListenOn) -> bool {
        self.anything_lives() && self.sockets.contains(address)
    }
}

/// Sockets, in a test.
impl FakeHost {
    /// A connection to this address is not refused: it is accepted, or waits to be.
    pub fn can_connect(&self, address: &str) -> bool {
        let address = ListenOn::parse(address).expect("it is an address");
        let world = self.world.borrow();
        world.sockets.held.values().any(|held| held.address == address)
            || world.runs.values().any(|run| run.accepts_on(&address))
    }

    /// Somebody else listens there from now on.
    pub fn occupy(&self, address: &str) {
        let mut world = self.world.borrow_mut();
        world.tell(format_args!("a stranger listens on {address}"));
        world.sockets.strangers.insert(ListenOn::parse(address).expect("it is an address"));
    }

    pub fn vacate(&self, address: &str) {
        let mut world = self.world.borrow_mut();
        world.tell(format_args!("the stranger on {address} is gone"));
        world.sockets.strangers.remove(&ListenOn::parse(address).expect("it is an address"));
    }
}

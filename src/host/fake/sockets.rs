//! Sockets: held by the keeper of the machine, and by who was passed them.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;

use super::FakeHost;
use super::behaviour::failure;
use super::run::Run;
use super::world::World;
use crate::host::listen::{Listen, NotHeld, Proxy, SocketKey, SocketUse};
use crate::host::{Event, SpawnRequest};
use crate::identity::ServiceId;
use crate::manifest::ListenOn;
use crate::state::{SpawnFailure, SpawnStage};
use crate::time::Stamp;

#[derive(Debug, Default)]
pub(super) struct Sockets {
    held: BTreeMap<SocketKey, Listen>,
    /// Others listen there.
    strangers: BTreeSet<ListenOn>,
    /// Whether who connects is told of.
    watched: BTreeMap<SocketKey, bool>,
    /// When somebody has connected last to what is watched.
    used: BTreeMap<SocketKey, Stamp>,
    /// How many wait to be accepted.
    waiting: BTreeMap<SocketKey, usize>,
    /// Somebody is connected there, and stays so.
    connected: BTreeSet<ListenOn>,
    /// To whom connections are handed on.
    proxied: BTreeMap<SocketKey, Option<ListenOn>>,
    /// Who was turned away, and why.
    turned_away: Vec<String>,
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
        self.sockets.watched.remove(key);
        self.sockets.waiting.remove(key);
        if self.sockets.held.remove(key).is_some() {
            self.tell(format_args!("socket    {} of {} is let go of", key.name, key.service));
        }
    }

    pub fn watch_socket(&mut self, key: &SocketKey, tell: bool) {
        if !self.sockets.held.contains_key(key) {
            self.violation(format_args!("a socket is watched that is not held: {key:?}"));
        }
        self.sockets.watched.insert(key.clone(), tell);
        self.notice_connections(key);
    }

    pub fn leave_socket(&mut self, key: &SocketKey) {
        self.sockets.watched.remove(key);
        self.sockets.proxied.remove(key);
    }

    pub fn proxy_socket(&mut self, key: &SocketKey, proxy: &Proxy) {
        self.watch_socket(key, proxy.tell);
        if let Some(target) = &proxy.target {
            self.tell(format_args!("socket    {} of {} is handed on to {target}", key.name, key.service));
            self.sockets.waiting.remove(key);
        }
        self.sockets.proxied.insert(key.clone(), proxy.target.clone());
    }

    pub fn socket_used(&self, key: &SocketKey) -> Option<SocketUse> {
        let last = self.sockets.used.get(key).cloned();
        let open = self.sockets.proxied.contains_key(key)
            && self.sockets.held.get(key).is_some_and(|held| self.sockets.connected.contains(&held.address));
        Some(SocketUse { last, open })
    }

    pub fn turn_away(&mut self, key: &SocketKey, why: &str) {
        let waiting = self.sockets.waiting.remove(key).unwrap_or(0);
        self.tell(format_args!("{waiting} connections to {} are turned away: {why}", key.service));
        self.sockets.turned_away.extend(std::iter::repeat_n(why.to_owned(), waiting));
    }

    pub fn is_connected(&self, addresses: &[ListenOn]) -> bool {
        addresses.iter().any(|address| self.sockets.connected.contains(address))
    }

    fn notice_connections(&mut self, key: &SocketKey) {
        if self.sockets.waiting.get(key).is_none_or(|waiting| *waiting == 0) {
            return;
        }
        if let Some(tell) = self.sockets.watched.get(key).copied() {
            self.sockets.used.insert(key.clone(), self.clock.stamp());
            if tell {
                self.queue(Event::Connected { key: key.clone() });
            }
        }
    }

    /// A process of it accepts.
    pub fn accepts(&mut self, service: &ServiceId) {
        let proxied = &self.sockets.proxied;
        self.sockets.waiting.retain(|key, _| key.service != *service || proxied.contains_key(key));
    }

    pub fn held_sockets(&self) -> BTreeMap<SocketKey, Listen> {
        self.sockets.held.clone()
    }

    pub fn lose_sockets(&mut self) {
        self.sockets.held.clear();
        self.sockets.watched.clear();
        self.sockets.proxied.clear();
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

    /// Somebody connects; false if that is refused.
    pub fn connect(&self, address: &str) -> bool {
        if !self.can_connect(address) {
            return false;
        }
        let address = ListenOn::parse(address).expect("it is an address");
        let mut world = self.world.borrow_mut();
        world.tell(format_args!("somebody connects to {address}"));
        let held = world.sockets.held.iter().find(|(_, held)| held.address == address);
        let Some(key) = held.map(|(key, _)| key.clone()) else { return true };
        *world.sockets.waiting.entry(key.clone()).or_default() += 1;
        world.notice_connections(&key);
        let is_handed_on = world.sockets.proxied.get(&key).is_some_and(Option::is_some);
        if is_handed_on {
            world.sockets.waiting.remove(&key);
        } else if world.runs.values().any(|run| run.accepts_on(&address)) {
            world.accepts(&key.service);
        }
        true
    }

    /// Whether somebody is connected to this address all the time.
    pub fn stay_connected(&self, address: &str, stays: bool) {
        let address = ListenOn::parse(address).expect("it is an address");
        let connected = &mut self.world.borrow_mut().sockets.connected;
        if stays {
            connected.insert(address)
        } else {
            connected.remove(&address)
        };
    }

    /// To whom connections to this service are handed on.
    pub fn handed_on_to(&self, name: &str) -> Option<ListenOn> {
        let world = self.world.borrow();
        let mut proxied = world.sockets.proxied.iter();
        proxied.find(|(key, _)| key.service.to_string() == name).and_then(|(_, target)| target.clone())
    }

    /// Why connections were closed that nobody accepted.
    pub fn turned_away(&self) -> Vec<String> {
        self.world.borrow().sockets.turned_away.clone()
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

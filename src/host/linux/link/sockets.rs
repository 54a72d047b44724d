//! Sockets of services: opened by a thread of ours, and handed to the keeper, who holds them.
//!
//! One socket is opened once at a time, whatever becomes of the connection meanwhile: two that are opened for the same
//! address would be in each other's way. What the keeper holds is told by it when it is met, and from then on by its
//! answers. A service that gives its socket another name has a copy of it handed over.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{KeeperLink, Line};
use crate::host::Event;
use crate::host::keeper::{Heard, SocketNews, lend};
use crate::host::listen::{HeldSocket, Listen, NotHeld, SocketKey};

/// What a thread of ours has to say.
#[derive(Debug)]
pub(super) enum Told {
    /// What came of opening one.
    Opened(HeldSocket, Result<OwnedFd, NotHeld>),
    FileLost(HeldSocket),
}

#[derive(Debug)]
pub(super) struct Sockets {
    /// By the keeper of this connection.
    held: BTreeMap<SocketKey, HeldSocket>,
    /// The same for whoever asks in each pass, made when it is asked for and is another one.
    shown: OnceLock<Arc<BTreeMap<SocketKey, Listen>>>,
    /// To be held by it, and not yet so.
    asked: BTreeMap<SocketKey, Listen>,
    /// A thread opens them.
    opening: BTreeSet<SocketKey>,
    /// Given to the keeper, who has not answered.
    handed_over: BTreeSet<SocketKey>,
    /// To be let go of, and not yet so.
    releasing: BTreeSet<SocketKey>,
    /// Files that are being taken away.
    removals: JoinSet<()>,
    told: mpsc::UnboundedReceiver<Told>,
    to_told: mpsc::UnboundedSender<Told>,
}

impl Default for Sockets {
    fn default() -> Self {
        let (to_told, told) = mpsc::unbounded_channel();
        Self {
            held: BTreeMap::new(),
            shown: OnceLock::new(),
            asked: BTreeMap::new(),
            opening: BTreeSet::new(),
            handed_over: BTreeSet::new(),
            releasing: BTreeSet::new(),
            removals: JoinSet::new(),
            told,
            to_told,
        }
    }
}

impl Sockets {
    /// To be changed.
    fn held(&mut self) -> &mut BTreeMap<SocketKey, HeldSocket> {
        self.shown.take();
        &mut self.held
    }

    pub fn are_settled(&self) -> bool {
        self.asked.is_empty() && self.opening.is_empty() && self.handed_over.is_empty()
    }

    /// They wait for a keeper.
    pub fn want_a_keeper(&self) -> bool {
        !self.asked.is_empty()
    }

    fn is_under_way(&self, key: &SocketKey) -> bool {
        self.opening.contains(key) || self.handed_over.contains(key)
    }

    /// Cancel safe.
    pub async fn told(&mut self) -> Told {
        self.told.recv().await.expect("there is a sender beside the receiver")
    }

    fn open(&mut self, held: HeldSocket, open: impl FnOnce() -> Result<OpenedAs, NotHeld> + Send + 'static) {
        self.opening.insert(held.key.clone());
        let told = self.to_told.clone();
        tokio::task::spawn_blocking(move || {
            let (file, result) = match open() {
                Ok((descriptor, file)) => (file, Ok(descriptor)),
                Err(why) => (None, Err(why)),
            };
            // The link may be gone meanwhile; the socket is closed then.
            let _ = told.send(Told::Opened(HeldSocket { file, ..held }, result));
        });
    }
}

type OpenedAs = (OwnedFd, Option<(u64, u64)>);

impl KeeperLink {
    /// `None` while there is no connection.
    pub fn held_sockets(&self) -> Option<Arc<BTreeMap<SocketKey, Listen>>> {
        let shown = || {
            let held = self.sockets.held.iter();
            Arc::new(held.map(|(key, held)| (key.clone(), held.listen.clone())).collect())
        };
        matches!(self.line, Line::Up(..)).then(|| Arc::clone(self.sockets.shown.get_or_init(shown)))
    }

    /// Nothing happens if it is held, or about to be.
    pub fn hold_socket(&mut self, key: &SocketKey, listen: &Listen) {
        let is_held = self.sockets.held.get(key).is_some_and(|held| held.listen == *listen);
        if is_held || self.sockets.asked.get(key) == Some(listen) {
            return;
        }
        if let Some(failure) = &self.silence {
            let why = NotHeld { errno: failure.errno, message: failure.message.clone() };
            return self.events.push_back(Event::SocketNotHeld { key: key.clone(), why });
        }
        self.sockets.asked.insert(key.clone(), listen.clone());
        self.asked = true;
        self.open_socket(key);
    }

    pub fn release_socket(&mut self, key: &SocketKey) {
        self.sockets.asked.remove(key);
        if let Line::Up(client, _) = &self.line {
            self.asked = true;
            self.sockets.releasing.insert(key.clone());
            client.release(key);
        }
    }

    /// Looks for the files of sockets, and lets go of those whose file is not there: who needs one opens it anew.
    pub fn look_for_socket_files(&mut self) {
        let is_settled =
            |key: &SocketKey| !self.sockets.is_under_way(key) && !self.sockets.asked.contains_key(key);
        let held = self.sockets.held.values().filter(|held| held.file.is_some() && is_settled(&held.key));
        let held: Vec<HeldSocket> = held.cloned().collect();
        if held.is_empty() {
            return;
        }
        let told = self.sockets.to_told.clone();
        tokio::task::spawn_blocking(move || {
            for socket in held.into_iter().filter(HeldSocket::has_lost_its_file) {
                let _ = told.send(Told::FileLost(socket));
            }
        });
    }

    pub(super) fn hear_of_thread(&mut self, told: Told) {
        match told {
            Told::Opened(socket, result) => self.socket_is_open(socket, result),
            Told::FileLost(socket) => self.file_is_lost(&socket),
        }
    }

    fn file_is_lost(&mut self, socket: &HeldSocket) {
        let key = &socket.key;
        if self.sockets.held.get(key) != Some(socket) || self.sockets.asked.contains_key(key) {
            return;
        }
        tracing::warn!(service = %key.service, "the file of its socket is gone: {}", socket.listen.address);
        self.sockets.held().remove(key);
        self.release_socket(key);
        self.events.push_back(Event::SocketLost { key: key.clone() });
    }

    /// What was asked for before there was a keeper, or while it was about to change.
    pub(super) fn open_sockets(&mut self) {
        let asked: Vec<SocketKey> = self.sockets.asked.keys().cloned().collect();
        asked.iter().for_each(|key| self.open_socket(key));
    }

    fn open_socket(&mut self, key: &SocketKey) {
        let Line::Up(client, _) = &self.line else { return };
        if self.upgrade.is_asked() || self.sockets.is_under_way(key) {
            return;
        }
        let Some(listen) = self.sockets.asked.get(key).cloned() else { return };
        if client.info.sockets.is_none() {
            let message = format!(
                "the keeper is of version {}, which holds no sockets, until it is upgraded",
                client.info.version
            );
            return self.not_held(key, NotHeld { errno: 0, message });
        }
        let at_its_address = |held: &&HeldSocket| held.listen.address == listen.address;
        let before =
            self.sockets.held.values().filter(|held| held.key.service == key.service).find(at_its_address);
        let socket = HeldSocket { key: key.clone(), listen, file: None };
        match before.cloned() {
            // Another mode, or owner: opened again once it is let go of.
            Some(before) if before.key == *key || before.listen != socket.listen => {
                client.release(&before.key);
            }
            Some(before) => {
                let layout = self.layout.clone();
                self.sockets.open(socket, move || {
                    let gone = || io::Error::other("the keeper holds it no longer");
                    Ok((lend(&layout, &before.key)?.ok_or_else(gone)?, before.file))
                });
            }
            None => {
                let listen = socket.listen.clone();
                self.sockets.open(socket, move || listen.open());
            }
        }
    }

    /// Handed over, if it is still asked for and there is a keeper to hear it.
    fn socket_is_open(&mut self, socket: HeldSocket, result: Result<OwnedFd, NotHeld>) {
        let key = socket.key.clone();
        self.sockets.opening.remove(&key);
        let is_asked_for = self.sockets.asked.get(&key) == Some(&socket.listen);
        match (result, &self.line) {
            (Ok(descriptor), Line::Up(client, _)) if is_asked_for && !self.upgrade.is_asked() => {
                self.sockets.handed_over.insert(key);
                client.hold(socket, descriptor);
            }
            (Ok(descriptor), _) => {
                drop(descriptor);
                self.remove_file(socket);
                self.open_socket(&key);
            }
            (Err(why), _) if is_asked_for => self.not_held(&key, why),
            (Err(_), _) => self.open_socket(&key),
        }
    }

    pub(super) fn hear_of_socket(&mut self, news: SocketNews) {
        match news {
            SocketNews::Holding(socket) => {
                let key = socket.key.clone();
                self.sockets.handed_over.remove(&key);
                if self.sockets.asked.get(&key) == Some(&socket.listen) {
                    self.sockets.asked.remove(&key);
                    self.events.push_back(Event::SocketHeld { key: key.clone() });
                }
                if let Some(before) = self.sockets.held().insert(key.clone(), socket) {
                    self.remove_file(before);
                }
                self.open_socket(&key);
            }
            SocketNews::NotHolding { key, detail } => {
                self.sockets.handed_over.remove(&key);
                self.not_held(&key, NotHeld { errno: 0, message: detail });
            }
            SocketNews::Released(socket) => {
                let key = socket.key.clone();
                self.sockets.held().remove(&key);
                self.sockets.releasing.remove(&key);
                self.remove_file(socket);
                // Another name of the same service may have waited for it.
                self.open_sockets();
            }
        }
    }

    fn not_held(&mut self, key: &SocketKey, why: NotHeld) {
        if self.sockets.asked.remove(key).is_some() {
            self.events.push_back(Event::SocketNotHeld { key: key.clone(), why });
        }
    }

    /// Of what nobody holds any more. The file of a new socket at its path is another one.
    fn remove_file(&mut self, socket: HeldSocket) {
        if socket.file.is_none() || self.sockets.held.values().any(|held| held.file == socket.file) {
            return;
        }
        while self.sockets.removals.try_join_next().is_some() {}
        self.sockets.removals.spawn_blocking(move || {
            if let Err(error) = socket.remove_file() {
                tracing::warn!(service = %socket.key.service, "{} cannot be removed: {error}", socket.listen.address);
            }
        });
    }

    /// A keeper was met; what it holds, it says.
    pub(super) fn met_sockets(&mut self) {
        let Line::Up(client, _) = &self.line else { return };
        let held = client.info.sockets.iter().flatten();
        let held = held.map(|socket| (socket.key.clone(), socket.clone())).collect();
        *self.sockets.held() = held;
        let held = &self.sockets.held;
        let is_held =
            |key: &SocketKey, listen: &mut Listen| held.get(key).is_some_and(|held| held.listen == *listen);
        let met = self.sockets.asked.extract_if(.., is_held);
        self.events.extend(met.map(|(key, _)| Event::SocketHeld { key }));
    }

    /// What is asked for again is asked for by whoever hears that the keeper was lost.
    pub(super) fn lost_sockets(&mut self) {
        self.sockets.held().clear();
        self.sockets.asked.clear();
        self.sockets.handed_over.clear();
        self.sockets.releasing.clear();
    }

    /// There is no keeper to hold any.
    pub(super) fn fail_sockets(&mut self, why: &NotHeld) {
        let asked: Vec<SocketKey> = self.sockets.asked.keys().cloned().collect();
        asked.iter().for_each(|key| self.not_held(key, why.clone()));
    }

    /// Until what was let go of is closed, and its files are gone: before we end.
    pub(super) async fn sockets_are_released(&mut self) {
        while !self.sockets.releasing.is_empty()
            && let Line::Up(client, _) = &mut self.line
        {
            match client.next().await {
                Heard::Socket(news) => self.hear_of_socket(news),
                Heard::Event(event) => self.note(&event),
                Heard::NotUpgraded { busy, detail } => self.not_upgraded(busy, &detail),
            }
        }
        while self.sockets.removals.join_next().await.is_some() {}
    }
}

//! The listening sockets that the keeper holds, and passes to what it starts.
//!
//! Keeps descriptors, and does nothing with them: it neither opens nor accepts nor polls. They survive every run, every
//! reconciler and an upgrade in place; with the keeper itself they are lost. Sources: sd_listen_fds(3) for what a
//! program is told, unix(7) for how a descriptor is handed over.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::conn::Conn;
use super::protocol::{Message, Spawn};
use super::server::Keeper;
use crate::host::listen::{HeldSocket, SocketKey};
use crate::state::{SpawnFailure, SpawnStage};

/// By whose they are.
pub type Sockets = BTreeMap<SocketKey, (HeldSocket, OwnedFd)>;

impl Keeper {
    /// In place of the one that was held under this name before.
    pub(super) fn hold(&mut self, conn: u64, socket: HeldSocket) {
        let descriptor = self.conns.get_mut(&conn).and_then(Conn::take_descriptor);
        // Where one is lost for want of room, that of the next request stands in its place.
        let descriptor = descriptor.filter(|descriptor| socket.listen.is_of(descriptor));
        let kept_back = self.reserve.fill();
        let answer = match (descriptor, kept_back) {
            (Some(descriptor), Ok(())) => {
                self.sockets.insert(socket.key.clone(), (socket.clone(), descriptor));
                Message::Holding { socket }
            }
            (None, _) => {
                Message::NotHolding { key: socket.key, detail: "its descriptor did not arrive".into() }
            }
            (Some(_), Err(error)) => Message::NotHolding {
                key: socket.key,
                detail: format!("too few descriptors are left: {error}"),
            },
        };
        self.answer(conn, &answer);
    }

    pub(super) fn release(&mut self, conn: u64, key: &SocketKey) {
        if let Some((socket, _)) = self.sockets.remove(key) {
            self.answer(conn, &Message::Released { socket });
        }
    }

    /// A copy of the descriptor for whoever asks.
    pub(super) fn lend(&mut self, conn: u64, key: &SocketKey) {
        let Some(asking) = self.conns.get_mut(&conn) else { return };
        match self.sockets.get(key) {
            Some((socket, descriptor)) => {
                asking.send_with(&Message::Holding { socket: socket.clone() }, descriptor.as_fd());
            }
            None => asking.send(&Message::NotHolding { key: key.clone(), detail: "it is not held".into() }),
        }
    }

    pub(super) fn held_sockets(&self) -> Vec<HeldSocket> {
        self.sockets.values().map(|(socket, _)| socket.clone()).collect()
    }

    /// What is passed to a run, in the order in which it was asked for.
    pub(super) fn sockets_for(&self, request: &Spawn) -> Result<Vec<BorrowedFd<'_>>, SpawnFailure> {
        let held = request.sockets.iter().map(|name| {
            let key = SocketKey { service: request.service.clone(), name: name.clone() };
            self.sockets.get(&key).map(|(_, descriptor)| descriptor.as_fd()).ok_or_else(|| SpawnFailure {
                stage: SpawnStage::Socket,
                errno: 0,
                message: format!("the keeper does not hold its socket `{name}`"),
            })
        });
        held.collect()
    }
}

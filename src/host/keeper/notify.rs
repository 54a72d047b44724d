//! The keeper's ear: one datagram socket that services say of themselves what sd_notify(3) has words for.
//!
//! The keeper listens, since a reconciler may be away, and a service that says something into a full socket hangs.
//! It keeps the sum of what each run has said, and judges nothing of it. The name is abstract: any user's service can
//! reach it, however long the path of the state directory is. So anybody on the machine can; what counts is said by
//! a process of the run, by the pid that the kernel vouches for. Sources: unix(7), sd_notify(3).

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, setsockopt, sockopt,
};

use super::cell::{Cell, Hull, JOB_PREFIX};
use super::pipe::{drain, log};
use super::protocol::Message;
use super::server::Keeper;
use crate::host::cgroup::Group;
use crate::host::proc;
use crate::identity::{InstanceId, Nonce};
use crate::state::News;

/// Heard in one turn: who talks all the time must not keep everybody else waiting.
const AT_ONCE: usize = 64;

/// Bytes of one that are read.
const MAX_DATAGRAM: usize = 4096;

/// Parents that are asked for until one is known.
const MAX_DEPTH: usize = 64;

/// From something that can wait until it is told on, with what was said since.
const SOON: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Ear {
    socket: UnixDatagram,
    name: String,
}

impl Ear {
    /// By the same name as a keeper before us, whose services know no other; unless somebody has taken it.
    pub fn open(instance: &InstanceId) -> io::Result<Self> {
        let bind = |name: &str| UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?);
        let name = format!("reconcile/{instance}/notify");
        let (socket, name) = match bind(&name) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let other = format!("{name}.{}", std::process::id());
                (bind(&other)?, other)
            }
            bound => (bound?, name),
        };
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        Ok(Self { socket, name })
    }

    /// Of the program that we were before.
    pub fn recall(socket: OwnedFd) -> io::Result<Self> {
        let socket = UnixDatagram::from(socket);
        let address = socket.local_addr()?;
        let name = address.as_abstract_name().and_then(|name| std::str::from_utf8(name).ok());
        let name =
            name.ok_or_else(|| io::Error::other("the socket for notifications has no name"))?.to_owned();
        Ok(Self { socket, name })
    }

    /// As in `NOTIFY_SOCKET`.
    pub fn address(&self) -> String {
        format!("@{}", self.name)
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// `None`: there is nothing more. Without a pid: of somebody whom we do not see.
    fn receive(&self) -> io::Result<Option<(Option<i32>, Vec<u8>)>> {
        let mut bytes = [0; MAX_DATAGRAM];
        // Room for the credentials alone: descriptors that come along are closed, which is what a barrier waits for.
        let mut control = nix::cmsg_space!(UnixCredentials);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let message =
            match recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
                Ok(message) => message,
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        let credentials = message.cmsgs().ok().and_then(|mut messages| {
            messages.find_map(|message| match message {
                ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
                _ => None,
            })
        });
        let length = message.bytes;
        Ok(Some((credentials.filter(|pid| *pid > 1), bytes[..length].to_vec())))
    }
}

impl Keeper {
    pub(super) fn hear_notifications(&mut self, now: Instant) {
        for _ in 0..AT_ONCE {
            let Some(ear) = &self.ear else { return };
            match ear.receive() {
                Ok(Some((Some(pid), bytes))) => self.hear_notification(pid, &bytes, now),
                Ok(Some((None, _))) => {}
                Ok(None) => return,
                Err(error) => return log(&format!("hearing what services say: {error}")),
            }
        }
    }

    fn hear_notification(&mut self, pid: i32, bytes: &[u8], now: Instant) {
        // Who has ended meanwhile, or is a stranger, has said nothing.
        let Some(nonce) = self.speaker(pid) else { return };
        let at = self.here.stamp();
        let Some(cell) = self.cells.get_mut(&nonce) else { return };
        match cell.said.hear(bytes, &at) {
            News::WhenAsked => {}
            News::Soon => _ = cell.tell_said.get_or_insert(now + SOON),
            News::AtOnce => self.tell_said(&nonce),
        }
    }

    /// A newline is all that there is to say; where the other side is closed, nothing will be.
    pub(super) fn hear_readiness(&mut self, nonce: &Nonce) {
        let Some(cell) = self.cells.get_mut(nonce) else { return };
        let Some(pipe) = &cell.ready else { return };
        let mut heard = Vec::new();
        let is_closed = drain(pipe, &mut heard);
        let is_ready = heard.contains(&b'\n');
        if is_ready || is_closed {
            cell.ready = None;
        }
        if is_ready {
            cell.said.hear(b"READY=1", &self.here.stamp());
            self.tell_said(nonce);
        }
    }

    /// The run that a process belongs to.
    fn speaker(&self, pid: i32) -> Option<Nonce> {
        let process = self.here.identity(pid).ok()?;
        let runs = || self.cells.values().filter(|cell| cell.job.is_none());
        let by_leader = runs().find(|cell| cell.process.as_ref() == Some(&process));
        let found = by_leader.or_else(|| {
            let group = Group::of_process(pid).ok().flatten();
            group.and_then(|group| runs().find(|cell| holds_group(cell, &group)))
        });
        found.map(|cell| cell.nonce.clone()).or_else(|| self.held_ancestor(pid))
    }

    /// The run whose holder is above a process, that of a job before all.
    fn held_ancestor(&self, pid: i32) -> Option<Nonce> {
        let mut pid = pid;
        for _ in 0..MAX_DEPTH {
            let holder =
                |cell: &&Cell| matches!(&cell.hull, Hull::Holder { process, .. } if process.pid.get() == pid);
            if let Some(cell) = self.cells.values().find(holder) {
                return cell.job.is_none().then(|| cell.nonce.clone());
            }
            pid = proc::stat(pid).ok().flatten().map(|stat| stat.ppid).filter(|ppid| *ppid > 1)?;
        }
        None
    }

    pub(super) fn tell_said(&mut self, nonce: &Nonce) {
        let Some(cell) = self.cells.get_mut(nonce) else {
            return self.tell(&Message::Said { nonce: nonce.clone(), said: None });
        };
        cell.tell_said = None;
        let said = Some(Box::new(cell.said.clone()));
        self.tell(&Message::Said { nonce: nonce.clone(), said });
    }

    pub(super) fn tell_what_was_said(&mut self, now: Instant) {
        let is_due = |cell: &&Cell| cell.tell_said.is_some_and(|at| at <= now);
        let due: Vec<Nonce> = self.cells.values().filter(is_due).map(|cell| cell.nonce.clone()).collect();
        due.iter().for_each(|nonce| self.tell_said(nonce));
    }
}

/// A run, and none of its jobs, is in there.
fn holds_group(cell: &Cell, group: &Group) -> bool {
    let Hull::Group(own) = &cell.hull else { return false };
    let Ok(below) = group.path().strip_prefix(own.path()) else { return false };
    let first = below.components().next().and_then(|first| first.as_os_str().to_str());
    !first.is_some_and(|first| first.starts_with(JOB_PREFIX))
}

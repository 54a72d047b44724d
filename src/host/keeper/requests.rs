//! What the client asks for, one request at a time; answered at once or by what happens later.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::cell::{JOB_PREFIX, Killing};
use super::jobs::Job;
use super::journal;
use super::notify::Ear;
use super::pipe::log;
use super::protocol::{CellInfo, Head, Message, OLDEST_PROTOCOL, PROTOCOL, Request, common_protocol};
use super::server::{Keeper, Order};
use super::upgrade::NotNow;
use crate::host::Claim;
use crate::host::cause::plain;
use crate::host::cgroup::{Ground, Group, Place};
use crate::host::failpoint;
use crate::identity::{InstanceId, Nonce};
use crate::manifest::SignalTo;

impl Keeper {
    pub(super) fn request(&mut self, conn: u64, line: Vec<u8>) {
        let is_spawn = matches!(serde_json::from_slice(&line), Ok(Head { request: "spawn" }));
        if is_spawn && self.client == Some(conn) {
            return self.queue.push_service(Order { text: line, job: None });
        }
        let request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => return self.answer(conn, &not_understood(&error)),
        };
        match request {
            Request::Hello { protocol, instance } => self.hello(conn, protocol, instance),
            Request::Ping { id } => self.answer(conn, &Message::Pong { id }),
            Request::List => self.list(conn),
            Request::Lend { key } => self.lend(conn, &key),
            _ if self.client != Some(conn) => self.refuse(conn, None, "say hello first".into()),
            Request::Spawn { .. } => self.queue.push_service(Order { text: line, job: None }),
            Request::Signal { claim, signal, to } => self.signal(conn, &claim, signal, to),
            Request::Kill { claim } => self.kill(conn, &claim),
            Request::Attach { claim } => self.attach_and_tell(conn, &claim),
            Request::Job { of, timeout_ms, spawn } => {
                let job = Job::new(spawn.nonce, of, Duration::from_millis(timeout_ms));
                self.queue.push_job(Order { text: line, job: Some(Box::new(job)) });
            }
            Request::Ask { nonce } => self.tell_said(&nonce),
            Request::CancelJob { nonce } => self.cancel_job(&nonce),
            Request::Hold { socket } => self.hold(conn, socket),
            Request::Release { key } => self.release(conn, &key),
            Request::TrimExits { keep } => self.trim_exits(&keep),
            Request::Upgrade { exe } => {
                let not_upgraded = match self.upgrade(&exe) {
                    NotNow::Busy(why) => Message::NotUpgraded { busy: true, detail: why.into() },
                    NotNow::Failed(error) => {
                        let detail = format!("{}: {}", exe.path.display(), plain(&error));
                        Message::NotUpgraded { busy: false, detail }
                    }
                };
                self.answer(conn, &not_upgraded);
            }
        }
    }

    pub(super) fn answer(&mut self, conn: u64, message: &Message) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.send(message);
        }
    }

    fn refuse(&mut self, conn: u64, nonce: Option<Nonce>, detail: String) {
        self.answer(conn, &Message::Refused { nonce, detail });
    }

    fn hello(&mut self, conn: u64, protocol: u32, instance: InstanceId) {
        let Some(protocol) = common_protocol(protocol) else {
            let (version, oldest) = (env!("CARGO_PKG_VERSION"), OLDEST_PROTOCOL);
            let detail = format!(
                "protocol {protocol} is too old for it: version {version} speaks {oldest} to {PROTOCOL}; \
                 use a newer `reconcile` for this directory"
            );
            return self.refuse(conn, None, detail);
        };
        if !is_plain(instance.as_str()) {
            return self.refuse(conn, None, "the instance id is none".into());
        }
        let keeper = match self.here.own_identity() {
            Ok(keeper) => keeper,
            Err(error) => return self.refuse(conn, None, format!("/proc cannot be read: {error}")),
        };
        if self.ear.is_none() {
            let ear = Ear::open(&instance);
            self.ear = ear.inspect_err(|error| log(&format!("services cannot be heard: {error}"))).ok();
        }
        if self.instance.as_ref() != Some(&instance) {
            self.settle_down(&instance);
            self.instance = Some(instance);
        }
        let holders = match &self.ground {
            Some(Ground::Holder { why }) => Some(why.clone()),
            Some(Ground::Cgroup { .. }) | None => None,
        };
        self.serve_client(conn);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let notify = self.ear.is_some();
        let sockets = Some(self.held_sockets());
        self.answer(
            conn,
            &Message::Hello { protocol, version, keeper, holders, sockets, notify, secrets: true },
        );
    }

    /// Finds out what will contain runs.
    fn settle_down(&mut self, instance: &InstanceId) {
        let ground = Ground::detect(instance);
        match &ground {
            Ground::Cgroup { base } => {
                if let Err(error) = move_in(base) {
                    log(&format!("{}: {error}", base.display()));
                }
            }
            Ground::Holder { why } => log(&format!("runs have holders: {why}")),
        }
        self.ground = Some(ground);
    }

    fn list(&mut self, conn: u64) {
        let cells: Vec<CellInfo> = self.cells.values().map(|cell| cell.info()).collect();
        self.answer(conn, &Message::Cells { cells });
    }

    fn signal(&mut self, conn: u64, claim: &Claim, signal: i32, to: SignalTo) {
        if let Err(detail) = self.attach_if_needed(claim) {
            return self.refuse(conn, Some(claim.nonce.clone()), detail);
        }
        failpoint::reach("keeper.signal");
        // Nobody there is no error: an exit is on its way to whoever asked.
        let sent = self.insist(&claim.nonce, |cell, sight| cell.signal(sight, signal, to));
        failpoint::reach("keeper.signalled");
        if let Some(Err(error)) = sent {
            let detail = format!("signal {signal} to {}: {error}", claim.service);
            self.refuse(conn, Some(claim.nonce.clone()), detail);
        }
    }

    fn kill(&mut self, conn: u64, claim: &Claim) {
        if let Err(detail) = self.attach_if_needed(claim) {
            return self.refuse(conn, Some(claim.nonce.clone()), detail);
        }
        let now = Instant::now();
        let Some(cell) = self.cells.get_mut(&claim.nonce) else { return };
        match &mut cell.killing {
            // Asked again, it is answered again.
            Some(killing) => killing.told = false,
            None => cell.killing = Some(Killing::begin(now)),
        }
        self.run_kills(now);
    }

    fn attach_and_tell(&mut self, conn: u64, claim: &Claim) {
        let known = self.cells.contains_key(&claim.nonce);
        match self.attach_if_needed(claim) {
            Err(detail) => self.refuse(conn, Some(claim.nonce.clone()), detail),
            // What is new tells its end by itself.
            Ok(()) if known => self.tell_end_if_over(&claim.nonce),
            Ok(()) => {}
        }
    }

    fn trim_exits(&mut self, keep: &[Nonce]) {
        match journal::trim_exits(&self.layout.exits(), keep) {
            Ok(()) => {}
            // A holder writes this very moment; it will be asked for again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => log(&format!("exits.journal cannot be trimmed: {error}")),
        }
    }
}

/// The answer to a text that is no request.
pub(super) fn not_understood(error: &serde_json::Error) -> Message {
    Message::Refused { nonce: None, detail: format!("a request is not understood: {error}") }
}

/// Clears out what keepers before us left, and leaves the cgroup of whoever started us.
fn move_in(base: &Path) -> io::Result<()> {
    let left = Group::clear_out(base, |name| name.starts_with(JOB_PREFIX))?;
    left.iter().for_each(|stray| log(stray));
    Place::of_keeper(base).take()
}

/// It becomes the name of a directory.
fn is_plain(id: &str) -> bool {
    !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

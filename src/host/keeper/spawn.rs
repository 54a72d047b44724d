//! The keeper's side of a spawn: makes what contains the run, forks, and listens until it has executed or failed.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::cell::{Cell, Hold, Hull, Leader, job_cgroup};
use super::child::{self, Birth, Prepared, Role, Word};
use super::jobs::Job;
use super::journal::{self, BirthEntry};
use super::pipe::{drain, log, status_pipe, take_lines};
use super::protocol::{JobEnd, Message, Spawn, Spawning};
use super::requests::not_understood;
use super::server::{Keeper, Order};
use crate::host::cause::plain;
use crate::host::cgroup::{Ground, Group, Joining, limits};
use crate::host::failpoint;
use crate::host::holder::{self, Holder};
use crate::host::sys::{self, Fork};
use crate::identity::{Nonce, Pid, ProcessIdentity};
use crate::state::{Containment, Said, SpawnFailure, SpawnStage};

/// Spawns under way at a time: each holds a descriptor and a half-made process.
const MAX_UNBORN: usize = 64;

/// A spawn under way for longer hangs on something, and does not count any more.
const HANGS_AFTER: Duration = Duration::from_secs(2);

/// A cgroup with the limits of the service. What need not hold and does not is told by the reconciler, which looks again.
fn limited(path: PathBuf, request: &Spawn) -> io::Result<Group> {
    let group = Group::create(path)?;
    if request.cgroup.is_empty() {
        return Ok(group);
    }
    let not_enforced = limits::put(group.path(), &request.cgroup);
    if request.limits_required && !not_enforced.is_empty() {
        // Empty; if it stays, it is an empty directory.
        let _ = group.remove();
        return Err(required(&not_enforced.join("; ")));
    }
    Ok(group)
}

/// Without a cgroup of its own.
fn unlimited(request: &Spawn, why: &str) -> io::Result<Option<Group>> {
    if request.limits_required && !request.cgroup.is_empty() {
        return Err(required(why));
    }
    Ok(None)
}

fn required(why: &str) -> io::Error {
    io::Error::other(format!("the policy requires limits, and they are not enforced here: {why}"))
}

impl Keeper {
    /// Starts what is queued, as far as there is room.
    pub(super) fn start_queued(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut room = MAX_UNBORN.saturating_sub(self.young_unborn(now).count());
        while room > 0
            && let Some(order) = self.queue.pop()
        {
            self.start(order, now);
            room -= 1;
        }
    }

    fn young_unborn(&self, now: Instant) -> impl Iterator<Item = Instant> {
        self.cells.values().filter_map(move |cell| match cell.leader {
            Leader::Unborn { since, .. } if now.duration_since(since) < HANGS_AFTER => {
                Some(since + HANGS_AFTER)
            }
            _ => None,
        })
    }

    /// When a spawn under way stops counting, if others wait for its place.
    pub(super) fn queue_deadline(&self) -> Option<Instant> {
        if self.queue.is_empty() { None } else { self.young_unborn(Instant::now()).min() }
    }

    fn start(&mut self, order: Order, now: Instant) {
        let Order { text, job } = order;
        let request = match serde_json::from_slice(&text) {
            Ok(Spawning { spawn }) => spawn,
            Err(error) => return self.tell(&not_understood(&error)),
        };
        drop(text);
        if self.cells.contains_key(&request.nonce) {
            let detail = format!("{} was asked for already", request.nonce);
            return self.tell(&Message::Refused { nonce: Some(request.nonce.clone()), detail });
        }
        if job.as_ref().is_some_and(|job| !job.is_alone() && !self.has_living_leader(&job.of)) {
            return self.tell(&Message::JobDone { nonce: request.nonce.clone(), end: JobEnd::Cancelled });
        }
        let is_job = job.is_some();
        if let Err(failure) = self.fork(&request, job, now) {
            self.tell_failure(&request, is_job, failure);
        }
    }

    fn tell_failure(&mut self, request: &Spawn, is_job: bool, failure: SpawnFailure) {
        let nonce = request.nonce.clone();
        self.tell(&if is_job {
            Message::JobDone { nonce, end: JobEnd::NotStarted { failure } }
        } else {
            Message::SpawnFailed { service: request.service.clone(), nonce, failure }
        });
    }

    fn fork(&mut self, request: &Spawn, mut job: Option<Box<Job>>, now: Instant) -> Result<(), SpawnFailure> {
        let failed = |stage, what: &str, error: io::Error| SpawnFailure {
            stage,
            errno: error.raw_os_error().unwrap_or(0),
            message: format!("failed to {what}: {}", plain(&error)),
        };
        let Some(instance) = &self.instance else {
            return Err(failed(SpawnStage::Keeper, "start anything", io::Error::other("nobody said hello")));
        };
        let notify = match (request.notify, &self.ear) {
            (false, _) => None,
            (true, Some(ear)) => Some(ear.address()),
            (true, None) => {
                let error = io::Error::other("there is no socket for that");
                return Err(failed(SpawnStage::Keeper, "hear what it says", error));
            }
        };
        let prepared = Prepared::of(request, &self.layout, instance, notify.as_deref())?;
        self.sockets_for(request)?;
        self.reserve
            .fill()
            .map_err(|error| failed(SpawnStage::Fork, "keep descriptors back for stops", error))?;
        let pipes = |error| failed(SpawnStage::Fork, "make a pipe", error);
        failpoint::reach("keeper.spawn");
        let (status, child_status) = status_pipe().map_err(pipes)?;
        let (ready, child_ready) = match request.notify_fd {
            None => (None, None),
            Some(place) => {
                let (reader, writer) = status_pipe().map_err(pipes)?;
                (Some(reader), Some((OwnedFd::from(writer), RawFd::from(place))))
            }
        };
        let output = match &mut job {
            None => None,
            Some(job) => {
                let (reader, writer) = status_pipe().map_err(pipes)?;
                job.output = Some(reader);
                job.start_clock(now);
                Some(OwnedFd::from(writer))
            }
        };
        // Last of all that may fail: a cgroup stays where it was made.
        let group = self
            .make_group(request, job.as_deref())
            .map_err(|error| failed(SpawnStage::Cgroup, "make a cgroup", error))?;
        failpoint::reach("keeper.grouped");
        let keeper = std::process::id() as i32;
        let mut line = std::mem::take(&mut self.birth_line);
        line.reserve(child::birth_bytes(request));
        let birth = Birth {
            here: &self.here,
            request,
            instance,
            prepared: &prepared,
            notify: notify.as_deref(),
            sockets: self.sockets_for(request)?,
            role: output.map_or(Role::Service, |output| Role::Job { output }),
            joining: Joining::AtBirth,
            nofile: self.nofile,
            line,
            ready: child_ready,
            status: child_status,
            failed: None,
        };
        let containment = group.as_ref().map(|group| Containment::Cgroup { path: group.path().to_owned() });
        let fork = match &group {
            Some(group) => group.fork(),
            None => sys::fork_lightly().map(|fork| (fork, Joining::AtBirth)),
        };
        let pid = match fork {
            Ok((Fork::Child, joining)) => {
                self.be_the_child(Birth { joining, ..birth }, containment.as_ref(), keeper)
            }
            Ok((Fork::Parent(pid), _)) => {
                failpoint::reach("keeper.forked");
                // Its descriptors are free for whoever identifies the child.
                let Birth { line, .. } = birth;
                self.birth_line = line;
                pid
            }
            Err(error) => {
                if let Some(group) = group {
                    // Empty; if it stays, it is an empty directory.
                    let _ = group.remove();
                }
                return Err(failed(SpawnStage::Fork, "fork", error));
            }
        };
        let hull = match group {
            Some(group) => Hull::Group(group),
            None => Hull::Holder { process: self.holder_identity(pid), hold: Hold::Child, within: None },
        };
        let cell = Cell {
            service: request.service.clone(),
            nonce: request.nonce.clone(),
            hull,
            leader: Leader::Unborn { status, heard: Vec::new(), since: now },
            process: None,
            killing: None,
            job,
            events: None,
            look_again: None,
            ready,
            said: Said::default(),
            tell_said: None,
        };
        self.children.insert(pid, request.nonce.clone());
        self.cells.insert(request.nonce.clone(), cell);
        Ok(())
    }

    /// Of a child not yet reaped. If it cannot be read now, an identity that no process has: nothing will be
    /// signalled by it, and the birth brings the true one.
    fn holder_identity(&self, pid: i32) -> ProcessIdentity {
        self.here.identity(pid).unwrap_or_else(|error| {
            log(&format!("the holder {pid} cannot be identified: {error}"));
            let pid = Pid::new(pid).expect("a child's pid is above 1");
            ProcessIdentity { pid, start_ticks: 0, boot: self.here.boot.clone(), pid_ns: self.here.pid_ns }
        })
    }

    fn make_group(&self, request: &Spawn, job: Option<&Job>) -> io::Result<Option<Group>> {
        if let Some(job) = job.filter(|job| job.is_alone()) {
            return match &self.ground {
                Some(Ground::Cgroup { base }) => {
                    limited(base.join(job_cgroup(&job.nonce)), request).map(Some)
                }
                Some(Ground::Holder { why }) => unlimited(request, why),
                None => Ok(None),
            };
        }
        if let Some(Cell { hull, .. }) = job.and_then(|job| self.cells.get(&job.of)) {
            return match hull {
                Hull::Group(group) => group.child(&job_cgroup(&request.nonce)).map(Some),
                Hull::Holder { .. } => Ok(None),
            };
        }
        match &self.ground {
            Some(Ground::Cgroup { base }) => {
                let name = format!("{}.{}", request.service.file_stem(), request.nonce);
                limited(base.join(name), request).map(Some)
            }
            Some(Ground::Holder { why }) => unlimited(request, why),
            None => Err(io::Error::other("nobody said hello")),
        }
    }

    /// What the copy of us does: it never comes back.
    fn be_the_child(&self, birth: Birth<'_>, containment: Option<&Containment>, keeper: i32) -> ! {
        match containment {
            Some(containment) => child::run(birth, containment),
            None => {
                holder::run(Holder { birth, reports: &self.reports.1, exits: self.layout.exits(), keeper })
            }
        }
    }

    /// What a child says on its status pipe; its end settles the spawn.
    pub(super) fn hear_birth(&mut self, nonce: &Nonce) {
        let Some(cell) = self.cells.get_mut(nonce) else { return };
        let Leader::Unborn { status, heard, .. } = &mut cell.leader else { return };
        if drain(&*status, heard) {
            self.settle_birth(nonce);
        }
    }

    /// The status pipe has ended: whoever could have been born has executed, or never will.
    fn settle_birth(&mut self, nonce: &Nonce) {
        let Some(cell) = self.cells.get_mut(nonce) else { return };
        let Leader::Unborn { heard, .. } = &mut cell.leader else { return };
        let mut born = None;
        let mut failure = None;
        for line in take_lines(heard) {
            match serde_json::from_slice(&line) {
                Ok(Word::Born { process, containment }) => born = Some((process, containment)),
                Ok(Word::Failed(why)) => failure = Some(why),
                Err(_) => {}
            }
        }
        match (born, failure) {
            (Some((process, containment)), None) => self.executed(nonce, process, containment),
            (None, Some(failure)) => self.spawn_failed(nonce, failure),
            (Some(_), Some(failure)) => {
                self.take_birth_back(nonce, &failure);
                self.spawn_failed(nonce, failure);
            }
            (None, None) => {
                let message = "the child was killed before it executed anything".to_owned();
                let failure = SpawnFailure { stage: SpawnStage::Fork, errno: 0, message };
                self.take_birth_back(nonce, &failure);
                self.spawn_failed(nonce, failure);
            }
        }
    }

    /// The birth is on record, or may be. The child may have been killed before it could take it back, or have been
    /// kept from it by the limits that were asked for.
    fn take_birth_back(&self, nonce: &Nonce, failure: &SpawnFailure) {
        if self.cells.get(nonce).is_none_or(|cell| cell.job.is_some()) {
            return;
        }
        let unborn = BirthEntry::Unborn { nonce: nonce.clone(), unborn: failure.message.clone() };
        let taken_back =
            journal::open(&self.layout.births()).and_then(|births| journal::append(&births, &unborn));
        if let Err(error) = taken_back {
            log(&format!("births.journal: {error}"));
        }
    }

    fn executed(&mut self, nonce: &Nonce, process: ProcessIdentity, containment: Containment) {
        let Some(cell) = self.cells.get_mut(nonce) else { return };
        if let (
            Hull::Holder { process, within, .. },
            Containment::Holder { process: told, within: told_within },
        ) = (&mut cell.hull, &containment)
        {
            process.clone_from(told);
            within.clone_from(told_within);
        }
        failpoint::reach("keeper.executed");
        cell.leader = Leader::Alive;
        cell.process = Some(process.clone());
        let is_job = cell.job.is_some();
        let service = cell.service.clone();
        self.take_over_leader(nonce);
        if !is_job {
            self.tell(&Message::Spawned { service, nonce: nonce.clone(), process, containment });
        }
    }

    fn spawn_failed(&mut self, nonce: &Nonce, failure: SpawnFailure) {
        let Some(cell) = self.cells.get_mut(nonce) else { return };
        cell.leader = Leader::Ended { status: None, executed: false };
        let service = cell.service.clone();
        match &mut cell.job {
            Some(job) => job.conclude(JobEnd::NotStarted { failure }, Instant::now()),
            None => self.tell(&Message::SpawnFailed { service, nonce: nonce.clone(), failure }),
        }
        self.settle(nonce);
    }
}

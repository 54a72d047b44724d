//! One run, or one job, as the keeper holds it: its leader, what contains the rest of it, how far its end is.
//!
//! Looks and signals; keeps no books (that is `runs`). Every signal goes to a process that was pinned first
//! and proved to belong to the cell after that; a number alone is never a target.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::jobs::Job;
use super::pipe::log;
use super::protocol::{CellInfo, CellState};
use crate::host::cgroup::{Events, Group};
use crate::host::holder::kill_descendants;
use crate::host::proc::{Here, Pinned, Stat, has_living_child_beside, visit_descendants};
use crate::identity::{Nonce, Pid, ProcessIdentity, ServiceId};
use crate::manifest::SignalTo;
use crate::state::{Containment, ExitStatus, Said, SharedCgroup};

/// A child cgroup of this name prefix holds a job, not a part of the service.
pub const JOB_PREFIX: &str = "job-";

/// The name of the cgroup of a job below that of its run.
pub fn job_cgroup(nonce: &Nonce) -> String {
    format!("{JOB_PREFIX}{nonce}")
}

#[derive(Debug)]
pub struct Cell {
    pub service: ServiceId,
    pub nonce: Nonce,
    pub hull: Hull,
    pub leader: Leader,
    /// `None` until it is born.
    pub process: Option<ProcessIdentity>,
    pub killing: Option<Killing>,
    pub job: Option<Box<Job>>,
    /// Of its cgroup, while the leader is gone and others are awaited.
    pub events: Option<Events>,
    /// When its cgroup is looked at again that could not be read.
    pub look_again: Option<Instant>,
    /// What the run writes a newline to when it is ready, until it has.
    pub ready: Option<File>,
    /// What the run has said of itself.
    pub said: Said,
    /// When the client is told of that, which it has not been yet.
    pub tell_said: Option<Instant>,
}

/// What is known beside a cell when it is looked at or signalled.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    pub here: &'a Here,
    /// Names of the cgroups of jobs beside the run: no part of it.
    pub jobs: &'a [String],
    /// The keeper itself and its client: never a target, whatever cgroup or parent they have got into.
    pub spared: &'a [i32],
}

/// What contains the cell.
#[derive(Debug)]
pub enum Hull {
    Group(Group),
    Holder { process: ProcessIdentity, hold: Hold, within: Option<SharedCgroup> },
}

/// What became of a holder.
#[derive(Debug)]
pub enum Hold {
    /// Our child.
    Child,
    /// The child of a keeper before us, by its pidfd.
    Watched(OwnedFd),
    /// It saw the last of its descendants go.
    Empty,
    /// It was killed: what it held is anywhere.
    Lost,
}

#[derive(Debug)]
pub enum Leader {
    /// Forked; its status pipe, and what was read of it.
    Unborn {
        status: File,
        heard: Vec<u8>,
        since: Instant,
    },
    /// Executed; a child of ours or of our holder.
    Alive,
    /// Started by another keeper; `died` is when its pidfd told, with the exit status yet to be learnt.
    Watched {
        pidfd: OwnedFd,
        died: Option<Instant>,
    },
    Ended {
        status: Option<ExitStatus>,
        executed: bool,
    },
}

/// SIGKILL again and again, until nothing is left.
#[derive(Debug)]
pub struct Killing {
    pub since: Instant,
    pub next: Instant,
    pause: Duration,
    /// It was said that this does not succeed.
    pub told: bool,
}

/// After this long, what lives on is named, and tried at [`SLOW_PAUSE`].
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
const SLOW_PAUSE: Duration = Duration::from_secs(1);

impl Killing {
    pub fn begin(now: Instant) -> Self {
        Self { since: now, next: now, pause: FIRST_PAUSE, told: false }
    }

    /// After a sweep that left something.
    pub fn postpone(&mut self, now: Instant) {
        self.next = now + self.pause;
        self.pause = if self.told { SLOW_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
    }

    pub fn is_hopeless(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= PATIENCE
    }
}

/// What could not be read is looked at again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whether a cgroup is empty, by the descriptor that tells of the next change.
fn look(group: &Group, events: &mut Option<Events>) -> io::Result<bool> {
    if events.is_none() {
        *events = group.events()?;
    }
    events.as_ref().map_or(Ok(true), Events::is_empty)
}

impl Cell {
    pub fn containment(&self) -> Containment {
        match &self.hull {
            Hull::Group(group) => Containment::Cgroup { path: group.path().to_owned() },
            Hull::Holder { process, within, .. } => {
                Containment::Holder { process: process.clone(), within: within.clone() }
            }
        }
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.leader, Leader::Ended { .. })
    }

    pub fn is_lost(&self) -> bool {
        matches!(self.hull, Hull::Holder { hold: Hold::Lost, .. })
    }

    /// True if nothing of it lives, as far as it can be told; never for a lost one.
    ///
    /// Of a cgroup that tells of changes from the first look on. What cannot be read is not known to be empty, and
    /// is to be looked at again.
    pub fn is_empty(&mut self) -> bool {
        if !self.has_ended() {
            return false;
        }
        let empty = match &self.hull {
            Hull::Holder { hold, .. } => return matches!(hold, Hold::Empty),
            Hull::Group(group) => look(group, &mut self.events),
        };
        if let Err(error) = &empty {
            log(&format!("the cgroup of {} cannot be read: {error}", self.service));
            self.events = None;
        }
        self.look_again = empty.is_err().then(|| Instant::now() + LOOK_AGAIN);
        empty.unwrap_or(false)
    }

    /// Whether anything but the leader, which has ended, and the jobs beside it lives. A hint: what counts is that
    /// nothing is left at last. `None`: its holder goes once there is nothing left, or was killed; which of these is
    /// yet to be heard.
    pub fn has_others(&self, sight: Sight<'_>) -> Option<bool> {
        match &self.hull {
            Hull::Group(group) => Some(group.is_populated_beside(sight.jobs).unwrap_or(true)),
            Hull::Holder { hold: Hold::Empty, .. } => Some(false),
            Hull::Holder { hold: Hold::Lost, .. } => Some(true),
            Hull::Holder { process, .. } => {
                let holder = sight.here.pin(process).ok()?;
                Some(has_living_child_beside(&holder, self.leader_pid()?).unwrap_or(true))
            }
        }
    }

    fn leader_pid(&self) -> Option<i32> {
        self.process.as_ref().map(|process| process.pid.get())
    }

    /// `Ok(false)`: there is nobody (any more) to be signalled.
    pub fn signal(&self, sight: Sight<'_>, signal: i32, to: SignalTo) -> io::Result<bool> {
        match to {
            SignalTo::Leader => match self.pin_leader(sight)? {
                Some(leader) => leader.signal(signal),
                None => Ok(false),
            },
            // Once the leader has ended, whatever it left behind is meant, whichever group that is in.
            SignalTo::Group => {
                let everybody = self.has_ended();
                let mut reached = false;
                let mut refused = None;
                self.visit(sight, &mut |member, stat| {
                    // A group's number is not given to a new process while a member is left.
                    let is_meant = everybody || Some(stat.pgid) == self.leader_pid();
                    if is_meant && !stat.is_dead() {
                        match member.signal(signal) {
                            Ok(sent) => reached |= sent,
                            Err(error) => refused = Some(error),
                        }
                    }
                })?;
                refused.map_or(Ok(reached), Err)
            }
        }
    }

    /// `Ok(None)`: it is not there any more.
    fn pin_leader(&self, sight: Sight<'_>) -> io::Result<Option<Pinned>> {
        match self.process.as_ref().map(|process| sight.here.pin(process)) {
            Some(Ok(leader)) if sight.spared.contains(&leader.pid()) => Err(spared(leader.pid())),
            Some(Ok(leader)) => Ok(Some(leader)),
            Some(Err(_)) | None => Ok(None),
        }
    }

    /// SIGKILL to everything that is there at this moment.
    pub fn sweep(&self, sight: Sight<'_>) -> io::Result<()> {
        if let Some(leader) = self.pin_leader(sight)? {
            // By itself too: as root it may have left its cgroup, and a lost holder holds nothing.
            leader.signal(libc::SIGKILL)?;
        }
        match &self.hull {
            Hull::Group(group) => {
                // What cannot be listed, as a threaded cgroup, is killed all the same.
                let members = group.pids_below(&|_| false).unwrap_or_default();
                match members.into_iter().find(|pid| sight.spared.contains(pid)) {
                    Some(pid) => self.sweep_beside(sight).and(Err(spared(pid))),
                    None => group.kill(),
                }
            }
            Hull::Holder { process, .. } => match sight.here.pin(process) {
                Ok(holder) if kill_descendants(&holder, sight.spared)? == 0 => {
                    // Only zombies are left, and somebody may have stopped the one who reaps them.
                    holder.signal(libc::SIGCONT).map(drop)
                }
                _ => Ok(()),
            },
        }
    }

    /// Where the kernel's own way would kill one too many.
    fn sweep_beside(&self, sight: Sight<'_>) -> io::Result<()> {
        self.visit(sight, &mut |member, stat| {
            if !stat.is_dead() {
                // EPERM: it has become another user. It stays, and is named when patience is over.
                let _ = member.signal(libc::SIGKILL);
            }
        })
    }

    /// What lives of it, at most a hundred of them.
    pub fn remains(&self, sight: Sight<'_>) -> Vec<Pid> {
        let mut pids: Vec<Pid> = Vec::new();
        let walked = self.visit(sight, &mut |member, stat| {
            if !stat.is_dead() && pids.len() < 100 {
                pids.extend(Pid::new(member.pid()));
            }
        });
        if walked.is_err() && pids.is_empty() {
            pids.extend(self.process.as_ref().map(|process| process.pid));
        }
        pids
    }

    /// Visits the members, jobs and whoever is spared left out, each pinned and then proved.
    fn visit(&self, sight: Sight<'_>, visit: &mut dyn FnMut(&Pinned, &Stat)) -> io::Result<()> {
        let mut visit = |member: &Pinned, stat: &Stat| {
            if !sight.spared.contains(&member.pid()) {
                visit(member, stat);
            }
        };
        match &self.hull {
            Hull::Group(group) => {
                group.visit(&|name| sight.jobs.iter().any(|job| job == name), &mut |member| {
                    if let Some(stat) = member.stat()? {
                        visit(member, &stat);
                    }
                    Ok(())
                })
            }
            Hull::Holder { process, .. } => match sight.here.pin(process) {
                Ok(holder) => visit_descendants(&holder, &mut visit),
                Err(_) => Ok(()),
            },
        }
    }

    pub fn info(&self) -> CellInfo {
        let state = match (&self.leader, &self.killing) {
            _ if self.is_lost() => CellState::ContainmentLost,
            (_, Some(_)) => CellState::Killing,
            (Leader::Unborn { .. }, _) => CellState::Spawning,
            (Leader::Ended { .. }, _) => CellState::Leftovers,
            (Leader::Alive | Leader::Watched { .. }, _) => CellState::Running,
        };
        CellInfo {
            service: self.service.clone(),
            nonce: self.nonce.clone(),
            process: self.process.clone(),
            containment: self.containment(),
            state,
            job_of: self.job.as_ref().map(|job| job.of.clone()),
        }
    }
}

fn spared(pid: i32) -> io::Error {
    let message = format!("process {pid} is the keeper or its client, which are never signalled");
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

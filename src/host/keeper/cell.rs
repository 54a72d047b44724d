//! One run, or one job, as the keeper holds it: its leader, what contains the rest of it, how far its end is.
//!
//! Looks and signals; keeps no books (that is `runs`). Every signal goes to a process that was pinned first
//! and proved to belong to the cell after that; a number alone is never a target.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::jobs::Job;
use super::protocol::{CellInfo, CellState};
use crate::host::cgroup::Group;
use crate::host::holder::kill_descendants;
use crate::host::proc::{Here, Pinned, Stat, visit_descendants};
use crate::identity::{Nonce, Pid, ProcessIdentity, ServiceId};
use crate::manifest::SignalTo;
use crate::state::{Containment, ExitStatus};

/// A child cgroup of this name prefix holds a job, not a part of the service.
pub const JOB_PREFIX: &str = "job-";

#[derive(Debug)]
pub struct Cell {
    pub service: ServiceId,
    pub nonce: Nonce,
    pub hull: Hull,
    pub leader: Leader,
    /// `None` until it is born.
    pub process: Option<ProcessIdentity>,
    pub killing: Option<Killing>,
    pub job: Option<Job>,
    /// `cgroup.events`, while the leader is gone and others are awaited.
    pub events: Option<OwnedFd>,
}

/// What contains the cell.
#[derive(Debug)]
pub enum Hull {
    Group(Group),
    Holder { process: ProcessIdentity, hold: Hold },
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

impl Cell {
    pub fn containment(&self) -> Containment {
        match &self.hull {
            Hull::Group(group) => Containment::Cgroup { path: group.path().to_owned() },
            Hull::Holder { process, .. } => Containment::Holder { process: process.clone() },
        }
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.leader, Leader::Ended { .. })
    }

    pub fn is_lost(&self) -> bool {
        matches!(self.hull, Hull::Holder { hold: Hold::Lost, .. })
    }

    /// True if nothing of it lives, as far as it can be told; never for a lost one.
    pub fn is_empty(&self) -> bool {
        match &self.hull {
            // What cannot be read is not known to be empty.
            Hull::Group(group) => self.has_ended() && group.is_empty().unwrap_or(false),
            Hull::Holder { hold, .. } => self.has_ended() && matches!(hold, Hold::Empty),
        }
    }

    /// True if anything but the leader and the jobs beside it lives.
    pub fn has_others(&self, here: &Here) -> bool {
        if matches!(self.hull, Hull::Holder { hold: Hold::Empty, .. }) {
            return false;
        }
        let leader = self.leader_pid();
        let mut others = self.is_lost();
        let walked = self.visit(here, &mut |member, stat| {
            others |= Some(member.pid()) != leader && !stat.is_dead();
        });
        others || walked.is_err()
    }

    fn leader_pid(&self) -> Option<i32> {
        self.process.as_ref().map(|process| process.pid.get())
    }

    /// `Ok(false)`: there is nobody (any more) to be signalled.
    pub fn signal(&self, here: &Here, signal: i32, to: SignalTo) -> io::Result<bool> {
        match to {
            SignalTo::Leader => match self.process.as_ref().map(|process| here.pin(process)) {
                Some(Ok(leader)) => leader.signal(signal),
                _ => Ok(false),
            },
            // Once the leader has ended, whatever it left behind is meant, whichever group that is in.
            SignalTo::Group => {
                let everybody = self.has_ended();
                let mut reached = false;
                let mut refused = None;
                self.visit(here, &mut |member, stat| {
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

    /// SIGKILL to everything that is there at this moment.
    pub fn sweep(&self, here: &Here) -> io::Result<()> {
        if let Some(Ok(leader)) = self.process.as_ref().map(|process| here.pin(process)) {
            // By itself too: as root it may have left its cgroup, and a lost holder holds nothing.
            leader.signal(libc::SIGKILL)?;
        }
        match &self.hull {
            Hull::Group(group) => group.kill(),
            Hull::Holder { process, .. } => match here.pin(process) {
                Ok(holder) if kill_descendants(&holder)? == 0 => {
                    // Only zombies are left, and somebody may have stopped the one who reaps them.
                    holder.signal(libc::SIGCONT).map(drop)
                }
                _ => Ok(()),
            },
        }
    }

    /// What lives of it, at most a hundred of them.
    pub fn remains(&self, here: &Here) -> Vec<Pid> {
        let mut pids: Vec<Pid> = Vec::new();
        let walked = self.visit(here, &mut |member, stat| {
            if !stat.is_dead() && pids.len() < 100 {
                pids.extend(Pid::new(member.pid()));
            }
        });
        if walked.is_err() && pids.is_empty() {
            pids.extend(self.process.as_ref().map(|process| process.pid));
        }
        pids
    }

    /// Visits the members, jobs left out, each pinned and then proved.
    fn visit(&self, here: &Here, visit: &mut dyn FnMut(&Pinned, &Stat)) -> io::Result<()> {
        match &self.hull {
            Hull::Group(group) => group.visit(&|name| name.starts_with(JOB_PREFIX), &mut |member| {
                if let Some(stat) = member.stat()? {
                    visit(member, &stat);
                }
                Ok(())
            }),
            Hull::Holder { process, .. } => match here.pin(process) {
                Ok(holder) => visit_descendants(&holder, visit),
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

//! Runs that another keeper started: proved, then watched by pidfd instead of as children.
//!
//! A pidfd tells the death at once; how it ended is told by the kernel (6.15 or newer) when the new parent has
//! reaped it, or by the holder, who records it before that. After a deadline it counts as unknown.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cell::{Cell, Hold, Hull, JOB_PREFIX, Leader};
use super::journal::{self, Ending, ExitEntry};
use super::pipe::log;
use super::protocol::Message;
use super::server::Keeper;
use crate::host::cgroup::{Group, has_emptied};
use crate::host::proc::{Liveness, Pinned};
use crate::host::sys;
use crate::host::{Claim, StateLayout};
use crate::identity::{Nonce, ProcessIdentity};
use crate::state::{Containment, ExitLine, ExitStatus, Said};

/// How long a dead process may stay unreaped until the status counts as unknown. Some inits look every 2 s.
const STATUS_WITHIN: Duration = Duration::from_secs(3);

impl Cell {
    /// When the status of a watched leader counts as unknown.
    pub fn status_deadline(&self) -> Option<Instant> {
        match self.leader {
            Leader::Watched { died: Some(at), .. } => Some(at + STATUS_WITHIN),
            _ => None,
        }
    }
}

impl Keeper {
    /// Makes a cell of a claim that there is none of; `Err`: it cannot be proved, a sentence.
    ///
    /// If its leader has ended, that is told; if nothing is left at all, that too.
    pub(super) fn attach_if_needed(&mut self, claim: &Claim) -> Result<(), String> {
        if self.cells.contains_key(&claim.nonce) {
            return Ok(());
        }
        let process = claim.process.as_ref().ok_or("a claim without a process cannot be attached to")?;
        let containment =
            claim.containment.as_ref().ok_or("a claim without containment cannot be attached to")?;
        self.refuse_spared(process)?;
        // While it lives: afterwards nothing tells where it has written.
        if let Containment::Holder { process: holder, .. } = containment
            && let Some(layout) = self.home_of_a_stranger(holder)
        {
            self.elsewhere.insert(claim.nonce.clone(), layout);
        }
        let leader = match self.watch(process) {
            Ok(pidfd) => Leader::Watched { pidfd, died: None },
            Err(Liveness::Unverifiable(detail)) => return Err(detail),
            Err(Liveness::OtherBoot) => {
                self.tell_all_over(&claim.nonce);
                return Ok(());
            }
            Err(Liveness::Dead | Liveness::Alive) => {
                Leader::Ended { status: self.recorded_status(&claim.nonce), executed: true }
            }
        };
        let cell = Cell {
            service: claim.service.clone(),
            nonce: claim.nonce.clone(),
            hull: self.find_hull(&claim.nonce, containment)?,
            leader,
            process: Some(process.clone()),
            killing: None,
            job: None,
            events: None,
            look_again: None,
            ready: None,
            said: Said::default(),
            tell_said: None,
        };
        self.cells.insert(claim.nonce.clone(), cell);
        self.tell_end_if_over(&claim.nonce);
        self.settle(&claim.nonce);
        Ok(())
    }

    fn tell_all_over(&mut self, nonce: &Nonce) {
        let status = self.recorded_status(nonce);
        self.tell(&Message::Exited { nonce: nonce.clone(), status, others: false });
        self.tell(&Message::Gone { nonce: nonce.clone() });
    }

    /// A pidfd of this very process, alive.
    pub(super) fn watch(&self, process: &ProcessIdentity) -> Result<OwnedFd, Liveness> {
        let pinned = self.here.pin(process)?;
        let pid = rustix::process::Pid::from_raw(process.pid.get()).ok_or(Liveness::Dead)?;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        // Pinned before and alive after: the number cannot have changed hands in between.
        let still_there = Pinned::stat(&pinned).is_ok_and(|stat| stat.is_some_and(|stat| !stat.is_dead()));
        match pidfd {
            Ok(pidfd) if still_there => Ok(pidfd),
            Err(error) if still_there => Err(Liveness::Unverifiable(format!("pidfd_open: {error}"))),
            _ => Err(Liveness::Dead),
        }
    }

    fn find_hull(&self, nonce: &Nonce, containment: &Containment) -> Result<Hull, String> {
        match containment {
            Containment::Cgroup { path } => {
                let group = Group::recall(path, nonce).map_err(|error| error.to_string())?;
                if self.is_ours(&group) {
                    end_stale_jobs(&group);
                }
                Ok(Hull::Group(group))
            }
            Containment::Holder { process, within } => {
                self.refuse_spared(process)?;
                let hold = match self.watch(process) {
                    Ok(pidfd) => Hold::Watched(pidfd),
                    Err(Liveness::Unverifiable(detail)) => return Err(detail),
                    Err(_) if self.ending(nonce).empty => Hold::Empty,
                    // What cannot be looked at is not known to be empty.
                    Err(_) if within.as_ref().is_some_and(|it| has_emptied(it).unwrap_or(false)) => {
                        Hold::Empty
                    }
                    Err(_) => Hold::Lost,
                };
                Ok(Hull::Holder { process: process.clone(), hold, within: within.clone() })
            }
        }
    }

    /// The state directory of a holder, where that is not ours.
    fn home_of_a_stranger(&self, holder: &ProcessIdentity) -> Option<StateLayout> {
        let _pinned = self.here.pin(holder).ok()?;
        let cwd = PathBuf::from(format!("/proc/{}/cwd", holder.pid));
        let place = |path: &Path| fs::metadata(path).ok().map(|dir| (dir.dev(), dir.ino()));
        let theirs = place(&cwd)?;
        (Some(theirs) != place(&self.layout.dir)).then_some(())?;
        Some(StateLayout { dir: fs::read_link(cwd).ok()? })
    }

    fn refuse_spared(&self, process: &ProcessIdentity) -> Result<(), String> {
        if self.spared().contains(&process.pid.get()) {
            return Err(format!("process {} is the keeper or its client, not of a service", process.pid));
        }
        Ok(())
    }

    /// Made by keepers of this instance: a copied directory also claims what its original runs.
    fn is_ours(&self, group: &Group) -> bool {
        let dir = group.path().parent().and_then(|dir| dir.file_name()).and_then(|name| name.to_str());
        self.instance.as_ref().is_some_and(|instance| dir == Some(instance.as_str()))
    }

    pub(super) fn ending(&self, nonce: &Nonce) -> Ending {
        let recorded = journal::exits(&self.layout.exits()).unwrap_or_else(|error| {
            log(&format!("exits.journal: {error}"));
            BTreeMap::new()
        });
        // On a full disk some of it is known to us alone.
        let ours = journal::fold(recorded, self.owed.iter().cloned()).remove(nonce);
        let theirs = || journal::exits(&self.elsewhere.get(nonce)?.exits()).ok()?.remove(nonce);
        ours.or_else(theirs).unwrap_or_default()
    }

    pub(super) fn recorded_status(&self, nonce: &Nonce) -> Option<ExitStatus> {
        self.ending(nonce).status()
    }

    /// It has died, or has been reaped since.
    pub(super) fn watched_leader_stirred(&mut self, nonce: &Nonce, now: Instant) {
        let Some(cell) = self.cells.get_mut(nonce) else { return };
        let Leader::Watched { pidfd, died } = &mut cell.leader else { return };
        let first = died.is_none();
        died.get_or_insert(now);
        let told = sys::exit_status(pidfd.as_fd());
        // Second news of it is the hang-up: it has been reaped, and nothing more will be known.
        match told {
            Ok(Some(status)) => self.watched_leader_ended(nonce, Some(status)),
            Ok(None) | Err(_) if first => {}
            Ok(None) | Err(_) => self.watched_leader_ended(nonce, None),
        }
    }

    pub(super) fn run_watched_deadlines(&mut self, now: Instant) {
        let late = |cell: &&Cell| cell.status_deadline().is_some_and(|at| at <= now);
        let late: Vec<Nonce> = self.cells.values().filter(late).map(|cell| cell.nonce.clone()).collect();
        for nonce in late {
            self.watched_leader_ended(&nonce, None);
        }
    }

    fn watched_leader_ended(&mut self, nonce: &Nonce, told: Option<ExitStatus>) {
        let recorded = self.recorded_status(nonce);
        let Some(cell) = self.cells.get(nonce) else { return };
        if let (None, Some(status), Some(process)) = (recorded, told, &cell.process) {
            let line = ExitLine {
                nonce: nonce.clone(),
                pid: process.pid,
                start_ticks: process.start_ticks,
                status,
                at: self.here.stamp(),
            };
            self.record_exit(ExitEntry::Leader(line));
        }
        let others = self.has_others(nonce);
        self.leader_ended(nonce, recorded.or(told), others);
    }

    pub(super) fn watched_holder_ended(&mut self, nonce: &Nonce) {
        // It records both before it goes.
        let ending = self.ending(nonce);
        let Some(cell) = self.cells.get(nonce) else { return };
        if ending.empty && matches!(cell.leader, Leader::Watched { .. }) {
            self.watched_leader_ended(nonce, ending.status());
        }
        self.holder_is_gone(nonce, ending.empty);
    }
}

/// Jobs of a keeper before us: nobody waits for them any more.
fn end_stale_jobs(group: &Group) {
    let jobs = group.children().unwrap_or_default();
    let is_job = |job: &&Group| {
        let nonce = job.name().and_then(|name| name.strip_prefix(JOB_PREFIX));
        nonce.is_some_and(|nonce| nonce.len() == 16 && nonce.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    for job in jobs.iter().filter(is_job) {
        if let Err(error) = job.kill() {
            log(&format!("{}: {error}", job.path().display()));
        }
    }
}

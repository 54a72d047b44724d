//! How runs end: exits are recorded, then reaped, then told; kills go on until nothing is left.

use std::time::Instant;

use super::cell::{Cell, Hold, Hull, Killing, Leader, Sight, job_cgroup};
use super::journal::ExitEntry;
use super::pipe::{drain, log, take_lines};
use super::protocol::Message;
use super::server::Keeper;
use crate::host::credentials;
use crate::host::failpoint;
use crate::host::holder::Report;
use crate::host::sys::{self, Wait, Whom};
use crate::identity::Nonce;
use crate::state::{ExitLine, ExitStatus};

impl Keeper {
    /// Every child that has ended: ours by name, and the orphans that came to us.
    pub(super) fn reap(&mut self) {
        loop {
            match sys::wait(Whom::Any, Wait::Peek) {
                Ok(Some(dead)) => {
                    failpoint::reach("keeper.ended");
                    // Recorded while it is still a zombie: whoever sees it gone finds how it ended.
                    self.child_ended(dead.pid, dead.status);
                    failpoint::reach("keeper.recorded");
                    if let Err(error) = sys::wait(Whom::Pid(dead.pid), Wait::Reap) {
                        return log(&format!("reaping {}: {error}", dead.pid));
                    }
                    failpoint::reach("keeper.reaped");
                    self.after_reaping(dead.pid);
                }
                Ok(None) => return,
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return,
                Err(error) => return log(&format!("waitid: {error}")),
            }
        }
    }

    pub(super) fn has_no_children(&self) -> bool {
        matches!(sys::wait(Whom::Any, Wait::Peek), Err(error) if error.raw_os_error() == Some(libc::ECHILD))
    }

    fn child_ended(&mut self, pid: i32, status: ExitStatus) {
        if !self.children.contains_key(&pid) {
            self.hear_births_without_a_holder();
        }
        let Some(nonce) = self.children.get(&pid).cloned() else { return };
        // What it said before it ended comes first. A leader that outlives its holder goes on to its birth.
        self.hear_birth(&nonce);
        let Some(cell) = self.cells.get(&nonce) else { return };
        match &cell.hull {
            Hull::Holder { process, .. } if process.pid.get() == pid => self.holder_ended(&nonce, status),
            _ => self.own_leader_ended(&nonce, status),
        }
    }

    /// Their leaders are our children, and by which pid is told by their births.
    fn hear_births_without_a_holder(&mut self) {
        let is_one = |cell: &&Cell| cell.is_lost() && matches!(cell.leader, Leader::Unborn { .. });
        let unborn: Vec<Nonce> = self.cells.values().filter(is_one).map(|cell| cell.nonce.clone()).collect();
        unborn.iter().for_each(|nonce| self.hear_birth(nonce));
    }

    /// With the zombie gone, a cgroup may be removed at last.
    fn after_reaping(&mut self, pid: i32) {
        if let Some(nonce) = self.children.remove(&pid) {
            self.settle(&nonce);
        }
    }

    fn own_leader_ended(&mut self, nonce: &Nonce, status: ExitStatus) {
        let Some(cell) = self.cells.get(nonce) else { return };
        if cell.has_ended() {
            return;
        }
        if let Some(line) = self.exit_line(cell, status) {
            self.record_exit(ExitEntry::Leader(line));
        }
        let others = self.has_others(nonce);
        self.leader_ended(nonce, Some(status), others);
    }

    /// `None` for a job, which is on no record.
    fn exit_line(&self, cell: &Cell, status: ExitStatus) -> Option<ExitLine> {
        let process = cell.process.as_ref().filter(|_| cell.job.is_none())?;
        Some(ExitLine {
            nonce: cell.nonce.clone(),
            pid: process.pid,
            start_ticks: process.start_ticks,
            status,
            at: self.here.stamp(),
        })
    }

    /// Whatever there was to record is recorded.
    pub(super) fn leader_ended(&mut self, nonce: &Nonce, status: Option<ExitStatus>, others: bool) {
        let Some(cell) = self.cells.get_mut(nonce) else { return };
        cell.leader = Leader::Ended { status, executed: true };
        if cell.job.is_some() {
            self.job_leader_ended(nonce, status);
        } else {
            self.tell(&Message::Exited { nonce: nonce.clone(), status, others });
            self.cancel_jobs_of(nonce);
        }
        self.settle(nonce);
    }

    /// What holders say on the pipe they share.
    pub(super) fn hear_reports(&mut self) {
        drain(&self.reports.0, &mut self.heard);
        for line in take_lines(&mut self.heard) {
            let Ok(report) = serde_json::from_slice::<Report>(&line) else { continue };
            self.hear_birth(&report.nonce);
            if let Some(line) = report.unwritten {
                self.record_exit(ExitEntry::Leader(line));
            }
            if self.cells.get(&report.nonce).is_some_and(|cell| !cell.has_ended()) {
                self.leader_ended(&report.nonce, Some(report.status), report.others);
            }
        }
    }

    fn holder_ended(&mut self, nonce: &Nonce, status: ExitStatus) {
        self.hear_reports();
        self.holder_is_gone(nonce, status == ExitStatus::Code(0));
    }

    /// `empty`: it saw the last of its descendants go. Otherwise it was killed, and they are with us or elsewhere.
    pub(super) fn holder_is_gone(&mut self, nonce: &Nonce, empty: bool) {
        let Some(cell) = self.cells.get_mut(nonce) else { return };
        let Hull::Holder { process, hold, .. } = &mut cell.hull else { return };
        *hold = if empty { Hold::Empty } else { Hold::Lost };
        if empty {
            if !cell.has_ended() {
                let status = self.recorded_status(nonce);
                self.leader_ended(nonce, status, false);
            }
            return self.settle(nonce);
        }
        if !matches!(cell.leader, Leader::Ended { executed: false, .. }) {
            log(&format!(
                "the holder {} of {} was killed: its containment is lost",
                process.pid, cell.service
            ));
        }
        self.take_over_leader(nonce);
        self.settle(nonce);
    }

    /// Whose holder is lost: if it lives, it is our child now.
    pub(super) fn take_over_leader(&mut self, nonce: &Nonce) {
        let Some(cell) = self.cells.get(nonce) else { return };
        if let Some(leader) = &cell.process
            && matches!(cell.leader, Leader::Alive)
            && cell.is_lost()
        {
            self.children.insert(leader.pid.get(), nonce.clone());
        }
    }

    /// Looks whether anything is left of a run whose leader has ended, and finishes or watches it.
    pub(super) fn settle(&mut self, nonce: &Nonce) {
        let Some(cell) = self.cells.get_mut(nonce) else { return };
        let Leader::Ended { executed, .. } = cell.leader else { return };
        let is_part_of_us = executed && cell.job.is_none();
        self.reserve.give_up();
        let is_empty = cell.is_empty();
        // The next spawn tries again.
        let _ = self.reserve.fill();
        if is_empty || cell.is_lost() && !is_part_of_us {
            return self.finish(nonce);
        }
        if cell.is_lost() {
            return;
        }
        if !is_part_of_us && cell.killing.is_none() {
            // Nobody asks for what is left of a job, or of a spawn that failed.
            cell.killing = Some(Killing::begin(Instant::now()));
        }
    }

    /// Cells whose cgroup could not be read when it was looked at.
    pub(super) fn look_again(&mut self, now: Instant) {
        let is_due = |cell: &&Cell| cell.look_again.is_some_and(|at| at <= now);
        let due: Vec<Nonce> = self.cells.values().filter(is_due).map(|cell| cell.nonce.clone()).collect();
        for nonce in due {
            self.settle(&nonce);
        }
    }

    /// Looks at or signals a cell, knowing what is beside it; `None` where there is no such cell.
    pub(super) fn with<T>(&self, nonce: &Nonce, look: impl FnOnce(&Cell, Sight<'_>) -> T) -> Option<T> {
        let cell = self.cells.get(nonce)?;
        let jobs = self.cells.values().filter(|cell| cell.job.as_ref().is_some_and(|job| job.of == *nonce));
        let jobs: Vec<String> = jobs.map(|job| job_cgroup(&job.nonce)).collect();
        let spared = self.spared();
        Some(look(cell, Sight { here: &self.here, jobs: &jobs, spared: &spared }))
    }

    /// As [`Keeper::with`], and not hindered by a lack of descriptors.
    pub(super) fn insist<T>(&mut self, nonce: &Nonce, act: impl FnOnce(&Cell, Sight<'_>) -> T) -> Option<T> {
        self.reserve.give_up();
        let done = self.with(nonce, act);
        // The next spawn tries again.
        let _ = self.reserve.fill();
        done
    }

    pub(super) fn has_others(&mut self, nonce: &Nonce) -> bool {
        match self.insist(nonce, |cell, sight| cell.has_others(sight)) {
            Some(Some(others)) => others,
            // Its holder is gone, and whether it saw the last of them go it has written down.
            Some(None) => !self.ending(nonce).empty,
            None => false,
        }
    }

    /// Nothing of it is left.
    fn finish(&mut self, nonce: &Nonce) {
        let Some(cell) = self.cells.remove(nonce) else { return };
        self.elsewhere.remove(nonce);
        if cell.job.is_none()
            && let Some(instance) = &self.instance
            && let Err(error) = credentials::remove(&self.layout, instance, nonce)
        {
            // The next full pass finds it again.
            log(&format!("the secrets of {} are not removed: {error}", cell.service));
        }
        if let Hull::Group(group) = cell.hull {
            self.emptied.push(group);
        }
        match cell.job {
            Some(job) => self.report_job(nonce, *job),
            None if matches!(cell.leader, Leader::Ended { executed: true, .. }) => {
                self.tell(&Message::Gone { nonce: nonce.clone() });
            }
            None => {}
        }
    }

    /// Takes away the cgroups of what is over, once that has been told: nobody waits for it.
    pub(super) fn remove_emptied(&mut self) {
        for group in self.emptied.drain(..) {
            failpoint::reach("keeper.gone");
            if let Err(error) = group.remove() {
                // An empty directory; the next one of this name does not exist, so nothing will meet it.
                log(&format!("{}: {error}", group.path().display()));
            }
        }
    }

    /// The next sweep of every kill that is due.
    pub(super) fn run_kills(&mut self, now: Instant) {
        let is_due = |cell: &&Cell| cell.killing.as_ref().is_some_and(|killing| killing.next <= now);
        let due: Vec<Nonce> = self.cells.values().filter(is_due).map(|cell| cell.nonce.clone()).collect();
        for nonce in due {
            self.sweep(&nonce, now);
        }
    }

    fn sweep(&mut self, nonce: &Nonce, now: Instant) {
        failpoint::reach("keeper.sweep");
        if let Some(Err(error)) = self.insist(nonce, Cell::sweep)
            && let Some(cell) = self.cells.get(nonce)
            && cell.killing.as_ref().is_some_and(|killing| !killing.told)
        {
            log(&format!("killing {}: {error}", cell.service));
        }
        failpoint::reach("keeper.swept");
        // Exits of our own children are reaped in the next turn.
        self.settle(nonce);
        let Some(cell) = self.cells.get_mut(nonce) else { return };
        let hopeless = cell.is_lost() && cell.has_ended();
        let Some(killing) = &mut cell.killing else { return };
        let tell = !killing.told && (hopeless || killing.is_hopeless(now));
        killing.told |= tell;
        killing.postpone(now);
        if hopeless {
            // There is nothing that could be proved to be part of it.
            cell.killing = None;
        }
        if tell {
            self.tell_unkillable(nonce);
        }
    }

    fn tell_unkillable(&mut self, nonce: &Nonce) {
        if self.cells.get(nonce).is_none_or(|cell| cell.job.is_some()) {
            return;
        }
        let pids = self.insist(nonce, |cell, sight| cell.remains(sight)).unwrap_or_default();
        self.tell(&Message::Unkillable { nonce: nonce.clone(), pids });
    }

    /// The end of a run once more, for a client that may have missed it.
    pub(super) fn tell_end_if_over(&mut self, nonce: &Nonce) {
        let Some(cell) = self.cells.get(nonce) else { return };
        if let Leader::Ended { status, executed: true } = cell.leader {
            let others = self.has_others(nonce);
            self.tell(&Message::Exited { nonce: nonce.clone(), status, others });
        }
    }
}

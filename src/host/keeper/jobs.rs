//! Jobs: bounded commands beside a service. Their output is drained, their time is limited, and nothing of them
//! outlives the service, the client or the keeper.

use std::fs::File;
use std::time::{Duration, Instant};

use super::cell::{Killing, Leader};
use super::pipe::drain;
use super::protocol::{JobEnd, Message};
use super::server::{Keeper, Order};
use crate::host::WROTE_TOO_MUCH;
use crate::identity::Nonce;
use crate::state::ExitStatus;

/// What is kept of a job's output.
const KEPT_BYTES: usize = 64 << 10;

/// A job that writes more is killed.
const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// A job that is over is reported when all of it is gone, but not later than this.
const REPORT_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Job {
    pub nonce: Nonce,
    /// The run it belongs to; its own nonce for one that belongs to none.
    pub of: Nonce,
    timeout: Duration,
    /// `None` until it is started.
    deadline: Option<Instant>,
    /// The reading end of its stdout and stderr, until it is closed.
    pub output: Option<File>,
    kept: Vec<u8>,
    seen_bytes: usize,
    end: Option<JobEnd>,
    report_by: Option<Instant>,
    reported: bool,
}

impl Job {
    pub fn new(nonce: Nonce, of: Nonce, timeout: Duration) -> Self {
        Self {
            nonce,
            of,
            timeout,
            deadline: None,
            output: None,
            kept: Vec::new(),
            seen_bytes: 0,
            end: None,
            report_by: None,
            reported: false,
        }
    }

    /// It belongs to no run.
    pub fn is_alone(&self) -> bool {
        self.of == self.nonce
    }

    pub fn start_clock(&mut self, now: Instant) {
        self.deadline = Some(now + self.timeout);
    }

    /// The first verdict stands.
    pub fn conclude(&mut self, end: JobEnd, now: Instant) {
        if self.end.is_none() {
            self.end = Some(end);
            self.report_by = Some(now + REPORT_WITHIN);
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        match self.end {
            None => self.deadline,
            Some(_) if self.reported => None,
            Some(_) => self.report_by,
        }
    }

    /// Takes what is in the pipe; true once it has written too much.
    fn drain(&mut self) -> bool {
        let Some(output) = &mut self.output else { return false };
        let mut read = Vec::new();
        let closed = drain(&*output, &mut read);
        self.seen_bytes += read.len();
        read.truncate(KEPT_BYTES - self.kept.len());
        self.kept.extend_from_slice(&read);
        if closed {
            self.output = None;
        }
        self.seen_bytes > MAX_OUTPUT_BYTES
    }

    fn take_output(&mut self) -> String {
        let mut text = String::from_utf8_lossy(&std::mem::take(&mut self.kept)).into_owned();
        if self.seen_bytes > MAX_OUTPUT_BYTES {
            text.push_str(WROTE_TOO_MUCH);
        }
        text
    }
}

impl Keeper {
    pub(super) fn has_living_leader(&self, nonce: &Nonce) -> bool {
        let leader = self.cells.get(nonce).filter(|cell| cell.job.is_none()).map(|cell| &cell.leader);
        matches!(leader, Some(Leader::Alive | Leader::Watched { .. }))
    }

    pub(super) fn drain_output(&mut self, nonce: &Nonce, now: Instant) {
        let Some(job) = self.cells.get_mut(nonce).and_then(|cell| cell.job.as_mut()) else { return };
        if job.drain() && job.end.is_none() {
            let output = job.take_output();
            self.end_job(nonce, JobEnd::Exit { status: ExitStatus::Signal(libc::SIGKILL), output }, now);
        }
    }

    pub(super) fn job_leader_ended(&mut self, nonce: &Nonce, status: Option<ExitStatus>) {
        let Some(job) = self.cells.get_mut(nonce).and_then(|cell| cell.job.as_mut()) else { return };
        job.drain();
        let output = job.take_output();
        // Descendants may hold the pipe open; what they write does not count.
        job.output = None;
        let end = status.map_or(JobEnd::Cancelled, |status| JobEnd::Exit { status, output });
        job.conclude(end, Instant::now());
    }

    fn end_job(&mut self, nonce: &Nonce, end: JobEnd, now: Instant) {
        let Some(cell) = self.cells.get_mut(nonce) else { return };
        let Some(job) = &mut cell.job else { return };
        job.conclude(end, now);
        cell.killing.get_or_insert_with(|| Killing::begin(now));
        self.run_kills(now);
    }

    pub(super) fn cancel_job(&mut self, nonce: &Nonce) {
        if self.cells.get(nonce).is_some_and(|cell| cell.job.is_some()) {
            return self.end_job(nonce, JobEnd::Cancelled, Instant::now());
        }
        let is_it = |order: &Order| order.job.as_ref().is_some_and(|job| job.nonce == *nonce);
        if self.queue.take_job(is_it).is_some() {
            self.tell(&Message::JobDone { nonce: nonce.clone(), end: JobEnd::Cancelled });
        }
    }

    pub(super) fn cancel_jobs_of(&mut self, of: &Nonce) {
        let jobs = self.cells.values().filter(|cell| cell.job.as_ref().is_some_and(|job| job.of == *of));
        let jobs: Vec<Nonce> = jobs.map(|cell| cell.nonce.clone()).collect();
        for job in jobs {
            self.cancel_job(&job);
        }
    }

    /// Whom jobs answer and spawns are for is gone. What is executed stays; what is not is never started.
    pub(super) fn client_left(&mut self) {
        self.queue.clear();
        let jobs = self.cells.values().filter(|cell| cell.job.is_some());
        let jobs: Vec<Nonce> = jobs.map(|cell| cell.nonce.clone()).collect();
        for job in jobs {
            self.cancel_job(&job);
        }
    }

    pub(super) fn run_job_timers(&mut self, now: Instant) {
        let is_due = |job: &Job| job.next_deadline().is_some_and(|at| at <= now);
        let due = self.cells.values().filter(|cell| cell.job.as_deref().is_some_and(is_due));
        let due: Vec<Nonce> = due.map(|cell| cell.nonce.clone()).collect();
        for nonce in due {
            let Some(job) = self.cells.get_mut(&nonce).and_then(|cell| cell.job.as_mut()) else { continue };
            match job.end.clone() {
                None => self.end_job(&nonce, JobEnd::TimedOut, now),
                Some(end) => {
                    // All of it was killed, and some of it lives on; the killing goes on without the client.
                    job.reported = true;
                    self.tell(&Message::JobDone { nonce, end });
                }
            }
        }
    }

    /// All of it is gone.
    pub(super) fn report_job(&mut self, nonce: &Nonce, job: Job) {
        if !job.reported {
            let end = job.end.unwrap_or(JobEnd::Cancelled);
            self.tell(&Message::JobDone { nonce: nonce.clone(), end });
        }
    }
}

//! Health and stop commands, and probes over the network.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::errno::Errno;

use super::behaviour::{Health, JobEffect, JobEnd, JobScript, ProbeAnswer};
use super::faults::Op;
use super::run::{Body, Run};
use super::world::{Occurrence, World};
use crate::host::probe::ProbeError;
use crate::host::{Event, JobOutcome, JobPurpose, JobRequest, LineRequest, ProbeRequest, ProbeTarget};
use crate::identity::{Nonce, ServiceId};
use crate::state::{ExitStatus, Said, SpawnStage, is_shortage};
use crate::time::human;

#[derive(Debug)]
pub(super) struct Job {
    purpose: JobPurpose,
    service: ServiceId,
    of: Nonce,
    outcome: JobOutcome,
    effect: JobEffect,
    session: u64,
}

impl World {
    pub fn run_job(&mut self, request: &JobRequest) {
        self.counts.jobs += 1;
        let service = &request.spawn.service;
        if request.purpose == JobPurpose::Stop {
            self.tell(format_args!("stop job  {service}: {}", request.spawn.argv.join(" ")));
        }
        let fault = if request.purpose == JobPurpose::Health { self.faults.take(Op::Probe) } else { None };
        let script = match fault {
            Some(errno) => JobScript::exec_fails(stage_of(errno), errno),
            None => self.job_script(request),
        };
        let (takes, outcome) = bounded(&script, request.timeout);
        let job = Job {
            purpose: request.purpose,
            service: service.clone(),
            of: request.of.clone(),
            outcome,
            effect: script.effect,
            session: self.session.number,
        };
        let number = self.fresh();
        if request.is_alone() || self.leader_of(&request.of).is_some() {
            self.jobs.insert(number, job);
            self.schedule(takes, Occurrence::JobEnds(number));
        } else {
            self.report(Job { outcome: JobOutcome::Cancelled, ..job });
        }
    }

    fn job_script(&self, request: &JobRequest) -> JobScript {
        if request.purpose == JobPurpose::Secret {
            let script = self.secret_commands.get(&request.spawn.service).cloned();
            return script
                .unwrap_or_else(|| JobScript::exits(Duration::ZERO, ExitStatus::Code(0), "secret\n"));
        }
        let Some(run) = self.runs.get(&request.of) else { return JobScript::default() };
        match request.purpose {
            JobPurpose::Reload => {
                self.reload_commands.get(&request.spawn.service).cloned().unwrap_or_default()
            }
            JobPurpose::Secret => unreachable!("it belongs to no run"),
            JobPurpose::Stop => run.script.stop_command.clone(),
            JobPurpose::Health => match self.health_of(run) {
                ProbeAnswer::Says(Ok(())) => {
                    JobScript::exits(run.script.probe_latency, ExitStatus::Code(0), "ok")
                }
                ProbeAnswer::Says(Err(why)) => {
                    JobScript::exits(run.script.probe_latency, ExitStatus::Code(1), &why)
                }
                ProbeAnswer::Silence => JobScript::hangs(),
            },
        }
    }

    pub fn job_ends(&mut self, number: u64) {
        let Some(job) = self.jobs.remove(&number) else { return };
        let ends_service =
            job.effect == JobEffect::EndsService && matches!(job.outcome, JobOutcome::Exit { .. });
        let of = job.of.clone();
        self.report(job);
        if ends_service {
            self.leader_ends(&of, ExitStatus::Code(0));
        }
    }

    pub fn cancel_jobs_of(&mut self, nonce: &Nonce) {
        let (cancelled, left) =
            std::mem::take(&mut self.jobs).into_iter().partition(|(_, job)| job.of == *nonce);
        self.jobs = left;
        self.cancel(cancelled);
    }

    pub fn cancel_all_jobs(&mut self) {
        let cancelled = std::mem::take(&mut self.jobs);
        self.cancel(cancelled);
    }

    fn cancel(&mut self, jobs: BTreeMap<u64, Job>) {
        for job in jobs.into_values() {
            self.report(Job { outcome: JobOutcome::Cancelled, ..job });
        }
    }

    /// Nobody waits for the jobs of a reconciler that died.
    fn report(&mut self, job: Job) {
        if job.session == self.session.number {
            let Job { purpose, service, of, outcome, .. } = job;
            self.queue(Event::JobDone { purpose, service, of, outcome });
        }
    }

    pub fn probe(&mut self, request: ProbeRequest) {
        self.counts.probes += 1;
        if let Some(errno) = self.faults.take(Op::Probe) {
            let result = Err(ProbeError::NotMade(errno.desc().to_owned()));
            return self.schedule(
                Duration::ZERO,
                Occurrence::ProbeEnds(Box::new(request), result, self.session.number),
            );
        }
        let (takes, result) = match self.leader_of(&request.nonce) {
            None => (Duration::ZERO, Err("connection refused".to_owned())),
            Some((run, _)) => match self.health_of(run) {
                ProbeAnswer::Says(result) if run.script.probe_latency < request.timeout => {
                    (run.script.probe_latency, result)
                }
                ProbeAnswer::Says(_) | ProbeAnswer::Silence => {
                    (request.timeout, Err(format!("no answer within {}", human(request.timeout))))
                }
            },
        };
        let result = result.map_err(ProbeError::Failed);
        self.schedule(takes, Occurrence::ProbeEnds(Box::new(request), result, self.session.number));
    }

    /// What is well has said so, a moment ago.
    pub fn ask_said(&mut self, nonce: &Nonce) {
        self.counts.probes += 1;
        let now = self.clock.stamp();
        let said = self.leader_of(nonce).map(|(run, _)| match self.health_of(run) {
            ProbeAnswer::Says(Ok(())) => {
                Box::new(Said { ready: Some(now.clone()), alive: Some(now), ..Said::default() })
            }
            ProbeAnswer::Says(Err(_)) | ProbeAnswer::Silence => Box::default(),
        });
        self.queue(Event::Said { nonce: nonce.clone(), said });
    }

    /// What is well has written its line.
    pub fn await_line(&mut self, request: LineRequest) {
        let LineRequest { service, nonce, timeout, .. } = request;
        let target = ProbeTarget::Tcp { host: String::new(), port: 0 };
        self.probe(ProbeRequest { service, nonce, target, timeout });
    }

    pub fn probe_ends(&mut self, request: &ProbeRequest, result: Result<(), ProbeError>, session: u64) {
        if session != self.session.number {
            return;
        }
        let lives = self.leader_of(&request.nonce).is_some();
        let result =
            if lives { result } else { result.and(Err(ProbeError::Failed("connection reset".to_owned()))) };
        let ProbeRequest { service, nonce, .. } = request;
        if let Err(why) = &result {
            self.tell(format_args!("unwell    {service} ({nonce}): {why:?}"));
        }
        self.queue(Event::Probed { service: service.clone(), nonce: nonce.clone(), result });
    }

    fn health_of(&self, run: &Run) -> ProbeAnswer {
        let health: &Health = self.health.get(&run.service).unwrap_or(&run.script.health);
        let born_at = run.body().map_or(Duration::ZERO, |body| body.born_at);
        health.at_age(self.clock.awake().saturating_sub(born_at))
    }

    fn leader_of(&self, nonce: &Nonce) -> Option<(&Run, &Body)> {
        let run = self.runs.get(nonce)?;
        let body = run.body().filter(|body| body.leader_lives())?;
        Some((run, body))
    }
}

fn stage_of(errno: Errno) -> SpawnStage {
    if is_shortage(errno as i32) { SpawnStage::Fork } else { SpawnStage::Exec }
}

fn bounded(script: &JobScript, timeout: Duration) -> (Duration, JobOutcome) {
    match &script.end {
        JobEnd::Exit(status, output) if script.takes < timeout => {
            (script.takes, JobOutcome::Exit { status: *status, output: output.clone() })
        }
        JobEnd::Exit(..) | JobEnd::Hangs => (timeout, JobOutcome::TimedOut),
        JobEnd::NotStarted(failure) => (Duration::ZERO, JobOutcome::NotStarted(failure.clone())),
    }
}

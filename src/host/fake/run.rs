//! Processes: how they are born, and how they end by themselves.
//!
//! A run is one spawn with all that descends from it. The keeper is their parent; it tells a reconciler that
//! has attached to a run, and nobody else, what becomes of it.

use std::time::Duration;

use nix::errno::Errno;

use super::behaviour::{Behaviour, OnSignal, failure};
use super::executables::Mismatch;
use super::faults::Op;
use super::world::{Occurrence, StatusWithoutKeeper, World};
use crate::host::{Event, SpawnRequest};
use crate::identity::{Nonce, Pid, ProcessIdentity, ServiceId};
use crate::manifest::{ListenOn, PortBlocks};
use crate::state::{Containment, ExitStatus, FileIdentity, Record, SpawnFailure, SpawnStage};
use crate::time::Stamp;

#[derive(Debug)]
pub(super) struct Run {
    pub service: ServiceId,
    pub script: Behaviour,
    pub stage: Stage,
    pub knowledge: Knowledge,
    /// What was asked to be executed.
    file: FileIdentity,
    epoch: u64,
    keeper: u64,
    /// What it was given and told.
    pub ports: PortBlocks,
    pub env: Vec<(String, String)>,
    /// What it was passed.
    pub sockets: Vec<ListenOn>,
    /// Grows with each spawn.
    pub order: usize,
}

#[derive(Debug)]
pub(super) enum Stage {
    InFlight,
    NeverBorn,
    Born(Box<Body>),
}

/// What the reconciler in charge knows of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Knowledge {
    Unattached,
    Attached,
    /// That nothing is left of it.
    ToldGone,
}

#[derive(Debug)]
pub(super) struct Body {
    pub identity: ProcessIdentity,
    pub containment: Containment,
    pub exe: FileIdentity,
    /// On the clock that stands still during suspend.
    pub born_at: Duration,
    pub end: Option<LeaderEnd>,
    /// Descendants that live.
    pub others: Vec<(Pid, OnSignal)>,
}

#[derive(Debug)]
pub(super) struct LeaderEnd {
    /// `None`: nobody saw it.
    pub seen: Option<(ExitStatus, Stamp)>,
}

/// Why the identity of a service's process cannot be proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    Unverifiable,
    OutOfDescriptors,
    ContainmentLost,
    KeeperUnresponsive,
}

/// What becomes of spawns that are asked for and not yet answered when somebody dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Birth {
    /// Born at once, before anybody looks.
    Before,
    /// Still under way when the next reconciler looks, and born later.
    After,
    /// Still under way when the next reconciler looks, which ends its epoch: it executes nothing any more.
    TooLate,
    /// Never come to an execution.
    Never,
}

impl Body {
    pub fn leader_lives(&self) -> bool {
        self.end.is_none()
    }

    pub fn anything_lives(&self) -> bool {
        self.leader_lives() || !self.others.is_empty()
    }

    pub fn pids(&self) -> Vec<Pid> {
        let leader = self.leader_lives().then_some(self.identity.pid);
        leader.into_iter().chain(self.others.iter().map(|(pid, _)| *pid)).collect()
    }
}

impl Run {
    pub fn body(&self) -> Option<&Body> {
        match &self.stage {
            Stage::Born(body) => Some(body),
            Stage::InFlight | Stage::NeverBorn => None,
        }
    }

    pub fn body_mut(&mut self) -> Option<&mut Body> {
        match &mut self.stage {
            Stage::Born(body) => Some(body),
            Stage::InFlight | Stage::NeverBorn => None,
        }
    }

    pub fn anything_lives(&self) -> bool {
        self.body().is_some_and(Body::anything_lives)
    }

    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.values().flat_map(|block| block.numbers())
    }

    pub fn listens(&self) -> bool {
        self.anything_lives()
    }

    /// A child of it may yet execute.
    pub fn may_be_born(&self, epoch: u64) -> bool {
        matches!(self.stage, Stage::InFlight) && self.epoch == epoch
    }

    pub fn is_told(&self) -> bool {
        self.knowledge != Knowledge::Unattached
    }

    pub fn lose_power(&mut self) {
        match &mut self.stage {
            Stage::InFlight => self.stage = Stage::NeverBorn,
            Stage::Born(body) => {
                body.others.clear();
                body.end.get_or_insert(LeaderEnd { seen: None });
            }
            Stage::NeverBorn => {}
        }
    }
}

impl World {
    pub fn spawn(&mut self, request: &SpawnRequest) {
        self.counts.spawns += 1;
        let SpawnRequest { service, nonce, argv, .. } = request;
        self.tell(format_args!("spawn     {service} ({nonce}): {}", argv.join(" ")));
        self.check_spawn(request);
        self.check_ports(request);
        let mut script = self.next_script(service);
        if let Some(errno) = self.faults.take(Op::Spawn) {
            script.failure = Some(failure(SpawnStage::Fork, errno));
        }
        let sockets = self.passed_on(request).unwrap_or_else(|missing| {
            script.failure = Some(missing);
            Vec::new()
        });
        self.schedule(script.spawn_delay, Occurrence::Birth(nonce.clone()));
        let run = Run {
            service: service.clone(),
            script,
            stage: Stage::InFlight,
            knowledge: Knowledge::Attached,
            file: request.exec.file.clone(),
            epoch: request.epoch,
            keeper: self.keeper,
            ports: request.intent.as_ref().map(|intent| intent.ports.clone()).unwrap_or_default(),
            env: request.env.clone(),
            sockets,
            order: self.counts.spawns,
        };
        self.runs.insert(nonce.clone(), run);
    }

    /// One script a start; the last one for all further ones.
    fn next_script(&mut self, service: &ServiceId) -> Behaviour {
        match self.scripts.get_mut(service) {
            Some(scripts) if scripts.len() > 1 => scripts.pop_front().expect("there is more than one"),
            Some(scripts) => scripts.front().cloned().unwrap_or_default(),
            None => Behaviour::default(),
        }
    }

    pub fn birth(&mut self, nonce: &Nonce) {
        let run = self.runs.get(nonce).expect("what is scheduled was asked for");
        if !matches!(run.stage, Stage::InFlight) {
            return;
        }
        // Nobody has looked yet, so it comes in time after all.
        self.late.remove(nonce);
        let (script, file, service) = (run.script.clone(), run.file.clone(), run.service.clone());
        let obstacle = self.stale_epoch(run.epoch).or_else(|| script.failure.clone());
        let obstacle = obstacle.or_else(|| self.stale_executable(&file));
        if let Some(failure) = obstacle {
            self.fail_birth(nonce, failure);
            return;
        }
        self.check_alone(&service, nonce);
        let body = self.make_body(nonce, &service, &script, &file);
        let (process, containment) = (body.identity.clone(), body.containment.clone());
        self.tell(format_args!("born      {service} ({nonce}) as pid {}", process.pid));
        if let Some((after, status)) = script.exits {
            self.schedule(after, Occurrence::LeaderEnds(nonce.clone(), status));
        }
        self.accepts(&service);
        let run = self.runs.get_mut(nonce).expect("it was there above");
        run.stage = Stage::Born(Box::new(body));
        if run.is_told() {
            self.queue(Event::Spawned { service, nonce: nonce.clone(), process, containment });
        }
    }

    fn stale_epoch(&self, epoch: u64) -> Option<SpawnFailure> {
        let now = self.epoch;
        (epoch != now).then(|| SpawnFailure {
            stage: SpawnStage::Epoch,
            errno: 0,
            message: format!("the request is of epoch {epoch}, and this is {now}"),
        })
    }

    fn stale_executable(&mut self, file: &FileIdentity) -> Option<SpawnFailure> {
        match self.executables.is_current(file) {
            Ok(()) => None,
            Err(Mismatch::Gone) => Some(failure(SpawnStage::Exec, Errno::ENOENT)),
            Err(Mismatch::Replaced) => Some(SpawnFailure {
                stage: SpawnStage::ExecChanged,
                errno: 0,
                message: format!("{} is not the file that was checked", file.path.display()),
            }),
        }
    }

    fn make_body(
        &mut self,
        nonce: &Nonce,
        service: &ServiceId,
        script: &Behaviour,
        file: &FileIdentity,
    ) -> Body {
        let identity = self.new_process();
        let containment = if self.cgroups {
            let path = format!("/sys/fs/cgroup/reconcile/{}-{nonce}", service.file_stem());
            Containment::Cgroup { path: path.into() }
        } else {
            Containment::Holder { process: self.new_process(), within: None }
        };
        let others =
            script.descendants.iter().map(|on_signal| (self.new_process().pid, *on_signal)).collect();
        let exe = script.becomes.clone().unwrap_or_else(|| self.executables.image(file));
        Body { identity, containment, exe, born_at: self.clock.awake(), end: None, others }
    }

    pub fn new_process(&mut self) -> ProcessIdentity {
        let (pid, start_ticks) = self.pids.take(self.clock.ticks());
        ProcessIdentity { pid, start_ticks, boot: self.clock.boot(), pid_ns: super::PID_NAMESPACE }
    }

    fn fail_birth(&mut self, nonce: &Nonce, failure: SpawnFailure) {
        let run = self.runs.get_mut(nonce).expect("only what was asked for fails");
        run.stage = Stage::NeverBorn;
        let (service, told) = (run.service.clone(), run.is_told());
        self.tell(format_args!("unborn    {service} ({nonce}): {}", failure.message));
        if told {
            self.queue(Event::SpawnFailed { service, nonce: nonce.clone(), failure });
        }
    }

    pub fn leader_ends(&mut self, nonce: &Nonce, status: ExitStatus) {
        let (now, keeper, without) = (self.clock.stamp(), self.keeper, self.status_without_keeper);
        let Some(run) = self.runs.get_mut(nonce) else { return };
        let seen = run.keeper == keeper || without == StatusWithoutKeeper::Known;
        let (service, told) = (run.service.clone(), run.is_told());
        let Some(body) = run.body_mut().filter(|body| body.leader_lives()) else { return };
        body.end = Some(LeaderEnd { seen: seen.then_some((status, now)) });
        let (pid, others) = (body.identity.pid, !body.others.is_empty());
        self.pids.free(pid);
        self.tell(format_args!("ended     {service} ({nonce}), pid {pid}, {status}"));
        if told {
            self.queue(Event::Exited { nonce: nonce.clone(), status: seen.then_some(status), others });
        }
        self.cancel_jobs_of(nonce);
        self.say_if_gone(nonce);
    }

    pub fn descendant_ends(&mut self, nonce: &Nonce, pid: Pid) {
        let Some(body) = self.runs.get_mut(nonce).and_then(Run::body_mut) else { return };
        let before = body.others.len();
        body.others.retain(|(other, _)| *other != pid);
        if body.others.len() == before {
            return;
        }
        self.pids.free(pid);
        self.tell(format_args!("ended     descendant {pid} of {nonce}"));
        self.say_if_gone(nonce);
    }

    /// Call after something of the run has ended.
    pub fn say_if_gone(&mut self, nonce: &Nonce) {
        let run = &self.runs[nonce];
        if run.anything_lives() {
            return;
        }
        let told = run.is_told();
        let holder = run.body().and_then(|body| match &body.containment {
            Containment::Holder { process, .. } => Some(process.pid),
            Containment::Cgroup { .. } => None,
        });
        if let Some(holder) = holder {
            self.pids.free(holder);
        }
        if told {
            self.queue(Event::Gone { nonce: nonce.clone() });
        }
    }

    /// A stranger that the ledger now names as the process of a doubtful run is a stranger no more.
    pub fn take_over_adopted(&mut self, records: &[Record]) {
        for record in records {
            let Record::Started { nonce, process, .. } = record else { continue };
            if self.strangers.get(&process.pid) != Some(process) {
                continue;
            }
            if let Some(body) = self.runs.get_mut(nonce).and_then(Run::body_mut) {
                body.identity = process.clone();
                body.end = None;
                self.strangers.remove(&process.pid);
            }
        }
    }

    /// Settles what is asked for and not yet answered.
    pub fn settle_births(&mut self, births: Birth) {
        let in_flight = |run: &Run| matches!(run.stage, Stage::InFlight);
        let nonces: Vec<Nonce> =
            self.runs.iter().filter(|(_, run)| in_flight(run)).map(|(nonce, _)| nonce.clone()).collect();
        for nonce in nonces {
            self.late.remove(&nonce);
            match births {
                Birth::Before => self.birth(&nonce),
                Birth::After => {}
                Birth::TooLate => {
                    self.late.insert(nonce);
                }
                Birth::Never => self.cancel_birth(&nonce),
            }
        }
    }

    pub fn cancel_birth(&mut self, nonce: &Nonce) {
        let run = self.runs.get_mut(nonce).expect("only what was asked for is cancelled");
        run.stage = Stage::NeverBorn;
        let service = run.service.clone();
        self.tell(format_args!("unborn    {service} ({nonce}): its spawn is cancelled"));
    }

    /// The keeper dies; what it was the parent of lives on.
    pub fn lose_keeper(&mut self, births: Birth) {
        self.tell("the keeper is killed");
        // With the keeper gone nobody can be asked any more: a spawn was born, or never will be.
        self.settle_births(match births {
            Birth::Before => Birth::Before,
            Birth::After | Birth::TooLate | Birth::Never => Birth::Never,
        });
        self.keeper += 1;
        self.lose_sockets();
        self.cancel_all_jobs();
        for run in self.runs.values_mut().filter(|run| run.knowledge == Knowledge::Attached) {
            run.knowledge = Knowledge::Unattached;
        }
        self.queue(Event::KeeperLost);
    }
}

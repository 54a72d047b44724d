//! A small machine that carries plans out: processes that crash, linger, ignore signals and fork away, a ledger
//! that folds records, a reconciler that dies and comes back. The promises are checked at every step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use reconcile::identity::{BootId, Digest, Nonce, ServiceId};
use reconcile::manifest::{
    Condition, Dependency, Health as Check, Lifecycle, PortBlocks, RestartPolicy, Spec,
};
use reconcile::plan::{
    Action, Desired, Flight, Health, HeldLease, Observed, Phase, Plan, Presence, PruneRules, Remains,
    RootState, Seen, Service, Step, Want, failures_after, fold, plan,
};
use reconcile::state::{
    End, ExitStatus, FileKey, FileMarks, Holder, Intent, Lease, LeaseEnd, Ledger, Reason, Record, Request,
    SpawnFailure, SpawnStage,
};
use reconcile::time::Stamp;

use super::worlds::{accepted, at, check, containment, exec, id, process, root, spec};

/// A pass of the model that has nothing to wait for takes this long.
const TICK_MS: u64 = 5;
const MOST_PASSES: usize = 2_000;

/// How the program of a service behaves, counted over its starts.
#[derive(Debug, Clone)]
pub struct Behaviour {
    spawn_failures: u32,
    /// Starts that end by themselves, and how.
    ends: u32,
    end_code: i32,
    /// The leader leaves others behind when it ends by itself.
    forks: bool,
    obeys: bool,
    checked: bool,
    /// Probes that fail before one passes, per start, for the first `sick_starts` starts.
    sick_starts: u32,
    always: bool,
    ephemeral: bool,
    /// Others by index, of which those before it are its dependencies.
    needs: Vec<(usize, Condition, bool)>,
}

pub fn behaviours() -> impl Strategy<Value = Behaviour> {
    let flags =
        (any::<bool>(), prop::bool::weighted(0.8), any::<bool>(), any::<bool>(), prop::bool::weighted(0.2));
    let conditions =
        prop_oneof![Just(Condition::Started), Just(Condition::Ready), Just(Condition::Completed)];
    let needs = prop::collection::vec((0_usize..7, conditions, any::<bool>()), 0..3);
    (0_u32..3, 0_u32..12, 0_i32..2, flags, 0_u32..3, needs).prop_map(
        |(spawn_failures, ends, end_code, (forks, obeys, checked, always, ephemeral), sick_starts, needs)| {
            Behaviour {
                spawn_failures,
                ends,
                end_code,
                forks,
                obeys,
                checked,
                sick_starts,
                always,
                ephemeral,
                needs,
            }
        },
    )
}

/// What happens to a world, to the service with this index.
#[derive(Debug, Clone)]
pub enum Event {
    Pass,
    Request(usize, Request),
    Edit(usize),
    EditLive(usize),
    /// Its file of variables says something else, or is missing.
    EditFile(usize),
    Remove(usize),
    Return(usize),
    Lease(usize),
    EndLease(usize),
    ProcessDies(usize),
    /// A spawn that is under way comes about, or does not, while nobody looks.
    ReconcilerDies {
        born: bool,
    },
    Reboot,
    Unverifiable(usize),
}

pub fn events() -> impl Strategy<Value = Vec<Event>> {
    let requests = prop_oneof![
        Just(Request::Stop),
        Just(Request::Start),
        Just(Request::Restart),
        Just(Request::Reset),
        Just(Request::Renew)
    ];
    let event = prop_oneof![
        10 => Just(Event::Pass),
        2 => (0_usize..7, requests).prop_map(|(index, request)| Event::Request(index, request)),
        2 => (0_usize..7).prop_map(Event::Edit),
        1 => (0_usize..7).prop_map(Event::EditLive),
        1 => (0_usize..7).prop_map(Event::EditFile),
        1 => (0_usize..7).prop_map(Event::Remove),
        1 => (0_usize..7).prop_map(Event::Return),
        2 => (0_usize..7).prop_map(Event::Lease),
        2 => (0_usize..7).prop_map(Event::EndLease),
        2 => (0_usize..7).prop_map(Event::ProcessDies),
        2 => any::<bool>().prop_map(|born| Event::ReconcilerDies { born }),
        1 => Just(Event::Reboot),
        1 => (0_usize..7).prop_map(Event::Unverifiable)
    ];
    prop::collection::vec(event, 0..60)
}

/// The processes of one run.
#[derive(Debug, Clone)]
struct Processes {
    nonce: Nonce,
    leader: bool,
    others: bool,
}

#[derive(Debug, Clone)]
struct Machine {
    behaviour: Behaviour,
    needs: BTreeMap<ServiceId, Dependency>,
    processes: Option<Processes>,
    flight: Flight,
    health: Health,
    attached: bool,
    verifiable: bool,
    /// Probes of this run so far.
    probes: u32,
    starts: u32,
    fingerprint: String,
    live_changed: bool,
    /// Of its optional file, by how often that was edited.
    file: u32,
    /// A manifest declares it.
    declared: bool,
    /// Neither declared nor remembered any more.
    forgotten: bool,
}

#[derive(Debug)]
pub struct Model {
    ledger: Ledger,
    machines: BTreeMap<ServiceId, Machine>,
    now_ms: u64,
    boot: u32,
    nonces: u64,
    last_removal_ms: u64,
}

impl Model {
    pub fn new(behaviours: Vec<Behaviour>) -> Self {
        let machines = behaviours.into_iter().enumerate().map(|(index, behaviour)| {
            let needs = behaviour.needs.iter().filter(|(other, ..)| *other < index);
            let needs = needs.map(|(other, condition, restart)| {
                (name(*other), Dependency { condition: *condition, restart: *restart })
            });
            let machine = Machine {
                needs: needs.collect(),
                behaviour,
                processes: None,
                flight: Flight::None,
                health: Health::default(),
                attached: false,
                verifiable: true,
                probes: 0,
                starts: 0,
                fingerprint: "v1:0".to_owned(),
                live_changed: false,
                file: 0,
                declared: true,
                forgotten: false,
            };
            (name(index), machine)
        });
        let mut model = Self {
            ledger: Ledger::default(),
            machines: machines.collect(),
            now_ms: 0,
            boot: 0,
            nonces: 0,
            last_removal_ms: 0,
        };
        model.accept();
        model
    }

    pub fn live_through(&mut self, events: &[Event]) {
        for event in events {
            self.happen(event.clone());
            self.pass();
        }
    }

    /// Passes until nothing is left to do or to wait for but steady probes.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..MOST_PASSES {
            let plan = self.pass();
            let is_held = |id: &ServiceId| {
                plan.steps.iter().any(|step| step.service == *id && is_blocked(&step.reason))
            };
            let waits = plan.phases.iter().any(|(id, view)| {
                !is_settled(view.phase)
                    && !is_blocked(&view.reason)
                    && !is_held(id)
                    && !self.sleeps(id, &view.reason)
            });
            quiet = if waits || changes(&plan) { 0 } else { quiet + 1 };
            if quiet == 5 {
                return;
            }
        }
        panic!("not settled after {MOST_PASSES} passes: {:#?}\n{self:#?}", self.plan());
    }

    /// Promise 4, and that each service is where its manifest and the operator want it.
    pub fn check_settled(&self) {
        let plan = self.plan();
        assert!(!changes(&plan), "a settled world has steps: {plan:#?}");
        for (id, machine) in self.living() {
            let entry = self.ledger.entry(id).cloned().unwrap_or_default();
            let wanted = machine.declared && entry.stopped.is_none() && machine.verifiable;
            let view = &plan.phases[id];
            let phase = view.phase;
            let runs = machine.processes.is_some();
            let is_held = plan.steps.iter().any(|step| step.service == *id && is_blocked(&step.reason));
            let waits = is_blocked(&view.reason) || is_held;
            let sleeps = self.sleeps(id, &view.reason);
            let is_let_go = entry.released.is_some() || entry.needed;
            let is_held = self.is_leased(id) || self.dependents_run(id);
            assert!(
                !(machine.behaviour.ephemeral && is_let_go && runs) || is_held || !machine.verifiable,
                "{id} runs for nobody: {self:#?}"
            );
            let wanted = wanted && !sleeps;
            assert!(!wanted || runs || is_parked(phase) || waits, "{id} is wanted and {phase:?}: {self:#?}");
            assert!(entry.stopped.is_none() || !runs || !machine.verifiable, "{id} runs though stopped");
            let newest = entry.run.as_ref().is_none_or(|run| run.fingerprint == machine.fingerprint);
            assert!(newest || !wanted || waits, "{id} runs an old spec: {self:#?}");
            let (then, now) = (entry.run.as_ref().and_then(|run| run.files.as_deref()), machine.files());
            let newest = !runs || now == FileMarks::default() || then == Some(&now);
            assert!(newest || !wanted || waits, "{id} runs with an old file: {self:#?}");
        }
    }

    /// Until somebody uses it, also after a start that came to nothing.
    fn sleeps(&self, id: &ServiceId, why: &Reason) -> bool {
        let is_asleep = match why {
            Reason::OnDemand { .. } => true,
            Reason::ExecFailed { .. } => self.ledger.entry(id).is_none_or(|entry| entry.activation.is_none()),
            _ => return false,
        };
        let may_be = self.machines[id].behaviour.ephemeral && !self.is_leased(id);
        assert!(may_be || !matches!(why, Reason::OnDemand { .. }), "{id} sleeps: {self:#?}");
        is_asleep && may_be
    }

    /// One that runs, or is to, through any that depend on it.
    fn dependents_run(&self, id: &ServiceId) -> bool {
        let mut dependents = self.living().filter(|(_, machine)| machine.needs.contains_key(id));
        let plan = self.plan();
        dependents.any(|(dependent, machine)| {
            let is_down =
                matches!(plan.phases[dependent].phase, Phase::Stopped | Phase::Completed | Phase::Failed);
            machine.processes.is_some() || !is_down
        })
    }

    fn living(&self) -> impl Iterator<Item = (&ServiceId, &Machine)> {
        self.machines.iter().filter(|(_, machine)| !machine.forgotten)
    }

    fn stamp(&self) -> Stamp {
        let mut stamp = at(self.now_ms);
        stamp.boot = BootId::new(&format!("boot-{}", self.boot));
        stamp
    }

    fn plan(&self) -> Plan {
        plan(&self.desired(), &self.observed(), &self.stamp())
    }

    /// One pass: observe, plan, act, record; then the world goes on until the next look.
    fn pass(&mut self) -> Plan {
        let plan = self.plan();
        for record in &plan.notes {
            self.ledger.apply(record);
        }
        for id in &plan.probes {
            self.probe(id);
        }
        for step in &plan.steps {
            self.carry_out(step);
        }
        let busy = self.machines.values().any(Machine::has_something_coming);
        let wait = match plan.wake_in {
            Some(wake) if !busy => wake.as_millis() as u64,
            _ => TICK_MS,
        };
        self.now_ms += wait;
        self.go_on();
        plan
    }

    fn probe(&mut self, id: &ServiceId) {
        let now = self.stamp();
        let machine = self.machines.get_mut(id).unwrap();
        assert!(machine.processes.as_ref().is_some_and(|it| it.leader), "{id} is probed and not alive");
        machine.probes += 1;
        let sick = machine.starts <= machine.behaviour.sick_starts;
        let result = if sick { Err("refused".to_owned()) } else { Ok(()) };
        fold(&mut machine.health, &result, &now);
    }

    fn carry_out(&mut self, step: &Step) {
        let machine = &self.machines[&step.service];
        assert!(machine.verifiable || step.action == Action::Hold, "an unverifiable one: {step:?}");
        match step.action {
            Action::Start => self.start(step),
            Action::Stop | Action::Restart | Action::Signal => self.stop(step),
            Action::Kill => {
                let since = self.stamp();
                self.machines.get_mut(&step.service).unwrap().flight = Flight::Killed { since };
            }
            Action::Forget => {
                assert!(machine.processes.is_none() && !machine.declared, "forgotten: {step:?}");
                self.ledger.apply(&Record::Forgotten { service: step.service.clone() });
                self.machines.get_mut(&step.service).unwrap().forgotten = true;
            }
            Action::Adopt => self.machines.get_mut(&step.service).unwrap().attached = true,
            Action::Update => {
                let nonce = self.ledger.services[&step.service].run.as_ref().unwrap().nonce.clone();
                let service = step.service.clone();
                self.ledger.apply(&Record::Updated { service, nonce, digest: Digest::of(b"b") });
                self.machines.get_mut(&step.service).unwrap().live_changed = false;
            }
            Action::Reload => unreachable!("no service of the model has files to reload"),
            Action::Hold | Action::Reject => {}
        }
    }

    fn start(&mut self, step: &Step) {
        self.nonces += 1;
        let nonce = Nonce::from_u64(self.nonces);
        let at = self.stamp();
        self.check_dependencies(&step.service);
        let beside = self.runs_to_follow(&step.service);
        let machine = self.machines.get_mut(&step.service).unwrap();
        // Promise 1: never two.
        assert!(machine.processes.is_none(), "a start beside a process: {step:?} {machine:?}");
        assert!(machine.flight == Flight::None, "a start beside a flight: {step:?} {machine:?}");
        machine.flight = Flight::Spawning { nonce: nonce.clone() };
        machine.health = Health::default();
        machine.probes = 0;
        machine.live_changed = false;
        let intent = Intent {
            service: step.service.clone(),
            nonce,
            fingerprint: machine.fingerprint.clone(),
            digest: Digest::of(b"a"),
            why: step.reason.clone(),
            exec: exec(),
            at,
            epoch: 1,
            ports: PortBlocks::new(),
            clears_failures: step.reason.clears_failures(),
            beside,
            files: Some(Box::new(machine.files())),
            log: None,
            cwd: None,
        };
        self.ledger.apply(&Record::Intent(Box::new(intent)));
    }

    /// Each dependency has come as far as is wanted of it.
    fn check_dependencies(&self, service: &ServiceId) {
        for (dependency, wanted) in &self.machines[service].needs {
            let machine = &self.machines[dependency];
            let leads = machine.processes.as_ref().is_some_and(|processes| processes.leader);
            let ended = self.ledger.entry(dependency).is_some_and(|entry| {
                entry.run.is_none()
                    && entry.last.as_ref().is_some_and(|last| last.status() == Some(ExitStatus::Code(0)))
            });
            let is_met = match wanted.condition {
                Condition::Started => leads || ended,
                Condition::Ready => leads || (ended && !machine.behaviour.checked),
                Condition::Completed => ended,
            };
            assert!(is_met, "{service} is started before {dependency} is {wanted:?}: {self:#?}");
        }
    }

    /// Nothing that depends on it is being stopped.
    fn check_dependents(&self, service: &ServiceId) {
        for (dependent, machine) in &self.machines {
            let ends = matches!(machine.flight, Flight::Signalled { .. }) && machine.processes.is_some();
            let waits = machine.needs.contains_key(service) && ends && machine.verifiable;
            assert!(!waits, "{service} is stopped before {dependent}, which depends on it: {self:#?}");
        }
    }

    fn runs_to_follow(&self, service: &ServiceId) -> BTreeMap<ServiceId, Nonce> {
        let followed = self.machines[service].needs.iter().filter(|(_, wanted)| wanted.restart);
        followed
            .filter_map(|(dependency, _)| {
                let entry = self.ledger.entry(dependency)?;
                let run = entry.run.as_ref().map(|run| &run.nonce);
                Some((dependency.clone(), run.or(entry.last.as_ref().map(|last| &last.nonce))?.clone()))
            })
            .collect()
    }

    fn stop(&mut self, step: &Step) {
        let at = self.stamp();
        let begins = self.ledger.services[&step.service].run.as_ref().is_some_and(|run| run.goes_on());
        if begins {
            self.check_dependents(&step.service);
        }
        let machine = self.machines.get_mut(&step.service).unwrap();
        // Promise 2: only what is there.
        let nonce = machine.processes.as_ref().unwrap_or_else(|| panic!("{step:?}")).nonce.clone();
        machine.flight = Flight::Signalled { since: at.clone() };
        let run = self.ledger.services[&step.service].run.as_ref().unwrap();
        assert_eq!(run.nonce, nonce);
        if run.stopping.is_none() {
            let (service, why) = (step.service.clone(), step.reason.clone());
            self.ledger.apply(&Record::Stopping { service, nonce, why, at });
        }
    }

    /// What the machine does by itself: spawns come about, processes end.
    fn go_on(&mut self) {
        let ids: Vec<ServiceId> = self.machines.keys().cloned().collect();
        for id in ids {
            let machine = self.machines[&id].clone();
            match &machine.flight {
                Flight::Spawning { nonce } => self.spawned(&id, nonce.clone()),
                Flight::Signalled { .. } if machine.behaviour.obeys => self.all_end(&id, 15),
                Flight::Killed { .. } => self.all_end(&id, 9),
                Flight::None if machine.ends_by_itself() => self.leader_ends(&id),
                Flight::None | Flight::StopCommand { .. } | Flight::Signalled { .. } => {}
            }
        }
    }

    fn spawned(&mut self, id: &ServiceId, nonce: Nonce) {
        let at = self.stamp();
        let machine = self.machines.get_mut(id).unwrap();
        machine.flight = Flight::None;
        machine.attached = true;
        let service = id.clone();
        if machine.behaviour.spawn_failures > 0 {
            machine.behaviour.spawn_failures -= 1;
            let stage = SpawnStage::Exec;
            let failure = SpawnFailure { stage, errno: 2, message: "no such file".to_owned() };
            self.ledger.apply(&Record::SpawnFailed { service, nonce, failure, at });
            return;
        }
        machine.starts += 1;
        machine.processes = Some(Processes { nonce: nonce.clone(), leader: true, others: false });
        let (process, containment) = (process(), containment());
        self.ledger.apply(&Record::Started { service, nonce, process, containment, at });
    }

    /// The leader ends; what it leaves behind is noticed with it.
    fn leader_ends(&mut self, id: &ServiceId) {
        let machine = self.machines.get_mut(id).unwrap();
        machine.behaviour.ends = machine.behaviour.ends.saturating_sub(1);
        let status = ExitStatus::Code(machine.behaviour.end_code);
        let processes = machine.processes.as_mut().unwrap();
        processes.leader = false;
        processes.others = machine.behaviour.forks;
        let remains = if processes.others { Remains::Others } else { Remains::Nothing };
        self.exited(id, End::Exit { status }, remains);
        if remains == Remains::Nothing {
            self.gone(id);
        }
    }

    fn all_end(&mut self, id: &ServiceId, signal: i32) {
        let machine = &self.machines[id];
        let leader = machine.processes.as_ref().is_some_and(|processes| processes.leader);
        if leader {
            let status = Some(ExitStatus::Signal(signal));
            self.exited(id, End::Ours { status }, Remains::Nothing);
        }
        self.gone(id);
    }

    fn exited(&mut self, id: &ServiceId, end: End, remains: Remains) {
        let at = self.stamp();
        let entry = &self.ledger.services[id];
        let Some(nonce) = entry.run.as_ref().map(|run| run.nonce.clone()) else { return };
        let spec = self.machines[id].spec(id);
        let failures = failures_after(entry, Some(&spec), &end, remains, &at);
        self.ledger.apply(&Record::Exited { service: id.clone(), nonce, end, failures, at });
    }

    fn gone(&mut self, id: &ServiceId) {
        let machine = self.machines.get_mut(id).unwrap();
        machine.processes = None;
        machine.verifiable = true;
        machine.flight = Flight::None;
        machine.health = Health::default();
        if let Some(run) = &self.ledger.services[id].run {
            let nonce = run.nonce.clone();
            self.ledger.apply(&Record::Gone { service: id.clone(), nonce });
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Pass => {}
            Event::Request(index, request) => self.request(index, request),
            Event::Edit(index) => {
                if let Some(machine) = self.machines.get_mut(&name(index)) {
                    machine.fingerprint = format!("v1:{}", self.now_ms);
                }
            }
            Event::EditLive(index) => {
                if let Some(machine) = self.machines.get_mut(&name(index)) {
                    machine.live_changed = machine.processes.is_some();
                }
            }
            Event::EditFile(index) => {
                if let Some(machine) = self.machines.get_mut(&name(index)) {
                    machine.file += 1;
                }
            }
            Event::Remove(index) => {
                self.last_removal_ms = self.now_ms;
                if let Some(machine) = self.machines.get_mut(&name(index)) {
                    machine.declared = false;
                }
            }
            Event::Return(index) => {
                if let Some(machine) = self.machines.get_mut(&name(index)) {
                    machine.declared = true;
                    machine.forgotten = false;
                }
                self.accept();
            }
            Event::Lease(index) => self.lease(&name(index), true),
            Event::EndLease(index) => self.lease(&name(index), false),
            Event::ProcessDies(index) => self.process_dies(&name(index)),
            Event::ReconcilerDies { born } => self.reconciler_dies(born),
            Event::Reboot => self.reboot(),
            Event::Unverifiable(index) => {
                if let Some(machine) = self.machines.get_mut(&name(index)) {
                    machine.verifiable = machine.processes.is_none() || !machine.verifiable;
                }
            }
        }
    }

    fn request(&mut self, index: usize, request: Request) {
        let id = name(index);
        if self.machines.get(&id).is_some_and(|machine| !machine.forgotten) {
            let at = self.stamp();
            self.ledger.apply(&Record::Request { service: id, request, at });
        }
    }

    /// By one holder a service.
    fn lease(&mut self, id: &ServiceId, begins: bool) {
        if self.machines.get(id).is_none_or(|machine| machine.forgotten) {
            return;
        }
        let (holder, services) = (Holder::Owner { owner: id.name().to_owned() }, [id.clone()].into());
        let at = self.stamp();
        let record = match begins {
            true => Record::Leased { lease: Box::new(Lease { holder, services, since: at, term: None }) },
            false if !self.ledger.leases.contains_key(&holder.id()) => return,
            false => Record::LeaseEnded { holder, services, how: LeaseEnd::Released, at },
        };
        self.ledger.apply(&record);
    }

    fn is_leased(&self, id: &ServiceId) -> bool {
        self.ledger.leases.values().any(|lease| lease.services.contains(id))
    }

    fn process_dies(&mut self, id: &ServiceId) {
        let Some(machine) = self.machines.get(id) else { return };
        if machine.flight == Flight::None && machine.processes.as_ref().is_some_and(|it| it.leader) {
            self.leader_ends(id);
        }
    }

    /// What was in memory is lost; a starting reconciler judges what it finds.
    fn reconciler_dies(&mut self, born: bool) {
        let ids: Vec<ServiceId> = self.machines.keys().cloned().collect();
        for id in ids {
            let machine = self.machines.get_mut(&id).unwrap();
            let flight = std::mem::take(&mut machine.flight);
            machine.health = Health::default();
            machine.attached = false;
            let Flight::Spawning { nonce } = flight else { continue };
            if born {
                self.spawned(&id, nonce);
                self.machines.get_mut(&id).unwrap().attached = false;
            } else {
                let (stage, at) = (SpawnStage::Born, self.stamp());
                let failure = SpawnFailure { stage, errno: 0, message: "interrupted".to_owned() };
                self.ledger.apply(&Record::SpawnFailed { service: id, nonce, failure, at });
            }
        }
    }

    fn reboot(&mut self) {
        self.reconciler_dies(false);
        self.boot += 1;
        self.now_ms += 60_000;
        let ids: Vec<ServiceId> = self.machines.keys().cloned().collect();
        for id in ids {
            if self.ledger.services.get(&id).is_some_and(|entry| entry.run.is_some()) {
                self.exited(&id, End::OtherBoot, Remains::Nothing);
                self.gone(&id);
            }
            self.machines.get_mut(&id).unwrap().verifiable = true;
        }
    }

    /// The manifests as they are, accepted.
    fn accept(&mut self) {
        for (id, machine) in &self.machines {
            if machine.declared {
                let file = FileKey { root: root(), path: format!("{}.toml", id.name()).into() };
                let (digest, services) = (Digest::of(b"a"), vec![id.clone()]);
                self.ledger.apply(&Record::Accepted { file, digest, services, directory_inode: 1 });
            }
        }
    }

    fn desired(&self) -> Desired {
        let quiet_for = Duration::from_millis(self.now_ms - self.last_removal_ms);
        let state = RootState {
            path: "/srv".into(),
            lost: BTreeMap::new(),
            checkout: None,
            unread: Vec::new(),
            quiet_for,
        };
        let wants = self.living().map(|(id, machine)| {
            let presence =
                if machine.declared { Presence::Present } else { Presence::Absent { root: root() } };
            let want = Want {
                accepted: Some(accepted(machine.spec(id), &machine.fingerprint)),
                refused: None,
                problems: Vec::new(),
                presence,
                manifest: None,
                gate: None,
                files: Some(Arc::new(machine.files())),
                retry: false,
            };
            (id.clone(), want)
        });
        Desired {
            services: wants.collect(),
            roots: BTreeMap::from([(root(), state)]),
            prune: PruneRules::default(),
            ..Desired::default()
        }
    }

    fn observed(&self) -> Observed {
        let services = self.living().map(|(id, machine)| {
            let entry = self.ledger.entry(id).cloned().unwrap_or_default();
            let before = entry.run.as_ref().map(|run| &run.fingerprint);
            let before = before.or(entry.last.as_ref().map(|last| &last.fingerprint));
            let differs = before.is_some_and(|before| *before != machine.fingerprint);
            let service = Service {
                seen: machine.seen(),
                flight: machine.flight.clone(),
                health: machine.health.clone(),
                replaced: None,
                attached: machine.attached,
                running: None,
                changed: differs.then(|| "command".to_owned()).into_iter().collect(),
                live_changed: machine.live_changed.then(|| "stop.grace".to_owned()).into_iter().collect(),
                parked_changed: false,
                usage: reconcile::plan::Usage::default(),
                reload: reconcile::plan::ReloadTry::default(),
                entry: entry.into(),
            };
            (id.clone(), service)
        });
        let held = |lease: &Lease| HeldLease { lease: lease.clone(), holder_ended: false };
        Observed { services: services.collect(), leases: self.ledger.leases.values().map(held).collect() }
    }
}

impl Machine {
    /// Each third time it is missing.
    fn files(&self) -> FileMarks {
        let digest = Digest::of(self.file.to_string().as_bytes());
        let is_missing = self.file % 3 == 2;
        let env = (!is_missing).then(|| (".env".to_owned(), digest)).into_iter().collect();
        FileMarks { env, ..FileMarks::default() }
    }

    fn spec(&self, id: &ServiceId) -> Spec {
        let mut spec = spec(id.key());
        spec.depends_on.clone_from(&self.needs);
        // Short enough that a start that misses it does not fill the passes with probes.
        spec.health =
            self.behaviour.checked.then(|| Check { start_timeout: Duration::from_secs(3), ..check() });
        if self.behaviour.ephemeral {
            spec.lifecycle = Lifecycle::Ephemeral;
        }
        if self.behaviour.always {
            spec.restart.policy = RestartPolicy::Always;
        }
        spec
    }

    fn seen(&self) -> Seen {
        match &self.processes {
            None => Seen::None,
            Some(_) if !self.verifiable => {
                Seen::Unverifiable(Reason::IdentityUnverifiable { detail: "no /proc".to_owned() })
            }
            Some(processes) if processes.leader => Seen::Alive,
            Some(_) => Seen::Leftovers,
        }
    }

    fn ends_by_itself(&self) -> bool {
        self.behaviour.ends > 0 && self.processes.as_ref().is_some_and(|processes| processes.leader)
    }

    fn has_something_coming(&self) -> bool {
        match self.flight {
            Flight::Spawning { .. } | Flight::Killed { .. } => true,
            Flight::Signalled { .. } => self.behaviour.obeys,
            Flight::None => self.ends_by_itself(),
            Flight::StopCommand { .. } => false,
        }
    }
}

fn name(index: usize) -> ServiceId {
    id(&format!("service-{index}"))
}

fn changes(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| step.action.is_change()) || !plan.notes.is_empty()
}

fn is_parked(phase: Phase) -> bool {
    matches!(phase, Phase::Failed | Phase::Completed)
}

fn is_blocked(reason: &Reason) -> bool {
    matches!(reason, Reason::Dependency { .. })
}

fn is_settled(phase: Phase) -> bool {
    match phase {
        Phase::Running
        | Phase::Ready
        | Phase::Failed
        | Phase::Stopped
        | Phase::Completed
        | Phase::Expired
        | Phase::Rejected
        | Phase::Held => true,
        Phase::Pending | Phase::Starting | Phase::Unhealthy | Phase::Backoff | Phase::Stopping => false,
    }
}

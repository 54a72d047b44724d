//! Services that run while they are used: who uses them, and the commands that do.
//!
//! What that means is for `plan::demand`; who connects is seen by the host. A connection is told of only while nothing
//! runs; while something does, it is only noted when the last one was.

use std::collections::BTreeSet;
use std::collections::btree_map::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Reconciler;
use super::command::Refusal;
use super::requests::{Later, Reply, refusal};
use super::selection::Selector;
use super::status::PassReport;
use super::waiting::Goal;
use crate::host::Host;
use crate::host::listen::{Proxy, SocketKey, SocketUse};
use crate::identity::ServiceId;
use crate::manifest::{ActivateOn, Lifecycle, ListenOn, Spec};
use crate::plan::{Accepted, Action, Phase, Plan, Presence};
use crate::reconciler::command::Answer;
use crate::state::{Reason, Record, Request};
use crate::time::Clock;

/// That a socket is used is noted this much more often than it must be known, within these bounds.
const NOTES_PER_IDLE: u32 = 10;
const LEAST_NOTED: Duration = Duration::from_millis(100);
const MOST_NOTED: Duration = Duration::from_secs(10);

/// How long a connection waits to be handed on, of a service without a health check.
const WAITED_FOR: Duration = Duration::from_secs(60);

/// What was asked of the host about the sockets of a service.
#[derive(Debug)]
pub(super) struct Attended {
    accepted: Arc<Accepted>,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Its sockets are about to be held.
    Opening,
    /// Nothing of it runs, and who connects wakes it.
    Asleep,
    /// Its start has failed, and is tried again after a while: who waits is told.
    Failed,
    /// Its start has failed, and is tried again when it is used next, if that is due.
    Refusing,
    /// It runs, and may not be up.
    Awake,
    Up,
}

impl<H: Host> Reconciler<H> {
    /// What may have been told to a keeper, or a host, that is there no more.
    pub(super) fn forget_attended(&mut self) {
        self.attended.clear();
    }

    /// Brings what is seen of the use of sockets into the observed state.
    pub(super) fn refresh_usage(&mut self) {
        for (service, attended) in &self.attended {
            let Some(live) = self.observed.services.get_mut(service) else { continue };
            let keys = attended.accepted.spec.sockets.keys();
            let used = keys.filter_map(|name| {
                self.host.socket_used(&SocketKey { service: service.clone(), name: name.clone() })
            });
            let used: Vec<SocketUse> = used.collect();
            live.usage.open = used.iter().any(|used| used.open);
            let last = used.into_iter().filter_map(|used| used.last).chain(live.usage.last.take());
            live.usage.last = last.max_by_key(|at| at.wall_ms);
        }
    }

    /// Looks who is connected to what the plan stops because nobody uses it, and says whether there is anybody.
    pub(super) fn look_before_idling(&mut self, plan: &Plan) -> bool {
        let idle = plan.steps.iter().filter(|step| matches!(step.reason, Reason::Idle { .. }));
        let idle: Vec<ServiceId> =
            idle.filter(|step| step.action == Action::Stop).map(|step| step.service.clone()).collect();
        let mut anybody = false;
        for service in idle {
            let addresses: Vec<ListenOn> = self.addresses_of_run(&service).into_iter().collect();
            if !addresses.is_empty() && self.host.is_connected(&addresses) {
                self.service_mut(&service).usage.last = Some(self.host.now());
                anybody = true;
            }
        }
        anybody
    }

    pub(super) fn connected(&mut self, key: &SocketKey) {
        let now = self.host.now();
        let live = self.service_mut(&key.service);
        live.usage.waiting = live.entry.run.is_none();
        live.usage.last = Some(now);
    }

    /// Of a service that sleeps and is to be woken by a connection, its sockets: held first, and then watched.
    pub(super) fn sleepers_without_sockets(&mut self, plan: &Plan) -> Vec<Arc<Accepted>> {
        let asleep = Reason::OnDemand { on: ActivateOn::Connection };
        let sleepers =
            plan.phases.iter().filter(|(_, view)| view.reason == asleep).filter_map(|(service, _)| {
                let accepted = self.accepted(service)?;
                let known = self.attended.get(service);
                let is_held = known.is_some_and(|known| {
                    Arc::ptr_eq(&known.accepted, &accepted) && known.mode != Mode::Opening
                });
                (!is_held && self.is_acted_on(service)).then_some(accepted)
            });
        sleepers.collect()
    }

    /// Watches the sockets of services that are woken by a connection, as long as that is of use.
    pub(super) fn attend_to_sockets(&mut self, plan: &Plan) {
        if self.hands_off || !self.settings.watching || self.foreign.is_some() {
            return;
        }
        let Some(held) = self.host.held_sockets() else { return };
        let services = self.desired.services.iter().filter_map(|(service, want)| {
            let accepted = want.accepted.as_ref()?;
            let is_ours = !matches!(want.presence, Presence::OtherRoot { .. });
            let activation = &accepted.spec.activation;
            let is_attended = activation.on == ActivateOn::Connection || activation.proxy.is_some();
            (is_ours && is_attended).then_some((service, accepted))
        });
        let mut changed: Vec<(ServiceId, Arc<Accepted>, Mode)> = Vec::new();
        for (service, accepted) in services {
            let is_held =
                accepted.spec.sockets.keys().all(|name| {
                    held.contains_key(&SocketKey { service: service.clone(), name: name.clone() })
                });
            let mode = if is_held { self.mode_of(service, plan) } else { Mode::Opening };
            let known = self.attended.get(service);
            let waits_in_vain = mode == Mode::Refusing
                && self.observed.services.get(service).is_some_and(|live| live.usage.waiting);
            if waits_in_vain
                || known.is_none_or(|known| known.mode != mode || !Arc::ptr_eq(&known.accepted, accepted))
            {
                changed.push((service.clone(), Arc::clone(accepted), mode));
            }
        }
        for (service, accepted, mode) in changed {
            let why = plan.phases.get(&service).map(|view| view.reason.message()).unwrap_or_default();
            self.attend_to(&service, &accepted.spec, mode, &why);
            self.attended.insert(service, Attended { accepted, mode });
        }
        if self.attended.len() > self.desired.services.len() {
            let services = &self.desired.services;
            self.attended.retain(|service, _| services.contains_key(service));
        }
    }

    fn mode_of(&self, service: &ServiceId, plan: &Plan) -> Mode {
        let live = self.observed.services.get(service);
        let Some(view) = plan.phases.get(service) else { return Mode::Opening };
        let never_ready =
            || live.and_then(|live| live.entry.last.as_ref()).is_none_or(|last| last.ready_at.is_none());
        match (live.is_some_and(|live| live.entry.run.is_some()), view.phase, &view.reason) {
            (false, Phase::Stopped, Reason::OnDemand { .. }) => Mode::Asleep,
            (false, Phase::Pending, Reason::ExecFailed { .. } | Reason::Gate { .. }) => Mode::Refusing,
            (false, Phase::Backoff | Phase::Failed, _) if never_ready() => Mode::Failed,
            (true, Phase::Running | Phase::Ready | Phase::Unhealthy, _) => Mode::Up,
            (true | false, _, _) => Mode::Awake,
        }
    }

    fn attend_to(&mut self, service: &ServiceId, spec: &Spec, mode: Mode, why: &str) {
        let noted = spec.idle().map(|idle| (idle / NOTES_PER_IDLE).clamp(LEAST_NOTED, MOST_NOTED));
        if mode == Mode::Refusing {
            self.service_mut(service).usage.waiting = false;
        }
        for name in spec.sockets.keys() {
            let key = SocketKey { service: service.clone(), name: name.clone() };
            if matches!(mode, Mode::Failed | Mode::Refusing) {
                self.host.turn_away(&key, why);
            }
            if spec.activation.proxy.is_some() && mode != Mode::Opening {
                self.hand_on(&key, spec, mode);
                continue;
            }
            match (mode, noted) {
                (Mode::Opening, _) => {}
                (Mode::Asleep | Mode::Refusing, _) => self.host.watch_socket(&key, LEAST_NOTED, true),
                (Mode::Awake | Mode::Up | Mode::Failed, Some(every)) => {
                    self.host.watch_socket(&key, every, false);
                }
                (Mode::Awake | Mode::Up | Mode::Failed, None) => self.host.leave_socket(&key),
            }
        }
    }

    fn hand_on(&mut self, key: &SocketKey, spec: &Spec, mode: Mode) {
        let target = if mode == Mode::Up { self.render(spec).proxy } else { None };
        let within = spec.health.as_ref().map_or(WAITED_FOR, |health| health.start_timeout);
        let tell = matches!(mode, Mode::Asleep | Mode::Refusing);
        self.host.proxy_socket(key, &Proxy { target, tell, within });
    }

    /// Says that these are used now.
    pub(super) fn touch(&mut self, names: &[Selector]) -> Result<Reply, Refusal> {
        self.preview();
        let services = self.selected(names)?;
        self.note_use(&services, Vec::new())?;
        Ok(Reply::Now(Answer::Report(Box::new(PassReport::nothing_done()))))
    }

    /// Starts these, or shares what runs of them; what cannot be ready is refused before anything is done.
    pub(super) fn ensure(&mut self, names: &[Selector], timeout: Duration) -> Result<Reply, Refusal> {
        self.preview();
        let named = self.selected(names)?;
        for service in &named {
            self.check_ensured(service)?;
            self.check_shared(service)?;
        }
        let at = self.host.now();
        let starts = named.iter().filter(|service| self.waits_for_a_use(service)).map(|service| {
            Record::Request { service: service.clone(), request: Request::Start, at: at.clone() }
        });
        // What is over is a release of others, and must not follow this use.
        let records = self.over_for(&named, None).into_iter().chain(starts).collect();
        self.note_use(&named, records)?;
        let wider = self.with_dependencies(&named);
        self.act_on_these_alone(Some(&wider.services));
        Ok(Reply::Later(Later { also: wider.also, timeout, ..Later::of(Goal::Ensured, Some(named)) }))
    }

    /// Nobody would say when it is used no more.
    fn check_shared(&self, service: &ServiceId) -> Result<(), Refusal> {
        match self.accepted(service) {
            Some(accepted) if accepted.spec.lifecycle == Lifecycle::Ephemeral => {
                let message = format!("{service} is ephemeral: it runs for who leases it");
                let help =
                    "`reconcile run --with NAME -- COMMAND`, or `reconcile lease acquire NAME --owner ID`";
                Err(refusal("ephemeral", message, Some(help)))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn check_ensured(&self, service: &ServiceId) -> Result<(), Refusal> {
        self.check_request(service, &Request::Start)?;
        let Some(view) = self.last_plan.phases.get(service) else { return Ok(()) };
        let code = match (view.phase, &view.reason) {
            (Phase::Stopped, Reason::OnDemand { .. }) => return Ok(()),
            (Phase::Stopped, _) => "stopped",
            (Phase::Rejected, _) => "rejected",
            _ => return Ok(()),
        };
        Err(refusal(code, format!("{service} is {code}: {}", view.reason.message()), None))
    }

    /// It is started for whoever asks, and for nobody else.
    fn waits_for_a_use(&self, service: &ServiceId) -> bool {
        let Some(accepted) = self.accepted(service) else { return false };
        let is_ending = |phase| matches!(phase, Some(Phase::Stopping));
        let view = self.last_plan.phases.get(service);
        let entry = self.memory.ledger().entry(service);
        accepted.spec.is_on_demand()
            && (entry.is_none_or(|entry| entry.activation.is_none())
                || is_ending(view.map(|view| view.phase)))
    }

    /// Written down where a reconciler that knows nothing of it would stop them.
    fn note_use(&mut self, services: &BTreeSet<ServiceId>, mut records: Vec<Record>) -> Result<(), Refusal> {
        let at = self.host.now();
        for service in services {
            let Some(idle) = self.accepted(service).and_then(|accepted| accepted.spec.idle()) else {
                continue;
            };
            let used = self.memory.ledger().entry(service).and_then(|entry| entry.used.clone());
            let is_fresh =
                used.is_some_and(|used| at.left_of(&used, idle / NOTES_PER_IDLE, Clock::Awake).is_some());
            if !is_fresh {
                let (service, request) = (service.clone(), Request::Touch);
                records.push(Record::Request { service, request, at: at.clone() });
            }
            self.service_mut(service).usage.last = Some(at.clone());
        }
        if records.is_empty() { Ok(()) } else { self.promise_records(&records) }
    }
}

/// By service.
pub(super) type AttendedSockets = BTreeMap<ServiceId, Attended>;

//! Commands, turned into records of the ledger or refused with a reason.
//!
//! A refusal changes nothing. What is accepted is on disk before anything is done about it, and outlives
//! the command and the reconciler (DESIGN section 9, overrides).

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Reconciler;
use super::command::{Answer, Command, Refusal, WaitFor};
use super::dependencies::Wider;
use super::leases::Acquired;
use super::selection::{Labels, Selector, select};
use super::status::PassReport;
use super::waiting::{Goal, Purge, Waiting};
use crate::host::{Dirty, Host};
use crate::identity::{Pid, ServiceId};
use crate::manifest::WantedState;
use crate::plan::{Phase, Presence};
use crate::state::{Record, Request};

/// How long a command that acts waits for what it began.
pub(super) const ACT_TIMEOUT: Duration = Duration::from_secs(120);

type Refused<T> = Result<T, Refusal>;

impl<H: Host> Reconciler<H> {
    /// Takes a command in; its answer comes at once or after a later pass.
    pub fn take_command(&mut self, command: Command, answer: oneshot::Sender<Answer>) {
        let purge = match command {
            Command::Down { purge: true, .. } => Purge::Projects,
            Command::DownSome { purge: true, .. } => Purge::Stopped,
            _ => Purge::Nothing,
        };
        let immediate = match self.carry_out(command) {
            Ok(Reply::Now(answer)) => answer,
            Ok(Reply::Later(Later { goal, services, also, timeout, lease })) => {
                let since = self.host.now();
                let entries = self.memory.ledger().services.iter();
                let failures_before = entries
                    .map(|(service, entry)| (service.clone(), Self::failures_in_a_row(entry)))
                    .filter(|(_, failures)| *failures > 0)
                    .collect();
                let steps = Vec::new();
                self.waiting.push(Waiting {
                    goal,
                    services,
                    since,
                    timeout,
                    failures_before,
                    steps,
                    purge,
                    also,
                    lease,
                    told: None,
                    answer,
                });
                return;
            }
            Err(refusal) => Answer::Refused(refusal),
        };
        // Whoever asked may have gone away.
        let _ = answer.send(immediate);
    }

    fn carry_out(&mut self, command: Command) -> Refused<Reply> {
        match command {
            Command::Status => Ok(Reply::Now(Answer::Status(Box::new(self.status())))),
            Command::Plan { names } => {
                self.dirty = Some(Dirty::Everything);
                self.preview();
                let report = self.plan_of(&names)?;
                Ok(Reply::Now(Answer::Report(Box::new(report))))
            }
            Command::Converge { names, timeout, allow_prune } => {
                self.last_resync = None;
                self.preview();
                let services = if names.is_empty() { None } else { Some(self.selected(&names)?) };
                let (services, also) = match services.map(|named| self.with_dependencies(&named)) {
                    Some(Wider { services, also }) => (Some(services), also),
                    None => (None, BTreeSet::new()),
                };
                self.act_on_these_alone(services.as_ref());
                if allow_prune {
                    self.confirm_absent();
                }
                Ok(Reply::Later(Later { also, timeout, ..Later::of(Goal::Settled, services) }))
            }
            Command::Wait { names, until, timeout } => {
                let goal = match until {
                    WaitFor::Ready => Goal::Up,
                    WaitFor::Stopped => Goal::Down,
                };
                self.hands_off = !self.settings.watching;
                self.preview();
                let services = Some(self.selected(&names)?);
                Ok(Reply::Later(Later { timeout, ..Later::of(goal, services) }))
            }
            Command::Stop { names } => self.request_all(&names, &Request::Stop, Goal::Down),
            Command::Start { names } => self.request_all(&names, &Request::Start, Goal::Settled),
            Command::Restart { names } => self.request_all(&names, &Request::Restart, Goal::Settled),
            Command::Reset { names } => self.request_all(&names, &Request::Reset, Goal::Settled),
            Command::Touch { names } => self.touch(&names),
            Command::Ensure { names, timeout } => self.ensure(&names, timeout),
            Command::Lease { names, holder, term, timeout } => self.lease(&names, holder, term, timeout),
            Command::RenewLease { lease, term } => self.renew_lease(&lease, term),
            Command::EndLease { lease, names } => self.end_lease(&lease, &names),
            Command::Renew { names } => self.request_all(&names, &Request::Renew, Goal::Settled),
            Command::Down { project: None, .. } => {
                self.desired.shutdown = true;
                self.desired.everywhere = true;
                Ok(Reply::acting(Goal::Down, None))
            }
            Command::Down { project: Some(project), .. } => {
                self.request_all(&[Selector::project(&project)], &Request::Stop, Goal::Down)
            }
            Command::DownSome { names, .. } => self.request_all(&names, &Request::Stop, Goal::Down),
            Command::Prune { names } => self.confirm_prune(&names),
            Command::Adopt { name, pid } => self.adopt_by_hand(&name, pid),
            Command::Forget { name, more } => {
                let names: Vec<Selector> = std::iter::once(name).chain(more).collect();
                self.forget_by_hand(&names)
            }
            Command::Takeover => self.take_over(),
        }
    }

    /// The last plan, of the services that these names name and of what they depend on.
    pub(super) fn plan_of(&self, names: &[Selector]) -> Refused<PassReport> {
        let named = self.selected(names)?;
        let Wider { services, also } = self.with_dependencies(&named);
        let also = also.iter().map(ToString::to_string).collect();
        Ok(PassReport { also, ..self.plan_report(|service| services.contains(service)) })
    }

    pub(super) fn selected(&self, names: &[Selector]) -> Refused<BTreeSet<ServiceId>> {
        let none = Labels::new();
        let labels = |service: &ServiceId| {
            let want = self.desired.services.get(service).and_then(|want| want.accepted.as_ref());
            let running = || self.observed.services.get(service).and_then(|seen| seen.running.as_ref());
            want.or_else(running).map_or(&none, |accepted| &accepted.spec.labels)
        };
        let known = self.last_plan.phases.keys().map(|service| (service.clone(), labels(service)));
        select(names, &known.collect())
    }

    /// One refusal refuses all. What is to be brought up takes along what it depends on, and a stop of the operator
    /// there is lifted by the same words as its own.
    fn request_all(&mut self, names: &[Selector], request: &Request, goal: Goal) -> Refused<Reply> {
        self.preview();
        let named = self.selected(names)?;
        for service in &named {
            self.check_request(service, request)?;
        }
        let Wider { services, also } = match request {
            Request::Start | Request::Restart | Request::Reset | Request::Renew => {
                self.with_dependencies(&named)
            }
            Request::Stop | Request::Touch => Wider { services: named, also: BTreeSet::new() },
        };
        let lifts_stops = matches!(request, Request::Start | Request::Restart);
        let at = self.host.now();
        let record = |service: &ServiceId, request: &Request| Record::Request {
            service: service.clone(),
            request: request.clone(),
            at: at.clone(),
        };
        let named = services.difference(&also).filter(|it| self.request_changes_something(it, request));
        let mut records: Vec<Record> = named.map(|service| record(service, request)).collect();
        let is_stopped = |service: &&ServiceId| {
            self.memory.ledger().entry(service).is_some_and(|entry| entry.stopped.is_some())
                && self.check_request(service, &Request::Start).is_ok()
        };
        let stopped = also.iter().filter(|service| lifts_stops && is_stopped(service));
        records.extend(stopped.map(|service| record(service, &Request::Start)));
        if !records.is_empty() {
            self.promise_records(&records)?;
        }
        self.act_on_these_alone(Some(&services));
        Ok(Reply::Later(Later { also, ..Later::of(goal, Some(services)) }))
    }

    /// A command without a watcher that names services leaves all others as they are.
    pub(super) fn act_on_these_alone(&mut self, services: Option<&BTreeSet<ServiceId>>) {
        if !self.settings.watching {
            self.desired.only = services.cloned();
        }
    }

    /// `--allow-prune`: what is absent now may go, and nothing that will be absent later.
    fn confirm_absent(&mut self) {
        let absent =
            self.desired.services.iter().filter(|(_, want)| matches!(want.presence, Presence::Absent { .. }));
        let absent: Vec<ServiceId> = absent.map(|(service, _)| service.clone()).collect();
        self.desired.prune.named.extend(absent);
    }

    pub(super) fn promise_records(&mut self, records: &[Record]) -> Refused<()> {
        self.memory.promise(&mut self.host, records).map_err(|error| Refusal {
            code: "ledger-unwritable".to_owned(),
            message: format!("{error}: {}", error.source),
            help: Some("make room or mend the permissions; nothing was done".to_owned()),
        })
    }

    pub(super) fn check_request(&self, service: &ServiceId, request: &Request) -> Refused<()> {
        let view = self.last_plan.phases.get(service);
        let phase = view.map(|view| view.phase);
        let want = self.desired.services.get(service);
        let spec = want.and_then(|want| want.accepted.as_ref()).map(|accepted| &accepted.spec);
        let starts = matches!(request, Request::Start | Request::Restart | Request::Renew | Request::Reset);
        if starts && want.is_some_and(|want| matches!(want.presence, Presence::Absent { .. })) {
            return Err(refusal("not-declared", format!("no manifest declares {service} any more"), None));
        }
        if starts && phase == Some(Phase::Held) {
            let why = view.map(|view| view.reason.message()).unwrap_or_default();
            return Err(refusal("held", format!("{service} is held: {why}"), None));
        }
        match request {
            Request::Stop | Request::Touch => Ok(()),
            Request::Start | Request::Restart
                if spec.is_some_and(|spec| spec.state == WantedState::Stopped) =>
            {
                let file =
                    want.and_then(|want| want.manifest.as_ref()).map(|path| path.display().to_string());
                let place = file.unwrap_or_else(|| "its manifest".to_owned());
                let message = format!("{place} says state = \"stopped\" for {service}");
                Err(refusal("declared-stopped", message, Some("change it to state = \"running\"")))
            }
            Request::Start | Request::Restart if phase == Some(Phase::Expired) => {
                let message = format!("the TTL of {service} is over");
                Err(refusal("expired", message, Some("`reconcile renew NAME` starts it with a new one")))
            }
            Request::Start | Request::Restart if want.is_some_and(|want| want.refused.is_some()) => {
                let why = view.map(|view| view.reason.message()).unwrap_or_default();
                Err(refusal(
                    "policy-refused",
                    format!("{service}: {why}"),
                    Some("the operator's configuration decides"),
                ))
            }
            Request::Start if phase == Some(Phase::Failed) => {
                let message = format!("{service} is parked as failed");
                Err(refusal("failed", message, Some("`reconcile reset NAME` revives it")))
            }
            Request::Start | Request::Restart => Ok(()),
            Request::Reset if matches!(phase, Some(Phase::Failed | Phase::Backoff)) => Ok(()),
            Request::Reset => {
                Err(refusal("not-failed", format!("{service} is neither failed nor in backoff"), None))
            }
            Request::Renew if spec.is_none_or(|spec| spec.ttl.is_none()) => {
                Err(refusal("no-ttl", format!("{service} has no TTL"), None))
            }
            Request::Renew => Ok(()),
        }
    }

    /// False for a start of what runs and a stop of what is stopped: asking twice is no second change.
    fn request_changes_something(&self, service: &ServiceId, request: &Request) -> bool {
        let entry = self.memory.ledger().entry(service);
        match request {
            Request::Stop => entry.is_none_or(|entry| entry.stopped.is_none()),
            Request::Start => entry.is_none_or(|entry| entry.stopped.is_some() || entry.run.is_none()),
            Request::Restart | Request::Reset | Request::Renew | Request::Touch => true,
        }
    }

    fn confirm_prune(&mut self, names: &[Selector]) -> Refused<Reply> {
        self.preview();
        let services = self.selected(names)?;
        for service in &services {
            let absent = self
                .desired
                .services
                .get(service)
                .is_some_and(|want| matches!(want.presence, Presence::Absent { .. }));
            if !absent {
                let help = Some("delete its manifest, or `reconcile stop` it");
                return Err(refusal("still-declared", format!("{service} is declared by a manifest"), help));
            }
        }
        self.desired.prune.named.extend(services.iter().cloned());
        self.act_on_these_alone(Some(&services));
        Ok(Reply::acting(Goal::Down, Some(services)))
    }

    /// The services that the names mean; refused unless each is held for what its process is.
    fn held(&mut self, names: &[Selector]) -> Refused<BTreeSet<ServiceId>> {
        self.preview();
        let services = self.selected(names)?;
        for service in &services {
            match self.last_plan.phases.get(service) {
                Some(view) if view.phase == Phase::Held && view.reason.is_about_identity() => {}
                _ => return Err(refusal("not-held", format!("{service} is not held"), None)),
            }
        }
        Ok(services)
    }

    fn forget_by_hand(&mut self, names: &[Selector]) -> Refused<Reply> {
        let services = self.held(names)?;
        let entry = |service: &ServiceId| self.memory.ledger().entry(service)?.run.as_ref();
        let gone = |service: &ServiceId| {
            let nonce = entry(service)?.nonce.clone();
            Some(Record::Gone { service: service.clone(), nonce })
        };
        let records: Vec<Record> = services.iter().filter_map(gone).collect();
        if !records.is_empty() {
            self.promise_records(&records)?;
        }
        services.iter().for_each(|service| self.clear_run(service));
        Ok(Reply::acting(Goal::Settled, Some(services)))
    }

    fn adopt_by_hand(&mut self, name: &str, pid: Pid) -> Refused<Reply> {
        let mut services = self.held(&[name.into()])?;
        let service = services.pop_first().expect("one name selects at least one");
        if !services.is_empty() {
            let message = format!("`{name}` names several services, and a process leads one");
            return Err(refusal("several-services", message, Some("name one of them")));
        }
        let run = self.memory.ledger().entry(&service).and_then(|entry| entry.run.as_ref());
        let Some((nonce, claimed)) = run.map(|run| (run.nonce.clone(), run.containment.clone())) else {
            return Err(refusal(
                "nothing-claimed",
                format!("the ledger claims no process for {service}"),
                None,
            ));
        };
        let process = self
            .host
            .identify(pid)
            .ok_or_else(|| refusal("no-such-process", format!("there is no process {pid}"), None))?;
        let containment = claimed.or_else(|| self.host.containment(&nonce, &process)).ok_or_else(|| {
            refusal(
                "not-contained",
                format!(
                    "pid {pid} is not where the run of {service} was started, so what it leaves behind could not be told \
                     from others"
                ),
                Some("end it, then `reconcile forget NAME` the service"),
            )
        })?;
        let at = self.host.now();
        let record = Record::Started { service: service.clone(), nonce, process, containment, at };
        self.promise_records(&[record])?;
        self.observe_everything();
        Ok(Reply::acting(Goal::Settled, Some([service].into())))
    }

    fn take_over(&mut self) -> Refused<Reply> {
        if self.foreign.is_none() {
            return Err(refusal(
                "not-foreign",
                "the state directory is this instance's own".to_owned(),
                None,
            ));
        }
        self.settings.instance =
            self.host.claim_instance().map_err(|message| refusal("state-dir", message, None))?;
        self.foreign = None;
        self.observe_everything();
        Ok(Reply::acting(Goal::Settled, None))
    }
}

/// When a command is answered.
#[derive(Debug)]
pub(super) enum Reply {
    Now(Answer),
    Later(Later),
}

/// What is waited for.
#[derive(Debug)]
pub(super) struct Later {
    pub goal: Goal,
    pub services: Option<BTreeSet<ServiceId>>,
    pub also: BTreeSet<ServiceId>,
    pub timeout: Duration,
    pub lease: Option<Acquired>,
}

impl Later {
    pub fn of(goal: Goal, services: Option<BTreeSet<ServiceId>>) -> Self {
        Self { goal, services, also: BTreeSet::new(), timeout: ACT_TIMEOUT, lease: None }
    }
}

impl Reply {
    fn acting(goal: Goal, services: Option<BTreeSet<ServiceId>>) -> Self {
        Self::Later(Later::of(goal, services))
    }
}

pub(super) fn refusal(code: &str, message: String, help: Option<&str>) -> Refusal {
    Refusal { code: code.to_owned(), message, help: help.map(str::to_owned) }
}

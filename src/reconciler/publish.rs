//! What is published: the status of every service and file, and steps as reports.
//!
//! Reads what the last pass left; changes nothing.

use super::Reconciler;
use super::status::{
    Apart, DependencyStatus, Drift, HealthStatus, LastExit, LastPass, LeaseStatus, ManifestStatus,
    PassReport, ServiceStatus, Status, StepReport, VERSION,
};
use crate::host::Host;
use crate::identity::{ProcessIdentity, ServiceId};
use crate::manifest::{Dependency, Spec, WantedState};
use crate::plan::{Action, Phase, PhaseView, Plan, Seen, Step, Want, as_it_runs, failures_now};
use crate::state::{Containment, Entry, ExitStatus, Reason, Run};
use crate::time::{Clock, Stamp, rfc3339};

impl<H: Host> Reconciler<H> {
    pub fn status(&self) -> Status {
        let now = self.host.now();
        let last_pass = self.last_pass.as_ref().map(|(at, steps)| LastPass {
            at: at.rfc3339(),
            age_ms: now.since(at, Clock::Suspend).as_millis() as u64,
            steps: *steps,
        });
        Status {
            version: VERSION,
            instance: Some(self.settings.instance.to_string()),
            watching: self.settings.watching,
            polling: self.host.why_polling(),
            last_pass,
            services: self.last_plan.phases.iter().map(|(id, view)| self.service_status(id, view)).collect(),
            manifests: self.manifest_statuses(),
        }
    }

    /// What a pass would do now.
    pub fn previewed(&mut self) -> PassReport {
        self.preview();
        self.plan_report(|_| true)
    }

    /// The last plan as a report; of the services that `chosen` says.
    pub(super) fn plan_report(&self, chosen: impl Fn(&ServiceId) -> bool) -> PassReport {
        let steps = self.last_plan.steps.iter().filter(|step| chosen(&step.service));
        let now = steps.map(|step| StepReport { wave: Some(1), ..self.preview_step(step) });
        let later = self.last_plan.later.iter().filter(|later| chosen(&later.step.service));
        let later = later.map(|later| StepReport {
            wave: Some(later.wave),
            after: later.after.iter().map(ToString::to_string).collect(),
            ..self.preview_step(&later.step)
        });
        let steps: Vec<StepReport> = now.chain(later).collect();
        PassReport {
            version: VERSION,
            changes: steps.iter().any(|step| step.action.is_change()),
            steps,
            converged: None,
            unwell: Vec::new(),
            apart: self.apart(chosen),
            also: Vec::new(),
            manifests: self.manifest_statuses(),
        }
    }

    /// Of the services that `chosen` says: those of which it is not true that what is declared is what runs.
    pub(super) fn apart(&self, chosen: impl Fn(&ServiceId) -> bool) -> Vec<Apart> {
        let is_apart = |service: &ServiceId, view: &PhaseView| match view.phase {
            Phase::Running | Phase::Ready => {
                self.desired.services.get(service).is_some_and(|want| !want.problems.is_empty())
            }
            Phase::Completed => false,
            Phase::Stopped => !matches!(view.reason, Reason::DeclaredStopped | Reason::OnDemand { .. }),
            Phase::Held => !matches!(view.reason, Reason::ForeignRoot { .. }),
            Phase::Pending
            | Phase::Starting
            | Phase::Unhealthy
            | Phase::Backoff
            | Phase::Failed
            | Phase::Stopping
            | Phase::Expired
            | Phase::Rejected => true,
        };
        let phases = self.last_plan.phases.iter();
        phases
            .filter(|(service, view)| chosen(service) && is_apart(service, view))
            .map(|(service, view)| Apart { service: service.to_string(), phase: view.phase })
            .collect()
    }

    pub(super) fn preview_step(&self, step: &Step) -> StepReport {
        let fields = match &step.reason {
            Reason::SpecChanged { fields } | Reason::LiveChanged { fields } => fields.clone(),
            _ => Vec::new(),
        };
        StepReport {
            service: step.service.to_string(),
            action: step.action,
            reason: step.reason.code().to_owned(),
            message: self.step_message(step),
            fields,
            evidence: self.evidence(step),
            wave: None,
            after: Vec::new(),
            outcome: None,
        }
    }

    /// That it is stopped although somebody holds it, nobody shall have to find out.
    pub(super) fn step_message(&self, step: &Step) -> String {
        let message = step.reason.message();
        match step.action {
            Action::Stop if step.reason.overrules_leases() => {
                although_leased(message, &self.leases_of(&step.service, &self.host.now()))
            }
            _ => message,
        }
    }

    fn evidence(&self, step: &Step) -> serde_json::Value {
        let run = self.memory.ledger().entry(&step.service).and_then(|entry| entry.run.as_ref());
        let process = run.and_then(|run| run.process.as_ref());
        serde_json::json!({
            "reason": step.reason,
            "pid": process.map(|process| process.pid),
            "start_ticks": process.map(|process| process.start_ticks),
            "boot_id": process.map(|process| process.boot.as_str()),
        })
    }

    pub(super) fn manifest_statuses(&self) -> Vec<ManifestStatus> {
        let status = |file: &super::desired::FileView| ManifestStatus {
            path: file.path.clone(),
            ok: !file.problems.iter().any(crate::manifest::Problem::blocks),
            problems: file.problems.clone(),
            may_show_lines: file.may_show_lines,
            file: file.version,
        };
        self.manifests.files.iter().map(status).collect()
    }

    pub(super) fn service_status(&self, service: &ServiceId, view: &PhaseView) -> ServiceStatus {
        let unknown = Entry::default();
        let entry = self.memory.ledger().entry(service).unwrap_or(&unknown);
        let want = self.desired.services.get(service);
        let spec = want.and_then(|want| want.accepted.as_ref()).map(|accepted| &accepted.spec);
        let run = entry.run.as_ref();
        let started_at = run.and_then(|run| run.started_at.as_ref());
        let leader = self.leader(service, run);
        let now = self.host.now();
        let shown = spec.map(|spec| self.render_shown(spec));
        let (url, attrs, sockets) = shown.map_or((None, serde_json::Map::new(), Vec::new()), |shown| {
            (shown.url, shown.attrs, shown.sockets)
        });
        let (untouched, mut drift) = match self.what_would_become(service, view) {
            Some((untouched, change)) => (Some(untouched), vec![change]),
            None => (None, Vec::new()),
        };
        let view = untouched.as_ref().unwrap_or(view);
        drift.extend(self.drift.get(service).into_iter().flatten().cloned());
        let (phase, message) = self.shown_phase(view, entry);
        let leases = self.leases_of(service, &now);
        let is_down = matches!(phase, Phase::Expired | Phase::Rejected) || view.reason.overrules_leases();
        let message = if is_down { although_leased(message, &leases) } else { message };
        ServiceStatus {
            name: service.to_string(),
            project: service.project().to_owned(),
            phase,
            reason: view.reason.code().to_owned(),
            message,
            pid: leader.map(|process| process.pid),
            started_at: started_at.map(Stamp::rfc3339),
            uptime_s: started_at
                .filter(|_| leader.is_some())
                .map(|at| now.since(at, Clock::Suspend).as_secs()),
            restarts: entry.restarts,
            failures: failures_now(entry, spec, &now),
            failures_max: spec.map(|spec| spec.restart.max_failures),
            ports: self.shown_ports(service),
            sockets: sockets.into_iter().map(|socket| (socket.name, socket.address.to_string())).collect(),
            url,
            fingerprint: run
                .map(|run| run.fingerprint.clone())
                .or_else(|| want.and_then(|want| Some(want.accepted.as_ref()?.fingerprint.clone()))),
            manifest: want.and_then(|want| want.manifest.clone()),
            ttl_expires_at: want.and_then(|want| ttl_expires_at(want, entry)),
            health: spec.and_then(|spec| spec.health.as_ref()).map(|_| self.health_status(service, phase)),
            last_exit: last_exit(entry),
            cpu_percent: None,
            memory_bytes: None,
            log: self.settings.layout.log(service),
            containment: run.and_then(|run| run.containment.as_ref()).map(|containment| {
                match containment {
                    Containment::Cgroup { .. } => "cgroup",
                    Containment::Holder { .. } => "holder",
                }
                .to_owned()
            }),
            drift,
            depends_on: spec.map(depends_on).unwrap_or_default(),
            leases,
            labels: spec.map(|spec| spec.labels.clone()).unwrap_or_default(),
            attrs,
        }
    }

    /// The process that is shown as the service's. Of a run that is held the ledger may name one that is long gone.
    fn leader<'r>(&self, service: &ServiceId, run: Option<&'r Run>) -> Option<&'r ProcessIdentity> {
        let process = run.filter(|run| run.end.is_none())?.process.as_ref()?;
        let is_held = self
            .observed
            .services
            .get(service)
            .is_some_and(|live| matches!(live.seen, Seen::Unverifiable(_)));
        (!is_held || self.host.identify(process.pid).as_ref() == Some(process)).then_some(process)
    }

    /// Where nobody watches, what a pass would start is stopped.
    fn shown_phase(&self, view: &PhaseView, entry: &Entry) -> (Phase, String) {
        let message = view.reason.message();
        if view.phase == Phase::Starting && entry.run.is_none() && self.last_pass.is_none() {
            return (Phase::Stopped, format!("not running; a pass would start it: {message}"));
        }
        (view.phase, message)
    }

    /// Where nobody watches, what a pass would end is as it runs; with what would become of it.
    fn what_would_become(&self, service: &ServiceId, view: &PhaseView) -> Option<(PhaseView, Drift)> {
        if view.phase != Phase::Stopping || self.last_pass.is_some() {
            return None;
        }
        let step = self.last_plan.steps.iter().find(|step| step.service == *service)?;
        let verb = match step.action {
            Action::Restart => "restart",
            Action::Stop => "stop",
            _ => return None,
        };
        let message = format!("a pass would {verb} it: {}", step.reason.message());
        let change = Drift { code: step.reason.code().to_owned(), message };
        Some((self.as_it_runs(service, &self.host.now())?, change))
    }

    /// Of a plan that is not carried out: what it would end goes on.
    pub(super) fn show_as_it_runs(&self, plan: &mut Plan, now: &Stamp) {
        let Plan { steps, phases, .. } = plan;
        for step in steps.iter().filter(|step| matches!(step.action, Action::Restart | Action::Stop)) {
            if let (Some(view), Some(untouched)) =
                (phases.get_mut(&step.service), self.as_it_runs(&step.service, now))
            {
                *view = untouched;
            }
        }
    }

    fn as_it_runs(&self, service: &ServiceId, now: &Stamp) -> Option<PhaseView> {
        let want = self.desired.services.get(service);
        let accepted = want.and_then(|want| want.accepted.as_deref());
        as_it_runs(self.observed.services.get(service)?, accepted, now)
    }

    /// Of a service that was ready when it was last watched, that is known without a probe of ours.
    fn health_status(&self, service: &ServiceId, phase: Phase) -> HealthStatus {
        let health = self.observed.services.get(service).map(|live| &live.health);
        HealthStatus {
            ready: phase == Phase::Ready || health.is_some_and(|health| health.ready_since.is_some()),
            last_probe_at: health.and_then(|health| Some(health.last_probe.as_ref()?.rfc3339())),
            last_error: health.and_then(|health| health.last_error.clone()),
            status: health.and_then(|health| health.said.as_ref()?.status.clone()),
        }
    }
}

fn although_leased(message: String, leases: &[LeaseStatus]) -> String {
    match leases.first() {
        Some(lease) => format!("{message}, although {} has leased it", lease.holder),
        None => message,
    }
}

fn ttl_expires_at(want: &Want, entry: &Entry) -> Option<String> {
    let spec = &want.accepted.as_ref()?.spec;
    if spec.state == WantedState::Stopped {
        return None;
    }
    let activation = entry.activation.as_ref()?;
    Some(rfc3339(activation.wall_ms.saturating_add(spec.ttl?.as_millis() as i64)))
}

fn depends_on(spec: &Spec) -> Vec<DependencyStatus> {
    let status = |(service, dependency): (&ServiceId, &Dependency)| DependencyStatus {
        service: service.to_string(),
        condition: dependency.condition,
        restart: dependency.restart,
    };
    spec.depends_on.iter().map(status).collect()
}

fn last_exit(entry: &Entry) -> Option<LastExit> {
    let last = entry.last.as_ref()?;
    let (code, signal) = match last.status() {
        Some(ExitStatus::Code(code)) => (Some(code), None),
        Some(ExitStatus::Signal(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    Some(LastExit { code, signal, at: last.ended_at.rfc3339() })
}

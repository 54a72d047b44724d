//! Secrets that commands write: run before each start that is given them, and on a schedule where that is asked for.
//!
//! A start waits at its gate while they run beside no run, contained and bounded like every job; a process is not stopped
//! for a restart before they are had. One that fails is tried again after growing waits. Only a pass that acts runs any.
//! Values are held from the command's end to the start, and told to nobody else.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Reconciler;
use super::retry::Retry;
use crate::host::{Host, JobOutcome, JobPurpose, JobRequest, SpawnRequest, WROTE_TOO_MUCH};
use crate::identity::{Digest, Nonce, ServiceId};
use crate::manifest::Spec;
use crate::plan::{Accepted, Action, Plan, Seen};
use crate::policy::Purpose;
use crate::state::{ExitStatus, Reason};
use crate::time::{Clock, Stamp, human};

/// What is kept of the output of a job: of more, the rest is missing.
const MAX_BYTES: usize = (64 << 10) - 1;

/// Values that a start did not come to within this, beside what the stop before it may take, are had anew.
const FRESH: Duration = Duration::from_secs(60);

/// The drift of a run whose secret cannot be looked at again.
const NOT_REFRESHED: &str = "secret-not-refreshed";

#[derive(Debug, Default)]
pub(super) struct Commanded {
    /// For the next start of each service.
    starts: BTreeMap<ServiceId, Fetch>,
    /// What is known beside runs of secrets that are looked at again.
    refreshed: BTreeMap<(ServiceId, String), Refreshed>,
    under_way: BTreeMap<Nonce, (ServiceId, String, For)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Start,
    Refresh,
}

/// A value, or why there is none; never shown.
struct Value(Result<String, String>);

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Value")
    }
}

#[derive(Debug)]
struct Fetch {
    /// The fingerprint of the version that it is for.
    of: String,
    /// When the last answer came.
    at: Stamp,
    /// With the jobs whose answers count: of one that was begun before, nobody waits for the answer.
    pending: BTreeMap<String, Nonce>,
    values: BTreeMap<String, Value>,
    retry: Retry,
}

impl Fetch {
    fn first_pending(&self) -> Option<Reason> {
        self.pending.keys().next().map(|name| Reason::SecretPending { name: name.clone() })
    }

    /// The first that was not had and is needed.
    fn failure(&self, spec: &Spec) -> Option<Reason> {
        let is_needed = |name: &str| spec.secrets.get(name).is_some_and(|secret| !secret.optional);
        self.values.iter().filter(|(name, _)| is_needed(name)).find_map(|(name, value)| {
            let why = value.0.as_ref().err()?.clone();
            Some(Reason::SecretUnavailable { name: name.clone(), why })
        })
    }
}

#[derive(Debug)]
struct Refreshed {
    /// When it was last looked at.
    at: Stamp,
    digest: Option<Digest>,
    /// The job whose answer counts.
    in_flight: Option<Nonce>,
}

impl<H: Host> Reconciler<H> {
    /// Runs the commands of what the plan would start, closes the gates of those that wait for one, and says whether
    /// there are any.
    pub(super) fn close_secret_gates(&mut self, plan: &Plan) -> bool {
        let mut closed = false;
        for step in &plan.steps {
            if matches!(step.action, Action::Start | Action::Restart)
                && let Some(gate) = self.missing_secret(&step.service)
            {
                self.close_gate(&step.service, gate);
                closed = true;
            }
        }
        closed
    }

    fn missing_secret(&mut self, service: &ServiceId) -> Option<Reason> {
        let accepted = self.accepted(service)?;
        accepted.spec.secret_commands().next()?;
        let now = self.host.now();
        let mut retry = Retry::default();
        if let Some(fetch) = self.commanded.starts.get_mut(service)
            && fetch.of == accepted.fingerprint
        {
            if let Some(pending) = fetch.first_pending() {
                return Some(pending);
            }
            // That of the command of a stop, and of the signal after it.
            let lasts = FRESH + accepted.spec.stop.grace * 2;
            match fetch.failure(&accepted.spec) {
                Some(failure) if !fetch.retry.is_due(&now) => return Some(failure),
                None if now.left_of(&fetch.at, lasts, Clock::Awake).is_some() => return None,
                Some(_) | None => retry = std::mem::take(&mut fetch.retry),
            }
        }
        self.fetch(service, &accepted, retry)
    }

    /// Runs all of them, and says what the start waits for.
    fn fetch(&mut self, service: &ServiceId, accepted: &Accepted, retry: Retry) -> Option<Reason> {
        let at = self.host.now();
        let of = accepted.fingerprint.clone();
        let mut fetch = Fetch { of, at, pending: BTreeMap::new(), values: BTreeMap::new(), retry };
        for (name, _) in accepted.spec.secret_commands() {
            match self.run_secret_command(&accepted.spec, name, For::Start) {
                Ok(job) => _ = fetch.pending.insert(name.to_owned(), job),
                Err(why) => _ = fetch.values.insert(name.to_owned(), Value(Err(why))),
            }
        }
        let first = fetch.first_pending();
        self.commanded.starts.insert(service.clone(), fetch);
        first.or_else(|| self.settle_fetch(service))
    }

    fn run_secret_command(&mut self, spec: &Spec, name: &str, purpose: For) -> Result<Nonce, String> {
        let rendered = match purpose {
            For::Start => self.render_with(spec, &self.ports_given(&spec.id)),
            For::Refresh => self.render(spec),
        };
        let argv = rendered.secret_commands.get(name).ok_or("it has no command")?;
        let (_, command) =
            spec.secret_commands().find(|(other, _)| *other == name).ok_or("it has no command")?;
        let request = self.job_request(spec, &rendered, Purpose::Secret, argv);
        let request = request.map_err(|reason| reason.message())?;
        let nonce = request.nonce.clone();
        self.commanded.under_way.insert(nonce.clone(), (spec.id.clone(), name.to_owned(), purpose));
        self.host.run_job(JobRequest {
            purpose: JobPurpose::Secret,
            of: nonce.clone(),
            spawn: SpawnRequest { stdout_only: true, ..request },
            timeout: command.timeout,
        });
        Ok(nonce)
    }

    pub(super) fn secret_command_done(&mut self, of: &Nonce, outcome: &JobOutcome) {
        let Some((service, name, purpose)) = self.commanded.under_way.remove(of) else { return };
        let bound = self.accepted(&service).and_then(|accepted| {
            let mut commands = accepted.spec.secret_commands();
            commands.find(|(other, _)| *other == name).map(|(_, command)| command.timeout)
        });
        let value = value_of(outcome, bound.unwrap_or_default());
        match purpose {
            For::Refresh => {
                let known = self.commanded.refreshed.get(&(service.clone(), name.clone()));
                if known.is_some_and(|known| known.in_flight.as_ref() == Some(of)) {
                    self.take_refreshed(&service, &name, value);
                }
            }
            For::Start => {
                let Some(fetch) = self.commanded.starts.get_mut(&service) else { return };
                if fetch.pending.get(&name) != Some(of) {
                    return;
                }
                fetch.pending.remove(&name);
                fetch.values.insert(name, Value(value));
                if fetch.pending.is_empty() {
                    let gate = self.settle_fetch(&service);
                    if let Some(want) = self.desired.services.get_mut(&service)
                        && matches!(want.gate, Some(Reason::SecretPending { .. }))
                    {
                        want.gate = gate;
                    }
                }
            }
        }
    }

    /// All of them have ended: what the start still waits for.
    fn settle_fetch(&mut self, service: &ServiceId) -> Option<Reason> {
        let accepted = self.accepted(service)?;
        let now = self.host.now();
        let fetch = self.commanded.starts.get_mut(service)?;
        fetch.at = now.clone();
        let failure = fetch.failure(&accepted.spec);
        let is_news = fetch.retry.left(&now).is_none();
        fetch.retry.note(failure.is_some(), &now);
        if let Some(failure) = failure.as_ref().filter(|_| is_news) {
            tracing::warn!(%service, code = failure.code(), "{}", failure.message());
        }
        failure
    }

    /// The gates of those that are to be tried again.
    pub(super) fn open_secret_gates_if_due(&mut self, now: &Stamp) {
        for (service, fetch) in &self.commanded.starts {
            if fetch.retry.is_due(now)
                && let Some(want) = self.desired.services.get_mut(service)
            {
                want.gate.take_if(|gate| is_of(fetch, gate));
            }
        }
    }

    pub(super) fn secrets_deadline(&self, now: &Stamp) -> Option<Duration> {
        let tries = self.commanded.starts.iter().filter_map(|(service, fetch)| {
            let gate = self.desired.services.get(service)?.gate.as_ref()?;
            is_of(fetch, gate).then(|| fetch.retry.left(now))?
        });
        let refreshes = self.refreshes(now).map(|(_, _, left)| left);
        tries.chain(refreshes).min()
    }

    /// What the next start of a service is given, once. One that is optional and could not be had is empty, which no
    /// value is.
    pub(super) fn take_commanded(&mut self, accepted: &Accepted) -> Result<BTreeMap<String, String>, Reason> {
        let Some((first, _)) = accepted.spec.secret_commands().next() else { return Ok(BTreeMap::new()) };
        let fetch = self.commanded.starts.remove(&accepted.spec.id);
        let Some(fetch) = fetch.filter(|fetch| fetch.of == accepted.fingerprint && fetch.pending.is_empty())
        else {
            return Err(Reason::SecretPending { name: first.to_owned() });
        };
        if let Some(failure) = fetch.failure(&accepted.spec) {
            return Err(failure);
        }
        Ok(fetch.values.into_iter().map(|(name, value)| (name, value.0.unwrap_or_default())).collect())
    }

    /// Beside what runs, the values that it was started with are those that are known.
    pub(super) fn note_given(&mut self, spec: &Spec, digests: &BTreeMap<String, Digest>) {
        let at = self.host.now();
        for (name, command) in spec.secret_commands() {
            let known = Refreshed { at: at.clone(), digest: digests.get(name).cloned(), in_flight: None };
            if command.refresh.is_some() {
                self.commanded.refreshed.insert((spec.id.clone(), name.to_owned()), known);
            }
        }
    }

    /// The digest of what it was, when it was last looked at.
    pub(super) fn refreshed_digest(&self, service: &ServiceId, name: &str) -> Option<Digest> {
        self.commanded.refreshed.get(&(service.clone(), name.to_owned()))?.digest.clone()
    }

    /// Looks again at those that are due.
    pub(super) fn refresh_secrets(&mut self, now: &Stamp) {
        self.commanded.refreshed.retain(|(service, _), _| self.desired.services.contains_key(service));
        self.commanded.starts.retain(|service, _| self.desired.services.contains_key(service));
        let is_due = |(_, _, left): &(_, _, Duration)| left.is_zero();
        let due: Vec<(ServiceId, String, Duration)> = self.refreshes(now).filter(is_due).collect();
        for (service, name, _) in due {
            let Some(accepted) = self.accepted(&service) else { continue };
            let known = self.commanded.refreshed.entry((service.clone(), name.clone()));
            known.or_insert_with(|| Refreshed { at: now.clone(), digest: None, in_flight: None }).at =
                now.clone();
            match self.run_secret_command(&accepted.spec, &name, For::Refresh) {
                Ok(job) => {
                    if let Some(known) = self.commanded.refreshed.get_mut(&(service, name)) {
                        known.in_flight = Some(job);
                    }
                }
                Err(why) => self.take_refreshed(&service, &name, Err(why)),
            }
        }
    }

    /// Of what runs, and when each is due. Without a watcher there is no schedule.
    fn refreshes(&self, now: &Stamp) -> impl Iterator<Item = (ServiceId, String, Duration)> {
        let acts = self.settings.watching && !self.hands_off && !self.desired.shutdown;
        let runs = self.observed.services.iter().filter(move |(_, live)| acts && live.seen == Seen::Alive);
        runs.flat_map(move |(service, live)| {
            let accepted = self.desired.services.get(service).and_then(|want| want.accepted.as_deref());
            let begun = live.entry.run.as_ref().map(|run| &run.intent_at);
            accepted.into_iter().flat_map(|accepted| accepted.spec.secret_commands()).filter_map(
                move |(name, command)| {
                    let known = self.commanded.refreshed.get(&(service.clone(), name.to_owned()));
                    if known.is_some_and(|known| known.in_flight.is_some()) {
                        return None;
                    }
                    let since = known.map(|known| &known.at).or(begun)?;
                    let left = now.left_of(since, command.refresh?, Clock::Awake).unwrap_or_default();
                    Some((service.clone(), name.to_owned(), left))
                },
            )
        })
    }

    /// What cannot be looked at again is no change.
    fn take_refreshed(&mut self, service: &ServiceId, name: &str, value: Result<String, String>) {
        let digest = value.and_then(|value| {
            let key = self.host.secret_key()?.ok_or("the key of the state directory is not there")?;
            Ok(key.digest(name, &value))
        });
        let Some(known) = self.commanded.refreshed.get_mut(&(service.clone(), name.to_owned())) else {
            return;
        };
        known.in_flight = None;
        match digest {
            Err(why) => {
                let message = format!("it runs on with the secret {name} that it has: {why}");
                self.show_drift(service, NOT_REFRESHED, &message);
            }
            Ok(digest) => {
                let is_news = known.digest.as_ref() != Some(&digest);
                known.digest = Some(digest);
                self.hide_drift(service, NOT_REFRESHED);
                if is_news {
                    self.mark_dirty(crate::host::Dirty::Paths(Vec::new()));
                }
            }
        }
    }
}

/// Whether a gate is closed for a command that has failed.
fn is_of(fetch: &Fetch, gate: &Reason) -> bool {
    matches!(gate, Reason::SecretUnavailable { name, .. } if fetch.values.contains_key(name))
}

/// What a command has written, without the end of its last line; or a sentence, which has nothing of it.
fn value_of(outcome: &JobOutcome, bound: Duration) -> Result<String, String> {
    let text = match outcome {
        JobOutcome::Exit { output, .. } if output.ends_with(WROTE_TOO_MUCH) || output.len() > MAX_BYTES => {
            return Err(format!("its command wrote more than {MAX_BYTES} bytes"));
        }
        JobOutcome::Exit { status: ExitStatus::Code(0), output } => output,
        JobOutcome::Exit { status, .. } => return Err(format!("its command ended with {status}")),
        JobOutcome::TimedOut => return Err(format!("its command was not done within {}", human(bound))),
        JobOutcome::NotStarted(failure) => return Err(failure.message.clone()),
        JobOutcome::Cancelled => return Err("its command was broken off".to_owned()),
    };
    let value = text.strip_suffix('\n').unwrap_or(text).trim_end_matches('\r');
    match value {
        "" => Err("its command wrote nothing".to_owned()),
        value if value.contains(['\0', '\u{fffd}']) => Err("its command wrote what is no text".to_owned()),
        value => Ok(value.to_owned()),
    }
}

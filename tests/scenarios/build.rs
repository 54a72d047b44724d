//! From the form of a scenario file to the inputs of the planner.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reconcile::identity::{BootId, Digest, Nonce, Pid, ProcessIdentity, ServiceId};
use reconcile::manifest::{
    self, CheckPort, CommandLine, Dependency, HealthCheck, Lifecycle, OnUnhealthy, Problem, RestartPolicy,
    SignalName, Spec, StopPolicy, Unread, WantedState,
};
use reconcile::plan::{
    Accepted, Desired, Flight, Health, HeldLease, Observed, Presence, PruneRules, Refusal, RootState, Seen,
    Service, UnreadFile, Usage, Want,
};
use reconcile::state::{
    Containment, Contents, End, Entry, ExecFacts, ExitStatus, FileKey, FileMarks, Holder, LastRun, Lease,
    Reason, RootKey, Run, SecretKey, SpawnFailure, Stopping, Term,
};
use reconcile::time::Stamp;

use super::{
    Case, ContentsCase, EndCase, FlightCase, HealthSpecCase, LastCase, LeaseCase, PolicyCase, PresenceCase,
    ReasonCase, RestartCase, RunCase, SecretsCase, SeenCase, ServiceCase, Span, SpawnFailureCase, StateCase,
    StopPolicyCase, Time, UnreadCase,
};

const WALL_OF_BOOT_MS: i64 = 1_700_000_000_000;

fn root() -> RootKey {
    RootKey("r1".to_owned())
}

impl Span {
    fn get(&self) -> Duration {
        humantime::parse_duration(&self.0).unwrap_or_else(|error| panic!("`{}`: {error}", self.0))
    }
}

impl Time {
    fn get(&self) -> Stamp {
        let (boot, sign, text) = match self.0.strip_prefix('-') {
            Some(text) => ("before", -1, text),
            None => ("now", 1, self.0.as_str()),
        };
        let ms = Span(text.to_owned()).get().as_millis() as u64;
        Stamp {
            boot: BootId::new(boot),
            boottime_ms: ms,
            awake_ms: ms,
            wall_ms: WALL_OF_BOOT_MS + sign * ms as i64,
        }
    }
}

impl ReasonCase {
    fn get(&self) -> Reason {
        match self {
            Self::Full(reason) => reason.clone(),
            Self::Code(code) => serde_json::from_value(serde_json::json!({ "code": code }))
                .unwrap_or_else(|error| panic!("reason `{code}`: {error}")),
        }
    }
}

impl EndCase {
    fn get(&self) -> End {
        let words: Vec<&str> = self.0.split(' ').collect();
        let status = |kind: &str, number: &str| match kind {
            "code" => ExitStatus::Code(number.parse().unwrap()),
            "signal" => ExitStatus::Signal(number.parse().unwrap()),
            other => panic!("`{other}` is neither code nor signal"),
        };
        match words[..] {
            ["unknown"] => End::Unknown,
            ["other-boot"] => End::OtherBoot,
            ["ours"] => End::Ours { status: None },
            ["ours", kind, number] => End::Ours { status: Some(status(kind, number)) },
            [kind, number] => End::Exit { status: status(kind, number) },
            _ => panic!("`{}` is not an end", self.0),
        }
    }
}

impl Case {
    pub fn now(&self) -> Stamp {
        let mut now = self.now.get();
        now.awake_ms -= self.asleep.as_ref().map_or(0, |asleep| asleep.get().as_millis() as u64);
        now
    }

    pub fn desired(&self) -> Desired {
        let id = |name: &String| ServiceId::parse(name).unwrap();
        let state = RootState {
            path: "/srv/app/manifests".into(),
            lost: self.lost.clone(),
            checkout: self.checkout.clone(),
            unread: self.unread.iter().map(|(path, file)| file.get(path)).collect(),
            quiet_for: self.quiet.get(),
        };
        Desired {
            services: self
                .service
                .iter()
                .filter(|(_, service)| !matches!(service.presence, PresenceCase::Unknown))
                .map(|(name, service)| (id(name), service.want(&id(name))))
                .collect(),
            roots: BTreeMap::from([(root(), state)]),
            prune: PruneRules {
                allow: self.allow_prune,
                named: self.prune_named.iter().map(id).collect(),
                ..PruneRules::default()
            },
            shutdown: self.shutdown,
            kill: self.kill,
            everywhere: self.everywhere,
            only: self.only.as_ref().map(|only| only.iter().map(id).collect()),
        }
    }

    pub fn observed(&self) -> Observed {
        let services = self.service.iter().map(|(name, service)| {
            let id = ServiceId::parse(name).unwrap();
            let observed = service.observed(&id);
            (id, observed)
        });
        let leases = self.lease.iter().map(|(owner, lease)| lease.get(owner));
        Observed { services: services.collect(), leases: leases.collect() }
    }
}

impl LeaseCase {
    fn get(&self, owner: &str) -> HeldLease {
        let process = self.pid.map(|pid| ProcessIdentity {
            pid: Pid::new(pid).unwrap(),
            start_ticks: 4_200,
            boot: BootId::new("now"),
            pid_ns: 1,
        });
        let holder = match process {
            Some(process) => Holder::Process { process, command: owner.to_owned() },
            None => Holder::Owner { owner: owner.to_owned() },
        };
        let term = self.term.as_ref().map(|(at, length)| Term { renewed: at.get(), length: length.get() });
        let services = self.services.iter().map(|name| ServiceId::parse(name).unwrap()).collect();
        let since = Time("1m".to_owned()).get();
        HeldLease { lease: Lease { holder, services, since, term }, holder_ended: self.ended }
    }
}

impl UnreadCase {
    fn get(&self, path: &Path) -> UnreadFile {
        let (services, changed_wall_ms) = match self {
            Self::Names(names) => (Unread::Names(names.clone()), 0),
            Self::Changed(at) => (Unread::Anything, at.get().wall_ms),
        };
        let problem = "it is broken".to_owned();
        UnreadFile { path: path.to_owned(), services: Arc::new(services), changed_wall_ms, problem }
    }
}

impl ServiceCase {
    fn want(&self, id: &ServiceId) -> Want {
        Want {
            accepted: (self.fingerprint.as_deref() != Some("")).then(|| self.accepted(id)),
            refused: self.refused.as_ref().map(|problem| Refusal { problem: problem.clone() }),
            problems: self.problems.iter().map(|message| Problem::new("unknown-key", message)).collect(),
            presence: match self.presence {
                PresenceCase::Present | PresenceCase::Unknown => Presence::Present,
                PresenceCase::Absent => Presence::Absent { root: root() },
                PresenceCase::OtherRoot => Presence::OtherRoot { path: "/srv/other".into() },
                PresenceCase::OtherRootKey => Presence::Absent { root: RootKey("r9".to_owned()) },
            },
            manifest: None,
            gate: self.gate.as_ref().map(ReasonCase::get),
            files: marks(
                self.env_files.as_ref(),
                self.restart_files.as_ref(),
                self.reload_files.as_ref(),
                self.secrets.as_ref(),
            )
            .map(Into::into),
            retry: self.retry,
        }
    }

    fn accepted(&self, id: &ServiceId) -> Arc<Accepted> {
        Arc::new(Accepted {
            spec: self.spec(id),
            digest: Digest::of(b"accepted"),
            fingerprint: self.fingerprint.clone().unwrap_or_else(|| "v1:a".to_owned()),
            live_digest: 0,
        })
    }

    fn spec(&self, id: &ServiceId) -> Spec {
        let span = |given: &Option<Span>, default| given.as_ref().map_or(default, Span::get);
        let minimal = Spec::minimal(id.clone(), CommandLine::Argv(vec!["server".to_owned()]));
        Spec {
            state: match self.state {
                StateCase::Running => WantedState::Running,
                StateCase::Stopped => WantedState::Stopped,
            },
            depends_on: self.depends_on.iter().map(|(name, wanted)| dependency(name, wanted)).collect(),
            activation: manifest::Activation {
                on: self.on.unwrap_or(manifest::ActivateOn::Always),
                idle: self.idle.as_ref().map(Span::get),
                proxy: None,
            },
            lifecycle: if self.ephemeral { Lifecycle::Ephemeral } else { Lifecycle::Shared },
            stop_policy: self.stop_policy.as_ref().map(|policy| match policy {
                StopPolicyCase::OnRelease => StopPolicy::OnRelease,
                StopPolicyCase::Manual => StopPolicy::Manual,
            }),
            ttl: self.ttl.as_ref().map(Span::get),
            start_settle: span(&self.start_settle, minimal.start_settle),
            health: self.health.as_ref().map(HealthSpecCase::spec),
            restart: self.restart.spec(),
            stop: manifest::Stop { grace: span(&self.grace, minimal.stop.grace), ..minimal.stop.clone() },
            restart_on: self.patterns(self.restart_files.as_ref()),
            reload: manifest::Reload {
                on: self.patterns(self.reload_files.as_ref()),
                ..minimal.reload.clone()
            },
            ..minimal
        }
    }

    fn patterns(&self, seen: Option<&ContentsCase>) -> Vec<String> {
        let seen = seen.into_iter().flat_map(BTreeMap::keys);
        seen.chain(&self.unseen).cloned().collect()
    }

    fn observed(&self, id: &ServiceId) -> Service {
        let seen = match &self.seen {
            None if self.run.is_some() => Seen::Alive,
            None | Some(SeenCase::None) => Seen::None,
            Some(SeenCase::Alive) => Seen::Alive,
            Some(SeenCase::Leftovers) => Seen::Leftovers,
            Some(SeenCase::Unverifiable(why)) => Seen::Unverifiable(why.get()),
        };
        Service {
            entry: self.entry(id).into(),
            seen,
            flight: self.flight.get(),
            health: Health {
                failures: self.probes.failures,
                last_error: self.probes.last_error.clone(),
                last_probe: self.probes.last.as_ref().map(Time::get),
                ready_since: self.probes.ready_since.as_ref().map(Time::get),
                in_flight: self.probes.in_flight,
                foreign: self.probes.foreign.as_ref().map(ReasonCase::get),
                said: None,
                alive: None,
            },
            replaced: self.run.as_ref().filter(|_| self.replaced).map(|run| Nonce::from_u64(run.nonce)),
            attached: !self.unattached,
            running: self.running_known.then(|| self.accepted(id)),
            changed: self.changed.clone(),
            live_changed: self.live_changed.clone(),
            parked_changed: self.parked_changed,
            usage: Usage {
                waiting: self.usage.waiting,
                open: self.usage.open,
                last: self.usage.last.as_ref().map(Time::get),
            },
            reload: reconcile::plan::ReloadTry::default(),
        }
    }

    fn entry(&self, id: &ServiceId) -> Entry {
        let path = self.file.clone().unwrap_or_else(|| format!("{}.toml", id.name()).into());
        let failure = self.spawn_failure.as_ref();
        Entry {
            file: Some(FileKey { root: root(), path }),
            run: self.run.as_ref().map(RunCase::get),
            last: self.last.as_ref().map(LastCase::get).map(Box::new),
            spawn_failure: failure.map(SpawnFailureCase::get).map(Box::new),
            spawn_failures: failure.map_or(0, |failure| failure.times),
            failures: self.failures,
            restarts: 0,
            activation: self.activation.as_ref().map(Time::get),
            used: self.used.as_ref().map(Time::get),
            released: self.released.clone().map(Box::new),
            needed: self.needed,
            stopped: self.stopped.as_ref().map(Time::get),
            request: self.request.clone(),
            guard: self.guard.as_ref().map(ReasonCase::get).map(Box::new),
            ports: manifest::PortBlocks::new(),
        }
    }
}

/// `None`: it names no files.
fn marks(
    env: Option<&BTreeMap<String, String>>,
    restart: Option<&ContentsCase>,
    reload: Option<&ContentsCase>,
    secrets: Option<&SecretsCase>,
) -> Option<FileMarks> {
    let of_variables = |text: &String| FileMarks::of_variables(&manifest::dotenv::parse(text).unwrap());
    let contents = |case: Option<&ContentsCase>| -> Contents {
        let digests = |files: &BTreeMap<String, String>| {
            files.iter().map(|(path, text)| (path.clone(), Digest::of(text.as_bytes()))).collect()
        };
        case.into_iter().flatten().map(|(pattern, files)| (pattern.clone(), digests(files))).collect()
    };
    let key = |case: &SecretsCase| SecretKey::from([case.key; 32]);
    let digests = |case: &SecretsCase| -> Vec<(String, Digest)> {
        case.values.iter().map(|(name, value)| (name.clone(), key(case).digest(name, value))).collect()
    };
    (env.is_some() || restart.is_some() || reload.is_some() || secrets.is_some()).then(|| FileMarks {
        secrets: secrets.into_iter().flat_map(digests).collect(),
        key: secrets.map(|case| key(case).id()),
        env: env.into_iter().flatten().map(|(path, text)| (path.clone(), of_variables(text))).collect(),
        restart: contents(restart),
        reload: contents(reload),
    })
}

fn dependency(name: &str, wanted: &str) -> (ServiceId, Dependency) {
    let (condition, restart) = match wanted.strip_suffix(", restart") {
        Some(condition) => (condition, true),
        None => (wanted, false),
    };
    let condition = serde_json::from_value(condition.into()).unwrap();
    (ServiceId::parse(name).unwrap(), Dependency { condition, restart })
}

impl HealthSpecCase {
    fn spec(&self) -> manifest::Health {
        let span = |given: &Option<Span>, default| given.as_ref().map_or(default, Span::get);
        manifest::Health {
            check: match self.log {
                true => HealthCheck::Log { pattern: "ready".to_owned() },
                false => HealthCheck::Tcp { host: "127.0.0.1".to_owned(), port: CheckPort::Number(8080) },
            },
            interval: span(&self.interval, Duration::from_secs(10)),
            start_interval: span(&self.start_interval, Duration::from_millis(250)),
            timeout: Duration::from_secs(5),
            start_timeout: span(&self.start_timeout, Duration::from_secs(60)),
            retries: self.retries.unwrap_or(3),
            on_unhealthy: if self.report { OnUnhealthy::Report } else { OnUnhealthy::Restart },
        }
    }
}

impl RestartCase {
    fn spec(&self) -> manifest::Restart {
        let span = |given: &Option<Span>, default| given.as_ref().map_or(default, Span::get);
        let seconds = Duration::from_secs;
        manifest::Restart {
            policy: match self.policy {
                PolicyCase::Always => RestartPolicy::Always,
                PolicyCase::OnFailure => RestartPolicy::OnFailure,
                PolicyCase::Never => RestartPolicy::Never,
            },
            success_codes: self.success_codes.clone().unwrap_or_else(|| vec![0]),
            success_signals: self.success_signals.iter().copied().map(SignalName).collect(),
            backoff: span(&self.backoff, seconds(1)),
            backoff_factor: 2.0,
            backoff_max: span(&self.backoff_max, seconds(60)),
            max_failures: self.max_failures.unwrap_or(8),
            window: seconds(300),
            stable_after: seconds(60),
        }
    }
}

impl RunCase {
    fn get(&self) -> Run {
        let born = !self.unborn;
        let process = ProcessIdentity {
            pid: Pid::new(4242).unwrap(),
            start_ticks: 100,
            boot: BootId::new("now"),
            pid_ns: 1,
        };
        Run {
            nonce: Nonce::from_u64(self.nonce),
            fingerprint: self.fingerprint.clone().unwrap_or_else(|| "v1:a".to_owned()),
            started_digest: Digest::of(b"started"),
            digest: Digest::of(b"started"),
            exec: ExecFacts { files: Vec::new(), uid: 1000, allowed: Vec::new() },
            why: self.why.as_ref().map_or(Reason::New, ReasonCase::get),
            intent_at: self.started.get(),
            epoch: 1,
            beside: self
                .beside
                .iter()
                .map(|(name, nonce)| (ServiceId::parse(name).unwrap(), Nonce::from_u64(*nonce)))
                .collect(),
            files: marks(
                self.env_files.as_ref(),
                self.restart_files.as_ref(),
                self.reload_files.as_ref(),
                self.secrets.as_ref(),
            )
            .map(Box::new),
            log: None,
            cwd: None,
            process: born.then_some(process),
            containment: born.then(|| Containment::Cgroup { path: "/sys/fs/cgroup/web".into() }),
            started_at: born.then(|| self.started.get()),
            ready_at: self.ready.as_ref().map(Time::get),
            stopping: self
                .stopping
                .as_ref()
                .map(|stopping| Stopping { why: stopping.why.get(), since: stopping.since.get() })
                .map(Box::new),
            end: self.end.as_ref().map(|end| (end.get(), self.ended.as_ref().unwrap().get())),
        }
    }
}

impl LastCase {
    fn get(&self) -> LastRun {
        LastRun {
            nonce: Nonce::from_u64(0),
            fingerprint: self.fingerprint.clone().unwrap_or_else(|| "v1:a".to_owned()),
            digest: Digest::of(b"started"),
            started_at: self.started.get(),
            ended_at: self.ended.get(),
            end: self.end.get(),
            stopped_why: self.stopped_why.as_ref().map(ReasonCase::get),
            ready_at: None,
            files: marks(
                self.env_files.as_ref(),
                self.restart_files.as_ref(),
                self.reload_files.as_ref(),
                self.secrets.as_ref(),
            )
            .map(Box::new),
        }
    }
}

impl SpawnFailureCase {
    fn get(&self) -> (SpawnFailure, Stamp) {
        let message = "server: no such file".to_owned();
        (SpawnFailure { stage: self.stage, errno: self.errno, message }, self.at.get())
    }
}

impl FlightCase {
    fn get(&self) -> Flight {
        match self {
            Self::None => Flight::None,
            Self::Spawning => Flight::Spawning { nonce: Nonce::from_u64(1) },
            Self::SpawningAnother => Flight::Spawning { nonce: Nonce::from_u64(9) },
            Self::StopCommand(since) => Flight::StopCommand { since: since.get() },
            Self::Signalled(since) => Flight::Signalled { since: since.get() },
            Self::Killed(since) => Flight::Killed { since: since.get() },
        }
    }
}

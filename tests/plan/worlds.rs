//! Arbitrary inputs of the planner: everything that the types can express, whether or not it can happen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use reconcile::identity::{BootId, Digest, Nonce, Pid, ProcessIdentity, ServiceId};
use reconcile::manifest::{
    ActivateOn, Activation, CheckPort, CommandLine, Condition, Dependency, Health as Check, HealthCheck,
    Lifecycle, OnUnhealthy, PortBlocks, RestartPolicy, Spec, StopPolicy, WantedState,
};
use reconcile::plan::{
    Accepted, Desired, Flight, Health, HeldLease, Observed, Presence, PruneRules, Refusal, ReloadTry,
    RootState, Seen, Service, Usage, Want,
};
use reconcile::state::{
    Containment, End, Entry, ExecFacts, ExitStatus, FileKey, FileMarks, Holder, LastRun, Lease, LeaseEnd,
    PortHolder, Reason, Release, Request, RootKey, Run, SpawnFailure, SpawnStage, Stopping, Term,
};
use reconcile::time::Stamp;

/// `now` of every arbitrary world: all other stamps are within this of the boot, or in the boot before.
pub const NOW_MS: u64 = 20 * 60 * 1000;

pub fn root() -> RootKey {
    RootKey("r1".to_owned())
}

pub fn id(name: &str) -> ServiceId {
    ServiceId::parse(name).unwrap()
}

/// A point in the present boot.
pub fn at(ms: u64) -> Stamp {
    Stamp { boot: BootId::new("now"), boottime_ms: ms, awake_ms: ms, wall_ms: 1_700_000_000_000 + ms as i64 }
}

pub fn process() -> ProcessIdentity {
    ProcessIdentity { pid: Pid::new(4242).unwrap(), start_ticks: 7, boot: BootId::new("now"), pid_ns: 1 }
}

pub fn containment() -> Containment {
    Containment::Cgroup { path: "/sys/fs/cgroup/web".into() }
}

pub fn exec() -> ExecFacts {
    ExecFacts { files: Vec::new(), uid: 1000, allowed: Vec::new() }
}

/// A spec with the defaults of the reference manifest.
pub fn spec(name: &str) -> Spec {
    Spec::minimal(id(name), CommandLine::Argv(vec!["server".to_owned()]))
}

pub fn check() -> Check {
    Check {
        check: HealthCheck::Tcp { host: "127.0.0.1".to_owned(), port: CheckPort::Number(8080) },
        interval: Duration::from_secs(10),
        start_interval: Duration::from_millis(250),
        timeout: Duration::from_secs(5),
        start_timeout: Duration::from_secs(60),
        retries: 3,
        on_unhealthy: OnUnhealthy::Restart,
    }
}

pub fn accepted(spec: Spec, fingerprint: &str) -> Arc<Accepted> {
    let fingerprint = fingerprint.to_owned();
    Arc::new(Accepted { spec, digest: Digest::of(fingerprint.as_bytes()), fingerprint, live_digest: 0 })
}

pub fn specs() -> BoxedStrategy<Spec> {
    let policy =
        prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)];
    let health = proptest::option::of(any::<bool>());
    (policy, health, proptest::option::of(1_u64..2_000), any::<bool>(), 1_u32..9, activations(), lifecycles())
        .prop_map(|(policy, health, ttl_s, stopped, max_failures, activation, lifecycle)| {
            let mut spec = spec("web");
            spec.restart.policy = policy;
            spec.activation = activation;
            (spec.lifecycle, spec.stop_policy) = lifecycle;
            spec.restart.max_failures = max_failures;
            spec.ttl = ttl_s.map(Duration::from_secs);
            spec.state = if stopped { WantedState::Stopped } else { WantedState::Running };
            spec.health = health.map(|report| {
                let on_unhealthy = if report { OnUnhealthy::Report } else { OnUnhealthy::Restart };
                Check { on_unhealthy, ..check() }
            });
            spec
        })
        .boxed()
}

fn stamps() -> BoxedStrategy<Stamp> {
    (0..=NOW_MS, prop::bool::weighted(0.1))
        .prop_map(|(ms, before)| {
            let mut stamp = at(ms);
            if before {
                stamp.boot = BootId::new("before");
                stamp.wall_ms = 1_700_000_000_000 - ms as i64;
            }
            stamp
        })
        .boxed()
}

fn fingerprints() -> impl Strategy<Value = String> {
    prop_oneof![Just("v1:a"), Just("v1:b"), Just("v2:a")].prop_map(str::to_owned)
}

fn statuses() -> BoxedStrategy<ExitStatus> {
    prop_oneof![
        Just(ExitStatus::Code(0)),
        Just(ExitStatus::Code(1)),
        Just(ExitStatus::Signal(9)),
        Just(ExitStatus::Signal(15))
    ]
    .boxed()
}

fn ends() -> BoxedStrategy<End> {
    prop_oneof![
        proptest::option::of(statuses()).prop_map(|status| End::Ours { status }),
        statuses().prop_map(|status| End::Exit { status }),
        Just(End::Unknown),
        Just(End::OtherBoot)
    ]
    .boxed()
}

fn stop_reasons() -> BoxedStrategy<Reason> {
    prop_oneof![
        Just(Reason::Removed),
        Just(Reason::OperatorStop),
        Just(Reason::Shutdown),
        Just(Reason::SpecChanged { fields: vec!["env".to_owned()] }),
        Just(Reason::Unhealthy { failures: 3, last_error: "refused".to_owned() }),
        Just(Reason::Leftovers { status: Some(ExitStatus::Code(1)) }),
        Just(Reason::LeftTheForeground)
    ]
    .boxed()
}

fn runs() -> BoxedStrategy<Run> {
    let stopping =
        proptest::option::of((stop_reasons(), stamps()).prop_map(|(why, since)| Stopping { why, since }));
    let end = proptest::option::of((ends(), stamps()));
    let born = prop::bool::weighted(0.8);
    (fingerprints(), stamps(), proptest::option::of(stamps()), stopping, end, born, files())
        .prop_map(|(fingerprint, started, ready_at, stopping, end, born, files)| Run {
            nonce: Nonce::from_u64(1),
            fingerprint,
            started_digest: Digest::of(b"a"),
            digest: Digest::of(b"a"),
            exec: exec(),
            why: Reason::New,
            intent_at: started.clone(),
            epoch: 1,
            beside: BTreeMap::new(),
            files: files.map(Box::new),
            log: None,
            cwd: None,
            process: born.then(process),
            containment: born.then(containment),
            started_at: born.then_some(started),
            ready_at,
            stopping: stopping.map(Box::new),
            end,
        })
        .boxed()
}

/// Of none, of one that is missing, or of one that says this or that.
fn files() -> BoxedStrategy<Option<FileMarks>> {
    let env = prop::option::of(prop_oneof![Just("1"), Just("2")]);
    let marks = env.prop_map(|text| FileMarks {
        env: text.map(|text| (".env".to_owned(), Digest::of(text.as_bytes()))).into_iter().collect(),
        ..FileMarks::default()
    });
    prop::option::weighted(0.3, marks).boxed()
}

fn last_runs() -> BoxedStrategy<LastRun> {
    (fingerprints(), stamps(), stamps(), ends(), proptest::option::of(stop_reasons()), files())
        .prop_map(|(fingerprint, started_at, ended_at, end, stopped_why, files)| LastRun {
            nonce: Nonce::from_u64(0),
            fingerprint,
            digest: Digest::of(b"a"),
            started_at,
            ended_at,
            end,
            stopped_why,
            ready_at: None,
            files: files.map(Box::new),
        })
        .boxed()
}

fn spawn_failures() -> BoxedStrategy<(SpawnFailure, Stamp)> {
    let stages = prop_oneof![
        Just(SpawnStage::Exec),
        Just(SpawnStage::Fork),
        Just(SpawnStage::Born),
        Just(SpawnStage::Epoch)
    ];
    (stages, 0..2, stamps())
        .prop_map(|(stage, errno, at)| {
            (SpawnFailure { stage, errno, message: "it cannot be executed".to_owned() }, at)
        })
        .boxed()
}

fn entries() -> BoxedStrategy<Entry> {
    let requests = prop_oneof![
        Just(Request::Start),
        Just(Request::Restart),
        Just(Request::Reset),
        Just(Request::Stop),
        Just(Request::Renew)
    ];
    let rare = 0.15;
    (
        prop::option::weighted(0.6, runs()),
        proptest::option::of(last_runs()),
        prop::option::weighted(rare, spawn_failures()),
        (0_u32..10, 0_u32..4),
        proptest::option::of(stamps()),
        prop::option::weighted(rare, stamps()),
        prop::option::weighted(rare, requests),
        prop::option::weighted(rare, Just(Reason::GuardFraction { removed: 6, of: 8 })),
        (prop::option::weighted(rare, releases()), prop::bool::weighted(rare)),
    )
        .prop_map(
            |(run, last, spawn_failure, counts, activation, stopped, request, guard, (released, needed))| {
                Entry {
                    file: Some(FileKey { root: root(), path: "team/web.toml".into() }),
                    run,
                    last: last.map(Box::new),
                    spawn_failure: spawn_failure.map(Box::new),
                    spawn_failures: counts.1,
                    failures: counts.0,
                    restarts: 0,
                    activation,
                    used: None,
                    released: released.map(Box::new),
                    needed,
                    stopped,
                    request,
                    guard: guard.map(Box::new),
                    ports: PortBlocks::new(),
                }
            },
        )
        .boxed()
}

fn releases() -> impl Strategy<Value = Release> {
    any::<bool>().prop_map(|ended| Release {
        holder: "ci-1".to_owned(),
        how: if ended { LeaseEnd::HolderEnded } else { LeaseEnd::Released },
    })
}

/// Of any of the services of a world, some over.
fn leases() -> impl Strategy<Value = Vec<HeldLease>> {
    let services = prop::collection::btree_set(0_usize..8, 1..4);
    let term = proptest::option::of((stamps(), 0_u64..2_000));
    let lease = (services, term, prop::bool::weighted(0.2)).prop_map(|(services, term, holder_ended)| {
        let services = services.into_iter().map(|index| id(&format!("service-{index}"))).collect();
        let term = term.map(|(renewed, s)| Term { renewed, length: Duration::from_secs(s) });
        (services, term, holder_ended)
    });
    prop::collection::vec(lease, 0..3).prop_map(|leases| {
        let held = |(index, (services, term, holder_ended))| HeldLease {
            lease: Lease {
                holder: Holder::Owner { owner: format!("ci-{index}") },
                services,
                since: at(0),
                term,
            },
            holder_ended,
        };
        leases.into_iter().enumerate().map(held).collect()
    })
}

fn flights() -> BoxedStrategy<Flight> {
    prop_oneof![
        6 => Just(Flight::None),
        1 => (0_u64..2).prop_map(|nonce| Flight::Spawning { nonce: Nonce::from_u64(nonce) }),
        1 => stamps().prop_map(|since| Flight::StopCommand { since }),
        1 => stamps().prop_map(|since| Flight::Signalled { since }),
        1 => stamps().prop_map(|since| Flight::Killed { since })
    ]
    .boxed()
}

fn sightings() -> BoxedStrategy<Seen> {
    let detail = "no /proc".to_owned();
    prop_oneof![
        4 => Just(Seen::None),
        6 => Just(Seen::Alive),
        2 => Just(Seen::Leftovers),
        1 => Just(Seen::Unverifiable(Reason::IdentityUnverifiable { detail })),
        1 => Just(Seen::Unverifiable(Reason::KeeperUnresponsive))
    ]
    .boxed()
}

fn healths() -> BoxedStrategy<Health> {
    let foreign = proptest::option::weighted(
        0.1,
        Just(Reason::PortForeign { name: "http".to_owned(), port: 80, holder: PortHolder::default() }),
    );
    let stamp = || proptest::option::of(stamps());
    (0_u32..5, stamp(), stamp(), prop::bool::weighted(0.2), foreign)
        .prop_map(|(failures, last_probe, ready_since, in_flight, foreign)| Health {
            failures,
            last_error: (failures > 0).then(|| "refused".to_owned()),
            last_probe,
            ready_since: ready_since.filter(|_| failures == 0),
            in_flight,
            foreign,
            said: None,
            alive: None,
        })
        .boxed()
}

fn usages() -> impl Strategy<Value = Usage> {
    let rare = || prop::bool::weighted(0.1);
    (rare(), rare(), proptest::option::of(stamps())).prop_map(|(waiting, open, last)| Usage {
        waiting,
        open,
        last,
    })
}

fn lifecycles() -> impl Strategy<Value = (Lifecycle, Option<StopPolicy>)> {
    let lifecycle = prop_oneof![3 => Just(Lifecycle::Shared), 1 => Just(Lifecycle::Ephemeral)];
    let policy = prop_oneof![
        Just(StopPolicy::OnRelease),
        Just(StopPolicy::Manual),
        (1_u64..2_000).prop_map(|s| StopPolicy::Idle(Duration::from_secs(s)))
    ];
    (lifecycle, proptest::option::of(policy))
}

fn activations() -> impl Strategy<Value = Activation> {
    let on = prop_oneof![
        4 => Just(ActivateOn::Always),
        1 => Just(ActivateOn::Connection),
        1 => Just(ActivateOn::Request)
    ];
    (on, proptest::option::of(1_u64..2_000)).prop_map(|(on, idle)| Activation {
        on,
        idle: idle.map(Duration::from_secs),
        proxy: None,
    })
}

pub fn services() -> BoxedStrategy<Service> {
    let fields = |name: &'static str| {
        prop::bool::weighted(0.2)
            .prop_map(move |differs| if differs { vec![name.to_owned()] } else { Vec::new() })
    };
    (
        entries(),
        sightings(),
        flights(),
        healths(),
        (any::<bool>(), usages()),
        proptest::option::of(specs()),
        (fields("env"), fields("stop.grace"), any::<bool>()),
    )
        .prop_map(
            |(entry, seen, flight, health, (attached, usage), running, (changed, live_changed, parked))| {
                Service {
                    entry: entry.into(),
                    seen,
                    flight,
                    health,
                    replaced: None,
                    attached,
                    running: running.map(|spec| accepted(spec, "v1:a")),
                    changed,
                    live_changed,
                    parked_changed: parked,
                    usage,
                    reload: ReloadTry::default(),
                }
            },
        )
        .boxed()
}

pub fn wants() -> BoxedStrategy<Want> {
    let presence = prop_oneof![
        6 => Just(Presence::Present),
        2 => Just(Presence::Absent { root: root() }),
        1 => Just(Presence::Absent { root: RootKey("r9".to_owned()) }),
        1 => Just(Presence::OtherRoot { path: "/elsewhere".into() })
    ];
    let gate = Reason::Gate { gate: "executable".to_owned(), message: "it is not found".to_owned() };
    (
        prop::option::weighted(0.85, (specs(), fingerprints())),
        prop::option::weighted(0.1, Just(Refusal { problem: "not allowed".to_owned() })),
        presence,
        prop::option::weighted(0.15, Just(gate)),
        prop::bool::weighted(0.1),
        files(),
    )
        .prop_map(|(spec, refused, presence, gate, retry, files)| Want {
            accepted: spec.map(|(spec, fingerprint)| accepted(spec, &fingerprint)),
            refused,
            problems: Vec::new(),
            presence,
            manifest: None,
            gate,
            files: files.map(Arc::new),
            retry,
        })
        .boxed()
}

/// Up to eight services, some only desired and some only observed.
pub fn worlds() -> BoxedStrategy<(Desired, Observed)> {
    let service = (prop::option::weighted(0.9, wants()), prop::option::weighted(0.9, services()));
    let root_state = (0_u64..4, prop::bool::weighted(0.2));
    let ending = (prop::bool::weighted(0.15), any::<bool>(), prop::bool::weighted(0.1));
    (prop::collection::vec(service, 1..8), root_state, ending, leases())
        .prop_map(|(services, state, ending, leases)| {
            let (quiet_s, is_lost) = state;
            let (shutdown, kill, allow) = ending;
            let lost = is_lost.then(|| ("team".into(), "is missing".to_owned())).into_iter().collect();
            let quiet_for = Duration::from_secs(quiet_s);
            let mut desired = Desired {
                roots: BTreeMap::from([(
                    root(),
                    RootState { path: "/srv".into(), lost, checkout: None, unread: Vec::new(), quiet_for },
                )]),
                prune: PruneRules { allow, named: BTreeSet::new(), ..PruneRules::default() },
                shutdown,
                kill,
                everywhere: shutdown && allow,
                ..Desired::default()
            };
            let mut observed = Observed { leases, ..Observed::default() };
            for (index, (want, service)) in services.into_iter().enumerate() {
                let id = id(&format!("service-{index}"));
                desired.services.extend(want.map(|want| (id.clone(), want)));
                observed.services.extend(service.map(|service| (id, service)));
            }
            (desired, observed)
        })
        .boxed()
}

/// The same where services depend on each other, in circles too, and on what there is not.
pub fn linked_worlds() -> BoxedStrategy<(Desired, Observed)> {
    let conditions =
        prop_oneof![Just(Condition::Started), Just(Condition::Ready), Just(Condition::Completed)];
    let links = prop::collection::vec((0_usize..8, 0_usize..9, conditions, any::<bool>()), 0..12);
    (worlds(), links)
        .prop_map(|((mut desired, observed), links)| {
            for (from, to, condition, restart) in links.into_iter().filter(|(from, to, ..)| from != to) {
                let want = desired.services.get_mut(&id(&format!("service-{from}")));
                if let Some(accepted) = want.and_then(|want| want.accepted.as_mut()) {
                    let to = id(&format!("service-{to}"));
                    let depends_on = &mut Arc::make_mut(accepted).spec.depends_on;
                    depends_on.insert(to, Dependency { condition, restart });
                }
            }
            (desired, observed)
        })
        .boxed()
}

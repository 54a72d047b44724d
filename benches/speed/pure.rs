//! What is computed and read, without a process: loading manifests, and planning.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reconcile::host::scan::Scanner;
use reconcile::host::{Dirty, clock};
use reconcile::identity::{BootId, Digest, Nonce, Pid, ProcessIdentity, ServiceId};
use reconcile::manifest::{self, Dependency};
use reconcile::plan::{
    Accepted, Action, Desired, Flight, Health, Observed, Presence, RootState, Seen, Service, Want, plan,
};
use reconcile::state::{Containment, Entry, ExecFacts, FileIdentity, FileKey, Reason, RootKey, Run};
use reconcile::time::Stamp;
use serde::Deserialize;

use crate::figure::{Aim, Figure, Samples};

/// A manifest as people write them: some 400 bytes, with an environment and a health check.
fn manifest_text(n: usize) -> String {
    format!(
        "# Written by hand.\n[service.s{n}]\ncommand = [\"node\", \"server.js\", \"--port\", \"{port}\"]\n\
         cwd = \"services/s{n}\"\nenv = {{ NODE_ENV = \"production\", PORT = \"{port}\", LOG_LEVEL = \"info\" }}\n\
         url = \"http://127.0.0.1:{port}\"\ndescription = \"service number {n}\"\nttl = \"4h\"\n\n\
         [service.s{n}.health]\nurl = \"http://127.0.0.1:{port}/health\"\ninterval = \"10s\"\ntimeout = \"5s\"\n\n\
         [service.s{n}.restart]\nbackoff = \"1s\"\nmax_failures = 8\n",
        port = 1024 + n % 60_000,
    )
}

/// What the manifests of this benchmark hold, for serde alone: no check, no position, no default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bare {
    service: BTreeMap<String, BareService>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its parsing counts")]
struct BareService {
    command: Vec<String>,
    cwd: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    url: Option<String>,
    description: Option<String>,
    ttl: Option<String>,
    health: Option<BareHealth>,
    restart: Option<BareRestart>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its parsing counts")]
struct BareHealth {
    url: String,
    interval: Option<String>,
    timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its parsing counts")]
struct BareRestart {
    backoff: Option<String>,
    max_failures: Option<u32>,
}

/// (a) From a directory to fingerprinted specs, beside reading and parsing alone.
pub fn load(count: usize, rounds: usize) -> Figure {
    let directory = tempfile::Builder::new().prefix("reconcile-bench-").tempdir().unwrap();
    for n in 0..count {
        std::fs::write(directory.path().join(format!("s{n}.toml")), manifest_text(n)).unwrap();
    }
    // Turn about, so that noise of the machine meets both.
    let (mut ours, mut floor) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        floor.push(timed(|| parse_alone(directory.path(), count)));
        ours.push(timed(|| load_and_check(directory.path(), count)));
    }
    Figure::new(format!("load, check and fingerprint {count} manifests"), ours.p50())
        .beside(floor.p50())
        .aim(Aim::Times(1.5))
}

fn load_and_check(root: &Path, count: usize) {
    let scans = Scanner::new(vec![root.to_owned()], false).scan(&Dirty::Everything);
    let listing = scans[0].listing.as_ref().expect("the directory can be listed");
    let mut services = 0;
    for file in listing.files.values() {
        let loaded = manifest::load(file.content.as_ref().expect("the file can be read"));
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        services += loaded.services.len();
        loaded.services.iter().for_each(|declared| drop(black_box(manifest::fingerprint(&declared.spec))));
    }
    assert_eq!(services, count);
}

fn parse_alone(root: &Path, count: usize) {
    let mut services = 0;
    for file in std::fs::read_dir(root).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let parsed: Bare = toml::from_str(&text).unwrap();
        services += black_box(parsed).service.len();
    }
    assert_eq!(services, count);
}

/// (b) The plan over many services, of which one has changed.
pub fn planning(count: usize, rounds: usize) -> Figure {
    planning_of(format!("plan {count} services, one of them changed"), count, rounds, |_| {})
}

/// The same where they depend on each other, in chains of a hundred.
pub fn planning_chains(count: usize, rounds: usize) -> Figure {
    let name = format!("plan {count} services in chains of 100, one of them changed");
    planning_of(name, count, rounds, |desired| {
        let ids: Vec<ServiceId> = desired.services.keys().cloned().collect();
        for (n, want) in desired.services.values_mut().enumerate().filter(|(n, _)| n % 100 != 0) {
            let accepted = want.accepted.as_mut().expect("each was accepted");
            Arc::make_mut(accepted).spec.depends_on.insert(ids[n - 1].clone(), Dependency::PLAIN);
        }
    })
}

fn planning_of(name: String, count: usize, rounds: usize, link: impl Fn(&mut Desired)) -> Figure {
    let now = clock::now();
    let (mut desired, observed) = world(count, &now);
    link(&mut desired);
    let samples: Samples = (0..rounds)
        .map(|_| {
            timed(|| {
                let plan = plan(black_box(&desired), black_box(&observed), &now);
                assert_eq!(plan.steps.len(), 1);
                assert_eq!(plan.steps[0].action, Action::Restart);
            })
        })
        .collect();
    Figure::new(name, samples.p50()).aim(Aim::Below(Duration::from_millis(10).into()))
}

fn world(count: usize, now: &Stamp) -> (Desired, Observed) {
    let root = RootKey("r1".to_owned());
    let (mut desired, mut observed) = (Desired::default(), Observed::default());
    let quiet = RootState {
        path: "/srv/manifests".into(),
        lost: BTreeMap::new(),
        checkout: None,
        unread: Vec::new(),
        quiet_for: Duration::from_secs(60),
    };
    desired.roots.insert(root.clone(), quiet);
    for n in 0..count {
        let accepted = accepted(n);
        let started_as = if n == count / 2 { "v1:changed" } else { accepted.fingerprint.as_str() };
        let service = running(n, started_as, &accepted, &root, now);
        observed.services.insert(accepted.spec.id.clone(), service);
        let want = Want {
            accepted: Some(Arc::clone(&accepted)),
            refused: None,
            problems: Vec::new(),
            presence: Presence::Present,
            manifest: Some(format!("/srv/manifests/s{n}.toml").into()),
            gate: None,
            files: None,
            retry: false,
        };
        desired.services.insert(accepted.spec.id.clone(), want);
    }
    (desired, observed)
}

fn accepted(n: usize) -> Arc<Accepted> {
    let text = manifest_text(n);
    let spec = manifest::load(&text).services.remove(0).spec;
    let (fingerprint, live_digest) = (manifest::fingerprint(&spec), manifest::live_digest(&spec));
    Arc::new(Accepted { spec, digest: Digest::of(text.as_bytes()), fingerprint, live_digest })
}

/// Up, ready, and known to this reconciler.
fn running(n: usize, fingerprint: &str, accepted: &Arc<Accepted>, root: &RootKey, now: &Stamp) -> Service {
    let file = FileIdentity { path: "/usr/bin/node".into(), dev: 1, inode: 2, ctime_ns: 3 };
    let run = Run {
        nonce: Nonce::from_u64(n as u64),
        fingerprint: fingerprint.to_owned(),
        started_digest: accepted.digest.clone(),
        digest: accepted.digest.clone(),
        exec: ExecFacts { files: vec![file], uid: 1000, allowed: Vec::new() },
        why: Reason::New,
        intent_at: now.clone(),
        epoch: 1,
        beside: BTreeMap::new(),
        files: None,
        log: None,
        cwd: None,
        process: Some(ProcessIdentity {
            pid: Pid::new(1000 + n as i32).expect("above 1"),
            start_ticks: n as u64,
            boot: BootId::new("00000000-0000-0000-0000-000000000000"),
            pid_ns: 1,
        }),
        containment: Some(Containment::Cgroup { path: format!("/sys/fs/cgroup/s{n}").into() }),
        started_at: Some(now.clone()),
        ready_at: Some(now.clone()),
        stopping: None,
        end: None,
    };
    Service {
        entry: Entry {
            file: Some(FileKey { root: root.clone(), path: format!("s{n}.toml").into() }),
            run: Some(run),
            activation: Some(now.clone()),
            ..Entry::default()
        }
        .into(),
        seen: Seen::Alive,
        flight: Flight::None,
        health: Health { ready_since: Some(now.clone()), last_probe: Some(now.clone()), ..Health::default() },
        attached: true,
        running: Some(Arc::clone(accepted)),
        ..Service::default()
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

//! A small world for the tests of this room: every kind of thing that is rendered, once.

use std::collections::BTreeMap;

use serde_json::json;

use crate::identity::Pid;
use crate::manifest::{Condition, Problem, Span};
use crate::plan::{Action, Phase};
use crate::reconciler::status::{
    DependencyStatus, Drift, HealthStatus, LastExit, LastPass, LeaseStatus, ManifestStatus, PassReport,
    ServiceStatus, Status, StepReport, VERSION,
};

/// The manifest that [`problems`] is about.
pub const SOURCE: &str = "[service.web]\ncommand = [\"node\", \"server.js\"]\nhealt = \"/health\"\nttl = 4\n";

pub fn service(name: &str, phase: Phase, message: &str) -> ServiceStatus {
    ServiceStatus {
        name: name.to_owned(),
        project: name.split_once('/').map_or("default", |(project, _)| project).to_owned(),
        phase,
        reason: super::style::word(phase),
        message: message.to_owned(),
        pid: None,
        started_at: None,
        uptime_s: None,
        restarts: 0,
        failures: 0,
        failures_max: None,
        ports: BTreeMap::new(),
        sockets: BTreeMap::new(),
        url: None,
        fingerprint: None,
        manifest: None,
        ttl_expires_at: None,
        health: None,
        last_exit: None,
        cpu_percent: None,
        memory_bytes: None,
        log: format!("/state/logs/{name}.log").into(),
        containment: None,
        drift: vec![],
        depends_on: vec![],
        leases: vec![],
        labels: BTreeMap::new(),
        attrs: serde_json::Map::new(),
    }
}

/// Of a process, and of an owner.
pub fn leases() -> [LeaseStatus; 2] {
    let since = "2026-08-22T11:00:00.000Z".to_owned();
    let process = LeaseStatus {
        id: "pid:815:4242".into(),
        holder: "pytest (pid 815)".into(),
        pid: Pid::new(815),
        since: since.clone(),
        expires_at: None,
    };
    let expires_at = Some("2026-08-22T11:10:00.000Z".to_owned());
    [process, LeaseStatus { id: "ci-42".into(), holder: "ci-42".into(), pid: None, since, expires_at }]
}

/// A healthy web server with everything that can be known.
pub fn web() -> ServiceStatus {
    ServiceStatus {
        pid: Pid::new(4711),
        started_at: Some("2026-08-22T10:00:00.000Z".into()),
        uptime_s: Some(3725),
        restarts: 2,
        failures_max: Some(8),
        ports: BTreeMap::from([("http".to_owned(), 8080)]),
        sockets: BTreeMap::from([("admin".to_owned(), "/srv/shop/run/admin.sock".to_owned())]),
        url: Some("http://127.0.0.1:8080".into()),
        fingerprint: Some("v1:0011".into()),
        manifest: Some("/app/manifests/web.toml".into()),
        ttl_expires_at: Some("2026-08-22T14:00:00.000Z".into()),
        health: Some(HealthStatus {
            ready: true,
            last_probe_at: Some("2026-08-22T11:02:04.000Z".into()),
            last_error: None,
            status: Some("serving".into()),
        }),
        last_exit: Some(LastExit { code: None, signal: Some(15), at: "2026-08-22T09:59:59.000Z".into() }),
        cpu_percent: Some(1.25),
        memory_bytes: Some(45 * 1024 * 1024),
        containment: Some("cgroup".into()),
        depends_on: vec![DependencyStatus {
            service: "shop/db".into(),
            condition: Condition::Ready,
            restart: true,
        }],
        leases: leases().to_vec(),
        drift: vec![Drift { code: "exe-changed".into(), message: "/usr/bin/node was replaced".into() }],
        labels: BTreeMap::from([("owner".to_owned(), "agent\u{1b}[7m".to_owned())]),
        attrs: serde_json::Map::from_iter([("framework".to_owned(), json!("vite"))]),
        ..service("web", Phase::Ready, "up and healthy")
    }
}

pub fn db() -> ServiceStatus {
    ServiceStatus {
        failures: 2,
        failures_max: Some(8),
        last_exit: Some(LastExit { code: Some(1), signal: None, at: "2026-08-22T11:00:00.000Z".into() }),
        ..service("shop/db", Phase::Backoff, "it ended with exit code 1; failure 2 of 8, next start in 2s")
    }
}

pub fn problems() -> Vec<Problem> {
    let start = SOURCE.find("healt").unwrap();
    let key = Span { start, end: start + 5, line: 3, column: 1 };
    vec![
        Problem::new("unknown-key", "there is no key `healt`")
            .at(key)
            .help("did you mean `health`?")
            .of("web"),
        Problem::refused("not-allowed", "`curl\u{7}` is not allowed\nby the policy"),
    ]
}

pub fn status() -> Status {
    Status {
        version: VERSION,
        instance: Some("0123456789abcdef".into()),
        watching: true,
        polling: None,
        last_pass: Some(LastPass { at: "2026-08-22T11:02:05.000Z".into(), age_ms: 400, steps: 0 }),
        services: vec![
            service("old", Phase::Stopped, "stopped by the operator; `reconcile start` ends that"),
            web(),
            db(),
        ],
        manifests: vec![
            ManifestStatus {
                path: "/app/manifests/db.toml".into(),
                ok: true,
                problems: vec![],
                may_show_lines: true,
                file: None,
            },
            ManifestStatus {
                path: "/app/manifests/web.toml".into(),
                ok: false,
                problems: problems(),
                may_show_lines: true,
                file: None,
            },
        ],
    }
}

pub fn step(action: Action, service: &str, reason: &str, message: &str) -> StepReport {
    StepReport {
        service: service.to_owned(),
        action,
        reason: reason.to_owned(),
        message: message.to_owned(),
        fields: vec![],
        evidence: json!({ "code": reason }),
        wave: None,
        after: vec![],
        outcome: None,
    }
}

pub fn plan() -> PassReport {
    let changed = StepReport {
        fields: vec!["command".into(), "env".into()],
        evidence: json!({ "code": "spec-changed", "fields": ["command", "env"], "pid": 4711 }),
        ..step(Action::Restart, "web", "spec-changed", "command, env changed")
    };
    PassReport {
        version: VERSION,
        changes: true,
        steps: vec![
            step(Action::Stop, "old", "removed", "its manifest was removed"),
            step(Action::Kill, "older", "grace-over", "it did not end within its grace of 10s"),
            changed,
            step(Action::Start, "shop/db", "new", "first start"),
            step(Action::Hold, "odd", "identity-unverifiable", "its process cannot be told from a stranger"),
        ]
        .into_iter()
        .map(|step| StepReport { wave: Some(1), ..step })
        .chain([StepReport {
            wave: Some(2),
            after: vec!["shop/db".into()],
            ..step(Action::Start, "shop/api", "new", "first start")
        }])
        .collect(),
        converged: None,
        unwell: vec![],
        apart: vec![],
        also: vec![],
        manifests: vec![],
    }
}

pub fn convergence() -> PassReport {
    let outcomes = ["done", "done", "done", "failed", "held"];
    let steps = plan().steps.into_iter().zip(outcomes).map(|(step, outcome)| StepReport {
        outcome: Some(outcome.to_owned()),
        wave: None,
        ..step
    });
    PassReport { steps: steps.collect(), converged: Some(false), unwell: vec![db()], ..plan() }
}

//! Every form that outlives a process: in files, on sockets, from one program to the next. Written by version 0.1.0,
//! to be read for ever.
//!
//! `tests/fixtures/state/v1` holds one line of every kind. What today's code writes is what stands there, and what
//! stands there is read as what it means; a kind that is not there fails the test that is named after it. A fixture
//! is never edited: a new form gets a new one beside it, and a new kind a line at the end
//! (`RECONCILE_WRITE_FIXTURES=1` adds what is missing). The records of the ledger are in `ledger_codec`.

#![allow(clippy::disallowed_methods, reason = "tests read and write fixtures")]

#[allow(dead_code, reason = "the ledger itself is another test's")]
mod ledger_samples;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use ledger_samples::{accepted, at, cgroup, failure, intent, journal as journal_of, nonce, process, service};
use reconcile::api::protocol::{Body, Hello, ProtocolError, Request as ApiRequest, Response};
use reconcile::host::holder::Report;
use reconcile::host::keeper::journal::{self, BirthEntry, ExitEntry};
use reconcile::host::keeper::protocol::{CellInfo, CellState, JobEnd, Message, Request};
use reconcile::host::ledger_file::read_text;
use reconcile::host::listen::{HeldSocket, Listen, SocketKey};
use reconcile::host::{
    CgroupLimits, Claim, Credentials, ExecTarget, SpawnRequest, StateLayout, StdinKind, UserFacts,
};
use reconcile::identity::{Digest, InstanceId, Pid};
use reconcile::manifest::{ActivateOn, Condition, ListenOn, PortBlock, PortBlocks, Problem, SignalTo, load};
use reconcile::plan::{Action, Phase};
use reconcile::reconciler::command::{Answer, Command, Refusal, WaitFor};
use reconcile::reconciler::selection::{Selector, Wanted};
use reconcile::reconciler::status::{
    Apart, DependencyStatus, Drift, HealthStatus, LastExit, LastPass, LeaseStatus, ManifestStatus,
    PassReport, ServiceStatus, Status, StepReport,
};
use reconcile::state::{
    BirthLine, Containment, End, Entry, ExitLine, ExitStatus, Extension, FileIdentity, FileMarks, Holder,
    Intent, Lease, LeaseEnd, Ledger, LogMark, PortHolder, Reason, Record, Release, Request as Asked, Said,
    SecretKey, SharedCgroup, SpawnStage, Term, Unmet, decode_journal, decode_lines, encode_line,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state/v1").join(name)
}

/// The file has a line for each sample, in their order, and each line is its sample.
#[track_caller]
fn assert_form<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, samples: &[T]) {
    let path = fixture(name);
    let text = fs::read_to_string(&path).unwrap_or_default();
    let written: Vec<String> = samples.iter().map(|sample| serde_json::to_string(sample).unwrap()).collect();
    let mut lines: Vec<&str> = text.lines().collect();
    if std::env::var_os("RECONCILE_WRITE_FIXTURES").is_some() {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        for line in written.iter().skip(lines.len()) {
            writeln!(file, "{line}").unwrap();
            lines.push(line);
        }
    }
    for (sample, line) in samples.iter().zip(&lines) {
        let read: T = serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}: {line}"));
        assert_eq!(read, *sample, "{name}: it is read as something else");
    }
    assert_eq!(written, lines, "{name}: it is written otherwise");
}

/// What was written before there was more to say is read as what it means.
#[track_caller]
fn assert_reads<T: DeserializeOwned + PartialEq + Debug>(name: &str, samples: &[T]) {
    let text = fs::read_to_string(fixture(name)).unwrap();
    let read: Vec<T> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, samples, "{name}");
}

/// The kinds that serde knows of an enum, by what it says to one that it does not.
#[track_caller]
fn kinds_of<T: DeserializeOwned + Debug>(unknown: &str) -> BTreeSet<String> {
    let error = serde_json::from_str::<T>(unknown).expect_err("there is no such kind").to_string();
    let list = error.split_once("expected ").unwrap_or_else(|| panic!("{error}")).1;
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Every kind of `T` is in the samples.
#[track_caller]
fn assert_complete<T: Serialize + DeserializeOwned + Debug>(tag: &str, samples: &[T]) {
    let kinds = kinds_of::<T>(&format!("{{\"{tag}\":\"?\"}}"));
    let found = samples.iter().map(|sample| {
        let value = serde_json::to_value(sample).unwrap();
        value[tag].as_str().unwrap_or_else(|| panic!("{value} has no {tag}")).to_owned()
    });
    assert_eq!(found.collect::<BTreeSet<_>>(), kinds);
}

/// The same of an enum that is a word, or an object with one key.
#[track_caller]
fn assert_complete_words<T: Serialize + DeserializeOwned + Debug>(samples: &[T]) {
    let kinds = kinds_of::<T>("\"?\"");
    let found = samples.iter().map(|sample| match serde_json::to_value(sample).unwrap() {
        serde_json::Value::String(word) => word,
        value => value.as_object().unwrap().keys().next().unwrap().clone(),
    });
    assert_eq!(found.collect::<BTreeSet<_>>(), kinds);
}

fn reasons() -> Vec<Reason> {
    let text = || "a message".to_owned();
    let long = Duration::from_millis(14_400_250);
    let status = Some(ExitStatus::Code(3));
    let failed = || failure(SpawnStage::Exec);
    let pid = Pid::new(4711).unwrap();
    vec![
        Reason::New,
        Reason::Requested { request: "restart".into() },
        Reason::SpecChanged { fields: vec!["command".into(), "env".into()] },
        Reason::Crashed { status, failures: 2 },
        Reason::Crashed { status: None, failures: 1 },
        Reason::Ended { status: ExitStatus::Signal(15) },
        Reason::OtherBoot,
        Reason::NeverBorn,
        Reason::WantedAgain,
        Reason::SpawnRetry { failure: failed() },
        Reason::Removed,
        Reason::DeclaredStopped,
        Reason::OperatorStop,
        Reason::TtlExpired { ttl: long },
        Reason::PolicyRevoked { problem: text() },
        Reason::Unhealthy { failures: 3, last_error: text() },
        Reason::StartTimeout { timeout: long, last_error: text() },
        Reason::Leftovers { status },
        Reason::LeftTheForeground,
        Reason::Shutdown,
        Reason::GraceOver { grace: long },
        Reason::IdentityUnverifiable { detail: text() },
        Reason::OutOfDescriptors { detail: text() },
        Reason::ContainmentLost { pid: Some(pid) },
        Reason::ContainmentLost { pid: None },
        Reason::ForeignLedger { instance: "00112233445566aa".into() },
        Reason::KeeperUnresponsive,
        Reason::Unkillable { pids: vec![pid] },
        Reason::Unrecorded,
        Reason::GuardRootGone { path: "/srv/shop/manifests".into(), detail: "is missing".into() },
        Reason::GuardFraction { removed: 5, of: 8 },
        Reason::GuardUnreadManifest { path: "web.toml".into(), problem: text() },
        Reason::PruneDelay,
        Reason::ForeignRoot { path: "/srv/other".into() },
        Reason::RecordLost,
        Reason::Adopted { pid },
        Reason::LiveChanged { fields: vec!["ttl".into()] },
        Reason::TextLost,
        Reason::Rejected { problems: 2, first: text() },
        Reason::Forgotten,
        Reason::Starting,
        Reason::Running,
        Reason::Ready,
        Reason::Unwell { failures: 1, last_error: text() },
        Reason::Stopping,
        Reason::Backoff { failures: 2, max_failures: 8, status, left: long, cause: None },
        Reason::Failed { failures: 8, status, cause: Some(Box::new(Reason::LeftTheForeground)) },
        Reason::Completed { status },
        Reason::NotRestarted { status: None, cause: None },
        Reason::ExecFailed { failure: failed() },
        Reason::Gate { gate: "executable".into(), message: text() },
        Reason::GuardCheckout { lock: "/srv/shop/.git/index.lock".into() },
        Reason::LedgerUnwritable { detail: text() },
        Reason::DependencyRestarted { dependency: service("shop/db") },
        Reason::Dependency {
            unmet: vec![
                unmet("shop/db", Condition::Ready, Some("shop/disk")),
                unmet("cache", Condition::Started, None),
                unmet("migrate", Condition::Completed, None),
            ],
        },
        Reason::DependentsFirst { dependents: vec![service("web"), service("shop/api")] },
        Reason::NoPort {
            name: "agent".into(),
            count: 2,
            range: "37100-37900".into(),
            holders: vec!["service db: 800".into()],
        },
        Reason::PortTaken { name: "http".into(), port: 8_080, holder: holder() },
        Reason::PortForeign { name: "http".into(), port: 8_080, holder: PortHolder::default() },
        Reason::FileChanged { path: ".env".into() },
        Reason::ExeChanged,
        Reason::SecretChanged { name: "TOKEN".into() },
        Reason::SecretUnavailable { name: "TOKEN".into(), why: "there is no token".into() },
        Reason::SocketOpening { name: "http".into(), address: "127.0.0.1:8080".into() },
        Reason::SocketUnavailable {
            name: "http".into(),
            address: "127.0.0.1:8080".into(),
            errno: 98,
            detail: "address already in use".into(),
            holder: Some(holder()),
        },
        Reason::SocketUnavailable {
            name: "admin".into(),
            address: "/run/admin.sock".into(),
            errno: 13,
            detail: "permission denied".into(),
            holder: None,
        },
        Reason::Connected,
        Reason::NeededBy { dependent: service("shop/app") },
        Reason::Idle { idle: long },
        Reason::OnDemand { on: ActivateOn::Connection },
        Reason::OnDemand { on: ActivateOn::Request },
        Reason::OnDemand { on: ActivateOn::Lease },
        Reason::Leased { holder: "pytest (pid 815)".into() },
        Reason::Released { holder: "ci-42".into(), how: LeaseEnd::Released },
        Reason::Released { holder: "pytest (pid 815)".into(), how: LeaseEnd::HolderEnded },
        Reason::NotNeeded,
        Reason::SecretPending { name: "TOKEN".into() },
        Reason::LimitsNotEnforced { why: text() },
    ]
}

fn unmet(name: &str, condition: Condition, root: Option<&str>) -> Unmet {
    Unmet { service: service(name), condition, why: "it is starting".into(), root: root.map(service) }
}

fn holder() -> PortHolder {
    PortHolder {
        pid: Pid::new(4711),
        exe: Some("/usr/sbin/nginx".into()),
        service: Some("shop/db".into()),
        uid: Some(33),
    }
}

fn ports() -> PortBlocks {
    let block = |first, count, fixed| PortBlock { first, count, fixed };
    [("agent", block(37_100, 2, false)), ("db", block(5_432, 1, true)), ("http", block(37_102, 1, false))]
        .map(|(name, block)| (name.to_owned(), block))
        .into()
}

fn containments() -> Vec<Containment> {
    let within = SharedCgroup { path: "/sys/fs/cgroup/user.slice".into(), inode: 77 };
    vec![
        cgroup("default.web.0000000000000001"),
        Containment::Holder { process: process(1_002), within: None },
        Containment::Holder { process: process(1_002), within: Some(within) },
    ]
}

fn claim() -> Claim {
    Claim {
        service: service("shop/db"),
        nonce: nonce(3),
        process: Some(process(1_003)),
        containment: Some(cgroup("shop.db.0000000000000003")),
        epoch: 7,
    }
}

fn file() -> FileIdentity {
    FileIdentity {
        path: "/usr/bin/node".into(),
        dev: 65_024,
        inode: u64::MAX,
        ctime_ns: 1_763_000_000_123_456_789,
    }
}

fn spawn() -> Box<SpawnRequest> {
    let user = UserFacts {
        name: "www-data".into(),
        uid: 33,
        gid: 33,
        groups: vec![33, 4],
        home: "/var/www".into(),
        shell: "/usr/sbin/nologin".into(),
    };
    Box::new(SpawnRequest {
        service: service("web"),
        nonce: nonce(1),
        epoch: 7,
        exec: ExecTarget { file: file(), script: true, found: Some("/srv/shop/bin/node".into()) },
        argv: vec!["node".into(), "ä\n\"server.js\"".into()],
        env: vec![("PATH".into(), "/usr/bin".into())],
        cwd: "/srv/shop".into(),
        stdin: StdinKind::Open,
        user: Some(user),
        umask: 0o027,
        nice: Some(5),
        oom_score_adj: Some(-100),
        rlimits: vec![(7, 4_096)],
        notify_fd: None,
        notify: false,
        credentials: None,
        make_cwd: false,
        cgroup: CgroupLimits::default(),
        make_work: None,
        limits_required: false,
        stdout_only: false,
        intent: Some(Box::new(intent("web", 1, 10))),
        sockets: Vec::new(),
    })
}

fn credentials() -> Credentials {
    Credentials {
        dir: "/run/reconcile/0011223344556677/credentials/0000000000000001".into(),
        files: BTreeMap::from([("TOKEN".into(), "hunter2".into())]),
    }
}

fn requests() -> Vec<Request> {
    let exec = ExecTarget { file: file(), script: false, found: None };
    let plain = SpawnRequest { exec, user: None, intent: None, stdin: StdinKind::Null, ..*spawn() };
    vec![
        Request::Hello { protocol: 1, instance: InstanceId::from_u64(0x0011_2233_4455_66aa) },
        Request::Spawn { spawn: spawn() },
        Request::Signal { claim: claim(), signal: 15, to: SignalTo::Group },
        Request::Signal { claim: claim(), signal: 1, to: SignalTo::Leader },
        Request::Kill { claim: Claim { process: None, containment: None, ..claim() } },
        Request::Attach { claim: claim() },
        Request::Job { of: nonce(3), timeout_ms: 5_000, spawn: Box::new(plain) },
        Request::CancelJob { nonce: nonce(4) },
        Request::TrimExits { keep: vec![nonce(1), nonce(3)] },
        Request::Upgrade { exe: file() },
        Request::List,
        Request::Ping { id: 9 },
        Request::Hold { socket: socket() },
        Request::Release { key: socket().key },
        Request::Lend { key: socket().key },
        Request::Spawn {
            spawn: Box::new(SpawnRequest { sockets: vec!["admin".into(), "http".into()], ..*spawn() }),
        },
        Request::Ask { nonce: nonce(1) },
        Request::Spawn { spawn: Box::new(SpawnRequest { notify: true, ..*spawn() }) },
        Request::Spawn { spawn: Box::new(SpawnRequest { notify_fd: Some(3), ..*spawn() }) },
        Request::Spawn { spawn: Box::new(SpawnRequest { credentials: Some(credentials()), ..*spawn() }) },
        Request::Job {
            of: nonce(1),
            timeout_ms: 10_000,
            spawn: Box::new(SpawnRequest { intent: None, stdout_only: true, ..*spawn() }),
        },
        Request::Spawn {
            spawn: Box::new(SpawnRequest {
                make_cwd: true,
                make_work: Some("/srv/shop/.reconcile/work/web".into()),
                ..*spawn()
            }),
        },
        Request::Spawn {
            spawn: Box::new(SpawnRequest {
                cgroup: CgroupLimits { memory_max: Some(1 << 20), cpu_max: Some(1_500), pids_max: Some(64) },
                ..*spawn()
            }),
        },
    ]
}

fn socket() -> HeldSocket {
    HeldSocket {
        key: SocketKey { service: service("shop/db"), name: "admin".into() },
        listen: Listen {
            address: ListenOn::Unix("/srv/shop/admin.sock".into()),
            mode: 0o660,
            owner: Some((33, 33)),
        },
        file: Some((65_024, u64::MAX)),
    }
}

/// As it is of an address that is no file.
fn tcp() -> HeldSocket {
    let address = ListenOn::Tcp("[::1]:8080".parse().unwrap());
    HeldSocket { listen: Listen { address, mode: 0o600, owner: None }, file: None, ..socket() }
}

fn ends() -> Vec<JobEnd> {
    vec![
        JobEnd::Exit { status: ExitStatus::Code(0), output: "fine\n".into() },
        JobEnd::TimedOut,
        JobEnd::NotStarted { failure: failure(SpawnStage::User) },
        JobEnd::Cancelled,
    ]
}

fn states() -> Vec<CellState> {
    vec![
        CellState::Spawning,
        CellState::Running,
        CellState::Leftovers,
        CellState::Killing,
        CellState::ContainmentLost,
    ]
}

fn messages() -> Vec<Message> {
    let hello = |holders| Message::Hello {
        protocol: 1,
        version: "0.1.0".into(),
        keeper: process(900),
        holders,
        sockets: None,
        notify: false,
        secrets: false,
    };
    let cells = states().into_iter().map(|state| CellInfo {
        service: service("web"),
        nonce: nonce(1),
        process: (state != CellState::Spawning).then(|| process(1_001)),
        containment: containments().remove(0),
        state,
        job_of: (state == CellState::Killing).then(|| nonce(3)),
    });
    let mut messages = vec![
        hello(None),
        hello(Some("no cgroup v2 is mounted".into())),
        Message::Refused { nonce: Some(nonce(1)), detail: "say hello first".into() },
        Message::Spawned {
            service: service("web"),
            nonce: nonce(1),
            process: process(1_001),
            containment: containments().remove(0),
        },
        Message::SpawnFailed { service: service("web"), nonce: nonce(1), failure: failure(SpawnStage::Cwd) },
        Message::Exited { nonce: nonce(1), status: Some(ExitStatus::Signal(9)), others: true },
        Message::Exited { nonce: nonce(1), status: None, others: false },
        Message::Gone { nonce: nonce(1) },
        Message::Unkillable { nonce: nonce(1), pids: vec![Pid::new(1_001).unwrap()] },
        Message::Cells { cells: cells.collect() },
        Message::NotUpgraded { busy: true, detail: "a spawn is under way".into() },
        Message::Pong { id: 9 },
    ];
    messages.extend(ends().into_iter().map(|end| Message::JobDone { nonce: nonce(4), end }));
    messages.extend([
        Message::Hello {
            protocol: 1,
            version: "0.1.0".into(),
            keeper: process(900),
            holders: None,
            sockets: Some(vec![socket(), tcp()]),
            notify: false,
            secrets: false,
        },
        Message::Holding { socket: socket() },
        Message::NotHolding { key: socket().key, detail: "its descriptor did not arrive".into() },
        Message::Released { socket: socket() },
    ]);
    let said = Said {
        ready: Some(at(11)),
        stopping: Some(at(12)),
        alive: Some(at(13)),
        broken: Some(at(14)),
        extended: Some(Extension { at: at(15), by_ms: 2_500 }),
        status: Some("serving".into()),
    };
    let (version, holders) = ("0.1.0".into(), None);
    messages.extend([
        Message::Hello {
            protocol: 1,
            version,
            keeper: process(900),
            holders,
            sockets: None,
            notify: true,
            secrets: false,
        },
        Message::Said { nonce: nonce(1), said: Some(Box::new(said)) },
        Message::Said { nonce: nonce(1), said: None },
        Message::Hello {
            protocol: 1,
            version: "0.1.0".into(),
            keeper: process(900),
            holders: None,
            sockets: None,
            notify: true,
            secrets: true,
        },
    ]);
    messages
}

fn labels() -> Vec<Wanted> {
    ["owner=agent-7", "tier!=db", "scratch"].map(|wanted| wanted.parse().unwrap()).into()
}

fn commands() -> Vec<Command> {
    let names = || vec!["web".into(), "shop/db".into()];
    let timeout = Duration::from_millis(120_500);
    vec![
        Command::Status,
        Command::Plan { names: names() },
        Command::Converge { names: vec![], timeout, allow_prune: true },
        Command::Wait { names: names(), until: WaitFor::Ready, timeout },
        Command::Wait { names: names(), until: WaitFor::Stopped, timeout },
        Command::Stop { names: names() },
        Command::Start { names: names() },
        Command::Restart { names: names() },
        Command::Reset { names: names() },
        Command::Renew { names: names() },
        Command::Down { project: Some("shop".into()), purge: false },
        Command::Prune { names: names() },
        Command::Adopt { name: "web".into(), pid: Pid::new(4711).unwrap() },
        Command::Forget { name: "web".into(), more: vec![] },
        Command::Takeover,
        Command::Forget { name: "web".into(), more: vec!["db".into()] },
        Command::DownSome {
            names: Selector::labelled(Some("shop/*".into()), &labels()).into_iter().collect(),
            purge: true,
        },
        Command::Touch { names: names() },
        Command::Ensure { names: names(), timeout },
        Command::Lease { names: names(), holder: holder_process(), term: None, timeout },
        Command::Lease { names: names(), holder: owner(), term: Some(timeout), timeout },
        Command::RenewLease { lease: owner().id(), term: None },
        Command::RenewLease { lease: owner().id(), term: Some(timeout) },
        Command::EndLease { lease: holder_process().id(), names: vec![] },
        Command::EndLease { lease: owner().id(), names: names() },
    ]
}

fn holder_process() -> Holder {
    Holder::Process { process: process(1_815), command: "pytest".into() }
}

fn owner() -> Holder {
    Holder::Owner { owner: "ci-42".into() }
}

fn service_status(phase: Phase) -> ServiceStatus {
    let at = || "2025-11-13T02:13:20Z".to_owned();
    ServiceStatus {
        name: "shop/db".into(),
        project: "shop".into(),
        phase,
        reason: "ready".into(),
        message: "it is ready".into(),
        pid: Pid::new(1_003),
        started_at: Some(at()),
        uptime_s: Some(60),
        restarts: 1,
        failures: 2,
        failures_max: Some(8),
        ports: [("http".to_owned(), 8_080)].into(),
        sockets: BTreeMap::new(),
        url: Some("http://127.0.0.1:8080".into()),
        fingerprint: Some("v1:00000000000000000000000000000003".into()),
        manifest: Some("/srv/shop/manifests/db.toml".into()),
        ttl_expires_at: None,
        health: Some(HealthStatus { ready: true, last_probe_at: Some(at()), last_error: None, status: None }),
        last_exit: Some(LastExit { code: Some(3), signal: None, at: at() }),
        cpu_percent: None,
        memory_bytes: Some(4_096),
        log: "/srv/state/logs/shop.db.log".into(),
        containment: Some("cgroup".into()),
        drift: vec![Drift { code: "exe-changed".into(), message: "it was replaced".into() }],
        depends_on: vec![],
        leases: vec![],
        labels: [("owner".to_owned(), "agent-7".to_owned())].into(),
        attrs: serde_json::Map::new(),
    }
}

fn phases() -> Vec<Phase> {
    use Phase::*;
    vec![
        Pending, Starting, Running, Ready, Unhealthy, Backoff, Failed, Stopping, Stopped, Completed, Expired,
        Rejected, Held,
    ]
}

fn actions() -> Vec<Action> {
    use Action::*;
    vec![Stop, Restart, Signal, Kill, Forget, Adopt, Update, Start, Hold, Reject]
}

fn answers() -> Vec<Answer> {
    let manifest = || ManifestStatus {
        path: "/srv/shop/manifests/web.toml".into(),
        ok: false,
        problems: vec![Problem::new("unknown-key", "there is no key `healt`").help("did you mean `health`?")],
        may_show_lines: true,
        file: None,
    };
    let steps = actions().into_iter().map(|action| StepReport {
        service: "shop/db".into(),
        action,
        reason: "spec-changed".into(),
        message: "command changed".into(),
        fields: vec!["command".into()],
        evidence: serde_json::json!({ "pid": 1_003 }),
        wave: None,
        after: vec![],
        outcome: (action == Action::Start).then(|| "done".to_owned()),
    });
    vec![
        Answer::Status(Box::new(Status {
            version: 1,
            instance: Some("00112233445566aa".into()),
            watching: true,
            polling: None,
            last_pass: Some(LastPass { at: "2025-11-13T02:13:20Z".into(), age_ms: 20, steps: 1 }),
            services: phases().into_iter().map(service_status).collect(),
            manifests: vec![manifest()],
        })),
        Answer::Report(Box::new(PassReport {
            version: 1,
            changes: true,
            steps: steps.collect(),
            converged: Some(false),
            unwell: vec![service_status(Phase::Failed)],
            apart: vec![],
            also: vec![],
            manifests: vec![manifest()],
        })),
        Answer::Refused(Refusal {
            code: "unknown-service".into(),
            message: "there is no service `web`".into(),
            help: Some("see `reconcile status`".into()),
        }),
    ]
}

/// The same answer where services are leased.
fn lease(response: &mut Response) {
    let of = |holder: Holder, pid, expires_at| LeaseStatus {
        id: holder.id().to_string(),
        holder: holder.to_string(),
        pid,
        since: "2025-11-13T02:13:20Z".into(),
        expires_at,
    };
    let leases =
        [of(owner(), None, Some("2025-11-13T02:23:20Z".into())), of(holder_process(), Pid::new(1_815), None)];
    let services = match &mut response.body {
        Body::Answer(Answer::Status(status)) => &mut status.services,
        Body::Answer(Answer::Report(report)) => &mut report.unwell,
        Body::Answer(Answer::Refused(_)) | Body::Error(_) => return,
    };
    services.iter_mut().for_each(|service| service.leases.extend(leases.clone()));
}

/// The same answer where services depend on each other.
fn depend(response: &mut Response) {
    let dependency =
        || DependencyStatus { service: "cache".into(), condition: Condition::Started, restart: true };
    match &mut response.body {
        Body::Answer(Answer::Status(status)) => {
            status.services.iter_mut().for_each(|service| service.depends_on.push(dependency()));
        }
        Body::Answer(Answer::Report(report)) => {
            report.also.push("cache".into());
            report.unwell.iter_mut().for_each(|service| service.depends_on.push(dependency()));
            for step in &mut report.steps {
                step.wave = Some(2);
                step.after.push("cache".into());
            }
        }
        Body::Answer(Answer::Refused(_)) | Body::Error(_) => {}
    }
}

/// The status says what is listened on.
fn listen(response: &mut Response) {
    let services = match &mut response.body {
        Body::Answer(Answer::Status(status)) => &mut status.services,
        Body::Answer(Answer::Report(report)) => &mut report.unwell,
        Body::Answer(Answer::Refused(_)) | Body::Error(_) => return,
    };
    for service in services {
        service.sockets.insert("http".into(), "127.0.0.1:8080".into());
    }
}

#[test]
fn every_kind_of_value_in_a_record_has_its_form() {
    assert_form("reasons.jsonl", &reasons());
    assert_complete("code", &reasons());
    assert_form("containments.jsonl", &containments());
    assert_complete("kind", &containments());
    let ends = [
        End::Ours { status: Some(ExitStatus::Signal(15)) },
        End::Ours { status: None },
        End::Exit { status: ExitStatus::Code(3) },
        End::Unknown,
        End::OtherBoot,
    ];
    assert_form("ends.jsonl", &ends);
    assert_complete("end", &ends);
    let asked = [Asked::Stop, Asked::Start, Asked::Restart, Asked::Reset, Asked::Renew, Asked::Touch];
    assert_form("requests.jsonl", &asked);
    assert_complete_words(&asked);
    let given = Intent { ports: ports(), ..intent("web", 1, 10) };
    assert_form("intents.jsonl", &[intent("web", 1, 10), given]);
    let entries = [
        Entry::default(),
        Entry { ports: ports(), ..Entry::default() },
        Entry { used: Some(at(30)), ..Entry::default() },
        Entry { needed: true, ..Entry::default() },
        Entry {
            released: Some(Box::new(Release { holder: "ci-42".into(), how: LeaseEnd::Expired })),
            ..Entry::default()
        },
    ];
    assert_form("entries.jsonl", &entries);
    use SpawnStage::*;
    let stages = [
        Keeper,
        Cgroup,
        Fork,
        Session,
        Limits,
        Log,
        User,
        Cwd,
        ExecChanged,
        Epoch,
        Born,
        Exec,
        Socket,
        Credentials,
    ];
    assert_form("spawn-stages.jsonl", &stages);
    assert_complete_words(&stages);
    assert_complete_words(&[ExitStatus::Code(0), ExitStatus::Signal(9)]);
}

#[test]
fn every_kind_of_record_is_in_the_ledger_of_version_1() {
    let decoded = decode_journal(&fs::read(fixture("ledger.journal")).unwrap());
    // Of the rare shapes only one is there, and a later one may be added in a file of its own.
    let later = ["ledger-beside.journal", "ledger-files.journal", "ledger-leases.journal"];
    let later = later.map(|name| decode_journal(&fs::read(fixture(name)).unwrap()).records).concat();
    assert_complete("record", &[decoded.records.clone(), later].concat());
    let compacted = decode_journal(&fs::read(fixture("ledger-compacted.journal")).unwrap());
    let (folded, remembered) = (Ledger::replay(&decoded.records), Ledger::replay(&compacted.records));
    assert_eq!(folded, remembered, "what was written then is folded to something else now");
    assert!(compacted.records.iter().any(|record| matches!(record, Record::Entry { .. })));
}

/// What is remembered of the runs that a service is beside: said by its intent, by a record of its own, by compaction.
#[test]
fn the_runs_of_dependencies_have_their_form() {
    let beside = |n: u64| [(service("shop/db"), nonce(n))].into();
    let records = [
        accepted("web.toml", &["web"]),
        Record::Intent(Box::new(Intent { beside: beside(3), ..intent("web", 1, 10) })),
        Record::Beside { service: service("web"), nonce: nonce(1), beside: beside(4) },
    ];
    let snapshot = Ledger::replay(&records).snapshot();
    let run = snapshot.iter().find_map(|record| match record {
        Record::Entry { entry, .. } => entry.run.clone(),
        _ => None,
    });
    assert_eq!(run.unwrap().beside, beside(4));
    assert_ledger("ledger-beside.journal", &records);
    assert_ledger("ledger-beside-compacted.journal", &snapshot);
}

/// Who holds what: of a process and of an owner, a part released, one that ended.
#[test]
fn leases_have_their_form() {
    let both = || [service("shop/db"), service("web")].into();
    let lease = |holder, term| Record::Leased {
        lease: Box::new(Lease { holder, services: both(), since: at(20), term }),
    };
    let ended = |holder, services, how| Record::LeaseEnded { holder, services, how, at: at(50) };
    let term = Term { renewed: at(30), length: Duration::from_secs(600) };
    let other = || Holder::Process { process: process(1_816), command: "make".into() };
    let records = [
        accepted("web.toml", &["web", "shop/db"]),
        Record::Intent(Box::new(intent("web", 1, 10))),
        lease(holder_process(), None),
        lease(owner(), Some(term)),
        lease(other(), None),
        ended(owner(), [service("shop/db")].into(), LeaseEnd::Released),
        ended(other(), both(), LeaseEnd::HolderEnded),
    ];
    let ledger = Ledger::replay(&records);
    let held: Vec<(&Holder, usize)> =
        ledger.leases.values().map(|lease| (&lease.holder, lease.services.len())).collect();
    assert_eq!(held, [(&owner(), 1), (&holder_process(), 2)]);
    let released = ledger.services[&service("web")].released.clone();
    assert_eq!(released.map(|release| release.how), Some(LeaseEnd::HolderEnded));
    assert_eq!(ledger.services[&service("shop/db")].released, None, "nothing of it was active");
    let snapshot = ledger.snapshot();
    assert_eq!(Ledger::replay(&snapshot), ledger);
    assert_ledger("ledger-leases.journal", &records);
    assert_ledger("ledger-leases-compacted.journal", &snapshot);
    assert_complete_words(&[
        LeaseEnd::Released,
        LeaseEnd::HolderEnded,
        LeaseEnd::Expired,
        LeaseEnd::NotAcquired,
    ]);
}

#[track_caller]
fn assert_ledger(name: &str, records: &[Record]) {
    let bytes = journal_of(records);
    if std::env::var_os("RECONCILE_WRITE_FIXTURES").is_some() && !fixture(name).exists() {
        fs::write(fixture(name), &bytes).unwrap();
    }
    let there = fs::read(fixture(name)).unwrap();
    assert_eq!(decode_journal(&there).records, records, "{name}: it is read as something else");
    assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&there), "{name}");
}

/// What is remembered of the files that a service was started with: of a run that goes on, and of the last one.
#[test]
fn the_files_of_a_service_have_their_form() {
    let env = |text: &[u8]| FileMarks {
        env: [(".env".to_owned(), Digest::of(text))].into(),
        ..FileMarks::default()
    };
    let started = |name: &str, n| {
        Record::Intent(Box::new(Intent { files: Some(Box::new(env(b"1"))), ..intent(name, n, 10) }))
    };
    let records = [
        accepted("web.toml", &["job", "web"]),
        started("web", 1),
        Record::Files { service: service("web"), nonce: nonce(1), files: env(b"2") },
        started("job", 2),
        Record::Started {
            service: service("job"),
            nonce: nonce(2),
            process: process(1_002),
            containment: cgroup("job"),
            at: at(11),
        },
        Record::Gone { service: service("job"), nonce: nonce(2) },
    ];
    let ledger = Ledger::replay(&records);
    let run = ledger.entry(&service("web")).and_then(|entry| entry.run.as_ref());
    assert_eq!(run.unwrap().files.as_deref(), Some(&env(b"2")));
    let last = ledger.entry(&service("job")).and_then(|entry| entry.last.as_ref());
    assert_eq!(last.unwrap().files.as_deref(), Some(&env(b"1")));
    assert_ledger("ledger-files.journal", &records);
    assert_ledger("ledger-files-compacted.journal", &ledger.snapshot());
}

/// The same of files by their content.
#[test]
fn the_contents_beside_a_service_have_their_form() {
    let contents = |name: &str, text: &[u8]| {
        BTreeMap::from([(
            format!("{name}/*.yml"),
            BTreeMap::from([(format!("{name}/a.yml"), Digest::of(text))]),
        )])
    };
    let files =
        FileMarks { restart: contents("conf", b"1"), reload: contents("live", b"2"), ..FileMarks::default() };
    let records = [
        accepted("web.toml", &["web"]),
        Record::Intent(Box::new(Intent { files: Some(Box::new(files.clone())), ..intent("web", 1, 10) })),
    ];
    let ledger = Ledger::replay(&records);
    let run = ledger.entry(&service("web")).and_then(|entry| entry.run.as_ref());
    assert_eq!(run.unwrap().files.as_deref(), Some(&files));
    assert_ledger("ledger-contents.journal", &records);
    assert_ledger("ledger-contents-compacted.journal", &ledger.snapshot());
}

/// The same of secrets, by keyed digests alone.
#[test]
fn the_secrets_of_a_service_have_their_form() {
    let key = SecretKey::from([7; 32]);
    let secrets = BTreeMap::from([("TOKEN".to_owned(), key.digest("TOKEN", "hunter2"))]);
    let files = FileMarks { secrets, key: Some(key.id()), ..FileMarks::default() };
    let records = [
        accepted("web.toml", &["web"]),
        Record::Intent(Box::new(Intent { files: Some(Box::new(files)), ..intent("web", 1, 10) })),
    ];
    assert_ledger("ledger-secrets.journal", &records);
    assert_ledger("ledger-secrets-compacted.journal", &Ledger::replay(&records).snapshot());
}

/// Where the output of a run begins: of one that waits for a line of it.
#[test]
fn the_place_of_a_run_in_its_log_has_its_form() {
    let mark = LogMark { inode: Some(u64::MAX), bytes: 4096, archive: Some(7) };
    let started = |name: &str, n, mark: &LogMark| {
        Record::Intent(Box::new(Intent { log: Some(Box::new(mark.clone())), ..intent(name, n, 10) }))
    };
    let records = [
        accepted("web.toml", &["job", "web"]),
        started("web", 1, &mark),
        started("job", 2, &LogMark::default()),
    ];
    let ledger = Ledger::replay(&records);
    let run = ledger.entry(&service("web")).and_then(|entry| entry.run.as_ref());
    assert_eq!(run.unwrap().log.as_deref(), Some(&mark));
    assert_ledger("ledger-log.journal", &records);
    assert_ledger("ledger-log-compacted.journal", &ledger.snapshot());
}

#[test]
fn the_journals_of_births_and_exits_have_their_form() {
    let born = |n: u64, containment| {
        BirthEntry::Born(BirthLine {
            nonce: nonce(n),
            process: process(1_000 + n as i32),
            containment,
            intent: Box::new(intent("web", n, 10)),
        })
    };
    let mut births: Vec<BirthEntry> =
        (1..).zip(containments()).map(|(n, containment)| born(n, containment)).collect();
    births.push(BirthEntry::Unborn { nonce: nonce(2), unborn: "failed to execute".into() });
    let exits = [
        ExitEntry::Leader(ExitLine {
            nonce: nonce(1),
            pid: Pid::new(1_001).unwrap(),
            start_ticks: 120_651,
            status: ExitStatus::Code(3),
            at: at(20),
        }),
        ExitEntry::Empty { nonce: nonce(1), empty: at(21) },
    ];
    assert_journal("births.journal", &births);
    assert_journal("exits.journal", &exits);
    let layout = StateLayout { dir: fixture("") };
    let read = journal::births_in_order(&layout.births()).unwrap();
    assert_eq!((read.lines.len(), read.damaged), (2, 0), "one of three came to nothing");
    let endings = journal::exits(&layout.exits()).unwrap();
    assert_eq!(endings[&nonce(1)].status(), Some(ExitStatus::Code(3)));
    assert!(endings[&nonce(1)].empty);
}

#[track_caller]
fn assert_journal<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, lines: &[T]) {
    let bytes: Vec<u8> = lines.iter().flat_map(encode_line).collect();
    if std::env::var_os("RECONCILE_WRITE_FIXTURES").is_some() && !fixture(name).exists() {
        fs::write(fixture(name), &bytes).unwrap();
    }
    let there = fs::read(fixture(name)).unwrap();
    let read = decode_lines::<T>(&there);
    assert_eq!((read.lines.as_slice(), read.damaged), (lines, 0), "{name}");
    assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&there), "{name}");
}

#[test]
fn what_a_reconciler_and_its_keeper_say_has_its_form() {
    assert_form("keeper-requests.jsonl", &requests());
    assert_complete("request", &requests());
    assert_form("keeper-messages.jsonl", &messages());
    assert_complete("message", &messages());
    assert_complete("end", &ends());
    assert_complete_words(&states());
}

/// A holder is a fork of the keeper that started it, and reports to the one that this has become.
#[test]
fn what_a_holder_says_has_its_form() {
    let unwritten = ExitLine {
        nonce: nonce(1),
        pid: Pid::new(1_001).unwrap(),
        start_ticks: 120_651,
        status: ExitStatus::Signal(9),
        at: at(20),
    };
    let report =
        |unwritten| Report { nonce: nonce(1), status: ExitStatus::Signal(9), others: true, unwritten };
    assert_form("holder-reports.jsonl", &[report(None), report(Some(unwritten))]);
}

#[test]
fn what_is_said_on_the_control_socket_has_its_form() {
    let hello = Hello { reconcile: "0.1.0".into(), oldest: 1, newest: 1, pid: 4711 };
    assert_form("control-hello.jsonl", &[hello]);
    let asked = commands().into_iter().map(|request| ApiRequest { protocol: 1, id: 7, request });
    assert_form("control-requests.jsonl", &asked.collect::<Vec<_>>());
    assert_complete("command", &commands());
    let mut responses: Vec<Response> =
        answers().into_iter().map(|answer| Response { id: Some(7), body: Body::Answer(answer) }).collect();
    let error = ProtocolError::new("unsupported-protocol", "the request is in version 9");
    responses.push(Response { id: None, body: Body::Error(error) });
    let nothing_to_do = Answer::Report(Box::new(PassReport {
        version: 1,
        changes: false,
        steps: vec![],
        converged: Some(true),
        unwell: vec![],
        apart: vec![Apart { service: "web".into(), phase: Phase::Stopped }],
        also: vec![],
        manifests: vec![],
    }));
    responses.push(Response { id: Some(7), body: Body::Answer(nothing_to_do) });
    assert_reads("control-responses.jsonl", &responses);
    responses.iter_mut().for_each(depend);
    assert_reads("control-responses-dependencies.jsonl", &responses);
    let mut reload = responses.clone();
    reload.truncate(2);
    for response in &mut reload {
        if let Body::Answer(Answer::Report(report)) = &mut response.body {
            report.steps.truncate(1);
            report.steps.iter_mut().for_each(|step| step.action = Action::Reload);
        }
    }
    reload.retain(|response| matches!(response.body, Body::Answer(Answer::Report(_))));
    assert_reads("control-responses-reload.jsonl", &reload);
    responses.iter_mut().for_each(listen);
    assert_reads("control-responses-sockets.jsonl", &responses);
    for response in &mut responses {
        if let Body::Answer(Answer::Status(status)) = &mut response.body {
            for service in &mut status.services {
                service.health.iter_mut().for_each(|health| health.status = Some("serving".into()));
            }
        }
    }
    responses.extend(reload);
    assert_reads("control-responses-said.jsonl", &responses);
    responses.iter_mut().for_each(lease);
    assert_form("control-responses-leases.jsonl", &responses);
    assert_complete("answer", &answers());
    assert_complete_words(&phases());
    assert_complete_words(&[actions(), vec![Action::Reload]].concat());
}

#[test]
fn accepted_texts_are_found_by_their_digest_and_read() {
    let layout = StateLayout { dir: fixture("") };
    let mut services = 0;
    for entry in fs::read_dir(layout.accepted_dir()).unwrap() {
        let path = entry.unwrap().path();
        let digest = Digest::of(&fs::read(&path).unwrap());
        assert_eq!(layout.accepted(&digest), path);
        let text = read_text(&layout, &digest).expect("it is what its name says");
        let loaded = load(&text);
        assert_eq!(loaded.problems, [], "{}", path.display());
        services += loaded.services.len();
    }
    assert!(services > 0);
}

//! Sample records for the tests of the ledger: one of every kind, and a history that makes sense.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use reconcile::identity::{BootId, Digest, Nonce, Pid, ProcessIdentity, ServiceId};
use reconcile::manifest::PortBlocks;
use reconcile::state::{
    Containment, End, ExecFacts, ExitStatus, FileIdentity, FileKey, Intent, Reason, Record, Request, RootKey,
    SpawnFailure, SpawnStage, encode, encode_header,
};
use reconcile::time::Stamp;

pub fn service(name: &str) -> ServiceId {
    ServiceId::parse(name).unwrap()
}

pub fn nonce(n: u64) -> Nonce {
    Nonce::from_u64(n)
}

pub fn at(seconds: u64) -> Stamp {
    let ms = seconds * 1_000;
    Stamp {
        boot: BootId::new("0d9a1c6e-0000-4000-8000-000000000001"),
        boottime_ms: ms,
        awake_ms: ms,
        wall_ms: 1_763_000_000_000 + ms as i64,
    }
}

pub fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

pub fn file(path: &str) -> FileKey {
    FileKey { root: RootKey("r1".into()), path: path.into() }
}

pub fn process(pid: i32) -> ProcessIdentity {
    ProcessIdentity {
        pid: Pid::new(pid).unwrap(),
        start_ticks: 119_650 + pid as u64,
        boot: at(0).boot,
        pid_ns: 4_026_531_836,
    }
}

pub fn cgroup(name: &str) -> Containment {
    Containment::Cgroup { path: format!("/sys/fs/cgroup/reconcile/{name}").into() }
}

pub fn failure(stage: SpawnStage) -> SpawnFailure {
    SpawnFailure { stage, errno: 2, message: "executing server.js: no such file".into() }
}

pub fn intent(name: &str, n: u64, seconds: u64) -> Intent {
    Intent {
        service: service(name),
        nonce: nonce(n),
        fingerprint: format!("v1:{n:032x}"),
        digest: digest(name),
        why: Reason::New,
        exec: ExecFacts {
            files: vec![FileIdentity {
                path: "/usr/bin/node".into(),
                dev: 65_024,
                inode: u64::MAX,
                ctime_ns: 1_763_000_000_123_456_789,
            }],
            uid: 1_000,
            allowed: vec!["node".into()],
        },
        at: at(seconds),
        epoch: 7,
        clears_failures: false,
        beside: BTreeMap::new(),
        files: None,
        log: None,
        cwd: None,
        ports: PortBlocks::new(),
    }
}

pub fn accepted(path: &str, names: &[&str]) -> Record {
    Record::Accepted {
        file: file(path),
        digest: digest(path),
        services: names.iter().map(|name| service(name)).collect(),
        directory_inode: 0,
    }
}

pub fn started(name: &str, n: u64, seconds: u64) -> Record {
    Record::Started {
        service: service(name),
        nonce: nonce(n),
        process: process(1_000 + n as i32),
        containment: cgroup(name),
        at: at(seconds),
    }
}

pub fn exited(name: &str, n: u64, failures: u32, seconds: u64) -> Record {
    let end = End::Exit { status: ExitStatus::Code(3) };
    Record::Exited { service: service(name), nonce: nonce(n), end, failures, at: at(seconds) }
}

pub fn gone(name: &str, n: u64) -> Record {
    Record::Gone { service: service(name), nonce: nonce(n) }
}

pub fn stopping(name: &str, n: u64, why: Reason, seconds: u64) -> Record {
    Record::Stopping { service: service(name), nonce: nonce(n), why, at: at(seconds) }
}

pub fn request(name: &str, request: Request, seconds: u64) -> Record {
    Record::Request { service: service(name), request, at: at(seconds) }
}

pub fn spawn_failed(name: &str, n: u64, seconds: u64) -> Record {
    Record::SpawnFailed {
        service: service(name),
        nonce: nonce(n),
        failure: failure(SpawnStage::Exec),
        at: at(seconds),
    }
}

/// Every kind of record, in an order in which they could have happened.
pub fn history() -> Vec<Record> {
    let odd_path =
        FileKey { root: RootKey("r1".into()), path: OsString::from_vec(b"odd-\xff\n.toml".to_vec()).into() };
    let ttl = Reason::TtlExpired { ttl: Duration::from_millis(14_400_250) };
    let root = Record::Root {
        key: RootKey("r1".into()),
        path: "/srv/shop/manifests".into(),
        dev: 65_024,
        inode: 131_073,
        born_ns: None,
    };
    vec![
        root,
        accepted("web.toml", &["web", "shop/db"]),
        Record::Accepted {
            file: odd_path.clone(),
            digest: digest("odd"),
            services: vec![service("odd")],
            directory_inode: 0,
        },
        Record::Intent(Box::new(intent("web", 1, 10))),
        started("web", 1, 11),
        Record::Ready { service: service("web"), nonce: nonce(1), at: at(12) },
        Record::Updated { service: service("web"), nonce: nonce(1), digest: digest("newer") },
        exited("web", 1, 1, 20),
        gone("web", 1),
        Record::Intent(Box::new(intent("web", 2, 21))),
        spawn_failed("web", 2, 22),
        Record::Intent(Box::new(intent("shop/db", 3, 30))),
        Record::Started {
            service: service("shop/db"),
            nonce: nonce(3),
            process: process(1_003),
            containment: Containment::Holder { process: process(1_002), within: None },
            at: at(31),
        },
        request("shop/db", Request::Stop, 40),
        stopping("shop/db", 3, Reason::OperatorStop, 41),
        Record::Exited {
            service: service("shop/db"),
            nonce: nonce(3),
            end: End::Ours { status: Some(ExitStatus::Signal(15)) },
            failures: 0,
            at: at(42),
        },
        gone("shop/db", 3),
        Record::Deactivated { service: service("shop/db") },
        Record::GuardLatched {
            service: service("odd"),
            why: Reason::GuardRootGone { path: "/srv/shop/manifests".into(), detail: "is missing".into() },
        },
        Record::GuardReleased { service: service("odd") },
        Record::Intent(Box::new(intent("odd", 4, 50))),
        stopping("odd", 4, ttl, 51),
        Record::FileForgotten { file: odd_path },
        Record::Forgotten { service: service("odd") },
        request("web", Request::Restart, 60),
        Record::Entry { service: service("kept"), entry: std::sync::Arc::default() },
    ]
}

/// The journal that holds these records.
pub fn journal(records: &[Record]) -> Vec<u8> {
    let lines = records.iter().enumerate().flat_map(|(n, record)| encode(n as u64 + 1, record));
    encode_header().into_iter().chain(lines).collect()
}

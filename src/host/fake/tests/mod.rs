//! The model against itself: that it does what its scripts say, and notices what must never happen.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::errno::Errno;

use super::*;
use crate::host::{ExecTarget, SpawnRequest};
use crate::host::{Found, JobOutcome, JobPurpose, ProbeTarget, StdinKind};
use crate::identity::{Pid, ServiceId};
use crate::state::{Containment, End, ExecFacts, ExitStatus, Intent, Reason, Record, SpawnStage};

mod oracle;
mod probes;
mod processes;
mod properties;
mod sessions;

const TERM: i32 = 15;

/// A reconciler that does as it is told.
struct Rig {
    host: FakeHost,
}

impl Rig {
    fn new() -> Self {
        Self { host: FakeHost::new() }
    }

    fn executable(&mut self, process: &ProcessIdentity) -> FileIdentity {
        self.host.executables(std::slice::from_ref(process)).remove(0).expect("it lives")
    }

    fn wait(&mut self) -> Vec<Event> {
        block_on(self.host.wait(None))
    }

    fn wait_at_most(&mut self, millis: u64) -> Vec<Event> {
        block_on(self.host.wait(Some(Duration::from_millis(millis))))
    }

    fn request(&mut self, name: &str) -> SpawnRequest {
        let query =
            ExecQuery { word: "node".into(), cwd: "/".into(), search_path: Vec::new(), digest: false };
        let file = self.host.resolve(&query).expect("node is there").remove(0).file;
        SpawnRequest {
            service: ServiceId::parse(name).unwrap(),
            nonce: self.host.nonce(),
            epoch: self.host.epoch(),
            exec: ExecTarget { file, script: false, found: None },
            argv: vec!["node".into()],
            env: Vec::new(),
            cwd: "/".into(),
            stdin: StdinKind::Null,
            user: None,
            umask: 0o022,
            nice: None,
            oom_score_adj: None,
            rlimits: Vec::new(),
            intent: None,
            sockets: Vec::new(),
            notify: false,
            credentials: None,
            make_cwd: false,
            cgroup: CgroupLimits::default(),
            make_work: None,
            limits_required: false,
            stdout_only: false,
            notify_fd: None,
        }
    }

    fn promise(&mut self, request: &SpawnRequest) {
        let digest = Digest::of(b"text");
        self.host.keep_text(&digest, "text").unwrap();
        let intent = self.intent(request, digest);
        self.host.append(&[intent]).unwrap();
    }

    fn intent(&self, request: &SpawnRequest, digest: Digest) -> Record {
        Record::Intent(Box::new(Intent {
            service: request.service.clone(),
            nonce: request.nonce.clone(),
            fingerprint: "v1:00".into(),
            digest,
            why: Reason::New,
            exec: ExecFacts { files: vec![request.exec.file.clone()], uid: 1000, allowed: Vec::new() },
            at: self.host.now(),
            epoch: request.epoch,
            clears_failures: false,
            beside: BTreeMap::new(),
            files: None,
            log: None,
            cwd: None,
            ports: BTreeMap::new(),
        }))
    }

    /// Asks for a start; the claim as it is before the answer.
    fn spawn(&mut self, name: &str) -> Claim {
        let request = self.request(name);
        self.promise(&request);
        let claim = Claim {
            service: request.service.clone(),
            nonce: request.nonce.clone(),
            process: None,
            containment: None,
            epoch: request.epoch,
        };
        self.host.spawn(request);
        claim
    }

    /// Starts, and waits for the answer.
    fn start(&mut self, name: &str) -> Claim {
        let mut claim = self.spawn(name);
        let events = self.wait();
        let [Event::Spawned { process, containment, .. }] = events.as_slice() else {
            panic!("{name} is born, not {events:?}");
        };
        claim.process = Some(process.clone());
        claim.containment = Some(containment.clone());
        claim
    }

    fn found(&mut self, claim: &Claim) -> Found {
        self.host.observe(std::slice::from_ref(claim)).remove(0).found
    }
}

/// The futures of the model are ready at once.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the model never keeps anybody waiting in real time"),
    }
}

fn code(code: i32) -> ExitStatus {
    ExitStatus::Code(code)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

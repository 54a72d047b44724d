//! A world of its own for each test: a state directory, a keeper, a client, and an end for all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use reconcile::host::cgroup::Mount;
use reconcile::host::clock;
use reconcile::host::cores::Over;
use reconcile::host::keeper::{Heard, KeeperClient, epoch};
use reconcile::host::observe::{Intents, observe};
use reconcile::host::proc::{Here, Liveness, Pinned, visit_descendants};
use reconcile::host::{Claim, Event, ExecTarget, Found, SpawnRequest, StateLayout, StdinKind};
use reconcile::identity::{Digest, InstanceId, Nonce, ProcessIdentity, ServiceId};
use reconcile::state::{Containment, ExitStatus, FileIdentity, Intent};

pub const EXE: &str = env!("CARGO_BIN_EXE_reconcile");

/// No state is waited for longer than this.
pub const BOUND: Duration = Duration::from_secs(30);

/// What a keeper of the test contains runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whatever it finds; a cgroup where tests run as root.
    Found,
    Holder,
    /// As an unprivileged user, which means holders.
    Nobody,
}

pub struct World {
    pub layout: StateLayout,
    pub instance: InstanceId,
    pub here: Here,
    pub client: Option<KeeperClient>,
    pub epoch: u64,
    pub kind: Kind,
    keepers: Vec<ProcessIdentity>,
    runs: BTreeMap<Nonce, (ProcessIdentity, Containment)>,
    next_nonce: u64,
    seen: Vec<Event>,
    _dir: tempfile::TempDir,
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Root may make cgroups, and so may a user to whom the one we are in was delegated.
pub fn may_make_cgroups() -> bool {
    let own = Mount::find().ok().flatten().and_then(|mount| mount.own().ok().flatten());
    own.is_some_and(|own| nix::unistd::access(&own, nix::unistd::AccessFlags::W_OK).is_ok())
}

impl World {
    pub async fn new(kind: Kind) -> Self {
        let mut world = Self::without_keeper(kind);
        world.start_keeper();
        world.connect().await;
        world
    }

    pub fn without_keeper(kind: Kind) -> Self {
        let dir = tempfile::Builder::new().prefix("reconcile-keeper-").tempdir().unwrap();
        let mut random = [0; 8];
        fs::File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
        let layout = StateLayout { dir: dir.path().to_owned() };
        let epoch = epoch(&layout).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        if kind == Kind::Nobody {
            for path in [dir.path(), &layout.birth_gate()] {
                chown(path, Some(65534), Some(65534)).unwrap();
            }
        }
        Self {
            layout,
            instance: InstanceId::from_u64(u64::from_ne_bytes(random)),
            here: Here::read().unwrap(),
            client: None,
            epoch,
            kind,
            keepers: Vec::new(),
            runs: BTreeMap::new(),
            next_nonce: 1,
            seen: Vec::new(),
            _dir: dir,
        }
    }

    /// The command that starts a keeper as the kind of this world.
    pub fn keeper_command(&self) -> Command {
        let mut command = Command::new(EXE);
        command.arg("keeper").arg("--state-dir").arg(&self.layout.dir).stdin(Stdio::null());
        match self.kind {
            Kind::Found => {}
            Kind::Holder => drop(command.env("RECONCILE_CONTAINMENT", "holder")),
            Kind::Nobody => drop(command.uid(65534).gid(65534)),
        }
        command
    }

    pub fn start_keeper(&self) {
        let output = self.keeper_command().output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    pub async fn connect(&mut self) {
        let client =
            KeeperClient::connect(&self.layout, &self.instance).await.unwrap().expect("a keeper listens");
        self.keepers.push(client.info.keeper.clone());
        self.client = Some(client);
    }

    /// Closes the connection; its tasks have to be run for that.
    pub async fn disconnect(&mut self) {
        self.client = None;
        hang_up().await;
    }

    pub fn client(&self) -> &KeeperClient {
        self.client.as_ref().expect("connected")
    }

    pub fn keeper(&self) -> &ProcessIdentity {
        self.keepers.last().expect("connected once")
    }

    /// SIGKILL to the keeper, and a new one in its place.
    pub async fn replace_keeper(&mut self) {
        self.kill_keeper().await;
        self.disconnect().await;
        self.start_keeper();
        self.connect().await;
    }

    pub async fn kill_keeper(&self) {
        let keeper = self.keeper().clone();
        if let Ok(pinned) = self.here.pin(&keeper) {
            pinned.signal(libc::SIGKILL).unwrap();
        }
        self.eventually("the keeper is dead", || self.here.liveness(&keeper) == Liveness::Dead).await;
    }

    pub fn nonce(&mut self) -> Nonce {
        self.next_nonce += 1;
        Nonce::from_u64(self.next_nonce)
    }

    /// A request to run `argv`, whose first word is a path.
    pub fn request(&mut self, service: &str, argv: &[&str]) -> SpawnRequest {
        let (service, nonce) = (ServiceId::parse(service).unwrap(), self.nonce());
        let intent = Intent::lost(service.clone(), nonce.clone(), Digest::of(b""), clock::now());
        SpawnRequest {
            service,
            nonce,
            epoch: self.epoch,
            exec: target(Path::new(argv[0])),
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())],
            cwd: "/".into(),
            stdin: StdinKind::Null,
            user: None,
            umask: 0o022,
            nice: None,
            oom_score_adj: None,
            rlimits: Vec::new(),
            intent: Some(Box::new(intent)),
            sockets: Vec::new(),
            notify: false,
            credentials: None,
            make_cwd: false,
            cgroup: reconcile::host::CgroupLimits::default(),
            make_work: None,
            limits_required: false,
            stdout_only: false,
            notify_fd: None,
        }
    }

    pub fn shell(&mut self, service: &str, script: &str) -> SpawnRequest {
        self.request(service, &["/bin/sh", "-c", script])
    }

    /// Spawns it and waits until it is executed.
    pub async fn spawn(&mut self, request: SpawnRequest) -> Claim {
        let (service, nonce) = (request.service.clone(), request.nonce.clone());
        self.client().spawn(request);
        let event = self.until(|event| {
            matches!(event, Event::Spawned { nonce: n, .. } | Event::SpawnFailed { nonce: n, .. } if *n == nonce)
        });
        match event.await {
            Event::Spawned { process, containment, .. } => Claim {
                service,
                nonce,
                process: Some(process),
                containment: Some(containment),
                epoch: self.epoch,
            },
            other => self.fail(&format!("{other:?}")),
        }
    }

    pub async fn run(&mut self, service: &str, script: &str) -> Claim {
        let request = self.shell(service, script);
        self.spawn(request).await
    }

    /// The next event that fits, among those that came meanwhile first.
    pub async fn until(&mut self, fits: impl Fn(&Event) -> bool) -> Event {
        if let Some(at) = self.seen.iter().position(&fits) {
            return self.seen.remove(at);
        }
        let deadline = Instant::now() + BOUND;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let client = self.client.as_mut().expect("connected");
            let event = match tokio::time::timeout(left, client.next()).await {
                Ok(Heard::Event(event)) => event,
                Ok(other) => self.fail(&format!("not asked for: {other:?}")),
                Err(_) => self.fail(&format!("an event was waited for in vain; seen {:?}", self.seen)),
            };
            if let Event::Spawned { nonce, process, containment, .. } = &event {
                self.runs.insert(nonce.clone(), (process.clone(), containment.clone()));
            }
            if fits(&event) {
                return event;
            }
            self.seen.push(event);
        }
    }

    /// Has the keeper become this file, and meets it again.
    pub async fn upgrade(&mut self, exe: &Path) {
        self.client().upgrade(&target(exe).file);
        self.until(|event| *event == Event::KeeperLost).await;
        self.disconnect().await;
        self.connect().await;
    }

    /// Asks for an upgrade that is to be refused: whether for now, and why.
    pub async fn refused_upgrade(&mut self, exe: &FileIdentity) -> (bool, String) {
        self.client().upgrade(exe);
        loop {
            let next = self.client.as_mut().expect("connected").next();
            match tokio::time::timeout(BOUND, next).await {
                Ok(Heard::NotUpgraded { busy, detail }) => return (busy, detail),
                Ok(Heard::Event(Event::KeeperLost) | Heard::Socket(_)) | Err(_) => {
                    self.fail("it was to be refused")
                }
                Ok(Heard::Event(event)) => self.seen.push(event),
            }
        }
    }

    /// The exit of this run: its status, and whether others of it lived.
    pub async fn exited(&mut self, claim: &Claim) -> (Option<ExitStatus>, bool) {
        match self.until(|event| matches!(event, Event::Exited { nonce, .. } if *nonce == claim.nonce)).await
        {
            Event::Exited { status, others, .. } => (status, others),
            other => unreachable!("{other:?}"),
        }
    }

    pub async fn gone(&mut self, claim: &Claim) {
        self.until(|event| matches!(event, Event::Gone { nonce } if *nonce == claim.nonce)).await;
    }

    pub async fn failure(&mut self, request: SpawnRequest) -> reconcile::state::SpawnFailure {
        let nonce = request.nonce.clone();
        self.client().spawn(request);
        let event = self.until(|event| {
            matches!(event, Event::Spawned { nonce: n, .. } | Event::SpawnFailed { nonce: n, .. } if *n == nonce)
        });
        match event.await {
            Event::SpawnFailed { failure, .. } => failure,
            other => self.fail(&format!("it was to fail: {other:?}")),
        }
    }

    pub fn found(&self, claim: &Claim) -> Found {
        let judged = BTreeSet::from([claim.nonce.clone()]);
        observe(&self.layout, std::slice::from_ref(claim), Intents::Judged(&judged), Over::One)
            .unwrap()
            .remove(0)
            .found
    }

    /// Looks until it is so, or fails.
    pub async fn eventually(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + BOUND;
        while !is_so() {
            if Instant::now() > deadline {
                self.fail(&format!("waited in vain until {what}"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.layout.dir.join(name)
    }

    pub fn log(&self, service: &str) -> String {
        fs::read_to_string(self.layout.log(&ServiceId::parse(service).unwrap())).unwrap_or_default()
    }

    /// A process that wrote its pid to a file, once it is there.
    pub async fn process_in(&self, file: &str) -> ProcessIdentity {
        let path = self.path(file);
        let mut pid = None;
        self.eventually(&format!("{file} holds a pid"), || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            pid = text.strip_suffix('\n').and_then(|text| text.trim().parse::<i32>().ok());
            pid.is_some()
        })
        .await;
        self.here.identity(pid.unwrap()).unwrap()
    }

    pub fn is_alive(&self, process: &ProcessIdentity) -> bool {
        self.here.liveness(process) == Liveness::Alive
    }

    /// Fails with all there is to see.
    pub fn fail(&self, why: &str) -> ! {
        let mut text = format!("{why}\n--- {}\n", self.layout.dir.display());
        for name in ["keeper.log", "births.journal", "exits.journal"] {
            text += &format!("--- {name}\n{}\n", fs::read_to_string(self.path(name)).unwrap_or_default());
        }
        for (pid, line) in self.processes() {
            text += &format!("--- {pid}: {line}\n");
        }
        panic!("{text}");
    }

    /// Whatever descends from a keeper, a holder or a leader of this world, or is in one of its cgroups.
    fn processes(&self) -> BTreeMap<i32, String> {
        let mut found = BTreeMap::new();
        let mut add = |pid: i32| {
            let line = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            found.insert(pid, line.chars().take(60).collect());
        };
        let mut tops: Vec<&ProcessIdentity> = self.keepers.iter().collect();
        for (process, containment) in self.runs.values() {
            tops.push(process);
            match containment {
                Containment::Holder { process, .. } => tops.push(process),
                Containment::Cgroup { path } => {
                    let pids = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
                    pids.lines().filter_map(|pid| pid.parse().ok()).for_each(&mut add);
                }
            }
        }
        for top in tops {
            if let Ok(pinned) = self.here.pin(top) {
                add(pinned.pid());
                let _ = visit_descendants(&pinned, &mut |member, stat| {
                    if !stat.is_dead() {
                        add(member.pid());
                    }
                });
            }
        }
        found
    }
}

/// Lets the tasks of dropped clients close their connections.
pub async fn hang_up() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// Everything that the test started ends with it, however it ends; the keeper last, since it reaps.
impl Drop for World {
    fn drop(&mut self) {
        self.client = None;
        let deadline = Instant::now() + BOUND;
        loop {
            let mut rest = self.processes();
            let is_keeper = |pid: &i32| self.keepers.iter().any(|keeper| keeper.pid.get() == *pid);
            if rest.keys().any(|pid| !is_keeper(pid)) {
                rest.retain(|pid, _| !is_keeper(pid));
            }
            if rest.is_empty() {
                break;
            }
            for &pid in rest.keys() {
                if let Ok(Some(pinned)) = Pinned::open(pid) {
                    let _ = pinned.signal(libc::SIGKILL);
                }
            }
            if Instant::now() > deadline {
                eprintln!("left behind: {rest:?}");
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let base = Path::new(mount).join("reconcile").join(self.instance.as_str());
            // Whoever was killed a moment ago is still on the way out.
            while base.exists() && Instant::now() < deadline {
                remove_cgroups(&base);
            }
        }
    }
}

fn remove_cgroups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

/// The file at a path as it is now, links followed.
pub fn target(path: &Path) -> ExecTarget {
    let path = path.canonicalize().unwrap();
    let meta = fs::metadata(&path).unwrap();
    let ctime_ns = meta.ctime() * 1_000_000_000 + meta.ctime_nsec();
    let is_script = fs::read(&path).is_ok_and(|bytes| bytes.starts_with(b"#!"));
    ExecTarget {
        file: FileIdentity { path, dev: meta.dev(), inode: meta.ino(), ctime_ns },
        script: is_script,
        found: None,
    }
}

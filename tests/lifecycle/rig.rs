//! A reconciler, the machine under it, and a clock that a test turns.

use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use reconcile::host::fake::{Birth, Counts, FakeHost};
use reconcile::host::{Host, StateLayout};
use reconcile::identity::{InstanceId, Pid};
use reconcile::manifest::Problem;
use reconcile::plan::Phase;
use reconcile::policy::{Config, Policy, Trust, parse_config};
use reconcile::reconciler::command::{Answer, Command, Refusal};
use reconcile::reconciler::status::{PassReport, ServiceStatus, StepReport};
use reconcile::reconciler::{Reconciler, Settings};
use tokio::sync::oneshot;

/// A condition that takes longer does not come about.
const PATIENCE: Duration = Duration::from_secs(600);

/// Turns within one instant after which a reconciler has said all it has to say.
const QUIET_TURNS: u32 = 3;

pub struct Rig {
    pub host: FakeHost,
    reconciler: Reconciler<FakeHost>,
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A manifest of one service.
pub fn manifest(name: &str, more: &str) -> String {
    format!("[service.{name}]\ncommand = [\"node\", \"{name}.js\"]\n{more}\n")
}

fn config_of(text: &str) -> Config {
    let (config, problems) = parse_config(text);
    assert_eq!(problems, []);
    config
}

/// Of one user who owns everything.
fn policy_of(config: &Config, host: &FakeHost) -> Policy {
    let trust = Trust::OneUser {
        uid: host.own_uid(),
        home_project: PathBuf::from("/srv/app"),
        search_path: vec![PathBuf::from("/usr/bin")],
    };
    Policy::in_force(config, trust, &[])
}

/// The futures of the model are ready at once.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the model never keeps anybody waiting in real time"),
    }
}

impl Rig {
    pub fn new() -> Self {
        Self::over(FakeHost::new())
    }

    /// A watcher that has just started on this machine.
    pub fn over(host: FakeHost) -> Self {
        Self::under(host, "")
    }

    /// The same under a configuration.
    pub fn under(host: FakeHost, config: &str) -> Self {
        let config = config_of(config);
        let settings = Settings {
            layout: StateLayout { dir: PathBuf::from("/state") },
            instance: InstanceId::from_u64(1),
            project_dir: PathBuf::from("/srv/app"),
            home: Some(PathBuf::from("/home/op")),
            config,
            watching: true,
        };
        let policy = policy_of(&settings.config, &host);
        let ledger = host.ledger();
        Self { reconciler: Reconciler::new(host.clone(), settings, policy, ledger), host }
    }

    /// With one service of this name.
    pub fn with(name: &str, more: &str) -> Self {
        let rig = Self::new();
        rig.declare(name, more);
        rig
    }

    pub fn declare(&self, name: &str, more: &str) {
        self.host.write(format!("{name}.toml"), &manifest(name, more));
    }

    /// The configuration is read again.
    pub fn configure(&mut self, config: &str) {
        let config = config_of(config);
        let policy = policy_of(&config, &self.host);
        self.reconciler.take_configuration(config, policy);
    }

    pub fn turn(&mut self) {
        block_on(self.reconciler.turn());
    }

    /// Goes on for this long, and until nothing more happens at its end.
    pub fn run_for(&mut self, span: Duration) -> &mut Self {
        let end = self.now() + span;
        self.host.wake_after(span);
        while self.now() < end {
            self.turn();
        }
        let mut quiet = 0;
        while quiet < QUIET_TURNS {
            let before = self.host.counts();
            self.host.wake_after(Duration::ZERO);
            self.turn();
            quiet = if self.host.counts() == before { quiet + 1 } else { 0 };
        }
        self
    }

    /// Goes on until this is so; returns how long it took.
    #[track_caller]
    pub fn run_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now();
        while !condition(self) {
            assert!(self.now() < start + PATIENCE, "never came about: {what}\n{}", self.host.story());
            self.turn();
        }
        self.now() - start
    }

    #[track_caller]
    pub fn run_until_phase(&mut self, name: &str, phase: Phase) -> Duration {
        self.run_until(&format!("{name} is {phase:?}"), |rig| rig.phase(name) == Some(phase))
    }

    /// On the clock that stands still during suspend.
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.host.now().awake_ms)
    }

    /// The reconciler is killed, and another one starts at once.
    pub fn die(&mut self, in_flight: Birth) {
        *self = Self::over(self.host.reconciler_dies(in_flight));
    }

    pub fn reboot(&mut self) {
        *self = Self::over(self.host.reboot(secs(30)));
    }

    /// Asks without caring for the answer.
    pub fn order(&mut self, command: Command) {
        let (sender, _) = oneshot::channel();
        self.take_command(command, sender);
    }

    /// A command is taken in as a watcher does it: with a pass at once.
    fn take_command(&mut self, command: Command, answer: oneshot::Sender<Answer>) {
        self.reconciler.take_command(command, answer);
        self.reconciler.pass();
    }

    /// Asks, and goes on until there is an answer.
    #[track_caller]
    pub fn ask(&mut self, command: Command) -> Answer {
        let (sender, mut answer) = oneshot::channel();
        self.take_command(command, sender);
        let start = self.now();
        loop {
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
            assert!(self.now() < start + PATIENCE, "never answered\n{}", self.host.story());
            self.turn();
        }
    }

    #[track_caller]
    pub fn done(&mut self, command: Command) -> PassReport {
        match self.ask(command) {
            Answer::Report(report) => *report,
            other => panic!("done, not {other:?}"),
        }
    }

    #[track_caller]
    pub fn refused(&mut self, command: Command) -> Refusal {
        match self.ask(command) {
            Answer::Refused(refusal) => refusal,
            other => panic!("refused, not {other:?}"),
        }
    }

    /// What a pass would do.
    pub fn plan(&mut self) -> Vec<StepReport> {
        self.done(Command::Plan { names: Vec::new() }).steps
    }

    pub fn status(&self, name: &str) -> Option<ServiceStatus> {
        self.reconciler.status().services.into_iter().find(|service| service.name == name)
    }

    /// Of the manifest at this path below the root.
    pub fn problem_codes(&self, path: &str) -> Vec<String> {
        self.problems(path).into_iter().map(|problem| problem.code).collect()
    }

    /// Likewise.
    pub fn problems(&self, path: &str) -> Vec<Problem> {
        let manifests = self.reconciler.status().manifests;
        let of_file = manifests.into_iter().filter(|manifest| manifest.path.ends_with(path));
        of_file.flat_map(|manifest| manifest.problems).collect()
    }

    pub fn phase(&self, name: &str) -> Option<Phase> {
        self.status(name).map(|status| status.phase)
    }

    pub fn reason(&self, name: &str) -> String {
        self.status(name).map(|status| status.reason).unwrap_or_default()
    }

    pub fn failures(&self, name: &str) -> u32 {
        self.status(name).map_or(0, |status| status.failures)
    }

    #[track_caller]
    pub fn pid(&self, name: &str) -> Pid {
        self.host.leader(name).unwrap_or_else(|| panic!("{name} has a leader\n{}", self.host.story()))
    }

    pub fn counts(&self) -> Counts {
        self.host.counts()
    }

    /// Nothing is started, signalled, killed or written in this time.
    #[track_caller]
    pub fn assert_idle_for(&mut self, span: Duration) {
        let before = self.counts().changes();
        self.run_for(span);
        assert_eq!(self.counts().changes(), before, "something was done\n{}", self.host.story());
    }
}

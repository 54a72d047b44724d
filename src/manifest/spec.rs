//! A checked service: what the rest of the program works with.
//!
//! Every value is in range, every name is a name, every template is known to fill in. Texts are kept *as
//! written*, with their `{{…}}`, and relative paths stay relative, so that moving a project or exporting
//! another PATH never looks like a change; `render` fills them in when a process is started or probed.
//! Made by `check` alone.

mod files;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use super::demand::{Activation, Lifecycle, StopPolicy};
use super::ports::{CheckPort, Port, PortOwner};
use super::sockets::Socket;
pub use files::{EnvFile, OnExeChange, Reload, Secret, SecretCommand, SecretForm, SecretSource};

use crate::identity::{DEFAULT_PROJECT, ServiceId};

/// One declared service. The reference manifest documents every field and its default.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub id: ServiceId,
    pub command: CommandLine,
    /// As written; relative to the project directory, `~/` is the home.
    pub cwd: String,
    /// Of a list: those that are taken before it if they are there; then `cwd` is made where it is not.
    pub cwd_before: Option<Vec<String>>,
    /// Values as written, with their templates.
    pub env: BTreeMap<String, String>,
    /// More variables, of files; later ones win, and declared ones over all.
    pub env_file: Vec<EnvFile>,
    /// By the variable that tells each.
    pub secrets: BTreeMap<String, Secret>,
    /// Names, or a prefix followed by `*`; only the names are part of the spec, never the values.
    pub inherit_env: Cow<'static, [Cow<'static, str>]>,
    pub stdin: Stdin,
    /// `None`: the user that runs the reconciler.
    pub user: Option<String>,
    pub umask: u32,
    pub nice: Option<i32>,
    pub oom_score_adj: Option<i32>,
    /// What must be up, or done, before it is started; a change touches nothing that runs.
    pub depends_on: BTreeMap<ServiceId, Dependency>,
    /// By name.
    pub ports: BTreeMap<String, Port>,
    /// Files, also by wildcards in their names: other content is a restart.
    pub restart_on: Vec<String>,
    pub reload: Reload,
    pub on_exe_change: OnExeChange,
    pub port_owner: PortOwner,
    /// By name: held open for it, and passed on to it.
    pub sockets: BTreeMap<String, Socket>,
    pub activation: Activation,
    pub lifecycle: Lifecycle,
    /// As written; what is in force is [`Spec::when_unused`].
    pub stop_policy: Option<StopPolicy>,
    pub state: WantedState,
    pub url: Option<String>,
    pub description: String,
    pub labels: BTreeMap<String, String>,
    /// Opaque to us, shown to consumers; texts as written, with their templates.
    pub attrs: serde_json::Map<String, serde_json::Value>,
    /// Counted from the activation, on the clock that counts suspend.
    pub ttl: Option<Duration>,
    /// Without a health check: lived this long counts as started.
    pub start_settle: Duration,
    pub health: Option<Health>,
    pub restart: Restart,
    pub stop: Stop,
    pub limits: Limits,
}

/// What is passed on from the reconciler's environment by default.
static INHERITED: [Cow<'static, str>; 9] = {
    const fn name(text: &'static str) -> Cow<'static, str> {
        Cow::Borrowed(text)
    }
    [
        name("PATH"),
        name("HOME"),
        name("USER"),
        name("LOGNAME"),
        name("SHELL"),
        name("LANG"),
        name("LC_*"),
        name("TZ"),
        name("TMPDIR"),
    ]
};

impl Spec {
    /// What it runs with stands in files, too.
    pub fn names_files(&self) -> bool {
        let has_contents = !self.restart_on.is_empty() || !self.reload.on.is_empty();
        has_contents || !self.env_file.is_empty() || !self.secrets.is_empty()
    }

    /// It is given secrets as files.
    pub fn has_credentials(&self) -> bool {
        self.secrets.values().any(|secret| secret.given_as == SecretForm::File)
    }

    /// The secrets that are had by running something.
    pub fn secret_commands(&self) -> impl Iterator<Item = (&str, &SecretCommand)> {
        self.secrets.iter().filter_map(|(name, secret)| match &secret.source {
            SecretSource::Command(command) => Some((name.as_str(), command)),
            SecretSource::File(_) | SecretSource::Env(_) | SecretSource::Derived(_) => None,
        })
    }

    /// A service that gives nothing but its command.
    pub fn minimal(id: ServiceId, command: CommandLine) -> Self {
        Self {
            id,
            command,
            cwd: ".".to_owned(),
            cwd_before: None,
            env: BTreeMap::new(),
            env_file: Vec::new(),
            secrets: BTreeMap::new(),
            inherit_env: Cow::Borrowed(&INHERITED),
            stdin: Stdin::Null,
            user: None,
            umask: 0o022,
            nice: None,
            oom_score_adj: None,
            depends_on: BTreeMap::new(),
            ports: BTreeMap::new(),
            restart_on: Vec::new(),
            reload: Reload::default(),
            on_exe_change: OnExeChange::Report,
            port_owner: PortOwner::Own,
            sockets: BTreeMap::new(),
            activation: Activation::default(),
            lifecycle: Lifecycle::Shared,
            stop_policy: None,
            state: WantedState::Running,
            url: None,
            description: String::new(),
            labels: BTreeMap::new(),
            attrs: serde_json::Map::new(),
            ttl: None,
            start_settle: Duration::from_secs(1),
            health: None,
            restart: Restart::default(),
            stop: Stop::default(),
            limits: Limits::default(),
        }
    }

    /// Every field at its default, those of `health` too; no service, for it has neither command nor check.
    pub(super) fn baseline() -> Self {
        let id = ServiceId::new(DEFAULT_PROJECT, "baseline").expect("both are names");
        let health = Some(Health::new(Self::baseline_check()));
        Self { health, ..Self::minimal(id, CommandLine::Argv(Vec::new())) }
    }

    /// Stands for no check at all: no manifest gives an empty URL.
    pub(super) fn baseline_check() -> HealthCheck {
        HealthCheck::Http { url: String::new(), expect_status: None }
    }
}

/// What is executed: words for execve(2), or one text for a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// At least one word; the first names the executable.
    Argv(Vec<String>),
    Shell {
        script: String,
        kind: Shell,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    /// `/bin/sh -c SCRIPT`
    Plain,
    /// `/bin/sh -lc SCRIPT`
    Login,
}

impl CommandLine {
    /// The words for execve(2), templates not filled in.
    pub fn words(&self) -> Vec<&str> {
        match self {
            Self::Argv(words) => words.iter().map(String::as_str).collect(),
            Self::Shell { script, kind: Shell::Plain } => vec!["/bin/sh", "-c", script],
            Self::Shell { script, kind: Shell::Login } => vec!["/bin/sh", "-lc", script],
        }
    }

    pub fn is_shell(&self) -> bool {
        matches!(self, Self::Shell { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    Null,
    /// A pipe that is never written: file watchers exit when theirs closes.
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedState {
    Running,
    Stopped,
}

/// What one service wants of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dependency {
    pub condition: Condition,
    /// Restarted after each new start of the other one.
    pub restart: bool,
}

impl Dependency {
    /// What stands for a name alone.
    pub const PLAIN: Self = Self { condition: Condition::Ready, restart: false };
}

/// How far another service must have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// It is up: settled, whatever its health check says. A job that is done has been up.
    Started,
    /// Its health check has passed; without one, as `Started`.
    Ready,
    /// It has ended cleanly and is not to be started again.
    Completed,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    pub check: HealthCheck,
    /// Between probes once ready.
    pub interval: Duration,
    /// Between probes until first ready.
    pub start_interval: Duration,
    /// Bound of one probe.
    pub timeout: Duration,
    /// From the start to first ready; missed, it is a failed start.
    pub start_timeout: Duration,
    /// Consecutive failures until `unhealthy`, at least 1.
    pub retries: u32,
    pub on_unhealthy: OnUnhealthy,
}

impl Health {
    /// The check at the default pace.
    pub fn new(check: HealthCheck) -> Self {
        Self {
            check,
            interval: Duration::from_secs(10),
            start_interval: Duration::from_millis(250),
            timeout: Duration::from_secs(5),
            start_timeout: Duration::from_secs(60),
            retries: 3,
            on_unhealthy: OnUnhealthy::Restart,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum HealthCheck {
    Http {
        /// As written, with templates; absolute, `http` or `https`.
        url: String,
        /// `None`: any 2xx.
        expect_status: Option<u16>,
    },
    Tcp {
        host: String,
        port: CheckPort,
    },
    Command {
        command: CommandLine,
        /// Searched for in the output; compiles under the size limit of `check`.
        expect_regex: Option<String>,
    },
    /// Ready for good once a line of this run's log matches.
    Log {
        /// Compiles under the size limit of `check`.
        pattern: String,
    },
    /// Ready once it says so, by sd_notify(3).
    Notify {
        /// How long it may be silent once it is ready.
        watchdog: Option<Duration>,
        /// Instead it writes a newline to this descriptor, and says nothing else.
        fd: Option<u16>,
    },
}

impl HealthCheck {
    /// Once it has passed there is nothing more to ask.
    pub fn passes_for_good(&self) -> bool {
        match self {
            Self::Log { .. } => true,
            Self::Notify { watchdog, .. } => watchdog.is_none(),
            Self::Http { .. } | Self::Tcp { .. } | Self::Command { .. } => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnhealthy {
    Restart,
    Report,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Restart {
    pub policy: RestartPolicy,
    pub success_codes: Vec<i32>,
    pub success_signals: Vec<SignalName>,
    pub backoff: Duration,
    /// At least 1.
    pub backoff_factor: f64,
    pub backoff_max: Duration,
    /// Consecutive failures until parked as `failed`, at least 1.
    pub max_failures: u32,
    pub window: Duration,
    pub stable_after: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::OnFailure,
            success_codes: vec![0],
            success_signals: Vec::new(),
            backoff: Duration::from_secs(1),
            backoff_factor: 2.0,
            backoff_max: Duration::from_secs(60),
            max_failures: 8,
            window: Duration::from_secs(5 * 60),
            stable_after: Duration::from_secs(60),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Stop {
    pub signal: SignalName,
    pub signal_to: SignalTo,
    pub grace: Duration,
    /// Run before the signal.
    pub command: Option<CommandLine>,
}

impl Default for Stop {
    fn default() -> Self {
        Self {
            signal: SignalName::TERM,
            signal_to: SignalTo::Group,
            grace: Duration::from_secs(10),
            command: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignalTo {
    /// The leader's process group.
    Group,
    Leader,
}

/// A signal by number, written without its `SIG`: `TERM`, `RTMIN+3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct SignalName(pub i32);

/// Resource limits, soft and hard alike; `None` leaves what the keeper has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    pub nofile: Option<u64>,
    pub nproc: Option<u64>,
    /// Bytes.
    pub core: Option<u64>,
    /// Bytes.
    pub fsize: Option<u64>,
    /// Bytes.
    pub memlock: Option<u64>,
    /// Bytes.
    pub stack: Option<u64>,
    /// Bytes of address space.
    pub address_space: Option<u64>,
    /// CPU time.
    pub cpu: Option<Duration>,
    /// Bytes, of all its processes together.
    pub memory_max: Option<u64>,
    /// Thousandths of a CPU, likewise.
    pub cpu_max: Option<u32>,
    /// Processes and threads, likewise.
    pub pids_max: Option<u64>,
}

impl Limits {
    /// `RLIM_INFINITY`: no limit, as asked for by `"unlimited"`.
    pub const UNLIMITED: u64 = u64::MAX;
}

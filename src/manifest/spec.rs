//! A checked service: what the rest of the program works with.
//!
//! Every value is in range, every name is a name, every template is known to fill in. Texts are kept *as
//! written*, with their `{{…}}`, and relative paths stay relative, so that moving a project or exporting
//! another PATH never looks like a change; `render` fills them in when a process is started or probed.
//! Made by `check` alone.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::identity::ServiceId;

/// One declared service. The reference manifest documents every field and its default.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub id: ServiceId,
    pub command: CommandLine,
    /// As written; relative to the project directory, `~/` is the home.
    pub cwd: String,
    /// Values as written, with their templates.
    pub env: BTreeMap<String, String>,
    /// Names, or a prefix followed by `*`; only the names are part of the spec, never the values.
    pub inherit_env: Vec<String>,
    pub stdin: Stdin,
    /// `None`: the user that runs the reconciler.
    pub user: Option<String>,
    pub umask: u32,
    pub nice: Option<i32>,
    pub oom_score_adj: Option<i32>,
    pub state: WantedState,
    pub url: Option<String>,
    pub description: String,
    pub labels: BTreeMap<String, String>,
    /// Opaque to us, shown to consumers.
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
        port: u16,
    },
    Command {
        command: CommandLine,
        /// Searched for in the output; compiles under the size limit of `check`.
        expect_regex: Option<String>,
    },
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
}

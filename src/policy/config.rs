//! The configuration as data: every key of `reconcile.toml`, what it defaults to, and the ceiling.
//!
//! Values are `None` where the file says nothing, so that a ceiling can tell a choice from a default; the
//! methods give what holds. Made by `parse_config`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::executable::ExecEntry;

/// All of `reconcile.toml`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    pub policy: Rules,
    pub logs: Logs,
    pub prune: Prune,
    pub ports: Ports,
    /// What happens to the services when a watcher ends; `None`: as the way it was ended suggests.
    pub on_exit: Option<OnExit>,
    pub resync: Option<Duration>,
    /// The rules that the others can only tighten, where there are some; its lists hold beside `policy`'s.
    pub(super) ceiling: Option<Box<Rules>>,
}

impl Config {
    /// Between full observations.
    pub fn resync(&self) -> Duration {
        self.resync.unwrap_or(Duration::from_secs(60))
    }
}

/// `[policy]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rules {
    /// `None`: what is allowed without a word from the operator.
    pub executables: Option<Vec<ExecEntry>>,
    /// Absolute directories.
    pub search_path: Option<Vec<PathBuf>>,
    pub env_keys: Option<BTreeSet<String>>,
    pub env_prefixes: Option<Vec<String>>,
    pub caps: BTreeMap<Cap, u64>,
    pub max_ttl: Option<Duration>,
    pub default_ttl: Option<Duration>,
    /// How long an owner may hold services without renewing that.
    pub max_lease: Option<Duration>,
    pub max_health_interval: Option<Duration>,
    pub max_start_timeout: Option<Duration>,
    pub require: Option<BTreeSet<Requirement>>,
    pub allow_shell: Option<bool>,
    /// `nice` and `oom_score_adj` below 0, which only root can give.
    pub allow_priority: Option<bool>,
    /// The lowest port that a manifest may give.
    pub min_port: Option<u16>,
    /// Users that a manifest may name; [`SELF`] is to name none.
    pub users: Option<BTreeSet<String>>,
    pub on_exec_away: Option<OnExecAway>,
}

/// In `users`: the user that runs the reconciler, for manifests that name no user.
pub const SELF: &str = "@self";

/// A figure that a manifest must not exceed; lengths are in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cap {
    ServicesPerFile,
    Services,
    /// After the first word.
    Arguments,
    ArgumentLength,
    /// Of the first word.
    CommandLength,
    CwdLength,
    EnvKeys,
    EnvValueLength,
    /// Names and values together.
    EnvBytes,
    /// As JSON.
    AttrsBytes,
    HealthCommandLength,
    RegexLength,
    /// Each of several under one name.
    Ports,
}

impl Cap {
    /// Every cap with its key in `[policy.caps]`.
    pub const ALL: [(Self, &'static str); 13] = [
        (Self::ServicesPerFile, "services_per_file"),
        (Self::Services, "services"),
        (Self::Arguments, "arguments"),
        (Self::ArgumentLength, "argument_length"),
        (Self::CommandLength, "command_length"),
        (Self::CwdLength, "cwd_length"),
        (Self::EnvKeys, "env_keys"),
        (Self::EnvValueLength, "env_value_length"),
        (Self::EnvBytes, "env_bytes"),
        (Self::AttrsBytes, "attrs_bytes"),
        (Self::HealthCommandLength, "health_command_length"),
        (Self::RegexLength, "regex_length"),
        (Self::Ports, "ports"),
    ];
}

/// What a manifest must declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    Health,
    Ttl,
    /// The working directory is the top of a git worktree.
    GitWorkdir,
    /// At least one of `[limits]`.
    Limits,
}

impl Requirement {
    pub(super) const CHOICES: [(&'static str, Self); 4] = [
        ("health", Self::Health),
        ("ttl", Self::Ttl),
        ("git-workdir", Self::GitWorkdir),
        ("limits", Self::Limits),
    ];
}

/// What a full pass does about a leader that has become a file which is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum OnExecAway {
    #[default]
    Report,
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    Stop,
    Leave,
}

/// `[logs]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Logs {
    pub max_size: Option<u64>,
    pub keep: Option<u32>,
}

impl Logs {
    /// Bytes; a log that is larger is rotated.
    pub fn max_size(&self) -> u64 {
        self.max_size.unwrap_or(10 * 1024 * 1024)
    }

    /// Rotated files kept beside the log.
    pub fn keep(&self) -> u32 {
        self.keep.unwrap_or(1)
    }
}

/// `[ports]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ports {
    pub range: Option<PortRange>,
}

impl Ports {
    /// From which ports are chosen.
    pub fn range(&self) -> PortRange {
        self.range.unwrap_or(PortRange { first: 37_100, last: 37_900 })
    }
}

/// Ports from the first to the last, both of them included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub(super) fn contains(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// `[prune]`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Prune {
    pub delay: Option<Duration>,
    pub guard_min: Option<usize>,
    pub max_fraction: Option<f64>,
}

impl Prune {
    /// How long a directory must have been quiet before something is removed.
    pub fn delay(&self) -> Duration {
        self.delay.unwrap_or(Duration::from_secs(2))
    }

    /// From so many removals of one project in one pass on, the guard looks at the fraction.
    pub fn guard_min(&self) -> usize {
        self.guard_min.unwrap_or(5)
    }

    /// Over this part of a project's services, from 0 to 1, the guard holds.
    pub fn max_fraction(&self) -> f64 {
        self.max_fraction.unwrap_or(0.5)
    }
}

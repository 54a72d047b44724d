//! What a service runs for, and what follows when nobody uses it: `activation`, `lifecycle`, `stop_policy`.
//!
//! Types, and the two answers that come of them: [`Spec::activates_on`] and [`Spec::when_unused`]. Whoever decides asks
//! these, never the fields: there are two ways to write that it is stopped when it is idle.

use std::time::Duration;

use super::spec::Spec;

/// What a service runs for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    pub on: ActivateOn,
    /// Stopped when nobody has used it for this long. `None`: it runs on.
    pub idle: Option<Duration>,
    /// Where it listens itself, as written: what connects to its socket is handed on there, and it is passed none.
    pub proxy: Option<String>,
}

impl Default for Activation {
    fn default() -> Self {
        Self { on: ActivateOn::Always, idle: None, proxy: None }
    }
}

/// When a service is started that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivateOn {
    /// At once.
    Always,
    /// When somebody connects to a socket of it, or asks for it as below.
    Connection,
    /// When `reconcile ensure` or `start` names it, somebody leases it, or a service that runs depends on it.
    Request,
    /// When somebody leases it, `start` names it, or a service that runs depends on it: it is ephemeral.
    Lease,
}

/// For whom a service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// For everybody: as `activation` says.
    Shared,
    /// For its leases, and what depends on it, alone.
    Ephemeral,
}

/// What follows when nobody uses a service any more that runs on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopPolicy {
    /// It is stopped with the last release of those that have leased it or depend on it.
    OnRelease,
    /// It is stopped when nobody has used it for this long.
    Idle(Duration),
    /// It runs on.
    Manual,
}

impl Spec {
    /// What a start of it waits for.
    pub fn activates_on(&self) -> ActivateOn {
        match self.lifecycle {
            Lifecycle::Shared => self.activation.on,
            Lifecycle::Ephemeral => ActivateOn::Lease,
        }
    }

    /// True if it is started when it is used, and sleeps until then.
    pub fn is_on_demand(&self) -> bool {
        self.activates_on() != ActivateOn::Always
    }

    /// What follows when nobody uses it any more; of one that is always up, nothing.
    pub fn when_unused(&self) -> StopPolicy {
        let by_lifecycle = match self.lifecycle {
            Lifecycle::Shared => StopPolicy::Manual,
            Lifecycle::Ephemeral => StopPolicy::OnRelease,
        };
        match self.is_on_demand() {
            false => StopPolicy::Manual,
            true => self.stop_policy.or(self.activation.idle.map(StopPolicy::Idle)).unwrap_or(by_lifecycle),
        }
    }

    /// How long nobody must have used it, where that stops it.
    pub fn idle(&self) -> Option<Duration> {
        match self.when_unused() {
            StopPolicy::Idle(idle) => Some(idle),
            StopPolicy::OnRelease | StopPolicy::Manual => None,
        }
    }
}

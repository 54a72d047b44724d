//! The enums of a spec as the words that a manifest uses for them.

use super::demand::{ActivateOn, Lifecycle};
use super::ports::PortOwner;
use super::spec::{Condition, OnExeChange, OnUnhealthy, RestartPolicy, SignalTo, Stdin, WantedState};

/// An enum that a manifest writes as one word.
pub(super) trait Choice: Copy + 'static {
    const ALL: &'static [(&'static str, Self)];

    fn word(self) -> &'static str;

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == word).map(|(_, value)| *value)
    }
}

/// The words of a choice, in their order.
pub(super) fn words<T: Choice>() -> Vec<&'static str> {
    T::ALL.iter().map(|(word, _)| *word).collect()
}

macro_rules! choice {
    ($name:ident { $($variant:ident = $word:literal),+ }) => {
        impl Choice for $name {
            const ALL: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];

            fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }
    };
}

/// By hand: that it is for leases a manifest says by `lifecycle`.
impl Choice for ActivateOn {
    const ALL: &'static [(&'static str, Self)] =
        &[("always", Self::Always), ("connection", Self::Connection), ("request", Self::Request)];

    fn word(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Connection => "connection",
            Self::Request => "request",
            Self::Lease => "lease",
        }
    }
}

/// `health.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CheckType {
    Http,
    Tcp,
    Command,
    Log,
    Notify,
}

choice!(Stdin { Null = "null", Open = "open" });
choice!(Condition { Started = "started", Ready = "ready", Completed = "completed" });
choice!(Lifecycle { Shared = "shared", Ephemeral = "ephemeral" });
choice!(PortOwner { Own = "own", Any = "any" });
choice!(WantedState { Running = "running", Stopped = "stopped" });
choice!(OnExeChange { Report = "report", Ignore = "ignore", Restart = "restart" });
choice!(OnUnhealthy { Restart = "restart", Report = "report" });
choice!(RestartPolicy { Always = "always", OnFailure = "on-failure", Never = "never" });
choice!(SignalTo { Group = "group", Leader = "leader" });
choice!(CheckType { Http = "http", Tcp = "tcp", Command = "command", Log = "log", Notify = "notify" });

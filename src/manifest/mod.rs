//! The manifest: text in, checked specs out.
//!
//! `parse` turns the bytes of one file into raw tables with positions, `check` turns raw tables into
//! [`Spec`]s and reports every problem at once; nothing else makes a `Spec`. `fields` is the one table of
//! every field with its change class and whether it is part of the fingerprint. No I/O: paths are text
//! here, and who may read or run what is for `policy` and `host`.

mod diagnostic;
mod spec;

pub use diagnostic::{Problem, Severity, Span, escape, escape_unseen};
pub use spec::{
    CommandLine, Health, HealthCheck, Limits, OnUnhealthy, Restart, RestartPolicy, Shell, SignalName,
    SignalTo, Spec, Stdin, Stop, WantedState,
};

//! The manifest: text in, checked specs out.
//!
//! `parse` turns the text of one file into raw tables with positions, `check` turns raw tables into [`Spec`]s
//! and reports every problem at once; nothing else makes a `Spec` of text. `fields` is the one table of every
//! field with its type, range and change class: the reading, the schema and the fingerprint go by it. `render`
//! fills in templates when a process is started. No I/O: paths are text here, and who may read or run what is
//! for `policy` and `host`.

mod check;
mod choice;
pub mod code;
mod compose;
mod demand;
mod diagnostic;
mod digest;
pub mod dotenv;
mod fields;
mod parse;
pub mod ports;
mod problems;
mod render;
mod schema;
mod section;
mod signal;
pub mod sockets;
mod spec;
mod suggest;
mod syntax;
mod template;
mod units;
mod unread;

pub use check::{Borrowed, Declared, Loaded, Places, load, output_regex};
pub use compose::{Template, compose};
pub use demand::{ActivateOn, Activation, Lifecycle, StopPolicy};
pub use diagnostic::{Problem, Severity, Span, escape};
pub use digest::{changed_fields, fingerprint, live_digest, parking_digest};
pub use fields::Class;
pub use parse::MAX_DEPTH;
pub use ports::{CheckPort, Port, PortBlock, PortBlocks, PortNumber, PortOwner};
pub use render::{
    Addresses, Rendered, RenderedCheck, RenderedSocket, Shown, Surroundings, render, render_addresses,
    render_cwds, render_shown,
};
pub use schema::schema;
pub use sockets::{ListenOn, Socket};
pub use spec::{
    CommandLine, Condition, Dependency, EnvFile, Health, HealthCheck, Limits, OnExeChange, OnUnhealthy,
    Reload, Restart, RestartPolicy, Secret, SecretCommand, SecretForm, SecretSource, Shell, SignalName,
    SignalTo, Spec, Stdin, Stop, WantedState,
};
pub(crate) use suggest::nearest;
pub use units::{format_duration, parse_duration, parse_size};
pub use unread::Unread;

/// The reference manifest: every field with its default. It declares no service until its lines are
/// uncommented.
pub const REFERENCE: &str = include_str!("../../manifests/reference.toml");

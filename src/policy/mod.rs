//! What may run: allowlists, caps and presets of the operator's configuration. Pure data and functions.
//!
//! [`parse_config`] reads `reconcile.toml` with the same diagnostics as a manifest, [`Config::under`] puts it
//! under the machine's ceiling, [`Policy::in_force`] adds whom we trust and what this run allows. A policy
//! then judges a spec ([`Policy::check`]) and, given what `host` resolved its commands to, the files
//! ([`Policy::permit`]; of what runs, [`Policy::permit_executed`]); it never looks at a file itself. Called by `reconciler` before a spec is accepted,
//! before a start, and again whenever the policy changes. `docs/policy.md` is the operator's page.

mod allowlist;
mod builtin;
mod check;
pub mod code;
mod config;
mod env;
mod executable;
mod executed;
mod in_force;
mod inherit;
#[cfg(test)]
mod machine;
mod parse;
mod query;
mod reader;
mod refusal;
mod running;
mod under;

pub use builtin::SYSTEM_PATH;
pub use check::Facts;
pub use config::{Cap, Config, Logs, OnExecAway, OnExit, PortRange, Ports, Prune, Requirement, Rules, SELF};
pub use executable::{ExecEntry, NamedSet, Pattern};
pub use executed::StartedFrom;
pub use in_force::{Policy, Purpose, Trust};
pub use parse::parse_config;
pub use query::{ExecQuery, Resolution, ResolveError, ResolvedFile};
pub use running::RunningVerdict;

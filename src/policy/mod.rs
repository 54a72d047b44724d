//! What may run: allowlists, caps and presets of the operator's configuration. Pure data and functions.
//!
//! [`parse_config`] reads `reconcile.toml` with the same diagnostics as a manifest, [`Config::under`] puts it
//! under the machine's ceiling. `docs/policy.md` is the operator's page.

mod builtin;
pub mod code;
mod config;
mod env;
mod executable;
mod parse;
mod query;
mod reader;
mod under;

pub use builtin::SYSTEM_PATH;
pub use config::{Cap, Config, Logs, OnExecAway, OnExit, Prune, Requirement, Rules, SELF};
pub use executable::{ExecEntry, NamedSet, Pattern};
pub use parse::parse_config;
pub use query::{ExecQuery, Resolution, ResolveError, ResolvedFile};

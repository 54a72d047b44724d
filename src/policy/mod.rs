//! What may run: allowlists, caps and presets of the operator's configuration. Pure data and functions.
//!
//! `permit` judges a spec against a policy, given what `host` resolved its commands to; it never looks at a
//! file itself. The configuration text is parsed here too, with the same diagnostics as a manifest.
//! Called by `reconciler` before a spec is accepted, before a start, and again whenever the policy changes.

mod query;

pub use query::{ExecQuery, Resolution, ResolveError, ResolvedFile};

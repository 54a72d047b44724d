//! The command line: one file a command. Joins `reconciler`, `host` and `api`.
pub mod args;
pub mod exit_code;
mod report;
mod surroundings;

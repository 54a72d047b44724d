//! `reconcile` makes the processes on a machine match a directory of TOML manifests, and keeps them so.
//!
//! # The way of the data
//!
//! ```text
//! manifests ──► manifest ──► policy ──► desired ─┐
//!                                                ├─► plan ──► reconciler ──► host ──► keeper ──► services
//! ledger, /proc, exits ──► host ──► observed ────┘                 │
//!                            ▲                                     │
//!                            └──────── events, records ◄───────────┘
//! ```
//!
//! Text becomes checked specs in [`manifest`], judged by [`policy`]; with what the ledger ([`state`]) and the
//! machine ([`host`]) show, [`plan`] says what to do and why; [`reconciler`] has `host` do it, and writes down
//! what happened. [`commands`] is the command line, [`api`] the socket of a running watcher.
//!
//! [`manifest`], [`policy`], [`state`] and [`plan`] are pure: no clock, file, signal or socket. The lints in
//! `clippy.toml` hold them to it.

pub mod api;
pub mod commands;
pub mod escape;
pub mod host;
pub mod identity;
pub mod manifest;
pub mod plan;
pub mod policy;
pub mod reconciler;
pub mod state;
pub mod time;

//! The control socket: commands in, the published status out. Never called by `reconciler`.
//!
//! `control.sock` lies in the state directory and belongs to the watcher that holds its lock. `protocol`
//! is the words, `framing` the lines they come in, `server` the watcher's end, `client` the command line's.
//! One JSON value a line; the server speaks first and says which versions it understands.

pub mod client;
pub mod framing;
pub mod protocol;
pub mod server;
#[cfg(test)]
mod tests;

/// Beside the state directory's descriptor.
const SOCKET: &str = "control.sock";

pub use client::{Client, ClientError};
pub use server::{ServeError, Server, Serving};

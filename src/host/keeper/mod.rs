//! The keeper: the parent of every service. It spawns, reaps, signals and remembers how things ended.
//!
//! The same binary in a process of its own: one thread, no async runtime, few descriptors, so that a fork is cheap
//! and safe and its end unlikely. It decides nothing. All that this program does to processes goes through it;
//! the reconciler is its client over a socket in the state directory ([`client`]). The services outlive it:
//! a keeper after it attaches to them.
//!
//! ```text
//! reconciler ── client ══ keeper.sock ══ server ─┬─ requests   what is asked for
//!                                                ├─ spawn ──── child (after the fork), holder
//!                                                ├─ runs       exits, kills
//!                                                ├─ attach     runs of a keeper before this one
//!                                                ├─ jobs       bounded commands beside a service
//!                                                ├─ sockets    what services listen on
//!                                                └─ upgrade    a newer program in the same process
//! ```

mod ask;
mod attach;
mod cell;
pub mod child;
pub mod client;
pub mod conn;
pub mod gate;
mod jobs;
pub mod journal;
mod notify;
mod pipe;
mod program;
pub mod protocol;
mod queue;
mod requests;
mod runs;
mod server;
mod sockets;
mod spawn;
mod start;
mod upgrade;

pub use ask::{cells, lend};
pub use cell::JOB_PREFIX;
pub use client::{Heard, KeeperClient, KeeperError, KeeperInfo, SocketNews, is_held};
pub use gate::{GateError, Judged, TRIM_AT_BYTES, close_gate, epoch, judge_intents, trim_births};
pub use start::{EXIT_HELD, main};

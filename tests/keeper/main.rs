//! The keeper with real processes: what it promises of spawns, exits, containment and its own death.
//!
//! Each test has a world of its own and leaves nothing behind. As root runs are in cgroups; holders are forced by
//! an environment variable, and met as they are by a keeper that runs as nobody.

#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

mod contain;
mod gate;
mod jobs;
mod life;
mod sockets;
mod spawn;
mod survive;
mod upgrade;
mod versions;
mod world;

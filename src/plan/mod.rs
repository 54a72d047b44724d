//! What to do: a pure function of what is desired, what is observed, and now.
//!
//! `plan(desired, observed, now) -> Plan` looks at every service each time and returns data; `reconciler`
//! carries it out and decides nothing. No clock, no file, no signal here. The decision table is the header
//! of `decide`; each of its rows is shown by a file in `tests/scenarios`.

mod alive;
mod case;
mod decide;
mod demand;
mod dependencies;
mod expiry;
mod files;
pub(crate) mod graph;
mod health;
mod input;
mod leases;
mod order;
mod output;
mod phase;
mod ports;
mod process;
mod prune;
mod restart;
mod sockets;
mod start;
mod sweep;
mod verdict;

pub use alive::as_it_runs;
pub use health::{fold, hear};
pub use input::{
    Accepted, Desired, Flight, Health, HeldLease, Observed, Presence, PruneRules, Refusal, ReloadTry,
    RootState, Seen, Service, UnreadFile, Usage, Want,
};
pub use leases::{Standing as LeaseStanding, standing_of as lease_standing};
pub use output::{Action, Later, Phase, PhaseView, Plan, Step};
pub use ports::{PortShortage, PortsTaken, choose_ports};
pub use restart::{Remains, failures_after, failures_now, is_clean};
pub use sockets::keeps_sockets;
pub use sweep::plan;

//! What to do: a pure function of what is desired, what is observed, and now.
//!
//! `plan(desired, observed, now) -> Plan` looks at every service each time and returns data; `reconciler`
//! carries it out and decides nothing. No clock, no file, no signal here. The decision table is the header
//! of `decide`.

mod input;
mod output;

pub use input::{
    Accepted, Desired, Flight, Health, Observed, Presence, PruneRules, Refusal, RootState, Seen, Service,
    Want,
};
pub use output::{Action, Phase, PhaseView, Plan, Step};

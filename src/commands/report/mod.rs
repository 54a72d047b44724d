//! All rendering: from the status, reports and problems to text, JSON and annotations.
//!
//! Pure but for `console`, which writes. Every text that others wrote goes through `escape` before it can
//! reach a terminal; colour repeats what words say. Called by the commands alone.

mod addresses;
mod console;
mod detail;
mod ending;
pub mod escape;
mod github;
mod graph;
mod json;
mod leases;
mod log;
mod plan;
pub mod prefix;
mod problems;
mod refusal;
#[cfg(test)]
pub mod samples;
mod status;
pub mod style;
mod transitions;
mod units;

pub use addresses::addresses;
pub use console::Console;
pub use detail::detail;
pub use ending::{ending, ending_with_us};
pub use github::annotations;
pub use graph::Graph;
pub use json::{ErrorView, RefusalView, ReportView, StatusView, ValidationView};
pub use leases::{LeaseView, LeasesView, held_until, leases};
pub use log::log_to_stderr;
pub use plan::{Aim, evidence, plan, steps_done, unwell};
pub use problems::{Source, problems};
pub use refusal::refusal;
pub use status::table;
pub use transitions::transitions;
pub use units::count;

//! All rendering: from the status, reports and problems to text, JSON and annotations.
//!
//! Pure but for `console`, which writes. Every text that others wrote goes through `escape` before it can
//! reach a terminal; colour repeats what words say. Called by the commands alone.

mod console;
mod detail;
pub mod escape;
mod github;
mod json;
mod plan;
pub mod prefix;
mod problems;
#[cfg(test)]
mod samples;
mod status;
pub mod style;
mod transitions;
mod units;

pub use console::{Console, Unwritable};
pub use detail::detail;
pub use github::annotations;
pub use json::{RefusalView, ReportView, StatusView, ValidationView};
pub use plan::{plan, steps_done, unwell};
pub use problems::{Source, problems};
pub use status::table;
pub use transitions::transitions;

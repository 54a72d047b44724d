//! `reconcile doctor`: what this machine offers, and what is used in place of what it does not.

use serde::Serialize;

use super::exit_code::{Ended, ExitCode};
use super::failure::Failure;
use super::report::escape::visible;
use super::report::style::{CHANGE, Cell, GOOD, STRONG, columns};
use super::{Run, backend};
use crate::host::doctor::{Fact, facts};
use crate::reconciler::status::VERSION;

#[derive(Debug, Serialize)]
struct View {
    version: u32,
    facts: Vec<Fact>,
}

pub fn run(run: &Run<'_>) -> Result<Ended, Failure> {
    let facts = facts(&backend::state_dir(&run.options)?, &backend::roots(&run.options));
    if run.console.is_json() {
        run.console.json(&View { version: VERSION, facts })?;
    } else {
        run.console.print(&table(&facts))?;
    }
    Ok(ExitCode::Converged.into())
}

fn table(facts: &[Fact]) -> String {
    let row = |fact: &Fact| {
        let state = if fact.ok { Cell::new("ok").style(GOOD) } else { Cell::new("fallback").style(CHANGE) };
        vec![
            Cell::new(fact.name).style(STRONG),
            state,
            Cell::new(visible(&fact.value)),
            Cell::new(visible(&fact.meaning)),
        ]
    };
    columns(&facts.iter().map(row).collect::<Vec<_>>())
}

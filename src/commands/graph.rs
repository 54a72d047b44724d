//! `reconcile graph`: who depends on whom, as accepted; changes nothing.

use super::args::{GraphArgs, GraphFormat};
use super::exit_code::{Ended, ExitCode};
use super::failure::Failure;
use super::report::Graph;
use super::{Run, status};

pub fn run(run: &Run<'_>, args: &GraphArgs) -> Result<Ended, Failure> {
    let mut status = status::current(&run.options)?;
    status.services.retain(|service| run.cli.global.is_about(service));
    let graph = Graph::of(&status.services);
    if run.console.is_json() {
        run.console.json(&graph)?;
    } else {
        run.console.print(&match args.format {
            GraphFormat::Dot => graph.dot(),
            GraphFormat::Mermaid => graph.mermaid(),
        })?;
    }
    Ok(ExitCode::Converged.into())
}

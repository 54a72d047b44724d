//! `reconcile completions SHELL`: a completion script on stdout.

use clap::CommandFactory;

use super::Run;
use super::args::{Cli, CompletionsArgs};
use super::exit_code::{Ended, ExitCode};
use super::failure::Failure;

pub fn run(run: &Run<'_>, args: &CompletionsArgs) -> Result<Ended, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "reconcile", &mut script);
    run.console.print_raw(&script)?;
    Ok(ExitCode::Converged.into())
}

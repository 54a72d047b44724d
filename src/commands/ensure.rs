//! `reconcile ensure NAME…`: starts services or shares what runs of them, and says where they are.

use super::act;
use super::backend::Backend;
use super::exit_code::{Ended, ExitCode};
use super::failure::Failure;
use super::report::{self, StatusView};
use super::{Run, args};
use crate::reconciler::command::{Answer, Command};

pub fn run(run: &Run<'_>, args: &args::EnsureArgs) -> Result<Ended, Failure> {
    let command = Command::Ensure { names: run.names(&args.names), timeout: args.timeout };
    let mut backend = Backend::open(&run.options)?;
    match backend.execute(command)? {
        Answer::Status(status) => {
            if run.console.is_json() {
                run.console.json(&StatusView::from(&*status))?;
            } else {
                run.console.print(&report::addresses(&status.services))?;
            }
            Ok(ExitCode::Converged.into())
        }
        answer => act::show(run, &answer),
    }
}

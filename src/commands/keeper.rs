//! `reconcile keeper DIR`, hidden: becomes the keeper of a state directory.
//!
//! No runtime, no threads, no logging of ours: the keeper is forked from a process that has done nothing.

use std::process::ExitCode as ProcessExitCode;

use super::args::{Cli, KeeperArgs};
use super::exit_code::ExitCode;

pub fn run(cli: &Cli, args: &KeeperArgs) -> ProcessExitCode {
    match args.dir.as_ref().or(cli.global.state_dir.as_ref()) {
        Some(dir) => crate::host::keeper::main(dir),
        None => ExitCode::Usage.value().into(),
    }
}

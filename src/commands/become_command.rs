//! `reconcile become GATE -- COMMAND`, hidden: the child of `reconcile run`, until it is the command.

use std::process::ExitCode;

use super::args::BecomeArgs;
use super::report::escape::visible;
use crate::host::foreground;

pub fn run(args: &BecomeArgs) -> ExitCode {
    let (code, why) = foreground::become_command(args.gate, &args.command);
    if !why.is_empty() {
        eprintln!("error: {}", visible(&why));
    }
    code.into()
}

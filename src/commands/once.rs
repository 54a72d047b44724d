//! `reconcile --once`: one convergence, by the watcher if one runs, else by ourselves.

use super::backend::Backend;
use super::exit_code::Ended;
use super::failure::Failure;
use super::{Run, act, endings};
use crate::reconciler::command::{Answer, Command};

pub fn run(run: &Run<'_>, names: &[String]) -> Result<Ended, Failure> {
    let up = &run.cli.up;
    let mut backend = Backend::open(&run.options)?;
    if backend.is_watcher() && (!run.options.allow.is_empty() || up.new_instance) {
        run.console
            .say("a watcher is running and does this: --allow and --new-instance are without effect on it");
    }
    let answer = backend.execute(Command::Converge {
        names: run.names(names),
        timeout: up.timeout(),
        allow_prune: up.allow_prune,
    })?;
    let ended = act::show(run, &answer)?;
    if !backend.is_watcher() && matches!(answer, Answer::Report(_)) {
        run.console.say("nothing watches these services; `reconcile up -d` does");
        if let Answer::Status(status) = backend.execute(Command::Status)? {
            endings::tell(&run.console, &status, None);
        }
    }
    Ok(ended)
}

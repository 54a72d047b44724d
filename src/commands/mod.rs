//! The command line: one file a command. Joins `reconciler`, `host` and `api`.
//!
//! `args` is what was typed, `backend` who carries it out, `report` how it is shown, `exit_code` how it ends;
//! a command joins the four and decides nothing about services. Called by `main` alone.

mod act;
pub mod args;
mod backend;
mod background;
mod become_command;
mod completions;
mod doctor;
mod endings;
mod ensure;
pub mod exit_code;
mod failure;
mod graph;
mod init;
mod keeper;
mod lease;
mod logs;
mod manifests;
mod once;
mod plan;
pub mod report;
mod run;
mod schema;
mod secret;
mod signals;
mod spectator;
mod status;
mod surroundings;
mod up;
mod validate;
mod verdict;

use std::process::ExitCode as ProcessExitCode;

use args::{Cli, Command};
use exit_code::{Ended, ExitCode};
use failure::Failure;
use report::{Console, ErrorView};
use surroundings::Surroundings;

use crate::reconciler::command::Command as Request;
use crate::reconciler::options::Options;
use crate::reconciler::selection::Selector;

/// What every command is given.
struct Run<'a> {
    cli: &'a Cli,
    options: Options,
    console: Console,
}

impl Run<'_> {
    /// Names as typed, seen from `--project` and `--label`.
    fn names(&self, names: &[String]) -> Vec<Selector> {
        self.cli.global.selectors(names)
    }

    fn name(&self, name: &str) -> String {
        self.cli.global.in_project(name)
    }
}

/// Runs the command line of this process.
pub fn main() -> ProcessExitCode {
    crate::host::first::obey_signals();
    let cli = match Cli::parse_from(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::Usage } else { ExitCode::Converged };
            // Nobody left to read a usage message is nobody to tell.
            drop(error.print());
            return code.value().into();
        }
    };
    // Before anything is opened or a thread is made: the first becomes a daemon, the second forks.
    if cli.up_args().in_background
        && let Err(error) = crate::host::background::detach()
    {
        return finish(Err(error.into()), &Console::new(cli.global.output, Surroundings::look()));
    }
    if let Some(Command::Keeper(keeper)) = &cli.command {
        return keeper::run(&cli, keeper);
    }
    if let Some(Command::Become(become_args)) = &cli.command {
        return become_command::run(become_args);
    }
    let surroundings = Surroundings::look();
    report::log_to_stderr(&surroundings, &cli);
    let console = Console::new(cli.global.output, surroundings);
    let run = Run { options: cli.options(), cli: &cli, console };
    finish(dispatch(&run), &run.console)
}

fn finish(ended: Result<Ended, Failure>, console: &Console) -> ProcessExitCode {
    let ended = ended.unwrap_or_else(|failure| {
        console.say(&failure.render());
        if console.is_json() && !console.has_answered() {
            // What stdout cannot take is told on stderr already.
            drop(console.json(&ErrorView::from(&failure)));
        }
        failure.code.into()
    });
    ended.value().into()
}

fn dispatch(run: &Run<'_>) -> Result<Ended, Failure> {
    let Some(command) = &run.cli.command else {
        return match &run.cli.once {
            Some(names) => once::run(run, names),
            None => up::run(run, &run.cli.up),
        };
    };
    match command {
        Command::Up(up) => up::run(run, up),
        Command::Plan(plan) => plan::run(run, plan),
        Command::Validate(validate) => validate::run(run, validate),
        Command::Status(status) => status::run(run, status),
        Command::Logs(logs) => logs::run(run, logs),
        Command::Graph(graph) => graph::run(run, graph),
        Command::Secret(secret) => secret::run(run, secret),
        Command::Init => init::run(run),
        Command::Schema(schema) => schema::run(run, schema),
        Command::Doctor => doctor::run(run),
        Command::Completions(completions) => completions::run(run, completions),
        Command::Keeper(_) | Command::Become(_) => unreachable!("these never come this far"),
        Command::Run(command) => run::run(run, command),
        Command::Lease(lease) => lease::run(run, lease),
        Command::Wait(wait) => {
            let names = run.names(&wait.names);
            act::run(run, Request::Wait { names, until: wait.until.into(), timeout: wait.timeout })
        }
        Command::Stop(stop) => act::run(run, Request::Stop { names: run.names(&stop.names) }),
        Command::Start(start) => act::run(run, Request::Start { names: run.names(&start.names) }),
        Command::Restart(restart) => act::run(run, Request::Restart { names: run.names(&restart.names) }),
        Command::Reset(reset) => act::run(run, Request::Reset { names: run.names(&reset.names) }),
        Command::Renew(renew) => act::run(run, Request::Renew { names: run.names(&renew.names) }),
        Command::Ensure(ensure) => ensure::run(run, ensure),
        Command::Touch(touch) => act::run(run, Request::Touch { names: run.names(&touch.names) }),
        Command::Down(down) => {
            let (global, purge) = (&run.cli.global, down.purge);
            act::run(
                run,
                match global.labels.is_empty() {
                    true => Request::Down { project: global.project.clone(), purge },
                    false => Request::DownSome { names: run.names(&[]), purge },
                },
            )
        }
        Command::Adopt(adopt) => {
            act::run(run, Request::Adopt { name: run.name(&adopt.name), pid: adopt.pid })
        }
        Command::Forget(forget) => {
            let mut names = run.names(&forget.names);
            let name = names.remove(0);
            act::run(run, Request::Forget { name, more: names })
        }
        Command::Prune(prune) => act::run(run, Request::Prune { names: run.names(&prune.names) }),
        Command::Takeover => act::run(run, Request::Takeover),
    }
}

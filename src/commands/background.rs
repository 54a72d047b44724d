//! `reconcile up -d`: starts a watcher in the background, and returns once its first pass is done.

use std::ffi::OsString;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::args::UpArgs;
use super::backend;
use super::exit_code::{Ended, ExitCode};
use super::failure::Failure;
use super::report::{self, StatusView};
use super::{Run, endings, manifests, verdict};
use crate::api::Client;
use crate::host::background::{end_of, start, written_since};
use crate::reconciler::command::{Answer, Command};
use crate::reconciler::status::Status;

/// Beside the ledger, in the state directory.
const LOG: &str = "reconciler.log";
const POLL: Duration = Duration::from_millis(50);

pub fn run(run: &Run<'_>, args: &UpArgs) -> Result<Ended, Failure> {
    let state_dir = backend::state_dir(&run.options)?;
    if let Some(client) = backend::watcher(&run.options)? {
        let message = format!("a watcher runs already (pid {})", client.pid());
        return Err(Failure::message(ExitCode::AnotherReconciler, message)
            .help("`reconcile --once` makes it converge, `reconcile down` ends it"));
    }
    let log = state_dir.join(LOG);
    let log_start = end_of(&log);
    let mut child = start(&words(run, args), &log)?;
    let status = match first_pass(&mut child, &state_dir, args.timeout())? {
        FirstPass::Done(status) => status,
        FirstPass::Ended(code) => return Err(ended(code, &log, log_start)),
        FirstPass::TimedOut => return Err(slow(child.id(), &log)),
    };
    show(run, &status, child.id())
}

/// The command line of the background process.
fn words(run: &Run<'_>, args: &UpArgs) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["up".into(), "--in-background".into()];
    let flags =
        [("--leave", args.leave), ("--allow-prune", args.allow_prune), ("--new-instance", args.new_instance)];
    words.extend(flags.iter().filter(|(_, given)| *given).map(|(flag, _)| OsString::from(flag)));
    words.extend(run.cli.global.to_words());
    words
}

enum FirstPass {
    Done(Box<Status>),
    /// The process is gone; its exit code, if it had one.
    Ended(Option<i32>),
    TimedOut,
}

fn first_pass(child: &mut Child, state_dir: &Path, patience: Duration) -> Result<FirstPass, Failure> {
    let mut waited = Duration::ZERO;
    while waited < patience {
        if let Some(status) = child.try_wait()? {
            return Ok(FirstPass::Ended(status.code()));
        }
        // While it starts anything may be half there; what stays wrong shows as a time-out.
        if let Some(status) = published(state_dir, child.id()) {
            return Ok(FirstPass::Done(Box::new(status)));
        }
        std::thread::sleep(POLL);
        waited += POLL;
    }
    Ok(FirstPass::TimedOut)
}

/// The status of this very watcher, once it has made a pass.
fn published(state_dir: &Path, pid: u32) -> Option<Status> {
    let mut client = Client::connect(state_dir).ok()??;
    if client.pid() != pid {
        return None;
    }
    match client.ask(Command::Status).ok()? {
        Answer::Status(status) => status.last_pass.is_some().then_some(*status),
        Answer::Report(_) | Answer::Refused(_) => None,
    }
}

fn ended(code: Option<i32>, log: &Path, log_start: u64) -> Failure {
    let known = ExitCode::ALL.into_iter().find(|known| Some(i32::from(known.value())) == code);
    let code = known.filter(|code| *code != ExitCode::Converged).unwrap_or(ExitCode::Failed);
    let said = written_since(log, log_start).unwrap_or_default();
    let failure = Failure::message(code, "the watcher ended before its first pass was done");
    match said.trim_end() {
        "" => failure.help(format!("its log is {}", log.display())),
        said => failure.help(format!("it said:\n{said}")),
    }
}

fn slow(pid: u32, log: &Path) -> Failure {
    Failure::message(ExitCode::NotReady, format!("the first pass of the watcher (pid {pid}) is not done yet"))
        .help(format!("it goes on; `reconcile status` shows how far it is, and its log is {}", log.display()))
}

fn show(run: &Run<'_>, status: &Status, pid: u32) -> Result<Ended, Failure> {
    manifests::tell(run, &status.manifests);
    if run.console.is_json() {
        run.console.json(&StatusView::from(status))?;
    } else {
        run.console.print(&report::table(
            &status.services,
            &TimeZone::system(),
            run.console.surroundings.width,
        ))?;
    }
    run.console.say(&format!("watching in the background (pid {pid}); `reconcile down` stops everything"));
    endings::tell(&run.console, status, Some(pid));
    Ok(verdict::of_status(status).into())
}

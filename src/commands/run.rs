//! `reconcile run --with NAME… -- COMMAND`: a command that holds services for as long as it runs.
//!
//! The lease is the command's own: it ends with it, whatever becomes of us. What is left for us is to wait with it until
//! all is ready, to hand signals on, and, in the end, to see to it that what only it has used is stopped; where no
//! watcher runs, by being the reconciler for a moment at both ends.

mod variables;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::args::RunArgs;
use super::backend::Backend;
use super::exit_code::{Ended, ExitCode};
use super::failure::Failure;
use super::{Run, act};
use crate::host::foreground::{self, Foreground, News};
use crate::reconciler::command::{Answer, Command};
use crate::reconciler::options::Options;
use crate::reconciler::status::ServiceStatus;
use crate::state::Holder;

/// How long another reconciler may be at work before we go without having let go: the next pass finds our command ended.
const RELEASE_WITHIN: Duration = Duration::from_secs(60);

/// More of a name is of no use to anybody.
const MAX_NAME: usize = 64;

enum Told {
    Foreground(News),
    /// `None`: it was called off.
    Answered(Question, Result<Option<Answer>, Failure>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    Acquire,
    Release,
}

/// What came of the wait for services.
enum Acquired {
    Ready(Vec<ServiceStatus>),
    /// Refused, or not all came up.
    Not(Answer),
    /// By a signal, or by the end of what was to be the command.
    Interrupted(u8),
}

pub fn run(run: &Run<'_>, args: &RunArgs) -> Result<Ended, Failure> {
    if !foreground::is_there(&args.command[0]) {
        let message = format!("there is no executable `{}`", args.command[0].to_string_lossy());
        run.console.say(&Failure::message(ExitCode::Failed, message).render());
        return Ok(Ended::Command(foreground::NOT_FOUND));
    }
    let (sender, told) = channel();
    let mut foreground = {
        let sender = sender.clone();
        let tell = move |news| drop(sender.send(Told::Foreground(news)));
        Foreground::prepare(&[OsString::from("become")], &args.command, tell)?
    };
    let holder = Holder::Process { process: foreground.process.clone(), command: name_of(&args.command[0]) };
    let talk = Talk { options: &run.options, sender, told };
    let release = Command::EndLease { lease: holder.id(), names: run.names(&args.with) };
    let command = Command::Lease { names: run.names(&args.with), holder, term: None, timeout: args.timeout };
    // From here on there may be a lease, and so one way out.
    match talk.acquire(command, args.timeout) {
        Ok(Acquired::Ready(services)) => {
            if let Err(error) = foreground.begin(&variables::of(&services)) {
                // It has ended before; how, is told below.
                tracing::debug!("the command cannot be told to begin: {error}");
            }
            let status = talk.wait(&foreground);
            talk.release(run, release);
            Ok(Ended::Command(foreground::exit_code(status)))
        }
        Ok(Acquired::Not(answer)) => {
            let told = act::tell(run, &answer);
            run.console.say(&format!("`{}` was not run", name_of(&args.command[0])));
            told
        }
        Ok(Acquired::Interrupted(code)) => {
            foreground.give_up();
            run.console.say(&format!("called off: `{}` is not run", name_of(&args.command[0])));
            talk.release(run, release);
            Ok(Ended::Command(code))
        }
        Err(failure) => {
            foreground.give_up();
            talk.release(run, release);
            Err(failure)
        }
    }
}

/// For people: without its arguments, which may be secret.
fn name_of(command: &OsStr) -> String {
    let name = Path::new(command).file_name().unwrap_or(command);
    name.to_string_lossy().chars().take(MAX_NAME).collect()
}

/// With whoever is in charge, while signals are heard.
struct Talk<'a> {
    options: &'a Options,
    sender: Sender<Told>,
    told: Receiver<Told>,
}

impl Talk<'_> {
    fn next(&self) -> Told {
        self.told.recv().expect("we hold a sender ourselves")
    }

    /// Asks, beside us; the answer is told. Called off when what is returned is dropped.
    fn ask(&self, question: Question, command: Command, patience: Duration) -> oneshot::Sender<()> {
        let (go_on, mut called_off) = oneshot::channel();
        let (options, sender) = (self.options.clone(), self.sender.clone());
        std::thread::spawn(move || {
            let is_called_off = || called_off.try_recv() == Err(TryRecvError::Closed);
            let answer = Backend::open_patiently(&options, patience, is_called_off)
                .and_then(|backend| backend.map_or(Ok(None), |it| it.execute_until(command, called_off)));
            // Whoever waits for it may have ended.
            let _ = sender.send(Told::Answered(question, answer));
        });
        go_on
    }

    fn acquire(&self, command: Command, patience: Duration) -> Result<Acquired, Failure> {
        let _until_answered = self.ask(Question::Acquire, command, patience);
        loop {
            match self.next() {
                Told::Answered(_, answer) => {
                    return Ok(match answer? {
                        Some(Answer::Status(status)) => Acquired::Ready(status.services),
                        Some(answer) => Acquired::Not(answer),
                        None => unreachable!("nobody has called it off"),
                    });
                }
                Told::Foreground(News::Ended(status)) => {
                    return Ok(Acquired::Interrupted(foreground::exit_code(status)));
                }
                Told::Foreground(news) => {
                    if let Some(signal) = news.asks_to_end() {
                        return Ok(Acquired::Interrupted(foreground::code_of_signal(signal)));
                    }
                }
            }
        }
    }

    /// Until the command has ended.
    fn wait(&self, command: &Foreground) -> ExitStatus {
        loop {
            match self.next() {
                Told::Foreground(News::Ended(status)) => return status,
                Told::Foreground(News::Signal { number, to_all: false }) => {
                    if let Err(error) = command.signal(number) {
                        tracing::warn!("signal {number} cannot be handed on: {error}");
                    }
                }
                Told::Foreground(News::Signal { to_all: true, .. }) | Told::Answered(..) => {}
            }
        }
    }

    /// What it cannot do is done by the next pass, which finds the command ended. A signal that comes while it is waited
    /// for is answered once, and the second is an end of patience: one event may bring several, as the end of a terminal.
    fn release(&self, run: &Run<'_>, release: Command) {
        let _until_answered = self.ask(Question::Release, release, RELEASE_WITHIN);
        let mut was_asked_to_end = false;
        let why = loop {
            match self.next() {
                Told::Answered(Question::Acquire, _) | Told::Answered(Question::Release, Ok(None)) => {}
                Told::Answered(Question::Release, Ok(Some(Answer::Refused(refusal)))) => {
                    break refusal.message;
                }
                Told::Answered(Question::Release, Ok(Some(Answer::Report(report))))
                    if report.converged == Some(false) =>
                {
                    break "not all of it has stopped yet".to_owned();
                }
                Told::Answered(Question::Release, Ok(Some(_))) => return,
                Told::Answered(Question::Release, Err(failure)) => break failure.message_line(),
                Told::Foreground(news) => match news.asks_to_end() {
                    None | Some(libc::SIGHUP) => {}
                    Some(_) if was_asked_to_end => break "it was not waited for".to_owned(),
                    Some(_) => {
                        was_asked_to_end = true;
                        run.console
                            .say("what was leased is being stopped; once more leaves that to the next pass");
                    }
                },
            }
        };
        run.console.say(&format!("what was leased is let go of by the next pass: {why}"));
    }
}

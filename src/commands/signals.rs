//! Signals to a watcher, as messages to its loop.
//!
//! | signal | first | second |
//! | --- | --- | --- |
//! | SIGINT | stop | kill |
//! | SIGTERM | stop; under a service manager leave | kill |
//! | SIGHUP | read the configuration anew; with a terminal as SIGINT | |
//!
//! With `--leave` all of them leave the services running. What was not started by this watcher is named
//! before it is stopped, so that nobody is surprised by what else is gone.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::endings;
use super::report::Console;
use super::surroundings::Surroundings;
use crate::host::first;
use crate::reconciler::command::{Answer, Command};
use crate::reconciler::inbox::{InboxSender, Message, ShutdownKind};
use crate::reconciler::status::Status;

/// How long the loop may take to say what runs, before it is stopped without that.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caught {
    Interrupt,
    Terminate,
    Hangup,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Shutdown(ShutdownKind),
    Reload,
}

/// What decides on the meaning of a signal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manners {
    /// `--leave`
    pub leave: bool,
    pub service_manager: bool,
    pub terminal: bool,
}

impl Manners {
    pub fn new(leave: bool, surroundings: &Surroundings) -> Self {
        Self {
            leave,
            service_manager: surroundings.service_manager,
            terminal: surroundings.stdin_is_terminal,
        }
    }

    /// `stopping`: a shutdown that stops the services was asked for already.
    fn meaning(self, caught: Caught, stopping: bool) -> Meaning {
        let leaves = match caught {
            Caught::Hangup if !self.terminal => return Meaning::Reload,
            Caught::Interrupt | Caught::Hangup => self.leave,
            Caught::Terminate => self.leave || self.service_manager,
        };
        Meaning::Shutdown(match (leaves, stopping) {
            (true, _) => ShutdownKind::Leave,
            (false, false) => ShutdownKind::Stop,
            (false, true) => ShutdownKind::Kill,
        })
    }
}

/// The signals of a watcher; from now on none of them ends the process by itself.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// On a tokio runtime.
    pub fn catch() -> io::Result<Self> {
        let signals = Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        };
        first::leave_signals_to_others();
        Ok(signals)
    }

    /// Hands them on until the loop has ended. `began` is when this process did, RFC 3339. Cancel safe.
    pub async fn forward(mut self, inbox: &InboxSender, manners: Manners, console: &Console, began: &str) {
        let mut stopping = false;
        loop {
            let caught = self.next().await;
            let meaning = manners.meaning(caught, stopping);
            let message = match meaning {
                Meaning::Reload => Message::ReloadConfig,
                Meaning::Shutdown(kind) => {
                    stopping |= kind == ShutdownKind::Stop;
                    announce(inbox, console, kind, began).await;
                    Message::Shutdown { kind }
                }
            };
            if inbox.send(message).await.is_err() {
                return;
            }
        }
    }

    async fn next(&mut self) -> Caught {
        tokio::select! {
            _ = self.interrupt.recv() => Caught::Interrupt,
            _ = self.terminate.recv() => Caught::Terminate,
            _ = self.hangup.recv() => Caught::Hangup,
        }
    }
}

fn tell(console: &Console, kind: ShutdownKind) {
    console.say(match kind {
        ShutdownKind::Stop => "stopping all services in reverse order; the same signal again kills them",
        ShutdownKind::Kill => "killing what is left",
        ShutdownKind::Leave => "ending, the services go on; `reconcile down` stops them",
    });
}

/// Says what is about to happen: to services that another reconciler started, and what they end with that are left.
async fn announce(inbox: &InboxSender, console: &Console, kind: ShutdownKind, began: &str) {
    let status = match kind {
        ShutdownKind::Stop | ShutdownKind::Leave => {
            tokio::time::timeout(PATIENCE, ask_status(inbox)).await.ok().flatten()
        }
        ShutdownKind::Kill => None,
    };
    if let (ShutdownKind::Stop, Some(status)) = (kind, &status) {
        let adopted = started_before(status, began);
        if !adopted.is_empty() {
            console.say(&format!("this also stops what ran before: {}", adopted.join(", ")));
        }
    }
    tell(console, kind);
    if let (ShutdownKind::Leave, Some(status)) = (kind, &status) {
        endings::tell(console, status, None);
    }
}

/// The status by way of the loop; `None` if it has ended.
pub async fn ask_status(inbox: &InboxSender) -> Option<Status> {
    let (answer, answered) = oneshot::channel();
    inbox.send(Message::Command { command: Command::Status, answer }).await.ok()?;
    match answered.await.ok()? {
        Answer::Status(status) => Some(*status),
        Answer::Report(_) | Answer::Refused(_) => None,
    }
}

/// Both times are RFC 3339 in UTC with milliseconds, so their order is that of the texts.
fn started_before<'a>(status: &'a Status, began: &str) -> Vec<&'a str> {
    let runs = status.services.iter().filter(|service| service.pid.is_some());
    let before = runs.filter(|service| service.started_at.as_deref().is_some_and(|at| at < began));
    before.map(|service| service.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::report::samples;
    use super::*;

    fn shutdown(manners: Manners, caught: Caught, stopping: bool) -> ShutdownKind {
        match manners.meaning(caught, stopping) {
            Meaning::Shutdown(kind) => kind,
            Meaning::Reload => panic!("{caught:?} reloads"),
        }
    }

    #[test]
    fn the_first_stops_and_the_second_kills() {
        let plain = Manners::default();
        for caught in [Caught::Interrupt, Caught::Terminate] {
            assert_eq!(shutdown(plain, caught, false), ShutdownKind::Stop);
            assert_eq!(shutdown(plain, caught, true), ShutdownKind::Kill);
        }
    }

    #[test]
    fn under_a_service_manager_only_ctrl_c_stops() {
        let unit = Manners { service_manager: true, ..Manners::default() };
        assert_eq!(shutdown(unit, Caught::Terminate, false), ShutdownKind::Leave);
        assert_eq!(shutdown(unit, Caught::Interrupt, false), ShutdownKind::Stop);
    }

    #[test]
    fn leave_leaves_whatever_comes() {
        let leave = Manners { leave: true, terminal: true, ..Manners::default() };
        for caught in [Caught::Interrupt, Caught::Terminate, Caught::Hangup] {
            assert_eq!(shutdown(leave, caught, false), ShutdownKind::Leave);
        }
    }

    #[test]
    fn a_hangup_reloads_unless_a_terminal_was_closed() {
        assert_eq!(Manners::default().meaning(Caught::Hangup, false), Meaning::Reload);
        let terminal = Manners { terminal: true, ..Manners::default() };
        assert_eq!(shutdown(terminal, Caught::Hangup, false), ShutdownKind::Stop);
    }

    #[test]
    fn what_ran_before_is_named() {
        let status = samples::status();
        assert_eq!(started_before(&status, "2026-08-22T10:00:00.001Z"), ["web"]);
        assert_eq!(started_before(&status, "2026-08-22T10:00:00.000Z"), Vec::<&str>::new());
    }
}

//! What reaches a running reconciler from outside: commands of clients, and signals to itself.
//!
//! `api` and `commands` send, the loop receives between two passes. A sender never waits for a pass: the
//! answer to a command comes on a channel of its own, and a client that went away has closed it.

use tokio::sync::{mpsc, oneshot};

use super::command::{Answer, Command};

/// Messages that may be queued before a sender has to wait.
pub const INBOX_LENGTH: usize = 64;

#[derive(Debug)]
pub enum Message {
    Command {
        command: Command,
        /// Closed when whoever asked is gone; nothing that was asked for is undone by that.
        answer: oneshot::Sender<Answer>,
    },
    Shutdown {
        kind: ShutdownKind,
    },
    /// Read the configuration and the policy anew.
    ReloadConfig,
}

/// How the watcher ends; a later one replaces an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownKind {
    /// Stop every service in reverse order, then end.
    Stop,
    /// SIGKILL to all that is left, then end.
    Kill,
    /// End, and leave every service as it is.
    Leave,
}

pub type Inbox = mpsc::Receiver<Message>;
pub type InboxSender = mpsc::Sender<Message>;

/// An inbox and its sender.
pub fn inbox() -> (InboxSender, Inbox) {
    mpsc::channel(INBOX_LENGTH)
}

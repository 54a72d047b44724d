//! A watcher for the command line to talk to: the real control socket, and answers made up by the test.

use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use reconcile::api::Server;
use reconcile::reconciler::command::{Answer, Command};
use reconcile::reconciler::inbox::{InboxSender, Message, ShutdownKind, inbox};

const BOUND: Duration = Duration::from_secs(20);

pub struct Watcher {
    thread: Option<JoinHandle<()>>,
    asked: mpsc::Receiver<Command>,
    inbox: InboxSender,
}

impl Watcher {
    /// Answers every command with `answer` of it, until dropped. What is answered `None` never is.
    pub fn start(dir: &Path, answer: impl Fn(&Command) -> Option<Answer> + Send + 'static) -> Self {
        let (ask, asked) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let path = dir.to_owned();
        let (sender, mut inbox) = inbox();
        let to_server = sender.clone();
        let serve = async move {
            let server = tokio::spawn(Server::bind(&path).unwrap().serve(to_server));
            ready.send(()).unwrap();
            while let Some(Message::Command { command, answer: reply }) = inbox.recv().await {
                if let Some(answer) = answer(&command) {
                    drop(reply.send(answer));
                }
                drop(ask.send(command));
            }
            drop(inbox);
            server.await.unwrap();
        };
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve);
        });
        is_ready.recv_timeout(BOUND).unwrap();
        Self { thread: Some(thread), asked, inbox: sender }
    }

    /// The next command that arrived.
    pub fn asked(&self) -> Command {
        self.asked.recv_timeout(BOUND).expect("the command line asks the watcher")
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Not over the socket: the directory may be gone by now.
        drop(self.inbox.try_send(Message::Shutdown { kind: ShutdownKind::Leave }));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

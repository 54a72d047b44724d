//! The reading half of a connection: what the keeper says becomes events, and its silence is noticed.
//!
//! A task of its own, so that a long pass delays neither. Called by `client`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{ANSWER_WITHIN, Heard, Jobs, SocketNews};
use crate::host::keeper::protocol::{CellInfo, JobEnd, Message};
use crate::host::{Event, JobOutcome};
use crate::identity::Nonce;

/// Turns what the keeper says into events, until it says no more.
pub(super) struct Hearing {
    pub heard: mpsc::UnboundedSender<Heard>,
    pub lists: mpsc::UnboundedSender<Vec<CellInfo>>,
    pub jobs: Jobs,
    pub pinged: mpsc::UnboundedReceiver<u64>,
    /// The newest ping without an answer, and how long anything at all is waited for.
    pub awaited: Option<(u64, Instant)>,
    pub silent: Arc<AtomicBool>,
}

impl Hearing {
    /// The deadline is kept here, where the socket is read: after a suspend, or a long pass of ours, what the
    /// keeper has said meanwhile is heard first.
    pub async fn read(mut self, mut reader: BufReader<OwnedReadHalf>) {
        let mut line = Vec::new();
        loop {
            let over = self.awaited.map(|(_, deadline)| deadline);
            tokio::select! {
                biased;
                // Cut short by another branch, it leaves what it has read in `line`, and goes on there.
                read = reader.read_until(b'\n', &mut line) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(_) => self.hear_line(&std::mem::take(&mut line)),
                },
                Some(id) = self.pinged.recv() => {
                    let deadline = over.unwrap_or_else(|| Instant::now() + ANSWER_WITHIN);
                    self.awaited = Some((id, deadline));
                }
                () = sleep_until(over.unwrap_or_else(Instant::now)), if over.is_some() => {
                    return self.silent.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    fn hear_line(&mut self, line: &[u8]) {
        // Whatever it says, it lives.
        self.awaited = self.awaited.map(|(id, _)| (id, Instant::now() + ANSWER_WITHIN));
        match serde_json::from_slice(line) {
            Ok(message) => self.hear(message),
            Err(error) => tracing::warn!(%error, "the keeper said something that is not understood"),
        }
    }

    fn hear(&mut self, message: Message) {
        let event = match message {
            Message::Spawned { service, nonce, process, containment } => {
                Event::Spawned { service, nonce, process, containment }
            }
            Message::SpawnFailed { service, nonce, failure } => {
                Event::SpawnFailed { service, nonce, failure }
            }
            Message::Exited { nonce, status, others } => Event::Exited { nonce, status, others },
            Message::Gone { nonce } => Event::Gone { nonce },
            Message::Said { nonce, said } => Event::Said { nonce, said },
            Message::Unkillable { nonce, pids } => Event::Unkillable { nonce, pids },
            Message::JobDone { nonce, end } => {
                let job = self.jobs.lock().expect("nothing panics while it holds this lock").remove(&nonce);
                let Some((purpose, service, of)) = job else { return };
                Event::JobDone { purpose, service, of, outcome: outcome(end) }
            }
            Message::Cells { cells } => {
                let _ = self.lists.send(cells);
                return;
            }
            Message::NotUpgraded { busy, detail } => {
                let _ = self.heard.send(Heard::NotUpgraded { busy, detail });
                return;
            }
            Message::Holding { socket } => {
                return self.tell_of_socket(SocketNews::Holding(socket));
            }
            Message::NotHolding { key, detail } => {
                return self.tell_of_socket(SocketNews::NotHolding { key, detail });
            }
            Message::Released { socket } => {
                return self.tell_of_socket(SocketNews::Released(socket));
            }
            Message::Refused { nonce, detail } => {
                tracing::warn!(nonce = nonce.as_ref().map(Nonce::as_str), %detail, "the keeper refuses");
                return;
            }
            Message::Pong { id } => {
                self.awaited = self.awaited.filter(|(newest, _)| *newest > id);
                return;
            }
            Message::Hello { .. } => return,
        };
        // Nobody listens any more: the reconciler is on its way out.
        let _ = self.heard.send(Heard::Event(event));
    }

    fn tell_of_socket(&self, news: SocketNews) {
        let _ = self.heard.send(Heard::Socket(news));
    }
}

fn outcome(end: JobEnd) -> JobOutcome {
    match end {
        JobEnd::Exit { status, output } => JobOutcome::Exit { status, output },
        JobEnd::TimedOut => JobOutcome::TimedOut,
        JobEnd::NotStarted { failure } => JobOutcome::NotStarted(failure),
        JobEnd::Cancelled => JobOutcome::Cancelled,
    }
}

//! What a person at a terminal sees of a watcher: the services' output, and their phases as they change.
//!
//! Looks at the status as any client does, by way of the inbox, and reads the logs; the loop knows nothing
//! of it and never waits for it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::Run;
use super::logs::{Followers, Reader};
use super::report::transitions;
use super::signals::ask_status;
use crate::reconciler::inbox::InboxSender;
use crate::reconciler::status::Status;

/// How often logs are read on.
const POLL: Duration = Duration::from_millis(100);
/// How many of these pass between two looks at the status.
const LOOK: u32 = 5;

pub struct Spectator<'a> {
    run: &'a Run<'a>,
    seen: Option<Status>,
    followers: Followers,
    reader: Reader,
}

impl<'a> Spectator<'a> {
    pub fn new(run: &'a Run<'a>) -> Self {
        let reader = Reader::new(run, &BTreeMap::new(), false);
        Self { run, seen: None, followers: Followers::default(), reader }
    }

    /// Until the loop has ended. Cancel safe: what was not shown yet is shown by [`Spectator::finish`].
    pub async fn watch(&mut self, inbox: &InboxSender) {
        for round in 0u32.. {
            if round.is_multiple_of(LOOK) {
                let Some(status) = ask_status(inbox).await else { return };
                self.look(status);
            }
            self.read_on();
            tokio::time::sleep(POLL).await;
        }
    }

    /// The last output.
    pub fn finish(mut self) {
        self.read_on();
        if let Err(failure) = self.reader.finish(self.run) {
            tracing::warn!("{}", failure.render());
        }
    }

    fn look(&mut self, status: Status) {
        transitions(self.seen.as_ref(), &status).iter().for_each(|line| self.run.console.say(line));
        let logs: BTreeMap<String, PathBuf> =
            status.services.iter().map(|service| (service.name.clone(), service.log.clone())).collect();
        let (run, reader) = (self.run, &mut self.reader);
        // A log that cannot be read is tried again with the next status.
        let _ = self.followers.join(&logs, 0, |name, bytes| reader.show(run, name, bytes));
        self.seen = Some(status);
    }

    fn read_on(&mut self) {
        let (run, reader) = (self.run, &mut self.reader);
        // A terminal that is gone is no reason to end what it showed.
        if let Err(failure) = self.followers.poll(|name, bytes| reader.show(run, name, bytes)) {
            tracing::debug!("{}", failure.render());
        }
    }
}

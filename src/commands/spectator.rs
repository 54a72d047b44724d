//! What a person at a terminal sees of a watcher: the services' output, and their phases as they change.
//!
//! Looks at the status as any client does, by way of the inbox, and reads the logs; the loop knows nothing
//! of it and never waits for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::logs::{Followers, Reader};
use super::report::escape::visible;
use super::report::transitions;
use super::signals::ask_status;
use super::{Run, manifests};
use crate::plan::Phase;
use crate::reconciler::inbox::InboxSender;
use crate::reconciler::news::{FileNews, Hold, Holds, Wrongs};
use crate::reconciler::status::{ManifestStatus, Status};

/// How often logs are read on.
const POLL: Duration = Duration::from_millis(100);
/// How many of these pass between two looks at the status.
const LOOK: u32 = 5;

pub struct Spectator<'a> {
    run: &'a Run<'a>,
    seen: Option<Status>,
    wrongs: Wrongs,
    holds: Holds,
    followers: Followers,
    reader: Reader,
}

impl<'a> Spectator<'a> {
    pub fn new(run: &'a Run<'a>) -> Self {
        let reader = Reader::new(run, &BTreeMap::new(), false);
        let (wrongs, holds) = (Wrongs::default(), Holds::default());
        Self { run, seen: None, wrongs, holds, followers: Followers::default(), reader }
    }

    /// Until the loop has ended. Cancel safe: what was not shown yet is shown by [`Spectator::finish`].
    pub async fn watch(&mut self, inbox: &InboxSender) {
        for round in 0u32.. {
            if round.is_multiple_of(LOOK) || self.sees_a_stop() {
                let Some(status) = ask_status(inbox).await else { return };
                self.look(status);
            }
            self.read_on();
            tokio::time::sleep(POLL).await;
        }
    }

    /// While something is being stopped the loop may end soon.
    fn sees_a_stop(&self) -> bool {
        self.seen.as_ref().is_some_and(|status| status.services.iter().any(|it| it.phase == Phase::Stopping))
    }

    /// How everything ended, and the last output.
    pub fn finish(mut self, last: Status) {
        self.look(last);
        self.read_on();
        if let Err(failure) = self.reader.finish(self.run) {
            tracing::warn!("{}", failure.render());
        }
    }

    fn look(&mut self, status: Status) {
        self.tell_of_manifests(&status);
        transitions(self.seen.as_ref(), &status).iter().for_each(|line| self.run.console.say(line));
        self.tell_of_removals(&status);
        let logs: BTreeMap<String, PathBuf> =
            status.services.iter().map(|service| (service.name.clone(), service.log.clone())).collect();
        let (run, reader) = (self.run, &mut self.reader);
        // A log that cannot be read is tried again with the next status.
        let _ = self.followers.join(&logs, 0, |name, bytes| reader.show(run, name, bytes));
        self.seen = Some(status);
    }

    fn tell_of_manifests(&mut self, status: &Status) {
        let files = status.manifests.iter().map(|file| (file.path.as_path(), file.problems.as_slice()));
        let file_at = |path: &Path| status.manifests.iter().find(|file| file.path == path);
        for news in self.wrongs.update(files) {
            match news {
                FileNews::Wrong { path, problems } => {
                    if let Some(file) = file_at(&path) {
                        manifests::tell(self.run, &[ManifestStatus { problems, ..file.clone() }]);
                    }
                }
                FileNews::Well { path } => {
                    self.run
                        .console
                        .say(&format!("{} has no problem any more", visible(&path.to_string_lossy())));
                }
            }
        }
        if self.seen.is_none() && status.services.is_empty() && status.manifests.is_empty() {
            self.run.console.say("there is no service; `reconcile init` makes a first manifest");
        }
    }

    fn tell_of_removals(&mut self, status: &Status) {
        let held = status.services.iter().filter_map(|service| {
            Some((service.name.clone(), Hold::parse(&service.reason, || service.message.clone())?))
        });
        let stays = |name: &str| {
            let service = status.services.iter().find(|service| service.name == name);
            service.is_some_and(|service| !matches!(service.phase, Phase::Stopping | Phase::Stopped))
        };
        for news in self.holds.update(held.collect(), stays) {
            self.run.console.say(&visible(&news.sentence()));
        }
    }

    fn read_on(&mut self) {
        let (run, reader) = (self.run, &mut self.reader);
        // A terminal that is gone is no reason to end what it showed.
        if let Err(failure) = self.followers.poll(|name, bytes| reader.show(run, name, bytes)) {
            tracing::debug!("{}", failure.render());
        }
    }
}

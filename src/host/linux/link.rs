//! The connection to the keeper: made when there is something to ask, mended when it is lost.
//!
//! Requests wait here until there is a keeper. One that holds its lock and does not answer is never
//! replaced: what is asked for then fails, and every claim is held.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::keeper::{KeeperClient, KeeperError};
use crate::host::{Claim, Event, JobOutcome, JobRequest, SpawnRequest, StateLayout};
use crate::identity::{InstanceId, Nonce};
use crate::manifest::SignalTo;
use crate::state::{SpawnFailure, SpawnStage};

/// The keeper takes requests in within this, or is stuck.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Asked {
    Spawn(SpawnRequest),
    Signal(Claim, i32, SignalTo),
    Kill(Claim),
    Attach(Claim),
    Job(JobRequest),
}

#[derive(Debug)]
pub(super) struct KeeperLink {
    layout: StateLayout,
    instance: InstanceId,
    client: Option<KeeperClient>,
    /// Asked while there was no connection.
    waiting: Vec<Asked>,
    /// What came of requests that found no keeper.
    events: VecDeque<Event>,
    unresponsive: bool,
    /// Something was asked since the keeper was last known to have heard everything.
    asked: bool,
}

impl KeeperLink {
    pub fn new(layout: StateLayout, instance: InstanceId) -> Self {
        Self {
            layout,
            instance,
            client: None,
            waiting: Vec::new(),
            events: VecDeque::new(),
            unresponsive: false,
            asked: false,
        }
    }

    /// For keepers that are connected to from now on.
    pub fn act_as(&mut self, instance: InstanceId) {
        self.instance = instance;
    }

    pub fn is_unresponsive(&self) -> bool {
        self.unresponsive
    }

    pub fn spawn(&mut self, request: SpawnRequest) {
        self.ask(Asked::Spawn(request));
    }

    pub fn signal(&mut self, claim: &Claim, signal: i32, to: SignalTo) {
        self.ask(Asked::Signal(claim.clone(), signal, to));
    }

    pub fn kill(&mut self, claim: &Claim) {
        self.ask(Asked::Kill(claim.clone()));
    }

    pub fn attach(&mut self, claim: Claim) {
        self.ask(Asked::Attach(claim));
    }

    pub fn run_job(&mut self, request: JobRequest) {
        self.ask(Asked::Job(request));
    }

    /// Only a keeper that is connected is told: nobody else may rewrite the journal.
    pub fn trim_exits(&self, keep: Vec<Nonce>) {
        if let Some(client) = &self.client {
            client.trim_exits(keep);
        }
    }

    fn ask(&mut self, asked: Asked) {
        self.asked = true;
        match &self.client {
            Some(client) => tell(client, asked),
            None => self.waiting.push(asked),
        }
    }

    /// Cancel safe: what was not told to a keeper yet goes on waiting.
    pub async fn connect_if_needed(&mut self) {
        if self.client.is_some() || self.waiting.is_empty() {
            return;
        }
        match KeeperClient::connect_or_start(&self.layout, &self.instance, &own_executable()).await {
            Ok(client) => {
                for asked in self.waiting.drain(..) {
                    tell(&client, asked);
                }
                if let Some(why) = &client.info.holders {
                    tracing::info!("services are held together without cgroups: {why}");
                }
                self.client = Some(client);
                self.unresponsive = false;
            }
            Err(error) => self.fail_all(&error),
        }
    }

    fn fail_all(&mut self, error: &KeeperError) {
        tracing::error!("{error}");
        let failure = SpawnFailure { stage: SpawnStage::Keeper, errno: 0, message: error.to_string() };
        let is_news = !self.unresponsive;
        self.unresponsive = matches!(error, KeeperError::Unresponsive { .. });
        for asked in self.waiting.drain(..) {
            match asked {
                Asked::Spawn(SpawnRequest { service, nonce, .. }) => {
                    self.events.push_back(Event::SpawnFailed { service, nonce, failure: failure.clone() });
                }
                Asked::Job(JobRequest { purpose, of, spawn, .. }) => {
                    let outcome = JobOutcome::NotStarted(failure.clone());
                    self.events.push_back(Event::JobDone { purpose, service: spawn.service, of, outcome });
                }
                // Asked again by a later pass: what they are for is in the ledger.
                Asked::Signal(..) | Asked::Kill(_) | Asked::Attach(_) => {}
            }
        }
        if self.unresponsive && is_news {
            self.events.push_back(Event::KeeperLost);
        }
    }

    /// Waits, with a bound, until the keeper has taken in all that was asked since the last time.
    pub async fn settle(&mut self) {
        if let Some(client) = self.client.as_mut().filter(|_| std::mem::take(&mut self.asked)) {
            // One that does not answer now will be found unresponsive by the next reconciler.
            let _ = tokio::time::timeout(SETTLE_WITHIN, client.list()).await;
        }
    }

    /// Cancel safe.
    pub async fn next(&mut self) -> Event {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        let Some(client) = &mut self.client else { return std::future::pending().await };
        let event = client.next().await;
        if event == Event::KeeperLost {
            self.client = None;
        }
        event
    }
}

/// Ourselves, by the name that `ps` shall show, as long as that still names the file that we run.
fn own_executable() -> PathBuf {
    let running = PathBuf::from("/proc/self/exe");
    let identity = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino())).ok();
    match std::env::current_exe() {
        Ok(named) if identity(&named).is_some() && identity(&named) == identity(&running) => named,
        Ok(_) | Err(_) => running,
    }
}

fn tell(client: &KeeperClient, asked: Asked) {
    match asked {
        Asked::Spawn(request) => client.spawn(request),
        Asked::Signal(claim, signal, to) => client.signal(&claim, signal, to),
        Asked::Kill(claim) => client.kill(&claim),
        Asked::Attach(claim) => client.attach(&claim),
        Asked::Job(request) => client.run_job(request),
    }
}

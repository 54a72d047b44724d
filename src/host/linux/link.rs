//! The link to the keeper: made when there is something to ask, mended when it is lost.
//!
//! Requests wait here until there is a keeper; connecting is a task of its own, so that whoever waits for the
//! next event may be interrupted at any time. A keeper that holds its lock and does not serve us is never
//! replaced: it is tried again and again, and until it does every claim is held and every request fails. One that
//! is an older program than ours becomes ours in place, when nothing is under way (`upgrade`).

mod sockets;
mod upgrade;

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use self::sockets::Sockets;
use self::upgrade::Upgrade;
use super::backoff::Backoff;
use crate::host::keeper::{Heard, KeeperClient, KeeperError, is_held};
use crate::host::listen::NotHeld;
use crate::host::{Claim, Event, JobOutcome, JobRequest, SpawnRequest, StateLayout};
use crate::host::{background, failpoint};
use crate::identity::{InstanceId, Nonce};
use crate::manifest::SignalTo;
use crate::state::{SpawnFailure, SpawnStage};

/// The keeper is there and has taken requests in within this, or is stuck.
const SETTLE_WITHIN: Duration = Duration::from_secs(15);

/// One ping is for all that was asked within this, and its answer comes when that is under way.
const PING_AFTER: Duration = Duration::from_millis(100);

#[derive(Debug)]
enum Asked {
    Spawn(SpawnRequest),
    Signal(Claim, i32, SignalTo),
    Kill(Claim),
    Attach(Claim),
    Job(JobRequest),
    Said(Nonce),
}

#[derive(Debug)]
enum Line {
    Down,
    Connecting(JoinHandle<Result<KeeperClient, KeeperError>>),
    Up(Box<KeeperClient>, Instant),
}

#[derive(Debug)]
pub(super) struct KeeperLink {
    layout: StateLayout,
    instance: InstanceId,
    /// What to start a keeper with.
    exe: PathBuf,
    line: Line,
    backoff: Backoff,
    /// Asked while there was no connection.
    waiting: Vec<Asked>,
    /// Runs that the keeper of this connection tells about without being asked again.
    attached: HashSet<Nonce>,
    /// What came of requests that found no keeper.
    events: VecDeque<Event>,
    /// A keeper holds its lock and does not serve us: what becomes of requests meanwhile.
    silence: Option<SpawnFailure>,
    /// Something was asked since the keeper was last known to have heard everything.
    asked: bool,
    /// When the keeper is asked whether it has heard what it was asked for.
    ping_at: Option<Instant>,
    upgrade: Upgrade,
    sockets: Sockets,
}

impl KeeperLink {
    pub fn new(layout: StateLayout, instance: InstanceId) -> Self {
        Self {
            layout,
            instance,
            exe: background::own_executable(),
            line: Line::Down,
            backoff: Backoff::default(),
            waiting: Vec::new(),
            attached: HashSet::new(),
            events: VecDeque::new(),
            silence: None,
            asked: false,
            ping_at: None,
            upgrade: Upgrade::default(),
            sockets: Sockets::default(),
        }
    }

    /// For keepers that are connected to from now on.
    pub fn act_as(&mut self, instance: InstanceId) {
        self.instance = instance;
    }

    pub fn is_unresponsive(&self) -> bool {
        self.silence.is_some()
    }

    pub fn spawn(&mut self, request: SpawnRequest) {
        self.attached.insert(request.nonce.clone());
        self.ask(Asked::Spawn(request));
    }

    pub fn signal(&mut self, claim: &Claim, signal: i32, to: SignalTo) {
        self.ask(Asked::Signal(claim.clone(), signal, to));
    }

    pub fn kill(&mut self, claim: &Claim) {
        self.ask(Asked::Kill(claim.clone()));
    }

    /// Nothing happens if this connection knows the run already.
    pub fn attach_if_needed(&mut self, claim: Claim) {
        if !self.attached.contains(&claim.nonce) {
            self.attach(claim);
        }
    }

    /// Of a run that has ended, the end is told again.
    pub fn attach(&mut self, claim: Claim) {
        self.attached.insert(claim.nonce.clone());
        self.ask(Asked::Attach(claim));
    }

    pub fn ask_said(&mut self, nonce: &Nonce) {
        self.ask(Asked::Said(nonce.clone()));
    }

    pub fn run_job(&mut self, request: JobRequest) {
        self.ask(Asked::Job(request));
    }

    /// Why runs of the keeper that is there have holders.
    pub fn holders(&self) -> Option<&str> {
        match &self.line {
            Line::Up(client, _) => client.info.holders.as_deref(),
            Line::Down | Line::Connecting(_) => None,
        }
    }

    /// Neither a spawn nor a job waits here or runs at the keeper, as far as this connection knows; spawns that
    /// the keeper has not answered are open in the ledger.
    pub fn is_idle(&self) -> bool {
        let has_jobs = matches!(&self.line, Line::Up(client, _) if client.has_jobs());
        self.waiting.is_empty() && self.sockets.are_settled() && !has_jobs
    }

    /// Only a keeper that is connected is told: nobody else may rewrite the journal.
    pub fn trim_exits(&self, keep: Vec<Nonce>) {
        if let Line::Up(client, _) = &self.line {
            client.trim_exits(keep);
        }
    }

    /// Finds out, in time, whether the keeper still serves us.
    pub fn ping(&self) {
        if let Line::Up(client, _) = &self.line {
            client.ping();
        }
    }

    fn ask(&mut self, asked: Asked) {
        if let Some(failure) = self.silence.clone() {
            return self.fail(asked, &failure);
        }
        self.asked = true;
        match &self.line {
            // What it hears now would be lost.
            Line::Up(..) if self.upgrade.is_asked() => self.waiting.push(asked),
            Line::Up(client, _) => {
                tell(client, asked, &mut self.events);
                self.ping_at.get_or_insert_with(|| Instant::now() + PING_AFTER);
            }
            Line::Down | Line::Connecting(_) => self.waiting.push(asked),
        }
    }

    /// Meets the keeper that there is: before anything is judged, so that one that does not serve us holds all there
    /// is, and no step is begun that cannot be carried out.
    pub async fn meet(&mut self) {
        // Whether it is held at all is found out again, with what there is to say, when it is asked something.
        if matches!(self.line, Line::Down) && is_held(&self.layout).unwrap_or(false) {
            self.connect();
            self.be_connected().await;
        }
    }

    fn connect_if_needed(&mut self) {
        let is_wanted = self.is_unresponsive() || !self.waiting.is_empty() || self.sockets.want_a_keeper();
        if is_wanted && matches!(self.line, Line::Down) {
            self.connect();
        }
    }

    async fn be_connected(&mut self) {
        if let Line::Connecting(connecting) = &mut self.line {
            let outcome = connecting.await.expect("connecting never panics and is not aborted");
            self.connected(outcome);
        }
    }

    fn connect(&mut self) {
        let (layout, instance, exe) = (self.layout.clone(), self.instance.clone(), self.exe.clone());
        let pause = self.backoff.pause();
        self.line = Line::Connecting(tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            failpoint::reach("link.connect");
            KeeperClient::connect_or_start(&layout, &instance, &exe).await
        }));
    }

    fn connected(&mut self, outcome: Result<KeeperClient, KeeperError>) {
        let client = match outcome {
            Ok(client) => client,
            Err(error) => return self.not_connected(&error),
        };
        failpoint::reach("link.connected");
        if let Some(why) = &client.info.holders {
            tracing::info!("services are held together without cgroups: {why}");
        }
        self.upgrade.met(&client.info);
        self.line = Line::Up(Box::new(client), Instant::now());
        self.met_sockets();
        self.tell_waiting();
        self.ping();
        if self.silence.take().is_some() {
            tracing::info!("the keeper answers again");
            // What was asked for meanwhile has failed.
            self.attached.clear();
            self.events.push_back(Event::KeeperLost);
        }
    }

    /// All that waited, now that there is somebody to hear it.
    fn tell_waiting(&mut self) {
        let Line::Up(client, _) = &self.line else { return };
        // With the room that they took: a thousand starts wait here once.
        for asked in std::mem::take(&mut self.waiting) {
            tell(client, asked, &mut self.events);
        }
        self.open_sockets();
    }

    /// It is time for an upgrade: asked for if nothing is under way that we know of; or to wait for it no longer.
    fn upgrade_is_due(&mut self) {
        if self.upgrade.is_asked() {
            return self.not_upgraded(false, "it did not answer");
        }
        if !self.is_idle() {
            return self.upgrade.put_off();
        }
        let Line::Up(client, _) = &self.line else { return };
        if let Some(exe) = self.upgrade.ask() {
            client.upgrade(&exe);
        }
    }

    fn not_upgraded(&mut self, busy: bool, detail: &str) {
        let Line::Up(client, _) = &self.line else { return };
        if busy {
            tracing::debug!("the keeper is not upgraded now: {detail}");
            self.upgrade.put_off();
        } else {
            self.upgrade.refused(&client.info, detail);
        }
        self.tell_waiting();
    }

    /// Fails all that waits. A signal, a kill or an attach has no answer of its own: what they are for is in
    /// the ledger, and is asked again by whoever hears that the keeper was lost.
    fn not_connected(&mut self, error: &KeeperError) {
        tracing::error!("{error}");
        self.line = Line::Down;
        self.backoff.failed();
        let failure = failure(error);
        let was_silent = self.is_unresponsive();
        // It lives and is not ours to replace, or to go behind.
        let is_silent = matches!(
            error,
            KeeperError::Unresponsive { .. } | KeeperError::Refused { .. } | KeeperError::TooOld { .. }
        );
        self.silence = is_silent.then(|| failure.clone());
        let waiting = std::mem::take(&mut self.waiting);
        let is_news = !waiting.is_empty() || was_silent != is_silent;
        self.attached.clear();
        for asked in waiting {
            self.fail(asked, &failure);
        }
        self.fail_sockets(&NotHeld { errno: failure.errno, message: failure.message.clone() });
        if is_news {
            self.events.push_back(Event::KeeperLost);
        }
    }

    fn fail(&mut self, asked: Asked, failure: &SpawnFailure) {
        match asked {
            Asked::Spawn(SpawnRequest { service, nonce, .. }) => {
                self.events.push_back(Event::SpawnFailed { service, nonce, failure: failure.clone() });
            }
            Asked::Job(JobRequest { purpose, of, spawn, .. }) => {
                let outcome = JobOutcome::NotStarted(failure.clone());
                self.events.push_back(Event::JobDone { purpose, service: spawn.service, of, outcome });
            }
            Asked::Signal(..) | Asked::Kill(_) | Asked::Attach(_) | Asked::Said(_) => {}
        }
    }

    /// Waits, with a bound, until the keeper has taken in all that was asked since the last time.
    pub async fn settle(&mut self) {
        // One that does not answer now will be found unresponsive by the next reconciler.
        let _ = tokio::time::timeout(SETTLE_WITHIN, self.be_heard()).await;
    }

    async fn be_heard(&mut self) {
        self.upgrade_is_over().await;
        if !self.waiting.is_empty() {
            self.connect_if_needed();
            self.be_connected().await;
        }
        if let Line::Up(client, _) = &mut self.line
            && std::mem::take(&mut self.asked)
        {
            client.list().await;
        }
        self.sockets_are_released().await;
        // One convergence may be all that we ever do.
        if self.upgrade.due().is_some_and(|at| at <= Instant::now()) {
            self.upgrade_is_due();
            self.upgrade_is_over().await;
        }
    }

    /// What happens meanwhile is nobody's news any more.
    async fn upgrade_is_over(&mut self) {
        while self.upgrade.is_asked()
            && let Line::Up(client, _) = &mut self.line
        {
            let due = self.upgrade.due();
            tokio::select! {
                heard = client.next() => match heard {
                    Heard::Event(event) => self.note(&event),
                    Heard::NotUpgraded { busy, detail } => self.not_upgraded(busy, &detail),
                    Heard::Socket(news) => self.hear_of_socket(news),
                },
                () = reached(due) => self.upgrade_is_due(),
            }
        }
    }

    /// The next thing that happened. [`Event::KeeperLost`] follows whatever got lost with a connection, and
    /// the end of a silence. Cancel safe.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            self.connect_if_needed();
            match &mut self.line {
                Line::Down => {
                    let told = self.sockets.told().await;
                    self.hear_of_thread(told);
                }
                Line::Connecting(_) => self.be_connected().await,
                Line::Up(client, _) => {
                    let (ping, upgrade) = (self.ping_at, self.upgrade.due());
                    tokio::select! {
                        biased;
                        heard = client.next() => match heard {
                            Heard::Event(event) => {
                                self.note(&event);
                                return event;
                            }
                            Heard::NotUpgraded { busy, detail } => self.not_upgraded(busy, &detail),
                            Heard::Socket(news) => self.hear_of_socket(news),
                        },
                        told = self.sockets.told() => self.hear_of_thread(told),
                        () = reached(ping) => {
                            client.ping();
                            self.ping_at = None;
                        }
                        () = reached(upgrade) => self.upgrade_is_due(),
                    }
                }
            }
        }
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Gone { nonce } | Event::SpawnFailed { nonce, .. } => {
                self.attached.remove(nonce);
            }
            Event::KeeperLost => self.lost(),
            Event::Changed(_)
            | Event::SocketHeld { .. }
            | Event::Connected { .. }
            | Event::SocketLost { .. }
            | Event::SocketNotHeld { .. }
            | Event::Spawned { .. }
            | Event::Exited { .. }
            | Event::Unkillable { .. }
            | Event::Probed { .. }
            | Event::JobDone { .. }
            | Event::Said { .. }
            | Event::HolderEnded { .. }
            | Event::LogTroubled { .. } => {}
        }
    }

    fn lost(&mut self) {
        self.attached.clear();
        self.lost_sockets();
        self.ping_at = None;
        let Line::Up(client, since) = std::mem::replace(&mut self.line, Line::Down) else { return };
        let was_asked_to_change = self.upgrade.lost(&client.info);
        if !was_asked_to_change || client.is_silent() {
            tracing::warn!("the keeper was lost; services live on, everything is observed anew");
            self.backoff.lost_after(since.elapsed());
        }
        if client.is_silent() {
            let error = KeeperError::Unresponsive { dir: self.layout.dir.clone() };
            tracing::error!("{error}");
            self.silence = Some(failure(&error));
        }
    }
}

/// Never, where there is no such time.
async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn failure(error: &KeeperError) -> SpawnFailure {
    SpawnFailure { stage: SpawnStage::Keeper, errno: 0, message: error.to_string() }
}

fn too_old(what: &str) -> SpawnFailure {
    let message = format!(
        "the keeper cannot {what}: it is an older version, which is upgraded once nothing is under way, or keeper.log \
         tells why"
    );
    SpawnFailure { stage: SpawnStage::Keeper, errno: 0, message }
}

/// A directory is to be made that is not there.
fn is_to_make(request: &SpawnRequest) -> bool {
    let cwd = request.make_cwd.then_some(&request.cwd);
    cwd.into_iter().chain(&request.make_work).any(|dir| !dir.is_dir())
}

/// What this keeper cannot do fails at once.
fn tell(client: &KeeperClient, asked: Asked, events: &mut VecDeque<Event>) {
    failpoint::reach("link.ask");
    match asked {
        Asked::Spawn(request) if (request.notify || request.notify_fd.is_some()) && !client.info.notify => {
            let SpawnRequest { service, nonce, .. } = request;
            let failure = too_old("hear what services say of themselves");
            events.push_back(Event::SpawnFailed { service, nonce, failure });
        }
        Asked::Spawn(request) if request.credentials.is_some() && !client.info.secrets => {
            let SpawnRequest { service, nonce, .. } = request;
            events.push_back(Event::SpawnFailed {
                service,
                nonce,
                failure: too_old("give secrets as files"),
            });
        }
        Asked::Spawn(request) if is_to_make(&request) && !client.info.secrets => {
            let SpawnRequest { service, nonce, .. } = request;
            let failure = too_old("make the directory that it runs in");
            events.push_back(Event::SpawnFailed { service, nonce, failure });
        }
        Asked::Spawn(request) => client.spawn(request),
        Asked::Signal(claim, signal, to) => client.signal(&claim, signal, to),
        Asked::Kill(claim) => client.kill(&claim),
        Asked::Attach(claim) => client.attach(&claim),
        Asked::Job(request) if request.is_alone() && !client.info.secrets => {
            let JobRequest { purpose, of, spawn, .. } = request;
            let outcome = JobOutcome::NotStarted(too_old("run the commands of secrets"));
            events.push_back(Event::JobDone { purpose, service: spawn.service, of, outcome });
        }
        Asked::Job(request) => client.run_job(request),
        Asked::Said(nonce) => client.ask_said(&nonce),
    }
}

#[cfg(test)]
mod tests;

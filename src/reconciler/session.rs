//! A reconciler on this machine: from the options of a command to a running loop.
//!
//! Finds roots, state directory and configuration, takes the lock, replays the ledger, and puts a
//! [`Reconciler`] over the machine's host. `preview` does the same without the lock and without a write.
//! Called by `commands` alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::Reconciler;
use super::command::{Answer, Command};
use super::inbox::{Inbox, Message, ShutdownKind};
use super::news::TARGET;
use super::options::Options;
use super::place::{Place, shown};
pub use super::place::{find_state, roots, state_dir};
use super::status::Status;
use crate::host::config_files::{self, Change, ConfigError, LoadedConfig};
use crate::host::keeper::GateError;
use crate::host::ledger_file::{How, LedgerError, LedgerFile, OpenReport, Recovered};
use crate::host::linux::{LinuxHost, Parts};
use crate::host::state_dir::{LockError, ReconcilerLock, Standing, StateDir, StateDirError};
use crate::host::{Host, clock, sys};
use crate::identity::InstanceId;
use crate::policy::OnExit;
use crate::state::Reason;
use crate::time::{Clock, Stamp};

/// A `--once` of somebody else is over soon; a watcher holds the lock for good.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_millis(300);

/// With nothing to do for this long, what the work before has needed is not needed soon.
const QUIET: Duration = Duration::from_secs(1);

/// Where it is never quiet, as with checks of a thousand services, it is given back all the same.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(60);

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error(transparent)]
    Boot(#[from] clock::NoBootId),
    #[error("{0}")]
    SecretKey(String),
    #[error("random numbers cannot be had")]
    Random(#[source] std::io::Error),
    #[error("the ledger of {dir} cannot be given up")]
    Disown {
        dir: PathBuf,
        #[source]
        source: crate::host::LedgerUnwritable,
    },
}

impl OpenError {
    /// Stable, kebab-case; of what an operator can mend.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::StateDir(error) => Some(error.code()),
            Self::Config(error) => Some(error.code()),
            Self::Lock(_)
            | Self::Ledger(_)
            | Self::Gate(_)
            | Self::Boot(_)
            | Self::SecretKey(_)
            | Self::Random(_)
            | Self::Disown { .. } => None,
        }
    }
}

/// The reconciler in charge of a state directory, for as long as this value lives.
#[derive(Debug)]
pub struct Session {
    options: Options,
    place: Place,
    reconciler: Reconciler<LinuxHost>,
    config_seen: config_files::Seen,
    /// When whose manifests these are was last judged.
    trust_judged: Stamp,
    /// Why changes are not noticed at once, as it was last told.
    polling: Option<String>,
    /// The configuration could not be read anew, and that was told.
    config_in_doubt: bool,
}

/// How a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// What may be stopped is stopped.
    Stopped,
    /// Every service was left as it is.
    Left,
}

impl Session {
    /// Takes the lock and remembers what the ledger does.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        clock::boot_id()?;
        let place = Place::of(options);
        let (loaded, without_policy) = place.config_if_usable(options)?;
        let policy = place.policy(&loaded, options);
        let state_dir = StateDir::open(&place.wanted(options))?;
        let layout = state_dir.layout().clone();
        let lock = ReconcilerLock::acquire(&layout, LOCK_PATIENCE)?;
        let mut random = clock::Random::open().map_err(OpenError::Random)?;
        let standing = match state_dir.standing()? {
            Standing::New => state_dir.settle(&lock, &mut random)?,
            known => known,
        };
        let known = known_instance(&standing, &mut random);
        let (mut ledger_file, mut ledger, report) = LedgerFile::open(&layout, &known, &lock)?;
        tell(&report);
        let (instance, foreign) = match standing {
            Standing::Foreign { .. } if options.new_instance => {
                ledger = ledger_file
                    .disown()
                    .map_err(|source| OpenError::Disown { dir: layout.dir.clone(), source })?;
                (state_dir.begin_anew(&lock, &mut random)?, None)
            }
            // Not before the ledger is good: it tells that the directory was restored.
            Standing::Ours { .. } => whose(state_dir.settle(&lock, &mut random)?, &mut random),
            standing => whose(standing, &mut random),
        };
        state_dir.record_roots(&place.roots, &lock)?;
        let config_seen = loaded.seen.clone();
        let settings = place.settings(layout, instance.clone(), loaded);
        let host = LinuxHost::new(Parts {
            state_dir,
            lock,
            ledger: ledger_file,
            instance,
            random,
            roots: place.paths(),
            watch: !options.once,
        })?;
        let mut reconciler = Reconciler::new(host, settings, policy, ledger);
        if let Some(why) = foreign {
            reconciler.disown_claims(why);
        }
        if let Some(why) = without_policy {
            reconciler.go_without_policy(why);
        }
        reconciler.desired.prune.allow = options.allow_prune && options.once;
        let trust_judged = clock::now();
        Ok(Self {
            options: options.clone(),
            place,
            reconciler,
            config_seen,
            trust_judged,
            polling: None,
            config_in_doubt: false,
        })
    }

    /// As the last pass left it.
    pub fn status(&self) -> Status {
        self.reconciler.status()
    }

    pub fn state_dir(&self) -> &Path {
        &self.reconciler.settings.layout.dir
    }

    pub fn instance(&self) -> &InstanceId {
        &self.reconciler.settings.instance
    }

    /// Carries a command out, making passes until it can be answered.
    pub async fn execute(&mut self, command: Command) -> Answer {
        self.reconciler.host().meet_keeper().await;
        let (sender, mut answer) = oneshot::channel();
        self.reconciler.take_command(command, sender);
        loop {
            if let Ok(answer) = answer.try_recv() {
                self.reconciler.host().settle().await;
                return answer;
            }
            self.reconciler.pass();
            if self.reconciler.is_waited_for() {
                let at_most = self.reconciler.time_to_wake();
                let events = self.reconciler.host().wait(Some(at_most)).await;
                self.reconciler.take_in(events);
            }
        }
    }

    /// Watches and reconciles until shut down.
    pub async fn watch(&mut self, mut inbox: Inbox) -> Watched {
        self.reconciler.settings.watching = true;
        self.reconciler.beside = self.config_seen.places().collect();
        self.reconciler.host().meet_keeper().await;
        self.reconciler.pass();
        self.tell_if_watched_otherwise();
        self.tell_if_empty();
        let mut watched = Watched::Stopped;
        let mut worked_since = Some(Instant::now());
        while !self.reconciler.is_shut_down() {
            let at_most = self.reconciler.time_to_wake();
            tokio::select! {
                Some(message) = inbox.recv() => match self.take_message(message) {
                    Then::Leave => {
                        watched = Watched::Left;
                        break;
                    }
                    // An answer that only tells costs no pass.
                    Then::Nothing => {
                        worked_since.get_or_insert_with(Instant::now);
                        continue;
                    }
                    Then::GoOn => {}
                },
                events = self.reconciler.host().wait(Some(at_most)) => self.reconciler.take_in(events),
                // Bringing a thousand services up takes twice the memory of keeping them, and a full pass or
                // a status a third of it.
                () = sleep_until(give_back_at(worked_since)), if worked_since.is_some() => {
                    sys::give_back_memory();
                    worked_since = None;
                    continue;
                }
            }
            worked_since.get_or_insert_with(Instant::now);
            self.reload_if_changed();
            self.judge_trust_if_due();
            self.reconciler.pass();
            self.tell_if_watched_otherwise();
        }
        self.reconciler.host().settle().await;
        // Whoever still waits is told by the end of the connection, and holds nothing.
        for one in std::mem::take(&mut self.reconciler.waiting) {
            self.reconciler.take_back(one.lease);
        }
        watched
    }

    /// Whoever begins has nothing to see.
    fn tell_if_empty(&mut self) {
        if self.reconciler.last_plan.phases.is_empty() && self.reconciler.manifests.files.is_empty() {
            tracing::info!(target: TARGET, "there is no service; `reconcile init` makes a first manifest");
        }
    }

    /// Watches may run out, and be had again, at any time.
    fn tell_if_watched_otherwise(&mut self) {
        let polling = self.reconciler.host().why_polling();
        match (&self.polling, &polling) {
            (Some(_), None) => tracing::info!("changes are noticed at once again"),
            (None, Some(why)) => tracing::warn!("changes are looked for every two seconds: {why}"),
            // Which directory it is changes with every look.
            (Some(_), Some(_)) | (None, None) => {}
        }
        self.polling = polling;
    }

    fn take_message(&mut self, message: Message) -> Then {
        match message {
            Message::Command { command: Command::Status, answer } => {
                self.reconciler.take_command(Command::Status, answer);
                return Then::Nothing;
            }
            Message::Command { command, answer } => self.reconciler.take_command(command, answer),
            Message::ReloadConfig => self.reload(),
            Message::Shutdown { kind: ShutdownKind::Leave } => return Then::Leave,
            Message::Shutdown { kind: ShutdownKind::Stop } => {
                if self.reconciler.settings.config.on_exit == Some(OnExit::Leave) {
                    return Then::Leave;
                }
                self.reconciler.desired.shutdown = true;
            }
            Message::Shutdown { kind: ShutdownKind::Kill } => {
                self.reconciler.desired.shutdown = true;
                self.reconciler.desired.kill = true;
            }
        }
        Then::GoOn
    }

    /// Whose manifests these are may change under a watcher: a directory that others may write by now.
    fn judge_trust_if_due(&mut self) {
        let now = self.reconciler.host().now();
        let between = self.reconciler.settings.config.resync();
        if now.left_of(&self.trust_judged, between, Clock::Awake).is_some() {
            return;
        }
        self.trust_judged = now;
        if let Some(policy) = self.reconciler.policy.judged_anew(self.place.trust()) {
            tracing::warn!("who may write manifests has changed, and with it what they may run");
            let config = self.reconciler.settings.config.clone();
            self.reconciler.take_configuration(config, policy);
        }
    }

    fn reload_if_changed(&mut self) {
        match self.config_seen.change() {
            Change::None => {}
            Change::Gone(path) => {
                keep_without(&path);
                self.config_in_doubt = true;
            }
            Change::Changed => match self.place.config(&self.options) {
                // It went away between our looking and our reading.
                Ok(loaded) if self.config_seen.lost_in(&loaded.seen).is_some() => {}
                loaded => self.take_in(loaded),
            },
        }
    }

    /// Reads the configuration again, as it is now.
    fn reload(&mut self) {
        let loaded = self.place.config(&self.options);
        self.take_in(loaded);
    }

    /// One that cannot be used leaves the one in force.
    fn take_in(&mut self, loaded: Result<LoadedConfig, ConfigError>) {
        match loaded {
            Ok(loaded) => {
                if std::mem::take(&mut self.config_in_doubt) {
                    tracing::warn!("the configuration can be used again, and is in force");
                } else {
                    tracing::info!("the configuration was read again");
                }
                let policy = self.place.policy(&loaded, &self.options);
                self.config_seen = loaded.seen.clone();
                self.reconciler.beside = self.config_seen.places().collect();
                self.reconciler.take_configuration(loaded.config, policy);
            }
            Err(error) => {
                tracing::error!(code = error.code(), "{}; the configuration in force stays", shown(&error));
                self.config_in_doubt = true;
                self.config_seen.look_again();
            }
        }
    }
}

fn give_back_at(worked_since: Option<Instant>) -> Instant {
    let once_quiet = Instant::now() + QUIET;
    worked_since.map_or(once_quiet, |since| once_quiet.min(since + GIVE_BACK_WITHIN))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    Nothing,
    Leave,
}

/// The instance whose marks are in what was started from here.
pub(super) fn known_instance(standing: &Standing, random: &mut clock::Random) -> InstanceId {
    match standing {
        Standing::Ours { instance, .. } | Standing::Foreign { instance: Some(instance) } => instance.clone(),
        Standing::New | Standing::Foreign { instance: None } => random.instance(),
    }
}

/// The instance to act as, and why nothing of its claims may be touched, if so.
pub(super) fn whose(standing: Standing, random: &mut clock::Random) -> (InstanceId, Option<Reason>) {
    match standing {
        Standing::Ours { instance, .. } => (instance, None),
        Standing::New => (random.instance(), None),
        Standing::Foreign { instance } => {
            let name = instance.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string);
            (random.instance(), Some(Reason::ForeignLedger { instance: name }))
        }
    }
}

fn keep_without(path: &Path) {
    tracing::warn!(
        file = %path.display(),
        "the configuration is not there any more; what it says stays in force until it is back, or SIGHUP"
    );
}

pub(super) fn tell(report: &OpenReport) {
    for damage in &report.damage {
        tracing::warn!("the ledger was damaged at byte {}: {}", damage.offset, damage.what);
    }
    if report.missing {
        tracing::warn!("the ledger is missing, and services were started from here before");
    }
    if report.restored {
        tracing::warn!("the state directory was put back from a copy: what was started since is looked for");
    }
    if report.missing || report.restored || !report.damage.is_empty() {
        tracing::warn!("what was asked for by hand, as a stop, may be lost with it");
    }
    for Recovered { service, how } in &report.recovered {
        match how {
            How::TakenUp { pid } => {
                tracing::warn!(%service, pid, "the ledger had lost its run; it is taken up again");
            }
            How::Ended => tracing::warn!(%service, "the ledger had lost its last run, which has ended"),
            How::Suspected { pids } => tracing::warn!(
                %service,
                ?pids,
                "the ledger has lost its run, and what looks like it cannot be proved: it is held"
            ),
            How::Unborn { pid } => tracing::warn!(
                %service,
                "pid {pid} hangs where it would become its new run, and has executed nothing: it is waited for; to start \
                 it anew, end that with `kill -9 {pid}`"
            ),
        }
    }
    if let Some(path) = &report.set_aside {
        tracing::warn!(kept = %path.display(), "the damaged ledger was set aside");
    }
    if !report.unknown.is_empty() {
        tracing::warn!("{} records of a newer version are kept and have no effect", report.unknown.len());
    }
    if let Some(unwritable) = &report.unwritable {
        tracing::error!(code = "ledger-unwritable", "{unwritable}: {}", unwritable.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_it_is_quiet_and_in_any_case_within_a_minute() {
        let now = Instant::now();
        assert!(give_back_at(Some(now)) >= now + QUIET);
        assert!(give_back_at(Some(now)) <= Instant::now() + QUIET);
        // As seen a minute from now, after one of noise.
        let noisy_since = now - GIVE_BACK_WITHIN;
        assert!(give_back_at(Some(noisy_since)) <= now);
    }
}

//! The loop: waits for something to happen, makes a pass, carries out its plan, publishes the status.
//!
//! Joins `host` and `plan`. It decides nothing: what to do is in `plan`, how it is done is in `host`. What it
//! holds is what a pass takes: what is desired (`desired`), what is observed (`events` keeps it current), and
//! the ledger in memory (`memory`). `session` makes a [`Reconciler`] of the machine's host for `commands`.
//!
//! ```text
//! host.wait ─► events ─► pass: plan() ─► act ─► host, memory
//!                 ▲                       │
//!                 └── desired ◄── files   └─► waiting: answers to commands
//! ```

mod accept;
mod act;
mod addresses;
pub mod command;
mod commanded;
mod compare;
mod demand;
mod dependencies;
mod desired;
mod events;
mod files;
pub mod inbox;
mod judge;
mod leases;
mod library;
mod limits;
mod memory;
pub mod news;
pub mod options;
mod ownership;
mod pass;
mod place;
mod ports;
pub mod preview;
mod publish;
mod requests;
mod retry;
mod roots;
pub mod secrets;
pub mod selection;
pub mod session;
mod sightings;
mod sockets;
mod start;
pub mod status;
mod templates;
pub mod validate;
mod waiting;
mod wants;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use crate::host::{Dirty, Host, StateLayout};
use crate::identity::{Digest, InstanceId, Nonce, ServiceId};
use crate::manifest::Problem;
use crate::plan::{self, Desired, Observed, Plan, PruneRules};
use crate::policy::{Config, Policy};
use crate::state::{Ledger, Reason};
use crate::time::Stamp;
use commanded::Commanded;
use demand::AttendedSockets;
use desired::{FileView, Manifests};
use leases::Holders;
use library::Library;
use memory::Memory;
use news::{Holds, Wrongs};
use ports::PortGates;
use retry::Retry;
use status::Drift;
use waiting::Waiting;

/// What is fixed for the life of a reconciler, until its configuration is read again.
#[derive(Debug, Clone)]
pub struct Settings {
    pub layout: StateLayout,
    pub instance: InstanceId,
    pub project_dir: PathBuf,
    pub home: Option<PathBuf>,
    pub config: Config,
    pub watching: bool,
}

/// The claims of a ledger that is a copy of another one.
#[derive(Debug, Clone)]
struct Foreign {
    nonces: BTreeSet<Nonce>,
    why: Reason,
}

/// One reconciler over one host.
#[derive(Debug)]
pub struct Reconciler<H> {
    host: H,
    settings: Settings,
    policy: Policy,
    memory: Memory,
    library: Library,
    manifests: Manifests,
    root_problems: Vec<FileView>,
    /// Files beside the manifests whose changes wake a watcher.
    beside: BTreeSet<PathBuf>,
    /// Roots that others manage too, as of the last full pass.
    shared_roots: Vec<FileView>,
    desired: Desired,
    observed: Observed,
    /// Versions of services that policy and host had nothing against at the last full look.
    judged_well: HashMap<ServiceId, Digest>,
    /// The policy's entries were looked up in this pass.
    entries_are_fresh: bool,
    /// Manifests to look at before the next pass.
    dirty: Option<Dirty>,
    /// When everything was last observed.
    last_resync: Option<Stamp>,
    /// Files have changed since the manifests were last looked at.
    files_changed: bool,
    /// A text that would be accepted could not be kept at the last look.
    text_is_refused: bool,
    /// When the disk is asked again.
    disk: Retry,
    /// What a new service would wait for is a problem of its manifest: for who asks whether it can be started.
    is_strict: bool,
    /// Somebody only waits for others to act: nothing is carried out.
    hands_off: bool,
    /// Runs that have become a file which is not allowed, while `on_exec_away = "stop"`; with what became of them.
    execed_away: BTreeMap<ServiceId, (Nonce, String)>,
    drift: BTreeMap<ServiceId, Vec<Drift>>,
    /// Runs that a copied ledger claims, and why nothing of theirs is touched.
    foreign: Option<Foreign>,
    /// The configuration cannot be used: what the policy is nobody knows. Nothing is accepted, executed or refused.
    without_policy: Option<Problem>,
    waiting: Vec<Waiting>,
    /// What a watcher has told.
    told_wrongs: Wrongs,
    told_holds: Holds,
    last_plan: Plan,
    last_pass: Option<(Stamp, usize)>,
    port_gates: PortGates,
    attended: AttendedSockets,
    holders: Holders,
    commanded: Commanded,
    /// The last pass did something: the next one follows at once and sees what came of it.
    acted: bool,
}

impl<H: Host> Reconciler<H> {
    /// Begins with what the ledger remembers; the first pass looks at everything.
    pub fn new(host: H, settings: Settings, policy: Policy, ledger: Ledger) -> Self {
        let prune = prune_rules(&settings.config);
        Self {
            host,
            settings,
            policy,
            memory: Memory::new(ledger),
            library: Library::default(),
            manifests: Manifests::default(),
            root_problems: Vec::new(),
            shared_roots: Vec::new(),
            beside: BTreeSet::new(),
            desired: Desired { prune, ..Desired::default() },
            observed: Observed::default(),
            judged_well: HashMap::new(),
            entries_are_fresh: false,
            dirty: Some(Dirty::Everything),
            last_resync: None,
            files_changed: true,
            text_is_refused: false,
            disk: Retry::default(),
            is_strict: false,
            hands_off: false,
            execed_away: BTreeMap::new(),
            drift: BTreeMap::new(),
            foreign: None,
            without_policy: None,
            waiting: Vec::new(),
            told_wrongs: Wrongs::default(),
            told_holds: Holds::default(),
            last_plan: Plan::default(),
            last_pass: None,
            port_gates: PortGates::default(),
            attended: AttendedSockets::default(),
            holders: Holders::default(),
            commanded: Commanded::default(),
            acted: false,
        }
    }

    /// From now on every run that the ledger claims is another instance's.
    pub fn disown_claims(&mut self, why: Reason) {
        let runs = self.memory.ledger().services.values().filter_map(|entry| entry.run.as_ref());
        let nonces = runs.map(|run| run.nonce.clone()).collect();
        self.foreign = Some(Foreign { nonces, why });
    }

    /// From now on the policy is not known, for this reason: what runs may be stopped, and that is all.
    pub fn go_without_policy(&mut self, why: Problem) {
        self.without_policy = Some(why);
    }

    pub fn host(&mut self) -> &mut H {
        &mut self.host
    }

    /// A shutdown was asked for, and nothing that may be stopped is left.
    pub fn is_shut_down(&self) -> bool {
        let is_elsewhere = |service: &ServiceId| {
            self.desired
                .services
                .get(service)
                .is_some_and(|want| matches!(want.presence, plan::Presence::OtherRoot { .. }))
        };
        let is_left = |(service, live): (&ServiceId, &plan::Service)| {
            live.entry.run.is_some()
                && !matches!(&live.seen, plan::Seen::Unverifiable(why) if !why.passes())
                && (self.desired.everywhere || !is_elsewhere(service))
        };
        self.desired.shutdown && self.waiting.is_empty() && !self.observed.services.iter().any(is_left)
    }

    /// Puts another configuration into force: everything is judged anew.
    pub fn take_configuration(&mut self, config: Config, policy: Policy) {
        self.desired.prune = PruneRules {
            allow: self.desired.prune.allow,
            named: std::mem::take(&mut self.desired.prune.named),
            ..prune_rules(&config)
        };
        self.settings.config = config;
        self.policy = policy;
        self.execed_away.clear();
        self.entries_are_fresh = false;
        self.last_resync = None;
    }

    /// Ends the reconciler and gives its host back, as it stands.
    pub fn into_host(self) -> H {
        self.host
    }
}

fn prune_rules(config: &Config) -> PruneRules {
    PruneRules {
        delay: config.prune.delay(),
        guard_min: config.prune.guard_min(),
        max_fraction: config.prune.max_fraction(),
        ..PruneRules::default()
    }
}

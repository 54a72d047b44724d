//! What a reconciler would see and do: for `status`, `plan` and `validate` without a watcher.
//!
//! Takes no lock, writes nothing, carries nothing out. People wait for it, so the manifests are read and parsed while
//! the ledger is. Called by `commands`.

use std::path::PathBuf;
use std::time::Duration;

use super::Reconciler;
use super::command::Refusal;
use super::library::Library;
use super::options::Options;
use super::place::Place;
use super::selection::Selector;
use super::session::{OpenError, known_instance, tell, whose};
use super::status::{PassReport, Status};
use crate::host::ledger_file::LedgerFile;
use crate::host::linux::Looking;
use crate::host::ports::Ports;
use crate::host::scan::Scanner;
use crate::host::state_dir::StateDir;
use crate::host::{Dirty, RootScan, StateLayout, clock, cores};
use crate::identity::InstanceId;
use crate::state::{Ledger, Reason};

/// What is seen without the lock and without a write, and what a pass would make of it.
#[derive(Debug)]
pub struct Observation(Reconciler<Looking>);

impl Observation {
    pub fn status(&self) -> Status {
        self.0.status()
    }

    /// Of these services and what they depend on, or of all.
    pub fn plan(&self, names: &[Selector]) -> Result<PassReport, Refusal> {
        self.0.plan_of(names)
    }
}

/// Looks, and plans what a pass would do.
pub fn observe(options: &Options) -> Result<Observation, OpenError> {
    let place = Place::of(options);
    let state_dir = StateDir::find(&place.wanted(options))?;
    let mut reconciler = preview(options, &place, state_dir.as_ref())?;
    reconciler.preview();
    Ok(Observation(reconciler))
}

/// Over nothing, or over what the ledger of a state directory remembers.
pub(super) fn preview(
    options: &Options,
    place: &Place,
    state_dir: Option<&StateDir>,
) -> Result<Reconciler<Looking>, OpenError> {
    clock::boot_id()?;
    let (loaded, without_policy) = place.config_if_usable(options)?;
    let policy = place.policy(&loaded, options);
    let (manifests, remembered) =
        cores::both(|| Manifests::read(place.paths(), policy.default_ttl()), || Remembered::read(state_dir));
    let Remembered { ledger, instance, foreign } = remembered?;
    let layout = match state_dir {
        Some(state_dir) => state_dir.layout().clone(),
        None => StateLayout { dir: StateDir::path(&place.wanted(options))? },
    };
    let own = state_dir.map(|found| found.layout().clone());
    let ports = Ports::new(&layout, instance.clone());
    let host = Looking::new(own, manifests.scanner, manifests.scans, ports);
    let settings = place.settings(layout, instance, loaded);
    let mut reconciler = Reconciler::new(host, settings, policy, ledger);
    reconciler.library = manifests.library;
    if let Some(why) = foreign {
        reconciler.disown_claims(why);
    }
    if let Some(why) = without_policy {
        reconciler.go_without_policy(why);
    }
    reconciler.desired.prune.allow = options.allow_prune;
    // A preview shows what a pass would do once the directory has been quiet.
    reconciler.desired.prune.delay = Duration::ZERO;
    Ok(reconciler)
}

/// The manifests as they are, each text parsed and checked.
struct Manifests {
    scanner: Scanner,
    scans: Vec<RootScan>,
    library: Library,
}

impl Manifests {
    fn read(roots: Vec<PathBuf>, default_ttl: Option<Duration>) -> Self {
        let mut scanner = Scanner::new(roots, false);
        let scans = scanner.scan(&Dirty::Everything);
        let mut library = Library::default();
        library.set_default_ttl(default_ttl);
        let listings = scans.iter().filter_map(|scan| scan.listing.as_ref().ok());
        for file in listings.flat_map(|listing| listing.files.values()) {
            if let Ok(text) = &file.content {
                library.read_text(text);
            }
        }
        Self { scanner, scans, library }
    }
}

/// What the ledger remembers, as whom we look at it, and why nothing of its claims is ours, if so.
struct Remembered {
    ledger: Ledger,
    instance: InstanceId,
    foreign: Option<Reason>,
}

impl Remembered {
    fn read(state_dir: Option<&StateDir>) -> Result<Self, OpenError> {
        let mut random = clock::Random::open().map_err(OpenError::Random)?;
        let Some(state_dir) = state_dir else {
            return Ok(Self { ledger: Ledger::default(), instance: random.instance(), foreign: None });
        };
        let standing = state_dir.standing()?;
        let known = known_instance(&standing, &mut random);
        let (ledger, report) = LedgerFile::read(state_dir.layout(), &known)?;
        tell(&report);
        let (instance, foreign) = whose(standing, &mut random);
        Ok(Self { ledger, instance, foreign })
    }
}

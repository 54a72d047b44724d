//! What acting and looking hosts do alike.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::host::cause::plain;
use crate::host::cores::Over;
use crate::host::descriptors::there_are;
use crate::host::files::Digests;
use crate::host::observe::ObserveError;
use crate::host::proc::{Here, Liveness};
use crate::host::resolve::Resolver;
use crate::host::users::Users;
use crate::host::{Claim, Found, Sighting};
use crate::identity::ProcessIdentity;
use crate::state::FileIdentity;

#[derive(Debug)]
pub(super) struct Looker {
    pub resolver: Resolver,
    pub users: Users,
    pub digests: Digests,
    pub environment: BTreeMap<String, String>,
    /// Boot and pid namespace stay what they are for as long as we live.
    here: Option<Here>,
}

impl Looker {
    pub fn new() -> Self {
        let text = |os: std::ffi::OsString| os.into_string().ok();
        let environment = std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
        Self {
            resolver: Resolver::default(),
            users: Users::default(),
            digests: Digests::default(),
            environment: environment.collect(),
            here: None,
        }
    }

    /// The file that each of these proved processes executes; `None` where it cannot be read.
    pub fn executables(&mut self, processes: &[ProcessIdentity], over: Over) -> Vec<Option<FileIdentity>> {
        match self.here() {
            Some(here) => over.map(processes, |process| executable(here, process)),
            None => vec![None; processes.len()],
        }
    }

    fn here(&mut self) -> Option<&Here> {
        if self.here.is_none() {
            self.here = Here::read().ok();
        }
        self.here.as_ref()
    }
}

fn executable(here: &Here, process: &ProcessIdentity) -> Option<FileIdentity> {
    let link = PathBuf::from(format!("/proc/{}/exe", process.pid));
    let path = std::fs::read_link(&link).ok()?;
    let file = std::fs::metadata(&link).ok()?;
    // The pid was ours before and after: what was read in between is its executable.
    matches!(here.liveness(process), Liveness::Alive).then(|| FileIdentity {
        path,
        dev: file.dev(),
        inode: file.ino(),
        ctime_ns: file.ctime().saturating_mul(1_000_000_000).saturating_add(file.ctime_nsec()),
    })
}

/// What is not known for want of descriptors is said to be so: it is no doubt about a process, and nobody has to do
/// anything about the service.
pub(super) fn observed(outcome: Result<Vec<Sighting>, ObserveError>, claims: &[Claim]) -> Vec<Sighting> {
    let mut sightings = of_each(outcome, claims);
    let is_unverifiable = |it: &&mut Sighting| matches!(it.found, Found::Unverifiable { .. });
    let mut unverifiable = sightings.iter_mut().filter(is_unverifiable).peekable();
    if unverifiable.peek().is_some()
        && let Err(error) = there_are(DESCRIPTORS)
    {
        unverifiable.for_each(|it| it.found = Found::OutOfDescriptors { detail: plain(&error) });
    }
    sightings
}

/// What a look at one process opens at a time.
const DESCRIPTORS: usize = 3;

/// An observation that failed as a whole proves nothing of any claim.
fn of_each(outcome: Result<Vec<Sighting>, ObserveError>, claims: &[Claim]) -> Vec<Sighting> {
    outcome.unwrap_or_else(|error| {
        let detail = error.to_string();
        let unverifiable = |claim: &Claim| Sighting {
            service: claim.service.clone(),
            nonce: claim.nonce.clone(),
            found: Found::Unverifiable { detail: detail.clone() },
        };
        claims.iter().map(unverifiable).collect()
    })
}

/// True for what is not there, or is something else; what may not be looked at may be one.
pub fn is_no_directory(path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(metadata) => !metadata.is_dir(),
        Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

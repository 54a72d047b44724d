//! The published status and the report of a pass: the shapes of `-o json`, version 1.
//!
//! Data alone, made by the reconciler after each pass; `commands` renders it, the control socket carries
//! it. A field once released keeps its name, type and unit; unknown values are null, never absent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use super::selection::Labels;
use crate::host::FileVersion;
use crate::identity::{Pid, ServiceId};
use crate::manifest::{Condition, Problem};
use crate::plan::{Action, Phase};

pub const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: u32,
    pub instance: Option<String>,
    /// A watcher is running.
    pub watching: bool,
    /// Why changes of files are noticed within two seconds and not at once; a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub polling: Option<String>,
    pub last_pass: Option<LastPass>,
    /// Ordered by project, then name.
    pub services: Vec<ServiceStatus>,
    /// Every manifest file of the roots, ordered by path.
    pub manifests: Vec<ManifestStatus>,
}

impl Status {
    /// Whom commands may be about, by the labels that they choose by.
    pub fn labels(&self) -> BTreeMap<ServiceId, &Labels> {
        let of = |service: &'_ ServiceStatus| ServiceId::parse(&service.name).ok();
        self.services.iter().filter_map(|service| Some((of(service)?, &service.labels))).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastPass {
    /// RFC 3339.
    pub at: String,
    pub age_ms: u64,
    pub steps: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The plain name in the project `default`, else `project/name`.
    pub name: String,
    pub project: String,
    pub phase: Phase,
    /// A stable code.
    pub reason: String,
    pub message: String,
    pub pid: Option<Pid>,
    /// RFC 3339.
    pub started_at: Option<String>,
    pub uptime_s: Option<u64>,
    pub restarts: u32,
    pub failures: u32,
    pub failures_max: Option<u32>,
    pub ports: BTreeMap<String, u16>,
    /// Addresses that are held for it, by name, as accepted.
    #[serde(default)]
    pub sockets: BTreeMap<String, String>,
    pub url: Option<String>,
    pub fingerprint: Option<String>,
    #[serde(serialize_with = "lossy_option")]
    pub manifest: Option<PathBuf>,
    /// RFC 3339.
    pub ttl_expires_at: Option<String>,
    pub health: Option<HealthStatus>,
    pub last_exit: Option<LastExit>,
    /// Of one core, averaged over the life of the process; filled in by whoever asks.
    pub cpu_percent: Option<f64>,
    /// Resident, of the leader; filled in by whoever asks.
    pub memory_bytes: Option<u64>,
    #[serde(serialize_with = "lossy")]
    pub log: PathBuf,
    /// `cgroup`, `holder`, or null while nothing runs.
    pub containment: Option<String>,
    pub drift: Vec<Drift>,
    /// As accepted, by name.
    #[serde(default)]
    pub depends_on: Vec<DependencyStatus>,
    /// Who has leased it, those alone whose lease holds.
    #[serde(default)]
    pub leases: Vec<LeaseStatus>,
    pub labels: Labels,
    pub attrs: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependencyStatus {
    /// As in [`ServiceStatus::name`].
    pub service: String,
    pub condition: Condition,
    pub restart: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// What it is released by: the owner, or `pid:PID:START`.
    pub id: String,
    /// For people.
    pub holder: String,
    /// Where the holder is a process.
    pub pid: Option<Pid>,
    /// RFC 3339.
    pub since: String,
    /// RFC 3339; null where it holds until the holder ends.
    pub expires_at: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthStatus {
    pub ready: bool,
    /// RFC 3339.
    pub last_probe_at: Option<String>,
    pub last_error: Option<String>,
    /// What it says of itself (`STATUS=`).
    #[serde(default)]
    pub status: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastExit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// RFC 3339.
    pub at: String,
}

/// A difference between what runs and what is declared or allowed that no step mends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// `exe-changed`, `exec-away`, …
    pub code: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestStatus {
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    pub ok: bool,
    pub problems: Vec<Problem>,
    /// Whether its lines may be shown to whoever reads the status.
    pub may_show_lines: bool,
    /// The very file that was judged: lines of what has taken its place since are not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileVersion>,
}

impl ManifestStatus {
    /// A file that is there, and that no scan of its directory brings up.
    pub fn not_loaded(path: &Path) -> Self {
        let problem = Problem::new("not-a-manifest", "it is not named like a manifest, and is not loaded")
            .help("a manifest is a file `*.toml` whose name begins with neither `.` nor `_`");
        Self::of_path(path, problem)
    }

    /// A path at which there is nothing, or nothing that we may look at.
    pub fn not_there(path: &Path, cause: &str) -> Self {
        Self::of_path(path, Problem::new("no-such-file", format!("it cannot be looked at: {cause}")))
    }

    fn of_path(path: &Path, problem: Problem) -> Self {
        Self { path: path.to_owned(), ok: false, problems: vec![problem], may_show_lines: false, file: None }
    }
}

/// What a pass would do, or what was done: `plan -o json`, `--once -o json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassReport {
    pub version: u32,
    /// Any step changes something.
    pub changes: bool,
    /// In the order they are, or were, carried out.
    pub steps: Vec<StepReport>,
    /// Of a convergence: everything asked for is up, done or deliberately down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub converged: Option<bool>,
    /// Services that are not well, with their phase; for the end of `--once`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unwell: Vec<ServiceStatus>,
    /// Services that are not as their newest manifest says, although no step is due.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<Apart>,
    /// Services beside those that were named, on which they depend.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<ManifestStatus>,
}

impl PassReport {
    /// Of what was asked for and needed no step.
    pub fn nothing_done() -> Self {
        Self {
            version: VERSION,
            changes: false,
            steps: Vec::new(),
            converged: Some(true),
            unwell: Vec::new(),
            apart: Vec::new(),
            also: Vec::new(),
            manifests: Vec::new(),
        }
    }
}

/// A service that is not as its newest manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apart {
    /// As in [`ServiceStatus::name`].
    pub service: String,
    /// Of one that is up: it runs as it was accepted before.
    pub phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// As in [`ServiceStatus::name`].
    pub service: String,
    pub action: Action,
    pub reason: String,
    pub message: String,
    /// Manifest fields that differ.
    pub fields: Vec<String>,
    /// The typed reason, and pid, start ticks and the like where they apply.
    pub evidence: serde_json::Value,
    /// Only of a plan: 1 for what a pass does, more for what follows once others have come up or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<u32>,
    /// Whom it waits for, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// `done`, `failed`, `pending`, …; only of a step that was carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// One file whose name is not UTF-8 must not make the status of all others unreadable.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

#[expect(clippy::ref_option, reason = "the signature is serde's")]
fn lossy_option<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}

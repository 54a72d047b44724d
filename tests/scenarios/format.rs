//! The form of a scenario file: everything has a default, so that a case says only what it is about.
//!
//! Times are spans since this boot (`"10m"`); `"-10m"` is ten minutes before it, in the boot before. A reason is
//! its code, or a table with the code and its fields.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use reconcile::manifest::ActivateOn;
use reconcile::state::{Reason, Release, Request, SpawnStage};
use serde::Deserialize;

#[path = "build.rs"]
mod build;

/// Values by name, and which key they are told apart by.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretsCase {
    #[serde(default)]
    key: u8,
    values: BTreeMap<String, String>,
}

/// Texts of files, by pattern and path.
type ContentsCase = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// What the file is about, for the reader.
    #[serde(rename = "about")]
    _about: String,
    pub case: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    #[serde(default = "ten_minutes")]
    now: Time,
    /// How long of the time since boot the machine was suspended.
    #[serde(default)]
    asleep: Option<Span>,
    #[serde(default)]
    shutdown: bool,
    #[serde(default)]
    kill: bool,
    #[serde(default)]
    everywhere: bool,
    /// The services that the command names.
    #[serde(default)]
    only: Option<BTreeSet<String>>,
    /// How long the root has been quiet.
    #[serde(default = "one_hour")]
    quiet: Span,
    /// Directories of the root that were lost, with how.
    #[serde(default)]
    lost: BTreeMap<PathBuf, String>,
    /// The lock of a git at work.
    #[serde(default)]
    checkout: Option<PathBuf>,
    /// Refused files of the root.
    #[serde(default)]
    unread: BTreeMap<PathBuf, UnreadCase>,
    #[serde(default)]
    allow_prune: bool,
    #[serde(default)]
    prune_named: Vec<String>,
    /// By owner.
    #[serde(default)]
    lease: BTreeMap<String, LeaseCase>,
    service: BTreeMap<String, ServiceCase>,
    /// The lines of the plan.
    pub plan: String,
}

/// One service: what is wanted, what is remembered, what is seen.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ServiceCase {
    // What is wanted. `fingerprint = ""`: there is no accepted spec.
    presence: PresenceCase,
    fingerprint: Option<String>,
    refused: Option<String>,
    problems: Vec<String>,
    gate: Option<ReasonCase>,
    /// By name, with their text; what is missing is left out.
    env_files: Option<BTreeMap<String, String>>,
    #[serde(default)]
    restart_files: Option<ContentsCase>,
    #[serde(default)]
    reload_files: Option<ContentsCase>,
    /// Patterns of both that cannot be looked at.
    unseen: Vec<String>,
    #[serde(default)]
    secrets: Option<SecretsCase>,
    retry: bool,
    /// Its executable was replaced on disk, and that is to be followed.
    replaced: bool,
    state: StateCase,
    /// By name: `ready`, `started` or `completed`, and `, restart` if its restarts are followed.
    depends_on: BTreeMap<String, String>,
    /// What it runs for, and how long it may be idle.
    on: Option<ActivateOn>,
    idle: Option<Span>,
    ephemeral: bool,
    stop_policy: Option<StopPolicyCase>,
    ttl: Option<Span>,
    start_settle: Option<Span>,
    grace: Option<Span>,
    health: Option<HealthSpecCase>,
    restart: RestartCase,
    // What the ledger remembers.
    file: Option<PathBuf>,
    run: Option<RunCase>,
    last: Option<LastCase>,
    spawn_failure: Option<SpawnFailureCase>,
    failures: u32,
    activation: Option<Time>,
    used: Option<Time>,
    released: Option<Release>,
    needed: bool,
    stopped: Option<Time>,
    request: Option<Request>,
    guard: Option<ReasonCase>,
    // What is seen; with a run, the default is alive.
    seen: Option<SeenCase>,
    flight: FlightCase,
    probes: ProbesCase,
    usage: UsageCase,
    /// True if this reconciler has not yet attached to the run.
    unattached: bool,
    /// True if the text of what runs is still there; only matters without an accepted spec.
    running_known: bool,
    changed: Vec<String>,
    live_changed: Vec<String>,
    parked_changed: bool,
}

/// What is known of a refused file: the names in it, or only when it was changed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum UnreadCase {
    Names(BTreeSet<String>),
    Changed(Time),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StopPolicyCase {
    OnRelease,
    Manual,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseCase {
    services: BTreeSet<String>,
    /// Until it is renewed; what has a pid holds until it ends.
    #[serde(default)]
    term: Option<(Time, Span)>,
    #[serde(default)]
    pid: Option<i32>,
    #[serde(default)]
    ended: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UsageCase {
    waiting: bool,
    open: bool,
    last: Option<Time>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PresenceCase {
    #[default]
    Present,
    Absent,
    OtherRoot,
    /// Of a root key that this run does not have.
    OtherRootKey,
    /// Only observed.
    Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StateCase {
    #[default]
    Running,
    Stopped,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HealthSpecCase {
    interval: Option<Span>,
    start_interval: Option<Span>,
    start_timeout: Option<Span>,
    retries: Option<u32>,
    /// Instead of restart.
    report: bool,
    /// A line of the log, instead of a probe.
    log: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RestartCase {
    policy: PolicyCase,
    success_codes: Option<Vec<i32>>,
    success_signals: Vec<i32>,
    backoff: Option<Span>,
    backoff_max: Option<Span>,
    max_failures: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PolicyCase {
    Always,
    #[default]
    OnFailure,
    Never,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunCase {
    /// Why it was started; `new` without it.
    why: Option<ReasonCase>,
    started: Time,
    #[serde(default = "one_nonce")]
    nonce: u64,
    /// Runs of dependencies, by their nonces.
    #[serde(default)]
    beside: BTreeMap<String, u64>,
    #[serde(default)]
    env_files: Option<BTreeMap<String, String>>,
    #[serde(default)]
    restart_files: Option<ContentsCase>,
    #[serde(default)]
    reload_files: Option<ContentsCase>,
    #[serde(default)]
    secrets: Option<SecretsCase>,
    #[serde(default)]
    fingerprint: Option<String>,
    #[serde(default)]
    ready: Option<Time>,
    #[serde(default)]
    stopping: Option<StoppingCase>,
    #[serde(default)]
    end: Option<EndCase>,
    #[serde(default)]
    ended: Option<Time>,
    /// The intent is still open.
    #[serde(default)]
    unborn: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoppingCase {
    why: ReasonCase,
    since: Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LastCase {
    started: Time,
    ended: Time,
    end: EndCase,
    #[serde(default)]
    env_files: Option<BTreeMap<String, String>>,
    #[serde(default)]
    restart_files: Option<ContentsCase>,
    #[serde(default)]
    reload_files: Option<ContentsCase>,
    #[serde(default)]
    secrets: Option<SecretsCase>,
    #[serde(default)]
    fingerprint: Option<String>,
    #[serde(default)]
    stopped_why: Option<ReasonCase>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpawnFailureCase {
    stage: SpawnStage,
    errno: i32,
    at: Time,
    #[serde(default = "one")]
    times: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SeenCase {
    None,
    Alive,
    Leftovers,
    Unverifiable(ReasonCase),
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FlightCase {
    #[default]
    None,
    Spawning,
    /// The spawn of another run than the one in the ledger.
    SpawningAnother,
    StopCommand(Time),
    Signalled(Time),
    Killed(Time),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ProbesCase {
    failures: u32,
    last_error: Option<String>,
    last: Option<Time>,
    ready_since: Option<Time>,
    in_flight: bool,
    /// Somebody else listens on a port of it.
    foreign: Option<ReasonCase>,
}

/// `code 1`, `signal 9`, `ours`, `ours code 0`, `unknown`, `other-boot`.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct EndCase(String);

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ReasonCase {
    Code(String),
    Full(Reason),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
struct Time(String);

#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
struct Span(String);

fn ten_minutes() -> Time {
    Time("10m".to_owned())
}

fn one_hour() -> Span {
    Span("1h".to_owned())
}

fn one() -> u32 {
    1
}

fn one_nonce() -> u64 {
    1
}

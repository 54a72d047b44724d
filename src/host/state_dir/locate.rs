//! Which directory holds the state of these manifests.
//!
//! `--state-dir`, `$RECONCILE_STATE_DIR`, `$STATE_DIRECTORY` where a service manager started us, else one below
//! `$XDG_STATE_HOME/reconcile` that is named after the project and its roots. A project that has moved finds the
//! directory of its old path by its root: `roots.json` says which directory was a root, and where.
//! Sources: XDG base directory specification; systemd.exec(5).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid, getppid};
use serde::{Deserialize, Serialize};

use super::StateDirError;
use super::node::Node;
use crate::host::durable;

pub(super) const ROOTS: &str = "roots.json";
const VERSION: u32 = 1;

/// Characters of a project directory's name that go into the name of its state directory.
const MAX_NAME_CHARS: usize = 64;

/// What a state directory is wanted for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// `--state-dir`.
    pub flag: Option<&'a Path>,
    pub environment: &'a Environment,
    /// The project directory; its last name is part of the default.
    pub project_dir: &'a Path,
    pub roots: &'a [RootPlace],
}

/// The part of the environment that decides where state is; unset and empty are the same.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `$RECONCILE_STATE_DIR`
    pub reconcile_state_dir: Option<PathBuf>,
    /// `$STATE_DIRECTORY`, its first entry, if the service manager gave it to us and not to whoever started us.
    pub state_directory: Option<PathBuf>,
    /// `$XDG_STATE_HOME`
    pub xdg_state_home: Option<PathBuf>,
    /// Our own home.
    pub home: Option<PathBuf>,
    pub working_directory: PathBuf,
}

impl Environment {
    pub fn of_process() -> Self {
        Self::of_variables(|name| std::env::var_os(name))
    }

    fn of_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let is_managed = service_manager_started_us(&variable);
        Self {
            reconcile_state_dir: path("RECONCILE_STATE_DIR"),
            state_directory: path("STATE_DIRECTORY").filter(|_| is_managed).map(first_of_list),
            xdg_state_home: path("XDG_STATE_HOME"),
            home: path("HOME").filter(|home| is_ours_or_missing(home)).or_else(passwd_home),
            working_directory: std::env::current_dir().unwrap_or_else(|_| "/".into()),
        }
    }
}

/// A manifest root, and which directory that is, if it is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootPlace {
    #[serde(with = "crate::state::paths")]
    path: PathBuf,
    node: Option<Node>,
}

impl RootPlace {
    /// By canonical path; a root that is missing, as when its disk is not mounted, keeps its name.
    pub fn look(path: &Path) -> Self {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self { path: canonical(&absolute), node: node_at(path) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if it is the same directory, by its name or as such: a recorded root, and one of now.
    pub(super) fn is_shared_with(&self, now: &RootPlace) -> bool {
        let is_same = |(then, there): (Node, Node)| then.is(&there);
        self.path == now.path || self.node.zip(now.node).is_some_and(is_same)
    }

    /// True if it is the same directory, and that one is not where it was recorded, or is just there.
    fn has_become(&self, now: &RootPlace) -> bool {
        let (Some(then), Some(there)) = (&self.node, &now.node) else { return false };
        then.is(there) && (self.path == now.path || !node_at(&self.path).is_some_and(|node| node.is(then)))
    }
}

/// Who chose the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Flag,
    Environment,
    ServiceManager,
    Default,
}

#[derive(Debug, PartialEq)]
pub(super) struct Place {
    pub path: PathBuf,
    pub source: Source,
}

/// Chooses the path; looks at directories, and writes nothing.
pub(super) fn locate(wanted: &Wanted<'_>) -> Result<Place, StateDirError> {
    let environment = wanted.environment;
    let absolute = |path: &Path| environment.working_directory.join(path);
    if let Some(path) = wanted.flag {
        return Ok(Place { path: absolute(path), source: Source::Flag });
    }
    if let Some(path) = &environment.reconcile_state_dir {
        return Ok(Place { path: absolute(path), source: Source::Environment });
    }
    if let Some(path) = &environment.state_directory {
        return Ok(Place { path: absolute(path), source: Source::ServiceManager });
    }
    let base = base(environment)?;
    let by_name = base.join(default_name(wanted.project_dir, wanted.roots));
    let path = if matches(&by_name, wanted.roots) > 0 {
        by_name
    } else {
        moved(&base, wanted.roots).unwrap_or(by_name)
    };
    Ok(Place { path, source: Source::Default })
}

/// A relative `$XDG_STATE_HOME` is invalid by its specification, and passed over.
fn base(environment: &Environment) -> Result<PathBuf, StateDirError> {
    let xdg = environment.xdg_state_home.clone().filter(|path| path.is_absolute());
    let home = || environment.home.clone().map(|home| home.join(".local/state"));
    xdg.or_else(home).map(|state| state.join("reconcile")).ok_or(StateDirError::NoHome)
}

/// `<project directory's name>-<12 hex digits over the sorted roots>`.
fn default_name(project_dir: &Path, roots: &[RootPlace]) -> String {
    let mut paths: Vec<&[u8]> = roots.iter().map(|root| root.path.as_os_str().as_bytes()).collect();
    paths.sort_unstable();
    paths.dedup();
    let hash = blake3::hash(&paths.join(&0)).to_hex();
    let name = project_dir.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let name: String = name.chars().map(plain).take(MAX_NAME_CHARS).collect();
    let name = name.trim_start_matches('.');
    format!("{}-{}", if name.is_empty() { "root" } else { name }, &hash[..12])
}

/// The directory below `base` that most of the roots were recorded in, before they moved.
fn moved(base: &Path, roots: &[RootPlace]) -> Option<PathBuf> {
    let listing = fs::read_dir(base).ok()?;
    let mut known: Vec<PathBuf> = listing.filter_map(|entry| Some(entry.ok()?.path())).collect();
    known.sort();
    let counted = known.into_iter().map(|path| (matches(&path, roots), path));
    counted.filter(|(count, _)| *count > 0).rev().max_by_key(|(count, _)| *count).map(|(_, path)| path)
}

/// How many of the roots a state directory is of.
fn matches(state_dir: &Path, roots: &[RootPlace]) -> usize {
    let recorded = read_roots(state_dir);
    roots.iter().filter(|root| recorded.iter().any(|recorded| recorded.has_become(root))).count()
}

#[derive(Serialize, Deserialize)]
struct Roots {
    version: u32,
    roots: Vec<RootPlace>,
}

/// Of a directory that is not there, or whose file cannot be read, none is known.
fn read_roots(state_dir: &Path) -> Vec<RootPlace> {
    roots_of(&fs::read(state_dir.join(ROOTS)).unwrap_or_default())
}

/// The roots that the text of such a file names.
pub(super) fn roots_of(text: &[u8]) -> Vec<RootPlace> {
    serde_json::from_slice::<Roots>(text).map(|file| file.roots).unwrap_or_default()
}

/// A root that is missing today stays what it was; one that moved has one place.
pub(super) fn record_roots(state_dir: &Path, roots: &[RootPlace]) -> io::Result<()> {
    let before = read_roots(state_dir);
    let mut places: BTreeMap<PathBuf, Option<Node>> = BTreeMap::new();
    for old in before.iter().filter(|old| !roots.iter().any(|root| old.has_become(root))) {
        places.insert(old.path.clone(), old.node);
    }
    for root in roots {
        let known = places.get(&root.path).copied().flatten();
        places.insert(root.path.clone(), root.node.or(known));
    }
    let roots: Vec<_> = places.into_iter().map(|(path, node)| RootPlace { path, node }).collect();
    if roots == before {
        return Ok(());
    }
    let text = serde_json::to_string(&Roots { version: VERSION, roots })?;
    durable::replace(&state_dir.join(ROOTS), text.as_bytes()).map(drop)
}

fn node_at(path: &Path) -> Option<Node> {
    fs::metadata(path).ok().map(|found| Node::of(&found))
}

/// Links resolved as far as the path exists.
fn canonical(path: &Path) -> PathBuf {
    if let Ok(canonical) = path.canonicalize() {
        return canonical;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => canonical(parent).join(name),
        _ => path.to_owned(),
    }
}

/// A terminal inside a service inherits that service's directory, and must not write there. What the manager
/// started itself has its pid in `$SYSTEMD_EXEC_PID` (systemd 248), or is the child of a shell that has.
fn service_manager_started_us(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let is_below_manager = variable("INVOCATION_ID").is_some();
    let is_started = |started: OsString| {
        let us = [std::process::id().to_string(), getppid().to_string()];
        us.iter().any(|pid| started == pid.as_str())
    };
    is_below_manager && variable("SYSTEMD_EXEC_PID").is_none_or(is_started)
}

/// systemd.exec(5): several directories are separated by colons.
fn first_of_list(paths: PathBuf) -> PathBuf {
    std::env::split_paths(&paths).next().unwrap_or(paths)
}

/// `sudo` may leave the caller's home, where we would make files that he cannot remove.
fn is_ours_or_missing(home: &Path) -> bool {
    fs::metadata(home).map_or(true, |found| found.uid() == geteuid().as_raw())
}

/// Of our user, for cron jobs and services without $HOME.
fn passwd_home() -> Option<PathBuf> {
    User::from_uid(geteuid()).ok().flatten().map(|user| user.dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::of_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn an_empty_variable_is_an_unset_one() {
        let found = environment(&[("RECONCILE_STATE_DIR", ""), ("XDG_STATE_HOME", "")]);
        assert_eq!((found.reconcile_state_dir, found.xdg_state_home), (None, None));
    }

    #[test]
    fn a_missing_home_and_that_of_somebody_else_give_way_to_our_own() {
        let ours = passwd_home();
        assert!(ours.is_some(), "whoever runs this has a home in the passwd database");
        assert_eq!(environment(&[]).home, ours);
        assert_eq!(environment(&[("HOME", "/nowhere/at-all")]).home, Some("/nowhere/at-all".into()));
        let strangers = tempfile::tempdir().unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(strangers.path(), Some(65_534), None).unwrap();
            assert_eq!(environment(&[("HOME", strangers.path().to_str().unwrap())]).home, ours);
        }
    }

    #[test]
    fn a_service_manager_s_directory_is_taken_only_if_it_was_given_to_us() {
        let ours = std::process::id().to_string();
        let given = ("STATE_DIRECTORY", "/var/lib/shop:/var/lib/other");
        let managed = ("INVOCATION_ID", "6f0a");
        let taken = Some(PathBuf::from("/var/lib/shop"));
        assert_eq!(environment(&[given]).state_directory, None, "left over in some shell");
        assert_eq!(environment(&[given, managed]).state_directory, taken);
        assert_eq!(environment(&[given, managed, ("SYSTEMD_EXEC_PID", &ours)]).state_directory, taken);
        assert_eq!(environment(&[given, managed, ("SYSTEMD_EXEC_PID", "1")]).state_directory, None);
    }
}

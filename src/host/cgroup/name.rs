//! The names of cgroups of runs: `…/reconcile/<instance>/<project>.<name>.<nonce>`.
//!
//! Reads text, and touches nothing. Called by `ground`, and by `candidates`, which looks for members of lost runs.

use std::path::Path;

use crate::identity::{InstanceId, Nonce, ServiceId};

/// The directory that those of all instances are in.
pub const ROOT: &str = "reconcile";

/// Whose cgroup one is.
pub type Run = (InstanceId, ServiceId, Nonce);

/// The cgroup of a run that this path is in, the innermost one, and which run that is.
pub fn innermost_run(path: &Path) -> Option<(&Path, Run)> {
    path.ancestors().find_map(|dir| Some((dir, run(dir)?)))
}

/// Below the directory of an instance is a cgroup of this name, and it is in that.
pub fn is_below_instance(path: &Path, is_name: impl Fn(&str) -> bool) -> bool {
    path.ancestors().any(|dir| {
        let mut names = dir.components().rev().map(|component| component.as_os_str().to_str());
        let (Some(Some(name)), Some(Some(instance)), Some(Some(root))) =
            (names.next(), names.next(), names.next())
        else {
            return false;
        };
        root == ROOT && InstanceId::parse(instance).is_some() && is_name(name)
    })
}

fn run(dir: &Path) -> Option<Run> {
    let mut names = dir.components().rev().map(|component| component.as_os_str().to_str());
    let (run, instance, root) = (names.next()??, names.next()??, names.next()??);
    let (stem, nonce) = run.rsplit_once('.')?;
    let run = (InstanceId::parse(instance)?, ServiceId::from_file_stem(stem)?, Nonce::parse(nonce)?);
    (root == ROOT).then_some(run)
}

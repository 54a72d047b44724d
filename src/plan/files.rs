//! Files that matter to a service: whether one is another than at the start, and what the ledger is to remember of them.
//!
//! Pure: compares digests that the reconciler has gathered. A file that is missing, or cannot be read, is no change:
//! nothing that runs is stopped for it, and its start waits behind a gate where it needs the file.

use std::collections::BTreeMap;
use std::time::Duration;

use super::case::Case;
use super::input::Want;
use super::restart::backoff;
use crate::identity::{Digest, Nonce};
use crate::state::{Contents, FileMarks, Reason, Record, Run};
use crate::time::Clock;

/// The first file that says something else than at the start of which `then` is known.
pub(super) fn changed(then: Option<&FileMarks>, want: &Want) -> Option<Reason> {
    let (then, now) = (then?, want.files.as_deref()?);
    let is_other = |(path, digest): &(&String, &_)| match then.env.get(*path) {
        Some(before) => before != *digest,
        // It was not there, and gave nothing.
        None => **digest != FileMarks::of_variables(&BTreeMap::new()),
    };
    let other = now.env.iter().find(is_other).map(|(path, _)| path);
    if let Some(path) = other.or_else(|| other_content(&then.restart, &now.restart)) {
        return Some(Reason::FileChanged { path: path.clone() });
    }
    // Digests by two keys cannot be compared: a key that was lost restarts nothing.
    let mut secrets = now.secrets.iter().filter(|_| then.key == now.key);
    let is_other = |(name, digest): &(&String, &Digest)| match then.secrets.get(*name) {
        Some(before) => before != *digest,
        // What a command wrote is known from the start that it was given to, and nothing of it after a loss.
        None => !is_by_command(want, name),
    };
    let (name, _) = secrets.find(is_other)?;
    Some(Reason::SecretChanged { name: name.clone() })
}

fn is_by_command(want: &Want, name: &str) -> bool {
    let spec = want.accepted.as_ref().map(|accepted| &accepted.spec);
    spec.is_some_and(|spec| spec.secret_commands().any(|(other, _)| other == name))
}

/// The first file of `reload.on` that says something else than what the run was last told to take up.
pub(super) fn to_be_taken_up(case: &Case<'_>, run: &Run) -> Option<Reason> {
    let (then, now) = (run.files.as_deref()?, case.want.files.as_deref()?);
    let path = other_content(&then.reload, &now.reload)?;
    Some(Reason::FileChanged { path: path.clone() })
}

/// When a service may be told to take up files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    In(Duration),
    /// It is being told, or has failed to so often that only other content is another chance.
    No,
}

pub(super) fn turn_of_reload(case: &Case<'_>) -> Turn {
    let tried = &case.service.reload;
    let Some(accepted) = case.want.accepted.as_ref().filter(|_| !tried.in_flight) else { return Turn::No };
    let restart = &accepted.spec.restart;
    let is_other = case.want.files.as_ref().is_some_and(|now| now.reload != tried.tried);
    match &tried.failed_at {
        None => Turn::Now,
        Some(_) if is_other => Turn::Now,
        Some(_) if tried.failures >= restart.max_failures => Turn::No,
        Some(at) => {
            let wait = backoff(restart, tried.failures, case.id.key());
            case.now.left_of(at, wait, Clock::Awake).map_or(Turn::Now, Turn::In)
        }
    }
}

/// Of a pattern that is new nothing is known to be another.
fn other_content<'n>(then: &Contents, now: &'n Contents) -> Option<&'n String> {
    let known = now.iter().filter_map(|(pattern, now)| Some((then.get(pattern)?, now)));
    let other = |(then, now): (&BTreeMap<String, Digest>, &'n BTreeMap<String, Digest>)| {
        now.iter().find(|(path, digest)| then.get(*path) != Some(*digest)).map(|(path, _)| path)
    };
    known.filter_map(other).next()
}

/// What is to be remembered of a run, ended or not, where the ledger does not have it: its intent is lost or was written
/// by an older version, or other files are named by now.
pub(super) fn unrecorded(case: &Case<'_>, nonce: &Nonce, then: Option<&FileMarks>) -> Option<Record> {
    let spec = &case.want.accepted.as_ref()?.spec;
    let files = match (then, case.want.files.as_deref()) {
        (None, None) => return None,
        // What nobody names does not count when it is named again.
        (Some(then), None) if !spec.names_files() && *then != FileMarks::default() => FileMarks::default(),
        (Some(_), None) => return None,
        (None, Some(_)) if case.want.gate.is_some() => return None,
        (None, Some(now)) => now.clone(),
        // Its next start records them all.
        (Some(_), Some(_)) if changed(then, case.want).is_some() => return None,
        (Some(then), Some(now)) => {
            let files = FileMarks {
                env: then.env.clone(),
                restart: carried(&then.restart, &now.restart, &spec.restart_on),
                reload: carried(&then.reload, &now.reload, &spec.reload.on),
                secrets: secrets_known(then, now),
                key: now.key.clone().or_else(|| then.key.clone()),
            };
            if files == *then {
                return None;
            }
            files
        }
    };
    Some(Record::Files { service: case.id.clone(), nonce: nonce.clone(), files })
}

/// Without a key now nothing is known of secrets now, and by another key nothing of those before.
fn secrets_known(then: &FileMarks, now: &FileMarks) -> BTreeMap<String, Digest> {
    let then = (now.key.is_none() || then.key == now.key).then_some(&then.secrets);
    let known = now.secrets.iter().chain(then.into_iter().flatten());
    known.map(|(name, digest)| (name.clone(), digest.clone())).collect()
}

/// What is known goes on to be, of what is still named; the rest is taken as it is. Of a pattern that cannot be looked
/// at nothing is known now.
fn carried(then: &Contents, now: &Contents, named: &[String]) -> Contents {
    let known = |pattern: &String| then.get(pattern).or_else(|| now.get(pattern)).cloned();
    named.iter().filter_map(|pattern| Some((pattern.clone(), known(pattern)?))).collect()
}

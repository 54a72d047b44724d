//! Files that matter to a service: whether one is another than at the start, and what the ledger is to remember of them.
//!
//! Pure: compares digests that the reconciler has gathered. A file that is missing, or cannot be read, is no change:
//! nothing that runs is stopped for it, and its start waits behind a gate where it needs the file.

use std::collections::BTreeMap;

use super::case::Case;
use super::input::Want;
use crate::identity::Digest;
use crate::state::{Contents, FileMarks, Reason, Record, Run};

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
    let (name, _) = secrets.find(|(name, digest)| then.secrets.get(*name) != Some(*digest))?;
    Some(Reason::SecretChanged { name: name.clone() })
}

/// The first file of `reload.on` that says something else than what the run was last told to take up.
pub(super) fn to_be_taken_up(case: &Case<'_>, run: &Run) -> Option<Reason> {
    let (then, now) = (run.files.as_deref()?, case.want.files.as_deref()?);
    let path = other_content(&then.reload, &now.reload)?;
    Some(Reason::FileChanged { path: path.clone() })
}

/// Of a pattern that is new nothing is known to be another.
fn other_content<'n>(then: &Contents, now: &'n Contents) -> Option<&'n String> {
    let known = now.iter().filter_map(|(pattern, now)| Some((then.get(pattern)?, now)));
    let other = |(then, now): (&BTreeMap<String, Digest>, &'n BTreeMap<String, Digest>)| {
        now.iter().find(|(path, digest)| then.get(*path) != Some(*digest)).map(|(path, _)| path)
    };
    known.filter_map(other).next()
}

/// What a run goes on with, where the ledger does not have it: its intent is lost or was written by an older version, or
/// other files are named by now.
pub(super) fn unrecorded(case: &Case<'_>, run: &Run) -> Option<Record> {
    let now = case.want.files.as_deref()?;
    let files = match run.files.as_deref() {
        None if case.want.gate.is_some() => return None,
        None => now.clone(),
        Some(then)
            if same_patterns(&then.restart, &now.restart)
                && same_patterns(&then.reload, &now.reload)
                && same_key(then, now) =>
        {
            return None;
        }
        Some(then) => FileMarks {
            env: then.env.clone(),
            restart: carried(&then.restart, &now.restart),
            reload: carried(&then.reload, &now.reload),
            secrets: if same_key(then, now) { then.secrets.clone() } else { now.secrets.clone() },
            key: now.key.clone().or_else(|| then.key.clone()),
        },
    };
    Some(Record::Files { service: case.id.clone(), nonce: run.nonce.clone(), files })
}

fn same_patterns(then: &Contents, now: &Contents) -> bool {
    then.keys().eq(now.keys())
}

/// Without a key now nothing is known of secrets now.
fn same_key(then: &FileMarks, now: &FileMarks) -> bool {
    now.key.is_none() || then.key == now.key
}

/// What is known goes on to be, of what is still named; the rest is taken as it is.
fn carried(then: &Contents, now: &Contents) -> Contents {
    now.iter().map(|(pattern, now)| (pattern.clone(), then.get(pattern).unwrap_or(now).clone())).collect()
}

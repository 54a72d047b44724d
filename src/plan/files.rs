//! Files that matter to a service: whether one is another than at the start, and what the ledger is to remember of them.
//!
//! Pure: compares digests that the reconciler has gathered. A file that is missing, or cannot be read, is no change:
//! nothing that runs is stopped for it, and its start waits behind a gate where it needs the file.

use std::collections::BTreeMap;

use super::case::Case;
use super::input::Want;
use crate::state::{FileMarks, Reason, Record, Run};

/// The first file that gives other variables than at the start of which `then` is known.
pub(super) fn changed(then: Option<&FileMarks>, want: &Want) -> Option<Reason> {
    let (then, now) = (then?, want.files.as_deref()?);
    let is_other = |(path, digest): &(&String, &_)| match then.env.get(*path) {
        Some(before) => before != *digest,
        // It was not there, and gave nothing.
        None => **digest != FileMarks::of_variables(&BTreeMap::new()),
    };
    let (path, _) = now.env.iter().find(is_other)?;
    Some(Reason::FileChanged { path: path.clone() })
}

/// What a run goes on with, where the ledger does not have it: its intent is lost, or was written by an older version.
pub(super) fn unrecorded(case: &Case<'_>, run: &Run) -> Option<Record> {
    let files = case.want.files.as_deref().filter(|_| run.files.is_none() && case.want.gate.is_none())?;
    let (service, nonce) = (case.id.clone(), run.nonce.clone());
    Some(Record::Files { service, nonce, files: files.clone() })
}

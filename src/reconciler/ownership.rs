//! Which version of which file is in force, and which file owns a service that two declare.
//!
//! Pure. A file is a unit: with one problem in it, its last accepted version stays in force as a whole. Of
//! two files that declare one service, the one that owned it stays; without an owner both are rejected. The
//! order of the files does not matter.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::library::Loaded;
use crate::identity::ServiceId;
use crate::manifest::Problem;
use crate::plan::Accepted;
use crate::state::FileKey;

/// One file that a scan found.
#[derive(Debug)]
pub struct FileStanding {
    pub key: FileKey,
    /// The present text, if it could be read.
    pub candidate: Option<Arc<Loaded>>,
    /// What is wrong with the file, its text, or the text under the policy.
    pub problems: Vec<Problem>,
    /// The last accepted version, where it is another text than the candidate.
    pub last: Option<Arc<Loaded>>,
}

/// The version of a file that counts.
#[derive(Debug, Clone)]
pub enum InForce {
    /// The present text.
    Candidate(Arc<Loaded>),
    /// The last accepted text, because the present one has problems.
    Last(Arc<Loaded>),
    Nothing,
}

impl InForce {
    pub fn services(&self) -> &[Arc<Accepted>] {
        match self {
            Self::Candidate(loaded) | Self::Last(loaded) => &loaded.services,
            Self::Nothing => &[],
        }
    }
}

/// Settles each file, in the order given; adds `duplicate-service` to the problems of those that lose.
pub fn settle<'a>(
    files: &mut [FileStanding],
    owner_of: impl Fn(&ServiceId) -> Option<&'a FileKey>,
) -> Vec<InForce> {
    let mut in_force: Vec<InForce> = files.iter().map(first_choice).collect();
    let declared = declarers(files, &in_force);
    for (service, keys) in declared.iter().filter(|(_, keys)| keys.len() > 1) {
        let owner = owner_of(service).filter(|owner| keys.contains(owner));
        for (file, choice) in files.iter_mut().zip(&mut in_force) {
            if Some(&file.key) == owner || !keys.contains(&file.key) {
                continue;
            }
            let other =
                owner.or_else(|| keys.iter().find(|key| **key != file.key)).expect("two files declare it");
            file.problems.push(duplicate(service, other));
            *choice = fall_back(file, &declared, &owner_of);
        }
    }
    in_force
}

fn first_choice(file: &FileStanding) -> InForce {
    match (&file.candidate, &file.last) {
        (Some(candidate), _) if !file.problems.iter().any(Problem::blocks) => {
            InForce::Candidate(Arc::clone(candidate))
        }
        (_, Some(last)) => InForce::Last(Arc::clone(last)),
        _ => InForce::Nothing,
    }
}

fn declarers(files: &[FileStanding], in_force: &[InForce]) -> BTreeMap<ServiceId, Vec<FileKey>> {
    let mut declared: BTreeMap<ServiceId, Vec<FileKey>> = BTreeMap::new();
    for (file, choice) in files.iter().zip(in_force) {
        for accepted in choice.services() {
            declared.entry(accepted.spec.id.clone()).or_default().push(file.key.clone());
        }
    }
    declared
}

/// The last accepted version of a loser, if it takes nothing that another file declares.
fn fall_back<'a>(
    file: &FileStanding,
    declared: &BTreeMap<ServiceId, Vec<FileKey>>,
    owner_of: &impl Fn(&ServiceId) -> Option<&'a FileKey>,
) -> InForce {
    let Some(last) = &file.last else { return InForce::Nothing };
    let is_free = |service: &ServiceId| {
        owner_of(service) == Some(&file.key)
            || declared.get(service).is_none_or(|keys| keys.iter().all(|key| *key == file.key))
    };
    let last = InForce::Last(Arc::clone(last));
    if last.services().iter().all(|accepted| is_free(&accepted.spec.id)) { last } else { InForce::Nothing }
}

fn duplicate(service: &ServiceId, other: &FileKey) -> Problem {
    Problem::new(
        "duplicate-service",
        format!("service {service} is already declared in {}", other.path.display()),
    )
    .of(service.name())
    .help("give one of them another name or project, or delete one")
}

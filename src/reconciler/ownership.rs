//! Which version of which file is in force, and which file owns a service that two declare.
//!
//! Pure. A file is a unit: with one problem in it, its last accepted version stays in force, but for services
//! that another file owns by now. Of two files that declare one service, the one that owned it stays; without an owner both are rejected. The
//! order of the files does not matter.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::addresses::proxy_circles;
use super::dependencies::circles;
use super::library::Loaded;
use crate::host::FileScan;
use crate::identity::ServiceId;
use crate::manifest::{Addresses, Problem, Spec};
use crate::plan::Accepted;
use crate::state::FileKey;

/// One file that a scan found.
#[derive(Debug)]
pub struct FileStanding {
    pub key: FileKey,
    /// As it was found.
    pub scan: Arc<FileScan>,
    /// Of the directory it is in; 0 if unknown.
    pub directory_inode: u64,
    /// The present text with the templates of other files that it uses; `None` where it uses none.
    pub whole_text: Option<Arc<str>>,
    /// The present text, whole, if it could be read.
    pub candidate: Option<Arc<Loaded>>,
    /// What is wrong with the file, its text, or the text under the policy.
    pub problems: Vec<Problem>,
    /// The last accepted version; the same text as the candidate where nothing has changed.
    pub last: Option<Arc<Loaded>>,
}

impl FileStanding {
    /// Its present text is not the one that was accepted last.
    pub fn is_new(&self) -> bool {
        let digest = |loaded: &Option<Arc<Loaded>>| loaded.as_ref().map(|loaded| loaded.digest.clone());
        digest(&self.candidate) != digest(&self.last)
    }

    pub fn is_refused(&self) -> bool {
        self.problems.iter().any(Problem::blocks)
    }

    /// Why a service of it is not accepted: what is wrong with itself, then with the file as a whole; where that is
    /// nothing, whose problem the file is refused for.
    pub fn problems_of(&self, service: &ServiceId) -> Vec<Problem> {
        let blocking = || self.problems.iter().filter(|problem| problem.blocks());
        let is_about = |problem: &&Problem, name| problem.service.as_deref() == name;
        let its_own = blocking().filter(|problem| is_about(problem, Some(service.name())));
        let of_the_file = blocking().filter(|problem| is_about(problem, None));
        let problems: Vec<Problem> = its_own.chain(of_the_file).cloned().collect();
        if !problems.is_empty() {
            return problems;
        }
        blocking().next().map(of_a_neighbour).into_iter().collect()
    }
}

fn of_a_neighbour(problem: &Problem) -> Problem {
    let neighbour = problem.service.as_deref().unwrap_or_default();
    let message =
        format!("it has no problem of its own; its file is refused for {neighbour}: {}", problem.message);
    Problem { message, ..problem.clone() }
}

/// The version of a file that counts.
#[derive(Debug, Clone)]
pub enum InForce {
    /// The present text.
    Candidate(Arc<Loaded>),
    /// Of the last accepted text what nobody else owns by now, because the present one has problems.
    Last(Vec<Arc<Accepted>>),
    Nothing,
}

impl InForce {
    pub fn services(&self) -> &[Arc<Accepted>] {
        match self {
            Self::Candidate(loaded) => &loaded.services,
            Self::Last(services) => services,
            Self::Nothing => &[],
        }
    }
}

/// Settles each file; adds `duplicate-service`, `dependency-cycle` and `proxy-cycle` to the problems of those that lose.
///
/// A file that loses falls back to its last version, which may declare what another one has taken up in the
/// meantime: so it goes on until no service is declared twice, and none at its present version depends on itself in a
/// circle. Each round costs a candidate, or a last version a service.
pub fn settle<'a>(
    files: &mut [FileStanding],
    owner_of: impl Fn(&ServiceId) -> Option<&'a FileKey>,
    addresses_of: impl Fn(&Spec) -> Addresses,
) -> Vec<InForce> {
    let mut in_force: Vec<InForce> = files.iter().map(first_choice).collect();
    loop {
        let lost = lost_services(files, &in_force, &owner_of);
        if lost.is_empty() {
            let mut circles = circles(files, &in_force);
            circles.extend(proxy_circles(files, &in_force, &addresses_of));
            if circles.is_empty() {
                return in_force;
            }
            for (position, problem) in circles {
                add_once(&mut files[position].problems, problem);
                in_force[position] = last_of(&files[position]);
            }
            continue;
        }
        for (position, lost) in lost {
            for (service, other) in &lost {
                let problem = duplicate(service, other);
                let problem = match &files[position].candidate {
                    Some(candidate) => candidate.placed(problem, service),
                    None => problem,
                };
                add_once(&mut files[position].problems, problem);
            }
            in_force[position] = fall_back(&files[position], &in_force[position], &lost);
        }
    }
}

fn first_choice(file: &FileStanding) -> InForce {
    match &file.candidate {
        Some(candidate) if !file.is_refused() => InForce::Candidate(Arc::clone(candidate)),
        _ => last_of(file),
    }
}

/// The whole last version.
pub fn last_of(file: &FileStanding) -> InForce {
    file.last.as_ref().map_or(InForce::Nothing, |last| InForce::Last(last.services.clone()))
}

/// By position of the file: what it declares and must not, with a file that declares it too.
fn lost_services<'a>(
    files: &[FileStanding],
    in_force: &[InForce],
    owner_of: &impl Fn(&ServiceId) -> Option<&'a FileKey>,
) -> BTreeMap<usize, BTreeMap<ServiceId, FileKey>> {
    let mut declarers: HashMap<&ServiceId, Vec<usize>> = HashMap::new();
    for (position, choice) in in_force.iter().enumerate() {
        for accepted in choice.services() {
            declarers.entry(&accepted.spec.id).or_default().push(position);
        }
    }
    let mut lost: BTreeMap<usize, BTreeMap<ServiceId, FileKey>> = BTreeMap::new();
    for (service, positions) in declarers.into_iter().filter(|(_, positions)| positions.len() > 1) {
        let owner = owner_of(service);
        let owner = positions.iter().copied().find(|position| Some(&files[*position].key) == owner);
        for position in positions.iter().copied().filter(|position| Some(*position) != owner) {
            let other = owner.or_else(|| positions.iter().copied().find(|other| *other != position));
            let other = files[other.expect("two files declare it")].key.clone();
            lost.entry(position).or_default().insert(service.clone(), other);
        }
    }
    lost
}

/// A candidate gives way to the last version, a last version gives up what it has lost.
fn fall_back(file: &FileStanding, choice: &InForce, lost: &BTreeMap<ServiceId, FileKey>) -> InForce {
    match choice {
        InForce::Candidate(_) => last_of(file),
        InForce::Last(services) => {
            let kept = services.iter().filter(|accepted| !lost.contains_key(&accepted.spec.id));
            InForce::Last(kept.cloned().collect())
        }
        InForce::Nothing => InForce::Nothing,
    }
}

fn add_once(problems: &mut Vec<Problem>, problem: Problem) {
    if !problems.contains(&problem) {
        problems.push(problem);
    }
}

fn duplicate(service: &ServiceId, other: &FileKey) -> Problem {
    Problem::new(
        "duplicate-service",
        format!("service {service} is already declared in {}", other.path.display()),
    )
    .of(service.name())
    .help("give one of them another name or project, or delete one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::FileVersion;
    use crate::reconciler::library::Library;
    use crate::state::RootKey;

    fn key(path: &str) -> FileKey {
        FileKey { root: RootKey("r1".to_owned()), path: path.into() }
    }

    fn text(names: &str) -> Arc<Loaded> {
        let declare = |name| format!("[service.{name}]\ncommand = [\"node\"]\n");
        Library::default().read(&names.split_whitespace().map(declare).collect::<String>())
    }

    /// A file with its present and its last accepted services.
    fn file(path: &str, now: &str, last: &str) -> FileStanding {
        let last = (!last.is_empty()).then(|| text(last));
        let scan =
            FileScan { version: FileVersion::default(), content: Ok(now.into()), may_show_lines: true };
        let (key, candidate) = (key(path), Some(text(now)));
        let (scan, problems) = (Arc::new(scan), Vec::new());
        FileStanding { key, scan, directory_inode: 0, whole_text: None, candidate, problems, last }
    }

    /// What is in force, as `file: services`, whatever the order of the files.
    fn settled(files: Vec<FileStanding>, owners: &[(&str, &str)]) -> Vec<String> {
        let owners: BTreeMap<ServiceId, FileKey> =
            owners.iter().map(|(name, path)| (ServiceId::parse(name).unwrap(), key(path))).collect();
        let run = |mut files: Vec<FileStanding>| {
            let in_force = settle(&mut files, |service| owners.get(service), |_| Addresses::default());
            let line = |(file, choice): (&FileStanding, &InForce)| {
                let names: Vec<_> =
                    choice.services().iter().map(|accepted| accepted.spec.id.name().to_owned()).collect();
                format!("{}: {}", file.key.path.display(), names.join(" "))
            };
            let mut lines: Vec<_> = files.iter().zip(&in_force).map(line).collect();
            lines.sort();
            (lines, files)
        };
        let (lines, mut files) = run(files);
        files.iter_mut().for_each(|file| file.problems.clear());
        files.reverse();
        assert_eq!(run(files).0, lines, "the order of the files matters");
        lines
    }

    #[test]
    fn the_owner_stays_and_without_one_both_are_rejected() {
        let files = || vec![file("a", "x", "x"), file("b", "x", "")];
        assert_eq!(settled(files(), &[("x", "a")]), ["a: x", "b: "]);
        assert_eq!(settled(vec![file("a", "x", ""), file("b", "x", "")], &[]), ["a: ", "b: "]);
    }

    #[test]
    fn a_loser_keeps_what_nobody_else_owns() {
        let files = vec![file("a", "x z", "y z"), file("b", "x y", "x y")];
        assert_eq!(settled(files, &[("x", "b"), ("y", "b"), ("z", "a")]), ["a: z", "b: x y"]);
    }

    #[test]
    fn an_accepted_text_that_loses_keeps_the_rest_of_itself() {
        let files = vec![file("a", "x z", "x z"), file("b", "x", "x")];
        assert_eq!(settled(files, &[("x", "b"), ("z", "a")]), ["a: z", "b: x"]);
    }

    #[test]
    fn a_loser_takes_back_what_it_had_given_to_a_newcomer() {
        let files = vec![file("a", "t", "s"), file("b", "s", ""), file("c", "t", "t")];
        assert_eq!(settled(files, &[("s", "a"), ("t", "c")]), ["a: s", "b: ", "c: t"]);
    }

    #[test]
    fn a_warning_is_never_why_a_service_is_refused() {
        let mut file = file("a", "x y", "");
        file.problems = vec![Problem::warning("not-found", "w").of("x"), Problem::new("bad", "b").of("y")];
        let first = |name| file.problems_of(&ServiceId::parse(name).unwrap()).remove(0).message;
        assert_eq!(first("y"), "b");
        assert!(first("x").ends_with("its file is refused for y: b"), "{}", first("x"));
    }
}

//! Dependencies across manifests: circles, names that nobody declares, and what a command takes along.
//!
//! A circle may run through several files, and shows once it is settled which version of each is in force. It is a
//! problem of the members whose text is new, which fall back to their last accepted version as for any problem: what
//! was accepted before stays accepted. A circle of accepted versions alone, of different times, is nobody's present
//! problem: `plan` starts none of its members. Decides nothing about steps. Called by `ownership`, `desired` and
//! `requests`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Reconciler;
use super::ownership::{FileStanding, InForce};
use crate::host::Host;
use crate::identity::ServiceId;
use crate::manifest::{Condition, Problem, RestartPolicy, Spec, code, nearest};
use crate::plan::graph::Graph;
use crate::plan::{self, Accepted};

/// More than these of one circle are not named.
const NAMED: usize = 6;

/// A dependency that no manifest declares.
const UNKNOWN: &str = "unknown-dependency";

/// One that is to be completed, and never is.
const NEVER_COMPLETES: &str = "never-completes";

/// What is in force, with the position of its file.
pub(super) fn services(in_force: &[InForce]) -> Vec<(usize, &Arc<Accepted>)> {
    in_force
        .iter()
        .enumerate()
        .flat_map(|(position, choice)| choice.services().iter().map(move |accepted| (position, accepted)))
        .collect()
}

/// The problem of each service that is in a circle and whose text is new, with the position of its file.
pub(super) fn circles(files: &[FileStanding], in_force: &[InForce]) -> Vec<(usize, Problem)> {
    let services = services(in_force);
    if services.iter().all(|(_, accepted)| accepted.spec.depends_on.is_empty()) {
        return Vec::new();
    }
    let places: HashMap<&ServiceId, u32> =
        (0..).zip(&services).map(|(place, (_, accepted))| (&accepted.spec.id, place)).collect();
    let needs = |place: u32| {
        let depends_on = services[place as usize].1.spec.depends_on.keys();
        depends_on.filter_map(|service| places.get(service).copied())
    };
    let id = |place: u32| &services[place as usize].1.spec.id;
    let mut problems = Vec::new();
    for way in ways_around(services.len() as u32, needs) {
        let (position, _) = services[way[0] as usize];
        if !may_fall_back(&files[position], &in_force[position]) {
            continue;
        }
        let names: Vec<String> = way.iter().map(|place| id(*place).to_string()).collect();
        let message = format!("services depend on each other in a circle: {}", names.join(", "));
        let problem = Problem::new(code::DEPENDENCY_CYCLE, message)
            .of(id(way[0]).name())
            .help("take one of them out of the `depends_on` of the other");
        problems.push((position, placed(&files[position], problem, id(way[0]), id(way[1]))));
    }
    problems
}

/// Its text is in force, and is not the one that was accepted last.
pub(super) fn may_fall_back(file: &FileStanding, in_force: &InForce) -> bool {
    matches!(in_force, InForce::Candidate(_)) && file.is_new()
}

/// For each of so many that is in a circle, the way from it around, or the first part of that.
pub(super) fn ways_around<N: Iterator<Item = u32>>(count: u32, needs: impl Fn(u32) -> N) -> Vec<Vec<u32>> {
    let mut graph = Graph::default();
    (0..count).for_each(|place| graph.push(needs(place)));
    let parts = graph.parts();
    let next = |place: u32| needs(place).find(|other| parts.are_in_one_circle(place, *other));
    let around = |member: u32| {
        let mut way = vec![member];
        while let Some(place) = way.last().and_then(|at| next(*at)).filter(|_| way.len() <= NAMED) {
            way.push(place);
            if way[..way.len() - 1].contains(&place) {
                break;
            }
        }
        way
    };
    (0..count).filter(|place| parts.is_in_a_circle(*place)).map(around).collect()
}

/// At the name of the dependency.
fn placed(file: &FileStanding, problem: Problem, service: &ServiceId, dependency: &ServiceId) -> Problem {
    let Some(candidate) = &file.candidate else { return problem };
    match candidate.place_of_need(service, dependency) {
        Some(span) => problem.at(span),
        None => candidate.placed(problem, service),
    }
}

/// A warning for each dependency for which a service waits in vain: neither a manifest declares it nor the ledger
/// remembers it, or it never completes.
pub(super) fn warn_of_dependencies(
    files: &mut [FileStanding],
    in_force: &[InForce],
    is_remembered: impl Fn(&ServiceId) -> bool,
) {
    let services = services(in_force);
    let known: HashMap<&ServiceId, &Spec> =
        services.iter().map(|(_, accepted)| (&accepted.spec.id, &accepted.spec)).collect();
    for (position, accepted) in &services {
        let spec = &accepted.spec;
        if !matches!(in_force[*position], InForce::Candidate(_)) {
            continue;
        }
        for (dependency, wanted) in &spec.depends_on {
            let problem = match known.get(dependency) {
                Some(other) if never_completes(other, wanted.condition) => {
                    let message = format!(
                        "`{dependency}` never completes, since it is started again whenever it ends: {} waits for it",
                        spec.id
                    );
                    Problem::warning(NEVER_COMPLETES, message).help(format!(
                        "depend on it as `ready`, or give {dependency} another `restart.policy` than `always`"
                    ))
                }
                Some(_) => continue,
                None if is_remembered(dependency) => continue,
                None => {
                    let message = format!("no manifest declares `{dependency}`: {} waits for it", spec.id);
                    let problem = Problem::warning(UNKNOWN, message);
                    match nearest(dependency.key(), known.keys().map(|id| id.key())) {
                        Some(meant) => problem.help(format!("did you mean `{meant}`?")),
                        None => problem,
                    }
                }
            };
            let problem = problem.of(spec.id.name());
            let problem = placed(&files[*position], problem, &spec.id, dependency);
            files[*position].problems.push(problem);
        }
    }
}

fn never_completes(spec: &Spec, condition: Condition) -> bool {
    condition == Condition::Completed && spec.restart.policy == RestartPolicy::Always && !spec.is_on_demand()
}

/// What was named with what that depends on.
#[derive(Debug)]
pub(super) struct Wider {
    pub services: BTreeSet<ServiceId>,
    /// Those among them that were not named.
    pub also: BTreeSet<ServiceId>,
}

impl<H: Host> Reconciler<H> {
    /// Something that is to be up while this service runs is not: what becomes of the service says nothing of it. As far
    /// as the ledger knows yet.
    pub(super) fn misses_a_dependency(&self, spec: &Spec) -> bool {
        let is_down = |service: &ServiceId| {
            let Some(entry) = self.memory.ledger().entry(service) else { return true };
            let is_done = entry
                .last
                .as_ref()
                .zip(self.accepted(service))
                .is_some_and(|(last, accepted)| plan::is_clean(last, &accepted.spec.restart));
            entry.run.as_ref().map_or(!is_done, |run| !run.goes_on())
        };
        let lasting = spec.depends_on.iter().filter(|(_, wanted)| wanted.condition != Condition::Completed);
        lasting.map(|(service, _)| service).any(is_down)
    }

    /// With all that these depend on, directly or not, as far as it is known.
    pub(super) fn with_dependencies(&self, named: &BTreeSet<ServiceId>) -> Wider {
        let mut services = named.clone();
        let mut open: Vec<ServiceId> = named.iter().cloned().collect();
        while let Some(service) = open.pop() {
            let Some(accepted) = self.accepted(&service) else { continue };
            for dependency in accepted.spec.depends_on.keys() {
                let is_known = self.last_plan.phases.contains_key(dependency);
                if is_known && services.insert(dependency.clone()) {
                    open.push(dependency.clone());
                }
            }
        }
        let also = services.difference(named).cloned().collect();
        Wider { services, also }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{FileScan, FileVersion};
    use crate::manifest::Addresses;
    use crate::reconciler::library::Library;
    use crate::reconciler::ownership::settle;
    use crate::state::{FileKey, RootKey};

    /// Files as `name: dependencies; …`, now and as last accepted; what is in force, and the codes of each file.
    fn settled(files: &[(&str, &str)]) -> Vec<String> {
        let read = |text: &str| {
            let service = |line: &str| {
                let (name, needs) = line.split_once(':').unwrap();
                let needs: Vec<_> = needs.split_whitespace().collect();
                format!("[service.{}]\ncommand = ['a']\ndepends_on = {needs:?}\n", name.trim())
            };
            Library::default().read(&text.split(';').map(service).collect::<String>())
        };
        let standing = |(index, (now, last)): (usize, &(&str, &str))| FileStanding {
            key: FileKey { root: RootKey("r1".to_owned()), path: format!("{index}.toml").into() },
            scan: Arc::new(FileScan {
                version: FileVersion::default(),
                content: Ok((*now).into()),
                may_show_lines: true,
            }),
            whole_text: None,
            directory_inode: 0,
            candidate: Some(read(now)),
            problems: Vec::new(),
            last: (!last.is_empty()).then(|| read(last)),
        };
        let mut files: Vec<FileStanding> = files.iter().enumerate().map(standing).collect();
        let in_force = settle(&mut files, |_| None, |_| Addresses::default());
        warn_of_dependencies(&mut files, &in_force, |_| false);
        let line = |(file, choice): (&FileStanding, &InForce)| {
            let services = choice.services().iter().map(|accepted| {
                let needs = accepted.spec.depends_on.keys().map(ServiceId::name).collect::<Vec<_>>();
                format!("{}: {}", accepted.spec.id.name(), needs.join(" ")).trim().to_owned()
            });
            let problems = file.problems.iter().map(|problem| {
                let line = problem.span.map_or(0, |span| span.line);
                format!("{}@{line}", problem.code)
            });
            services.chain(problems).collect::<Vec<_>>().join("; ")
        };
        files.iter().zip(&in_force).map(line).collect()
    }

    #[test]
    fn the_members_of_a_circle_keep_their_last_version_and_no_one_else_is_concerned() {
        assert_eq!(
            settled(&[("a: b", "a:"), ("b: c", ""), ("c: a", "c: d"), ("d:", ""), ("e: a", "")]),
            ["a:; dependency-cycle@3", "dependency-cycle@3", "c: d; dependency-cycle@3", "d:", "e: a"]
        );
    }

    #[test]
    fn a_circle_in_one_file_is_a_problem_of_each_member() {
        assert_eq!(settled(&[("a: b; b: a", "")]), ["dependency-cycle@3; dependency-cycle@6"]);
    }

    #[test]
    fn one_who_closes_a_circle_loses_and_those_that_were_accepted_stay() {
        assert_eq!(
            settled(&[("a: b", "a: b"), ("b: a", "")]),
            ["a: b; unknown-dependency@3", "dependency-cycle@3"]
        );
        assert_eq!(settled(&[("a: b", "a: b"), ("b: a", "b:")]), ["a: b", "b:; dependency-cycle@3"]);
        assert_eq!(settled(&[("a: b", "a: b"), ("b: a", "b: a")]), ["a: b", "b: a"]);
    }

    #[test]
    fn falling_back_may_show_another_circle() {
        // b gave up its dependency on c, which c relies on; for a circle with a, b is as it was.
        assert_eq!(
            settled(&[("a: b", "a:"), ("b: a", "b: c"), ("c: b", "c:")]),
            ["a:; dependency-cycle@3", "b: c; dependency-cycle@3", "c:; dependency-cycle@3"]
        );
    }

    #[test]
    fn one_that_never_completes_is_a_warning() {
        let text = |policy: &str| {
            format!(
                "[service.job]\ncommand = ['a']\nrestart.policy = '{policy}'\n\
                 [service.web]\ncommand = ['a']\ndepends_on = {{ job = 'completed' }}\n"
            )
        };
        let warned = |policy: &str| {
            let loaded = Library::default().read(&text(policy));
            let mut files = [FileStanding {
                key: FileKey { root: RootKey("r1".to_owned()), path: "a.toml".into() },
                scan: Arc::new(FileScan {
                    version: FileVersion::default(),
                    content: Ok(text(policy).into()),
                    may_show_lines: true,
                }),
                whole_text: None,
                directory_inode: 0,
                candidate: Some(loaded),
                problems: Vec::new(),
                last: None,
            }];
            let in_force = settle(&mut files, |_| None, |_| Addresses::default());
            warn_of_dependencies(&mut files, &in_force, |_| false);
            let told = files[0].problems.iter();
            told.map(|it| (it.code.clone(), it.blocks(), it.span.unwrap().line)).collect::<Vec<_>>()
        };
        assert_eq!(warned("always"), [("never-completes".to_owned(), false, 6)]);
        assert_eq!(warned("on-failure"), []);
    }

    #[test]
    fn an_unknown_name_is_a_warning_and_the_text_is_in_force() {
        assert_eq!(settled(&[("web: bd", ""), ("db:", "")]), ["web: bd; unknown-dependency@3", "db:"]);
    }
}

//! What a watcher tells of its own accord: what is wrong with manifests, and which removals are held back. Each is
//! told once when it begins, and once when it is over.
//!
//! Pure: compares what is with what was told. The loop feeds it for the log; `commands` for a terminal, where the
//! lines of the log under [`TARGET`] are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::manifest::Problem;
use crate::state::Reason;

/// Of the log lines that a terminal shows in another form.
pub const TARGET: &str = "reconcile::news";

/// The problem of a file that somebody has open for writing: it ends by itself, and is not told.
pub(super) const BEING_WRITTEN: &str = "being-written";

/// More services than this are counted.
const MOST_NAMED: usize = 5;

/// What is new about one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileNews {
    /// These problems were not told yet.
    Wrong { path: PathBuf, problems: Vec<Problem> },
    /// It had problems, and has none any more.
    Well { path: PathBuf },
}

/// The problems that were told, by path.
#[derive(Debug, Clone, Default)]
pub struct Wrongs(BTreeMap<PathBuf, Vec<Problem>>);

impl Wrongs {
    /// All files with their problems, as they are now; a path may come more than once.
    pub fn update<'a>(&mut self, files: impl Iterator<Item = (&'a Path, &'a [Problem])>) -> Vec<FileNews> {
        let mut now: BTreeMap<&Path, Vec<Problem>> = BTreeMap::new();
        let mut in_between: BTreeSet<&Path> = BTreeSet::new();
        for (path, problems) in files.filter(|(_, problems)| !problems.is_empty()) {
            let (passing, lasting): (Vec<_>, Vec<_>) =
                problems.iter().cloned().partition(|problem| problem.code == BEING_WRITTEN);
            if lasting.is_empty() && !passing.is_empty() {
                in_between.insert(path);
            } else {
                now.entry(path).or_default().extend(lasting);
            }
        }
        let mut news = Vec::new();
        self.0.retain(|path, _| {
            let stays = now.contains_key(path.as_path()) || in_between.contains(path.as_path());
            if !stays {
                news.push(FileNews::Well { path: path.clone() });
            }
            stays
        });
        for (path, problems) in now {
            let told = self.0.entry(path.to_owned()).or_default();
            let fresh: Vec<Problem> =
                problems.iter().filter(|problem| !told.contains(problem)).cloned().collect();
            *told = problems;
            if !fresh.is_empty() {
                news.push(FileNews::Wrong { path: path.to_owned(), problems: fresh });
            }
        }
        news
    }
}

/// Why the removal of a service does not happen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hold {
    /// A guard, or `prune-delay`.
    pub code: String,
    pub message: String,
}

impl Hold {
    pub fn of(reason: &Reason) -> Option<Self> {
        Self::parse(reason.code(), || reason.message())
    }

    /// From what is published of a service.
    pub fn parse(code: &str, message: impl FnOnce() -> String) -> Option<Self> {
        (Reason::PRUNE_GUARDS.contains(&code) || code == Reason::PruneDelay.code())
            .then(|| Self { code: code.to_owned(), message: message() })
    }

    /// It ends by itself.
    pub fn passes(&self) -> bool {
        self.code == Reason::PruneDelay.code()
    }
}

/// What is new about removals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldNews {
    Begun {
        services: Vec<String>,
        hold: Hold,
    },
    /// They are declared again.
    Over {
        services: Vec<String>,
    },
}

impl HoldNews {
    pub fn sentence(&self) -> String {
        match self {
            Self::Begun { services, hold } if hold.passes() => {
                format!("the removal of {} waits until the directory has been quiet", named(services))
            }
            Self::Begun { services, hold } => {
                format!("the removal of {} is held back: {}", named(services), hold.message)
            }
            Self::Over { services } => format!("declared again, and not to be removed: {}", named(services)),
        }
    }
}

/// The holds that were told, by service.
#[derive(Debug, Clone, Default)]
pub struct Holds(BTreeMap<String, Hold>);

impl Holds {
    /// All that is held, as it is now; `stays` tells whether a service that no longer is has not been removed.
    pub fn update(&mut self, now: BTreeMap<String, Hold>, stays: impl Fn(&str) -> bool) -> Vec<HoldNews> {
        if now == self.0 {
            return Vec::new();
        }
        let mut begun: BTreeMap<&Hold, Vec<String>> = BTreeMap::new();
        for (service, hold) in &now {
            if self.0.get(service).is_none_or(|told| told.code != hold.code) {
                begun.entry(hold).or_default().push(service.clone());
            }
        }
        let over = self.0.keys().filter(|service| !now.contains_key(*service) && stays(service));
        let over: Vec<String> = over.cloned().collect();
        let begun =
            begun.into_iter().map(|(hold, services)| HoldNews::Begun { services, hold: hold.clone() });
        let mut news: Vec<HoldNews> = begun.collect();
        if !over.is_empty() {
            news.push(HoldNews::Over { services: over });
        }
        self.0 = now;
        news
    }
}

fn named(services: &[String]) -> String {
    match services.len().checked_sub(MOST_NAMED) {
        None | Some(0) => services.join(", "),
        Some(more) => format!("{} and {more} more", services[..MOST_NAMED].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(wrongs: &mut Wrongs, files: &[(&str, &[&str])]) -> Vec<String> {
        let files: Vec<(&str, Vec<Problem>)> = files
            .iter()
            .map(|(path, codes)| (*path, codes.iter().map(|code| Problem::new(code, "m")).collect()))
            .collect();
        let files = files.iter().map(|(path, problems)| (Path::new(*path), problems.as_slice()));
        let news = wrongs.update(files).into_iter().map(|news| match news {
            FileNews::Well { path } => format!("{} well", path.display()),
            FileNews::Wrong { path, problems } => {
                let codes: Vec<_> = problems.into_iter().map(|problem| problem.code).collect();
                format!("{} {}", path.display(), codes.join(" "))
            }
        });
        news.collect()
    }

    #[test]
    fn a_problem_is_told_when_it_begins_and_when_the_last_is_over() {
        let wrongs = &mut Wrongs::default();
        assert_eq!(told(wrongs, &[("a", &["x"]), ("b", &[])]), ["a x"]);
        assert_eq!(told(wrongs, &[("a", &["x"])]), Vec::<String>::new());
        assert_eq!(told(wrongs, &[("a", &["x", "y"])]), ["a y"]);
        assert_eq!(told(wrongs, &[("a", &["y"])]), Vec::<String>::new());
        assert_eq!(told(wrongs, &[("a", &[])]), ["a well"]);
        assert_eq!(told(wrongs, &[("a", &["y"])]), ["a y"]);
        assert_eq!(told(wrongs, &[]), ["a well"]);
    }

    #[test]
    fn a_file_that_is_being_written_is_neither_wrong_nor_well() {
        let wrongs = &mut Wrongs::default();
        assert_eq!(told(wrongs, &[("a", &[BEING_WRITTEN])]), Vec::<String>::new());
        assert_eq!(told(wrongs, &[("a", &["x"])]), ["a x"]);
        assert_eq!(told(wrongs, &[("a", &[BEING_WRITTEN])]), Vec::<String>::new());
        assert_eq!(told(wrongs, &[("a", &[])]), ["a well"]);
    }

    #[test]
    fn removals_that_are_held_back_are_told_together_and_once() {
        let fraction = Reason::GuardFraction { removed: 6, of: 8 };
        let held = |count: usize, reason: &Reason| -> BTreeMap<String, Hold> {
            (1..=count).map(|number| (format!("s{number}"), Hold::of(reason).unwrap())).collect()
        };
        let said = |news: Vec<HoldNews>| -> Vec<String> { news.iter().map(HoldNews::sentence).collect() };
        let holds = &mut Holds::default();
        assert_eq!(
            said(holds.update(held(1, &Reason::PruneDelay), |_| true)),
            ["the removal of s1 waits until the directory has been quiet"]
        );
        assert_eq!(
            said(holds.update(held(6, &fraction), |_| true)),
            [format!("the removal of s1, s2, s3, s4, s5 and 1 more is held back: {}", fraction.message())]
        );
        assert_eq!(holds.update(held(6, &fraction), |_| true), []);
        assert_eq!(
            said(holds.update(held(1, &fraction), |service| service != "s2")),
            ["declared again, and not to be removed: s3, s4, s5, s6"]
        );
    }
}

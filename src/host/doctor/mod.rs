//! What this machine offers, tried and not guessed from a version; `reconcile doctor` prints it.
//!
//! Facts with what each means for services: either the mechanism that is used, or the fallback in its place.
//! Nothing is left behind: every probe removes what it made. Decides nothing; called by `commands::doctor`.

mod kernel;
mod places;

use std::path::{Path, PathBuf};

use serde::Serialize;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Stable, kebab-case.
    pub name: &'static str,
    /// False: a fallback is used, or something needs attention; `meaning` says which.
    pub ok: bool,
    /// What was found.
    pub value: String,
    /// What follows from it.
    pub meaning: String,
}

impl Fact {
    fn found(name: &'static str, value: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { name, ok: true, value: value.into(), meaning: meaning.into() }
    }

    fn lacking(name: &'static str, value: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { name, ok: false, value: value.into(), meaning: meaning.into() }
    }
}

/// What is known of one mechanism: what it is called, what it brings, and what stands in for it.
struct Mechanism {
    name: &'static str,
    brings: &'static str,
    fallback: &'static str,
}

impl Mechanism {
    fn judge(self, tried: std::io::Result<()>) -> Fact {
        match tried {
            Ok(()) => Fact::found(self.name, "available", self.brings),
            Err(error) => Fact::lacking(self.name, error.to_string(), self.fallback),
        }
    }
}

/// Looks at everything. `state_dir` need not exist: then its nearest existing parent tells of its file
/// system. `roots` are those of the manifests.
pub fn facts(state_dir: &Path, roots: &[PathBuf]) -> Vec<Fact> {
    let mut facts = kernel::facts();
    facts.extend(places::facts(state_dir, roots));
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_is_named_once_and_says_what_it_means() {
        let dir = tempfile::tempdir().unwrap();
        let facts = facts(&dir.path().join("not/there"), &[dir.path().to_owned()]);
        let mut names: Vec<_> = facts.iter().map(|fact| fact.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), facts.len());
        for fact in &facts {
            assert!(!fact.value.is_empty() && !fact.meaning.is_empty(), "{fact:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}

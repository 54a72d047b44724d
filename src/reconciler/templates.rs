//! Templates that files of one root share: which there are, and texts made whole with them.
//!
//! What is judged, accepted and kept of a file is its text with the templates that it uses, so that no other
//! file can take away or change what is accepted; an edit of a template is a new text of each file that uses
//! it. A template of a file that has problems, or that two files declare, is not there for others: they stay
//! with what they have. Called by `accept` in each look.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Reconciler;
use super::library::{Library, Loaded, Whole};
use crate::host::{Host, RootListing};
use crate::manifest::{Problem, Template, code, escape, nearest};
use crate::state::{FileKey, RootKey};

/// The templates of one root.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    by_name: BTreeMap<String, Vec<(PathBuf, Arc<Template>)>>,
    /// Files that may have more, and have problems.
    unread: Vec<PathBuf>,
}

impl<H: Host> Reconciler<H> {
    pub(super) fn shelf(&mut self, root: &RootKey, listing: &RootListing) -> Shelf {
        let mut shelf = Shelf::default();
        for (path, file) in &listing.files {
            let key = FileKey { root: root.clone(), path: path.clone() };
            match self.library.load(&key, file) {
                Ok(loaded) => shelf.add(path, &loaded),
                Err(_) => shelf.unread.push(path.clone()),
            }
        }
        shelf
    }
}

impl Shelf {
    fn add(&mut self, path: &Path, loaded: &Loaded) {
        for template in &loaded.templates {
            let declared = self.by_name.entry(template.name.clone()).or_default();
            declared.push((path.to_owned(), Arc::clone(template)));
        }
        if loaded.problems.iter().any(|problem| problem.blocks() && problem.code != code::NO_TEMPLATE) {
            self.unread.push(path.to_owned());
        }
    }

    /// The text of a file with those templates of others that it uses and that can be had; `None` if there are none.
    pub fn make_whole(
        &self,
        library: &mut Library,
        key: &FileKey,
        own: &Arc<Loaded>,
        text: &str,
    ) -> Option<Whole> {
        let mut used: Vec<Arc<Template>> =
            own.borrowed.iter().filter_map(|borrowed| self.only(&borrowed.template)).collect();
        used.sort_by(|a, b| a.name.cmp(&b.name));
        used.dedup();
        (!used.is_empty()).then(|| library.make_whole(key, (own, text), used))
    }

    fn only(&self, name: &str) -> Option<Arc<Template>> {
        match self.by_name.get(name)?.as_slice() {
            [(_, template)] => Some(Arc::clone(template)),
            _ => None,
        }
    }

    /// The problems of the text of a file; of a template that could not be had, with why.
    pub fn explain(&self, file: &Path, loaded: &Loaded) -> Vec<Problem> {
        let explain = |problem: &Problem| {
            let borrowed = loaded.borrowed.iter().find(|borrowed| Some(borrowed.span) == problem.span);
            match borrowed.filter(|_| problem.code == code::NO_TEMPLATE) {
                Some(borrowed) => self.why_not(file, &borrowed.template, problem.clone()),
                None => problem.clone(),
            }
        };
        loaded.problems.iter().map(explain).collect()
    }

    fn why_not(&self, file: &Path, name: &str, problem: Problem) -> Problem {
        let shown = escape(name);
        if let Some(declared) = self.by_name.get(name) {
            let files: Vec<String> = declared.iter().map(|(path, _)| path.display().to_string()).collect();
            let message = format!("template `{shown}` is declared in {}", files.join(" and "));
            return Problem { message, ..problem }.help("keep one of them, or give them different names");
        }
        if let Some(meant) = nearest(name, self.by_name.keys().map(String::as_str)) {
            return problem.help(format!("did you mean `{}`?", escape(meant)));
        }
        // What is wrong with the file itself is told beside this.
        let mut others = self.unread.iter().filter(|path| *path != file);
        match (others.next(), others.next()) {
            (Some(path), None) => problem
                .help(format!("it may be in {}, which has problems of its own: mend those", path.display())),
            (Some(path), Some(_)) => problem.help(format!(
                "it may be in {} or another file that has problems of its own: mend those",
                path.display()
            )),
            (None, _) => problem
                .help(format!("declare it as `[template.{shown}]`, here or in a file of the same root")),
        }
    }
}

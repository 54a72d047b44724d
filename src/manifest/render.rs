//! Fills in a spec: what is executed, probed and shown, with absolute paths.
//!
//! Called when a process is started or probed, never for a comparison: specs are compared as written. Total
//! for every spec that `check` made; in one that was put together by hand, a template that names nothing
//! or goes in circles stays as it is.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::spec::{CommandLine, HealthCheck, Spec};
use super::template::{Piece, is_templated, pieces};

/// What a spec is filled in with beside its own values.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Where relative paths start; absolute.
    pub project_dir: &'a Path,
    /// What `~/` stands for: the home of the user that the service runs as. Without one `~` is left as it
    /// is, a directory that does not exist, and a start says so.
    pub home: Option<&'a Path>,
}

/// A spec with its templates filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The words for execve(2).
    pub argv: Vec<String>,
    /// Absolute if the project directory is.
    pub cwd: PathBuf,
    /// The declared variables only.
    pub env: BTreeMap<String, String>,
    pub url: Option<String>,
    pub health: Option<RenderedCheck>,
    pub stop_command: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenderedCheck {
    Http { url: String, expect_status: Option<u16> },
    Tcp { host: String, port: u16 },
    Command { argv: Vec<String>, expect_regex: Option<String> },
}

/// Fills in every text of a spec.
pub fn render(spec: &Spec, around: &Surroundings<'_>) -> Rendered {
    let filler = Filler::new(spec, around);
    let fill = |text: &str| filler.fill(text).into_owned();
    let argv = |command: &CommandLine| command.words().into_iter().map(fill).collect();
    let health = spec.health.as_ref().map(|health| match &health.check {
        HealthCheck::Http { url, expect_status } => {
            RenderedCheck::Http { url: fill(url), expect_status: *expect_status }
        }
        HealthCheck::Tcp { host, port } => RenderedCheck::Tcp { host: fill(host), port: *port },
        HealthCheck::Command { command, expect_regex } => {
            RenderedCheck::Command { argv: argv(command), expect_regex: expect_regex.clone() }
        }
    });
    Rendered {
        argv: argv(&spec.command),
        cwd: filler.directory(0),
        env: spec.env.iter().map(|(key, value)| (key.clone(), fill(value))).collect(),
        url: spec.url.as_deref().map(fill),
        health,
        stop_command: spec.stop.command.as_ref().map(argv),
    }
}

/// Fills in texts of one spec; each variable is filled in once, however often it is named.
pub(super) struct Filler<'s> {
    spec: &'s Spec,
    around: &'s Surroundings<'s>,
    cwd: OnceCell<String>,
    env: RefCell<BTreeMap<&'s str, String>>,
}

/// More links in a row than `check` lets through.
const MAX_LINKS: usize = 64;

impl<'s> Filler<'s> {
    pub(super) fn new(spec: &'s Spec, around: &'s Surroundings<'s>) -> Self {
        Self { spec, around, cwd: OnceCell::new(), env: RefCell::default() }
    }

    pub(super) fn fill<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.fill_at(text, 0)
    }

    fn fill_at<'t>(&self, text: &'t str, links: usize) -> Cow<'t, str> {
        if !is_templated(text) || links > MAX_LINKS {
            return Cow::Borrowed(text);
        }
        let mut filled = String::with_capacity(text.len());
        for (place, piece) in pieces(text) {
            match piece {
                Piece::Literal(literal) => filled.push_str(literal),
                Piece::Name => filled.push_str(self.spec.id.name()),
                Piece::Project => filled.push_str(self.spec.id.project()),
                Piece::Cwd => filled.push_str(&self.cwd(links)),
                Piece::Env(key) => match self.variable(key, links) {
                    Some(value) => filled.push_str(&value),
                    None => filled.push_str(&text[place]),
                },
                Piece::Unknown(_) | Piece::Unclosed(_) => filled.push_str(&text[place]),
            }
        }
        Cow::Owned(filled)
    }

    fn variable(&self, key: &str, links: usize) -> Option<String> {
        let (key, value) = self.spec.env.get_key_value(key)?;
        if let Some(done) = self.env.borrow().get(key.as_str()) {
            return Some(done.clone());
        }
        // As written while it is being filled in: what a circle comes back to.
        self.env.borrow_mut().insert(key, value.clone());
        let filled = self.fill_at(value, links + 1).into_owned();
        self.env.borrow_mut().insert(key, filled.clone());
        Some(filled)
    }

    fn cwd(&self, links: usize) -> String {
        if let Some(done) = self.cwd.get() {
            return done.clone();
        }
        let filled = self.directory(links + 1).to_string_lossy().into_owned();
        self.cwd.get_or_init(|| filled).clone()
    }

    fn directory(&self, links: usize) -> PathBuf {
        let written = self.fill_at(&self.spec.cwd, links);
        let in_home = written.strip_prefix("~/").or((written == "~").then_some(""));
        let joined = match (in_home, self.around.home) {
            (Some(below), Some(home)) => home.join(below.trim_start_matches('/')),
            _ => self.around.project_dir.join(&*written),
        };
        // `.` alone is taken out: `..` is the kernel's to resolve, after links.
        joined.components().filter(|component| *component != Component::CurDir).collect()
    }
}

#[cfg(test)]
mod tests;

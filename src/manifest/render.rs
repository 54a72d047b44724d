//! Fills in a spec: what is executed, probed and shown, with absolute paths.
//!
//! Called when a process is started or probed, never for a comparison: specs are compared as written. Total
//! for every spec that `check` made; in one that was put together by hand, a template that names nothing
//! or goes in circles stays as it is.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use super::ports::{self, CheckPort, PortBlocks};
use super::sockets::ListenOn;
use super::spec::{CommandLine, HealthCheck, SecretSource, Spec};
use super::template::{Piece, is_templated, pieces};

/// What a spec is filled in with beside its own values.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Where relative paths start; absolute.
    pub project_dir: &'a Path,
    /// What `~/` stands for: the home of the user that the service runs as. Without one `~` is left as it
    /// is, a directory that does not exist, and a start says so.
    pub home: Option<&'a Path>,
    /// What the service was given; a declared number stands for itself.
    pub ports: &'a PortBlocks,
    /// What `{{state.work}}` stands for.
    pub work: Option<&'a Path>,
    /// The working directory that was chosen, of several.
    pub cwd: Option<&'a Path>,
}

/// A spec with its templates filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The words for execve(2).
    pub argv: Vec<String>,
    /// Absolute if the project directory is.
    pub cwd: PathBuf,
    /// It is made where it is not there.
    pub makes_cwd: bool,
    /// The service's own directory, where the spec names it.
    pub work: Option<PathBuf>,
    /// The declared variables only.
    pub env: BTreeMap<String, String>,
    /// Variables that tell of its ports; those that are declared come before them.
    pub port_env: Vec<(String, u16)>,
    /// Absolute as `cwd`, in the order of the spec.
    pub env_file: Vec<PathBuf>,
    /// Likewise, with their wildcards.
    pub restart_on: Vec<PathBuf>,
    pub reload_on: Vec<PathBuf>,
    /// Where secrets come from files, likewise.
    pub secret_files: BTreeMap<String, PathBuf>,
    /// The words of what secrets are had by, by the secret.
    pub secret_commands: BTreeMap<String, Vec<String>>,
    /// `None` also where it goes by a port of which the number is not known.
    pub health: Option<RenderedCheck>,
    /// `None` also where it goes by a port of which the number is not known.
    pub proxy: Option<ListenOn>,
    /// In the order of their names, which is that of their descriptors.
    pub sockets: Vec<RenderedSocket>,
    pub stop_command: Option<Vec<String>>,
    pub reload_command: Option<Vec<String>>,
}

/// Where a declared socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedSocket {
    pub name: String,
    pub address: ListenOn,
    pub mode: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenderedCheck {
    Http { url: String, expect_status: Option<u16> },
    Tcp { host: String, port: u16 },
    Command { argv: Vec<String>, expect_regex: Option<String> },
    Log { pattern: String },
    Notify,
}

/// What of a spec is shown to consumers, filled in; `None` and null where it goes by a port of which the number is
/// not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub url: Option<String>,
    pub attrs: Map<String, Value>,
    pub sockets: Vec<RenderedSocket>,
}

/// Fills in what is shown.
pub fn render_shown(spec: &Spec, around: &Surroundings<'_>) -> Shown {
    let filler = Filler::new(spec, around);
    Shown {
        url: spec.url.as_deref().and_then(|url| filler.fill_whole(url)),
        attrs: spec.attrs.iter().map(|(key, value)| (key.clone(), filler.fill_json(value))).collect(),
        sockets: filler.sockets(),
    }
}

/// Where a service is reached, as far as that is known before its start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    pub sockets: Vec<RenderedSocket>,
    pub proxy: Option<ListenOn>,
}

/// Fills in the addresses alone.
pub fn render_addresses(spec: &Spec, around: &Surroundings<'_>) -> Addresses {
    if spec.sockets.is_empty() {
        return Addresses::default();
    }
    let filler = Filler::new(spec, around);
    Addresses { sockets: filler.sockets(), proxy: filler.proxy() }
}

/// Fills in every text of a spec that is executed or probed.
pub fn render(spec: &Spec, around: &Surroundings<'_>) -> Rendered {
    let filler = Filler::new(spec, around);
    let fill = |text: &str| filler.fill(text).into_owned();
    let argv = |command: &CommandLine| command.words().into_iter().map(fill).collect();
    let health = spec.health.as_ref().and_then(|health| filler.check(&health.check));
    let mut rendered = Rendered {
        argv: argv(&spec.command),
        cwd: filler.chosen_cwd(0),
        makes_cwd: spec.cwd_before.is_some(),
        work: None,
        env: spec.env.iter().map(|(key, value)| (key.clone(), fill(value))).collect(),
        port_env: ports::variables(&spec.ports, around.ports),
        env_file: spec.env_file.iter().map(|file| filler.path(&file.path, 0)).collect(),
        restart_on: spec.restart_on.iter().map(|path| filler.path(path, 0)).collect(),
        secret_files: spec
            .secrets
            .iter()
            .filter_map(|(name, secret)| match &secret.source {
                SecretSource::File(path) => Some((name.clone(), filler.path(path, 0))),
                SecretSource::Env(_) | SecretSource::Derived(_) | SecretSource::Command(_) => None,
            })
            .collect(),
        secret_commands: spec
            .secret_commands()
            .map(|(name, command)| (name.to_owned(), command.argv.iter().map(|word| fill(word)).collect()))
            .collect(),
        reload_on: spec.reload.on.iter().map(|path| filler.path(path, 0)).collect(),
        health,
        proxy: filler.proxy(),
        sockets: filler.sockets(),
        stop_command: spec.stop.command.as_ref().map(argv),
        reload_command: spec.reload.command.as_ref().map(argv),
    };
    rendered.work = around.work.filter(|_| filler.names_work.get()).map(Path::to_owned);
    rendered
}

/// The working directories that are there to choose from, in their order.
pub fn render_cwds(spec: &Spec, around: &Surroundings<'_>) -> Vec<PathBuf> {
    let filler = Filler::new(spec, around);
    spec.cwd_before.iter().flatten().chain([&spec.cwd]).map(|path| filler.path(path, 0)).collect()
}

/// Fills in texts of one spec; each variable is filled in once, however often it is named.
pub(super) struct Filler<'s> {
    spec: &'s Spec,
    around: &'s Surroundings<'s>,
    cwd: OnceCell<(String, bool)>,
    /// With whether a port was missed in it.
    env: RefCell<BTreeMap<&'s str, (String, bool)>>,
    /// A port was named of which the number is not known.
    misses_a_port: Cell<bool>,
    /// `{{state.work}}` was named.
    names_work: Cell<bool>,
}

/// More links in a row than `check` lets through.
const MAX_LINKS: usize = 64;

impl<'s> Filler<'s> {
    pub(super) fn new(spec: &'s Spec, around: &'s Surroundings<'s>) -> Self {
        Self {
            spec,
            around,
            cwd: OnceCell::new(),
            env: RefCell::default(),
            misses_a_port: Cell::new(false),
            names_work: Cell::new(false),
        }
    }

    pub(super) fn fill<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.fill_at(text, 0)
    }

    /// `None` if it names a port of which the number is not known.
    fn fill_whole(&self, text: &str) -> Option<String> {
        let (filled, misses_a_port) = self.noting(|| self.fill(text));
        (!misses_a_port).then(|| filled.into_owned())
    }

    /// With whether a port was named meanwhile of which the number is not known.
    fn noting<T>(&self, fill: impl FnOnce() -> T) -> (T, bool) {
        let before = self.misses_a_port.replace(false);
        let filled = fill();
        let here = self.misses_a_port.get();
        self.misses_a_port.set(before || here);
        (filled, here)
    }

    fn fill_json(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.fill_whole(text).into(),
            Value::Array(items) => items.iter().map(|item| self.fill_json(item)).collect(),
            Value::Object(entries) => {
                entries.iter().map(|(key, item)| (key.clone(), self.fill_json(item))).collect()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    fn check(&self, check: &HealthCheck) -> Option<RenderedCheck> {
        Some(match check {
            HealthCheck::Http { url, expect_status } => {
                RenderedCheck::Http { url: self.fill_whole(url)?, expect_status: *expect_status }
            }
            HealthCheck::Tcp { host, port } => {
                let port = match port {
                    CheckPort::Number(number) => *number,
                    CheckPort::Text(text) => match self.port(text, 0) {
                        Some(number) => number,
                        None => self.fill_whole(text)?.parse().ok()?,
                    },
                };
                RenderedCheck::Tcp { host: self.fill_whole(host)?, port }
            }
            HealthCheck::Command { command, expect_regex } => {
                let argv: Option<Vec<String>> =
                    command.words().into_iter().map(|word| self.fill_whole(word)).collect();
                RenderedCheck::Command { argv: argv?, expect_regex: expect_regex.clone() }
            }
            HealthCheck::Notify { .. } => RenderedCheck::Notify,
            HealthCheck::Log { pattern } => RenderedCheck::Log { pattern: pattern.clone() },
        })
    }

    fn proxy(&self) -> Option<ListenOn> {
        let target = self.fill_whole(self.spec.activation.proxy.as_deref()?)?;
        Some(match ListenOn::parse_target(&target).ok()? {
            ListenOn::Unix(path) => ListenOn::Unix(self.absolute(&path.to_string_lossy())),
            tcp @ ListenOn::Tcp(_) => tcp,
        })
    }

    /// Those whose addresses are none, which no manifest has, are left out.
    fn sockets(&self) -> Vec<RenderedSocket> {
        let rendered = self.spec.sockets.iter().filter_map(|(name, socket)| {
            let address = match ListenOn::parse(&self.fill_whole(&socket.listen)?).ok()? {
                ListenOn::Unix(path) => ListenOn::Unix(self.absolute(&path.to_string_lossy())),
                tcp @ ListenOn::Tcp(_) => tcp,
            };
            Some(RenderedSocket { name: name.clone(), address, mode: socket.mode })
        });
        rendered.collect()
    }

    fn port(&self, name: &str, index: u16) -> Option<u16> {
        ports::number_of(name, self.spec.ports.get(name)?, self.around.ports)?.get(index)
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
                Piece::Work => {
                    self.names_work.set(true);
                    match self.around.work {
                        Some(work) => filled.push_str(&work.to_string_lossy()),
                        None => filled.push_str(&text[place]),
                    }
                }
                Piece::Env(key) => match self.variable(key, links) {
                    Some(value) => filled.push_str(&value),
                    None => filled.push_str(&text[place]),
                },
                Piece::Port(name, index) => match self.port(name, index) {
                    Some(number) => filled.push_str(&number.to_string()),
                    None => {
                        self.misses_a_port.set(true);
                        filled.push_str(&text[place]);
                    }
                },
                Piece::Var(_) | Piece::Unknown(_) | Piece::Unclosed(_) => filled.push_str(&text[place]),
            }
        }
        Cow::Owned(filled)
    }

    fn variable(&self, key: &str, links: usize) -> Option<String> {
        let (key, value) = self.spec.env.get_key_value(key)?;
        if let Some((done, misses_a_port)) = self.env.borrow().get(key.as_str()) {
            self.misses_a_port.set(self.misses_a_port.get() || *misses_a_port);
            return Some(done.clone());
        }
        // As written while it is being filled in: what a circle comes back to.
        self.env.borrow_mut().insert(key, (value.clone(), false));
        let (filled, misses_a_port) = self.noting(|| self.fill_at(value, links + 1).into_owned());
        self.env.borrow_mut().insert(key, (filled.clone(), misses_a_port));
        Some(filled)
    }

    fn cwd(&self, links: usize) -> String {
        let filled = match self.cwd.get() {
            Some(_) => None,
            None => Some(self.noting(|| self.chosen_cwd(links + 1).to_string_lossy().into_owned())),
        };
        let (done, misses_a_port) = self.cwd.get_or_init(|| filled.expect("it was not there"));
        self.misses_a_port.set(self.misses_a_port.get() || *misses_a_port);
        done.clone()
    }

    fn chosen_cwd(&self, links: usize) -> PathBuf {
        let filled = self.path(&self.spec.cwd, links);
        self.around.cwd.map_or(filled, Path::to_owned)
    }

    /// Relative ones start at the project directory.
    fn path(&self, text: &str, links: usize) -> PathBuf {
        self.absolute(&self.fill_at(text, links))
    }

    fn absolute(&self, written: &str) -> PathBuf {
        let in_home = written.strip_prefix("~/").or((written == "~").then_some(""));
        let joined = match (in_home, self.around.home) {
            (Some(below), Some(home)) => home.join(below.trim_start_matches('/')),
            _ => self.around.project_dir.join(written),
        };
        // `.` alone is taken out: `..` is the kernel's to resolve, after links.
        joined.components().filter(|component| *component != Component::CurDir).collect()
    }
}

#[cfg(test)]
mod tests;

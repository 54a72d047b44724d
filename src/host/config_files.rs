//! Finds and reads the configuration: the operator's file, and the machine's ceiling above it.
//!
//! Believes no file that somebody else could have written. The texts are parsed in `policy`. Called by
//! `commands` at the start and on SIGHUP.

mod seen;

use std::fs::Metadata;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::resolve::open_regular;
use super::trust;
use crate::manifest::{Problem, Severity};
use crate::policy::{Config, parse_config};

pub use seen::{Change, Seen};

/// The machine's own rules, which other configurations can only tighten.
pub const CEILING: &str = "/etc/reconcile/config.toml";

/// In the working directory.
pub const FILE_NAME: &str = "reconcile.toml";

/// A larger file is not a configuration.
const MAX_BYTES: u64 = 1 << 20;

/// A configuration was there and is not taken, because others could have written it.
const IGNORED: &str = "config-ignored";

/// The configuration in force, and where it is from.
#[derive(Debug, Clone, Default)]
pub struct LoadedConfig {
    pub config: Config,
    /// Those that were read: the operator's, then the ceiling.
    pub files: Vec<ConfigFile>,
    /// Warnings, each with the file it is about.
    pub problems: Vec<(PathBuf, Problem)>,
    /// Every place that was looked at, to tell later whether it has changed.
    pub seen: Seen,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    pub path: PathBuf,
    /// For diagnostics.
    pub text: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration {} cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the configuration {} is not to be trusted: {why}", path.display())]
    Unsafe { path: PathBuf, why: String },
    #[error(
        "the configuration {} is inside the manifest directory {}: whoever writes manifests would write it",
        path.display(), root.display()
    )]
    InsideRoot { path: PathBuf, root: PathBuf },
    #[error("the configuration {} cannot be used: {}", at(path, problems), what(problems))]
    Invalid { path: PathBuf, text: String, problems: Vec<Problem> },
}

/// The file, and the line of its first problem.
fn at(path: &Path, problems: &[Problem]) -> String {
    let line = blocking(problems).next().and_then(|problem| problem.span);
    line.map_or_else(|| path.display().to_string(), |span| format!("{}:{}", path.display(), span.line))
}

/// The first problem, and how many more there are.
fn what(problems: &[Problem]) -> String {
    let mut blocking = blocking(problems);
    let first = blocking.next().map_or("it has problems", |problem| problem.message.as_str());
    match blocking.count() {
        0 => first.to_owned(),
        more => format!("{first} (and {more} more)"),
    }
}

fn blocking(problems: &[Problem]) -> impl Iterator<Item = &Problem> {
    problems.iter().filter(|problem| problem.blocks())
}

impl ConfigError {
    /// Stable, kebab-case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "config-unreadable",
            Self::Unsafe { .. } => "config-unsafe",
            Self::InsideRoot { .. } => "config-inside-root",
            Self::Invalid { .. } => "config-invalid",
        }
    }
}

/// Where configurations are looked for.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Given by name: must be there.
    pub explicit: Option<PathBuf>,
    /// The working directory.
    pub here: Option<PathBuf>,
    /// The user's own.
    pub user: Option<PathBuf>,
    pub ceiling: Option<PathBuf>,
}

impl Places {
    /// `explicit` (or else `$RECONCILE_CONFIG`), the working directory, `$XDG_CONFIG_HOME`, and [`CEILING`].
    pub fn of_process(explicit: Option<&Path>) -> Self {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let named = std::env::var_os("RECONCILE_CONFIG").filter(|name| !name.is_empty());
        let config_home = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
        Self {
            explicit: explicit.map(Path::to_owned).or_else(|| named.map(PathBuf::from)),
            here: std::env::current_dir().ok(),
            user: config_home.map(|dir| dir.join("reconcile/config.toml")),
            ceiling: Some(PathBuf::from(CEILING)),
        }
    }

    /// Every path at which a file could be taken.
    fn candidates(&self) -> impl Iterator<Item = PathBuf> {
        let found = [self.here.as_ref().map(|dir| dir.join(FILE_NAME)), self.user.clone()];
        let chosen = match &self.explicit {
            Some(path) => vec![path.clone()],
            None => found.into_iter().flatten().collect(),
        };
        chosen.into_iter().chain(self.ceiling.clone())
    }
}

/// Loads the configuration for `roots`: the first of `--config`, `$RECONCILE_CONFIG`, `./reconcile.toml` and
/// the user's own that is there, under the ceiling. None at all is an empty one.
pub fn load(explicit: Option<&Path>, roots: &[PathBuf]) -> Result<LoadedConfig, ConfigError> {
    load_from(&Places::of_process(explicit), roots)
}

/// As [`load`], from other places.
pub fn load_from(places: &Places, roots: &[PathBuf]) -> Result<LoadedConfig, ConfigError> {
    let mut loaded = LoadedConfig { seen: Seen::look(places.candidates()), ..LoadedConfig::default() };
    if let Some(path) = choose(places, roots, &mut loaded) {
        refuse_inside_root(&path, roots)?;
        loaded.config = read_into(path, &mut loaded)?;
    }
    let ceiling = places.ceiling.as_ref().filter(|path| is_there(path));
    if let Some(path) = ceiling {
        let ceiling = read_into(path.clone(), &mut loaded)?;
        let (config, warnings) = loaded.config.under(ceiling);
        loaded.config = config;
        let about = loaded.files[0].path.clone();
        loaded.problems.extend(warnings.into_iter().map(|problem| (about.clone(), problem)));
    }
    Ok(loaded)
}

fn choose(places: &Places, roots: &[PathBuf], loaded: &mut LoadedConfig) -> Option<PathBuf> {
    if places.explicit.is_some() {
        return places.explicit.clone();
    }
    let here = places.here.as_ref().map(|dir| (dir, dir.join(FILE_NAME))).filter(|(_, path)| is_there(path));
    if let Some((dir, path)) = here {
        let inside = roots.iter().find(|root| is_inside(&path, root));
        let why = match inside {
            Some(root) => Some(format!("it is inside the manifest directory {}", root.display())),
            None => trust::strangers(roots, dir),
        };
        let Some(why) = why else { return Some(path) };
        let message = format!("{FILE_NAME} is not taken: {why}");
        let help = "give it by name with `--config` if you mean it, from a place that only you can write";
        loaded.problems.push((path, Problem::warning(IGNORED, message).help(help)));
    }
    places.user.clone().filter(|path| is_there(path))
}

/// Something is there, be it a link that leads nowhere: a configuration that cannot be read is never silent.
fn is_there(path: &Path) -> bool {
    !matches!(path.symlink_metadata(), Err(error) if is_absence(&error))
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn refuse_inside_root(path: &Path, roots: &[PathBuf]) -> Result<(), ConfigError> {
    match roots.iter().find(|root| is_inside(path, root)) {
        Some(root) => Err(ConfigError::InsideRoot { path: path.to_owned(), root: root.clone() }),
        None => Ok(()),
    }
}

/// By where the name is and by where it leads.
fn is_inside(path: &Path, root: &Path) -> bool {
    let Ok(root) = std::fs::canonicalize(root) else { return false };
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let places = [std::fs::canonicalize(path), std::fs::canonicalize(parent)];
    places.into_iter().flatten().any(|place| place.starts_with(&root))
}

fn read_into(path: PathBuf, loaded: &mut LoadedConfig) -> Result<Config, ConfigError> {
    let (text, metadata) =
        read(&path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
    trust::config_is_safe(&path, &metadata).map_err(|why| ConfigError::Unsafe { path: path.clone(), why })?;
    let (config, problems) = parse_config(&text);
    if problems.iter().any(|problem| problem.severity == Severity::Invalid) {
        return Err(ConfigError::Invalid { path, text, problems });
    }
    loaded.problems.extend(problems.into_iter().map(|problem| (path.clone(), problem)));
    loaded.seen.was_read(&path, &metadata);
    loaded.files.push(ConfigFile { path, text });
    Ok(config)
}

fn read(path: &Path) -> io::Result<(String, Metadata)> {
    let file = open_regular(path)?;
    let metadata = file.metadata()?;
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok((text, metadata))
}

#[cfg(test)]
mod tests;

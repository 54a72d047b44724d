//! Where everything is, worked out from the options of a command: roots, state directory, configuration.
//!
//! Looks and writes nothing. Called by `session`.

use std::path::{Path, PathBuf};

use super::Settings;
use super::options::Options;
use crate::host::config_files::{self, ConfigError, LoadedConfig};
use crate::host::state_dir::{Environment, RootPlace, StateDir, StateDirError, Wanted};
use crate::host::{StateLayout, trust};
use crate::identity::InstanceId;
use crate::manifest::Problem;
use crate::policy::{Policy, Trust};

#[derive(Debug)]
pub(super) struct Place {
    pub roots: Vec<RootPlace>,
    pub project_dir: PathBuf,
    environment: Environment,
}

impl Place {
    pub fn of(options: &Options) -> Self {
        let roots = roots(options).iter().map(|root| RootPlace::look(root)).collect::<Vec<_>>();
        let parent = |root: &RootPlace| root.path().parent().unwrap_or(Path::new("/")).to_owned();
        let project_dir = match &options.project_dir {
            Some(dir) => RootPlace::look(dir).path().to_owned(),
            None => roots.first().map_or_else(|| PathBuf::from("/"), parent),
        };
        Self { roots, project_dir, environment: Environment::of_process() }
    }

    pub fn wanted<'a>(&'a self, options: &'a Options) -> Wanted<'a> {
        Wanted {
            flag: options.state_dir.as_deref(),
            environment: &self.environment,
            project_dir: &self.project_dir,
            roots: &self.roots,
        }
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.roots.iter().map(|root| root.path().to_owned()).collect()
    }

    pub fn config(&self, options: &Options) -> Result<LoadedConfig, ConfigError> {
        let loaded = config_files::load(options.config.as_deref(), &self.paths())?;
        for (path, problem) in &loaded.problems {
            tracing::warn!(file = %path.display(), code = problem.code, "{}", problem.message);
        }
        Ok(loaded)
    }

    /// The configuration; or, for what only stops and looks, an empty one and why there is no other.
    pub fn config_if_usable(
        &self,
        options: &Options,
    ) -> Result<(LoadedConfig, Option<Problem>), ConfigError> {
        match self.config(options) {
            Err(error) if options.starts_nothing => {
                let why = shown(&error);
                tracing::warn!(
                    code = error.code(),
                    "{why}; this goes on without it: nothing is started, nor any stop command run"
                );
                Ok((LoadedConfig::default(), Some(Problem::new(error.code(), why))))
            }
            loaded => loaded.map(|loaded| (loaded, None)),
        }
    }

    pub fn trust(&self) -> Trust {
        trust::judge(&self.paths(), &self.project_dir)
    }

    pub fn policy(&self, loaded: &LoadedConfig, options: &Options) -> Policy {
        Policy::in_force(&loaded.config, self.trust(), &options.allow)
    }

    pub fn settings(&self, layout: StateLayout, instance: InstanceId, loaded: LoadedConfig) -> Settings {
        Settings {
            layout,
            instance,
            project_dir: self.project_dir.clone(),
            home: self.environment.home.clone(),
            config: loaded.config,
            watching: false,
        }
    }
}

/// On one line, with its cause.
pub(super) fn shown(error: &ConfigError) -> String {
    match error {
        ConfigError::Unreadable { source, .. } => format!("{error}: {source}"),
        ConfigError::Invalid { .. } | ConfigError::Unsafe { .. } | ConfigError::InsideRoot { .. } => {
            error.to_string()
        }
    }
}

/// The roots as given, or `manifests`.
pub fn roots(options: &Options) -> Vec<PathBuf> {
    if options.manifests.is_empty() { vec![PathBuf::from("manifests")] } else { options.manifests.clone() }
}

/// The state directory for these options; it need not exist yet.
pub fn state_dir(options: &Options) -> Result<PathBuf, StateDirError> {
    let place = Place::of(options);
    StateDir::path(&place.wanted(options))
}

/// Whether the state directory for these options is one that we may use, or not there yet.
pub fn find_state(options: &Options) -> Result<(), StateDirError> {
    let place = Place::of(options);
    StateDir::find(&place.wanted(options)).map(drop)
}

//! What a service takes from files, variables and commands: variables, secrets, and what a change of files is to it.

use std::time::Duration;

use super::{CommandLine, SignalName};

/// A file of variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFile {
    /// As written; relative to the project directory, `~/` is the home.
    pub path: String,
    /// It may be missing.
    pub optional: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    pub source: SecretSource,
    /// It may be missing.
    pub optional: bool,
    pub given_as: SecretForm,
}

/// How a service is given a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretForm {
    Variable,
    /// A file of this name in the directory that `CREDENTIALS_DIRECTORY` names.
    File,
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A path, as that of an `env_file`: its whole text.
    File(String),
    /// A variable of the reconciler.
    Env(String),
    /// The label of one that is worked out of the instance's own key.
    Derived(String),
    Command(SecretCommand),
}

/// What writes a secret to its standard output, run before each start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretCommand {
    /// Words, as written.
    pub argv: Vec<String>,
    /// Then it is killed, and has failed.
    pub timeout: Duration,
    /// Run this often beside what runs, too; another value is a restart. `None`: whatever it would say now does not count.
    pub refresh: Option<Duration>,
}

impl SecretCommand {
    pub const TIMEOUT: Duration = Duration::from_secs(10);
}

/// How it takes up files without a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    /// As `restart_on`.
    pub on: Vec<String>,
    /// Sent to the leader, if there is no command.
    pub signal: SignalName,
    /// Run beside it, in place of the signal.
    pub command: Option<CommandLine>,
    /// Then the command is killed, and has failed.
    pub timeout: Duration,
}

impl Default for Reload {
    fn default() -> Self {
        Self {
            on: Vec::new(),
            signal: SignalName(libc::SIGHUP),
            command: None,
            timeout: Duration::from_secs(10),
        }
    }
}

/// What follows when another file has the name of the executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExeChange {
    /// Shown as drift.
    Report,
    Ignore,
    Restart,
}

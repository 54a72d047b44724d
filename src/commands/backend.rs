//! Who carries out a command: the watcher that runs, or this process as the reconciler for a moment.
//!
//! The one file that knows both the control socket and the session. Everything above it asks with a
//! `Command` and gets an `Answer`.

use std::future::Future;
use std::path::{Path, PathBuf};

use super::exit_code::ExitCode;
use super::failure::Failure;
use crate::api::{Client, ClientError};
use crate::reconciler::command::{Answer, Command};
use crate::reconciler::inbox::Inbox;
use crate::reconciler::options::Options;
use crate::reconciler::status::{ManifestStatus, PassReport, Status};

/// What is seen without the lock and without a write.
#[derive(Debug)]
pub struct Observation {
    pub status: Status,
    pub plan: PassReport,
}

#[derive(Debug)]
pub enum Backend {
    Watcher(Client),
    Session(Box<Session>),
}

impl Backend {
    /// The watcher of the state directory, else a session of our own.
    pub fn open(options: &Options) -> Result<Self, Failure> {
        match watcher(options)? {
            Some(client) => Ok(Self::Watcher(client)),
            None => Ok(Self::Session(Box::new(Session::open(options)?))),
        }
    }

    pub fn is_watcher(&self) -> bool {
        matches!(self, Self::Watcher(_))
    }

    pub fn execute(&mut self, command: Command) -> Result<Answer, Failure> {
        match self {
            Self::Watcher(client) => ask(client, command),
            Self::Session(session) => block_on(session.execute(command))?,
        }
    }
}

/// A connection to the watcher of the state directory, if one runs.
pub fn watcher(options: &Options) -> Result<Option<Client>, Failure> {
    Client::connect(&state_dir(options)?).map_err(of_client)
}

pub fn ask(client: &mut Client, command: Command) -> Result<Answer, Failure> {
    client.ask(command).map_err(of_client)
}

fn of_client(error: ClientError) -> Failure {
    let help = match &error {
        ClientError::OtherVersion { .. } => "end it and start it again with this version",
        ClientError::Silent { .. } | ClientError::NoHello { .. } => {
            "it may be stopped or overloaded; `reconcile doctor` shows its pid"
        }
        _ => return Failure::new(ExitCode::Failed, error),
    };
    Failure::new(ExitCode::Failed, error).help(help)
}

/// Runs a future on a runtime of one thread, made for it.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(future))
}

// What follows stands in for `reconciler::session`, `manifest` and `host`, which are wired here.

/// The reconciler in this process.
#[derive(Debug)]
pub struct Session {
    state_dir: PathBuf,
}

impl Session {
    /// Becomes the reconciler of the state directory.
    pub fn open(options: &Options) -> Result<Self, Failure> {
        drop(state_dir(options)?);
        Err(not_wired())
    }

    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    pub async fn execute(&mut self, _command: Command) -> Result<Answer, Failure> {
        Err(not_wired())
    }

    /// Loops until shut down.
    pub async fn watch(&mut self, inbox: Inbox) -> Result<(), Failure> {
        drop(inbox);
        Err(not_wired())
    }
}

pub fn observe(options: &Options) -> Result<Observation, Failure> {
    Session::open(options).map(|_| unreachable!("no session is opened yet"))
}

/// Checks these files, or all below the roots.
pub fn validate(options: &Options, _files: &[PathBuf]) -> Result<Vec<ManifestStatus>, Failure> {
    Session::open(options).map(|_| vec![])
}

pub fn state_dir(options: &Options) -> Result<PathBuf, Failure> {
    options.state_dir.clone().ok_or_else(not_wired)
}

/// The roots as given, or `manifests`.
pub fn roots(options: &Options) -> Vec<PathBuf> {
    if options.manifests.is_empty() { vec![PathBuf::from("manifests")] } else { options.manifests.clone() }
}

/// The JSON schema of manifests.
pub fn schema() -> serde_json::Value {
    serde_json::json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object" })
}

/// The reference manifest: every field with its default, all of it commented out.
pub const REFERENCE: &str = "# Every field of a manifest.\n";

/// Becomes the keeper of a state directory.
pub fn keeper(_state_dir: &Path) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}

fn not_wired() -> Failure {
    Failure::message(ExitCode::Failed, "this build has no reconciler")
}

/// Logs of services.
pub mod logs {
    use std::io;
    use std::path::{Path, PathBuf};

    /// The last `lines` lines of a log, with their line ends; none there is empty.
    pub fn tail(path: &Path, lines: usize) -> io::Result<Vec<u8>> {
        let _ = (path, lines);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Reads on from where a log ends now.
    #[derive(Debug)]
    pub struct Follower {
        path: PathBuf,
    }

    impl Follower {
        pub fn new(path: &Path) -> Self {
            Self { path: path.to_owned() }
        }

        /// What was written since; empty if nothing was, or there is no log.
        pub fn poll(&mut self) -> io::Result<Vec<u8>> {
            let _ = self.path.as_path();
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}

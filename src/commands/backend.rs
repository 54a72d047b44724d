//! Who carries out a command: the watcher that runs, or this process as the reconciler for a moment.
//!
//! The one file that knows both the control socket and the session. Everything above it asks with a
//! `Command` and gets an `Answer`.

use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::report;
use crate::api::{Client, ClientError};
use crate::host::clock;
use crate::host::config_files::ConfigError;
use crate::host::state_dir::LockError;
use crate::reconciler::command::{Answer, Command};
use crate::reconciler::options::Options;
use crate::reconciler::preview::{self, Observation};
use crate::reconciler::session::{self, OpenError, Session};
use crate::reconciler::status::ManifestStatus;
use crate::reconciler::validate;
use crate::time::Clock;

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
            None => Ok(Self::Session(Box::new(open(options)?))),
        }
    }

    /// As [`Backend::open`]; while another reconciler is at work for a moment, as other commands are, it is waited for.
    /// `None`: it was called off.
    pub fn open_patiently(
        options: &Options,
        patience: Duration,
        mut is_called_off: impl FnMut() -> bool,
    ) -> Result<Option<Self>, Failure> {
        let began = clock::now();
        loop {
            match Self::open(options) {
                _ if is_called_off() => return Ok(None),
                // It has waited for a while already.
                Err(failure)
                    if failure.code == ExitCode::AnotherReconciler
                        && clock::now().left_of(&began, patience, Clock::Awake).is_some() => {}
                opened => return opened.map(Some),
            }
        }
    }

    /// As [`Backend::execute`]. Where this process is the reconciler, what is called off is left as it is, and is `None`.
    pub fn execute_until(
        self,
        command: Command,
        called_off: oneshot::Receiver<()>,
    ) -> Result<Option<Answer>, Failure> {
        match self {
            Self::Watcher(mut client) => ask(&mut client, command).map(Some),
            Self::Session(mut session) => block_on(async {
                tokio::select! {
                    answer = session.execute(command) => Some(answer),
                    _ = called_off => None,
                }
            }),
        }
    }

    pub fn is_watcher(&self) -> bool {
        matches!(self, Self::Watcher(_))
    }

    pub fn execute(&mut self, command: Command) -> Result<Answer, Failure> {
        match self {
            Self::Watcher(client) => ask(client, command),
            Self::Session(session) => block_on(session.execute(command)),
        }
    }
}

/// A connection to the watcher of the state directory, if one runs.
pub fn watcher(options: &Options) -> Result<Option<Client>, Failure> {
    Client::connect(&state_dir(options)?).map_err(|error| match (&error, session::find_state(options)) {
        // Somebody else's directory is why, and says what to do.
        (ClientError::Unreachable { .. }, Err(why)) => of_open(why.into()),
        (_, Ok(()) | Err(_)) => of_client(error),
    })
}

pub fn ask(client: &mut Client, command: Command) -> Result<Answer, Failure> {
    let busy = |pid| {
        // Whoever cannot be told waits all the same.
        let _ = writeln!(io::stderr(), "the watcher (pid {pid}) is busy with a pass; waiting for its answer");
    };
    client.ask_patiently(command, busy).map_err(of_client)
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

/// What a runtime and its signals open; without them it would panic.
const RUNTIME_DESCRIPTORS: usize = 12;

/// Runs a future on a runtime of one thread, made for it.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    crate::host::descriptors::there_are(RUNTIME_DESCRIPTORS)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(future))
}

/// Becomes the reconciler of the state directory.
pub fn open(options: &Options) -> Result<Session, Failure> {
    Session::open(options).map_err(of_open)
}

/// Looks without the lock and without a write.
pub fn observe(options: &Options) -> Result<Observation, Failure> {
    preview::observe(options).map_err(of_open)
}

/// Checks what these paths name, or all below the roots.
pub fn validate(options: &Options, paths: &[PathBuf]) -> Result<Vec<ManifestStatus>, Failure> {
    validate::validate(options, paths).map_err(of_open)
}

pub fn state_dir(options: &Options) -> Result<PathBuf, Failure> {
    session::state_dir(options).map_err(|error| of_open(error.into()))
}

fn of_open(error: OpenError) -> Failure {
    match error {
        OpenError::Lock(held @ LockError::Held(_)) => Failure::new(ExitCode::AnotherReconciler, held)
            .help("wait until it ends, or give another --state-dir"),
        OpenError::Config(error) => {
            let drawn = match &error {
                ConfigError::Invalid { path, text, problems } => {
                    Some(report::problems(report::Source { path, text: Some(text) }, problems))
                }
                ConfigError::Unreadable { .. }
                | ConfigError::Unsafe { .. }
                | ConfigError::InsideRoot { .. } => None,
            };
            let name = error.code();
            let failure = Failure::new(ExitCode::Failed, error).named(Some(name));
            match drawn {
                Some(drawn) => failure.drawn(drawn),
                None => failure,
            }
        }
        other => {
            let name = other.code();
            Failure::new(ExitCode::Failed, other).named(name)
        }
    }
}

pub fn roots(options: &Options) -> Vec<PathBuf> {
    session::roots(options)
}

/// Logs of services, as bytes: what a line is, is `report`'s business.
pub mod logs {
    use std::io;
    use std::path::Path;

    use crate::host::logs::{Follower as Lines, Line, LineEnd};

    /// The last `lines` lines of a log, with their line ends; none there is empty.
    pub fn tail(path: &Path, lines: usize) -> io::Result<Vec<u8>> {
        Ok(bytes(crate::host::logs::tail(path, lines)?))
    }

    /// Reads on in a log.
    #[derive(Debug)]
    pub struct Follower(Lines);

    impl Follower {
        /// Begins where the log ends now; the bytes are its last `lines` lines.
        pub fn open(path: &Path, lines: usize) -> io::Result<(Self, Vec<u8>)> {
            let (follower, before) = Lines::open(path, lines)?;
            Ok((Self(follower), bytes(before)))
        }

        /// What was written since; empty if nothing was, or there is no log.
        pub fn poll(&mut self) -> io::Result<Vec<u8>> {
            Ok(bytes(self.0.poll()?))
        }
    }

    fn bytes(lines: Vec<Line>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in lines {
            bytes.extend_from_slice(line.text.as_bytes());
            if line.end == LineEnd::Newline {
                bytes.push(b'\n');
            }
        }
        bytes
    }
}

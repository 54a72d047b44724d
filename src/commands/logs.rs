//! `reconcile logs`: what services have written, and go on writing.
//!
//! A terminal gets safe lines, a file or another program the bytes as they are. Services that appear while
//! a watcher runs join in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::args::LogsArgs;
use super::backend::{self, logs};
use super::exit_code::{Ended, ExitCode};
use super::failure::Failure;
use super::report::prefix::{Dress, Prefixer};
use super::{Run, act, status};
use crate::identity::ServiceId;
use crate::reconciler::command::{Answer, Command, Refusal};
use crate::reconciler::selection::{Selector, select};
use crate::reconciler::status::Status;

/// How often logs are read on: what a person takes for at once.
const POLL: Duration = Duration::from_millis(200);
/// How often the watcher is asked for new services.
const REFRESH: u32 = 10;

pub fn run(run: &Run<'_>, args: &LogsArgs) -> Result<Ended, Failure> {
    let names = run.names(&args.names);
    let status = status::current(&run.options)?;
    let mut services = match logs_of(&status, &names) {
        Ok(services) => services,
        Err(refusal) => return act::show_refusal(run, &refusal),
    };
    let mut reader = Reader::new(run, &services, args.names.len() == 1);
    if !args.follow {
        for (name, log) in &services {
            reader.show(run, name, &logs::tail(log, args.lines)?)?;
        }
        return reader.finish(run);
    }
    let mut followers = Followers::default();
    followers.join(&services, args.lines, |name, bytes| reader.show(run, name, bytes))?;
    for round in 1u32.. {
        std::thread::sleep(POLL);
        followers.poll(|name, bytes| reader.show(run, name, bytes))?;
        if run.console.reader_left() {
            break;
        }
        if round.is_multiple_of(REFRESH) && args.names.len() != 1 {
            services = newest(run, &names).unwrap_or(services);
            followers.join(&services, args.lines, |name, bytes| reader.show(run, name, bytes))?;
        }
    }
    Ok(ExitCode::Converged.into())
}

/// Name and log of each service that is meant.
fn logs_of(status: &Status, names: &[Selector]) -> Result<BTreeMap<String, PathBuf>, Refusal> {
    let parse = |name: &str| ServiceId::parse(name).ok();
    let selected = select(names, &status.labels())?;
    let meant = status.services.iter().filter(|s| parse(&s.name).is_some_and(|id| selected.contains(&id)));
    Ok(meant.map(|service| (service.name.clone(), service.log.clone())).collect())
}

/// The services as the watcher knows them now; `None` if there is no watcher (any more).
fn newest(run: &Run<'_>, names: &[Selector]) -> Option<BTreeMap<String, PathBuf>> {
    let mut client = backend::watcher(&run.options).ok()??;
    match backend::ask(&mut client, Command::Status).ok()? {
        Answer::Status(status) => logs_of(&status, names).ok(),
        Answer::Report(_) | Answer::Refused(_) => None,
    }
}

/// One follower a log.
#[derive(Default)]
pub struct Followers(BTreeMap<String, logs::Follower>);

impl Followers {
    /// Adds what is new, and hands on its last `lines` lines; what is followed already goes on.
    pub fn join<E>(
        &mut self,
        services: &BTreeMap<String, PathBuf>,
        lines: usize,
        mut show: impl FnMut(&str, &[u8]) -> Result<(), E>,
    ) -> Result<(), E>
    where
        E: From<std::io::Error>,
    {
        for (name, log) in services {
            if !self.0.contains_key(name) {
                let (follower, before) = logs::Follower::open(log, lines)?;
                self.0.insert(name.clone(), follower);
                show(name, &before)?;
            }
        }
        Ok(())
    }

    /// Hands on whatever was written since the last time.
    pub fn poll<E>(&mut self, mut show: impl FnMut(&str, &[u8]) -> Result<(), E>) -> Result<(), E>
    where
        E: From<std::io::Error>,
    {
        for (name, follower) in &mut self.0 {
            let bytes = follower.poll()?;
            if !bytes.is_empty() {
                show(name, &bytes)?;
            }
        }
        Ok(())
    }
}

/// Turns bytes of services into lines on stdout.
pub struct Reader {
    prefixer: Prefixer,
}

impl Reader {
    pub fn new(run: &Run<'_>, services: &BTreeMap<String, PathBuf>, alone: bool) -> Self {
        let dress = match (run.console.surroundings.stdout.is_terminal, alone) {
            (true, true) => Dress::Plain,
            (true, false) => Dress::Named,
            (false, true) => Dress::Raw,
            (false, false) => Dress::NamedRaw,
        };
        Self { prefixer: Prefixer::new(dress, services.keys().map(String::as_str)) }
    }

    pub fn show(&mut self, run: &Run<'_>, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let lines = self.prefixer.push(name, bytes);
        self.write(run, &lines)
    }

    pub fn finish(mut self, run: &Run<'_>) -> Result<Ended, Failure> {
        let rest = self.prefixer.finish();
        self.write(run, &rest)?;
        Ok(ExitCode::Converged.into())
    }

    fn write(&self, run: &Run<'_>, lines: &[u8]) -> Result<(), Failure> {
        match self.prefixer.dress() {
            // Safe lines are text, with the colours of the names.
            Dress::Named | Dress::Plain => run.console.print(&String::from_utf8_lossy(lines))?,
            Dress::NamedRaw | Dress::Raw => run.console.print_raw(lines)?,
        }
        Ok(())
    }
}

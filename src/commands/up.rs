//! `reconcile`, `reconcile up`: watch and reconcile until stopped.
//!
//! Puts four things beside each other on one thread: the loop, the signals, the orphans that come to us as the first
//! process of a container, and on a terminal somebody who shows what happens; and the control socket on another. Only
//! the loop decides anything; when it ends, all end.

use super::args::UpArgs;
use super::backend::{self, block_on};
use super::exit_code::{Ended, ExitCode};
use super::failure::Failure;
use super::report::escape::visible;
use super::signals::{Manners, Signals};
use super::spectator::Spectator;
use super::{Run, background};
use crate::api::Serving;
use crate::host::cgroup::Place;
use crate::host::descriptors;
use crate::host::first::Orphans;
use crate::identity::InstanceId;
use crate::plan::Phase;
use crate::reconciler::inbox::{InboxSender, inbox};
use crate::reconciler::session::Watched;
use crate::reconciler::status::Status;

/// Of what this watcher was not given.
const FOREIGN_ROOT: &str = "foreign-root";

pub fn run(run: &Run<'_>, args: &UpArgs) -> Result<Ended, Failure> {
    if args.detach {
        return background::run(run, args);
    }
    block_on(watch(run, args))?
}

async fn watch(run: &Run<'_>, args: &UpArgs) -> Result<Ended, Failure> {
    descriptors::raise_limit();
    // The lock comes first: who holds it owns the socket.
    let mut session = backend::open(&run.options)?;
    let place = args.in_background.then(|| take_place(session.instance())).flatten();
    let signals = Signals::catch()?;
    let orphans = Orphans::catch()?;
    let (sender, inbox) = inbox();
    let serving = Serving::start(session.state_dir(), sender.clone())?;
    let surroundings = &run.console.surroundings;
    let manners = Manners::new(args.leave, surroundings);
    let mut spectator = run.cli.is_spectated(surroundings).then(|| Spectator::new(run));

    let watched = tokio::select! {
        watched = session.watch(inbox) => watched,
        () = forever(signals.forward(&sender, manners, &run.console, &surroundings.began)) => unreachable!(),
        () = forever(orphans.reap()) => unreachable!(),
        () = forever(show(spectator.as_mut(), &sender)) => unreachable!(),
    };
    drop(sender);
    // The answers that were given are still on their way, that to `down` for one.
    serving.finish();
    let last = session.status();
    let left = if watched == Watched::Stopped { not_stopped(&last) } else { Vec::new() };
    if let Some(spectator) = spectator {
        spectator.finish(last);
    }
    if let Some(place) = place {
        place.leave();
    }
    let codes = if left.is_empty() { ExitCode::Converged } else { ExitCode::Failed };
    left.iter().for_each(|line| run.console.say(line));
    Ok(codes.into())
}

/// A line for each service that a shutdown could not stop.
fn not_stopped(status: &Status) -> Vec<String> {
    let held = status.services.iter().filter(|it| it.phase == Phase::Held && it.reason != FOREIGN_ROOT);
    held.map(|it| format!("{} is not stopped: {}", it.name, visible(&it.message))).collect()
}

/// Out of the unit of whoever started us, beside the keeper, where that can be: what is left behind tells otherwise.
fn take_place(instance: &InstanceId) -> Option<Place> {
    let place = Place::of_watcher(instance)?;
    match place.take() {
        Ok(()) => Some(place),
        Err(error) => {
            tracing::warn!("the watcher stays in the cgroup that it was started in: {error}");
            None
        }
    }
}

/// The loop ends by itself; its companions must not end it.
async fn forever(companion: impl Future<Output = ()>) {
    companion.await;
    std::future::pending::<()>().await;
}

async fn show(spectator: Option<&mut Spectator<'_>>, inbox: &InboxSender) {
    if let Some(spectator) = spectator {
        spectator.watch(inbox).await;
    }
}

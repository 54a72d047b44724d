//! What the program tells of its own work: `tracing` on stderr.

use tracing_subscriber::EnvFilter;

use crate::commands::args::{Cli, Command};
use crate::commands::surroundings::Surroundings;

/// Of this program alone: what the libraries say is theirs.
const VARIABLE: &str = "RECONCILE_LOG";

/// Begins logging. A watcher tells what it does, unless a person sees that anyway; everything else only
/// warns. `RECONCILE_LOG` says otherwise.
pub fn log_to_stderr(surroundings: &Surroundings, cli: &Cli) {
    let watches = cli.once.is_none() && matches!(cli.command, None | Some(Command::Up(_)));
    let spectated = surroundings.stdout.is_terminal && !cli.up_args().quiet;
    let level = if watches && !spectated { "reconcile=info" } else { "reconcile=warn" };
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(surroundings.stderr.colour)
        .with_target(false);
    // A second subscriber would be a bug of ours, and no reason to refuse the command.
    drop(subscriber.try_init());
}

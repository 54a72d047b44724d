//! What holds services up for somebody: `run --with` and `lease`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::duration;

#[derive(Debug, Clone, Subcommand)]
pub enum LeaseCommand {
    /// Start services, or share what runs of them, and hold them; wait until they are ready
    Acquire(AcquireArgs),

    /// Hold for a time from now on
    Renew(RenewArgs),

    /// Hold services, or all, no more
    Release(ReleaseArgs),

    /// Show who holds what, since when and until when
    List,
}

#[derive(Debug, Clone, Args)]
pub struct OwnerArgs {
    /// Who holds: a name that others do not use
    #[arg(long, value_name = "ID")]
    pub owner: String,
}

#[derive(Debug, Clone, Args)]
pub struct AcquireArgs {
    /// Services, as `name` or `project/name`
    #[arg(value_name = "NAME", required_unless_present = "labels")]
    pub names: Vec<String>,

    #[command(flatten)]
    pub owner: OwnerArgs,

    /// How long they are held unless that is renewed
    #[arg(long = "for", value_name = "TIME", value_parser = term, default_value = "10m")]
    pub term: Duration,

    /// How long they are waited for
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2m")]
    pub timeout: Duration,
}

#[derive(Debug, Clone, Args)]
pub struct RenewArgs {
    #[command(flatten)]
    pub owner: OwnerArgs,

    /// How long from now on [default: as long as before]
    #[arg(long = "for", value_name = "TIME", value_parser = term)]
    pub term: Option<Duration>,
}

#[derive(Debug, Clone, Args)]
pub struct ReleaseArgs {
    /// Services, as `name` or `project/name` [default: all that it holds]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,

    #[command(flatten)]
    pub owner: OwnerArgs,
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Services, as `name` or `project/name`; repeatable, or separated by commas
    #[arg(long, value_name = "NAME", required = true, value_delimiter = ',')]
    pub with: Vec<String>,

    /// How long they are waited for
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2m")]
    pub timeout: Duration,

    /// What to run, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Clone, Args)]
pub struct BecomeArgs {
    /// The descriptor of the word
    #[arg(value_name = "GATE")]
    pub gate: i32,

    /// What to become
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// As long as anybody may want, and not for ever: what nobody renews ends.
fn term(text: &str) -> Result<Duration, String> {
    const SECOND: Duration = Duration::from_secs(1);
    const YEAR: Duration = Duration::from_secs(366 * 24 * 60 * 60);
    let term = duration(text)?;
    if (SECOND..=YEAR).contains(&term) { Ok(term) } else { Err("it takes 1s to 366d".to_owned()) }
}

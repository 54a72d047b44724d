//! The command line as typed: every option, its environment variable and its help.
//!
//! Definitions only; [`Cli::parse_from`] in `parse` checks what clap cannot express. What paths mean and
//! whether a service exists is for those who know.

mod lease;
mod parse;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use lease::{BecomeArgs, LeaseCommand, OwnerArgs, RunArgs};

use crate::identity::Pid;
use crate::reconciler::command::WaitFor;
use crate::reconciler::selection::Wanted;

/// Make the processes on this machine match a directory of TOML manifests, and keep them so.
///
/// Put a manifest into `manifests/` and its service runs; edit it and only what changed is touched; delete
/// it and the service stops. Without a command, `reconcile` does that until it is stopped (`up`); with
/// `--once` it does it once, and exits.
#[derive(Debug, Parser)]
#[command(name = "reconcile", version, about, long_about, max_term_width = 100)]
#[command(after_help = "Start with `reconcile init`. `--help` also lists the exit codes.")]
#[command(after_long_help = parse::exit_codes())]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,

    /// Converge once and exit: make a pass, wait until everything (or each NAME) is ready or parked, print
    /// what was done. Services stay. A running watcher is asked to do it
    #[arg(long, num_args = 0.., value_name = "NAME", help_heading = "Without a command")]
    pub once: Option<Vec<String>>,

    /// Services for --once, as `name` or `project/name`
    #[arg(value_name = "NAME", hide = true)]
    pub names: Vec<String>,

    #[command(flatten)]
    pub up: UpArgs,

    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options that every command understands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArgs {
    /// Directory of manifests; repeatable [default: ./manifests]. In the environment several are
    /// separated by `:`
    #[arg(short, long, global = true, value_name = "DIR", env = "RECONCILE_MANIFESTS")]
    pub manifests: Vec<PathBuf>,

    /// Where relative paths in manifests start [default: the parent of the manifests]
    #[arg(long, global = true, value_name = "DIR", env = "RECONCILE_PROJECT_DIR")]
    pub project_dir: Option<PathBuf>,

    /// Where ledger, logs and sockets are kept [default: below $XDG_STATE_HOME/reconcile]
    #[arg(long, global = true, value_name = "DIR", env = "RECONCILE_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// Policy and configuration [default: ./reconcile.toml, then that of the user]
    #[arg(long, global = true, value_name = "FILE", env = "RECONCILE_CONFIG")]
    pub config: Option<PathBuf>,

    /// Allow this executable for this run; repeatable, or separated by commas
    #[arg(long, global = true, value_name = "NAME", env = "RECONCILE_ALLOW", value_delimiter = ',')]
    pub allow: Vec<String>,

    /// Only this project: bare names belong to it, and no name means all of it
    #[arg(long, global = true, value_name = "PROJECT", env = "RECONCILE_PROJECT", value_parser = project)]
    pub project: Option<String>,

    /// Only services with this label: `key=value`, `key!=value`, or `key`; repeatable, or separated by commas,
    /// and all must hold
    #[arg(short, long = "label", global = true, value_name = "LABEL", env = "RECONCILE_LABELS")]
    #[arg(value_delimiter = ',')]
    pub labels: Vec<Wanted>,

    /// How results are printed
    #[arg(short, long, global = true, value_name = "FORMAT", env = "RECONCILE_OUTPUT")]
    #[arg(value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// Options of `up`, which is also what runs without a command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Without a command, or with `up`")]
pub struct UpArgs {
    /// Run in the background: return once the first pass is done
    #[arg(short, long)]
    pub detach: bool,

    /// Do not show the services' output
    #[arg(short, long)]
    pub quiet: bool,

    /// Leave the services running when stopped by a signal
    #[arg(long)]
    pub leave: bool,

    /// Carry out removals that a guard would hold
    #[arg(long)]
    pub allow_prune: bool,

    /// Treat a copied state directory as a new instance that owns nothing yet
    #[arg(long)]
    pub new_instance: bool,

    /// How long --once waits for services to be ready, and --detach for the first pass [default: 2m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,

    /// We are the background half of `--detach`.
    #[arg(long, hide = true)]
    pub in_background: bool,
}

impl UpArgs {
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(120))
    }
}

#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Watch and reconcile until stopped (the default)
    ///
    /// On a terminal the services' output is shown, prefixed with their names. Ctrl-C stops the services in
    /// reverse order, a second Ctrl-C kills them. SIGTERM likewise; under a service manager, or with
    /// `--leave`, the services go on. SIGHUP reads the configuration anew (on a terminal: as Ctrl-C).
    Up(UpArgs),

    /// Show what a pass would do, and change nothing
    Plan(PlanArgs),

    /// Check manifests against the policy in force, and show all problems
    Validate(ValidateArgs),

    /// Show services: phase, pid, uptime, restarts, CPU, memory, ports, reason
    ///
    /// With NAMEs: all about each, and exit code 0 if all are up, 3 if one is not, 4 if that is unknown of one.
    #[command(visible_alias = "ps")]
    Status(StatusArgs),

    /// Wait until services are ready, or stopped
    Wait(WaitArgs),

    /// Show what services have written
    ///
    /// Without a NAME: those of all services, each line prefixed with its service.
    Logs(LogsArgs),

    /// Stop services until `start` or `restart`; survives edits and reboot
    Stop(Names),

    /// Start stopped services
    Start(Names),

    /// Restart services; also starts stopped and failed ones
    Restart(Names),

    /// Take services out of `failed` or `backoff`
    Reset(Names),

    /// Count the TTL of services from now; revives expired ones
    Renew(Names),

    /// Stop everything in reverse order; a watcher then exits
    ///
    /// With `--project` each service of that project is stopped as by `stop`, and the watcher goes on.
    Down(DownArgs),

    /// Start services, or share what runs of them; wait until they are ready, and say where they are
    ///
    /// Counts as a use, and so keeps a service with `activation.idle` from being stopped. One that has failed is
    /// refused with its reason.
    Ensure(EnsureArgs),

    /// Say that services are used at this moment
    Touch(Names),

    /// Run a command that holds services for as long as it runs
    ///
    /// Starts the services or shares what runs of them, waits until they are ready, and runs COMMAND with their addresses
    /// in RECONCILE_<NAME>_URL, RECONCILE_<NAME>_PORT and RECONCILE_<NAME>_PORT_<NAME>. What only it has used is
    /// stopped with it, as `stop_policy` says. Exits as COMMAND does, with 128 and the number of the signal that ended it.
    Run(RunArgs),

    /// Hold services for a time, for whoever is no process
    #[command(subcommand)]
    Lease(LeaseCommand),

    /// Say which process a held service's leader is
    ///
    /// For a service whose claim cannot be proved: what contains it is known, its leader is not.
    Adopt(AdoptArgs),

    /// Drop the claim on held services; no process is touched
    Forget(Names),

    /// Remove services although a guard holds their removal
    Prune(Names),

    /// Claim what a copied state directory names
    Takeover,

    /// Print who depends on whom, for Graphviz or Mermaid
    Graph(GraphArgs),

    /// Print a derived secret of a service
    Secret(SecretArgs),

    /// Create `manifests/` with an example and the reference of all fields
    Init,

    /// Print the JSON schema of manifests, or write it for editors
    Schema(SchemaArgs),

    /// Show what this machine offers, and what is used in place of what it does not
    Doctor,

    /// Print a completion script for a shell
    Completions(CompletionsArgs),

    /// Hold the services of a state directory. Started by `reconcile` itself.
    #[command(hide = true)]
    Keeper(KeeperArgs),

    /// Wait for the word to begin, and become a command. Started by `reconcile run` itself.
    #[command(hide = true)]
    Become(BecomeArgs),
}

#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// Services, as `name` or `project/name` [default: all]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,

    /// Exit with 2 if there is something to change
    #[arg(long)]
    pub detailed_exitcode: bool,

    /// Plan removals that a guard would hold
    #[arg(long)]
    pub allow_prune: bool,
}

#[derive(Debug, Clone, Args)]
pub struct ValidateArgs {
    /// Manifest files, and directories of them [default: the manifest directories]
    #[arg(value_name = "PATH", value_parser = PathBufValueParser::new().try_map(not_stdin))]
    pub paths: Vec<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Services, as `name`, `project/name`, or `project/*` [default: a table of all]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Services, as `name` or `project/name`
    #[arg(value_name = "NAME", required_unless_present = "labels")]
    pub names: Vec<String>,

    /// What to wait for
    #[arg(long = "for", value_name = "WHAT", value_enum, default_value_t = Until::Ready)]
    pub until: Until,

    /// How long
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2m")]
    pub timeout: Duration,
}

#[derive(Debug, Clone, Args)]
pub struct EnsureArgs {
    /// Services, as `name` or `project/name`
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,

    /// How long they are waited for
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2m")]
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Until {
    /// Up, and healthy if there is a health check
    Ready,
    /// No process of it is left
    Stopped,
}

impl From<Until> for WaitFor {
    fn from(until: Until) -> Self {
        match until {
            Until::Ready => Self::Ready,
            Until::Stopped => Self::Stopped,
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// Services, as `name` or `project/name` [default: all]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,

    /// Go on as more is written, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,

    /// Newest lines to begin with, of each service
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 100)]
    pub lines: usize,
}

#[derive(Debug, Clone, Args)]
pub struct Names {
    /// Services, as `name` or `project/name`
    #[arg(value_name = "NAME", required_unless_present = "labels")]
    pub names: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct DownArgs {
    /// Remove the logs, too, also those of services that are not declared any more
    #[arg(long)]
    pub purge: bool,
}

#[derive(Debug, Clone, Args)]
pub struct AdoptArgs {
    /// A service, as `name` or `project/name`
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Of the process that is to be the service's leader
    #[arg(long, value_name = "PID", value_parser = pid)]
    pub pid: Pid,
}

#[derive(Debug, Clone, Args)]
pub struct SchemaArgs {
    /// Write `reconcile.schema.json` into each manifest directory instead, where `#:schema` finds it
    #[arg(long)]
    pub write: bool,
}

#[derive(Debug, Clone, Args)]
pub struct SecretArgs {
    /// Of the service, or `project/name`
    pub name: String,

    /// As in `derive = "LABEL"`
    pub label: String,
}

#[derive(Debug, Clone, Args)]
pub struct GraphArgs {
    /// The language of the graph
    #[arg(long, value_name = "LANGUAGE", value_enum, default_value_t = GraphFormat::Dot)]
    pub format: GraphFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    Dot,
    Mermaid,
}

#[derive(Debug, Clone, Args)]
pub struct KeeperArgs {
    /// The state directory
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::manifest::parse_duration(text).map_err(|error| format!("{error}; write `90s` or `2m`"))
}

fn not_stdin(path: PathBuf) -> Result<PathBuf, &'static str> {
    if path.as_os_str() == "-" {
        return Err("standard input is not read; name a file or a directory");
    }
    Ok(path)
}

fn project(text: &str) -> Result<String, String> {
    crate::identity::check_name(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn pid(text: &str) -> Result<Pid, String> {
    let raw = text.parse::<i32>().map_err(|error| error.to_string())?;
    Pid::new(raw).ok_or_else(|| "a pid is greater than 1".to_owned())
}

//! From words to a checked [`Cli`], and from there to what a session is opened with.
//!
//! Here is what clap cannot express: a list of directories in a variable, `reconcile NAME` without `--once`,
//! options of `up` that another command would silently ignore. Every error is a usage error, code 64.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::{Cli, Command, Format, GlobalArgs, LeaseCommand, UpArgs};
use crate::commands::exit_code::ExitCode;
use crate::commands::surroundings::Surroundings;
use crate::reconciler::options::Options;
use crate::reconciler::selection::Selector;
use crate::reconciler::status::ServiceStatus;

impl Cli {
    /// Parses a command line; `Err` prints itself, help and version included.
    pub fn parse_from(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let matches = without_empty_variables(Self::command()).try_get_matches_from(line)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        cli.split_manifests(&matches);
        cli.gather_names()?;
        cli.refuse_strays()?;
        Ok(cli)
    }

    /// The variable holds a list as PATH does; on the command line a path may contain a colon.
    fn split_manifests(&mut self, matches: &ArgMatches) {
        if matches.value_source("manifests") == Some(ValueSource::EnvVariable) {
            let given = std::mem::take(&mut self.global.manifests);
            let parts = given.iter().flat_map(std::env::split_paths);
            self.global.manifests = parts.filter(|path| !path.as_os_str().is_empty()).collect();
        }
    }

    /// `--once a --timeout 5s b` names two services.
    fn gather_names(&mut self) -> Result<(), clap::Error> {
        let Some(first) = self.names.first() else { return Ok(()) };
        match &mut self.once {
            Some(once) => once.append(&mut self.names),
            None => return Err(unknown_command(first)),
        }
        Ok(())
    }

    /// Options that would be silently without effect.
    fn refuse_strays(&self) -> Result<(), clap::Error> {
        let up = &self.up;
        let message = match (&self.once, &self.command) {
            (Some(_), Some(_)) => "--once stands alone; names of services come right after it",
            (None, Some(_)) if *up != UpArgs::default() => {
                "options of `up` come after a command, not before it"
            }
            (Some(_), None) if up.detach || up.leave || up.quiet => {
                "--detach, --leave and --quiet are for watching, not for --once"
            }
            (None, None | Some(Command::Up(_)))
            | (_, Some(Command::Adopt(_) | Command::Takeover | Command::Validate(_)))
                if !self.global.labels.is_empty() =>
            {
                "--label chooses services for a command about some of them, and this is about all, or one"
            }
            _ if self.up_args().timeout.is_some() && self.once.is_none() && !self.up_args().detach => {
                "--timeout is for --once or --detach"
            }
            _ => return Ok(()),
        };
        Err(Self::command().error(ErrorKind::ArgumentConflict, message))
    }

    /// The options of `up` in force, wherever they were given.
    pub fn up_args(&self) -> &UpArgs {
        match &self.command {
            Some(Command::Up(up)) => up,
            _ => &self.up,
        }
    }

    /// A person sees at a terminal what a watcher of this command line does.
    pub fn is_spectated(&self, surroundings: &Surroundings) -> bool {
        surroundings.stdout.is_terminal && !self.up_args().quiet && self.global.output == Format::Text
    }

    /// What a session is opened with.
    pub fn options(&self) -> Options {
        let GlobalArgs { manifests, project_dir, state_dir, config, allow, project: _, labels: _, output: _ } =
            self.global.clone();
        let up = self.up_args();
        let plan_allows = matches!(&self.command, Some(Command::Plan(plan)) if plan.allow_prune);
        Options {
            manifests,
            project_dir,
            state_dir,
            config,
            allow,
            allow_prune: up.allow_prune || plan_allows,
            new_instance: up.new_instance,
            once: self.once.is_some(),
            starts_nothing: self.command.as_ref().is_some_and(starts_nothing),
        }
    }
}

/// Stopping and looking must always be possible.
fn starts_nothing(command: &Command) -> bool {
    use Command::{Down, Lease, Logs, Status, Stop, Wait};
    let lets_go = |lease: &LeaseCommand| matches!(lease, LeaseCommand::Release(_) | LeaseCommand::List);
    matches!(command, Status(_) | Logs(_) | Wait(_) | Stop(_) | Down(_))
        || matches!(command, Lease(lease) if lets_go(lease))
}

impl GlobalArgs {
    /// Names as typed, of those with the labels that were given: without a name all of the project, or of all.
    pub fn selectors(&self, names: &[String]) -> Vec<Selector> {
        let labelled = |name| Selector::labelled(name, &self.labels);
        if names.is_empty() {
            return labelled(self.project.as_ref().map(|project| format!("{project}/*")))
                .into_iter()
                .collect();
        }
        names.iter().filter_map(|name| labelled(Some(self.in_project(name)))).collect()
    }

    /// A name as typed, seen from `--project`: `web` becomes `shop/web`.
    pub fn in_project(&self, name: &str) -> String {
        match &self.project {
            Some(project) if !name.contains('/') => format!("{project}/{name}"),
            Some(_) | None => name.to_owned(),
        }
    }

    /// It is of the project and has the labels that were given.
    pub fn is_about(&self, service: &ServiceStatus) -> bool {
        self.project.as_ref().is_none_or(|project| service.project == *project)
            && self.labels.iter().all(|wanted| wanted.is_met(&service.labels))
    }
}

impl GlobalArgs {
    /// The same options as words, for a process that is started with them.
    pub fn to_words(&self) -> Vec<OsString> {
        let option = |name: &str, value: &OsStr| {
            let mut word = OsString::from(name);
            word.push("=");
            word.push(value);
            word
        };
        let path = |name, path: &Path| option(name, path.as_os_str());
        let mut words: Vec<OsString> = self.manifests.iter().map(|dir| path("--manifests", dir)).collect();
        words.extend(self.project_dir.as_deref().map(|dir| path("--project-dir", dir)));
        words.extend(self.state_dir.as_deref().map(|dir| path("--state-dir", dir)));
        words.extend(self.config.as_deref().map(|file| path("--config", file)));
        words.extend(self.allow.iter().map(|name| option("--allow", OsStr::new(name))));
        words.extend(self.project.as_deref().map(|name| option("--project", OsStr::new(name))));
        words
    }
}

/// The end of `--help`.
pub(super) fn exit_codes() -> String {
    let lines = ExitCode::ALL.iter().map(|code| format!("{:>4}  {}\n", code.value(), code.meaning()));
    let lines: String = lines.collect();
    format!("Exit codes, the first that applies:\n{lines}\nStart with `reconcile init`.")
}

/// A variable that is set and empty is not set: what CI systems make of one that is not defined.
fn without_empty_variables(mut command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let empty: Vec<_> = command
        .get_arguments()
        .filter(|arg| arg.get_env().is_some_and(is_empty))
        .map(|arg| arg.get_id().clone())
        .collect();
    for id in empty {
        command = command.mut_arg(id, |arg| arg.env(Resettable::Reset));
    }
    command
}

fn unknown_command(word: &str) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    let names: Vec<String> = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .flat_map(|sub| std::iter::once(sub.get_name()).chain(sub.get_visible_aliases()))
        .map(str::to_owned)
        .collect();
    let meant = names.iter().min_by_key(|name| strsim::osa_distance(word, name));
    let meant = meant.filter(|name| strsim::osa_distance(word, name) <= (word.len() / 3).max(1));
    let hint = meant.map_or_else(String::new, |name| format!("\n\n  tip: there is a command `{name}`"));
    let message = format!("there is no command `{word}`; services are named after --once{hint}");
    command.error(ErrorKind::InvalidSubcommand, message)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let words = std::iter::once("reconcile").chain(line.split_whitespace());
        Cli::parse_from(words.map(OsString::from))
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn once_takes_names_before_and_after_other_options() {
        assert_eq!(parse("--once").unwrap().once, Some(vec![]));
        let cli = parse("--once web --timeout 5s api -o json").unwrap();
        assert_eq!(cli.once, Some(vec!["web".to_owned(), "api".to_owned()]));
        assert_eq!(cli.up_args().timeout(), Duration::from_secs(5));
        assert!(cli.options().once);
    }

    #[test]
    fn a_service_may_have_the_name_of_a_command() {
        let cli = parse("-m dir --once logs status").unwrap();
        assert_eq!(cli.once, Some(vec!["logs".to_owned(), "status".to_owned()]));
        assert!(cli.command.is_none());
    }

    #[test]
    fn a_mistyped_command_is_not_taken_for_a_service() {
        let error = parse("statsu").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSubcommand);
        assert!(error.to_string().contains("`status`"), "{error}");
    }

    #[test]
    fn options_of_up_do_not_get_lost_before_a_command() {
        for line in ["--quiet status", "-l a=b", "up -d -l a", "takeover -l a", "adopt web --pid 4711 -l a"] {
            assert_eq!(parse(line).unwrap_err().kind(), ErrorKind::ArgumentConflict, "{line}");
        }
        assert!(parse("--quiet").unwrap().up_args().quiet);
        assert!(parse("up --quiet").unwrap().up_args().quiet);
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for line in ["-m a -m b:c -o json status", "status -m a -m b:c -o json"] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.global.manifests, [PathBuf::from("a"), PathBuf::from("b:c")], "{line}");
            assert_eq!(cli.global.output, Format::Json, "{line}");
        }
    }

    #[test]
    fn names_are_seen_from_the_project() {
        let selectors = |line: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let selectors = parse(line).unwrap().global.selectors(&names);
            selectors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(selectors("--project shop status", &[]), ["shop/*"]);
        assert_eq!(selectors("--project shop status", &["web", "other/db"]), ["shop/web", "other/db"]);
        assert_eq!(selectors("status", &[]), [""; 0]);
        assert_eq!(selectors("status -l a=b --label c", &[]), ["-l a=b -l c"]);
        assert_eq!(selectors("--project shop status -l a!=b", &[]), ["shop/* -l a!=b"]);
        assert_eq!(selectors("--project shop status -l a!=b", &["web"]), ["shop/web -l a!=b"]);
        assert_eq!(selectors("stop -l a=b,c", &[]), ["-l a=b -l c"], "no name is needed");
    }

    #[test]
    fn global_options_survive_being_written_as_words() {
        let line = "-m a:b -m c --project-dir d --state-dir e --config f --allow g --project h";
        let global = parse(line).unwrap().global;
        let words = std::iter::once("reconcile".into()).chain(global.to_words());
        let again = Cli::parse_from(words).unwrap().global;
        assert_eq!(format!("{global:?}"), format!("{again:?}"));
    }

    #[test]
    fn what_cannot_be_meant_is_a_usage_error() {
        for line in
            ["stop", "adopt web --pid 1", "adopt web", "wait", "wait web --timeout 5", "--project A up"]
        {
            assert!(parse(line).unwrap_err().use_stderr(), "{line}");
        }
    }

    #[test]
    fn every_option_and_command_has_a_help_text() {
        let mut command = Cli::command();
        command.build();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            for arg in sub.get_arguments().filter(|_| sub.get_name() != "help") {
                assert!(arg.get_help().is_some(), "{} {}", sub.get_name(), arg.get_id());
            }
        }
    }

    #[test]
    fn every_global_option_has_its_environment_variable() {
        let command = Cli::command();
        for arg in command.get_arguments().filter(|arg| arg.is_global_set()) {
            let variable = format!("RECONCILE_{}", arg.get_id().as_str().to_uppercase());
            assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(variable.as_str()));
        }
    }
}

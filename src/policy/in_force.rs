//! The policy in force: the configuration, its ceiling, whom we trust, and what this run allows.
//!
//! Pure. Made once per configuration, and anew when it turns out that others can write manifests; `reconciler` has the host resolve the entries
//! ([`Policy::resolve_entries`]) before each pass that judges, and asks before a spec is accepted, before a
//! start, and of what runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::allowlist::{Allowlist, OwnFiles, Role, Verdict, is_same};
use super::builtin::SYSTEM_PATH;
use super::config::{Config, OnExecAway, Rules};
use super::env::{EnvRules, Guard};
use super::executable::{ExecEntry, NamedSet};
use super::query::{ExecQuery, Resolution, ResolvedFile};
use super::refusal::{self, Refused};
use crate::manifest::{Problem, Spec};
use crate::state::{ExecFacts, FileIdentity};

/// Whose manifests these are, as `host::trust` found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// One user who is not root owns roots, manifests and project directory, runs us, and nobody else can
    /// write there.
    OneUser {
        uid: u32,
        /// The project directory, links followed.
        home_project: PathBuf,
        /// The absolute directories of his `PATH`.
        search_path: Vec<PathBuf>,
    },
    Strangers,
}

/// What a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    Command,
    Health,
    Stop,
    Reload,
    /// What a secret is had by.
    Secret,
}

impl Purpose {
    /// The field of a manifest that the command is in.
    pub fn field(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Health => "health.command",
            Self::Stop => "stop.command",
            Self::Reload => "reload.command",
            Self::Secret => "secrets",
        }
    }
}

/// Which list of executables refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Config,
    Ceiling,
}

/// What is allowed.
#[derive(Debug, Clone)]
pub struct Policy {
    given: Given,
    pub(super) env: Vec<EnvRules>,
    pub(super) allow_shell: bool,
    pub(super) allow_priority: bool,
    /// `executables` as they hold, to show the line that would allow more.
    listed: Vec<ExecEntry>,
    search_path: Vec<PathBuf>,
    pub(super) config: Allowlist,
    pub(super) ceiling: Option<Allowlist>,
    /// What `--allow` adds to `config`.
    pub(super) run: Allowlist,
    /// `env` itself, which a script passes through on the way to its interpreter.
    pub(super) env_files: Vec<FileIdentity>,
}

/// What a policy was made from.
#[derive(Debug, Clone, PartialEq)]
struct Given {
    config: Config,
    trust: Trust,
    allow: Vec<String>,
}

/// True if both were made from the same; which files their entries came to does not count.
impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.given == other.given
    }
}

impl Policy {
    /// Brings together what holds. An `allow` that [`ExecEntry::parse`] refuses allows nothing; the argument
    /// parser has refused it before.
    pub fn in_force(config: &Config, trust: Trust, allow: &[String]) -> Self {
        let rules = &config.policy;
        let (own, callers_path) = match &trust {
            Trust::OneUser { uid, home_project, search_path } => {
                (Some(OwnFiles { uid: *uid, project: home_project.clone() }), search_path.clone())
            }
            Trust::Strangers => (None, system_path()),
        };
        let search_path = rules.search_path.clone().unwrap_or(callers_path);
        let listed = rules.executables.clone().unwrap_or_else(|| vec![ExecEntry::Set(NamedSet::Default)]);
        let is_own_default = own.is_some() && listed.contains(&ExecEntry::Set(NamedSet::Default));
        let allow_shell = rules.allow_shell.unwrap_or(is_own_default);
        let allow_priority = rules.allow_priority.unwrap_or(own.is_some());

        let mut of_config = Allowlist::new(search_path.clone());
        of_config.add(&listed, own.as_ref());
        if allow_shell {
            of_config.add(&[shell()], None);
        }
        let mut run = Allowlist::new(search_path.clone());
        let allowed: Vec<_> = allow.iter().filter_map(|text| ExecEntry::parse(text).ok()).collect();
        run.add(&allowed, own.as_ref());
        let ceiling = config.ceiling.as_deref();
        let guard = match &trust {
            Trust::Strangers => Guard::Strangers,
            Trust::OneUser { .. } if is_own_default => Guard::Open,
            Trust::OneUser { .. } => Guard::Path,
        };
        // Where the ceiling is silent, what strangers may have of our values is for the configuration to say.
        let ceilings =
            EnvRules { guard: guard.min(Guard::Path), ..ceiling.map(EnvRules::of).unwrap_or_default() };
        let own_env = EnvRules { guard, ..EnvRules::of(rules) };
        let env = std::iter::once(own_env).chain(ceiling.map(|_| ceilings));
        Self {
            env: env.collect(),
            allow_shell,
            allow_priority,
            listed,
            search_path,
            config: of_config,
            ceiling: ceiling.and_then(|rules| of_ceiling(rules, own.as_ref())),
            run,
            env_files: Vec::new(),
            given: Given { config: config.clone(), trust, allow: allow.to_vec() },
        }
    }

    /// The policy that follows where trust has been judged anew, its entries not resolved yet; `None` if it is
    /// what it was.
    #[must_use]
    pub fn judged_anew(&self, trust: Trust) -> Option<Self> {
        let Given { config, trust: before, allow } = &self.given;
        (trust != *before).then(|| Self::in_force(config, trust, allow))
    }

    /// `executables` as they hold.
    pub(super) fn listed(&self) -> &[ExecEntry] {
        &self.listed
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.given.config.policy
    }

    /// Looks every entry up. Entries that were resolved some time ago refuse what was replaced since.
    pub fn resolve_entries(&mut self, ask: &mut dyn FnMut(&ExecQuery) -> Resolution) {
        for list in [Some(&mut self.config), self.ceiling.as_mut(), Some(&mut self.run)].into_iter().flatten()
        {
            list.resolve(ask);
        }
        let at = |word: &str| ExecQuery {
            word: word.to_owned(),
            cwd: PathBuf::from("/"),
            search_path: Vec::new(),
            digest: false,
        };
        let answers = ["/usr/bin/env", "/bin/env"].map(|word| ask(&at(word)));
        self.env_files = answers
            .into_iter()
            .flatten()
            .flat_map(|chain| chain.into_iter().take(1))
            .map(|found| found.file)
            .collect();
    }

    /// What the host is to resolve before [`Policy::permit`] can judge: every command with its templates
    /// filled in, under the absolute `cwd`.
    pub fn queries(
        &self,
        argv: &[String],
        cwd: &Path,
        health_argv: Option<&[String]>,
        stop_argv: Option<&[String]>,
    ) -> Vec<(Purpose, ExecQuery)> {
        let commands =
            [(Purpose::Command, Some(argv)), (Purpose::Health, health_argv), (Purpose::Stop, stop_argv)];
        let commands = commands.into_iter();
        commands.filter_map(|(purpose, words)| Some((purpose, self.query(words?, cwd)?))).collect()
    }

    /// What is to be looked up for one command; `None` where that is empty.
    pub fn query(&self, argv: &[String], cwd: &Path) -> Option<ExecQuery> {
        Some(ExecQuery {
            word: argv.first()?.clone(),
            cwd: cwd.to_owned(),
            search_path: self.search_path.clone(),
            digest: false,
        })
    }

    /// Judges what a command resolved to: the file, and for scripts each interpreter.
    pub fn permit(&self, purpose: Purpose, files: &[ResolvedFile]) -> Result<(), Problem> {
        self.permit_by(purpose, files, |_| false)
    }

    /// As [`Policy::permit`], for a service that runs: `--allow` of its start goes on for what it started.
    pub fn permit_started(
        &self,
        purpose: Purpose,
        files: &[ResolvedFile],
        started: &ExecFacts,
    ) -> Result<(), Problem> {
        self.permit_by(purpose, files, |file| {
            let is_that = |old: &FileIdentity| is_same(old, &file.file) || old.path == file.file.path;
            started.allowed.contains(&file.called) && started.files.iter().any(is_that)
        })
    }

    fn permit_by(
        &self,
        purpose: Purpose,
        files: &[ResolvedFile],
        is_allowed_before: impl Fn(&ResolvedFile) -> bool,
    ) -> Result<(), Problem> {
        let refused: Vec<_> = roles_of(files)
            .filter_map(|(role, file)| {
                let (source, verdict) = self.verdict(role, file, is_allowed_before(file))?;
                Some(Refused { role, file, source, verdict })
            })
            .collect();
        if refused.is_empty() { Ok(()) } else { Err(refusal::problem(purpose, &refused, &self.listed)) }
    }

    /// `None` if the file is allowed.
    fn verdict(&self, role: Role, file: &ResolvedFile, is_allowed_before: bool) -> Option<(Source, Verdict)> {
        if file.writable_by_others {
            return Some((Source::Config, Verdict::Writable));
        }
        let of_config = self.config.judge(role, file);
        if of_config != Verdict::Allowed
            && !is_allowed_before
            && self.run.judge(role, file) != Verdict::Allowed
        {
            return Some((Source::Config, of_config));
        }
        let of_ceiling = self.ceiling.as_ref().map(|list| list.judge(role, file))?;
        (of_ceiling != Verdict::Allowed).then_some((Source::Ceiling, of_ceiling))
    }

    /// What a start of `files` is recorded with.
    pub fn exec_facts(&self, files: &[ResolvedFile], uid: u32) -> ExecFacts {
        let needs_allowance =
            |(role, file): &(Role, &ResolvedFile)| self.config.judge(*role, file) != Verdict::Allowed;
        ExecFacts {
            files: files.iter().map(|file| file.file.clone()).collect(),
            uid,
            allowed: roles_of(files).filter(needs_allowance).map(|(_, file)| file.called.clone()).collect(),
        }
    }

    /// What a full pass does about [`RunningVerdict::ExecAway`](super::RunningVerdict::ExecAway).
    pub fn on_exec_away(&self) -> OnExecAway {
        self.rules().on_exec_away.unwrap_or_default()
    }

    /// The TTL in force: the manifest's, else the policy's default.
    pub fn effective_ttl(&self, spec: &Spec) -> Option<Duration> {
        spec.ttl.or(self.default_ttl())
    }

    /// The TTL of manifests that give none.
    pub fn default_ttl(&self) -> Option<Duration> {
        self.rules().default_ttl
    }

    /// How long an owner may hold services without renewing that.
    pub fn max_lease(&self) -> Option<Duration> {
        self.rules().max_lease
    }

    /// Where bare names are looked for.
    pub fn search_path(&self) -> &[PathBuf] {
        &self.search_path
    }
}

/// Each file of a chain with its role in it.
pub(super) fn roles_of<F>(files: &[F]) -> impl Iterator<Item = (Role, &F)> {
    let role = |position| if position == 0 { Role::Command } else { Role::Interpreter };
    files.iter().enumerate().map(move |(position, file)| (role(position), file))
}

/// The ceiling's list, if it has one. Names are looked up where the ceiling says, or on the system path:
/// the search path of a configuration below it must not decide what they mean.
fn of_ceiling(rules: &Rules, own: Option<&OwnFiles>) -> Option<Allowlist> {
    let entries = rules.executables.as_ref()?;
    let mut list = Allowlist::new(rules.search_path.clone().unwrap_or_else(system_path));
    list.add(entries, own);
    if rules.allow_shell == Some(true) {
        list.add(&[shell()], None);
    }
    Some(list)
}

/// What `shell = true` executes.
fn shell() -> ExecEntry {
    ExecEntry::Path(PathBuf::from("/bin/sh"))
}

fn system_path() -> Vec<PathBuf> {
    SYSTEM_PATH.iter().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests;

//! A spec before the policy in force: what refuses it, and what a start of it would execute.
//!
//! Asks `host` what the commands resolve to and `policy` whether that is allowed. Called before a spec is
//! accepted, before each start, and in each full look. What runs is judged by itself: files that change close
//! the gate to its next start, and only a policy that changes stops it.

use std::path::{Path, PathBuf};

use super::Reconciler;
use crate::host::Host;
use crate::identity::ServiceId;
use crate::manifest::{
    self, Addresses, PortBlocks, Problem, Rendered, RenderedCheck, Shown, Spec, Surroundings, escape,
};
use crate::plan::Accepted;
use crate::policy::{Facts, Purpose, ResolvedFile, StartedFrom};
use crate::state::Reason;

/// Of a `user` that cannot be looked up.
pub(super) const UNKNOWN_USER: &str = "unknown-user";

/// The verdict on one accepted or candidate spec.
#[derive(Debug)]
pub(super) struct Judgement {
    /// What the policy refuses.
    pub problems: Vec<Problem>,
    /// A start must wait for this.
    pub gate: Option<Reason>,
    /// The problem behind the gate: a command that resolves to nothing, a user or a directory that is not there.
    pub unresolved: Option<Problem>,
    /// What the command itself resolves to, if it does.
    pub files: Vec<ResolvedFile>,
}

impl Judgement {
    /// Nothing to say against it, and nothing looked up.
    pub(super) fn fine() -> Self {
        Self { problems: Vec::new(), gate: None, unresolved: None, files: Vec::new() }
    }

    /// What was found first is told.
    fn wait_for(&mut self, problem: Problem) {
        self.gate.get_or_insert_with(|| Reason::Gate {
            gate: problem.code.clone(),
            message: problem.message.clone(),
        });
        self.unresolved.get_or_insert(problem);
    }
}

impl<H: Host> Reconciler<H> {
    /// Beside what runs, in the directory that it was started in; without a run, as for a start.
    ///
    /// `~/` is the home of the user that the service runs as. One who is not known has none, and what is to
    /// be started says so.
    pub(super) fn render(&mut self, spec: &Spec) -> Rendered {
        let ports = self.ports_given(&spec.id);
        let home = self.home_of(spec);
        self.surrounded(spec, home.as_deref(), &ports, self.cwd_taken(spec), manifest::render)
    }

    /// As [`Self::render`], for a start that is given these ports.
    pub(super) fn render_with(&mut self, spec: &Spec, ports: &PortBlocks) -> Rendered {
        let home = self.home_of(spec);
        self.surrounded(spec, home.as_deref(), ports, None, manifest::render)
    }

    fn home_of(&mut self, spec: &Spec) -> Option<PathBuf> {
        match &spec.user {
            Some(user) => self.host.user(user).ok().map(|user| user.home),
            None => self.settings.home.clone(),
        }
    }

    /// As [`Self::render`], asking nobody: for what is shown and not executed.
    pub(super) fn render_shown(&self, spec: &Spec) -> Shown {
        let home = self.settings.home.as_deref().filter(|_| spec.user.is_none());
        let ports = self.ports_given(&spec.id);
        self.surrounded(spec, home, &ports, self.cwd_taken(spec), manifest::render_shown)
    }

    /// Likewise.
    pub(super) fn render_addresses(&self, spec: &Spec) -> Addresses {
        let home = self.settings.home.as_deref().filter(|_| spec.user.is_none());
        self.surrounded(spec, home, &PortBlocks::new(), self.cwd_taken(spec), manifest::render_addresses)
    }

    fn surrounded<T>(
        &self,
        spec: &Spec,
        home: Option<&Path>,
        ports: &PortBlocks,
        cwd_taken: Option<&Path>,
        render: impl FnOnce(&Spec, &Surroundings<'_>) -> T,
    ) -> T {
        let project_dir = &self.settings.project_dir;
        let work = self.settings.layout.work(&spec.id);
        let around = Surroundings { project_dir, home, ports, work: Some(&work), cwd: None };
        let cwd = self.choose_cwd(spec, &around, cwd_taken);
        render(spec, &Surroundings { cwd: cwd.as_deref(), ..around })
    }

    /// Which of several the run is in that there is.
    fn cwd_taken(&self, spec: &Spec) -> Option<&Path> {
        let run = self.memory.ledger().entry(&spec.id)?.run.as_ref()?;
        run.cwd.as_deref().map(Path::new)
    }

    /// Of several, the one that was taken if it is still named; else the first that is there; else the last.
    fn choose_cwd(&self, spec: &Spec, around: &Surroundings<'_>, taken: Option<&Path>) -> Option<PathBuf> {
        spec.cwd_before.as_ref()?;
        let mut paths = manifest::render_cwds(spec, around);
        if let Some(taken) = paths.iter().position(|path| taken == Some(path)) {
            return Some(paths.swap_remove(taken));
        }
        let last = paths.pop();
        paths.into_iter().find(|path| self.host.is_directory(path)).or(last)
    }

    pub(super) fn judge(&mut self, accepted: &Accepted) -> Judgement {
        // What it was not given yet stands for itself: a command that goes by a port is judged all the same.
        let spec = &accepted.spec;
        let mut ports = self.ports_given(&spec.id);
        for (name, port) in &spec.ports {
            ports.entry(name.clone()).or_insert_with(|| port.stand_in());
        }
        let rendered = self.render_with(spec, &ports);
        self.judge_rendered(spec, &rendered)
    }

    /// Looks up which files the policy's entries stand for, unless this pass has done so.
    pub(super) fn resolve_entries(&mut self) {
        if !std::mem::replace(&mut self.entries_are_fresh, true) {
            let (policy, host) = (&mut self.policy, &mut self.host);
            policy.resolve_entries(&mut |query| host.resolve(query));
        }
    }

    /// A refusal is believed only of entries that were looked up in this pass: a package upgrade gives a name
    /// another file.
    pub(super) fn judge_rendered(&mut self, spec: &Spec, rendered: &Rendered) -> Judgement {
        let judgement = self.judge_by_known_entries(spec, rendered);
        if judgement.problems.is_empty() || self.entries_are_fresh {
            return judgement;
        }
        self.resolve_entries();
        self.judge_by_known_entries(spec, rendered)
    }

    /// What the policy in force has against the run that lives, whatever has happened to files since its
    /// start: the spec by itself, or the names and paths of what was executed. `None` without a run.
    pub(super) fn judge_run(&mut self, spec: &Spec) -> Option<Result<(), Problem>> {
        let run = self.memory.ledger().entry(&spec.id)?.run.clone()?;
        let rendered = self.render(spec);
        // A `.git` that vanished is no policy that changed.
        let facts = Facts {
            argv: &rendered.argv,
            env: &rendered.env,
            sockets: &rendered.sockets,
            is_git_worktree: true,
        };
        if let Some(problem) = self.policy.check(spec, &facts).into_iter().next() {
            return Some(Err(problem));
        }
        let text = self.library.recall(&mut self.host, &run.started_digest);
        let started = text.and_then(|text| text.service(&spec.id).cloned());
        let rendered = started.map(|accepted| self.render(&accepted.spec));
        let query = rendered
            .as_ref()
            .and_then(|rendered| self.policy.queries(&rendered.argv, &rendered.cwd, None, None).pop());
        let today = query.and_then(|(_, query)| self.host.resolve(&query).ok()).unwrap_or_default();
        let started = StartedFrom {
            facts: &run.exec,
            word: rendered.as_ref().and_then(|rendered| Some(rendered.argv.first()?.as_str())),
            cwd: rendered.as_ref().map_or(Path::new("/"), |rendered| &rendered.cwd),
            today: &today,
        };
        Some(self.policy.permit_executed(&started).map_err(|problem| problem.of(spec.id.name())))
    }

    /// What a start needs beside its commands, and is not there.
    fn missing(&mut self, spec: &Spec, rendered: &Rendered) -> Option<Problem> {
        let problem = match spec.user.as_ref().map(|user| self.host.user(user)) {
            // In its home may be where the directory is.
            Some(Err(sentence)) => Problem::new(UNKNOWN_USER, sentence).about("user"),
            Some(Ok(user)) if rendered.work.is_some() && user.uid != self.host.own_uid() => {
                let message = format!(
                    "`{{{{state.work}}}}` is in the state directory, which `{}` cannot enter",
                    escape(&user.name)
                );
                Problem::new("state-closed", message)
                    .about("cwd")
                    .help("name a directory of that user, like `~/work/{{name}}`")
            }
            Some(Ok(_)) | None if !rendered.makes_cwd && self.host.is_no_directory(&rendered.cwd) => {
                let message = format!("there is no directory `{}`", escape(&rendered.cwd.to_string_lossy()));
                Problem::new("no-directory", message)
                    .about("cwd")
                    .help("make it, or mend `cwd`; relative paths start at the project directory")
            }
            Some(Ok(_)) | None => return None,
        };
        Some(problem.of(spec.id.name()))
    }

    fn judge_by_known_entries(&mut self, spec: &Spec, rendered: &Rendered) -> Judgement {
        let is_git_worktree = self.policy.wants_git_workdir() && self.host.is_git_worktree(&rendered.cwd);
        let facts =
            Facts { argv: &rendered.argv, env: &rendered.env, sockets: &rendered.sockets, is_git_worktree };
        let mut judgement = Judgement {
            problems: self.policy.check(spec, &facts),
            gate: None,
            unresolved: None,
            files: Vec::new(),
        };
        if let Some(problem) = self.missing(spec, rendered) {
            judgement.wait_for(problem);
        }
        let health = match &rendered.health {
            Some(RenderedCheck::Command { argv, .. }) => Some(argv.as_slice()),
            Some(
                RenderedCheck::Http { .. }
                | RenderedCheck::Tcp { .. }
                | RenderedCheck::Log { .. }
                | RenderedCheck::Notify,
            )
            | None => None,
        };
        if let Some(gate) = self.unenforceable_limits(spec) {
            judgement.gate.get_or_insert(gate);
        }
        let queries =
            self.policy.queries(&rendered.argv, &rendered.cwd, health, rendered.stop_command.as_deref());
        let queries =
            queries.into_iter().map(|(purpose, query)| (purpose, purpose.field().to_owned(), query));
        let of_secrets = rendered.secret_commands.iter().filter_map(|(name, argv)| {
            let query = self.policy.query(argv, &rendered.cwd)?;
            Some((Purpose::Secret, format!("secrets.{name}"), query))
        });
        let of_reload = rendered.reload_command.iter().filter_map(|argv| {
            let query = self.policy.query(argv, &rendered.cwd)?;
            Some((Purpose::Reload, Purpose::Reload.field().to_owned(), query))
        });
        for (purpose, field, query) in queries.chain(of_reload).chain(of_secrets).collect::<Vec<_>>() {
            match self.host.resolve(&query) {
                Ok(files) => {
                    if let Err(problem) = self.permit(&spec.id, purpose, &files) {
                        judgement.problems.push(problem.about(field).of(spec.id.name()));
                    }
                    if purpose == Purpose::Command {
                        judgement.files = files;
                    }
                }
                Err(error) => {
                    let problem = Problem::new(error.code(), error.to_string()).about(field);
                    judgement.wait_for(problem.of(spec.id.name()));
                }
            }
        }
        judgement
    }

    /// What `--allow` granted when the run that lives was started goes on for it.
    pub(super) fn permit(
        &self,
        service: &ServiceId,
        purpose: Purpose,
        files: &[ResolvedFile],
    ) -> Result<(), Problem> {
        if let Some(why) = &self.without_policy {
            return Err(why.clone());
        }
        match self.memory.ledger().entry(service).and_then(|entry| entry.run.as_ref()) {
            Some(run) => self.policy.permit_started(purpose, files, &run.exec),
            None => self.policy.permit(purpose, files),
        }
    }
}

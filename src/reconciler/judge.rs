//! A spec before the policy in force: what refuses it, and what a start of it would execute.
//!
//! Asks `host` what the commands resolve to and `policy` whether that is allowed. Called before a spec is
//! accepted, before each start, and in each full pass.

use std::path::Path;

use super::Reconciler;
use crate::host::Host;
use crate::identity::ServiceId;
use crate::manifest::{self, Problem, Rendered, RenderedCheck, Spec, Surroundings};
use crate::plan::Accepted;
use crate::policy::{Facts, Purpose, ResolvedFile};
use crate::state::Reason;

/// The verdict on one accepted or candidate spec.
#[derive(Debug)]
pub(super) struct Judgement {
    /// What the policy refuses.
    pub problems: Vec<Problem>,
    /// A start must wait for this.
    pub gate: Option<Reason>,
    /// The problem behind the gate: a command that resolves to nothing.
    pub unresolved: Option<Problem>,
    /// What the command itself resolves to, if it does.
    pub files: Vec<ResolvedFile>,
}

impl Judgement {
    /// Nothing to say against it, and nothing looked up.
    pub(super) fn fine() -> Self {
        Self { problems: Vec::new(), gate: None, unresolved: None, files: Vec::new() }
    }
}

impl<H: Host> Reconciler<H> {
    /// `~/` is the home of the user that the service runs as. One who is not known has none, and what is to
    /// be started says so.
    pub(super) fn render(&mut self, spec: &Spec) -> Rendered {
        let home = match &spec.user {
            Some(user) => self.host.user(user).ok().map(|user| user.home),
            None => self.settings.home.clone(),
        };
        self.render_in(spec, home.as_deref())
    }

    /// As [`Self::render`], asking nobody: for what is shown and not executed.
    pub(super) fn render_shown(&self, spec: &Spec) -> Rendered {
        let home = self.settings.home.as_deref().filter(|_| spec.user.is_none());
        self.render_in(spec, home)
    }

    fn render_in(&self, spec: &Spec, home: Option<&Path>) -> Rendered {
        manifest::render(spec, &Surroundings { project_dir: &self.settings.project_dir, home })
    }

    pub(super) fn judge(&mut self, accepted: &Accepted) -> Judgement {
        let rendered = self.render(&accepted.spec);
        self.judge_rendered(&accepted.spec, &rendered)
    }

    pub(super) fn judge_rendered(&mut self, spec: &Spec, rendered: &Rendered) -> Judgement {
        let is_git_worktree = self.policy.wants_git_workdir() && self.host.is_git_worktree(&rendered.cwd);
        let facts = Facts { argv: &rendered.argv, env: &rendered.env, is_git_worktree };
        let mut judgement = Judgement {
            problems: self.policy.check(spec, &facts),
            gate: None,
            unresolved: None,
            files: Vec::new(),
        };
        let health = match &rendered.health {
            Some(RenderedCheck::Command { argv, .. }) => Some(argv.as_slice()),
            Some(RenderedCheck::Http { .. } | RenderedCheck::Tcp { .. }) | None => None,
        };
        let queries =
            self.policy.queries(&rendered.argv, &rendered.cwd, health, rendered.stop_command.as_deref());
        for (purpose, query) in queries {
            match self.host.resolve(&query) {
                Ok(files) => {
                    if let Err(problem) = self.permit(&spec.id, purpose, &files) {
                        judgement.problems.push(problem.of(spec.id.name()));
                    }
                    if purpose == Purpose::Command {
                        judgement.files = files;
                    }
                }
                Err(error) => {
                    let problem = Problem::new(error.code(), error.to_string()).of(spec.id.name());
                    judgement.gate.get_or_insert_with(|| Reason::Gate {
                        gate: error.code().to_owned(),
                        message: error.to_string(),
                    });
                    judgement.unresolved.get_or_insert(problem);
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
        match self.memory.ledger().entry(service).and_then(|entry| entry.run.as_ref()) {
            Some(run) => self.policy.permit_started(purpose, files, &run.exec),
            None => self.policy.permit(purpose, files),
        }
    }
}

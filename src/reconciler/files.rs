//! Files that matter to services: looked at, watched, and made into facts for `plan`.
//!
//! Called in each look at the manifests, and once more for each start, whose intent says what it was given. What stands
//! in these files is told to nobody but the service: problems name paths, lines and variables.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Reconciler;
use super::status::Drift;
use crate::host::files::{Room, Unseen};
use crate::host::{Host, UserFacts};
use crate::identity::ServiceId;
use crate::manifest::{EnvFile, Rendered, Spec, dotenv, escape};
use crate::plan::{Accepted, Presence};
use crate::policy::Facts;
use crate::state::{Contents, FileMarks, Reason};

/// The drift of a run whose files could not be used for another start.
const NOT_USABLE: &str = "file-not-usable";

/// The drift of a run beside a file of which nobody knows whether it changes.
const NOT_SEEN: &str = "file-not-seen";

/// What the codes of gates that are about an `env_file` begin with.
pub(super) const ENV_FILE: &str = "env-file-";

/// What the files of a service come to at this moment.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub marks: FileMarks,
    /// The variables of all files, and the secrets.
    pub env: BTreeMap<String, String>,
    /// The secrets that are given as files.
    pub credentials: BTreeMap<String, String>,
    /// The first reason for which nothing can be started with them.
    pub gate: Option<Reason>,
    /// What the policy says about the variables that can be had: with them nothing is executed at all.
    pub refusal: Option<Reason>,
    /// The first of which changes are not seen.
    pub trouble: Option<String>,
}

impl Files {
    fn close(&mut self, gate: &str, message: String) {
        self.gate.get_or_insert_with(|| Reason::Gate { gate: gate.to_owned(), message });
    }
}

impl<H: Host> Reconciler<H> {
    /// Looks at the files of every service that has any; changes of them are told from now on.
    pub(super) fn look_at_files(&mut self) {
        let wants = self.desired.services.values();
        let here = wants.filter(|want| !matches!(want.presence, Presence::OtherRoot { .. }));
        let with_files = |accepted: &Arc<Accepted>| accepted.spec.names_files().then(|| Arc::clone(accepted));
        let concerned: Vec<Arc<Accepted>> =
            here.filter_map(|want| want.accepted.as_ref().and_then(with_files)).collect();
        let rendered: Vec<Rendered> = concerned.iter().map(|accepted| self.render(&accepted.spec)).collect();
        let watched: BTreeSet<PathBuf> = rendered
            .iter()
            .flat_map(|it| {
                let contents = it.restart_on.iter().chain(&it.reload_on);
                it.env_file.iter().chain(contents).chain(it.secret_files.values())
            })
            .chain(&self.beside)
            .cloned()
            .collect();
        // Before they are looked at: what changes from then on is told.
        self.host.watch_files(&watched);
        self.hide_what_nobody_names(&concerned);
        for (accepted, rendered) in concerned.iter().zip(&rendered) {
            let files = self.files_of(&accepted.spec, rendered, &BTreeMap::new());
            self.take_files(&accepted.spec.id, files);
        }
    }

    fn hide_what_nobody_names(&mut self, concerned: &[Arc<Accepted>]) {
        let is_of_files = |drift: &Drift| [NOT_SEEN, NOT_USABLE].contains(&drift.code.as_str());
        let shown = self.drift.iter().filter(|(_, drifts)| drifts.iter().any(is_of_files));
        let is_concerned =
            |service: &ServiceId| concerned.iter().any(|accepted| accepted.spec.id == *service);
        let shown: Vec<ServiceId> =
            shown.map(|(service, _)| service).filter(|service| !is_concerned(service)).cloned().collect();
        for service in &shown {
            self.hide_drift(service, NOT_SEEN);
            self.hide_drift(service, NOT_USABLE);
        }
    }

    fn take_files(&mut self, service: &ServiceId, files: Files) {
        match &files.trouble {
            None => self.hide_drift(service, NOT_SEEN),
            Some(trouble) => {
                let message = format!("changes of it are not seen: {trouble}");
                self.show_drift(service, NOT_SEEN, &message);
            }
        }
        match &files.gate {
            None => self.hide_drift(service, NOT_USABLE),
            Some(gate) => {
                let message = format!("it runs on and could not be started again: {}", gate.message());
                self.show_drift(service, NOT_USABLE, &message);
            }
        }
        let Some(want) = self.desired.services.get_mut(service) else { return };
        want.files = Some(Arc::new(files.marks));
        if let Some(gate) = files.gate {
            want.gate.get_or_insert(gate);
        }
    }

    /// Looks at all that a start of `spec` would be given, and at what is followed from then on. `commanded`: what the
    /// commands of secrets have written, for a start.
    pub(super) fn files_of(
        &mut self,
        spec: &Spec,
        rendered: &Rendered,
        commanded: &BTreeMap<String, String>,
    ) -> Files {
        let mut files = self.variables_of(spec, rendered, commanded);
        let mut room = Room::default();
        let trouble = &mut files.trouble;
        files.marks.restart = self.contents(&spec.restart_on, &rendered.restart_on, &mut room, trouble);
        files.marks.reload = self.contents(&spec.reload.on, &rendered.reload_on, &mut room, trouble);
        files
    }

    /// Reads what gives variables to whatever is executed for `spec`.
    pub(super) fn variables_of(
        &mut self,
        spec: &Spec,
        rendered: &Rendered,
        commanded: &BTreeMap<String, String>,
    ) -> Files {
        let mut files = Files::default();
        if spec.env_file.is_empty() && spec.secrets.is_empty() {
            return files;
        }
        // One who is not known is a gate of its own.
        let Ok(reader) = spec.user.as_ref().map(|user| self.host.user(user)).transpose() else {
            return files;
        };
        for (file, path) in spec.env_file.iter().zip(&rendered.env_file) {
            self.read_env_file(file, path, reader.as_ref(), &mut files);
        }
        self.add_secrets(spec, rendered, reader.as_ref(), commanded, &mut files);
        files.refusal = self.refusal_of(spec, rendered, &files.env);
        files.gate = files.gate.or_else(|| files.refusal.clone());
        files
    }

    /// A pattern with a file that cannot be read is left out: nothing is known of it now, and with that no change.
    fn contents(
        &mut self,
        patterns: &[String],
        rendered: &[PathBuf],
        room: &mut Room,
        trouble: &mut Option<String>,
    ) -> Contents {
        let mut contents = Contents::new();
        for (written, pattern) in patterns.iter().zip(rendered) {
            match self.host.digest_files(pattern, room) {
                Ok(found) => {
                    let shown = |path: &Path| {
                        let below = path.strip_prefix(&self.settings.project_dir).unwrap_or(path);
                        escape(&below.to_string_lossy())
                    };
                    let found = found.into_iter().map(|(path, digest)| (shown(&path), digest));
                    contents.insert(written.clone(), found.collect());
                }
                // Its end is told.
                Err(Unseen::BeingWritten) => {}
                Err(Unseen::Trouble(sentence)) => {
                    trouble.get_or_insert(sentence);
                }
            }
        }
        contents
    }

    fn read_env_file(
        &mut self,
        EnvFile { path: written, optional }: &EnvFile,
        path: &Path,
        reader: Option<&UserFacts>,
        files: &mut Files,
    ) {
        let shown = path.display();
        let text = match self.host.read_file(path, reader) {
            Ok(Some(text)) => text,
            Ok(None) if *optional => return,
            Ok(None) => {
                let message =
                    format!("there is no {shown}, its `env_file`; write it, or say `optional = true`");
                return files.close("env-file-missing", message);
            }
            Err(sentence) => {
                return files.close("env-file-unreadable", format!("{shown}, its `env_file`, {sentence}"));
            }
        };
        match dotenv::parse(&text) {
            Ok(variables) => {
                files.marks.env.insert(written.clone(), FileMarks::of_variables(&variables));
                files.env.extend(variables);
            }
            Err(dotenv::Fault { line, message }) => {
                files.close("env-file-invalid", format!("{shown}:{line}: {message}"));
            }
        }
    }

    /// Variables are for the policy to allow, wherever they come from.
    fn refusal_of(
        &self,
        spec: &Spec,
        rendered: &Rendered,
        of_files: &BTreeMap<String, String>,
    ) -> Option<Reason> {
        let env: BTreeMap<String, String> =
            of_files.iter().chain(&rendered.env).map(|(key, value)| (key.clone(), value.clone())).collect();
        // A git worktree is looked for elsewhere.
        let check = |env| {
            self.policy.check(
                spec,
                &Facts { argv: &rendered.argv, env, sockets: &rendered.sockets, is_git_worktree: true },
            )
        };
        let of_spec = check(&rendered.env);
        let is_known = |problem: &_| of_spec.contains(problem);
        let problem = check(&env).into_iter().find(|problem| !is_known(problem))?;
        let mut named: Vec<String> =
            rendered.env_file.iter().map(|path| path.display().to_string()).collect();
        named.extend((!spec.secrets.is_empty()).then(|| "`secrets`".to_owned()));
        let message = format!("{} (with what {} gives)", problem.message, named.join(", "));
        Some(Reason::Gate { gate: format!("{ENV_FILE}refused"), message })
    }
}

//! From an accepted spec to a complete request: for a service, a probe, a stop command.
//!
//! Everything is settled here, so that the keeper has nothing to choose. The policy is asked once more with
//! what the command resolves to at this moment, and that very file goes into the request.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Reconciler;
use super::files::{ENV_FILE, Files};
use super::judge::{Judgement, UNKNOWN_USER};
use crate::host::{
    CgroupLimits, Credentials, ExecTarget, Host, JobPurpose, JobRequest, LineRequest, ProbeRequest,
    ProbeTarget, SpawnRequest, UserFacts, credentials, rlimits,
};
use crate::identity::{Nonce, ServiceId};
use crate::manifest::{HealthCheck, PortBlocks, Rendered, RenderedCheck, Spec};
use crate::plan::{Accepted, Step};
use crate::policy::{Purpose, ResolveError, ResolvedFile};
use crate::state::{Intent, LogMark, Reason, Record};

/// A start that may be carried out once its intent is on disk.
#[derive(Debug)]
pub(super) struct Prepared {
    pub intent: Record,
    pub request: SpawnRequest,
}

impl<H: Host> Reconciler<H> {
    /// `Err`: a gate is closed.
    pub(super) fn prepare_start(&mut self, step: &Step, ports: PortBlocks) -> Result<Prepared, Reason> {
        let service = &step.service;
        let accepted =
            self.accepted(service).ok_or_else(|| gate("no-spec", "there is no accepted version of it"))?;
        let spec = &accepted.spec;
        let rendered = self.render_with(spec, &ports);
        let Judgement { problems, gate: closed, files, .. } = self.judge_rendered(spec, &rendered);
        if let Some(problem) = problems.first() {
            return Err(gate(&problem.code, &problem.message));
        }
        if let Some(closed) = closed {
            return Err(closed);
        }
        let commanded = self.take_commanded(&accepted)?;
        let Files { marks, env, credentials, gate: closed, .. } = self.files_of(spec, &rendered, &commanded);
        if let Some(closed) = closed {
            return Err(closed);
        }
        let given = marks.secrets.clone();
        let marks = spec.names_files().then_some(marks);
        if let Some(want) = self.desired.services.get_mut(service) {
            // Looked at before, they may be older than what the start is given.
            want.files = marks.clone().map(Arc::new);
        }
        self.note_given(spec, &given);
        let mut request = self.request(spec, &rendered, &env, &rendered.argv, &files)?;
        if spec.has_credentials() {
            let dir = self.host.credentials_dir(&request.nonce);
            tell(&mut request.env, credentials::VARIABLE, dir.to_string_lossy().into_owned());
            request.credentials = Some(Credentials { dir, files: credentials });
        }
        if let Some(HealthCheck::Notify { watchdog, fd }) = spec.health.as_ref().map(|health| &health.check) {
            (request.notify, request.notify_fd) = (fd.is_none(), *fd);
            if let Some(watchdog) = watchdog {
                tell(&mut request.env, WATCHDOG, watchdog.as_micros().to_string());
            }
        }
        let uid = request.user.as_ref().map_or_else(|| self.host.own_uid(), |user| user.uid);
        let intent = Intent {
            service: service.clone(),
            nonce: request.nonce.clone(),
            fingerprint: accepted.fingerprint.clone(),
            digest: accepted.digest.clone(),
            why: step.reason.clone(),
            exec: self.policy.exec_facts(&files, uid),
            at: self.host.now(),
            epoch: request.epoch,
            clears_failures: step.reason.clears_failures(),
            beside: self.runs_to_follow(spec),
            ports,
            files: marks.map(Box::new),
            log: self.log_mark(spec).map(Box::new),
            cwd: spec.cwd_before.as_ref().and_then(|_| Some(rendered.cwd.to_str()?.to_owned())),
        };
        let intent = Box::new(intent);
        request.intent = Some(intent.clone());
        if spec.activation.proxy.is_none() {
            request.sockets = rendered.sockets.into_iter().map(|socket| socket.name).collect();
        }
        Ok(Prepared { intent: Record::Intent(intent), request })
    }

    /// Where the output of a start begins, of which a line is waited for.
    fn log_mark(&mut self, spec: &Spec) -> Option<LogMark> {
        match spec.health.as_ref()?.check {
            HealthCheck::Log { .. } => self.host.log_mark(&spec.id),
            HealthCheck::Http { .. }
            | HealthCheck::Tcp { .. }
            | HealthCheck::Command { .. }
            | HealthCheck::Notify { .. } => None,
        }
    }

    /// The runs of those dependencies whose restarts it follows; of what is done, the last.
    fn runs_to_follow(&self, spec: &Spec) -> BTreeMap<ServiceId, Nonce> {
        let followed = spec.depends_on.iter().filter(|(_, dependency)| dependency.restart);
        followed
            .filter_map(|(service, _)| {
                let entry = self.memory.ledger().entry(service)?;
                let run = entry.run.as_ref().map(|run| &run.nonce);
                Some((service.clone(), run.or(entry.last.as_ref().map(|last| &last.nonce))?.clone()))
            })
            .collect()
    }

    /// The version in force of a service, wanted or not.
    pub(super) fn accepted(&self, service: &ServiceId) -> Option<Arc<Accepted>> {
        self.desired.services.get(service)?.accepted.clone()
    }

    /// The accepted version, or else the one that the newest run was started from.
    pub(super) fn spec_in_force(&mut self, service: &ServiceId) -> Option<Arc<Accepted>> {
        let running = || {
            let run = self.memory.ledger().entry(service)?.run.as_ref()?;
            let loaded = self.library.recall(&mut self.host, &run.digest)?;
            loaded.service(service).cloned()
        };
        self.desired.services.get(service).and_then(|want| want.accepted.clone()).or_else(running)
    }

    fn request(
        &mut self,
        spec: &Spec,
        rendered: &Rendered,
        of_files: &BTreeMap<String, String>,
        argv: &[String],
        files: &[ResolvedFile],
    ) -> Result<SpawnRequest, Reason> {
        let user = match &spec.user {
            None => None,
            Some(name) => Some(self.host.user(name).map_err(|message| gate(UNKNOWN_USER, &message))?),
        };
        let first =
            files.first().ok_or_else(|| gate("executable-not-found", "its command resolves to nothing"))?;
        let inherited = self.policy.inherited(&spec.inherit_env, self.host.environment());
        Ok(SpawnRequest {
            service: spec.id.clone(),
            nonce: self.host.nonce(),
            epoch: self.host.epoch(),
            exec: ExecTarget {
                file: first.file.clone(),
                script: first.is_script,
                found: first.is_script.then(|| first.found.clone()),
            },
            argv: argv.to_vec(),
            env: environment(rendered, inherited, user.as_ref(), of_files),
            cwd: rendered.cwd.clone(),
            stdin: spec.stdin.into(),
            user,
            umask: spec.umask,
            nice: spec.nice,
            oom_score_adj: spec.oom_score_adj,
            rlimits: rlimits(&spec.limits),
            cgroup: CgroupLimits::from(&spec.limits),
            limits_required: self.policy.requires_limits(),
            intent: None,
            sockets: Vec::new(),
            notify: false,
            notify_fd: None,
            credentials: None,
            make_cwd: rendered.makes_cwd,
            make_work: rendered.work.clone(),
            stdout_only: false,
        })
    }

    /// The stop command of a service with its bound, if it has one that may run.
    pub(super) fn stop_command(&mut self, service: &ServiceId) -> Option<(SpawnRequest, Duration)> {
        let accepted = self.accepted(service)?;
        let rendered = self.render(&accepted.spec);
        let argv = rendered.stop_command.as_deref()?;
        match self.job_request(&accepted.spec, &rendered, Purpose::Stop, argv) {
            Ok(request) => Some((request, accepted.spec.stop.grace)),
            Err(reason) => {
                tracing::warn!(%service, "the stop command is not run: {}", reason.message());
                None
            }
        }
    }

    /// Begins the probe that is due.
    pub(super) fn probe(&mut self, service: &ServiceId) {
        let Some(accepted) = self.accepted(service) else { return };
        let Some(health) = &accepted.spec.health else { return };
        let Some(run) = self.memory.ledger().entry(service).and_then(|entry| entry.run.as_ref()) else {
            return;
        };
        let (nonce, from) = (run.nonce.clone(), run.log.as_deref().cloned());
        let rendered = self.render(&accepted.spec);
        let Some(check) = &rendered.health else { return };
        let timeout = health.timeout;
        self.service_mut(service).health.in_flight = true;
        let target = match check {
            RenderedCheck::Http { url, expect_status } => {
                ProbeTarget::Http { url: url.clone(), expect_status: *expect_status }
            }
            RenderedCheck::Tcp { host, port } => ProbeTarget::Tcp { host: host.clone(), port: *port },
            RenderedCheck::Notify => return self.host.ask_said(&nonce),
            RenderedCheck::Log { pattern } => {
                let (service, pattern) = (service.clone(), pattern.clone());
                // A verdict is needed by the start deadline.
                let timeout = timeout.min(health.start_timeout);
                return self.host.await_line(LineRequest { service, nonce, pattern, from, timeout });
            }
            RenderedCheck::Command { argv, .. } => {
                match self.job_request(&accepted.spec, &rendered, Purpose::Health, argv) {
                    Ok(spawn) => {
                        self.host.run_job(JobRequest {
                            purpose: JobPurpose::Health,
                            of: nonce,
                            spawn,
                            timeout,
                        });
                    }
                    // A check without its variables would say nothing of its service.
                    Err(Reason::Gate { gate, message })
                        if gate == ResolveError::SHORTAGE || gate.starts_with(ENV_FILE) =>
                    {
                        self.probe_not_made(service, &nonce, &message);
                    }
                    Err(reason @ Reason::SecretUnavailable { .. }) => {
                        self.probe_not_made(service, &nonce, &reason.message());
                    }
                    Err(reason) => self.probe_refused(service, reason.message()),
                }
                return;
            }
        };
        self.host.probe(ProbeRequest { service: service.clone(), nonce, target, timeout });
    }

    fn probe_refused(&mut self, service: &ServiceId, message: String) {
        let now = self.host.now();
        crate::plan::fold(&mut self.service_mut(service).health, &Err(message), &now);
    }

    pub(super) fn job_request(
        &mut self,
        spec: &Spec,
        rendered: &Rendered,
        purpose: Purpose,
        argv: &[String],
    ) -> Result<SpawnRequest, Reason> {
        let queries = self.policy.queries(argv, &rendered.cwd, None, None);
        let (_, query) =
            queries.into_iter().next().ok_or_else(|| gate("empty-command", "the command is empty"))?;
        let files = self.host.resolve(&query).map_err(|error| gate(error.code(), &error.to_string()))?;
        self.permit(&spec.id, purpose, &files).map_err(|problem| gate(&problem.code, &problem.message))?;
        let Files { env, gate: closed, refusal, .. } = self.variables_of(spec, rendered, &BTreeMap::new());
        // An end that is to be orderly does what it can with the variables that there are.
        match if purpose == Purpose::Stop { refusal } else { closed } {
            Some(closed) => Err(closed),
            None => {
                let mut request = self.request(spec, rendered, &env, argv, &files)?;
                if purpose != Purpose::Secret {
                    // Made for a start, and what is beside it finds it.
                    (request.make_cwd, request.make_work) = (false, None);
                }
                let run = self.memory.ledger().entry(&spec.id).and_then(|entry| entry.run.as_ref());
                if let Some(run) = run.filter(|_| spec.has_credentials() && purpose != Purpose::Secret) {
                    // They are there for as long as the run is.
                    let dir = self.host.credentials_dir(&run.nonce);
                    tell(&mut request.env, credentials::VARIABLE, dir.to_string_lossy().into_owned());
                }
                Ok(request)
            }
        }
    }
}

fn gate(gate: &str, message: &str) -> Reason {
    Reason::Gate { gate: gate.to_owned(), message: message.to_owned() }
}

/// Whatever else says it: of two of one name nobody knows which a program takes.
fn tell(env: &mut Vec<(String, String)>, name: &str, value: String) {
    env.retain(|(other, _)| other != name);
    env.push((name.to_owned(), value));
}

/// How often a service is to say that it lives, in microseconds.
const WATCHDOG: &str = "WATCHDOG_USEC";

/// What a service manager tells the process that it has started, and nobody else. Source: sd_notify(3).
const OURS_TO_TELL: [&str; 3] = ["NOTIFY_SOCKET", WATCHDOG, "WATCHDOG_PID"];

/// Inherited variables, then those of the service's user, those of its ports, those of its files, then the declared
/// ones.
fn environment(
    rendered: &Rendered,
    inherited: BTreeMap<String, String>,
    user: Option<&UserFacts>,
    of_files: &BTreeMap<String, String>,
) -> Vec<(String, String)> {
    let mut env = inherited;
    // What our own service manager wants to be told, it wants to be told by us.
    OURS_TO_TELL.iter().for_each(|name| _ = env.remove(*name));
    if let Some(user) = user {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        env.extend([
            ("HOME".to_owned(), text(&user.home)),
            ("SHELL".to_owned(), text(&user.shell)),
            ("USER".to_owned(), user.name.clone()),
            ("LOGNAME".to_owned(), user.name.clone()),
        ]);
    }
    env.extend(rendered.port_env.iter().map(|(key, port)| (key.clone(), port.to_string())));
    env.extend(of_files.clone());
    env.extend(rendered.env.clone());
    env.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::host::StateLayout;
    use crate::host::fake::FakeHost;
    use crate::identity::InstanceId;
    use crate::policy::{Config, Policy, Trust};
    use crate::reconciler::Settings;
    use crate::state::Ledger;

    /// The request for `web` with these lines, where one user owns everything.
    fn requested(more: &str) -> SpawnRequest {
        let host = FakeHost::new();
        host.add_user(UserFacts {
            name: "www-data".to_owned(),
            uid: 33,
            gid: 33,
            groups: vec![33],
            home: "/var/www".into(),
            shell: "/bin/false".into(),
        });
        host.write("web.toml", &format!("[service.web]\ncommand = [\"node\"]\n{more}\n"));
        let settings = Settings {
            layout: StateLayout { dir: PathBuf::from("/state") },
            instance: InstanceId::from_u64(1),
            project_dir: PathBuf::from("/srv/app"),
            home: Some(PathBuf::from("/home/op")),
            config: Config::default(),
            watching: true,
        };
        let trust = Trust::OneUser {
            uid: host.own_uid(),
            home_project: PathBuf::from("/srv/app"),
            search_path: vec![PathBuf::from("/usr/bin")],
        };
        let policy = Policy::in_force(&settings.config, trust, &[]);
        let mut reconciler = Reconciler::new(host, settings, policy, Ledger::default());
        reconciler.pass();
        let accepted =
            reconciler.accepted(&ServiceId::new("default", "web").unwrap()).expect("it is accepted");
        let rendered = reconciler.render(&accepted.spec);
        let files = reconciler.judge_rendered(&accepted.spec, &rendered).files;
        let env = reconciler.files_of(&accepted.spec, &rendered, &BTreeMap::new()).env;
        reconciler.request(&accepted.spec, &rendered, &env, &rendered.argv, &files).unwrap()
    }

    fn value<'r>(request: &'r SpawnRequest, name: &str) -> Option<&'r str> {
        request.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn what_is_told_stands_once() {
        let env = |value: &str| ("A".to_owned(), value.to_owned());
        let mut told = vec![env("of a file")];
        tell(&mut told, "A", "ours".to_owned());
        assert_eq!(told, [env("ours")]);
    }

    #[test]
    fn the_tilde_and_home_are_those_of_the_services_user() {
        let own = requested("cwd = '~/app'");
        assert_eq!((own.cwd.as_path(), value(&own, "HOME")), (Path::new("/home/op/app"), Some("/home/op")));
        let www = requested("cwd = '~/app'\nuser = 'www-data'");
        assert_eq!((www.cwd.as_path(), value(&www, "HOME")), (Path::new("/var/www/app"), Some("/var/www")));
        assert_eq!((value(&www, "USER"), value(&www, "SHELL")), (Some("www-data"), Some("/bin/false")));
    }

    #[test]
    fn declared_variables_come_before_the_users_and_those_before_inherited_ones() {
        let request = requested("user = 'www-data'\nenv = { HOME = '/srv', A = '1' }\ninherit_env = ['*']");
        assert_eq!((value(&request, "HOME"), value(&request, "USER")), (Some("/srv"), Some("www-data")));
        assert_eq!((value(&request, "A"), value(&request, "LANG")), (Some("1"), Some("C.UTF-8")));
        assert_eq!(value(&requested("inherit_env = []"), "LANG"), None);
    }
}

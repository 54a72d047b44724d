//! What a policy says of a spec by itself: caps, environment, shell, users, TTL and what must be declared.
//!
//! Pure. Which files a command comes to is `Policy::permit`'s. Every problem is found at once.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::code;
use super::config::{Cap, Requirement, SELF};
use super::env::EnvVerdict;
use super::in_force::Policy;
use crate::manifest::{
    CommandLine, HealthCheck, Limits, ListenOn, PortNumber, Problem, RenderedSocket, SecretSource, Spec,
    escape,
};
use crate::time::human;

/// What a spec came to once rendered, as far as a policy looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Templates filled in.
    pub argv: &'a [String],
    /// The declared variables, templates filled in.
    pub env: &'a BTreeMap<String, String>,
    pub sockets: &'a [RenderedSocket],
    /// The working directory is the top of a git worktree (`host::trust::is_git_worktree`); asked for only
    /// if [`Policy::wants_git_workdir`].
    pub is_git_worktree: bool,
}

impl Policy {
    /// Everything that the policy has against `spec`.
    pub fn check(&self, spec: &Spec, facts: &Facts<'_>) -> Vec<Problem> {
        let mut found = Vec::new();
        self.check_shell(spec, &mut found);
        self.check_user(spec, &mut found);
        self.check_priority(spec, &mut found);
        self.check_ports(spec, &mut found);
        self.check_sockets(facts, &mut found);
        self.check_ttl(spec, &mut found);
        self.check_required(spec, facts, &mut found);
        self.check_health(spec, &mut found);
        self.check_env(spec, facts, &mut found);
        self.check_caps(spec, facts, &mut found);
        found.into_iter().map(|problem| problem.of(spec.id.name())).collect()
    }

    /// A problem if a file declares more services than the policy grants one.
    pub fn check_file(&self, services: usize) -> Option<Problem> {
        self.over(Cap::ServicesPerFile, code::TOO_MANY_SERVICES_IN_FILE, services, "services in this file")
    }

    /// A problem if there are more services in all than the policy grants.
    pub fn check_total(&self, services: usize) -> Option<Problem> {
        self.over(Cap::Services, code::TOO_MANY_SERVICES, services, "services in all")
    }

    /// Whether [`Facts::is_git_worktree`] matters.
    pub fn wants_git_workdir(&self) -> bool {
        self.requires(Requirement::GitWorkdir)
    }

    pub fn requires_limits(&self) -> bool {
        self.requires(Requirement::Limits)
    }

    fn requires(&self, requirement: Requirement) -> bool {
        self.rules().require.as_ref().is_some_and(|set| set.contains(&requirement))
    }

    fn check_shell(&self, spec: &Spec, found: &mut Vec<Problem>) {
        let health = match spec.health.as_ref().map(|health| &health.check) {
            Some(HealthCheck::Command { command, .. }) => Some(command),
            _ => None,
        };
        let commands = [
            ("command", "shell", Some(&spec.command)),
            ("health", "health.shell", health),
            ("stop", "stop.shell", spec.stop.command.as_ref()),
            ("reload", "reload.shell", spec.reload.command.as_ref()),
        ];
        for (key, field, _) in commands.into_iter().filter(|(_, _, c)| c.is_some_and(CommandLine::is_shell)) {
            if !self.allow_shell {
                let message = format!("`{key}` wants a shell, and the policy allows none");
                found.push(Problem::refused(code::SHELL_NOT_ALLOWED, message).about(field).help(
                    "write the command as a list of words without `shell`, or allow shells below `[policy]` \
                     with `allow_shell = true`",
                ));
            }
        }
    }

    fn check_user(&self, spec: &Spec, found: &mut Vec<Problem>) {
        let Some(users) = &self.rules().users else { return };
        let wanted = spec.user.as_deref().unwrap_or(SELF);
        if users.contains(wanted) {
            return;
        }
        let message = match &spec.user {
            Some(user) => format!("the policy does not allow the user `{}`", escape(user)),
            None => "no `user` is given, and the policy wants one".to_owned(),
        };
        let mut line = users.clone();
        line.insert(wanted.to_owned());
        let help = format!(
            "the users are {}; allow it below `[policy]` with `users = {}`",
            list(users),
            toml_list(&line)
        );
        found.push(Problem::refused(code::USER_NOT_ALLOWED, message).help(help));
    }

    /// Only a reconciler that runs as root could give it, to a service that could not take it by itself: spared when
    /// memory runs out, or ahead of everything else on the machine. One user gets what the kernel lets him.
    fn check_priority(&self, spec: &Spec, found: &mut Vec<Problem>) {
        if self.allow_priority {
            return;
        }
        for (key, value) in [("nice", spec.nice), ("oom_score_adj", spec.oom_score_adj)] {
            let Some(value) = value.filter(|value| *value < 0) else { continue };
            let message = format!("`{key} = {value}` puts it before others, which the policy does not allow");
            let help = "write 0 or more, or allow it below `[policy]` with `allow_priority = true`";
            found.push(Problem::refused(code::PRIORITY_NOT_ALLOWED, message).about(key).help(help));
        }
    }

    fn check_ports(&self, spec: &Spec, found: &mut Vec<Problem>) {
        let Some(min) = self.rules().min_port else { return };
        for (name, port) in &spec.ports {
            let PortNumber::Fixed(number) = port.number else { continue };
            if number < min {
                let message =
                    format!("`ports.{name} = {number}` is below {min}, the lowest that the policy allows");
                let help = format!("write {min} or more, or `{name} = \"auto\"`");
                found.push(
                    Problem::refused(code::PORT_TOO_LOW, message).about(format!("ports.{name}")).help(help),
                );
            }
        }
    }

    fn check_sockets(&self, facts: &Facts<'_>, found: &mut Vec<Problem>) {
        let Some(min) = self.rules().min_port else { return };
        for RenderedSocket { name, address, .. } in facts.sockets {
            let ListenOn::Tcp(address) = address else { continue };
            if address.port() < min {
                let message = format!(
                    "`sockets.{name}` listens on port {}, below {min}, the lowest that the policy allows",
                    address.port()
                );
                let problem = Problem::refused(code::PORT_TOO_LOW, message).about(format!("sockets.{name}"));
                found.push(problem.help(format!("take port {min} or a higher one, or a path")));
            }
        }
    }

    fn check_ttl(&self, spec: &Spec, found: &mut Vec<Problem>) {
        let max = self.rules().max_ttl;
        match (self.effective_ttl(spec), max) {
            (Some(ttl), Some(max)) if ttl > max => {
                let message =
                    format!("a TTL of {} is over the policy's maximum of {}", human(ttl), human(max));
                let help = format!("write `ttl = \"{}\"` or less; `renew` prolongs it", plain(max));
                found.push(Problem::refused(code::TTL_TOO_LONG, message).help(help));
            }
            (None, _) if max.is_some() || self.requires(Requirement::Ttl) => {
                let example = plain(max.unwrap_or(std::time::Duration::from_secs(4 * 3600)));
                let message = "the policy wants a TTL, and none is given";
                found.push(
                    Problem::refused(code::TTL_REQUIRED, message)
                        .help(format!("write `ttl = \"{example}\"`")),
                );
            }
            _ => {}
        }
    }

    fn check_required(&self, spec: &Spec, facts: &Facts<'_>, found: &mut Vec<Problem>) {
        if self.requires(Requirement::Health) && spec.health.is_none() {
            let message = "the policy wants a health check, and none is given";
            let help = "write `health = \"/path\"` with a `url`, or a table `[service.NAME.health]`";
            found.push(Problem::refused(code::HEALTH_REQUIRED, message).help(help));
        }
        if self.requires(Requirement::Limits) && spec.limits == Limits::default() {
            let message = "the policy wants limits, and none are given";
            let help = "write a table `[service.NAME.limits]`, with `nofile = 4096` for one";
            found.push(Problem::refused(code::LIMITS_REQUIRED, message).help(help));
        }
        if self.wants_git_workdir() && !facts.is_git_worktree {
            let message =
                format!("`{}` is not the top of a git worktree, as the policy wants it", escape(&spec.cwd));
            let help = "set `cwd` to a repository or to what `git worktree add` made";
            found.push(Problem::refused(code::GIT_WORKDIR_REQUIRED, message).help(help));
        }
    }

    fn check_health(&self, spec: &Spec, found: &mut Vec<Problem>) {
        let Some(health) = &spec.health else { return };
        let spans = [
            ("interval", health.interval, self.rules().max_health_interval, code::HEALTH_INTERVAL_TOO_LONG),
            (
                "start_timeout",
                health.start_timeout,
                self.rules().max_start_timeout,
                code::START_TIMEOUT_TOO_LONG,
            ),
        ];
        for (key, span, max, code) in spans {
            let Some(max) = max.filter(|max| span > *max) else { continue };
            let message = format!("`{key}` is {}, over the policy's maximum of {}", human(span), human(max));
            found.push(
                Problem::refused(code, message).help(format!("write `{key} = \"{}\"` or less", plain(max))),
            );
        }
    }

    fn check_env(&self, spec: &Spec, facts: &Facts<'_>, found: &mut Vec<Problem>) {
        let declared = facts.env.keys().map(|key| (key, format!("env.{key}")));
        let of_ports = spec.ports.iter();
        let of_ports =
            of_ports.filter_map(|(name, port)| Some((port.env.as_ref()?, format!("ports.{name}"))));
        for (key, field) in declared.chain(of_ports) {
            let verdicts = self.env.iter().map(|rules| rules.sets(key));
            match verdicts.max().unwrap_or(EnvVerdict::Allowed) {
                EnvVerdict::Allowed => {}
                EnvVerdict::Hijack => {
                    let shown = escape(key);
                    let message =
                        format!("`{shown}` can make the process run something else than its command");
                    let help = self.env_help(key, "only that very key below `[policy]` allows it");
                    found.push(Problem::refused(code::ENV_HIJACK, message).about(field).help(help));
                }
                EnvVerdict::NotListed => {
                    let message = format!("the policy does not allow a manifest to set `{}`", escape(key));
                    let help = self.env_help(key, "allow it below `[policy]`");
                    found.push(Problem::refused(code::ENV_NOT_ALLOWED, message).about(field).help(help));
                }
            }
        }
        let of_ours = spec.secrets.iter().filter_map(|(given, secret)| match &secret.source {
            SecretSource::Env(name) => Some((given, name.as_str())),
            SecretSource::File(_) | SecretSource::Derived(_) | SecretSource::Command(_) => None,
        });
        for (given, name) in of_ours.filter(|(_, name)| self.env.iter().any(|rules| !rules.inherits(name))) {
            let message = format!("the policy does not allow a manifest to be given `{}`", escape(name));
            let help = self.env_help(name, "allow it below `[policy]`");
            let place = format!("secrets.{given}");
            found.push(Problem::refused(code::INHERIT_NOT_ALLOWED, message).about(place).help(help));
        }
        for pattern in
            spec.inherit_env.iter().filter(|name| self.env.iter().any(|rules| !rules.inherits(name)))
        {
            let message = format!("the policy does not allow a manifest to inherit `{}`", escape(pattern));
            let help = match pattern.strip_suffix('*') {
                Some("") => "name the variables, and allow each with `env_keys` below `[policy]`".to_owned(),
                Some(prefix) => {
                    format!("allow it below `[policy]` with \"{}\" in `env_prefixes`", escape(prefix))
                }
                None => self.env_help(pattern, "allow it below `[policy]`"),
            };
            found.push(Problem::refused(code::INHERIT_NOT_ALLOWED, message).help(help));
        }
    }

    /// The lines that would allow `key`: with the first `env_keys`, every other key must be granted too.
    fn env_help(&self, key: &str, how: &str) -> String {
        let mut keys = self.rules().env_keys.clone().unwrap_or_default();
        keys.insert(key.to_owned());
        let is_first = self.rules().env_keys.is_none() && self.rules().env_prefixes.is_none();
        let others = if is_first { ", and `env_prefixes = [\"\"]` to leave the others allowed" } else { "" };
        format!("{how}: `env_keys = {}`{others}", toml_list(&keys))
    }

    fn check_caps(&self, spec: &Spec, facts: &Facts<'_>, found: &mut Vec<Problem>) {
        let chars = |text: &str| text.chars().count();
        let longest =
            |texts: &mut dyn Iterator<Item = &String>| texts.map(|text| chars(text)).max().unwrap_or(0);
        let (first, arguments) =
            facts.argv.split_first().map_or(("", &[][..]), |(f, rest)| (f.as_str(), rest));
        let of_secrets = || spec.secret_commands().filter_map(|(_, command)| command.argv.split_first());
        let first_chars = of_secrets().map(|(first, _)| chars(first)).fold(chars(first), usize::max);
        let argument_count = of_secrets().map(|(_, rest)| rest.len()).fold(arguments.len(), usize::max);
        let longest_argument = longest(&mut arguments.iter().chain(of_secrets().flat_map(|(_, rest)| rest)));
        let env_bytes = facts.env.iter().map(|(key, value)| key.len() + value.len()).sum();
        let attrs_bytes = match spec.attrs.is_empty() {
            true => 0,
            false => serde_json::to_string(&spec.attrs).map_or(usize::MAX, |json| json.len()),
        };
        let ports: usize = spec.ports.values().map(|port| usize::from(port.count)).sum();
        let (health_command, regex) = match spec.health.as_ref().map(|health| &health.check) {
            Some(HealthCheck::Command { command, expect_regex }) => {
                let words = command.words();
                let spaces = words.len().saturating_sub(1);
                let regex = expect_regex.as_deref().map_or(0, chars);
                (words.into_iter().map(chars).sum::<usize>() + spaces, regex)
            }
            Some(HealthCheck::Log { pattern }) => (0, chars(pattern)),
            _ => (0, 0),
        };
        let cwds = spec.cwd_before.iter().flatten().chain([&spec.cwd]);
        let longest_cwd = cwds.map(|cwd| chars(cwd)).max().unwrap_or_default();
        let measured = [
            (Cap::CommandLength, code::COMMAND_TOO_LONG, first_chars, "characters in the first word"),
            (Cap::Arguments, code::TOO_MANY_ARGUMENTS, argument_count, "arguments"),
            (Cap::ArgumentLength, code::ARGUMENT_TOO_LONG, longest_argument, "characters in one argument"),
            (Cap::CwdLength, code::CWD_TOO_LONG, longest_cwd, "characters in `cwd`"),
            (Cap::EnvKeys, code::TOO_MANY_ENV_KEYS, facts.env.len(), "variables"),
            (
                Cap::EnvValueLength,
                code::ENV_VALUE_TOO_LONG,
                longest(&mut facts.env.values()),
                "characters in one variable",
            ),
            (Cap::EnvBytes, code::ENV_TOO_LARGE, env_bytes, "bytes of variables"),
            (Cap::AttrsBytes, code::ATTRS_TOO_LARGE, attrs_bytes, "bytes of `attrs`"),
            (
                Cap::HealthCommandLength,
                code::HEALTH_COMMAND_TOO_LONG,
                health_command,
                "characters in the health command",
            ),
            (Cap::RegexLength, code::REGEX_TOO_LONG, regex, "characters in the pattern of the health check"),
            (Cap::Ports, code::TOO_MANY_PORTS, ports + facts.sockets.len(), "ports and sockets"),
        ];
        found.extend(
            measured.into_iter().filter_map(|(cap, code, value, what)| self.over(cap, code, value, what)),
        );
    }

    fn over(&self, cap: Cap, code: &str, value: usize, what: &str) -> Option<Problem> {
        let max = *self.rules().caps.get(&cap)?;
        let key = Cap::ALL.iter().find(|(known, _)| *known == cap).map_or("", |(_, key)| *key);
        (value as u64 > max).then(|| {
            Problem::refused(code, format!("{value} {what}, and the policy allows {max}"))
                .help(format!("the cap is `{key}` below `[policy.caps]`"))
        })
    }
}

/// A duration as it is written in a manifest.
fn plain(span: std::time::Duration) -> String {
    human(span).replace(' ', "")
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| format!("`{item}`")).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn toml_list<'a>(items: impl IntoIterator<Item = &'a String>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| toml::Value::String(item.clone()).to_string()).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests;

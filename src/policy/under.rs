//! A configuration under the machine's ceiling: whatever is tighter holds, and what asked for more is told.
//!
//! Figures become the tighter of the two. Lists hold side by side: names come to files only when they are
//! resolved, so what is on both is not to be told from the texts. Called by `host::config_files`.

use std::time::Duration;

use super::code;
use super::config::{Cap, Config, Logs, PortRange, Ports, Prune, Rules};
use super::env::{EnvRules, EnvVerdict};
use crate::escape::visible;
use crate::manifest::Problem;
use crate::time::human;

impl Config {
    /// What holds of `self` where `ceiling` may only be tightened; a warning for each attempt to loosen it.
    #[must_use]
    pub fn under(self, ceiling: Self) -> (Self, Vec<Problem>) {
        let mut merge = Merge::default();
        let policy = merge.rules(self.policy, &ceiling.policy);
        let logs = Logs {
            max_size: merge.least("logs.max_size", self.logs.max_size, ceiling.logs.max_size, bytes),
            keep: merge.least("logs.keep", self.logs.keep, ceiling.logs.keep, u32::to_string),
        };
        let prune = Prune {
            delay: merge.most("prune.delay", self.prune.delay, ceiling.prune.delay, span),
            guard_min: merge.least(
                "prune.guard_min",
                self.prune.guard_min,
                ceiling.prune.guard_min,
                usize::to_string,
            ),
            max_fraction: merge.least(
                "prune.max_fraction",
                self.prune.max_fraction,
                ceiling.prune.max_fraction,
                f64::to_string,
            ),
        };
        let ports = Ports {
            range: merge.pick(
                "ports.range",
                self.ports.range,
                ceiling.ports.range,
                |own, top| !top.contains(*own),
                PortRange::to_string,
            ),
        };
        let on_exit = merge.pick("on_exit", self.on_exit, ceiling.on_exit, PartialEq::ne, |choice| {
            format!("{choice:?}").to_lowercase()
        });
        let resync = merge.least("resync", self.resync, ceiling.resync, span);
        let config =
            Self { policy, logs, prune, ports, on_exit, resync, ceiling: Some(Box::new(ceiling.policy)) };
        (config, merge.problems)
    }
}

#[derive(Default)]
struct Merge {
    problems: Vec<Problem>,
}

impl Merge {
    fn rules(&mut self, own: Rules, top: &Rules) -> Rules {
        self.compare_lists(&own, top);
        let max_ttl = self.least("policy.max_ttl", own.max_ttl, top.max_ttl, span);
        let default_ttl = self.least("policy.default_ttl", own.default_ttl, top.default_ttl, span);
        let default_ttl = match (default_ttl, max_ttl) {
            (Some(_), Some(_)) => self.least("policy.default_ttl", default_ttl, max_ttl, span),
            _ => default_ttl,
        };
        let (env_keys, env_prefixes) = match (&own.env_keys, &own.env_prefixes) {
            (None, None) => (top.env_keys.clone(), top.env_prefixes.clone()),
            _ => (own.env_keys, own.env_prefixes),
        };
        Rules {
            executables: own.executables.or_else(|| top.executables.clone()),
            search_path: match (own.search_path, &top.search_path) {
                (Some(own), Some(top)) => Some(own.into_iter().filter(|dir| top.contains(dir)).collect()),
                (own, top) => own.or_else(|| top.clone()),
            },
            env_keys,
            env_prefixes,
            caps: Cap::ALL
                .into_iter()
                .filter_map(|(cap, key)| {
                    let key = format!("policy.caps.{key}");
                    let (own, top) = (own.caps.get(&cap).copied(), top.caps.get(&cap).copied());
                    Some((cap, self.least(&key, own, top, u64::to_string)?))
                })
                .collect(),
            max_ttl,
            default_ttl,
            max_lease: self.least("policy.max_lease", own.max_lease, top.max_lease, span),
            max_health_interval: self.least(
                "policy.max_health_interval",
                own.max_health_interval,
                top.max_health_interval,
                span,
            ),
            max_start_timeout: self.least(
                "policy.max_start_timeout",
                own.max_start_timeout,
                top.max_start_timeout,
                span,
            ),
            require: match (own.require, top.require.clone()) {
                (Some(own), Some(top)) => Some(own.into_iter().chain(top).collect()),
                (own, top) => own.or(top),
            },
            allow_shell: self.least("policy.allow_shell", own.allow_shell, top.allow_shell, bool::to_string),
            allow_priority: self.least(
                "policy.allow_priority",
                own.allow_priority,
                top.allow_priority,
                bool::to_string,
            ),
            min_port: self.most("policy.min_port", own.min_port, top.min_port, u16::to_string),
            users: match (own.users, &top.users) {
                (Some(own), Some(top)) => Some(own.intersection(top).cloned().collect()),
                (own, top) => own.or_else(|| top.clone()),
            },
            on_exec_away: self.most("policy.on_exec_away", own.on_exec_away, top.on_exec_away, |choice| {
                format!("{choice:?}").to_lowercase()
            }),
        }
    }

    /// A warning for each element of a list that the ceiling does not have.
    fn compare_lists(&mut self, own: &Rules, top: &Rules) {
        if let (Some(own), Some(top)) = (&own.executables, &top.executables) {
            let beyond = own.iter().filter(|entry| !entry.may_be_within(top));
            self.beyond("policy.executables", beyond.map(ToString::to_string));
        }
        if let (Some(own), Some(top)) = (&own.search_path, &top.search_path) {
            let beyond = own.iter().filter(|dir| !top.contains(dir));
            self.beyond("policy.search_path", beyond.map(|dir| format!("\"{}\"", dir.display())));
        }
        if let (Some(own), Some(top)) = (&own.users, &top.users) {
            self.beyond("policy.users", own.difference(top).map(|user| format!("\"{user}\"")));
        }
        let granted = EnvRules::of(top);
        let keys = own.env_keys.iter().flatten();
        let beyond = keys.filter(|key| granted.sets(key) != EnvVerdict::Allowed);
        self.beyond("policy.env_keys", beyond.map(|key| format!("\"{key}\"")));
        let prefixes = own.env_prefixes.iter().flatten();
        let beyond = prefixes.filter(|prefix| !granted.inherits(&format!("{prefix}*")));
        self.beyond("policy.env_prefixes", beyond.map(|prefix| format!("\"{prefix}\"")));
    }

    fn beyond(&mut self, key: &str, elements: impl Iterator<Item = String>) {
        for element in elements {
            let shown = visible(&element);
            let message = format!("`{key}` has {shown}, which the ceiling does not grant: it stays refused");
            self.problems.push(Problem::warning(code::ABOVE_CEILING, message).help(CEILING_HELP));
        }
    }

    fn least<T: PartialOrd>(
        &mut self,
        key: &str,
        own: Option<T>,
        top: Option<T>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        self.pick(key, own, top, PartialOrd::gt, show)
    }

    fn most<T: PartialOrd>(
        &mut self,
        key: &str,
        own: Option<T>,
        top: Option<T>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        self.pick(key, own, top, PartialOrd::lt, show)
    }

    /// `own`, unless it is looser than `top`.
    fn pick<T>(
        &mut self,
        key: &str,
        own: Option<T>,
        top: Option<T>,
        is_looser: impl Fn(&T, &T) -> bool,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        let (Some(wanted), Some(granted)) = (&own, &top) else { return own.or(top) };
        if !is_looser(wanted, granted) {
            return own;
        }
        let message =
            format!("`{key}` is {}, and the ceiling is {}: the ceiling holds", show(wanted), show(granted));
        self.problems.push(Problem::warning(code::ABOVE_CEILING, message).help(CEILING_HELP));
        top
    }
}

const CEILING_HELP: &str = "the ceiling can only be tightened here; to raise it, change the ceiling's file";

fn span(span: &Duration) -> String {
    human(*span)
}

fn bytes(bytes: &u64) -> String {
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::manifest::Severity;
    use crate::policy::{OnExecAway, OnExit, parse_config};

    fn config(text: &str) -> Config {
        let (config, problems) = parse_config(text);
        assert_eq!(problems, []);
        config
    }

    /// What holds, and the keys that were told to ask for more.
    fn under(own: &str, ceiling: &str) -> (Config, Vec<String>) {
        let (merged, problems) = config(own).under(config(ceiling));
        for problem in &problems {
            assert_eq!((problem.code.as_str(), problem.severity), (code::ABOVE_CEILING, Severity::Warning));
        }
        let key = |problem: Problem| problem.message.split('`').nth(1).unwrap().to_owned();
        (merged, problems.into_iter().map(key).collect())
    }

    #[test]
    fn the_tighter_figure_holds_whichever_file_it_is_in() {
        let loose = "resync = '2m'\n[policy]\nmax_ttl = '2d'\nmax_lease = '2h'\nallow_shell = true\nallow_priority = true\nmin_port = 80\non_exec_away = 'report'\n\
            [policy.caps]\narguments = 100\n[logs]\nmax_size = '1GiB'\nkeep = 9\n\
            [prune]\ndelay = '1s'\nguard_min = 50\nmax_fraction = 0.9\n[ports]\nrange = '1000-2000'\n";
        let tight = "resync = '1m'\n[policy]\nmax_ttl = '1d'\nmax_lease = '1h'\nallow_shell = false\nallow_priority = false\nmin_port = 1024\non_exec_away = 'stop'\n\
            [policy.caps]\narguments = 10\n[logs]\nmax_size = '1MiB'\nkeep = 2\n\
            [prune]\ndelay = '3s'\nguard_min = 5\nmax_fraction = 0.5\n[ports]\nrange = '1100-1200'\n";
        let (merged, told) = under(loose, tight);
        assert_eq!(Config { ceiling: None, ..merged }, config(tight));
        let keys = [
            "policy.max_ttl",
            "policy.caps.arguments",
            "policy.max_lease",
            "policy.allow_shell",
            "policy.allow_priority",
            "policy.min_port",
            "policy.on_exec_away",
            "logs.max_size",
            "logs.keep",
            "prune.delay",
            "prune.guard_min",
            "prune.max_fraction",
            "ports.range",
            "resync",
        ];
        assert_eq!(told, keys);

        let (merged, told) = under(tight, loose);
        assert_eq!(Config { ceiling: None, ..merged }, config(tight));
        assert_eq!(told, [""; 0]);
    }

    #[test]
    fn where_one_file_is_silent_the_other_holds() {
        let (merged, told) = under("", "[policy]\nmax_ttl = '1d'\nexecutables = ['node']\n");
        assert_eq!(merged.policy.max_ttl, Some(Duration::from_secs(86400)));
        assert_eq!(merged.policy.executables.map(|list| list.len()), Some(1));
        assert_eq!(told, [""; 0]);
        let (merged, _) = under("[policy]\non_exec_away = 'stop'\n", "");
        assert_eq!(merged.policy.on_exec_away, Some(OnExecAway::Stop));
    }

    #[test]
    fn a_default_ttl_never_exceeds_the_ceilings_maximum() {
        let (merged, told) = under("[policy]\ndefault_ttl = '2d'\n", "[policy]\nmax_ttl = '1d'\n");
        assert_eq!(merged.policy.default_ttl, Some(Duration::from_secs(86400)));
        assert_eq!(told, ["policy.default_ttl"]);
    }

    #[test]
    fn requirements_add_up_and_users_must_be_on_both_lists() {
        let (merged, told) = under(
            "[policy]\nrequire = ['ttl']\nusers = ['www-data', 'root']\n",
            "[policy]\nrequire = ['health']\nusers = ['www-data', 'app']\n",
        );
        assert_eq!(merged.policy.require.map(|set| set.len()), Some(2));
        assert_eq!(merged.policy.users, Some(["www-data".to_owned()].into()));
        assert_eq!(told, ["policy.users"]);
    }

    #[test]
    fn list_elements_beyond_the_ceiling_are_told() {
        let (merged, told) = under(
            "[policy]\nexecutables = ['node', '/usr/bin/python3.11', 'nc']\nsearch_path = ['/usr/bin', '/tmp']\n\
             env_keys = ['PORT', 'LD_PRELOAD']\nenv_prefixes = ['VITE_X_', 'AWS_']\n",
            "[policy]\nexecutables = ['node', 'python3', '/opt/*/bin/x']\nsearch_path = ['/usr/bin']\n\
             env_keys = ['PORT']\nenv_prefixes = ['VITE_']\n",
        );
        assert_eq!(merged.policy.search_path, Some(vec![PathBuf::from("/usr/bin")]));
        let keys = ["policy.search_path", "policy.env_keys", "policy.env_prefixes"];
        assert_eq!(
            told.iter().filter(|key| *key != "policy.executables").collect::<Vec<_>>(),
            keys.iter().collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_is_neither_looser_nor_tighter_is_the_ceilings() {
        let (merged, told) = under("on_exit = 'leave'\n", "on_exit = 'stop'\n");
        assert_eq!((merged.on_exit, told), (Some(OnExit::Stop), vec!["on_exit".to_owned()]));
    }
}

//! The variables that a service gets of our own environment.
//!
//! Pure. What a manifest may ask for is `env`'s; this is what its patterns come to. Called by `reconciler` for
//! every process that it has started.

use std::collections::BTreeMap;
use std::path::Path;

use super::env::EnvRules;
use super::in_force::Policy;

impl Policy {
    /// Those of `ours` that `patterns` name, with the `PATH` that was judged by.
    ///
    /// `#!/usr/bin/env NAME` was looked up on the search path and is executed by `PATH`: where an allowlist is
    /// to mean something, the two are the same, asked for or not. Elsewhere it is our own without relative
    /// and empty elements, which would be whatever the working directory holds.
    pub fn inherited(
        &self,
        patterns: &[impl AsRef<str>],
        ours: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let is_asked_for = |name: &str| patterns.iter().any(|pattern| names(pattern.as_ref(), name));
        let named = ours.iter().filter(|(name, _)| is_asked_for(name));
        let mut passed: BTreeMap<_, _> = named.map(|(name, value)| (name.clone(), value.clone())).collect();
        let inherited = passed.remove("PATH");
        let path = if self.env.iter().any(EnvRules::guards_path) {
            joined(self.search_path().iter().filter_map(|dir| dir.to_str()))
        } else {
            inherited.and_then(|path| joined(path.split(':')))
        };
        passed.extend(path.map(|path| ("PATH".to_owned(), path)));
        passed
    }
}

/// A `PATH` of the absolute directories; `None` without any, since an empty one is the working directory.
fn joined<'d>(dirs: impl Iterator<Item = &'d str>) -> Option<String> {
    let is_element = |dir: &&str| Path::new(dir).is_absolute() && !dir.contains(':');
    let dirs: Vec<_> = dirs.filter(is_element).collect();
    (!dirs.is_empty()).then(|| dirs.join(":"))
}

/// What is said to us and not to our services, by ourselves (`RECONCILE_`) or by a service manager: a service
/// that took up its notification socket, its sockets or its directories would pass for us. Sources:
/// systemd.exec(5), sd_notify(3), sd_listen_fds(3).
const OURS_ALONE: &[&str] = &[
    "RECONCILE_",
    "NOTIFY_SOCKET",
    "LISTEN_",
    "FDSTORE",
    "WATCHDOG_",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "MAINPID",
    "MANAGERPID",
    "MEMORY_PRESSURE_",
    "CREDENTIALS_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "CACHE_DIRECTORY",
    "LOGS_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
];

/// A pattern never means what is ours alone; the very name does.
fn names(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix) && !OURS_ALONE.iter().any(|ours| name.starts_with(ours)),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::machine::{config_of, one_user};
    use crate::policy::{Config, Trust};

    fn inherited(policy: &Policy, patterns: &[&str], ours: &[(&str, &str)]) -> Vec<(String, String)> {
        let patterns: Vec<_> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        let ours = ours.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        policy.inherited(&patterns, &ours).into_iter().collect()
    }

    fn path(path: &str) -> Vec<(String, String)> {
        vec![("PATH".to_owned(), path.to_owned())]
    }

    #[test]
    fn a_star_inherits_by_prefix_and_alone_everything() {
        for (pattern, name, is_named) in [
            ("LC_*", "LC_ALL", true),
            ("LC_*", "LANG", false),
            ("*", "ANYTHING", true),
            ("PATH", "PATHS", false),
            ("*", "NOTIFY_SOCKET", false),
            ("LISTEN_*", "LISTEN_FDS", false),
            ("*", "RECONCILE_CONFIG", false),
            ("NOTIFY_SOCKET", "NOTIFY_SOCKET", true),
        ] {
            assert_eq!(names(pattern, name), is_named, "{pattern} and {name}");
        }
    }

    #[test]
    fn where_path_is_guarded_a_service_gets_the_one_that_was_judged_by() {
        let config = config_of("[policy]\nsearch_path = ['/opt/bin', '/usr/bin']\n");
        let strangers = Policy::in_force(&config, Trust::Strangers, &[]);
        let ours = [("PATH", "/tmp/evil:/usr/bin")];
        assert_eq!(inherited(&strangers, &["PATH"], &ours), path("/opt/bin:/usr/bin"));
        assert_eq!(inherited(&strangers, &[], &[]), path("/opt/bin:/usr/bin"), "env(1) has a default");
        let listed = config_of("[policy]\nexecutables = ['node']\n");
        let one = Policy::in_force(&listed, one_user(&["/home/ann/bin"]), &[]);
        assert_eq!(inherited(&one, &["PATH"], &ours), path("/home/ann/bin"));
        let nowhere = Policy::in_force(&config_of("[policy]\nsearch_path = []\n"), Trust::Strangers, &[]);
        assert_eq!(inherited(&nowhere, &["PATH"], &ours), []);
    }

    #[test]
    fn one_users_path_is_his_own_without_what_the_working_directory_decides() {
        let one = Policy::in_force(&Config::default(), one_user(&["/usr/bin"]), &[]);
        let ours = [("PATH", ":/home/ann/bin:node_modules/.bin:.::/usr/bin:")];
        assert_eq!(inherited(&one, &["*"], &ours), path("/home/ann/bin:/usr/bin"));
        assert_eq!(inherited(&one, &["PATH"], &[("PATH", ".:")]), []);
        assert_eq!(inherited(&one, &["HOME"], &ours), []);
    }
}

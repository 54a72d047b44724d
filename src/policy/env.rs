//! Which environment variables a manifest may set or inherit.
//!
//! By default any but those that make a runtime load or run something other than what was checked; once
//! `env_keys` or `env_prefixes` are given, only what they list. Sources: ld.so(8), bash(1), sh(1p) and the
//! manuals of the runtimes.

use std::collections::BTreeSet;

use super::config::Rules;

/// Names that hijack a process.
const HIJACK_NAMES: &str = "
    GLIBC_TUNABLES GCONV_PATH LOCPATH MALLOC_TRACE OPENSSL_CONF OPENSSL_ENGINES OPENSSL_MODULES
    BASH_ENV ENV SHELLOPTS BASHOPTS PS4 PROMPT_COMMAND IFS ZDOTDIR NODE_OPTIONS
    NODE_REPL_EXTERNAL_MODULE BUN_OPTIONS ELECTRON_RUN_AS_NODE PYTHONSTARTUP PYTHONHOME
    PYTHONINSPECT PYTHONBREAKPOINT PYTHONUSERBASE PYTHONWARNINGS PERL5OPT PERL5DB RUBYOPT PHPRC
    PHP_INI_SCAN_DIR JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS _JAVA_OPTIONS DOTNET_STARTUP_HOOKS
    CORECLR_PROFILER CORECLR_ENABLE_PROFILING ERL_AFLAGS ERL_FLAGS ERL_ZFLAGS R_PROFILE
    R_PROFILE_USER R_ENVIRON R_ENVIRON_USER RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER GOFLAGS";

const HIJACK_PREFIXES: &[&str] = &["LD_", "BASH_FUNC_", "CORECLR_PROFILER_PATH", "LUA_INIT"];

/// npm reads these in either case, and with `-` for `_`.
const HIJACK_NPM: &[&str] = &[
    "npm_config_node_options",
    "npm_config_script_shell",
    "npm_config_userconfig",
    "npm_config_globalconfig",
];

/// Inherited without being asked for; a policy has nothing against them.
const INHERITED_BY_DEFAULT: &[&str] =
    &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ", "TMPDIR"];

/// The rules of one file of configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct EnvRules {
    pub(super) keys: Option<BTreeSet<String>>,
    pub(super) prefixes: Option<Vec<String>>,
    pub(super) guard: Guard,
}

/// How much of the environment is the operator's where no list says so; each includes the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Guard {
    /// One user, and what he owns is allowed anyway.
    #[default]
    Open,
    /// `PATH` decides what `#!/usr/bin/env NAME` comes to: an allowlist is to mean something.
    Path,
    /// Manifests by others: values that they did not write are none of their business.
    Strangers,
}

/// The worst comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EnvVerdict {
    Allowed,
    NotListed,
    Hijack,
}

impl EnvRules {
    pub(super) fn of(rules: &Rules) -> Self {
        Self { keys: rules.env_keys.clone(), prefixes: rules.env_prefixes.clone(), guard: Guard::Open }
    }

    pub(super) fn guards_path(&self) -> bool {
        self.guard >= Guard::Path
    }

    /// May a manifest set this variable?
    pub(super) fn sets(&self, key: &str) -> EnvVerdict {
        if self.keys.as_ref().is_some_and(|keys| keys.contains(key)) {
            return EnvVerdict::Allowed;
        }
        if hijacks(key) || (self.guards_path() && key == "PATH") {
            return EnvVerdict::Hijack;
        }
        if !self.is_allowlist() || self.has_prefix_of(key) {
            return EnvVerdict::Allowed;
        }
        EnvVerdict::NotListed
    }

    /// May a manifest inherit `pattern`, a name or a prefix followed by `*`?
    ///
    /// The values are the operator's own, so none is a hijack; with an allowlist, what is not on it stays
    /// with the operator, and from strangers everything does that no list names: that any key may be set
    /// (`env_prefixes = [""]`) gives nothing away.
    pub(super) fn inherits(&self, pattern: &str) -> bool {
        let is_for_strangers = self.guard == Guard::Strangers;
        if is_inherited_by_default(pattern) || !(self.is_allowlist() || is_for_strangers) {
            return true;
        }
        let shortest = usize::from(is_for_strangers);
        let is_below = |key: &str| {
            let mut prefixes = self.prefixes.iter().flatten().filter(|prefix| prefix.len() >= shortest);
            prefixes.any(|prefix| key.starts_with(prefix.as_str()))
        };
        match pattern.strip_suffix('*') {
            Some(prefix) => is_below(prefix),
            None => self.keys.as_ref().is_some_and(|keys| keys.contains(pattern)) || is_below(pattern),
        }
    }

    fn is_allowlist(&self) -> bool {
        self.keys.is_some() || self.prefixes.is_some()
    }

    fn has_prefix_of(&self, key: &str) -> bool {
        self.prefixes.iter().flatten().any(|prefix| key.starts_with(prefix.as_str()))
    }
}

/// True as well for a part of a pattern: `LC_ALL`.
fn is_inherited_by_default(pattern: &str) -> bool {
    INHERITED_BY_DEFAULT.iter().any(|default| match default.strip_suffix('*') {
        Some(prefix) => pattern.starts_with(prefix),
        None => *default == pattern,
    })
}

fn hijacks(key: &str) -> bool {
    let as_npm_reads_it = || key.to_ascii_lowercase().replace('-', "_");
    HIJACK_NAMES.split_ascii_whitespace().any(|name| name == key)
        || HIJACK_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
        || HIJACK_NPM.contains(&as_npm_reads_it().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(keys: Option<&[&str]>, prefixes: Option<&[&str]>) -> EnvRules {
        let own = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        EnvRules {
            keys: keys.map(own),
            prefixes: prefixes.map(|list| list.iter().map(|&text| text.to_owned()).collect()),
            guard: Guard::Open,
        }
    }

    #[test]
    fn by_default_any_key_but_those_that_hijack() {
        let open = rules(None, None);
        for key in ["PORT", "NODE_ENV", "PYTHONPATH", "PATH", "env"] {
            assert_eq!(open.sets(key), EnvVerdict::Allowed, "{key}");
        }
        for key in [
            "LD_PRELOAD",
            "LD_ANYTHING",
            "NODE_OPTIONS",
            "PYTHONSTARTUP",
            "BASH_ENV",
            "ENV",
            "PERL5OPT",
            "RUBYOPT",
            "BASH_FUNC_ls%%",
            "LUA_INIT_5_4",
            "NPM_CONFIG_NODE-OPTIONS",
            "npm_config_script_shell",
        ] {
            assert_eq!(open.sets(key), EnvVerdict::Hijack, "{key}");
        }
    }

    #[test]
    fn only_the_very_name_overrides_the_deny_list() {
        let prefix = rules(None, Some(&["LD_", ""]));
        assert_eq!(prefix.sets("LD_PRELOAD"), EnvVerdict::Hijack);
        assert_eq!(prefix.sets("ANY"), EnvVerdict::Allowed, "the empty prefix is any other key");
        assert_eq!(rules(Some(&["LD_PRELOAD"]), None).sets("LD_PRELOAD"), EnvVerdict::Allowed);
        assert_eq!(rules(Some(&["LD_PRELOAD"]), None).sets("LD_AUDIT"), EnvVerdict::Hijack);
    }

    #[test]
    fn once_given_the_lists_are_all_there_is() {
        let listed = rules(Some(&["PORT"]), Some(&["VITE_"]));
        assert_eq!(listed.sets("PORT"), EnvVerdict::Allowed);
        assert_eq!(listed.sets("VITE_X"), EnvVerdict::Allowed);
        assert_eq!(listed.sets("PORTS"), EnvVerdict::NotListed);
        assert_eq!(rules(Some(&[]), None).sets("PORT"), EnvVerdict::NotListed);
    }

    #[test]
    fn a_guarded_path_is_a_hijack_until_it_is_listed() {
        let guarded = EnvRules { guard: Guard::Path, ..rules(None, None) };
        assert_eq!(guarded.sets("PATH"), EnvVerdict::Hijack);
        let listed = EnvRules { guard: Guard::Path, ..rules(Some(&["PATH"]), None) };
        assert_eq!(listed.sets("PATH"), EnvVerdict::Allowed);
    }

    #[test]
    fn what_is_inherited_is_held_to_an_allowlist_too() {
        assert!(rules(None, None).inherits("*"));
        let listed = rules(Some(&["TOKEN"]), Some(&["AWS_"]));
        for yes in ["TOKEN", "PATH", "LC_*", "AWS_REGION", "AWS_*"] {
            assert!(listed.inherits(yes), "{yes}");
        }
        for no in ["SECRET", "*", "A*", "TOKEN*"] {
            assert!(!listed.inherits(no), "{no}");
        }
        assert!(rules(None, Some(&[""])).inherits("*"));
    }

    #[test]
    fn strangers_inherit_what_is_named_and_nothing_else() {
        let strangers = |keys, prefixes| EnvRules { guard: Guard::Strangers, ..rules(keys, prefixes) };
        let silent = strangers(None, None);
        let any = strangers(None, Some(&[""]));
        for no in ["*", "A*", "SECRET", "L*", "PATH*"] {
            assert!(!silent.inherits(no) && !any.inherits(no), "{no}");
        }
        for yes in ["PATH", "LC_*", "LC_ALL", "HOME"] {
            assert!(silent.inherits(yes) && any.inherits(yes), "{yes}");
        }
        let listed = strangers(Some(&["TOKEN"]), Some(&["AWS_", ""]));
        for yes in ["TOKEN", "AWS_*", "AWS_REGION"] {
            assert!(listed.inherits(yes), "{yes}");
        }
        assert!(!listed.inherits("*") && !listed.inherits("OTHER"));
        assert_eq!(listed.sets("OTHER"), EnvVerdict::Allowed);
    }
}

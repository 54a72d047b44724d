//! Which environment variables a manifest may set or inherit.
//!
//! By default any but those that make a runtime load or run something other than what was checked, which
//! for manifests by others are more; once `env_keys` or `env_prefixes` are given, only what they list.
//! Sources: ld.so(8), bash(1), sh(1p) and the manuals of the runtimes; the unsafe variables of glibc
//! (sysdeps/generic/unsecvars.h) and of sudo (plugins/sudoers/env.c).

use std::collections::BTreeSet;

use super::config::Rules;

/// Names that hijack a process: what they name or say is executed, before or in place of its own program.
const HIJACK_NAMES: &str = "
    GLIBC_TUNABLES GCONV_PATH GETCONF_DIR LOCPATH MUSL_LOCPATH MALLOC_TRACE NIS_PATH RESOLV_HOST_CONF
    OPENSSL_CONF OPENSSL_ENGINES OPENSSL_MODULES
    BASH_ENV ENV SHELLOPTS BASHOPTS PS4 PROMPT_COMMAND IFS ZDOTDIR NODE_OPTIONS
    NODE_REPL_EXTERNAL_MODULE BUN_OPTIONS BUN_INSPECT_PRELOAD ELECTRON_RUN_AS_NODE PYTHONSTARTUP PYTHONHOME
    PYTHONINSPECT PYTHONBREAKPOINT PYTHONUSERBASE PYTHONWARNINGS PYTHONEXECUTABLE PYTHONPLATLIBDIR
    PYTHON_PRESITE PERL5OPT PERL5DB PERL5SHELL RUBYOPT RUBYSHELL JRUBY_OPTS
    PHPRC PHP_INI_SCAN_DIR JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS JDK_JAVAC_OPTIONS _JAVA_OPTIONS
    IBM_JAVA_OPTIONS OPENJ9_JAVA_OPTIONS DOTNET_STARTUP_HOOKS DOTNET_ADDITIONAL_DEPS DOTNET_SHARED_STORE
    DOTNET_GCName DOTNET_GCPath ERL_AFLAGS ERL_FLAGS ERL_ZFLAGS ELIXIR_ERL_OPTIONS
    LESSOPEN LESSCLOSE GCC_EXEC_PREFIX
    R_PROFILE R_PROFILE_USER R_ENVIRON R_ENVIRON_USER RUSTC RUSTDOC RUSTC_WRAPPER
    RUSTC_WORKSPACE_WRAPPER CARGO_BUILD_RUSTC CARGO_BUILD_RUSTDOC CARGO_BUILD_RUSTC_WRAPPER
    CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER GOFLAGS GIT_EXEC_PATH YARN_YARN_PATH YARN_PLUGINS
    YARN_RC_FILENAME";

const HIJACK_PREFIXES: &[&str] =
    &["LD_", "BASH_FUNC_", "CORECLR_PROFILER", "CORECLR_ENABLE_PROFILING", "COR_", "COMPlus_", "LUA_INIT"];

/// Of `CARGO_TARGET_<triple>_…`.
const HIJACK_CARGO_TARGET: &[&str] = &["_RUNNER", "_LINKER"];

/// npm reads these in either case, and with `-` for `_`.
const HIJACK_NPM: &[&str] = &[
    "npm_config_node_options",
    "npm_config_script_shell",
    "npm_config_userconfig",
    "npm_config_globalconfig",
    "npm_config_git",
    "npm_config_shell",
    "npm_config_editor",
    "npm_config_python",
    "npm_config_node_gyp",
    "npm_config_onload_script",
    "npm_config_prefix",
    "npm_config_init_module",
    "npm_config_call",
    "npm_config_viewer",
    "npm_config_browser",
];

/// Names that say where a runtime finds its parts, or how it is run: everyday values where one user owns
/// everything, and as good as a hijack in the hands of others.
const STEERING_NAMES: &str = "
    PYTHONPATH PYTHONPYCACHEPREFIX PIP_CONFIG_FILE UV_CONFIG_FILE UV_PYTHON NODE_PATH PERL5LIB PERLLIB PERLIO_DEBUG RUBYLIB GEM_PATH GEM_HOME GEMRC
    RUBYGEMS_GEMDEPS BUNDLE_GEMFILE BUNDLE_PATH BUNDLE_CONFIG COMPOSER_HOME JAVA_HOME JAVA_OPTS JAVA_OPTIONS
    CLASSPATH MAVEN_OPTS MAVEN_ARGS ANT_OPTS ANT_ARGS GRADLE_OPTS GRADLE_USER_HOME SBT_OPTS JULIA_LOAD_PATH JULIA_DEPOT_PATH ERL_LIBS PSModulePath
    RUSTFLAGS RUSTDOCFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_HOME RUSTUP_HOME RUSTUP_TOOLCHAIN GOROOT
    GOPATH GOENV GOTOOLCHAIN CC CXX AR COMPILER_PATH LIBRARY_PATH MAKEFILES MAKEFLAGS
    GIT_ASKPASS GIT_EDITOR GIT_SEQUENCE_EDITOR GIT_PAGER GIT_EXTERNAL_DIFF GIT_PROXY_COMMAND GIT_TEMPLATE_DIR
    GIT_DIR GIT_WORK_TREE GIT_COMMON_DIR GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES
    EDITOR VISUAL PAGER MANPAGER BROWSER SSH_ASKPASS SUDO_ASKPASS DOCKER_HOST DOCKER_CONTEXT DOCKER_CONFIG
    FPATH CDPATH GLOBIGNORE NULLCMD READNULLCMD BASH_LOADABLES_PATH AWKPATH AWKLIBPATH
    HOSTALIASES LOCALDOMAIN RES_OPTIONS NLSPATH TZDIR TERMINFO TERMINFO_DIRS TERMCAP TERMPATH
    GTK_MODULES GTK_PATH GIO_EXTRA_MODULES GI_TYPELIB_PATH QT_PLUGIN_PATH SASL_PATH GSS_MECH_CONFIG KRB5_CONFIG
    TCLLIBPATH TCL_LIBRARY GUILE_LOAD_PATH GUILE_LOAD_COMPILED_PATH CAML_LD_LIBRARY_PATH";

const STEERING_PREFIXES: &[&str] =
    &["CARGO_BUILD_", "GIT_SSH", "GIT_CONFIG", "LUA_PATH", "LUA_CPATH", "R_LIBS", "CGO_", "DOTNET_ROOT"];

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
        let is_guarded =
            (self.guards_path() && key == "PATH") || (self.guard == Guard::Strangers && steers(key));
        if hijacks(key) || is_guarded {
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
    let is_of_cargo =
        || key.starts_with("CARGO_TARGET_") && HIJACK_CARGO_TARGET.iter().any(|suffix| key.ends_with(suffix));
    is_listed(key, HIJACK_NAMES, HIJACK_PREFIXES)
        || is_of_cargo()
        || HIJACK_NPM.contains(&as_npm_reads_it().as_str())
}

fn steers(key: &str) -> bool {
    let is_flags = key.starts_with("CARGO_TARGET_") && key.ends_with("FLAGS");
    is_flags || is_listed(key, STEERING_NAMES, STEERING_PREFIXES)
}

fn is_listed(key: &str, names: &str, prefixes: &[&str]) -> bool {
    names.split_ascii_whitespace().any(|name| name == key)
        || prefixes.iter().any(|prefix| key.starts_with(prefix))
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
        for key in ["PORT", "NODE_ENV", "PYTHONPATH", "JAVA_HOME", "CARGO_TARGET_DIR", "PATH", "env"] {
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
            "npm_config_node-gyp",
            "npm_config_call",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER",
            "RUSTC",
            "GETCONF_DIR",
            "BUN_INSPECT_PRELOAD",
            "IBM_JAVA_OPTIONS",
            "COR_PROFILER_PATH_64",
            "LESSOPEN",
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
    fn where_a_runtime_finds_its_parts_is_not_for_strangers_to_say() {
        for key in [
            "PYTHONPATH",
            "NODE_PATH",
            "CLASSPATH",
            "GIT_SSH_COMMAND",
            "GIT_DIR",
            "CARGO_BUILD_TARGET",
            "LUA_PATH_5_4",
            "PIP_CONFIG_FILE",
            "HOSTALIASES",
            "PAGER",
            "DOCKER_HOST",
        ] {
            let under = |guard| EnvRules { guard, ..rules(None, None) }.sets(key);
            assert_eq!(under(Guard::Strangers), EnvVerdict::Hijack, "{key}");
            assert_eq!(under(Guard::Path), EnvVerdict::Allowed, "{key}");
            let listed = EnvRules { guard: Guard::Strangers, ..rules(Some(&[key]), None) };
            assert_eq!(listed.sets(key), EnvVerdict::Allowed, "{key}");
        }
        let strangers = EnvRules { guard: Guard::Strangers, ..rules(None, None) };
        for key in ["PORT", "CARGO_TARGET_DIR", "JAVA_PORT", "BUNDLE_WITHOUT", "GIT_AUTHOR_NAME", "GIT_SHA"] {
            assert_eq!(strangers.sets(key), EnvVerdict::Allowed, "{key}");
        }
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

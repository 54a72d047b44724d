//! The codes of every refusal: stable for ever, one place, each shown by a test and listed in `docs/policy.md`.

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $key:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = $text;)+

        /// Every code of a refusal, with the manifest key it is about.
        pub const REFUSALS: &[(&str, &str)] = &[$(($text, $key)),+];
    };
}

codes! {
    /// The executable is not on the allowlist.
    EXEC_NOT_ALLOWED = "exec-not-allowed", "command";
    /// An interpreter that a `#!` line names is not on the allowlist.
    INTERPRETER_NOT_ALLOWED = "interpreter-not-allowed", "command";
    /// The file is allowed, but under another name.
    EXEC_OTHER_NAME = "exec-other-name", "command";
    /// The name is allowed, but for another file.
    EXEC_OTHER_FILE = "exec-other-file", "command";
    /// Somebody but its owner and root can change the file.
    EXEC_WRITABLE = "exec-writable", "command";
    /// The file is pinned, and its content is another one.
    PIN_MISMATCH = "pin-mismatch", "command";
    /// `nice` or `oom_score_adj` is below 0.
    PRIORITY_NOT_ALLOWED = "priority-not-allowed", "nice";
    /// A command wants a shell.
    SHELL_NOT_ALLOWED = "shell-not-allowed", "shell";
    /// A variable that makes a runtime load or run something else.
    ENV_HIJACK = "env-hijack", "env";
    /// A variable that is not on the allowlist.
    ENV_NOT_ALLOWED = "env-not-allowed", "env";
    /// A variable to inherit that is not on the allowlist.
    INHERIT_NOT_ALLOWED = "inherit-not-allowed", "inherit_env";
    /// The user is not on the list.
    USER_NOT_ALLOWED = "user-not-allowed", "user";
    /// No TTL, and the policy wants one.
    TTL_REQUIRED = "ttl-required", "ttl";
    /// The TTL is over the maximum.
    TTL_TOO_LONG = "ttl-too-long", "ttl";
    /// No health check, and the policy wants one.
    HEALTH_REQUIRED = "health-required", "health";
    /// No limits, and the policy wants them.
    LIMITS_REQUIRED = "limits-required", "limits";
    /// The working directory is not a git worktree, and the policy wants one.
    GIT_WORKDIR_REQUIRED = "git-workdir-required", "cwd";
    /// The health check is made too seldom.
    HEALTH_INTERVAL_TOO_LONG = "health-interval-too-long", "health.interval";
    /// The health check is given too long to pass first.
    START_TIMEOUT_TOO_LONG = "start-timeout-too-long", "health.start_timeout";
    /// More services in one file than the cap.
    TOO_MANY_SERVICES_IN_FILE = "too-many-services-in-file", "";
    /// More services in all than the cap.
    TOO_MANY_SERVICES = "too-many-services", "";
    /// More arguments than the cap.
    TOO_MANY_ARGUMENTS = "too-many-arguments", "command";
    /// The first word is longer than the cap.
    COMMAND_TOO_LONG = "command-too-long", "command";
    /// An argument is longer than the cap.
    ARGUMENT_TOO_LONG = "argument-too-long", "command";
    /// The working directory is longer than the cap.
    CWD_TOO_LONG = "cwd-too-long", "cwd";
    /// More variables than the cap.
    TOO_MANY_ENV_KEYS = "too-many-env-keys", "env";
    /// A variable's value is longer than the cap.
    ENV_VALUE_TOO_LONG = "env-value-too-long", "env";
    /// The variables together are larger than the cap.
    ENV_TOO_LARGE = "env-too-large", "env";
    /// The attributes are larger than the cap.
    ATTRS_TOO_LARGE = "attrs-too-large", "attrs";
    /// The health command is longer than the cap.
    HEALTH_COMMAND_TOO_LONG = "health-command-too-long", "health.command";
    /// The regular expression is longer than the cap.
    REGEX_TOO_LONG = "regex-too-long", "health.expect_regex";
    /// More ports than the cap.
    TOO_MANY_PORTS = "too-many-ports", "ports";
    /// A port is below the lowest that a manifest may give.
    PORT_TOO_LOW = "port-too-low", "ports";
}

/// The configuration asks for more than the ceiling grants; the ceiling holds.
pub const ABOVE_CEILING: &str = "above-ceiling";
/// An `executables` entry that is none.
pub const BAD_EXECUTABLE: &str = "bad-executable";
/// A directory that is not absolute.
pub const BAD_PATH: &str = "bad-path";
/// Two settings that cannot both hold.
pub const CONFLICTING_KEYS: &str = "conflicting-keys";

// The same words as for a manifest.
pub(super) const SYNTAX: &str = "syntax";
pub(super) const UNKNOWN_KEY: &str = "unknown-key";
pub(super) const WRONG_TYPE: &str = "wrong-type";
pub(super) const MISSING_KEY: &str = "missing-key";
pub(super) const BAD_CHOICE: &str = "bad-choice";
pub(super) const OUT_OF_RANGE: &str = "out-of-range";
pub(super) const BAD_DURATION: &str = "bad-duration";
pub(super) const BAD_SIZE: &str = "bad-size";

/// The manifest key that a refusal is about, below `[service.NAME]`, to find its place in the text.
pub fn key_of(code: &str) -> Option<&'static str> {
    REFUSALS.iter().find(|(known, key)| *known == code && !key.is_empty()).map(|(_, key)| *key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_kebab_case_and_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for (code, _) in REFUSALS {
            assert!(code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{code}");
            assert!(seen.insert(code), "{code} is there twice");
        }
    }

    #[test]
    fn the_operators_page_lists_every_code() {
        let page = include_str!("../../docs/policy.md");
        for (code, _) in REFUSALS {
            assert!(page.contains(&format!("| `{code}` |")), "docs/policy.md does not list {code}");
        }
        for code in [ABOVE_CEILING, BAD_EXECUTABLE, BAD_PATH, CONFLICTING_KEYS] {
            assert!(page.contains(&format!("`{code}`")), "docs/policy.md does not list {code}");
        }
    }

    #[test]
    fn every_refusal_is_brought_about_by_a_test() {
        let tests = [include_str!("check/tests.rs"), include_str!("in_force/tests.rs")].concat();
        for (code, _) in REFUSALS {
            let name = format!("code::{}", code.replace('-', "_").to_uppercase());
            let is_whole = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
            assert!(tests.split(&name).skip(1).any(is_whole), "no test expects {code}");
        }
    }

    #[test]
    fn a_code_leads_to_its_manifest_key() {
        assert_eq!(key_of(TTL_TOO_LONG), Some("ttl"));
        assert_eq!(key_of(TOO_MANY_SERVICES), None);
        assert_eq!(key_of("no-such-code"), None);
    }
}

//! Where we run: terminals, colour, CI, a service manager. Looked at once, then a value.
//!
//! Environment variables of others (`NO_COLOR`, `GITHUB_ACTIONS`, …) are read here and nowhere else; our
//! own, `RECONCILE_*`, are the argument parser's. Sources: no-color.org; sd_notify(3) and systemd.exec(5).

use std::io::IsTerminal;
use std::path::PathBuf;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    pub stdin_is_terminal: bool,
    pub stdout: Stream,
    pub stderr: Stream,
    /// Columns of the terminal that stdout is.
    pub width: Option<usize>,
    pub github: Option<Github>,
    /// A service manager started us and will start us again.
    pub service_manager: bool,
    /// When we were started, RFC 3339 in UTC.
    pub began: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stream {
    pub is_terminal: bool,
    pub colour: bool,
}

/// We are a step of a GitHub workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Github {
    /// Annotations name files relative to this.
    pub workspace: Option<PathBuf>,
}

/// Which of the three standard streams are terminals.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terminals {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Surroundings {
    pub fn look() -> Self {
        let terminals = Terminals {
            stdin: std::io::stdin().is_terminal(),
            stdout: std::io::stdout().is_terminal(),
            stderr: std::io::stderr().is_terminal(),
        };
        let began = crate::time::rfc3339(jiff::Timestamp::now().as_millisecond());
        let variable = |name: &str| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
        let size = terminal_size::terminal_size_of(std::io::stdout());
        let width = size.map(|(width, _)| usize::from(width.0)).filter(|width| *width > 0);
        Self { began, width, ..Self::judge(terminals, &variable) }
    }

    /// As [`Surroundings::look`], from values.
    fn judge(terminals: Terminals, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).is_some_and(|value| !value.is_empty() && value != "0");
        let in_ci = set("CI") && variable("CI").as_deref() != Some("false");
        let plain = set("NO_COLOR") || in_ci || variable("TERM").as_deref() == Some("dumb");
        let forced = set("CLICOLOR_FORCE") && !set("NO_COLOR");
        let stream = |is_terminal: bool| Stream { is_terminal, colour: forced || (is_terminal && !plain) };
        Self {
            stdin_is_terminal: terminals.stdin,
            stdout: stream(terminals.stdout),
            stderr: stream(terminals.stderr),
            github: (variable("GITHUB_ACTIONS").as_deref() == Some("true"))
                .then(|| Github { workspace: variable("GITHUB_WORKSPACE").map(PathBuf::from) }),
            // A terminal emulator started by systemd hands INVOCATION_ID down to every shell in it, so it
            // counts only where nobody sits in front of us.
            began: String::new(),
            width: None,
            service_manager: set("NOTIFY_SOCKET") || (set("INVOCATION_ID") && !terminals.stdin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Terminals = Terminals { stdin: true, stdout: true, stderr: true };
    const NONE: Terminals = Terminals { stdin: false, stdout: false, stderr: false };

    fn judge(terminals: Terminals, variables: &[(&str, &str)]) -> Surroundings {
        Surroundings::judge(terminals, &|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn colour_is_for_terminals_and_can_be_declined() {
        assert!(judge(ALL, &[]).stdout.colour);
        assert!(judge(ALL, &[("NO_COLOR", ""), ("CI", "false")]).stdout.colour);
        for declined in [("NO_COLOR", "1"), ("CI", "true"), ("TERM", "dumb")] {
            assert!(!judge(ALL, &[declined]).stdout.colour, "{declined:?}");
        }
        assert!(!judge(NONE, &[]).stderr.colour);
        assert!(judge(NONE, &[("CLICOLOR_FORCE", "1"), ("CI", "true")]).stderr.colour);
        assert!(!judge(NONE, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).stderr.colour);
    }

    #[test]
    fn a_terminal_below_systemd_is_not_a_unit() {
        assert!(judge(NONE, &[("INVOCATION_ID", "abc")]).service_manager);
        assert!(!judge(ALL, &[("INVOCATION_ID", "abc")]).service_manager);
        assert!(judge(ALL, &[("NOTIFY_SOCKET", "/run/x")]).service_manager);
        assert!(!judge(NONE, &[]).service_manager);
    }

    #[test]
    fn github_is_known_by_its_own_variable() {
        assert_eq!(judge(NONE, &[("CI", "true")]).github, None);
        let step = judge(NONE, &[("GITHUB_ACTIONS", "true"), ("GITHUB_WORKSPACE", "/w")]);
        assert_eq!(step.github, Some(Github { workspace: Some("/w".into()) }));
    }
}

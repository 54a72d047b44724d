//! Why a command could not do it: the error with its causes, one hint, and the exit code.

use super::exit_code::ExitCode;
use super::report::escape::{visible, visible_line};
use super::report::style::{BAD, STRONG, paint};

#[derive(Debug)]
pub struct Failure {
    pub code: ExitCode,
    error: anyhow::Error,
    /// Stable code of the error, where it has one.
    name: Option<&'static str>,
    /// Rendered already, and safe.
    drawn: Option<String>,
    help: Option<String>,
}

impl Failure {
    pub fn new(code: ExitCode, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into(), name: None, drawn: None, help: None }
    }

    pub fn message(code: ExitCode, message: impl Into<String>) -> Self {
        Self::new(code, anyhow::Error::msg(message.into()))
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub fn named(mut self, name: Option<&'static str>) -> Self {
        self.name = name;
        self
    }

    /// What `report` made of problems: shown as it is.
    #[must_use]
    pub fn drawn(mut self, drawn: String) -> Self {
        self.drawn = Some(drawn);
        self
    }

    /// Stable, kebab-case: of the error, or else of the exit code.
    pub fn name(&self) -> &'static str {
        self.name.unwrap_or(self.code.name())
    }

    /// The error and its causes on one line, for programs.
    pub fn message_line(&self) -> String {
        self.error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }

    pub fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The error, each cause on a line of its own, and the hint.
    pub fn render(&self) -> String {
        let word = self.name.map_or_else(|| "error".to_owned(), |name| format!("error[{name}]"));
        let mut text = format!("{}: {}", paint(BAD, &word), visible(&self.error.to_string()));
        for cause in self.error.chain().skip(1) {
            text.push_str(&format!("\n  because: {}", visible(&cause.to_string())));
        }
        if let Some(drawn) = &self.drawn {
            text.push_str(&format!("\n{}", drawn.trim_end()));
        }
        if let Some(help) = &self.help {
            let lines: Vec<_> = help.lines().map(visible_line).collect();
            text.push_str(&format!("\n{}: {}", paint(STRONG, "help"), lines.join("\n  ")));
        }
        text
    }
}

/// An error without a code of its own: it could not be done.
impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(ExitCode::Failed, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_and_hint_are_shown_once_each_and_escaped() {
        let cause = std::io::Error::other("no \u{1b}[2J");
        let error = anyhow::Error::new(cause).context("the socket cannot be made");
        let failure = Failure::new(ExitCode::Failed, error).help("try again\nlater");
        let text = anstream::adapter::strip_str(&failure.render()).to_string();
        assert_eq!(
            text,
            "error: the socket cannot be made\n  because: no \\x1b[2J\nhelp: try again\n  later"
        );
    }
}

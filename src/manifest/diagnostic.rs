//! What is wrong with a file, where, and how to mend it.
//!
//! A [`Problem`] is data: it is listed in JSON, annotated in CI and drawn with its source line by
//! `commands::report`, which alone decides whether the line may be shown.

use serde::{Deserialize, Serialize};

/// A place in a file, 1-based; `start..end` are byte offsets into the file's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    pub start: usize,
    pub end: usize,
    /// 1-based.
    pub line: usize,
    /// 1-based, in characters.
    pub column: usize,
}

/// What a problem does to the file it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The file is not accepted; its last accepted version stays in force.
    Invalid,
    /// The file is well formed, and the policy does not allow it.
    Refused,
    /// The file is accepted all the same.
    Warning,
}

/// One thing that is wrong with a manifest file, a directory of them, or the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// `None` if it is about the file as a whole.
    pub span: Option<Span>,
    /// Stable, kebab-case: `unknown-key`, `bad-duration`, `not-allowed`, …
    pub code: String,
    pub severity: Severity,
    /// The service it is about, by the name in the file, where there is one.
    pub service: Option<String>,
    /// What is wrong: a lower-case fragment without a full stop.
    pub message: String,
    /// How to mend it, in the imperative; may hold a line to paste.
    pub help: Option<String>,
}

impl Problem {
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            span: None,
            code: code.to_owned(),
            severity: Severity::Invalid,
            service: None,
            message: message.into(),
            help: None,
        }
    }

    pub fn refused(code: &str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Refused, ..Self::new(code, message) }
    }

    pub fn warning(code: &str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::new(code, message) }
    }

    #[must_use]
    pub fn at(mut self, span: Span) -> Self {
        self.span = Some(span);
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub fn of(mut self, service: &str) -> Self {
        self.service = Some(service.to_owned());
        self
    }
}

//! What is wrong with a file, where, and how to mend it.
//!
//! A [`Problem`] is data: it is listed in JSON, annotated in CI and drawn with its source line by
//! `commands::report`, which alone decides whether the line may be shown.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::escape::visible;

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

impl Span {
    /// The place of the bytes `range` in `text`; a range beyond the text, or within a character, is cut to fit.
    pub fn locate(text: &str, range: Range<usize>) -> Self {
        Lines::new(text).locate(range)
    }
}

/// Counts the lines of a text once, for places that come in its order.
pub(crate) struct Lines<'t> {
    text: &'t str,
    /// The newest line that was asked for, 1-based, and where it begins.
    line: usize,
    line_start: usize,
}

impl<'t> Lines<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, line: 1, line_start: 0 }
    }

    /// As [`Span::locate`]; a place must not be on an earlier line than the one before.
    pub(crate) fn locate(&mut self, range: Range<usize>) -> Span {
        let start = self.text.floor_char_boundary(range.start);
        let end = self.text.ceil_char_boundary(range.end).max(start);
        let passed = &self.text[self.line_start..start];
        if let Some(newline) = passed.rfind('\n') {
            self.line += passed.bytes().filter(|byte| *byte == b'\n').count();
            self.line_start += newline + 1;
        }
        // A byte order mark is not something that an editor counts as a column.
        let before = self.text[self.line_start..start].trim_start_matches('\u{feff}');
        Span { start, end, line: self.line, column: before.chars().count() + 1 }
    }
}

/// Text of the input for use in a message: as [`visible`], and a long text is cut.
pub fn escape(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    match text.char_indices().nth(MAX_CHARS) {
        Some((cut, _)) => format!("{}…", visible(&text[..cut])),
        None => visible(text).into_owned(),
    }
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
    /// The field that it is about, as `env.PORT`, where it has no place yet.
    #[serde(skip)]
    pub field: Option<String>,
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
            field: None,
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

    /// True if the file is not accepted because of it.
    pub fn blocks(&self) -> bool {
        self.severity != Severity::Warning
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
    pub fn about(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    #[must_use]
    pub fn of(mut self, service: &str) -> Self {
        self.service = Some(service.to_owned());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, range: Range<usize>) -> (usize, usize) {
        let span = Span::locate(text, range);
        (span.line, span.column)
    }

    #[test]
    fn places_count_from_one_and_columns_count_characters() {
        assert_eq!(place("", 0..0), (1, 1));
        assert_eq!(place("ab\ncd", 4..5), (2, 2));
        assert_eq!(place("ab\n", 2..3), (1, 3), "the end of a line belongs to it");
        assert_eq!(place("ab\n", 3..3), (2, 1));
        assert_eq!(place("äöü = 1", 6..7), (1, 4));
        assert_eq!(place("a\r\nb", 3..4), (2, 1));
        assert_eq!(place("\u{feff}ab", 3..4), (1, 1));
    }

    #[test]
    fn a_range_that_does_not_fit_is_cut_to_the_text() {
        assert_eq!(Span::locate("ab", 7..9), Span { start: 2, end: 2, line: 1, column: 3 });
        let within_a_character = Span::locate("ä", 1..1);
        assert_eq!((within_a_character.start, within_a_character.end), (0, 2));
    }

    #[test]
    fn what_is_not_seen_is_escaped_and_what_is_long_is_cut() {
        assert_eq!(escape("a\u{1b}[31m\n\0"), "a\\x1b[31m\\n\\x00");
        assert_eq!(escape("grün`"), "grün`");
        assert_eq!(escape(&"x".repeat(200)).chars().count(), 81);
    }
}

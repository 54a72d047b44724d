//! What is wrong with a text as TOML: the parser's errors without those that only follow from another.
//!
//! The parser reads on after an error and reports what it meets until it is in step again. What helps is the
//! first error of a line, and of a bracket that is never closed the bracket, not all that it swallows.

use std::ops::Range;

use toml::de::Error;
use toml_parser::lexer::TokenKind;

use super::code;
use super::diagnostic::escape;
use super::problems::Problems;

/// Reports the errors of a text, and that it has some.
pub(super) fn report(text: &str, mut errors: Vec<Error>, problems: &mut Problems<'_>) {
    let place = |error: &Error| error.span().unwrap_or(0..0);
    errors.sort_by_key(|error| place(error).start);
    let never_closed = errors.iter().any(|error| is_never_closed(error.message()));
    let opener = if never_closed { unclosed_opener(text) } else { None };
    let swallowed_from = opener.as_ref().map_or(usize::MAX, |opener| line_around(text, opener.start).end);
    let mut reported = 0;
    let mut caused_by_opener = opener.clone();
    for error in &errors {
        let place = place(error);
        if place.start < reported || place.start > swallowed_from || is_never_closed(error.message()) {
            continue;
        }
        reported = line_around(text, place.start).end;
        caused_by_opener.take_if(|opener| place.start > opener.start);
        report_one(text, error.message(), place, problems);
    }
    let silent_from = opener.map_or(usize::MAX, |opener| opener.start);
    if let Some(opener) = caused_by_opener {
        let message = format!("this `{}` is never closed", &text[opener.clone()]);
        problems.add(opener, code::SYNTAX, message);
    }
    problems.text_is_torn(silent_from);
}

fn is_never_closed(message: &str) -> bool {
    message.starts_with("unclosed array, ") || message.starts_with("unclosed inline table")
}

/// The first bracket of a value that nothing closes.
fn unclosed_opener(text: &str) -> Option<Range<usize>> {
    let mut open: Vec<(TokenKind, Range<usize>)> = Vec::new();
    let mut is_value = false;
    for token in toml_parser::Source::new(text).lex() {
        let place = token.span().start()..token.span().end();
        match token.kind() {
            TokenKind::LeftSquareBracket if is_value || !open.is_empty() => {
                open.push((TokenKind::RightSquareBracket, place));
            }
            TokenKind::LeftCurlyBracket => open.push((TokenKind::RightCurlyBracket, place)),
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => {
                open.pop_if(|(closer, _)| *closer == token.kind());
            }
            _ => {}
        }
        is_value = match token.kind() {
            TokenKind::Equals => true,
            TokenKind::Whitespace => is_value,
            _ => false,
        };
    }
    open.into_iter().next().map(|(_, place)| place)
}

fn report_one(text: &str, message: &str, place: Range<usize>, problems: &mut Problems<'_>) {
    if message == "duplicate key" {
        return report_duplicate(text, place, problems);
    }
    let is_colon = text.get(place.clone()) == Some(":");
    let report = problems.add(place, code::SYNTAX, message.to_owned());
    if is_colon {
        report.help("TOML gives a value with `=`, like `cwd = \"app\"`");
    }
}

fn report_duplicate(text: &str, place: Range<usize>, problems: &mut Problems<'_>) {
    let line = line_around(text, place.start);
    let what = escape(text.get(place.clone()).unwrap_or_default());
    let is_service = text[line.clone()].trim_start().starts_with("[service.");
    let (code, message) = match is_service {
        true => (code::DUPLICATE_SERVICE, format!("the table of `{what}` is declared twice in this file")),
        false => (code::DUPLICATE_KEY, format!("`{what}` is given twice")),
    };
    problems.add(place, code, message).help_with(|| {
        Some(match earlier_line(text, &line) {
            Some(line) => {
                format!("the first is in line {line}: keep one of them, or give this one another name")
            }
            None => "keep one of them, or give this one another name".to_owned(),
        })
    });
}

/// The line of a place, without its line feed.
pub(super) fn line_around(text: &str, at: usize) -> Range<usize> {
    let at = text.floor_char_boundary(at);
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    start..end
}

/// The number of the nearest line before `line` that begins as it does, up to the value.
fn earlier_line(text: &str, line: &Range<usize>) -> Option<usize> {
    fn beginning(line: &str) -> &str {
        line.split(['=', ']']).next().unwrap_or_default().trim()
    }
    let wanted = beginning(&text[line.clone()]);
    let before = &text[..line.start];
    let back = before.lines().rev().position(|candidate| beginning(candidate) == wanted)?;
    Some(before.lines().count() - back)
}

#[cfg(test)]
mod tests {
    use crate::manifest::{code, load};

    /// Line, column and message of each problem.
    fn listed(text: &str) -> Vec<(usize, usize, String)> {
        let problems = load(text).problems.into_iter();
        problems
            .map(|problem| {
                let span = problem.span.expect("an error of syntax has its place");
                (span.line, span.column, problem.message)
            })
            .collect()
    }

    fn places(text: &str) -> Vec<(usize, usize)> {
        listed(text).into_iter().map(|(line, column, _)| (line, column)).collect()
    }

    #[test]
    fn each_line_has_its_first_error() {
        assert_eq!(places("[service.a]\nurl = \nttl = [1 2]\ncwd = 'x\n"), [(2, 7), (3, 8), (4, 9)]);
        assert_eq!(places("[service.a]\ncommand: a\nenv: {A: 1}\n"), [(2, 8), (3, 6)]);
    }

    #[test]
    fn a_bracket_that_is_never_closed_is_one_error() {
        let text = "[service.a]\ncommand = ['a'\ncwd = '.'\n\n[service.b]\ncommand = ['x']\n";
        assert_eq!(listed(text), [(2, 11, "this `[` is never closed".to_owned())]);
        let text = "[service.a]\ncommand = ['a']\nenv = { A = '1'\n[service.b]\ncommand = ['x']\n";
        assert_eq!(listed(text), [(3, 7, "this `{` is never closed".to_owned())]);
        assert_eq!(places("[service.a]\ncommand = [\"a\ncwd = 1\n"), [(2, 14)], "the quote is the cause");
    }

    #[test]
    fn what_stands_below_a_torn_header_is_not_misread() {
        assert_eq!(places("[service.web\ncommand = ['a']\n"), [(1, 13)]);
    }

    #[test]
    fn a_second_table_or_key_is_named_with_its_first() {
        let problems = load("[service.web]\ncommand = ['a']\n[service.web] # again\ncwd = '.'\n").problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].code, code::DUPLICATE_SERVICE);
        assert_eq!(problems[0].span.map(|span| (span.line, span.column)), Some((3, 10)));
        assert!(problems[0].help.as_deref().unwrap_or_default().contains("line 1"), "{problems:?}");
        let problems = load("[service.web]\ncommand = ['a']\ncwd = '.'\ncwd = 'x'\n").problems;
        assert_eq!(problems[0].code, code::DUPLICATE_KEY);
        assert!(problems[0].help.as_deref().unwrap_or_default().contains("line 3"), "{problems:?}");
    }
}

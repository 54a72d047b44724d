//! Problems in manifests, drawn as a compiler draws them: code, message, place, the line, and how to mend it.
//!
//! The line is drawn only where whoever reads may see it ([`Source::line`] is `None` otherwise), and only
//! if the file still has the text that the problem is about.

use std::path::Path;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use super::escape::{visible, visible_line};
use crate::manifest::{Problem, Severity, Span};

/// Wide enough that a terminal wraps a long message itself.
const WIDTH: usize = 110;

/// The file that problems are about.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    pub path: &'a Path,
    /// `None`: its lines are not to be shown, or it cannot be read (any more).
    pub text: Option<&'a str>,
}

/// All problems of one file.
pub fn problems(source: Source<'_>, problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{}\n", draw(source, problem))).collect::<Vec<_>>().join("\n")
}

fn draw(source: Source<'_>, problem: &Problem) -> String {
    let path = visible(&source.path.to_string_lossy()).into_owned();
    let service = problem.service.as_ref().map_or_else(String::new, |name| format!("{name}: "));
    let message = visible(&format!("{service}{}", problem.message)).into_owned();
    let help = problem.help.as_deref().map(lines_visible);
    let excerpt = problem.span.and_then(|span| Excerpt::cut(source.text?, span));

    let title = level(problem.severity).primary_title(message).id(visible(&problem.code).into_owned());
    let mut group = match (excerpt, problem.span) {
        (Some(excerpt), Some(span)) => title.element(
            Snippet::source(excerpt.line)
                .line_start(span.line)
                .path(path)
                .annotation(AnnotationKind::Primary.span(excerpt.start..excerpt.end)),
        ),
        (None, Some(span)) => title.element(Origin::path(path).line(span.line).char_column(span.column)),
        (_, None) => title.element(Origin::path(path)),
    };
    if let Some(help) = help {
        group = group.element(Level::HELP.message(help));
    }
    Renderer::styled().term_width(WIDTH).decor_style(DecorStyle::Ascii).render(&[group])
}

fn level(severity: Severity) -> Level<'static> {
    match severity {
        Severity::Invalid => Level::ERROR,
        Severity::Refused => Level::ERROR.with_name("refused"),
        Severity::Warning => Level::WARNING,
    }
}

/// Help may hold lines to paste: its line ends stay.
fn lines_visible(text: &str) -> String {
    text.lines().map(|line| visible_line(line).into_owned()).collect::<Vec<_>>().join("\n")
}

/// One line of the file, safe for a terminal, with the part that is meant.
struct Excerpt {
    line: String,
    start: usize,
    end: usize,
}

impl Excerpt {
    /// `None` if the span does not fit the text: the file was changed since.
    fn cut(text: &str, span: Span) -> Option<Self> {
        let before = text.get(..span.start)?;
        if before.matches('\n').count() + 1 != span.line {
            return None;
        }
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[span.start..].find('\n').map_or(text.len(), |at| span.start + at);
        let end = span.end.clamp(span.start, line_end);
        let head = visible_line(&text[line_start..span.start]);
        let meant = visible_line(text.get(span.start..end)?);
        let tail = visible_line(text[end..line_end].trim_end_matches('\r'));
        let (start, end) = (head.len(), head.len() + meant.len());
        Some(Self { line: format!("{head}{meant}{tail}"), start, end })
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn drawn(text: Option<&str>, list: &[Problem]) -> String {
        let source = Source { path: Path::new("manifests/web.toml"), text };
        anstream::adapter::strip_str(&problems(source, list)).to_string()
    }

    #[test]
    fn a_problem_shows_its_line_and_how_to_mend_it() {
        insta::assert_snapshot!(drawn(Some(samples::SOURCE), &samples::problems()));
    }

    #[test]
    fn a_line_that_must_not_be_shown_is_not() {
        let text = drawn(None, &samples::problems());
        assert!(text.contains("manifests/web.toml:3:1"), "{text}");
        assert!(!text.contains("\"/health\""), "{text}");
    }

    #[test]
    fn a_file_that_was_changed_since_shows_no_wrong_line() {
        let text = drawn(Some("x = 1\n"), &samples::problems());
        assert!(text.contains("manifests/web.toml:3:1"), "{text}");
        let shifted = format!("# new\n{}", samples::SOURCE);
        assert!(!drawn(Some(&shifted), &samples::problems()[..1]).contains("# new"));
    }

    #[test]
    fn nothing_in_a_line_acts_on_the_terminal() {
        let text = "a = \"\u{1b}[2J\u{9b}1m\" # \u{202e}\r\n";
        let span = Span { start: 4, end: 8, line: 1, column: 5 };
        let problem = Problem::new("bad", "no\u{1b}").at(span).help("one\u{7}\ntwo");
        let text = drawn(Some(text), &[problem]);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.contains("\\x1b[2J\\u{9b}1m") && text.contains("\\u{202e}"), "{text}");
    }

    #[test]
    fn spans_at_the_edges_are_drawn() {
        for (text, start, end, line) in
            [("", 0, 0, 1), ("a = ", 4, 4, 1), ("a\nb", 2, 3, 2), ("a\nb", 0, 3, 1)]
        {
            let problem = Problem::new("x", "y").at(Span { start, end, line, column: 1 });
            assert!(drawn(Some(text), &[problem]).contains("error[x]: y"), "{text:?}");
        }
        let split = Problem::new("x", "y").at(Span { start: 1, end: 2, line: 1, column: 2 });
        assert!(drawn(Some("ä"), &[split]).contains("error[x]: y"), "within a character");
    }
}

//! Text to raw tables with positions, and whatever is wrong with it as TOML.
//!
//! `toml` does the parsing. It reads on after an error, which shows further problems, and it does not
//! bound how deep dotted keys nest; what is nested is dropped recursively, so the depth is bounded here,
//! on the tokens, before anything is parsed. Nor does it bound how many tables there are, and each takes more than a
//! kilobyte, of three characters.

use std::ops::Range;

use toml::de::DeTable;
use toml_parser::lexer::TokenKind;

use super::code;
use super::problems::Problems;
use super::syntax;

/// The deepest nesting of tables, arrays and dotted keys together.
pub const MAX_DEPTH: usize = 64;

/// Tables and arrays of one text; with a service in each two of them, twice as many services as a megabyte holds.
const MAX_TABLES: usize = 50_000;

/// Beyond this a text with an error is not read on: each of its bytes can be an error of its own.
const MAX_RECOVERED_BYTES: usize = 64 * 1024;

/// What could be read of a text.
pub(super) enum Parsed<'t> {
    /// All of it.
    Whole(DeTable<'t>),
    /// The text has errors, and this is what is left; values may be missing.
    Partial(DeTable<'t>),
    Nothing,
}

pub(super) fn parse<'t>(text: &'t str, problems: &mut Problems<'t>) -> Parsed<'t> {
    match beyond_bounds(text) {
        None => {}
        Some((place, Beyond::Depth)) => {
            let message = format!("tables and keys are nested more than {MAX_DEPTH} deep");
            problems.add(place, code::TOO_DEEP, message);
            return Parsed::Nothing;
        }
        Some((place, Beyond::Count)) => {
            let message = format!("there are more than {MAX_TABLES} tables and arrays");
            problems.add(place, code::TOO_MANY_TABLES, message).help("divide the file into several");
            return Parsed::Nothing;
        }
    }
    let first = match DeTable::parse(text) {
        Ok(table) => return Parsed::Whole(table.into_inner()),
        Err(error) => error,
    };
    if text.len() > MAX_RECOVERED_BYTES {
        syntax::report(text, vec![first], problems);
        return Parsed::Nothing;
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    syntax::report(text, errors, problems);
    Parsed::Partial(table.into_inner())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beyond {
    Depth,
    Count,
}

/// Where the nesting first exceeds [`MAX_DEPTH`], or the count of tables [`MAX_TABLES`].
fn beyond_bounds(text: &str) -> Option<(Range<usize>, Beyond)> {
    // Nothing nests without one of these: with few of them, as nearly always, there is nothing to count.
    let openers = text.bytes().filter(|byte| matches!(byte, b'.' | b'[' | b'{')).count();
    if openers <= MAX_DEPTH {
        return None;
    }
    let mut nesting = Nesting::default();
    toml_parser::Source::new(text).lex().find_map(|token| {
        nesting.take(token.kind());
        let beyond = match (nesting.depth() > MAX_DEPTH, nesting.opened > MAX_TABLES) {
            (true, _) => Beyond::Depth,
            (false, true) => Beyond::Count,
            (false, false) => return None,
        };
        Some((token.span().start()..token.span().end(), beyond))
    })
}

/// An upper bound of the nesting at each token.
///
/// A bracket that does not match its opener closes nothing: the parser skips it too.
#[derive(Default)]
struct Nesting {
    /// For each open bracket: what closes it, and the dots of the key before it.
    open: Vec<(TokenKind, usize)>,
    /// The dots of the `[table]` that we are in.
    header: usize,
    dots_of_open: usize,
    dots: usize,
    /// Brackets of either kind so far.
    opened: usize,
}

impl Nesting {
    fn depth(&self) -> usize {
        self.open.len() + self.header + self.dots_of_open + self.dots
    }

    fn take(&mut self, token: TokenKind) {
        match token {
            TokenKind::Dot => self.dots += 1,
            TokenKind::LeftSquareBracket => self.push(TokenKind::RightSquareBracket),
            TokenKind::LeftCurlyBracket => self.push(TokenKind::RightCurlyBracket),
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => self.pop_if_matching(token),
            TokenKind::Comma | TokenKind::Newline => self.dots = 0,
            _ => {}
        }
    }

    fn push(&mut self, closer: TokenKind) {
        self.opened += 1;
        self.open.push((closer, self.dots));
        self.dots_of_open += self.dots;
        self.dots = 0;
    }

    fn pop_if_matching(&mut self, closer: TokenKind) {
        let Some((_, dots_before)) = self.open.pop_if(|(expected, _)| *expected == closer) else { return };
        self.dots_of_open -= dots_before;
        if self.open.is_empty() && closer == TokenKind::RightSquareBracket {
            // Perhaps `[a.b.c]`; or the last value of an array, which counts too much until the next header.
            self.header = self.dots;
        }
        self.dots = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<String> {
        let mut problems = Problems::new(text);
        let _ = parse(text, &mut problems);
        problems.finish().into_iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn deep_nesting_of_every_kind_is_a_problem_and_no_overflow() {
        let megabyte = 1 << 20;
        for text in [
            "[".repeat(megabyte),
            format!("a = {}", "[".repeat(megabyte)),
            format!("a = {}", "{a=".repeat(megabyte / 3)),
            format!("a{} = 1", ".a".repeat(megabyte / 2)),
            format!("[a{}]", ".a".repeat(megabyte / 2)),
            format!("[[a{}]]", ".a".repeat(megabyte / 2)),
            format!("a = {{ a{} = 1 }}", " . a".repeat(megabyte / 4)),
            format!("a = {}", "[}".repeat(megabyte / 2)),
            format!("a = {}", "[{a.a.a.a.a=]".repeat(megabyte / 13)),
            format!("[a{}]\na{} = {}1", ".a".repeat(30), ".a".repeat(30), "{a.a=".repeat(10)),
        ] {
            assert_eq!(codes(&text), [code::TOO_DEEP], "{}", &text[..40]);
        }
    }

    #[test]
    fn more_tables_than_memory_is_for_are_a_problem() {
        for piece in ["{},", "[],", "[{}],"] {
            let count = MAX_TABLES / (piece.len() / 2);
            assert_eq!(
                codes(&format!("a = [{}]\n", piece.repeat(count))),
                [code::TOO_MANY_TABLES],
                "{piece}"
            );
            assert_eq!(
                codes(&format!("a = [{}]\n", piece.repeat(count - 1))),
                Vec::<String>::new(),
                "{piece}"
            );
        }
    }

    #[test]
    fn what_only_looks_deep_is_read() {
        let dots = "1.5, ".repeat(200);
        let text = format!("a = [{dots}]\n# {}\nb = \"{}\"\n", "a.".repeat(200), "[.".repeat(200));
        assert_eq!(codes(&text), Vec::<String>::new());
        let tables: String = (0..200).map(|n| format!("[a.b{n}.c]\nx = [[1.5], {{ y = 2.5 }}]\n")).collect();
        assert_eq!(codes(&tables), Vec::<String>::new());
    }

    #[test]
    fn large_texts_are_not_read_on_after_an_error() {
        let text = "=\n".repeat(MAX_RECOVERED_BYTES);
        assert_eq!(codes(&text), [code::SYNTAX]);
    }
}

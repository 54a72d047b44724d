//! The one place where texts of others are made safe for a terminal.
//!
//! Messages, log lines, labels, attributes and paths may hold escape sequences that rewrite the screen, or
//! characters that reverse the reading order. They are shown as what they are, `\x1b`, never obeyed.
//! Names of services need none of this: they are letters, digits and hyphens.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Escapes everything that would act on a terminal: C0 and C1 controls, DEL, line and paragraph
/// separators, and the marks that change the direction of text.
pub fn visible(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// As [`visible`], but a tab stays: for lines of source and of logs, which stand alone.
pub fn visible_line(text: &str) -> Cow<'_, str> {
    escape(text, |c| c == '\t')
}

/// A line of a service's log for a terminal: colours are dropped without a trace, since half of all
/// services write them; everything else is escaped as in [`visible_line`].
pub fn log_line(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.strip_suffix('\r').unwrap_or(&text);
    visible_line(&without_colours(text)).into_owned()
}

/// JSON text with everything escaped that JSON itself would let through; the value stays the same.
pub fn json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        // Line ends and blanks are those of the layout: within strings they are escaped already.
        if c == '\n' || !acts(c) {
            escaped.push(c);
            continue;
        }
        let mut units = [0u16; 2];
        for unit in c.encode_utf16(&mut units) {
            push(&mut escaped, format_args!("\\u{unit:04x}"));
        }
    }
    escaped
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(|c| keep(c) || !acts(c)) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if keep(c) || !acts(c) => escaped.push(c),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if c.is_ascii() => push(&mut escaped, format_args!("\\x{:02x}", c as u32)),
            c => push(&mut escaped, format_args!("\\u{{{:x}}}", c as u32)),
        }
    }
    Cow::Owned(escaped)
}

fn push(text: &mut String, piece: std::fmt::Arguments<'_>) {
    text.write_fmt(piece).expect("writing to a String cannot fail");
}

/// True for what a terminal obeys and does not draw, and for what hides in a text or turns its direction
/// (Unicode, general category Cf; but the joiner that emoji are made with).
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200c}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Removes SGR sequences (`ESC [ 1;31 m`), and only those.
fn without_colours(text: &str) -> Cow<'_, str> {
    const START: &str = "\u{1b}[";
    if !text.contains(START) {
        return Cow::Borrowed(text);
    }
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(START) {
        let (before, sequence) = rest.split_at(at);
        kept.push_str(before);
        let parameters = &sequence[START.len()..];
        let end = parameters.find(|c: char| !matches!(c, '0'..='9' | ';' | ':'));
        match end.filter(|end| parameters[*end..].starts_with('m')) {
            Some(end) => rest = &parameters[end + 1..],
            None => {
                kept.push_str(START);
                rest = parameters;
            }
        }
    }
    kept.push_str(rest);
    Cow::Owned(kept)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn harmless_text_is_not_even_copied() {
        assert!(matches!(visible("plain, ünïcode, 日本語"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_acts_on_a_terminal_is_shown_as_what_it_is() {
        assert_eq!(visible("a\x1b[2Jb"), "a\\x1b[2Jb");
        assert_eq!(visible("title\x1b]0;x\x07"), "title\\x1b]0;x\\x07");
        assert_eq!(visible("one\ntwo\r\tthree"), "one\\ntwo\\r\\tthree");
        assert_eq!(visible("\u{9b}31m\u{7f}"), "\\u{9b}31m\\x7f");
        assert_eq!(visible("user\u{202e}nimda"), "user\\u{202e}nimda");
        assert_eq!(visible_line("a\tb\n"), "a\tb\\n");
    }

    #[test]
    fn log_lines_lose_their_colours_and_nothing_else() {
        assert_eq!(log_line(b"\x1b[1;31merror\x1b[0m: no\r"), "error: no");
        assert_eq!(log_line(b"\x1b[2J\x1b[mgone"), "\\x1b[2Jgone");
        assert_eq!(log_line(b"bad \xff byte"), "bad \u{fffd} byte");
        assert_eq!(log_line(b"cut \x1b[3"), "cut \\x1b[3");
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({ "a": "\u{9b}31m \u{e0041} \u{1b} é\n" });
        let text = json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!text.chars().any(|c| acts(c) && c != '\n'), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    proptest! {
        #[test]
        fn nothing_that_acts_ever_comes_through(text in any::<String>(), bytes in any::<Vec<u8>>()) {
            prop_assert!(!visible(&text).chars().any(acts));
            prop_assert!(!log_line(&bytes).chars().any(|c| acts(c) && c != '\t'));
        }
    }
}

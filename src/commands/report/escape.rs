//! Texts of others on their way to a terminal: log lines and JSON. The table of what acts there is `crate::escape`'s.
//!
//! Names of services need none of this: they are letters, digits and hyphens.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::escape::acts;
pub use crate::escape::{visible, visible_line};

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

fn push(text: &mut String, piece: std::fmt::Arguments<'_>) {
    text.write_fmt(piece).expect("writing to a String cannot fail");
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
        fn nothing_that_acts_ever_comes_through(bytes in any::<Vec<u8>>()) {
            prop_assert!(!log_line(&bytes).chars().any(|c| acts(c) && c != '\t'));
        }
    }
}

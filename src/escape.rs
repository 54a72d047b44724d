//! The one table of what acts on a terminal or hides in a text, and how that is shown instead.
//!
//! Messages, log lines, labels and paths may hold escape sequences that rewrite the screen, or characters that reverse
//! the reading order. They are shown as what they are, `\x1b`, never obeyed. Pure, below every room: messages
//! that quote a manifest escape what they quote, and whatever writes to a terminal or to a log escapes the whole.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Escapes everything that would act on a terminal: C0 and C1 controls, DEL, line and paragraph
/// separators, and the marks that hide in a text or change its direction.
pub fn visible(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// As [`visible`], but a tab stays: for lines of source and of logs, which stand alone.
pub fn visible_line(text: &str) -> Cow<'_, str> {
    escape(text, |c| c == '\t')
}

/// True for what a terminal obeys and does not draw, and for what hides in a text or turns its direction
/// (Unicode 16, general category Cf; but the joiner that emoji are made with).
pub fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200c}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
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

    proptest! {
        #[test]
        fn nothing_that_acts_ever_comes_through(text in any::<String>()) {
            prop_assert!(!visible(&text).chars().any(acts));
            prop_assert!(!visible_line(&text).chars().any(|c| acts(c) && c != '\t'));
        }
    }
}

//! Which services a text with problems may declare, beside those that were read from it.
//!
//! A removal waits while a refused manifest may declare the service, so this errs on the side of naming too much:
//! a name counts wherever a key may stand. Comments and values do not count, or one old broken file would
//! hold the removal of everything it speaks of. Pure; called by `check` for texts with problems alone.

use std::collections::BTreeSet;

use toml_parser::lexer::{Token, TokenKind};

/// What a text may declare and nobody has read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Unread {
    #[default]
    Nothing,
    /// Services of these names at most.
    Names(BTreeSet<String>),
    /// The text is cut off, or could not be had at all.
    Anything,
}

impl Unread {
    /// Of a text with problems; `is_torn`: it is not TOML.
    pub(super) fn of(text: &str, is_torn: bool) -> Self {
        let tokens: Vec<Token> = toml_parser::Source::new(text)
            .lex()
            .filter(|token| token.kind() != TokenKind::Whitespace)
            .collect();
        // Who saves a whole file ends its last line.
        if is_torn && (!text.ends_with('\n') || swallows_the_rest(text, &tokens)) {
            return Self::Anything;
        }
        Self::Names(keys(text, &tokens))
    }
}

/// True for a text whose last value is a string over many lines that nothing closes.
fn swallows_the_rest(text: &str, tokens: &[Token]) -> bool {
    let is_open = |token: &Token, quotes: &str| {
        let string = &text[token.span().start()..token.span().end()];
        string.len() < 2 * quotes.len() || !string.ends_with(quotes)
    };
    tokens.iter().any(|token| match token.kind() {
        TokenKind::MlBasicString => is_open(token, "\"\"\""),
        TokenKind::MlLiteralString => is_open(token, "'''"),
        _ => false,
    })
}

fn keys(text: &str, tokens: &[Token]) -> BTreeSet<String> {
    let kind = |index: usize| tokens.get(index).map(Token::kind);
    let mut keys = BTreeSet::new();
    for (index, token) in tokens.iter().enumerate() {
        let is_bare = token.kind() == TokenKind::Atom;
        if !is_bare && !matches!(token.kind(), TokenKind::BasicString | TokenKind::LiteralString) {
            continue;
        }
        let before = index.checked_sub(1).and_then(kind);
        let is_key = before == Some(TokenKind::Dot)
            || matches!(kind(index + 1), Some(TokenKind::Dot | TokenKind::Equals))
            // A header that forgot `service.`; in quotes it is more likely the value of an array.
            || (is_bare && before == Some(TokenKind::LeftSquareBracket));
        if is_key {
            keys.extend(names_in(&text[token.span().start()..token.span().end()]));
        }
    }
    keys
}

/// The words of a key that can name a service: in `[service:web]` there are two.
fn names_in(key: &str) -> impl Iterator<Item = String> {
    let is_of_a_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    key.split(move |c| !is_of_a_name(c)).filter(|word| !word.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::load;

    fn names(text: &str) -> String {
        match load(text).unread {
            Unread::Nothing => "nothing".to_owned(),
            Unread::Anything => "anything".to_owned(),
            Unread::Names(names) => names.into_iter().collect::<Vec<_>>().join(" "),
        }
    }

    #[test]
    fn a_text_without_a_problem_has_been_read() {
        assert_eq!(names("[service.web]\ncommand = ['node']\n"), "nothing");
        assert_eq!(names("# nothing yet\n"), "nothing");
    }

    #[test]
    fn a_name_counts_wherever_a_key_may_stand() {
        for text in [
            "[service.web\ncommand = ['a']\n",
            "[service.web]\ncommand = ['a'\n",
            "[service . \"web\"]\n= 1\n",
            "[service]\nweb = { command = ['a' }\n",
            "service.web.command = [\n",
            "[web]\ncommand = ['a']\n",
            "[services.web]\ncommand = ['a']\n",
            "[service:web]\ncommand = ['a'\n",
            "[service.web.health]\nurl = x y\n",
        ] {
            let found = names(text);
            assert!(found.split(' ').any(|name| name == "web"), "{text}: {found}");
        }
    }

    #[test]
    fn values_and_comments_do_not_count() {
        let text = "# [service.web]\n[service.api]\ncommand = ['web', \"web\"]\nurl = 'http://web/web'\ncwd = web\ncolour = 1\n";
        assert!(!names(text).split(' ').any(|name| name == "web"), "{}", names(text));
    }

    #[test]
    fn a_text_that_was_cut_off_may_declare_anything() {
        let whole = "[service.api]\ncommand = ['node', \"x\"]\n";
        for end in [4, 12, 20, 25, 34] {
            assert_eq!(names(&whole[..end]), "anything", "{}", &whole[..end]);
        }
        assert_eq!(names("[service.api]\ncommand = '''node\n[service.db]\n"), "anything");
    }
}

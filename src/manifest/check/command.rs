//! `command` beside its `shell`: of the service, of its health check, of its stop.
//!
//! A string is split into words and never run by a shell; what only a shell understands is an error
//! instead of a surprise.

use std::ops::Range;

use toml::de::DeValue;

use super::templates::Known;
use crate::escape::visible;
use crate::manifest::code;
use crate::manifest::diagnostic::escape;
use crate::manifest::fields::Kind;
use crate::manifest::section::{Layout, Section, Text};
use crate::manifest::spec::{CommandLine, Shell};
use crate::manifest::template::{Piece, pieces};

/// Reads `command` and `shell` of a section; `None` if it is not given, means none, or is bad.
pub(super) fn read(section: &mut Section<'_, '_, '_>, known: &Known<'_>) -> Option<CommandLine> {
    let shell = read_shell(section);
    let Some(found) = section.find("command") else {
        if let (Some(_), Some((field, value))) = (shell, section.find("shell")) {
            let message = format!("`{}` is given without a command", field.path);
            section.problems.add(value.span(), code::CONFLICTING_KEYS, message);
        }
        return None;
    };
    match (found.1.get_ref(), shell) {
        (DeValue::String(text), Some(kind)) => {
            let script = Text { text, place: found.1.span() };
            read_script(section, &script, known).map(|script| CommandLine::Shell { script, kind })
        }
        (DeValue::String(text), None) => {
            let line = Text { text, place: found.1.span() };
            read_line(section, &line, known).map(CommandLine::Argv)
        }
        (DeValue::Array(items), Some(_)) if !items.is_empty() => {
            let message = "a shell takes its command as one string, this is an array";
            let report = section.problems.add(found.1.span(), code::CONFLICTING_KEYS, message);
            report.help("write the command as a string, or leave out `shell`");
            None
        }
        (DeValue::Array(_), _) => read_words(section, known).map(CommandLine::Argv),
        _ => {
            section.wrong_type(found);
            None
        }
    }
}

fn read_shell(section: &mut Section<'_, '_, '_>) -> Option<Shell> {
    let found = section.find("shell")?;
    match found.1.get_ref() {
        DeValue::Boolean(false) => None,
        DeValue::Boolean(true) => Some(Shell::Plain),
        DeValue::String(text) if text == "login" => Some(Shell::Login),
        _ => {
            section.wrong_type(found);
            None
        }
    }
}

fn read_script(section: &mut Section<'_, '_, '_>, script: &Text<'_>, known: &Known<'_>) -> Option<String> {
    let path = section.path("command");
    if script.text.trim().is_empty() {
        section.problems.add(script.place.clone(), code::EMPTY, format!("`{path}` is empty"));
        return None;
    }
    let is_clean = section.is_clean(path, script, Layout::Lines);
    known.check(script, section.problems);
    is_clean.then(|| known.fill(script.text))
}

fn read_line(section: &mut Section<'_, '_, '_>, line: &Text<'_>, known: &Known<'_>) -> Option<Vec<String>> {
    let path = section.path("command");
    if !section.is_clean(path, line, Layout::Lines) {
        return None;
    }
    // Before what a shell would act on: of a quote that is open nobody knows what it was to hold.
    let words = match shell_words::split(line.text) {
        Ok(words) => words,
        Err(error) => {
            let at = unclosed_quote(line.text).map_or(0..line.text.len(), |at| at..at + 1);
            let place = line.part(section.problems.text(), at);
            let report = section.problems.add(place, code::BAD_COMMAND, format!("`{path}`: {error}"));
            report.help("close it, or write the command as an array, a string for each word");
            return None;
        }
    };
    if let Some((part, found)) = shell_syntax(line.text) {
        let place = line.part(section.problems.text(), part);
        let message = format!("{}, and no shell runs `{path}`", found.describe());
        section.problems.add(place, code::NEEDS_SHELL, message).help(found.help(&words));
        return None;
    }
    if words.first().is_none_or(String::is_empty) {
        let none_is_possible = may_be_none(section.find("command").map(|(field, _)| &field.kind));
        let report = section.problems.add(line.place.clone(), code::EMPTY, format!("`{path}` is empty"));
        if none_is_possible {
            report.help("write [] for none");
        }
        return None;
    }
    if !known.check(line, section.problems) {
        return None;
    }
    if words.iter().flat_map(|word| pieces(word)).any(|(_, piece)| matches!(piece, Piece::Unclosed(_))) {
        let message = format!("a template in `{path}` is split at its spaces");
        let report = section.problems.add(line.place.clone(), code::BAD_TEMPLATE, message);
        report.help("write it without spaces, like `{{env.PORT}}`, or the command as an array");
        return None;
    }
    let words: Vec<String> = words.iter().map(|word| known.fill(word)).collect();
    if words.first().is_some_and(String::is_empty) {
        let message = format!("the first word of `{path}` is empty");
        section.problems.add(line.place.clone(), code::EMPTY, message);
        return None;
    }
    Some(words)
}

fn may_be_none(kind: Option<&Kind>) -> bool {
    matches!(kind, Some(Kind::Command { may_be_none: true }))
}

fn read_words(section: &mut Section<'_, '_, '_>, known: &Known<'_>) -> Option<Vec<String>> {
    let path = section.path("command");
    let (field, value) = section.find("command")?;
    let words = section.texts("command")?;
    let DeValue::Array(items) = value.get_ref() else { return None };
    if items.is_empty() {
        if !may_be_none(Some(&field.kind)) {
            let message = format!("`{path}` has no words");
            section.problems.add(value.span(), code::EMPTY, message);
        }
        return None;
    }
    let before = section.problems.count();
    for word in &words {
        section.is_clean(path, word, Layout::Lines);
        known.check(word, section.problems);
    }
    if let Some(first) = words.first().filter(|first| first.text.is_empty()) {
        section.problems.add(
            first.place.clone(),
            code::EMPTY,
            format!("the first word of `{path}` is empty"),
        );
    }
    let is_good = words.len() == items.len() && section.problems.count() == before;
    is_good.then(|| words.iter().map(|word| word.text.to_owned()).collect())
}

/// What a shell would not take literally.
#[derive(Debug, PartialEq)]
enum Syntax<'l> {
    Operator(char),
    Assignment(&'l str),
    Comment,
}

impl Syntax<'_> {
    fn describe(&self) -> String {
        match self {
            Self::Operator(c) => format!("`{c}` is for a shell"),
            Self::Assignment(key) => format!("`{}=` before a command is for a shell", escape(key)),
            Self::Comment => "`#` begins a comment of a shell".to_owned(),
        }
    }

    /// `words` are those of the line.
    fn help(&self, words: &[String]) -> String {
        match self {
            Self::Assignment(_) => {
                let is_assignment = |word: &&String| assignment(word).is_some();
                let variables = words.iter().take_while(is_assignment);
                let env: Vec<String> = variables.filter_map(|word| word.split_once('=')).map(pair).collect();
                let rest = array(&words[env.len()..]);
                format!("write `env = {{ {} }}` and `command = {rest}`", env.join(", "))
            }
            Self::Operator('$') => format!(
                "write `shell = true`, or `{{{{env.KEY}}}}` for a declared variable, or for the text itself: \
                 `command = {}`",
                array(words)
            ),
            Self::Operator(_) | Self::Comment => {
                format!("write `shell = true`, or for the text itself: `command = {}`", array(words))
            }
        }
    }
}

fn pair((key, value): (&str, &str)) -> String {
    format!("{} = {}", escape(key), quote(value))
}

fn array(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
    format!("[{}]", quoted.join(", "))
}

/// A TOML string; control characters are escaped by JSON's rules, which TOML shares.
fn quote(text: &str) -> String {
    visible(&serde_json::Value::from(text).to_string()).into_owned()
}

/// The first thing in `line` that a shell would act on, by the quoting rules of shell-words.
fn shell_syntax(line: &str) -> Option<(Range<usize>, Syntax<'_>)> {
    if let Some(key) = assignment(line.trim_start()) {
        let at = line.len() - line.trim_start().len();
        return Some((at..at + key.len() + 1, Syntax::Assignment(key)));
    }
    let mut quotes = Quotes::None;
    let mut chars = line.char_indices();
    let mut at_word_start = true;
    while let Some((at, c)) = chars.next() {
        let starts_word = std::mem::replace(&mut at_word_start, c.is_ascii_whitespace());
        match (quotes, c) {
            (Quotes::None | Quotes::Double, '\\') => {
                chars.next();
            }
            (Quotes::None, '\'') => quotes = Quotes::Single,
            (Quotes::None, '"') => quotes = Quotes::Double,
            (Quotes::Single, '\'') | (Quotes::Double, '"') => quotes = Quotes::None,
            // A shell fills these in within double quotes too.
            (Quotes::None | Quotes::Double, '$' | '`')
            | (Quotes::None, '|' | '&' | ';' | '<' | '>' | '*') => {
                return Some((at..at + c.len_utf8(), Syntax::Operator(c)));
            }
            (Quotes::None, '#') if starts_word => return Some((at..at + 1, Syntax::Comment)),
            _ => {}
        }
    }
    None
}

/// Where the quote begins that nothing closes, by the same rules.
fn unclosed_quote(line: &str) -> Option<usize> {
    let mut open: Option<(usize, char)> = None;
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        match (open, c) {
            (None | Some((_, '"')), '\\') => {
                chars.next();
            }
            (None, '\'' | '"') => open = Some((at, c)),
            (Some((_, quote)), _) if quote == c => open = None,
            _ => {}
        }
    }
    open.map(|(at, _)| at)
}

#[derive(Clone, Copy)]
enum Quotes {
    None,
    Single,
    Double,
}

/// The key of a leading `KEY=value`.
fn assignment(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let mut bytes = key.bytes();
    let first_is_good = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    (first_is_good && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Option<String> {
        shell_syntax(line).map(|(part, _)| line[part].to_owned())
    }

    #[test]
    fn what_a_shell_would_act_on_is_found() {
        for (line, part) in [
            ("a | b", "|"),
            ("a && b", "&"),
            ("a; b", ";"),
            ("a > b", ">"),
            ("a < b", "<"),
            ("echo $HOME", "$"),
            ("echo \"$HOME\"", "$"),
            ("ls *.c", "*"),
            ("echo `date`", "`"),
            ("  PORT=80 node x", "PORT="),
            ("node x # here", "#"),
        ] {
            assert_eq!(found(line).as_deref(), Some(part), "{line}");
        }
    }

    #[test]
    fn what_is_quoted_is_literal() {
        for line in
            ["echo 'a | b; $c *'", "echo \"a | b * ;\"", "echo \\$HOME \\*", "echo a#b", "x --a=b", "=x"]
        {
            assert_eq!(found(line), None, "{line}");
        }
    }

    #[test]
    fn a_quote_that_is_never_closed_is_found() {
        for (line, at) in
            [("echo 'a", Some(5)), ("A=1 b \"c\\\"", Some(6)), ("'a' \"b\" c", None), ("'\\'", None)]
        {
            assert_eq!(unclosed_quote(line), at, "{line}");
            assert_eq!(shell_words::split(line).is_err(), at.is_some(), "{line}");
        }
    }

    #[test]
    fn help_can_be_pasted() {
        let words = |line: &str| shell_words::split(line).unwrap();
        let help = |line: &str| shell_syntax(line).map(|(_, it)| it.help(&words(line))).unwrap_or_default();
        assert_eq!(
            help("A=1 B='x y' node \"s.js\""),
            "write `env = { A = \"1\", B = \"x y\" }` and `command = [\"node\", \"s.js\"]`"
        );
        assert_eq!(
            help("cat a | wc"),
            "write `shell = true`, or for the text itself: `command = [\"cat\", \"a\", \"|\", \"wc\"]`"
        );
    }
}

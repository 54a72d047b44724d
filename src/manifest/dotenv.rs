//! Files of variables: `KEY=value` lines, as dotenv, Compose and systemd read them alike.
//!
//! Strict, and without surprises: nothing is filled in, `$` is a character. What another reader might take otherwise
//! is an error with its line. No error quotes what stands there: it may be a secret. Pure; the host reads the file.
//!
//! | line | gives |
//! | --- | --- |
//! | empty, or beginning with `#` | nothing |
//! | `KEY=value`, `export KEY=value` | the value without the spaces around it, up to a ` #` |
//! | `KEY='…'` | what stands between the quotes, over several lines too |
//! | `KEY="…"` | likewise, with `\n`, `\r`, `\t`, `\"`, `\\` and `\$` |
//!
//! Of a key that is given twice the last value counts.

use std::collections::BTreeMap;

use super::check::is_variable_name;
use crate::identity::SPAWN_MARK;

/// What is wrong with a file of variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub line: usize,
    /// A sentence that quotes nothing of the file but names of variables.
    pub message: String,
}

/// The variables of a file; of several faults the first.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, Fault> {
    let mut reader = Reader { rest: text.strip_prefix('\u{feff}').unwrap_or(text), line: 1 };
    let mut variables = BTreeMap::new();
    while !reader.rest.is_empty() {
        if let Some((key, value)) = reader.variable()? {
            variables.insert(key, value);
        }
    }
    Ok(variables)
}

struct Reader<'t> {
    rest: &'t str,
    line: usize,
}

impl Reader<'_> {
    /// What the next line, or the lines of a quoted value, give.
    fn variable(&mut self) -> Result<Option<(String, String)>, Fault> {
        let begun = self.line;
        let line = self.rest.lines().next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            self.end_line();
            return Ok(None);
        }
        let Some((key, _)) = line.split_once('=') else {
            return Err(self.fault("it has no `=`; write `KEY=value`"));
        };
        let key = key.trim_end();
        let key = key.strip_prefix("export").filter(|key| key.starts_with([' ', '\t'])).unwrap_or(key).trim();
        if !is_variable_name(key) || key.contains(['"', '\'', '`', '$', '*']) {
            return Err(self.fault("what stands before the `=` is not a name of an environment variable"));
        }
        if key == SPAWN_MARK {
            return Err(self.fault(&format!("`{SPAWN_MARK}` is set by the reconciler itself")));
        }
        let key = key.to_owned();
        let at = self.rest.find('=').expect("its line has one") + 1;
        self.rest = self.rest[at..].trim_start_matches([' ', '\t']);
        let value = match self.rest.chars().next() {
            Some('\'') => self.quoted('\'')?,
            Some('"') => self.quoted('"')?,
            Some(_) | None => self.plain(),
        };
        if value.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            return Err(Fault {
                line: begun,
                message: format!("the value of `{key}` has a control character"),
            });
        }
        Ok(Some((key, value)))
    }

    fn plain(&mut self) -> String {
        let line = self.rest.lines().next().unwrap_or_default();
        let is_space = |c: char| matches!(c, ' ' | '\t');
        let comment =
            line.char_indices().find(|(at, c)| *c == '#' && (*at == 0 || line[..*at].ends_with(is_space)));
        let value = line[..comment.map_or(line.len(), |(at, _)| at)].trim().to_owned();
        self.end_line();
        value
    }

    /// The line of the opening quote is that of a fault.
    fn quoted(&mut self, quote: char) -> Result<String, Fault> {
        let mut value = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        let mut line = self.line;
        loop {
            let Some((at, c)) = chars.next() else {
                return Err(self.fault("a quote is not closed"));
            };
            match c {
                _ if c == quote => {
                    self.rest = &self.rest[at + 1..];
                    self.line = line;
                    break;
                }
                '\\' if quote == '"' => match chars.next().map(|(_, c)| c) {
                    Some('n') => value.push('\n'),
                    Some('r') => value.push('\r'),
                    Some('t') => value.push('\t'),
                    Some(c @ ('"' | '\\' | '$')) => value.push(c),
                    Some(_) | None => {
                        let message = "after a backslash in double quotes stand n, r, t, \", \\ or $; write \\\\ for it itself";
                        return Err(Fault { line, message: message.to_owned() });
                    }
                },
                '\n' => {
                    line += 1;
                    value.push('\n');
                }
                _ => value.push(c),
            }
        }
        let after = self.rest.lines().next().unwrap_or_default();
        let is_over =
            after.trim().is_empty() || (after.starts_with([' ', '\t']) && after.trim().starts_with('#'));
        if !is_over {
            return Err(self.fault("something stands after the closing quote"));
        }
        self.end_line();
        Ok(value)
    }

    fn end_line(&mut self) {
        self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        self.line += 1;
    }

    fn fault(&self, message: &str) -> Fault {
        Fault { line: self.line, message: message.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match parse(text) {
            Ok(variables) => {
                let lines: Vec<String> = variables
                    .iter()
                    .map(|(key, value)| format!("{key}=<{}>", value.escape_debug()))
                    .collect();
                lines.join(" ")
            }
            Err(Fault { line, message }) => format!("{line}: {message}"),
        }
    }

    #[test]
    fn lines_give_what_dotenv_and_compose_read_alike() {
        for (text, gives) in [
            ("", ""),
            ("# a comment\n\n  \t\n", ""),
            ("A=1\nB=two words \r\nC=\n", "A=<1> B=<two words> C=<>"),
            ("export A=1\n  B = 2", "A=<1> B=<2>"),
            ("exported=1", "exported=<1>"),
            ("A=x#y # z\nB=#", "A=<x#y> B=<>"),
            ("A='a $B \\n # c' # d", "A=<a $B \\\\n # c>"),
            ("A=\"a\\nb\\\"\\\\\\$\"", "A=<a\\nb\\\"\\\\$>"),
            ("A='one\ntwo'\nB=3", "A=<one\\ntwo> B=<3>"),
            ("A=$HOME/${X}", "A=<$HOME/${X}>"),
            ("A=1\nA=2", "A=<2>"),
            ("\u{feff}A=it's", "A=<it\\'s>"),
            ("U=postgres://u:p@h/db?a=b", "U=<postgres://u:p@h/db?a=b>"),
        ] {
            assert_eq!(shown(text), gives, "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_has_its_line_and_quotes_no_value() {
        for (text, says) in [
            ("A=1\nhunter2", "2: it has no `=`"),
            ("A B=hunter2", "1: what stands before"),
            ("=hunter2", "1: what stands before"),
            ("A='hunter2\n\nB=2", "1: a quote is not closed"),
            ("A='1\n2' hunter2\n", "2: something stands after"),
            ("A=\"hunter2\\q\"", "1: after a backslash"),
            ("\nA=hunter2\u{1}", "2: the value of `A` has a control character"),
            ("RECONCILE_SPAWN=hunter2", "1: `RECONCILE_SPAWN` is set by"),
        ] {
            let found = shown(text);
            assert!(found.starts_with(says) && !found.contains("hunter2"), "{text:?}: {found}");
        }
    }
}

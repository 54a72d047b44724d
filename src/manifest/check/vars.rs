//! `vars`: the values for the holes of a template.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::manifest::code;
use crate::manifest::diagnostic::escape;
use crate::manifest::problems::Problems;
use crate::manifest::section::{describe, to_i64};
use crate::manifest::template::{Piece, pieces};

/// A value of `vars`.
#[derive(Debug, Clone)]
pub(super) struct Var<'a> {
    /// Of its name.
    pub(super) key_place: Range<usize>,
    pub(super) value: Spanned<DeValue<'a>>,
    /// As it stands within a text.
    pub(super) text: String,
}

/// Values by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Vars<'a>(BTreeMap<String, Var<'a>>);

impl<'a> Vars<'a> {
    /// Reads `vars` of a service or of a template, and reports what is bad.
    pub(super) fn read(table: &DeTable<'a>, problems: &mut Problems<'_>) -> Self {
        let Some(value) = table.get(super::fill::VARS) else { return Self::default() };
        let DeValue::Table(entries) = value.get_ref() else {
            let message = format!("`vars` is a table, this is {}", describe(value.get_ref()));
            let report = problems.add(value.span(), code::WRONG_TYPE, message);
            report.help("write it as `vars = { port = 8080 }`");
            return Self::default();
        };
        let mut vars = Self::default();
        for (key, value) in entries {
            let name: &str = key.get_ref();
            if name.is_empty()
                || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
            {
                let message = format!("`{}` is not a name of a value in `vars`", escape(name));
                let report = problems.add(key.span(), code::BAD_NAME, message);
                report.help("a name has letters, digits, `_` and `-`");
                continue;
            }
            // A bad one is given all the same: one mistake is one problem.
            let text = read_value(name, value, problems).unwrap_or_default();
            let (key_place, value) = (key.span(), value.clone());
            vars.0.insert(name.to_owned(), Var { key_place, value, text });
        }
        vars
    }

    pub(super) fn get(&self, name: &str) -> Option<&Var<'a>> {
        self.0.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Var<'a>)> {
        self.0.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// With those of `others` that it does not give itself.
    pub(super) fn or(mut self, others: &Self) -> Self {
        for (name, var) in &others.0 {
            self.0.entry(name.clone()).or_insert_with(|| var.clone());
        }
        self
    }

    /// What is not given stays as it is: who fills in has reported it.
    pub(super) fn fill(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        for (place, piece) in pieces(text) {
            match piece {
                Piece::Var(name) => filled.push_str(self.get(name).map_or(&text[place], |var| &var.text)),
                _ => filled.push_str(&text[place]),
            }
        }
        filled
    }
}

/// A string, an integer or a boolean, as it stands within a text.
fn read_value(name: &str, value: &Spanned<DeValue<'_>>, problems: &mut Problems<'_>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => {
            if pieces(text).any(|(_, piece)| matches!(piece, Piece::Var(_))) {
                let message = format!("`vars.{}` is filled in from `vars` itself", escape(name));
                problems.add(value.span(), code::TEMPLATE_CYCLE, message).help("write the value itself");
                return None;
            }
            if let Some(bad) = text.chars().find(|c| c.is_control() && !matches!(c, '\t' | '\n')) {
                let message =
                    format!("`vars.{name}` contains the control character {}", bad.escape_unicode());
                problems.add(value.span(), code::BAD_CHARACTER, message).help("leave it out");
                return None;
            }
            Some(text.to_string())
        }
        DeValue::Boolean(boolean) => Some(boolean.to_string()),
        DeValue::Integer(integer) => {
            Some(to_i64(integer).map_or_else(|| integer.to_string(), |number| number.to_string()))
        }
        other => {
            let message = format!("`vars` takes strings, integers and booleans, this is {}", describe(other));
            problems.add(value.span(), code::WRONG_TYPE, message);
            None
        }
    }
}

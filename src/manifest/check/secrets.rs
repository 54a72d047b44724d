//! `secrets`: where each comes from, by the variable that tells it. What it is nobody asks here.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::is_variable;
use super::templates::Known;
use crate::identity::check_name;
use crate::manifest::code;
use crate::manifest::diagnostic::escape;
use crate::manifest::section::{Layout, Section, Text, describe};
use crate::manifest::spec::{Secret, SecretSource};
use crate::manifest::suggest;

const KEYS: [&str; 4] = ["file", "env", "derive", "optional"];

const HELP: &str = "write { file = \"token\" }, { env = \"NAME\" } or { derive = \"label\" }";

pub(super) fn read(section: &mut Section<'_, '_, '_>, known: &Known<'_>) -> BTreeMap<String, Secret> {
    let mut secrets = BTreeMap::new();
    let Some(found) = section.find("secrets") else { return secrets };
    let DeValue::Table(entries) = found.1.get_ref() else {
        section.wrong_type(found);
        return secrets;
    };
    let is_declared = |name: &str| match section.find("env").map(|(_, env)| env.get_ref()) {
        Some(DeValue::Table(env)) => env.contains_key(name),
        Some(_) | None => false,
    };
    let twice: Vec<_> = entries.keys().filter(|name| is_declared(name.get_ref())).collect();
    for name in twice {
        let message = format!("`{}` is a secret, and `env` gives it too", escape(name.get_ref()));
        section.problems.add(name.span(), code::CONFLICTING_KEYS, message).help("leave it out of `env`");
    }
    for (name, value) in entries {
        let text = Text { text: name.get_ref(), place: name.span() };
        let name_is_good = is_variable(&text, section.problems);
        let secret = match value.get_ref() {
            DeValue::Table(table) => read_secret(section, &text, value, table, known),
            other => {
                let shown = escape(text.text);
                let message = format!("`secrets.{shown}` takes a table, this is {}", describe(other));
                section.problems.add(value.span(), code::WRONG_TYPE, message).help(HELP);
                None
            }
        };
        secrets.extend(secret.filter(|_| name_is_good).map(|secret| (text.text.to_owned(), secret)));
    }
    secrets
}

fn read_secret(
    section: &mut Section<'_, '_, '_>,
    name: &Text<'_>,
    value: &Spanned<DeValue<'_>>,
    table: &DeTable<'_>,
    known: &Known<'_>,
) -> Option<Secret> {
    let shown = escape(name.text);
    let mut sources = Vec::new();
    let mut given = 0;
    let mut optional = false;
    for (key, value) in table {
        match (key.get_ref().as_ref(), value.get_ref()) {
            (word @ ("file" | "env" | "derive"), DeValue::String(text)) => {
                given += 1;
                let text = Text { text, place: value.span() };
                sources.extend(read_source(section, word, &text, known));
            }
            ("optional", DeValue::Boolean(is_optional)) => optional = *is_optional,
            (word, other) if KEYS.contains(&word) => {
                given += usize::from(word != "optional");
                let takes = if word == "optional" { "true or false" } else { "a string" };
                let message = format!("`secrets.{shown}.{word}` takes {takes}, this is {}", describe(other));
                section.problems.add(value.span(), code::WRONG_TYPE, message);
            }
            (word, _) => {
                let message = format!("there is no field `secrets.{shown}.{}`", escape(word));
                let report = section.problems.add(key.span(), code::UNKNOWN_KEY, message);
                report.help(match suggest::nearest(word, KEYS.into_iter()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("a secret takes {}", KEYS.join(", ")),
                });
            }
        }
    }
    match given {
        0 => {
            let message = format!("`secrets.{shown}` does not say where it comes from");
            section.problems.add(value.span(), code::MISSING_KEY, message).help(HELP);
        }
        1 => return sources.pop().map(|source| Secret { source, optional }),
        _ => {
            let message = format!("`secrets.{shown}` comes from more than one place");
            section.problems.add(value.span(), code::CONFLICTING_KEYS, message).help(HELP);
        }
    }
    None
}

fn read_source(
    section: &mut Section<'_, '_, '_>,
    word: &str,
    text: &Text<'_>,
    known: &Known<'_>,
) -> Option<SecretSource> {
    let owned = text.text.to_owned();
    match word {
        "file" if text.text.trim().is_empty() => {
            section.problems.add(text.place.clone(), code::EMPTY, "a secret comes from an empty path");
            None
        }
        "file" => {
            let is_clean = section.is_clean("secrets", text, Layout::OneLine);
            (is_clean && known.check(text, section.problems)).then_some(SecretSource::File(owned))
        }
        "env" => is_variable(text, section.problems).then_some(SecretSource::Env(owned)),
        _ => match check_name(text.text) {
            Ok(()) => Some(SecretSource::Derived(owned)),
            Err(error) => {
                let message = format!("`{}` is not a label of a secret: {error}", escape(text.text));
                section.problems.add(text.place.clone(), code::BAD_NAME, message);
                None
            }
        },
    }
}

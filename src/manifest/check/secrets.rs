//! `secrets`: where each comes from, by the variable that tells it. What it is nobody asks here.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::is_variable;
use super::templates::Known;
use crate::identity::check_name;
use crate::manifest::code;
use crate::manifest::diagnostic::escape;
use crate::manifest::section::{Layout, Section, Text, describe};
use crate::manifest::spec::{Secret, SecretCommand, SecretForm, SecretSource};
use crate::manifest::{suggest, units};

const KEYS: [&str; 8] = ["file", "env", "derive", "command", "optional", "as", "timeout", "refresh"];

const HELP: &str = "write { file = \"token\" }, { env = \"NAME\" }, { derive = \"label\" } or { command = [\"vault\", \"read\"] }";

/// Where a service finds those that are files.
pub(super) const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// How long a command may take that a start waits for.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// How often a command is run beside what runs.
const REFRESH: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30 * 24 * 3600));

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
    let mut files_at = None;
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
        if secret.as_ref().is_some_and(|secret| secret.given_as == SecretForm::File) {
            files_at.get_or_insert_with(|| value.span());
        }
        secrets.extend(secret.filter(|_| name_is_good).map(|secret| (text.text.to_owned(), secret)));
    }
    if let Some(place) = files_at.filter(|_| is_declared_or_secret(section, entries)) {
        let message = format!("`{DIRECTORY}` tells where the files of secrets are, and is given otherwise");
        section.problems.add(place, code::CONFLICTING_KEYS, message).help("leave it to be told");
    }
    secrets
}

fn is_declared_or_secret(section: &Section<'_, '_, '_>, secrets: &DeTable<'_>) -> bool {
    let env = section.find("env").and_then(|(_, env)| env.get_ref().as_table());
    env.is_some_and(|env| env.contains_key(DIRECTORY)) || secrets.contains_key(DIRECTORY)
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
    let mut given_as = SecretForm::Variable;
    let (mut timeout, mut refresh) = (None, None);
    for (key, value) in table {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("command", DeValue::Array(_)) => {
                given += 1;
                sources.extend(read_command(section, &shown, value, known).map(SecretSource::Command));
            }
            ("as", DeValue::String(word)) if word == "env" => {}
            ("as", DeValue::String(word)) if word == "file" => given_as = SecretForm::File,
            ("as", DeValue::String(word)) => {
                let message = format!("`secrets.{shown}.as` is env or file, this is `{}`", escape(word));
                section.problems.add(value.span(), code::BAD_CHOICE, message);
            }
            ("timeout", DeValue::String(text)) => {
                let bounds = (Duration::from_millis(1), LONGEST_TIMEOUT);
                timeout = Some((read_duration(section, &shown, "timeout", value, text, bounds), key.span()));
            }
            ("refresh", DeValue::String(text)) => {
                refresh = Some((read_duration(section, &shown, "refresh", value, text, REFRESH), key.span()));
            }
            (word @ ("file" | "env" | "derive"), DeValue::String(text)) => {
                given += 1;
                let text = Text { text, place: value.span() };
                sources.extend(read_source(section, word, &text, known));
            }
            ("optional", DeValue::Boolean(is_optional)) => optional = *is_optional,
            (word, other) if KEYS.contains(&word) => {
                given += usize::from(["file", "env", "derive", "command"].contains(&word));
                let takes = match word {
                    "optional" => "true or false",
                    "command" => "a list of words, which no shell runs",
                    _ => "a string",
                };
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
        1 => {
            let mut source = sources.pop()?;
            match &mut source {
                SecretSource::Command(command) => {
                    command.timeout = timeout.and_then(|(given, _)| given).unwrap_or(command.timeout);
                    command.refresh = refresh.and_then(|(given, _)| given);
                }
                SecretSource::File(_) | SecretSource::Env(_) | SecretSource::Derived(_) => {
                    let given = timeout.into_iter().map(|(_, at)| ("timeout", at));
                    for (word, at) in given.chain(refresh.into_iter().map(|(_, at)| ("refresh", at))) {
                        let message =
                            format!("`secrets.{shown}.{word}` is about a `command`, and there is none");
                        section.problems.add(at, code::CONFLICTING_KEYS, message);
                    }
                }
            }
            return Some(Secret { source, optional, given_as });
        }
        _ => {
            let message = format!("`secrets.{shown}` comes from more than one place");
            section.problems.add(value.span(), code::CONFLICTING_KEYS, message).help(HELP);
        }
    }
    None
}

fn read_command(
    section: &mut Section<'_, '_, '_>,
    name: &str,
    value: &Spanned<DeValue<'_>>,
    known: &Known<'_>,
) -> Option<SecretCommand> {
    let DeValue::Array(items) = value.get_ref() else { return None };
    let path = format!("secrets.{name}.command");
    let before = section.problems.count();
    let mut argv = Vec::new();
    for item in items {
        let DeValue::String(word) = item.get_ref() else {
            let message = format!("`{path}` takes words, this is {}", describe(item.get_ref()));
            section.problems.add(item.span(), code::WRONG_TYPE, message);
            continue;
        };
        let word = Text { text: word, place: item.span() };
        section.is_clean(&path, &word, Layout::Lines);
        known.check(&word, section.problems);
        argv.push(word.text.to_owned());
    }
    if argv.first().is_none_or(String::is_empty) {
        section.problems.add(value.span(), code::EMPTY, format!("`{path}` names nothing to run"));
    }
    let is_good = section.problems.count() == before;
    is_good.then_some(SecretCommand { argv, timeout: SecretCommand::TIMEOUT, refresh: None })
}

fn read_duration(
    section: &mut Section<'_, '_, '_>,
    name: &str,
    word: &str,
    value: &Spanned<DeValue<'_>>,
    text: &str,
    (min, max): (Duration, Duration),
) -> Option<Duration> {
    let (code, message) = match units::parse_duration(text) {
        Ok(duration) if (min..=max).contains(&duration) => return Some(duration),
        Ok(_) => {
            let (min, max) = (units::format_duration(min), units::format_duration(max));
            let message = format!("`secrets.{name}.{word}` takes {min} to {max}, this is {}", escape(text));
            (code::DURATION_OUT_OF_RANGE, message)
        }
        Err(why) => (code::BAD_DURATION, format!("`{}` is not a duration: {why}", escape(text))),
    };
    section.problems.add(value.span(), code, message);
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

//! `env_file`: a path, or a list of paths and of tables with one. `restart_on` and `reload`: lists of paths and patterns.
//!
//! Whether such a file is there is not asked here: it may come and go, and is read at each start.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::command;
use super::templates::Known;
use crate::manifest::code;
use crate::manifest::diagnostic::escape;
use crate::manifest::section::{Layout, Section, Text, describe};
use crate::manifest::spec::{EnvFile, Reload, Spec};
use crate::manifest::suggest;

/// More than these nobody keeps apart, and each is looked at whenever files change.
const MAX_FILES: usize = 64;

const KEYS: [&str; 2] = ["path", "optional"];

/// Fills in `env_file` and `restart_on`.
pub(super) fn read(section: &mut Section<'_, '_, '_>, spec: &mut Spec, known: &Known<'_>) {
    read_env_files(section, spec, known);
    spec.restart_on = read_patterns(section, "restart_on", known);
}

pub(super) fn read_reload(section: &mut Section<'_, '_, '_>, known: &Known<'_>) -> Reload {
    let default = Reload::default();
    let signal = section.signal("signal").unwrap_or(default.signal);
    if signal.suspends() || signal.0 == libc::SIGKILL {
        let place = section.find("signal").map_or(section.place.clone(), |(_, value)| value.span());
        let report = section.problems.add(place, code::BAD_SIGNAL, format!("{signal} reloads nothing"));
        report.help("use the signal that it reads its files anew for, like \"HUP\" or \"USR1\"");
    }
    let command = command::read(section, known);
    if let (Some(_), Some((_, value))) = (&command, section.find("signal")) {
        let message = "`reload` gives a signal and a command";
        let report = section.problems.add(value.span(), code::CONFLICTING_KEYS, message);
        report.help("leave one of them out; a command can send the signal");
    }
    Reload {
        on: read_patterns(section, "on", known),
        signal,
        command,
        timeout: section.duration("timeout").unwrap_or(default.timeout),
    }
}

/// Wildcards stand in the last part alone: then one directory says all about a pattern.
fn read_patterns(section: &mut Section<'_, '_, '_>, key: &str, known: &Known<'_>) -> Vec<String> {
    let Some(texts) = section.texts(key) else { return Vec::new() };
    let field = section.path(key);
    if texts.len() > MAX_FILES {
        let message = format!("`{field}` names {} files, and takes {MAX_FILES}", texts.len());
        section.problems.add(section.place.clone(), code::OUT_OF_RANGE, message);
    }
    let mut patterns = Vec::new();
    for text in texts {
        let Some(path) = read_path(section, field, &text, known) else { continue };
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        if directory.contains(['*', '?']) {
            let message = format!("`{field}` has a wildcard in the name of a directory");
            let report = section.problems.add(text.place.clone(), code::BAD_PATTERN, message);
            report.help("`*` and `?` stand in the last part, like \"config/*.yml\"; name each directory");
        }
        patterns.push(path);
    }
    patterns
}

fn read_env_files(section: &mut Section<'_, '_, '_>, spec: &mut Spec, known: &Known<'_>) {
    let Some(found) = section.find("env_file") else { return };
    spec.env_file = match found.1.get_ref() {
        DeValue::String(_) => read_file(section, found.1, known).into_iter().collect(),
        DeValue::Array(items) => items.iter().filter_map(|item| read_file(section, item, known)).collect(),
        _ => {
            section.wrong_type(found);
            return;
        }
    };
    if spec.env_file.len() > MAX_FILES {
        let message = format!("`env_file` names {} files, and takes {MAX_FILES}", spec.env_file.len());
        section.problems.add(found.1.span(), code::OUT_OF_RANGE, message);
    }
}

fn read_file(
    section: &mut Section<'_, '_, '_>,
    value: &Spanned<DeValue<'_>>,
    known: &Known<'_>,
) -> Option<EnvFile> {
    match value.get_ref() {
        DeValue::String(path) => {
            let path = read_path(section, "env_file", &Text { text: path, place: value.span() }, known)?;
            Some(EnvFile { path, optional: false })
        }
        DeValue::Table(entries) => read_table(section, value, entries, known),
        other => {
            let message = format!("`env_file` takes paths and tables with one, this is {}", describe(other));
            let report = section.problems.add(value.span(), code::WRONG_TYPE, message);
            report.help("write \".env\", or { path = \".env\", optional = true }");
            None
        }
    }
}

fn read_table(
    section: &mut Section<'_, '_, '_>,
    value: &Spanned<DeValue<'_>>,
    entries: &DeTable<'_>,
    known: &Known<'_>,
) -> Option<EnvFile> {
    let (mut path, mut optional) = (None, false);
    let mut is_given = false;
    for (key, value) in entries {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("path", DeValue::String(text)) => {
                is_given = true;
                path = read_path(section, "env_file", &Text { text, place: value.span() }, known);
            }
            ("path", other) => {
                is_given = true;
                let message = format!("`path` takes a string, this is {}", describe(other));
                section.problems.add(value.span(), code::WRONG_TYPE, message);
            }
            ("optional", DeValue::Boolean(given)) => optional = *given,
            ("optional", other) => {
                let message = format!("`optional` takes true or false, this is {}", describe(other));
                section.problems.add(value.span(), code::WRONG_TYPE, message);
            }
            (word, _) => {
                let message = format!("there is no field `{}` in an `env_file`", escape(word));
                let report = section.problems.add(key.span(), code::UNKNOWN_KEY, message);
                report.help(match suggest::nearest(word, KEYS.into_iter()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("it takes {}", KEYS.join(", ")),
                });
            }
        }
    }
    if !is_given {
        let report = section.problems.add(value.span(), code::MISSING_KEY, "an `env_file` has no `path`");
        report.help("write { path = \".env\", optional = true }");
    }
    path.map(|path| EnvFile { path, optional })
}

fn read_path(
    section: &mut Section<'_, '_, '_>,
    field: &str,
    path: &Text<'_>,
    known: &Known<'_>,
) -> Option<String> {
    if path.text.trim().is_empty() {
        let message = format!("`{field}` names an empty path");
        section.problems.add(path.place.clone(), code::EMPTY, message);
        return None;
    }
    let is_clean = section.is_clean(field, path, Layout::OneLine);
    let is_known = known.check(path, section.problems);
    (is_clean && is_known).then(|| path.text.to_owned())
}

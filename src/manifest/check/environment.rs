//! `env`, `inherit_env`, `labels` and `attrs`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value};
use toml::de::DeValue;

use super::templates::Known;
use crate::identity::SPAWN_MARK;
use crate::manifest::code;
use crate::manifest::diagnostic::escape;
use crate::manifest::problems::Problems;
use crate::manifest::section::{Layout, Section, Text, to_i64};

/// The declared variables with their values as written.
pub(super) fn read<'a>(section: &mut Section<'a, '_, '_>) -> Vec<(Text<'a>, Text<'a>)> {
    let mut entries = section.text_table("env");
    entries.retain(|(key, value)| {
        let key_is_good = is_variable(key, section.problems);
        section.is_clean("env", value, Layout::Lines) && key_is_good
    });
    entries
}

pub(super) fn is_variable(key: &Text<'_>, problems: &mut Problems<'_>) -> bool {
    // Set for each start; a manifest that set it would hide a process from us.
    if key.text == SPAWN_MARK {
        let message = format!("`{SPAWN_MARK}` is set by the reconciler itself");
        problems.add(key.place.clone(), code::RESERVED_ENV, message).help("leave it out");
        return false;
    }
    if is_variable_name(key.text) && !key.text.contains('*') {
        return true;
    }
    let message = format!("`{}` is not a name of an environment variable", escape(key.text));
    let report = problems.add(key.place.clone(), code::BAD_ENV_NAME, message);
    report.help("a name is not empty and has no `=`, `*`, brace, space or control character");
    false
}

/// Wider than POSIX, since programs read names with dots and hyphens; without what would make the name
/// ambiguous, in an environment or in `{{env.NAME}}`.
pub(in crate::manifest) fn is_variable_name(name: &str) -> bool {
    let is_bad = |c: char| matches!(c, '=' | '{' | '}') || c.is_whitespace() || c.is_control();
    !name.is_empty() && name.len() <= 256 && !name.contains(is_bad)
}

/// `inherit_env` as written.
pub(super) fn read_inherited(section: &mut Section<'_, '_, '_>) -> Option<Vec<Cow<'static, str>>> {
    let patterns = section.texts("inherit_env")?;
    for pattern in &patterns {
        let prefix = pattern.text.strip_suffix('*').unwrap_or(pattern.text);
        let is_good = pattern.text == "*" || (is_variable_name(prefix) && !prefix.contains('*'));
        if !is_good {
            let message = format!("`{}` is not a name of an environment variable", escape(pattern.text));
            let report = section.problems.add(pattern.place.clone(), code::BAD_ENV_NAME, message);
            report.help("write a name like \"PATH\", a prefix and a star like \"LC_*\", or \"*\" for all");
        }
    }
    Some(patterns.iter().map(|pattern| pattern.text.to_owned().into()).collect())
}

pub(super) fn read_labels(section: &mut Section<'_, '_, '_>) -> BTreeMap<String, String> {
    let entries = section.text_table("labels");
    for (key, value) in &entries {
        if key.text.is_empty() {
            section.problems.add(key.place.clone(), code::EMPTY, "a label has no name");
        }
        let key_is_clean = section.is_clean("labels", key, Layout::OneLine);
        if key_is_clean {
            section.is_clean("labels", value, Layout::OneLine);
        }
    }
    entries.into_iter().map(|(key, value)| (key.text.to_owned(), value.text.to_owned())).collect()
}

/// `attrs` as JSON; dates become strings.
pub(super) fn read_attrs(section: &mut Section<'_, '_, '_>, known: &Known<'_>) -> Map<String, Value> {
    let Some(found) = section.find("attrs") else { return Map::new() };
    let DeValue::Table(_) = found.1.get_ref() else {
        section.wrong_type(found);
        return Map::new();
    };
    match to_json(found.1.get_ref(), found.1.span(), known, section.problems) {
        Value::Object(attrs) => attrs,
        _ => unreachable!("a table becomes an object"),
    }
}

/// Recursive: the depth of a text is bounded before it is parsed.
fn to_json(
    value: &DeValue<'_>,
    place: Range<usize>,
    known: &Known<'_>,
    problems: &mut Problems<'_>,
) -> Value {
    match value {
        DeValue::String(text) => {
            known.check(&Text { text, place }, problems);
            text.as_ref().into()
        }
        DeValue::Boolean(boolean) => (*boolean).into(),
        DeValue::Datetime(datetime) => datetime.to_string().into(),
        DeValue::Integer(integer) => to_i64(integer).map_or_else(
            || {
                let message = format!("{integer} does not fit 64 bits");
                problems.add(place, code::BAD_ATTRS, message).help("write it as a string");
                Value::Null
            },
            Value::from,
        ),
        DeValue::Float(float) => {
            let number = float.as_str().parse().ok().and_then(serde_json::Number::from_f64);
            number.map_or_else(
                || {
                    let message = format!("JSON has no number {}", float.as_str());
                    problems.add(place, code::BAD_ATTRS, message).help("write it as a string");
                    Value::Null
                },
                Value::from,
            )
        }
        DeValue::Array(items) => {
            items.iter().map(|item| to_json(item.get_ref(), item.span(), known, problems)).collect()
        }
        DeValue::Table(entries) => {
            let entries = entries.iter().map(|(key, item)| {
                (key.get_ref().to_string(), to_json(item.get_ref(), item.span(), known, problems))
            });
            Value::Object(entries.collect())
        }
    }
}

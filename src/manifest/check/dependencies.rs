//! `depends_on`: a list of services, or a table of them with what is wanted of each.
//!
//! Whether such a service exists is not asked here: another file may declare it, now or later. Of circles only that of
//! a service with itself can be seen in one service.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::identity::ServiceId;
use crate::manifest::choice::{Choice, words};
use crate::manifest::code;
use crate::manifest::diagnostic::escape;
use crate::manifest::section::{Section, Text, describe};
use crate::manifest::spec::{Condition, Dependency, Spec};
use crate::manifest::suggest;

/// Where each service that is depended on is named.
pub(super) type Needs = Vec<(ServiceId, Range<usize>)>;

/// More than these nobody reads, and each costs something in every pass.
const MAX_DEPENDENCIES: usize = 256;

const KEYS: [&str; 2] = ["condition", "restart"];

/// Fills in `depends_on`.
pub(super) fn read(section: &mut Section<'_, '_, '_>, spec: &mut Spec) -> Needs {
    let mut needs = Needs::new();
    let Some(found) = section.find("depends_on") else { return needs };
    match found.1.get_ref() {
        DeValue::Array(_) => {
            for name in section.texts("depends_on").unwrap_or_default() {
                add(section, spec, &mut needs, &name, Dependency::PLAIN);
            }
        }
        DeValue::Table(entries) => {
            for (name, value) in entries {
                let name = Text { text: name.get_ref(), place: name.span() };
                let dependency = read_dependency(section, value);
                add(section, spec, &mut needs, &name, dependency);
            }
        }
        _ => section.wrong_type(found),
    }
    if needs.len() > MAX_DEPENDENCIES {
        let message = format!("it depends on {} services, and may on {MAX_DEPENDENCIES}", needs.len());
        section.problems.add(found.1.span(), code::OUT_OF_RANGE, message);
    }
    needs
}

fn add(
    section: &mut Section<'_, '_, '_>,
    spec: &mut Spec,
    needs: &mut Needs,
    name: &Text<'_>,
    dependency: Dependency,
) {
    let id = match name.text.split_once('/') {
        Some((project, name)) => ServiceId::new(project, name),
        None => ServiceId::new(spec.id.project(), name.text),
    };
    let place = name.place.clone();
    match id {
        Err(error) => {
            let message = format!("`{}` is not the name of a service: {error}", escape(name.text));
            let report = section.problems.add(place, code::BAD_NAME, message);
            report.help("write `name` for one of the same project, else `project/name`");
        }
        Ok(id) if id == spec.id => {
            let report = section.problems.add(place, code::DEPENDENCY_CYCLE, "it depends on itself");
            report.help("leave it out");
        }
        Ok(id) => {
            if spec.depends_on.insert(id.clone(), dependency).is_some() {
                let message = format!("`{}` is named twice in `depends_on`", escape(name.text));
                section.problems.add(place.clone(), code::CONFLICTING_KEYS, message).help("name it once");
            }
            needs.push((id, place));
        }
    }
}

/// A condition alone, or a table with it.
fn read_dependency(section: &mut Section<'_, '_, '_>, value: &Spanned<DeValue<'_>>) -> Dependency {
    match value.get_ref() {
        DeValue::String(_) => Dependency { condition: read_condition(section, value), ..Dependency::PLAIN },
        DeValue::Table(entries) => read_table(section, entries),
        other => {
            let message = format!("a dependency takes a condition or a table, this is {}", describe(other));
            let report = section.problems.add(value.span(), code::WRONG_TYPE, message);
            report.help("write \"ready\", or { condition = \"ready\", restart = true }");
            Dependency::PLAIN
        }
    }
}

fn read_table(section: &mut Section<'_, '_, '_>, entries: &DeTable<'_>) -> Dependency {
    let mut dependency = Dependency::PLAIN;
    for (key, value) in entries {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("condition", _) => dependency.condition = read_condition(section, value),
            ("restart", DeValue::Boolean(restart)) => dependency.restart = *restart,
            ("restart", other) => {
                let message = format!("`restart` takes true or false, this is {}", describe(other));
                section.problems.add(value.span(), code::WRONG_TYPE, message);
            }
            (word, _) => {
                let message = format!("there is no field `{}` in a dependency", escape(word));
                let report = section.problems.add(key.span(), code::UNKNOWN_KEY, message);
                report.help(match suggest::nearest(word, KEYS.into_iter()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("it takes {}", KEYS.join(", ")),
                });
            }
        }
    }
    dependency
}

fn read_condition(section: &mut Section<'_, '_, '_>, value: &Spanned<DeValue<'_>>) -> Condition {
    let words = words::<Condition>();
    let (code, message, word) = match value.get_ref() {
        DeValue::String(word) => match Condition::parse(word) {
            Some(condition) => return condition,
            None => (code::BAD_CHOICE, format!("`{}` is not a condition", escape(word)), word.as_ref()),
        },
        other => (code::WRONG_TYPE, format!("a condition is a string, this is {}", describe(other)), ""),
    };
    let nearest = suggest::nearest(word, words.iter().copied());
    section.problems.add(value.span(), code, message).help(match nearest {
        Some(meant) => format!("did you mean `{meant}`? It takes {}", words.join(", ")),
        None => format!("it takes {}", words.join(", ")),
    });
    Condition::Ready
}

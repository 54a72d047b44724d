//! Raw tables to checked services, with every problem of the file at once.
//!
//! The one place that makes a [`Spec`] of text. Called for each manifest file that is new or has changed;
//! pure, and total: no text makes it panic.

mod address;
mod command;
mod dependencies;
mod environment;
mod files;
mod health;
mod marks;
mod places;
mod ports;
mod secrets;
mod service;
mod sockets;
mod templates;

pub(super) use environment::is_variable_name;
pub use health::output_regex;
pub use places::Places;

use dependencies::Needs;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::code;
use super::diagnostic::{Lines, Problem, Span, escape};
use super::parse::{Parsed, parse};
use super::problems::Problems;
use super::section::describe;
use super::spec::Spec;
use super::suggest;
use super::unread::Unread;
use crate::identity::{DEFAULT_PROJECT, ServiceId};

/// What a manifest file declares, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// The services without a problem, in the order of the file. A file with a problem of
    /// [`Severity::Invalid`](super::Severity) is not accepted, whatever is here.
    pub services: Vec<Declared>,
    /// The services with a problem, as far as their names and projects can be told.
    pub rejected: Vec<ServiceId>,
    /// All problems, in the order of the file.
    pub problems: Vec<Problem>,
    /// What else it may declare, where it has problems.
    pub unread: Unread,
}

/// A service with the place of its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    pub spec: Spec,
    pub span: Span,
    /// Where each service that it depends on is named.
    pub needs: Vec<(ServiceId, Span)>,
}

/// Reads a manifest. A text of nothing but comments is valid and declares nothing.
pub fn load(text: &str) -> Loaded {
    let mut problems = Problems::new(text);
    let root = match parse(text, &mut problems) {
        Parsed::Whole(root) => read_root(&root, &mut problems),
        Parsed::Partial(root) => {
            read_root(&root, &mut problems);
            // What could be read of a torn text may lack a line that matters.
            Root::default()
        }
        Parsed::Nothing => Root::default(),
    };
    let is_torn = problems.is_torn();
    let problems = problems.finish();
    let unread = if problems.is_empty() { Unread::Nothing } else { Unread::of(text, is_torn) };
    Loaded { services: place(text, root.services), rejected: root.rejected, problems, unread }
}

/// A service with the place of its name in the text, and those of the names that it depends on.
struct Placed {
    spec: Spec,
    place: std::ops::Range<usize>,
    needs: Needs,
}

#[derive(Default)]
struct Root {
    services: Vec<Placed>,
    rejected: Vec<ServiceId>,
}

fn place(text: &str, mut services: Vec<Placed>) -> Vec<Declared> {
    if services.is_empty() {
        return Vec::new();
    }
    services.sort_by_key(|placed| placed.place.start);
    let mut lines = Lines::new(text);
    let mut needs = Vec::new();
    let mut declared: Vec<Declared> = Vec::with_capacity(services.len());
    for (index, placed) in services.into_iter().enumerate() {
        needs.extend(placed.needs.into_iter().map(|(service, place)| (place, index, service)));
        declared.push(Declared { spec: placed.spec, span: lines.locate(placed.place), needs: Vec::new() });
    }
    // They may stand after the name of a later service, and places are found in the order of the text.
    needs.sort_by_key(|(place, ..)| place.start);
    let mut lines = Lines::new(text);
    for (place, index, service) in needs {
        declared[index].needs.push((service, lines.locate(place)));
    }
    declared
}

fn read_root(root: &DeTable<'_>, problems: &mut Problems<'_>) -> Root {
    let mut found = Root::default();
    for (key, value) in root {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("service", DeValue::Table(declared)) => {
                found.services.reserve_exact(declared.len());
                for (name, value) in declared {
                    match read(name, value, problems) {
                        Some(placed) => found.services.push(placed),
                        None => found.rejected.extend(named(name.get_ref(), value.get_ref())),
                    }
                }
            }
            ("service", other) => {
                let message = format!("`service` is a table of services, this is {}", describe(other));
                problems
                    .add(value.span(), code::WRONG_TYPE, message)
                    .help("declare a service as `[service.NAME]`");
            }
            // Below a torn `[header` the keys of a service stand at the top, or are taken for its name.
            _ if problems.is_torn() => {}
            (word, value) => unknown_at_root(word, value, key.span(), problems),
        }
    }
    found
}

/// The identity of a service that has a problem.
fn named(name: &str, value: &DeValue<'_>) -> Option<ServiceId> {
    let project = match value.as_table().and_then(|table| table.get("project")) {
        Some(project) => project.get_ref().as_str()?,
        None => DEFAULT_PROJECT,
    };
    ServiceId::new(project, name).ok()
}

fn unknown_at_root(
    word: &str,
    value: &DeValue<'_>,
    place: std::ops::Range<usize>,
    problems: &mut Problems<'_>,
) {
    let is_misspelt = suggest::nearest(word, std::iter::once("service")).is_some();
    let message = format!("there is no field `{}` at the top of a manifest", escape(word));
    let report = problems.add(place, code::UNKNOWN_KEY, message);
    report.help(match value {
        _ if is_misspelt => "did you mean `service`? A service is declared as `[service.NAME]`".to_owned(),
        DeValue::Table(_) => format!("did you mean `[service.{}]`?", escape(word)),
        _ => "a manifest holds services, each declared as `[service.NAME]`".to_owned(),
    });
}

fn read(
    name: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    problems: &mut Problems<'_>,
) -> Option<Placed> {
    let DeValue::Table(table) = value.get_ref() else {
        let found = describe(value.get_ref());
        let message = format!("`service.{}` is a table, this is {found}", escape(name.get_ref()));
        let report = problems.add(value.span(), code::WRONG_TYPE, message);
        report.help("declare a service as `[service.NAME]`, with its fields below");
        return None;
    };
    problems.enter_service(name.get_ref());
    let before = problems.count();
    let (spec, needs) = service::read(name, table, problems);
    let is_good = problems.count() == before;
    problems.leave_service();
    is_good.then(|| Placed { spec, place: name.span(), needs })
}

#[cfg(test)]
mod tests;

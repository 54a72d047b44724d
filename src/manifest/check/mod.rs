//! Raw tables to checked services, with every problem of the file at once.
//!
//! The one place that makes a [`Spec`] of text. Called for each manifest file that is new or has changed;
//! pure, and total: no text makes it panic.

mod address;
mod command;
mod demand;
mod dependencies;
mod environment;
mod files;
mod fill;
mod health;
mod marks;
mod notify;
mod places;
mod ports;
mod secrets;
mod service;
mod sockets;
mod templates;
mod vars;

pub(super) use environment::is_variable_name;
pub use health::output_regex;
pub use places::Places;

use dependencies::Needs;
use fill::{Filling, Templates};
use templates::Holes;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use vars::Vars;

use super::code;
use super::compose::Template;
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
    /// Its templates without a problem, where nothing else of the text has one: for other files.
    pub templates: Vec<Template>,
    /// The templates that it uses and does not declare.
    pub borrowed: Vec<Borrowed>,
}

/// Where a service uses a template that its text does not declare. A problem of its own, which ends where
/// another file has the template: see [`compose`](crate::manifest::compose).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Borrowed {
    pub template: String,
    pub span: Span,
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
    let is_good = problems.iter().all(|problem| problem.code == code::NO_TEMPLATE);
    let borrowed = place_borrowed(text, root.borrowed);
    Loaded {
        services: place(text, root.services),
        rejected: root.rejected,
        borrowed,
        templates: if is_good { root.templates } else { Vec::new() },
        problems,
        unread,
    }
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
    templates: Vec<Template>,
    borrowed: Vec<(String, std::ops::Range<usize>)>,
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

fn place_borrowed(text: &str, mut borrowed: Vec<(String, std::ops::Range<usize>)>) -> Vec<Borrowed> {
    // Places are found in the order of the text.
    borrowed.sort_by_key(|(_, place)| place.start);
    let mut lines = Lines::new(text);
    let placed = borrowed.into_iter();
    placed.map(|(template, place)| Borrowed { template, span: lines.locate(place) }).collect()
}

fn read_root(root: &DeTable<'_>, problems: &mut Problems<'_>) -> Root {
    let mut found = Root::default();
    let templates = Templates::read(root, problems);
    for (key, value) in root {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("service", DeValue::Table(declared)) => {
                found.services.reserve_exact(declared.len());
                for (name, value) in declared {
                    match read(name, value, &templates, &mut found.borrowed, problems) {
                        Some(placed) => found.services.push(placed),
                        None => found.rejected.extend(named(name.get_ref(), value.get_ref(), &templates)),
                    }
                }
            }
            ("service", other) => {
                let message = format!("`service` is a table of services, this is {}", describe(other));
                problems
                    .add(value.span(), code::WRONG_TYPE, message)
                    .help("declare a service as `[service.NAME]`");
            }
            ("template", _) => {}
            // Below a torn `[header` the keys of a service stand at the top, or are taken for its name.
            _ if problems.is_torn() => {}
            (word, value) => unknown_at_root(word, value, key.span(), problems),
        }
    }
    found.templates = templates.for_others();
    found
}

/// The identity of a service that has a problem; `None` where a template that cannot be had may say.
fn named(name: &str, value: &DeValue<'_>, templates: &Templates<'_>) -> Option<ServiceId> {
    let project = match value.as_table().and_then(|table| table.get("project")) {
        Some(project) => project.get_ref().as_str()?.to_owned(),
        None => {
            value.as_table().map_or(Some(DEFAULT_PROJECT.to_owned()), |table| templates.project(table))?
        }
    };
    ServiceId::new(&project, name).ok()
}

fn unknown_at_root(
    word: &str,
    value: &DeValue<'_>,
    place: std::ops::Range<usize>,
    problems: &mut Problems<'_>,
) {
    let meant = suggest::nearest(word, ["service", "template"].into_iter());
    let message = format!("there is no field `{}` at the top of a manifest", escape(word));
    let report = problems.add(place, code::UNKNOWN_KEY, message);
    report.help(match value {
        _ if meant == Some("service") => {
            "did you mean `service`? A service is declared as `[service.NAME]`".to_owned()
        }
        _ if meant.is_some() => {
            "did you mean `template`? A template is declared as `[template.NAME]`".to_owned()
        }
        DeValue::Table(_) => format!("did you mean `[service.{}]`?", escape(word)),
        _ => "a manifest holds services, each declared as `[service.NAME]`".to_owned(),
    });
}

fn read(
    name: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    templates: &Templates<'_>,
    borrowed: &mut Vec<(String, std::ops::Range<usize>)>,
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
    let read = match templates.fill(name, table, borrowed, problems) {
        Filling::Not => Some(service::read(name, table, Holes::Filled(&Vars::default()), problems)),
        Filling::Done { table, vars } => Some(service::read(name, &table, Holes::Filled(&vars), problems)),
        Filling::Impossible => None,
    };
    let is_good = problems.count() == before;
    let placed = read.filter(|_| is_good).map(|(spec, mut needs)| {
        needs.iter_mut().for_each(|(_, place)| *place = problems.visible(place.clone()));
        Placed { spec, place: name.span(), needs }
    });
    problems.leave_service();
    placed
}

#[cfg(test)]
mod tests;

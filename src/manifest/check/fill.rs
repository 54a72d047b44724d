//! `[template.NAME]`, a service with holes, and the services that are made of one.
//!
//! A service with a `template` is made a table like any other, and read as one: the keys of both, those of
//! the service winning; tables key by key, one level deep, anything else as a whole, lists too. A `command`
//! brings its `shell`, and a health check of one type leaves nothing of another. Then the holes,
//! `{{vars.NAME}}`, are filled in, but in commands given as one text, which are split into words before.
//! What was filled in stands where its value does, in `vars`: there is what is to be mended.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::health;
use super::service;
use super::templates::Holes;
use super::vars::Vars;
use crate::identity::DEFAULT_PROJECT;
use crate::manifest::code;
use crate::manifest::compose::Template;
use crate::manifest::diagnostic::escape;
use crate::manifest::fields::{Kind, TABLES};
use crate::manifest::problems::Problems;
use crate::manifest::section::{Text, describe};
use crate::manifest::suggest;
use crate::manifest::template::{Piece, is_templated, pieces};

pub(super) const TEMPLATE: &str = "template";
pub(super) const VARS: &str = "vars";

/// Written out: it stands in the accepted text of every file that uses it.
const MAX_TEMPLATE_BYTES: usize = 64 * 1024;

/// What is wrong with a template whatever a service adds to it.
const OF_ITSELF: &[&str] = &[
    code::UNKNOWN_KEY,
    code::WRONG_TYPE,
    code::BAD_NAME,
    code::BAD_CHOICE,
    code::OUT_OF_RANGE,
    code::BAD_DURATION,
    code::DURATION_OUT_OF_RANGE,
    code::BAD_SIZE,
    code::BAD_SIGNAL,
    code::BAD_UMASK,
    code::BAD_USER,
    code::BAD_ENV_NAME,
    code::RESERVED_ENV,
    code::BAD_CHARACTER,
    code::EMPTY,
    code::BAD_COMMAND,
    code::BAD_REGEX,
    code::BAD_ATTRS,
    code::BAD_PATTERN,
    code::BAD_TEMPLATE,
    code::UNKNOWN_TEMPLATE,
    code::TEMPLATE_TOO_LARGE,
];

/// The templates of one text.
#[derive(Default)]
pub(super) struct Templates<'r> {
    /// `None`: it has a problem, which is told of the template, and not of each service again.
    by_name: BTreeMap<&'r str, Option<Blank<'r>>>,
}

/// A template that can be filled in.
struct Blank<'r> {
    table: &'r DeTable<'r>,
    vars: Vars<'r>,
    holes: BTreeSet<String>,
    written: Template,
}

/// What becomes of a service.
pub(super) enum Filling<'a> {
    /// It has no template and no `vars`.
    Not,
    Done {
        table: DeTable<'a>,
        vars: Vars<'a>,
    },
    /// Why is told.
    Impossible,
}

impl<'r> Templates<'r> {
    pub(super) fn read(root: &'r DeTable<'r>, problems: &mut Problems<'_>) -> Self {
        let mut templates = Self::default();
        let Some(value) = root.get(TEMPLATE) else { return templates };
        let DeValue::Table(declared) = value.get_ref() else {
            let message =
                format!("`template` is a table of templates, this is {}", describe(value.get_ref()));
            let report = problems.add(value.span(), code::WRONG_TYPE, message);
            report.help("declare a template as `[template.NAME]`");
            return templates;
        };
        for (name, value) in declared {
            let before = problems.count();
            let blank = Blank::read(name, value, problems);
            templates.by_name.insert(name.get_ref(), blank.filter(|_| problems.count() == before));
        }
        templates
    }

    /// What other files may use.
    pub(super) fn for_others(self) -> Vec<Template> {
        self.by_name.into_values().flatten().map(|blank| blank.written).collect()
    }

    /// The project of a service that does not say itself; `None` where its template may, and cannot be had.
    pub(super) fn project(&self, service: &DeTable<'_>) -> Option<String> {
        let Some(template) = service.get(TEMPLATE) else { return Some(DEFAULT_PROJECT.to_owned()) };
        let blank = self.by_name.get(template.get_ref().as_str()?)?.as_ref()?;
        let Some(project) = blank.table.get("project") else { return Some(DEFAULT_PROJECT.to_owned()) };
        let vars = Vars::read(service, &mut Problems::new("")).or(&blank.vars);
        Some(vars.fill(project.get_ref().as_str()?))
    }

    /// Makes the table of a service; in `borrowed` the template that it names and that is not here.
    pub(super) fn fill<'a>(
        &'a self,
        name: &Spanned<Cow<'_, str>>,
        own: &DeTable<'a>,
        borrowed: &mut Vec<(String, Range<usize>)>,
        problems: &mut Problems<'_>,
    ) -> Filling<'a> {
        if own.get(TEMPLATE).is_none() && own.get(VARS).is_none() {
            return Filling::Not;
        }
        let before = problems.count();
        let vars = Vars::read(own, problems);
        let (blank, place) = match own.get(TEMPLATE) {
            None => (None, name.span()),
            Some(value) => match self.named(value, borrowed, problems) {
                Some(blank) => (Some(blank), value.span()),
                None => return Filling::Impossible,
            },
        };
        problems.enter_template(place.clone());
        let mut known = holes_of(own);
        let mut table = DeTable::new();
        if let Some(blank) = blank {
            known.extend(blank.holes.iter().cloned());
            table = blank.table.clone();
            if !problems.afford_filling(weight(&table)) {
                too_large(place, problems);
                return Filling::Impossible;
            }
        }
        merge(&mut table, own);
        let meant = check_known(&vars, &known, problems);
        let vars = match blank {
            Some(blank) => vars.or(&blank.vars),
            None => vars,
        };
        let asked_at = own.get(VARS).map_or(place, Spanned::span);
        let mut filler = Filler { vars: &vars, asked_at, missing: BTreeSet::new(), is_whole: true, problems };
        filler.service(&mut table);
        let Filler { missing, is_whole, asked_at, .. } = filler;
        for name in missing.difference(&meant) {
            let message = format!("`vars.{}` is not given", escape(name));
            let report = problems.add(asked_at.clone(), code::MISSING_VAR, message);
            report.help(format!("give it, like `vars = {{ {} = \"…\" }}`", escape(name)));
        }
        if problems.count() > before || !is_whole || !missing.is_empty() {
            return Filling::Impossible;
        }
        Filling::Done { table, vars }
    }

    fn named(
        &self,
        value: &Spanned<DeValue<'_>>,
        borrowed: &mut Vec<(String, Range<usize>)>,
        problems: &mut Problems<'_>,
    ) -> Option<&Blank<'r>> {
        let DeValue::String(name) = value.get_ref() else {
            let message =
                format!("`template` takes the name of a template, this is {}", describe(value.get_ref()));
            problems.add(value.span(), code::WRONG_TYPE, message);
            return None;
        };
        match self.by_name.get(name.as_ref()) {
            Some(blank) => blank.as_ref(),
            None => {
                borrowed.push((name.to_string(), value.span()));
                let message = format!("there is no template `{}`", escape(name));
                let report = problems.add(value.span(), code::NO_TEMPLATE, message);
                report.help_with(|| {
                    Some(match suggest::nearest(name, self.by_name.keys().copied()) {
                        Some(meant) => format!("did you mean `{}`?", escape(meant)),
                        None => format!("declare it as `[template.{}]`", escape(name)),
                    })
                });
                None
            }
        }
    }
}

impl<'r> Blank<'r> {
    fn read(
        name: &'r Spanned<Cow<'r, str>>,
        value: &'r Spanned<DeValue<'r>>,
        problems: &mut Problems<'_>,
    ) -> Option<Self> {
        service::is_name(&Text { text: name.get_ref(), place: name.span() }, "template", problems);
        let DeValue::Table(table) = value.get_ref() else {
            let found = describe(value.get_ref());
            let message = format!("`template.{}` is a table, this is {found}", escape(name.get_ref()));
            let report = problems.add(value.span(), code::WRONG_TYPE, message);
            report.help("declare a template as `[template.NAME]`, with its fields below");
            return None;
        };
        if let Some((key, _)) = table.get_key_value(TEMPLATE) {
            let message = "a template is not made of another one";
            problems.add(key.span(), code::UNKNOWN_KEY, message).help("name a template in a service alone");
        }
        let vars = Vars::read(table, problems);
        let holes = holes_of(table);
        check_known(&vars, &holes, problems);
        check_itself(name.span(), table, problems);
        let Some(written) = Template::of(name.get_ref(), table, MAX_TEMPLATE_BYTES) else {
            let message = format!("a template has at most {MAX_TEMPLATE_BYTES} bytes");
            problems.add(name.span(), code::TEMPLATE_TOO_LARGE, message);
            return None;
        };
        Some(Self { table, vars, holes, written })
    }
}

/// Tells what is wrong with a template before any service is made of it: not of values with holes, nor of what a
/// service may add.
fn check_itself(place: Range<usize>, table: &DeTable<'_>, problems: &mut Problems<'_>) {
    let name = Spanned::new(place, Cow::Borrowed(TEMPLATE));
    let mut aside = problems.aside();
    service::read(&name, table, Holes::Open, &mut aside);
    let open = RefCell::new(Vec::new());
    each_text(table, &mut |text, place| {
        if pieces(text).any(|(_, piece)| matches!(piece, Piece::Var(_))) {
            open.borrow_mut().push(place);
        }
    });
    let open = open.into_inner();
    problems.adopt(aside, |place, code| {
        OF_ITSELF.contains(&code) && !open.iter().any(|open| open.start < place.end && place.start < open.end)
    });
}

/// Reports what is given for no hole; returns the holes that were meant.
fn check_known(vars: &Vars<'_>, holes: &BTreeSet<String>, problems: &mut Problems<'_>) -> BTreeSet<String> {
    let mut all_meant = BTreeSet::new();
    for (name, var) in vars.iter().filter(|(name, _)| !holes.contains(*name)) {
        let message = format!("nothing is filled in by `vars.{}`", escape(name));
        let not_given = holes.iter().map(String::as_str).filter(|hole| vars.get(hole).is_none());
        let meant = suggest::nearest(name, not_given);
        let report = problems.add(var.key_place.clone(), code::UNKNOWN_VAR, message);
        report.help(match meant {
            Some(meant) => format!("did you mean `{}`?", escape(meant)),
            None if holes.is_empty() => format!("leave it out, or use it as `{{{{vars.{name}}}}}`"),
            None => {
                let holes: Vec<_> = holes.iter().map(|hole| escape(hole)).take(20).collect();
                format!("leave it out; there are {}", holes.join(", "))
            }
        });
        all_meant.extend(meant.map(str::to_owned));
    }
    all_meant
}

/// Puts the keys of a service over those of its template.
fn merge<'a>(table: &mut DeTable<'a>, own: &DeTable<'a>) {
    table.remove(VARS);
    forget_shell(table, own);
    for (key, value) in own.iter().filter(|(key, _)| !matches!(key.get_ref().as_ref(), TEMPLATE | VARS)) {
        let below = match table.remove(key).map(Spanned::into_inner) {
            Some(DeValue::Table(below)) => Some(below),
            Some(_) | None => None,
        };
        let value = match (below, value.get_ref()) {
            (Some(mut below), DeValue::Table(entries)) => {
                forget_shell(&mut below, entries);
                if key.get_ref() == "health" {
                    health::forget_other_checks(&mut below, entries);
                }
                for (key, entry) in entries {
                    below.remove(key);
                    below.insert(key.clone(), entry.clone());
                }
                Spanned::new(value.span(), DeValue::Table(below))
            }
            _ => value.clone(),
        };
        table.insert(key.clone(), value);
    }
}

/// How a command is read goes with the command.
fn forget_shell(table: &mut DeTable<'_>, own: &DeTable<'_>) {
    if own.get("command").is_some() {
        table.remove("shell");
    }
}

fn holes_of(table: &DeTable<'_>) -> BTreeSet<String> {
    let mut holes = BTreeSet::new();
    each_text(table, &mut |text, _| {
        for (_, piece) in pieces(text) {
            if let Piece::Var(name) = piece {
                holes.insert(name.to_owned());
            }
        }
    });
    holes
}

/// Every text of a service but those of `vars`.
fn each_text(table: &DeTable<'_>, see: &mut impl FnMut(&str, Range<usize>)) {
    fn within(value: &Spanned<DeValue<'_>>, see: &mut impl FnMut(&str, Range<usize>)) {
        match value.get_ref() {
            DeValue::String(text) if is_templated(text) => see(text, value.span()),
            DeValue::Array(items) => items.iter().for_each(|item| within(item, see)),
            DeValue::Table(entries) => entries.values().for_each(|item| within(item, see)),
            _ => {}
        }
    }
    let values = table.iter().filter(|(key, _)| key.get_ref() != VARS);
    values.for_each(|(_, value)| within(value, see));
}

/// What a copy costs, in bytes and roughly.
fn weight(table: &DeTable<'_>) -> usize {
    const NODE: usize = 100;
    fn of(value: &DeValue<'_>) -> usize {
        NODE + match value {
            DeValue::String(text) => text.len(),
            DeValue::Array(items) => items.iter().map(|item| of(item.get_ref())).sum(),
            DeValue::Table(entries) => weight(entries),
            _ => 0,
        }
    }
    table.iter().map(|(key, value)| key.get_ref().len() + of(value.get_ref())).sum()
}

fn too_large(place: Range<usize>, problems: &mut Problems<'_>) {
    let message = "the templates of this file fill in to more than is read";
    problems.add(place, code::TEMPLATE_TOO_LARGE, message).help("divide the file into several");
}

struct Filler<'f, 'a, 'p, 't> {
    vars: &'f Vars<'a>,
    /// Where what is missing is told, and what is too large.
    asked_at: Range<usize>,
    missing: BTreeSet<String>,
    is_whole: bool,
    problems: &'p mut Problems<'t>,
}

impl<'a> Filler<'_, 'a, '_, '_> {
    fn service(&mut self, table: &mut DeTable<'a>) {
        let fields = |name: &str| TABLES.iter().find(|table| table.name == name);
        for (key, value) in table.iter_mut() {
            let word: &str = key.get_ref();
            let below = fields(word).filter(|_| value.get_ref().is_table());
            match (below, value.get_mut()) {
                (Some(below), DeValue::Table(entries)) => {
                    for (key, entry) in entries.iter_mut() {
                        self.field(below.field(key.get_ref()).map(|field| &field.kind), entry);
                    }
                }
                _ => self.field(fields("").and_then(|of| of.field(word)).map(|field| &field.kind), value),
            }
        }
    }

    fn field(&mut self, kind: Option<&Kind>, value: &mut Spanned<DeValue<'a>>) {
        // Words are split before they are filled in; that nothing is missing is looked at here all the same.
        let is_line = matches!(kind, Some(Kind::Command { .. })) && value.get_ref().is_str();
        let keeps_type = kind.is_some_and(Kind::takes_other_than_text);
        self.value(value, is_line, keeps_type);
    }

    /// Recursive: the depth of a text is bounded before it is parsed.
    fn value(&mut self, value: &mut Spanned<DeValue<'a>>, is_line: bool, keeps_type: bool) {
        let filled = match value.get_mut() {
            DeValue::Array(items) => {
                items.iter_mut().for_each(|item| self.value(item, is_line, keeps_type));
                return;
            }
            DeValue::Table(entries) => {
                entries.iter_mut().for_each(|(_, entry)| self.value(entry, is_line, keeps_type));
                return;
            }
            DeValue::String(text) if is_templated(text) => self.text(text, keeps_type),
            _ => return,
        };
        if let Some(filled) = filled.filter(|_| !is_line) {
            *value = filled;
        }
    }

    /// `None` where there is no hole, or where it cannot be filled in.
    fn text(&mut self, text: &str, keeps_type: bool) -> Option<Spanned<DeValue<'a>>> {
        let mut place = None;
        let (mut bytes, mut is_good) = (0, true);
        for (part, piece) in pieces(text) {
            let Piece::Var(name) = piece else {
                bytes += part.len();
                continue;
            };
            match self.vars.get(name) {
                Some(var) if keeps_type && part.len() == text.len() => return Some(var.value.clone()),
                Some(var) => {
                    bytes += var.text.len();
                    place.get_or_insert_with(|| var.value.span());
                }
                None => {
                    self.missing.insert(name.to_owned());
                    is_good = false;
                }
            }
        }
        let place = place.filter(|_| is_good)?;
        if !self.problems.afford_filling(bytes) {
            if std::mem::take(&mut self.is_whole) {
                too_large(self.asked_at.clone(), self.problems);
            }
            return None;
        }
        Some(Spanned::new(place, DeValue::String(self.vars.fill(text).into())))
    }
}

#[cfg(test)]
mod tests;

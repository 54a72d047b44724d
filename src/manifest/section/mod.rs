//! Reads one table of a manifest by the table of fields: types, ranges, unknown keys.
//!
//! Each reader returns what is there and good, and reports what is there and bad; `None` means that the
//! default stands. A service with a problem is not used, so it does not matter what stands in for a bad value.

mod values;
mod wording;

pub(super) use values::to_i64;
pub(super) use wording::describe;

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use wording::{quoted, type_help};

use super::choice::Choice;
use super::code;
use super::diagnostic::escape;
use super::fields::{Field, Kind, Table, table};
use super::problems::Problems;
use super::suggest;

/// A text with its place in the file.
#[derive(Clone)]
pub(super) struct Text<'a> {
    pub(super) text: &'a str,
    /// Quotes included.
    pub(super) place: Range<usize>,
}

impl Text<'_> {
    /// Where a part of the text stands in the file: the whole of it if it is written with escapes. Reads all of the
    /// text: for many parts of one, see [`Text::parts`].
    pub(super) fn part(&self, file: &str, part: Range<usize>) -> Range<usize> {
        self.parts(file)(part)
    }

    /// As [`Text::part`], having read the text once.
    pub(super) fn parts(&self, file: &str) -> impl Fn(Range<usize>) -> Range<usize> {
        let raw = file.get(self.place.clone()).unwrap_or_default();
        let quoted = raw.len() >= 2 && raw.as_bytes()[0] == raw.as_bytes()[raw.len() - 1];
        let is_literal = quoted && raw.get(1..raw.len() - 1) == Some(self.text);
        let whole = self.place.clone();
        move |part| match is_literal {
            true => whole.start + 1 + part.start..whole.start + 1 + part.end,
            false => whole.clone(),
        }
    }
}

/// What a text may contain beside characters that are seen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    OneLine,
    /// Tabs and line feeds.
    Lines,
}

pub(super) struct Section<'a, 'p, 't> {
    pub(super) problems: &'p mut Problems<'t>,
    table: &'static Table,
    values: &'a DeTable<'a>,
    /// Where the table itself is declared: for what is missing from it.
    pub(super) place: Range<usize>,
}

type Found<'a> = (&'static Field, &'a Spanned<DeValue<'a>>);

impl<'a, 'p, 't> Section<'a, 'p, 't> {
    /// Opens the table `name` (`""` is the service itself) and reports its unknown keys.
    ///
    /// `tables` are the keys that hold a table with a section of its own.
    pub(super) fn open(
        problems: &'p mut Problems<'t>,
        name: &str,
        values: &'a DeTable<'a>,
        place: Range<usize>,
        tables: &[&'static str],
    ) -> Self {
        let table = table(name);
        for (key, _) in values {
            let word: &str = key.get_ref();
            if tables.contains(&word) || table.field(word).is_some() {
                continue;
            }
            let shown = match name {
                "" => escape(word),
                _ => format!("{name}.{}", escape(word)),
            };
            let report = problems.add(key.span(), code::UNKNOWN_KEY, format!("there is no field `{shown}`"));
            report.help_with(|| suggest::field(table, tables, word));
        }
        Self { problems, table, values, place }
    }

    /// The value of a field of class whatever, unread.
    pub(super) fn find(&self, key: &str) -> Option<Found<'a>> {
        self.values.get(key).map(|value| (self.field(key), value))
    }

    /// True of a key that holds a table with a section of its own.
    pub(super) fn has_table(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|value| matches!(value.get_ref(), DeValue::Table(_)))
    }

    /// Where the value of a key stands; of one that is not given, the table.
    pub(super) fn place_of(&self, key: &str) -> Range<usize> {
        self.find(key).map_or(self.place.clone(), |(_, value)| value.span())
    }

    pub(super) fn wrong_type(&mut self, (field, value): Found<'a>) {
        let found = describe(value.get_ref());
        let message = format!("`{}` takes {}, this is {found}", field.path, field.kind.expected());
        let report = self.problems.add(value.span(), code::WRONG_TYPE, message);
        if let Some(help) = type_help(field, value.get_ref()) {
            report.help(help);
        }
    }

    /// A string, free of control characters.
    pub(super) fn text(&mut self, key: &str) -> Option<Text<'a>> {
        let found = self.find(key)?;
        let (field, value) = found;
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(found);
            return None;
        };
        let layout = match field.kind {
            Kind::Text { lines: true, .. } => Layout::Lines,
            _ => Layout::OneLine,
        };
        let text = Text { text, place: value.span() };
        self.is_clean(field.path, &text, layout).then_some(text)
    }

    /// As [`Section::text`], and not empty.
    pub(super) fn filled_text(&mut self, key: &str) -> Option<Text<'a>> {
        let text = self.text(key)?;
        if text.text.trim().is_empty() {
            let message = format!("`{}` is empty", self.path(key));
            self.problems.add(text.place, code::EMPTY, message);
            return None;
        }
        Some(text)
    }

    pub(super) fn path(&self, key: &str) -> &'static str {
        self.field(key).path
    }

    fn field(&self, key: &str) -> &'static Field {
        self.table.field(key).expect("every key that is read is in the table of fields")
    }

    /// False, and reported, if the text contains what no process could be given or no terminal should show.
    pub(super) fn is_clean(&mut self, path: &str, text: &Text<'_>, layout: Layout) -> bool {
        let is_bad = |c: char| c.is_control() && !(layout == Layout::Lines && matches!(c, '\t' | '\n'));
        let Some((at, bad)) = text.text.char_indices().find(|(_, c)| is_bad(*c)) else { return true };
        let place = text.part(self.problems.text(), at..at + bad.len_utf8());
        let message = format!("`{path}` contains the control character {}", bad.escape_unicode());
        let report = self.problems.add(place, code::BAD_CHARACTER, message);
        report.help(match (bad, layout) {
            ('\0', _) => "no argument, path or variable of a process can contain it: leave it out",
            ('\r', Layout::Lines) => "save the file with line feeds alone",
            ('\n' | '\t', _) => "write it on one line",
            _ => "leave it out",
        });
        false
    }

    pub(super) fn choice<T: Choice>(&mut self, key: &str) -> Option<T> {
        let text = self.text(key)?;
        if let Some(value) = T::parse(text.text) {
            return Some(value);
        }
        let words = super::choice::words::<T>();
        let message = format!("`{}` is not a value of `{}`", escape(text.text), self.path(key));
        let nearest = suggest::nearest(text.text, words.iter().copied());
        let report = self.problems.add(text.place, code::BAD_CHOICE, message);
        report.help(match nearest {
            Some(word) => format!("did you mean `{word}`? It takes {}", words.join(", ")),
            None => format!("it takes {}", words.join(", ")),
        });
        None
    }

    /// The items of a list of strings; those that are none are reported and left out.
    pub(super) fn texts(&mut self, key: &str) -> Option<Vec<Text<'a>>> {
        let found = self.find(key)?;
        let (field, value) = found;
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(found);
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            let DeValue::String(text) = item.get_ref() else {
                self.wrong_item(field, item);
                continue;
            };
            texts.push(Text { text, place: item.span() });
        }
        Some(texts)
    }

    fn wrong_item(&mut self, field: &Field, item: &Spanned<DeValue<'_>>) {
        let message = format!(
            "`{}` takes {}, this item is {}",
            field.path,
            field.kind.expected(),
            describe(item.get_ref())
        );
        let report = self.problems.add(item.span(), code::WRONG_TYPE, message);
        if let Some(quoted) = quoted(item.get_ref()) {
            report.help(format!("write it as {quoted}"));
        }
    }

    /// The entries of a table of strings; those that are none are reported and left out.
    pub(super) fn text_table(&mut self, key: &str) -> Vec<(Text<'a>, Text<'a>)> {
        let Some(found) = self.find(key) else { return Vec::new() };
        let (field, value) = found;
        let DeValue::Table(entries) = value.get_ref() else {
            self.wrong_type(found);
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(entries.len());
        for (key, item) in entries {
            let DeValue::String(text) = item.get_ref() else {
                self.wrong_item(field, item);
                continue;
            };
            let key = Text { text: key.get_ref(), place: key.span() };
            texts.push((key, Text { text, place: item.span() }));
        }
        texts
    }
}

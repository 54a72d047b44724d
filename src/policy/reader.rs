//! Reads tables of TOML with positions: every key that is asked for, and a problem for every other.
//!
//! Pure. Used by `parse` alone; a value that cannot be read counts as not given and is a problem.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::code;
use crate::manifest::{Problem, Span, escape, nearest, parse_duration, parse_size};

type Value<'t> = Spanned<DeValue<'t>>;

/// What is wrong with one value.
pub(super) struct Fault {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Fault {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Collects problems of one text.
pub(super) struct Reader<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, problems: Vec::new() }
    }

    pub(super) fn add(&mut self, place: Range<usize>, fault: Fault) {
        let mut problem = Problem::new(fault.code, fault.message).at(Span::locate(self.text, place));
        problem.help = fault.help;
        self.problems.push(problem);
    }

    /// In the order of the text.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.span);
        self.problems
    }
}

/// One table while it is read. [`Section::finish`] reports what nobody asked for.
pub(super) struct Section<'r, 't, 'v> {
    reader: &'r mut Reader<'t>,
    /// As in the file, `policy.caps`; empty for the top.
    name: &'static str,
    table: &'v DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'r, 't, 'v> Section<'r, 't, 'v> {
    pub(super) fn new(reader: &'r mut Reader<'t>, name: &'static str, table: &'v DeTable<'t>) -> Self {
        Self { reader, name, table, known: Vec::new() }
    }

    fn value(&mut self, key: &'static str) -> Option<&'v Value<'t>> {
        self.known.push(key);
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// The value of `key`, if it is given and can be read.
    pub(super) fn get<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&DeValue<'t>) -> Result<T, Fault>,
    ) -> Option<T> {
        let value = self.value(key)?;
        read(value.get_ref()).map_err(|fault| self.reader.add(value.span(), fault)).ok()
    }

    /// The elements of the array at `key` that can be read.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&DeValue<'t>) -> Result<T, Fault>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.reader.add(value.span(), wrong_type("an array", value.get_ref()));
            return None;
        };
        let mut list = Vec::with_capacity(array.len());
        for element in array.iter() {
            match read(element.get_ref()) {
                Ok(read) => list.push(read),
                Err(fault) => self.reader.add(element.span(), fault),
            }
        }
        Some(list)
    }

    /// Reads the table at `key`, if there is one.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        name: &'static str,
        read: impl FnOnce(&mut Section<'_, 't, 'v>) -> T,
    ) -> Option<T> {
        let value = self.value(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.reader.add(value.span(), wrong_type("a table", value.get_ref()));
            return None;
        };
        let mut section = Section::new(self.reader, name, table);
        let read = read(&mut section);
        section.finish();
        Some(read)
    }

    /// A problem at the value of `key`.
    pub(super) fn fault(&mut self, key: &str, fault: Fault) {
        let place = self.table.iter().find(|(name, _)| name.get_ref() == key);
        self.reader.add(place.map_or(0..0, |(_, value)| value.span()), fault);
    }

    pub(super) fn finish(self) {
        for (key, _) in self.table.iter().filter(|(key, _)| !self.known.contains(&key.get_ref().as_ref())) {
            let word = key.get_ref();
            let whole = match self.name {
                "" => escape(word),
                name => format!("{name}.{}", escape(word)),
            };
            let fault = Fault::new(code::UNKNOWN_KEY, format!("there is no key `{whole}`"));
            let help = match nearest(&word.to_ascii_lowercase(), self.known.iter().copied()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("the keys here are {}", self.known.join(", ")),
            };
            self.reader.add(key.span(), fault.help(help));
        }
    }
}

pub(super) fn wrong_type(wanted: &str, found: &DeValue<'_>) -> Fault {
    Fault::new(code::WRONG_TYPE, format!("expected {wanted}, found {}", found.type_str()))
}

pub(super) fn text(value: &DeValue<'_>) -> Result<String, Fault> {
    value.as_str().map(str::to_owned).ok_or_else(|| wrong_type("a string", value))
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Fault> {
    value.as_bool().ok_or_else(|| wrong_type("true or false", value))
}

pub(super) fn count(value: &DeValue<'_>) -> Result<u64, Fault> {
    let number = value.as_integer().ok_or_else(|| wrong_type("an integer", value))?;
    u64::from_str_radix(number.as_str(), number.radix())
        .map_err(|_| Fault::new(code::OUT_OF_RANGE, "it must be 0 or more, and fit 64 bits"))
}

/// From 0 to 1.
pub(super) fn fraction(value: &DeValue<'_>) -> Result<f64, Fault> {
    let number = match value {
        DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
        DeValue::Integer(number) => number.as_str().parse::<f64>().ok(),
        _ => return Err(wrong_type("a number", value)),
    };
    number
        .filter(|number| (0.0..=1.0).contains(number))
        .ok_or_else(|| Fault::new(code::OUT_OF_RANGE, "a fraction is from 0 to 1"))
}

pub(super) fn duration(value: &DeValue<'_>) -> Result<Duration, Fault> {
    let text = value.as_str().ok_or_else(|| wrong_type("a duration", value).help("write `\"10s\"`"))?;
    parse_duration(text).map_err(|error| {
        Fault::new(code::BAD_DURATION, format!("`{}` is not a duration: {error}", escape(text)))
            .help("a number and a unit: `250ms`, `10s`, `4h`, `7d`")
    })
}

/// Like [`duration`], and not zero.
pub(super) fn positive_duration(value: &DeValue<'_>) -> Result<Duration, Fault> {
    let duration = duration(value)?;
    if duration.is_zero() {
        Err(Fault::new(code::OUT_OF_RANGE, "it must be more than 0"))
    } else {
        Ok(duration)
    }
}

/// Bytes, from `10MiB` or `500kB`; not zero.
pub(super) fn size(value: &DeValue<'_>) -> Result<u64, Fault> {
    let text = value.as_str().ok_or_else(|| wrong_type("a size", value).help("write `\"10MiB\"`"))?;
    let not_a_size = |error: String| {
        Fault::new(code::BAD_SIZE, format!("`{}` is not a size: {error}", escape(text)))
            .help("a whole number and a unit: `512KiB`, `10MiB`, `1GiB`")
    };
    match parse_size(text) {
        Ok(0) => Err(not_a_size("it must be more than 0".to_owned())),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(not_a_size(error)),
    }
}

/// One of `choices`, by its word.
pub(super) fn choice<T: Copy>(choices: &[(&'static str, T)]) -> impl Fn(&DeValue<'_>) -> Result<T, Fault> {
    move |value| {
        let text = value.as_str().ok_or_else(|| wrong_type("a string", value))?;
        choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
            Fault::new(code::BAD_CHOICE, format!("`{}` is not a choice", escape(text)))
                .help(format!("it is one of {}", words.join(", ")))
        })
    }
}

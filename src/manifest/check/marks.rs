//! Where the values of a service stand, for problems that show only once all of it is read.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Looks places up when they are needed, which is hardly ever.
pub(super) struct Marks<'a> {
    /// The place of the service's name.
    pub(super) service: Range<usize>,
    pub(super) table: &'a DeTable<'a>,
}

impl Marks<'_> {
    /// Of the field at `path`, or of what stands in its place: the path of a health check in short form.
    pub(super) fn of(&self, path: &str) -> Range<usize> {
        let (first, below) = path.split_once('.').map_or((path, None), |(table, key)| (table, Some(key)));
        let Some(value) = self.table.get(first) else { return self.service.clone() };
        match (value.get_ref(), below) {
            (DeValue::Table(values), Some(key)) => values.get(key).unwrap_or(value).span(),
            _ => value.span(),
        }
    }

    /// Of the value of a variable in `env`, whose name may contain dots.
    pub(super) fn of_variable(&self, key: &str) -> Range<usize> {
        match self.table.get("env").map(|env| env.get_ref()) {
            Some(DeValue::Table(values)) => {
                values.get(key).map_or_else(|| self.service.clone(), |v| v.span())
            }
            _ => self.service.clone(),
        }
    }
}

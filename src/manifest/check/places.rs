//! Where a field of a service stands, for what is found wrong with it after it was read: under the policy, on this
//! machine.
//!
//! Reads the text again, once, and only if there is something to place.

use std::cell::{Cell, OnceCell};

use toml::de::{DeTable, DeValue};

use super::marks::Marks;
use crate::manifest::diagnostic::Span;
use crate::manifest::problems::MAX_LISTED;

/// The fields of one text that has no problem of its own.
#[derive(Debug)]
pub struct Places<'t> {
    text: &'t str,
    root: OnceCell<Option<DeTable<'t>>>,
    /// A hostile text has a refusal in each of its fields, and each place costs a look at the text.
    left: Cell<usize>,
}

impl<'t> Places<'t> {
    pub fn of(text: &'t str) -> Self {
        Self { text, root: OnceCell::new(), left: Cell::new(MAX_LISTED) }
    }

    /// The value of the field at `path` (`command`, `env.KEY`) of the service of this name; or the name, where the
    /// field is not given. `None` where nobody would read so far, and for what is not there.
    pub fn find(&self, service: &str, path: &str) -> Option<Span> {
        self.left.set(self.left.get().checked_sub(1)?);
        let root = self.root.get_or_init(|| DeTable::parse(self.text).ok().map(toml::Spanned::into_inner));
        let DeValue::Table(services) = root.as_ref()?.get("service")?.get_ref() else { return None };
        let (name, declared) = services.get_key_value(service)?;
        let DeValue::Table(table) = declared.get_ref() else { return None };
        let marks = Marks { service: name.span(), table };
        Some(Span::locate(self.text, self.in_template(&marks, path).unwrap_or_else(|| marks.of(path))))
    }

    /// Of what a service has from its template: there, or at its name where that is in another file.
    fn in_template(&self, service: &Marks<'_>, path: &str) -> Option<std::ops::Range<usize>> {
        let named = service.table.get("template").filter(|_| service.of(path) == service.service)?;
        let templates =
            self.root.get()?.as_ref()?.get("template").and_then(|templates| templates.get_ref().as_table());
        let template = templates.and_then(|templates| templates.get_key_value(named.get_ref().as_str()?));
        let table = template.and_then(|(_, template)| template.get_ref().as_table());
        let Some((template, table)) = template.zip(table) else { return Some(named.span()) };
        let marks = Marks { service: template.0.span(), table };
        Some(marks.of(path)).filter(|place| *place != marks.service).or(Some(named.span()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_at_its_value_and_what_is_missing_at_the_name() {
        let text = "# x\n[service.web]\ncommand = ['a']\nenv = { 'A.B' = '1' }\nhealth.command = ['b']\n";
        let places = Places::of(text);
        let found = |path| places.find("web", path).map(|span| &text[span.start..span.end]);
        assert_eq!(found("command"), Some("['a']"));
        assert_eq!(found("env.A.B"), Some("'1'"));
        assert_eq!(found("health.command"), Some("['b']"));
        assert_eq!(found("ttl"), Some("web"));
        assert_eq!(places.find("api", "command"), None);
    }

    #[test]
    fn places_are_not_looked_up_without_end() {
        let places = Places::of("[service.web]\ncommand = ['a']\n");
        let found = (0..2 * MAX_LISTED).filter(|_| places.find("web", "command").is_some());
        assert_eq!(found.count(), MAX_LISTED);
    }

    #[test]
    fn what_a_template_gives_is_found_there_or_where_it_is_named() {
        let text = "[template.t]\ncommand = ['a']\n[service.web]\ntemplate = 't'\n[service.api]\ntemplate = 'u'\nttl = '1h'\n";
        let places = Places::of(text);
        let found = |name, path| places.find(name, path).map(|span| &text[span.start..span.end]);
        assert_eq!(found("web", "command"), Some("['a']"));
        assert_eq!(found("web", "ttl"), Some("'t'"));
        assert_eq!(found("api", "command"), Some("'u'"));
        assert_eq!(found("api", "ttl"), Some("'1h'"));
    }
}

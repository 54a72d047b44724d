//! Texts that use templates of other files, made whole: the text as it stands, and below it the templates.
//!
//! What is accepted is such a text: it declares the same services whatever becomes of the files that its
//! templates were in. A template is written out by its values alone, so that comments and layout of its file
//! change nothing.

use toml::de::{DeTable, DeValue};

use super::section::to_i64;

/// Parts a text from the templates of other files.
const MARK: &str = "\n# Templates of other files, as they were when this text was accepted.\n";

/// A template without a problem, for the services of other files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub name: String,
    /// `[template.NAME]` with its keys in order.
    text: String,
}

impl Template {
    /// `None` if it is larger than `max_bytes`.
    pub(super) fn of(name: &str, table: &DeTable<'_>, max_bytes: usize) -> Option<Self> {
        let mut text = format!("[template.{}]\n", quote(name));
        for (key, value) in table {
            text.push_str(&quote(key.get_ref()));
            text.push_str(" = ");
            write(&mut text, value.get_ref());
            text.push('\n');
            if text.len() > max_bytes {
                return None;
            }
        }
        Some(Self { name: name.to_owned(), text })
    }
}

/// The text `own` with these templates of other files.
pub fn compose<'t>(own: &str, templates: impl Iterator<Item = &'t Template>) -> String {
    let mut whole = format!("{own}{MARK}");
    templates.for_each(|template| whole.push_str(&template.text));
    whole
}

/// Where the templates of other files begin.
pub(super) fn end_of_own(text: &str) -> usize {
    text.rfind(MARK).unwrap_or(usize::MAX)
}

/// Recursive: the depth of a text is bounded before it is parsed.
fn write(text: &mut String, value: &DeValue<'_>) {
    match value {
        DeValue::String(string) => text.push_str(&quote(string)),
        DeValue::Integer(integer) => match to_i64(integer) {
            Some(number) => text.push_str(&number.to_string()),
            None => text.push_str(&integer.to_string()),
        },
        DeValue::Float(float) => text.push_str(float.as_str()),
        DeValue::Boolean(boolean) => text.push_str(&boolean.to_string()),
        DeValue::Datetime(datetime) => text.push_str(&datetime.to_string()),
        DeValue::Array(items) => {
            text.push('[');
            for item in items {
                write(text, item.get_ref());
                text.push(',');
            }
            text.push(']');
        }
        DeValue::Table(entries) => {
            text.push('{');
            for (at, (key, item)) in entries.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                text.push_str(&quote(key.get_ref()));
                text.push('=');
                write(text, item.get_ref());
            }
            text.push('}');
        }
    }
}

/// A basic string: the escapes of JSON are TOML's, which also wants one for DEL.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_template_written_out_is_read_as_what_it_was() {
        let text = "[template.t]\ncommand = ['a', \"b\\u007f\\n\"]\nnice = 0x0a\nnested.'x y'.z = [1.5, true, {}]\n\
                    [template.t.attrs]\nwhen = 2020-01-01\n";
        let root = DeTable::parse(text).unwrap().into_inner();
        let DeValue::Table(templates) = root["template"].get_ref() else { panic!("a table") };
        let DeValue::Table(template) = templates["t"].get_ref() else { panic!("a table") };
        let written = Template::of("t", template, 1000).unwrap().text;
        assert_eq!(
            text.parse::<toml::Table>().unwrap(),
            written.parse::<toml::Table>().unwrap(),
            "{written}"
        );
        assert_eq!(Template::of("t", template, 50), None);
    }

    proptest! {
        #[test]
        fn every_string_is_read_as_what_it_was(text in any::<String>()) {
            let read = format!("a = {}", quote(&text)).parse::<toml::Table>().unwrap();
            prop_assert_eq!(read["a"].as_str(), Some(text.as_str()));
        }
    }
}

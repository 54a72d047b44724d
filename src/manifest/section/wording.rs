//! What to say of a value of the wrong type.

use toml::de::DeValue;

use crate::manifest::diagnostic::escape;
use crate::manifest::fields::{Field, Kind};

/// A value's type for a message.
pub(in crate::manifest) fn describe(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// A number or boolean as the string that was probably meant.
pub(super) fn quoted(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Integer(integer) => Some(format!("\"{integer}\"")),
        DeValue::Float(float) => Some(format!("\"{}\"", float.as_str())),
        DeValue::Boolean(boolean) => Some(format!("\"{boolean}\"")),
        DeValue::String(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// How to write the value instead, where that is clear.
pub(super) fn type_help(field: &Field, value: &DeValue<'_>) -> Option<String> {
    match (&field.kind, value) {
        (Kind::Duration { .. }, DeValue::Integer(integer)) => {
            Some(format!("give it a unit: `{} = \"{integer}s\"`", field.key()))
        }
        (Kind::Text { .. }, DeValue::Integer(integer)) if field.path == "umask" && integer.radix() == 8 => {
            Some(format!("write it as `umask = \"{:0>3}\"`", integer.as_str()))
        }
        (Kind::Text { .. } | Kind::Choice(_), _) => quoted(value).map(|text| format!("write it as {text}")),
        (Kind::Texts | Kind::Signals, DeValue::String(text)) => {
            Some(format!("write it as [\"{}\"]", escape(text)))
        }
        (Kind::ExitCodes, DeValue::Integer(integer)) => Some(format!("write it as [{integer}]")),
        (Kind::Ports, DeValue::Integer(_) | DeValue::String(_)) => {
            Some("name it, like `ports = { http = \"auto\" }`".to_owned())
        }
        (Kind::Sockets, DeValue::Integer(_) | DeValue::String(_)) => {
            Some("name it, like `sockets = { http = \"127.0.0.1:8080\" }`".to_owned())
        }
        (Kind::Integer { .. } | Kind::Count | Kind::Number { .. }, DeValue::String(text)) => {
            let is_number = text.parse::<f64>().is_ok_and(f64::is_finite);
            is_number.then(|| format!("write it without quotes: `{} = {text}`", field.key()))
        }
        _ => None,
    }
}

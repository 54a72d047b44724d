//! Numbers, durations, sizes and signals of a section.

use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeValue};

use super::{Section, Text, describe};
use crate::manifest::code;
use crate::manifest::diagnostic::escape;
use crate::manifest::fields::Kind;
use crate::manifest::spec::{Limits, SignalName};
use crate::manifest::{suggest, units};

impl Section<'_, '_, '_> {
    pub(in crate::manifest) fn duration(&mut self, key: &str) -> Option<Duration> {
        let found = self.find(key)?;
        let (field, value) = found;
        let Kind::Duration { min, max } = field.kind else { unreachable!("{} is no duration", field.path) };
        if !matches!(value.get_ref(), DeValue::String(_)) {
            self.wrong_type(found);
            return None;
        }
        self.duration_of(field.path, value, (min, max))
    }

    /// As [`Section::duration`], of a value that is no field of its own.
    pub(in crate::manifest) fn duration_of(
        &mut self,
        path: &str,
        value: &Spanned<DeValue<'_>>,
        (min, max): (Duration, Duration),
    ) -> Option<Duration> {
        let DeValue::String(text) = value.get_ref() else {
            let message =
                format!("`{path}` takes a duration like \"10s\", this is {}", describe(value.get_ref()));
            self.problems.add(value.span(), code::WRONG_TYPE, message);
            return None;
        };
        let duration = match units::parse_duration(text) {
            Ok(duration) => duration,
            Err(why) => {
                let message = format!("`{}` is not a duration: {why}", escape(text));
                let report = self.problems.add(value.span(), code::BAD_DURATION, message);
                report.help("write a number and a unit, like \"250ms\", \"10s\", \"5m\" or \"4h\"");
                return None;
            }
        };
        if (min..=max).contains(&duration) {
            return Some(duration);
        }
        let (min, max) = (units::format_duration(min), units::format_duration(max));
        let message = format!("`{path}` takes {min} to {max}, this is {}", escape(text));
        self.problems.add(value.span(), code::DURATION_OUT_OF_RANGE, message);
        None
    }

    pub(in crate::manifest) fn integer(&mut self, key: &str) -> Option<i64> {
        let found = self.find(key)?;
        let (field, value) = found;
        let Kind::Integer { min, max } = field.kind else { unreachable!("{} is no integer", field.path) };
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(found);
            return None;
        };
        let good = to_i64(integer).filter(|number| (min..=max).contains(number));
        if good.is_none() {
            let message = format!("`{}` takes {min} to {max}, this is {integer}", field.path);
            self.problems.add(value.span(), code::OUT_OF_RANGE, message);
        }
        good
    }

    /// A port by number.
    pub(in crate::manifest) fn port(&mut self, key: &str) -> Option<u16> {
        let found = self.find(key)?;
        let (field, value) = found;
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(found);
            return None;
        };
        let good = to_i64(integer).and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
        if good.is_none() {
            let message = format!("`{}` takes 1 to 65535, this is {integer}", field.path);
            self.problems.add(value.span(), code::OUT_OF_RANGE, message);
        }
        good
    }

    pub(in crate::manifest) fn number(&mut self, key: &str) -> Option<f64> {
        let found = self.find(key)?;
        let (field, value) = found;
        let Kind::Number { min, max } = field.kind else { unreachable!("{} is no number", field.path) };
        let number = match value.get_ref() {
            DeValue::Integer(integer) => to_i64(integer).map(|number| number as f64),
            DeValue::Float(float) => float.as_str().parse().ok(),
            _ => {
                self.wrong_type(found);
                return None;
            }
        };
        let good = number.filter(|number| (min..=max).contains(number));
        if good.is_none() {
            let message = format!("`{}` takes {min} to {max}", field.path);
            self.problems.add(value.span(), code::OUT_OF_RANGE, message);
        }
        good
    }

    /// A number from 1, or `"unlimited"`.
    pub(in crate::manifest) fn count(&mut self, key: &str) -> Option<u64> {
        let found = self.find(key)?;
        match found.1.get_ref() {
            DeValue::String(text) if text == "unlimited" => return Some(Limits::UNLIMITED),
            DeValue::Integer(integer) => {
                let good = to_i64(integer).and_then(|number| u64::try_from(number).ok()).filter(|n| *n > 0);
                if good.is_none() {
                    let message = format!("`{}` takes numbers from 1, this is {integer}", found.0.path);
                    self.problems.add(found.1.span(), code::OUT_OF_RANGE, message);
                }
                return good;
            }
            _ => self.wrong_type(found),
        }
        None
    }

    pub(in crate::manifest) fn size(&mut self, key: &str) -> Option<u64> {
        let found = self.find(key)?;
        let (field, value) = found;
        let size = match value.get_ref() {
            DeValue::String(text) if text == "unlimited" => return Some(Limits::UNLIMITED),
            DeValue::String(text) => {
                units::parse_size(text).map_err(|why| format!("`{}` is not a size: {why}", escape(text)))
            }
            DeValue::Integer(integer) => {
                let bytes = to_i64(integer).and_then(|number| u64::try_from(number).ok());
                bytes.ok_or_else(|| format!("`{}` takes numbers from 0, this is {integer}", field.path))
            }
            _ => {
                self.wrong_type(found);
                return None;
            }
        };
        size.map_err(|message| {
            let report = self.problems.add(value.span(), code::BAD_SIZE, message);
            report.help("write a whole number and a unit, like \"512KiB\" or \"10MiB\"");
        })
        .ok()
    }

    pub(in crate::manifest) fn signal(&mut self, key: &str) -> Option<SignalName> {
        let text = self.text(key)?;
        self.signal_of(&text)
    }

    pub(in crate::manifest) fn signal_of(&mut self, text: &Text<'_>) -> Option<SignalName> {
        let signal = SignalName::parse(text.text);
        if signal.is_none() {
            let message = format!("`{}` is not a signal", escape(text.text));
            let upper = text.text.to_ascii_uppercase();
            let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
            let nearest = suggest::nearest(bare, SignalName::names());
            let report = self.problems.add(text.place.clone(), code::BAD_SIGNAL, message);
            report.help(match nearest {
                Some(name) => format!("did you mean `{name}`?"),
                None => "write its name, like \"TERM\", \"INT\" or \"RTMIN+3\"".to_owned(),
            });
        }
        signal
    }

    /// The items of a list of integers from `min` to `max`; likewise.
    pub(in crate::manifest) fn integers(&mut self, key: &str, min: i64, max: i64) -> Option<Vec<i64>> {
        let found = self.find(key)?;
        let (field, value) = found;
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(found);
            return None;
        };
        let mut integers = Vec::with_capacity(items.len());
        for item in items {
            let DeValue::Integer(integer) = item.get_ref() else {
                self.wrong_item(field, item);
                continue;
            };
            match to_i64(integer).filter(|number| (min..=max).contains(number)) {
                Some(number) => integers.push(number),
                None => {
                    let message = format!("`{}` takes {min} to {max}, this is {integer}", field.path);
                    self.problems.add(item.span(), code::OUT_OF_RANGE, message);
                }
            }
        }
        Some(integers)
    }
}

pub(in crate::manifest) fn to_i64(integer: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

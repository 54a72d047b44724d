//! `ports`: a number, "auto", or a table, by name.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::is_variable;
use crate::identity::check_name;
use crate::manifest::code;
use crate::manifest::diagnostic::escape;
use crate::manifest::ports::{MAX_COUNT, Port, PortBlock, PortNumber, variables};
use crate::manifest::problems::Problems;
use crate::manifest::section::{Section, Text, describe, to_i64};
use crate::manifest::suggest;

/// What a table of one port takes.
const KEYS: [&str; 4] = ["auto", "port", "count", "env"];

/// The declared ports; `None` for one that is bad, so that one mistake is one problem.
pub(super) type Declared = BTreeMap<String, Option<Port>>;

pub(super) fn read(section: &mut Section<'_, '_, '_>) -> Declared {
    let Some(found) = section.find("ports") else { return Declared::new() };
    let DeValue::Table(entries) = found.1.get_ref() else {
        section.wrong_type(found);
        return Declared::new();
    };
    let problems = &mut *section.problems;
    let mut declared = Declared::new();
    for (name, value) in entries {
        let text = Text { text: name.get_ref(), place: name.span() };
        let name_is_good = is_name(&text, problems);
        let port = read_port(&text, value, problems).filter(|_| name_is_good);
        declared.insert(text.text.to_owned(), port);
    }
    check_overlap(&declared, entries, problems);
    check_variables(&declared, found.1.span(), problems);
    declared
}

fn is_name(name: &Text<'_>, problems: &mut Problems<'_>) -> bool {
    let Err(error) = check_name(name.text) else { return true };
    let message = format!("`{}` is not a name of a port: {error}", escape(name.text));
    problems.add(name.place.clone(), code::BAD_NAME, message);
    false
}

fn read_port(name: &Text<'_>, value: &Spanned<DeValue<'_>>, problems: &mut Problems<'_>) -> Option<Port> {
    match value.get_ref() {
        DeValue::String(word) if word == "auto" => {
            Some(Port { number: PortNumber::Auto, count: 1, env: None })
        }
        DeValue::Integer(_) => {
            let first = number(name, "port", value, 1, 65535, problems)?;
            Some(Port { number: PortNumber::Fixed(first), count: 1, env: None })
        }
        DeValue::Table(table) => read_table(name, table, value.span(), problems),
        other => {
            let found = match other {
                DeValue::String(text) => format!("\"{}\"", escape(text)),
                other => describe(other).to_owned(),
            };
            let shown = escape(name.text);
            let message = format!("`ports.{shown}` takes \"auto\", a number or a table, this is {found}");
            let report = problems.add(value.span(), code::BAD_PORT, message);
            let number = other.as_str().and_then(|text| text.trim().parse::<u16>().ok());
            report.help(match number {
                Some(number) => format!("write it without quotes: `{shown} = {number}`"),
                None => format!("write `{shown} = \"auto\"`, `{shown} = 8080`, or `{shown} = {{ auto = true, count = 2 }}`"),
            });
            None
        }
    }
}

fn read_table(
    name: &Text<'_>,
    table: &DeTable<'_>,
    place: Range<usize>,
    problems: &mut Problems<'_>,
) -> Option<Port> {
    let before = problems.count();
    let shown = escape(name.text);
    for (key, _) in table {
        let word: &str = key.get_ref();
        if !KEYS.contains(&word) {
            let message = format!("there is no field `ports.{shown}.{}`", escape(word));
            let report = problems.add(key.span(), code::UNKNOWN_KEY, message);
            report.help(match suggest::nearest(word, KEYS.into_iter()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("a port takes {}", KEYS.join(", ")),
            });
        }
    }
    let count = table.get("count").and_then(|value| number(name, "count", value, 1, MAX_COUNT, problems));
    let count = count.unwrap_or(1);
    let auto = table.get("auto").and_then(|value| match value.get_ref() {
        DeValue::Boolean(auto) => Some(*auto),
        other => {
            let message = format!("`ports.{shown}.auto` takes a boolean, this is {}", describe(other));
            problems.add(value.span(), code::WRONG_TYPE, message);
            None
        }
    });
    let fixed = table.get("port").map(|value| number(name, "port", value, 1, 65535, problems));
    let env = read_variable(name, table, problems);
    let number = match (auto, fixed) {
        (Some(true), Some(_)) => {
            let message = format!("`ports.{shown}` has a number, and is to have one chosen");
            problems.add(place, code::CONFLICTING_KEYS, message).help("keep `port` or `auto = true`");
            return None;
        }
        (_, Some(first)) => PortNumber::Fixed(first?),
        (Some(true), None) => PortNumber::Auto,
        // What was meant by `auto` is not known, and was reported.
        (None, None) if table.contains_key("auto") => return None,
        (Some(false) | None, None) => {
            let message = format!("`ports.{shown}` has neither `port` nor `auto = true`");
            problems.add(place, code::MISSING_KEY, message).help("say which number, or let one be chosen");
            return None;
        }
    };
    if let PortNumber::Fixed(first) = number
        && first.checked_add(count - 1).is_none()
    {
        let message = format!("`ports.{shown}` goes beyond port 65535");
        problems.add(place, code::OUT_OF_RANGE, message);
    }
    (problems.count() == before).then_some(Port { number, count, env })
}

fn read_variable(name: &Text<'_>, table: &DeTable<'_>, problems: &mut Problems<'_>) -> Option<String> {
    let value = table.get("env")?;
    let DeValue::String(text) = value.get_ref() else {
        let found = describe(value.get_ref());
        let message = format!("`ports.{}.env` takes a string, this is {found}", escape(name.text));
        problems.add(value.span(), code::WRONG_TYPE, message);
        return None;
    };
    let text = Text { text, place: value.span() };
    is_variable(&text, problems).then(|| text.text.to_owned())
}

fn number(
    name: &Text<'_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    min: u16,
    max: u16,
    problems: &mut Problems<'_>,
) -> Option<u16> {
    let shown = escape(name.text);
    let DeValue::Integer(integer) = value.get_ref() else {
        let message =
            format!("`ports.{shown}.{key}` takes an integer, this is {}", describe(value.get_ref()));
        problems.add(value.span(), code::WRONG_TYPE, message);
        return None;
    };
    let good = to_i64(integer).and_then(|number| u16::try_from(number).ok());
    let good = good.filter(|number| (min..=max).contains(number));
    if good.is_none() {
        let message = format!("`ports.{shown}` takes a {key} from {min} to {max}, this is {integer}");
        let report = problems.add(value.span(), code::OUT_OF_RANGE, message);
        if key == "port" {
            report.help(format!("write `{shown} = \"auto\"` to have one chosen"));
        }
    }
    good
}

/// Two names of one service for one port.
fn check_overlap(declared: &Declared, entries: &DeTable<'_>, problems: &mut Problems<'_>) {
    let mut taken: BTreeMap<u16, &str> = BTreeMap::new();
    for (name, port) in declared {
        let Some(block) = port.as_ref().and_then(Port::fixed) else { continue };
        let other = block.numbers().find_map(|port| Some((port, *taken.get(&port)?)));
        if let Some((number, other)) = other {
            let place = entries.get(name.as_str()).map_or(0..0, Spanned::span);
            let message = format!("port {number} is `{other}` already");
            problems.add(place, code::CONFLICTING_KEYS, message).help("give each name a port of its own");
        }
        taken.extend(block.numbers().map(|port| (port, name.as_str())));
    }
}

/// Two ports that would be told of under one name.
fn check_variables(declared: &Declared, place: Range<usize>, problems: &mut Problems<'_>) {
    let mut count = 1;
    // Any numbers do: names are compared.
    let (mut ports, mut given) = (BTreeMap::new(), BTreeMap::new());
    for (name, port) in declared {
        let Some(port) = port else { continue };
        let block = PortBlock { first: count, count: port.count, fixed: false };
        count = count.saturating_add(port.count);
        given.insert(name.clone(), block);
        ports.insert(name.clone(), port.clone());
    }
    let mut seen: BTreeMap<String, u16> = BTreeMap::new();
    for (variable, number) in variables(&ports, &given) {
        if seen.insert(variable.clone(), number).is_some_and(|other| other != number) {
            let message = format!("two ports are exported as `{}`", escape(&variable));
            let report = problems.add(place, code::CONFLICTING_KEYS, message);
            return report.help("give one of them another name, or `env = \"…\"` of its own");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::load;
    use crate::manifest::spec::Spec;

    fn spec(fields: &str) -> Spec {
        let loaded = load(&format!("[service.web]\n{fields}\n"));
        assert_eq!(loaded.problems, [], "{fields}");
        loaded.services.into_iter().next().expect("one service is declared").spec
    }

    #[test]
    fn ports_are_chosen_given_or_several() {
        let spec = spec(
            "command = ['a']\nports = { a = 'auto', b = 80, c = { auto = true, count = 3 }, d = { port = 90, env = 'D' } }",
        );
        let port = |number, count, env: Option<&str>| Port { number, count, env: env.map(str::to_owned) };
        let expected = [
            port(PortNumber::Auto, 1, None),
            port(PortNumber::Fixed(80), 1, None),
            port(PortNumber::Auto, 3, None),
            port(PortNumber::Fixed(90), 1, Some("D")),
        ];
        assert_eq!(spec.ports.into_values().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn addresses_may_go_by_ports_that_are_yet_to_be_chosen() {
        for fields in [
            "url = 'http://h:{{ports.http}}/x'\nhealth = '/up'",
            "health.url = 'http://[::1]:{{ports.http[1]}}'",
            "health.port = '{{ports.http}}'",
            "command = 'a --port {{ports.http}}'",
        ] {
            let command = if fields.starts_with("command") { "" } else { "command = ['a']\n" };
            spec(&format!("{command}ports.http = {{ auto = true, count = 2 }}\n{fields}"));
        }
    }
}

//! `sockets`: an address, or a table with one, by name.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::marks::Marks;
use super::templates::Known;
use crate::identity::check_name;
use crate::manifest::code;
use crate::manifest::diagnostic::escape;
use crate::manifest::ports::PortNumber;
use crate::manifest::problems::Problems;
use crate::manifest::render::Filler;
use crate::manifest::section::{Section, Text, describe};
use crate::manifest::sockets::{DEFAULT_MODE, ListenOn, Socket};
use crate::manifest::spec::Spec;
use crate::manifest::suggest;
use crate::manifest::template::{Piece, is_templated, pieces};

/// What a table of one socket takes.
const KEYS: [&str; 2] = ["listen", "mode"];

/// The most that a service declares: each is a descriptor of the keeper, and of every process of the service.
const MAX_SOCKETS: usize = 64;

/// Variables that tell of sockets. Source: sd_listen_fds(3).
const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

pub(super) fn read(section: &mut Section<'_, '_, '_>, known: &Known<'_>) -> BTreeMap<String, Socket> {
    let Some(found) = section.find("sockets") else { return BTreeMap::new() };
    let DeValue::Table(entries) = found.1.get_ref() else {
        section.wrong_type(found);
        return BTreeMap::new();
    };
    let mut sockets = BTreeMap::new();
    for (name, value) in entries {
        let name = Text { text: name.get_ref(), place: name.span() };
        if let Err(error) = check_name(name.text) {
            let message = format!("`{}` is not a name of a socket: {error}", escape(name.text));
            section.problems.add(name.place.clone(), code::BAD_NAME, message);
        }
        if let Some(socket) = read_socket(&name, value, known, section) {
            sockets.insert(name.text.to_owned(), socket);
        }
    }
    if sockets.len() > MAX_SOCKETS {
        let message = format!("`sockets` has {}, and {MAX_SOCKETS} are possible", sockets.len());
        section.problems.add(found.1.span(), code::OUT_OF_RANGE, message);
    }
    sockets
}

fn read_socket(
    name: &Text<'_>,
    value: &Spanned<DeValue<'_>>,
    known: &Known<'_>,
    section: &mut Section<'_, '_, '_>,
) -> Option<Socket> {
    let shown = escape(name.text);
    let (listen, mode) = match value.get_ref() {
        DeValue::String(_) => (value, DEFAULT_MODE),
        DeValue::Table(table) => read_table(&shown, table, value, section.problems)?,
        other => {
            let message =
                format!("`sockets.{shown}` takes an address or a table, this is {}", describe(other));
            let report = section.problems.add(value.span(), code::WRONG_TYPE, message);
            report.help(format!("write it as `{shown} = \"127.0.0.1:8080\"`"));
            return None;
        }
    };
    let DeValue::String(text) = listen.get_ref() else {
        let found = describe(listen.get_ref());
        let message = format!("`sockets.{shown}.listen` takes a string, this is {found}");
        section.problems.add(listen.span(), code::WRONG_TYPE, message);
        return None;
    };
    let text = Text { text, place: listen.span() };
    let is_good = section.is_clean("sockets", &text, crate::manifest::section::Layout::OneLine)
        && known.check(&text, section.problems);
    is_good.then(|| Socket { listen: text.text.to_owned(), mode })
}

fn read_table<'a>(
    shown: &str,
    table: &'a DeTable<'a>,
    whole: &Spanned<DeValue<'_>>,
    problems: &mut Problems<'_>,
) -> Option<(&'a Spanned<DeValue<'a>>, u32)> {
    for (key, _) in table {
        let word: &str = key.get_ref();
        if !KEYS.contains(&word) {
            let message = format!("there is no field `sockets.{shown}.{}`", escape(word));
            let report = problems.add(key.span(), code::UNKNOWN_KEY, message);
            report.help(match suggest::nearest(word, KEYS.into_iter()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("a socket takes {}", KEYS.join(", ")),
            });
        }
    }
    let mode = match table.get("mode") {
        None => DEFAULT_MODE,
        Some(value) => read_mode(shown, value, problems)?,
    };
    let Some(listen) = table.get("listen") else {
        let message = format!("`sockets.{shown}` has no `listen`");
        problems.add(whole.span(), code::MISSING_KEY, message).help("say where, like \"127.0.0.1:8080\"");
        return None;
    };
    Some((listen, mode))
}

fn read_mode(shown: &str, value: &Spanned<DeValue<'_>>, problems: &mut Problems<'_>) -> Option<u32> {
    let digits = value.get_ref().as_str().filter(|text| text.len() <= 4);
    let mode = digits.and_then(|text| u32::from_str_radix(text, 8).ok()).filter(|mode| *mode <= 0o777);
    if mode.is_none() {
        let message = format!("`sockets.{shown}.mode` is not a file mode");
        problems
            .add(value.span(), code::BAD_UMASK, message)
            .help("write octal digits in a string, like \"660\"");
    }
    mode
}

/// What must hold once templates are filled in; `fills_in`: all of them do.
pub(super) fn check(
    spec: &Spec,
    filler: &Filler<'_>,
    fills_in: bool,
    marks: &Marks<'_>,
    problems: &mut Problems<'_>,
) {
    if spec.sockets.is_empty() {
        return;
    }
    let mut taken: BTreeMap<ListenOn, &str> = BTreeMap::new();
    for (name, socket) in &spec.sockets {
        let place = || marks.of(&format!("sockets.{name}"));
        if let Some(port) = chosen_port(spec, &socket.listen) {
            let message = format!("`sockets.{name}` goes by the port `{port}`, which is chosen at a start");
            let report = problems.add(place(), code::BAD_ADDRESS, message);
            report.help(format!(
                "a socket is open before that: give it a number, `ports = {{ {port} = 8080 }}`"
            ));
            continue;
        }
        if !fills_in && is_templated(&socket.listen) {
            continue;
        }
        match ListenOn::parse(&filler.fill(&socket.listen)) {
            Err(why) => {
                problems.add(place(), code::BAD_ADDRESS, format!("`sockets.{name}`: {why}"));
            }
            Ok(address) => {
                if let Some(other) = taken.insert(address.clone(), name) {
                    let message = format!("`{address}` is `sockets.{other}` already");
                    problems.add(place(), code::CONFLICTING_KEYS, message);
                }
            }
        }
    }
    if let Some(text) = spec.activation.proxy.as_deref().filter(|text| fills_in || !is_templated(text)) {
        let place = marks.of("activation.proxy");
        match ListenOn::parse_target(&filler.fill(text)) {
            Err(why) => {
                problems.add(place, code::BAD_ADDRESS, format!("`activation.proxy`: {why}"));
            }
            Ok(target) => {
                if let Some((_, name)) = taken.iter().find(|(own, _)| own.is_reached_at(&target)) {
                    let message = format!("`activation.proxy` is `sockets.{name}` itself");
                    let report = problems.add(place, code::CONFLICTING_KEYS, message);
                    report.help("it is where the program listens, which its socket is handed on to");
                }
            }
        }
    }
    if let Some(key) = VARIABLES.into_iter().find(|key| spec.env.contains_key(*key)) {
        let message = format!("`{key}` tells of its sockets, and cannot be given another value");
        problems.add(marks.of_variable(key), code::RESERVED_ENV, message).help("leave it out of `env`");
    }
}

/// The name of a port in `text` that has no number in the manifest.
fn chosen_port<'s>(spec: &'s Spec, text: &str) -> Option<&'s str> {
    pieces(text).into_iter().find_map(|(_, piece)| match piece {
        Piece::Port(name, _) => {
            let (name, port) = spec.ports.get_key_value(name)?;
            (port.number == PortNumber::Auto).then_some(name.as_str())
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use crate::manifest::load;
    use crate::manifest::sockets::Socket;

    fn codes(fields: &str) -> Vec<String> {
        let loaded = load(&format!("[service.web]\ncommand = ['a']\n{fields}\n"));
        loaded.problems.into_iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn sockets_are_addresses_or_tables() {
        let text = "[service.web]\ncommand = ['a']\nports.p = 81\nsockets = { a = '127.0.0.1:80', \
                    b = { listen = 'run/{{name}}.sock', mode = '660' }, c = '[::1]:{{ports.p}}' }\n";
        let loaded = load(text);
        assert_eq!(loaded.problems, []);
        let socket = |listen: &str, mode| Socket { listen: listen.to_owned(), mode };
        let expected = [
            socket("127.0.0.1:80", 0o600),
            socket("run/{{name}}.sock", 0o660),
            socket("[::1]:{{ports.p}}", 0o600),
        ];
        assert_eq!(loaded.services[0].spec.sockets.values().cloned().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_cannot_be_listened_on_is_said() {
        for (fields, code) in [
            ("sockets = '127.0.0.1:80'", "wrong-type"),
            ("sockets.a = 80", "wrong-type"),
            ("sockets.a = { listen = 80 }", "wrong-type"),
            ("sockets.a = {}", "missing-key"),
            ("sockets.a = { listen = '/x', mod = '600' }", "unknown-key"),
            ("sockets.a = { listen = '/x', mode = '999' }", "bad-umask"),
            ("sockets.A_B = '127.0.0.1:80'", "bad-name"),
            ("sockets.a = 'localhost:80'", "bad-address"),
            ("sockets.a = '127.0.0.1:{{ports.b}}'", "unknown-template"),
            ("sockets.a = '127.0.0.1:{{ports.b}}'\nports.b = 'auto'", "bad-address"),
            ("sockets = { a = '127.0.0.1:80', b = '127.0.0.1:80' }", "conflicting-keys"),
            ("sockets.a = '127.0.0.1:80'\nenv.LISTEN_FDS = '3'", "reserved-env"),
        ] {
            assert_eq!(codes(fields), [code], "{fields}");
        }
    }
}

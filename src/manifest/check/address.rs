//! Addresses, and what else must hold once templates are filled in.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::marks::Marks;
use super::{notify, sockets};
use crate::manifest::code;
use crate::manifest::diagnostic::escape;
use crate::manifest::ports::CheckPort;
use crate::manifest::problems::Problems;
use crate::manifest::render::{Filler, Surroundings};
use crate::manifest::spec::{CommandLine, HealthCheck, Spec};
use crate::manifest::template::is_templated;

/// Which addresses a field takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Any,
    /// What a probe can fetch.
    Web,
}

/// Checks every address as it will be; only those without templates if `fills_in` is false.
pub(super) fn check(spec: &Spec, marks: &Marks<'_>, fills_in: bool, problems: &mut Problems<'_>) {
    // The directories do not matter here: no address is better or worse for them.
    // Nor do the numbers of ports that are yet to be chosen.
    let ports = spec.ports.iter().map(|(name, port)| (name.clone(), port.stand_in())).collect();
    let around =
        Surroundings { project_dir: Path::new("/"), home: None, ports: &ports, work: None, cwd: None };
    let filler = Filler::new(spec, &around);
    check_addresses(
        spec,
        &|text| (fills_in || !is_templated(text)).then(|| filler.fill(text)),
        marks,
        problems,
    );
    sockets::check(spec, &filler, fills_in, marks, problems);
    notify::check(spec, marks, problems);
    if !fills_in {
        return;
    }
    check_words("command", &spec.command, &filler, marks, problems);
    if let Some(HealthCheck::Command { command, .. }) = spec.health.as_ref().map(|health| &health.check) {
        check_words("health.command", command, &filler, marks, problems);
    }
    if let Some(command) = &spec.reload.command {
        check_words("reload.command", command, &filler, marks, problems);
    }
    if let Some(command) = &spec.stop.command {
        check_words("stop.command", command, &filler, marks, problems);
    }
    if filler.fill(&spec.cwd).is_empty() {
        report(problems, marks, "cwd", code::EMPTY, "it fills in to nothing");
    }
}

/// What a text fills in to, if it does.
type Filled<'f> = &'f dyn for<'t> Fn(&'t str) -> Option<Cow<'t, str>>;

fn check_addresses(spec: &Spec, filled: Filled<'_>, marks: &Marks<'_>, problems: &mut Problems<'_>) {
    if let Some(Err(why)) = spec.url.as_deref().and_then(filled).map(|url| check_url(&url, Scheme::Any)) {
        report(problems, marks, "url", code::BAD_URL, &why);
    }
    match spec.health.as_ref().map(|health| &health.check) {
        Some(HealthCheck::Http { url, .. }) => {
            if let Some(Err(why)) = filled(url).map(|url| check_url(&url, Scheme::Web)) {
                report(problems, marks, "health.url", code::BAD_URL, &why);
            }
        }
        Some(HealthCheck::Tcp { host, port }) => {
            if let CheckPort::Text(text) = port
                && let Some(port) = filled(text).filter(|_| is_templated(text)).filter(|port| !is_port(port))
            {
                let why = format!("`{}` is no port", escape(&port));
                report(problems, marks, "health.port", code::BAD_PORT, &why);
            }
            if let Some(host) = filled(host).filter(|host| !is_host(host)) {
                let why = format!("`{}` is no host name or address", escape(&host));
                report(problems, marks, "health.host", code::BAD_HOST, &why);
            }
        }
        Some(HealthCheck::Command { .. } | HealthCheck::Log { .. } | HealthCheck::Notify { .. }) | None => {}
    }
}

fn report(problems: &mut Problems<'_>, marks: &Marks<'_>, field: &str, code: &str, why: &str) {
    problems.add(marks.of(field), code, format!("`{field}`: {why}"));
}

fn check_words(
    field: &str,
    command: &CommandLine,
    filler: &Filler<'_>,
    marks: &Marks<'_>,
    problems: &mut Problems<'_>,
) {
    // An empty word as written was reported where it was read, and a shell is none.
    let CommandLine::Argv(words) = command else { return };
    let first = words.first().filter(|first| is_templated(first));
    if first.is_some_and(|first| filler.fill(first).is_empty()) {
        report(problems, marks, field, code::EMPTY, "its first word fills in to nothing");
    }
}

/// Absolute, with a host and no credentials; `Err` is a lower-case fragment.
fn check_url(url: &str, scheme: Scheme) -> Result<(), String> {
    let (found, rest) =
        url.split_once("://").ok_or_else(|| format!("`{}` has no scheme like http://", escape(url)))?;
    let mut letters = found.bytes();
    let scheme_is_good = letters.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && letters.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if !scheme_is_good {
        return Err(format!("`{}` is no scheme", escape(found)));
    }
    if scheme == Scheme::Web && !matches!(found, "http" | "https") {
        return Err(format!("a probe fetches http:// or https://, not {}://", escape(found)));
    }
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("`{}` contains a space", escape(url)));
    }
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    if authority.contains('@') {
        return Err("it contains credentials, which everybody would see".to_owned());
    }
    let (host, port) = split_port(authority);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if !is_host(bare) {
        return Err(format!("`{}` is no host name or address", escape(host)));
    }
    if let Some(port) = port.filter(|port| !is_port(port)) {
        return Err(format!("`{}` is no port", escape(port)));
    }
    if scheme == Scheme::Any || is_plain(bare) {
        return Ok(());
    }
    // The client that probes has the last word.
    reqwest::Url::parse(url).map(drop).map_err(|error| format!("`{}` is no address: {error}", escape(url)))
}

/// Hosts that every client takes: asking ours would be a tenth of the time that a manifest takes.
fn is_plain(host: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        (1..=63).contains(&label.len()) && label.bytes().all(is_inner)
    };
    let last_is_a_word =
        host.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_lowercase()));
    host.parse::<Ipv4Addr>().is_ok() || (last_is_a_word && host.split('.').all(is_label))
}

/// `[::1]:80` and `host:80` into host and port.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let after_address = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[after_address..].find(':') {
        Some(colon) => (&authority[..after_address + colon], Some(&authority[after_address + colon + 1..])),
        None => (authority, None),
    }
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_host(host: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
    let address = host.split_once('%').map_or(host, |(address, _zone)| address);
    (!host.is_empty() && host.len() <= 255 && host.chars().all(is_name))
        || address.parse::<Ipv6Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_client_takes_every_plain_host(host in "([a-z0-9]{1,4}|0x[0-9a-f]|[0-9]{1,3}|xn){1,2}(\\.[a-z0-9]{1,3}){0,3}") {
            if is_plain(&host) {
                let url = format!("http://{host}:8080/a?b=c#d");
                prop_assert!(reqwest::Url::parse(&url).is_ok(), "{url}");
            }
        }
    }

    #[test]
    fn addresses_are_absolute_with_a_host() {
        for good in ["http://a", "http://127.0.0.1:8080/x?y#z", "https://[::1]:443/", "http://a_b.c-d:1"] {
            assert_eq!(check_url(good, Scheme::Web), Ok(()), "{good}");
        }
        for good in ["postgres://localhost:5432/db", "ws://h/x", "git+ssh://h"] {
            assert_eq!(check_url(good, Scheme::Any), Ok(()), "{good}");
            assert!(check_url(good, Scheme::Web).is_err(), "{good}");
        }
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        for bad in [
            "",
            "localhost:80",
            "/health",
            "http://",
            "http:///x",
            "http://a b/",
            "http://a:0",
            "http://a:65536",
            "http://a:",
            "http://a:x",
            "://a",
            "1http://a",
            "http://u:p@a/",
            "http://[::1",
            "http://[::g]/",
            "http://a\n/",
            "http://%41/",
            "http://1.2.3.4.5/",
        ] {
            assert!(check_url(bad, Scheme::Web).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for good in ["localhost", "127.0.0.1", "::1", "fe80::1%eth0", "db_1.internal"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", "a b", "a/b", "a:80", "http://a", &"a".repeat(256)] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}

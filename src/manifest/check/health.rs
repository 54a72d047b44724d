//! `health`: a path, or a table whose keys say of which type it is.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::command;
use super::service::read_u32;
use super::templates::Known;
use crate::manifest::choice::{CheckType, Choice};
use crate::manifest::code;
use crate::manifest::diagnostic::escape;
use crate::manifest::ports::CheckPort;
use crate::manifest::problems::Problems;
use crate::manifest::section::{Layout, Section, Text, describe};
use crate::manifest::spec::{Health, HealthCheck};
use crate::manifest::template::is_templated;

/// The largest program that a pattern may compile to: a manifest must not cost megabytes of memory.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// What a pattern counts for at least.
const MIN_REGEX_BYTES: usize = 16 << 10;

/// The pattern of `health.expect_regex` or `health.log`, compiled within bounds.
pub fn output_regex(pattern: &str) -> Result<regex::Regex, regex::Error> {
    compile(pattern, MAX_REGEX_BYTES)
}

fn compile(pattern: &str, max_bytes: usize) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(pattern).size_limit(max_bytes).build()
}

/// What of its service a check goes by.
pub(super) struct Around<'r> {
    pub(super) service_url: Option<Text<'r>>,
    pub(super) known: &'r Known<'r>,
    /// Of the key `health`.
    pub(super) key_place: Range<usize>,
}

/// Keys that only one type of check has.
const KEYS: [(CheckType, &[&str]); 5] = [
    (CheckType::Http, &["url", "expect_status"]),
    (CheckType::Tcp, &["host", "port"]),
    (CheckType::Command, &["command", "shell", "expect_regex"]),
    (CheckType::Log, &["log"]),
    (CheckType::Notify, &["watchdog", "notify_fd"]),
];

/// How a check is made that asks, again and again.
const OF_PROBES: [&str; 4] = ["interval", "start_interval", "timeout", "retries"];

/// Takes from the health check of a template what a service does not mean that has a check of another type.
pub(super) fn forget_other_checks(table: &mut DeTable<'_>, own: &DeTable<'_>) {
    let explicit = own.get("type").and_then(|word| CheckType::parse(word.get_ref().as_str()?));
    let by_key = || KEYS.iter().find(|(_, keys)| keys.iter().any(|key| own.get(*key).is_some()));
    let Some(chosen) = explicit.or_else(|| by_key().map(|(check_type, _)| *check_type)) else { return };
    table.remove("type");
    for (_, keys) in KEYS.iter().filter(|(check_type, _)| *check_type != chosen) {
        keys.iter().for_each(|key| {
            table.remove(*key);
        });
    }
    if chosen == CheckType::Log {
        OF_PROBES.iter().for_each(|key| {
            table.remove(*key);
        });
    }
}

pub(super) fn read(
    value: &Spanned<DeValue<'_>>,
    around: &Around<'_>,
    problems: &mut Problems<'_>,
) -> Option<Health> {
    match value.get_ref() {
        DeValue::String(path) => {
            let path = Text { text: path, place: value.span() };
            let url = read_short(&path, around, problems)?;
            Some(Health::new(HealthCheck::Http { url, expect_status: None }))
        }
        DeValue::Table(values) => {
            let mut section = Section::open(problems, "health", values, around.key_place.clone(), &[]);
            read_table(&mut section, around)
        }
        other => {
            let message = format!("`health` takes a path or a table, this is {}", describe(other));
            let report = problems.add(value.span(), code::WRONG_TYPE, message);
            report.help("write `health = \"/health\"`, or the fields below `[service.NAME.health]`");
            None
        }
    }
}

fn read_short(path: &Text<'_>, around: &Around<'_>, problems: &mut Problems<'_>) -> Option<String> {
    if !path.text.starts_with('/') {
        let message = format!("`{}` is not a path that begins with `/`", escape(path.text));
        let report = problems.add(path.place.clone(), code::BAD_URL, message);
        if path.text.contains("://") {
            report.help(format!("write it as `health = {{ url = \"{}\" }}`", escape(path.text)));
        }
        return None;
    }
    let is_good = around.known.check(path, problems);
    on_service_url(path, around, problems).filter(|_| is_good)
}

/// A path on the origin of the service's `url`.
fn on_service_url(path: &Text<'_>, around: &Around<'_>, problems: &mut Problems<'_>) -> Option<String> {
    let Some(url) = &around.service_url else {
        let message = "the health check is a path on `url`, and `url` is not given";
        let report = problems.add(path.place.clone(), code::MISSING_KEY, message);
        report.help("give the service a `url`, like `url = \"http://127.0.0.1:8080\"`");
        return None;
    };
    Some(format!("{}{}", origin(url.text), path.text))
}

/// `url` up to its path; one that only a template gives ends without a slash.
fn origin(url: &str) -> &str {
    let authority = url.find("://").map_or(0, |at| at + "://".len());
    let end = url[authority..].find(['/', '?', '#']).map_or(url.len(), |at| authority + at);
    &url[..end]
}

fn read_table(section: &mut Section<'_, '_, '_>, around: &Around<'_>) -> Option<Health> {
    let check = read_check(section, around);
    // The pace is read whatever the check, for all problems are reported at once.
    let default = Health::new(HealthCheck::Tcp { host: String::new(), port: CheckPort::Number(0) });
    let health = Health {
        interval: section.duration("interval").unwrap_or(default.interval),
        start_interval: section.duration("start_interval").unwrap_or(default.start_interval),
        timeout: section.duration("timeout").unwrap_or(default.timeout),
        start_timeout: section.duration("start_timeout").unwrap_or(default.start_timeout),
        retries: read_u32(section, "retries").unwrap_or(default.retries),
        on_unhealthy: section.choice("on_unhealthy").unwrap_or(default.on_unhealthy),
        ..default
    };
    let check = check?;
    // One silence is enough: the service itself says how long it may be.
    let retries = if matches!(check, HealthCheck::Notify { .. }) { 1 } else { health.retries };
    Some(Health { check, retries, ..health })
}

fn read_check(section: &mut Section<'_, '_, '_>, around: &Around<'_>) -> Option<HealthCheck> {
    match check_type(section)? {
        CheckType::Http => read_http(section, around),
        CheckType::Tcp => read_tcp(section, around),
        CheckType::Command => read_command(section, around),
        CheckType::Log => read_log(section),
        CheckType::Notify => read_notify(section),
    }
}

/// As given, or as the first key says; keys of other types are reported.
fn check_type(section: &mut Section<'_, '_, '_>) -> Option<CheckType> {
    let mut given: Vec<(Range<usize>, CheckType, &str)> = Vec::new();
    for (check_type, keys) in KEYS {
        for key in keys {
            given.extend(section.find(key).map(|(_, value)| (value.span(), check_type, *key)));
        }
    }
    given.sort_by_key(|(place, ..)| place.start);
    let explicit = section.choice::<CheckType>("type");
    let Some(chosen) = explicit.or_else(|| given.first().map(|(_, check_type, _)| *check_type)) else {
        let message = "the health check has none of `url`, `port`, `command` and `log`";
        let report = section.problems.add(section.place.clone(), code::MISSING_KEY, message);
        report.help("say what to check, like `url = \"http://127.0.0.1:8080/health\"`");
        return None;
    };
    for (place, check_type, key) in given {
        if check_type != chosen {
            let (theirs, ours) = (check_type.word(), chosen.word());
            let message =
                format!("`health.{key}` is for a check of type {theirs}, and this one is of type {ours}");
            let report = section.problems.add(place, code::CONFLICTING_KEYS, message);
            report.help("a service has one health check: keep the keys of one type");
        }
    }
    if matches!(chosen, CheckType::Log | CheckType::Notify) {
        refuse_probe_keys(section, chosen);
    }
    Some(chosen)
}

/// Of a check that is told and does not ask.
fn refuse_probe_keys(section: &mut Section<'_, '_, '_>, chosen: CheckType) {
    for key in OF_PROBES {
        let Some(place) = section.find(key).map(|(_, value)| value.span()) else { continue };
        let kind = chosen.word();
        let message = format!("`health.{key}` is for a check that asks, and one of type {kind} is told");
        let report = section.problems.add(place, code::CONFLICTING_KEYS, message);
        report.help("leave it out; `start_timeout` says how long it may take until it is ready");
    }
}

fn missing(section: &mut Section<'_, '_, '_>, key: &str, example: &str) {
    let message = format!("the health check has no `{key}`");
    let report = section.problems.add(section.place.clone(), code::MISSING_KEY, message);
    report.help(format!("add it, like `{key} = {example}`"));
}

fn read_http(section: &mut Section<'_, '_, '_>, around: &Around<'_>) -> Option<HealthCheck> {
    let status = section.integer("expect_status").and_then(|status| status.try_into().ok());
    if section.find("url").is_none() {
        missing(section, "url", "\"http://127.0.0.1:8080/health\"");
    }
    let url = section.filled_text("url")?;
    let is_good = around.known.check(&url, section.problems);
    let url = if url.text.starts_with('/') {
        on_service_url(&url, around, section.problems)?
    } else {
        url.text.to_owned()
    };
    is_good.then_some(HealthCheck::Http { url, expect_status: status })
}

fn read_tcp(section: &mut Section<'_, '_, '_>, around: &Around<'_>) -> Option<HealthCheck> {
    if section.find("port").is_none() {
        missing(section, "port", "8080");
    }
    let port = read_port(section, around);
    let host = match section.find("host") {
        Some(_) => {
            section.filled_text("host").filter(|host| around.known.check(host, section.problems))?.text
        }
        None => "127.0.0.1",
    };
    Some(HealthCheck::Tcp { host: host.to_owned(), port: port? })
}

/// A number, the name of a port, or a template; what a template comes to is for `address`.
fn read_port(section: &mut Section<'_, '_, '_>, around: &Around<'_>) -> Option<CheckPort> {
    let (_, value) = section.find("port")?;
    let DeValue::String(_) = value.get_ref() else {
        let number = section.port("port")?;
        return Some(CheckPort::Number(number));
    };
    let text = section.filled_text("port")?;
    let is_good = match is_templated(text.text) {
        true => around.known.check(&text, section.problems),
        false => around.known.check_port(&text, section.problems),
    };
    is_good.then(|| CheckPort::Text(text.text.to_owned()))
}

fn read_command(section: &mut Section<'_, '_, '_>, around: &Around<'_>) -> Option<HealthCheck> {
    if section.find("command").is_none() {
        missing(section, "command", "[\"pg_isready\"]");
    }
    let pattern = section.text("expect_regex");
    if let Some(pattern) = &pattern {
        check_regex("health.expect_regex", pattern, section);
    }
    let command = command::read(section, around.known)?;
    Some(HealthCheck::Command { command, expect_regex: pattern.map(|pattern| pattern.text.to_owned()) })
}

fn read_log(section: &mut Section<'_, '_, '_>) -> Option<HealthCheck> {
    if section.find("log").is_none() {
        missing(section, "log", "\"listening on\"");
    }
    let pattern = section.text("log")?;
    check_regex("health.log", &pattern, section);
    Some(HealthCheck::Log { pattern: pattern.text.to_owned() })
}

fn read_notify(section: &mut Section<'_, '_, '_>) -> Option<HealthCheck> {
    let watchdog = section.duration("watchdog");
    let place = section.find("notify_fd").map(|(_, value)| value.span());
    let fd = section.integer("notify_fd").and_then(|fd| fd.try_into().ok());
    if let Some(place) = place.filter(|_| watchdog.is_some()) {
        let message =
            "`health.notify_fd` is for a service that says only that it is ready, and not that it lives";
        let report = section.problems.add(place, code::CONFLICTING_KEYS, message);
        report.help("leave out `watchdog`, or let it say both to the socket of `type = \"notify\"`");
        return None;
    }
    Some(HealthCheck::Notify { watchdog, fd })
}

fn check_regex(field: &str, pattern: &Text<'_>, section: &mut Section<'_, '_, '_>) {
    if !section.is_clean(field, pattern, Layout::OneLine) {
        return;
    }
    let mut bytes = MIN_REGEX_BYTES;
    let compiled = loop {
        if !section.problems.afford(bytes) {
            let message = "the patterns of this file compile to too large programs together";
            let report = section.problems.add(pattern.place.clone(), code::BAD_REGEX, message);
            return report.help("declare this service in another file, or look for less in its output");
        }
        match compile(pattern.text, bytes) {
            // The compiler does not tell how large a program is, only that it is larger than it may be.
            Err(regex::Error::CompiledTooBig(_)) if bytes < MAX_REGEX_BYTES => bytes *= 4,
            compiled => break compiled,
        }
    };
    if let Err(error) = compiled {
        let why = match &error {
            regex::Error::CompiledTooBig(_) => "it compiles to too large a program".to_owned(),
            // The pattern with a caret comes first, the reason is the last line.
            other => other.to_string().lines().last().unwrap_or_default().replace("error: ", ""),
        };
        let message = format!("`{field}` is not a regular expression: {}", escape(&why));
        section.problems.add(pattern.place.clone(), code::BAD_REGEX, message);
    }
}

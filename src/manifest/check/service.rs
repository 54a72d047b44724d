//! One `[service.NAME]` table.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::demand;
use super::dependencies::{self, Needs};
use super::marks::Marks;
use super::templates::{self, Holes, Known};
use super::{address, command, environment, files, fill, health, ports, secrets, sockets};
use crate::identity::{DEFAULT_PROJECT, ServiceId, check_name};
use crate::manifest::code;
use crate::manifest::diagnostic::escape;
use crate::manifest::problems::Problems;
use crate::manifest::section::{Layout, Section, Text, describe};
use crate::manifest::spec::{CommandLine, Limits, Restart, Spec, Stop};

/// What a service is made of stands beside them, and is gone once it is made.
const TABLES: [&str; 8] =
    ["activation", "health", "restart", "stop", "reload", "limits", fill::TEMPLATE, fill::VARS];

/// Reads a service; the result counts only if no problem was added.
pub(super) fn read(
    name: &Spanned<Cow<'_, str>>,
    table: &DeTable<'_>,
    holes: Holes<'_>,
    problems: &mut Problems<'_>,
) -> (Spec, Needs) {
    let mut section = Section::open(problems, "", table, name.span(), &TABLES);
    let id = read_id(name, &mut section);
    let env = environment::read(&mut section);
    let ports = ports::read(&mut section);
    let known = Known::of(&section, &ports, holes);
    env.iter().for_each(|(_, value)| {
        known.check(value, section.problems);
    });
    let line = read_command(&mut section, &known);

    let mut spec = Spec::minimal(id, line);
    spec.env = env.into_iter().map(|(key, value)| (key.text.to_owned(), value.text.to_owned())).collect();
    spec.secrets = secrets::read(&mut section, &known);
    files::read(&mut section, &mut spec, &known);
    read_process(&mut section, &mut spec, &known);
    spec.ports = ports.iter().filter_map(|(name, port)| Some((name.clone(), port.clone()?))).collect();
    spec.on_exe_change = section.choice("on_exe_change").unwrap_or(spec.on_exe_change);
    spec.port_owner = section.choice("port_owner").unwrap_or(spec.port_owner);
    spec.sockets = sockets::read(&mut section, &known);
    let url = read_url(&mut section, &mut spec, &known);
    read_rest(&mut section, &mut spec, &known);
    let needs = dependencies::read(&mut section, &mut spec);

    demand::read(&mut section, &mut spec);
    if let Some((values, place)) = sub_table("activation", table, section.problems) {
        let mut activation = Section::open(section.problems, "activation", values, place, &[]);
        demand::read_activation(&mut activation, &mut spec, &known);
    }
    if let Some((values, place)) = sub_table("restart", table, section.problems) {
        spec.restart = read_restart(Section::open(section.problems, "restart", values, place, &[]));
    }
    if let Some((values, place)) = sub_table("stop", table, section.problems) {
        let mut stop = Section::open(section.problems, "stop", values, place, &[]);
        spec.stop = read_stop(&mut stop, &known);
    }
    if let Some((values, place)) = sub_table("reload", table, section.problems) {
        let mut reload = Section::open(section.problems, "reload", values, place, &[]);
        spec.reload = files::read_reload(&mut reload, &known);
    }
    if let Some((values, place)) = sub_table("limits", table, section.problems) {
        spec.limits = read_limits(Section::open(section.problems, "limits", values, place, &[]));
    }
    if let Some((key, value)) = table.get_key_value("health") {
        let around = health::Around { service_url: url, known: &known, key_place: key.span() };
        spec.health = health::read(value, &around, section.problems);
    }
    let marks = Marks { service: name.span(), table };
    let fills_in = templates::check(&spec, &marks, section.problems);
    address::check(&spec, &marks, fills_in, section.problems);
    (spec, needs)
}

/// A table below a service; anything else in its place is reported.
fn sub_table<'a>(
    key: &str,
    table: &'a DeTable<'a>,
    problems: &mut Problems<'_>,
) -> Option<(&'a DeTable<'a>, Range<usize>)> {
    let (key, value) = table.get_key_value(key)?;
    if let DeValue::Table(values) = value.get_ref() {
        return Some((values, key.span()));
    }
    let word = key.get_ref();
    let message = format!("`{word}` is a table, this is {}", describe(value.get_ref()));
    let report = problems.add(value.span(), code::WRONG_TYPE, message);
    match (word.as_ref(), value.get_ref()) {
        ("restart", DeValue::String(policy)) => {
            report.help(format!("write it as `restart = {{ policy = \"{}\" }}`", escape(policy)));
        }
        ("activation", DeValue::String(on)) => {
            report.help(format!("write it as `activation = {{ on = \"{}\" }}`", escape(on)));
        }
        ("stop", DeValue::String(signal)) => {
            report.help(format!("write it as `stop = {{ signal = \"{}\" }}`", escape(signal)));
        }
        ("reload", DeValue::String(_) | DeValue::Array(_)) => {
            report.help("write it as `reload = { on = [\"config.yml\"], signal = \"HUP\" }`");
        }
        _ => report.help(format!("write it as `[service.NAME.{word}]`, with its fields below")),
    }
    None
}

fn read_id(name: &Spanned<Cow<'_, str>>, section: &mut Section<'_, '_, '_>) -> ServiceId {
    let project = section.text("project");
    let text = Text { text: name.get_ref(), place: name.span() };
    let name_is_good = is_name(&text, "service", section.problems);
    let project_is_good =
        project.as_ref().is_none_or(|project| is_name(project, "project", section.problems));
    let project =
        project.as_ref().filter(|_| project_is_good).map_or(DEFAULT_PROJECT, |project| project.text);
    // A stand-in where the name is bad: the service is not used then, but the rest of it is checked.
    let name = if name_is_good { name.get_ref() } else { "unnamed" };
    ServiceId::new(project, name).expect("both were checked")
}

pub(super) fn is_name(name: &Text<'_>, what: &str, problems: &mut Problems<'_>) -> bool {
    let Err(error) = check_name(name.text) else { return true };
    let message = format!("`{}` is not a name of a {what}: {error}", escape(name.text));
    let report = problems.add(name.place.clone(), code::BAD_NAME, message);
    let words = name.text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mended = words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-");
    if check_name(&mended).is_ok() {
        report.help(format!("write it as `{mended}`"));
    }
    false
}

fn read_command(section: &mut Section<'_, '_, '_>, known: &Known<'_>) -> CommandLine {
    if section.find("command").is_none() {
        let report = section.problems.add(section.place.clone(), code::MISSING_KEY, "it has no `command`");
        report.help("say what to run, like `command = [\"node\", \"server.js\"]`");
    }
    command::read(section, known).unwrap_or(CommandLine::Argv(Vec::new()))
}

fn read_cwd(section: &mut Section<'_, '_, '_>, spec: &mut Spec, known: &Known<'_>) {
    let Some((_, value)) = section.find("cwd") else { return };
    let DeValue::Array(items) = value.get_ref() else {
        if let Some(cwd) = section.filled_text("cwd") {
            known.check(&cwd, section.problems);
            spec.cwd = cwd.text.to_owned();
        }
        return;
    };
    let (given, place) = (items.len(), value.span());
    let Some(paths) = section.texts("cwd") else { return };
    let mut good = Vec::new();
    for path in &paths {
        if path.text.trim().is_empty() {
            section.problems.add(path.place.clone(), code::EMPTY, "`cwd` has an empty path");
        } else if section.is_clean("cwd", path, Layout::OneLine) && known.check(path, section.problems) {
            good.push(path.text.to_owned());
        }
    }
    match good.pop() {
        Some(last) if good.len() + 1 == given => (spec.cwd, spec.cwd_before) = (last, Some(good)),
        None if given == 0 => _ = section.problems.add(place, code::EMPTY, "`cwd` has no paths"),
        Some(_) | None => {}
    }
}

fn read_process(section: &mut Section<'_, '_, '_>, spec: &mut Spec, known: &Known<'_>) {
    read_cwd(section, spec, known);
    if let Some(patterns) = environment::read_inherited(section) {
        spec.inherit_env = patterns.into();
    }
    if let Some(umask) = section.text("umask") {
        spec.umask = read_umask(&umask, section.problems).unwrap_or(spec.umask);
    }
    if let Some(user) = section.filled_text("user") {
        check_user(&user, section.problems);
        spec.user = Some(user.text.to_owned());
    }
    spec.stdin = section.choice("stdin").unwrap_or(spec.stdin);
    spec.nice = section.integer("nice").and_then(|value| value.try_into().ok());
    spec.oom_score_adj = section.integer("oom_score_adj").and_then(|value| value.try_into().ok());
}

fn read_umask(text: &Text<'_>, problems: &mut Problems<'_>) -> Option<u32> {
    let digits = text.text.bytes().all(|byte| matches!(byte, b'0'..=b'7')) && text.text.len() <= 4;
    let mask = digits.then(|| u32::from_str_radix(text.text, 8).ok()).flatten().filter(|mask| *mask <= 0o777);
    if mask.is_none() {
        let message = format!("`{}` is not a file mode creation mask", escape(text.text));
        problems.add(text.place.clone(), code::BAD_UMASK, message).help("write octal digits, like \"022\"");
    }
    mask
}

fn check_user(user: &Text<'_>, problems: &mut Problems<'_>) {
    // What passwd(5) cannot hold; whether there is such a user is found out when it is needed.
    let is_bad = |c: char| c == ':' || c == '/' || c.is_whitespace();
    if user.text.starts_with('-') || user.text.contains(is_bad) || user.text.len() > 256 {
        let message = format!("`{}` is not a name of a user", escape(user.text));
        problems.add(user.place.clone(), code::BAD_USER, message);
    }
}

fn read_url<'a>(section: &mut Section<'a, '_, '_>, spec: &mut Spec, known: &Known<'_>) -> Option<Text<'a>> {
    let url = section.filled_text("url")?;
    known.check(&url, section.problems);
    spec.url = Some(url.text.to_owned());
    Some(url)
}

fn read_rest(section: &mut Section<'_, '_, '_>, spec: &mut Spec, known: &Known<'_>) {
    spec.state = section.choice("state").unwrap_or(spec.state);
    spec.ttl = section.duration("ttl");
    spec.start_settle = section.duration("start_settle").unwrap_or(spec.start_settle);
    spec.description = section.text("description").map(|text| text.text.to_owned()).unwrap_or_default();
    spec.labels = environment::read_labels(section);
    spec.attrs = environment::read_attrs(section, known);
}

fn read_restart(mut section: Section<'_, '_, '_>) -> Restart {
    let default = Restart::default();
    let codes = section.integers("success_codes", 0, 255);
    let codes = codes.map(|codes| codes.into_iter().map(|code| code as i32).collect());
    let signals = section.texts("success_signals").unwrap_or_default();
    let restart = Restart {
        policy: section.choice("policy").unwrap_or(default.policy),
        success_codes: codes.unwrap_or(default.success_codes),
        success_signals: signals.iter().filter_map(|name| section.signal_of(name)).collect(),
        backoff: section.duration("backoff").unwrap_or(default.backoff),
        backoff_factor: section.number("backoff_factor").unwrap_or(default.backoff_factor),
        backoff_max: section.duration("backoff_max").unwrap_or(default.backoff_max),
        max_failures: read_u32(&mut section, "max_failures").unwrap_or(default.max_failures),
        window: section.duration("window").unwrap_or(default.window),
        stable_after: section.duration("stable_after").unwrap_or(default.stable_after),
    };
    if restart.backoff > restart.backoff_max {
        let place = section.find("backoff").map_or(section.place.clone(), |(_, value)| value.span());
        let message = "`restart.backoff` is longer than `restart.backoff_max`";
        section.problems.add(place, code::CONFLICTING_KEYS, message).help("raise `backoff_max` as well");
    }
    restart
}

/// An integer whose range in the table of fields is within that of the type.
pub(super) fn read_u32(section: &mut Section<'_, '_, '_>, key: &str) -> Option<u32> {
    section.integer(key).and_then(|value| value.try_into().ok())
}

fn read_stop(section: &mut Section<'_, '_, '_>, known: &Known<'_>) -> Stop {
    let default = Stop::default();
    let signal = section.signal("signal").unwrap_or(default.signal);
    if signal.suspends() {
        let place = section.find("signal").map_or(section.place.clone(), |(_, value)| value.span());
        let report =
            section.problems.add(place, code::BAD_SIGNAL, format!("{signal} suspends, and ends nothing"));
        report.help("use a signal that asks to end, like \"TERM\", \"INT\" or \"QUIT\"");
    }
    Stop {
        signal,
        signal_to: section.choice("signal_to").unwrap_or(default.signal_to),
        grace: section.duration("grace").unwrap_or(default.grace),
        command: command::read(section, known),
    }
}

/// With less nothing is executed: the kernel kills whoever tries.
const LEAST_MEMORY: u64 = 1 << 20;

fn read_limits(mut section: Section<'_, '_, '_>) -> Limits {
    let cpu = section.duration("cpu");
    if let (Some(limit), Some((_, value))) = (cpu, section.find("cpu"))
        && limit.subsec_millis() != 0
    {
        let message = "`limits.cpu` takes whole seconds";
        section.problems.add(value.span(), code::DURATION_OUT_OF_RANGE, message);
    }
    let memory_max = section.size("memory_max");
    if memory_max.is_some_and(|bytes| bytes < LEAST_MEMORY)
        && let Some((_, value)) = section.find("memory_max")
    {
        let message = "`limits.memory_max` takes sizes from 1MiB: with less nothing can be executed";
        section.problems.add(value.span(), code::OUT_OF_RANGE, message);
    }
    Limits {
        nofile: section.count("nofile"),
        nproc: section.count("nproc"),
        core: section.size("core"),
        fsize: section.size("fsize"),
        memlock: section.size("memlock"),
        stack: section.size("stack"),
        address_space: section.size("address_space"),
        cpu,
        memory_max,
        cpu_max: section.number("cpu_max").map(|cpus| (cpus * 1_000.0).round() as u32),
        pids_max: section.count("pids_max"),
    }
}

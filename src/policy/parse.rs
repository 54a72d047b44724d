//! The text of `reconcile.toml` to a [`Config`], with every problem at its place.
//!
//! Unknown keys are errors: a misspelt rule would be no rule. Called by `host::config_files` and by tests.

use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::builtin;
use super::code;
use super::config::{
    Cap, Config, Logs, OnExecAway, OnExit, PortRange, Ports, Prune, Requirement, Rules, SELF,
};
use super::executable::ExecEntry;
use super::reader::{self, Fault, Reader, Section};
use crate::manifest::{Problem, escape};

/// Reads a configuration. With a problem of severity `Invalid` the result is not to be used.
pub fn parse_config(text: &str) -> (Config, Vec<Problem>) {
    let mut reader = Reader::new(text);
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            reader.add(error.span().unwrap_or(0..0), Fault::new(code::SYNTAX, error.message()));
            return (Config::default(), reader.finish());
        }
    };
    let mut top = Section::new(&mut reader, "", &table);
    let config = Config {
        policy: top.table("policy", "policy", rules).unwrap_or_default(),
        logs: top.table("logs", "logs", logs).unwrap_or_default(),
        prune: top.table("prune", "prune", prune).unwrap_or_default(),
        ports: top.table("ports", "ports", ports).unwrap_or_default(),
        on_exit: top.get("on_exit", reader::choice(&[("stop", OnExit::Stop), ("leave", OnExit::Leave)])),
        resync: top.get("resync", reader::positive_duration),
        ceiling: None,
    };
    top.finish();
    (config, reader.finish())
}

fn rules(section: &mut Section<'_, '_, '_>) -> Rules {
    let preset = section.get("preset", reader::choice(&[("agents", builtin::agents as fn() -> Rules)]));
    let base = preset.map_or_else(Rules::default, |preset| preset());
    let mut caps = base.caps;
    caps.extend(section.table("caps", "policy.caps", own_caps).unwrap_or_default());
    let rules = Rules {
        executables: section.list("executables", executable).or(base.executables),
        search_path: section.list("search_path", directory).or(base.search_path),
        env_keys: section.list("env_keys", reader::text).map(FromIterator::from_iter).or(base.env_keys),
        env_prefixes: section.list("env_prefixes", reader::text).or(base.env_prefixes),
        caps,
        max_ttl: section.get("max_ttl", reader::positive_duration).or(base.max_ttl),
        default_ttl: section.get("default_ttl", reader::positive_duration).or(base.default_ttl),
        max_lease: section.get("max_lease", reader::positive_duration).or(base.max_lease),
        max_health_interval: section
            .get("max_health_interval", reader::positive_duration)
            .or(base.max_health_interval),
        max_start_timeout: section
            .get("max_start_timeout", reader::positive_duration)
            .or(base.max_start_timeout),
        require: section
            .list("require", reader::choice(&Requirement::CHOICES))
            .map(FromIterator::from_iter)
            .or(base.require),
        allow_shell: section.get("allow_shell", reader::boolean).or(base.allow_shell),
        allow_priority: section.get("allow_priority", reader::boolean).or(base.allow_priority),
        min_port: section.get("min_port", small_port).or(base.min_port),
        users: section.list("users", user).map(FromIterator::from_iter).or(base.users),
        on_exec_away: section
            .get(
                "on_exec_away",
                reader::choice(&[("report", OnExecAway::Report), ("stop", OnExecAway::Stop)]),
            )
            .or(base.on_exec_away),
    };
    if let (Some(default), Some(max)) = (rules.default_ttl, rules.max_ttl)
        && default > max
    {
        let message = "`default_ttl` is longer than `max_ttl`: no manifest without a TTL would pass";
        section.fault("default_ttl", Fault::new(code::CONFLICTING_KEYS, message));
    }
    rules
}

fn own_caps(section: &mut Section<'_, '_, '_>) -> Vec<(Cap, u64)> {
    Cap::ALL.iter().filter_map(|(cap, key)| Some((*cap, section.get(key, reader::count)?))).collect()
}

fn logs(section: &mut Section<'_, '_, '_>) -> Logs {
    Logs { max_size: section.get("max_size", reader::size), keep: section.get("keep", small_count) }
}

fn prune(section: &mut Section<'_, '_, '_>) -> Prune {
    Prune {
        delay: section.get("delay", reader::duration),
        guard_min: section.get("guard_min", |value| reader::count(value).map(|count| count as usize)),
        max_fraction: section.get("max_fraction", reader::fraction),
    }
}

fn ports(section: &mut Section<'_, '_, '_>) -> Ports {
    Ports { range: section.get("range", port_range) }
}

fn port_range(value: &DeValue<'_>) -> Result<PortRange, Fault> {
    let text = reader::text(value)?;
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let parts = text.split_once('-').and_then(|(first, last)| Some((port(first)?, port(last)?)));
    let range = parts.filter(|(first, last)| first <= last);
    range.map(|(first, last)| PortRange { first, last }).ok_or_else(|| {
        Fault::new(code::OUT_OF_RANGE, format!("`{}` is not a range of ports", escape(&text)))
            .help("write the first and the last, like \"37100-37900\"")
    })
}

fn small_port(value: &DeValue<'_>) -> Result<u16, Fault> {
    let port = reader::count(value)?;
    u16::try_from(port).map_err(|_| Fault::new(code::OUT_OF_RANGE, "a port is at most 65535"))
}

fn small_count(value: &DeValue<'_>) -> Result<u32, Fault> {
    const MAX: u64 = 1000;
    let count = reader::count(value)?;
    u32::try_from(count)
        .ok()
        .filter(|count| u64::from(*count) <= MAX)
        .ok_or_else(|| Fault::new(code::OUT_OF_RANGE, format!("it is at most {MAX}")))
}

fn executable(value: &DeValue<'_>) -> Result<ExecEntry, Fault> {
    let bad = |why: String| Fault::new(code::BAD_EXECUTABLE, why).help(EXECUTABLE_HELP);
    match value {
        DeValue::String(text) => ExecEntry::parse(text)
            .map_err(|why| bad(format!("`{}` is not an executable: {why}", escape(text)))),
        DeValue::Table(table) => pin(table).map_err(|fault| fault.help(EXECUTABLE_HELP)),
        other => Err(reader::wrong_type("a string, or `{ path, blake3 }`", other)),
    }
}

const EXECUTABLE_HELP: &str = "an executable is a name (`node`), an absolute path, an absolute pattern \
    (`/opt/*/bin/node`), `@default`, `@agents`, or `{ path = \"/…\", blake3 = \"…\" }`";

fn pin(table: &DeTable<'_>) -> Result<ExecEntry, Fault> {
    if let Some((key, _)) = table.iter().find(|(key, _)| !matches!(key.get_ref().as_ref(), "path" | "blake3"))
    {
        return Err(Fault::new(
            code::UNKNOWN_KEY,
            format!("there is no key `{}` in a pin", escape(key.get_ref())),
        ));
    }
    let part = |wanted: &str| {
        let value = table.iter().find(|(key, _)| key.get_ref() == wanted).map(|(_, value)| value.get_ref());
        let missing = || Fault::new(code::MISSING_KEY, format!("a pin needs `{wanted}`"));
        value.ok_or_else(missing).and_then(reader::text)
    };
    let (path, blake3) = (part("path")?, part("blake3")?);
    ExecEntry::pin(&path, &blake3)
        .map_err(|why| Fault::new(code::BAD_EXECUTABLE, format!("`{}` is not a pin: {why}", escape(&path))))
}

fn directory(value: &DeValue<'_>) -> Result<PathBuf, Fault> {
    let text = reader::text(value)?;
    let path = PathBuf::from(&text);
    if !path.is_absolute() {
        return Err(Fault::new(code::BAD_PATH, format!("`{}` is not absolute", escape(&text)))
            .help("a relative directory would be another one wherever we are started"));
    }
    if text.contains(':') {
        return Err(Fault::new(code::BAD_PATH, format!("`{}` has a `:`", escape(&text)))
            .help("services get the search path as their `PATH`, whose directories `:` divides"));
    }
    Ok(path)
}

fn user(value: &DeValue<'_>) -> Result<String, Fault> {
    let name = reader::text(value)?;
    if name.is_empty() || (name.starts_with('@') && name != SELF) {
        return Err(Fault::new(code::BAD_CHOICE, format!("`{}` is not a user", escape(&name)))
            .help(format!("write names, and `{SELF}` for manifests that name no user")));
    }
    Ok(name)
}

#[cfg(test)]
mod tests;

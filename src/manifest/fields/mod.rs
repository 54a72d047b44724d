//! Every field of a manifest, once: where it stands, what it takes, what a change of it does.
//!
//! The reading of manifests, the JSON Schema, the fingerprint, the digests, the list of what differs and the
//! test of the reference manifest all go by this table. A field that is read and not listed is reported as
//! unknown; one that is listed and not read fails the test that changes every field.

mod kind;
mod service;
mod tables;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

pub(super) use kind::Kind;
pub(super) use tables::STOPPED_AFTER;

use super::choice::Choice;
use super::demand::StopPolicy;
use super::ports::{CheckPort, Port, PortNumber};
use super::sockets::{DEFAULT_MODE, Socket};
use super::spec::{
    CommandLine, Dependency, EnvFile, Health, HealthCheck, Secret, SecretForm, SecretSource, Shell, Spec,
};
use crate::identity::ServiceId;

/// What a change of a field does to a running service; a later class includes what an earlier one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Nothing happens.
    None,
    /// Applied at once, the process is not touched.
    Live,
    /// A signal is sent.
    Reload,
    /// Stopped and started.
    Restart,
}

impl Class {
    /// The word for it in documentation.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Live => "live",
            Self::Reload => "reload",
            Self::Restart => "restart",
        }
    }
}

/// One field.
pub(super) struct Field {
    /// `command`, `health.interval`.
    pub(super) path: &'static str,
    pub(super) class: Class,
    pub(super) kind: Kind,
    /// For people; in the schema and in the reference manifest alike.
    pub(super) doc: &'static str,
    /// The value in a canonical form that a manifest could contain; `Null` where there is none.
    pub(super) value: fn(&Spec) -> Value,
}

impl Field {
    /// The key within its table.
    pub(super) fn key(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, key)| key)
    }
}

/// A table below `[service.NAME]`, or that itself.
pub(super) struct Table {
    /// `""` for the service itself.
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    pub(super) fields: &'static [Field],
    /// True if a spec, beside the baseline, is known to give nothing but defaults in it, without working out the
    /// value of each field.
    pub(super) is_default: fn(&Spec, &Spec) -> bool,
}

impl Table {
    pub(super) fn field(&self, key: &str) -> Option<&'static Field> {
        // The key stands at the same place of every path: it is not searched for, since each key of each
        // manifest comes here.
        let at = if self.name.is_empty() { 0 } else { self.name.len() + 1 };
        self.fields.iter().find(|field| &field.path[at..] == key)
    }
}

/// The service itself first.
pub(super) static TABLES: &[&Table] = &[
    &service::SERVICE,
    &tables::ACTIVATION,
    &tables::HEALTH,
    &tables::RESTART,
    &tables::STOP,
    &tables::RELOAD,
    &tables::LIMITS,
];

/// The table of this name, which must exist.
pub(super) fn table(name: &str) -> &'static Table {
    TABLES.iter().find(|table| table.name == name).expect("every table that is read is listed")
}

/// Every field with its value in a service that gives nothing but what it must.
pub(super) fn with_defaults() -> impl Iterator<Item = (&'static Field, &'static Value)> {
    defaults().1.iter().flat_map(|(table, values)| table.fields.iter().zip(values))
}

/// As [`with_defaults`], without the tables in which the service has nothing but defaults.
pub(super) fn with_defaults_beside(spec: &Spec) -> impl Iterator<Item = (&'static Field, &'static Value)> {
    let (baseline, tables) = defaults();
    let given = tables.iter().filter(|(table, _)| !(table.is_default)(spec, baseline));
    given.flat_map(|(table, values)| table.fields.iter().zip(values))
}

type Defaults = Vec<(&'static Table, Vec<Value>)>;

fn defaults() -> &'static (Spec, Defaults) {
    static DEFAULTS: LazyLock<(Spec, Defaults)> = LazyLock::new(|| {
        let baseline = Spec::baseline();
        let values = |table: &Table| table.fields.iter().map(|field| (field.value)(&baseline)).collect();
        let tables = TABLES.iter().map(|table| (*table, values(table))).collect();
        (baseline, tables)
    });
    &DEFAULTS
}

/// Every field, those of the service itself first.
pub(super) fn fields() -> impl Iterator<Item = &'static Field> {
    TABLES.iter().flat_map(|table| table.fields)
}

fn duration(value: std::time::Duration) -> Value {
    super::units::format_duration(value).into()
}

/// The words that are executed; for a shell one text, told apart by the field `shell` beside it.
fn command(command: &CommandLine) -> Value {
    match command {
        CommandLine::Argv(words) if words.is_empty() => Value::Null,
        CommandLine::Argv(words) => words.as_slice().into(),
        CommandLine::Shell { script, .. } => vec![script.as_str()].into(),
    }
}

fn shell(command: &CommandLine) -> Value {
    match command {
        CommandLine::Argv(_) => false.into(),
        CommandLine::Shell { kind: Shell::Plain, .. } => true.into(),
        CommandLine::Shell { kind: Shell::Login, .. } => "login".into(),
    }
}

fn in_health(spec: &Spec, value: impl Fn(&Health) -> Value) -> Value {
    spec.health.as_ref().map_or(Value::Null, value)
}

fn in_check(spec: &Spec, value: impl Fn(&HealthCheck) -> Value) -> Value {
    match &spec.health {
        Some(health) if health.check != Spec::baseline_check() => value(&health.check),
        _ => Value::Null,
    }
}

/// Always with the project and the condition, however it is written.
fn dependencies(depends_on: &BTreeMap<ServiceId, Dependency>) -> Value {
    if depends_on.is_empty() {
        return Value::Array(Vec::new());
    }
    let entry = |(service, dependency): (&ServiceId, &Dependency)| {
        let Dependency { condition, restart } = dependency;
        let value = serde_json::json!({ "condition": condition.word(), "restart": restart });
        (service.key().to_owned(), value)
    };
    Value::Object(depends_on.iter().map(entry).collect())
}

/// In its shortest form.
fn port(port: &Port) -> Value {
    match port {
        Port { number: PortNumber::Auto, count: 1, env: None } => "auto".into(),
        Port { number: PortNumber::Fixed(number), count: 1, env: None } => (*number).into(),
        Port { number, count, env } => {
            let (key, value) = match number {
                PortNumber::Auto => ("auto", Value::Bool(true)),
                PortNumber::Fixed(number) => ("port", (*number).into()),
            };
            let count = (*count > 1).then(|| ("count", (*count).into()));
            let env = env.as_ref().map(|env| ("env", env.as_str().into()));
            let given = [Some((key, value)), count, env].into_iter().flatten();
            Value::Object(given.map(|(key, value)| (key.to_owned(), value)).collect())
        }
    }
}

/// In its shortest form.
fn socket(socket: &Socket) -> Value {
    match socket.mode {
        DEFAULT_MODE => socket.listen.as_str().into(),
        mode => serde_json::json!({ "listen": socket.listen, "mode": format!("{mode:03o}") }),
    }
}

fn stop_policy(policy: Option<StopPolicy>) -> Value {
    match policy {
        None => Value::Null,
        Some(StopPolicy::OnRelease) => "on-release".into(),
        Some(StopPolicy::Manual) => "manual".into(),
        Some(StopPolicy::Idle(idle)) => serde_json::json!({ "idle": duration(idle) }),
    }
}

fn check_port(port: &CheckPort) -> Value {
    match port {
        CheckPort::Number(number) => (*number).into(),
        CheckPort::Text(text) => text.as_str().into(),
    }
}

/// Always with whether it may be missing, however it is written.
fn env_files(files: &[EnvFile]) -> Value {
    let entry =
        |EnvFile { path, optional }: &EnvFile| serde_json::json!({ "path": path, "optional": optional });
    Value::Array(files.iter().map(entry).collect())
}

/// Always with whether it may be missing. How long and how often a command is run is no part of what runs.
fn secrets(secrets: &BTreeMap<String, Secret>) -> Value {
    let entry = |(name, Secret { source, optional, given_as }): (&String, &Secret)| {
        let (kind, value): (_, Value) = match source {
            SecretSource::File(path) => ("file", path.as_str().into()),
            SecretSource::Env(name) => ("env", name.as_str().into()),
            SecretSource::Derived(label) => ("derive", label.as_str().into()),
            SecretSource::Command(command) => ("command", command.argv.clone().into()),
        };
        let mut entry = serde_json::json!({ kind: value, "optional": optional });
        if *given_as == SecretForm::File {
            entry["as"] = "file".into();
        }
        (name.clone(), entry)
    };
    Value::Object(secrets.iter().map(entry).collect())
}

/// A list whose order and repetitions mean nothing.
fn set<T: Into<Value> + Ord + Clone>(items: &[T]) -> Value {
    let mut distinct: Vec<&T> = items.iter().collect();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.into_iter().cloned().map(Into::into).collect::<Vec<Value>>().into()
}

#[cfg(test)]
mod tests;

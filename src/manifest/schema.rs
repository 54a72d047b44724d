//! The JSON Schema of manifests, for editors: made of the table of fields.
//!
//! Draft 7, the newest that taplo, the TOML language server, reads. It refuses what a type, a word or a range
//! refuses; rules between fields are for `reconcile validate`.

use serde_json::{Map, Value, json};

use super::choice::words;
use super::fields::{Field, Kind, TABLES, Table, with_defaults};
use super::ports::MAX_COUNT;
use super::spec::{Condition, SignalName};
use crate::identity::MAX_NAME_BYTES;

const NAME: &str = "^[a-z0-9]+(-[a-z0-9]+)*$";
const SERVICE: &str = "^([a-z0-9]+(-[a-z0-9]+)*/)?[a-z0-9]+(-[a-z0-9]+)*$";
const DURATION: &str = "^\\s*([0-9]+(\\.[0-9]+)?\\s*[a-z]+\\s*)+$";
/// Of what stands below a field with holes, only `validate` tells whether it is right.
const HOLE: &str = "\\{\\{ *vars\\.";
const SIZE: &str = "^([0-9]+ *([kMGT]?B|[KMGT]iB)|unlimited)$";

/// The schema as a document.
pub fn schema() -> Value {
    let definitions: Map<String, Value> =
        PURPOSES.iter().flat_map(|purpose| TABLES.iter().map(|table| definition(table, *purpose))).collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "reconcile manifest",
        "description": "Services that reconcile keeps running.",
        "type": "object",
        "properties": {
            "service": {
                "description": "The services, by name.",
                "type": "object",
                "propertyNames": { "pattern": NAME, "maxLength": MAX_NAME_BYTES },
                "additionalProperties": reference("service"),
            },
            "template": {
                "description": "Services with holes, `{{vars.NAME}}`, by name: what services are made of.",
                "type": "object",
                "propertyNames": { "pattern": NAME, "maxLength": MAX_NAME_BYTES },
                "additionalProperties": reference("template"),
            },
        },
        "additionalProperties": false,
        "definitions": definitions,
    })
}

/// What a table is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Service,
    /// Anything may be missing, and be a hole.
    Template,
}

const PURPOSES: [Purpose; 2] = [Purpose::Service, Purpose::Template];

fn definition_name(table: &Table, purpose: Purpose) -> String {
    match (purpose, table.name) {
        (Purpose::Service, "") => "service".to_owned(),
        (Purpose::Service, name) => name.to_owned(),
        (Purpose::Template, "") => "template".to_owned(),
        (Purpose::Template, name) => format!("template-{name}"),
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/definitions/{name}") })
}

fn definition(table: &Table, purpose: Purpose) -> (String, Value) {
    let mut properties: Map<String, Value> =
        table.fields.iter().map(|field| (field.key().to_owned(), property(field, purpose))).collect();
    let mut rules = Map::new();
    if table.name.is_empty() {
        for below in TABLES.iter().filter(|below| !below.name.is_empty()) {
            properties.insert(below.name.to_owned(), sub_table(below, purpose));
        }
        properties.insert("vars".to_owned(), vars());
        if purpose == Purpose::Service {
            properties.insert("template".to_owned(), template());
            rules.insert(
                "anyOf".to_owned(),
                json!([{ "required": ["command"] }, { "required": ["template"] }]),
            );
        }
    }
    rules.insert("description".to_owned(), table.doc.into());
    rules.insert("type".to_owned(), "object".into());
    rules.insert("properties".to_owned(), properties.into());
    rules.insert("additionalProperties".to_owned(), false.into());
    (definition_name(table, purpose), rules.into())
}

fn template() -> Value {
    json!({
        "description": "The `[template.NAME]` that it is made of, of this file or of another one of the same root. Its \
                        own keys win, in tables key by key. (change: none)",
        "type": "string",
        "pattern": NAME,
    })
}

fn vars() -> Value {
    json!({
        "description": "What `{{vars.NAME}}` is filled in with, in any value of the template and of the service: \
                        strings, integers, booleans. (change: none)",
        "type": "object",
        "propertyNames": { "pattern": "^[A-Za-z0-9_-]+$" },
        "additionalProperties": { "anyOf": [
            { "type": "string" },
            { "type": "integer" },
            { "type": "boolean" },
        ] },
    })
}

fn sub_table(table: &Table, purpose: Purpose) -> Value {
    let reference = reference(&definition_name(table, purpose));
    match (table.name, purpose) {
        ("health", Purpose::Service) => json!({
            "description": table.doc,
            "anyOf": [{ "type": "string", "pattern": "^/" }, reference],
        }),
        ("health", Purpose::Template) => json!({
            "description": table.doc,
            "anyOf": [{ "type": "string" }, reference],
        }),
        _ => reference,
    }
}

fn property(field: &'static Field, purpose: Purpose) -> Value {
    let mut property = Map::new();
    property
        .insert("description".to_owned(), format!("{} (change: {})", field.doc, field.class.word()).into());
    let accepted = accepted(&field.kind);
    match (purpose, accepted) {
        (Purpose::Template, accepted) => {
            property.insert("anyOf".to_owned(), json!([accepted, { "type": "string", "pattern": HOLE }]));
        }
        (Purpose::Service, Value::Object(accepted)) => property.extend(accepted),
        (Purpose::Service, _) => {}
    }
    let default = with_defaults().find(|(other, _)| other.path == field.path).map(|(_, default)| default);
    if let Some(default) = default.filter(|default| !default.is_null()) {
        property.insert("default".to_owned(), default.clone());
    }
    Value::Object(property)
}

fn accepted(kind: &Kind) -> Value {
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    match kind {
        Kind::Text { pattern: Some(pattern), .. } => json!({ "type": "string", "pattern": pattern }),
        Kind::Text { pattern: None, .. } => json!({ "type": "string" }),
        Kind::Choice(words) => json!({ "type": "string", "enum": words() }),
        Kind::Command { may_be_none } => json!({ "anyOf": [
            { "type": "string", "minLength": 1 },
            { "type": "array", "items": { "type": "string" }, "minItems": if *may_be_none { 0 } else { 1 } },
        ] }),
        Kind::Ports => ports(),
        Kind::Sockets => sockets(),
        Kind::CheckPort => json!({ "anyOf": [port(), { "type": "string", "minLength": 1 }] }),
        Kind::Shell => json!({ "enum": [false, true, "login"] }),
        Kind::Texts => texts,
        Kind::TextTable => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Kind::AnyTable => json!({ "type": "object" }),
        Kind::Duration { .. } => json!({ "type": "string", "pattern": DURATION }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Number { min, max } => json!({ "type": "number", "minimum": min, "maximum": max }),
        Kind::Count => json!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "unlimited" }] }),
        Kind::Size => {
            json!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": SIZE }] })
        }
        Kind::Signal => signal(),
        Kind::Signals => json!({ "type": "array", "items": signal() }),
        Kind::Directory => {
            let path = json!({ "type": "string", "minLength": 1 });
            json!({ "anyOf": [path, { "type": "array", "items": path, "minItems": 1 }] })
        }
        Kind::Dependencies => dependencies(),
        Kind::EnvFiles => env_files(),
        Kind::Secrets => secrets(),
        Kind::StopPolicy => stop_policy(),
        Kind::ExitCodes => {
            json!({ "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": 255 } })
        }
    }
}

fn env_files() -> Value {
    let path = json!({ "type": "string", "minLength": 1 });
    let full = json!({
        "type": "object",
        "properties": { "path": path, "optional": { "type": "boolean" } },
        "required": ["path"],
        "additionalProperties": false,
    });
    json!({ "anyOf": [path, { "type": "array", "items": { "anyOf": [path, full] } }] })
}

fn stop_policy() -> Value {
    json!({ "anyOf": [
        { "type": "string", "enum": ["on-release", "manual"] },
        {
            "type": "object",
            "properties": { "idle": { "type": "string", "pattern": DURATION } },
            "required": ["idle"],
            "additionalProperties": false,
        },
    ] })
}

fn secrets() -> Value {
    let of = |source: &str, value: Value| {
        json!({
            "type": "object",
            "properties": { source: value, "optional": { "type": "boolean" }, "as": { "enum": ["env", "file"] } },
            "required": [source],
            "additionalProperties": false,
        })
    };
    let words = json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 });
    let mut command = of("command", words);
    let duration = json!({ "type": "string", "pattern": DURATION });
    command["properties"]["timeout"] = duration.clone();
    command["properties"]["refresh"] = duration;
    let variable = json!({ "type": "string", "minLength": 1 });
    let label = json!({ "type": "string", "pattern": NAME, "maxLength": MAX_NAME_BYTES });
    let secret = [of("file", variable.clone()), of("env", variable), of("derive", label), command];
    json!({ "type": "object", "additionalProperties": { "anyOf": secret } })
}

fn dependencies() -> Value {
    let name = json!({ "type": "string", "pattern": SERVICE });
    let condition = json!({ "type": "string", "enum": words::<Condition>() });
    let full = json!({
        "type": "object",
        "properties": { "condition": condition, "restart": { "type": "boolean" } },
        "additionalProperties": false,
    });
    json!({ "anyOf": [
        { "type": "array", "items": name },
        {
            "type": "object",
            "propertyNames": { "pattern": SERVICE },
            "additionalProperties": { "anyOf": [condition, full] },
        },
    ] })
}

fn port() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": u16::MAX })
}

fn ports() -> Value {
    let table = json!({
        "type": "object",
        "properties": {
            "auto": { "enum": [true, false] },
            "port": port(),
            "count": { "type": "integer", "minimum": 1, "maximum": MAX_COUNT },
            "env": { "type": "string", "minLength": 1 },
        },
        "additionalProperties": false,
    });
    json!({
        "type": "object",
        "propertyNames": { "pattern": NAME, "maxLength": MAX_NAME_BYTES },
        "additionalProperties": { "anyOf": [{ "const": "auto" }, port(), table] },
    })
}

fn sockets() -> Value {
    let address = json!({ "type": "string", "minLength": 1 });
    let table = json!({
        "type": "object",
        "properties": { "listen": address, "mode": { "type": "string", "pattern": "^0?[0-7]{1,3}$" } },
        "required": ["listen"],
        "additionalProperties": false,
    });
    json!({
        "type": "object",
        "propertyNames": { "pattern": NAME, "maxLength": MAX_NAME_BYTES },
        "additionalProperties": { "anyOf": [address, table] },
    })
}

fn signal() -> Value {
    let names: Vec<&str> = SignalName::names().collect();
    let pattern = format!("^(SIG)?({}|RTMIN(\\+[0-9]{{1,2}})?|RTMAX(-[0-9]{{1,2}})?)$", names.join("|"));
    json!({ "type": "string", "pattern": pattern })
}

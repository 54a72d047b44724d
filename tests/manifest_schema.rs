//! The JSON Schema against the reader: what the one refuses for a type, a word or a range, so does the other.
//!
//! A small validator of the keywords that the schema uses; a keyword that it does not know fails, so that
//! nothing of the schema goes untested.

use reconcile::manifest::{REFERENCE, load, schema};
use regex::Regex;
use serde_json::{Map, Value};

fn is_valid(schema: &Value, root: &Value, value: &Value) -> bool {
    let rules = schema.as_object().expect("a schema is an object");
    rules.iter().all(|(keyword, rule)| obeys(keyword, rule, rules, root, value))
}

fn obeys(keyword: &str, rule: &Value, rules: &Map<String, Value>, root: &Value, value: &Value) -> bool {
    let number = |rule: &Value| rule.as_f64().expect("a bound is a number");
    let length = |rule: &Value| rule.as_u64().expect("a length is a number") as usize;
    let matches = |text: &str| {
        Regex::new(rule.as_str().expect("a pattern is a text")).expect("it compiles").is_match(text)
    };
    match keyword {
        "$schema" | "title" | "description" | "default" | "definitions" => true,
        "$ref" => {
            let pointer =
                rule.as_str().and_then(|path| path.strip_prefix('#')).expect("it is within the schema");
            is_valid(root.pointer(pointer).expect("it is there"), root, value)
        }
        "type" => match rule.as_str().expect("one type") {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            other => panic!("unknown type {other}"),
        },
        "enum" => rule.as_array().expect("a list").contains(value),
        "const" => rule == value,
        "pattern" => value.as_str().is_none_or(matches),
        "minLength" => value.as_str().is_none_or(|text| text.chars().count() >= length(rule)),
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() <= length(rule)),
        "minimum" => value.as_f64().is_none_or(|found| found >= number(rule)),
        "maximum" => value.as_f64().is_none_or(|found| found <= number(rule)),
        "minItems" => value.as_array().is_none_or(|items| items.len() >= length(rule)),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| is_valid(rule, root, item))),
        "anyOf" => rule.as_array().expect("a list").iter().any(|one| is_valid(one, root, value)),
        "required" => {
            let names = rule.as_array().expect("a list");
            names.iter().all(|name| value.get(name.as_str().expect("a key")).is_some())
        }
        "properties" => rule
            .as_object()
            .expect("by key")
            .iter()
            .all(|(key, below)| value.get(key).is_none_or(|value| is_valid(below, root, value))),
        "propertyNames" => value
            .as_object()
            .is_none_or(|entries| entries.keys().all(|key| is_valid(rule, root, &Value::from(key.as_str())))),
        "additionalProperties" => {
            let known = rules.get("properties").and_then(Value::as_object);
            let is_other = |key: &str| known.is_none_or(|known| !known.contains_key(key));
            let is_good = |value: &Value| rule.as_bool().unwrap_or_else(|| is_valid(rule, root, value));
            value.as_object().is_none_or(|entries| {
                entries.iter().filter(|(key, _)| is_other(key)).all(|(_, value)| is_good(value))
            })
        }
        other => panic!("the schema uses the keyword `{other}`, which this test does not know"),
    }
}

fn schema_accepts(text: &str) -> bool {
    let value: toml::Value = toml::from_str(text).expect("it is TOML");
    let schema = schema();
    is_valid(&schema, &schema, &serde_json::to_value(value).expect("it is JSON"))
}

fn reader_accepts(text: &str) -> bool {
    load(text).problems.is_empty()
}

const GOOD: &[&str] = &[
    "",
    "command = 'a b'",
    "command = ['a']\nshell = false",
    "command = 'a | b'\nshell = 'login'",
    "health = '/x'\nurl = 'http://h'",
    "health = { command = ['a'], expect_regex = 'x', shell = false }",
    "health.port = 65535",
    "health.log = 'listening on'",
    "health = { type = 'log', log = 'ready', start_timeout = '1s', on_unhealthy = 'report' }",
    "ports = { a = 'auto', b = 80, c = { auto = true, count = 3, env = 'C' }, d = { port = 65535 } }",
    "ports.db = 'auto'\nhealth.port = 'db'",
    "port_owner = 'any'",
    "ttl = '1h 30m'",
    "ttl = '1.5h'",
    "limits = { nofile = 'unlimited', core = 0, stack = '8 MiB' }",
    "stop = { signal = 'SIGRTMIN+2', command = [] }",
    "restart = { backoff_factor = 2, success_codes = [0, 255], success_signals = ['HUP'] }",
    "attrs = { a = [1, { b = 'c' }] }",
    "umask = '0022'",
    "project = 'my-shop'",
    "secrets = { A = { file = 'a' }, B = { env = 'B', optional = true }, C = { derive = 'webhook' } }",
    "env_file = '.env'",
    "env_file = ['.env', { path = 'local.env', optional = true }]",
    "depends_on = ['db', 'shop/cache']",
    "depends_on = { db = 'completed', 'shop/cache' = { condition = 'started', restart = true } }",
];

const BAD: &[&str] = &[
    "command = []",
    "command = ''",
    "command = 1",
    "command = ['a', 1]",
    "nope = 1",
    "health.nope = 1",
    "health = 'x'",
    "health = 1",
    "shell = 'bash'",
    "env = { A = 1 }",
    "inherit_env = 'A'",
    "stdin = 'tty'",
    "umask = '8'",
    "umask = '1000'",
    "nice = 20",
    "nice = 1.5",
    "ttl = 60",
    "ttl = '60'",
    "ttl = 'x'",
    "project = 'My'",
    "health.port = 0",
    "health.port = ''",
    "ports = 80",
    "ports = { Http = 80 }",
    "ports.http = 'any'",
    "ports.http = 0",
    "ports.http = 65536",
    "ports.http = { auto = 1 }",
    "ports.http = { port = 80, count = 101 }",
    "ports.http = { port = 80, nope = 1 }",
    "port_owner = 'me'",
    "health = { url = 'http://h', expect_status = 600 }",
    "restart = 'always'",
    "restart.policy = 'no'",
    "restart.backoff_factor = 0.5",
    "restart.success_codes = [256]",
    "restart.success_signals = ['X']",
    "stop.signal = 'term'",
    "limits.nofile = 0",
    "limits.core = '10'",
    "limits.core = '10mb'",
    "secrets = { A = 'a' }",
    "secrets = { A = {} }",
    "secrets = { A = { optional = true } }",
    "secrets = { A = { file = 'a', env = 'A' } }",
    "secrets = { A = { file = 1 } }",
    "secrets = { A = { derive = 'A B' } }",
    "secrets = { A = { file = 'a', optionl = true } }",
    "env_file = ''",
    "env_file = 1",
    "env_file = [1]",
    "env_file = [{ optional = true }]",
    "env_file = [{ path = '.env', optinal = true }]",
    "env_file = [{ path = '.env', optional = 1 }]",
    "depends_on = 'db'",
    "depends_on = ['DB']",
    "depends_on = { 'a/b/c' = 'ready' }",
    "depends_on = { db = 'healthy' }",
    "depends_on = { db = { condition = 'ready', restrat = true } }",
    "depends_on = { db = { restart = 'yes' } }",
];

fn service(fields: &str) -> String {
    let command = if fields.starts_with("command") { "" } else { "command = ['a']\n" };
    format!("[service.web]\n{command}{fields}\n")
}

#[test]
fn schema_and_reader_agree() {
    for fields in GOOD {
        let text = service(fields);
        assert!(reader_accepts(&text), "the reader refuses {fields}");
        assert!(schema_accepts(&text), "the schema refuses {fields}");
    }
    for fields in BAD {
        let text = service(fields);
        assert!(!reader_accepts(&text), "the reader accepts {fields}");
        assert!(!schema_accepts(&text), "the schema accepts {fields}");
    }
    for text in
        ["[service.Web]\ncommand = ['a']", "[services.web]\ncommand = ['a']", "service = 1", "[service.web]"]
    {
        assert!(!reader_accepts(text) && !schema_accepts(text), "{text}");
    }
}

#[test]
fn the_reference_is_valid_by_the_schema() {
    let line =
        |line: &str| line.strip_prefix("#| ").or_else(|| line.strip_prefix("#? ")).unwrap_or(line).to_owned();
    let text: String = REFERENCE.lines().map(|text| line(text) + "\n").collect();
    assert!(schema_accepts(&text));
    assert!(schema_accepts(REFERENCE));
}

#[test]
fn every_default_is_valid_where_it_stands() {
    let schema = schema();
    let tables = schema["definitions"].as_object().expect("tables by name");
    for (name, property) in tables.values().flat_map(|table| table["properties"].as_object()).flatten() {
        if let Some(default) = property.get("default") {
            assert!(is_valid(property, &schema, default), "{name}: {default}");
        }
    }
}

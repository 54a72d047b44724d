//! `manifests/reference.toml` against the code: it documents every field, with the default that the code has.

use std::collections::BTreeSet;

use reconcile::manifest::{REFERENCE, Spec, changed_fields, load, schema};
use serde_json::Value;

/// The reference with the lines of these marks uncommented.
fn uncommented(marks: &[&str]) -> String {
    let line = |line: &str| marks.iter().find_map(|mark| line.strip_prefix(mark)).unwrap_or(line).to_owned();
    REFERENCE.lines().map(|text| line(text) + "\n").collect()
}

fn specs(text: &str) -> Vec<Spec> {
    let loaded = load(text);
    assert_eq!(loaded.problems, []);
    loaded.services.into_iter().map(|declared| declared.spec).collect()
}

/// `service` or a table below it, from the schema.
fn fields_of(table: &str) -> Vec<(String, Value)> {
    let schema = schema();
    let properties = schema["definitions"][table]["properties"].as_object().expect("it is a table").clone();
    properties.into_iter().filter(|(_, property)| property.get("$ref").is_none()).collect()
}

const TABLES: [&str; 7] = ["service", "activation", "health", "restart", "stop", "reload", "limits"];

/// Table, key and class of each field that the reference shows, with the comment above it.
fn shown() -> Vec<(String, String, String, String)> {
    let mut shown = Vec::new();
    let mut table = String::new();
    let mut comment = String::new();
    for line in REFERENCE.lines() {
        let Some(text) = line.strip_prefix("#| ").or_else(|| line.strip_prefix("#? ")) else {
            comment.push_str(line.trim_start_matches('#'));
            continue;
        };
        if let Some(header) = text.strip_prefix("[service.").and_then(|text| text.strip_suffix(']')) {
            table = header.split_once('.').map_or("service", |(_, table)| table).to_owned();
        } else if let (Some((key, _)), Some((_, class))) = (text.split_once(" = "), text.rsplit_once(" # ")) {
            shown.push((table.clone(), key.to_owned(), class.to_owned(), comment.clone()));
        }
        comment.clear();
    }
    shown
}

#[test]
fn as_it_stands_it_declares_nothing() {
    assert_eq!(specs(REFERENCE), []);
}

#[test]
fn its_defaults_are_those_of_the_code() {
    let reference = specs(&uncommented(&["#| "]));
    let reference = reference.iter().find(|spec| spec.id.name() == "example").expect("it declares `example`");
    let minimal = specs(
        "[service.example]\ncommand = ['node', 'server.js']\nhealth.url = 'http://127.0.0.1:8080/health'",
    );
    assert_eq!(changed_fields(reference, &minimal[0]), []);
}

#[test]
fn it_is_valid_with_all_its_examples() {
    let names: Vec<String> =
        specs(&uncommented(&["#| ", "#? "])).iter().map(|spec| spec.id.to_string()).collect();
    assert_eq!(
        names,
        ["example", "example-tcp", "example-command", "example-log", "example-notify", "example-notify-fd"]
    );
}

#[test]
fn every_field_is_shown_with_its_class_and_what_the_schema_says_of_it() {
    let shown = shown();
    for table in TABLES {
        for (key, property) in fields_of(table) {
            if property.get("anyOf").is_some_and(|any| any[1].get("$ref").is_some()) {
                continue;
            }
            let found =
                shown.iter().find(|(shown_table, shown_key, ..)| shown_table == table && *shown_key == key);
            let (.., class, comment) =
                found.unwrap_or_else(|| panic!("{table}.{key} is not in the reference"));
            let description = property["description"].as_str().expect("every field has a description");
            let (doc, of_class) = description.rsplit_once(" (change: ").expect("and a class");
            assert_eq!(of_class, format!("{class})"), "{table}.{key}");
            assert!(
                squeezed(comment).contains(&squeezed(doc)),
                "{table}.{key}: the reference does not say: {doc}"
            );
        }
    }
}

#[test]
fn a_field_with_a_default_is_marked_as_one_and_no_other() {
    let marked = |mark: &str| -> BTreeSet<String> {
        let lines = REFERENCE.lines().filter_map(|line| line.strip_prefix(mark));
        lines.filter_map(|line| line.split_once(" = ")).map(|(key, _)| key.to_owned()).collect()
    };
    let examples = marked("#? ");
    for (key, property) in TABLES.iter().flat_map(|table| fields_of(table)) {
        if property.get("default").is_some() {
            assert!(!examples.contains(&key), "`{key}` has a default and is marked as having none");
        }
    }
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

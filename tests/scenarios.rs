//! Runs every case of `tests/scenarios/*.toml`: desired, observed and now, and the plan they must give.
//!
//! To add one, copy a case, change it, leave `plan` empty and run `cargo test --test scenarios`: the failure
//! prints the plan as it is, to be judged and pasted. The keys of a case are the structs of
//! `scenarios/format.rs`, the lines of a plan are made by `scenarios/render.rs`.

#![allow(clippy::disallowed_methods, reason = "reads the scenario files")]

#[path = "scenarios/format.rs"]
mod format;
#[path = "scenarios/render.rs"]
mod render;

use std::collections::BTreeSet;
use std::path::Path;

use reconcile::plan::{Plan, plan};
use reconcile::state::Reason;

use format::{Case, File};

fn cases() -> Vec<(String, Case)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let file: File = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        cases.extend(file.case.into_iter().map(|case| (format!("{stem}: {}", case.name), case)));
    }
    assert!(cases.len() > 40, "the scenario files were not found: {} cases", cases.len());
    cases
}

fn planned(case: &Case) -> Plan {
    plan(&case.desired(), &case.observed(), &case.now())
}

/// The lines of both sides; `-` is expected and missing, `+` is there and not expected.
fn difference(expected: &str, actual: &str) -> Option<String> {
    let lines = |text: &str| text.trim().lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
    let (expected, actual) = (lines(expected), lines(actual));
    if expected == actual {
        return None;
    }
    let missing = expected.iter().filter(|line| !actual.contains(line)).map(|line| format!("  - {line}"));
    let shown = actual.iter().map(|line| {
        let mark = if expected.contains(line) { ' ' } else { '+' };
        format!("  {mark} {line}")
    });
    Some(missing.chain(shown).collect::<Vec<_>>().join("\n"))
}

#[test]
fn every_scenario_gives_its_plan() {
    let failures: Vec<String> = cases()
        .iter()
        .filter_map(|(name, case)| {
            let difference = difference(&case.plan, &render::plan(&planned(case)))?;
            Some(format!("{name}\n{difference}"))
        })
        .collect();
    assert!(failures.is_empty(), "{} scenarios differ:\n\n{}\n", failures.len(), failures.join("\n\n"));
}

#[test]
fn scenario_names_are_unique() {
    let mut seen = BTreeSet::new();
    for (name, _) in cases() {
        assert!(seen.insert(name.clone()), "two scenarios are called `{name}`");
    }
}

#[test]
fn every_reason_is_given_by_a_scenario() {
    let mut given = BTreeSet::new();
    for (_, case) in cases() {
        let plan = planned(&case);
        let steps = plan.steps.iter().map(|step| &step.reason);
        for reason in steps.chain(plan.phases.values().map(|view| &view.reason)) {
            assert_eq!(serde_json::to_value(reason).unwrap()["code"], reason.code(), "{reason:?}");
            assert!(!reason.message().is_empty() && !reason.message().ends_with('.'), "{reason:?}");
            given.insert(reason.code().to_owned());
        }
    }
    let never: Vec<String> = all_reason_codes().difference(&given).cloned().collect();
    assert!(never.is_empty(), "no scenario gives: {}", never.join(", "));
}

/// Serde names every variant when it meets one it does not know: a list that cannot be forgotten.
fn all_reason_codes() -> BTreeSet<String> {
    let error = serde_json::from_str::<Reason>(r#"{"code": "?"}"#).unwrap_err().to_string();
    let codes: BTreeSet<String> = error.split('`').skip(3).step_by(2).map(str::to_owned).collect();
    assert!(codes.contains("new") && codes.contains("gate") && codes.len() > 40, "{error}");
    codes
}

//! What is read, and what is told of what is not.

use std::time::Duration;

use super::*;
use crate::manifest::Severity;

/// Codes with line and column.
fn problems(text: &str) -> Vec<(String, usize, usize)> {
    let (_, problems) = parse_config(text);
    problems
        .into_iter()
        .map(|problem| {
            assert_eq!(problem.severity, Severity::Invalid);
            let span = problem.span.expect("every problem of a text has a place");
            (problem.code, span.line, span.column)
        })
        .collect()
}

#[test]
fn the_reference_configuration_is_read_whole() {
    let page = include_str!("../../../docs/policy.md");
    let text = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let (config, problems) = parse_config(text);
    assert_eq!(problems, []);
    for (cap, key) in Cap::ALL {
        assert!(config.policy.caps.contains_key(&cap), "docs/policy.md does not show {key}");
    }
    assert_eq!(config.resync(), Config::default().resync(), "it shows the defaults");
    assert_eq!(config.logs.max_size(), Logs::default().max_size());
    assert_eq!(config.logs.keep(), Logs::default().keep());
    assert_eq!(config.prune.delay(), Prune::default().delay());
    assert_eq!(config.prune.guard_min(), Prune::default().guard_min());
    assert_eq!(config.prune.max_fraction(), Prune::default().max_fraction());
    let Rules {
        executables,
        search_path,
        env_keys,
        env_prefixes,
        caps: _,
        max_ttl,
        default_ttl,
        max_lease,
        ..
    } = &config.policy;
    assert!(executables.is_some() && search_path.is_some() && env_keys.is_some() && env_prefixes.is_some());
    assert!(max_ttl.is_some() && default_ttl.is_some() && max_lease.is_some());
}

#[test]
fn nothing_is_a_configuration_too() {
    assert_eq!(parse_config(""), (Config::default(), Vec::new()));
}

#[test]
fn an_unknown_key_is_an_error_with_a_suggestion() {
    assert_eq!(problems("[policy]\nexecutable = []\n"), [("unknown-key".to_owned(), 2, 1)]);
    let (_, found) = parse_config("[polcy]\n[policy.caps]\nargument = 1\n[api]\n");
    let help: Vec<_> = found.iter().map(|problem| problem.help.as_deref().unwrap()).collect();
    assert_eq!(help[0], "did you mean `policy`?");
    assert_eq!(help[1], "did you mean `arguments`?");
    assert!(help[2].starts_with("the keys here are policy, logs"), "{}", help[2]);
    assert_eq!(found[1].message, "there is no key `policy.caps.argument`");
}

#[test]
fn what_is_quoted_is_short_and_to_be_seen() {
    let long = "policy".repeat(10_000);
    let (_, found) = parse_config(&format!("\"{long}\" = 1\non_exit = \"st\\u202Eop\"\n"));
    assert!(found[0].message.len() < 200 && found[0].help.as_ref().unwrap().contains("the keys here"));
    assert!(found[1].message.contains("st\\u{202e}op"), "{}", found[1].message);
}

#[test]
fn every_problem_is_told_at_its_place() {
    let text = "resync = '10'\non_exit = 'stay'\n[policy]\nexecutables = ['node', './x', 3]\nmax_ttl = '0s'\n\
        allow_shell = 'yes'\nsearch_path = ['bin']\nrequire = ['help']\nusers = ['@me']\n\
        [policy.caps]\narguments = -1\n[logs]\nmax_size = '10'\nkeep = 5000\n[prune]\nmax_fraction = 1.5\n";
    let expected = [
        ("bad-duration", 1, 10),
        ("bad-choice", 2, 11),
        ("bad-executable", 4, 24),
        ("wrong-type", 4, 31),
        ("out-of-range", 5, 11),
        ("wrong-type", 6, 15),
        ("bad-path", 7, 16),
        ("bad-choice", 8, 12),
        ("bad-choice", 9, 10),
        ("out-of-range", 11, 13),
        ("bad-size", 13, 12),
        ("out-of-range", 14, 8),
        ("out-of-range", 16, 16),
    ];
    assert_eq!(problems(text), expected.map(|(code, line, column)| (code.to_owned(), line, column)));
}

#[test]
fn what_is_not_toml_is_told_once() {
    assert_eq!(problems("[policy\nx = 1\n"), [("syntax".to_owned(), 1, 8)]);
}

#[test]
fn a_table_is_a_table_and_a_list_a_list() {
    assert_eq!(problems("policy = 1\nlogs = []\n").len(), 2);
    assert_eq!(problems("[policy]\nexecutables = 'node'\ncaps = 3\n").len(), 2);
}

#[test]
fn a_pin_says_what_it_lacks() {
    let pin = |pin: &str| {
        let (_, found) = parse_config(&format!("[policy]\nexecutables = [{pin}]\n"));
        found.into_iter().map(|problem| problem.code).collect::<Vec<_>>()
    };
    let digest = "0".repeat(64);
    assert_eq!(pin(&format!("{{ path = '/x', blake3 = '{digest}' }}")), [""; 0]);
    assert_eq!(pin("{ path = '/x' }"), ["missing-key"]);
    assert_eq!(pin("{ path = '/x', sha256 = 'x' }"), ["unknown-key"]);
    assert_eq!(pin("{ path = '/x', blake3 = 'x' }"), ["bad-executable"]);
}

#[test]
fn a_preset_is_a_start_that_keys_replace() {
    let (config, found) = parse_config(
        "[policy]\npreset = 'agents'\nexecutables = ['deno']\nmax_ttl = '48h'\nrequire = []\n\
         [policy.caps]\narguments = 8\n",
    );
    assert_eq!(found, []);
    let rules = config.policy;
    assert_eq!(rules.executables, Some(vec![ExecEntry::Name("deno".into())]));
    assert_eq!(rules.max_ttl, Some(Duration::from_secs(48 * 3600)));
    assert_eq!(rules.require, Some([].into()));
    assert_eq!((rules.caps[&Cap::Arguments], rules.caps[&Cap::ServicesPerFile]), (8, 5));
    assert_eq!((rules.allow_shell, rules.on_exec_away), (Some(false), Some(OnExecAway::Stop)));
}

#[test]
fn the_agents_preset_has_its_figures() {
    let (config, _) = parse_config("[policy]\npreset = 'agents'\n");
    let rules = config.policy;
    let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
    assert_eq!((rules.default_ttl, rules.max_ttl), (minutes(240), minutes(1440)));
    assert_eq!((rules.max_health_interval, rules.max_start_timeout), (minutes(10), minutes(60)));
    let caps: Vec<_> = rules.caps.values().copied().collect();
    assert_eq!(caps, [5, 64, 500, 200, 500, 32, 1000, 2048, 1000, 500, 20]);
    let required = [Requirement::Health, Requirement::Ttl, Requirement::GitWorkdir];
    assert_eq!(rules.require, Some(required.into()));
}

#[test]
fn a_default_ttl_above_the_maximum_is_told() {
    let text = "[policy]\nmax_ttl = '1h'\ndefault_ttl = '2h'\n";
    assert_eq!(problems(text), [("conflicting-keys".to_owned(), 3, 15)]);
}

#[test]
fn sizes_and_durations_have_units() {
    let (config, found) = parse_config("resync = '1m 30s'\n[logs]\nmax_size = '512KiB'\n");
    assert_eq!(found, []);
    assert_eq!((config.resync(), config.logs.max_size()), (Duration::from_secs(90), 512 * 1024));
    for bad in ["''", "'MiB'", "'1.5MiB'", "'-1B'", "'0B'", "'99999999999GiB'", "5"] {
        assert_eq!(problems(&format!("[logs]\nmax_size = {bad}\n")).len(), 1, "{bad}");
    }
}

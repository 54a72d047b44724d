//! Properties of reading manifests: no text panics, and only what changes a service changes its digests.

use proptest::prelude::*;
use reconcile::manifest::{
    REFERENCE, Severity, Spec, Surroundings, changed_fields, fingerprint, live_digest, load, parking_digest,
    render,
};

/// Lines of one service, each good in any order and any selection.
const LINES: &[&str] = &[
    "project = 'shop'",
    "cwd = '{{name}}/{{env.PORT}}'",
    "env.PORT = '8080'",
    "env.URL = 'http://{{env.PORT}}'",
    "inherit_env = ['PATH', 'LC_*']",
    "umask = '027'",
    "nice = 3",
    "state = 'stopped'",
    "url = 'http://h:{{env.PORT}}'",
    "labels = { b = '1', a = '2' }",
    "attrs = { b = 1, a = { d = [1], c = 2 } }",
    "ttl = '4h'",
    "health.interval = '3s'",
    "health.port = 80",
    "restart.backoff = '2s'",
    "restart.max_failures = 3",
    "stop.grace = '3s'",
    "stop.command = ['echo', '{{cwd}}']",
    "limits.nofile = 1024",
    "limits.core = '1MiB'",
];

/// Lines that some of the others need.
const NEEDED: &[&str] = &["command = ['node', '{{env.PORT}}']", "env.PORT = '8080'", "health.port = 80"];

/// Nothing, or what must not count.
const PADDING: &[&str] = &["", "\n", "# a comment with [service.x] = 'y'\n", "  \t\n\n", "\r\n"];

fn text_of(lines: &[&str], padding: &[usize]) -> String {
    let mut text = "[service.web]\n".to_owned();
    for (index, line) in lines.iter().enumerate() {
        text.push_str(PADDING[padding.get(index).copied().unwrap_or(0)]);
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn spec(text: &str) -> Spec {
    let loaded = load(text);
    assert_eq!(loaded.problems, [], "{text}");
    loaded.services.into_iter().next().expect("one service is declared").spec
}

fn selected() -> impl Strategy<Value = Vec<&'static str>> {
    let others: Vec<&str> = LINES.iter().copied().filter(|line| !NEEDED.contains(line)).collect();
    let count = others.len();
    proptest::sample::subsequence(others, 0..=count).prop_map(|some| [NEEDED, &some].concat())
}

/// The reference with everything uncommented: a text that touches every field.
fn everything() -> String {
    let line =
        |line: &str| line.strip_prefix("#| ").or_else(|| line.strip_prefix("#? ")).unwrap_or(line).to_owned();
    REFERENCE.lines().map(|text| line(text) + "\n").collect()
}

/// What hostile and hasty hands type.
const TOKENS: &[&str] = &[
    "[",
    "]",
    "{",
    "}",
    "=",
    ".",
    ",",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "#",
    "\n",
    "\\",
    "\\u0000",
    "{{",
    "}}",
    "{{env.A}}",
    "{{cwd}}",
    "$",
    "-1",
    "0",
    "99999999999999999999",
    "nan",
    "true",
    "1979-05-27",
    "0s",
    "9y",
    "\u{0}",
    "\u{feff}",
    "ä",
    "\r",
    "[service.x]",
    "[[service]]",
    "service.web.env.A = '{{env.A}}'\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_comments_and_space_change_nothing(
        (lines, shuffled) in selected().prop_flat_map(|lines| (Just(lines.clone()), Just(lines).prop_shuffle())),
        padding in proptest::collection::vec(0..PADDING.len(), 0..20),
    ) {
        let one = spec(&text_of(&lines, &[]));
        let other = spec(&text_of(&shuffled, &padding));
        prop_assert_eq!(fingerprint(&one), fingerprint(&other));
        prop_assert_eq!(live_digest(&one), live_digest(&other));
        prop_assert_eq!(parking_digest(&one), parking_digest(&other));
        prop_assert_eq!(changed_fields(&one, &other), []);
    }

    #[test]
    fn digests_change_exactly_when_a_field_of_their_class_does(one in selected(), other in selected()) {
        let (one, other) = (spec(&text_of(&one, &[])), spec(&text_of(&other, &[])));
        let changed = changed_fields(&one, &other);
        let has = |word: &str| changed.iter().any(|(_, class)| class.word() == word);
        prop_assert_eq!(fingerprint(&one) != fingerprint(&other), has("restart"));
        prop_assert_eq!(live_digest(&one) != live_digest(&other), has("live"));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = load(&text);
    }

    #[test]
    fn no_damage_to_a_good_manifest_panics(
        edits in proptest::collection::vec((0..6000_usize, 0..40_usize, 0..TOKENS.len()), 1..8),
    ) {
        let mut text = everything();
        for (at, removed, token) in edits {
            let start = text.floor_char_boundary(at);
            let end = text.ceil_char_boundary((start + removed).min(text.len()));
            text.replace_range(start..end, TOKENS[token]);
        }
        let loaded = load(&text);
        for problem in &loaded.problems {
            let said = format!("{}{}", problem.message, problem.help.as_deref().unwrap_or_default());
            prop_assert!(!said.contains(char::is_control), "{:?}", said);
            prop_assert!(problem.span.is_none_or(|span| span.end <= text.len() && span.line > 0 && span.column > 0));
        }
        // What is accepted can be filled in.
        if loaded.problems.iter().all(|problem| problem.severity != Severity::Invalid) {
            let around = Surroundings { project_dir: std::path::Path::new("/srv"), home: None, ports: &reconcile::manifest::PortBlocks::new(), work: None, cwd: None };
            for declared in &loaded.services {
                let rendered = render(&declared.spec, &around);
                prop_assert!(rendered.argv.first().is_some_and(|word| !word.is_empty()));
                prop_assert!(rendered.cwd.is_absolute());
            }
        }
    }

    #[test]
    fn no_heap_of_tokens_panics(tokens in proptest::collection::vec(0..TOKENS.len(), 0..60)) {
        let text: String = tokens.into_iter().map(|token| TOKENS[token]).collect();
        let _ = load(&text);
    }
}

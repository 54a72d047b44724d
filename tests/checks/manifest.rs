//! A manifest may come from anybody: any text is read at a cost that its length bounds, every problem has its place
//! and its code, nothing that is shown acts on a terminal, and what is accepted means the same in any layout.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use reconcile::commands::report;
use reconcile::identity::ServiceId;
use reconcile::manifest::{
    Declared, Loaded, Problem, Rendered, Span, Spec, Surroundings, Unread, changed_fields, code, fingerprint,
    live_digest, load, parking_digest, render,
};
use reconcile::policy::{Config, Facts, Policy, Trust, parse_config};

use super::Choices;
use super::cost::allocated_by;

/// Reading a text allocates at most this much, and what is said below.
const ALLOWED_BYTES: usize = 64 << 10;

/// Most of it is for errors, names and services of a few bytes each, whose messages, tables and specs have hundreds.
const ALLOWED_BYTES_PER_BYTE: usize = 2 << 10;

/// Each pattern of a health check allocates at most this much, and a text has this many of the largest.
const ALLOWED_BYTES_PER_PATTERN: usize = 8 << 20;
const MAX_PATTERNS: usize = 16;

/// A hundred, and that there are more.
const MAX_LISTED: usize = 101;

/// Problems that are drawn of each text: that of the hundredth adds nothing, and takes as long.
const DRAWN: usize = 1;

pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let loaded = load_at_its_cost(&text);
    assert!(loaded.problems.len() <= MAX_LISTED, "{} problems are listed", loaded.problems.len());
    check_problems(&text, &loaded.problems);
    assert!(loaded.problems.iter().all(|problem| code::ALL.contains(&problem.code.as_str())));
    draw(&text, &loaded.problems);
    for declared in &loaded.services {
        check_place(&text, declared.span);
        check_spec(&declared.spec);
    }
    if loaded.problems.is_empty() && !loaded.services.is_empty() {
        check_layouts(&text, &loaded.services);
        check_torn(&text, &loaded.services, &mut Choices::of(data));
    }
    if loaded.services.is_empty() {
        let (_, problems) = parse_config(&text);
        check_problems(&text, &problems);
    }
}

/// Reads a text, and holds what that costs to its length.
pub fn load_at_its_cost(text: &str) -> Loaded {
    let (loaded, allocated) = allocated_by(|| load(text));
    // Keys may be written with escapes.
    let patterns = text.matches("expect_regex").count() + text.matches('\\').count();
    let allowed = ALLOWED_BYTES
        + text.len() * ALLOWED_BYTES_PER_BYTE
        + patterns.min(MAX_PATTERNS) * ALLOWED_BYTES_PER_PATTERN;
    let beginning = text.get(..text.floor_char_boundary(100));
    assert!(allocated <= allowed, "{} bytes of text cost {allocated} > {allowed}: {beginning:?}", text.len());
    loaded
}

fn check_problems(text: &str, problems: &[Problem]) {
    for problem in problems {
        assert!(is_code(&problem.code), "{problem:?}");
        assert!(!problem.message.is_empty() && !problem.message.contains(acts), "{problem:?}");
        let help = problem.help.as_deref().unwrap_or_default();
        assert!(help.lines().all(|line| !line.contains(acts)), "{problem:?}");
        assert!(!problem.service.as_deref().unwrap_or_default().contains(acts), "{problem:?}");
        match problem.span {
            Some(span) => check_place(text, span),
            None => assert_eq!(problem.code, code::TOO_MANY_PROBLEMS, "{problem:?}"),
        }
    }
    let places = problems.iter().filter_map(|problem| problem.span).map(|span| span.start);
    assert!(places.is_sorted(), "problems come in the order of the text");
}

fn is_code(code: &str) -> bool {
    !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

fn check_place(text: &str, span: Span) {
    assert!(span.start <= span.end, "{span:?}");
    let (before, _) =
        text.split_at_checked(span.start).expect("a place begins in the text, between characters");
    assert!(text.is_char_boundary(span.end), "{span:?} ends in the text, between characters");
    assert_eq!(span.line, before.matches('\n').count() + 1, "{span:?}");
    let line = before.rsplit('\n').next().unwrap_or_default().trim_start_matches('\u{feff}');
    assert_eq!(span.column, line.chars().count() + 1, "{span:?}");
}

/// True for what a terminal obeys, and for what turns the direction of text.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn draw(text: &str, problems: &[Problem]) {
    let path = Path::new("web\u{1b}.toml");
    let some = &problems[..problems.len().min(DRAWN)];
    let drawn = report::problems(report::Source { path, text: Some(text) }, some);
    assert!(without_colours(&drawn).lines().all(|line| !line.contains(acts)), "{drawn:?}");
    let annotations = report::annotations(path, problems, None);
    assert_eq!(annotations.lines().count(), problems.len(), "{annotations}");
    assert!(annotations.lines().all(|line| !line.contains(acts)), "{annotations:?}");
}

/// Without the sequences that the renderer itself writes.
fn without_colours(drawn: &str) -> String {
    let mut pieces = drawn.split("\u{1b}[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|c: char| !c.is_ascii_digit() && c != ';');
        let end = end.filter(|end| piece[*end..].starts_with('m'));
        plain.push_str(&piece[end.expect("only colours are written") + 1..]);
    }
    plain
}

/// What is accepted can be filled in, and judged.
fn check_spec(spec: &Spec) {
    let around = Surroundings {
        project_dir: Path::new("/srv"),
        home: None,
        ports: &reconcile::manifest::PortBlocks::new(),
        work: None,
        cwd: None,
    };
    let rendered = render(spec, &around);
    assert!(rendered.argv.first().is_some_and(|word| !word.is_empty()), "{rendered:?}");
    assert!(rendered.cwd.is_absolute(), "{rendered:?}");
    for policy in POLICIES.iter() {
        judge(policy, spec, &rendered);
    }
}

static POLICIES: LazyLock<[Policy; 2]> = LazyLock::new(|| {
    let (agents, problems) = parse_config("[policy]\npreset = 'agents'\n");
    assert_eq!(problems, []);
    [agents, Config::default()].map(|config| Policy::in_force(&config, Trust::Strangers, &[]))
});

fn judge(policy: &Policy, spec: &Spec, rendered: &Rendered) {
    let facts = Facts {
        argv: &rendered.argv,
        env: &rendered.env,
        sockets: &rendered.sockets,
        is_git_worktree: false,
    };
    for problem in policy.check(spec, &facts) {
        assert!(is_code(&problem.code) && problem.service.is_some(), "{problem:?}");
        assert!(!problem.message.contains(acts), "{problem:?}");
    }
    let health = match &rendered.health {
        Some(reconcile::manifest::RenderedCheck::Command { argv, .. }) => Some(&argv[..]),
        _ => None,
    };
    let queries = policy.queries(&rendered.argv, &rendered.cwd, health, rendered.stop_command.as_deref());
    assert!(!queries.is_empty(), "the command itself is always judged");
}

/// Comments, space and the order of keys change nothing of what an accepted text means.
fn check_layouts(text: &str, services: &[Declared]) {
    let (bom, rest) = text.split_at(text.len() - text.trim_start_matches('\u{feff}').len());
    let padded = format!("{bom}# [service.x]\n \t\r\n{rest}\n\n# command = 'x'\n");
    assert_same(services, &padded);
    if let Ok(table) = toml::from_str::<toml::Table>(text) {
        assert_same(services, &toml::to_string(&table).expect("what was read can be written"));
    }
}

fn assert_same(services: &[Declared], text: &str) {
    let other = load(text);
    assert_eq!(other.problems, [], "{text}");
    let specs = |services: &[Declared]| -> BTreeMap<ServiceId, Spec> {
        services.iter().map(|declared| (declared.spec.id.clone(), declared.spec.clone())).collect()
    };
    let (one, other) = (specs(services), specs(&other.services));
    assert!(one.keys().eq(other.keys()), "{text}");
    for (one, other) in one.values().zip(other.values()) {
        assert_eq!(fingerprint(one), fingerprint(other), "{text}");
        assert_eq!(live_digest(one), live_digest(other), "{text}");
        assert_eq!(parking_digest(one), parking_digest(other), "{text}");
        assert_eq!(changed_fields(one, other), [], "{text}");
    }
}

/// A line that somebody is typing into an accepted text takes none of its services from sight: a removal would stop it.
fn check_torn(text: &str, services: &[Declared], choices: &mut Choices) {
    let lines: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    let (before, after) = text.split_at(lines.get(choices.below(lines.len())).copied().unwrap_or(0));
    let torn = load(&format!("{before}= 1\n{after}"));
    if torn.problems.is_empty() {
        return;
    }
    let names = match &torn.unread {
        Unread::Anything => return,
        Unread::Names(names) => names.clone(),
        Unread::Nothing => BTreeSet::new(),
    };
    for id in services.iter().map(|declared| &declared.spec.id) {
        let is_read =
            torn.services.iter().any(|declared| declared.spec.id == *id) || torn.rejected.contains(id);
        assert!(is_read || names.contains(id.name()), "{id} is lost from sight: {text}");
    }
}

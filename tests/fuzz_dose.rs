//! The fuzz targets in a dose that every `cargo test` takes: the same checks, on their seeds, on what damage makes of
//! these, and on noise. CONTRIBUTING.md says how to run the targets themselves.

#![expect(clippy::disallowed_methods, reason = "seeds are files")]

mod checks;

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use reconcile::api::protocol::{Hello, Request, Response};
use reconcile::host::holder::Report;
use reconcile::host::keeper::journal::{BirthEntry, ExitEntry};
use reconcile::host::keeper::protocol as keeper;
use reconcile::manifest::code;
use reconcile::state::Record;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The files of these directories, in the order of their names.
fn seeds(directories: &[&str]) -> Vec<Vec<u8>> {
    let files = |directory: &&str| {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let mut files: Vec<_> =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.is_file());
        files.sort();
        files
    };
    directories.iter().flat_map(files).map(|file| std::fs::read(file).unwrap()).collect()
}

/// Shown as one can paste it.
struct Input(Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// What stands for something in one of the languages.
const TOKENS: &[&str] = &[
    "[",
    "]",
    "{",
    "}",
    "=",
    ":",
    ".",
    ",",
    "\"",
    "'",
    "\"\"\"",
    "#",
    "\n",
    "\r\n",
    "\\",
    "\\u0000",
    "{{",
    "}}",
    "{{env.A}}",
    "{{cwd}}",
    "$",
    "-1",
    "0",
    "1e999",
    "99999999999999999999",
    "18446744073709551615",
    "nan",
    "null",
    "true",
    "9y",
    "\0",
    "\u{1b}[31m",
    "\u{feff}",
    "\u{202e}",
    "ä",
    "[service.x]",
    "[[service]]",
    "\"code\":",
    "{\"",
    "\"pid\":1",
];

/// One thing that happens to bytes.
#[derive(Debug, Clone)]
enum Harm {
    Cut(Index),
    Flip(Index, u8),
    Remove(Index, usize),
    Insert(Index, &'static str),
    /// A piece once more, elsewhere.
    Repeat(Index, usize, Index),
}

impl Harm {
    fn befall(&self, bytes: &mut Vec<u8>) {
        let place = |index: &Index, bytes: &[u8]| index.index(bytes.len() + 1);
        let piece = |index: &Index, length: usize, bytes: &[u8]| {
            let start = place(index, bytes);
            start..(start + length).min(bytes.len())
        };
        match self {
            Self::Cut(at) => bytes.truncate(place(at, bytes)),
            Self::Flip(at, bit) => {
                let at = place(at, bytes);
                bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << bit);
            }
            Self::Remove(at, length) => drop(bytes.drain(piece(at, *length, bytes))),
            Self::Insert(at, token) => {
                let at = place(at, bytes);
                bytes.splice(at..at, token.bytes());
            }
            Self::Repeat(from, length, to) => {
                let repeated = bytes[piece(from, *length, bytes)].to_vec();
                let at = place(to, bytes);
                bytes.splice(at..at, repeated);
            }
        }
    }
}

fn harm() -> impl Strategy<Value = Harm> {
    let at = any::<Index>;
    prop_oneof![
        1 => at().prop_map(Harm::Cut),
        3 => (at(), 0..8_u8).prop_map(|(at, bit)| Harm::Flip(at, bit)),
        3 => (at(), 0..40_usize).prop_map(|(at, length)| Harm::Remove(at, length)),
        5 => (at(), select(TOKENS)).prop_map(|(at, token)| Harm::Insert(at, token)),
        2 => (at(), 0..400_usize, at()).prop_map(|(from, length, to)| Harm::Repeat(from, length, to)),
    ]
}

/// A seed that has come to harm, or noise.
fn input(directories: &[&str]) -> impl Strategy<Value = Input> {
    let harmed = (select(seeds(directories)), vec(harm(), 0..6)).prop_map(|(mut bytes, harms)| {
        harms.iter().for_each(|harm| harm.befall(&mut bytes));
        bytes
    });
    prop_oneof![6 => harmed, 1 => vec(any::<u8>(), 0..400), 1 => tokens()].prop_map(Input)
}

fn tokens() -> impl Strategy<Value = Vec<u8>> {
    vec(select(TOKENS), 0..60).prop_map(|tokens| tokens.concat().into_bytes())
}

const MANIFESTS: &[&str] = &["fuzz/seeds/manifest", "manifests"];
const JOURNALS: &[&str] = &["fuzz/seeds/ledger", "tests/fixtures/state", "tests/fixtures/state/v1"];
const KEEPER: &[&str] = &["fuzz/seeds/keeper_protocol"];
const CONTROL: &[&str] = &["fuzz/seeds/control"];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_manifest_or_has_problems(input in input(MANIFESTS)) {
        checks::manifest::check(&input.0);
    }

    #[test]
    fn any_bytes_are_a_journal_or_damaged(input in input(JOURNALS)) {
        checks::ledger::check(&input.0);
    }

    #[test]
    fn any_line_to_or_from_a_keeper_is_a_message_or_none(input in input(KEEPER)) {
        checks::keeper_protocol::check(&input.0);
    }

    #[test]
    fn any_line_on_the_control_socket_is_a_request_or_an_error(input in input(CONTROL)) {
        checks::control::check(&input.0);
    }
}

/// Texts of hostile hands, a piece again and again; `#` is a number of its own.
const PIECES: &[&str] = &[
    "a = 1\n",
    "a# = 1\n",
    "a.b# = 1\n",
    "a#.b.c = 1\n",
    "=\n",
    "'''",
    "[[service]]\n",
    "[service.x]\n",
    "[service.x#]\n",
    "service.x.env.A# = '{{env.A}}{{env.A#}}'\n",
    "service.x.env = {}\n",
    "[service.x#]\ncommand = 'a'\n",
    "[service.x#]\ncommand = 'a | b'\nhealth = '/'\nttl = 1\n",
    "[service.x#]\ncommand = 'a'\nhealth = { command = 'a', expect_regex = '\\pL{99}' }\n",
    "[service.x#]\ncommand = '{{name}}{{cwd}}{{'\ncwd = '{{name}}'\n",
    "x# = [{ a = 1 }, { a = 2 }]\n",
    "\u{feff}\u{202e}",
];

/// One value of them, between its beginning and its end.
const VALUES: &[(&str, &str, &str)] = &[
    ("a", ".a", " = 1"),
    ("[a", ".a", "]"),
    ("a = ", "[", ""),
    ("a = ", "{a=", ""),
    ("service.x.", "a", " = 1"),
    ("service.", "a", ".command = 'a'"),
    ("service.x.ttl = '", "1s ", "'"),
    ("service.x.command = '", "a ", "'"),
    ("service.x.command = '", "{{name}}", "'"),
    ("service.x.command = [", "'a',", "]"),
    ("service.x.attrs.a = [", "[1],", "]"),
    ("service.x.stop.signal = '", "T", "'"),
    ("service.x.inherit_env = [", "'A',", "]"),
    ("service.x.cwd = '{{", "a", "}}'"),
    ("service.x.env = {", "A# = 'x',", "B = 1}"),
    ("service.x.url = 'http://", "a.", "'"),
];

#[test]
fn a_long_text_costs_no_more_for_its_length_than_a_short_one() {
    let whole = PIECES.iter().map(|piece| ("", *piece, ""));
    for (beginning, piece, end) in whole.chain(VALUES.iter().copied()) {
        for length in [30_000, 200_000] {
            let pieces = (0..length / piece.len()).map(|n| piece.replace('#', &n.to_string()));
            let text = format!("{beginning}{}{end}", pieces.collect::<String>());
            checks::manifest::load_at_its_cost(&text);
        }
    }
}

/// Seeds that nothing reads any more would cover nothing; and a field that is not read is not missed by a check.
#[test]
fn every_seed_is_read_to_its_last_field() {
    fn is<T: Serialize + DeserializeOwned>(line: &[u8]) -> bool {
        let said = |value: T| serde_json::to_value(value).unwrap();
        serde_json::from_slice::<T>(line).is_ok_and(|value| said(value) == json(line))
    }
    fn json(line: &[u8]) -> serde_json::Value {
        serde_json::from_slice(line).unwrap()
    }
    let all = |directory: &str, reads: fn(&[u8]) -> bool| {
        for seed in seeds(&[directory]) {
            let unread =
                seed.trim_ascii_end().split(|&byte| byte == b'\n').filter(|line| !reads(line)).count();
            assert!(unread <= 2, "{directory}: {}", String::from_utf8_lossy(&seed));
        }
    };
    all("fuzz/seeds/ledger", |line| is::<Record>(line) || is::<BirthEntry>(line) || is::<ExitEntry>(line));
    all("fuzz/seeds/keeper_protocol", |line| {
        is::<keeper::Request>(line) || is::<keeper::Message>(line) || is::<Report>(line)
    });
    all("fuzz/seeds/control", |line| is::<Request>(line) || is::<Response>(line) || is::<Hello>(line));
    for seed in seeds(&["fuzz/seeds/manifest"]) {
        let text = String::from_utf8(seed).unwrap();
        let problems = reconcile::manifest::load(&text).problems;
        let signs = ["[service.web\n", "[policy]", "\\u001b"];
        let is_broken_on_purpose = signs.iter().any(|sign| text.contains(sign));
        assert_eq!(problems.is_empty(), !is_broken_on_purpose, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.code != code::TOO_DEEP));
    }
}

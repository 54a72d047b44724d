//! Whatever happens to the bytes of a journal: no panic, no record that was not written, and no more lost than
//! was damaged.

mod ledger_samples;

use ledger_samples::{history, journal};
use proptest::prelude::*;
use reconcile::state::{
    Damage, DamageKind, Decoded, Ledger, Record, decode_journal, encode, encode_header, encode_unknown,
};

fn kinds(decoded: &Decoded) -> Vec<DamageKind> {
    decoded.damage.iter().map(|damage| damage.what).collect()
}

/// True if `part` is in `whole`, in its order.
fn is_part_of(part: &[Record], whole: &[Record]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|record| rest.any(|other| other == record))
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|&b| b == b'\n').collect()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

#[test]
fn a_journal_comes_back_whole() {
    let records = history();
    let decoded = decode_journal(&journal(&records));
    assert_eq!(decoded.records, records);
    assert_eq!((decoded.damage, decoded.unknown), (vec![], vec![]));
    assert_eq!((decoded.next, decoded.version), (records.len() as u64 + 1, Some(1)));
}

#[test]
fn an_empty_file_is_an_empty_journal() {
    assert_eq!(decode_journal(b""), Decoded { next: 1, ..Decoded::default() });
}

#[test]
fn a_journal_cut_anywhere_yields_its_whole_lines() {
    let records = history();
    let bytes = journal(&records);
    for cut in 0..bytes.len() {
        let decoded = decode_journal(&bytes[..cut]);
        let whole = lines(&bytes[..cut]).iter().filter(|line| line.ends_with(b"\n")).count();
        assert_eq!(decoded.records, records[..whole.saturating_sub(1)], "cut at {cut}");
        let torn = cut > 0 && bytes[cut - 1] != b'\n';
        assert_eq!(kinds(&decoded), if torn { vec![DamageKind::TornTail] } else { vec![] }, "cut at {cut}");
    }
}

#[test]
fn a_flipped_bit_costs_the_lines_it_is_in() {
    let records = history();
    let bytes = journal(&records);
    for at in 0..bytes.len() {
        // `line` has the test of every bit.
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        let decoded = decode_journal(&flipped);
        assert!(is_part_of(&decoded.records, &records), "byte {at}");
        assert!(decoded.records.len() + 2 >= records.len(), "byte {at} costs at most two lines");
        assert!(!decoded.damage.is_empty(), "byte {at} is noticed");
        assert_eq!(decoded.unknown, Vec::<String>::new(), "byte {at}");
    }
}

#[test]
fn damage_names_its_place() {
    let records = history();
    let mut bytes = journal(&records);
    let second = lines(&bytes)[0].len() + lines(&bytes)[1].len();
    let length = lines(&bytes)[2].len();
    bytes[second + 5] ^= 1;
    let decoded = decode_journal(&bytes);
    assert_eq!(decoded.damage, [Damage { offset: second, bytes: length, what: DamageKind::Corrupt }]);
    assert_eq!(decoded.records.len(), records.len() - 1);
}

#[test]
fn a_missing_line_is_noticed() {
    let bytes = journal(&history());
    for missing in 1..lines(&bytes).len() - 1 {
        let mut rest = lines(&bytes);
        rest.remove(missing);
        let decoded = decode_journal(&rest.concat());
        assert_eq!(kinds(&decoded), [DamageKind::Missing], "line {missing}");
        assert_eq!(decoded.records.len(), history().len() - 1);
    }
}

#[test]
fn a_repeated_block_counts_once() {
    let bytes = journal(&history());
    let all = lines(&bytes);
    let decoded = decode_journal(&[&all[..6], &all[3..6], &all[6..]].concat().concat());
    assert_eq!(decoded.records, history());
    assert_eq!(kinds(&decoded), [DamageKind::Repeated; 3]);
}

#[test]
fn a_journal_that_is_appended_to_itself_counts_once() {
    let bytes = journal(&history());
    let twice = [&bytes[..], &bytes[..]].concat();
    let decoded = decode_journal(&twice);
    assert_eq!(decoded.records, history());
    assert!(!decoded.damage.is_empty());
    for cut in (bytes.len()..twice.len()).step_by(7) {
        assert_eq!(decode_journal(&twice[..cut]).records, history(), "the second one is cut at {cut}");
    }
}

/// As on a disk that gave back what was written to it in part.
#[test]
fn whatever_one_byte_becomes_no_record_before_its_line_is_lost_and_none_is_made_up() {
    let records = history();
    let bytes = journal(&records);
    let mut begins = 0;
    for (number, line) in lines(&bytes).into_iter().enumerate() {
        for at in begins..begins + line.len() {
            let byte = [0, b'\n', b' ', 0xff][at % 4];
            let mut changed = bytes.clone();
            changed[at] = byte;
            let decoded = decode_journal(&changed);
            let before = &records[..number.saturating_sub(1)];
            assert!(decoded.records.starts_with(before), "byte {at} became {byte}");
            assert!(is_part_of(&decoded.records, &records), "byte {at} became {byte}");
        }
        begins += line.len();
    }
}

#[test]
fn a_misplaced_block_is_put_in_its_place() {
    let bytes = journal(&history());
    let all = lines(&bytes);
    let decoded = decode_journal(&[&all[..4], &all[6..8], &all[4..6], &all[8..]].concat().concat());
    assert_eq!(decoded.records, history());
    assert_eq!(kinds(&decoded), [DamageKind::Misplaced; 2]);
}

#[test]
fn a_lost_header_is_noticed_and_costs_nothing() {
    let bytes = journal(&history());
    let decoded = decode_journal(&lines(&bytes)[1..].concat());
    assert_eq!(decoded.records, history());
    assert_eq!(kinds(&decoded), [DamageKind::NoHeader]);
}

#[test]
fn nothing_is_decoded_of_a_newer_format() {
    let newer = String::from_utf8(encode_header()).unwrap();
    let body = newer[..newer.len() - 10].replace("\"version\":1", "\"version\":2");
    // Sealed as any other line: a number is not demanded of a header.
    let check = &blake3::hash(body.as_bytes()).to_hex()[..8];
    let bytes = [format!("{body} {check}\n").as_bytes(), &encode(1, &history()[0])].concat();
    let decoded = decode_journal(&bytes);
    assert!(!decoded.format_is_known());
    assert_eq!((decoded.version, decoded.records.len()), (Some(2), 0));
}

#[test]
fn records_of_a_newer_version_are_kept_word_for_word() {
    let newer = [
        r#"{"record":"leased","service":"default/web","by":"agent-7"}"#,
        r#"{"record":"gone","service":"default/web"}"#,
    ];
    let bytes =
        [encode_header(), encode(1, &history()[0]), encode_unknown(2, newer[0]), encode_unknown(3, newer[1])]
            .concat();
    let decoded = decode_journal(&bytes);
    assert_eq!(decoded.unknown, newer);
    assert_eq!(decoded.records, history()[..1]);
    assert_eq!((decoded.next, decoded.damage.len()), (4, 0));
}

#[test]
fn fields_of_a_newer_version_are_passed_over() {
    let line = encode_unknown(1, r#"{"record":"forgotten","service":"default/web","since":"v2"}"#);
    assert_eq!(
        decode_journal(&[encode_header(), line].concat()).records,
        [Record::Forgotten { service: ledger_samples::service("web") }]
    );
}

#[test]
fn the_order_of_the_fields_does_not_matter() {
    let record = Record::Intent(Box::new(ledger_samples::intent("web", 1, 10)));
    let serde_json::Value::Object(fields) = serde_json::to_value(&record).unwrap() else {
        panic!("an object")
    };
    let backwards: serde_json::Map<_, _> = fields.into_iter().rev().collect();
    let line = encode_unknown(1, &serde_json::to_string(&backwards).unwrap());
    assert_eq!(decode_journal(&[encode_header(), line].concat()).records, [record]);
}

/// Written by version 0.1.0; must load for ever. A change that breaks this breaks every user's upgrade.
#[test]
fn the_journal_of_version_1_loads() {
    let decoded = decode_journal(include_bytes!("fixtures/state/v1/ledger.journal"));
    assert_eq!((&decoded.damage, &decoded.unknown), (&vec![], &vec![]));
    assert_eq!(decoded.records, history());
    let compacted = decode_journal(include_bytes!("fixtures/state/v1/ledger-compacted.journal"));
    assert_eq!((&compacted.damage, &compacted.unknown), (&vec![], &vec![]));
    assert_eq!(Ledger::replay(&compacted.records), Ledger::replay(&history()));
}

/// What today's code writes is what the fixtures hold: a changed form needs a new fixture beside the old one.
#[test]
fn the_form_of_version_1_is_what_is_written() {
    let compacted = journal(&Ledger::replay(&history()).snapshot());
    assert_eq!(text(&journal(&history())), text(include_bytes!("fixtures/state/v1/ledger.journal")));
    assert_eq!(text(&compacted), text(include_bytes!("fixtures/state/v1/ledger-compacted.journal")));
}

proptest! {
    #[test]
    fn any_bytes_decode_to_something(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        prop_assert_eq!(decode_journal(&bytes).records, vec![]);
    }

    /// Several wounds at once: cuts, flips, swaps of stretches.
    #[test]
    fn a_wounded_journal_yields_only_what_was_written(
        wounds in proptest::collection::vec((0..4_u8, any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6)
    ) {
        let mut bytes = journal(&history());
        for (kind, one, other) in wounds {
            let (from, to) = (one.index(bytes.len()), other.index(bytes.len()));
            let (from, to) = (from.min(to), from.max(to));
            match kind {
                0 => bytes[from] ^= 0x10,
                1 => bytes = [&bytes[..from], &bytes[to..]].concat(),
                2 => bytes = [&bytes[..to], &bytes[from..]].concat(),
                _ => bytes[from..to].fill(0),
            }
            if bytes.is_empty() {
                bytes.push(b'\n');
            }
        }
        let written = history();
        let decoded = decode_journal(&bytes);
        prop_assert!(decoded.records.iter().all(|record| written.contains(record)));
        prop_assert_eq!(decoded.unknown, Vec::<String>::new());
    }
}

//! The journals are what is left after a crash: any bytes are read as far as they verify, what was written comes
//! back, damage costs the lines it is in and no other, and nothing is read that was not written.
//!
//! An input is a journal. It is read as it is; and since no random change survives a checksum, what its lines say
//! is sealed anew and read again, whole and damaged.

use reconcile::host::keeper::journal::{BirthEntry, ExitEntry};
use reconcile::state::{
    BirthLine, Decoded, Ledger, Lines, Record, decode_journal, decode_lines, encode, encode_header,
    encode_line, encode_unknown, unknown_births,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Choices;

pub fn check(data: &[u8]) {
    check_as_it_is(data);
    let objects: Vec<&str> = objects(data).collect();
    let written = Written::of(&objects);
    let bytes = written.journal();
    assert_whole(&written, &decode_journal(&bytes));
    let mut choices = Choices::of(data);
    check_cut(&written, &bytes, choices.below(bytes.len() + 1));
    check_flip(&written, &bytes, choices.below(bytes.len() * 8));
    check_moved(&written, &bytes, &mut choices);
    check_fold(&written.records);
    let births = lines_of::<BirthEntry>(&written.unknown);
    check_lines(&births, &mut choices);
    check_births(&written.records, births);
    check_lines(&lines_of::<ExitEntry>(&written.unknown), &mut choices);
}

/// At most what verifies is read, and every byte that does not is accounted for.
fn check_as_it_is(data: &[u8]) {
    let verifying = data.split_inclusive(|&byte| byte == b'\n').filter(|line| verifies(line)).count();
    let decoded = decode_journal(data);
    let read = decoded.records.len() + decoded.unknown.len();
    assert!(read <= verifying, "{read} records of {verifying} good lines");
    assert!(decoded.format_is_known() || read == 0, "nothing is read of a newer format");
    for damage in &decoded.damage {
        assert!(damage.offset + damage.bytes <= data.len(), "{damage:?}");
    }
    assert!(decoded.damage.is_sorted_by_key(|damage| damage.offset));
    assert!(decode_lines::<BirthEntry>(data).lines.len() <= verifying);
    assert!(decode_lines::<ExitEntry>(data).lines.len() <= verifying);
    check_fold(&decoded.records);
}

/// The form of a line, said once more: `<body> <8 hex digits of blake3(body)>` and a line feed.
fn verifies(line: &[u8]) -> bool {
    let Some(line) = line.strip_suffix(b"\n") else { return false };
    let Some((rest, digits)) = line.split_last_chunk::<8>() else { return false };
    let Some(body) = rest.strip_suffix(b" ") else { return false };
    blake3::hash(body).to_hex().as_bytes()[..8] == *digits
}

/// What a journal holds that is about to be written: the lines of an input, sealed.
#[derive(Default)]
struct Written {
    lines: Vec<Vec<u8>>,
    records: Vec<Record>,
    unknown: Vec<String>,
}

/// What stands between the first and the last brace of each line.
fn objects(data: &[u8]) -> impl Iterator<Item = &str> {
    data.split(|&byte| byte == b'\n').filter_map(|line| {
        let start = line.iter().position(|&byte| byte == b'{')?;
        let end = line.iter().rposition(|&byte| byte == b'}')?;
        str::from_utf8(line.get(start..=end)?).ok()
    })
}

impl Written {
    fn of(objects: &[&str]) -> Self {
        let lines = objects.iter().zip(1..).flat_map(|(object, number)| encode_unknown(number, object));
        let as_they_are = decode_journal(&encode_header().into_iter().chain(lines).collect::<Vec<_>>());
        let mut records = as_they_are.records.into_iter();
        let mut unknown = as_they_are.unknown.into_iter().peekable();
        let mut written = Self::default();
        for object in objects {
            let number = written.lines.len() as u64 + 1;
            if unknown.next_if(|line| line == object).is_some() {
                assert!(serde_json::from_str::<Record>(object).is_err(), "{object} is a record");
                written.lines.push(encode_unknown(number, object));
                written.unknown.push((*object).to_owned());
                continue;
            }
            let record = records.next().expect("a line is a record, or of a kind that is not known");
            // Nobody writes a tag twice; the codec's shortcut for what is common passes over the second.
            if let Ok(read) = serde_json::from_str::<Record>(object) {
                assert_eq!(record, read, "{object}");
            }
            written.lines.push(encode(number, &record));
            written.records.push(record);
        }
        written
    }

    fn journal(&self) -> Vec<u8> {
        [encode_header(), self.lines.concat()].concat()
    }
}

fn assert_whole(written: &Written, decoded: &Decoded) {
    assert_eq!(decoded.records, written.records);
    assert_eq!(decoded.unknown, written.unknown);
    assert_eq!(decoded.damage, []);
    assert_eq!(decoded.next, written.lines.len() as u64 + 1);
}

/// Nothing is read that was not written, nor in another order.
fn assert_part_of(written: &Written, decoded: &Decoded) {
    let mut rest = written.records.iter();
    let is_part = decoded.records.iter().all(|record| rest.any(|other| other == record));
    assert!(is_part, "{:?} is not a part of {:?}", decoded.records, written.records);
    let mut rest = written.unknown.iter();
    assert!(decoded.unknown.iter().all(|line| rest.any(|other| other == line)));
}

/// Cut short, a journal keeps exactly its whole lines.
fn check_cut(written: &Written, bytes: &[u8], at: usize) {
    let decoded = decode_journal(&bytes[..at]);
    let whole = bytes[..at].iter().filter(|&&byte| byte == b'\n').count().saturating_sub(1);
    assert_eq!(decoded.records.len() + decoded.unknown.len(), whole, "cut at {at}");
    assert_eq!(decoded.records, written.records[..decoded.records.len()], "cut at {at}");
    assert_eq!(decoded.unknown, written.unknown[..decoded.unknown.len()], "cut at {at}");
    let is_torn = at > 0 && bytes[at - 1] != b'\n';
    assert_eq!(decoded.damage.len(), usize::from(is_torn), "cut at {at}");
}

/// A flipped bit costs the line it is in, or the two that it joins.
fn check_flip(written: &Written, bytes: &[u8], bit: usize) {
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    let decoded = decode_journal(&flipped);
    assert_part_of(written, &decoded);
    let lost = written.lines.len() - decoded.records.len() - decoded.unknown.len();
    assert!(lost <= 2, "bit {bit} costs {lost} lines");
    assert!(!decoded.damage.is_empty(), "bit {bit} is noticed");
}

/// Lines that are missing, doubled or out of place: what is there is read in its order, and it is noticed.
fn check_moved(written: &Written, bytes: &[u8], choices: &mut Choices) {
    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    let (one, other) = (choices.below(lines.len()), choices.below(lines.len()));
    let kind = choices.below(3);
    match kind {
        0 => drop(lines.remove(one)),
        1 => lines.insert(other, lines[one]),
        _ => lines.swap(one, other),
    }
    let decoded = decode_journal(&lines.concat());
    assert_part_of(written, &decoded);
    let read = decoded.records.len() + decoded.unknown.len();
    let lost = usize::from(kind == 0 && one > 0);
    assert_eq!(read, written.lines.len() - lost, "{kind} {one} {other}");
    let is_last = one == written.lines.len();
    // A journal that ends one line earlier is whole; nothing in it tells.
    let shows = match kind {
        0 => !is_last,
        1 => true,
        _ => one != other,
    };
    assert_eq!(!decoded.damage.is_empty(), shows, "{kind} {one} {other}: {:?}", decoded.damage);
}

/// Any records make a ledger, in whatever order; its snapshot makes the same one, also by way of the disk.
fn check_fold(records: &[Record]) {
    let mut ledger = Ledger::replay(records);
    let snapshot = ledger.snapshot();
    assert_eq!(Ledger::replay(&snapshot), ledger);
    let lines = snapshot.iter().zip(1..).flat_map(|(record, number)| encode(number, record));
    let journal: Vec<u8> = encode_header().into_iter().chain(lines).collect();
    assert_eq!(decode_journal(&journal).records, snapshot);
    for why in records.iter().filter_map(reason) {
        assert!(!why.code().is_empty());
        let _ = why.message();
    }
    let _ = ledger.texts();
    ledger.disown();
    assert!(ledger.services.values().all(|entry| entry.run.is_none()));
}

fn reason(record: &Record) -> Option<&reconcile::state::Reason> {
    match record {
        Record::Intent(intent) => Some(&intent.why),
        Record::Stopping { why, .. } | Record::GuardLatched { why, .. } => Some(why),
        _ => None,
    }
}

fn lines_of<T: DeserializeOwned>(objects: &[String]) -> Vec<T> {
    objects.iter().filter_map(|object| serde_json::from_str(object).ok()).collect()
}

/// The journals of births and exits: as the ledger's, but that lines have no numbers.
fn check_lines<T>(written: &[T], choices: &mut Choices)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let encoded: Vec<Vec<u8>> = written.iter().map(encode_line).collect();
    let bytes = encoded.concat();
    assert_decoded(&bytes, written, 0);
    if bytes.is_empty() {
        return;
    }
    let cut = choices.below(bytes.len());
    let whole = encoded.iter().scan(0, |end, line| {
        *end += line.len();
        Some(*end)
    });
    assert_decoded(&bytes[..cut], &written[..whole.filter(|end| *end <= cut).count()], 0);

    // Torn by a full disk, a line costs itself and not its successor.
    let torn = choices.below(encoded.len());
    let kept = choices.below(encoded[torn].len() - 2) + 2;
    let mut lines: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
    lines[torn] = &lines[torn][..kept];
    let Lines { lines: read, .. } = decode_lines::<T>(&lines.concat());
    let all_but_torn = written.iter().enumerate().filter(|(at, _)| *at != torn).map(|(_, line)| line);
    let is_whole = kept + 1 >= encoded[torn].len();
    assert!(is_whole || read.iter().eq(all_but_torn), "{torn} is torn after {kept}: {read:?}");

    let bit = choices.below(bytes.len() * 8);
    let mut flipped = bytes;
    flipped[bit / 8] ^= 1 << (bit % 8);
    let Lines { lines: read, .. } = decode_lines::<T>(&flipped);
    let mut rest = written.iter();
    assert!(read.iter().all(|line| rest.any(|other| other == line)), "bit {bit} makes {read:?}");
    assert!(read.len() + 2 >= written.len(), "bit {bit} costs at most two lines");
}

fn assert_decoded<T>(bytes: &[u8], written: &[T], damaged: usize)
where
    T: DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let decoded = decode_lines::<T>(bytes);
    assert_eq!(decoded.lines, written);
    assert_eq!(decoded.damaged, damaged);
}

/// Births that a ledger does not know make it good.
fn check_births(records: &[Record], births: Vec<BirthEntry>) {
    let births: Vec<BirthLine> = births
        .into_iter()
        .filter_map(|entry| match entry {
            BirthEntry::Born(line) => Some(line),
            BirthEntry::Unborn { .. } => None,
        })
        .collect();
    let ledger = Ledger::replay(records);
    let unknown = unknown_births(&ledger, &births);
    let mut mended = ledger.clone();
    for birth in unknown.values().flat_map(|unknown| &unknown.births) {
        birth.records().iter().for_each(|record| mended.apply(record));
    }
    for (service, unknown) in &unknown {
        let newest = unknown.births.last().expect("a service is named for its unknown births");
        assert!(!ledger.knows(service, &newest.nonce));
        assert!(newest.nonce != newest.intent.nonce || mended.knows(service, &newest.nonce));
    }
}

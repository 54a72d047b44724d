//! The journal of the ledger as bytes: records in, lines out, and back.
//!
//! ```text
//! {"format":"reconcile-ledger","version":1} 1f0c…
//! 1 {"record":"root","key":"r1",…} 8d21…
//! 2 {"record":"accepted",…} 90ab…
//! ```
//!
//! Each line carries its number and a checksum over both (see `line`), so that a torn, flipped, repeated,
//! misplaced or missing line is noticed. Damage costs the lines it is in and no other: what verifies is used,
//! in the order of the numbers. Decoding never panics and never yields a record that was not written.
//!
//! An older binary meets lines of a newer one as [`Decoded::unknown`] and keeps them word for word; a newer
//! *format* it must not write to at all. Called by `host::ledger_file`, which reads and writes the file; pure.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::line::{seal, unseal};
use super::{Entry, Record};
use crate::identity::ServiceId;

/// The version of the form of the lines, not of the records in them.
pub const FORMAT_VERSION: u32 = 1;

const FORMAT: &str = "reconcile-ledger";

/// The first line of every journal.
#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
}

/// What a journal holds.
#[derive(Debug, Default, PartialEq)]
pub struct Decoded {
    /// In the order they were written.
    pub records: Vec<Record>,
    /// Records of a newer version, as JSON, to be written again with [`encode_unknown`].
    pub unknown: Vec<String>,
    /// In the order of their offsets; empty if all is well.
    pub damage: Vec<Damage>,
    /// The number of the next line.
    pub next: u64,
    /// `None` without a readable header, as in an empty file.
    pub version: Option<u32>,
}

/// A part of a journal that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Of the first byte.
    pub offset: usize,
    pub bytes: usize,
    pub what: DamageKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DamageKind {
    /// Cut short by a crash or a full disk.
    #[error("the last line is torn")]
    TornTail,
    #[error("a line is corrupt")]
    Corrupt,
    #[error("a line is there twice")]
    Repeated,
    #[error("a line is out of order")]
    Misplaced,
    #[error("lines are missing")]
    Missing,
    #[error("there is no header")]
    NoHeader,
}

impl Decoded {
    /// False if a newer version uses another form of lines: nothing was decoded, and nothing may be written.
    pub fn format_is_known(&self) -> bool {
        self.version.is_none_or(|version| version <= FORMAT_VERSION)
    }
}

/// The first line of a journal.
pub fn encode_header() -> Vec<u8> {
    let header = Header { format: FORMAT.to_owned(), version: FORMAT_VERSION };
    seal(&serde_json::to_vec(&header).expect("a header is plain data"))
}

/// The line with the number `sequence`.
pub fn encode(sequence: u64, record: &Record) -> Vec<u8> {
    let json = serde_json::to_string(record).expect("a record is plain data with string keys");
    encode_unknown(sequence, &json)
}

/// A line of a newer version, again.
pub fn encode_unknown(sequence: u64, json: &str) -> Vec<u8> {
    seal(format!("{sequence} {json}").as_bytes())
}

/// Everything that can be used of the bytes of a journal.
pub fn decode_journal(bytes: &[u8]) -> Decoded {
    let mut decoder = Decoder::default();
    let mut offset = 0;
    for line in bytes.split_inclusive(|&b| b == b'\n') {
        decoder.line(offset, line);
        offset += line.len();
        if !decoder.decoded.format_is_known() {
            return decoder.decoded;
        }
    }
    decoder.finish()
}

#[derive(Default)]
struct Decoder<'a> {
    decoded: Decoded,
    lines: Vec<Line<'a>>,
}

struct Line<'a> {
    sequence: u64,
    json: &'a str,
    offset: usize,
    bytes: usize,
}

impl<'a> Decoder<'a> {
    fn line(&mut self, offset: usize, line: &'a [u8]) {
        let Some(whole) = line.strip_suffix(b"\n") else {
            return self.damage(offset, line.len(), DamageKind::TornTail);
        };
        let Some(body) = unseal(whole).and_then(|body| str::from_utf8(body).ok()) else {
            return self.damage(offset, line.len(), DamageKind::Corrupt);
        };
        if let Some((sequence, json)) = numbered(body) {
            self.lines.push(Line { sequence, json, offset, bytes: line.len() });
        } else if let Some(header) = header(body).filter(|_| offset == 0) {
            self.decoded.version = Some(header.version);
        } else {
            self.damage(offset, line.len(), DamageKind::Corrupt);
        }
    }

    fn damage(&mut self, offset: usize, bytes: usize, what: DamageKind) {
        self.decoded.damage.push(Damage { offset, bytes, what });
    }

    fn finish(mut self) -> Decoded {
        if self.decoded.version.is_none() && self.lines.first().is_some_and(|line| line.offset == 0) {
            self.damage(0, 0, DamageKind::NoHeader);
        }
        self.decoded.next = 1;
        for line in self.in_order() {
            // A number that is missing beside a damaged line is that line's.
            if line.sequence > self.decoded.next && self.decoded.damage.is_empty() {
                self.damage(line.offset, 0, DamageKind::Missing);
            }
            self.decoded.next = line.sequence.saturating_add(1);
            match parse(line.json) {
                Ok(record) => self.decoded.records.push(record),
                Err(_) => self.decoded.unknown.push(line.json.to_owned()),
            }
        }
        self.decoded.damage.sort_by_key(|damage| damage.offset);
        self.decoded
    }

    /// The lines by their numbers; those that were misplaced or repeated are noted.
    fn in_order(&mut self) -> Vec<Line<'a>> {
        let mut lines = std::mem::take(&mut self.lines);
        lines.sort_by_key(|line| line.sequence);
        lines.dedup_by(|line, before| {
            let repeated = line.sequence == before.sequence && line.json == before.json;
            if repeated {
                self.damage(line.offset, line.bytes, DamageKind::Repeated);
            }
            repeated
        });
        let mut end = 0;
        for line in &lines {
            if line.offset < end {
                self.damage(line.offset, line.bytes, DamageKind::Misplaced);
            }
            end = end.max(line.offset);
        }
        lines
    }
}

/// The two kinds that make up most of a journal are read without a detour: serde buffers the fields of an enum
/// with a tag, and 1,000 services take 16 ms instead of 11. Any other order of fields goes the common way.
fn parse(json: &str) -> serde_json::Result<Record> {
    #[derive(Deserialize)]
    struct WholeEntry {
        service: ServiceId,
        entry: Arc<Entry>,
    }
    if json.starts_with("{\"record\":\"entry\",") {
        let WholeEntry { service, entry } = serde_json::from_str(json)?;
        return Ok(Record::Entry { service, entry });
    }
    if json.starts_with("{\"record\":\"intent\",") {
        return serde_json::from_str(json).map(Record::Intent);
    }
    serde_json::from_str(json)
}

/// A number and the JSON of a record.
fn numbered(body: &str) -> Option<(u64, &str)> {
    let (sequence, json) = body.split_once(' ')?;
    Some((sequence.parse().ok()?, json))
}

fn header(body: &str) -> Option<Header> {
    serde_json::from_str(body).ok().filter(|header: &Header| header.format == FORMAT)
}

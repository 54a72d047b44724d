//! One open journal: appends whole lines or nothing.
//!
//! Knows bytes, lengths and line numbers, and not what the records mean. Called by `ledger_file`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::host::durable;
use crate::state::{DamageKind, Decoded, Ledger, Record, encode, encode_header, encode_unknown};

/// Lines that a journal may have beyond twice those of its snapshot before it is compacted: with them a small
/// ledger is compacted every few hundred changes, and a large one is never read in thrice its time.
const SPARE_LINES: u64 = 500;

/// What an append survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Our own end: it is in the page cache.
    Process,
    /// A crash of the machine: it is on disk.
    Machine,
}

/// All of the file up to `length` is whole lines.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    length: u64,
    /// The number of the next line.
    next: u64,
    /// Compacted once it has more lines.
    limit: u64,
    /// A failed append could not be cut off again.
    tail_is_torn: bool,
}

impl Journal {
    /// Puts a journal with a snapshot of `ledger`, then the lines of a newer version, in the place of `path`.
    pub(super) fn create(path: &Path, ledger: &Ledger, unknown: &[String]) -> io::Result<Self> {
        let snapshot = ledger.snapshot();
        let mut bytes = encode_header();
        let mut next = 1;
        for record in &snapshot {
            bytes.extend(encode(next, record));
            next += 1;
        }
        for json in unknown {
            bytes.extend(encode_unknown(next, json));
            next += 1;
        }
        let file = durable::replace(path, &bytes)?;
        let limit = limit_for(snapshot.len() + unknown.len());
        Ok(Self { file, length: bytes.len() as u64, next, limit, tail_is_torn: false })
    }

    /// Opens the journal at `path`, which `decoded` is read from; a torn tail is cut off.
    pub(super) fn open(path: &Path, decoded: &Decoded, ledger: &Ledger) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).open(path)?;
        let torn = decoded.damage.iter().find(|damage| damage.what == DamageKind::TornTail);
        let length = match torn {
            Some(damage) => damage.offset as u64,
            None => file.metadata()?.len(),
        };
        let least = ledger.roots.len() + ledger.files.len() + ledger.services.len() + decoded.unknown.len();
        let mut this =
            Self { file, length, next: decoded.next, limit: limit_for(least), tail_is_torn: torn.is_some() };
        this.cut_torn_tail()?;
        Ok(this)
    }

    /// An error if somebody removed or replaced the file: what is written to it, nobody would read.
    pub(super) fn check_is_at(&self, path: &Path) -> io::Result<()> {
        let (ours, there) = (self.file.metadata()?, fs::metadata(path)?);
        if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) {
            return Ok(());
        }
        Err(io::Error::other("it was replaced by another file while in use"))
    }

    /// All the records, or an error and the file as it was.
    pub(super) fn append(&mut self, records: &[Record], durability: Durability) -> io::Result<()> {
        self.cut_torn_tail()?;
        let lines: Vec<u8> =
            records.iter().zip(self.next..).flat_map(|(record, number)| encode(number, record)).collect();
        if let Err(error) = self.write(&lines, durability) {
            self.tail_is_torn = true;
            // If this fails as well, the next append tries it again before it writes.
            let _ = self.cut_torn_tail();
            return Err(error);
        }
        self.length += lines.len() as u64;
        self.next += records.len() as u64;
        Ok(())
    }

    /// One write(2), unless the disk is full or a signal came: then what is left, to learn why.
    fn write(&mut self, lines: &[u8], durability: Durability) -> io::Result<()> {
        self.file.write_all(lines)?;
        match durability {
            Durability::Process => Ok(()),
            Durability::Machine => self.file.sync_data(),
        }
    }

    fn cut_torn_tail(&mut self) -> io::Result<()> {
        if self.tail_is_torn {
            self.file.set_len(self.length)?;
            self.tail_is_torn = false;
        }
        Ok(())
    }

    /// True if it is time to compact it.
    pub(super) fn is_long(&self) -> bool {
        self.next > self.limit
    }

    /// Lets it grow as much again.
    pub(super) fn put_off_compaction(&mut self) {
        self.limit = self.limit.saturating_mul(2);
    }
}

fn limit_for(lines: usize) -> u64 {
    lines as u64 * 2 + SPARE_LINES
}

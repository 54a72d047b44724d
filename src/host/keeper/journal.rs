//! The two small journals beside the ledger: births, written by children, and exits, by the keeper and holders.
//!
//! Several processes append to each, so a line is one write(2) to an `O_APPEND` file; `state::journals` has its
//! form. Readers skip what they cannot read, and are told that there was some. Not synced: a machine that crashes ends every process the lines are about.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::sys::stat::Mode;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::identity::{Nonce, ProcessIdentity};
use crate::state::{BirthLine, Containment, ExitLine, ExitStatus, Intent, Lines, decode_lines, encode_line};
use crate::time::Stamp;

/// One line of the journal of births.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, try_from = "BirthForm")]
pub enum BirthEntry {
    Born(BirthLine),
    /// The exec after the birth failed: nothing was executed after all.
    Unborn {
        nonce: Nonce,
        unborn: String,
    },
}

/// Either line, as it is read: serde's own way with untagged lines makes a tree of each first, and every start and
/// every `status` reads all births.
#[derive(Deserialize)]
struct BirthForm {
    nonce: Nonce,
    process: Option<ProcessIdentity>,
    containment: Option<Containment>,
    intent: Option<Box<Intent>>,
    unborn: Option<String>,
}

impl TryFrom<BirthForm> for BirthEntry {
    type Error = &'static str;

    fn try_from(form: BirthForm) -> Result<Self, Self::Error> {
        let BirthForm { nonce, process, containment, intent, unborn } = form;
        match (process, containment, intent, unborn) {
            (Some(process), Some(containment), Some(intent), _) => {
                Ok(Self::Born(BirthLine { nonce, process, containment, intent }))
            }
            (_, _, _, Some(unborn)) => Ok(Self::Unborn { nonce, unborn }),
            _ => Err("neither a birth nor one that came to nothing"),
        }
    }
}

impl BirthEntry {
    pub fn nonce(&self) -> &Nonce {
        match self {
            Self::Born(line) => &line.nonce,
            Self::Unborn { nonce, .. } => nonce,
        }
    }
}

/// One line of the journal of exits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ExitEntry {
    Leader(ExitLine),
    /// A holder has no children left, and goes.
    Empty {
        nonce: Nonce,
        empty: Stamp,
    },
}

impl ExitEntry {
    fn nonce(&self) -> &Nonce {
        match self {
            Self::Leader(line) => &line.nonce,
            Self::Empty { nonce, .. } => nonce,
        }
    }
}

/// What the journal of exits says of one run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ending {
    pub leader: Option<ExitLine>,
    /// Its holder saw the last of it go.
    pub empty: bool,
}

impl Ending {
    pub fn status(&self) -> Option<ExitStatus> {
        self.leader.as_ref().map(|line| line.status)
    }
}

/// Appends one line with one write; `Err` also where only a part of it could be written.
pub fn append(file: &File, line: &impl Serialize) -> io::Result<()> {
    append_encoded(file, &encode_line(line))
}

/// As [`append`], of a line that is encoded.
pub fn append_encoded(file: &File, line: &[u8]) -> io::Result<()> {
    let written = (&mut &*file).write(line)?;
    if written == line.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
}

/// Nobody else's.
pub const MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// Opens a journal to append to it.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(MODE.bits()).open(path)
}

/// Appends to the journal of exits, never to a version of it that was just replaced.
pub fn append_exit(path: &Path, entry: &ExitEntry) -> io::Result<()> {
    loop {
        let file = open(path)?;
        rustix::fs::flock(&file, FlockOperation::LockShared)?;
        if file.metadata()?.nlink() > 0 {
            return append(&file, entry);
        }
    }
}

/// Rewrites the journal of exits with what is said of these runs. `ErrorKind::WouldBlock`: somebody writes it.
pub fn trim_exits(path: &Path, keep: &[Nonce]) -> io::Result<()> {
    let file = open(path)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let kept: Vec<ExitEntry> = read_lines(path)?
        .lines
        .into_iter()
        .filter(|entry: &ExitEntry| keep.contains(entry.nonce()))
        .collect();
    replace(path, &kept)
}

/// Puts these lines in place of a journal, in one step.
pub fn replace(path: &Path, lines: &[impl Serialize]) -> io::Result<()> {
    let new = path.with_extension("journal.new");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    for line in lines {
        append(&file, line)?;
    }
    std::fs::rename(&new, path)
}

/// An absent journal is empty.
fn read_lines<T: DeserializeOwned>(path: &Path) -> io::Result<Lines<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(decode_lines(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(decode_lines(&[])),
        Err(error) => Err(error),
    }
}

/// The births that came to something, in the order of the journal, and how much of it cannot be read.
pub fn births_in_order(path: &Path) -> io::Result<Lines<BirthLine>> {
    let Lines { lines: entries, damaged } = read_lines(path)?;
    let mut lines: Vec<BirthLine> = Vec::new();
    for entry in entries {
        match entry {
            BirthEntry::Born(line) => lines.push(line),
            BirthEntry::Unborn { nonce, .. } => lines.retain(|line| line.nonce != nonce),
        }
    }
    Ok(Lines { lines, damaged })
}

/// The births on record, by nonce; those that came to nothing are `None`.
pub fn births(path: &Path) -> io::Result<BTreeMap<Nonce, Option<BirthLine>>> {
    let mut births = BTreeMap::new();
    for entry in read_lines(path)?.lines {
        match entry {
            BirthEntry::Born(line) => births.insert(line.nonce.clone(), Some(line)),
            BirthEntry::Unborn { nonce, .. } => births.insert(nonce, None),
        };
    }
    Ok(births)
}

/// The ends on record, by nonce.
pub fn exits(path: &Path) -> io::Result<BTreeMap<Nonce, Ending>> {
    Ok(fold(BTreeMap::new(), read_lines::<ExitEntry>(path)?.lines))
}

/// Adds more entries to what is known of the runs.
pub fn fold(
    mut exits: BTreeMap<Nonce, Ending>,
    entries: impl IntoIterator<Item = ExitEntry>,
) -> BTreeMap<Nonce, Ending> {
    for entry in entries {
        let ending = exits.entry(entry.nonce().clone()).or_default();
        match entry {
            ExitEntry::Leader(line) => ending.leader = Some(line),
            ExitEntry::Empty { .. } => ending.empty = true,
        }
    }
    exits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{BootId, Pid};

    fn exit(nonce: u64, code: i32) -> ExitEntry {
        let at = Stamp { boot: BootId::new("b"), boottime_ms: 1, awake_ms: 1, wall_ms: 1 };
        ExitEntry::Leader(ExitLine {
            nonce: Nonce::from_u64(nonce),
            pid: Pid::new(100).unwrap(),
            start_ticks: 5,
            status: ExitStatus::Code(code),
            at,
        })
    }

    #[test]
    fn a_torn_line_spoils_neither_its_neighbours_nor_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exits.journal");
        append_exit(&path, &exit(1, 1)).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\n{\"nonce\":\"00").unwrap();
        append_exit(&path, &exit(2, 2)).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\n{\"nonce\"").unwrap();
        let found = exits(&path).unwrap();
        let statuses: Vec<_> = found.values().map(Ending::status).collect();
        assert_eq!(statuses, [Some(ExitStatus::Code(1)), Some(ExitStatus::Code(2))]);
    }

    #[test]
    fn trimming_keeps_what_it_is_told_to_keep() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exits.journal");
        for nonce in 0..10 {
            append_exit(&path, &exit(nonce, 0)).unwrap();
        }
        trim_exits(&path, &[Nonce::from_u64(3)]).unwrap();
        append_exit(&path, &exit(11, 0)).unwrap();
        let left: Vec<Nonce> = exits(&path).unwrap().into_keys().collect();
        assert_eq!(left, [Nonce::from_u64(3), Nonce::from_u64(11)]);
    }
}

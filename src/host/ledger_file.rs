//! The file of the ledger: replayed at start, appended to, compacted; and the accepted texts beside it.
//!
//! An append is one write(2) of all its lines. Where it does not fit, the file is cut back to what it was, so
//! that an error means nothing was written. Ordinary records are not synced: what was written survives our own
//! SIGKILL in the page cache (0.8 µs), and after a crash of the machine the boot id has changed and no process
//! of the ledger is left. What people decided must survive that too: requests and guards are synced (fdatasync,
//! 109 µs on ext4). An accepted text is not: it stands in its manifest, and waiting for the disk would delay
//! every first start.
//!
//! Compaction writes beside and renames; a reader has the old file open or the new one, never half of each.
//! The bytes are `state::codec`'s. Called by `LinuxHost` and, to read, by `status` and `plan`.

mod aside;
mod journal;
mod lost;
mod texts;

use std::fs;
use std::io;
use std::path::PathBuf;

use self::journal::{Durability, Journal};
use self::lost::{As, Look, Lost};
pub use self::lost::{How, Recovered};
use self::texts::Texts;
use super::keeper::GateError;
use super::keeper::journal::{self as journal_of_births, BirthEntry};
use super::observe::ObserveError;
use super::state_dir::{ReconcilerLock, is_restored};
use super::{LedgerUnwritable, StateLayout, failpoint};
use crate::identity::{Digest, InstanceId};
use crate::state::{Damage, DamageKind, Decoded, FORMAT_VERSION, Holder, Ledger, Record, decode_journal};

/// The ledger cannot be read, so nothing may be judged by it.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("read the ledger {path}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "read the ledger {path}: its format {found} is newer than this program, which knows {known}; \
         upgrade `reconcile`"
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("make the damaged ledger good from what runs")]
    Unseen(#[from] ObserveError),
    #[error("make the damaged ledger good from what was started")]
    Unsettled(#[from] GateError),
}

/// What was found when the ledger was opened.
#[derive(Debug, Default)]
pub struct OpenReport {
    pub damage: Vec<Damage>,
    /// The damaged file, kept for people; `None` beside damage means that it could not be mended either, and
    /// will be tried again.
    pub set_aside: Option<PathBuf>,
    /// There was none, though services were started before.
    pub missing: bool,
    /// It was put back from a copy, and may be of long ago.
    pub restored: bool,
    /// Runs that it had lost.
    pub recovered: Vec<Recovered>,
    /// Records of a newer version, as JSON: kept, and without effect.
    pub unknown: Vec<String>,
    /// The file can be read and not written: nothing may be started.
    pub unwritable: Option<LedgerUnwritable>,
}

/// An accepted text, without the lock; `None` if it is not there, or no longer what it was.
pub fn read_text(layout: &StateLayout, digest: &Digest) -> Option<String> {
    texts::read(layout, digest)
}

/// The ledger of the state directory whose lock we hold.
#[derive(Debug)]
pub struct LedgerFile {
    layout: StateLayout,
    journal: Option<Journal>,
    texts: Texts,
    /// What the journal had lost, until it is written there again.
    owed: Vec<Record>,
}

impl LedgerFile {
    /// Replays the journal, mends it where it is damaged, and makes it where there is none. What it has lost is
    /// made good from what is on record elsewhere and runs, in the same step: it is never on disk without that.
    ///
    /// A file that cannot be written is no error here: stops and reaps go on without it, and each
    /// [`append`](Self::append) tries again.
    pub fn open(
        layout: &StateLayout,
        instance: &InstanceId,
        _held: &ReconcilerLock,
    ) -> Result<(Self, Ledger, OpenReport), LedgerError> {
        let look = Look::begin(layout, instance, As::InCharge)?;
        let decoded = decode(layout)?;
        let missing = is_lost(layout, &decoded);
        let restored = is_restored(layout);
        let has_lost = missing || restored || !decoded.damage.is_empty();
        let Lost { records: owed, recovered, births } =
            look.find(&Ledger::replay(&decoded.records), has_lost)?;
        let mut this = Self { layout: layout.clone(), journal: None, texts: Texts::default(), owed };
        let ledger = this.made_good(&decoded);
        let mut report = OpenReport { missing, restored, recovered, ..OpenReport::default() };
        match this.open_journal(&decoded) {
            Ok(set_aside) => {
                report.set_aside = set_aside;
                mend_births(layout, births);
            }
            Err(source) => report.unwritable = Some(this.unwritable(source)),
        }
        report.damage = decoded.damage;
        report.unknown = decoded.unknown;
        Ok((this, ledger, report))
    }

    /// Replays the journal without its lock and without writing: for `status` and `plan`.
    ///
    /// The line that a reconciler is writing at this moment is not there yet, which is no damage.
    pub fn read(layout: &StateLayout, instance: &InstanceId) -> Result<(Ledger, OpenReport), LedgerError> {
        let look = Look::begin(layout, instance, As::Onlooker)?;
        let mut decoded = decode(layout)?;
        decoded.damage.retain(|damage| damage.what != DamageKind::TornTail);
        let missing = is_lost(layout, &decoded);
        let mut ledger = Ledger::replay(&decoded.records);
        let restored = is_restored(layout);
        let has_lost = missing || restored || !decoded.damage.is_empty();
        let Lost { records, recovered, births: _ } = look.find(&ledger, has_lost)?;
        records.iter().for_each(|record| ledger.apply(record));
        let Decoded { damage, unknown, .. } = decoded;
        let report = OpenReport { damage, unknown, missing, restored, recovered, ..OpenReport::default() };
        Ok((ledger, report))
    }

    /// Appends all the records or none. `Ok` means they survive our end; those that people decided, the
    /// machine's too.
    pub fn append(&mut self, records: &[Record]) -> Result<(), LedgerUnwritable> {
        if records.is_empty() {
            return Ok(());
        }
        failpoint::reach("ledger.append");
        self.try_append(records).map_err(|source| self.unwritable(source))?;
        failpoint::reach("ledger.appended");
        for record in records {
            if let Record::Accepted { digest, .. } = record {
                self.texts.named(digest);
            }
        }
        self.compact_if_needed();
        Ok(())
    }

    /// What it had lost was found and is not yet written again.
    pub fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Stores an accepted text, before the record that names it. Writes nothing if it is there.
    pub fn keep_text(&mut self, digest: &Digest, text: &str) -> Result<(), LedgerUnwritable> {
        failpoint::reach("text.keep");
        self.texts
            .keep(&self.layout, digest, text)
            .map_err(|source| LedgerUnwritable { path: self.layout.accepted(digest), source })?;
        failpoint::reach("text.kept");
        Ok(())
    }

    /// `None` if it is not there, or no longer what it was.
    pub fn text(&self, digest: &Digest) -> Option<String> {
        texts::read(&self.layout, digest)
    }

    /// Drops every claim to a process, for `--new-instance`; the answer is the ledger from now on. The births go
    /// first: they would make the ledger good again.
    pub fn disown(&mut self) -> Result<Ledger, LedgerUnwritable> {
        let births = self.layout.births();
        journal_of_births::replace(&births, &[] as &[BirthEntry])
            .map_err(|source| LedgerUnwritable { path: births, source })?;
        self.rewrite(Ledger::disown).map_err(|source| self.unwritable(source))
    }

    fn unwritable(&self, source: io::Error) -> LedgerUnwritable {
        LedgerUnwritable { path: self.layout.ledger(), source }
    }

    /// The ledger that the file makes, with what it has lost.
    fn made_good(&self, decoded: &Decoded) -> Ledger {
        Ledger::replay(decoded.records.iter().chain(&self.owed))
    }

    /// The answer is where a damaged file was set aside.
    fn open_journal(&mut self, decoded: &Decoded) -> io::Result<Option<PathBuf>> {
        let ledger = self.made_good(decoded);
        if is_missing(decoded) {
            return self.replace(decoded, &ledger);
        }
        if !decoded.damage.is_empty() {
            match self.replace(decoded, &ledger) {
                Ok(aside) => return Ok(aside),
                Err(error) => {
                    tracing::warn!(%error, "the damaged ledger could not be mended; it serves on as it is");
                }
            }
        }
        let mut journal = Journal::open(&self.layout.ledger(), decoded, &ledger)?;
        if !self.owed.is_empty() {
            journal.append(&self.owed, Durability::Process)?;
            self.owed.clear();
        }
        self.journal = Some(journal);
        Ok(None)
    }

    fn try_append(&mut self, records: &[Record]) -> io::Result<()> {
        let durability = if records.iter().any(was_decided_by_people) {
            self.texts.sync(&self.layout)?;
            Durability::Machine
        } else {
            Durability::Process
        };
        if self.journal.is_none() {
            let decoded = decode(&self.layout).map_err(io::Error::other)?;
            self.open_journal(&decoded)?;
        }
        let journal = self.journal.as_mut().expect("an open that succeeds leaves a journal");
        journal.check_is_at(&self.layout.ledger())?;
        journal.append(records, durability)
    }

    /// A compaction that fails is put off: the journal is as good as it was.
    fn compact_if_needed(&mut self) {
        let Some(journal) = self.journal.as_mut().filter(|journal| journal.is_long()) else { return };
        journal.put_off_compaction();
        if let Err(error) = self.rewrite(|_| ()) {
            tracing::warn!(%error, "the ledger could not be compacted; it goes on growing");
        }
    }

    /// Replaces the file by a snapshot of what it makes, changed.
    fn rewrite(&mut self, change: impl FnOnce(&mut Ledger)) -> io::Result<Ledger> {
        let decoded = decode(&self.layout).map_err(io::Error::other)?;
        let mut ledger = self.made_good(&decoded);
        change(&mut ledger);
        self.texts.sync(&self.layout)?;
        if let Some(aside) = self.replace(&decoded, &ledger)? {
            tracing::warn!(path = %aside.display(), "the ledger was damaged while in use; its old file is kept");
        }
        // What cannot be read may name a text that nothing else names.
        if decoded.damage.is_empty()
            && decoded.unknown.is_empty()
            && let Err(error) = self.texts.collect(&self.layout, &ledger.texts())
        {
            tracing::warn!(%error, "accepted texts that nothing names could not be removed");
        }
        Ok(ledger)
    }

    /// Replaces the file by a snapshot of `ledger`. The answer is where it was set aside, if it was damaged.
    fn replace(&mut self, decoded: &Decoded, ledger: &Ledger) -> io::Result<Option<PathBuf>> {
        let path = self.layout.ledger();
        let aside = if decoded.damage.is_empty() { None } else { Some(aside::keep_damaged(&self.layout)?) };
        match Journal::create(&path, ledger, &decoded.unknown) {
            Ok(journal) => {
                self.journal = Some(journal);
                self.owed.clear();
            }
            Err(error) => {
                // The file is still the damaged one, under both names: evidence must not grow.
                aside.map_or(Ok(()), fs::remove_file)?;
                // Unless only the last step failed, and the new file is there: the next append opens that.
                self.journal.take_if(|journal| journal.check_is_at(&path).is_err());
                return Err(error);
            }
        }
        Ok(aside)
    }
}

/// What people decided survives a crash of the machine.
fn was_decided_by_people(record: &Record) -> bool {
    match record {
        Record::Request { .. } | Record::GuardLatched { .. } | Record::GuardReleased { .. } => true,
        // A process does not survive it either.
        Record::Leased { lease } => matches!(lease.holder, Holder::Owner { .. }),
        Record::LeaseEnded { holder, .. } => matches!(holder, Holder::Owner { .. }),
        Record::Root { .. }
        | Record::Accepted { .. }
        | Record::FileForgotten { .. }
        | Record::Intent(_)
        | Record::Started { .. }
        | Record::SpawnFailed { .. }
        | Record::Ready { .. }
        | Record::Updated { .. }
        | Record::Beside { .. }
        | Record::Files { .. }
        | Record::Stopping { .. }
        | Record::Exited { .. }
        | Record::Gone { .. }
        | Record::Deactivated { .. }
        | Record::Forgotten { .. }
        | Record::Entry { .. } => false,
    }
}

fn mend_births(layout: &StateLayout, births: Option<Vec<BirthEntry>>) {
    let Some(births) = births else { return };
    if let Err(error) = journal_of_births::replace(&layout.births(), &births) {
        tracing::warn!(%error, "the damaged journal of births could not be mended");
    }
}

fn is_missing(decoded: &Decoded) -> bool {
    decoded.version.is_none() && decoded.damage.is_empty()
}

/// There is no ledger where there must have been one.
fn is_lost(layout: &StateLayout, decoded: &Decoded) -> bool {
    is_missing(decoded) && lost::has_history(layout)
}

/// A missing file is an empty journal.
fn decode(layout: &StateLayout) -> Result<Decoded, LedgerError> {
    let path = layout.ledger();
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(LedgerError::Unreadable { path, source }),
        Ok(bytes) => bytes,
    };
    let decoded = decode_journal(&bytes);
    match decoded.version {
        Some(found) if !decoded.format_is_known() => {
            Err(LedgerError::Newer { path, found, known: FORMAT_VERSION })
        }
        _ => Ok(decoded),
    }
}

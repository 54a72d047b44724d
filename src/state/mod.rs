//! What we remember of what we started: the ledger as pure data.
//!
//! [`Record`]s are appended one line at a time, [`Ledger::apply`] folds them, `codec` turns them into
//! checksummed lines and back. Bytes in, records out: the file, its lock and its compaction are
//! `host::ledger_file`. Called by `plan` (reads entries), `reconciler` (writes records) and `host`.

mod codec;
mod entry;
mod files;
mod journals;
mod lease;
mod ledger;
mod line;
mod log_mark;
mod lost;
mod millis;
pub(crate) mod paths;
mod port;
mod reason;
mod record;
mod said;
mod secrets;

pub use codec::{
    Damage, DamageKind, Decoded, FORMAT_VERSION, decode_journal, encode, encode_header, encode_unknown,
};
pub use entry::{Entry, LastRun, Run, Stopping};
pub use files::{Contents, FileMarks};
pub use journals::{Lines, decode_lines, encode_line, encode_line_into};
pub use lease::{Holder, Lease, LeaseEnd, LeaseId, Release, Term};
pub use ledger::{FileEntry, FileKey, Ledger, RootEntry, RootKey};
pub use log_mark::LogMark;
pub use lost::{Unknown, unknown_births};
pub use port::PortHolder;
pub use reason::{Reason, Unmet};
pub use record::{
    BirthLine, Containment, End, ExecFacts, ExitLine, ExitStatus, FileIdentity, Intent, LOST_FINGERPRINT,
    Record, Request, SharedCgroup, SpawnFailure, SpawnStage, is_shortage,
};
pub use said::{Extension, News, Said};
pub use secrets::SecretKey;

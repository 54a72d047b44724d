//! The birth gate: what makes "no birth on record" mean "never executed, and never will be".
//!
//! A child locks the gate shared, compares the epoch in it with that of its request, appends its birth, and
//! executes with the lock still held. A starting reconciler takes the lock exclusively: whoever is born is
//! on record by then, and with the epoch moved on no child of before can be born later, even if its keeper
//! is dead and nobody knows of it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use super::journal::{self, BirthEntry};
use crate::host::StateLayout;
use crate::host::candidates;
use crate::host::flock::{self, Kind};
use crate::host::proc::{Here, Liveness};
use crate::identity::{Nonce, Pid, ProcessIdentity};
use crate::state::BirthLine;

/// A journal of births that is smaller is not worth trimming.
pub const TRIM_AT_BYTES: u64 = 512 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// A child holds the gate, for instance while it executes a file on a file system that hangs.
    #[error("the birth gate {path} stayed locked for {} s", waited.as_secs())]
    Busy { path: PathBuf, waited: Duration },
    /// As [`Busy`](Self::Busy), and what it would become nobody can tell any more.
    #[error(
        "process {pid} hangs at the birth gate {path}, and what it would become is on no record; it has executed \
         nothing: end it with `kill -9 {pid}`"
    )]
    Nameless { path: PathBuf, pid: Pid },
    #[error("the birth gate {path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What is settled about spawns asked for by reconcilers of before.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// To be put into every request from now on.
    pub epoch: u64,
    /// Births on record; `None` for one that came to nothing. What is not here was never executed.
    pub births: BTreeMap<Nonce, Option<BirthLine>>,
}

/// The epoch that requests are to carry until intents are judged. Makes the gate where there is none, and
/// changes nothing else: births stay on record, whoever they are of.
pub fn epoch(layout: &StateLayout) -> Result<u64, GateError> {
    let fail = |source| GateError::Io { path: layout.birth_gate(), source };
    let gate = open_gate(layout).map_err(fail)?;
    read_epoch(&gate).map_err(fail)
}

/// Has everything that was asked for until now be on record, or never be born: for a reconciler that does not know
/// what was asked for. The answer is of whom this cannot be said: they hang at the gate, and are on record, will
/// be, or will never be.
pub fn close_gate(layout: &StateLayout, patience: Duration) -> Result<Vec<ProcessIdentity>, GateError> {
    let busy = match Locked::lock(layout, patience) {
        Ok(gate) => return gate.begin_epoch().map(|_| Vec::new()),
        Err(error @ GateError::Busy { .. }) => error,
        Err(error) => return Err(error),
    };
    let fail = |source| GateError::Io { path: layout.birth_gate(), source };
    // Only a reconciler in charge writes it. Whoever comes to the gate from now on is too late.
    let gate = open_gate(layout).map_err(fail)?;
    begin_epoch(&gate).map_err(fail)?;
    let hanging = holders(&gate).map_err(fail)?;
    if hanging.is_empty() && !flock::lock(&gate, Kind::Exclusive, Duration::ZERO).map_err(fail)? {
        return Err(busy);
    }
    Ok(hanging)
}

/// Every child on its way through the gate, as far as it may be looked at. Who else has it open, to look at it or to
/// copy it, holds nothing up.
fn holders(gate: &File) -> io::Result<Vec<ProcessIdentity>> {
    let place = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let gate = place(gate.metadata()?);
    let here = Here::read()?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // Of one that ends meanwhile nothing is left to be settled.
        let Ok(descriptors) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let mut opened = descriptors.flatten().flat_map(|descriptor| std::fs::metadata(descriptor.path()));
        if opened.any(|meta| place(meta) == gate) && candidates::is_unborn(pid) {
            found.extend(here.identity(pid));
        }
    }
    Ok(found)
}

/// Settles what became of open intents. Writes nothing if each of them was born, or if there are none.
///
/// Waits up to `patience` for children that are being born. Called by the one reconciler that holds the lock of the
/// state directory, before it asks for its first spawn.
pub fn judge_intents(layout: &StateLayout, open: &[Nonce], patience: Duration) -> Result<Judged, GateError> {
    if open.is_empty() {
        return Ok(Judged { epoch: epoch(layout)?, births: BTreeMap::new() });
    }
    let gate = Locked::lock(layout, patience)?;
    let births = journal::births(&layout.births()).map_err(gate.fail())?;
    let all_born = open.iter().all(|nonce| births.contains_key(nonce));
    let epoch = if all_born { gate.epoch()? } else { gate.begin_epoch()? };
    Ok(Judged { epoch, births })
}

/// Trims the journal of births to what `open` asks about and to what may live, if that is less than half of it. The
/// answer is the epoch that began with it; `None`: it was left alone.
///
/// `open` must be every intent that is open in the ledger on disk: without its birth, one that was born runs again.
/// Does not wait for children that are being born.
pub fn trim_births(layout: &StateLayout, open: &[Nonce]) -> Result<Option<u64>, GateError> {
    let gate = Locked::lock(layout, Duration::ZERO)?;
    let Some(kept) = worth_keeping(layout, open).map_err(gate.fail())? else { return Ok(None) };
    let epoch = gate.begin_epoch()?;
    // Under the lock and in a new epoch: a child that has opened the old file is not born any more.
    journal::replace(&layout.births(), &kept).map_err(gate.fail())?;
    Ok(Some(epoch))
}

/// The gate, locked exclusively: whoever was born is on record.
struct Locked {
    file: File,
    path: PathBuf,
}

impl Locked {
    fn lock(layout: &StateLayout, patience: Duration) -> Result<Self, GateError> {
        let path = layout.birth_gate();
        let fail = |source| GateError::Io { path: path.clone(), source };
        let file = open_gate(layout).map_err(fail)?;
        if !flock::lock(&file, Kind::Exclusive, patience).map_err(fail)? {
            return Err(GateError::Busy { path, waited: patience });
        }
        Ok(Self { file, path })
    }

    fn fail(&self) -> impl FnOnce(io::Error) -> GateError {
        let path = self.path.clone();
        move |source| GateError::Io { path, source }
    }

    fn epoch(&self) -> Result<u64, GateError> {
        read_epoch(&self.file).map_err(self.fail())
    }

    /// Nothing that was asked for before is born later.
    fn begin_epoch(&self) -> Result<u64, GateError> {
        begin_epoch(&self.file).map_err(self.fail())
    }
}

fn begin_epoch(gate: &File) -> io::Result<u64> {
    let epoch = read_epoch(gate)? + 1;
    write_epoch(gate, epoch)?;
    Ok(epoch)
}

/// The gate, made in epoch 1 if there is none, or one that cannot be read.
fn open_gate(layout: &StateLayout) -> io::Result<File> {
    let path = layout.birth_gate();
    let gate =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if gate.metadata()?.len() == 0 {
        write_epoch(&gate, 1)?;
    }
    Ok(gate)
}

/// The epoch in the gate. A text that is none was not written by us: any child that compares it stops.
pub fn read_epoch(gate: &File) -> io::Result<u64> {
    let mut text = [0; 20];
    let read = gate.read_at(&mut text, 0)?;
    std::str::from_utf8(&text[..read]).ok().and_then(|text| text.trim_end().parse().ok()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "it does not hold an epoch; delete it while nothing is being started",
        )
    })
}

/// Always twenty digits, so that one write replaces another whole.
fn write_epoch(gate: &File, epoch: u64) -> io::Result<()> {
    gate.write_all_at(format!("{epoch:020}").as_bytes(), 0)
}

/// The births that are asked about, and those whose process is not proved to be gone, in their order. `None` where
/// that is most of them: many live, and it would be as much again the next time.
fn worth_keeping(layout: &StateLayout, open: &[Nonce]) -> io::Result<Option<Vec<BirthEntry>>> {
    let births = journal::births(&layout.births())?;
    let here = Here::read()?;
    let is_asked_about = |nonce: &Nonce| open.contains(nonce);
    let mut lines = journal::births_in_order(&layout.births())?.lines;
    lines.retain(|line| {
        let is_gone = matches!(here.liveness(&line.process), Liveness::Dead | Liveness::OtherBoot);
        !is_gone || is_asked_about(&line.nonce)
    });
    let unborn = births.iter().filter(|(nonce, birth)| birth.is_none() && is_asked_about(nonce));
    let unborn = unborn.map(|(nonce, _)| BirthEntry::Unborn { nonce: nonce.clone(), unborn: String::new() });
    let kept: Vec<BirthEntry> = lines.into_iter().map(BirthEntry::Born).chain(unborn).collect();
    Ok((kept.len() * 2 <= births.len()).then_some(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Digest, ServiceId};
    use crate::state::Intent;

    fn layout() -> (tempfile::TempDir, StateLayout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = StateLayout { dir: dir.path().to_owned() };
        (dir, layout)
    }

    #[test]
    fn without_an_open_intent_nothing_is_written() {
        let (_dir, layout) = layout();
        let first = judge_intents(&layout, &[], Duration::ZERO).unwrap();
        let before = std::fs::metadata(layout.birth_gate()).unwrap().modified().unwrap();
        let second = judge_intents(&layout, &[], Duration::ZERO).unwrap();
        assert_eq!((first.epoch, second.epoch), (1, 1));
        assert_eq!(std::fs::metadata(layout.birth_gate()).unwrap().modified().unwrap(), before);
    }

    #[test]
    fn an_unborn_intent_moves_the_epoch_on() {
        let (_dir, layout) = layout();
        let judged = judge_intents(&layout, &[Nonce::from_u64(1)], Duration::ZERO).unwrap();
        assert_eq!(judged.epoch, 2);
        assert!(judged.births.is_empty());
    }

    #[test]
    fn a_held_gate_is_waited_for_and_then_reported() {
        let (_dir, layout) = layout();
        judge_intents(&layout, &[], Duration::ZERO).unwrap();
        let child = File::open(layout.birth_gate()).unwrap();
        assert!(flock::lock(&child, Kind::Shared, Duration::ZERO).unwrap());
        let error = judge_intents(&layout, &[Nonce::from_u64(1)], Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, GateError::Busy { .. }), "{error}");
    }

    fn record(file: &File, nonce: u64, process: ProcessIdentity) {
        let nonce = Nonce::from_u64(nonce);
        let web = ServiceId::parse("web").unwrap();
        let intent = Intent::lost(web, nonce.clone(), Digest::of(b""), Here::read().unwrap().stamp());
        let containment = crate::state::Containment::Cgroup { path: "/".into() };
        let line = BirthLine { nonce, process, containment, intent: Box::new(intent) };
        journal::append(file, &BirthEntry::Born(line)).unwrap();
    }

    /// Births of `me` (1), of one in another pid namespace (2), and of a process that is gone (7 to 15).
    fn many_births(layout: &StateLayout) {
        let me = Here::read().unwrap().own_identity().unwrap();
        let file = journal::open(&layout.births()).unwrap();
        record(&file, 1, me.clone());
        record(&file, 2, ProcessIdentity { pid_ns: me.pid_ns + 1, ..me.clone() });
        let gone = ProcessIdentity { start_ticks: me.start_ticks + 1, ..me };
        (7..16).for_each(|nonce| record(&file, nonce, gone.clone()));
    }

    #[test]
    fn births_are_trimmed_to_what_may_live_or_is_asked_about_in_a_new_epoch() {
        let (_dir, layout) = layout();
        many_births(&layout);
        let asked = Nonce::from_u64(7);
        assert_eq!(trim_births(&layout, std::slice::from_ref(&asked)).unwrap(), Some(2));
        let births = journal::births(&layout.births()).unwrap();
        let kept: Vec<&Nonce> = births.keys().collect();
        assert_eq!(kept, [&Nonce::from_u64(1), &Nonce::from_u64(2), &asked]);
        assert_eq!(epoch(&layout).unwrap(), 2);
    }

    /// As many as there are services: to write them anew each time would gain nothing.
    #[test]
    fn births_that_live_are_left_alone() {
        let (_dir, layout) = layout();
        let me = Here::read().unwrap().own_identity().unwrap();
        let file = journal::open(&layout.births()).unwrap();
        (1..9).for_each(|nonce| record(&file, nonce, me.clone()));
        let before = std::fs::read(layout.births()).unwrap();
        assert_eq!(trim_births(&layout, &[]).unwrap(), None);
        assert!(std::fs::read(layout.births()).unwrap() == before);
        assert_eq!(epoch(&layout).unwrap(), 1);
    }

    #[test]
    fn a_trimmed_journal_keeps_its_order() {
        let (_dir, layout) = layout();
        let me = Here::read().unwrap().own_identity().unwrap();
        let file = journal::open(&layout.births()).unwrap();
        record(&file, 30, me.clone());
        record(&file, 3, me);
        many_births(&layout);
        trim_births(&layout, &[]).unwrap();
        let order: Vec<Nonce> = journal::births_in_order(&layout.births())
            .unwrap()
            .lines
            .into_iter()
            .map(|line| line.nonce)
            .collect();
        assert_eq!(order, [30, 3, 1, 2].map(Nonce::from_u64));
    }

    /// A leader that ended at once, with leftovers, just before its reconciler was killed.
    #[test]
    fn judging_keeps_every_birth() {
        let (_dir, layout) = layout();
        many_births(&layout);
        let before = std::fs::read(layout.births()).unwrap();
        let open = [8, 99].map(Nonce::from_u64);
        let judged = judge_intents(&layout, &open, Duration::ZERO).unwrap();
        assert_eq!(judged.epoch, 2, "one of them was not born");
        assert!(matches!(judged.births.get(&open[0]), Some(Some(_))));
        assert!(std::fs::read(layout.births()).unwrap() == before);
    }
}

//! The birth gate: what makes "no birth on record" mean "never executed, and never will be".
//!
//! A child locks the gate shared, compares the epoch in it with that of its request, appends its birth, and
//! executes with the lock still held. A starting reconciler takes the lock exclusively: whoever is born is
//! on record by then, and with the epoch moved on no child of before can be born later, even if its keeper
//! is dead and nobody knows of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use super::journal::{self, BirthEntry};
use crate::host::StateLayout;
use crate::host::flock::{self, Kind};
use crate::host::proc::{Here, Liveness};
use crate::identity::Nonce;
use crate::state::BirthLine;

/// The journal of births is trimmed once it is larger than this.
const TRIM_AT_BYTES: u64 = 512 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// A child holds the gate, for instance while it executes a file on a file system that hangs.
    #[error("the birth gate {path} stayed locked for {} s", waited.as_secs())]
    Busy { path: PathBuf, waited: Duration },
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
/// what was asked for.
pub fn close_gate(layout: &StateLayout, patience: Duration) -> Result<(), GateError> {
    let path = layout.birth_gate();
    let fail = |source| GateError::Io { path: path.clone(), source };
    let gate = open_gate(layout).map_err(fail)?;
    if !flock::lock(&gate, Kind::Exclusive, patience).map_err(fail)? {
        return Err(GateError::Busy { path, waited: patience });
    }
    let epoch = read_epoch(&gate).map_err(fail)?;
    write_epoch(&gate, epoch + 1).map_err(fail)
}

/// Settles what became of open intents. Writes nothing if each of them was born, or if there are none.
///
/// `open` must be every intent that is open in the ledger: a large journal is trimmed to what they ask about, and
/// to what may live. Who has not read the ledger yet wants [`epoch`]. Waits up to `patience` for children that
/// are being born. Called by the one reconciler that holds the lock of the state directory, before it asks for
/// its first spawn.
pub fn judge_intents(layout: &StateLayout, open: &[Nonce], patience: Duration) -> Result<Judged, GateError> {
    if open.is_empty() && !is_large(layout) {
        return Ok(Judged { epoch: epoch(layout)?, births: BTreeMap::new() });
    }
    let path = layout.birth_gate();
    let fail = |source| GateError::Io { path: path.clone(), source };
    let gate = open_gate(layout).map_err(fail)?;
    if !flock::lock(&gate, Kind::Exclusive, patience).map_err(fail)? {
        return Err(GateError::Busy { path, waited: patience });
    }
    let mut births = journal::births(&layout.births()).map_err(fail)?;
    let mut epoch = read_epoch(&gate).map_err(fail)?;
    let all_born = open.iter().all(|nonce| births.contains_key(nonce));
    let trimmed = if is_large(layout) { worth_keeping(layout, &births, open).map_err(fail)? } else { None };
    if !all_born || trimmed.is_some() {
        epoch += 1;
        write_epoch(&gate, epoch).map_err(fail)?;
    }
    if let Some(kept) = trimmed {
        // Under the lock and in a new epoch: a child that has opened the old file is not born any more.
        journal::replace(&layout.births(), &kept).map_err(fail)?;
        let kept: BTreeSet<&Nonce> = kept.iter().map(BirthEntry::nonce).collect();
        births.retain(|nonce, _| kept.contains(nonce));
    }
    Ok(Judged { epoch, births })
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

fn is_large(layout: &StateLayout) -> bool {
    std::fs::metadata(layout.births()).is_ok_and(|meta| meta.len() > TRIM_AT_BYTES)
}

/// The births that are asked about, and those whose process is not proved to be gone, in their order. `None` where
/// that is most of them: many live, and it would be as much again the next time.
fn worth_keeping(
    layout: &StateLayout,
    births: &BTreeMap<Nonce, Option<BirthLine>>,
    open: &[Nonce],
) -> io::Result<Option<Vec<BirthEntry>>> {
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
    use crate::identity::{Digest, ProcessIdentity, ServiceId};
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

    /// Births of `me` (1), of a process that is gone (7 and on), and of one in another pid namespace (2).
    fn large_journal(layout: &StateLayout) {
        let here = Here::read().unwrap();
        let me = here.own_identity().unwrap();
        let file = journal::open(&layout.births()).unwrap();
        record(&file, 1, me.clone());
        record(&file, 2, ProcessIdentity { pid_ns: me.pid_ns + 1, ..me.clone() });
        let gone = ProcessIdentity { start_ticks: me.start_ticks + 1, ..me };
        let mut nonce = 7;
        while !is_large(layout) {
            record(&file, nonce, gone.clone());
            nonce += 1;
        }
    }

    #[test]
    fn a_large_journal_is_trimmed_to_what_may_live_or_is_asked_about_in_a_new_epoch() {
        let (_dir, layout) = layout();
        large_journal(&layout);
        let asked = [Nonce::from_u64(7)];
        let judged = judge_intents(&layout, &asked, Duration::ZERO).unwrap();
        assert_eq!(judged.epoch, 2);
        let kept: Vec<&Nonce> = judged.births.keys().collect();
        assert_eq!(kept, [&Nonce::from_u64(1), &Nonce::from_u64(2), &asked[0]]);
        assert_eq!(journal::births(&layout.births()).unwrap(), judged.births);
        assert!(!is_large(&layout));
    }

    /// As many as there are services: to write them anew each time would gain nothing.
    #[test]
    fn a_large_journal_of_births_that_live_is_left_alone() {
        let (_dir, layout) = layout();
        let me = Here::read().unwrap().identity(std::process::id() as i32).unwrap();
        let file = journal::open(&layout.births()).unwrap();
        for nonce in (1..).take_while(|_| !is_large(&layout)) {
            record(&file, nonce, me.clone());
        }
        let before = std::fs::read(layout.births()).unwrap();
        assert_eq!(judge_intents(&layout, &[], Duration::ZERO).unwrap().epoch, 1);
        assert!(std::fs::read(layout.births()).unwrap() == before);
    }

    #[test]
    fn a_trimmed_journal_keeps_its_order() {
        let (_dir, layout) = layout();
        let me = Here::read().unwrap().identity(std::process::id() as i32).unwrap();
        let file = journal::open(&layout.births()).unwrap();
        record(&file, 9, me.clone());
        record(&file, 3, me);
        large_journal(&layout);
        judge_intents(&layout, &[], Duration::ZERO).unwrap();
        let order: Vec<Nonce> = journal::births_in_order(&layout.births())
            .unwrap()
            .lines
            .into_iter()
            .map(|line| line.nonce)
            .collect();
        assert_eq!(order, [9, 3, 1, 2].map(Nonce::from_u64));
    }

    /// A leader that ended at once, with leftovers, just before its reconciler was killed: still to be judged.
    #[test]
    fn a_large_journal_is_whole_until_the_open_intents_are_known() {
        let (_dir, layout) = layout();
        large_journal(&layout);
        assert_eq!(epoch(&layout).unwrap(), 1);
        assert!(is_large(&layout));
        let open = [Nonce::from_u64(8)];
        let judged = judge_intents(&layout, &open, Duration::ZERO).unwrap();
        assert!(matches!(judged.births.get(&open[0]), Some(Some(_))));
    }
}

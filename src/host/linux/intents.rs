//! The birth gate as an acting host uses it: the epoch of its spawns, and what became of open intents.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::host::keeper::{self, GateError, TRIM_AT_BYTES, judge_intents, trim_births};
use crate::host::observe::Intents;
use crate::host::{Claim, StateLayout};
use crate::identity::Nonce;

/// How long children that are being born may hold the gate of a starting reconciler.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct OpenIntents {
    layout: StateLayout,
    epoch: u64,
    /// Those of the ledger were judged.
    are_judged: bool,
    /// How long a child may hold the gate this time. One that hangs is waited for once, not in each pass.
    patience: Duration,
    /// Without a birth they will never have one; what else is open is our own, and under way.
    judged: BTreeSet<Nonce>,
    /// The journal of births is looked at once it is larger than this.
    trim_at: u64,
}

impl OpenIntents {
    /// Fails where the gate cannot be read: without it nothing may be started or judged.
    pub fn new(layout: StateLayout) -> Result<Self, GateError> {
        let epoch = keeper::epoch(&layout)?;
        Ok(Self {
            layout,
            epoch,
            are_judged: false,
            patience: PATIENCE,
            judged: BTreeSet::new(),
            trim_at: TRIM_AT_BYTES,
        })
    }

    /// Of the spawns that are asked for now.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Starts that the keeper was asked for may or may not have come about.
    pub fn doubt(&mut self) {
        self.are_judged = false;
    }

    /// Settles what became of intents that a reconciler or keeper of before left open.
    pub fn judge(&mut self, claims: &[Claim]) {
        let open = open(claims);
        self.judged.retain(|nonce| open.contains(nonce));
        if self.are_judged {
            return;
        }
        match judge_intents(&self.layout, &open, self.patience) {
            Ok(judged) => {
                self.epoch = judged.epoch;
                self.are_judged = true;
                self.patience = PATIENCE;
                self.judged = open.into_iter().collect();
            }
            Err(error) => {
                tracing::warn!("open starts cannot be judged yet: {error}");
                self.patience = Duration::ZERO;
            }
        }
    }

    /// What is known of them.
    pub fn settled(&self) -> Intents<'_> {
        Intents::Judged(&self.judged)
    }

    /// Trims the journal of births once it is large, which begins a new epoch: only while nothing that was asked
    /// for in this one, neither a spawn nor a job, is still to be born. `claims` must be those of the ledger on disk.
    pub fn trim_if_large(&mut self, claims: &[Claim]) {
        let open = open(claims);
        let under_way = open.iter().any(|nonce| !self.judged.contains(nonce));
        if !self.are_judged || under_way || self.size() <= self.trim_at {
            return;
        }
        match trim_births(&self.layout, &open) {
            Ok(Some(epoch)) => self.epoch = epoch,
            Ok(None) => {}
            Err(error) => return tracing::warn!("the journal of births cannot be trimmed: {error}"),
        }
        // Most of what is left is of processes that live: to look at each of them gains nothing until there is as
        // much again.
        self.trim_at = TRIM_AT_BYTES.max(2 * self.size());
    }

    fn size(&self) -> u64 {
        std::fs::metadata(self.layout.births()).map_or(0, |births| births.len())
    }
}

fn open(claims: &[Claim]) -> Vec<Nonce> {
    claims.iter().filter(|claim| claim.process.is_none()).map(|claim| claim.nonce.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;
    use crate::host::keeper::journal;
    use crate::host::proc::Here;
    use crate::identity::{Digest, ProcessIdentity, ServiceId};
    use crate::state::{BirthLine, Containment, Intent};

    fn lost_intent(nonce: u64) -> Box<Intent> {
        let web = ServiceId::parse("web").unwrap();
        Box::new(Intent::lost(web, Nonce::from_u64(nonce), Digest::of(b""), clock::now()))
    }

    fn claim(process: Option<ProcessIdentity>) -> Claim {
        let service = ServiceId::parse("web").unwrap();
        let containment = Some(Containment::Cgroup { path: "/".into() });
        Claim { service, nonce: Nonce::from_u64(1), process, containment, epoch: 1 }
    }

    /// Until the journal is large; the answer is how many there are.
    fn record_births(layout: &StateLayout, process: &ProcessIdentity, least: u64) -> u64 {
        let births = journal::open(&layout.births()).unwrap();
        for nonce in 2.. {
            let line = BirthLine {
                nonce: Nonce::from_u64(nonce),
                process: process.clone(),
                containment: Containment::Cgroup { path: "/".into() },
                intent: lost_intent(nonce),
            };
            journal::append(&births, &journal::BirthEntry::Born(line)).unwrap();
            if layout.births().metadata().unwrap().len() > least {
                return nonce;
            }
        }
        unreachable!("it grows")
    }

    #[test]
    fn a_large_journal_of_births_is_trimmed_while_nothing_is_being_born() {
        let dir = tempfile::tempdir().unwrap();
        let layout = StateLayout { dir: dir.path().to_owned() };
        let me = Here::read().unwrap().own_identity().unwrap();
        let mut intents = OpenIntents::new(layout.clone()).unwrap();
        intents.judge(&[claim(Some(me.clone()))]);
        assert!(intents.are_judged);
        let dead = ProcessIdentity { start_ticks: me.start_ticks + 1, ..me.clone() };
        let size = || layout.births().metadata().unwrap().len();
        record_births(&layout, &dead, TRIM_AT_BYTES);
        intents.trim_if_large(&[claim(None)]);
        assert_eq!(intents.epoch(), 1, "a spawn of this epoch may still be on its way");
        intents.trim_if_large(&[claim(Some(me.clone()))]);
        assert_eq!((intents.epoch(), size()), (2, 0));
        intents.trim_if_large(&[claim(Some(me))]);
        assert_eq!(intents.epoch(), 2, "a small one is left alone");
    }

    /// Its reconciler was killed before it heard of the birth, and the leader has ended since.
    #[test]
    fn the_birth_of_a_judged_start_stays_until_the_ledger_knows_it() {
        let dir = tempfile::tempdir().unwrap();
        let layout = StateLayout { dir: dir.path().to_owned() };
        let me = Here::read().unwrap().own_identity().unwrap();
        let dead = ProcessIdentity { start_ticks: me.start_ticks + 1, ..me };
        record_births(&layout, &dead, TRIM_AT_BYTES);
        let open = [Claim { nonce: Nonce::from_u64(7), ..claim(None) }];
        let mut intents = OpenIntents::new(layout.clone()).unwrap();
        intents.judge(&open);
        intents.trim_if_large(&open);
        assert_eq!(intents.epoch(), 2, "it was trimmed");
        let births = journal::births(&layout.births()).unwrap();
        assert!(matches!(births.get(&open[0].nonce), Some(Some(_))), "{births:?}");
    }

    #[test]
    fn a_journal_that_was_not_worth_trimming_is_left_alone_until_it_has_doubled() {
        let dir = tempfile::tempdir().unwrap();
        let layout = StateLayout { dir: dir.path().to_owned() };
        let me = Here::read().unwrap().own_identity().unwrap();
        let mut intents = OpenIntents::new(layout.clone()).unwrap();
        intents.judge(&[]);
        record_births(&layout, &me, TRIM_AT_BYTES);
        intents.trim_if_large(&[]);
        assert_eq!((intents.epoch(), intents.trim_at), (1, 2 * intents.size()));
    }
}

//! The birth gate as an acting host uses it: the epoch of its spawns, and what became of open intents.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::host::keeper::{self, GateError, judge_intents};
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
    /// Without a birth they will never have one; what else is open is our own, and under way.
    judged: BTreeSet<Nonce>,
}

impl OpenIntents {
    /// Fails where the gate cannot be read: without it nothing may be started or judged.
    pub fn new(layout: StateLayout) -> Result<Self, GateError> {
        let epoch = keeper::epoch(&layout)?;
        Ok(Self { layout, epoch, are_judged: false, judged: BTreeSet::new() })
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
        match judge_intents(&self.layout, &open, PATIENCE) {
            Ok(judged) => {
                self.epoch = judged.epoch;
                self.are_judged = true;
                self.judged = open.into_iter().collect();
            }
            Err(error) => tracing::warn!("open starts cannot be judged yet: {error}"),
        }
    }

    /// What is known of them.
    pub fn settled(&self) -> Intents<'_> {
        Intents::Judged(&self.judged)
    }

    /// Trims the journal of births once it is large, which begins a new epoch: only while nothing that was asked
    /// for in this one, neither a spawn nor a job, is still to be born.
    pub fn trim_if_large(&mut self, claims: &[Claim]) {
        let under_way = open(claims).iter().any(|nonce| !self.judged.contains(nonce));
        if !self.are_judged || under_way {
            return;
        }
        match judge_intents(&self.layout, &[], Duration::ZERO) {
            Ok(judged) => self.epoch = judged.epoch,
            Err(error) => tracing::warn!("the journal of births cannot be trimmed: {error}"),
        }
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

    #[test]
    fn a_large_journal_of_births_is_trimmed_while_nothing_is_being_born() {
        let dir = tempfile::tempdir().unwrap();
        let layout = StateLayout { dir: dir.path().to_owned() };
        let me = Here::read().unwrap().own_identity().unwrap();
        let mut intents = OpenIntents::new(layout.clone()).unwrap();
        intents.judge(&[claim(Some(me.clone()))]);
        assert!(intents.are_judged);
        let births = journal::open(&layout.births()).unwrap();
        let dead = ProcessIdentity { start_ticks: me.start_ticks + 1, ..me.clone() };
        let size = || layout.births().metadata().unwrap().len();
        for nonce in 2.. {
            let line = BirthLine {
                nonce: Nonce::from_u64(nonce),
                process: dead.clone(),
                containment: Containment::Cgroup { path: "/".into() },
                intent: lost_intent(nonce),
            };
            journal::append(&births, &journal::BirthEntry::Born(line)).unwrap();
            if size() > 600 * 1024 {
                break;
            }
        }
        intents.trim_if_large(&[claim(None)]);
        assert_eq!(intents.epoch(), 1, "a spawn of this epoch may still be on its way");
        intents.trim_if_large(&[claim(Some(me.clone()))]);
        assert_eq!((intents.epoch(), size()), (2, 0));
        intents.trim_if_large(&[claim(Some(me))]);
        assert_eq!(intents.epoch(), 2, "a small one is left alone");
    }
}

//! The ledger in memory, and the discipline of writing it.
//!
//! What happened is noted whatever the disk says: stops and reaps go on when the ledger cannot be written,
//! and the lines wait for the next chance. What is about to be done is promised: without it on disk nothing
//! is started.

use std::collections::{BTreeSet, HashMap};

use super::pass::LEDGER_UNWRITABLE;
use crate::host::{Host, LedgerUnwritable};
use crate::identity::{Nonce, ServiceId};
use crate::state::{Ledger, Record};

#[derive(Debug, Default)]
pub struct Memory {
    ledger: Ledger,
    /// Noted and applied, not yet on disk.
    unwritten: Vec<Record>,
    /// What is noted waits for the next [`Memory::flush`].
    is_gathering: bool,
    /// Why the last write failed, until one succeeds.
    unwritable: Option<String>,
    /// It passes for writable until the next write tells.
    is_tried_again: bool,
    /// Services whose entries have changed since [`Memory::take_changed`].
    changed: BTreeSet<ServiceId>,
    by_nonce: HashMap<Nonce, ServiceId>,
}

impl Memory {
    pub fn new(ledger: Ledger) -> Self {
        let changed = ledger.services.keys().cloned().collect();
        let runs = ledger.services.iter().filter_map(|(service, entry)| Some((service, entry.run.as_ref()?)));
        let by_nonce = runs.map(|(service, run)| (run.nonce.clone(), service.clone())).collect();
        Self { ledger, changed, by_nonce, ..Self::default() }
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn unwritable(&self) -> Option<&str> {
        self.unwritable.as_deref().filter(|_| !self.is_tried_again)
    }

    /// Gives the disk another chance: by what is unwritten, else by what is promised next.
    pub fn try_again<H: Host>(&mut self, host: &mut H) {
        self.is_tried_again = true;
        // The reason stays visible as `ledger-unwritable` until a later write succeeds.
        let _ = self.flush(host);
    }

    /// The service whose present run this is.
    pub fn service_of(&self, nonce: &Nonce) -> Option<&ServiceId> {
        self.by_nonce.get(nonce)
    }

    pub fn take_changed(&mut self) -> BTreeSet<ServiceId> {
        std::mem::take(&mut self.changed)
    }

    /// From now until the next flush, what has happened is written together.
    pub fn gather(&mut self) {
        self.is_gathering = true;
    }

    /// Records what has happened: applied at once, written as soon as the disk allows.
    pub fn note<H: Host>(&mut self, host: &mut H, records: Vec<Record>) {
        for record in &records {
            self.apply(record);
        }
        self.unwritten.extend(records);
        if self.is_gathering {
            return;
        }
        // The reason stays visible as `ledger-unwritable` until a later write succeeds.
        let _ = self.flush(host);
    }

    /// Records what is about to be done: applied only once it is on disk.
    pub fn promise<H: Host>(&mut self, host: &mut H, records: &[Record]) -> Result<(), LedgerUnwritable> {
        self.flush(host)?;
        let written = host.append(records);
        self.remember_outcome(&written);
        written?;
        for record in records {
            self.apply(record);
        }
        Ok(())
    }

    /// Tries again to write what could not be written before.
    pub fn flush<H: Host>(&mut self, host: &mut H) -> Result<(), LedgerUnwritable> {
        self.is_gathering = false;
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let written = host.append(&self.unwritten);
        self.remember_outcome(&written);
        written?;
        self.unwritten.clear();
        Ok(())
    }

    fn remember_outcome(&mut self, outcome: &Result<(), LedgerUnwritable>) {
        self.is_tried_again = false;
        let unwritable = outcome.as_ref().err().map(|error| format!("{error}: {}", error.source));
        if unwritable != self.unwritable {
            match &unwritable {
                Some(why) => {
                    tracing::error!(code = LEDGER_UNWRITABLE, "{why}; nothing is started until it can");
                }
                None => tracing::info!("the ledger can be written again"),
            }
        }
        self.unwritable = unwritable;
    }

    fn apply(&mut self, record: &Record) {
        match record {
            Record::Accepted { services, .. } => self.changed.extend(services.iter().cloned()),
            Record::Intent(intent) => {
                let before = self.ledger.entry(&intent.service).and_then(|entry| entry.run.as_ref());
                if let Some(run) = before {
                    self.by_nonce.remove(&run.nonce);
                }
                self.by_nonce.insert(intent.nonce.clone(), intent.service.clone());
            }
            Record::SpawnFailed { nonce, .. } | Record::Gone { nonce, .. } => {
                self.by_nonce.remove(nonce);
            }
            Record::LeaseEnded { services, .. } => self.changed.extend(services.iter().cloned()),
            _ => {}
        }
        self.changed.extend(record.service().cloned());
        self.ledger.apply(record);
    }
}

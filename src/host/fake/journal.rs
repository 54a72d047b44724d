//! The ledger of the model: records in memory, kept as they would be read back from disk.

use std::collections::BTreeMap;

use crate::identity::{Digest, Nonce, ServiceId};
use crate::state::{Intent, Ledger, Record};

#[derive(Debug, Default)]
pub(super) struct Journal {
    records: Vec<Record>,
    texts: BTreeMap<Digest, String>,
}

impl Journal {
    pub fn append(&mut self, records: &[Record]) {
        self.records.extend(records.iter().map(through_disk));
    }

    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// What a reconciler that starts now would read.
    pub fn fold(&self) -> Ledger {
        let mut ledger = Ledger::default();
        for record in &self.records {
            ledger.apply(record);
        }
        ledger
    }

    /// As a torn tail that was set aside.
    pub fn lose_tail(&mut self, records: usize) {
        let kept = self.records.len().saturating_sub(records);
        self.records.truncate(kept);
    }

    pub fn intents(&self) -> impl DoubleEndedIterator<Item = &Intent> {
        self.records.iter().filter_map(|record| match record {
            Record::Intent(intent) => Some(&**intent),
            _ => None,
        })
    }

    pub fn newest_intent(&self, service: &ServiceId) -> Option<&Intent> {
        self.intents().rev().find(|intent| intent.service == *service)
    }

    pub fn promises(&self, nonce: &Nonce) -> bool {
        self.intents().any(|intent| intent.nonce == *nonce)
    }

    pub fn says_gone(&self, nonce: &Nonce) -> bool {
        let is_gone = |record: &Record| matches!(record, Record::Gone { nonce: gone, .. } if gone == nonce);
        self.records.iter().any(is_gone)
    }

    pub fn keep_text(&mut self, digest: &Digest, text: &str) {
        self.texts.insert(digest.clone(), text.to_owned());
    }

    pub fn text(&self, digest: &Digest) -> Option<&String> {
        self.texts.get(digest)
    }

    pub fn lose_texts(&mut self) {
        self.texts.clear();
    }
}

/// What the stored form cannot carry is lost here as it would be there.
fn through_disk(record: &Record) -> Record {
    let line = serde_json::to_string(record).expect("a record can be stored");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line} cannot be read back: {error}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::state::Reason;

    #[test]
    fn records_are_kept_as_the_disk_would_keep_them() {
        let mut journal = Journal::default();
        let service = ServiceId::parse("web").unwrap();
        let why = Reason::TtlExpired { ttl: Duration::from_micros(1_500) };
        journal.append(&[Record::GuardLatched { service: service.clone(), why }]);
        let guard = journal.fold().services[&service].guard.clone();
        assert_eq!(guard.as_deref(), Some(&Reason::TtlExpired { ttl: Duration::from_millis(1) }));
    }

    #[test]
    fn a_lost_tail_takes_the_newest_records() {
        let mut journal = Journal::default();
        let forgotten = |name| Record::Forgotten { service: ServiceId::parse(name).unwrap() };
        journal.append(&[forgotten("a"), forgotten("b")]);
        journal.lose_tail(1);
        assert_eq!(journal.records(), [forgotten("a")]);
    }
}

//! What a ledger that lost records is made good from: the births on record, each with its intent.
//!
//! Whether records were lost cannot always be seen in the journal: cut off at the end of a line it is whole. So
//! the births that the ledger does not know are the evidence, and what became of each of them is the host's to
//! find out. Called by `host::ledger_file`; pure.

use std::collections::BTreeMap;

use super::{BirthLine, Ledger, Record};
use crate::identity::{Nonce, ServiceId};

/// Births of one service that came after everything that the ledger knows of it.
#[derive(Debug, Default, PartialEq)]
pub struct Unknown<'a> {
    /// In the order of the journal.
    pub births: Vec<&'a BirthLine>,
    /// A birth that the ledger knows came before them: they are lost, and not merely forgotten with the service.
    pub follow_a_known_one: bool,
}

/// By service; `births` in the order of the journal.
pub fn unknown_births<'a>(ledger: &Ledger, births: &'a [BirthLine]) -> BTreeMap<ServiceId, Unknown<'a>> {
    let mut found: BTreeMap<ServiceId, Unknown<'a>> = BTreeMap::new();
    for birth in births {
        let service = &birth.intent.service;
        let unknown = found.entry(service.clone()).or_default();
        if ledger.knows(service, &birth.nonce) {
            *unknown = Unknown { births: Vec::new(), follow_a_known_one: true };
        } else {
            unknown.births.push(birth);
        }
    }
    found.retain(|_, unknown| !unknown.births.is_empty());
    found
}

impl Ledger {
    /// True if it is the present or the last run of the service.
    pub fn knows(&self, service: &ServiceId, nonce: &Nonce) -> bool {
        self.entry(service).is_some_and(|entry| {
            entry.run.as_ref().is_some_and(|run| run.nonce == *nonce)
                || entry.last.as_ref().is_some_and(|last| last.nonce == *nonce)
        })
    }
}

impl BirthLine {
    /// What the ledger has lost of it: the very records that were written.
    pub fn records(&self) -> [Record; 2] {
        let started = Record::Started {
            service: self.intent.service.clone(),
            nonce: self.nonce.clone(),
            process: self.process.clone(),
            containment: self.containment.clone(),
            at: self.intent.at.clone(),
        };
        [Record::Intent(self.intent.clone()), started]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{BootId, Digest, Pid, ProcessIdentity};
    use crate::state::{Containment, End, ExitStatus, FileKey, Intent, RootKey};
    use crate::time::Stamp;

    fn at(second: u64) -> Stamp {
        let ms = second * 1_000;
        Stamp { boot: BootId::new("b"), boottime_ms: ms, awake_ms: ms, wall_ms: ms as i64 }
    }

    fn birth(name: &str, n: u64) -> BirthLine {
        let service = ServiceId::parse(name).unwrap();
        let nonce = Nonce::from_u64(n);
        let pid = Pid::new(100 + n as i32).unwrap();
        let process = ProcessIdentity { pid, start_ticks: n, boot: BootId::new("b"), pid_ns: 1 };
        let intent = Intent {
            fingerprint: format!("v1:{n}"),
            epoch: 1,
            ..Intent::lost(service, nonce.clone(), Digest::of(b"x"), at(n))
        };
        let containment = Containment::Cgroup { path: "/".into() };
        BirthLine { nonce, process, containment, intent: Box::new(intent) }
    }

    fn over(birth: &BirthLine) -> [Record; 2] {
        let (service, nonce) = (birth.intent.service.clone(), birth.nonce.clone());
        let end = End::Exit { status: ExitStatus::Code(1) };
        let exited =
            Record::Exited { service: service.clone(), nonce: nonce.clone(), end, failures: 1, at: at(9) };
        [exited, Record::Gone { service, nonce }]
    }

    /// Two services that each ended once and run again.
    fn history() -> (Vec<Record>, Vec<BirthLine>) {
        let births = vec![birth("web", 1), birth("db", 2), birth("db", 3), birth("web", 4)];
        let file = FileKey { root: RootKey("r1".into()), path: "a.toml".into() };
        let services = vec![ServiceId::parse("db").unwrap(), ServiceId::parse("web").unwrap()];
        let accepted = Record::Accepted { file, digest: Digest::of(b"x"), services, directory_inode: 1 };
        let lives = births.iter().enumerate().map(|(index, birth)| {
            let ends = if index < 2 { over(birth).to_vec() } else { Vec::new() };
            [birth.records().to_vec(), ends].concat()
        });
        ([accepted].into_iter().chain(lives.flatten()).collect(), births)
    }

    fn made_good(mut ledger: Ledger, births: &[BirthLine]) -> Ledger {
        let newest: Vec<Record> = unknown_births(&ledger, births)
            .values()
            .filter_map(|unknown| unknown.births.last())
            .flat_map(|birth| birth.records())
            .collect();
        newest.iter().for_each(|record| ledger.apply(record));
        ledger
    }

    fn running(ledger: &Ledger) -> Vec<String> {
        let runs = ledger.services.iter().filter_map(|(service, entry)| Some((service, entry.run.as_ref()?)));
        runs.map(|(service, run)| format!("{service} {} {:?}", run.fingerprint, run.process)).collect()
    }

    #[test]
    fn with_its_births_a_ledger_cut_off_anywhere_knows_what_runs() {
        let (records, births) = history();
        let whole = running(&Ledger::replay(&records));
        assert_eq!(whole.len(), 2);
        for cut in 0..=records.len() {
            let ledger = made_good(Ledger::replay(&records[..cut]), &births);
            // An open intent is settled by its birth as in any other start.
            let open = ledger.services.values().filter_map(|entry| entry.run.as_ref());
            if open.clone().all(|run| run.process.is_some()) {
                assert_eq!(running(&ledger), whole, "cut at {cut}");
            }
            assert_eq!(
                open.map(|run| run.nonce.clone()).collect::<Vec<_>>(),
                [births[2].nonce.clone(), births[3].nonce.clone()]
            );
        }
    }

    #[test]
    fn a_ledger_that_lost_nothing_knows_its_newest_births() {
        let (records, births) = history();
        assert_eq!(unknown_births(&Ledger::replay(&records), &births), BTreeMap::new());
    }

    #[test]
    fn births_after_a_known_one_are_lost_for_certain() {
        let (records, births) = history();
        let ledger = Ledger::replay(&records[..9]);
        let unknown = unknown_births(&ledger, &births);
        let follows: Vec<_> =
            unknown.iter().map(|(service, it)| (service.name(), it.follow_a_known_one)).collect();
        assert_eq!(follows, [("db", true), ("web", true)]);
        let nothing = unknown_births(&Ledger::default(), &births);
        assert!(nothing.values().all(|unknown| !unknown.follow_a_known_one && unknown.births.len() == 2));
    }
}

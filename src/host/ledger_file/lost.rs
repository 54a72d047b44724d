//! Runs that the ledger has lost, found by what is on record elsewhere and by what runs.
//!
//! Proved ours is what a birth in our own state directory names, or what our living keeper holds: it is taken up
//! again. What only looks like ours, by its cgroup or its mark, is remembered as a start of which nothing is
//! known: `observe` finds it for as long as it lives, so that nothing is started beside it, and it is never
//! signalled. Called by `ledger_file` when it is opened or read; writes nothing but the epoch of the birth gate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::LedgerError;
use crate::host::candidates::{self, Candidate};
use crate::host::clock;
use crate::host::keeper::journal::{self, BirthEntry};
use crate::host::keeper::protocol::CellInfo;
use crate::host::keeper::{self, GateError};
use crate::host::observe::observe_lost;
use crate::host::proc::{Here, Liveness};
use crate::host::{Claim, Found, StateLayout};
use crate::identity::{Digest, InstanceId, Nonce, Pid, ProcessIdentity, ServiceId};
use crate::state::{BirthLine, Entry, Intent, Ledger, Lines, Reason, Record, Run, Unknown, unknown_births};

/// How long children that are being born may hold the gate.
const PATIENCE: Duration = Duration::from_secs(5);

/// A run that the ledger had lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    pub service: ServiceId,
    pub how: How,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// It, or the rest of it, is there and proved to be ours.
    TakenUp { pid: i32 },
    /// It has ended; how is found out as for any other.
    Ended,
    /// These look like it, and nothing proves it.
    Suspected { pids: Vec<i32> },
    /// It hangs before its birth: whether it comes to that is found out as for any other open start.
    Unborn { pid: i32 },
}

/// What the ledger is made good with.
#[derive(Debug, Default)]
pub(super) struct Lost {
    pub records: Vec<Record>,
    pub recovered: Vec<Recovered>,
    /// What the journal of births holds, where that is to be written anew once the ledger is good: or the same would
    /// be looked for in every start.
    pub births: Option<Vec<BirthEntry>>,
}

/// Whether we may write, and so settle what is being born.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum As {
    InCharge,
    Onlooker,
}

/// Where to look. Begun before the ledger is read: whoever is born by then has his intent in it.
pub(super) struct Look<'a> {
    layout: &'a StateLayout,
    /// Whose marks count.
    instance: &'a InstanceId,
    who: As,
    births: Lines<BirthLine>,
}

impl<'a> Look<'a> {
    pub(super) fn begin(
        layout: &'a StateLayout,
        instance: &'a InstanceId,
        who: As,
    ) -> Result<Self, LedgerError> {
        Ok(Self { layout, instance, who, births: read_births(layout)? })
    }

    /// `has_lost`: records are known to be lost. Cut off at the end of a line, the ledger looks whole.
    pub(super) fn find(mut self, ledger: &Ledger, has_lost: bool) -> Result<Lost, LedgerError> {
        if !has_lost
            && !self.births_are_lost()
            && !self.holds_unknown(ledger)?
            && !self.shows_a_loss(ledger)?
        {
            return Ok(Lost::default());
        }
        let mut unborn = Vec::new();
        if self.who == As::InCharge {
            // Whoever is born is on record from here on, and nothing that was asked for before is born later, but what
            // hangs at this moment.
            let hanging = keeper::close_gate(self.layout, PATIENCE)?;
            self.births = read_births(self.layout)?;
            unborn = self.name_unborn(hanging)?;
        }
        let births_are_lost = self.births_are_lost();
        let unknown = unknown_births(ledger, &self.births.lines);
        let claims = known_claims(ledger).into_iter().chain(claims_of(&unknown));
        let evidence = Evidence {
            ledger,
            sights: Sights::look(self.layout, claims)?,
            cells: cells_of(self.layout),
            on_record: self.births.lines.iter().map(|birth| &birth.nonce).collect(),
            suspects: suspects(self.instance)?,
            unborn,
            unknown,
        };
        let good = evidence.make_good();
        let is_to_mend = births_are_lost && self.who == As::InCharge;
        let births = is_to_mend.then(|| self.births.lines.into_iter().map(BirthEntry::Born).collect());
        Ok(Lost { births, ..good })
    }

    /// Which starts those are of that hang at the gate and are not on record.
    fn name_unborn(&self, hanging: Vec<ProcessIdentity>) -> Result<Vec<Unborn>, LedgerError> {
        let is_on_record =
            |process: &ProcessIdentity| self.births.lines.iter().any(|it| it.process == *process);
        let mut named = Vec::new();
        for process in hanging.into_iter().filter(|process| !is_on_record(process)) {
            let pid = process.pid;
            match candidates::run_of_unborn(pid.get(), self.instance) {
                Some((_, service, nonce)) => named.push(Unborn { pid, service, nonce }),
                None if Here::read().is_ok_and(|here| here.liveness(&process) == Liveness::Dead) => {}
                None => {
                    return Err(GateError::Nameless { path: self.layout.birth_gate(), pid }.into());
                }
            }
        }
        Ok(named)
    }

    fn births_are_lost(&self) -> bool {
        self.births.damaged > 0 || (!self.layout.births().exists() && self.layout.keeper_lock().exists())
    }

    /// Something is held or runs that neither the ledger nor a birth knows: both were overwritten by older ones, which
    /// leaves no trace in the files themselves. Our keeper knows; where there is none, all of `/proc` is read for what looks
    /// like ours. Not done for an onlooker, whom a keeper that is silent would hold up.
    fn holds_unknown(&self, ledger: &Ledger) -> Result<bool, LedgerError> {
        if self.who == As::Onlooker || !has_history(self.layout) {
            return Ok(false);
        }
        let is_known = |service: &ServiceId, nonce: &Nonce| {
            ledger.knows(service, nonce) || self.births.lines.iter().any(|birth| birth.nonce == *nonce)
        };
        if keeper::is_held(self.layout).unwrap_or(true) {
            return Ok(!cells_of(self.layout).iter().all(|cell| is_known(&cell.service, &cell.nonce)));
        }
        let mut unknown = suspects(self.instance)?;
        unknown.retain(|suspect| !is_known(&suspect.service, &suspect.nonce));
        if unknown.is_empty() {
            return Ok(false);
        }
        // What is left of a run that nobody remembers, beside one that is remembered and lives, changes nothing.
        let sights = Sights::look(self.layout, known_claims(ledger))?;
        let run = |service: &ServiceId| ledger.entry(service).and_then(|entry| entry.run.as_ref());
        Ok(unknown.iter().any(|it| run(&it.service).is_none_or(|run| sights.is_over(&run.nonce))))
    }

    /// Most births that the ledger does not know are of services that were forgotten.
    fn shows_a_loss(&self, ledger: &Ledger) -> Result<bool, LedgerError> {
        let unknown = unknown_births(ledger, &self.births.lines);
        if unknown.is_empty() {
            return Ok(false);
        }
        let sights = Sights::look(self.layout, claims_of(&unknown))?;
        let is_lost = |(service, unknown): (&ServiceId, &Unknown<'_>)| {
            let is_declared = ledger.entry(service).is_some_and(|entry| entry.file.is_some());
            (unknown.follow_a_known_one && is_declared)
                || unknown.births.iter().any(|birth| sights.is_proved(&birth.nonce))
        };
        Ok(unknown.iter().any(is_lost))
    }
}

fn read_births(layout: &StateLayout) -> Result<Lines<BirthLine>, LedgerError> {
    let path = layout.births();
    journal::births_in_order(&path).map_err(|source| LedgerError::Unreadable { path, source })
}

/// A keeper that cannot be asked leaves less to prove by, and what cannot be proved is held.
fn cells_of(layout: &StateLayout) -> Vec<CellInfo> {
    let cells = keeper::cells(layout).unwrap_or_else(|error| {
        tracing::warn!(%error, "the keeper does not say what it holds");
        None
    });
    cells.unwrap_or_default().into_iter().filter(|cell| cell.job_of.is_none()).collect()
}

/// Those that have run for longest first: a job of a service was started after it.
fn suspects(instance: &InstanceId) -> Result<Vec<Candidate>, LedgerError> {
    let mut found =
        candidates::find().map_err(|source| LedgerError::Unreadable { path: "/proc".into(), source })?;
    found.retain(|candidate| candidate.instance == *instance);
    Ok(found)
}

fn known_claims(ledger: &Ledger) -> Vec<Claim> {
    let claim = |(service, entry): (&ServiceId, &Arc<Entry>)| {
        let run = entry.run.as_ref()?;
        Some(Claim {
            service: service.clone(),
            nonce: run.nonce.clone(),
            process: run.process.clone(),
            containment: run.containment.clone(),
            epoch: run.epoch,
        })
    };
    ledger.services.iter().filter_map(claim).collect()
}

fn claims_of(unknown: &BTreeMap<ServiceId, Unknown<'_>>) -> Vec<Claim> {
    let claim = |birth: &&BirthLine| Claim {
        service: birth.intent.service.clone(),
        nonce: birth.nonce.clone(),
        process: Some(birth.process.clone()),
        containment: Some(birth.containment.clone()),
        epoch: birth.intent.epoch,
    };
    unknown.values().flat_map(|unknown| &unknown.births).map(claim).collect()
}

/// What became of the runs of the ledger and of births that it does not know.
struct Sights(BTreeMap<Nonce, Found>);

impl Sights {
    fn look(layout: &StateLayout, claims: impl IntoIterator<Item = Claim>) -> Result<Self, LedgerError> {
        let claims: Vec<Claim> = claims.into_iter().collect();
        let seen = observe_lost(layout, &claims)?;
        Ok(Self(seen.into_iter().map(|sighting| (sighting.nonce, sighting.found)).collect()))
    }

    /// It, or the rest of it, lives and is ours.
    fn is_proved(&self, nonce: &Nonce) -> bool {
        match self.0.get(nonce) {
            Some(
                Found::Alive { .. }
                | Found::Ended { others: true, .. }
                | Found::Ending { .. }
                | Found::ContainmentLost { pid: Some(_) },
            ) => true,
            Some(
                Found::Ended { others: false, .. }
                | Found::NeverBorn
                | Found::InFlight
                | Found::Unverifiable { .. }
                | Found::OutOfDescriptors { .. }
                | Found::ContainmentLost { pid: None }
                | Found::KeeperUnresponsive,
            )
            | None => false,
        }
    }

    /// Its leader is gone, and nothing is left of it. Of one whose containment is lost that is never known.
    fn is_over(&self, nonce: &Nonce) -> bool {
        matches!(self.0.get(nonce), Some(Found::Ended { others: false, .. } | Found::NeverBorn))
    }
}

/// A child that hangs before its birth.
struct Unborn {
    pid: Pid,
    service: ServiceId,
    nonce: Nonce,
}

struct Evidence<'a> {
    ledger: &'a Ledger,
    unknown: BTreeMap<ServiceId, Unknown<'a>>,
    sights: Sights,
    /// What our keeper holds.
    cells: Vec<CellInfo>,
    /// Every birth: what became of these is told by the births themselves.
    on_record: BTreeSet<&'a Nonce>,
    suspects: Vec<Candidate>,
    unborn: Vec<Unborn>,
}

impl Evidence<'_> {
    fn make_good(&self) -> Lost {
        let mut lost = Lost::default();
        let of_births = self.unknown.keys();
        let of_cells = self.cells.iter().map(|cell| &cell.service);
        let of_suspects = self.suspects.iter().map(|suspect| &suspect.service);
        let of_unborn = self.unborn.iter().map(|unborn| &unborn.service);
        let services: BTreeSet<&ServiceId> =
            of_births.chain(of_cells).chain(of_suspects).chain(of_unborn).collect();
        for service in services {
            if let Some((how, records)) = self.of_service(service) {
                lost.recovered.push(Recovered { service: service.clone(), how });
                lost.records.extend(records);
            }
        }
        let guards = self.guards(&lost.records);
        lost.records.extend(guards);
        lost
    }

    /// By the best evidence that there is: a birth, the keeper, a start under way, then the looks of a process.
    fn of_service(&self, service: &ServiceId) -> Option<(How, Vec<Record>)> {
        let run = self.ledger.entry(service).and_then(|entry| entry.run.as_ref());
        if let Some(run) = run.filter(|run| run.process.is_some() && !self.sights.is_over(&run.nonce)) {
            let newer = self.births(service).filter(|birth| self.sights.is_proved(&birth.nonce));
            for other in newer {
                let (ours, theirs) = (run.process.as_ref().map(|p| p.pid.get()), other.process.pid);
                tracing::warn!(%service, ?ours, %theirs, "two runs of it are there; the ledger keeps the first");
            }
            return None;
        }
        let proved = |birth: &&BirthLine| self.sights.is_proved(&birth.nonce);
        if let Some(birth) = self.births(service).find(proved) {
            return Some((How::TakenUp { pid: birth.process.pid.get() }, birth.records().into()));
        }
        if let Some(found) = self.cells.iter().find_map(|cell| self.of_cell(service, run, cell)) {
            return Some(found);
        }
        if let Some(found) = self.of_unborn(service) {
            return Some(found);
        }
        if run.is_some_and(|run| run.process.is_none()) {
            // Whether it was born is found out with the other open intents.
            return None;
        }
        let newest = self.births(service).next();
        if let Some(birth) = newest.filter(|birth| !self.sights.is_over(&birth.nonce)) {
            return Some((How::Suspected { pids: vec![birth.process.pid.get()] }, birth.records().into()));
        }
        self.of_suspect(service).or_else(|| self.ended(service))
    }

    /// The newest first.
    fn births(&self, service: &ServiceId) -> impl Iterator<Item = &BirthLine> {
        self.unknown.get(service).into_iter().flat_map(|unknown| unknown.births.iter().rev().copied())
    }

    fn of_cell(&self, service: &ServiceId, run: Option<&Run>, cell: &CellInfo) -> Option<(How, Vec<Record>)> {
        let process = cell.process.as_ref().filter(|_| cell.service == *service)?;
        let is_open = run.is_some_and(|run| run.nonce == cell.nonce && run.process.is_none());
        if self.on_record.contains(&cell.nonce) || (!is_open && self.ledger.knows(service, &cell.nonce)) {
            return None;
        }
        let at = clock::now();
        let intent = (!is_open).then(|| self.lost_intent(service, &cell.nonce));
        let started = Record::Started {
            service: service.clone(),
            nonce: cell.nonce.clone(),
            process: process.clone(),
            containment: cell.containment.clone(),
            at,
        };
        let how = How::TakenUp { pid: process.pid.get() };
        Some((how, intent.into_iter().chain([started]).collect()))
    }

    fn of_unborn(&self, service: &ServiceId) -> Option<(How, Vec<Record>)> {
        let unborn = self.unborn.iter().find(|unborn| unborn.service == *service)?;
        let is_known = self.ledger.knows(service, &unborn.nonce);
        let intent = (!is_known).then(|| self.lost_intent(service, &unborn.nonce));
        Some((How::Unborn { pid: unborn.pid.get() }, intent.into_iter().collect()))
    }

    fn of_suspect(&self, service: &ServiceId) -> Option<(How, Vec<Record>)> {
        let is_unheard_of = |nonce: &Nonce| {
            !self.on_record.contains(nonce)
                && !self.ledger.knows(service, nonce)
                && self.cells.iter().all(|cell| cell.nonce != *nonce)
        };
        let mut of_service = self.suspects.iter().filter(|suspect| suspect.service == *service);
        let nonce = of_service.find(|suspect| is_unheard_of(&suspect.nonce))?.nonce.clone();
        let pids = self.suspects.iter().filter(|suspect| suspect.nonce == nonce);
        let pids = pids.map(|suspect| suspect.pid.get()).collect();
        Some((How::Suspected { pids }, vec![self.lost_intent(service, &nonce)]))
    }

    /// Of a service that is declared, so that what has completed is not run again; a birth of one that was
    /// removed is no reason to bring that back.
    fn ended(&self, service: &ServiceId) -> Option<(How, Vec<Record>)> {
        self.ledger.entry(service)?.file.as_ref()?;
        let birth = self.births(service).next()?;
        Some((How::Ended, birth.records().into()))
    }

    /// A start of which nothing is known any more but that it was.
    fn lost_intent(&self, service: &ServiceId, nonce: &Nonce) -> Record {
        let file = self.ledger.entry(service).and_then(|entry| entry.file.as_ref());
        let accepted = file.and_then(|file| self.ledger.files.get(file));
        let digest = accepted.map_or_else(|| Digest::of(b""), |file| file.digest.clone());
        Record::Intent(Box::new(Intent::lost(service.clone(), nonce.clone(), digest, clock::now())))
    }

    /// Which file declared what runs may be lost as well: that is no removal.
    fn guards(&self, records: &[Record]) -> Vec<Record> {
        let mut ledger = self.ledger.clone();
        records.iter().for_each(|record| ledger.apply(record));
        let runs_undeclared =
            ledger.services.iter().filter(|(_, entry)| entry.run.is_some() && entry.file.is_none());
        runs_undeclared
            .filter(|(_, entry)| entry.guard.is_none())
            .map(|(service, _)| Record::GuardLatched { service: service.clone(), why: Reason::RecordLost })
            .collect()
    }
}

/// Whether anything was ever started from this directory: then a ledger that is missing was lost.
pub(super) fn has_history(layout: &StateLayout) -> bool {
    [layout.births(), layout.keeper_lock()].iter().any(|path| path.exists())
}

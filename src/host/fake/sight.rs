//! What an observation shows of a claim.

use super::run::{Body, Doubt, Knowledge, Stage};
use super::world::World;
use crate::host::{Claim, Event, Found, Sighting};
use crate::identity::{Nonce, Pid, ProcessIdentity};
use crate::state::{Containment, FileIdentity};

impl World {
    pub fn observe(&mut self, claims: &[Claim]) -> Vec<Sighting> {
        let sighting = |world: &mut Self, claim: &Claim| Sighting {
            service: claim.service.clone(),
            nonce: claim.nonce.clone(),
            found: world.look_at(claim),
        };
        claims.iter().map(|claim| sighting(self, claim)).collect()
    }

    fn look_at(&mut self, claim: &Claim) -> Found {
        let found = match self.doubts.get(&claim.service) {
            Some(doubt) => self.doubtful(*doubt, claim),
            None => self.certain(claim),
        };
        self.attach(claim, &found);
        self.tell(format_args!("observe   {} ({}): {}", claim.service, claim.nonce, summary(&found)));
        found
    }

    fn doubtful(&self, doubt: Doubt, claim: &Claim) -> Found {
        let pid = claim.process.as_ref().map(|process| process.pid);
        match doubt {
            Doubt::Unverifiable => Found::Unverifiable { detail: "its start time cannot be read".to_owned() },
            Doubt::OutOfDescriptors => Found::OutOfDescriptors { detail: "too many open files".to_owned() },
            Doubt::ContainmentLost => Found::ContainmentLost { pid },
            Doubt::KeeperUnresponsive => Found::KeeperUnresponsive,
        }
    }

    fn certain(&mut self, claim: &Claim) -> Found {
        if self.late.remove(&claim.nonce) {
            self.epoch += 1;
            return Found::NeverBorn;
        }
        let boot = self.clock.boot();
        let Some(run) = self.runs.get(&claim.nonce) else {
            return self.unknown(claim.process.as_ref());
        };
        match &run.stage {
            Stage::InFlight => Found::InFlight,
            Stage::NeverBorn => Found::NeverBorn,
            Stage::Born(body) => {
                let is_same = claim.process.as_ref().is_none_or(|process| *process == body.identity);
                if is_same { found(body, claim, body.identity.boot != boot) } else { gone(false) }
            }
        }
    }

    /// A claim that this machine never heard of: an intent that went no further, or a ledger of elsewhere.
    fn unknown(&mut self, process: Option<&ProcessIdentity>) -> Found {
        let Some(process) = process else {
            // From here on the intent cannot come to an execution any more.
            self.epoch += 1;
            return Found::NeverBorn;
        };
        if self.strangers.get(&process.pid) == Some(process) {
            return Found::Unverifiable { detail: format!("pid {} is a stranger", process.pid) };
        }
        gone(process.boot != self.clock.boot())
    }

    fn attach(&mut self, claim: &Claim, found: &Found) {
        let nonce = &claim.nonce;
        let Some(run) = self.runs.get_mut(nonce) else {
            self.barred.insert(nonce.clone());
            return;
        };
        let is_new = run.knowledge == Knowledge::Unattached;
        run.knowledge = match found {
            Found::Alive { .. }
            | Found::Ending { .. }
            | Found::InFlight
            | Found::Ended { others: true, .. } => Knowledge::Attached,
            Found::Ended { others: false, .. } | Found::NeverBorn => Knowledge::ToldGone,
            Found::Unverifiable { .. }
            | Found::OutOfDescriptors { .. }
            | Found::ContainmentLost { .. }
            | Found::KeeperUnresponsive => return,
        };
        // A keeper tells the end of a run again to whoever attaches to it.
        if let Found::Ended { status, others, .. } = found
            && is_new
        {
            self.queue(Event::Exited { nonce: nonce.clone(), status: *status, others: *others });
            if !others {
                self.queue(Event::Gone { nonce: nonce.clone() });
            }
        }
    }

    pub fn identify(&self, pid: Pid) -> Option<ProcessIdentity> {
        let leaders = self.runs.values().filter_map(|run| run.body()).filter(|body| body.leader_lives());
        let mut known =
            leaders.map(|body| &body.identity).chain(self.strangers.values()).chain(self.holders.alive());
        known.find(|process| process.pid == pid).cloned()
    }

    pub fn containment(&self, nonce: &Nonce, process: &ProcessIdentity) -> Option<Containment> {
        let body = self.runs.get(nonce)?.body()?;
        (body.identity == *process).then(|| body.containment.clone())
    }

    pub fn executable(&self, process: &ProcessIdentity) -> Option<FileIdentity> {
        let bodies = self.runs.values().filter_map(|run| run.body());
        let mut alive = bodies.filter(|body| body.leader_lives() && body.identity.boot == self.clock.boot());
        let exe = alive.find(|body| body.identity == *process).map(|body| &body.exe)?;
        Some(FileIdentity { path: self.executables.shown_path(exe), ..exe.clone() })
    }
}

fn found(body: &Body, claim: &Claim, other_boot: bool) -> Found {
    let is_news = claim.process.is_none();
    let born = is_news.then(|| (body.identity.clone(), body.containment.clone()));
    let Some(end) = &body.end else {
        return Found::Alive { born };
    };
    Found::Ended {
        born,
        status: end.seen.as_ref().map(|(status, _)| *status),
        at: end.seen.as_ref().map(|(_, at)| at.clone()),
        others: !body.others.is_empty(),
        other_boot,
    }
}

fn gone(other_boot: bool) -> Found {
    Found::Ended { born: None, status: None, at: None, others: false, other_boot }
}

fn summary(found: &Found) -> String {
    match found {
        Found::Alive { .. } => "alive".to_owned(),
        Found::Ended { status, others, other_boot, .. } => {
            let how = status.map_or_else(|| "how is unknown".to_owned(), |status| status.to_string());
            let left = if *others { ", others live" } else { "" };
            let boot = if *other_boot { ", in another boot" } else { "" };
            format!("ended ({how}{left}{boot})")
        }
        Found::Ending { .. } => "ending".to_owned(),
        Found::NeverBorn => "never born".to_owned(),
        Found::InFlight => "in flight".to_owned(),
        Found::Unverifiable { detail } => format!("unverifiable: {detail}"),
        Found::ContainmentLost { .. } => "containment lost".to_owned(),
        Found::OutOfDescriptors { detail } => format!("not seen: {detail}"),
        Found::KeeperUnresponsive => "the keeper does not answer".to_owned(),
    }
}

//! What became of every claim, from `/proc`, the cgroups and the two journals.
//!
//! Reads only, locks nothing, and needs no keeper: `status` and `plan` look this way too. What cannot be proved
//! is said to be so. A leader that died under our eyes is looked at twice, for its end may have been written after
//! the journal was read. Identity is boot id, pid namespace, pid and start ticks; a zombie is dead.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::candidates::{self, Candidate};
use super::cgroup::{Group, has_emptied};
use super::cores::Over;
use super::holder;
use super::keeper::journal::{self, Ending};
use super::keeper::{JOB_PREFIX, KeeperError, is_held};
use super::proc::{Here, Liveness, visit_descendants};
use super::state_dir::ended_namespaces;
use super::{Claim, Found, Sighting, StateLayout};
use crate::identity::{Nonce, ProcessIdentity};
use crate::state::{BirthLine, Containment};

/// What is known of intents that never led to a birth on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intents<'a> {
    /// `judge_intents` was called for these since they were written: without a birth there will be none. What is
    /// not among them is our own and under way.
    Judged(&'a BTreeSet<Nonce>),
    /// We only look: a child of them may be about to be born.
    Open,
}

#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("{what} cannot be read")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Keeper(#[from] KeeperError),
}

/// Looks at every claim; one sighting for each, in the same order.
pub fn observe(
    layout: &StateLayout,
    claims: &[Claim],
    intents: Intents<'_>,
    over: Over,
) -> Result<Vec<Sighting>, ObserveError> {
    look(layout, claims, intents, over, || keeper_lives(layout))
}

/// As [`observe`] of what nobody may know any more: that a keeper lives is no promise that it will tell how these ended.
pub fn observe_lost(layout: &StateLayout, claims: &[Claim]) -> Result<Vec<Sighting>, ObserveError> {
    look(layout, claims, Intents::Open, Over::One, || Ok(false))
}

fn look(
    layout: &StateLayout,
    claims: &[Claim],
    intents: Intents<'_>,
    over: Over,
    keeper_will_tell: impl FnOnce() -> Result<bool, ObserveError>,
) -> Result<Vec<Sighting>, ObserveError> {
    let fail = |what: String| move |source| ObserveError::Io { what, source };
    let here = Here::read().map_err(fail("/proc".into()))?;
    let any_open = claims.iter().any(|claim| claim.process.is_none());
    let births = if any_open {
        let path = layout.births();
        journal::births(&path).map_err(fail(path.display().to_string()))?
    } else {
        BTreeMap::new()
    };
    let births_path = layout.births();
    let mut view = View {
        layout,
        births_path,
        here,
        births,
        exits: read_exits(layout)?,
        intents,
        candidates: OnceLock::new(),
        ended_namespaces: OnceLock::new(),
    };
    let mut found: Vec<Found> = over.map(claims, |claim| view.look_at(claim));
    let unexplained: Vec<usize> = (0..claims.len()).filter(|&index| is_unexplained(&found[index])).collect();
    if !unexplained.is_empty() {
        // In this order: whatever a keeper recorded that is gone by now is in the journal by now.
        let keeper_will_tell = keeper_will_tell()?;
        view.exits = read_exits(layout)?;
        for index in unexplained {
            found[index] = view.look_again_at(&claims[index], keeper_will_tell);
        }
    }
    let sighting = |(claim, found): (&Claim, Found)| Sighting {
        service: claim.service.clone(),
        nonce: claim.nonce.clone(),
        found,
    };
    Ok(claims.iter().zip(found).map(sighting).collect())
}

fn read_exits(layout: &StateLayout) -> Result<BTreeMap<Nonce, Ending>, ObserveError> {
    let path = layout.exits();
    journal::exits(&path).map_err(|source| ObserveError::Io { what: path.display().to_string(), source })
}

/// What may be explained by a line that was recorded after the journal was read.
fn is_unexplained(found: &Found) -> bool {
    match found {
        Found::Ended { status: None, other_boot: false, .. } | Found::ContainmentLost { .. } => true,
        Found::Ended { .. }
        | Found::Alive { .. }
        | Found::Ending { .. }
        | Found::NeverBorn
        | Found::InFlight
        | Found::Unverifiable { .. }
        | Found::OutOfDescriptors { .. }
        | Found::KeeperUnresponsive => false,
    }
}

/// True if a keeper lives, whether or not it answers.
pub fn keeper_lives(layout: &StateLayout) -> Result<bool, ObserveError> {
    Ok(is_held(layout)?)
}

/// What contains a process that is taken for the leader of this run: its cgroup, by the name, or its parent, if
/// that is a holder of ours.
pub fn contains(layout: &StateLayout, nonce: &Nonce, process: &ProcessIdentity) -> Option<Containment> {
    let here = Here::read().ok()?;
    let pinned = here.pin(process).ok()?;
    let group = Group::of_process(process.pid.get()).ok().flatten();
    if let Some(group) = group.filter(|group| Group::recall(group.path(), nonce).is_ok()) {
        return Some(Containment::Cgroup { path: group.path().to_owned() });
    }
    let parent = pinned.stat().ok()??.ppid;
    let holder = here.identity(parent).ok().filter(|_| holder::is_one(layout, parent))?;
    Some(Containment::Holder { process: holder, within: None })
}

struct View<'a> {
    layout: &'a StateLayout,
    births_path: PathBuf,
    here: Here,
    births: BTreeMap<Nonce, Option<BirthLine>>,
    exits: BTreeMap<Nonce, Ending>,
    intents: Intents<'a>,
    /// Looked for when they are needed.
    candidates: OnceLock<Result<Vec<Candidate>, String>>,
    /// Read when a process is of another than ours.
    ended_namespaces: OnceLock<Vec<u64>>,
}

impl View<'_> {
    fn look_at(&self, claim: &Claim) -> Found {
        if let Some(process) = &claim.process {
            let Some(containment) = &claim.containment else {
                return Found::Unverifiable { detail: "the ledger does not say what contains it".into() };
            };
            return self.look_at_run(&claim.nonce, process, containment, None);
        }
        match (self.births.get(&claim.nonce), self.intents) {
            (Some(Some(birth)), _) => {
                let born = Some((birth.process.clone(), birth.containment.clone()));
                self.look_at_run(&claim.nonce, &birth.process, &birth.containment, born)
            }
            // Its exec failed after the birth.
            (Some(None), _) => Found::NeverBorn,
            (None, Intents::Judged(judged)) if judged.contains(&claim.nonce) => {
                self.look_at_unborn(claim).unwrap_or(Found::NeverBorn)
            }
            (None, Intents::Judged(_)) => Found::InFlight,
            (None, Intents::Open) => self.look_at_unborn(claim).unwrap_or(Found::InFlight),
        }
    }

    /// The journal of births may have lost the line: what looks like the run is left alone.
    fn look_at_unborn(&self, claim: &Claim) -> Option<Found> {
        let found = self.candidates.get_or_init(|| candidates::find().map_err(|error| error.to_string()));
        let found = match found {
            Ok(found) => found,
            Err(error) => return Some(Found::Unverifiable { detail: format!("/proc: {error}") }),
        };
        let is_it = |one: &&Candidate| one.nonce == claim.nonce && one.service == claim.service;
        let pids: Vec<String> = found.iter().filter(is_it).map(|one| one.pid.to_string()).collect();
        // It may have been born between our reading the journal and our looking at it.
        let is_on_record =
            || journal::births(&self.births_path).is_ok_and(|births| births.contains_key(&claim.nonce));
        (!pids.is_empty() && !is_on_record()).then(|| Found::Unverifiable {
            detail: format!("pid {} looks like it, and its birth is not on record", pids.join(", ")),
        })
    }

    /// With the exits read anew. Dead and not on record means that nobody saw it end, unless a keeper lives,
    /// which records the end of a child while it is still a zombie.
    fn look_again_at(&self, claim: &Claim, keeper_will_tell: bool) -> Found {
        match self.look_at(claim) {
            Found::Ended { born, status: None, other_boot: false, .. } if keeper_will_tell => {
                Found::Ending { born }
            }
            found => found,
        }
    }

    fn look_at_run(
        &self,
        nonce: &Nonce,
        process: &ProcessIdentity,
        containment: &Containment,
        born: Option<(ProcessIdentity, Containment)>,
    ) -> Found {
        let ending = self.exits.get(nonce).cloned().unwrap_or_default();
        let ended = |others, other_boot| Found::Ended {
            born: born.clone(),
            status: ending.status(),
            at: ending.leader.as_ref().map(|line| line.at.clone()),
            others,
            other_boot,
        };
        match self.here.liveness(process) {
            Liveness::Unverifiable(_) if self.has_ended_with_its_namespace(process) => ended(false, true),
            Liveness::Unverifiable(detail) => Found::Unverifiable { detail },
            Liveness::OtherBoot => ended(false, true),
            Liveness::Alive => match self.is_held_together(containment) {
                Ok(true) => Found::Alive { born },
                Ok(false) => Found::ContainmentLost { pid: Some(process.pid) },
                Err(detail) => Found::Unverifiable { detail },
            },
            Liveness::Dead => match self.others(nonce, containment, ending.empty) {
                Ok(Some(others)) => ended(others, false),
                Ok(None) => Found::ContainmentLost { pid: None },
                Err(detail) => Found::Unverifiable { detail },
            },
        }
    }

    /// As after a boot: nothing of a container outlives its first process.
    fn has_ended_with_its_namespace(&self, process: &ProcessIdentity) -> bool {
        // What cannot be read proves nothing.
        let read = || ended_namespaces(self.layout).unwrap_or_default();
        process.boot == self.here.boot
            && process.pid_ns != self.here.pid_ns
            && self.ended_namespaces.get_or_init(read).contains(&process.pid_ns)
    }

    /// Whether what contains a living leader is there. A cgroup cannot be removed under its members.
    fn is_held_together(&self, containment: &Containment) -> Result<bool, String> {
        match containment {
            Containment::Cgroup { .. } => Ok(true),
            Containment::Holder { process, .. } => match self.here.liveness(process) {
                Liveness::Alive => Ok(true),
                Liveness::Dead | Liveness::OtherBoot => Ok(false),
                Liveness::Unverifiable(detail) => Err(detail),
            },
        }
    }

    /// Whether anything else of a run lives whose leader is dead; `None`: what contained it is gone.
    fn others(&self, nonce: &Nonce, containment: &Containment, empty: bool) -> Result<Option<bool>, String> {
        match containment {
            Containment::Cgroup { path } => match Group::recall(path, nonce) {
                Ok(group) => {
                    let members = group.pids_below(&|name| name.starts_with(JOB_PREFIX));
                    members
                        .map(|pids| Some(!pids.is_empty()))
                        .map_err(|error| format!("{}: {error}", path.display()))
                }
                // The hierarchy is not mounted where we are.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.to_string()),
            },
            Containment::Holder { .. } if empty => Ok(Some(false)),
            Containment::Holder { process, within } => match self.here.pin(process) {
                Ok(holder) => {
                    let mut others = false;
                    visit_descendants(&holder, &mut |_, stat| others |= !stat.is_dead())
                        .map(|()| Some(others))
                        .map_err(|error| format!("/proc: {error}"))
                }
                Err(Liveness::Unverifiable(detail)) => Err(detail),
                // Killed with all that it held, as at the end of a session, or alone.
                Err(_) => match within {
                    None => Ok(None),
                    Some(within) => has_emptied(within)
                        .map(|emptied| emptied.then_some(false))
                        .map_err(|error| format!("{}: {error}", within.path.display())),
                },
            },
        }
    }
}

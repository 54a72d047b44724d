//! What runs beside what is declared: fields that differ, and files that are not what was executed.
//!
//! The first is worked out only for services whose text or entry has changed, the second in a full pass. Both
//! are facts for `plan`.

use std::sync::Arc;

use super::Reconciler;
use super::status::Drift;
use crate::host::Host;
use crate::identity::{Digest, Nonce, ServiceId};
use crate::manifest::{self, Class, OnExeChange};
use crate::plan::{self, Accepted, Refusal, Seen};
use crate::policy::{OnExecAway, RunningVerdict};

/// The code of a leader whose file was replaced on disk.
const EXE_CHANGED: &str = "exe-changed";

/// The code of a leader that executes a file which is not allowed.
const EXEC_AWAY: &str = "exec-away";

/// How two accepted texts of one service differ.
#[derive(Debug, Default)]
struct Difference {
    restart: Vec<String>,
    live: Vec<String>,
    parked: bool,
}

impl Difference {
    fn between(old: &Accepted, new: &Accepted) -> Self {
        let mut difference = Self::default();
        for (field, class) in manifest::changed_fields(&old.spec, &new.spec) {
            match class {
                Class::None => {}
                Class::Live | Class::Reload => {
                    difference.parked |= field.starts_with("restart") || field.starts_with("health");
                    difference.live.push(field.to_owned());
                }
                Class::Restart => difference.restart.push(field.to_owned()),
            }
        }
        difference
    }
}

impl<H: Host> Reconciler<H> {
    /// Brings `services` up to date with the ledger and with what is desired.
    pub(super) fn compare(&mut self, services: impl IntoIterator<Item = ServiceId>) {
        for service in services {
            let Some(live) = self.observed.services.get(&service) else { continue };
            let Some(digest) = digest_of_newest_run(&live.entry) else { continue };
            let running = self
                .library
                .recall(&mut self.host, &digest)
                .and_then(|loaded| loaded.service(&service).cloned());
            let wanted = self.accepted(&service);
            let difference = match (&running, &wanted) {
                (Some(old), Some(new)) if old.digest != new.digest => Difference::between(old, new),
                _ => Difference::default(),
            };
            let live = self.service_mut(&service);
            live.running = running;
            live.changed = difference.restart;
            live.live_changed = difference.live;
            live.parked_changed = difference.parked;
        }
    }

    /// Compares the executable of every live leader, by device and inode, with what was started.
    pub(super) fn compare_executables(&mut self) {
        let leader = |(service, live): (&ServiceId, &plan::Service)| {
            let process = live.entry.run.as_ref()?.process.clone().filter(|_| live.seen == Seen::Alive)?;
            Some((process, (service.clone(), Arc::clone(&live.entry))))
        };
        let (processes, alive): (Vec<_>, Vec<_>) = self.observed.services.iter().filter_map(leader).unzip();
        for ((service, entry), now) in alive.into_iter().zip(self.host.executables(&processes)) {
            let Some(run) = &entry.run else { continue };
            let host = &mut self.host;
            let verdict =
                self.policy.permit_running(&run.exec, now.as_ref(), &mut |query| host.resolve(query));
            self.take_verdict(&service, &run.nonce, verdict);
        }
    }

    fn take_verdict(&mut self, service: &ServiceId, nonce: &Nonce, verdict: RunningVerdict) {
        let is_replaced = matches!(verdict, RunningVerdict::ReplacedOnDisk);
        let on_change = self.accepted(service).map(|accepted| accepted.spec.on_exe_change);
        let follows = is_replaced && on_change == Some(OnExeChange::Restart);
        self.service_mut(service).replaced = follows.then(|| nonce.clone());
        let drift = match verdict {
            RunningVerdict::ReplacedOnDisk if on_change == Some(OnExeChange::Ignore) => None,
            RunningVerdict::Same | RunningVerdict::AnotherAllowed | RunningVerdict::Unknown => None,
            RunningVerdict::ReplacedOnDisk => Some(Drift {
                code: EXE_CHANGED.to_owned(),
                message:
                    "its executable was replaced on disk since it was started; `reconcile restart` takes up \
                          the new one"
                        .to_owned(),
            }),
            RunningVerdict::ExecAway { path } => Some(Drift {
                code: EXEC_AWAY.to_owned(),
                message: format!(
                    "it has become {}, which the policy does not allow; that path in `executables` would",
                    path.display()
                ),
            }),
        };
        let shown = self.drift.entry(service.clone()).or_default();
        shown.retain(|other| other.code != EXEC_AWAY && other.code != EXE_CHANGED);
        let Some(drift) = drift else {
            if shown.is_empty() {
                self.drift.remove(service);
            }
            return;
        };
        let run = self.memory.ledger().entry(service).and_then(|entry| entry.run.as_ref());
        if drift.code == EXEC_AWAY
            && self.policy.on_exec_away() == OnExecAway::Stop
            && let Some(run) = run
        {
            self.execed_away.insert(service.clone(), (run.nonce.clone(), drift.message.clone()));
        }
        self.drift.entry(service.clone()).or_default().push(drift);
    }

    /// What has become a file that is not allowed is refused until its manifest or the policy changes: started
    /// again as it is, it would do the same.
    pub(super) fn refuse_what_execed_away(&mut self) {
        let ledger = self.memory.ledger();
        let services = &mut self.desired.services;
        self.execed_away.retain(|service, (nonce, message)| {
            let (Some(entry), Some(want)) = (ledger.entry(service), services.get_mut(service)) else {
                return false;
            };
            let runs = entry.run.as_ref().is_some_and(|run| run.nonce == *nonce);
            let ran_last = entry.run.is_none()
                && entry.last.as_ref().is_some_and(|last| {
                    let digest = want.accepted.as_ref().map(|accepted| &accepted.digest);
                    last.nonce == *nonce && digest == Some(&last.digest)
                });
            if runs || ran_last {
                want.refused = Some(Refusal { problem: message.clone() });
            }
            runs || ran_last
        });
    }
}

fn digest_of_newest_run(entry: &crate::state::Entry) -> Option<Digest> {
    let run = entry.run.as_ref().map(|run| run.digest.clone());
    run.or_else(|| entry.last.as_ref().map(|last| last.digest.clone()))
}

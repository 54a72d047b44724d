//! What runs beside what is declared: fields that differ, and files that are not what was executed.
//!
//! The first is worked out only for services whose text or entry has changed, the second in a full pass. Both
//! are facts for `plan`.

use super::Reconciler;
use super::status::Drift;
use crate::host::Host;
use crate::identity::{Digest, ServiceId};
use crate::manifest::{self, Class};
use crate::plan::{Accepted, Refusal, Seen};
use crate::policy::{OnExecAway, RunningVerdict};

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
        let alive: Vec<ServiceId> = self
            .observed
            .services
            .iter()
            .filter(|(_, live)| live.seen == Seen::Alive && live.entry.run.is_some())
            .map(|(service, _)| service.clone())
            .collect();
        for service in alive {
            let Some(run) = self.memory.ledger().entry(&service).and_then(|entry| entry.run.clone()) else {
                continue;
            };
            let Some(process) = &run.process else { continue };
            let now = self.host.executable(process);
            let host = &mut self.host;
            let verdict =
                self.policy.permit_running(&run.exec, now.as_ref(), &mut |query| host.resolve(query));
            self.take_verdict(&service, verdict);
        }
    }

    fn take_verdict(&mut self, service: &ServiceId, verdict: RunningVerdict) {
        let drift = match verdict {
            RunningVerdict::Same | RunningVerdict::AnotherAllowed | RunningVerdict::Unknown => None,
            RunningVerdict::ReplacedOnDisk => Some(Drift {
                code: "exe-changed".to_owned(),
                message:
                    "its executable was replaced on disk since it was started; `reconcile restart` takes up \
                          the new one"
                        .to_owned(),
            }),
            RunningVerdict::ExecAway { path } => Some(Drift {
                code: "exec-away".to_owned(),
                message: format!("it has become {}, which the policy does not allow", path.display()),
            }),
        };
        let stops = self.policy.on_exec_away() == OnExecAway::Stop;
        match drift {
            Some(drift) => {
                if drift.code == "exec-away"
                    && stops
                    && let Some(want) = self.desired.services.get_mut(service)
                {
                    want.refused = Some(Refusal { problem: drift.message.clone() });
                }
                self.drift.insert(service.clone(), vec![drift]);
            }
            None => {
                self.drift.remove(service);
            }
        }
    }
}

fn digest_of_newest_run(entry: &crate::state::Entry) -> Option<Digest> {
    let run = entry.run.as_ref().map(|run| run.digest.clone());
    run.or_else(|| entry.last.as_ref().map(|last| last.digest.clone()))
}

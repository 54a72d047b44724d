//! Whether a service whose manifest is gone may be taken away.
//!
//! Three things stand before it. The *delay*: a `git checkout` in progress stops nothing. The *guards*: an
//! unmounted directory and a pass that would take away most of a project look like a mistake, and hold until
//! the manifests return, the operator allows it, or names the service. A refused manifest that may declare the
//! service holds too, for as long as it may, and so does a git that is changing the worktree. The *roots*: what belongs to a root that this run was not given is
//! none of its business. Pure; called once a service by `plan`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::input::{Desired, Observed, Presence, RootState, Service, UnreadFile, Want};
use crate::identity::ServiceId;
use crate::manifest::Unread;
use crate::state::{End, Reason, Record};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Removal {
    /// A manifest declares it.
    No,
    /// Of a root that this run was not given.
    Elsewhere { path: String },
    /// Take it away.
    Due,
    /// Not before the directory has been quiet for that much longer.
    Waits { left: Duration },
    /// A guard holds.
    Held(Reason),
}

/// What the guards must know of all services before they judge one.
#[derive(Debug)]
pub(super) struct Guards<'a> {
    desired: &'a Desired,
    projects: BTreeMap<&'a str, Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    removed: usize,
    of: usize,
}

impl<'a> Guards<'a> {
    /// Counts per project, if anything is absent at all.
    pub(super) fn survey(desired: &'a Desired, observed: &Observed) -> Self {
        let mut projects: BTreeMap<&str, Tally> = BTreeMap::new();
        let is_absent = |want: &Want| matches!(want.presence, Presence::Absent { .. });
        if !desired.services.values().any(is_absent) {
            return Self { desired, projects };
        }
        for (id, want) in &desired.services {
            let tally = projects.entry(id.project()).or_default();
            match &want.presence {
                Presence::Present => tally.of += 1,
                Presence::Absent { root } if desired.roots.contains_key(root) => {
                    tally.of += 1;
                    let begun = observed.services.get(id).is_some_and(removal_has_begun);
                    tally.removed += usize::from(!begun);
                }
                Presence::Absent { .. } | Presence::OtherRoot { .. } => {}
            }
        }
        Self { desired, projects }
    }

    /// With what the ledger is to remember of the verdict.
    pub(super) fn judge(&self, id: &ServiceId, want: &Want, service: &Service) -> (Removal, Option<Record>) {
        let released =
            || service.entry.guard.is_some().then(|| Record::GuardReleased { service: id.clone() });
        match &want.presence {
            Presence::Present => (Removal::No, released()),
            Presence::OtherRoot { path } => (Removal::Elsewhere { path: path.display().to_string() }, None),
            Presence::Absent { root } => match self.desired.roots.get(root) {
                None => (Removal::Elsewhere { path: format!("root {}", root.0) }, None),
                Some(state) => match self.judge_absent(id, state, service) {
                    Removal::Due => (Removal::Due, released()),
                    Removal::Held(why) if service.entry.guard.is_none() && is_latched(&why) => {
                        let note = Record::GuardLatched { service: id.clone(), why: why.clone() };
                        (Removal::Held(why), Some(note))
                    }
                    removal => (removal, None),
                },
            },
        }
    }

    fn judge_absent(&self, id: &ServiceId, root: &RootState, service: &Service) -> Removal {
        let rules = &self.desired.prune;
        if rules.named.contains(id) || removal_has_begun(service) {
            return Removal::Due;
        }
        if let Some(why) = service.entry.guard.as_deref().filter(|_| !rules.allow) {
            return Removal::Held(why.clone());
        }
        if let Some(left) = rules.delay.checked_sub(root.quiet_for).filter(|left| !left.is_zero()) {
            return Removal::Waits { left };
        }
        if rules.allow {
            return Removal::Due;
        }
        // Before the latched ones: what git takes away it may bring back elsewhere.
        checkout_in_progress(root)
            .or_else(|| lost_directory(root, service))
            .or_else(|| self.maybe_declared(id, service))
            .or_else(|| self.too_many_of(id))
            .map_or(Removal::Due, Removal::Held)
    }

    /// A refused manifest of any root that may declare it: a rename and a mistake may come in one commit.
    fn maybe_declared(&self, id: &ServiceId, service: &Service) -> Option<Reason> {
        self.desired.roots.values().find_map(|root| {
            let file = root.unread.iter().find(|file| file.may_declare(id, service))?;
            Some(Reason::GuardUnreadManifest {
                path: root.path.join(&file.path).display().to_string(),
                problem: file.problem.clone(),
            })
        })
    }

    fn too_many_of(&self, id: &ServiceId) -> Option<Reason> {
        let rules = &self.desired.prune;
        let Tally { removed, of } = *self.projects.get(id.project())?;
        let most = removed as f64 > of as f64 * rules.max_fraction;
        (removed >= rules.guard_min && most).then_some(Reason::GuardFraction { removed, of })
    }
}

impl UnreadFile {
    /// A text that can be read names what it declares. Of one that cannot, its age tells: what has not been changed
    /// since the service was first started is no later version of the manifest that it was started from.
    fn may_declare(&self, id: &ServiceId, service: &Service) -> bool {
        match &*self.services {
            Unread::Nothing => false,
            Unread::Names(names) => names.contains(id.name()),
            Unread::Anything => {
                let last_start = service.entry.last.as_ref().map(|last| &last.started_at);
                let begun = service.entry.activation.as_ref().or(last_start);
                self.changed_wall_ms == 0 || begun.is_none_or(|begun| self.changed_wall_ms >= begun.wall_ms)
            }
        }
    }
}

fn checkout_in_progress(root: &RootState) -> Option<Reason> {
    root.checkout.as_ref().map(|lock| Reason::GuardCheckout { lock: lock.display().to_string() })
}

/// True for a guard whose cause may be lost from sight without being mended.
fn is_latched(why: &Reason) -> bool {
    matches!(why, Reason::GuardRootGone { .. } | Reason::GuardFraction { .. })
}

/// The directory that held its manifest, if that was lost, by the nearest one above the file.
fn lost_directory(root: &RootState, service: &Service) -> Option<Reason> {
    let file = service.entry.file.as_ref().map_or(Path::new("x"), |file| file.path.as_path());
    let mut above = file.ancestors().skip(1);
    let (directory, detail) = above.find_map(|directory| root.lost.get_key_value(directory))?;
    // Joining "" would leave a trailing slash.
    let path = if directory.as_os_str().is_empty() { root.path.clone() } else { root.path.join(directory) };
    Some(Reason::GuardRootGone { path: path.display().to_string(), detail: detail.clone() })
}

/// True once we have begun to stop it, or have stopped it, because it was removed: that was decided then, and
/// a guard that comes later must not bring it back to life.
fn removal_has_begun(service: &Service) -> bool {
    let entry = &service.entry;
    match (&entry.run, entry.last.as_deref()) {
        (Some(run), _) => run.stopping.as_ref().is_some_and(|stopping| stopping.why == Reason::Removed),
        (None, Some(last)) => {
            last.stopped_why == Some(Reason::Removed) && matches!(last.end, End::Ours { .. })
        }
        (None, None) => false,
    }
}

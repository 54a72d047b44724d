//! What a row of the table answers: at most one step, what is held beside it, a phase, and what follows from them.
//!
//! Pure; built by the rows, gathered by `plan`.

use std::time::Duration;

use super::output::{Action, Phase, PhaseView};
use crate::identity::ServiceId;
use crate::state::{Reason, Record};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    pub step: Option<(Action, Reason)>,
    /// A removal or a restart that waits, seen beside a step that changes nothing.
    pub held: Option<Reason>,
    pub view: PhaseView,
    pub notes: Vec<Record>,
    pub probe: bool,
    pub wake: Option<Duration>,
    /// What follows once the steps of others have come about.
    pub later: Option<LaterStep>,
}

/// A step that waits for those of other services.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LaterStep {
    pub action: Action,
    pub reason: Reason,
    /// The steps of this pass are the first.
    pub wave: u32,
    pub after: Vec<ServiceId>,
}

impl From<PhaseView> for Verdict {
    fn from(view: PhaseView) -> Self {
        Self { step: None, held: None, view, notes: Vec::new(), probe: false, wake: None, later: None }
    }
}

impl Verdict {
    pub(super) fn of(phase: Phase, reason: Reason) -> Self {
        PhaseView { phase, reason }.into()
    }

    /// A step, and a phase for the same reason.
    pub(super) fn with_step(action: Action, phase: Phase, reason: Reason) -> Self {
        Self::of(phase, reason.clone()).step(action, reason)
    }

    pub(super) fn step(mut self, action: Action, reason: Reason) -> Self {
        self.step = Some((action, reason));
        self
    }

    /// What else is done goes first, but for an adoption, which is no change.
    pub(super) fn hold_if_unchanged(mut self, why: &Reason) -> Self {
        if self.step.as_ref().is_none_or(|(action, _)| *action == Action::Adopt) {
            self.held.get_or_insert_with(|| why.clone());
        }
        self
    }

    pub(super) fn note(mut self, record: Record) -> Self {
        self.notes.push(record);
        self
    }

    pub(super) fn note_if(self, record: Option<Record>) -> Self {
        match record {
            Some(record) => self.note(record),
            None => self,
        }
    }

    /// Nothing is done about it: the command names others.
    pub(super) fn only_shown(self) -> Self {
        Self { wake: self.wake, ..self.view.into() }
    }

    pub(super) fn probe(mut self) -> Self {
        self.probe = true;
        self
    }

    /// Look again after `left`, or sooner.
    pub(super) fn wake(mut self, left: Duration) -> Self {
        self.wake = Some(self.wake.map_or(left, |soonest| soonest.min(left)));
        self
    }

    pub(super) fn wake_if(self, left: Option<Duration>) -> Self {
        match left {
            Some(left) => self.wake(left),
            None => self,
        }
    }
}

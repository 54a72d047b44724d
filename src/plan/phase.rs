//! The phase of a service whose process is alive, for status and plan alike.
//!
//! Pure, and free of allocation for a service that is well. The phases of services without a process belong
//! to the rows of `decide` that find them.

use super::health::{Standing, last_error, too_late};
use super::input::Health;
use super::output::{Phase, PhaseView};
use crate::manifest::Spec;
use crate::state::Reason;

pub(super) fn of_alive(standing: &Standing, spec: Option<&Spec>, health: &Health) -> PhaseView {
    let foreign = || health.foreign.clone();
    let (phase, reason) = match standing {
        Standing::Starting { .. } => (Phase::Starting, foreign().unwrap_or(Reason::Starting)),
        Standing::Up if spec.is_some_and(|spec| spec.health.is_some()) => (Phase::Ready, Reason::Ready),
        Standing::Up => (Phase::Running, foreign().unwrap_or(Reason::Running)),
        Standing::Unhealthy => {
            (Phase::Unhealthy, Reason::Unwell { failures: health.failures, last_error: last_error(health) })
        }
        Standing::Late { timeout } => (Phase::Unhealthy, too_late(*timeout, health)),
    };
    PhaseView { phase, reason }
}

//! The order of steps: what takes something away comes before what adds, then by name.
//!
//! A service that was renamed needs the port of its predecessor. Pure; called once a plan.

use super::output::{Later, Step};

/// Which way the names go within one kind of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    /// A shutdown goes backwards.
    Reverse,
}

/// Sorts by action (in the order of [`super::Action`]), then by service.
pub(super) fn order(steps: &mut [Step], direction: Direction) {
    steps.sort_by(|a, b| {
        let names = match direction {
            Direction::Forward => a.service.cmp(&b.service),
            Direction::Reverse => b.service.cmp(&a.service),
        };
        a.action.cmp(&b.action).then(names)
    });
}

/// What comes later: wave by wave, then by service.
pub(super) fn order_later(later: &mut [Later]) {
    later.sort_by(|a, b| a.wave.cmp(&b.wave).then_with(|| a.step.service.cmp(&b.step.service)));
}

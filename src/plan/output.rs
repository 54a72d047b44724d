//! What the planner returns: steps with reasons, phases, probes that are due, and when to look again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::identity::ServiceId;
use crate::state::{Reason, Record};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// In the order they are carried out: removals first.
    pub steps: Vec<Step>,
    /// What follows once the steps of others have come about, wave by wave; planned anew then.
    pub later: Vec<Later>,
    /// What the ledger is to remember although nothing happens to a process.
    pub notes: Vec<Record>,
    /// Services whose next probe is due.
    pub probes: Vec<ServiceId>,
    /// Every service of the input with its phase.
    pub phases: BTreeMap<ServiceId, PhaseView>,
    /// The soonest time from now, on the clock that stands still during suspend, at which the same inputs
    /// give another plan.
    pub wake_in: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub service: ServiceId,
    pub action: Action,
    /// Of a start, also whether the counters of failures begin anew: [`Reason::clears_failures`].
    pub reason: Reason,
}

/// A step that waits for those of other services: for a dependency that is on its way, or a dependent that ends first.
#[derive(Debug, Clone, PartialEq)]
pub struct Later {
    pub step: Step,
    /// The steps of this pass are the first.
    pub wave: u32,
    pub after: Vec<ServiceId>,
}

/// One thing to do. `Hold` and `Reject` do nothing, and say why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Begin a stop: the stop command, then the signal.
    Stop,
    /// Begin a stop, and a start follows.
    Restart,
    /// The stop command is done or out of time: send the signal.
    Signal,
    /// SIGKILL to all of it.
    Kill,
    /// Forget a service of which nothing is left.
    Forget,
    /// Attach to a process of an earlier reconciler.
    Adopt,
    /// Let a change of class live take effect.
    Update,
    /// Send the signal for which it takes up its files anew.
    Reload,
    Start,
    Hold,
    Reject,
}

impl Action {
    /// True for what changes a process; a plan without such a step is converged.
    pub fn is_change(self) -> bool {
        match self {
            Self::Stop
            | Self::Restart
            | Self::Signal
            | Self::Kill
            | Self::Forget
            | Self::Update
            | Self::Reload
            | Self::Start => true,
            Self::Adopt | Self::Hold | Self::Reject => false,
        }
    }
}

/// DESIGN section 3, everywhere the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Pending,
    Starting,
    Running,
    Ready,
    Unhealthy,
    Backoff,
    Failed,
    Stopping,
    Stopped,
    Completed,
    Expired,
    Rejected,
    Held,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PhaseView {
    pub phase: Phase,
    pub reason: Reason,
}

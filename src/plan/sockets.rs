//! Which services have their sockets held open.
//!
//! Pure. A connection waits for whoever is to accept it, and is refused where nobody will: so a socket is open in every
//! phase from which the service comes up by itself, and closed in one that it does not leave, once its process is gone.

use super::output::{Phase, PhaseView};
use crate::manifest::ActivateOn;
use crate::state::Reason;

/// True while sockets that are open stay so.
pub fn keeps_sockets(view: &PhaseView) -> bool {
    match view.phase {
        Phase::Pending
        | Phase::Starting
        | Phase::Running
        | Phase::Ready
        | Phase::Unhealthy
        | Phase::Backoff
        | Phase::Stopping => true,
        // What may not be touched is left as it is; so is what belongs to others.
        Phase::Held => true,
        Phase::Stopped => {
            matches!(view.reason, Reason::PruneDelay | Reason::OnDemand { on: ActivateOn::Connection })
        }
        Phase::Failed | Phase::Completed | Phase::Expired | Phase::Rejected => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_open_while_somebody_may_yet_accept() {
        let keeps = |phase, reason| keeps_sockets(&PhaseView { phase, reason });
        let crashed = Reason::Crashed { status: None, failures: 1 };
        assert!(keeps(Phase::Backoff, crashed.clone()));
        assert!(keeps(Phase::Stopping, Reason::SpecChanged { fields: Vec::new() }));
        assert!(!keeps(Phase::Failed, crashed));
        assert!(!keeps(Phase::Stopped, Reason::OperatorStop));
        assert!(keeps(Phase::Stopped, Reason::PruneDelay), "it may come back");
        let asleep = |on| keeps(Phase::Stopped, Reason::OnDemand { on });
        assert!(asleep(ActivateOn::Connection), "who connects wakes it");
        assert!(!asleep(ActivateOn::Request));
    }
}

//! Sockets of services: held before a start that is passed them, and let go of once nobody will accept any more.
//!
//! The host opens them, and the keeper holds them. A start whose sockets are not held yet waits at its gate; one that is
//! not to be had is tried again after the same waits as a port. Which are kept is for `plan::keeps_sockets`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Reconciler;
use crate::host::Host;
use crate::host::listen::{Listen, NotHeld, SocketKey};
use crate::identity::ServiceId;
use crate::manifest::{ActivateOn, ListenOn, RenderedSocket};
use crate::plan::{Accepted, Action, Phase, Plan, Presence, Seen, Step, keeps_sockets};
use crate::state::{PortHolder, Reason};

/// The drift of a run whose sockets went with its keeper.
const NOT_HELD: &str = "socket-not-held";

impl<H: Host> Reconciler<H> {
    /// Asks for the sockets of what the plan would start, closes the gates of those that are not held yet, and says
    /// whether there are any.
    pub(super) fn close_socket_gates(&mut self, plan: &Plan) -> bool {
        let mut closed = false;
        for step in &plan.steps {
            if matches!(step.action, Action::Start | Action::Restart)
                && let Some(gate) = self.missing_socket(step)
            {
                self.close_gate(&step.service, gate);
                closed = true;
            }
        }
        for accepted in self.sleepers_without_sockets(plan) {
            if let Some(gate) = self.missing_of(&accepted, &BTreeSet::new()) {
                self.close_gate(&accepted.spec.id, gate);
                closed = true;
            }
        }
        for accepted in self.waits_with_its_sockets(plan) {
            // Its gate is for what it waits for; a socket that is not to be had is asked for again.
            let _ = self.missing_of(&accepted, &BTreeSet::new());
        }
        closed
    }

    /// Whose sockets a keeper may not hold that is new, and are of use before the next start: of what comes up by itself
    /// once its time has come, or is tried again when it is used; and of what runs and is not passed them.
    fn waits_with_its_sockets(&self, plan: &Plan) -> Vec<Arc<Accepted>> {
        let services = self.desired.services.iter().filter_map(|(service, want)| {
            let accepted = want.accepted.as_ref().filter(|accepted| !accepted.spec.sockets.is_empty())?;
            let view = plan.phases.get(service)?;
            let is_handed_on = accepted.spec.activation.proxy.is_some();
            let waits = match view.phase {
                Phase::Backoff => true,
                Phase::Pending => want.gate.is_none(),
                Phase::Starting | Phase::Running | Phase::Ready | Phase::Unhealthy => {
                    is_handed_on && want.gate.is_none()
                }
                _ => false,
            };
            let is_ours = want.presence == Presence::Present && self.is_acted_on(service);
            let is_used_otherwise =
                matches!(accepted.spec.activates_on(), ActivateOn::Request | ActivateOn::Lease)
                    && self.memory.ledger().entry(service).is_none_or(|entry| entry.activation.is_none());
            let has_run = || self.observed.services.get(service).is_some_and(|live| live.entry.run.is_some());
            (waits && is_ours && !is_used_otherwise && (is_handed_on || !has_run()))
                .then(|| Arc::clone(accepted))
        });
        services.collect()
    }

    fn missing_socket(&mut self, step: &Step) -> Option<Reason> {
        let accepted = self.accepted(&step.service).filter(|accepted| !accepted.spec.sockets.is_empty())?;
        // What its own process listens on is let go of with it, whoever else holds it.
        let own = match step.action {
            Action::Restart => self.addresses_of_run(&step.service),
            _ => BTreeSet::new(),
        };
        self.missing_of(&accepted, &own)
    }

    fn missing_of(&mut self, accepted: &Accepted, own: &BTreeSet<ListenOn>) -> Option<Reason> {
        let mut missing = None;
        for (key, listen) in self.sockets_of(accepted) {
            if own.contains(&listen.address) {
                continue;
            }
            self.host.hold_socket(&key, &listen);
            let is_held = self.host.held_sockets().is_some_and(|held| held.get(&key) == Some(&listen));
            if !is_held {
                let (name, address) = (key.name, listen.address.to_string());
                missing.get_or_insert(Reason::SocketOpening { name, address });
            }
        }
        missing
    }

    pub(super) fn addresses_of_run(&mut self, service: &ServiceId) -> BTreeSet<ListenOn> {
        let running = self.observed.services.get(service).and_then(|live| live.running.clone());
        running
            .map(|accepted| {
                self.render(&accepted.spec).sockets.into_iter().map(|socket| socket.address).collect()
            })
            .unwrap_or_default()
    }

    fn sockets_of(&mut self, accepted: &Accepted) -> Vec<(SocketKey, Listen)> {
        let spec = &accepted.spec;
        // A user who is not known closes the gate by itself.
        let user = spec.user.as_ref().and_then(|user| self.host.user(user).ok());
        let owner = user.map(|user| (user.uid, user.gid));
        let sockets = self.render(spec).sockets.into_iter();
        sockets
            .map(|RenderedSocket { name, address, mode }| {
                let key = SocketKey { service: spec.id.clone(), name };
                let is_file = matches!(address, ListenOn::Unix(_));
                (key, Listen { address, mode, owner: owner.filter(|_| is_file) })
            })
            .collect()
    }

    pub(super) fn socket_held(&mut self, key: &SocketKey) {
        if let Some(want) = self.desired.services.get_mut(&key.service) {
            want.gate.take_if(|gate| matches!(gate, Reason::SocketOpening { .. }));
        }
    }

    pub(super) fn socket_not_held(&mut self, key: &SocketKey, why: NotHeld) {
        let Some(accepted) = self.accepted(&key.service) else { return };
        let sockets = self.sockets_of(&accepted);
        let Some((_, listen)) = sockets.into_iter().find(|(other, _)| other == key) else { return };
        let holder = match listen.address {
            ListenOn::Tcp(address) if why.errno == libc::EADDRINUSE => self.listener_on(address.port()),
            ListenOn::Tcp(_) | ListenOn::Unix(_) => None,
        };
        let reason = Reason::SocketUnavailable {
            name: key.name.clone(),
            address: listen.address.to_string(),
            errno: why.errno,
            detail: why.message,
            holder,
        };
        tracing::warn!(service = %key.service, code = reason.code(), "{}", reason.message());
        if let Some(want) = self.desired.services.get_mut(&key.service)
            && want.gate.as_ref().is_none_or(|gate| matches!(gate, Reason::SocketOpening { .. }))
        {
            want.gate = Some(reason);
        }
    }

    fn listener_on(&mut self, port: u16) -> Option<PortHolder> {
        self.host.port_holders(&BTreeSet::from([port])).remove(&port)
    }

    /// What is asked for again is asked for by the next pass.
    pub(super) fn forget_opening_sockets(&mut self) {
        for want in self.desired.services.values_mut() {
            want.gate.take_if(|gate| matches!(gate, Reason::SocketOpening { .. }));
        }
    }

    /// Lets go of what nobody will accept on, and says of what runs whether its sockets are held.
    pub(super) fn settle_sockets(&mut self, plan: &Plan) {
        if self.hands_off || self.foreign.is_some() {
            return;
        }
        let Some(held) = self.host.held_sockets() else { return };
        for key in held.keys() {
            if self.is_acted_on(&key.service) && !self.keeps_socket(key, plan) {
                self.host.release_socket(key);
            }
        }
        self.show_lost_sockets(&held);
    }

    pub(super) fn is_acted_on(&self, service: &ServiceId) -> bool {
        self.desired.only.as_ref().is_none_or(|only| only.contains(service))
    }

    fn keeps_socket(&self, key: &SocketKey, plan: &Plan) -> bool {
        let service = &key.service;
        let live = self.observed.services.get(service);
        let runs = live.is_some_and(|live| live.entry.run.is_some());
        let want = self.desired.services.get(service);
        let is_elsewhere = want.is_some_and(|want| matches!(want.presence, Presence::OtherRoot { .. }));
        let keeps = match plan.phases.get(service) {
            _ if is_elsewhere => !(self.desired.shutdown && self.desired.everywhere),
            Some(view) => keeps_sockets(view),
            None => false,
        };
        let declares = |accepted: &Accepted| accepted.spec.sockets.contains_key(&key.name);
        let is_declared = is_elsewhere
            || want.and_then(|want| want.accepted.as_deref()).is_some_and(declares)
            || live.filter(|_| runs).and_then(|live| live.running.as_deref()).is_some_and(declares);
        is_declared && (runs || keeps)
    }

    fn show_lost_sockets(&mut self, held: &BTreeMap<SocketKey, Listen>) {
        let runs = self.observed.services.iter().filter(|(_, live)| live.seen == Seen::Alive);
        let lost = runs.filter_map(|(service, live)| {
            let sockets = &live.running.as_ref()?.spec.sockets;
            let is_lost = |name: &&String| {
                !held.contains_key(&SocketKey { service: service.clone(), name: (*name).clone() })
            };
            (!sockets.is_empty()).then(|| (service.clone(), sockets.keys().find(is_lost).cloned()))
        });
        for (service, lost) in lost.collect::<Vec<_>>() {
            match lost {
                Some(name) => {
                    let message = format!(
                        "its socket `{name}` went with a keeper that was lost: while it restarts, connections are refused \
                         once; `reconcile restart {service}` mends that"
                    );
                    self.show_drift(&service, NOT_HELD, &message);
                }
                None => self.hide_drift(&service, NOT_HELD),
            }
        }
    }

    /// Ports on which we listen for the service itself.
    pub(super) fn ports_held_for(&self, service: &ServiceId) -> Vec<u16> {
        let Some(held) = self.host.held_sockets() else { return Vec::new() };
        let own = held.iter().filter(|(key, _)| key.service == *service);
        own.filter_map(|(_, listen)| match listen.address {
            ListenOn::Tcp(address) => Some(address.port()),
            ListenOn::Unix(_) => None,
        })
        .collect()
    }
}

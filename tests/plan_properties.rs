//! What holds for the plan of every world, and where a world ends up when its plans are carried out.

#[path = "plan/model.rs"]
mod model;
#[path = "plan/policy.rs"]
mod policy;
#[path = "plan/worlds.rs"]
mod worlds;

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use reconcile::identity::ServiceId;
use reconcile::plan::{Action, Desired, Flight, Observed, Plan, Presence, Seen, Service, Step, plan};
use reconcile::state::Record;
use reconcile::time::Stamp;

use model::{Model, events};
use worlds::{NOW_MS, at, linked_worlds, worlds};

fn touches_a_process(action: Action) -> bool {
    match action {
        Action::Stop | Action::Restart | Action::Signal | Action::Kill | Action::Reload => true,
        Action::Forget | Action::Adopt | Action::Update | Action::Start | Action::Hold | Action::Reject => {
            false
        }
    }
}

/// A plan without what is only a clock reading.
fn essence(plan: &Plan) -> (Vec<(ServiceId, Action)>, Vec<String>, Vec<ServiceId>) {
    let steps = plan.steps.iter().map(|step| (step.service.clone(), step.action)).collect();
    let notes = plan.notes.iter().map(|note| match note {
        Record::Ready { service, nonce, .. } => format!("ready {service} {nonce}"),
        Record::LeaseEnded { holder, services, how, .. } => format!("{holder} {how:?} {services:?}"),
        other => format!("{other:?}"),
    });
    (steps, notes.collect(), plan.probes.clone())
}

fn later(ms: u64) -> Stamp {
    at(NOW_MS + ms)
}

fn service<'a>(observed: &'a Observed, id: &ServiceId) -> Option<&'a Service> {
    observed.services.get(id)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn only_what_is_proved_alive_is_signalled((desired, observed) in linked_worlds()) {
        for step in plan(&desired, &observed, &at(NOW_MS)).steps {
            let Some(service) = service(&observed, &step.service) else {
                prop_assert!(!touches_a_process(step.action));
                continue;
            };
            if matches!(service.seen, Seen::Unverifiable(_)) {
                prop_assert_eq!(step.action, Action::Hold);
            }
            // A spawn that hangs is known to the keeper alone, by its nonce, and is that one's to end.
            let hangs = step.action == Action::Kill && matches!(service.flight, Flight::Spawning { .. });
            if touches_a_process(step.action) && !hangs {
                prop_assert!(matches!(service.seen, Seen::Alive | Seen::Leftovers), "{:?}", step);
                prop_assert!(service.entry.run.as_ref().is_some_and(|run| run.process.is_some()), "{:?}", step);
            }
        }
    }

    #[test]
    fn nothing_is_started_or_forgotten_beside_anything((desired, observed) in linked_worlds()) {
        for step in plan(&desired, &observed, &at(NOW_MS)).steps {
            if !matches!(step.action, Action::Start | Action::Forget) {
                continue;
            }
            let Some(service) = service(&observed, &step.service) else { continue };
            prop_assert!(service.entry.run.is_none(), "{:?}", step);
            prop_assert_eq!(&service.seen, &Seen::None);
            prop_assert!(!matches!(service.flight, Flight::Spawning { .. }), "{:?}", step);
        }
    }

    #[test]
    fn only_a_service_with_an_accepted_spec_is_started_or_restarted((desired, observed) in linked_worlds()) {
        for step in plan(&desired, &observed, &at(NOW_MS)).steps {
            if matches!(step.action, Action::Start | Action::Restart | Action::Update) {
                let want = &desired.services[&step.service];
                prop_assert!(want.accepted.is_some() && !desired.shutdown);
                prop_assert!(want.refused.is_none());
            }
        }
    }

    #[test]
    fn services_of_other_roots_get_no_new_step((desired, observed) in linked_worlds()) {
        for step in plan(&desired, &observed, &at(NOW_MS)).steps {
            let is_ours = desired.services.get(&step.service).is_some_and(|want| match &want.presence {
                Presence::Present => true,
                Presence::Absent { root } => desired.roots.contains_key(root),
                Presence::OtherRoot { .. } => false,
            });
            let service = service(&observed, &step.service);
            let in_flight = service.is_some_and(|service| service.flight != Flight::None);
            let is_asked_for = desired.everywhere || service.is_some_and(|it| it.entry.stopped.is_some());
            let is_expected = match step.action {
                Action::Hold => true,
                Action::Stop | Action::Signal => is_asked_for,
                _ => false,
            };
            prop_assert!(is_ours || in_flight || is_expected, "{:?}", step);
        }
    }

    #[test]
    fn every_service_has_one_phase_and_at_most_one_change((desired, observed) in linked_worlds()) {
        let plan = plan(&desired, &observed, &at(NOW_MS));
        let known: BTreeSet<_> = desired.services.keys().chain(observed.services.keys()).collect();
        prop_assert_eq!(plan.phases.keys().collect::<BTreeSet<_>>(), known);
        // What is held is shown beside the adoption of what it would touch.
        let is_beside = |step: &&Step| step.action != Action::Adopt;
        let stepped: BTreeSet<_> = plan.steps.iter().filter(is_beside).map(|step| &step.service).collect();
        prop_assert_eq!(stepped.len(), plan.steps.iter().filter(is_beside).count());
        prop_assert!(plan.steps.is_sorted_by_key(|step| step.action));
    }

    /// What comes later is no step of this pass, and a stop that is put off leaves its service running.
    #[test]
    fn nothing_is_done_now_and_later((desired, observed) in linked_worlds()) {
        let plan = plan(&desired, &observed, &at(NOW_MS));
        for later in &plan.later {
            prop_assert!(later.wave > 1 && !later.after.is_empty());
            let now = plan.steps.iter().find(|step| step.service == later.step.service);
            prop_assert!(now.is_none_or(|step| !step.action.is_change()), "{:?}", now);
        }
    }

    #[test]
    fn the_same_world_gives_the_same_plan((desired, observed) in linked_worlds()) {
        let now = at(NOW_MS);
        prop_assert_eq!(plan(&desired, &observed, &now), plan(&desired, &observed, &now));
    }

    /// With the guards out of the way, which by their nature count the others.
    #[test]
    fn one_service_is_planned_alike_alone_and_among_others((desired, observed) in worlds()) {
        let mut desired = desired;
        desired.prune.guard_min = usize::MAX;
        let all = plan(&desired, &observed, &at(NOW_MS));
        for id in all.phases.keys() {
            let alone = plan(&only(&desired, id), &only_observed(&observed, id), &at(NOW_MS));
            prop_assert_eq!(&alone.phases[id], &all.phases[id]);
            let step = all.steps.iter().find(|step| step.service == *id);
            prop_assert_eq!(alone.steps.first(), step);
        }
    }

    #[test]
    fn nothing_falls_due_before_the_time_of_the_next_look(
        (desired, observed) in linked_worlds(),
        fraction in 0.0..1.0_f64,
    ) {
        let plan_now = plan(&desired, &observed, &at(NOW_MS));
        let wake_ms = plan_now.wake_in.unwrap_or(Duration::from_secs(1_000_000)).as_millis() as u64;
        let before = ((wake_ms - 1) as f64 * fraction) as u64;
        let sooner = plan(&desired, &observed, &later(before));
        prop_assert_eq!(essence(&plan_now), essence(&sooner));
        let kinds = |plan: &Plan| plan.phases.values().map(|view| view.phase).collect::<Vec<_>>();
        prop_assert_eq!(kinds(&plan_now), kinds(&sooner));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is asked for, crashes, vanishes, reboots or dies on the way: once that has stopped, the world
    /// settles, every promise is kept at every step (the model checks), and a further pass does nothing.
    #[test]
    fn a_world_that_is_left_alone_converges(
        services in prop::collection::vec(model::behaviours(), 1..7),
        events in events(),
    ) {
        let mut model = Model::new(services);
        model.live_through(&events);
        model.settle();
        model.check_settled();
    }
}

fn only(desired: &Desired, id: &ServiceId) -> Desired {
    let mut alone = desired.clone();
    alone.services.retain(|other, _| other == id);
    alone
}

fn only_observed(observed: &Observed, id: &ServiceId) -> Observed {
    let mut alone = observed.clone();
    alone.services.retain(|other, _| other == id);
    alone
}

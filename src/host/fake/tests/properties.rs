//! Whatever services do, the model keeps its books: pids are unique, and each end is told once.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn on_signal() -> impl Strategy<Value = OnSignal> {
    prop_oneof![
        Just(OnSignal::Ignores),
        (0..2_000_u64).prop_map(|ms| OnSignal::Obeys(Duration::from_millis(ms)))
    ]
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    let exits = proptest::option::of((0..5_000_u64, 0..3_i32));
    let descendants = proptest::collection::vec(on_signal(), 0..3);
    (exits, descendants, 0..3_000_u64, any::<bool>()).prop_map(|(exits, descendants, delay, obeys)| {
        let mut script = Behaviour::default().spawn_delay(Duration::from_millis(delay));
        script = if obeys { script } else { script.ignores_term() };
        script = descendants.into_iter().fold(script, Behaviour::forks_descendant);
        match exits {
            Some((after, status)) => script.exits(Duration::from_millis(after), code(status)),
            None => script,
        }
    })
}

/// What was told of a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    spawned: usize,
    exited: usize,
    gone: usize,
}

impl Told {
    fn of(claim: &Claim, events: &[Event]) -> Self {
        let mut told = Self::default();
        for event in events {
            match event {
                Event::Spawned { nonce, .. } if *nonce == claim.nonce => told.spawned += 1,
                Event::Exited { nonce, .. } if *nonce == claim.nonce => told.exited += 1,
                Event::Gone { nonce } if *nonce == claim.nonce => told.gone += 1,
                _ => {}
            }
        }
        told
    }
}

impl Rig {
    fn spawn_each(&mut self, scripts: &[Behaviour]) -> Vec<Claim> {
        let each = scripts.iter().zip(["a", "b", "c", "d"]);
        each.map(|(script, name)| {
            self.host.behave(name, script.clone());
            self.spawn(name)
        })
        .collect()
    }

    /// Everything that is told in the next so many milliseconds.
    fn hear_for(&mut self, millis: u64) -> Vec<Event> {
        let end = self.host.now().awake_ms + millis;
        let mut heard = Vec::new();
        while let Some(left) = end.checked_sub(self.host.now().awake_ms).filter(|left| *left > 0) {
            heard.extend(self.wait_at_most(left));
        }
        heard
    }
}

proptest! {
    #[test]
    fn every_run_ends_once_and_leaves_nothing(
        scripts in proptest::collection::vec(behaviour(), 1..5),
        pause in 0..6_000_u64,
    ) {
        let mut rig = Rig::new();
        rig.host.narrow_pids(40);
        let claims = rig.spawn_each(&scripts);
        let mut events = rig.hear_for(pause);
        for claim in claims.iter().filter(|claim| Told::of(claim, &events).gone == 0) {
            rig.host.kill(claim);
        }
        events.extend(rig.hear_for(60_000));
        for claim in &claims {
            let told = Told::of(claim, &events);
            prop_assert_eq!((told.exited, told.gone), (told.spawned, 1));
        }
        rig.host.assert_alive(&[]);
    }

    #[test]
    fn no_two_living_processes_share_a_pid(
        scripts in proptest::collection::vec(behaviour(), 1..5),
        steps in proptest::collection::vec(0..900_u64, 1..20),
    ) {
        let mut rig = Rig::new();
        rig.host.narrow_pids(24);
        rig.spawn_each(&scripts);
        for step in steps {
            rig.host.advance(Duration::from_millis(step));
            let world = rig.host.world.borrow();
            let bodies = world.runs.values().filter_map(|run| run.body());
            let pids: Vec<Pid> = bodies.flat_map(|body| body.pids()).collect();
            let distinct: BTreeSet<Pid> = pids.iter().copied().collect();
            prop_assert_eq!(distinct.len(), pids.len());
        }
    }
}

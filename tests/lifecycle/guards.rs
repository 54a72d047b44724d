//! Whatever becomes of directories, and whoever looks in between: a service whose manifest nobody deleted is not ended.

use std::collections::BTreeSet;

use proptest::prelude::*;
use reconcile::host::fake::{Birth, FakeHost};
use reconcile::reconciler::command::Command;

use crate::rig::{Rig, manifest, millis, secs};

/// Below the root, and where each is declared. Fewer than the guard against mass removals counts.
const FILES: [(&str, &str); 4] =
    [("a", "a.toml"), ("b", "b.toml"), ("c", "team/c.toml"), ("d", "team/d.toml")];

#[derive(Debug, Clone, Copy)]
enum Way {
    Missing,
    Empty,
    Unreadable,
}

#[derive(Debug, Clone)]
enum Event {
    Lose(Way, Place),
    Regain,
    /// All is back but this file: if its service was held, it is held on.
    RegainWithout(usize),
    /// Another text of the same services; without effect on the processes.
    Edit(usize, u8),
    BeginCheckout,
    EndCheckout,
    Once,
    Die,
    Overflow,
    WithoutEvents,
    Pass(u64),
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Root,
    Team,
}

fn path_of(place: Place) -> String {
    match place {
        Place::Root => FakeHost::ROOT.to_owned(),
        Place::Team => format!("{}/team", FakeHost::ROOT),
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let way = prop_oneof![Just(Way::Missing), Just(Way::Empty), Just(Way::Unreadable)];
    let place = prop_oneof![Just(Place::Root), Just(Place::Team)];
    let event = prop_oneof![
        4 => (way, place).prop_map(|(way, place)| Event::Lose(way, place)),
        3 => Just(Event::Regain),
        3 => (0..FILES.len()).prop_map(Event::RegainWithout),
        2 => (0..FILES.len(), any::<u8>()).prop_map(|(file, n)| Event::Edit(file, n)),
        1 => Just(Event::BeginCheckout),
        1 => Just(Event::EndCheckout),
        3 => Just(Event::Once),
        2 => Just(Event::Die),
        1 => Just(Event::Overflow),
        1 => Just(Event::WithoutEvents),
        6 => prop_oneof![Just(100), Just(1_900), Just(2_100), Just(70_000)].prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 1..24)
}

struct Scene {
    rig: Rig,
    lost: Option<(Way, Place)>,
    /// Files that did not come back.
    missing: BTreeSet<usize>,
}

impl Scene {
    fn begin() -> Self {
        let rig = Rig::new();
        for (name, path) in FILES {
            rig.host.write(path, &manifest(name, ""));
        }
        let mut scene = Self { rig, lost: None, missing: BTreeSet::new() };
        scene.rig.run_for(secs(10));
        scene
    }

    fn happen(&mut self, event: &Event) {
        let host = self.rig.host.clone();
        match *event {
            Event::Lose(way, place) if self.lost.is_none() => {
                match way {
                    Way::Missing => host.lose_root(path_of(place)),
                    Way::Empty => host.replace_root_empty(path_of(place)),
                    Way::Unreadable => host.make_unreadable(path_of(place)),
                }
                self.lost = Some((way, place));
            }
            Event::Regain => self.regain(),
            Event::RegainWithout(file) if self.lost.is_some() => {
                let (name, path) = FILES[file];
                let is_latched = self.rig.reason(name) == "guard-root-gone";
                self.regain();
                if is_latched && self.missing.insert(file) {
                    host.remove(path);
                }
            }
            Event::Edit(file, n) if self.lost.is_none() && !self.missing.contains(&file) => {
                let (name, path) = FILES[file];
                host.write(path, &manifest(name, &format!("description = \"{n}\"")));
            }
            Event::Lose(..) | Event::RegainWithout(_) | Event::Edit(..) => {}
            Event::BeginCheckout => host.begin_checkout(),
            Event::EndCheckout => host.end_checkout(),
            Event::Once => {
                let once = Command::Converge { names: Vec::new(), timeout: secs(60), allow_prune: false };
                self.rig.order(once);
            }
            Event::Die => self.rig.die(Birth::Never),
            Event::Overflow => host.overflow_file_events(),
            Event::WithoutEvents => host.lose_file_events(),
            Event::Pass(ms) => {
                self.rig.run_for(millis(ms));
            }
        }
    }

    fn regain(&mut self) {
        match self.lost.take() {
            Some((Way::Missing | Way::Empty, place)) => self.rig.host.bring_back(path_of(place)),
            Some((Way::Unreadable, place)) => self.rig.host.make_readable(path_of(place)),
            None => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_losses_and_passes_ends_a_service(events in events()) {
        let mut scene = Scene::begin();
        let before = FILES.map(|(name, _)| scene.rig.pid(name));
        for event in &events {
            scene.happen(event);
            prop_assert_eq!(scene.rig.counts().signals, 0, "{}", scene.rig.host.story());
        }
        scene.regain();
        for file in &scene.missing {
            let (name, path) = FILES[*file];
            scene.rig.host.write(path, &manifest(name, ""));
        }
        scene.rig.host.end_checkout();
        scene.rig.run_for(secs(130));
        prop_assert_eq!(FILES.map(|(name, _)| scene.rig.pid(name)), before);
        let left: BTreeSet<String> = scene.rig.plan().into_iter().map(|step| step.reason).collect();
        prop_assert!(left.is_empty(), "guards end with their causes: {:?}\n{}", left, scene.rig.host.story());
    }
}

#[test]
fn a_removal_waits_for_the_end_of_a_checkout() {
    let mut rig = Rig::new();
    for (name, path) in FILES {
        rig.host.write(path, &manifest(name, ""));
    }
    rig.run_for(secs(10));
    let moved = rig.pid("b");
    rig.host.begin_checkout();
    rig.host.remove("a.toml");
    rig.host.remove("b.toml");
    rig.run_for(secs(30));
    rig.host.assert_alive(&["a", "b", "c", "d"]);
    assert_eq!(rig.plan()[0].reason, "guard-checkout");
    rig.host.write("team/b.toml", &manifest("b", ""));
    rig.host.end_checkout();
    rig.run_for(secs(30));
    rig.host.assert_alive(&["b", "c", "d"]);
    assert_eq!(rig.pid("b"), moved);
}

#[test]
fn a_directory_that_goes_in_a_checkout_is_guarded_only_by_that() {
    let mut rig = Rig::new();
    for (name, path) in FILES {
        rig.host.write(path, &manifest(name, ""));
    }
    rig.run_for(secs(10));
    rig.host.begin_checkout();
    rig.host.remove("team");
    rig.run_for(secs(30));
    rig.host.write("c.toml", &manifest("c", ""));
    rig.host.write("d.toml", &manifest("d", ""));
    rig.host.end_checkout();
    rig.run_for(secs(100));
    rig.host.assert_alive(&["a", "b", "c", "d"]);
    assert_eq!((rig.counts().signals, rig.plan().len()), (0, 0));
}

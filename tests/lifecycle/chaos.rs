//! Anything in any order: in the end what is declared runs once, and nothing else does.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::errno::Errno;
use proptest::prelude::*;
use reconcile::host::fake::{Behaviour, Birth, OnSignal, Op};
use reconcile::plan::Phase;
use reconcile::reconciler::command::Command;
use reconcile::state::ExitStatus;

use crate::rig::{Rig, millis, secs};

/// Fewer than the guard against mass removal minds.
const NAMES: [&str; 3] = ["api", "db", "web"];

#[derive(Debug, Clone)]
enum Act {
    Declare(usize, u8),
    Remove(usize),
    End(usize, i32),
    Behave(usize, Manner),
    Ask(usize, Wish),
    Die(Birth),
    DieInTheMiddle(u64, Birth),
    KillKeeper(Birth),
    Reboot,
    Suspend(u64),
    Disk(Disk),
    Wait(u64),
}

#[derive(Debug, Clone, Copy)]
enum Manner {
    Good,
    Crashing,
    Stubborn,
    Backgrounding,
    Slow,
}

#[derive(Debug, Clone, Copy)]
enum Wish {
    Stop,
    Start,
    Restart,
}

#[derive(Debug, Clone, Copy)]
enum Disk {
    Full,
    Free,
}

impl Manner {
    fn behaviour(self) -> Behaviour {
        match self {
            Self::Good => Behaviour::default(),
            Self::Crashing => Behaviour::default().exits(millis(700), ExitStatus::Code(1)),
            Self::Stubborn => Behaviour::default().ignores_term().forks_descendant(OnSignal::Ignores),
            Self::Backgrounding => Behaviour::default().backgrounds(),
            Self::Slow => Behaviour::default().spawn_delay(secs(3)),
        }
    }
}

fn birth() -> impl Strategy<Value = Birth> {
    proptest::sample::select(vec![Birth::Before, Birth::After, Birth::TooLate, Birth::Never])
}

fn act() -> impl Strategy<Value = Act> {
    let name = 0..NAMES.len();
    let manner = proptest::sample::select(vec![
        Manner::Good,
        Manner::Crashing,
        Manner::Stubborn,
        Manner::Backgrounding,
        Manner::Slow,
    ]);
    let wish = proptest::sample::select(vec![Wish::Stop, Wish::Start, Wish::Restart]);
    prop_oneof![
        4 => (name.clone(), 0..3_u8).prop_map(|(name, variant)| Act::Declare(name, variant)),
        2 => name.clone().prop_map(Act::Remove),
        2 => (name.clone(), 0..2_i32).prop_map(|(name, code)| Act::End(name, code)),
        2 => (name.clone(), manner).prop_map(|(name, manner)| Act::Behave(name, manner)),
        2 => (name, wish).prop_map(|(name, wish)| Act::Ask(name, wish)),
        1 => birth().prop_map(Act::Die),
        3 => (0..40_u64, birth()).prop_map(|(calls, births)| Act::DieInTheMiddle(calls, births)),
        1 => birth().prop_map(Act::KillKeeper),
        1 => Just(Act::Reboot),
        1 => (1..10_000_u64).prop_map(Act::Suspend),
        1 => proptest::sample::select(vec![Disk::Full, Disk::Free]).prop_map(Act::Disk),
        5 => (1..20_000_u64).prop_map(Act::Wait),
    ]
}

/// The machine, and what should come of it.
struct Chaos {
    rig: Rig,
    declared: BTreeSet<usize>,
}

impl Chaos {
    fn new() -> Self {
        Self { rig: Rig::new(), declared: BTreeSet::new() }
    }

    fn perform(&mut self, act: &Act) {
        match *act {
            Act::Declare(name, variant) => {
                self.rig.declare(NAMES[name], &format!("env = {{ A = \"{variant}\" }}\nstop.grace = \"2s\""));
                self.declared.insert(name);
            }
            Act::Remove(name) => {
                if self.declared.remove(&name) {
                    self.rig.host.remove(format!("{}.toml", NAMES[name]));
                }
            }
            Act::End(name, code) => {
                if self.rig.host.leader(NAMES[name]).is_some() {
                    self.rig.host.end(NAMES[name], ExitStatus::Code(code));
                }
            }
            Act::Behave(name, manner) => self.rig.host.behave(NAMES[name], manner.behaviour()),
            Act::Ask(name, wish) => self.ask(NAMES[name], wish),
            Act::Die(births) => self.rig.die(births),
            Act::DieInTheMiddle(calls, births) => {
                self.rig.host.die_after(self.rig.host.calls() + calls);
                // Whether it comes to so many calls or not: it dies after this time at the latest.
                let _ = reconcile::host::fake::FakeHost::until_killed(|| {
                    self.rig.run_for(secs(5));
                });
                self.rig.die(births);
            }
            Act::KillKeeper(births) => self.rig.host.kill_keeper(births),
            Act::Reboot => self.rig.reboot(),
            Act::Suspend(seconds) => self.rig.host.suspend(secs(seconds)),
            Act::Disk(Disk::Full) => self.rig.host.fail_always(Op::Append, Errno::ENOSPC),
            Act::Disk(Disk::Free) => self.rig.host.heal(Op::Append),
            Act::Wait(span) => {
                self.rig.run_for(Duration::from_millis(span));
            }
        }
    }

    /// One refusal or another is no concern here; nor is one that cannot be settled.
    fn ask(&mut self, name: &str, wish: Wish) {
        let names = vec![name.into()];
        self.rig.order(match wish {
            Wish::Stop => Command::Stop { names },
            Wish::Start => Command::Start { names },
            Wish::Restart => Command::Restart { names },
        });
    }

    /// Everything behaves from now on, and the operator wants all of it.
    fn calm_down(&mut self) {
        self.rig.host.heal(Op::Append);
        for name in NAMES {
            self.rig.host.behave(name, Behaviour::default());
        }
        self.rig.run_for(secs(300));
        for name in &self.declared {
            let names = vec![NAMES[*name].into()];
            self.rig.order(match self.rig.phase(NAMES[*name]) {
                Some(Phase::Failed) => Command::Reset { names },
                _ => Command::Restart { names },
            });
        }
        self.rig.run_for(secs(300));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_what_is_declared_runs_once_in_the_end(acts in proptest::collection::vec(act(), 1..25)) {
        let mut chaos = Chaos::new();
        for act in &acts {
            chaos.perform(act);
        }
        chaos.calm_down();
        let alive: Vec<&str> = chaos.declared.iter().map(|name| NAMES[*name]).collect();
        chaos.rig.host.assert_alive(&alive);
        chaos.rig.assert_idle_for(secs(130));
    }
}

//! A recycled pid is never signalled, never adopted, never taken for what had it before.
//!
//! In a pid namespace of its own, where the next pid can be chosen: reconciler and keeper are killed, somebody ends, a
//! stranger gets its number, and the next reconciler has to tell them apart.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::process::{Child, Stdio};

use support::namespace::{self, first_process};
use support::{As, Run, World, cannot_run_as, is_alive, kill};

/// Whose number is given to the stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Leader,
    Descendant,
    /// Killed with all that it holds; only where runs have holders.
    Holder,
    Keeper,
    Watcher,
}

/// A pid namespace whose first process reaps, and does nothing else.
struct Inside {
    first: i32,
    unshare: Child,
}

impl Inside {
    fn new(world: &World) -> Option<Self> {
        let reaper = "$SIG{CHLD} = 'IGNORE'; sleep 1000 while 1";
        let options = ["-pf", "--mount-proc", "--kill-child", "perl", "-e", reaper];
        let unshare = namespace::inside(world, &options)?.stdout(Stdio::null()).spawn().unwrap();
        Some(Self { first: first_process(&unshare), unshare })
    }

    fn run(&self, world: &World, arguments: &[&str]) -> Run {
        let first = self.first.to_string();
        let mut command = world.behind("nsenter", &["-t", &first, "-p", "-m"]);
        command.args(arguments);
        world.finish(command)
    }

    /// A process of ours as it is called in there.
    fn inner(pid: i32) -> i32 {
        let status = support::read(format!("/proc/{pid}/status").as_ref());
        let line = status.lines().find(|line| line.starts_with("NSpid:")).expect("it lives");
        line.split_whitespace().last().unwrap().parse().unwrap()
    }

    /// The process in there that has this number, as it is called out here.
    fn outer(world: &World, inner: i32) -> i32 {
        let found = world.processes().into_iter().find(|pid| is_alive(*pid) && Self::inner(*pid) == inner);
        found.unwrap_or_else(|| panic!("nobody is {inner}\n{}", world.describe()))
    }

    /// A stranger with this number in there.
    fn recycle(&self, world: &World, inner: i32) -> i32 {
        let first = self.first.to_string();
        let script = format!(
            "echo {} >/proc/sys/kernel/ns_last_pid; sleep 3000 >/dev/null 2>&1 </dev/null & echo $!",
            inner - 1
        );
        for _ in 0..100 {
            let mut command = std::process::Command::new("nsenter");
            command.args(["-t", &first, "-p", "-m", "sh", "-c", &script]).stdin(Stdio::null());
            let output = command.output().unwrap();
            let got: i32 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
            // Other tests make strangers of the same number in namespaces of their own.
            let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
            let is_here = |pid: i32| namespace(pid) == namespace(self.first);
            let stranger = |pid: &i32| is_alive(*pid) && is_here(*pid) && Self::inner(*pid) == got;
            let pid = world.processes_like("sleep 3000").into_iter().find(stranger).expect("it was started");
            if got == inner {
                return pid;
            }
            kill(pid);
        }
        panic!("nobody gets the number {inner}");
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

fn ours(world: &World, words: &str) -> Vec<i32> {
    world.processes_like(words).intersection(&world.processes()).copied().collect()
}

#[test]
fn a_stranger_with_the_number_of_a_leader_is_left_alone() {
    everywhere(Role::Leader);
}

#[test]
fn a_stranger_with_the_number_of_a_descendant_is_left_alone() {
    everywhere(Role::Descendant);
}

#[test]
fn a_stranger_with_the_number_of_a_holder_is_left_alone() {
    everywhere(Role::Holder);
}

#[test]
fn a_stranger_with_the_number_of_the_keeper_is_left_alone() {
    everywhere(Role::Keeper);
}

#[test]
fn a_stranger_with_the_number_of_the_watcher_is_left_alone() {
    everywhere(Role::Watcher);
}

fn everywhere(role: Role) {
    for who in [As::Caller, As::Holders, As::Nobody] {
        if cannot_run_as(who) || who == As::Caller && role == Role::Holder {
            continue;
        }
        let world = World::run_as(who);
        let Some(inside) = Inside::new(&world) else { return };
        recycled(&world, &inside, role);
    }
}

fn recycled(world: &World, inside: &Inside, role: Role) {
    world.service("web", "(setsid sleep 2000 &); exec sleep 1000", "");
    inside.run(world, &["up", "-d"]).expect_code(0);
    world.until_phase("web", "running");
    let leader = Inside::outer(world, world.pid("web").unwrap());
    let descendant = *ours(world, "sleep 2000").first().expect("it was started");
    let keeper = world.keeper().unwrap();
    let watcher = *ours(world, "up --in-background").first().expect("it was started");
    let stat = support::read(format!("/proc/{leader}/stat").as_ref());
    let holder: i32 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();
    let ends: &[i32] = match role {
        Role::Leader => &[leader],
        Role::Descendant => &[descendant],
        Role::Holder => &[holder, leader, descendant],
        Role::Keeper | Role::Watcher => &[],
    };
    let victim = match role {
        Role::Leader => leader,
        Role::Descendant => descendant,
        Role::Holder => holder,
        Role::Keeper => keeper,
        Role::Watcher => watcher,
    };
    let inner = Inside::inner(victim);
    for pid in [watcher, keeper].iter().chain(ends) {
        kill(*pid);
    }
    world.until("its number is free", |_| !std::path::Path::new(&format!("/proc/{victim}")).exists());
    let stranger = inside.recycle(world, inner);

    let once = inside.run(world, &["--once", "--timeout", "20s"]);
    assert!(is_alive(stranger), "{role:?}: {once:?}\n{}", world.describe());
    let status = inside.run(world, &["status", "-o", "json"]).json();
    assert_eq!(status["watching"], false, "{role:?}");
    let web = &status["services"][0];
    // Who held it was killed: nothing proves that nothing is left.
    let is_lost = role == Role::Holder;
    assert_eq!(web["phase"] == "held", is_lost, "{role:?}: {web}");
    assert_eq!(once.code, i32::from(is_lost), "{role:?}: {once:?}");
    let leaders = ours(world, "sleep 1000");
    let leaders: Vec<i32> =
        leaders.into_iter().filter(|pid| *pid != inside.first && is_exactly(*pid, "sleep")).collect();
    match role {
        Role::Holder => assert!(leaders.is_empty(), "{leaders:?}"),
        Role::Leader => {
            assert!(leaders.len() == 1 && leaders[0] != leader && !is_alive(descendant), "{leaders:?}");
        }
        Role::Descendant | Role::Keeper | Role::Watcher => assert_eq!(leaders, [leader]),
    }
    assert_ne!(web["pid"], inner, "{role:?}: {web}");

    world.remove("web.toml");
    inside.run(world, &["--once", "--timeout", "20s", "--allow-prune"]);
    inside.run(world, &["down"]);
    assert!(is_alive(stranger), "{role:?}");
    if !is_lost {
        let left: Vec<i32> =
            ours(world, "sleep 1000").into_iter().filter(|pid| is_exactly(*pid, "sleep")).collect();
        assert!(left.is_empty(), "{role:?}: {left:?}\n{}", world.describe());
    }
    kill(stranger);
}

fn is_exactly(pid: i32, program: &str) -> bool {
    support::read(format!("/proc/{pid}/comm").as_ref()).trim() == program
}

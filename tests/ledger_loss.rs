//! A ledger that lost a part of itself, or all: nothing is doubled, and what runs goes on.
//!
//! Services are counted from outside, by a mark of the test in their environment. What is proved ours by a birth
//! on record, or by the keeper that holds it, is taken up again with its pid; what only looks like ours is held,
//! and a command leads out of that.

#![expect(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};

use support::{As, Run, World, is_alive, kill};

const NAMES: [&str; 3] = ["api", "db", "web"];

/// In the environment of every service here.
const MARK: &str = "LOSS_TEST_SERVICE";

fn declare(world: &World, name: &str, script: &str) {
    world.service(name, script, &format!("env = {{ {MARK} = \"{name}\" }}"));
}

/// Three services that run, one of them in its second run.
fn running(who: As) -> World {
    let world = World::run_as(who);
    for name in NAMES {
        declare(&world, name, "exec sleep 98765");
    }
    world.once().expect_code(0);
    declare(&world, "web", "exec sleep 98766");
    world.once().expect_code(0);
    world
}

/// Every living process of each service, told by the mark.
fn counted(world: &World) -> BTreeMap<String, BTreeSet<i32>> {
    let mut counted: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for pid in world.processes() {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let text = String::from_utf8_lossy(&environment).into_owned();
        let mark = text.split('\0').find_map(|pair| pair.strip_prefix(MARK)?.strip_prefix('='));
        if let Some(name) = mark {
            counted.entry(name.to_owned()).or_default().insert(pid);
        }
    }
    counted
}

fn ledger(world: &World) -> Vec<u8> {
    fs::read(world.state().join("ledger.journal")).unwrap()
}

fn damage(world: &World, bytes: &[u8]) {
    fs::write(world.state().join("ledger.journal"), bytes).unwrap();
}

fn remove(world: &World, names: &[&str]) {
    for name in names {
        fs::remove_file(world.state().join(name)).unwrap();
    }
}

/// One pass after the damage, and one after that.
#[track_caller]
fn assert_same_processes(world: &World, before: &BTreeMap<String, BTreeSet<i32>>, what: &str) -> Run {
    let run = world.once();
    assert_eq!(counted(world), *before, "{what}\n{}\n{}", run.stdout, run.stderr);
    assert_eq!(run.code, 0, "{what}\n{}\n{}", run.stdout, run.stderr);
    let gate = || fs::read(world.state().join("births.gate")).unwrap();
    let after = (ledger(world), gate());
    let second = world.once();
    assert_eq!(counted(world), *before, "{what}, the second time\n{}", second.stderr);
    assert!(second.stdout.trim().is_empty() || !second.stdout.contains("start"), "{what}: {}", second.stdout);
    assert_eq!((ledger(world), gate()), after, "{what}: a second pass writes nothing\n{}", second.stderr);
    run
}

/// The keeper alone: holders look like it, and came later.
fn kill_keeper(world: &World) {
    let keeper = world.keeper().expect("a keeper runs");
    kill(keeper);
    world.until("the keeper is gone", |_| !is_alive(keeper));
}

fn instance(world: &World) -> String {
    let text = fs::read_to_string(world.state().join("instance.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    record["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_ledger_cut_off_anywhere_doubles_nothing() {
    let world = running(As::Caller);
    let before = counted(&world);
    assert!(before.len() == 3 && before.values().all(|pids| pids.len() == 1), "{before:?}");
    let whole = ledger(&world);
    let ends = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let ends: Vec<usize> = [0].into_iter().chain(ends).collect();
    let within = ends.windows(2).step_by(3).map(|pair| pair[0] + (pair[1] - pair[0]) / 2);
    let cuts: BTreeSet<usize> = ends.iter().copied().chain(within).collect();
    for cut in cuts {
        damage(&world, &whole[..cut]);
        assert_same_processes(&world, &before, &format!("cut at {cut} of {}", whole.len()));
    }
}

#[test]
fn a_flipped_bit_anywhere_doubles_nothing() {
    let world = running(As::Holders);
    let before = counted(&world);
    let whole = ledger(&world);
    let lines = whole.split_inclusive(|&byte| byte == b'\n').scan(0, |at, line| {
        *at += line.len();
        Some(*at - line.len() / 2)
    });
    for at in lines {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        damage(&world, &flipped);
        let run = assert_same_processes(&world, &before, &format!("flipped at {at}"));
        assert!(run.stderr.contains("ledger was damaged"), "{}", run.stderr);
    }
}

#[test]
fn without_its_ledger_what_runs_is_taken_up_by_its_birth() {
    for who in [As::Caller, As::Holders] {
        let world = running(who);
        let before = counted(&world);
        kill_keeper(&world);
        remove(&world, &["ledger.journal"]);
        let run = assert_same_processes(&world, &before, "without a ledger");
        assert!(run.stderr.contains("the ledger is missing"), "{}", run.stderr);
        assert!(run.stderr.contains("taken up again"), "{}", run.stderr);
        // Nothing but the ledger knew of it; the spec it was started with is known all the same.
        declare(&world, "web", "exec sleep 98767");
        world.once().expect_code(0);
        let after = counted(&world);
        assert_eq!((&after["api"], &after["db"]), (&before["api"], &before["db"]));
        assert_ne!(after["web"], before["web"], "its command changed");
        assert_eq!(after["web"].len(), 1);
    }
}

#[test]
fn a_change_that_was_made_while_the_ledger_was_lost_is_seen() {
    let world = running(As::Caller);
    let before = counted(&world);
    remove(&world, &["ledger.journal"]);
    declare(&world, "web", "exec sleep 98767");
    let run = world.once().expect_code(0);
    assert!(run.stdout.contains("command"), "{}", run.stdout);
    let after = counted(&world);
    assert_eq!((&after["api"], after["web"].len()), (&before["api"], 1));
    assert_ne!(after["web"], before["web"]);
}

#[test]
fn without_ledger_and_births_what_the_keeper_holds_is_taken_up() {
    for who in [As::Caller, As::Holders] {
        let world = running(who);
        let before = counted(&world);
        remove(&world, &["ledger.journal", "births.journal"]);
        let run = world.once().expect_code(0);
        assert_eq!(counted(&world), before, "{}", run.stderr);
        // What it was started from is lost: compared from now on.
        assert_same_processes(&world, &before, "once more");
        declare(&world, "web", "exec sleep 98767");
        world.once().expect_code(0);
        let after = counted(&world);
        assert_eq!((&after["api"], after["web"].len()), (&before["api"], 1));
        assert_ne!(after["web"], before["web"], "its command changed");
    }
}

#[test]
fn what_cannot_be_proved_is_held_and_commands_lead_out() {
    for who in [As::Caller, As::Holders] {
        let world = running(who);
        let before = counted(&world);
        let pid = |name: &str| *before[name].first().unwrap();
        kill_keeper(&world);
        remove(&world, &["ledger.journal", "births.journal"]);
        let run = world.once();
        assert_ne!(run.code, 0, "{}", run.stderr);
        assert!(run.stderr.contains("it is held"), "{}", run.stderr);
        world.once();
        assert_eq!(counted(&world), before, "nothing is started beside them, and nothing is ended");
        for name in NAMES {
            assert_eq!(world.phase(name), "held", "{}", world.describe());
        }
        // One whose containment can still be told is adopted.
        world.run(&["adopt", "api", "--pid", &pid("api").to_string()]).expect_code(0);
        assert_eq!((world.phase("api").as_str(), world.pid("api")), ("running", Some(pid("api"))));
        // One that is ended by hand is forgotten, and started again.
        kill(pid("db"));
        world.until("db is dead", |_| !is_alive(pid("db")));
        world.run(&["forget", "db"]);
        world.once();
        let after = counted(&world);
        assert_eq!((&after["api"], &after["web"], after["db"].len()), (&before["api"], &before["web"], 1));
        assert_ne!(after["db"], before["db"]);
        // One that ends by itself is started again without a word.
        kill(pid("web"));
        world.until("web is dead", |_| !is_alive(pid("web")));
        world.once().expect_code(0);
        let after = counted(&world);
        assert!(after.values().all(|pids| pids.len() == 1), "{after:?}");
        world.run(&["down"]).expect_code(0);
        assert_eq!(counted(&world), BTreeMap::new());
    }
}

#[test]
fn a_held_service_does_not_cut_short_the_stop_of_another() {
    let world = World::new();
    declare(&world, "slow", "trap 'sleep 0.5; exit' TERM; while :; do sleep 0.05; done");
    declare(&world, "web", "exec sleep 98765");
    world.once().expect_code(0);
    let pid = |name: &str| world.pid(name).expect("it runs");
    let (slow, web) = (pid("slow"), pid("web"));
    kill_keeper(&world);
    remove(&world, &["ledger.journal", "births.journal"]);
    world.once();
    world.run(&["adopt", "slow", "--pid", &slow.to_string()]);
    assert_eq!((world.phase("slow").as_str(), world.phase("web").as_str()), ("running", "held"));
    let run = world.run(&["down"]);
    assert!(!is_alive(slow) && is_alive(web), "{}\n{}", run.stdout, run.stderr);
    assert_ne!(run.code, 0, "what is held is not down");
}

#[test]
fn a_start_whose_birth_was_lost_is_not_made_again() {
    let world = running(As::Caller);
    let before = counted(&world);
    kill_keeper(&world);
    // The newest start is open again: as if we had died right after it.
    let text = String::from_utf8(ledger(&world)).unwrap();
    let at = text.rfind("\"record\":\"intent\"").unwrap();
    let end = at + text[at..].find('\n').unwrap() + 1;
    damage(&world, &text.as_bytes()[..end]);
    let births = fs::read_to_string(world.state().join("births.journal")).unwrap();
    let torn = births.rfind("{\"nonce\"").unwrap();
    fs::write(world.state().join("births.journal"), &births.as_bytes()[..torn + 40]).unwrap();
    world.once();
    assert_eq!(counted(&world), before);
    assert_eq!(world.phase("web"), "held", "{}", world.describe());
    let pid = *before["web"].first().unwrap();
    world.run(&["adopt", "web", "--pid", &pid.to_string()]).expect_code(0);
    assert_same_processes(&world, &before, "adopted");
}

#[test]
fn a_stranger_with_a_mark_is_neither_taken_up_nor_ended() {
    let world = running(As::Caller);
    let before = counted(&world);
    let mark = format!("{}:default/web:00000000000000aa", instance(&world));
    let mut command = Command::new("/bin/sleep");
    command.arg("98765").env_clear().env("RECONCILE_SPAWN", mark).stdin(Stdio::null());
    let mut stranger = command.spawn().unwrap();
    remove(&world, &["ledger.journal", "births.journal"]);
    world.once().expect_code(0);
    assert_eq!(counted(&world), before);
    world.run(&["down"]).expect_code(0);
    assert_eq!(counted(&world), BTreeMap::new());
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger lives");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

/// Nothing but its mark tells it from a run whose records are lost.
#[test]
fn without_a_keeper_a_stranger_with_a_mark_is_held_and_never_ended() {
    let world = World::new();
    declare(&world, "web", "exec sleep 98765");
    world.once().expect_code(0);
    let web = world.pid("web").expect("it runs");
    let mark = format!("{}:default/web:00000000000000aa", instance(&world));
    let mut command = Command::new("/bin/sleep");
    command.arg("98765").env_clear().env("RECONCILE_SPAWN", mark).stdin(Stdio::null());
    let mut stranger = command.spawn().unwrap();
    kill_keeper(&world);
    kill(web);
    world.until("web is dead", |_| !is_alive(web));
    remove(&world, &["ledger.journal", "births.journal"]);
    world.once();
    assert_eq!(world.phase("web"), "held", "{}", world.describe());
    assert_eq!(counted(&world), BTreeMap::new(), "nothing is started beside it");
    world.run(&["down"]);
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger lives");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    world.once().expect_code(0);
    assert_eq!(counted(&world)["web"].len(), 1);
}

/// The leader and its holder are dead, and what the leader had started lives on.
#[test]
fn without_its_ledger_a_run_that_lost_its_containment_is_held() {
    let world = World::run_as(As::Holders);
    declare(&world, "web", "sleep 98765 & exec sleep 98766");
    world.once().expect_code(0);
    let leader = world.pid("web").expect("it runs");
    let before = counted(&world);
    let stat = fs::read_to_string(format!("/proc/{leader}/stat")).unwrap();
    let holder: i32 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();
    kill_keeper(&world);
    [holder, leader].into_iter().for_each(kill);
    world.until("both are dead", |_| !is_alive(holder) && !is_alive(leader));
    remove(&world, &["ledger.journal"]);
    world.once();
    assert_eq!(world.phase("web"), "held", "{}", world.describe());
    let after = counted(&world);
    assert!(after["web"].is_subset(&before["web"]) && after["web"].len() == 1, "{before:?}, {after:?}");
    for pid in &after["web"] {
        kill(*pid);
    }
}

#[test]
fn what_is_taken_up_and_declared_nowhere_is_not_ended_for_that() {
    let world = running(As::Caller);
    let before = counted(&world);
    remove(&world, &["ledger.journal"]);
    world.remove("db.toml");
    let run = world.once();
    assert_eq!(counted(&world), before, "{}", run.stderr);
    assert_eq!(world.service_status("db").unwrap()["reason"], "record-lost", "{}", world.describe());
    world.run(&["prune", "db"]).expect_code(0);
    assert!(!counted(&world).contains_key("db"));
    assert_eq!(world.once().expect_code(0).code, 0);
}

#[test]
fn a_job_that_was_done_is_not_done_again_for_a_cut_off_ledger() {
    let world = World::new();
    let done = world.path("done");
    declare(&world, "migrate", &format!("echo once >> {}", done.display()));
    declare(&world, "web", "exec sleep 98765");
    world.run(&["--once"]);
    world.until("it is done", |world| world.phase("migrate") == "completed");
    let text = String::from_utf8(ledger(&world)).unwrap();
    let at = text.find("{\"record\":\"intent\",\"service\":\"default/migrate\"").unwrap();
    let start = text[..at].rfind('\n').unwrap() + 1;
    damage(&world, &text.as_bytes()[..start + 20]);
    world.run(&["--once"]);
    assert_eq!(fs::read_to_string(done).unwrap(), "once\n");
    assert_eq!(world.phase("migrate"), "completed", "{}", world.describe());
}

/// Its birth stays on record, how it ended nobody saw, and a keeper lives that never heard of it.
#[test]
fn a_removed_service_is_not_brought_back_by_its_birth() {
    for who in [As::Caller, As::Holders] {
        let world = running(who);
        kill_keeper(&world);
        for pid in &counted(&world)["db"] {
            kill(*pid);
            world.until("db is dead", |_| !is_alive(*pid));
        }
        world.remove("db.toml");
        declare(&world, "web", "exec sleep 98767");
        world.once();
        assert!(world.keeper().is_some(), "it holds web");
        for _ in 0..2 {
            let run = world.once();
            assert!(!counted(&world).contains_key("db"), "{}\n{}", run.stdout, run.stderr);
            assert!(!run.stderr.contains("taken up again"), "{}", run.stderr);
        }
    }
}

/// Starts three services, of which the last to come by a failpoint of its birth stops there; the reconciler is killed,
/// and no record is left but the births. The answer is the one that has stopped.
fn one_stopped_at(world: &mut World, point: &str) -> i32 {
    for name in NAMES {
        declare(world, name, "exec sleep 98765");
    }
    let visits = world.path("visits");
    let mut reconciler = world.command();
    reconciler.env("RECONCILE_FAILPOINT", format!("{point}@3={}", visits.display()));
    let mut reconciler = reconciler.args(["up", "--quiet"]).stderr(Stdio::null()).spawn().unwrap();
    let stopped = || fs::read_to_string(&visits).ok()?.lines().nth(2)?.trim().parse().ok();
    let is_stopped = |pid: i32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T ");
    world.until("one hangs and the others run", |world| {
        stopped().is_some_and(is_stopped) && counted(world).len() == 2
    });
    reconciler.kill().unwrap();
    reconciler.wait().unwrap();
    remove(world, &["ledger.journal"]);
    stopped().unwrap()
}

fn resume(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGCONT).unwrap();
}

/// One look, which does not wait for what hangs.
fn look(world: &World) -> Run {
    world.run(&["--once", "--timeout", "1s"])
}

#[test]
fn a_child_that_hangs_before_its_birth_beside_a_lost_ledger_holds_up_its_service_alone() {
    for (who, keeper_lives) in [(As::Caller, true), (As::Holders, false)] {
        let mut world = World::run_as(who);
        let hung = one_stopped_at(&mut world, "child.gate");
        let before = counted(&world);
        if !keeper_lives {
            kill_keeper(&world);
        }
        let run = look(&world);
        assert_eq!(counted(&world), before, "{who:?}, {keeper_lives}: {}", run.stderr);
        assert!(run.stderr.contains(&format!("pid {hung}")), "{}", run.stderr);
        // Commands work beside it.
        let mut running = before.keys();
        let (first, second) = (running.next().unwrap(), running.next().unwrap());
        world.run(&["stop", first]).expect_code(0);
        assert!(!counted(&world).contains_key(first) && counted(&world).contains_key(second));
        // What was asked for in the epoch before is not born any more.
        resume(hung);
        world.until("it gives up", |_| !is_alive(hung));
        world.run(&["start", first]);
        world.once().expect_code(0);
        let after = counted(&world);
        assert!(after.len() == 3 && after.values().all(|pids| pids.len() == 1), "{after:?}");
        assert_eq!(after[second], before[second]);
        world.run(&["down"]).expect_code(0);
        assert_eq!(counted(&world), BTreeMap::new());
    }
}

#[test]
fn a_child_that_hangs_after_its_birth_beside_a_lost_ledger_is_taken_up() {
    for who in [As::Caller, As::Holders] {
        let mut world = World::run_as(who);
        let hung = one_stopped_at(&mut world, "child.execute");
        let before = counted(&world);
        let run = look(&world);
        assert_eq!(counted(&world), before, "{who:?}: {}", run.stderr);
        let name = NAMES.into_iter().find(|name| !before.contains_key(*name)).unwrap();
        assert_eq!(world.pid(name), Some(hung), "{}", world.describe());
        // The way out, also for one that never goes on.
        world.run(&["stop", name]).expect_code(0);
        assert!(!is_alive(hung));
        world.run(&["down"]).expect_code(0);
        assert_eq!(counted(&world), BTreeMap::new());
    }
}

/// Neither a record is left, nor anything of its own by which it could be told.
#[test]
fn without_records_a_service_that_overwrote_its_environment_is_found_by_its_holder() {
    let world = World::run_as(As::Holders);
    let forgetful = "exec perl -e '%ENV = (); exec {\"/bin/sleep\"} \"sleep\", \"98765\"'";
    declare(&world, "web", forgetful);
    world.once().expect_code(0);
    let web = world.pid("web").expect("it runs");
    world.until("it has forgotten", |_| {
        fs::read(format!("/proc/{web}/environ")).is_ok_and(|environment| environment.is_empty())
    });
    kill_keeper(&world);
    remove(&world, &["ledger.journal", "births.journal"]);
    world.once();
    assert_eq!(world.phase("web"), "held", "{}", world.describe());
    let message = world.service_status("web").unwrap()["message"].to_string();
    assert!(message.contains(&web.to_string()), "{message}");
    world.run(&["adopt", "web", "--pid", &web.to_string()]).expect_code(0);
    assert_eq!(world.pid("web"), Some(web));
    world.run(&["down"]).expect_code(0);
    assert!(!is_alive(web));
}

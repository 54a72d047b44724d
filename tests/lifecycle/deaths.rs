//! SIGKILL between any two calls of a reconciler: the next one makes the world right.

use std::cell::Cell;
use std::time::Duration;

use reconcile::host::fake::{Behaviour, Birth, FakeHost, JobScript, OnSignal};
use reconcile::state::ExitStatus;

use crate::rig::{Rig, manifest, secs};

/// More calls than any of these stories takes.
const MOST_CALLS: u64 = 2_000;

/// A story in the middle of which the reconciler is killed.
struct Story {
    /// Before there is a reconciler.
    before: fn(&FakeHost),
    /// Once it has converged, or once it is dead.
    then: fn(&FakeHost),
    lasts: Duration,
    /// What lives in the end.
    alive: &'static [&'static str],
}

/// Plays it once for each call that the reconciler makes, killed just before that call, for everything that
/// can become of a spawn that is under way.
fn play(story: &Story) {
    for births in [Birth::Before, Birth::After, Birth::TooLate, Birth::Never] {
        let deaths = (0..MOST_CALLS).take_while(|calls| dies_at(story, *calls, births)).count();
        assert!(deaths > 5, "the reconciler makes {deaths} calls in all of the story");
    }
}

/// False if the reconciler lives to the end.
fn dies_at(story: &Story, calls: u64, births: Birth) -> bool {
    let host = FakeHost::new();
    (story.before)(&host);
    host.die_after(calls);
    let stepped_in = Cell::new(false);
    let life = FakeHost::until_killed(|| {
        let mut rig = Rig::over(host.clone());
        rig.run_for(secs(20));
        stepped_in.set(true);
        (story.then)(&rig.host);
        rig.run_for(story.lasts);
    });
    let next = host.reconciler_dies(births);
    if !stepped_in.get() {
        (story.then)(&next);
    }
    let mut rig = Rig::over(next);
    rig.run_for(secs(180));
    rig.host.assert_alive(story.alive);
    rig.assert_idle_for(secs(130));
    life.is_err()
}

fn declare(host: &FakeHost, name: &str, more: &str) {
    host.write(format!("{name}.toml"), &manifest(name, more));
}

fn web_and_db(host: &FakeHost) {
    declare(host, "web", "");
    declare(host, "db", "");
}

#[test]
fn a_first_start_cut_off_anywhere_ends_with_one_of_each() {
    play(&Story { before: web_and_db, then: |_| {}, lasts: secs(5), alive: &["db", "web"] });
}

#[test]
fn an_edit_cut_off_anywhere_ends_with_one_of_each() {
    let then = |host: &FakeHost| declare(host, "web", "env = { A = \"1\" }");
    play(&Story { before: web_and_db, then, lasts: secs(20), alive: &["db", "web"] });
}

#[test]
fn a_removal_cut_off_anywhere_leaves_no_orphan() {
    let then = |host: &FakeHost| host.remove("web.toml");
    play(&Story { before: web_and_db, then, lasts: secs(20), alive: &["db"] });
}

#[test]
fn a_removal_of_what_resists_cut_off_anywhere_leaves_no_orphan() {
    let before = |host: &FakeHost| {
        let stubborn = Behaviour::default().ignores_term().forks_descendant(OnSignal::Ignores);
        host.behave("web", stubborn);
        declare(host, "web", "stop.grace = \"3s\"");
        declare(host, "db", "");
    };
    let then = |host: &FakeHost| host.remove("web.toml");
    play(&Story { before, then, lasts: secs(30), alive: &["db"] });
}

#[test]
fn a_removal_with_a_stop_command_cut_off_anywhere_leaves_no_orphan() {
    let before = |host: &FakeHost| {
        host.behave("web", Behaviour::default().stop_command(JobScript::hangs()));
        declare(host, "web", "stop.command = [\"node\", \"stop.js\"]\nstop.grace = \"3s\"");
        declare(host, "db", "");
    };
    let then = |host: &FakeHost| host.remove("web.toml");
    play(&Story { before, then, lasts: secs(30), alive: &["db"] });
}

#[test]
fn crashes_and_a_death_anywhere_end_with_one_of_each() {
    let before = |host: &FakeHost| {
        let crash =
            || Behaviour::default().exits(secs(5), ExitStatus::Code(1)).forks_descendant(OnSignal::Ignores);
        host.behave_in_turn("web", [crash(), crash(), Behaviour::default()]);
        declare(host, "web", "stop.grace = \"1s\"");
        declare(host, "db", "");
    };
    play(&Story { before, then: |_| {}, lasts: secs(30), alive: &["db", "web"] });
}

#[test]
fn a_start_with_a_health_check_cut_off_anywhere_ends_with_one_of_each() {
    let before = |host: &FakeHost| {
        let late = Behaviour::default().healthy_after(secs(3_600));
        host.behave_in_turn("web", [late, Behaviour::default()]);
        declare(host, "web", "health = { port = 8080, start_timeout = \"5s\", start_interval = \"1s\" }");
        declare(host, "db", "");
    };
    play(&Story { before, then: |_| {}, lasts: secs(20), alive: &["db", "web"] });
}

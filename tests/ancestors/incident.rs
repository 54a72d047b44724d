//! B: 54 SIGKILLs of one project, each of which left its children alive and holding ports.

use super::number;
use super::support::{As, World, cannot_run_as, is_alive, kill};

const NEVER_AGAIN: &str = "restart = { backoff = \"1h\", backoff_max = \"1h\" }";

fn pids(world: &World) -> Vec<i32> {
    let text = std::fs::read_to_string(world.project().join("children")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// One in its group and one in a session of its own.
const WITH_CHILDREN: &str = "sleep 1000 & echo $! >> children; setsid sleep 1000 & echo $! >> children; \
                             while [ ! -e end ]; do sleep 0.02; done; exit 0";

fn an_unclean_exit_takes_the_children_along(who: As) {
    if cannot_run_as(who) {
        return;
    }
    let mut world = World::run_as(who);
    world.service("web", WITH_CHILDREN, NEVER_AGAIN);
    world.watch();
    world.until_phase("web", "running");
    world.until("its children run", |world| pids(world).len() == 2);
    kill(world.pid("web").unwrap());
    world.until_phase("web", "backoff");
    assert!(
        pids(&world).iter().all(|pid| !is_alive(*pid)),
        "before the backoff is over\n{}",
        world.describe()
    );
}

#[test]
fn an_unclean_exit_kills_all_of_it_before_the_backoff() {
    an_unclean_exit_takes_the_children_along(As::Caller);
}

#[test]
fn an_unclean_exit_kills_all_of_it_behind_a_holder() {
    an_unclean_exit_takes_the_children_along(As::Holders);
}

/// The ancestor left the group of a clean exit alone.
#[test]
fn a_clean_exit_leaves_no_children_either() {
    let mut world = World::new();
    world.service("job", WITH_CHILDREN, "");
    world.watch();
    world.until_phase("job", "running");
    world.until("its children run", |world| pids(world).len() == 2);
    std::fs::write(world.project().join("end"), "").unwrap();
    world.until_phase("job", "completed");
    assert!(pids(&world).iter().all(|pid| !is_alive(*pid)), "{}", world.describe());
}

#[test]
fn a_run_that_was_healthy_long_enough_clears_the_count() {
    let mut world = World::new();
    world.service(
        "web",
        "echo x >> runs; [ $(wc -l < runs) -lt 4 ] && exit 1; exec sleep 1000",
        "restart = { backoff = \"10ms\", backoff_max = \"20ms\", stable_after = \"300ms\" }",
    );
    world.watch();
    world.until("it has failed three times", |world| number(world, "web", "failures") == Some(3));
    world.until("the count is cleared", |world| number(world, "web", "failures") == Some(0));
    assert_eq!((world.phase("web").as_str(), number(&world, "web", "restarts")), ("running", Some(3)));
}

/// Of two failures the second comes later than the window after the first.
#[test]
fn an_exit_that_is_not_soon_after_the_last_counts_as_the_first() {
    let mut world = World::new();
    world.service(
        "web",
        "exec sleep 1000",
        "restart = { backoff = \"10ms\", backoff_max = \"10ms\", max_failures = 2, window = \"1s\" }",
    );
    // Runs for as long as the window, whenever it was started.
    world.manifest(
        "clock.toml",
        "[service.clock]\ncommand = [\"sleep\", \"1000\"]\nttl = \"1s\"\nstart_settle = \"10ms\"\n",
    );
    world.watch();
    world.until_phase("web", "running");
    kill(world.pid("web").unwrap());
    world.until("it is counted", |world| number(world, "web", "failures") == Some(1));
    world.run(&["restart", "clock"]);
    world.run(&["renew", "clock"]);
    world.until_phase("clock", "expired");
    world.until_phase("web", "running");
    kill(world.pid("web").unwrap());
    world.until("it was restarted as often as would park it", |world| {
        assert_ne!(world.phase("web"), "failed", "{}", world.describe());
        number(world, "web", "restarts") == Some(2)
    });
    assert_eq!(number(&world, "web", "failures"), Some(1));
}

#[test]
fn a_failed_one_refuses_to_start_until_it_is_reset() {
    let mut world = World::new();
    world.service(
        "bad",
        "[ -e mended ] && exec sleep 1000; exit 1",
        "restart = { backoff = \"10ms\", backoff_max = \"10ms\", max_failures = 2 }",
    );
    world.service("good", "exec sleep 1000", "");
    world.watch();
    world.until_phase("bad", "failed");
    let refused = world.run(&["ensure", "bad", "-o", "json"]).expect_code(1).json();
    assert_eq!(refused["refused"]["code"], "failed", "{refused}");
    let message = world.service_status("bad").unwrap()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("exit code 1") && message.contains("reconcile reset"), "{message}");

    world.until_phase("good", "running");
    let pid = world.pid("good");
    let useless = world.run(&["reset", "good"]);
    let said = format!("{}{}", useless.stdout, useless.stderr);
    assert!(said.contains("good is neither failed nor in backoff"), "{said}");
    assert_eq!(world.pid("good"), pid);
    world.run(&["reset", "nobody"]).expect_code(1);

    std::fs::write(world.project().join("mended"), "").unwrap();
    world.run(&["reset", "bad"]).expect_code(0);
    world.until_phase("bad", "running");
}

/// A requested stop never counts.
#[test]
fn a_stop_kills_children_that_ignore_its_signal_and_is_no_failure() {
    let mut world = World::new();
    world.service(
        "web",
        "sh -c 'trap \"\" TERM; echo $$ >> children; while :; do sleep 0.1; done' & wait",
        "stop = { grace = \"200ms\" }",
    );
    world.watch();
    world.until("its child runs", |world| pids(world).len() == 1);
    world.until_phase("web", "running");
    world.run(&["stop", "web"]).expect_code(0);
    world.until_phase("web", "stopped");
    assert!(pids(&world).iter().all(|pid| !is_alive(*pid)), "{}", world.describe());
    assert_eq!(number(&world, "web", "failures"), Some(0));
}

//! Units of a service manager, which end with everything that is in them.

use super::cgroup::TestCgroup;
use super::support::{As, World, cannot_run_as, is_alive};

const FOREVER: &str = "exec sleep 1000";

#[test]
fn what_root_starts_inside_of_a_unit_outlasts_it() {
    let Some(unit) = TestCgroup::new(".service") else { return };
    let world = World::new();
    world.service("web", FOREVER, "");
    let mut once = unit.command(&world, false);
    once.arg("--once");
    let run = world.finish(once).expect_code(0);
    assert!(!run.stderr.contains(&unit.name()), "{run:?}");
    let (pid, keeper) = (world.pid("web"), world.keeper());
    unit.kill();
    assert!(pid.is_some_and(is_alive) && keeper.is_some_and(is_alive), "{}", world.describe());
    let again = world.run(&["--once", "-o", "json"]).expect_code(0).json();
    assert_eq!(again["changes"], false, "{again}");
    assert_eq!(world.pid("web"), pid);
}

#[test]
fn where_more_than_the_unit_is_delegated_to_nobody_what_it_starts_outlasts_it() {
    if cannot_run_as(As::Nobody) {
        return;
    }
    let Some(slice) = TestCgroup::new(".slice") else { return };
    slice.delegate_to_nobody();
    let unit = slice.child("job.service");
    unit.delegate_to_nobody();
    let world = World::run_as(As::Nobody);
    world.service("web", FOREVER, "");
    let mut once = unit.command(&world, true);
    once.arg("--once");
    let run = world.finish(once).expect_code(0);
    assert!(!run.stderr.contains("job.service"), "{run:?}");
    let (pid, keeper) = (world.pid("web"), world.keeper());
    unit.kill();
    assert!(pid.is_some_and(is_alive) && keeper.is_some_and(is_alive), "{}", world.describe());
    world.run(&["down"]).expect_code(0);
}

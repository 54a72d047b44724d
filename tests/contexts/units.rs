//! Units of a service manager, which end with everything that is in them.

use super::cgroup::TestCgroup;
use super::support::{As, World, cannot_run_as, is_alive, kill, parent};

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
fn a_watcher_that_root_starts_in_the_background_outlasts_the_unit_and_leaves_nothing() {
    let Some(unit) = TestCgroup::new(".service") else { return };
    let world = World::new();
    world.service("web", FOREVER, "");
    let mut up = unit.command(&world, false);
    up.args(["up", "-d"]);
    let run = world.finish(up).expect_code(0);
    assert!(!run.stderr.contains(&unit.name()), "{run:?}");
    world.until_phase("web", "running");
    let web = world.pid("web").expect("it runs");
    unit.kill();
    world.service("new", FOREVER, "");
    world.until_phase("new", "running");
    assert_eq!(world.status().expect("it is asked")["watching"], true);
    assert_eq!(world.pid("web"), Some(web));
    let base = std::fs::read_to_string(format!("/proc/{web}/cgroup")).unwrap();
    let base = base
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap()
        .rsplit_once('/')
        .unwrap()
        .0
        .to_owned();
    let mount = reconcile::host::cgroup::Mount::find().unwrap().unwrap();
    let base = mount.point.join(base);
    assert!(base.is_dir(), "{}", base.display());
    world.run(&["down"]).expect_code(0);
    world.until("the last of them takes the directory along", |_| !base.exists());
}

#[test]
fn what_nobody_starts_inside_of_a_unit_ends_with_it_as_was_said_and_is_started_anew_once() {
    if cannot_run_as(As::Nobody) {
        return;
    }
    let Some(unit) = TestCgroup::new(".service") else { return };
    let world = World::run_as(As::Nobody);
    world.service("web", FOREVER, "restart = { backoff = \"10ms\" }");
    let mut once = unit.command(&world, true);
    once.arg("--once");
    let run = world.finish(once).expect_code(0);
    assert!(run.stderr.contains(&format!("part of {} and ends with it", unit.name())), "{run:?}");
    assert!(run.stderr.contains("systemd-run"), "what to do: {run:?}");
    let first = world.pid("web").unwrap();
    unit.kill();
    assert!(!is_alive(first));
    let run = world.once().expect_code(0);
    assert!(!run.stderr.contains(&unit.name()), "{run:?}");
    let second = world.pid("web").unwrap();
    assert!(second != first && is_alive(second), "{}", world.describe());
    let again = world.run(&["--once", "-o", "json"]).expect_code(0).json();
    assert_eq!(again["changes"], false, "{again}");
    assert_eq!(world.processes_like("sleep 1000").intersection(&world.processes()).count(), 1);
}

#[test]
fn what_nobody_starts_outside_of_a_unit_is_held_and_not_doubled_once_its_holder_is_lost() {
    if cannot_run_as(As::Nobody) {
        return;
    }
    let world = World::run_as(As::Nobody);
    world.service("web", "sleep 1234 & exec sleep 1000", "restart = { backoff = \"10ms\" }");
    world.once().expect_code(0);
    if world.service_status("web").unwrap()["containment"] == "cgroup" {
        eprintln!("skipped: nobody may make cgroups");
        return;
    }
    let leader = world.pid("web").unwrap();
    for pid in [parent(leader), leader] {
        kill(pid);
        world.until("it is gone", |_| !is_alive(pid));
    }
    world.once();
    assert_eq!(world.phase("web"), "held", "{}", world.describe());
    let own = |text: &str| world.processes_like(text).intersection(&world.processes()).count();
    assert_eq!((own("sleep 1234"), own("sleep 1000")), (1, 0), "{}", world.describe());
}

#[test]
fn what_nobody_could_have_moved_out_of_a_unit_is_held_and_not_doubled_once_its_holder_is_lost() {
    if cannot_run_as(As::Nobody) {
        return;
    }
    let Some(slice) = TestCgroup::new(".slice") else { return };
    slice.delegate_to_nobody();
    let (unit, elsewhere) = (slice.child("job.service"), slice.child("elsewhere"));
    unit.delegate_to_nobody();
    elsewhere.delegate_to_nobody();
    let world = World::run_as(As::Nobody);
    let script = format!(
        "sh -c 'echo 0 >{}/cgroup.procs && exec sleep 1234' & exec sleep 1000",
        elsewhere.path().display()
    );
    world.service("web", &script, "restart = { backoff = \"10ms\" }");
    let mut once = unit.command(&world, true);
    once.arg("--once").env("RECONCILE_CONTAINMENT", "holder");
    world.finish(once).expect_code(0);
    let left = || world.processes_like("sleep 1234").intersection(&world.processes()).count();
    world.until("one has left", |_| left() == 1 && !elsewhere.is_empty());
    unit.kill();
    world.once();
    assert_eq!(world.phase("web"), "held", "{}", world.describe());
    assert_eq!(left(), 1, "{}", world.describe());
}

#[test]
fn a_cgroup_delegated_to_nobody_that_is_itself_the_unit_ends_with_it_as_was_said() {
    if cannot_run_as(As::Nobody) {
        return;
    }
    let Some(unit) = TestCgroup::new(".scope") else { return };
    unit.delegate_to_nobody();
    let world = World::run_as(As::Nobody);
    world.service("web", FOREVER, "restart = { backoff = \"10ms\" }");
    let mut once = unit.command(&world, true);
    once.arg("--once");
    let run = world.finish(once).expect_code(0);
    assert_eq!(world.service_status("web").unwrap()["containment"], "cgroup");
    assert!(run.stderr.contains(&unit.name()), "{run:?}");
    let first = world.pid("web").unwrap();
    unit.kill();
    assert!(!is_alive(first));
    world.once().expect_code(0);
    assert!(world.pid("web").is_some_and(|pid| pid != first), "{}", world.describe());
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

#[test]
fn services_without_cgroups_are_said_to_end_with_the_unit_also_by_doctor_and_a_watcher() {
    let Some(unit) = TestCgroup::new(".service") else { return };
    let world = World::run_as(As::Holders);
    world.service("web", FOREVER, "");
    let mut doctor = unit.command(&world, false);
    doctor.args(["doctor", "-o", "json"]);
    let facts = world.finish(doctor).expect_code(0).json();
    let fact = |name: &str| {
        let facts = facts["facts"].as_array().unwrap();
        facts.iter().find(|fact| fact["name"] == name).unwrap_or_else(|| panic!("{facts:?}")).clone()
    };
    assert_eq!(fact("cgroup")["ok"], false, "{facts}");
    assert_eq!(
        (&fact("unit")["ok"], &fact("unit")["value"]),
        (&false.into(), &unit.name().into()),
        "{facts}"
    );
    let mut up = unit.command(&world, false);
    up.args(["up", "-d"]);
    let run = world.finish(up).expect_code(0);
    assert!(run.stderr.contains(&unit.name()), "{run:?}");
}

#[test]
fn a_watcher_that_leaves_says_what_its_services_end_with() {
    let Some(unit) = TestCgroup::new(".service") else { return };
    let world = World::run_as(As::Holders);
    world.service("web", FOREVER, "");
    let log = std::fs::File::create(world.path("watcher.log")).unwrap();
    let mut up = unit.command(&world, false);
    up.args(["up", "--leave"]).stdout(log.try_clone().unwrap()).stderr(log);
    let mut watcher = up.spawn().unwrap();
    world.until_phase("web", "running");
    let pid = nix::unistd::Pid::from_raw(watcher.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(watcher.wait().unwrap().success());
    let said = super::support::read(&world.path("watcher.log"));
    assert!(said.contains(&format!("part of {} and ends with it", unit.name())), "{said}");
    assert!(world.pid("web").is_some_and(is_alive));
}

//! Descriptors, processes and memory.

use nix::sys::resource::Resource;

use super::support::{As, World, cannot_run_as, is_alive};

const FOREVER: &str = "exec sleep 1000";
const QUICK: &str = "restart = { backoff = \"20ms\", backoff_max = \"50ms\", max_failures = 2 }";

/// Sets the limit of a living process, and puts it back.
struct Limited {
    pid: i32,
    which: Resource,
    before: libc::rlimit,
}

impl Limited {
    fn new(pid: i32, which: Resource, soft: u64) -> Self {
        let before = prlimit(pid, which, None);
        prlimit(pid, which, Some(libc::rlimit { rlim_cur: soft, rlim_max: before.rlim_max }));
        Self { pid, which, before }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        if is_alive(self.pid) {
            prlimit(self.pid, self.which, Some(self.before));
        }
    }
}

#[expect(unsafe_code, reason = "no wrapper sets the limit of another process")]
fn prlimit(pid: i32, which: Resource, new: Option<libc::rlimit>) -> libc::rlimit {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both point to limits that live as long as the call, or are null.
    let done = unsafe { libc::prlimit(pid, which as libc::__rlimit_resource_t, new, &raw mut old) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    old
}

fn open_files(pid: i32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64
}

fn running(world: &World, names: &[&str]) -> Vec<i32> {
    names.iter().for_each(|name| world.until_phase(name, "running"));
    names.iter().map(|name| world.pid(name).unwrap()).collect()
}

/// The service is waiting, has not failed, and is not given up, however often its start was tried.
fn waits_without_blame(world: &World, name: &str) {
    world.until("a start has failed several times", |world| {
        let log = super::support::read(&world.state().join("ledger.journal"));
        log.lines().filter(|line| line.contains("spawn-failed") || line.contains("spawn_failed")).count() >= 3
    });
    let status = world.service_status(name).unwrap();
    assert_eq!(status["failures"], 0, "{status}");
    assert!(["pending", "starting"].contains(&status["phase"].as_str().unwrap()), "{status}");
}

#[test]
fn a_keeper_without_descriptors_starts_nothing_fails_nobody_and_goes_on_once_it_has_some() {
    for who in [As::Caller, As::Holders] {
        let mut world = World::run_as(who);
        world.service("old", FOREVER, QUICK);
        world.watch();
        let before = running(&world, &["old"]);
        let keeper = world.keeper().unwrap();
        let limited = Limited::new(keeper, Resource::RLIMIT_NOFILE, open_files(keeper));
        world.service("new", FOREVER, QUICK);
        waits_without_blame(&world, "new");
        // What needs no descriptor is not held up.
        world.remove("old.toml");
        world.until("the removed one is gone", |world| world.phase("old").is_empty() && !is_alive(before[0]));
        drop(limited);
        running(&world, &["new"]);
        assert_eq!(world.keeper(), Some(keeper), "{who:?}");
    }
}

#[test]
fn a_keeper_without_memory_or_its_successor_goes_on_with_what_runs() {
    for who in [As::Caller, As::Holders] {
        let mut world = World::run_as(who);
        for name in ["old", "removed"] {
            world.service(name, FOREVER, QUICK);
        }
        world.service(
            "job",
            "while [ ! -e go ]; do sleep 0.02; done; exit 3",
            "restart = { policy = \"never\" }",
        );
        world.watch();
        let before = running(&world, &["old", "removed", "job"]);
        let keeper = world.keeper().unwrap();
        // Nothing can be mapped any more, neither by it nor by what it forks.
        let limited = Limited::new(keeper, Resource::RLIMIT_AS, 1 << 20);
        std::fs::write(world.project().join("go"), "").unwrap();
        world.remove("removed.toml");
        world.until("the removed one is gone", |world| world.phase("removed").is_empty());
        assert!(!is_alive(before[1]));
        world.until_phase("job", "failed");
        assert_eq!(world.service_status("job").unwrap()["last_exit"]["code"], 3, "{who:?}");
        drop(limited);
        world.service("new", FOREVER, QUICK);
        world.until_phase("new", "running");
        assert_eq!(running(&world, &["old"]), before[..1], "{who:?}");
    }
}

#[test]
fn a_user_without_processes_left_starts_nothing_fails_nobody_and_goes_on_once_there_are_some() {
    if cannot_run_as(As::Nobody) {
        return;
    }
    let mut world = World::run_as(As::Nobody);
    world.service("old", FOREVER, QUICK);
    world.watch();
    let before = running(&world, &["old"]);
    let keeper = world.keeper().unwrap();
    let limits = super::support::read(format!("/proc/{keeper}/limits").as_ref());
    let hard = limits.lines().find(|line| line.starts_with("Max processes")).unwrap();
    let hard = hard.split_whitespace().nth(3).unwrap();
    // As itself: not every root may do that to others.
    let limit = |soft: &str| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "prlimit"]);
        command.arg(format!("--nproc={soft}:")).arg(format!("--pid={keeper}"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    limit("1");
    world.service("new", FOREVER, QUICK);
    waits_without_blame(&world, "new");
    limit(hard);
    running(&world, &["new"]);
    assert_eq!((running(&world, &["old"]), world.keeper()), (before, Some(keeper)));
}

/// A pids controller that counts the keeper and all that it forks: version 1, where its own hierarchy is mounted.
struct PidsLimit {
    dir: std::path::PathBuf,
    keeper: i32,
}

impl PidsLimit {
    /// `None` where there is no such controller, or it is not ours to use; says so.
    fn of(keeper: i32) -> Option<Self> {
        let dir = std::path::PathBuf::from(format!("/sys/fs/cgroup/pids/reconcile-test-{keeper}"));
        if std::fs::create_dir(&dir).is_err() {
            eprintln!("skipped: no pids controller of version 1 can be used here");
            return None;
        }
        let this = Self { dir, keeper };
        this.limit("max");
        std::fs::write(this.dir.join("cgroup.procs"), keeper.to_string()).unwrap();
        Some(this)
    }

    fn limit(&self, most: &str) {
        std::fs::write(self.dir.join("pids.max"), most).unwrap();
    }
}

impl Drop for PidsLimit {
    fn drop(&mut self) {
        self.limit("max");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        // What is forked or ends meanwhile keeps it for a moment longer.
        loop {
            let members = super::support::read(&self.dir.join("cgroup.procs"));
            for pid in members.lines().chain([self.keeper.to_string().as_str()]) {
                // It may have ended meanwhile.
                let _ = std::fs::write("/sys/fs/cgroup/pids/cgroup.procs", pid);
            }
            match std::fs::remove_dir(&self.dir) {
                Err(error) if std::time::Instant::now() > deadline => {
                    eprintln!("{} is left: {error}", self.dir.display());
                    return;
                }
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
                Ok(()) => return,
            }
        }
    }
}

#[test]
fn a_full_pids_controller_starts_nothing_fails_nobody_and_says_nothing_of_anybodys_health() {
    for who in [As::Caller, As::Holders] {
        let mut world = World::run_as(who);
        let health = "[service.old.health]\ncommand = [\"true\"]\ninterval = \"50ms\"\nretries = 1\n";
        world.service("old", FOREVER, &format!("{QUICK}\n{health}"));
        world.watch();
        world.until_phase("old", "ready");
        let before = world.pid("old");
        let keeper = world.keeper().unwrap();
        let Some(pids) = PidsLimit::of(keeper) else { return };
        pids.limit("1");
        world.service("new", FOREVER, QUICK);
        waits_without_blame(&world, "new");
        world.until("it says that checks cannot be made", |world| {
            world.service_status("old").is_some_and(|old| old["drift"].to_string().contains("check-not-made"))
        });
        assert_eq!((world.phase("old").as_str(), world.pid("old")), ("ready", before), "{who:?}");
        pids.limit("max");
        running(&world, &["new"]);
        world.until("checks are made again", |world| {
            world.service_status("old").is_some_and(|old| old["drift"] == serde_json::json!([]))
        });
        assert_eq!((world.pid("old"), world.keeper()), (before, Some(keeper)), "{who:?}");
        world.run(&["down"]).expect_code(0);
    }
}

/// Neither by a stop for its health, nor by a start that is late.
#[test]
fn a_watcher_without_descriptors_stops_nobody_whom_it_cannot_probe() {
    let mut world = World::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let check = format!("host = \"127.0.0.1\"\nport = {port}\ninterval = \"50ms\"\nretries = 1\n");
    world.service("web", FOREVER, &format!("{QUICK}\n[service.web.health]\n{check}"));
    let watcher = world.watch() as i32;
    world.until_phase("web", "ready");
    let before = world.pid("web").unwrap();
    // Whatever it closes, it can open nothing.
    let limited = Limited::new(watcher, Resource::RLIMIT_NOFILE, 1);
    world.until("it says so", |world| {
        super::support::read(&world.path("watcher.log")).contains("check-not-made") || !is_alive(before)
    });
    drop(limited);
    world.until_phase("web", "ready");
    assert_eq!(world.pid("web"), Some(before));
}

#[test]
fn a_watcher_without_descriptors_goes_on_with_what_runs_and_takes_changes_in_once_it_has_some() {
    let mut world = World::new();
    world.service("web", FOREVER, QUICK);
    let watcher = world.watch() as i32;
    let before = running(&world, &["web"]);
    let limited = Limited::new(watcher, Resource::RLIMIT_NOFILE, open_files(watcher));
    world.service("new", FOREVER, QUICK);
    super::support::kill(before[0]);
    world.until("it is started anew by a watcher that can open nothing", |world| {
        let ours = world.processes();
        let running: Vec<i32> = world.processes_like("sleep 1000").intersection(&ours).copied().collect();
        running.iter().any(|pid| *pid != before[0])
    });
    drop(limited);
    let after = running(&world, &["web", "new"]);
    assert_ne!(after[0], before[0]);
    assert_eq!(world.processes_like("sleep 1000").intersection(&world.processes()).count(), 2);
}

#[test]
fn a_watcher_that_ran_out_of_memory_is_taken_over_from_without_a_trace() {
    let mut world = World::new();
    world.service("web", FOREVER, QUICK);
    let watcher = world.watch() as i32;
    let before = running(&world, &["web"]);
    let limited = Limited::new(watcher, Resource::RLIMIT_AS, 1 << 20);
    // More than it has: it may fail to read them, or end; in both cases nothing that runs is touched.
    for n in 0..50 {
        world.service(
            &format!("new{n}"),
            FOREVER,
            &format!("description = \"{}\"\n{QUICK}", "x".repeat(60_000)),
        );
    }
    world.until("it has ended, or has taken them in", |world| {
        !is_alive(watcher) || world.phase("new49") == "running"
    });
    drop(limited);
    if !is_alive(watcher) {
        assert!(is_alive(before[0]));
        let _ = world.watcher().wait();
        world.watch();
    }
    for n in 0..50 {
        world.until_phase(&format!("new{n}"), "running");
    }
    assert_eq!(running(&world, &["web"]), before);
}

#[test]
fn without_descriptors_from_the_start_it_says_so_and_touches_nothing() {
    let world = World::new();
    world.service("web", FOREVER, QUICK);
    world.once().expect_code(0);
    let before = world.pid("web");
    // The dynamic linker needs one for each library.
    for limit in 4..12 {
        let run = world.finish({
            let mut command = world.behind("prlimit", &[&format!("--nofile={limit}"), "timeout", "20"]);
            command.arg("--once");
            command
        });
        assert!([0, 1].contains(&run.code), "no panic, no hang, no signal: {limit}: {run:?}");
    }
    world.once().expect_code(0);
    assert_eq!(world.pid("web"), before);
    assert!(is_alive(before.unwrap()));
}

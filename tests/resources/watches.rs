//! inotify: its limits, a queue that overflows, and a reader that does not read.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::{World, namespace};

/// How often everything is looked at, whether or not the kernel tells of a change.
const RESYNC: Duration = Duration::from_secs(60);

const FOREVER: &str = "exec sleep 1000";

/// A sysctl that is another one for the time of a test. Only ever lowered while it is held, and only by one test.
struct Sysctl {
    path: String,
    before: String,
}

impl Sysctl {
    /// `None`, with a message, where it may not be set.
    fn set(name: &str, value: &str) -> Option<Self> {
        let path = format!("/proc/sys/{name}");
        let before = std::fs::read_to_string(&path).unwrap();
        if let Err(error) = std::fs::write(&path, value) {
            eprintln!("skipped: {path}: {error}");
            return None;
        }
        Some(Self { path, before: before.trim().to_owned() })
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        std::fs::write(&self.path, &self.before).expect("what could be lowered can be put back");
    }
}

#[test]
fn an_overflow_of_the_queue_while_nobody_reads_loses_no_change() {
    // Taken over by an instance when it is made.
    let lowered = Sysctl::set("fs/inotify/max_queued_events", "64");
    let mut world = World::new();
    world.service("web", FOREVER, "");
    world.service("gone", FOREVER, "");
    let watcher = Pid::from_raw(world.watch() as i32);
    drop(lowered);
    world.until_phase("web", "running");
    world.until_phase("gone", "running");
    let before = world.pid("web");
    kill(watcher, Signal::SIGSTOP).unwrap();
    for n in 0..20_000 {
        let name = world.manifests().join(format!("passing{}", n % 50));
        std::fs::write(&name, "").unwrap();
        std::fs::remove_file(&name).unwrap();
    }
    // Behind all that: the kernel has no room left to tell of these.
    world.service("new", FOREVER, "");
    world.service("web", FOREVER, "labels = { after = \"1\" }");
    world.remove("gone.toml");
    kill(watcher, Signal::SIGCONT).unwrap();
    let resumed = Instant::now();
    world.until_phase("new", "running");
    world.until("the removed one is gone", |world| world.phase("gone").is_empty());
    assert!(
        resumed.elapsed() < RESYNC * 3 / 4,
        "it was found by chance, when everything is looked at anyway"
    );
    let web = world.service_status("web").unwrap();
    assert_eq!((&web["labels"]["after"], world.pid("web")), (&"1".into(), before), "{web}");
}

/// Where the limit is reached before the watcher starts: in a user namespace of its own, whose limit is lower.
fn watcher_with(world: &World, limits: &str) -> Option<std::process::Child> {
    let script = format!("{limits} && exec \"$0\" \"$@\"");
    let options = ["-U", "-r", "sh", "-c", &script];
    let mut command = namespace::inside(world, &options)?;
    let log = std::fs::File::options().create(true).append(true).open(world.path("watcher.log")).unwrap();
    Some(command.args(["up", "--quiet"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
}

#[test]
fn without_an_inotify_instance_changes_are_seen_all_the_same_and_it_is_said() {
    falls_back("echo 0 >/proc/sys/user/max_inotify_instances", "max_user_instances");
}

#[test]
fn without_a_watch_changes_are_seen_all_the_same_and_it_is_said() {
    falls_back("echo 2 >/proc/sys/user/max_inotify_watches", "max_user_watches");
}

fn falls_back(limits: &str, sysctl: &str) {
    let world = World::new();
    world.service("web", FOREVER, "");
    std::fs::create_dir(world.manifests().join("more")).unwrap();
    let Some(mut child) = watcher_with(&world, limits) else { return };
    world.until_phase("web", "running");
    let before = world.pid("web");
    let said = |world: &World| super::support::read(&world.path("watcher.log"));
    world.until("it says so", |world| said(world).contains(sysctl));
    let status = world.run(&["status"]);
    assert!(status.stderr.contains("every two seconds") && status.stderr.contains(sysctl), "{status:?}");
    let status = world.status().unwrap();
    assert!(status["polling"].as_str().is_some_and(|why| why.contains(sysctl)), "{status}");
    write(&world.manifests().join("more/new.toml"), "new");
    world.until_phase("new", "running");
    std::fs::remove_file(world.manifests().join("more/new.toml")).unwrap();
    world.until("the removed one is gone", |world| world.phase("new").is_empty());
    assert_eq!(world.pid("web"), before);
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    assert!(child.wait().unwrap().success(), "{}", said(&world));
}

#[test]
fn watches_that_run_out_later_are_told_of_and_taken_up_again_when_there_are_some() {
    let world = World::new();
    world.service("web", FOREVER, "");
    let Some(mut child) = watcher_with(&world, "echo 4 >/proc/sys/user/max_inotify_watches") else { return };
    world.until_phase("web", "running");
    let said = |world: &World| super::support::read(&world.path("watcher.log"));
    assert!(!said(&world).contains("every two seconds"), "{}", said(&world));
    for n in 0..8 {
        std::fs::create_dir(world.manifests().join(format!("d{n}"))).unwrap();
    }
    world.until("it says so", |world| said(world).contains("max_user_watches"));
    for n in 0..8 {
        write(&world.manifests().join(format!("d{n}/s{n}.toml")), &format!("s{n}"));
    }
    for n in 0..8 {
        world.until_phase(&format!("s{n}"), "running");
    }
    for n in 0..8 {
        std::fs::remove_dir_all(world.manifests().join(format!("d{n}"))).unwrap();
    }
    world.until("changes are noticed at once again, and it says so", |world| {
        said(world).contains("noticed at once")
    });
    assert_eq!(world.status().unwrap()["polling"], serde_json::Value::Null);
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    child.wait().unwrap();
}

fn write(path: &Path, name: &str) {
    let text = format!("[service.{name}]\ncommand = [\"sleep\", \"1000\"]\nstart_settle = \"50ms\"\n");
    std::fs::write(path, text).unwrap();
}

//! A state directory that is old, moved, forged, shut or on a bad disk: nothing is there twice, no stranger is touched, the
//! message says what is the matter, and a command leads out.

#![expect(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod ledger_disk;
mod support;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ledger_disk::{in_own_mounts, mount_small, remount_read_only, remount_writable, unmount};
use serde_json::Value;
use support::{As, World, cannot_run_as, is_alive, kill};

/// In the environment of every service here.
const MARK: &str = "STATE_TEST_SERVICE";

fn declare(world: &World, name: &str, seconds: u32) {
    world.service(name, &format!("exec sleep {seconds}"), &format!("env = {{ {MARK} = \"{name}\" }}"));
}

/// How many processes of each service live, told by the mark.
fn counted(world: &World) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for pid in world.processes() {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let text = String::from_utf8_lossy(&environment).into_owned();
        let mark = text.split('\0').find_map(|pair| pair.strip_prefix(MARK)?.strip_prefix('='));
        if let Some(name) = mark {
            *counted.entry(name.to_owned()).or_default() += 1;
        }
    }
    counted
}

fn one_each(names: &[&str]) -> BTreeMap<String, usize> {
    names.iter().map(|name| ((*name).to_owned(), 1)).collect()
}

fn pid(world: &World, name: &str) -> i32 {
    world.pid(name).unwrap_or_else(|| panic!("{name} runs\n{}", world.describe()))
}

/// As `cp -a`, but for sockets.
fn copy_over(from: &Path, to: &Path) {
    let _ = fs::create_dir(to);
    fs::set_permissions(to, Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_over(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn end_keeper(world: &World) {
    let keeper = world.keeper().expect("a keeper runs");
    kill(keeper);
    world.until("the keeper is gone", |_| !is_alive(keeper));
}

/// How a backup is put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restore {
    /// The directory is deleted and made anew; a keeper that runs keeps the deleted one.
    Anew,
    /// Each file is replaced, as by rsync or tar.
    Replaced,
    /// The files are written over in place, as by `cp`.
    Over,
}

fn restore(world: &World, how: Restore) {
    let (state, backup) = (world.state(), world.path("backup"));
    match how {
        Restore::Anew => fs::remove_dir_all(&state).unwrap(),
        Restore::Replaced => {
            for entry in fs::read_dir(&state).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_file() {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
        }
        Restore::Over => {}
    }
    copy_over(&backup, &state);
}

/// Made of three services; since then one was changed, one removed, one added, and one goes on.
fn with_an_old_backup(who: As) -> World {
    let world = World::run_as(who);
    world.config(
        "[policy]\nallow_shell = true\nexecutables = [\"sleep\", \"sh\"]\n[prune]\ndelay = \"100ms\"\n",
    );
    for name in ["same", "changed", "removed"] {
        declare(&world, name, 98_765);
    }
    world.once().expect_code(0);
    copy_over(&world.state(), &world.path("backup"));
    declare(&world, "changed", 98_766);
    declare(&world, "added", 98_765);
    world.remove("removed.toml");
    world.once().expect_code(0);
    assert_eq!(counted(&world), one_each(&["added", "changed", "same"]));
    world
}

#[test]
fn a_backup_that_is_put_back_doubles_nothing() {
    for who in [As::Caller, As::Holders] {
        for (how, keeper_lives) in [
            (Restore::Anew, true),
            (Restore::Anew, false),
            (Restore::Replaced, true),
            (Restore::Replaced, false),
            (Restore::Over, true),
            (Restore::Over, false),
        ] {
            let what = format!("{who:?}, {how:?}, the keeper lives: {keeper_lives}");
            let world = with_an_old_backup(who);
            let ours = ["added", "changed", "same"].map(|name| pid(&world, name));
            if !keeper_lives {
                end_keeper(&world);
            }
            restore(&world, how);
            let run = world.once();
            assert!(is_alive(ours[2]), "{what}: {}\n{}", run.stdout, run.stderr);
            assert_eq!(counted(&world), one_each(&["added", "changed", "same"]), "{what}\n{}", run.stderr);
            if how != Restore::Over {
                assert!(run.stderr.contains("was put back from a copy"), "{what}: {}", run.stderr);
            }
            let second = world.once();
            assert_eq!(counted(&world), one_each(&["added", "changed", "same"]), "{what}\n{}", second.stderr);
            // What is proved goes on; what only looks like ours is held, and `adopt` leads out.
            for (name, pid) in ["added", "changed", "same"].into_iter().zip(ours) {
                if world.phase(name) == "held" {
                    assert!(is_alive(pid), "{what}: {name}");
                    let adopted = world.run(&["adopt", name, "--pid", &pid.to_string()]);
                    if adopted.code != 0 {
                        // Its containment cannot be told any more.
                        kill(pid);
                        world.until("it is dead", |_| !is_alive(pid));
                    }
                }
            }
            world.once();
            for name in ["removed", "changed"] {
                if world.phase(name) == "held" {
                    // Its holder is gone, and that it had ended was written after the backup, or by nobody.
                    world.run(&["forget", name]);
                }
            }
            world.once();
            let last = world.once().expect_code(0);
            assert_eq!(counted(&world), one_each(&["added", "changed", "same"]), "{what}\n{}", last.stderr);
            assert_eq!(world.pid("same"), Some(ours[2]), "{what}: it was on record all the time");
            world.run(&["down"]).expect_code(0);
            assert_eq!(counted(&world), BTreeMap::new(), "{what}");
        }
    }
}

/// The ledger knows a run of it, which is over, and no other service tells that records are missing.
#[test]
fn a_backup_that_is_written_over_in_place_doubles_not_even_a_service_that_it_knows() {
    for who in [As::Caller, As::Holders] {
        let world = World::run_as(who);
        declare(&world, "web", 98_765);
        world.once().expect_code(0);
        copy_over(&world.state(), &world.path("backup"));
        declare(&world, "web", 98_766);
        world.once().expect_code(0);
        let web = pid(&world, "web");
        end_keeper(&world);
        restore(&world, Restore::Over);
        let run = world.once();
        assert_eq!(counted(&world), one_each(&["web"]), "{who:?}: {}", run.stderr);
        assert!(is_alive(web));
        assert_eq!(world.phase("web"), "held", "{}", world.describe());
        kill(web);
        world.until("it is dead", |_| !is_alive(web));
        world.run(&["forget", "web"]);
        world.once().expect_code(0);
        assert_eq!(counted(&world), one_each(&["web"]));
        world.run(&["down"]).expect_code(0);
    }
}

#[test]
fn a_state_directory_that_is_moved_takes_its_services_along() {
    for who in [As::Caller, As::Holders] {
        let world = World::run_as(who);
        declare(&world, "web", 98_765);
        world.once().expect_code(0);
        let web = pid(&world, "web");
        let moved = world.path("moved");
        fs::rename(world.state(), &moved).unwrap();
        let there = |arguments: &[&str]| {
            let mut command = world.command();
            command.env("RECONCILE_STATE_DIR", &moved).args(arguments);
            world.finish(command)
        };
        let run = there(&["--once", "-o", "json"]).expect_code(0);
        assert_eq!(run.json()["changes"], false, "{}", run.stdout);
        assert_eq!(counted(&world), one_each(&["web"]));
        assert!(is_alive(web));
        declare(&world, "web", 98_766);
        there(&["--once"]).expect_code(0);
        assert!(!is_alive(web), "the keeper has moved too");
        there(&["down"]).expect_code(0);
        assert_eq!(counted(&world), BTreeMap::new());
    }
}

/// Seals the lines of a ledger again, each changed by `change`.
fn forge(world: &World, change: impl Fn(&mut Value)) {
    let path = world.state().join("ledger.journal");
    let text = fs::read_to_string(&path).unwrap();
    let mut forged = String::new();
    for line in text.lines() {
        let (body, _) = line.rsplit_once(' ').unwrap();
        let body = match body.split_once(' ') {
            Some((number, json)) if number.parse::<u64>().is_ok() => {
                let mut record: Value = serde_json::from_str(json).unwrap();
                change(&mut record);
                format!("{number} {record}")
            }
            _ => body.to_owned(),
        };
        forged.push_str(&format!("{body} {}\n", &blake3::hash(body.as_bytes()).to_hex()[..8]));
    }
    fs::write(path, forged).unwrap();
}

fn stranger() -> Child {
    Command::new("/bin/sleep").arg("98765").env_clear().stdin(Stdio::null()).spawn().unwrap()
}

/// Whose claim the ledger is, if not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// The pid was used again.
    Recycled,
    /// Of another machine, or of this one before it was booted.
    OtherBoot,
    OtherPidNamespace,
}

#[test]
fn a_claim_that_names_a_stranger_touches_it_not() {
    for claim in [Claim::Recycled, Claim::OtherBoot, Claim::OtherPidNamespace] {
        let world = World::new();
        declare(&world, "web", 98_765);
        world.once().expect_code(0);
        let web = pid(&world, "web");
        end_keeper(&world);
        kill(web);
        world.until("it is dead", |_| !is_alive(web));
        let mut stranger = stranger();
        forge(&world, |record| {
            if record["record"] == "started" {
                let process = &mut record["process"];
                process["pid"] = stranger.id().into();
                match claim {
                    Claim::Recycled => {}
                    Claim::OtherBoot => process["boot"] = "00000000-0000-4000-8000-000000000000".into(),
                    Claim::OtherPidNamespace => process["pid_ns"] = 1.into(),
                }
            }
        });
        let run = world.once();
        if claim == Claim::OtherPidNamespace {
            assert_eq!(world.phase("web"), "held", "{}", world.describe());
            assert!(counted(&world).is_empty(), "nothing is started beside what cannot be told");
            let stop = world.run(&["stop", "web"]);
            assert_ne!(stop.code, 0, "{}", stop.stdout);
            world.run(&["start", "web"]);
            world.run(&["forget", "web"]);
            world.run(&["start", "web"]);
        }
        world.once().expect_code(0);
        assert_eq!(counted(&world), one_each(&["web"]), "{claim:?}: {}\n{}", run.stdout, run.stderr);
        world.run(&["down"]).expect_code(0);
        assert!(stranger.try_wait().unwrap().is_none(), "{claim:?}: the stranger lives");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}

#[test]
fn a_ledger_that_is_there_twice_counts_once() {
    let world = World::new();
    for name in ["db", "web"] {
        declare(&world, name, 98_765);
    }
    world.once().expect_code(0);
    let before = ["db", "web"].map(|name| world.pid(name));
    let path = world.state().join("ledger.journal");
    let whole = fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for (what, bytes) in [
        ("appended to itself", [&whole[..], &whole[..]].concat()),
        ("its last record twice", [&whole[..], &whole[last..]].concat()),
    ] {
        fs::write(&path, bytes).unwrap();
        let run = world.once().expect_code(0);
        assert!(run.stderr.contains("ledger was damaged"), "{what}: {}", run.stderr);
        assert_eq!(["db", "web"].map(|name| world.pid(name)), before, "{what}");
        assert_eq!(counted(&world), one_each(&["db", "web"]), "{what}");
        let second = world.once().expect_code(0);
        assert!(!second.stderr.contains("ledger was damaged"), "{what}: {}", second.stderr);
    }
}

#[test]
fn a_ledger_of_a_newer_version_is_kept_or_refused_and_what_runs_goes_on() {
    let world = World::new();
    declare(&world, "web", 98_765);
    world.once().expect_code(0);
    let web = world.pid("web");
    let path = world.state().join("ledger.journal");
    let whole = fs::read_to_string(&path).unwrap();
    let sealed = |body: &str| format!("{body} {}\n", &blake3::hash(body.as_bytes()).to_hex()[..8]);

    let number = whole.lines().count();
    let newer = format!("{number} {{\"record\":\"leased\",\"service\":\"default/web\",\"by\":\"agent-7\"}}");
    fs::write(&path, whole.clone() + &sealed(&newer)).unwrap();
    let run = world.once().expect_code(0);
    assert!(run.stderr.contains("1 records of a newer version are kept"), "{}", run.stderr);
    assert_eq!(world.pid("web"), web);
    assert!(fs::read_to_string(&path).unwrap().contains("agent-7"), "word for word");

    let (_, records) = whole.split_once('\n').unwrap();
    let header = sealed("{\"format\":\"reconcile-ledger\",\"version\":2}");
    fs::write(&path, header + records).unwrap();
    for arguments in [&["--once"][..], &["down"], &["status"], &["takeover"]] {
        let run = world.run(arguments).expect_code(1);
        assert!(run.stderr.contains("upgrade `reconcile`"), "{arguments:?}: {}", run.stderr);
    }
    assert_eq!(counted(&world), one_each(&["web"]));
    fs::write(&path, whole).unwrap();
    assert_eq!(world.once().expect_code(0).code, 0);
    assert_eq!(world.pid("web"), web);
}

fn fill(path: &Path) {
    let mut filler = File::create(path).unwrap();
    while filler.write_all(&[b'x'; 512]).is_ok() {}
}

#[test]
fn a_full_disk_starts_nothing_loses_nothing_and_is_made_good_by_room() {
    in_own_mounts(|| {
        let world = World::new();
        fs::create_dir(world.state()).unwrap();
        mount_small(&world.state(), "size=1m");
        for name in ["db", "web"] {
            declare(&world, name, 98_765);
        }
        world.once().expect_code(0);
        let before = ["db", "web"].map(|name| pid(&world, name));
        let filler = world.state().join("filler");
        fill(&filler);

        declare(&world, "new", 98_765);
        let run = world.once();
        assert_ne!(run.code, 0, "{}", run.stdout);
        let text = format!("{}{}", run.stdout, run.stderr);
        assert!(text.contains("No space left on device"), "{text}");
        assert_eq!(counted(&world), one_each(&["db", "web"]), "{text}");
        // What ends meanwhile is not started again, and what is to stop is stopped.
        declare(&world, "web", 98_766);
        world.once();
        assert!(before.into_iter().all(is_alive), "nothing is stopped for a start that cannot follow");
        let down = world.run(&["down"]);
        assert!(before.into_iter().all(|pid| !is_alive(pid)), "{}\n{}", down.stdout, down.stderr);

        fs::remove_file(&filler).unwrap();
        world.once().expect_code(0);
        assert_eq!(counted(&world), one_each(&["db", "new", "web"]));
        let second = world.run(&["--once", "-o", "json"]).expect_code(0).json();
        assert_eq!(second["changes"], false, "{second}");
        world.run(&["down"]).expect_code(0);
        assert_eq!(counted(&world), BTreeMap::new());
        world.until("the keeper has left", |world| world.keeper().is_none());
        unmount(&world.state());
    });
}

#[test]
fn a_read_only_disk_starts_nothing_and_is_made_good_once_it_is_writable() {
    in_own_mounts(|| {
        let world = World::new();
        fs::create_dir(world.state()).unwrap();
        mount_small(&world.state(), "size=1m");
        declare(&world, "web", 98_765);
        world.once().expect_code(0);
        let web = pid(&world, "web");
        // The keeper has its log and its lock open for writing.
        end_keeper(&world);
        declare(&world, "new", 98_765);
        // A service may have its log open: then the disk cannot become read-only.
        if !can_be_read_only(&world.state()) {
            kill(web);
            world.until("it is dead", |_| !is_alive(web));
            remount_read_only(&world.state());
        }
        let counted_before = counted(&world);
        let run = world.once();
        assert_ne!(run.code, 0, "{}", run.stdout);
        let text = format!("{}{}", run.stdout, run.stderr);
        assert!(text.contains("Read-only file system"), "{text}");
        assert_eq!(counted(&world), counted_before, "{text}");
        let status = world.run(&["status", "-o", "json"]);
        assert_eq!(status.code, 0, "{}", status.stderr);

        remount_writable(&world.state());
        world.once().expect_code(0);
        assert_eq!(counted(&world), one_each(&["new", "web"]));
        world.run(&["down"]).expect_code(0);
        world.until("the keeper has left", |world| world.keeper().is_none());
        unmount(&world.state());
    });
}

fn can_be_read_only(disk: &Path) -> bool {
    let none = None::<&str>;
    let flags = nix::mount::MsFlags::MS_REMOUNT | nix::mount::MsFlags::MS_RDONLY;
    nix::mount::mount(none, disk, none, flags, none).is_ok()
}

#[test]
fn a_state_directory_that_is_shut_is_an_error_and_not_an_empty_one() {
    if cannot_run_as(As::Nobody) {
        return;
    }
    let world = World::run_as(As::Nobody);
    declare(&world, "web", 98_765);
    world.once().expect_code(0);
    let web = pid(&world, "web");
    for mode in [0, 0o400, 0o500] {
        fs::set_permissions(world.state(), Permissions::from_mode(mode)).unwrap();
        for arguments in [&["--once"][..], &["down"]] {
            let run = world.run(arguments);
            if mode == 0o500 && arguments == ["down"] {
                continue;
            }
            if mode != 0o500 {
                assert_eq!(run.code, 1, "{mode:o} {arguments:?}: {}\n{}", run.stdout, run.stderr);
                assert!(run.stderr.contains("ermission denied"), "{mode:o} {arguments:?}: {}", run.stderr);
                assert!(run.stderr.contains(world.state().to_str().unwrap()), "{}", run.stderr);
            }
        }
        fs::set_permissions(world.state(), Permissions::from_mode(0o700)).unwrap();
        if mode != 0o500 {
            assert!(is_alive(web), "{mode:o}");
        }
        world.once().expect_code(0);
        assert_eq!(counted(&world), one_each(&["web"]), "{mode:o}");
    }
    // The ledger alone.
    let ledger = world.state().join("ledger.journal");
    fs::set_permissions(&ledger, Permissions::from_mode(0o0)).unwrap();
    let run = world.once().expect_code(1);
    assert!(
        run.stderr.contains("read the ledger") && run.stderr.contains("ermission denied"),
        "{}",
        run.stderr
    );
    assert_eq!(counted(&world), one_each(&["web"]));
    fs::set_permissions(&ledger, Permissions::from_mode(0o600)).unwrap();
    world.once().expect_code(0);
    assert_eq!(counted(&world), one_each(&["web"]));
    assert!(OpenOptions::new().append(true).open(ledger).is_ok());
}

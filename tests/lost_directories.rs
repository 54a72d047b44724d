//! Every way to lose the manifests without meaning it: nothing is ended, by a watcher or by `--once`, and nothing is
//! started again once they are back.

#![expect(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod ledger_disk;
mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ledger_disk::{in_own_mounts, mount_small, unmount};
use support::{As, World, cannot_run_as, is_missing, nobody};

const NAMES: [&str; 2] = ["web", "db"];

fn text(name: &str) -> String {
    format!("[service.{name}]\ncommand = [\"sleep\", \"98765\"]\nstart_settle = \"20ms\"\n")
}

fn team(world: &World) -> PathBuf {
    world.manifests().join("team")
}

/// `web` in the root, `db` in a directory below it.
fn declare(world: &World) {
    fs::create_dir_all(team(world)).unwrap();
    fs::write(world.manifests().join("web.toml"), text("web")).unwrap();
    fs::write(team(world).join("db.toml"), text("db")).unwrap();
}

fn new_world(who: As) -> World {
    let world = World::run_as(who);
    // Of an unmount no event tells: it is noticed by the next look at everything.
    world.config("resync = \"1s\"\n[policy]\nexecutables = [\"sleep\"]\n[prune]\ndelay = \"150ms\"\n");
    world
}

fn pids(world: &World) -> [Option<i32>; 2] {
    NAMES.map(|name| world.pid(name))
}

/// What is done to the manifests, which of them that takes away, and how it is undone.
struct Loss<'a> {
    lose: &'a dyn Fn(&World),
    of: &'a [&'a str],
    regain: &'a dyn Fn(&World),
    guard: &'a str,
}

/// First with a watcher, then without one.
#[track_caller]
fn nothing_is_pruned(mut world: World, loss: &Loss<'_>) {
    let are_held = |world: &World| {
        let is_held =
            |name: &&str| world.service_status(name).is_some_and(|status| status["reason"] == loss.guard);
        loss.of.iter().all(is_held)
    };
    let are_well = |world: &World| {
        NAMES
            .iter()
            .all(|name| world.service_status(name).is_some_and(|status| status["reason"] == "running"))
    };
    world.watch();
    world.until("both run", are_well);
    let before = pids(&world);
    (loss.lose)(&world);
    world.until("the removals are held", are_held);
    // Of the watcher, which looks at everything again.
    world.once();
    assert_eq!(pids(&world), before, "{}", world.describe());
    world.kill_watcher();
    // Nobody has seen it vanish but the ledger.
    for _ in 0..2 {
        let run = world.once();
        assert_ne!(run.code, 0, "what is held is not converged: {}\n{}", run.stdout, run.stderr);
        assert_eq!(pids(&world), before, "{}\n{}", run.stdout, run.stderr);
    }
    assert!(are_held(&world), "{}", world.describe());
    (loss.regain)(&world);
    let run = world.once().expect_code(0);
    assert_eq!(pids(&world), before, "{}", run.stdout);
    // And lost while nobody is there at all.
    (loss.lose)(&world);
    world.once();
    assert_eq!(pids(&world), before);
    world.watch();
    world.until("the removals are held again", are_held);
    (loss.regain)(&world);
    world.until("nothing is held any more", are_well);
    assert_eq!(pids(&world), before, "{}", world.describe());
}

const GONE: &str = "guard-root-gone";

fn aside(world: &World) -> PathBuf {
    world.path("aside")
}

#[test]
fn a_root_that_is_moved_away_and_back() {
    let world = new_world(As::Caller);
    declare(&world);
    let lose = |world: &World| fs::rename(world.manifests(), aside(world)).unwrap();
    let regain = |world: &World| fs::rename(aside(world), world.manifests()).unwrap();
    nothing_is_pruned(world, &Loss { lose: &lose, of: &NAMES, regain: &regain, guard: GONE });
}

#[test]
fn a_root_with_an_empty_directory_in_its_place() {
    let world = new_world(As::Caller);
    declare(&world);
    let lose = |world: &World| {
        fs::rename(world.manifests(), aside(world)).unwrap();
        fs::create_dir(world.manifests()).unwrap();
    };
    let regain = |world: &World| {
        fs::remove_dir(world.manifests()).unwrap();
        fs::rename(aside(world), world.manifests()).unwrap();
    };
    nothing_is_pruned(world, &Loss { lose: &lose, of: &NAMES, regain: &regain, guard: GONE });
}

/// ext4 gives the new directory the inode number of the old one.
#[test]
fn a_root_that_is_deleted_and_made_anew() {
    let world = new_world(As::Caller);
    declare(&world);
    let lose = |world: &World| {
        fs::remove_dir_all(world.manifests()).unwrap();
        fs::create_dir(world.manifests()).unwrap();
    };
    nothing_is_pruned(world, &Loss { lose: &lose, of: &NAMES, regain: &declare, guard: GONE });
}

#[test]
fn a_directory_below_the_root_that_is_moved_away_and_back() {
    let world = new_world(As::Caller);
    declare(&world);
    let lose = |world: &World| fs::rename(team(world), aside(world)).unwrap();
    let regain = |world: &World| fs::rename(aside(world), team(world)).unwrap();
    nothing_is_pruned(world, &Loss { lose: &lose, of: &["db"], regain: &regain, guard: GONE });
}

#[test]
fn a_root_that_is_unmounted() {
    in_own_mounts(|| {
        let world = new_world(As::Caller);
        let (root, disk) = (world.manifests(), world.path("disk"));
        fs::create_dir(&disk).unwrap();
        mount_small(&disk, "size=256k");
        bind(&disk, &root);
        declare(&world);
        let lose = |world: &World| unmount(&world.manifests());
        let regain = |world: &World| bind(&world.path("disk"), &world.manifests());
        nothing_is_pruned(world, &Loss { lose: &lose, of: &NAMES, regain: &regain, guard: GONE });
        unmount(&root);
        unmount(&disk);
    });
}

#[test]
fn a_directory_below_the_root_that_is_unmounted() {
    in_own_mounts(|| {
        let world = new_world(As::Caller);
        let (below, disk) = (team(&world), world.path("disk"));
        fs::create_dir(&disk).unwrap();
        fs::create_dir(&below).unwrap();
        mount_small(&disk, "size=256k");
        bind(&disk, &below);
        declare(&world);
        let lose = |world: &World| unmount(&team(world));
        let regain = |world: &World| bind(&world.path("disk"), &team(world));
        nothing_is_pruned(world, &Loss { lose: &lose, of: &["db"], regain: &regain, guard: GONE });
        unmount(&below);
        unmount(&disk);
    });
}

fn bind(from: &Path, to: &Path) {
    let none = None::<&str>;
    nix::mount::mount(Some(from), to, none, nix::mount::MsFlags::MS_BIND, none).expect("a bind mount");
}

#[test]
fn directories_that_cannot_be_read_any_more() {
    for (is_root, of) in [(true, &NAMES[..]), (false, &["db"])] {
        if cannot_run_as(As::Nobody) {
            return;
        }
        let world = new_world(As::Nobody);
        declare(&world);
        for path in [world.manifests().join("web.toml"), team(&world), team(&world).join("db.toml")] {
            nix::unistd::chown(&path, Some(nobody().0), Some(nobody().1)).unwrap();
        }
        let change = |world: &World, mode: u32| {
            let path = if is_root { world.manifests() } else { team(world) };
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        let lose = |world: &World| change(world, 0);
        let regain = |world: &World| change(world, 0o755);
        nothing_is_pruned(world, &Loss { lose: &lose, of, regain: &regain, guard: GONE });
    }
}

fn git(world: &World, line: &str) {
    let mut command = Command::new("git");
    command.current_dir(world.project()).args(["-c", "user.name=x", "-c", "user.email=x@localhost"]);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").args(line.split(' '));
    let output = command.output().unwrap();
    assert!(output.status.success(), "git {line}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_branch_without_the_directory() {
    if is_missing("git") {
        return;
    }
    let world = new_world(As::Caller);
    git(&world, "init -q -b empty");
    fs::write(world.project().join("README"), "").unwrap();
    git(&world, "add README");
    git(&world, "commit -q -m one");
    git(&world, "checkout -q -b main");
    declare(&world);
    git(&world, "add -A");
    git(&world, "commit -q -m two");
    let lose = |world: &World| git(world, "checkout -q empty");
    let regain = |world: &World| git(world, "checkout -q main");
    nothing_is_pruned(world, &Loss { lose: &lose, of: &NAMES, regain: &regain, guard: GONE });
}

#[test]
fn a_checkout_that_has_come_half_way() {
    if is_missing("git") {
        return;
    }
    let world = new_world(As::Caller);
    git(&world, "init -q");
    declare(&world);
    let lock = |world: &World| world.project().join(".git/index.lock");
    let lose = |world: &World| {
        fs::write(lock(world), "").unwrap();
        fs::remove_file(world.manifests().join("web.toml")).unwrap();
    };
    let regain = |world: &World| {
        fs::write(world.manifests().join("renamed.toml"), text("web")).unwrap();
        fs::remove_file(lock(world)).unwrap();
        let _ = fs::remove_file(world.manifests().join("web.toml"));
        fs::rename(world.manifests().join("renamed.toml"), world.manifests().join("web.toml")).unwrap();
    };
    nothing_is_pruned(world, &Loss { lose: &lose, of: &["web"], regain: &regain, guard: "guard-checkout" });
}

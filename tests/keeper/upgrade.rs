//! The keeper becomes another program, in place: same process, and all that it holds with it, however it goes.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use reconcile::host::{Claim, Event, Found};
use reconcile::state::{Containment, ExitStatus};
use rustix::fs::{FlockOperation, flock};

use crate::contain::{kinds, with_escaped};
use crate::world::{EXE, Kind, World, target};

/// A program that does something else first; in builtins alone, since a shell that forks would reap what is the
/// keeper's to reap.
fn program(world: &World, name: &str, first: &str) -> PathBuf {
    let path = world.path(name);
    fs::write(&path, format!("#!/bin/sh\n{first}\nexec {EXE} \"$@\"\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

/// A line of a shell that lets a run end, and goes on when it has.
fn let_end(world: &World, claim: &Claim) -> String {
    let pid = claim.process.as_ref().unwrap().pid;
    let go = world.path("go").display().to_string();
    format!(
        "echo >{go}; while read -r line 2>/dev/null </proc/{pid}/stat; do case \"$line\" in *') Z '*) break;; esac; done"
    )
}

async fn ending_with(world: &mut World, code: u8) -> Claim {
    let go = world.path("go").display().to_string();
    world.run("ending", &format!("while ! [ -e {go} ]; do sleep 0.01; done; exit {code}")).await
}

/// What the program is handed is gone before it looks.
const GARBLED: &str = "echo nonsense >/proc/self/fd/${RECONCILE_KEEPER_FDS##*,}";

/// The program that is handed nothing that it can read.
pub fn broken(world: &World) -> PathBuf {
    program(world, "broken", GARBLED)
}

#[tokio::test]
async fn an_upgrade_in_place_keeps_the_process_and_all_that_it_holds() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let ending = ending_with(&mut world, 8).await;
        let (killed, escaped) = with_escaped(&mut world).await;
        let keeper = world.keeper().clone();
        world.upgrade(Path::new(EXE)).await;
        assert_eq!(world.keeper(), &keeper, "{kind:?}");
        let environment = fs::read_to_string(format!("/proc/{}/environ", keeper.pid)).unwrap();
        assert!(environment.contains("RECONCILE_KEEPER_FDS="));
        assert_eq!(world.client.as_mut().unwrap().list().await.unwrap().len(), 2);
        fs::write(world.path("go"), "").unwrap();
        assert_eq!(world.exited(&ending).await, (Some(ExitStatus::Code(8)), false), "{kind:?}");
        world.gone(&ending).await;
        world.client().kill(&killed);
        world.gone(&killed).await;
        assert!(!world.is_alive(&escaped), "{kind:?}");
        let after = world.run("after", "exit 0").await;
        world.gone(&after).await;
        // And once more: what it was started with goes along.
        world.upgrade(Path::new(EXE)).await;
        world.disconnect().await;
        world.eventually("it has left", || !world.is_alive(&keeper)).await;
    }
}

#[tokio::test]
async fn what_ends_while_the_program_changes_is_known() {
    for (kind, garbled) in kinds().into_iter().flat_map(|kind| [(kind, ""), (kind, GARBLED)]) {
        let mut world = World::new(kind).await;
        let ending = ending_with(&mut world, 9).await;
        let first = format!("{garbled}\n{}", let_end(&world, &ending));
        let slow = program(&world, "slow", &first);
        world.upgrade(&slow).await;
        world.client().attach(&ending);
        assert_eq!(world.exited(&ending).await, (Some(ExitStatus::Code(9)), false), "{kind:?} {garbled}");
        world.gone(&ending).await;
    }
}

/// They are its children still, and what they are is on record.
#[tokio::test]
async fn a_program_that_cannot_read_what_it_is_handed_loses_no_child() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let ending = ending_with(&mut world, 8).await;
        let (killed, escaped) = with_escaped(&mut world).await;
        let over = world.run("over", "exit 0").await;
        world.gone(&over).await;
        let keeper = world.keeper().clone();
        let broken = program(&world, "broken", GARBLED);
        world.upgrade(&broken).await;
        assert_eq!(world.keeper(), &keeper, "{kind:?}");
        assert!(fs::read_to_string(world.path("keeper.log")).unwrap().contains("cannot be read"));
        assert_eq!(world.client.as_mut().unwrap().list().await.unwrap().len(), 2, "{kind:?}");
        fs::write(world.path("go"), "").unwrap();
        assert_eq!(world.exited(&ending).await, (Some(ExitStatus::Code(8)), false), "{kind:?}");
        world.gone(&ending).await;
        world.client().kill(&killed);
        assert_eq!(world.exited(&killed).await.0, Some(ExitStatus::Signal(libc::SIGKILL)), "{kind:?}");
        world.gone(&killed).await;
        assert!(!world.is_alive(&escaped), "{kind:?}");
    }
}

#[tokio::test]
async fn services_outlive_a_program_that_ends_at_once() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let ending = ending_with(&mut world, 42).await;
        let keeper = world.keeper().clone();
        world.client().upgrade(&target(Path::new("/bin/true")).file);
        world.until(|event| *event == Event::KeeperLost).await;
        world.eventually("it has ended", || !world.is_alive(&keeper)).await;
        world.disconnect().await;
        assert_eq!(world.found(&ending), Found::Alive { born: None }, "{kind:?}");
        world.start_keeper();
        world.connect().await;
        world.client().attach(&ending);
        assert_eq!(world.client.as_mut().unwrap().list().await.unwrap().len(), 1);
        fs::write(world.path("go"), "").unwrap();
        let (status, others) = world.exited(&ending).await;
        assert!(!others, "{kind:?}");
        if matches!(ending.containment, Some(Containment::Holder { .. })) {
            assert_eq!(status, Some(ExitStatus::Code(42)));
        }
        world.gone(&ending).await;
    }
}

#[tokio::test]
async fn an_upgrade_that_fails_changes_nothing() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let claim = world.run("web", "exec sleep 1000").await;
        let keeper = world.keeper().clone();
        for name in ["gone", "locked", "empty", "replaced"] {
            fs::write(world.path(name), "").unwrap();
            fs::set_permissions(world.path(name), Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(world.path("locked"), Permissions::from_mode(0o644)).unwrap();
        let files = ["gone", "locked", "empty", "replaced", "."].map(|name| target(&world.path(name)).file);
        fs::remove_file(world.path("gone")).unwrap();
        fs::copy(EXE, world.path("newer")).unwrap();
        fs::rename(world.path("newer"), world.path("replaced")).unwrap();
        for file in &files {
            let (busy, detail) = world.refused_upgrade(file).await;
            assert!(!busy && detail.contains(file.path.to_str().unwrap()), "{detail}");
        }
        assert_eq!(world.client.as_mut().unwrap().list().await.unwrap().len(), 1);
        assert!(world.is_alive(&keeper));
        // None of its descriptors is left open for a child.
        let listing = world.run("listing", "ls /proc/self/fd").await;
        assert_eq!(world.exited(&listing).await.0, Some(ExitStatus::Code(0)));
        assert_eq!(world.log("listing").split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
        world.client().kill(&claim);
        assert_eq!(world.exited(&claim).await.0, Some(ExitStatus::Signal(libc::SIGKILL)));
        world.gone(&claim).await;
    }
}

#[tokio::test]
async fn a_keeper_with_a_spawn_under_way_is_busy_and_changes_when_that_is_done() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let gate = File::options().read(true).write(true).open(world.layout.birth_gate()).unwrap();
        flock(&gate, FlockOperation::LockExclusive).unwrap();
        let request = world.shell("web", "exec sleep 1000");
        let nonce = request.nonce.clone();
        world.client().spawn(request);
        let (busy, detail) = world.refused_upgrade(&target(Path::new(EXE)).file).await;
        assert!(busy, "{kind:?}: {detail}");
        drop(gate);
        world.until(|event| matches!(event, Event::Spawned { nonce: n, .. } if *n == nonce)).await;
        world.upgrade(Path::new(EXE)).await;
        assert_eq!(world.client.as_mut().unwrap().list().await.unwrap().len(), 1, "{kind:?}");
    }
}

#[tokio::test]
async fn a_keeper_whose_directory_was_moved_is_upgraded_where_it_is() {
    let mut world = World::new(Kind::Found).await;
    let claim = ending_with(&mut world, 7).await;
    let keeper = world.keeper().clone();
    let (here, moved) = (world.layout.dir.clone(), world.layout.dir.with_extension("moved"));
    fs::rename(&here, &moved).unwrap();
    world.client().upgrade(&target(Path::new(EXE)).file);
    world.until(|event| *event == Event::KeeperLost).await;
    world.disconnect().await;
    world.layout.dir = moved.clone();
    world.connect().await;
    assert_eq!(world.keeper(), &keeper);
    let commands = fs::read(format!("/proc/{}/cmdline", keeper.pid)).unwrap();
    assert!(String::from_utf8_lossy(&commands).contains(moved.to_str().unwrap()));
    fs::rename(&moved, &here).unwrap();
    world.layout.dir = here;
    world.client().kill(&claim);
    world.gone(&claim).await;
}

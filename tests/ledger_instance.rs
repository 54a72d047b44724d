//! Whose claims are in a state directory, and who may write it at this moment.

#![allow(clippy::disallowed_methods, reason = "these tests are about directories and processes")]

mod ledger_home;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ledger_home::{World, lock};
use reconcile::host::clock::Random;
use reconcile::host::ledger_file::LedgerFile;
use reconcile::host::state_dir::{LockError, ReconcilerLock, Standing, StateDir};
use reconcile::identity::InstanceId;

fn settle(state: &StateDir) -> Standing {
    state.settle(&lock(state.layout()), &mut Random::open().unwrap()).unwrap()
}

fn ours(state: &StateDir) -> (InstanceId, Option<PathBuf>) {
    match settle(state) {
        Standing::Ours { instance, moved_from } => (instance, moved_from),
        other => panic!("{other:?} is not ours"),
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn an_instance_is_drawn_once_and_read_without_writing() {
    let world = World::new();
    let state = world.open("state").unwrap();
    assert_eq!(state.standing().unwrap(), Standing::New);
    assert!(!state.layout().instance().exists());
    let (instance, _) = ours(&state);
    let before = fs::metadata(state.layout().instance()).unwrap().modified().unwrap();
    assert_eq!(ours(&world.open("state").unwrap()), (instance.clone(), None));
    assert_eq!(fs::metadata(state.layout().instance()).unwrap().modified().unwrap(), before);
    assert_ne!(ours(&world.open("other").unwrap()).0, instance);
}

#[test]
fn a_moved_directory_keeps_its_claims() {
    let world = World::new();
    let (instance, _) = ours(&world.open("state").unwrap());
    fs::rename(world.path("state"), world.path("moved")).unwrap();
    let moved = world.open("moved").unwrap();
    assert_eq!(ours(&moved), (instance.clone(), Some(world.path("state"))));
    assert_eq!(ours(&moved), (instance, None), "that is known now");
}

#[test]
fn a_directory_restored_in_place_keeps_its_claims() {
    let world = World::new();
    let (instance, _) = ours(&world.open("state").unwrap());
    copy(&world.path("state"), &world.path("backup"));
    fs::remove_dir_all(world.path("state")).unwrap();
    copy(&world.path("backup"), &world.path("state"));
    assert_eq!(ours(&world.open("state").unwrap()), (instance.clone(), None));
    fs::rename(world.path("state"), world.path("moved")).unwrap();
    assert_eq!(ours(&world.open("moved").unwrap()).0, instance, "its new inode was written down");
}

#[test]
fn a_copy_claims_nothing_whether_its_original_is_there_or_not() {
    let world = World::new();
    let (instance, _) = ours(&world.open("state").unwrap());
    copy(&world.path("state"), &world.path("copy"));
    let copied = world.open("copy").unwrap();
    let foreign = Standing::Foreign { instance: Some(instance) };
    let text = fs::read(copied.layout().instance()).unwrap();
    assert_eq!(settle(&copied), foreign);
    fs::remove_dir_all(world.path("state")).unwrap();
    assert_eq!(settle(&copied), foreign);
    assert_eq!(fs::read(copied.layout().instance()).unwrap(), text, "left as it is");
}

#[test]
fn a_ledger_without_its_instance_claims_nothing() {
    let world = World::new();
    let state = world.open("state").unwrap();
    ours(&state);
    LedgerFile::open(state.layout(), &InstanceId::from_u64(1), &lock(state.layout())).unwrap();
    for content in [None, Some("{\"version\":1,\"id\":"), Some("")] {
        match content {
            None => fs::remove_file(state.layout().instance()).unwrap(),
            Some(text) => fs::write(state.layout().instance(), text).unwrap(),
        }
        assert_eq!(settle(&state), Standing::Foreign { instance: None }, "{content:?}");
    }
}

#[test]
fn a_takeover_keeps_the_id_and_a_new_instance_does_not() {
    let world = World::new();
    let (instance, _) = ours(&world.open("state").unwrap());
    for name in ["one", "two"] {
        copy(&world.path("state"), &world.path(name));
    }
    let (one, two) = (world.open("one").unwrap(), world.open("two").unwrap());
    assert_eq!(one.take_over(&lock(one.layout())).unwrap(), Some(instance.clone()));
    assert_eq!(ours(&one), (instance.clone(), None));

    let fresh = two.begin_anew(&lock(two.layout()), &mut Random::open().unwrap()).unwrap();
    assert_ne!(fresh, instance);
    assert_eq!(ours(&two), (fresh, None));
    assert_eq!(ours(&world.open("state").unwrap()), (instance, None), "the original is not concerned");
}

#[test]
fn the_form_of_version_1_is_read() {
    let world = World::new();
    let state = world.open("state").unwrap();
    let text =
        include_str!("fixtures/state/v1/instance.json").replace("PATH", state.layout().dir.to_str().unwrap());
    fs::write(state.layout().instance(), text).unwrap();
    assert_eq!(ours(&state).0.as_str(), "00112233445566aa");

    let moved = world.project("moved");
    let base = world.path("home/.local/state/reconcile/old-0123456789ab");
    fs::create_dir_all(&base).unwrap();
    fs::set_permissions(&base, Permissions::from_mode(0o700)).unwrap();
    let root = fs::metadata(moved.join("manifests")).unwrap();
    let born = root.created().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let inode = std::os::unix::fs::MetadataExt::ino(&root);
    let text = include_str!("fixtures/state/v1/roots.json")
        .replace("\"INODE\"", &inode.to_string())
        .replace("\"BORN\"", &born.to_string());
    fs::write(base.join("roots.json"), text).unwrap();
    assert_eq!(world.used(&moved), base);
}

#[test]
fn one_holds_the_lock_and_the_other_learns_who() {
    let world = World::new();
    let state = world.open("state").unwrap();
    let held = lock(state.layout());
    let Err(LockError::Held(by)) = ReconcilerLock::acquire(state.layout(), Duration::ZERO) else {
        panic!("two cannot hold it");
    };
    assert_eq!(by.pid, Some(std::process::id() as i32));
    assert!(by.command.as_deref().unwrap().contains("ledger_instance"), "{by}");
    assert!(by.to_string().contains(", since 20"), "{by}");
    drop(held);
    lock(state.layout());
}

#[test]
fn who_is_patient_gets_the_lock_when_it_is_free() {
    let world = World::new();
    let state = world.open("state").unwrap();
    let held = lock(state.layout());
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| ReconcilerLock::acquire(state.layout(), Duration::from_secs(30)));
        assert!(matches!(
            ReconcilerLock::acquire(state.layout(), Duration::from_millis(50)),
            Err(LockError::Held(_))
        ));
        drop(held);
        patient.join().unwrap().expect("it was let go");
    });
}

#[test]
fn a_holder_that_the_file_does_not_prove_is_named_by_the_kernel() {
    let world = World::new();
    let state = world.open("state").unwrap();
    let _held = lock(state.layout());
    let text = fs::read_to_string(state.layout().lock()).unwrap();
    let mut holder: serde_json::Value = serde_json::from_str(&text).unwrap();
    holder["start_ticks"] = 1.into();
    holder["pid"] = 1.into();
    for content in [holder.to_string(), String::new(), "{".into()] {
        fs::write(state.layout().lock(), &content).unwrap();
        let Err(LockError::Held(by)) = ReconcilerLock::acquire(state.layout(), Duration::ZERO) else {
            panic!("it is held");
        };
        assert_eq!((by.pid, by.since.as_ref()), (Some(std::process::id() as i32), None), "{content}");
        assert!(by.command.as_deref().unwrap().contains("ledger_instance"), "{by}");
    }
}

#[test]
fn no_child_keeps_the_lock() {
    let world = World::new();
    let state = world.open("state").unwrap();
    let held = lock(state.layout());
    let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
    drop(held);
    let again = ReconcilerLock::acquire(state.layout(), Duration::from_secs(10));
    drop(child.stdin.take());
    child.wait().unwrap();
    again.expect("the child has no copy of it");
}

#[test]
fn of_many_that_race_one_holds_the_lock_at_a_time() {
    let world = World::new();
    let state = world.open("state").unwrap();
    let inside = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let _held = ReconcilerLock::acquire(state.layout(), Duration::from_secs(60)).unwrap();
                    assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                }
            });
        }
    });
}

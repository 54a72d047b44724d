//! Which directory holds the state, that it is ours alone, and whose claims are in it.

#![allow(clippy::disallowed_methods, reason = "these tests are about directories")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reconcile::host::StateLayout;
use reconcile::host::clock::Random;
use reconcile::host::ledger_file::LedgerFile;
use reconcile::host::state_dir::{
    Environment, LockError, ReconcilerLock, RootPlace, Source, Standing, StateDir, StateDirError, Wanted,
};
use reconcile::identity::InstanceId;
use tempfile::TempDir;

const NOBODY: u32 = 65_534;

/// A home and some projects.
struct World {
    dir: TempDir,
    environment: Environment,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let environment =
            Environment { home: Some(path.join("home")), working_directory: path, ..Environment::default() };
        Self { dir, environment }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn project(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.join("manifests")).unwrap();
        path
    }

    fn with<T>(&self, flag: Option<&Path>, project: &Path, ask: impl FnOnce(&Wanted<'_>) -> T) -> T {
        let roots = [RootPlace::look(&project.join("manifests"))];
        ask(&Wanted { flag, environment: &self.environment, project_dir: project, roots: &roots })
    }

    /// Opens it as a reconciler does, and remembers the roots.
    fn used(&self, project: &Path) -> PathBuf {
        self.with(None, project, |wanted| {
            let state = StateDir::open(wanted).unwrap();
            state.record_roots(wanted.roots, &lock(state.layout())).unwrap();
            state.layout().dir.clone()
        })
    }

    fn open(&self, flag: &str) -> Result<StateDir, StateDirError> {
        let project = self.project("project");
        self.with(Some(Path::new(flag)), &project, StateDir::open)
    }

    fn code(&self, flag: &str) -> &'static str {
        self.open(flag).expect_err("it cannot be used").code()
    }
}

fn lock(layout: &StateLayout) -> ReconcilerLock {
    ReconcilerLock::acquire(layout, Duration::ZERO).unwrap()
}

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

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn the_flag_comes_before_the_environment_and_that_before_the_home() {
    let mut world = World::new();
    let project = world.project("shop");
    let place = |world: &World, flag: Option<&str>| {
        world.with(flag.map(Path::new), &project, |wanted| {
            let state = StateDir::open(wanted).unwrap();
            (state.layout().dir.clone(), state.source())
        })
    };
    let (default, source) = place(&world, None);
    assert_eq!(source, Source::Default);
    assert_eq!(default.parent(), Some(world.path("home/.local/state/reconcile").as_path()));
    let name = default.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("shop-") && name.len() == "shop-".len() + 12, "{name}");

    world.environment.xdg_state_home = Some("relative/is/invalid".into());
    assert_eq!(place(&world, None).0, default);
    world.environment.xdg_state_home = Some(world.path("xdg"));
    assert_eq!(place(&world, None).0, world.path("xdg/reconcile").join(name));
    world.environment.state_directory = Some(world.path("managed"));
    assert_eq!(place(&world, None), (world.path("managed"), Source::ServiceManager));
    world.environment.reconcile_state_dir = Some(world.path("from-environment"));
    assert_eq!(place(&world, None), (world.path("from-environment"), Source::Environment));
    assert_eq!(
        place(&world, Some("given")),
        (world.path("given"), Source::Flag),
        "from the working directory"
    );
}

#[test]
fn the_order_of_the_roots_does_not_matter_and_their_paths_do() {
    let world = World::new();
    let project = world.project("shop");
    let find = |names: &[&str]| {
        let roots: Vec<_> = names.iter().map(|name| RootPlace::look(&project.join(name))).collect();
        let wanted =
            Wanted { flag: None, environment: &world.environment, project_dir: &project, roots: &roots };
        StateDir::open(&wanted).unwrap().layout().dir.clone()
    };
    assert_eq!(find(&["a", "b"]), find(&["b", "a"]));
    assert_ne!(find(&["a", "b"]), find(&["a"]));
}

#[test]
fn any_project_name_makes_a_plain_file_name() {
    let world = World::new();
    for (name, start) in [("My Shöp", "My_Sh_p-"), (".dots", "dots-"), ("a\nb", "a_b-")] {
        let found = world.used(&world.project(name));
        let found = found.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(found.starts_with(start), "{found}");
    }
    let long = world.used(&world.project(&"x".repeat(200)));
    assert!(long.file_name().unwrap().len() < 100);
}

#[test]
fn without_any_home_the_flag_is_asked_for() {
    let mut world = World::new();
    world.environment.home = None;
    let project = world.project("shop");
    let error = world.with(None, &project, StateDir::open).unwrap_err();
    assert_eq!(error.code(), "state-dir-no-home");
    assert!(error.to_string().contains("--state-dir"));
}

#[test]
fn looking_for_a_directory_makes_none() {
    let world = World::new();
    let project = world.project("shop");
    assert!(world.with(None, &project, StateDir::find).unwrap().is_none());
    assert!(!world.path("home").exists());
    let made = world.used(&project);
    let found = world.with(None, &project, StateDir::find).unwrap().unwrap();
    assert_eq!(found.layout().dir, made);
}

#[test]
fn a_directory_is_made_for_us_alone() {
    let world = World::new();
    let state = world.open("deep/er/state").unwrap();
    for path in ["deep", "deep/er", "deep/er/state"] {
        assert_eq!(fs::metadata(world.path(path)).unwrap().permissions().mode() & 0o777, 0o700, "{path}");
    }
    assert_eq!(state.layout().dir, world.path("deep/er/state"));
}

#[test]
fn a_directory_that_lets_others_in_is_refused_with_the_remedy() {
    let world = World::new();
    drop(world.open("state").unwrap());
    for mode in [0o701, 0o750, 0o777] {
        fs::set_permissions(world.path("state"), Permissions::from_mode(mode)).unwrap();
        let error = world.open("state").unwrap_err();
        assert_eq!(error.code(), "state-dir-mode");
        assert!(
            error.to_string().contains(&format!("chmod 700 {}", world.path("state").display())),
            "{error}"
        );
    }
}

#[test]
fn a_service_manager_s_directory_is_closed_to_others() {
    let mut world = World::new();
    let project = world.project("shop");
    let managed = world.path("managed");
    fs::create_dir(&managed).unwrap();
    fs::set_permissions(&managed, Permissions::from_mode(0o755)).unwrap();
    world.environment.state_directory = Some(managed.clone());
    let mode = || fs::metadata(&managed).unwrap().permissions().mode() & 0o777;
    assert!(world.with(None, &project, StateDir::find).unwrap().is_some());
    assert_eq!(mode(), 0o755, "looking changes nothing");
    world.with(None, &project, StateDir::open).unwrap();
    assert_eq!(mode(), 0o700);
}

#[test]
fn what_is_not_a_directory_is_refused() {
    let world = World::new();
    fs::write(world.path("file"), "").unwrap();
    assert_eq!(world.code("file"), "state-dir-not-a-directory");
    assert_eq!(world.code("file/below"), "state-dir-not-a-directory");
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    if !is_root() {
        return eprintln!("skipped: giving a directory away needs root");
    }
    let world = World::new();
    drop(world.open("state").unwrap());
    lchown(world.path("state"), Some(NOBODY), None).unwrap();
    let error = world.open("state").unwrap_err();
    assert_eq!(error.code(), "state-dir-owner");
    assert!(error.to_string().contains("uid 65534"), "{error}");
}

#[test]
fn our_own_link_is_followed_and_a_stranger_s_is_not() {
    let world = World::new();
    let target = world.open("state").unwrap().layout().dir.clone();
    symlink(&target, world.path("link")).unwrap();
    assert_eq!(world.open("link").unwrap().layout().dir, target, "by canonical path");
    if !is_root() {
        return eprintln!("skipped in part: giving a link away needs root");
    }
    lchown(world.path("link"), Some(NOBODY), None).unwrap();
    assert_eq!(world.code("link"), "state-dir-symlink");
}

#[test]
fn a_moved_project_keeps_its_directory_wherever_it_goes() {
    let world = World::new();
    let first = world.used(&world.project("shop"));
    for (from, to) in [("shop", "store"), ("store", "mall"), ("mall", "shop")] {
        fs::rename(world.path(from), world.path(to)).unwrap();
        assert_eq!(world.used(&world.path(to)), first, "{from} to {to}");
        assert_eq!(world.used(&world.path(to)), first, "{to} again");
    }
}

#[test]
fn a_copied_project_gets_a_directory_of_its_own() {
    let world = World::new();
    let first = world.used(&world.project("shop"));
    assert_ne!(world.used(&world.project("copy")), first);
    assert_eq!(world.used(&world.path("shop")), first);
}

#[test]
fn a_new_project_in_a_used_inode_is_not_the_old_one() {
    let world = World::new();
    let mut known = vec![world.used(&world.project("p0"))];
    // ext4 gives a freed inode out at once.
    for n in 1..8 {
        fs::remove_dir_all(world.path(&format!("p{}", n - 1))).unwrap();
        let found = world.used(&world.project(&format!("p{n}")));
        assert!(!known.contains(&found), "p{n}");
        known.push(found);
    }
}

#[test]
fn a_project_that_moved_to_where_another_was_keeps_its_own_directory() {
    let world = World::new();
    let shop = world.used(&world.project("shop"));
    let gone = world.used(&world.project("gone"));
    assert_ne!(shop, gone);
    fs::remove_dir_all(world.path("gone")).unwrap();
    fs::rename(world.path("shop"), world.path("gone")).unwrap();
    assert_eq!(world.used(&world.path("gone")), shop);
}

#[test]
fn a_project_made_anew_in_its_place_keeps_its_directory() {
    let world = World::new();
    let first = world.used(&world.project("shop"));
    fs::remove_dir_all(world.path("shop")).unwrap();
    assert_eq!(world.used(&world.project("shop")), first);
}

#[test]
fn a_root_that_is_away_for_a_while_is_still_known() {
    let world = World::new();
    let first = world.used(&world.project("shop"));
    fs::rename(world.path("shop/manifests"), world.path("aside")).unwrap();
    assert_eq!(world.used(&world.path("shop")), first);
    fs::rename(world.path("aside"), world.path("shop/manifests")).unwrap();
    fs::rename(world.path("shop"), world.path("store")).unwrap();
    assert_eq!(world.used(&world.path("store")), first, "recognised by what it was before");
}

#[test]
fn remembering_known_roots_writes_nothing() {
    let world = World::new();
    let state = world.used(&world.project("shop"));
    let written = || fs::metadata(state.join("roots.json")).unwrap().modified().unwrap();
    let before = written();
    assert_eq!(world.used(&world.path("shop")), state);
    assert_eq!(written(), before);
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
    LedgerFile::open(state.layout(), &lock(state.layout())).unwrap();
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
        include_str!("fixtures/state/v1-instance.json").replace("PATH", state.layout().dir.to_str().unwrap());
    fs::write(state.layout().instance(), text).unwrap();
    assert_eq!(ours(&state).0.as_str(), "00112233445566aa");

    let moved = world.project("moved");
    let base = world.path("home/.local/state/reconcile/old-0123456789ab");
    fs::create_dir_all(&base).unwrap();
    fs::set_permissions(&base, Permissions::from_mode(0o700)).unwrap();
    let root = fs::metadata(moved.join("manifests")).unwrap();
    let born = root.created().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let inode = std::os::unix::fs::MetadataExt::ino(&root);
    let text = include_str!("fixtures/state/v1-roots.json")
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
    assert!(by.command.as_deref().unwrap().contains("ledger_state_dir"), "{by}");
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
fn a_holder_that_cannot_be_proved_is_not_named() {
    let world = World::new();
    let state = world.open("state").unwrap();
    let _held = lock(state.layout());
    let text = fs::read_to_string(state.layout().lock()).unwrap();
    let mut holder: serde_json::Value = serde_json::from_str(&text).unwrap();
    holder["start_ticks"] = 1.into();
    for content in [holder.to_string(), String::new(), "{".into()] {
        fs::write(state.layout().lock(), &content).unwrap();
        let Err(LockError::Held(by)) = ReconcilerLock::acquire(state.layout(), Duration::ZERO) else {
            panic!("it is held");
        };
        assert_eq!((by.pid, by.command.as_ref()), (None, None), "{content}");
        assert!(by.to_string().starts_with("a process that cannot be seen from here"));
    }
}

#[test]
fn no_child_keeps_the_lock() {
    let world = World::new();
    let state = world.open("state").unwrap();
    let held = lock(state.layout());
    let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
    drop(held);
    let again = ReconcilerLock::acquire(state.layout(), Duration::ZERO);
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

//! Which directory holds the state, and that it is ours alone.

#![allow(clippy::disallowed_methods, reason = "these tests are about directories")]

mod ledger_home;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::Path;

use ledger_home::World;
use reconcile::host::state_dir::{RootPlace, Source, StateDir, Wanted};

const NOBODY: u32 = 65_534;

fn code(world: &World, flag: &str) -> &'static str {
    world.open(flag).expect_err("it cannot be used").code()
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
    assert_eq!(code(&world, "file"), "state-dir-not-a-directory");
    assert_eq!(code(&world, "file/below"), "state-dir-not-a-directory");
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
    assert_eq!(code(&world, "link"), "state-dir-symlink");
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

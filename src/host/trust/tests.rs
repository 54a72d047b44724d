//! Trust against real directories. As root they are given to another user, who is then the one that is asked for.

use std::os::unix::fs::{PermissionsExt, chown, symlink};

use tempfile::TempDir;

use super::*;

/// Nobody's number in the databases of any machine.
const SOMEBODY: u32 = 61_234;

/// A project of one user.
struct World {
    dir: TempDir,
    uid: u32,
}

impl World {
    fn new() -> Self {
        let uid = geteuid().as_raw();
        let world = Self { dir: TempDir::new().unwrap(), uid: if uid == 0 { SOMEBODY } else { uid } };
        world.give(world.dir.path());
        world.directory("project");
        world.directory("project/manifests");
        world.directory("project/manifests/team");
        world.file("project/manifests/web.toml");
        world.file("project/manifests/team/api.toml");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn give(&self, path: &Path) {
        if geteuid().is_root() {
            chown(path, Some(self.uid), Some(self.uid)).unwrap();
        }
    }

    fn directory(&self, name: &str) {
        std::fs::create_dir(self.path(name)).unwrap();
        self.mode(name, 0o755);
        self.give(&self.path(name));
    }

    fn file(&self, name: &str) {
        std::fs::write(self.path(name), "").unwrap();
        self.mode(name, 0o644);
        self.give(&self.path(name));
    }

    fn mode(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn strangers(&self) -> Option<String> {
        Look::new(self.uid).strangers(&[self.path("project/manifests")], &self.path("project"))
    }
}

#[test]
fn what_one_user_owns_is_his() {
    let world = World::new();
    assert_eq!(world.strangers(), None);
    let trust = judge_as(world.uid, &[world.path("project/manifests")], &world.path("project"));
    let Trust::OneUser { uid, home_project, search_path } = trust else { panic!("{trust:?}") };
    assert_eq!((uid, home_project), (world.uid, world.path("project")));
    assert!(search_path.iter().all(|dir| dir.is_absolute()), "{search_path:?}");
}

#[test]
fn root_is_never_one_user() {
    let world = World::new();
    let trust = judge(&[world.path("project/manifests")], &world.path("project"));
    assert_eq!(trust == Trust::Strangers, geteuid().is_root(), "{trust:?}");
}

#[test]
fn every_place_that_others_can_write_makes_strangers() {
    for place in [
        "project",
        "project/manifests",
        "project/manifests/team",
        "project/manifests/web.toml",
        "project/manifests/team/api.toml",
        "",
    ] {
        let world = World::new();
        world.mode(place, 0o757);
        let why = world.strangers().expect(place);
        assert!(why.contains("everybody"), "{place}: {why}");
        world.mode(place, 0o755);
        assert_eq!(world.strangers(), None, "{place}");
    }
}

#[test]
fn a_sticky_directory_above_is_as_good_as_ones_own() {
    let world = World::new();
    world.mode("", 0o1777);
    assert_eq!(world.strangers(), None);
    world.mode("project", 0o1777);
    assert!(world.strangers().is_some(), "within it anybody can add a file");
}

#[test]
fn what_is_not_loaded_does_not_matter() {
    let world = World::new();
    for directory in ["project/manifests/node_modules", "project/manifests/.git"] {
        world.directory(directory);
        world.mode(directory, 0o777);
    }
    world.file("project/manifests/notes.txt");
    world.mode("project/manifests/notes.txt", 0o666);
    assert_eq!(world.strangers(), None);
}

#[test]
fn links_are_looked_at_where_they_lead() {
    let world = World::new();
    world.directory("shared");
    world.file("shared/other.toml");
    symlink(world.path("shared/other.toml"), world.path("project/manifests/other.toml")).unwrap();
    symlink(world.path("project/manifests"), world.path("project/manifests/circle")).unwrap();
    symlink("nowhere", world.path("project/manifests/dangling.toml")).unwrap();
    assert_eq!(world.strangers(), None);
    world.mode("shared", 0o777);
    assert!(world.strangers().is_some(), "anybody can put another file in its place");
    world.mode("shared", 0o755);
    world.mode("shared/other.toml", 0o666);
    assert!(world.strangers().is_some());
}

#[test]
fn every_link_on_the_way_counts() {
    let world = World::new();
    for directory in ["shared", "shared/by-name", "own"] {
        world.directory(directory);
    }
    world.file("own/other.toml");
    symlink(world.path("own"), world.path("shared/by-name/own")).unwrap();
    symlink("../shared/by-name/own/other.toml", world.path("project/other.toml")).unwrap();
    symlink("../other.toml", world.path("project/manifests/other.toml")).unwrap();
    assert_eq!(world.strangers(), None);
    world.mode("shared/by-name", 0o777);
    assert!(world.strangers().unwrap().contains("by-name"), "anybody can lead the second link elsewhere");
    world.mode("shared/by-name", 0o1777);
    assert_eq!(world.strangers(), None, "the link is root's or ours");
    if geteuid().is_root() {
        std::os::unix::fs::lchown(world.path("shared/by-name/own"), Some(SOMEBODY + 1), None).unwrap();
        assert!(world.strangers().unwrap().contains("the link"), "its owner can lead it elsewhere");
    }
}

#[test]
fn the_way_to_a_root_counts_as_well() {
    let world = World::new();
    world.directory("shared");
    symlink(world.path("project"), world.path("shared/shop")).unwrap();
    let look =
        || Look::new(world.uid).strangers(&[world.path("shared/shop/manifests")], &world.path("project"));
    assert_eq!(look(), None);
    world.mode("shared", 0o777);
    assert!(look().unwrap().contains("shared"));
}

#[test]
fn links_in_circles_end() {
    let world = World::new();
    symlink("b", world.path("a")).unwrap();
    symlink("a", world.path("b")).unwrap();
    assert!(Look::new(world.uid).of_way(&world.path("a/x"), MAX_LINKS).unwrap().contains("too many links"));
}

#[test]
fn a_root_that_is_not_there_is_nobodys() {
    let world = World::new();
    let why = Look::new(world.uid).strangers(&[world.path("none")], &world.path("project"));
    assert!(why.unwrap().contains("none"));
}

#[test]
fn files_of_another_user_make_strangers() {
    let world = World::new();
    let other = Look::new(world.uid + 1).strangers(&[], &world.path("project"));
    assert!(other.unwrap().contains("belongs to"));
    if geteuid().is_root() {
        chown(world.path("project/manifests/web.toml"), Some(0), None).unwrap();
        assert!(world.strangers().unwrap().contains("web.toml"), "root's file is not the user's own");
    }
}

#[test]
fn a_group_counts_unless_it_is_the_owners_own() {
    let world = World::new();
    world.mode("project/manifests/web.toml", 0o664);
    let metadata = std::fs::metadata(world.path("project/manifests/web.toml")).unwrap();
    let is_own = is_own_group(metadata.uid(), metadata.gid());
    assert_eq!(world.strangers().is_none(), is_own);
    if geteuid().is_root() {
        assert!(is_own, "the same number, known to no database");
        chown(world.path("project/manifests/web.toml"), None, Some(SOMEBODY + 1)).unwrap();
        assert!(world.strangers().unwrap().contains("the group"));
    }
    assert!(is_own_group(0, 0), "root's own group");
    assert!(!is_own_group(0, SOMEBODY));
}

#[test]
fn a_configuration_is_roots_or_ours_and_nobody_elses_to_write() {
    let world = World::new();
    let path = world.path("own.toml");
    std::fs::write(&path, "").unwrap();
    let safe = |mode: u32| {
        world.mode("own.toml", mode);
        config_is_safe(&path, &std::fs::metadata(&path).unwrap())
    };
    assert_eq!(safe(0o600), Ok(()));
    assert_eq!(safe(0o644), Ok(()));
    assert!(safe(0o646).unwrap_err().contains("everybody"));
    if geteuid().is_root() {
        chown(&path, None, Some(SOMEBODY)).unwrap();
        assert!(safe(0o664).unwrap_err().contains("the group"));
        chown(&path, Some(SOMEBODY), None).unwrap();
        assert!(safe(0o600).unwrap_err().contains("belongs to"));
    }
}

/// A repository as `git init` lays it out.
fn git_directory(dir: &Path) {
    for part in ["objects", "refs"] {
        std::fs::create_dir_all(dir.join(part)).unwrap();
    }
    std::fs::write(dir.join("HEAD"), "ref: refs/heads/main\n").unwrap();
}

#[test]
fn the_top_of_a_repository_is_a_worktree_and_what_is_below_is_not() {
    let dir = TempDir::new().unwrap();
    assert!(!is_git_worktree(dir.path()));
    std::fs::create_dir(dir.path().join(".git")).unwrap();
    assert!(!is_git_worktree(dir.path()), "an empty directory by that name");
    git_directory(&dir.path().join(".git"));
    assert!(is_git_worktree(dir.path()));
    std::fs::create_dir(dir.path().join("below")).unwrap();
    assert!(!is_git_worktree(&dir.path().join("below")));
    assert!(!is_git_worktree(&dir.path().join("missing")));
}

#[test]
fn a_linked_worktree_must_be_named_back() {
    let dir = TempDir::new().unwrap();
    let main = dir.path().join("main/.git");
    git_directory(&main);
    let linked = main.join("worktrees/linked");
    std::fs::create_dir_all(&linked).unwrap();
    std::fs::write(linked.join("HEAD"), "ref: refs/heads/x\n").unwrap();
    std::fs::write(linked.join("commondir"), "../..\n").unwrap();
    let pointer = format!("gitdir: {}\n", linked.display());
    for name in ["linked", "thief"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join(".git"), &pointer).unwrap();
    }
    std::fs::write(linked.join("gitdir"), format!("{}\n", dir.path().join("linked/.git").display())).unwrap();
    assert!(is_git_worktree(&dir.path().join("linked")));
    assert!(!is_git_worktree(&dir.path().join("thief")), "somebody else's worktree");
    std::fs::write(dir.path().join("thief/.git"), format!("gitdir: {}\n", main.display())).unwrap();
    assert!(!is_git_worktree(&dir.path().join("thief")), "somebody else's repository");
}

#[test]
fn a_submodule_is_named_back_by_its_configuration() {
    let dir = TempDir::new().unwrap();
    let modules = dir.path().join(".git/modules/sub");
    git_directory(&modules);
    std::fs::write(modules.join("config"), "[core]\n\tbare = false\n\tworktree = ../../../sub\n").unwrap();
    for name in ["sub", "thief"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join(".git"), "gitdir: ../.git/modules/sub\n").unwrap();
    }
    assert!(is_git_worktree(&dir.path().join("sub")));
    assert!(!is_git_worktree(&dir.path().join("thief")));
}

#[test]
fn a_fifo_for_a_git_file_is_no_worktree() {
    let dir = TempDir::new().unwrap();
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
    nix::unistd::mkfifo(&dir.path().join(".git"), mode).unwrap();
    assert!(!is_git_worktree(dir.path()));
}

//! The scanner on real files: every bad input of the promise "a bad input never stops a good service", and what
//! a changed file, directory or link costs.

#![allow(clippy::disallowed_methods, reason = "tests make the files that the scanner reads")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reconcile::host::scan::Scanner;
use reconcile::host::{Dirty, FileScan, RootListing};

/// A directory with a root in it, and a scanner of that root.
struct World {
    dir: tempfile::TempDir,
    scanner: Scanner,
}

impl World {
    fn new() -> Self {
        Self::with_links(false)
    }

    fn with_links(outside_links: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("manifests")).unwrap();
        let scanner = Scanner::new(vec![dir.path().join("manifests")], outside_links);
        Self { dir, scanner }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn link(&self, target: impl AsRef<Path>, path: &str) {
        symlink(target, self.root().join(path)).unwrap();
    }

    fn scan(&mut self) -> RootListing {
        self.scan_of(&Dirty::Everything)
    }

    fn scan_paths(&mut self, paths: &[&str]) -> RootListing {
        let paths = paths.iter().map(|path| self.root().join(path)).collect();
        self.scan_of(&Dirty::Paths(paths))
    }

    fn scan_of(&mut self, what: &Dirty) -> RootListing {
        let mut scans = self.scanner.scan(what);
        assert_eq!(scans.len(), 1);
        Arc::unwrap_or_clone(scans.remove(0).listing.unwrap())
    }

    fn root_trouble(&mut self) -> String {
        self.scanner.scan(&Dirty::Everything).remove(0).listing.unwrap_err().0
    }
}

fn names(listing: &RootListing) -> Vec<&str> {
    listing.files.keys().map(|path| path.to_str().unwrap()).collect()
}

fn file<'a>(listing: &'a RootListing, path: &str) -> &'a FileScan {
    listing.files.get(Path::new(path)).unwrap_or_else(|| panic!("{path} is not in {:?}", names(listing)))
}

fn text<'a>(listing: &'a RootListing, path: &str) -> &'a Arc<str> {
    file(listing, path).content.as_ref().unwrap_or_else(|problem| panic!("{path}: {problem:?}"))
}

fn code<'a>(listing: &'a RootListing, path: &str) -> &'a str {
    &file(listing, path).content.as_ref().expect_err(path).0
}

/// Does something with the rights of an unprivileged user, on this thread alone.
fn as_nobody<T>(act: impl FnOnce() -> T) -> T {
    if !nix::unistd::geteuid().is_root() {
        return act();
    }
    nix::unistd::setfsgid(65534.into());
    nix::unistd::setfsuid(65534.into());
    let result = act();
    nix::unistd::setfsuid(0.into());
    nix::unistd::setfsgid(0.into());
    result
}

#[test]
fn every_toml_file_below_the_root_is_read_and_nothing_else() {
    let mut world = World::new();
    for path in ["web.toml", "deep/er/db.toml", "zoo/a.toml"] {
        world.write(path, path);
    }
    for path in [
        ".web.toml.swp",
        "web.toml~",
        "web.toml.bak",
        "web.toml.orig",
        "#web.toml#",
        "_draft.toml",
        ".hidden.toml",
        "README.md",
        ".git/config.toml",
        "node_modules/x/y.toml",
        "target/z.toml",
        "deep/target/z.toml",
    ] {
        world.write(path, "no = 1");
    }
    let listing = world.scan();
    assert_eq!(names(&listing), ["deep/er/db.toml", "web.toml", "zoo/a.toml"]);
    assert_eq!(&**text(&listing, "deep/er/db.toml"), "deep/er/db.toml");
    let directories: Vec<_> = listing.directories.keys().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(directories, ["", "deep", "deep/er", "zoo"]);
}

#[test]
fn what_is_not_a_regular_file_is_a_problem_and_never_a_hang() {
    let mut world = World::new();
    nix::unistd::mkfifo(&world.root().join("fifo.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.root().join("socket.toml")).unwrap();
    fs::create_dir(world.root().join("directory.toml")).unwrap();
    world.link("fifo.toml", "to-fifo.toml");
    world.link("directory.toml", "to-directory.toml");
    world.write("good.toml", "");
    let listing = world.scan();
    for path in ["fifo.toml", "socket.toml", "directory.toml", "to-fifo.toml", "to-directory.toml"] {
        assert_eq!(code(&listing, path), "not-a-regular-file", "{path}");
    }
    assert_eq!(&**text(&listing, "good.toml"), "");
}

#[test]
fn a_device_behind_a_link_is_not_opened() {
    let mut world = World::with_links(true);
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    world.link("/dev/null", "device.toml");
    assert_eq!(code(&world.scan(), "device.toml"), "not-a-regular-file");
}

#[test]
fn what_is_not_text_is_a_problem_that_says_where() {
    let mut world = World::new();
    world.write("latin1.toml", b"name = \"caf\xe9\"");
    world.write("utf16.toml", b"\xff\xfea\0");
    world.write("binary.toml", b"ELF\0\x01");
    world.write("large.toml", vec![b'#'; 1024 * 1024 + 1]);
    world.write("just.toml", vec![b'#'; 1024 * 1024]);
    let listing = world.scan();
    assert_eq!(code(&listing, "latin1.toml"), "not-utf8");
    assert_eq!(
        file(&listing, "latin1.toml").content.as_ref().unwrap_err().1,
        "is not UTF-8 from line 1 on (byte 11); save it as UTF-8"
    );
    assert_eq!(code(&listing, "utf16.toml"), "not-utf8");
    assert_eq!(code(&listing, "binary.toml"), "binary-file");
    assert_eq!(code(&listing, "large.toml"), "too-large");
    assert_eq!(text(&listing, "just.toml").len(), 1024 * 1024);
}

#[test]
fn a_sparse_giant_is_refused_without_being_read() {
    let mut world = World::new();
    fs::File::create(world.root().join("giant.toml")).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(code(&world.scan(), "giant.toml"), "too-large");
}

#[test]
fn links_are_followed_beneath_the_root_only() {
    let mut world = World::new();
    world.write("real/a.toml", "a");
    fs::write(world.dir.path().join("secret.toml"), "secret").unwrap();
    world.link("real/a.toml", "relative.toml");
    world.link(world.root().join("real/a.toml"), "absolute.toml");
    world.link("../secret.toml", "out.toml");
    world.link("real/../../secret.toml", "winding.toml");
    world.link("nowhere.toml", "dangling.toml");
    world.link("loop-b.toml", "loop-a.toml");
    world.link("loop-a.toml", "loop-b.toml");
    let listing = world.scan();
    assert_eq!(&**text(&listing, "relative.toml"), "a");
    assert_eq!(&**text(&listing, "absolute.toml"), "a");
    assert_eq!(code(&listing, "out.toml"), "link-outside-root");
    assert_eq!(code(&listing, "winding.toml"), "link-outside-root");
    assert_eq!(code(&listing, "dangling.toml"), "dangling-link");
    assert_eq!(code(&listing, "loop-a.toml"), "link-loop");
}

#[test]
fn configuration_opens_links_that_leave_the_root() {
    let mut world = World::with_links(true);
    fs::create_dir(world.dir.path().join("shared")).unwrap();
    fs::write(world.dir.path().join("shared/a.toml"), "a").unwrap();
    world.link("../shared/a.toml", "file.toml");
    world.link("../shared", "directory");
    let listing = world.scan();
    assert_eq!(&**text(&listing, "file.toml"), "a");
    assert_eq!(&**text(&listing, "directory/a.toml"), "a");
}

#[test]
fn a_root_that_is_itself_a_link_works() {
    let world = World::new();
    world.write("a.toml", "a");
    world.link("a.toml", "b.toml");
    let link = world.dir.path().join("current");
    symlink(world.root(), &link).unwrap();
    let listing = Scanner::new(vec![link], false).scan(&Dirty::Everything).remove(0).listing.unwrap();
    assert_eq!(&**text(&listing, "b.toml"), "a");
}

#[test]
fn linked_directories_are_listed_once_and_never_in_a_loop() {
    let mut world = World::new();
    world.write("real/a.toml", "a");
    world.link("real", "alias");
    world.link(".", "loop");
    world.link("../..", "real/up");
    let listing = world.scan();
    assert_eq!(names(&listing), ["real/a.toml"]);
    let sentence = listing.directories[Path::new("real/up")].as_ref().unwrap_err();
    assert!(sentence.contains("leads out"), "{sentence}");
}

/// A ConfigMap: every file a link into `..data`, itself a link that is swapped.
#[test]
fn a_kubernetes_mount_is_read_and_its_swap_noticed() {
    let mut world = World::new();
    world.write("..2026_1/web.toml", "one");
    world.link("..2026_1", "..data");
    world.link("..data/web.toml", "web.toml");
    let listing = world.scan();
    assert_eq!(names(&listing), ["web.toml"]);
    assert_eq!(&**text(&listing, "web.toml"), "one");

    world.write("..2026_2/web.toml", "two");
    world.link("..2026_2", "..data_tmp");
    fs::rename(world.root().join("..data_tmp"), world.root().join("..data")).unwrap();
    let swapped = world.scan_paths(&["..data"]);
    assert_eq!(&**text(&swapped, "web.toml"), "two");
    assert_ne!(file(&swapped, "web.toml").version, file(&listing, "web.toml").version);
}

#[test]
fn unreadable_files_and_directories_are_named() {
    let mut world = World::new();
    world.write("secret.toml", "s");
    world.write("closed/a.toml", "a");
    world.write("good.toml", "g");
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(world.root().join("secret.toml"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::set_permissions(world.root().join("closed"), fs::Permissions::from_mode(0o0)).unwrap();
    let listing = as_nobody(|| world.scan());
    assert_eq!(code(&listing, "secret.toml"), "unreadable");
    assert_eq!(
        file(&listing, "secret.toml").content.as_ref().unwrap_err().1,
        "cannot be read: permission denied"
    );
    assert_eq!(
        listing.directories[Path::new("closed")].as_ref().unwrap_err(),
        "cannot be listed: permission denied"
    );
    assert_eq!(&**text(&listing, "good.toml"), "g");
    // So that the directory can be removed.
    fs::set_permissions(world.root().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_file_that_becomes_readable_is_read_although_only_its_mode_changed() {
    let mut world = World::new();
    world.write("a.toml", "a");
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(world.root().join("a.toml"), fs::Permissions::from_mode(0o0)).unwrap();
    assert_eq!(code(&as_nobody(|| world.scan()), "a.toml"), "unreadable");
    fs::set_permissions(world.root().join("a.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    let listing = as_nobody(|| world.scan_paths(&["a.toml"]));
    assert_eq!(&**text(&listing, "a.toml"), "a");
}

#[test]
fn a_root_that_cannot_be_listed_is_an_error_not_an_empty_list() {
    let mut world = World::new();
    world.write("a.toml", "a");
    world.scan();
    fs::rename(world.root(), world.dir.path().join("away")).unwrap();
    assert_eq!(world.root_trouble(), "root-missing");
    fs::write(world.root(), "").unwrap();
    assert_eq!(world.root_trouble(), "root-not-a-directory");
    fs::remove_file(world.root()).unwrap();
    symlink("manifests", world.root()).unwrap();
    assert_eq!(world.root_trouble(), "root-unreadable");
    fs::remove_file(world.root()).unwrap();
    fs::rename(world.dir.path().join("away"), world.root()).unwrap();
    assert_eq!(names(&world.scan_paths(&[""])), ["a.toml"]);
}

#[test]
fn a_root_without_permission_is_an_error() {
    let mut world = World::new();
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(world.root(), fs::Permissions::from_mode(0o311)).unwrap();
    assert_eq!(as_nobody(|| world.root_trouble()), "root-unreadable");
}

#[test]
fn lines_of_a_strangers_file_are_not_shown() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can give a file away");
        return;
    }
    let mut world = World::new();
    world.write("mine.toml", "a");
    world.write("strange.toml", "b");
    world.write(".x/behind.toml", "c");
    world.link(".x/behind.toml", "behind.toml");
    for path in ["strange.toml", ".x/behind.toml"] {
        std::os::unix::fs::chown(world.root().join(path), Some(65534), None).unwrap();
    }
    let listing = world.scan();
    assert!(file(&listing, "mine.toml").may_show_lines);
    assert!(!file(&listing, "strange.toml").may_show_lines);
    assert!(!file(&listing, "behind.toml").may_show_lines);
    assert_eq!(&**text(&listing, "behind.toml"), "c");
}

#[test]
fn a_file_that_is_closed_to_the_owner_of_the_root_is_not_read_for_them() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root reads what is closed to others");
        return;
    }
    let mut world = World::new();
    let secret = world.dir.path().join("shadow");
    fs::write(&secret, "root = 'secret'\n").unwrap();
    fs::hard_link(&secret, world.root().join("name.toml")).unwrap();
    std::os::unix::fs::chown(world.root(), Some(65534), Some(65534)).unwrap();
    let mut code_of = |mode, gid| {
        fs::set_permissions(&secret, fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&secret, Some(0), Some(gid)).unwrap();
        file(&world.scan(), "name.toml").content.clone().err().map(|(code, _)| code)
    };
    assert_eq!(code_of(0o600, 0).as_deref(), Some("closed-to-owner"));
    assert_eq!(code_of(0o640, 0).as_deref(), Some("closed-to-owner"), "the group is not theirs");
    assert_eq!(code_of(0o640, 65534), None);
    assert_eq!(code_of(0o644, 0), None);
    // A root that is given away is judged anew, although no file in it has changed.
    assert_eq!(code_of(0o600, 65534).as_deref(), Some("closed-to-owner"));
    std::os::unix::fs::chown(world.root(), Some(0), None).unwrap();
    assert!(file(&world.scan(), "name.toml").may_show_lines);
    std::os::unix::fs::chown(world.root(), Some(65534), None).unwrap();
    assert_eq!(code(&world.scan(), "name.toml"), "closed-to-owner");
}

#[test]
fn names_that_cannot_be_shown_are_problems() {
    use std::os::unix::ffi::OsStrExt;
    let mut world = World::new();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.toml");
    fs::write(world.root().join(name), "a").unwrap();
    world.write("bell\u{7}.toml", "a");
    fs::create_dir(world.root().join(std::ffi::OsStr::from_bytes(b"d\xff"))).unwrap();
    let listing = world.scan();
    assert_eq!(code(&listing, "caf\u{fffd}.toml"), "bad-file-name");
    assert_eq!(code(&listing, "bell\\x07.toml"), "bad-file-name");
    assert!(listing.directories[Path::new("d\u{fffd}")].is_err());
}

#[test]
fn a_file_that_is_still_being_written_is_not_taken_for_complete() {
    let mut world = World::new();
    let mut writer = fs::File::create(world.root().join("web.toml")).unwrap();
    writer.write_all(b"[service.web]\ncommand = [\"a\"]\n").unwrap();
    let listing = world.scan();
    assert_eq!(code(&listing, "web.toml"), "being-written");
    writer.write_all(b"[service.db]\ncommand = [\"b\"]\n").unwrap();
    drop(writer);
    assert!(text(&world.scan_paths(&["web.toml"]), "web.toml").contains("db"));
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let mut world = World::new();
    world.write("a.toml", "a");
    world.write("b.toml", "b");
    // Older than a step of the kernel's clock, as every file is after a moment.
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    let first = wait_until_settled(&mut world, "a.toml");
    let version = file(&first, "b.toml").version;
    fs::File::options().write(true).open(world.root().join("b.toml")).unwrap().set_modified(old).unwrap();
    let second = world.scan();
    assert!(Arc::ptr_eq(text(&first, "a.toml"), text(&second, "a.toml")));
    assert_ne!(file(&second, "b.toml").version, version);
}

/// Two scans in a row that agree without reading: the file's time is in the past of the kernel's clock.
fn wait_until_settled(world: &mut World, path: &str) -> RootListing {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        let listing = world.scan();
        let stat = nix::sys::stat::stat(&world.root().join(path)).unwrap();
        let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
            as i64
            - (stat.st_ctime * 1_000_000_000 + stat.st_ctime_nsec);
        if age > 100_000_000 {
            return world.scan();
        }
        assert!(std::time::Instant::now() < deadline, "{listing:?}");
        std::thread::yield_now();
    }
}

/// Git's "racy" problem: same size, same inode, within one step of the clock.
#[test]
fn two_writes_within_one_tick_give_two_versions() {
    let mut world = World::new();
    let mut seen = std::collections::HashMap::new();
    for round in 0..200 {
        let content = format!("{round:03}");
        world.write("a.toml", &content);
        let listing = world.scan();
        assert_eq!(&**text(&listing, "a.toml"), content);
        let clash = seen.insert(file(&listing, "a.toml").version, content.clone());
        assert_eq!(clash, None, "{content} has the version of an earlier text");
    }
}

#[test]
fn a_partial_scan_looks_at_nothing_else() {
    let mut world = World::new();
    world.write("a.toml", "a1");
    world.write("dir/b.toml", "b1");
    world.scan();
    world.write("a.toml", "a2");
    world.write("dir/b.toml", "b2");
    let listing = world.scan_paths(&["dir/b.toml"]);
    assert_eq!(&**text(&listing, "a.toml"), "a1");
    assert_eq!(&**text(&listing, "dir/b.toml"), "b2");
    fs::remove_file(world.root().join("dir/b.toml")).unwrap();
    assert_eq!(names(&world.scan_paths(&["dir/b.toml"])), ["a.toml"]);
}

#[test]
fn directories_that_come_and_go_are_noticed_by_a_partial_scan() {
    let mut world = World::new();
    world.write("a.toml", "a");
    world.scan();
    world.write("new/deep/b.toml", "b");
    assert_eq!(names(&world.scan_paths(&["new"])), ["a.toml", "new/deep/b.toml"]);
    fs::rename(world.root().join("new"), world.root().join("moved")).unwrap();
    assert_eq!(names(&world.scan_paths(&["new", "moved"])), ["a.toml", "moved/deep/b.toml"]);
    fs::remove_dir_all(world.root().join("moved")).unwrap();
    world.write("moved/other.toml", "o");
    assert_eq!(names(&world.scan_paths(&["moved", "moved/other.toml"])), ["a.toml", "moved/other.toml"]);
}

#[test]
fn a_file_that_turns_into_something_else_is_looked_at_again() {
    let mut world = World::new();
    world.write("a.toml", "a");
    world.write("b.toml", "b");
    world.scan();
    fs::remove_file(world.root().join("a.toml")).unwrap();
    fs::create_dir(world.root().join("a.toml")).unwrap();
    assert_eq!(code(&world.scan_paths(&["a.toml"]), "a.toml"), "not-a-regular-file");
    fs::remove_dir(world.root().join("a.toml")).unwrap();
    world.link("b.toml", "a.toml");
    assert_eq!(&**text(&world.scan_paths(&["a.toml"]), "a.toml"), "b");
}

#[test]
fn too_deep_a_directory_is_named_and_the_rest_read() {
    let mut world = World::new();
    world.write("a.toml", "a");
    let deep: PathBuf = (0..40).map(|_| "d").collect();
    fs::create_dir_all(world.root().join(&deep)).unwrap();
    fs::write(world.root().join(&deep).join("b.toml"), "b").unwrap();
    let listing = world.scan();
    assert_eq!(names(&listing), ["a.toml"]);
    assert_eq!(listing.directories.values().filter(|found| found.is_err()).count(), 1);
}

#[test]
fn two_roots_are_two_listings() {
    let dir = tempfile::tempdir().unwrap();
    let roots: Vec<_> = ["one", "two"].map(|name| dir.path().join(name)).into();
    fs::create_dir(&roots[0]).unwrap();
    fs::write(roots[0].join("a.toml"), "a").unwrap();
    let mut scanner = Scanner::new(roots.clone(), false);
    let scans = scanner.scan(&Dirty::Everything);
    assert_eq!(scans.iter().map(|scan| scan.path.clone()).collect::<Vec<_>>(), roots);
    assert!(scans[0].listing.is_ok());
    assert_eq!(scans[1].listing.as_ref().unwrap_err().0, "root-missing");
    fs::create_dir(&roots[1]).unwrap();
    let scans = scanner.scan(&Dirty::Paths(vec![roots[1].clone()]));
    assert!(scans[1].listing.is_ok());
}

#[test]
fn ten_thousand_files_are_read_once() {
    let mut world = World::new();
    for index in 0..10_000 {
        world.write(&format!("{:02}/{index}.toml", index % 50), format!("# {index}"));
    }
    let first = wait_until_settled(&mut world, "49/9999.toml");
    assert_eq!(first.files.len(), 10_000);
    let start = std::time::Instant::now();
    let second = world.scan();
    eprintln!("10,000 unchanged files: {:?}", start.elapsed());
    let shared = first.files.iter().filter(|(path, scan)| {
        let (Ok(a), Ok(b)) = (&scan.content, &second.files[*path].content) else { return false };
        Arc::ptr_eq(a, b)
    });
    assert_eq!(shared.count(), 10_000);
}

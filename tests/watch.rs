//! The watcher on real directories: what wakes it, what does not, and what it survives.

#![allow(clippy::disallowed_methods, reason = "tests make the changes that the watcher tells of")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reconcile::host::scan::Scanner;
use reconcile::host::watch::{Mode, Watcher, scan_and_watch};
use reconcile::host::{Dirty, RootScan};

struct World {
    dir: tempfile::TempDir,
    scanner: Scanner,
    watcher: Watcher,
    scans: Vec<RootScan>,
}

impl World {
    /// A root with one manifest, watched.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("manifests")).unwrap();
        fs::write(dir.path().join("manifests/a.toml"), "a").unwrap();
        let root = dir.path().join("manifests");
        Self::watching(dir, root)
    }

    fn watching(dir: tempfile::TempDir, root: PathBuf) -> Self {
        let mut scanner = Scanner::new(vec![root], false);
        let mut watcher = Watcher::new();
        let scans = scan_and_watch(&mut scanner, &mut watcher, &Dirty::Everything);
        assert_eq!(watcher.mode(), &Mode::Inotify);
        Self { dir, scanner, watcher, scans }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    /// The texts by path; `None` where the root cannot be listed.
    fn texts(&self) -> Option<Vec<(String, String)>> {
        let listing = self.scans[0].listing.as_ref().ok()?;
        let text = |(path, file): (&PathBuf, &Arc<reconcile::host::FileScan>)| {
            let text =
                file.content.as_ref().map_or_else(|problem| problem.0.clone(), |text| text.to_string());
            (path.display().to_string(), text)
        };
        Some(listing.files.iter().map(text).collect())
    }

    /// Follows the events, and nothing else, until the listing is as wanted.
    async fn until(&mut self, wanted: Option<&[(&str, &str)]>) {
        let wanted: Option<Vec<(String, String)>> =
            wanted.map(|files| files.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect());
        while self.texts() != wanted {
            let dirty = tokio::time::timeout(Duration::from_secs(10), self.watcher.changed()).await;
            let dirty = dirty.unwrap_or_else(|_| panic!("no event; {:?}, wanted {wanted:?}", self.texts()));
            self.scans = scan_and_watch(&mut self.scanner, &mut self.watcher, &dirty);
        }
    }

    /// Takes all events up to now, by making one that must come after them.
    async fn settle(&mut self) -> Vec<PathBuf> {
        let marker = self.root().join("zz-marker");
        fs::write(&marker, "").unwrap();
        let mut seen = Vec::new();
        while !seen.contains(&marker) {
            match tokio::time::timeout(Duration::from_secs(10), self.watcher.changed()).await.unwrap() {
                Dirty::Everything => panic!("not everything changed"),
                Dirty::Paths(paths) => seen.extend(paths),
            }
        }
        seen.retain(|path| *path != marker);
        seen
    }
}

fn write(path: impl AsRef<Path>, text: &str) {
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn writes_renames_and_removals_are_told() {
    let mut world = World::new();
    write(world.root().join("b.toml"), "b");
    world.until(Some(&[("a.toml", "a"), ("b.toml", "b")])).await;
    write(world.root().join("b.toml"), "b2");
    world.until(Some(&[("a.toml", "a"), ("b.toml", "b2")])).await;
    write(world.root().join(".b.toml.tmp"), "b3");
    fs::rename(world.root().join(".b.toml.tmp"), world.root().join("b.toml")).unwrap();
    world.until(Some(&[("a.toml", "a"), ("b.toml", "b3")])).await;
    fs::rename(world.root().join("b.toml"), world.root().join("c.toml")).unwrap();
    world.until(Some(&[("a.toml", "a"), ("c.toml", "b3")])).await;
    fs::remove_file(world.root().join("c.toml")).unwrap();
    world.until(Some(&[("a.toml", "a")])).await;
}

#[tokio::test]
async fn links_and_linked_files_are_told_although_nobody_closes_them() {
    let mut world = World::new();
    symlink("a.toml", world.root().join("s.toml")).unwrap();
    world.until(Some(&[("a.toml", "a"), ("s.toml", "a")])).await;
    write(world.dir.path().join("elsewhere"), "h");
    fs::hard_link(world.dir.path().join("elsewhere"), world.root().join("h.toml")).unwrap();
    world.until(Some(&[("a.toml", "a"), ("h.toml", "h"), ("s.toml", "a")])).await;
}

#[tokio::test]
async fn reading_and_half_written_files_wake_nobody() {
    use std::io::Write;
    let mut world = World::new();
    assert_eq!(fs::read_to_string(world.root().join("a.toml")).unwrap(), "a");
    world.scanner.scan(&Dirty::Everything);
    let mut writer = fs::File::create(world.root().join("a.toml")).unwrap();
    writer.write_all(b"half").unwrap();
    assert_eq!(world.settle().await, Vec::<PathBuf>::new());
    drop(writer);
    assert_eq!(world.settle().await, [world.root().join("a.toml")]);
}

#[tokio::test]
async fn a_changed_mode_is_told() {
    let mut world = World::new();
    fs::set_permissions(world.root().join("a.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(world.settle().await, [world.root().join("a.toml")]);
}

#[tokio::test]
async fn a_tree_that_appears_is_watched_to_its_leaves() {
    let mut world = World::new();
    fs::create_dir_all(world.root().join("x/y/z")).unwrap();
    write(world.root().join("x/y/z/deep.toml"), "1");
    world.until(Some(&[("a.toml", "a"), ("x/y/z/deep.toml", "1")])).await;
    write(world.root().join("x/y/z/deep.toml"), "2");
    world.until(Some(&[("a.toml", "a"), ("x/y/z/deep.toml", "2")])).await;
    fs::rename(world.root().join("x/y"), world.root().join("moved")).unwrap();
    world.until(Some(&[("a.toml", "a"), ("moved/z/deep.toml", "2")])).await;
    write(world.root().join("moved/z/deep.toml"), "3");
    world.until(Some(&[("a.toml", "a"), ("moved/z/deep.toml", "3")])).await;
    fs::remove_dir_all(world.root().join("moved")).unwrap();
    world.until(Some(&[("a.toml", "a")])).await;
    fs::create_dir_all(world.root().join("moved/z")).unwrap();
    write(world.root().join("moved/z/deep.toml"), "4");
    world.until(Some(&[("a.toml", "a"), ("moved/z/deep.toml", "4")])).await;
    write(world.root().join("moved/z/deep.toml"), "5");
    world.until(Some(&[("a.toml", "a"), ("moved/z/deep.toml", "5")])).await;
}

#[tokio::test]
async fn a_root_that_vanishes_and_returns_is_told() {
    let mut world = World::new();
    let away = world.dir.path().join("away");
    fs::rename(world.root(), &away).unwrap();
    world.until(None).await;
    fs::rename(&away, world.root()).unwrap();
    world.until(Some(&[("a.toml", "a")])).await;
    write(world.root().join("a.toml"), "again");
    world.until(Some(&[("a.toml", "again")])).await;
    fs::remove_dir_all(world.root()).unwrap();
    world.until(None).await;
    fs::create_dir(world.root()).unwrap();
    write(world.root().join("n.toml"), "n");
    world.until(Some(&[("n.toml", "n")])).await;
}

#[tokio::test]
async fn a_root_whose_parents_do_not_exist_yet_is_told_when_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("p/q/manifests");
    let mut world = World::watching(dir, root.clone());
    assert_eq!(world.texts(), None);
    fs::create_dir_all(&root).unwrap();
    write(root.join("a.toml"), "a");
    world.until(Some(&[("a.toml", "a")])).await;
}

/// A deployment: `current -> releases/1`, then another release.
#[tokio::test]
async fn a_link_on_the_way_to_the_root_may_be_swapped() {
    let dir = tempfile::tempdir().unwrap();
    for release in ["1", "2"] {
        fs::create_dir_all(dir.path().join("releases").join(release).join("manifests")).unwrap();
        write(dir.path().join("releases").join(release).join("manifests/a.toml"), release);
    }
    symlink("releases/1", dir.path().join("current")).unwrap();
    let root = dir.path().join("current/manifests");
    let mut world = World::watching(dir, root);
    world.until(Some(&[("a.toml", "1")])).await;
    symlink("releases/2", world.dir.path().join("next")).unwrap();
    fs::rename(world.dir.path().join("next"), world.dir.path().join("current")).unwrap();
    world.until(Some(&[("a.toml", "2")])).await;
    write(world.dir.path().join("releases/2/manifests/a.toml"), "2b");
    world.until(Some(&[("a.toml", "2b")])).await;
}

/// The root itself is a link, as where manifests are kept elsewhere.
#[tokio::test]
async fn what_happens_below_a_root_that_is_a_link_is_told_and_so_is_another_target() {
    let dir = tempfile::tempdir().unwrap();
    for version in ["1", "2"] {
        fs::create_dir(dir.path().join(version)).unwrap();
        write(dir.path().join(version).join("a.toml"), version);
    }
    let root = dir.path().join("manifests");
    symlink("1", &root).unwrap();
    let mut world = World::watching(dir, root);
    world.until(Some(&[("a.toml", "1")])).await;
    write(world.dir.path().join("1/a.toml"), "in place");
    world.until(Some(&[("a.toml", "in place")])).await;
    write(world.root().join(".b.tmp"), "b");
    fs::rename(world.root().join(".b.tmp"), world.root().join("b.toml")).unwrap();
    world.until(Some(&[("a.toml", "in place"), ("b.toml", "b")])).await;
    fs::create_dir(world.root().join("sub")).unwrap();
    write(world.dir.path().join("1/sub/c.toml"), "c");
    world.until(Some(&[("a.toml", "in place"), ("b.toml", "b"), ("sub/c.toml", "c")])).await;
    symlink("2", world.dir.path().join("next")).unwrap();
    fs::rename(world.dir.path().join("next"), world.root()).unwrap();
    world.until(Some(&[("a.toml", "2")])).await;
    fs::remove_file(world.dir.path().join("2/a.toml")).unwrap();
    world.until(Some(&[])).await;
}

#[tokio::test]
async fn a_kubernetes_swap_and_a_write_behind_a_link_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("manifests");
    for version in ["..1", "..2"] {
        fs::create_dir_all(root.join(version)).unwrap();
        write(root.join(version).join("web.toml"), version);
    }
    symlink("..1", root.join("..data")).unwrap();
    symlink("..data/web.toml", root.join("web.toml")).unwrap();
    let mut world = World::watching(dir, root);
    world.until(Some(&[("web.toml", "..1")])).await;
    symlink("..2", world.root().join("..tmp")).unwrap();
    fs::rename(world.root().join("..tmp"), world.root().join("..data")).unwrap();
    world.until(Some(&[("web.toml", "..2")])).await;
    write(world.root().join("..2/web.toml"), "in place");
    world.until(Some(&[("web.toml", "in place")])).await;
}

#[tokio::test]
async fn neighbours_of_the_root_and_foreign_directories_wake_nobody() {
    let mut world = World::new();
    write(world.dir.path().join("server.log"), "busy");
    fs::create_dir(world.root().join("node_modules")).unwrap();
    world.settle().await;
    write(world.root().join("node_modules/x.toml"), "x");
    write(world.dir.path().join("server.log"), "busier");
    assert_eq!(world.settle().await, Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_burst_is_told_as_one_and_past_a_bound_as_everything() {
    let mut world = World::new();
    for index in 0..20 {
        write(world.root().join(format!("{index}.toml")), "x");
    }
    let mut expected: Vec<_> = (0..20).map(|index| world.root().join(format!("{index}.toml"))).collect();
    expected.sort();
    let mut seen = world.settle().await;
    seen.sort();
    seen.dedup();
    assert_eq!(seen, expected);
    for index in 0..2_000 {
        write(world.root().join(format!("{index}.toml")), "y");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while tokio::time::timeout(Duration::from_secs(10), world.watcher.changed()).await.unwrap()
        != Dirty::Everything
    {
        assert!(Instant::now() < deadline, "the inbox grew without bound");
    }
}

#[tokio::test]
async fn a_dropped_wait_loses_nothing() {
    let mut world = World::new();
    write(world.root().join("b.toml"), "b");
    let deadline = Instant::now() + Duration::from_secs(10);
    while world.texts().unwrap().len() < 2 {
        let wait = tokio::time::timeout(Duration::ZERO, world.watcher.changed());
        if let Ok(dirty) = wait.await {
            world.scans = scan_and_watch(&mut world.scanner, &mut world.watcher, &dirty);
        }
        assert!(Instant::now() < deadline);
    }
}

#[tokio::test]
async fn a_rename_is_told_at_once() {
    let mut world = World::new();
    let mut spans = Vec::new();
    for _ in 0..100 {
        write(world.root().join(".t"), "t");
        world.settle().await;
        let start = Instant::now();
        fs::rename(world.root().join(".t"), world.root().join("t.toml")).unwrap();
        world.watcher.changed().await;
        spans.push(start.elapsed());
    }
    spans.sort();
    eprintln!("rename to event: p50 {:?}, p95 {:?}", spans[50], spans[95]);
    // Far above what it takes (65 µs), and far below any debounce.
    assert!(spans[0] < Duration::from_millis(10), "{spans:?}");
}

#[tokio::test]
async fn without_inotify_everything_is_looked_at_every_two_seconds() {
    let mut world = World::new();
    world.watcher = Watcher::without_inotify("it is a test".to_owned());
    assert_eq!(world.watcher.mode(), &Mode::Polling { why: "it is a test".to_owned() });
    write(world.root().join("b.toml"), "b");
    let start = Instant::now();
    world.until(Some(&[("a.toml", "a"), ("b.toml", "b")])).await;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(matches!(world.watcher.mode(), Mode::Polling { .. }));
}

/// A process that has no descriptor left for inotify; in a process of its own, since it uses them up.
#[test]
fn a_watcher_that_gets_no_inotify_polls_and_says_why() {
    const NAME: &str = "a_watcher_that_gets_no_inotify_polls_and_says_why";
    if std::env::var("NO_DESCRIPTORS").is_err() {
        let again = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME])
            .env("NO_DESCRIPTORS", "1")
            .output()
            .unwrap();
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
        return;
    }
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        taken.push(file);
    }
    let watcher = Watcher::new();
    drop(taken);
    let Mode::Polling { why } = watcher.mode() else { panic!("{:?}", watcher.mode()) };
    assert!(why.starts_with("inotify cannot be had: the limit"), "{why}");
}

/// A reproducible stream of numbers.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }
}

/// Does something to the tree; what cannot be done is not done.
fn disturb(root: &Path, dice: &mut Dice, step: usize) {
    const DIRECTORIES: [&str; 5] = ["", "a", "b", "a/c", "l"];
    const FILES: [&str; 3] = ["x.toml", "y.toml", ".hidden"];
    let directory = root.join(dice.pick(&DIRECTORIES[1..]));
    let other_directory = root.join(dice.pick(&DIRECTORIES[1..4]));
    let file = root.join(dice.pick(&DIRECTORIES)).join(dice.pick(&FILES));
    let other_file = root.join(dice.pick(&DIRECTORIES)).join(dice.pick(&FILES));
    let _ = match dice.roll(12) {
        0..=3 => fs::write(&file, step.to_string()),
        4 => fs::rename(&file, &other_file),
        5 => fs::remove_file(&file),
        6 => fs::create_dir_all(&other_directory),
        7 => fs::rename(&directory, &other_directory),
        8 => fs::remove_dir_all(&directory),
        9 => symlink(&other_file, &file),
        10 => fs::hard_link(&other_file, &file),
        _ => symlink(&other_directory, root.join("l")).or_else(|_| fs::remove_file(root.join("l"))),
    };
}

fn facts(scan: &RootScan) -> (Vec<(PathBuf, String)>, Vec<PathBuf>) {
    let listing = scan.listing.as_ref().unwrap();
    let text = |file: &Arc<reconcile::host::FileScan>| match &file.content {
        Ok(text) => text.to_string(),
        Err((code, _)) => code.clone(),
    };
    let files = listing.files.iter().map(|(path, file)| (path.clone(), text(file))).collect();
    (files, listing.directories.keys().cloned().collect())
}

/// Events are only hints: whatever happened, following them leads to what is there.
#[tokio::test]
async fn after_any_changes_the_listing_is_what_a_fresh_scan_finds() {
    for seed in 0..25 {
        let mut world = World::new();
        let mut dice = Dice(seed);
        for step in 0..200 {
            disturb(&world.root(), &mut dice, step);
            // At times in the middle of it, at times after much of it.
            if dice.roll(4) == 0
                && let Some(dirty) = world.watcher.drain()
            {
                world.scans = scan_and_watch(&mut world.scanner, &mut world.watcher, &dirty);
            }
        }
        let end = world.root().join("zz-end");
        write(&end, "");
        let mut seen = false;
        while !seen {
            let dirty = tokio::time::timeout(Duration::from_secs(10), world.watcher.changed()).await.unwrap();
            seen = matches!(&dirty, Dirty::Paths(paths) if paths.contains(&end));
            world.scans = scan_and_watch(&mut world.scanner, &mut world.watcher, &dirty);
        }
        let fresh = Scanner::new(vec![world.root()], false).scan(&Dirty::Everything);
        assert_eq!(facts(&world.scans[0]), facts(&fresh[0]), "seed {seed}");
    }
}

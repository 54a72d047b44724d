//! Logs under real writers: rotation loses nothing, tail and follower read across it, and an interrupted rotation
//! is finished.

#![allow(clippy::disallowed_methods, reason = "tests write and read the logs themselves")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reconcile::host::logs::{Follower, Line, LineEnd, Means, Rotation, rotate, tail};
use rustix::fs::FallocateFlags;

const PATIENCE: Duration = Duration::from_secs(60);
const PLENTY: NonZeroU32 = NonZeroU32::new(100_000).unwrap();
const BLOCK: u64 = 4096;

/// A directory with a log in it.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// On a file system that makes holes but cannot collapse.
    fn on_tmpfs() -> Option<Self> {
        let is_tmpfs = rustix::fs::statfs("/dev/shm").is_ok_and(|stat| stat.f_type == 0x0102_1994);
        if !is_tmpfs {
            eprintln!("skipped: /dev/shm is not a tmpfs");
            return None;
        }
        tempfile::tempdir_in("/dev/shm").ok().map(|dir| Self { dir })
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("web.log")
    }

    fn sibling(&self, suffix: &str) -> PathBuf {
        self.dir.path().join(format!("web.log.{suffix}"))
    }

    fn append(&self, text: impl AsRef<[u8]>) {
        append_only(&self.log()).write_all(text.as_ref()).unwrap();
    }

    fn rotate(&self, max_size: u64, keep: u32) -> Rotation {
        rotate(&self.log(), max_size, NonZeroU32::new(keep).unwrap()).unwrap()
    }

    /// Archives, oldest first, and the live file without a hole at its head.
    fn whole(&self) -> Vec<u8> {
        let archives = (1..).map(|number| self.sibling(&number.to_string())).take_while(|path| path.exists());
        let archives: Vec<PathBuf> = archives.collect();
        let mut whole: Vec<u8> = archives.iter().rev().flat_map(|path| fs::read(path).unwrap()).collect();
        let live = fs::read(self.log()).unwrap();
        let head = live.iter().position(|&byte| byte != 0).unwrap_or(live.len());
        whole.extend(&live[head..]);
        whole
    }

    /// Bytes that the live file takes on the disk.
    fn room(&self) -> u64 {
        fs::metadata(self.log()).unwrap().blocks() * 512
    }

    fn left_over(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| name.ends_with(".cut") || name.ends_with(".copying")).collect()
    }
}

fn append_only(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).unwrap()
}

fn numbered(range: std::ops::Range<usize>) -> Vec<u8> {
    range.flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

/// Makes lines of about 100 bytes.
const PADDING: &str =
    "a line of the length that servers write for a request, which is some hundred bytes or so";

fn padded(count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| format!("{number} {PADDING}\n").into_bytes()).collect()
}

/// A process that writes `count` numbered lines to the log as fast as it can.
fn writer(path: &Path, count: usize) -> std::process::Child {
    Command::new("seq")
        .args(["-f", &format!("%.0f {PADDING}"), "0", &(count - 1).to_string()])
        .stdin(Stdio::null())
        .stdout(append_only(path))
        .spawn()
        .unwrap()
}

/// Returns how heads were dropped.
fn rotate_under_a_writer(world: &World) -> Means {
    const LINES: usize = 300_000;
    let mut child = writer(&world.log(), LINES);
    let deadline = Instant::now() + PATIENCE;
    let (mut means, mut under_writer) = (None, 0);
    let status = loop {
        // Asked before: the last rotation comes after the last line, whatever the scheduler does.
        let status = child.try_wait().unwrap();
        if let Rotation::Rotated { discarded, by, .. } = rotate(&world.log(), 256 * 1024, PLENTY).unwrap() {
            assert_eq!(discarded, 0);
            means = Some(by);
        }
        if let Some(status) = status {
            break status;
        }
        under_writer = archives(world);
        assert!(Instant::now() < deadline);
    };
    assert!(status.success());
    eprintln!("{under_writer} cuts, the first of them under the writer");
    assert!(world.whole() == padded(LINES), "lines were lost or doubled in {under_writer} cuts");
    assert_eq!(world.left_over(), Vec::<String>::new());
    means.expect("a log of 30 MB is too large")
}

fn archives(world: &World) -> usize {
    (1..).take_while(|number: &u32| world.sibling(&number.to_string()).exists()).count()
}

#[test]
fn no_line_is_lost_under_a_writer_at_full_speed() {
    let world = World::new();
    let by = rotate_under_a_writer(&world);
    eprintln!("heads were dropped by {by:?}");
}

#[test]
fn no_line_is_lost_where_the_head_becomes_a_hole() {
    let Some(world) = World::on_tmpfs() else { return };
    assert_eq!(rotate_under_a_writer(&world), Means::Punch);
    world.append(numbered(0..20_000));
    world.rotate(64 * 1024, PLENTY.get());
    assert!(world.room() < fs::metadata(world.log()).unwrap().len() / 2, "the hole takes room");
}

#[test]
fn no_line_is_lost_between_three_writers_of_single_lines() {
    const LINES: usize = 50_000;
    let world = World::new();
    let done = Arc::new(AtomicBool::new(false));
    let (log, stop) = (world.log(), Arc::clone(&done));
    append_only(&log);
    let rotator = std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            rotate(&log, 16 * 1024, PLENTY).unwrap();
        }
    });
    let writers: Vec<_> = ["a", "b", "c"]
        .map(|name| {
            let mut file = append_only(&world.log());
            std::thread::spawn(move || {
                for number in 0..LINES {
                    file.write_all(format!("{name}{number}\n").as_bytes()).unwrap();
                }
            })
        })
        .into();
    for writer in writers {
        writer.join().unwrap();
    }
    done.store(true, Ordering::SeqCst);
    rotator.join().unwrap();
    let whole = String::from_utf8(world.whole()).unwrap();
    for name in ["a", "b", "c"] {
        let of_one =
            whole.lines().filter_map(|line| line.strip_prefix(name)).map(|n| n.parse::<usize>().unwrap());
        assert!(of_one.eq(0..LINES), "{name} lost lines or they changed places");
    }
}

#[test]
fn a_file_system_that_can_drop_no_head_is_named_and_the_log_stays_whole() {
    let world = World::new();
    let place = world.dir.path();
    let flags = nix::mount::MsFlags::empty();
    if let Err(error) = nix::mount::mount(Some("none"), place, Some("ramfs"), flags, None::<&str>) {
        eprintln!("skipped: ramfs cannot be mounted: {error}");
        return;
    }
    world.append(padded(2000));
    let before = fs::read(world.log());
    let rotation = world.rotate(8192, 2);
    let after = fs::read(world.log());
    nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert_eq!(rotation, Rotation::Unsupported);
    assert_eq!(before.unwrap(), after.unwrap());
}

#[test]
fn a_small_log_is_left_alone() {
    let world = World::new();
    assert_eq!(world.rotate(1024, 3), Rotation::NotNeeded);
    world.append(vec![b'x'; 1024]);
    assert_eq!(world.rotate(1024, 3), Rotation::NotNeeded);
    // Too large, but less than a block: nothing can be cut.
    world.append("x");
    assert_eq!(world.rotate(1024, 3), Rotation::NotNeeded);
    assert_eq!(fs::read_dir(world.dir.path()).unwrap().count(), 1);
}

#[test]
fn archives_move_up_and_the_oldest_falls_out() {
    let world = World::new();
    for round in 0..5u8 {
        world.append(vec![b'a' + round; 2 * BLOCK as usize]);
        let rotated = world.rotate(2 * BLOCK - 1, 3);
        assert!(matches!(rotated, Rotation::Rotated { discarded: 0, .. }), "{rotated:?}");
    }
    let first =
        |number: u32| fs::read(world.sibling(&number.to_string())).map(|bytes| bytes[bytes.len() - 1]);
    assert_eq!([1, 2, 3].map(|number| first(number).unwrap()), [b'e', b'd', b'c']);
    assert!(first(4).is_err());
    // Fewer are kept from now on.
    world.append(vec![b'f'; 2 * BLOCK as usize]);
    world.rotate(BLOCK, 1);
    assert!(world.sibling("1").exists() && !world.sibling("2").exists());
}

#[test]
fn a_log_far_beyond_its_bounds_does_not_fill_the_disk_again() {
    let world = World::new();
    world.append(numbered(0..200_000));
    let size = fs::metadata(world.log()).unwrap().len();
    let Rotation::Rotated { moved, discarded, .. } = world.rotate(64 * 1024, 2) else { panic!() };
    assert!(discarded > size / 2 && moved <= 3 * 64 * 1024, "{discarded} {moved}");
    let whole = world.whole();
    assert!(numbered(0..200_000).ends_with(&whole), "what is kept is the end, without a gap");
    assert!(whole.len() >= 2 * 64 * 1024, "{}", whole.len());
    assert!(world.room() <= 2 * 64 * 1024);
}

#[test]
fn what_is_not_a_regular_file_is_neither_rotated_nor_waited_for() {
    let world = World::new();
    let victim = world.dir.path().join("victim");
    fs::write(&victim, vec![b'v'; 100_000]).unwrap();
    symlink(&victim, world.log()).unwrap();
    assert!(rotate(&world.log(), 1024, PLENTY).is_err());
    assert!(tail(&world.log(), 10).is_err());
    fs::remove_file(world.log()).unwrap();
    nix::unistd::mkfifo(&world.log(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = rotate(&world.log(), 1024, PLENTY).unwrap_err();
    assert!(error.to_string().ends_with("web.log"), "{error}");
    assert!(tail(&world.log(), 10).is_err());
    assert_eq!(fs::metadata(&victim).unwrap().len(), 100_000);
}

/// The service swaps its log for a link to another file and back, as fast as it can.
#[test]
fn a_log_that_is_swapped_for_a_link_under_rotation_leads_it_nowhere() {
    let world = World::new();
    let victim = world.dir.path().join("victim");
    let content = vec![b'v'; 100_000];
    fs::write(&victim, &content).unwrap();
    let (link, log) = (world.dir.path().join("link"), world.log());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                symlink(&victim, &link).unwrap();
                fs::rename(&link, &log).unwrap();
                fs::write(&link, vec![b'x'; 100_000]).unwrap();
                fs::rename(&link, &log).unwrap();
            }
        });
        let (mut rotated, mut refused, begun) = (0, 0, Instant::now());
        while (rotated < 5 || refused < 5) && begun.elapsed() < Duration::from_secs(60) {
            match rotate(&log, 60_000, PLENTY) {
                Ok(Rotation::Rotated { .. }) => rotated += 1,
                Ok(_) => {}
                Err(_) => refused += 1,
            }
            if let Ok(lines) = tail(&log, 10) {
                assert!(lines.iter().all(|line| !line.text.contains('v')));
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(rotated >= 5 && refused >= 5, "{rotated} rotated, {refused} refused");
    });
    assert_eq!(fs::read(&victim).unwrap(), content);
    let archives = fs::read_dir(log.parent().unwrap())
        .unwrap()
        .flatten()
        .filter(|entry| entry.path() != log && entry.file_name().to_string_lossy().contains(".log."));
    for archive in archives {
        let copied = fs::read(archive.path()).unwrap();
        assert!(!copied.contains(&b'v'), "{:?}", archive.path());
    }
}

#[test]
fn a_reader_that_holds_the_lock_delays_a_rotation_and_does_not_block_it() {
    let world = World::new();
    world.append(numbered(0..10_000));
    let before = fs::read(world.log()).unwrap();
    let directory = File::open(world.dir.path()).unwrap();
    rustix::fs::flock(directory.as_fd(), rustix::fs::FlockOperation::LockShared).unwrap();
    assert_eq!(world.rotate(BLOCK, 1000), Rotation::Busy);
    assert_eq!(fs::read(world.log()).unwrap(), before);
    assert_eq!(world.left_over(), Vec::<String>::new());
    drop(directory);
    assert!(matches!(world.rotate(BLOCK, 1000), Rotation::Rotated { .. }));
    assert_eq!(world.whole(), before);
}

/// The states that a SIGKILL can leave between two system calls of a rotation, made by hand.
#[test]
fn an_interrupted_rotation_is_read_right_and_finished() {
    let text = numbered(0..10_000);
    let head = &text[..BLOCK as usize * 3];
    type Interruption = fn(&World, &[u8]);
    let states: [(&str, Interruption); 4] = [
        ("while copying", |world, head| fs::write(world.sibling("copying"), &head[..100]).unwrap()),
        ("before the drop", |world, head| fs::write(world.sibling("cut"), head).unwrap()),
        ("after the drop", |world, head| {
            fs::write(world.sibling("cut"), head).unwrap();
            drop_head(world, head.len());
        }),
        ("while renaming", |world, head| {
            fs::write(world.sibling("cut"), head).unwrap();
            drop_head(world, head.len());
            fs::rename(world.sibling("1"), world.sibling("2")).unwrap();
        }),
    ];
    for (name, interrupt) in states {
        let world = World::new();
        fs::write(world.sibling("1"), "older\n").unwrap();
        world.append(&text);
        interrupt(&world, head);
        let expected: Vec<u8> = [b"older\n", text.as_slice()].concat();
        let lines: Vec<u8> = tail(&world.log(), usize::MAX)
            .unwrap()
            .iter()
            .flat_map(|line| format!("{}\n", line.text).into_bytes())
            .collect();
        assert!(lines == expected, "read after a kill {name}");
        world.rotate(u64::MAX / 4, 5);
        assert_eq!(world.left_over(), Vec::<String>::new(), "{name}");
        assert!(world.whole() == expected, "finished after a kill {name}");
        world.rotate(BLOCK, 50);
        assert!(world.whole() == expected, "rotated after a kill {name}");
    }
}

/// Rotates until it is killed.
fn rotate_for_ever(path: &Path) -> ! {
    loop {
        rotate(path, BLOCK, PLENTY).unwrap();
    }
}

#[test]
fn a_rotator_that_is_killed_at_any_instant_loses_and_doubles_nothing() {
    const NAME: &str = "a_rotator_that_is_killed_at_any_instant_loses_and_doubles_nothing";
    if let Some(path) = std::env::var_os("ROTATE_FOR_EVER") {
        rotate_for_ever(Path::new(&path));
    }
    const ROUNDS: usize = 40;
    const LINES: usize = 3_000;
    let world = World::new();
    let mut log = append_only(&world.log());
    let mut interrupted = 0;
    for round in 0..ROUNDS {
        let mut rotator = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME])
            .env("ROTATE_FOR_EVER", world.log())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let newest = || fs::metadata(world.sibling("1")).ok().map(|found| found.modified().unwrap());
        let before = newest();
        for line in numbered(round * LINES..(round + 1) * LINES).split_inclusive(|&byte| byte == b'\n') {
            log.write_all(line).unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        while newest() == before && rotator.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "no rotation");
        }
        rotator.kill().unwrap();
        rotator.wait().unwrap();
        interrupted += usize::from(!world.left_over().is_empty());
        let last = tail(&world.log(), 2 * LINES).unwrap();
        let expected: Vec<String> =
            (round.saturating_sub(1) * LINES..(round + 1) * LINES).map(|number| number.to_string()).collect();
        assert!(texts(&last) == expected, "read after kill {round}");
    }
    eprintln!("{interrupted} of {ROUNDS} kills left something to finish");
    world.rotate(BLOCK, PLENTY.get());
    assert_eq!(world.left_over(), Vec::<String>::new());
    assert!(world.whole() == numbered(0..ROUNDS * LINES));
}

fn drop_head(world: &World, length: usize) {
    let live = OpenOptions::new().write(true).open(world.log()).unwrap();
    let drop_by = |flags| rustix::fs::fallocate(&live, flags, 0, length as u64);
    drop_by(FallocateFlags::COLLAPSE_RANGE)
        .or_else(|_| drop_by(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE))
        .unwrap();
}

#[test]
fn tail_reads_the_end_across_archives() {
    let world = World::new();
    assert_eq!(tail(&world.log(), 5).unwrap(), []);
    assert_eq!(tail(&world.dir.path().join("no/such/dir.log"), 5).unwrap(), []);
    world.append(numbered(0..10_000));
    world.rotate(BLOCK, 100);
    assert!(world.room() <= 2 * BLOCK && world.sibling("1").exists());
    let lines = tail(&world.log(), 5_000).unwrap();
    assert_eq!(lines.len(), 5_000);
    assert_eq!((lines[0].text.as_str(), lines[4_999].text.as_str()), ("5000", "9999"));
    assert_eq!(tail(&world.log(), 20_000).unwrap().len(), 10_000);
    assert_eq!(tail(&world.log(), 0).unwrap(), []);
    world.append("and a prompt: ");
    let lines = tail(&world.log(), 2).unwrap();
    assert_eq!(texts(&lines), ["9999", "and a prompt: "]);
    assert_eq!(lines[1].end, LineEnd::Open);
}

#[test]
fn tail_of_an_endless_line_is_bounded() {
    let world = World::new();
    world.append(vec![b'x'; 40 * 1024 * 1024]);
    let lines = tail(&world.log(), 1_000_000).unwrap();
    let bytes: usize = lines.iter().map(|line| line.text.len()).sum();
    assert!(bytes <= 17 * 1024 * 1024, "{bytes}");
    assert_eq!(tail(&world.log(), 3).unwrap().len(), 3);
}

fn follow_under_rotation(world: &World) {
    const LINES: usize = 100_000;
    append_only(&world.log());
    let (mut follower, before) = Follower::open(&world.log(), 10).unwrap();
    assert_eq!(before, []);
    let done = Arc::new(AtomicBool::new(false));
    let (log, stop) = (world.log(), Arc::clone(&done));
    let rotator = std::thread::spawn(move || {
        let mut rotations = 0;
        while !stop.load(Ordering::SeqCst) {
            rotations +=
                usize::from(matches!(rotate(&log, 64 * 1024, PLENTY).unwrap(), Rotation::Rotated { .. }));
        }
        rotations
    });
    let mut child = writer(&world.log(), LINES);
    let mut seen = 0;
    let deadline = Instant::now() + PATIENCE;
    while seen < LINES {
        for line in follower.poll().unwrap() {
            assert_eq!(line.text, format!("{seen} {PADDING}"));
            seen += 1;
        }
        assert!(Instant::now() < deadline, "{seen} lines seen");
    }
    assert!(child.wait().unwrap().success());
    done.store(true, Ordering::SeqCst);
    rotator.join().unwrap();
    eprintln!("{} cuts, most of them under the follower", archives(world));
    assert_eq!(follower.poll().unwrap(), []);
    assert!(!follower.take_missed());
}

#[test]
fn a_follower_sees_every_line_once_under_rotation() {
    follow_under_rotation(&World::new());
}

#[test]
fn a_follower_sees_every_line_once_where_heads_become_holes() {
    let Some(world) = World::on_tmpfs() else { return };
    follow_under_rotation(&world);
}

#[test]
fn a_follower_begins_where_the_tail_ends() {
    let world = World::new();
    world.append("one\ntwo\nthr");
    let (mut follower, before) = Follower::open(&world.log(), 1).unwrap();
    assert_eq!(texts(&before), ["two"]);
    assert_eq!(follower.poll().unwrap(), []);
    world.append("ee\nfour\nfi");
    assert_eq!(texts(&follower.poll().unwrap()), ["three", "four"]);
    let open = follower.finish().unwrap();
    assert_eq!((open.text.as_str(), open.end), ("fi", LineEnd::Open));
    let (_, none) = Follower::open(&world.log(), 0).unwrap();
    assert_eq!(none, []);
}

#[test]
fn a_log_that_does_not_exist_yet_is_followed_from_its_first_line() {
    let world = World::new();
    let (mut follower, before) = Follower::open(&world.log(), 10).unwrap();
    assert_eq!(before, []);
    assert_eq!(follower.poll().unwrap(), []);
    world.append("first\n");
    assert_eq!(texts(&follower.poll().unwrap()), ["first"]);
}

#[test]
fn a_log_that_was_removed_and_made_anew_is_followed_on() {
    let world = World::new();
    world.append("a\n");
    let (mut follower, _) = Follower::open(&world.log(), 0).unwrap();
    let mut old = append_only(&world.log());
    fs::remove_file(world.log()).unwrap();
    old.write_all(b"b\n").unwrap();
    world.append("c\n");
    assert_eq!(texts(&follower.poll().unwrap()), ["b", "c"]);
    fs::remove_file(world.log()).unwrap();
    assert_eq!(follower.poll().unwrap(), []);
    world.append("d\n");
    assert_eq!(texts(&follower.poll().unwrap()), ["d"]);
}

#[test]
fn a_log_that_was_emptied_is_followed_from_its_new_beginning() {
    let world = World::new();
    world.append("a long first line\n");
    let (mut follower, _) = Follower::open(&world.log(), 0).unwrap();
    fs::write(world.log(), "").unwrap();
    world.append("new\n");
    assert_eq!(texts(&follower.poll().unwrap()), ["new"]);
}

/// `logs -f | less`, forgotten for a while.
#[test]
fn a_follower_that_slept_too_long_says_so_and_repeats_nothing() {
    for keep in [1, 2] {
        let world = World::new();
        world.append(numbered(0..1_000));
        world.append("torn");
        let (mut follower, _) = Follower::open(&world.log(), 0).unwrap();
        world.append("\n");
        for round in 1..20 {
            world.append(numbered(round * 1_000..(round + 1) * 1_000));
            world.rotate(BLOCK, keep);
        }
        let mut lines = Vec::new();
        loop {
            let more = follower.poll().unwrap();
            if more.is_empty() {
                break;
            }
            lines.extend(more);
        }
        assert!(follower.take_missed() && !follower.take_missed());
        assert_eq!((lines[0].text.as_str(), lines[0].end), ("torn", LineEnd::Open), "keep {keep}");
        // The next may be the rest of a line, as the archive begins with it.
        let numbers: Vec<usize> = lines[2..].iter().map(|line| line.text.parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "keep {keep}");
        assert_eq!(numbers.last(), Some(&19_999), "keep {keep}");
        assert!(numbers[0] > 1_000, "keep {keep}");
    }
}

/// With one archive, each rotation replaces the one that the follower knows.
#[test]
fn one_rotation_behind_with_one_archive_nothing_is_missed() {
    let world = World::new();
    let (mut follower, _) = Follower::open(&world.log(), 0).unwrap();
    let mut seen = Vec::new();
    for round in 0..10 {
        world.append(numbered(round * 1_000..round * 1_000 + 500));
        seen.extend(follower.poll().unwrap());
        world.append(numbered(round * 1_000 + 500..(round + 1) * 1_000));
        assert!(matches!(
            world.rotate(2 * BLOCK, 1),
            Rotation::Rotated { discarded: 0, .. } | Rotation::NotNeeded
        ));
        seen.extend(follower.poll().unwrap());
    }
    assert!(!follower.take_missed());
    let expected: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
    assert!(texts(&seen) == expected);
}

//! The ledger as a file: what an append survives, what damage costs, and what compaction keeps.

#![allow(clippy::disallowed_methods, reason = "these tests are about files")]

mod ledger_samples;
mod ledger_world;

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ledger_samples::*;
use ledger_world::{World, is_root, on_small_disk};
use reconcile::host::StateLayout;
use reconcile::host::ledger_file::{LedgerError, LedgerFile};
use reconcile::host::state_dir::ReconcilerLock;
use reconcile::state::{DamageKind, Ledger, Record, Request, encode_header, encode_unknown};

fn lines_of(layout: &StateLayout) -> usize {
    fs::read_to_string(layout.ledger()).unwrap().lines().count()
}

fn damaged(layout: &StateLayout) -> Vec<PathBuf> {
    let names = fs::read_dir(&layout.dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = names.filter(|path| path.to_string_lossy().contains("ledger.damaged-")).collect();
    paths.sort();
    paths
}

/// One start, crash and end of `web`: a step in a long life.
fn life(n: u64) -> Vec<Record> {
    let intent = Record::Intent(Box::new(intent("web", n, n)));
    vec![intent, started("web", n, n), exited("web", n, n as u32, n + 1), gone("web", n)]
}

#[test]
fn a_new_ledger_is_private_and_empty() {
    let world = World::new();
    let (_file, ledger, report) = world.open();
    assert_eq!(ledger, Ledger::default());
    assert!(report.damage.is_empty() && report.unwritable.is_none());
    assert_eq!(fs::read(world.layout.ledger()).unwrap(), encode_header());
    assert_eq!(fs::metadata(world.layout.ledger()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_was_appended_is_replayed() {
    let world = World::new();
    let (mut file, ..) = world.open();
    for batch in history().chunks(3) {
        file.append(batch).unwrap();
    }
    drop(file);
    let (_file, ledger, report) = world.open();
    assert_eq!(ledger, Ledger::replay(&history()));
    assert!(report.damage.is_empty() && report.unknown.is_empty() && report.set_aside.is_none());
    assert_eq!(LedgerFile::read(&world.layout).unwrap().0, ledger);
}

#[test]
fn opening_and_appending_nothing_writes_nothing() {
    let world = World::new();
    world.open().0.append(&history()).unwrap();
    let before = fs::metadata(world.layout.ledger()).unwrap();
    let (mut file, ..) = world.open();
    file.append(&[]).unwrap();
    let after = fs::metadata(world.layout.ledger()).unwrap();
    assert_eq!(
        (before.ino(), before.len(), before.mtime_nsec(), before.ctime_nsec()),
        (after.ino(), after.len(), after.mtime_nsec(), after.ctime_nsec())
    );
}

#[test]
fn reading_needs_no_file_and_makes_none() {
    let world = World::new();
    assert_eq!(LedgerFile::read(&world.layout).unwrap().0, Ledger::default());
    assert!(!world.layout.ledger().exists());
}

#[test]
fn a_torn_tail_is_set_aside_and_the_rest_goes_on() {
    let world = World::new();
    let bytes = journal(&history());
    let torn = &bytes[..bytes.len() - 5];
    fs::write(world.layout.ledger(), torn).unwrap();

    let (read, report) = LedgerFile::read(&world.layout).unwrap();
    assert_eq!(read, Ledger::replay(&history()[..history().len() - 1]));
    assert!(report.damage.is_empty(), "to a reader it is a line that is being written");
    assert_eq!(fs::read(world.layout.ledger()).unwrap(), torn, "reading mends nothing");

    let (mut file, ledger, report) = world.open();
    assert_eq!(ledger, read);
    assert_eq!(report.damage.iter().map(|damage| damage.what).collect::<Vec<_>>(), [DamageKind::TornTail]);
    assert_eq!(fs::read(report.set_aside.unwrap()).unwrap(), torn);
    file.append(&history()[history().len() - 1..]).unwrap();
    let (_file, ledger, report) = world.open();
    assert_eq!(ledger, Ledger::replay(&history()));
    assert!(report.damage.is_empty(), "mended once and for all");
}

#[test]
fn a_corrupt_line_costs_itself_and_the_file_is_kept() {
    let world = World::new();
    let mut bytes = journal(&history());
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
    fs::write(world.layout.ledger(), &bytes).unwrap();
    let (_file, ledger, report) = world.open();
    assert_eq!(report.damage.len(), 1);
    assert_eq!(ledger.services.len(), Ledger::replay(&history()).services.len());
    assert_eq!(fs::read(report.set_aside.unwrap()).unwrap(), bytes);
}

#[test]
fn a_file_of_zeros_is_an_empty_ledger_with_evidence() {
    let world = World::new();
    fs::write(world.layout.ledger(), [0; 4_096]).unwrap();
    let (mut file, ledger, report) = world.open();
    assert_eq!(ledger, Ledger::default());
    assert_eq!(damaged(&world.layout), [report.set_aside.unwrap()]);
    file.append(&history()).unwrap();
    assert_eq!(world.open().1, Ledger::replay(&history()));
}

#[test]
fn only_the_newest_damaged_files_are_kept() {
    let world = World::new();
    for n in 0..8_u8 {
        fs::write(world.layout.ledger(), [n; 10]).unwrap();
        world.open();
    }
    let kept: Vec<_> = damaged(&world.layout).iter().map(|path| fs::read(path).unwrap()[0]).collect();
    assert_eq!(kept, [3, 4, 5, 6, 7]);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let world = World::new();
    let body = "{\"format\":\"reconcile-ledger\",\"version\":2}";
    let text = format!("{body} {}\n", &blake3::hash(body.as_bytes()).to_hex()[..8]);
    fs::write(world.layout.ledger(), &text).unwrap();
    let error = LedgerFile::open(&world.layout, &world.lock).unwrap_err();
    assert!(matches!(error, LedgerError::Newer { found: 2, known: 1, .. }), "{error}");
    assert!(matches!(LedgerFile::read(&world.layout), Err(LedgerError::Newer { .. })));
    assert_eq!(fs::read_to_string(world.layout.ledger()).unwrap(), text);
}

#[test]
fn a_ledger_that_cannot_be_read_is_not_an_empty_one() {
    let world = World::new();
    fs::create_dir(world.layout.ledger()).unwrap();
    assert!(matches!(LedgerFile::open(&world.layout, &world.lock), Err(LedgerError::Unreadable { .. })));
    assert!(matches!(LedgerFile::read(&world.layout), Err(LedgerError::Unreadable { .. })));
}

#[test]
fn a_long_life_is_compacted_and_nothing_is_forgotten() {
    let world = World::new();
    let (mut file, ..) = world.open();
    let mut expected = Ledger::default();
    for n in 1..=400 {
        let records = life(n);
        records.iter().for_each(|record| expected.apply(record));
        file.append(&records).unwrap();
    }
    assert!(lines_of(&world.layout) < 600, "1,600 records of one service");
    let (_file, ledger, report) = world.open();
    assert_eq!(ledger, expected);
    assert!(report.damage.is_empty());
}

#[test]
fn short_lives_of_the_program_compact_as_well() {
    let world = World::new();
    for n in 1..=400 {
        world.open().0.append(&life(n)).unwrap();
    }
    assert!(lines_of(&world.layout) < 600, "as many runs of `--once`");
}

#[test]
fn records_of_a_newer_version_survive_compaction() {
    let world = World::new();
    let newer = r#"{"record":"leased","service":"default/web","by":"agent-7"}"#;
    fs::write(world.layout.ledger(), [encode_header(), encode_unknown(1, newer)].concat()).unwrap();
    let (mut file, _, report) = world.open();
    assert_eq!(report.unknown, [newer]);
    for n in 1..=300 {
        file.append(&life(n)).unwrap();
    }
    assert!(lines_of(&world.layout) < 600);
    assert_eq!(world.open().2.unknown, [newer]);
}

#[test]
fn texts_are_kept_byte_for_byte_and_once() {
    let world = World::new();
    let (mut file, ..) = world.open();
    let text = "# ä\r\n[service.web]\ncommand = [\"x\"]";
    file.keep_text(&digest(text), text).unwrap();
    let path = world.layout.accepted(&digest(text));
    let inode = fs::metadata(&path).unwrap().ino();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(file.text(&digest(text)).as_deref(), Some(text));
    file.keep_text(&digest(text), text).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "it was there");
    assert_eq!(file.text(&digest("never kept")), None);
}

#[test]
fn a_text_that_changed_on_disk_is_none_and_is_kept_again() {
    let world = World::new();
    let (mut file, ..) = world.open();
    file.keep_text(&digest("good"), "good").unwrap();
    fs::write(world.layout.accepted(&digest("good")), "evil").unwrap();
    assert_eq!(file.text(&digest("good")), None);
    file.keep_text(&digest("good"), "good").unwrap();
    assert_eq!(file.text(&digest("good")).as_deref(), Some("good"));
}

#[test]
fn compaction_removes_the_texts_that_nothing_names() {
    let world = World::new();
    let (mut file, ..) = world.open();
    for text in ["old", "a.toml", "web"] {
        file.keep_text(&digest(text), text).unwrap();
    }
    let accept = |text| Record::Accepted {
        file: ledger_samples::file("a.toml"),
        digest: digest(text),
        services: vec![],
    };
    file.append(&[accept("old"), accept("a.toml")]).unwrap();
    // Named by no record yet, since it was only just checked.
    file.keep_text(&digest("newest"), "newest").unwrap();
    for n in 1..=200 {
        file.append(&life(n)).unwrap();
    }
    let there = ["old", "a.toml", "web", "newest"].map(|text| file.text(&digest(text)).is_some());
    assert_eq!(there, [false, true, true, true]);
}

#[test]
fn a_disowned_ledger_stays_so() {
    let world = World::new();
    let (mut file, ..) = world.open();
    file.append(&life(1)[..2]).unwrap();
    let disowned = file.disown().unwrap();
    assert!(disowned.services.values().all(|entry| entry.run.is_none()));
    file.append(&[request("web", Request::Stop, 5)]).unwrap();
    let (_file, ledger, _) = world.open();
    assert_eq!(ledger.services[&service("web")].run, None);
    assert_eq!(ledger.services[&service("web")].stopped, Some(at(5)));
}

#[test]
fn a_file_that_was_removed_or_replaced_is_not_written_to() {
    let world = World::new();
    let (mut file, ..) = world.open();
    file.append(&life(1)).unwrap();
    fs::remove_file(world.layout.ledger()).unwrap();
    assert!(file.append(&life(2)).is_err());
    fs::write(world.layout.ledger(), journal(&life(7))).unwrap();
    assert!(file.append(&life(2)).is_err());
    assert_eq!(fs::read(world.layout.ledger()).unwrap(), journal(&life(7)));
}

/// Nobody holds a reader up, and none sees half a compaction.
#[test]
fn readers_see_whole_ledgers_while_one_writes() {
    let world = World::new();
    let (mut file, ..) = world.open();
    file.append(&life(1)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut newest, mut reads) = (0, 0);
            while !done.load(Ordering::Acquire) || reads == 0 {
                let (ledger, report) = LedgerFile::read(&world.layout).unwrap();
                assert_eq!(report.damage, []);
                let failures = ledger.services[&service("web")].failures;
                assert!(failures >= newest, "never back in time");
                newest = failures;
                reads += 1;
            }
        });
        for n in 2..=800 {
            file.append(&life(n)).unwrap();
        }
        done.store(true, Ordering::Release);
        reader.join().unwrap();
    });
}

#[test]
fn a_full_disk_costs_the_append_that_does_not_fit_and_no_other() {
    on_small_disk("size=64k", |disk| {
        let world = World::at(disk);
        let (mut file, ..) = world.open();
        let mut expected = Ledger::default();
        let filler = disk.join("filler");
        fill(&filler);
        let mut written = 0;
        let mut n = 1;
        // What is left of the last block of the file still takes some.
        while let Ok(()) = file.append(&life(n)) {
            life(n).iter().for_each(|record| expected.apply(record));
            written += 1;
            n += 1;
            assert!(n < 1_000, "a disk of 64 KiB is full at last");
        }
        assert!(written > 0);
        assert!(file.append(&life(n)).is_err(), "it stays full");
        assert!(file.keep_text(&digest("text"), "text").is_err());
        let (ledger, report) = LedgerFile::read(&world.layout).unwrap();
        assert_eq!(ledger, expected);
        assert!(report.damage.is_empty(), "cut back to whole lines");

        // A torn tail on a full disk: nothing can be set aside or rewritten, and the rest still serves.
        drop(file);
        let whole = fs::read(world.layout.ledger()).unwrap();
        OpenOptions::new()
            .write(true)
            .open(world.layout.ledger())
            .unwrap()
            .set_len(whole.len() as u64 - 3)
            .unwrap();
        let (mut file, _, report) = world.open();
        assert_eq!(report.damage.len(), 1);
        fs::remove_file(&filler).unwrap();
        file.append(&[request("web", Request::Stop, 9)]).unwrap();
        let (_file, ledger, report) = world.open();
        assert!(report.damage.is_empty());
        assert_eq!(ledger.services[&service("web")].stopped, Some(at(9)));
    });
}

fn fill(path: &Path) {
    let mut filler = fs::File::create(path).unwrap();
    while filler.write_all(&[b'x'; 4_096]).is_ok() {}
}

#[test]
fn compaction_on_a_full_disk_is_put_off() {
    on_small_disk("size=1m", |disk| {
        let world = World::at(disk);
        let (mut file, ..) = world.open();
        let starts: Vec<_> =
            (0..300).map(|n| Record::Intent(Box::new(intent(&format!("s{n}"), n, n)))).collect();
        file.append(&starts).unwrap();
        drop(file);
        let (mut file, ledger, _) = world.open();
        let compacted = journal(&ledger.snapshot()).len() as u64;
        let filler = disk.join("filler");
        fill(&filler);
        let filled = OpenOptions::new().write(true).open(&filler).unwrap();
        filled.set_len(filled.metadata().unwrap().len() - (compacted - 8_192)).unwrap();

        let inode = fs::metadata(world.layout.ledger()).unwrap().ino();
        let renewal = |n| request("s1", Request::Renew, n);
        for n in 0..900 {
            file.append(&[renewal(n)]).unwrap();
        }
        assert_eq!(lines_of(&world.layout), 1 + 300 + 900);
        assert_eq!(fs::metadata(world.layout.ledger()).unwrap().ino(), inode);
        assert_eq!(LedgerFile::read(&world.layout).unwrap().0.services.len(), 300);

        filled.set_len(0).unwrap();
        drop(file);
        world.open().0.append(&[renewal(900)]).unwrap();
        assert_eq!(lines_of(&world.layout), 1 + 300, "made good");
    });
}

#[test]
fn a_read_only_disk_lets_the_ledger_be_read_and_nothing_start() {
    on_small_disk("size=256k", |disk| {
        let world = World::at(disk);
        let (mut file, ..) = world.open();
        file.append(&history()).unwrap();
        drop(file);
        let World { layout, lock, .. } = world;
        drop(lock);
        ledger_world::remount_read_only(disk);

        let lock = ReconcilerLock::acquire(&layout, Duration::ZERO).expect("flock(2) needs no writing");
        let (mut file, ledger, report) = LedgerFile::open(&layout, &lock).unwrap();
        assert_eq!(ledger, Ledger::replay(&history()));
        assert!(report.unwritable.is_some());
        let refused = file.append(&life(1)).unwrap_err();
        assert_eq!(refused.source.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        assert!(file.keep_text(&digest("t"), "t").is_err());

        ledger_world::remount_writable(disk);
        file.append(&life(1)).expect("each append tries again");
        drop((file, lock));
        let lock = ReconcilerLock::acquire(&layout, Duration::ZERO).unwrap();
        let (_, ledger, _) = LedgerFile::open(&layout, &lock).unwrap();
        assert_eq!(ledger, Ledger::replay(history().iter().chain(&life(1))));
    });
}

const CHILD: &str = "RECONCILE_TEST_CHILD_DIR";

fn child(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]).env(CHILD, dir);
    command
}

fn child_world() -> World {
    World::at(Path::new(&std::env::var_os(CHILD).expect("started by its parent test")))
}

#[test]
#[ignore = "the other half of a_killed_writer_loses_nothing_that_was_acknowledged"]
fn child_that_appends_for_ever() {
    let world = child_world();
    let (mut file, ledger, _) = world.open();
    let first = ledger.services.get(&service("web")).map_or(0, |entry| u64::from(entry.failures)) + 1;
    for n in first..first + 100_000 {
        file.append(&life(n)).unwrap();
        println!("acknowledged {n}");
    }
}

#[test]
fn a_killed_writer_loses_nothing_that_was_acknowledged() {
    let world = World::new();
    let dir = world.layout.dir.join("child");
    for round in 0..6 {
        let mut writer = child("child_that_appends_for_ever", &dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut acknowledged = 0;
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        // Past a compaction in some rounds, short of one in others.
        while acknowledged < (round + 1) * 90 {
            let line = lines.next().expect("the child goes on until it is killed").unwrap();
            acknowledged = line.strip_prefix("acknowledged ").map_or(acknowledged, |n| n.parse().unwrap());
        }
        writer.kill().unwrap();
        let rest =
            lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
        let newest: u32 = rest.last().unwrap_or(acknowledged);
        writer.wait().unwrap();

        let child_world = World::at(&dir);
        let (_file, ledger, _) = child_world.open();
        let failures = ledger.services[&service("web")].failures;
        assert!(failures >= newest, "round {round}: {newest} were acknowledged, {failures} are there");
        assert!(failures <= newest + 1, "round {round}: no record is from nowhere");
    }
}

#[test]
#[ignore = "the other half of a_ledger_of_somebody_else_is_read_and_not_written"]
fn child_that_may_only_read() {
    let layout = StateLayout { dir: std::env::var_os(CHILD).unwrap().into() };
    let (ledger, report) = LedgerFile::read(&layout).unwrap();
    assert_eq!(ledger, Ledger::replay(&history()));
    assert!(report.damage.is_empty());
    let held_elsewhere = tempfile::tempdir().unwrap();
    let lock =
        ReconcilerLock::acquire(&StateLayout { dir: held_elsewhere.path().into() }, Duration::ZERO).unwrap();
    let (mut file, ledger, report) = LedgerFile::open(&layout, &lock).unwrap();
    assert_eq!(ledger, Ledger::replay(&history()));
    assert_eq!(report.unwritable.unwrap().source.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(file.append(&life(1)).is_err());
    assert!(file.keep_text(&digest("t"), "t").is_err());
}

#[test]
fn a_ledger_of_somebody_else_is_read_and_not_written() {
    let world = World::new();
    let (mut file, ..) = world.open();
    file.append(&history()).unwrap();
    let before = fs::read(world.layout.ledger()).unwrap();
    fs::set_permissions(world.layout.ledger(), fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(&world.layout.dir, fs::Permissions::from_mode(0o555)).unwrap();
    let mut command = child("child_that_may_only_read", &world.layout.dir);
    if is_root() {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    fs::set_permissions(&world.layout.dir, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    assert_eq!(fs::read(world.layout.ledger()).unwrap(), before);
}

//! What happens to the ledger when the disk is full or read-only, the file somebody else's, the writer killed.

#![allow(clippy::disallowed_methods, reason = "these tests are about files and processes")]

mod ledger_disk;
mod ledger_samples;
mod ledger_world;

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ledger_disk::{is_root, on_small_disk, remount_read_only, remount_writable};
use ledger_samples::*;
use ledger_world::{World, instance, life, lines_of};
use reconcile::host::StateLayout;
use reconcile::host::ledger_file::LedgerFile;
use reconcile::host::state_dir::ReconcilerLock;
use reconcile::state::{Ledger, Record, Request};

#[test]
fn a_full_disk_costs_the_append_that_does_not_fit_and_no_other() {
    on_small_disk("size=64k", |disk| {
        let world = World::at(disk);
        let (mut file, ..) = world.open();
        let filler = disk.join("filler");
        fill(&filler);
        let filled = OpenOptions::new().write(true).open(&filler).unwrap();
        filled.set_len(filled.metadata().unwrap().len() - 24 * 1_024).unwrap();
        // Several blocks each, so that the one that does not fit is written in part.
        let batch = |n: u64| (1..9).flat_map(|k| life(n * 10 + k)).collect::<Vec<_>>();
        let mut written = Vec::new();
        while file.append(&batch(written.len() as u64)).is_ok() {
            written.push(fs::metadata(world.layout.ledger()).unwrap().len());
            assert!(written.len() < 100, "a disk of 64 KiB is full at last");
        }
        let length = || fs::metadata(world.layout.ledger()).unwrap().len();
        assert_eq!(Some(&length()), written.last(), "cut back to what was acknowledged");
        assert!(file.append(&batch(99)).is_err(), "it stays full");
        assert_eq!(Some(&length()), written.last());
        assert!(file.keep_text(&digest("text"), &"text".repeat(20_000)).is_err());
        let acknowledged: Vec<_> = (0..written.len() as u64).flat_map(batch).collect();
        let (ledger, report) = LedgerFile::read(&world.layout, &instance()).unwrap();
        assert_eq!((ledger, report.damage), (Ledger::replay(&acknowledged), vec![]));

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
        filled.set_len(0).unwrap();
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
        assert_eq!(LedgerFile::read(&world.layout, &instance()).unwrap().0.services.len(), 300);

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
        remount_read_only(disk);

        let lock = ReconcilerLock::acquire(&layout, PATIENCE).expect("flock(2) needs no writing");
        let (mut file, ledger, report) = LedgerFile::open(&layout, &instance(), &lock).unwrap();
        assert_eq!(ledger, Ledger::replay(&history()));
        assert!(report.unwritable.is_some());
        let refused = file.append(&life(1)).unwrap_err();
        assert_eq!(refused.source.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        assert!(file.keep_text(&digest("t"), "t").is_err());

        remount_writable(disk);
        file.append(&life(1)).expect("each append tries again");
        drop((file, lock));
        let lock = ReconcilerLock::acquire(&layout, PATIENCE).unwrap();
        let (_, ledger, _) = LedgerFile::open(&layout, &instance(), &lock).unwrap();
        assert_eq!(ledger, Ledger::replay(history().iter().chain(&life(1))));
    });
}

/// Another test that starts a process at this moment holds a copy of every lock until it executes.
const PATIENCE: Duration = Duration::from_secs(10);

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
    let (ledger, report) = LedgerFile::read(&layout, &instance()).unwrap();
    assert_eq!(ledger, Ledger::replay(&history()));
    assert!(report.damage.is_empty());
    let held_elsewhere = tempfile::tempdir().unwrap();
    let lock = ReconcilerLock::acquire(&StateLayout { dir: held_elsewhere.path().into() }, PATIENCE).unwrap();
    let (mut file, ledger, report) = LedgerFile::open(&layout, &instance(), &lock).unwrap();
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

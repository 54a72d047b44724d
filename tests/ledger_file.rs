//! The ledger as a file: what an append survives, what damage costs, and what compaction keeps.

#![allow(clippy::disallowed_methods, reason = "these tests are about files")]

mod ledger_samples;
mod ledger_world;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use ledger_samples::*;
use ledger_world::{World, instance, life, lines_of};
use reconcile::host::StateLayout;
use reconcile::host::ledger_file::{LedgerError, LedgerFile};
use reconcile::state::{DamageKind, Ledger, Record, Request, encode_header, encode_unknown};

fn damaged(layout: &StateLayout) -> Vec<PathBuf> {
    let names = fs::read_dir(&layout.dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = names.filter(|path| path.to_string_lossy().contains("ledger.damaged-")).collect();
    paths.sort();
    paths
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
    assert_eq!(LedgerFile::read(&world.layout, &instance()).unwrap().0, ledger);
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
    assert_eq!(LedgerFile::read(&world.layout, &instance()).unwrap().0, Ledger::default());
    assert!(!world.layout.ledger().exists());
}

#[test]
fn a_torn_tail_is_set_aside_and_the_rest_goes_on() {
    let world = World::new();
    let bytes = journal(&history());
    let torn = &bytes[..bytes.len() - 5];
    fs::write(world.layout.ledger(), torn).unwrap();

    let (read, report) = LedgerFile::read(&world.layout, &instance()).unwrap();
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
    let error = LedgerFile::open(&world.layout, &instance(), &world.lock).unwrap_err();
    assert!(matches!(error, LedgerError::Newer { found: 2, known: 1, .. }), "{error}");
    assert!(matches!(LedgerFile::read(&world.layout, &instance()), Err(LedgerError::Newer { .. })));
    assert_eq!(fs::read_to_string(world.layout.ledger()).unwrap(), text);
}

#[test]
fn a_ledger_that_cannot_be_read_is_not_an_empty_one() {
    let world = World::new();
    fs::create_dir(world.layout.ledger()).unwrap();
    assert!(matches!(
        LedgerFile::open(&world.layout, &instance(), &world.lock),
        Err(LedgerError::Unreadable { .. })
    ));
    assert!(matches!(LedgerFile::read(&world.layout, &instance()), Err(LedgerError::Unreadable { .. })));
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
        directory_inode: 0,
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
                let (ledger, report) = LedgerFile::read(&world.layout, &instance()).unwrap();
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

//! A full disk, and files of which nothing ever comes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::stat::Mode;

use super::ledger_disk::on_small_disk;
use super::support::{World, is_alive, kill};

const FOREVER: &str = "exec sleep 1000";
const QUICK: &str = "restart = { backoff = \"20ms\", backoff_max = \"50ms\", max_failures = 3 }";

#[test]
fn a_full_disk_starts_nothing_fails_nobody_stops_what_is_to_stop_and_goes_on_once_there_is_room() {
    on_small_disk("size=1m", |disk| {
        let mut world = World::new();
        std::os::unix::fs::symlink(disk, world.state()).unwrap();
        for name in ["kept", "crashing", "removed"] {
            world.service(name, FOREVER, QUICK);
        }
        world.watch();
        for name in ["kept", "crashing", "removed"] {
            world.until_phase(name, "running");
        }
        let pids = ["kept", "crashing", "removed"].map(|name| world.pid(name).unwrap());
        let filler = disk.join("filler");
        fill(&filler);
        world.service("new", FOREVER, QUICK);
        kill(pids[1]);
        world.remove("removed.toml");
        world.until("what is to stop is stopped", |_| !is_alive(pids[2]));
        // There may be room left for a line, or not.
        world.until("the crash was seen", |world| world.pid("crashing") != Some(pids[1]));
        world.until("it says why it does not start", |world| {
            world.service_status("new").is_some_and(|new| {
                new["phase"] == "pending"
                    && new["reason"] == "ledger-unwritable"
                    && new["message"].to_string().contains("No space left")
            })
        });
        std::fs::remove_file(&filler).unwrap();
        for name in ["new", "crashing"] {
            world.until_phase(name, "running");
        }
        assert_eq!(world.service_status("new").unwrap()["failures"], 0);
        assert_eq!(world.service_status("crashing").unwrap()["failures"], 1, "its own crash, and no more");
        assert_eq!(world.pid("kept"), Some(pids[0]));
        world.until("the removed one is forgotten", |world| world.phase("removed").is_empty());
        assert_eq!(world.processes_like("sleep 1000").intersection(&world.processes()).count(), 3);
    });
}

#[test]
fn an_end_on_a_full_disk_is_known_once_there_is_room_though_reconciler_and_keeper_changed() {
    on_small_disk("size=1m", |disk| {
        let mut world = World::new();
        std::os::unix::fs::symlink(disk, world.state()).unwrap();
        world.service(
            "job",
            "while [ ! -e go ]; do sleep 0.02; done; exit 7",
            "restart = { policy = \"never\" }",
        );
        world.watch();
        world.until_phase("job", "running");
        let pid = world.pid("job").unwrap();
        world.kill_watcher();
        let filler = disk.join("filler");
        fill(&filler);
        std::fs::write(world.project().join("go"), "").unwrap();
        world.until("it has ended", |_| !is_alive(pid));
        std::fs::remove_file(&filler).unwrap();
        world.watch();
        world.until_phase("job", "failed");
        let status = world.service_status("job").unwrap();
        assert_eq!(status["last_exit"]["code"], 7, "{status}");
    });
}

fn fill(path: &Path) {
    use std::io::Write as _;
    let mut filler = std::fs::File::create(path).unwrap();
    while filler.write_all(&[b'x'; 512]).is_ok() {}
}

#[test]
fn a_log_and_a_program_of_which_nothing_comes_hold_up_their_own_service_alone() {
    let mut world = World::new();
    let program = world.project().join("program");
    // FIFOs without anybody at the other end stand for a file system that does not answer.
    nix::unistd::mkfifo(&program, Mode::from_bits_truncate(0o755)).unwrap();
    world.watch();
    world.service("first", FOREVER, "");
    world.until_phase("first", "running");
    let log = world.state().join("logs/default.mute.log");
    nix::unistd::mkfifo(&log, Mode::from_bits_truncate(0o640)).unwrap();
    world.config(&format!(
        "[policy]\nallow_shell = true\nexecutables = [\"sh\", \"sleep\", \"{}\"]\n",
        program.display()
    ));
    world.service("mute", FOREVER, QUICK);
    world.manifest(
        "hung.toml",
        &format!("[service.hung]\ncommand = [\"./program\"]\nstart_settle = \"50ms\"\n{QUICK}\n"),
    );
    world.service("quick", FOREVER, "");
    world.until_phase("quick", "running");
    world.until("both wait", |world| ["mute", "hung"].iter().all(|name| world.phase(name) == "pending"));
    for name in ["mute", "hung"] {
        let status = world.service_status(name).unwrap();
        assert_eq!(status["failures"], 0, "{status}");
    }
    std::fs::remove_file(&log).unwrap();
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    // A program is looked for again in a minute, or when a file of its service changes.
    let text = std::fs::read_to_string(world.manifests().join("hung.toml")).unwrap();
    world.manifest("hung.toml", &format!("# touched\n{text}"));
    world.until_phase("mute", "running");
    world.until_phase("hung", "running");
}

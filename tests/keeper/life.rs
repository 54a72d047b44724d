//! A keeper's own life: how it starts, whom it serves, when it leaves.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use reconcile::host::Event;
use reconcile::host::keeper::{EXIT_HELD, Heard, KeeperClient, KeeperError, is_held};
use reconcile::host::proc::Liveness;

use crate::contain::kinds;
use crate::world::{EXE, Kind, World, hang_up, is_root};

#[tokio::test]
async fn a_keeper_that_holds_nothing_leaves_and_takes_its_things_along() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let claim = world.run("web", "exit 0").await;
        world.gone(&claim).await;
        let keeper = world.keeper().clone();
        assert!(world.is_alive(&keeper));
        world.disconnect().await;
        world.eventually("it has left", || world.here.liveness(&keeper) == Liveness::Dead).await;
        assert!(!is_held(&world.layout).unwrap());
        assert!(!world.path("keeper.sock").exists());
        for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let base = Path::new(mount).join("reconcile").join(world.instance.as_str());
            assert!(!base.exists(), "{}", base.display());
        }
    }
}

#[tokio::test]
async fn a_keeper_stays_while_a_service_does() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let go = world.path("go");
        let claim =
            world.run("web", &format!("while ! [ -e {} ]; do sleep 0.01; done; exit 6", go.display())).await;
        let keeper = world.keeper().clone();
        world.disconnect().await;
        // All that could end it but SIGKILL; 40 is a real-time one.
        let signals = (1..=31).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)).chain([40]);
        for signal in signals {
            world.here.pin(&keeper).unwrap().signal(signal).unwrap();
        }
        // It is asked and answers: it has seen the client leave and the signals by then.
        world.connect().await;
        assert_eq!(world.keeper(), &keeper);
        world.disconnect().await;
        std::fs::write(&go, "").unwrap();
        world.eventually("it has left", || world.here.liveness(&keeper) == Liveness::Dead).await;
        let found = world.found(&claim);
        assert!(
            matches!(
                found,
                reconcile::host::Found::Ended { status: Some(reconcile::state::ExitStatus::Code(6)), .. }
            ),
            "{found:?}"
        );
    }
}

#[tokio::test]
async fn whatever_its_starter_had_open_is_closed() {
    let mut world = World::without_keeper(Kind::Found);
    let (mut reader, writer) = std::io::pipe().unwrap();
    // A descriptor as a careless CI runner leaves it: open across exec.
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let output = world.keeper_command().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    drop(writer);
    world.connect().await;
    let claim = world.run("web", "exec sleep 1000").await;
    // Ends at once, or the test hangs as the CI step would.
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    let pid = claim.process.as_ref().unwrap().pid;
    let fds = || {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let mut fds: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        fds.sort();
        fds
    };
    // While it is being loaded it has files of its own open.
    world.eventually("it has but three", || fds() == ["0", "1", "2"]).await;
    let keeper = world.keeper();
    assert_eq!(
        std::fs::read_link(format!("/proc/{}/cwd", keeper.pid)).unwrap(),
        world.layout.dir.canonicalize().unwrap()
    );
    let stat = reconcile::host::proc::stat(keeper.pid.get()).unwrap().unwrap();
    assert_eq!(stat.pgid, keeper.pid.get());
}

#[tokio::test]
async fn there_is_never_a_second_keeper() {
    let world = World::new(Kind::Found).await;
    let output = world.keeper_command().output().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(EXIT_HELD)), "{output:?}");
    assert!(world.is_alive(world.keeper()));
}

#[tokio::test]
async fn two_that_start_a_keeper_at_once_meet_the_same() {
    let mut world = World::without_keeper(Kind::Found);
    let (layout, instance) = (world.layout.clone(), world.instance.clone());
    let start = || KeeperClient::connect_or_start(&layout, &instance, Path::new(EXE));
    let (one, two) = tokio::join!(start(), start());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.info.keeper, two.info.keeper);
    drop((one, two));
    hang_up().await;
    let client = KeeperClient::connect_or_start(&layout, &instance, Path::new(EXE)).await.unwrap();
    drop(client);
    hang_up().await;
    // The one that is there may be on its way out, in which case another one is started.
    let client = KeeperClient::connect_or_start(&layout, &instance, Path::new(EXE)).await.unwrap();
    drop(client);
    hang_up().await;
    world.eventually("the last has left", || !is_held(&layout).unwrap()).await;
    world.disconnect().await;
}

#[tokio::test]
async fn a_keeper_that_holds_its_lock_in_silence_is_unresponsive() {
    let world = World::new(Kind::Found).await;
    let keeper = world.here.pin(world.keeper()).unwrap();
    keeper.signal(libc::SIGSTOP).unwrap();
    let error =
        KeeperClient::connect_or_start(&world.layout, &world.instance, Path::new(EXE)).await.unwrap_err();
    assert!(matches!(error, KeeperError::Unresponsive { .. }), "{error}");
    keeper.signal(libc::SIGCONT).unwrap();
}

#[tokio::test]
async fn a_keeper_that_falls_silent_is_lost_and_one_that_answers_is_not() {
    let mut world = World::new(Kind::Found).await;
    let claim = world.run("web", "exec sleep 1000").await;
    for _ in 0..100 {
        world.client().ping();
    }
    assert_eq!(world.client.as_mut().unwrap().list().await.unwrap().len(), 1);
    let keeper = world.here.pin(world.keeper()).unwrap();
    keeper.signal(libc::SIGSTOP).unwrap();
    world.client().ping();
    world.until(|event| *event == Event::KeeperLost).await;
    assert!(world.client().is_silent());
    keeper.signal(libc::SIGCONT).unwrap();
    world.disconnect().await;
    world.connect().await;
    world.client().kill(&claim);
    world.gone(&claim).await;
    assert!(!world.client().is_silent());
}

#[tokio::test]
async fn a_new_client_takes_the_place_of_the_old() {
    let mut world = World::new(Kind::Found).await;
    let claim = world.run("web", "exec sleep 1000").await;
    let mut old = world.client.take().unwrap();
    world.connect().await;
    assert_eq!(old.next().await, Heard::Event(Event::KeeperLost));
    world.client().kill(&claim);
    world.gone(&claim).await;
}

#[tokio::test]
async fn spawns_that_a_dead_client_asked_for_are_not_carried_out() {
    let mut world = World::new(Kind::Found).await;
    // Far more than are under way at a time, from a client that is gone at once.
    for number in 0..2000 {
        let request = world.request(&format!("web-{number}"), &["/bin/sleep", "1000"]);
        world.client().spawn(request);
    }
    tokio::task::yield_now().await;
    world.connect().await;
    let cells = world.client.as_mut().unwrap().list().await.unwrap();
    let begun = cells.len();
    assert!(begun < 2000, "{begun}");
    let cells = world.client.as_mut().unwrap().list().await.unwrap();
    assert!(cells.len() <= begun, "{} after {begun}", cells.len());
}

#[tokio::test]
async fn nonsense_is_refused_and_changes_nothing() {
    let world = World::new(Kind::Found).await;
    let dir = File::open(&world.layout.dir).unwrap();
    let path = format!("/proc/self/fd/{}/keeper.sock", dir.as_raw_fd());
    let mut stream = UnixStream::connect(path).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let kill = r#"{"request":"cancel-job","nonce":"0000000000000001"}"#;
    let old = r#"{"request":"hello","protocol":0,"instance":"x"}"#;
    for (line, answer) in [
        ("nonsense", "not understood"),
        (r#"{"request":"dance"}"#, "not understood"),
        (kill, "say hello first"),
        (old, "too old"),
        (r#"{"request":"ping","id":7}"#, r#"{"message":"pong","id":7}"#),
    ] {
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let said = lines.next().unwrap().unwrap();
        assert!(said.contains(answer), "{line}: {said}");
    }
    assert!(world.is_alive(world.keeper()));
}

#[tokio::test]
async fn strangers_are_not_served() {
    if !is_root() {
        return;
    }
    let world = World::new(Kind::Found).await;
    // Even where the modes would let them in.
    for path in [&world.layout.dir, &world.path("keeper.sock")] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
                  s.settimeout(20); s.send(b'{\"request\":\"ping\",\"id\":1}\\n'); \
                  sys.exit(0 if s.recv(100) == b'' else 1)";
    let python = Path::new("/usr/bin/python3");
    if !python.exists() {
        return;
    }
    let mut command = std::process::Command::new(python);
    command.args(["-c", script]).arg(world.path("keeper.sock"));
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    let output = command.output().unwrap();
    let reset = String::from_utf8_lossy(&output.stderr).contains("ConnectionReset");
    let broken = String::from_utf8_lossy(&output.stderr).contains("BrokenPipe");
    assert!(output.status.success() || reset || broken, "{output:?}");
}

#[tokio::test]
async fn a_state_directory_with_a_long_path_is_reached() {
    let mut world = World::without_keeper(Kind::Found);
    let long = world.layout.dir.join("x".repeat(120));
    std::fs::create_dir(&long).unwrap();
    world.layout = reconcile::host::StateLayout { dir: long };
    let client =
        KeeperClient::connect_or_start(&world.layout, &world.instance, Path::new(EXE)).await.unwrap();
    drop(client);
    hang_up().await;
    world.eventually("it has left", || !is_held(&world.layout).unwrap()).await;
}

/// A terminal sends Ctrl-C to all of a process group: a watcher hears it, and the keeper must come up all the same.
#[tokio::test]
async fn a_keeper_is_started_out_of_reach_of_the_callers_terminal() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::without_keeper(Kind::Found);
    let starter = world.layout.dir.join("starter");
    let own_group = "read -r _ _ _ _ group _ </proc/$$/stat; [ $group = $$ ] && kill -KILL $$; exit 1";
    std::fs::write(&starter, format!("#!/bin/sh\n{own_group}\n")).unwrap();
    std::fs::set_permissions(&starter, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = KeeperClient::connect_or_start(&world.layout, &world.instance, &starter)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("did not start: signal: 9 (SIGKILL)"), "{error}");
}

//! Spawns: what the new program gets, and at which stage each failure is told.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

use reconcile::host::keeper::journal;
use reconcile::host::{Event, Found, StdinKind, UserFacts};
use reconcile::state::{ExitStatus, SpawnStage};

use crate::world::{EXE, Kind, World, is_root, target};

async fn endings_are_exact(kind: Kind) {
    let mut world = World::new(kind).await;
    let cases = [
        ("exit 0", ExitStatus::Code(0)),
        ("exit 7", ExitStatus::Code(7)),
        ("kill -KILL $$", ExitStatus::Signal(libc::SIGKILL)),
        ("kill -40 $$", ExitStatus::Signal(40)),
    ];
    for (script, expected) in cases {
        let claim = world.run("web", script).await;
        assert_eq!(world.exited(&claim).await, (Some(expected), false), "{script}");
        world.gone(&claim).await;
        let recorded = journal::exits(&world.layout.exits()).unwrap().remove(&claim.nonce).unwrap();
        let line = recorded.leader.unwrap();
        let process = claim.process.unwrap();
        assert_eq!((line.status, line.pid, line.start_ticks), (expected, process.pid, process.start_ticks));
    }
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_and_recorded() {
    endings_are_exact(Kind::Found).await;
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_and_recorded_by_holders() {
    endings_are_exact(Kind::Holder).await;
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_and_recorded_without_privileges() {
    if is_root() {
        endings_are_exact(Kind::Nobody).await;
    }
}

#[tokio::test]
async fn the_line_of_an_exit_is_on_disk_before_its_pid_is_free() {
    for kind in [Kind::Found, Kind::Holder] {
        let mut world = World::new(kind).await;
        for _ in 0..20 {
            let claim = world.run("web", "exit 3").await;
            let proc = format!("/proc/{}", claim.process.as_ref().unwrap().pid);
            world.eventually("it is reaped", || !Path::new(&proc).exists()).await;
            let recorded = journal::exits(&world.layout.exits()).unwrap();
            assert_eq!(
                recorded.get(&claim.nonce).and_then(journal::Ending::status),
                Some(ExitStatus::Code(3))
            );
        }
    }
}

#[tokio::test]
async fn a_program_gets_exactly_what_was_asked_for() {
    let mut world = World::new(Kind::Found).await;
    let show = "echo $0; umask; ulimit -n; pwd; env | sort; ls /proc/self/fd; cat; echo end";
    let mut request = world.shell("web", show);
    request.argv[0] = "called-so".into();
    request.cwd = "/usr".into();
    request.umask = 0o027;
    request.rlimits = vec![(libc::RLIMIT_NOFILE, 77)];
    request.env =
        vec![("PATH".into(), "/usr/bin:/bin".into()), ("RECONCILE_SPAWN".into(), "inherited".into())];
    let marker = format!("RECONCILE_SPAWN={}:default/web:{}", world.instance, request.nonce);
    let claim = world.spawn(request).await;
    assert_eq!(world.exited(&claim).await, (Some(ExitStatus::Code(0)), false));
    // ls opens the directory it lists.
    let expected =
        format!("called-so\n0027\n77\n/usr\nPATH=/usr/bin:/bin\nPWD=/usr\n{marker}\n0\n1\n2\n3\nend\n");
    assert_eq!(world.log("web"), expected);
}

#[tokio::test]
async fn signals_and_session_of_a_program_are_its_own() {
    let mut world = World::new(Kind::Found).await;
    let claim = world.run("web", "grep -E '^Sig(Blk|Ign)' /proc/self/status; exec sleep 1000").await;
    let pid = claim.process.as_ref().unwrap().pid;
    world.eventually("it has looked", || world.log("web").lines().count() == 2).await;
    assert_eq!(world.log("web"), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    let stat = reconcile::host::proc::stat(pid.get()).unwrap().unwrap();
    assert_eq!(stat.pgid, pid.get());
    assert_eq!(dispositions_of_the_keeper(&world), [0, 0]);
    world.upgrade(Path::new(EXE)).await;
    assert_eq!(dispositions_of_the_keeper(&world), [0, 0], "after an upgrade");
}

/// What it ignores and what it catches: children get just that.
fn dispositions_of_the_keeper(world: &World) -> [u64; 2] {
    let status = fs::read_to_string(format!("/proc/{}/status", world.keeper().pid)).unwrap();
    ["SigIgn:", "SigCgt:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    })
}

#[tokio::test]
async fn an_open_stdin_never_ends_even_without_the_keeper() {
    let mut world = World::new(Kind::Found).await;
    let mut request = world.shell("web", "cat; exit 9");
    request.stdin = StdinKind::Open;
    let claim = world.spawn(request).await;
    world.replace_keeper().await;
    world.client().attach(&claim);
    // If stdin had ended with the keeper, the shell would be gone by the time the next one has done a whole run.
    let other = world.run("other", "exit 0").await;
    world.exited(&other).await;
    assert!(world.is_alive(claim.process.as_ref().unwrap()));
}

#[tokio::test]
async fn each_failure_is_told_with_its_stage_and_executes_nothing() {
    for kind in [Kind::Found, Kind::Holder] {
        failures_have_stages(kind).await;
    }
}

async fn failures_have_stages(kind: Kind) {
    let mut world = World::new(kind).await;
    let proof = world.path("executed");
    let script = format!("touch {}", proof.display());
    let mut cases = Vec::new();

    let mut request = world.shell("cwd", &script);
    request.cwd = "/nonexistent".into();
    cases.push((SpawnStage::Cwd, libc::ENOENT, request));

    let mut request = world.shell("changed", &script);
    request.exec.file.ctime_ns += 1;
    cases.push((SpawnStage::ExecChanged, 0, request));

    let mut request = world.shell("vanished", &script);
    request.exec.file.path = "/nonexistent/program".into();
    cases.push((SpawnStage::Exec, libc::ENOENT, request));

    let text = world.path("no-program");
    fs::write(&text, "neither ELF nor script\n").unwrap();
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
    let mut request = world.shell("format", &script);
    request.exec = target(&text);
    cases.push((SpawnStage::Exec, libc::ENOEXEC, request));

    let mut request = world.shell("limit", &script);
    request.rlimits = vec![(libc::RLIMIT_NOFILE, u64::MAX / 2)];
    cases.push((SpawnStage::Limits, libc::EPERM, request));

    let fifo = world.shell("fifo", &script);
    let log = world.layout.log(&fifo.service);
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    cases.push((SpawnStage::Log, libc::ENXIO, fifo));

    let link = world.shell("link", &script);
    std::os::unix::fs::symlink("/dev/null", world.layout.log(&link.service)).unwrap();
    cases.push((SpawnStage::Log, libc::ELOOP, link));

    let mut request = world.shell("late", &script);
    request.epoch += 1;
    cases.push((SpawnStage::Epoch, 0, request));

    for (stage, errno, request) in cases {
        let mut claim = reconcile::host::Claim {
            service: request.service.clone(),
            nonce: request.nonce.clone(),
            process: None,
            containment: None,
            epoch: request.epoch,
        };
        let failure = world.failure(request).await;
        assert_eq!((failure.stage, failure.errno), (stage, errno), "{failure:?}");
        assert_eq!(world.found(&claim), Found::NeverBorn, "{failure:?}");
        claim.epoch = 0;
    }
    assert!(!proof.exists());
    let cells = world.client.as_mut().unwrap();
    // Whatever was made for a failed spawn is taken away again.
    loop {
        let left = cells.list().await.unwrap();
        if left.is_empty() {
            break;
        }
    }
}

/// A limit that no journal fits into hinders neither the telling nor anything else of it.
#[tokio::test]
async fn an_exec_that_fails_is_told_whatever_limits_were_asked_for() {
    for kind in [Kind::Found, Kind::Holder] {
        let mut world = World::new(kind).await;
        let text = world.path("no-program");
        fs::write(&text, "neither ELF nor script\n").unwrap();
        fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
        let mut request = world.request("web", &["/bin/sh"]);
        request.exec = target(&text);
        request.rlimits = vec![(libc::RLIMIT_FSIZE, 1)];
        let failure = world.failure(request).await;
        assert_eq!((failure.stage, failure.errno), (SpawnStage::Exec, libc::ENOEXEC), "{failure:?}");
    }
}

#[tokio::test]
async fn another_user_needs_root() {
    let nobody = UserFacts {
        name: "daemon".into(),
        uid: 1,
        gid: 1,
        groups: vec![1],
        home: "/".into(),
        shell: "/bin/sh".into(),
    };
    if !is_root() {
        return;
    }
    let mut world = World::new(Kind::Nobody).await;
    let mut request = world.shell("web", "id -u");
    request.user = Some(nobody.clone());
    let failure = world.failure(request).await;
    assert_eq!(failure.stage, SpawnStage::User, "{failure:?}");
    assert_eq!(failure.errno, libc::EPERM);

    let mut world = World::new(Kind::Found).await;
    let mut request = world.shell("web", "id -u; id -g; id -G");
    request.user = Some(nobody);
    let claim = world.spawn(request).await;
    world.exited(&claim).await;
    assert_eq!(world.log("web"), "1\n1\n1\n");
    let log = fs::metadata(world.layout.log(&claim.service)).unwrap();
    assert_eq!((log.uid(), log.gid(), log.mode() & 0o777), (1, 1, 0o640));
}

#[tokio::test]
async fn scripts_are_executed_by_path() {
    let mut world = World::new(Kind::Found).await;
    let script = world.path("script");
    fs::write(&script, "#!/bin/sh\necho script $1\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut request = world.request("web", &[script.to_str().unwrap(), "word"]);
    assert!(request.exec.script);
    request.argv[0] = "./script".into();
    let claim = world.spawn(request).await;
    world.exited(&claim).await;
    assert_eq!(world.log("web"), "script word\n");
}

#[tokio::test]
async fn two_hundred_spawns_may_be_asked_for_at_once() {
    for kind in [Kind::Found, Kind::Holder] {
        let mut world = World::new(kind).await;
        let begun = Instant::now();
        let mut nonces = Vec::new();
        for number in 0..200 {
            let request = world.request(&format!("web-{number}"), &["/bin/sleep", "1000"]);
            nonces.push(request.nonce.clone());
            world.client().spawn(request);
        }
        let mut pids = std::collections::BTreeSet::new();
        for nonce in &nonces {
            match world.until(|event| matches!(event, Event::Spawned { nonce: n, .. } if n == nonce)).await {
                Event::Spawned { process, .. } => pids.insert(process.pid),
                other => unreachable!("{other:?}"),
            };
        }
        assert_eq!(pids.len(), 200);
        println!("{kind:?}: 200 spawns in {} ms", begun.elapsed().as_millis());
    }
}

//! The keeper dies: services live on, and the next keeper has them in hand.

use reconcile::host::proc::{Pinned, stat};
use reconcile::host::{Event, Found};
use reconcile::state::{Containment, ExitStatus};

use crate::contain::{kinds, with_escaped};
use crate::world::{Kind, World};

#[tokio::test]
async fn services_outlive_their_keeper_and_how_they_end_is_known() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let go = world.path("go");
        let claim =
            world.run("web", &format!("while ! [ -e {} ]; do sleep 0.01; done; exit 42", go.display())).await;
        world.replace_keeper().await;
        assert_eq!(world.found(&claim), Found::Alive { born: None });
        world.client().attach(&claim);
        // Answered in order: once it lists the run, it watches it.
        let cells = world.client.as_mut().unwrap().list().await.unwrap();
        assert_eq!(cells.len(), 1);
        std::fs::write(&go, "").unwrap();
        assert_eq!(world.exited(&claim).await, (Some(ExitStatus::Code(42)), false), "{kind:?}");
        world.gone(&claim).await;
        let Found::Ended { status, .. } = world.found(&claim) else { panic!("{:?}", world.found(&claim)) };
        assert_eq!(status, Some(ExitStatus::Code(42)));
    }
}

#[tokio::test]
async fn all_of_a_survivor_is_ended_by_the_next_keeper() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let (claim, escaped) = with_escaped(&mut world).await;
        world.replace_keeper().await;
        // No attach before: a kill of what it does not know proves and attaches by itself.
        world.client().kill(&claim);
        world.gone(&claim).await;
        assert!(!world.is_alive(&escaped), "{kind:?}");
    }
}

#[tokio::test]
async fn an_end_without_any_keeper_is_found_where_it_was_recorded() {
    let mut world = World::new(Kind::Holder).await;
    let go = world.path("go");
    let claim =
        world.run("web", &format!("while ! [ -e {} ]; do sleep 0.01; done; exit 5", go.display())).await;
    world.kill_keeper().await;
    std::fs::write(&go, "").unwrap();
    world
        .eventually("its end is recorded", || {
            matches!(
                world.found(&claim),
                Found::Ended { status: Some(ExitStatus::Code(5)), others: false, .. }
            )
        })
        .await;
    world.disconnect().await;
    world.start_keeper();
    world.connect().await;
    world.client().attach(&claim);
    assert_eq!(world.exited(&claim).await, (Some(ExitStatus::Code(5)), false));
    world.gone(&claim).await;
}

#[tokio::test]
async fn an_end_that_nobody_saw_is_called_unknown() {
    let mut world = World::new(Kind::Found).await;
    let go = world.path("go");
    let claim =
        world.run("web", &format!("while ! [ -e {} ]; do sleep 0.01; done; exit 5", go.display())).await;
    if matches!(claim.containment, Some(Containment::Holder { .. })) {
        return;
    }
    world.kill_keeper().await;
    std::fs::write(&go, "").unwrap();
    world.eventually("it has ended", || !matches!(world.found(&claim), Found::Alive { .. })).await;
    let Found::Ended { status, others, .. } = world.found(&claim) else {
        panic!("{:?}", world.found(&claim))
    };
    assert_eq!((status, others), (None, false));
    world.disconnect().await;
    world.start_keeper();
    world.connect().await;
    world.client().attach(&claim);
    assert_eq!(world.exited(&claim).await, (None, false));
    world.gone(&claim).await;
}

#[tokio::test]
async fn a_recycled_pid_is_left_alone() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let claim = world.run("web", "exec sleep 1000").await;
        let mut stranger = claim.clone();
        stranger.nonce = world.nonce();
        match stranger.containment.as_mut().unwrap() {
            Containment::Cgroup { path } => {
                path.set_file_name(format!("default.web.{}", stranger.nonce));
            }
            Containment::Holder { process, .. } => process.start_ticks -= 1,
        }
        stranger.process.as_mut().unwrap().start_ticks -= 1;
        world.client().signal(&stranger, libc::SIGKILL, reconcile::manifest::SignalTo::Leader);
        world.client().kill(&stranger);
        // What a lost holder held cannot be told to be gone.
        world
            .until(|event| match event {
                Event::Gone { nonce } | Event::Unkillable { nonce, .. } => *nonce == stranger.nonce,
                _ => false,
            })
            .await;
        assert!(world.is_alive(claim.process.as_ref().unwrap()), "{kind:?}");
        world.client().kill(&claim);
        world.gone(&claim).await;
    }
}

#[tokio::test]
async fn a_claim_of_another_pid_namespace_is_not_touched() {
    let mut world = World::new(Kind::Found).await;
    let claim = world.run("web", "exec sleep 1000").await;
    let mut foreign = claim.clone();
    foreign.nonce = world.nonce();
    foreign.process.as_mut().unwrap().pid_ns += 1;
    assert!(matches!(world.found(&foreign), Found::Unverifiable { .. }));
    world.client().kill(&foreign);
    let cells = world.client.as_mut().unwrap().list().await.unwrap();
    assert_eq!(cells.len(), 1);
    assert!(world.is_alive(claim.process.as_ref().unwrap()));
}

#[tokio::test]
async fn an_end_that_is_not_yet_recorded_is_waited_for_while_a_keeper_lives() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let claim = world.run("web", "exec sleep 1000").await;
        // Whoever is to record the end does not come to it.
        let recorder = match claim.containment.clone() {
            Some(Containment::Holder { process, .. }) => process,
            _ => world.keeper().clone(),
        };
        let recorder = world.here.pin(&recorder).unwrap();
        recorder.signal(libc::SIGSTOP).unwrap();
        let leader = claim.process.clone().unwrap();
        world.here.pin(&leader).unwrap().signal(libc::SIGKILL).unwrap();
        world.eventually("the leader is dead", || !world.is_alive(&leader)).await;
        assert_eq!(world.found(&claim), Found::Ending { born: None }, "{kind:?}");
        recorder.signal(libc::SIGCONT).unwrap();
        assert_eq!(world.exited(&claim).await, (Some(ExitStatus::Signal(libc::SIGKILL)), false));
        world.gone(&claim).await;
        let Found::Ended { status, .. } = world.found(&claim) else { panic!("{:?}", world.found(&claim)) };
        assert_eq!(status, Some(ExitStatus::Signal(libc::SIGKILL)));
    }
}

/// Stopped before its birth, while its holder is killed.
#[tokio::test]
async fn a_leader_that_outlives_its_holder_before_its_birth_is_told_and_not_started_twice() {
    for point in ["child.forked", "child.gate", "child.born"] {
        let mut world = World::without_keeper(Kind::Holder);
        let passed = world.path("passed");
        let failpoint = format!("{point}@1={}", passed.display());
        let output = world.keeper_command().env("RECONCILE_FAILPOINT", failpoint).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        world.connect().await;
        let request = world.shell("web", "exit 3");
        let nonce = request.nonce.clone();
        world.client().spawn(request);
        let mut leader = None;
        world
            .eventually("the leader has stopped", || {
                let pid = std::fs::read_to_string(&passed).unwrap_or_default();
                leader = pid.trim().parse::<i32>().ok().and_then(|pid| stat(pid).ok().flatten());
                leader.is_some_and(|leader| leader.state == b'T')
            })
            .await;
        let leader = Pinned::open(leader.unwrap().pid).unwrap().unwrap();
        let holder = leader.stat().unwrap().unwrap().ppid;
        assert_ne!(holder, world.keeper().pid.get());
        Pinned::open(holder).unwrap().unwrap().signal(libc::SIGKILL).unwrap();
        world
            .eventually("the keeper has reaped the holder", || Pinned::open(holder).unwrap().is_none())
            .await;
        leader.signal(libc::SIGCONT).unwrap();
        let told = world
            .until(|event| {
                matches!(event, Event::Spawned { nonce: n, .. } | Event::SpawnFailed { nonce: n, .. } if *n == nonce)
            })
            .await;
        assert!(matches!(told, Event::Spawned { .. }), "{point}: {told:?}");
        let ended = world.until(|event| matches!(event, Event::Exited { nonce: n, .. } if *n == nonce)).await;
        // What else it held cannot be known.
        assert_eq!(
            ended,
            Event::Exited { nonce, status: Some(ExitStatus::Code(3)), others: true },
            "{point}"
        );
    }
}

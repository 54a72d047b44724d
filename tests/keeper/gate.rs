//! The birth gate: a spawn of before is never executed after it was judged.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reconcile::host::keeper::{is_held, journal, judge_intents};
use reconcile::host::{Claim, Event, Found};
use reconcile::state::SpawnStage;
use rustix::fs::{FlockOperation, flock};

use crate::contain::kinds;
use crate::world::{BOUND, Kind, World};

#[tokio::test]
async fn a_request_of_an_older_epoch_is_never_born() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let proof = world.path("executed");
        let request = world.shell("web", &format!("touch {}", proof.display()));
        let judged = judge_intents(&world.layout, std::slice::from_ref(&request.nonce), BOUND).unwrap();
        assert_eq!(judged.epoch, request.epoch + 1);
        let failure = world.failure(request).await;
        assert_eq!(failure.stage, SpawnStage::Epoch);
        assert!(!proof.exists());
        world.epoch = judged.epoch;
        let claim = world.run("web", "exec sleep 1000").await;
        assert!(world.is_alive(claim.process.as_ref().unwrap()));
    }
}

/// The keeper dies with a child at the gate, and a reconciler judges: either it is on record, or it never was.
#[tokio::test]
async fn a_child_at_the_gate_of_a_dead_keeper_is_judged_once_and_for_all() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let proof = world.path("executed");
        let request = world.shell("web", &format!("echo $$ >{}; exec sleep 1000", proof.display()));
        let nonce = request.nonce.clone();
        let claim = Claim {
            service: request.service.clone(),
            nonce: nonce.clone(),
            process: None,
            containment: None,
            epoch: request.epoch,
        };
        let gate = File::options().read(true).write(true).open(world.layout.birth_gate()).unwrap();
        flock(&gate, FlockOperation::LockExclusive).unwrap();
        world.client().spawn(request);
        // The child has opened its log by the time it comes to the gate.
        let log = world.layout.log(&claim.service);
        while !log.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.kill_keeper().await;
        drop(gate);
        let judged = judge_intents(&world.layout, std::slice::from_ref(&nonce), BOUND).unwrap();
        match judged.births.get(&nonce) {
            Some(Some(birth)) => {
                let executed = world.process_in("executed").await;
                assert_eq!(executed.pid, birth.process.pid);
                assert!(matches!(world.found(&claim), Found::Alive { born: Some(_) }));
                world.start_keeper();
                world.connect().await;
                let born = Claim {
                    process: Some(birth.process.clone()),
                    containment: Some(birth.containment.clone()),
                    ..claim
                };
                world.client().kill(&born);
                world.gone(&born).await;
            }
            Some(None) => panic!("its exec cannot have failed"),
            None => {
                assert_eq!(judged.epoch, claim.epoch + 1);
                // The child lives until it has been through the gate, and looks like the run until then.
                world.eventually("it was never born", || world.found(&claim) == Found::NeverBorn).await;
                // Whoever comes through the gate after us finds another epoch.
                world
                    .eventually("no child is left at the gate", || {
                        let gate = File::open(world.layout.birth_gate()).unwrap();
                        flock(&gate, FlockOperation::NonBlockingLockExclusive).is_ok()
                    })
                    .await;
                assert!(!proof.exists());
            }
        }
    }
}

/// Locks the gate, and waits until the child of this request has come to it.
async fn stop_at_the_gate(world: &World, request: reconcile::host::SpawnRequest) -> File {
    let gate = File::options().read(true).write(true).open(world.layout.birth_gate()).unwrap();
    flock(&gate, FlockOperation::LockExclusive).unwrap();
    let inode = format!(":{} ", std::os::unix::fs::MetadataExt::ino(&gate.metadata().unwrap()));
    world.client().spawn(request);
    world
        .eventually("a child waits at the gate", || {
            let locks = std::fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|line| line.contains("->") && line.contains(&inode))
        })
        .await;
    gate
}

#[tokio::test]
async fn a_child_that_waits_keeps_nothing_of_a_dead_keeper_and_is_born_without_it() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let proof = world.path("executed");
        let request = world.shell("web", &format!("echo $$ >{}; exec sleep 1000", proof.display()));
        let nonce = request.nonce.clone();
        let gate = stop_at_the_gate(&world, request).await;
        world.kill_keeper().await;
        assert!(!is_held(&world.layout).unwrap(), "{kind:?}");
        drop(gate);
        // Its word is heard by nobody; that must not end it.
        let executed = world.process_in("executed").await;
        world.disconnect().await;
        world.start_keeper();
        world.connect().await;
        let births = journal::births(&world.layout.births()).unwrap();
        let Some(Some(birth)) = births.get(&nonce) else { world.fail("it is not on record") };
        assert_eq!(birth.process, executed);
        let claim = Claim {
            service: reconcile::identity::ServiceId::parse("web").unwrap(),
            nonce,
            process: Some(executed),
            containment: Some(birth.containment.clone()),
            epoch: world.epoch,
        };
        world.client().kill(&claim);
        world.gone(&claim).await;
    }
}

#[tokio::test]
async fn a_program_that_changes_while_its_child_waits_is_not_executed() {
    for name in ["program", "script"] {
        let mut world = World::new(Kind::Found).await;
        let path = world.path(name);
        if name == "script" {
            std::fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        } else {
            std::fs::copy("/bin/true", &path).unwrap();
        }
        let mode = |bits| std::os::unix::fs::PermissionsExt::from_mode(bits);
        std::fs::set_permissions(&path, mode(0o755)).unwrap();
        let request = world.request("web", &[path.to_str().unwrap()]);
        let nonce = request.nonce.clone();
        let gate = stop_at_the_gate(&world, request).await;
        std::fs::set_permissions(&path, mode(0o700)).unwrap();
        drop(gate);
        let event = world.until(
            |event| matches!(event, Event::Spawned { nonce: n, .. } | Event::SpawnFailed { nonce: n, .. } if *n == nonce),
        );
        let Event::SpawnFailed { failure, .. } = event.await else { panic!("{name} was executed") };
        assert_eq!(failure.stage, SpawnStage::ExecChanged, "{name}: {failure:?}");
        let is_taken_back = || journal::births(&world.layout.births()).unwrap().get(&nonce) == Some(&None);
        world.eventually("the birth is taken back", is_taken_back).await;
    }
}

/// Promise 1, at the keeper: killed at any moment of many spawns, each is executed once, or never.
#[tokio::test]
async fn a_keeper_killed_amid_spawns_leaves_each_executed_once_or_never() {
    for kind in kinds() {
        for heard in [0, 1, 7, 20] {
            killed_amid_spawns(kind, heard).await;
        }
    }
}

async fn killed_amid_spawns(kind: Kind, heard: usize) {
    let mut world = World::new(kind).await;
    let mut claims = Vec::new();
    for number in 0..30 {
        let request = world.request(&format!("web-{number}"), &["/bin/sleep", "1000"]);
        let (service, nonce, epoch) = (request.service.clone(), request.nonce.clone(), request.epoch);
        claims.push(Claim { service, nonce, process: None, containment: None, epoch });
        world.client().spawn(request);
    }
    for _ in 0..heard {
        world.until(|event| matches!(event, Event::Spawned { .. })).await;
    }
    world.kill_keeper().await;
    world.disconnect().await;
    let nonces: Vec<_> = claims.iter().map(|claim| claim.nonce.clone()).collect();
    world.epoch = judge_intents(&world.layout, &nonces, BOUND).unwrap().epoch;
    let mut born = Vec::new();
    for claim in &claims {
        match world.found(claim) {
            Found::Alive { born: Some((process, containment)) } => {
                let (process, containment) = (Some(process), Some(containment));
                born.push(Claim { process, containment, ..claim.clone() });
            }
            Found::NeverBorn => {}
            other => world.fail(&format!("{:?}: {other:?}", claim.nonce)),
        }
    }
    assert!(born.len() >= heard);
    // Those at the gate when it was judged go away; nobody comes after them.
    let executed = || executed_with(&format!("RECONCILE_SPAWN={}:", world.instance));
    world.eventually("all that is born is executed, once", || executed() == born.len()).await;
    world.eventually("no child is left", || without_a_parent(&world.layout.dir) == 0).await;
    assert_eq!(executed(), born.len());
    world.start_keeper();
    world.connect().await;
    for claim in &born {
        world.client().kill(claim);
    }
    for claim in &born {
        world.gone(claim).await;
    }
}

/// How many processes have this in the environment that they were executed with.
fn executed_with(marker: &str) -> usize {
    let has_marker = |path: PathBuf| {
        let text = std::fs::read(path.join("environ")).unwrap_or_default();
        text.windows(marker.len()).any(|window| window == marker.as_bytes())
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| has_marker(entry.path())).count()
}

/// How many children of a keeper that is dead are still on their way: copies of it that are no holders.
fn without_a_parent(dir: &Path) -> usize {
    let is_copy = |path: PathBuf| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        line.ends_with([dir.as_os_str().as_encoded_bytes(), &[0]].concat().as_slice())
            && name != "reconcile-hold\n"
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| is_copy(entry.path())).count()
}

#[tokio::test]
async fn a_born_intent_is_found_with_all_that_is_needed_to_go_on() {
    let mut world = World::new(Kind::Found).await;
    let claim = world.run("web", "exec sleep 1000").await;
    let open = Claim { process: None, containment: None, ..claim.clone() };
    let judged = judge_intents(&world.layout, std::slice::from_ref(&claim.nonce), BOUND).unwrap();
    assert_eq!(judged.epoch, claim.epoch);
    let expected = Some((claim.process.clone().unwrap(), claim.containment.unwrap()));
    assert_eq!(world.found(&open), Found::Alive { born: expected });
}

//! The birth gate: a spawn of before is never executed after it was judged.

use std::fs::File;
use std::time::Duration;

use reconcile::host::keeper::judge_intents;
use reconcile::host::{Claim, Found};
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
                assert_eq!(world.found(&claim), Found::NeverBorn);
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

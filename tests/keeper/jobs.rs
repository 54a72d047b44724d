//! Jobs: bounded in time and output, and never left over.

use std::time::Duration;

use reconcile::host::keeper::Heard;
use reconcile::host::keeper::protocol::{CellInfo, CellState};
use reconcile::host::{Claim, Event, JobOutcome, JobPurpose, JobRequest};
use reconcile::state::{ExitStatus, SpawnStage};

use crate::contain::kinds;
use crate::world::{BOUND, Kind, World};

fn job(world: &mut World, of: &Claim, script: &str, timeout: Duration) -> JobRequest {
    let spawn = world.shell("web", script);
    JobRequest { purpose: JobPurpose::Health, of: of.nonce.clone(), spawn, timeout }
}

async fn outcome(world: &mut World) -> JobOutcome {
    match world.until(|event| matches!(event, Event::JobDone { .. })).await {
        Event::JobDone { outcome, purpose: JobPurpose::Health, .. } => outcome,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_job_answers_with_status_and_output_and_leaves_no_record() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let claim = world.run("web", "exec sleep 1000").await;
        let request = job(&mut world, &claim, "echo out; echo err >&2; exit 3", BOUND);
        let nonce = request.spawn.nonce.clone();
        world.client().run_job(request);
        let expected = JobOutcome::Exit { status: ExitStatus::Code(3), output: "out\nerr\n".into() };
        assert_eq!(outcome(&mut world).await, expected, "{kind:?}");
        for journal in ["births.journal", "exits.journal"] {
            let text = std::fs::read_to_string(world.path(journal)).unwrap_or_default();
            assert!(!text.contains(nonce.as_str()), "{journal}: {text}");
        }
        assert!(world.is_alive(claim.process.as_ref().unwrap()));
    }
}

#[tokio::test]
async fn a_job_that_cannot_be_executed_says_so() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let claim = world.run("web", "exec sleep 1000").await;
        let mut request = job(&mut world, &claim, "true", BOUND);
        request.spawn.exec.file.inode += 1;
        world.client().run_job(request);
        let JobOutcome::NotStarted(failure) = outcome(&mut world).await else { panic!("{kind:?}") };
        assert_eq!(failure.stage, SpawnStage::ExecChanged);
    }
}

#[tokio::test]
async fn a_job_over_its_time_is_killed_with_what_it_started() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let claim = world.run("web", "exec sleep 1000").await;
        let file = world.path("escaped");
        let script = format!("setsid sh -c 'echo $$ >{}; exec sleep 1000' & sleep 1000", file.display());
        let request = job(&mut world, &claim, &script, Duration::from_millis(500));
        world.client().run_job(request);
        let escaped = world.process_in("escaped").await;
        assert_eq!(outcome(&mut world).await, JobOutcome::TimedOut, "{kind:?}");
        assert!(!world.is_alive(&escaped), "{kind:?}");
        assert!(world.is_alive(claim.process.as_ref().unwrap()));
    }
}

#[tokio::test]
async fn endless_output_is_cut_off() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let claim = world.run("web", "exec sleep 1000").await;
        let request = job(&mut world, &claim, "exec yes", BOUND);
        world.client().run_job(request);
        let JobOutcome::Exit { status, output } = outcome(&mut world).await else { panic!("{kind:?}") };
        assert_eq!(status, ExitStatus::Signal(libc::SIGKILL));
        assert!(output.starts_with("y\ny\n") && output.len() < 70_000, "{}", output.len());
    }
}

#[tokio::test]
async fn a_job_ends_with_its_service() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let claim = world.run("web", "exec sleep 1000").await;
        let file = world.path("job");
        let request =
            job(&mut world, &claim, &format!("echo $$ >{}; exec sleep 1000", file.display()), BOUND);
        world.client().run_job(request);
        let process = world.process_in("job").await;
        world.client().kill(&claim);
        assert_eq!(world.exited(&claim).await, (Some(ExitStatus::Signal(libc::SIGKILL)), false), "{kind:?}");
        world.gone(&claim).await;
        let ended = outcome(&mut world).await;
        assert!(
            matches!(ended, JobOutcome::Cancelled | JobOutcome::Exit { status: ExitStatus::Signal(9), .. }),
            "{ended:?}"
        );
        assert!(!world.is_alive(&process), "{kind:?}");
    }
}

#[tokio::test]
async fn a_job_does_not_outlive_its_keeper_for_long() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let claim = world.run("web", "exec sleep 1000").await;
        let file = world.path("job");
        let request =
            job(&mut world, &claim, &format!("echo $$ >{}; exec sleep 1000", file.display()), BOUND);
        world.client().run_job(request);
        let process = world.process_in("job").await;
        world.replace_keeper().await;
        // A holder sees it by itself; a cgroup is cleared of jobs when the next keeper attaches.
        world.client().attach(&claim);
        world.eventually("the job has ended", || !world.is_alive(&process)).await;
        assert!(world.is_alive(claim.process.as_ref().unwrap()), "{kind:?}");
    }
}

#[tokio::test]
async fn a_job_of_a_run_that_is_not_there_is_not_started() {
    let mut world = World::new(Kind::Found).await;
    let claim = world.run("web", "exit 0").await;
    world.gone(&claim).await;
    let proof = world.path("executed");
    let request = job(&mut world, &claim, &format!("touch {}", proof.display()), BOUND);
    world.client().run_job(request);
    assert_eq!(outcome(&mut world).await, JobOutcome::Cancelled);
    assert!(!proof.exists());
}

#[tokio::test]
async fn a_job_that_the_keeper_took_along_is_cancelled_before_the_loss_is_told() {
    let mut world = World::new(Kind::Found).await;
    let claim = world.run("web", "exec sleep 1000").await;
    let request = job(&mut world, &claim, "exec sleep 1000", BOUND);
    world.client().run_job(request);
    world.kill_keeper().await;
    let client = world.client.as_mut().unwrap();
    let told = [client.next().await, client.next().await];
    assert!(
        matches!(&told, [
            Heard::Event(Event::JobDone { of, outcome: JobOutcome::Cancelled, .. }),
            Heard::Event(Event::KeeperLost),
        ] if *of == claim.nonce),
        "{told:?}"
    );
}

/// As of a state directory that was copied: its ledger claims what the original runs.
#[tokio::test]
async fn a_keeper_of_another_instance_leaves_the_jobs_of_a_run_alone() {
    let mut world = World::new(Kind::Found).await;
    let claim = world.run("web", "exec sleep 1000").await;
    let go = world.path("go");
    let script = format!("while ! [ -e {} ]; do sleep 0.01; done; exit 3", go.display());
    let request = job(&mut world, &claim, &script, BOUND);
    world.client().run_job(request);
    let is_running = |cells: Vec<CellInfo>| {
        cells.iter().any(|cell| cell.job_of.is_some() && cell.state == CellState::Running)
    };
    while !is_running(world.client.as_mut().unwrap().list().await.unwrap()) {}
    let mut copy = World::new(Kind::Found).await;
    copy.client().attach(&claim);
    assert_eq!(copy.client.as_mut().unwrap().list().await.unwrap().len(), 1);
    std::fs::write(&go, "").unwrap();
    let expected = JobOutcome::Exit { status: ExitStatus::Code(3), output: String::new() };
    assert_eq!(outcome(&mut world).await, expected);
}

//! Probes, health and stop commands.

use super::*;

#[test]
fn a_probe_fails_until_its_service_is_healthy_and_again_when_it_is_not() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().healthy_after(secs(5)).unhealthy_at(secs(20)));
    let claim = rig.start("web");
    assert_eq!([1_000, 9_000, 20_000].map(|pause| probe(&mut rig, &claim, pause)), [false, true, false]);
    rig.host.probes_say("web", Ok(()));
    assert!(probe(&mut rig, &claim, 0));
}

pub(super) fn probe(rig: &mut Rig, claim: &Claim, pause: u64) -> bool {
    rig.wait_at_most(pause);
    rig.host.probe(probe_request(claim));
    let events = rig.wait();
    let [Event::Probed { result, .. }] = events.as_slice() else { panic!("{events:?}") };
    result.is_ok()
}

fn probe_request(claim: &Claim) -> ProbeRequest {
    ProbeRequest {
        service: claim.service.clone(),
        nonce: claim.nonce.clone(),
        target: ProbeTarget::Tcp { host: "127.0.0.1".into(), port: 80 },
        timeout: secs(5),
    }
}

#[test]
fn a_probe_that_hangs_ends_at_its_timeout() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().probe_hangs());
    let claim = rig.start("web");
    let before = rig.host.now();
    assert!(!probe(&mut rig, &claim, 0));
    assert_eq!(rig.host.now().awake_ms - before.awake_ms, 5_000);
}

#[test]
fn a_health_command_shows_the_health_of_its_service() {
    let mut rig = Rig::new();
    let claim = rig.start("web");
    for (result, expected) in [(Ok(()), 0), (Err("no".to_owned()), 1)] {
        rig.host.probes_say("web", result);
        run_job(&mut rig, &claim, JobPurpose::Health);
        let events = rig.wait();
        let [Event::JobDone { outcome: JobOutcome::Exit { status, .. }, .. }] = events.as_slice() else {
            panic!("{events:?}");
        };
        assert_eq!(*status, code(expected));
    }
}

#[test]
fn a_stop_command_can_end_its_service() {
    let mut rig = Rig::new();
    let script = JobScript::exits(secs(1), code(0), "bye").ends_service();
    rig.host.behave("web", Behaviour::default().stop_command(script));
    let claim = rig.start("web");
    run_job(&mut rig, &claim, JobPurpose::Stop);
    let events = rig.wait();
    assert!(
        matches!(events[..], [Event::JobDone { .. }, Event::Exited { .. }, Event::Gone { .. }]),
        "{events:?}"
    );
}

#[test]
fn a_job_ends_with_its_service() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().stop_command(JobScript::hangs()));
    let claim = rig.start("web");
    run_job(&mut rig, &claim, JobPurpose::Stop);
    rig.host.end("web", code(1));
    let events = rig.wait();
    assert!(
        events.iter().any(|event| matches!(event, Event::JobDone { outcome: JobOutcome::Cancelled, .. }))
    );
    assert_eq!(rig.wait_at_most(60_000), []);
}

fn run_job(rig: &mut Rig, claim: &Claim, purpose: JobPurpose) {
    let spawn = rig.request(claim.service.key());
    rig.host.run_job(JobRequest { purpose, of: claim.nonce.clone(), spawn, timeout: secs(5) });
}

//! What must never happen is noticed, and what may happen is not.

use super::*;

#[test]
#[should_panic(expected = "a reconciler that is dead acts")]
fn a_dead_reconciler_cannot_act() {
    let mut rig = Rig::new();
    rig.host.reconciler_dies(Birth::Never);
    let _ = rig.host.append(&[]);
}

#[test]
#[should_panic(expected = "without an intent in the ledger")]
fn a_spawn_without_an_intent_is_noticed() {
    let mut rig = Rig::new();
    let request = rig.request("web");
    rig.host.spawn(request);
}

#[test]
#[should_panic(expected = "beside")]
fn a_second_live_leader_is_noticed() {
    let mut rig = Rig::new();
    rig.start("web");
    rig.spawn("web");
}

#[test]
#[should_panic(expected = "beside")]
fn a_start_beside_leftovers_is_noticed() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().backgrounds());
    rig.start("web");
    rig.wait();
    rig.spawn("web");
}

#[test]
#[should_panic(expected = "is being born")]
fn a_start_beside_a_birth_is_noticed() {
    let mut rig = Rig::new();
    rig.spawn("web");
    rig.spawn("web");
}

#[test]
#[should_panic(expected = "which is used up")]
fn a_start_of_an_intent_that_was_judged_never_born_is_noticed() {
    let mut rig = Rig::new();
    let request = rig.request("web");
    rig.promise(&request);
    let claim = Claim {
        service: request.service.clone(),
        nonce: request.nonce.clone(),
        process: None,
        containment: None,
        epoch: 1,
    };
    assert_eq!(rig.found(&claim), Found::NeverBorn);
    rig.host.spawn(request);
}

#[test]
#[should_panic(expected = "a stranger")]
fn a_signal_to_a_stranger_is_noticed() {
    let mut rig = Rig::new();
    let mut claim = rig.start("web");
    claim.process = Some(rig.host.add_stranger(Pid::new(4_000).unwrap()));
    rig.host.signal(&claim, TERM, SignalTo::Leader);
}

#[test]
#[should_panic(expected = "known to be gone")]
fn a_signal_to_what_is_known_to_be_gone_is_noticed() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exits(secs(1), code(0)));
    let claim = rig.start("web");
    rig.wait();
    rig.wait_at_most(0);
    rig.host.signal(&claim, TERM, SignalTo::Leader);
}

#[test]
#[should_panic(expected = "known to be gone")]
fn a_signal_to_what_is_written_down_as_gone_is_noticed() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exits(secs(1), code(0)));
    let claim = rig.start("web");
    rig.wait();
    let Claim { service, nonce, .. } = claim.clone();
    rig.host.append(&[Record::Gone { service, nonce }]).unwrap();
    rig.host.signal(&claim, TERM, SignalTo::Leader);
}

#[test]
fn a_signal_between_two_events_that_came_at_once_reaches_nobody() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exits(secs(1), code(0)));
    let claim = rig.start("web");
    rig.wait();
    rig.host.signal(&claim, TERM, SignalTo::Leader);
    assert_eq!(rig.wait_at_most(1_000), []);
}

#[test]
fn a_signal_that_comes_too_late_reaches_nobody() {
    let mut rig = Rig::new();
    let claim = rig.start("web");
    rig.host.end("web", code(0));
    rig.host.signal(&claim, TERM, SignalTo::Group);
    rig.host.kill(&claim);
    assert!(matches!(rig.wait()[..], [Event::Exited { .. }, Event::Gone { .. }]));
}

#[test]
#[should_panic(expected = "is in doubt")]
fn a_kill_of_what_cannot_be_verified_is_noticed() {
    let mut rig = Rig::new();
    let claim = rig.start("web");
    rig.host.make_unverifiable("web", Doubt::Unverifiable);
    assert!(matches!(rig.found(&claim), Found::Unverifiable { .. }));
    rig.host.kill(&claim);
}

#[test]
#[should_panic(expected = "an orphan")]
fn a_live_run_that_is_let_go_of_is_noticed() {
    let mut rig = Rig::new();
    let claim = rig.start("web");
    let _ = rig.host.append(&[Record::Gone { service: claim.service, nonce: claim.nonce }]);
}

#[test]
#[should_panic(expected = "and it lives")]
fn a_live_leader_that_is_recorded_as_ended_is_noticed() {
    let mut rig = Rig::new();
    let Claim { service, nonce, .. } = rig.start("web");
    let at = rig.host.now();
    let _ = rig.host.append(&[Record::Exited { service, nonce, end: End::Unknown, failures: 0, at }]);
}

#[test]
#[should_panic(expected = "which was not kept")]
fn a_record_that_names_a_text_that_was_not_kept_is_noticed() {
    let mut rig = Rig::new();
    let request = rig.request("web");
    let intent = rig.intent(&request, Digest::of(b"another text"));
    let _ = rig.host.append(&[intent]);
}

#[test]
fn counts_tell_a_pass_that_changes_something_from_one_that_does_not() {
    let mut rig = Rig::new();
    let claim = rig.start("web");
    let before = rig.host.counts();
    probes::probe(&mut rig, &claim, 0);
    rig.found(&claim);
    assert_eq!(rig.host.counts().changes(), before.changes());
    rig.host.kill(&claim);
    assert_ne!(rig.host.counts().changes(), before.changes());
}

#[test]
fn the_story_tells_what_happened_in_order() {
    let mut rig = Rig::new();
    let claim = rig.start("web");
    rig.host.kill(&claim);
    rig.wait();
    let story = rig.host.story();
    let at = |word: &str| story.find(word).unwrap_or_else(|| panic!("{word} is not in\n{story}"));
    assert!(at("spawn ") < at("born ") && at("born ") < at("kill ") && at("kill ") < at("ended "));
}

#[test]
fn a_stranger_that_is_adopted_for_a_doubtful_run_may_be_signalled() {
    let mut rig = Rig::new();
    let mut claim = rig.start("web");
    rig.host.end("web", code(1));
    rig.host.make_unverifiable("web", Doubt::Unverifiable);
    let pid = Pid::new(4_000).unwrap();
    let stranger = rig.host.add_stranger(pid);
    assert_eq!(rig.host.identify(pid), Some(stranger.clone()));
    let at = rig.host.now();
    let Claim { service, nonce, containment, .. } = claim.clone();
    let containment = containment.unwrap();
    rig.host
        .append(&[Record::Started { service, nonce, process: stranger.clone(), containment, at }])
        .unwrap();
    rig.host.make_verifiable("web");
    claim.process = Some(stranger);
    assert_eq!(rig.found(&claim), Found::Alive { born: None });
    rig.host.signal(&claim, TERM, SignalTo::Leader);
    rig.host.assert_alive(&["web"]);
}

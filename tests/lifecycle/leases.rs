//! Leases: who holds a service keeps it, shares it, and stops it by letting go.
//!
//! Ancestor D: each run holds the services it acquired; the last release stops an ephemeral one at once, starts the idle
//! clock, leaves `manual` alone; starts by hand hold no lease; if acquiring fails half-way, all that was acquired is
//! released. Its defect, leases that are lost at startup, is none here.

use nix::errno::Errno;
use reconcile::host::fake::{Behaviour, Birth, FakeHost};
use reconcile::identity::ProcessIdentity;
use reconcile::plan::Phase;
use reconcile::reconciler::command::{Answer, Command};
use reconcile::reconciler::selection::Selector;
use reconcile::reconciler::status::PassReport;
use reconcile::state::{ExitStatus, Holder, LeaseId, SpawnStage};

use crate::rig::{Rig, manifest, secs};

const EPHEMERAL: &str = "lifecycle = 'ephemeral'";
const RESTING: &str = "activation.on = 'request'\nstop_policy = { idle = '15m' }";

fn asleep(more: &str) -> Rig {
    let mut rig = Rig::with("db", more);
    rig.run_until("it sleeps", |rig| rig.reason("db") == "on-demand");
    rig
}

fn names(names: &[&str]) -> Vec<Selector> {
    names.iter().map(|name| Selector::from(*name)).collect()
}

fn of(process: &ProcessIdentity) -> Holder {
    Holder::Process { process: process.clone(), command: "pytest".to_owned() }
}

fn owner(name: &str) -> Holder {
    Holder::Owner { owner: name.to_owned() }
}

fn lease(holder: Holder, services: &[&str]) -> Command {
    let term = matches!(holder, Holder::Owner { .. }).then(|| secs(600));
    Command::Lease { names: names(services), holder, term, timeout: secs(30) }
}

fn release(holder: &Holder) -> Command {
    Command::EndLease { lease: holder.id(), names: Vec::new() }
}

#[track_caller]
fn leased(rig: &mut Rig, holder: Holder, services: &[&str]) {
    match rig.ask(lease(holder, services)) {
        Answer::Status(status) => assert_eq!(status.services.len(), services.len()),
        other => panic!("it is leased, not {other:?}"),
    }
}

fn sleeps(rig: &Rig) -> bool {
    rig.reason("db") == "on-demand"
}

fn held_by(rig: &Rig, name: &str) -> Vec<String> {
    rig.status(name)
        .map(|status| status.leases)
        .unwrap_or_default()
        .into_iter()
        .map(|lease| lease.holder)
        .collect()
}

fn step(report: &PassReport, service: &str) -> Option<String> {
    let mut steps = report.steps.iter();
    steps.find(|step| step.service == service).map(|step| format!("{:?} {}", step.action, step.reason))
}

#[test]
fn two_share_one_which_stops_with_the_last() {
    let mut rig = asleep(EPHEMERAL);
    rig.assert_idle_for(secs(3_600));
    assert_eq!(rig.counts().spawns, 0);
    let (one, other) = (of(&rig.host.begin_holder()), of(&rig.host.begin_holder()));
    leased(&mut rig, one.clone(), &["db"]);
    leased(&mut rig, other.clone(), &["db"]);
    assert_eq!(held_by(&rig, "db").len(), 2);
    rig.assert_idle_for(secs(24 * 3_600));
    rig.done(release(&one));
    rig.assert_idle_for(secs(60));
    assert_eq!((rig.phase("db"), rig.counts().spawns), (Some(Phase::Running), 1));
    let report = rig.done(release(&other));
    assert_eq!(step(&report, "db").as_deref(), Some("Stop released"));
    assert!(sleeps(&rig), "it is gone when that is answered: {:?}", rig.status("db"));
    rig.assert_idle_for(secs(3_600));
    assert_eq!(rig.done(release(&other)).steps, [], "twice is no error");
    let another = of(&rig.host.begin_holder());
    leased(&mut rig, another, &["db"]);
    assert_eq!(rig.counts().spawns, 2);
}

#[test]
fn a_holder_that_ends_lets_go_whoever_watches() {
    let mut rig = asleep(EPHEMERAL);
    let holder = rig.host.begin_holder();
    leased(&mut rig, of(&holder), &["db"]);
    rig.host.end_holder(&holder);
    rig.run_until("it is let go of", sleeps);

    let holder = rig.host.begin_holder();
    leased(&mut rig, of(&holder), &["db"]);
    rig.die(Birth::Before);
    rig.run_for(secs(60));
    assert_eq!(rig.phase("db"), Some(Phase::Running), "leases survive our death");
    rig.host.end_holder(&holder);
    rig.run_until("it is told as well", sleeps);

    let holder = rig.host.begin_holder();
    leased(&mut rig, of(&holder), &["db"]);
    let next = rig.host.reconciler_dies(Birth::Before);
    rig.host.end_holder(&holder);
    rig = Rig::over(next);
    rig.run_until("the next one sees it", sleeps);
    assert_eq!(rig.counts().spawns, 3);
}

#[test]
fn a_holder_whose_pid_is_anothers_by_now_has_ended() {
    let mut rig = asleep(EPHEMERAL);
    let holder = rig.host.begin_holder();
    leased(&mut rig, of(&holder), &["db"]);
    let next = rig.host.reconciler_dies(Birth::Before);
    rig.host.end_holder(&holder);
    rig.host.reuse_pid(holder.pid);
    assert_eq!(rig.host.begin_holder().pid, holder.pid);
    rig = Rig::over(next);
    rig.run_until("it is let go of", sleeps);
}

#[test]
fn a_lease_that_is_not_renewed_runs_out_also_while_nobody_runs_and_in_suspend() {
    let mut rig = asleep(EPHEMERAL);
    leased(&mut rig, owner("ci-1"), &["db"]);
    rig.run_for(secs(540));
    let renewed = rig.ask(Command::RenewLease { lease: LeaseId::from("ci-1"), term: None });
    assert!(matches!(renewed, Answer::Status(_)), "{renewed:?}");
    rig.run_for(secs(540));
    assert_eq!(rig.phase("db"), Some(Phase::Running));
    rig.run_for(secs(61));
    assert_eq!(rig.reason("db"), "on-demand");
    assert_eq!(
        rig.refused(Command::RenewLease { lease: LeaseId::from("ci-1"), term: None }).code,
        "no-lease"
    );

    leased(&mut rig, owner("ci-1"), &["db"]);
    let next = rig.host.reconciler_dies(Birth::Before);
    rig.host.advance(secs(601));
    rig = Rig::over(next);
    rig.run_until("the next one sees it", sleeps);

    leased(&mut rig, owner("ci-1"), &["db"]);
    rig.host.suspend(secs(601));
    rig.run_until("suspend counts", sleeps);
}

#[test]
fn a_reboot_ends_processes_and_not_owners() {
    let mut rig = asleep(EPHEMERAL);
    let another = of(&rig.host.begin_holder());
    leased(&mut rig, another, &["db"]);
    rig.reboot();
    rig.run_until("nobody holds it", sleeps);
    leased(&mut rig, owner("ci-1"), &["db"]);
    rig.reboot();
    rig.run_until_phase("db", Phase::Running);
    assert_eq!(held_by(&rig, "db"), ["ci-1"]);
}

#[test]
fn half_of_a_set_is_let_go_of() {
    let mut rig = Rig::new();
    rig.host.behave("web", Behaviour::default().exec_fails(SpawnStage::Cwd, Errno::ENOENT));
    rig.declare("db", EPHEMERAL);
    rig.declare("web", EPHEMERAL);
    rig.run_until("they sleep", |rig| sleeps(rig) && rig.reason("web") == "on-demand");
    let report = rig.done(lease(of(&rig.host.begin_holder()), &["db", "web"]));
    assert_eq!(report.converged, Some(false));
    assert!(report.unwell.iter().any(|service| service.name == "web"), "{report:?}");
    assert!(sleeps(&rig), "db is gone when that is answered: {:?}", rig.status("db"));
    assert_eq!(held_by(&rig, "web"), [""; 0]);

    // What was held before is kept.
    leased(&mut rig, owner("ci-1"), &["db"]);
    assert_eq!(rig.done(lease(owner("ci-1"), &["web"])).converged, Some(false));
    rig.run_for(secs(60));
    assert_eq!((rig.phase("db"), held_by(&rig, "db")), (Some(Phase::Running), vec!["ci-1".to_owned()]));
}

#[test]
fn who_does_not_wait_for_what_they_lease_gets_nothing() {
    let mut rig = asleep("lifecycle = 'ephemeral'\nstart_settle = '20s'");
    rig.order(lease(owner("ci-1"), &["db"]));
    rig.run_for(secs(5));
    assert!(sleeps(&rig), "{:?}", rig.status("db"));
    assert_eq!(held_by(&rig, "db"), [""; 0]);
}

#[test]
fn what_a_leased_service_depends_on_comes_and_goes_with_it() {
    let mut rig = Rig::new();
    rig.declare("db", EPHEMERAL);
    rig.declare("web", "lifecycle = 'ephemeral'\ndepends_on = ['db']");
    rig.run_until("they sleep", |rig| sleeps(rig) && rig.reason("web") == "on-demand");
    let holder = of(&rig.host.begin_holder());
    leased(&mut rig, holder.clone(), &["web"]);
    assert_eq!(rig.phase("db"), Some(Phase::Running));
    let report = rig.done(release(&holder));
    assert_eq!(step(&report, "web").as_deref(), Some("Stop released"));
    assert_eq!(step(&report, "db").as_deref(), Some("Stop not-needed"));
    assert!(sleeps(&rig));
}

#[test]
fn a_release_is_a_use_from_which_idle_time_counts() {
    let mut rig = asleep(RESTING);
    let holder = of(&rig.host.begin_holder());
    leased(&mut rig, holder.clone(), &["db"]);
    rig.run_for(secs(3_600));
    rig.done(release(&holder));
    rig.run_for(secs(14 * 60));
    assert_eq!(rig.phase("db"), Some(Phase::Running));
    rig.run_for(secs(2 * 60));
    assert!(sleeps(&rig));
}

#[test]
fn manual_and_what_is_always_up_are_left_alone() {
    for more in ["lifecycle = 'ephemeral'\nstop_policy = 'manual'", "activation.on = 'request'", ""] {
        let mut rig = Rig::with("db", more);
        let holder = of(&rig.host.begin_holder());
        leased(&mut rig, holder.clone(), &["db"]);
        rig.done(release(&holder));
        rig.assert_idle_for(secs(3_600));
        assert_eq!((rig.phase("db"), rig.counts().spawns), (Some(Phase::Running), 1), "{more}");
    }
}

#[test]
fn who_holds_it_has_it_restarted() {
    let mut rig = asleep(EPHEMERAL);
    let holder = of(&rig.host.begin_holder());
    leased(&mut rig, holder.clone(), &["db"]);
    rig.host.end("db", ExitStatus::Code(1));
    rig.run_until("it has crashed", |rig| rig.phase("db") != Some(Phase::Running));
    rig.run_until_phase("db", Phase::Running);
    rig.done(release(&holder));
    assert!(sleeps(&rig));
}

#[test]
fn a_failed_one_is_refused_until_its_last_holder_has_let_go() {
    let mut rig = Rig::new();
    rig.host.behave("db", Behaviour::default().exits(secs(2), ExitStatus::Code(1)));
    rig.declare("db", "lifecycle = 'ephemeral'\nrestart.max_failures = 2");
    rig.run_until("it sleeps", sleeps);
    let holder = of(&rig.host.begin_holder());
    leased(&mut rig, holder.clone(), &["db"]);
    rig.run_until_phase("db", Phase::Failed);
    assert_eq!(rig.refused(lease(owner("ci-1"), &["db"])).code, "failed");
    rig.done(release(&holder));
    rig.run_until("it sleeps", sleeps);
    rig.host.behave("db", Behaviour::default());
    leased(&mut rig, owner("ci-1"), &["db"]);
    assert_eq!(rig.failures("db"), 0);
}

#[test]
fn manifests_and_the_operator_win_over_leases_and_say_so() {
    let mut rig = asleep("lifecycle = 'ephemeral'\nstop.grace = '5s'");
    rig.host.behave("db", Behaviour::default().obeys_after(secs(1)));
    let holder = of(&rig.host.begin_holder());
    leased(&mut rig, holder.clone(), &["db"]);
    rig.done(Command::Stop { names: names(&["db"]) });
    let status = rig.status("db").unwrap();
    assert!(status.message.contains("although pytest (pid "), "{}", status.message);
    assert_eq!(rig.refused(lease(owner("ci-1"), &["db"])).code, "stopped");
    rig.done(Command::Start { names: names(&["db"]) });
    assert_eq!(held_by(&rig, "db").len(), 1, "it holds it still");

    rig.host.remove("db.toml");
    rig.run_until("it is being removed", |rig| rig.reason("db") == "removed");
    let status = rig.status("db").unwrap();
    assert!(status.message.contains("although pytest (pid "), "{}", status.message);
    rig.run_until("it is gone", |rig| rig.status("db").is_none());
    assert_eq!(rig.done(release(&holder)).steps, []);
    rig.declare("db", EPHEMERAL);
    rig.run_until("it sleeps: its lease went with it", sleeps);
    rig.assert_idle_for(secs(60));
}

#[test]
fn what_is_started_by_hand_is_held_by_nobody() {
    let mut rig = asleep(EPHEMERAL);
    assert_eq!(rig.refused(Command::Ensure { names: names(&["db"]), timeout: secs(5) }).code, "ephemeral");
    rig.done(Command::Start { names: names(&["db"]) });
    rig.assert_idle_for(secs(3_600));
    assert_eq!(rig.phase("db"), Some(Phase::Running));
    let holder = of(&rig.host.begin_holder());
    leased(&mut rig, holder.clone(), &["db"]);
    rig.done(release(&holder));
    assert!(sleeps(&rig), "the last release stops it all the same");
}

#[test]
fn a_holder_that_cannot_be_told_from_others_holds_nothing() {
    let mut rig = asleep(EPHEMERAL);
    let stranger = ProcessIdentity { pid_ns: 1, ..rig.host.begin_holder() };
    assert_eq!(rig.refused(lease(of(&stranger), &["db"])).code, "unknown-holder");
    let gone = rig.host.begin_holder();
    rig.host.end_holder(&gone);
    assert_eq!(rig.refused(lease(of(&gone), &["db"])).code, "unknown-holder");
    assert_eq!(rig.refused(lease(owner("pid:1:2"), &["db"])).code, "bad-owner");
    let forever =
        Command::Lease { names: names(&["db"]), holder: owner("ci-1"), term: None, timeout: secs(1) };
    assert_eq!(rig.refused(forever).code, "no-term");
    rig.assert_idle_for(secs(60));
    assert_eq!(rig.counts().spawns, 0);
}

/// One is killed at its every call while it acquires for two, and is let go of; the next makes it right.
#[test]
fn a_death_anywhere_leaves_what_is_held_and_nothing_else() {
    for births in [Birth::Before, Birth::After, Birth::TooLate, Birth::Never] {
        let deaths = (0..2_000).take_while(|calls| dies_at(*calls, births)).count();
        assert!(deaths > 20, "it makes {deaths} calls in all");
    }
}

fn dies_at(calls: u64, births: Birth) -> bool {
    let host = FakeHost::new();
    host.write("db.toml", &manifest("db", EPHEMERAL));
    let (one, other) = (host.begin_holder(), host.begin_holder());
    host.die_after(calls);
    let life = FakeHost::until_killed(|| {
        let mut rig = Rig::over(host.clone());
        rig.ask(lease(of(&one), &["db"]));
        rig.ask(lease(of(&other), &["db"]));
        rig.ask(release(&of(&one)));
        rig.host.end_holder(&other);
        rig.run_for(secs(20));
    });
    let mut rig = Rig::over(host.reconciler_dies(births));
    rig.run_for(secs(180));
    let is_held = !held_by(&rig, "db").is_empty();
    rig.host.assert_alive(if is_held { &["db"] } else { &[] });
    rig.assert_idle_for(secs(130));
    for holder in [&one, &other] {
        if held_by(&rig, "db").iter().any(|held| *held == of(holder).to_string()) {
            rig.host.end_holder(holder);
            rig.run_for(secs(20));
        }
    }
    rig.host.assert_alive(&[]);
    rig.assert_idle_for(secs(130));
    life.is_err()
}

#[test]
fn the_policy_bounds_the_time_of_an_owner() {
    let mut rig = asleep(EPHEMERAL);
    rig.configure("[policy]\nmax_lease = \"5m\"\n");
    assert_eq!(rig.refused(lease(owner("ci-1"), &["db"])).code, "policy-refused");
    rig.configure("");
    leased(&mut rig, owner("ci-1"), &["db"]);
    rig.configure("[policy]\nmax_lease = \"5m\"\n");
    let id = LeaseId::from("ci-1");
    assert_eq!(rig.refused(Command::RenewLease { lease: id.clone(), term: None }).code, "policy-refused");
    rig.ask(Command::RenewLease { lease: id, term: Some(secs(300)) });
    let holder = of(&rig.host.begin_holder());
    leased(&mut rig, holder, &["db"]);
}

#[test]
fn a_release_waits_for_what_goes_also_where_the_end_of_the_holder_was_seen_before() {
    let mut rig = Rig::new();
    rig.host.behave("db", Behaviour::default().obeys_after(secs(3)));
    rig.declare("db", EPHEMERAL);
    rig.run_until("it sleeps", sleeps);
    let process = rig.host.begin_holder();
    leased(&mut rig, of(&process), &["db"]);
    rig.host.end_holder(&process);
    rig.run_until("its end was seen", |rig| rig.reason("db") == "released");
    rig.done(Command::EndLease { lease: of(&process).id(), names: names(&["db"]) });
    assert!(sleeps(&rig), "{:?}", rig.status("db"));
    rig.done(Command::EndLease { lease: of(&process).id(), names: names(&["gone"]) });
}

#[test]
fn a_process_that_lets_go_of_one_holds_the_others() {
    let mut rig = Rig::new();
    rig.declare("db", EPHEMERAL);
    rig.declare("web", EPHEMERAL);
    rig.run_until("they sleep", |rig| sleeps(rig) && rig.reason("web") == "on-demand");
    let holder = of(&rig.host.begin_holder());
    leased(&mut rig, holder.clone(), &["db", "web"]);
    rig.done(Command::EndLease { lease: holder.id(), names: names(&["web"]) });
    assert_eq!(rig.reason("web"), "on-demand");
    rig.assert_idle_for(secs(60));
    assert_eq!((rig.phase("db"), held_by(&rig, "db").len()), (Some(Phase::Running), 1));
}

#[test]
fn what_is_asked_for_while_it_is_let_go_of_runs_on() {
    let mut rig = asleep("lifecycle = 'ephemeral'\nstop.grace = '30s'");
    rig.host.behave("db", Behaviour::default().obeys_after(secs(5)));
    let holder = of(&rig.host.begin_holder());
    leased(&mut rig, holder.clone(), &["db"]);
    rig.order(release(&holder));
    rig.run_until_phase("db", Phase::Stopping);
    rig.done(Command::Restart { names: names(&["db"]) });
    rig.assert_idle_for(secs(3_600));
    assert_eq!((rig.phase("db"), rig.counts().spawns), (Some(Phase::Running), 2));
}

/// A holder that has ended while nobody ran lets go before the next use, and not of it.
#[test]
fn an_end_that_nobody_saw_does_not_end_the_next_use() {
    let mut rig = asleep("activation.on = 'request'\nstop_policy = 'on-release'");
    let holder = rig.host.begin_holder();
    leased(&mut rig, of(&holder), &["db"]);
    let next = rig.host.reconciler_dies(Birth::Before);
    rig.host.end_holder(&holder);
    rig = Rig::over(next);
    let ensured = rig.ask(Command::Ensure { names: names(&["db"]), timeout: secs(30) });
    assert!(matches!(ensured, Answer::Status(_)), "{ensured:?}");
    rig.assert_idle_for(secs(3_600));
    assert_eq!(rig.phase("db"), Some(Phase::Running));
}

#[test]
fn to_acquire_more_shortens_nothing() {
    let mut rig = Rig::new();
    rig.declare("db", EPHEMERAL);
    rig.declare("web", EPHEMERAL);
    rig.run_until("they sleep", |rig| sleeps(rig) && rig.reason("web") == "on-demand");
    let long = Command::Lease {
        names: names(&["db"]),
        holder: owner("ci-1"),
        term: Some(secs(4 * 3_600)),
        timeout: secs(30),
    };
    assert!(matches!(rig.ask(long), Answer::Status(_)));
    leased(&mut rig, owner("ci-1"), &["web"]);
    rig.run_for(secs(3_600));
    assert_eq!(rig.phase("db"), Some(Phase::Running), "ten minutes for another one are over");
    rig.run_for(secs(3 * 3_600 + 60));
    assert!(sleeps(&rig));
}

/// Its time is that of one activation, as ever.
#[test]
fn one_whose_time_is_over_is_leased_anew() {
    let mut rig = asleep("lifecycle = 'ephemeral'\nttl = '2m'");
    let holder = of(&rig.host.begin_holder());
    leased(&mut rig, holder.clone(), &["db"]);
    rig.run_until_phase("db", Phase::Expired);
    assert_eq!(held_by(&rig, "db").len(), 1);
    rig.done(release(&holder));
    rig.run_until("it sleeps", sleeps);
    leased(&mut rig, owner("ci-1"), &["db"]);
    assert_eq!((rig.phase("db"), rig.counts().spawns), (Some(Phase::Running), 2));
}

/// The time of a holder may be over before all is up.
#[test]
fn what_ran_out_before_it_was_ready_is_not_acquired() {
    let mut rig = asleep("activation.on = 'request'\nstart_settle = '20s'");
    let short = Command::Lease {
        names: names(&["db"]),
        holder: owner("ci-1"),
        term: Some(secs(5)),
        timeout: secs(60),
    };
    assert_eq!(rig.refused(short).code, "no-lease");
}

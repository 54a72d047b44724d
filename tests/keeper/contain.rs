//! Containment: whatever a service starts ends with it, in a cgroup and under a holder alike.

use reconcile::host::{Claim, Event, Found};
use reconcile::identity::ProcessIdentity;
use reconcile::manifest::SignalTo;
use reconcile::state::{Containment, ExitStatus};

use crate::world::{Kind, World, is_root, may_make_cgroups};

pub fn kinds() -> Vec<Kind> {
    if is_root() { vec![Kind::Found, Kind::Holder, Kind::Nobody] } else { vec![Kind::Found] }
}

/// A leader with a descendant in a session of its own, reparented and with an empty environment.
pub async fn with_escaped(world: &mut World) -> (Claim, ProcessIdentity) {
    let file = world.path("escaped");
    let script = format!(
        "(setsid env -i /bin/sh -c 'echo $$ >{0}.new; /bin/mv {0}.new {0}; exec /bin/sleep 1000' &) ; exec sleep 1000",
        file.display()
    );
    let claim = world.run("web", &script).await;
    let escaped = world.process_in("escaped").await;
    (claim, escaped)
}

#[tokio::test]
async fn runs_are_contained_as_the_machine_allows() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let claim = world.run("web", "exec sleep 1000").await;
        let is_cgroup = matches!(claim.containment, Some(Containment::Cgroup { .. }));
        assert_eq!(is_cgroup, may_make_cgroups() && kind == Kind::Found, "{kind:?}");
        assert_eq!(world.client().info.holders.is_none(), is_cgroup);
    }
}

#[tokio::test]
async fn descendants_that_escaped_end_with_their_service() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let (claim, escaped) = with_escaped(&mut world).await;
        assert!(world.is_alive(&escaped));
        world.client().kill(&claim);
        assert_eq!(world.exited(&claim).await.0, Some(ExitStatus::Signal(libc::SIGKILL)));
        world.gone(&claim).await;
        assert!(!world.is_alive(&escaped), "{kind:?}");
    }
}

#[tokio::test]
async fn what_a_leader_leaves_behind_is_told_and_can_be_killed() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let (claim, escaped) = with_escaped(&mut world).await;
        world.client().signal(&claim, libc::SIGTERM, SignalTo::Leader);
        assert_eq!(world.exited(&claim).await, (Some(ExitStatus::Signal(libc::SIGTERM)), true), "{kind:?}");
        assert!(world.is_alive(&escaped));
        let Found::Ended { status, others, .. } = world.found(&claim) else {
            panic!("{:?}", world.found(&claim))
        };
        assert_eq!((status, others), (Some(ExitStatus::Signal(libc::SIGTERM)), true));
        world.client().kill(&claim);
        world.gone(&claim).await;
        assert!(!world.is_alive(&escaped), "{kind:?}");
        let Found::Ended { others, .. } = world.found(&claim) else { panic!("{:?}", world.found(&claim)) };
        assert!(!others);
    }
}

#[tokio::test]
async fn leftovers_that_end_by_themselves_are_told_without_a_kill() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let go = world.path("go");
        let wait = format!("while ! [ -e {} ]; do sleep 0.01; done", go.display());
        let claim = world.run("web", &format!("setsid sh -c '{wait}' & exit 4")).await;
        assert_eq!(world.exited(&claim).await, (Some(ExitStatus::Code(4)), true), "{kind:?}");
        std::fs::write(&go, "").unwrap();
        world.gone(&claim).await;
    }
}

#[tokio::test]
async fn a_keeper_sleeps_while_leftovers_live() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let claim = world.run("web", "setsid sleep 1000 & exit 0").await;
        assert_eq!(world.exited(&claim).await, (Some(ExitStatus::Code(0)), true), "{kind:?}");
        let figures = format!("/proc/{}/schedstat", world.keeper().pid);
        let (mut before, mut same) = (String::new(), 0);
        world
            .eventually("it has not run at all for a while", || {
                let now = std::fs::read_to_string(&figures).unwrap();
                same = if now == before { same + 1 } else { 0 };
                before = now;
                same == 100
            })
            .await;
        world.client().kill(&claim);
        world.gone(&claim).await;
    }
}

#[tokio::test]
async fn a_keeper_signals_neither_itself_nor_its_client() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let me = world.here.identity(std::process::id() as i32).unwrap();
        for process in [me, world.keeper().clone()] {
            let gone = ProcessIdentity { start_ticks: process.start_ticks + 1, ..process.clone() };
            let claim = Claim {
                service: reconcile::identity::ServiceId::parse("web").unwrap(),
                nonce: world.nonce(),
                process: Some(process),
                containment: Some(Containment::Holder { process: gone, within: None }),
                epoch: world.epoch,
            };
            world.client().kill(&claim);
            world.client().signal(&claim, libc::SIGKILL, SignalTo::Leader);
            assert_eq!(world.client.as_mut().unwrap().list().await, Some(Vec::new()));
        }
    }
}

#[tokio::test]
async fn a_group_signal_reaches_the_group_and_nobody_else() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let trap = |name: &str, world: &World| {
            let file = world.path(name);
            format!(
                "trap 'echo got >{0}.got' TERM; echo $$ >{0}; while :; do sleep 0.02; done",
                file.display()
            )
        };
        let script = format!(
            "sh -c \"{}\" & setsid sh -c \"{}\" & {}",
            trap("member", &world).replace('$', "\\$"),
            trap("outside", &world).replace('$', "\\$"),
            trap("leader", &world)
        );
        let claim = world.run("web", &script).await;
        for name in ["member", "outside", "leader"] {
            world.process_in(name).await;
        }
        world.client().signal(&claim, libc::SIGTERM, SignalTo::Group);
        world
            .eventually("the group got it", || {
                world.path("member.got").exists() && world.path("leader.got").exists()
            })
            .await;
        assert!(!world.path("outside.got").exists(), "{kind:?}");
        std::fs::remove_file(world.path("member.got")).unwrap();
        std::fs::remove_file(world.path("leader.got")).unwrap();
        world.client().signal(&claim, libc::SIGTERM, SignalTo::Leader);
        world.eventually("the leader got it", || world.path("leader.got").exists()).await;
        assert!(!world.path("member.got").exists(), "{kind:?}");
        // It ignores all that; nobody ignores this.
        world.client().kill(&claim);
        assert_eq!(world.exited(&claim).await.0, Some(ExitStatus::Signal(libc::SIGKILL)));
        world.gone(&claim).await;
    }
}

#[tokio::test]
async fn processes_that_never_stop_forking_are_ended() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let script = world.path("chain");
        // Twelve chains, each link of which starts the next in a new session and ends; 2,000 links at most each, all of which a machine has pids for.
        let body = "#!/bin/sh\n[ $1 -gt 2000 ] || { setsid $0 $(($1 + 1)) & }\n";
        std::fs::write(&script, body).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        let start =
            format!("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do {} 0 & done; exec sleep 1000", script.display());
        let claim = world.run("web", &start).await;
        world.client().kill(&claim);
        world.gone(&claim).await;
        let name = script.to_str().unwrap();
        assert_eq!(count_running(name), 0, "{kind:?}");
    }
}

#[tokio::test]
async fn a_small_fork_bomb_is_ended() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        // 2^8 processes, each of which waits for its two.
        let bomb = "b() { if [ $1 -gt 0 ]; then b $(($1 - 1)) & b $(($1 - 1)) & fi; sleep 1000; }; b 7";
        let claim = world.run("web", bomb).await;
        world.client().kill(&claim);
        world.gone(&claim).await;
        let Found::Ended { others: false, .. } = world.found(&claim) else {
            panic!("{:?}", world.found(&claim))
        };
    }
}

/// Processes with this word on their command line.
fn count_running(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.split(|&byte| byte == 0).any(|part| part == word.as_bytes())
        })
        .count()
}

#[tokio::test]
async fn a_stopped_holder_does_not_save_its_service() {
    let mut world = World::new(Kind::Holder).await;
    let claim = world.run("web", "exec sleep 1000").await;
    let Some(Containment::Holder { process: holder, .. }) = &claim.containment else { panic!("{claim:?}") };
    world.here.pin(holder).unwrap().signal(libc::SIGSTOP).unwrap();
    world.client().kill(&claim);
    world.gone(&claim).await;
}

#[tokio::test]
async fn a_lost_holder_is_said_to_be_lost_and_nothing_is_guessed() {
    // An ordinary user's runs end with the cgroup that they share with others, if it is known that it has emptied.
    let kinds = if is_root() { vec![Kind::Holder, Kind::Nobody] } else { vec![Kind::Holder] };
    for kind in kinds {
        lose_a_holder(kind).await;
    }
}

async fn lose_a_holder(kind: Kind) {
    let mut world = World::new(kind).await;
    let (claim, escaped) = with_escaped(&mut world).await;
    let Some(Containment::Holder { process: holder, .. }) = &claim.containment else { panic!("{claim:?}") };
    world.here.pin(holder).unwrap().signal(libc::SIGKILL).unwrap();
    let leader = claim.process.clone().unwrap();
    world
        .eventually("its loss is seen", || {
            world.found(&claim) == Found::ContainmentLost { pid: Some(leader.pid) }
        })
        .await;
    world.client().kill(&claim);
    assert_eq!(world.exited(&claim).await, (Some(ExitStatus::Signal(libc::SIGKILL)), true));
    world.until(|event| matches!(event, Event::Unkillable { .. })).await;
    assert_eq!(world.found(&claim), Found::ContainmentLost { pid: None });
    // It cannot be proved to be ours any more.
    assert!(world.is_alive(&escaped));
    world.here.pin(&escaped).unwrap().signal(libc::SIGKILL).unwrap();
    world.eventually("the test has ended it", || !world.is_alive(&escaped)).await;
}

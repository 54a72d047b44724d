//! The link against a keeper that says exactly what a test wants it to say.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::host::keeper::KeeperInfo;
use crate::host::keeper::protocol::{Message, PROTOCOL, Request, encode};
use crate::host::proc::Here;
use crate::identity::ServiceId;
use crate::state::Containment;

const BOUND: Duration = Duration::from_secs(30);

struct Rig {
    link: KeeperLink,
    listener: UnixListener,
    _dir: tempfile::TempDir,
}

/// The keeper's end of one connection.
struct Peer {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = StateLayout { dir: dir.path().to_owned() };
        let listener = UnixListener::bind(dir.path().join(layout.keeper_socket())).unwrap();
        Self { link: KeeperLink::new(layout, InstanceId::from_u64(1)), listener, _dir: dir }
    }

    /// The next connection, while the link waits for events; there must be none.
    async fn accept(&mut self) -> UnixStream {
        tokio::select! {
            event = self.link.next() => panic!("{event:?}"),
            accepted = self.listener.accept() => accepted.unwrap().0,
        }
    }

    async fn greeted(&mut self) -> Peer {
        let mut peer = Peer::of(self.accept().await);
        peer.greet().await;
        peer
    }

    async fn event(&mut self) -> Event {
        tokio::time::timeout(BOUND, self.link.next()).await.expect("an event in time")
    }

    /// What the keeper hears next but pings, while the link waits for events.
    async fn request(&mut self, peer: &mut Peer) -> Request {
        loop {
            let request = tokio::select! {
                event = self.link.next() => panic!("{event:?}"),
                request = peer.hear() => request,
            };
            if !matches!(request, Request::Ping { .. }) {
                return request;
            }
        }
    }
}

impl Peer {
    fn of(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { lines: BufReader::new(reader).lines(), writer }
    }

    async fn hear(&mut self) -> Request {
        serde_json::from_str(&self.lines.next_line().await.unwrap().expect("it is connected")).unwrap()
    }

    async fn say(&mut self, message: &Message) {
        self.writer.write_all(&encode(message)).await.unwrap();
    }

    async fn greet(&mut self) {
        self.greet_as(PROTOCOL, "1").await;
    }

    async fn greet_as(&mut self, protocol: u32, version: &str) {
        assert!(matches!(self.hear().await, Request::Hello { .. }));
        let keeper = Here::read().unwrap().own_identity().unwrap();
        self.say(&Message::Hello {
            protocol,
            version: version.into(),
            keeper,
            holders: None,
            sockets: None,
            notify: true,
            secrets: false,
        })
        .await;
    }

    /// Of a link whose first words are these.
    async fn expect(&mut self, request: Request) {
        loop {
            match self.hear().await {
                Request::Ping { id } => self.say(&Message::Pong { id }).await,
                other => return assert_eq!(other, request),
            }
        }
    }
}

fn claim(nonce: u64) -> Claim {
    Claim {
        service: ServiceId::parse("web").unwrap(),
        nonce: Nonce::from_u64(nonce),
        process: None,
        containment: Some(Containment::Cgroup { path: "/".into() }),
        epoch: 1,
    }
}

#[tokio::test]
async fn connecting_goes_on_however_often_waiting_for_it_is_cut_short() {
    let mut rig = Rig::new();
    rig.link.kill(&claim(1));
    let mut peer = Peer::of(rig.accept().await);
    for _ in 0..10 {
        tokio::select! {
            biased;
            event = rig.link.next() => panic!("{event:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    peer.greet().await;
    assert_eq!(rig.request(&mut peer).await, Request::Kill { claim: claim(1) });
}

#[tokio::test]
async fn settling_waits_until_the_keeper_has_heard_everything() {
    let mut rig = Rig::new();
    rig.link.kill(&claim(1));
    let Rig { link, listener, .. } = &mut rig;
    let keeper = async {
        let mut peer = Peer::of(listener.accept().await.unwrap().0);
        peer.greet().await;
        let mut heard = Vec::new();
        while !heard.contains(&Request::List) {
            heard.push(peer.hear().await);
        }
        peer.say(&Message::Cells { cells: Vec::new() }).await;
        heard
    };
    let (heard, ()) = tokio::join!(keeper, link.settle());
    assert_eq!(heard[0], Request::Kill { claim: claim(1) });
}

#[tokio::test]
async fn a_run_is_attached_once_for_each_connection() {
    let mut rig = Rig::new();
    rig.link.attach_if_needed(claim(1));
    let mut peer = rig.greeted().await;
    rig.link.attach_if_needed(claim(1));
    rig.link.attach_if_needed(claim(2));
    assert_eq!(rig.request(&mut peer).await, Request::Attach { claim: claim(1) });
    assert_eq!(rig.request(&mut peer).await, Request::Attach { claim: claim(2) });
    rig.link.attach(claim(1));
    assert_eq!(rig.request(&mut peer).await, Request::Attach { claim: claim(1) });
    drop(peer);
    assert_eq!(rig.event().await, Event::KeeperLost);
    rig.link.attach_if_needed(claim(2));
    let mut peer = rig.greeted().await;
    assert_eq!(rig.request(&mut peer).await, Request::Attach { claim: claim(2) });
}

#[tokio::test]
async fn a_keeper_that_dies_at_once_is_not_started_again_at_once() {
    let mut rig = Rig::new();
    rig.link.kill(&claim(1));
    drop(rig.greeted().await);
    assert_eq!(rig.event().await, Event::KeeperLost);
    assert_eq!(rig.link.backoff.pause(), Duration::from_secs(1));
    assert!(!rig.link.is_unresponsive());
}

#[tokio::test]
async fn a_keeper_that_falls_silent_is_told_and_its_return_too() {
    let mut rig = Rig::new();
    rig.link.kill(&claim(1));
    let hung = rig.greeted().await;
    assert_eq!(rig.event().await, Event::KeeperLost);
    assert!(rig.link.is_unresponsive());
    // Not even kept for later: whoever asked looks again when it is back.
    rig.link.attach_if_needed(claim(1));
    let mut peer = rig.greeted().await;
    assert_eq!(rig.event().await, Event::KeeperLost);
    assert!(!rig.link.is_unresponsive());
    rig.link.attach_if_needed(claim(1));
    assert_eq!(rig.request(&mut peer).await, Request::Attach { claim: claim(1) });
    drop(hung);
}

#[tokio::test]
async fn what_is_dropped_without_a_keeper_is_told_as_a_loss() {
    let mut rig = Rig::new();
    rig.link.kill(&claim(1));
    let mut peer = Peer::of(rig.accept().await);
    peer.writer.write_all(b"nonsense\n").await.unwrap();
    assert_eq!(rig.event().await, Event::KeeperLost);
    assert!(!rig.link.is_unresponsive());
}

/// Whatever it holds is not touched, and no second one is started: it listens, and holds no lock in this test.
#[tokio::test]
async fn a_keeper_that_does_not_serve_us_holds_all_that_there_is() {
    let here = Here::read().unwrap().own_identity().unwrap();
    let too_old = Message::Hello {
        protocol: 0,
        version: "0.0.1".into(),
        keeper: here,
        holders: None,
        sockets: None,
        notify: true,
        secrets: false,
    };
    let refusal = Message::Refused { nonce: None, detail: "protocol 1 is too old".into() };
    for answer in [too_old, refusal] {
        let mut rig = Rig::new();
        rig.link.kill(&claim(1));
        let mut peer = Peer::of(rig.accept().await);
        peer.hear().await;
        peer.say(&answer).await;
        assert_eq!(rig.event().await, Event::KeeperLost);
        assert!(rig.link.is_unresponsive());
        // It is asked again, and served once it has changed.
        let _peer = rig.greeted().await;
        assert_eq!(rig.event().await, Event::KeeperLost);
        assert!(!rig.link.is_unresponsive());
    }
}

impl Rig {
    /// A keeper of this version, and a link that has asked it for an upgrade.
    async fn asked_to_upgrade(&mut self) -> Peer {
        self.link.kill(&claim(1));
        let mut peer = Peer::of(self.accept().await);
        peer.greet_as(PROTOCOL, "0.0.1").await;
        assert_eq!(self.request(&mut peer).await, Request::Kill { claim: claim(1) });
        self.hear_upgrade(&mut peer).await;
        peer
    }

    async fn hear_upgrade(&mut self, peer: &mut Peer) {
        let Request::Upgrade { exe } = self.request(peer).await else { panic!("an upgrade") };
        assert_eq!(exe.path, std::env::current_exe().unwrap());
    }
}

#[tokio::test]
async fn an_older_keeper_is_asked_to_become_our_program_and_met_again_at_once() {
    let mut rig = Rig::new();
    let peer = rig.asked_to_upgrade().await;
    // Whoever is about to change does not hear it.
    rig.link.kill(&claim(2));
    drop(peer);
    assert_eq!(rig.event().await, Event::KeeperLost);
    assert_eq!(rig.link.backoff.pause(), Duration::ZERO);
    let mut peer = Peer::of(rig.accept().await);
    peer.greet_as(PROTOCOL, env!("CARGO_PKG_VERSION")).await;
    assert_eq!(rig.request(&mut peer).await, Request::Kill { claim: claim(2) });
    assert_eq!(rig.link.upgrade.due(), None);
}

#[tokio::test]
async fn a_keeper_that_is_busy_serves_on_and_is_asked_again() {
    let mut rig = Rig::new();
    let mut peer = rig.asked_to_upgrade().await;
    for busy in [true, false] {
        rig.link.kill(&claim(2));
        peer.say(&Message::NotUpgraded { busy, detail: "not now".into() }).await;
        assert_eq!(rig.request(&mut peer).await, Request::Kill { claim: claim(2) });
        assert!(!rig.link.upgrade.is_asked());
        rig.hear_upgrade(&mut peer).await;
    }
}

/// Nothing that is asked for waits for it for ever.
#[tokio::test]
async fn a_keeper_that_does_not_answer_to_an_upgrade_is_gone_on_with() {
    let mut rig = Rig::new();
    let mut peer = rig.asked_to_upgrade().await;
    rig.link.kill(&claim(2));
    loop {
        let heard = tokio::select! {
            event = rig.link.next() => panic!("{event:?}"),
            heard = peer.hear() => heard,
        };
        match heard {
            Request::Ping { id } => peer.say(&Message::Pong { id }).await,
            heard => break assert_eq!(heard, Request::Kill { claim: claim(2) }),
        }
    }
    assert!(!rig.link.upgrade.is_asked());
}

/// The link itself knows of a job, and does not even ask.
#[tokio::test]
async fn a_keeper_that_runs_a_job_is_not_asked_to_change() {
    let mut rig = Rig::new();
    rig.link.upgrade.met(&KeeperInfo {
        keeper: Here::read().unwrap().own_identity().unwrap(),
        version: "0.0.1".into(),
        protocol: PROTOCOL,
        holders: None,
        sockets: None,
        notify: true,
        secrets: false,
    });
    assert!(rig.link.upgrade.due().is_some_and(|at| at <= Instant::now()));
    rig.link.waiting.push(Asked::Kill(claim(1)));
    rig.link.upgrade_is_due();
    assert!(!rig.link.upgrade.is_asked());
    assert!(rig.link.upgrade.due().is_some_and(|at| at > Instant::now()));
}

#[tokio::test]
async fn a_newer_keeper_is_used_as_it_is() {
    for version in [env!("CARGO_PKG_VERSION"), "99.0.0", "of the future"] {
        let mut rig = Rig::new();
        rig.link.kill(&claim(1));
        let mut peer = Peer::of(rig.accept().await);
        peer.greet_as(PROTOCOL, version).await;
        assert_eq!(rig.request(&mut peer).await, Request::Kill { claim: claim(1) });
        assert_eq!(rig.link.upgrade.due(), None, "{version}");
    }
}

#[tokio::test]
async fn settling_waits_for_an_upgrade_and_asks_the_new_program() {
    let mut rig = Rig::new();
    let peer = rig.asked_to_upgrade().await;
    rig.link.kill(&claim(2));
    let Rig { link, listener, .. } = &mut rig;
    let keeper = async {
        drop(peer);
        let mut peer = Peer::of(listener.accept().await.unwrap().0);
        peer.greet_as(PROTOCOL, env!("CARGO_PKG_VERSION")).await;
        peer.expect(Request::Kill { claim: claim(2) }).await;
        peer.expect(Request::List).await;
        peer.say(&Message::Cells { cells: Vec::new() }).await;
    };
    tokio::join!(keeper, link.settle());
}

//! The link against a keeper that says exactly what a test wants it to say.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::*;
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
        assert!(matches!(self.hear().await, Request::Hello { .. }));
        let keeper = Here::read().unwrap().own_identity().unwrap();
        let hello = Message::Hello { protocol: PROTOCOL, version: "1".into(), keeper, holders: None };
        self.say(&hello).await;
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
    let refusal = Message::Refused { nonce: None, detail: "no".into() };
    let mut peer = Peer::of(rig.accept().await);
    peer.say(&refusal).await;
    assert_eq!(rig.event().await, Event::KeeperLost);
    assert!(!rig.link.is_unresponsive());
}

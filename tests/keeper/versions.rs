//! Clients of other versions: understood, or refused with a sentence and nothing touched.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use reconcile::host::keeper::protocol::{Message, OLDEST_PROTOCOL, PROTOCOL};

use crate::world::{BOUND, Kind, World};

/// A client that says what no program of today would.
struct Peer(BufReader<UnixStream>);

impl Peer {
    fn connect(world: &World) -> Self {
        let stream = UnixStream::connect(world.path("keeper.sock")).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        Self(BufReader::new(stream))
    }

    fn ask(&mut self, line: &str) -> Message {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    fn hello(&mut self, world: &World, protocol: u32) -> Message {
        let instance = &world.instance;
        self.ask(&format!(
            "{{\"request\":\"hello\",\"protocol\":{protocol},\"instance\":\"{instance}\",\"mood\":\"good\"}}"
        ))
    }
}

#[tokio::test]
async fn a_client_that_is_newer_is_spoken_to_as_we_can() {
    let mut world = World::new(Kind::Found).await;
    let claim = world.run("web", "exec sleep 1000").await;
    let mut newer = Peer::connect(&world);
    let Message::Hello { protocol, version, .. } = newer.hello(&world, PROTOCOL + 1) else {
        panic!("a hello")
    };
    assert_eq!((protocol, version.as_str()), (PROTOCOL, env!("CARGO_PKG_VERSION")));
    // It has agreed to our version; what it says beyond that is refused and costs nothing.
    let answer = newer.ask("{\"request\":\"of-the-future\",\"claim\":1}");
    let Message::Refused { nonce: None, detail } = answer else { panic!("{answer:?}") };
    assert!(detail.contains("of-the-future"), "{detail}");
    let Message::Cells { cells } = newer.ask("{\"request\":\"list\",\"of\":\"everything\"}") else {
        panic!("a list")
    };
    assert_eq!(cells.len(), 1);
    assert!(world.is_alive(claim.process.as_ref().unwrap()));
}

#[tokio::test]
async fn a_client_that_is_too_old_is_told_so_and_takes_nobodys_place() {
    let mut world = World::new(Kind::Found).await;
    let mut older = Peer::connect(&world);
    let answer = older.hello(&world, OLDEST_PROTOCOL - 1);
    let Message::Refused { nonce: None, detail } = answer else { panic!("{answer:?}") };
    assert!(detail.contains("too old"), "{detail}");
    let answer = older.ask("{\"request\":\"trim-exits\",\"keep\":[]}");
    assert!(matches!(answer, Message::Refused { .. }), "{answer:?}");
    // The one that is served is served on.
    let claim = world.run("web", "exit 3").await;
    world.gone(&claim).await;
}

//! Sockets: the keeper holds them, passes them to what it starts, lends them, and takes them along.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use reconcile::host::keeper::{Heard, SocketNews, lend};
use reconcile::host::listen::{HeldSocket, Listen, SocketKey};
use reconcile::identity::ServiceId;
use reconcile::manifest::ListenOn;
use reconcile::state::SpawnStage;

use crate::contain::kinds;
use crate::world::{BOUND, Kind, World};

/// A socket on a port that is free at the moment.
fn open(service: &str, name: &str) -> (HeldSocket, OwnedFd, SocketAddr) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listen = Listen { address: ListenOn::Tcp(free), mode: 0, owner: None };
    let (descriptor, file) = listen.open().unwrap();
    let key = SocketKey { service: ServiceId::parse(service).unwrap(), name: name.to_owned() };
    (HeldSocket { key, listen, file }, descriptor, free)
}

impl World {
    async fn socket_news(&mut self) -> SocketNews {
        let next = self.client.as_mut().expect("connected").next();
        match tokio::time::timeout(BOUND, next).await {
            Ok(Heard::Socket(news)) => news,
            other => self.fail(&format!("{other:?}")),
        }
    }

    async fn hold(&mut self, service: &str, name: &str) -> (HeldSocket, SocketAddr) {
        let (socket, descriptor, address) = open(service, name);
        self.client().hold(socket.clone(), descriptor);
        assert_eq!(self.socket_news().await, SocketNews::Holding(socket.clone()));
        (socket, address)
    }
}

fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

#[tokio::test]
async fn what_is_started_finds_its_sockets_from_descriptor_3_on_and_nothing_else() {
    for kind in kinds() {
        let mut world = World::new(kind).await;
        let (web, at_web) = world.hold("web", "http").await;
        let (_, _) = world.hold("other", "http").await;
        let (admin, at_admin) = world.hold("web", "admin").await;
        let script = "echo $LISTEN_PID $$ $LISTEN_FDS $LISTEN_FDNAMES; ls -l /proc/$$/fd; \
                      exec perl -e 'for my $fd (3, 4) { open my $l, \"+<&=\", $fd or die; accept my $c, $l or die; \
                      syswrite $c, \"$fd\\n\"; close $c } sleep 60'";
        let mut request = world.shell("web", script);
        request.env.push(("LISTEN_FDS".into(), "77".into()));
        request.sockets = vec![admin.key.name.clone(), web.key.name.clone()];
        let run = world.spawn(request).await;
        for (address, expected) in [(at_admin, "3\n"), (at_web, "4\n")] {
            let mut text = String::new();
            TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, expected, "{kind:?}");
        }
        let log = world.log("web");
        let words: Vec<&str> = log.lines().next().unwrap().split(' ').collect();
        let pid = run.process.as_ref().unwrap().pid.to_string();
        assert_eq!(words, [pid.as_str(), &pid, "2", "admin:http"], "{kind:?}");
        assert_eq!(log.matches("socket:").count(), 2, "{kind:?}: {log}");
        world.client().kill(&run);
        world.gone(&run).await;
        let mut stream = TcpStream::connect(at_web).unwrap();
        stream.write_all(b"it waits").unwrap();
    }
}

#[tokio::test]
async fn nothing_is_started_without_the_sockets_that_it_is_to_have() {
    let mut world = World::new(Kind::Found).await;
    let mut request = world.shell("web", "exit 0");
    request.sockets = vec!["http".to_owned()];
    let failure = world.failure(request).await;
    assert_eq!((failure.stage, failure.errno), (SpawnStage::Socket, 0), "{failure:?}");
}

#[tokio::test]
async fn sockets_outlive_clients_and_upgrades_and_keep_the_keeper_there() {
    let mut world = World::new(Kind::Found).await;
    let keeper = world.keeper().clone();
    let (socket, address) = world.hold("web", "http").await;
    world.disconnect().await;
    assert!(!is_refused(address));
    world.connect().await;
    assert_eq!(world.client().info.sockets, Some(vec![socket.clone()]));
    for _ in 0..2 {
        world.upgrade(std::path::Path::new(crate::world::EXE)).await;
        assert_eq!(world.client().info.sockets, Some(vec![socket.clone()]));
        assert!(!is_refused(address));
    }
    let lent = lend(&world.layout, &socket.key).unwrap().unwrap();
    assert_eq!(std::net::TcpListener::from(lent).local_addr().unwrap(), address);
    let unknown = SocketKey { name: "other".to_owned(), ..socket.key.clone() };
    assert!(lend(&world.layout, &unknown).unwrap().is_none());
    world.client().release(&socket.key);
    assert_eq!(world.socket_news().await, SocketNews::Released(socket));
    assert!(is_refused(address));
    world.disconnect().await;
    world.eventually("it has left", || !world.is_alive(&keeper)).await;
}

#[tokio::test]
async fn a_program_that_cannot_read_what_it_is_handed_closes_what_nobody_knows() {
    let mut world = World::new(Kind::Found).await;
    let (_, address) = world.hold("web", "http").await;
    let broken = crate::upgrade::broken(&world);
    world.upgrade(&broken).await;
    assert_eq!(world.client().info.sockets, Some(Vec::new()));
    assert!(is_refused(address));
    assert!(fs::read_to_string(world.path("keeper.log")).unwrap().contains("cannot be read"));
}

#[tokio::test]
async fn another_socket_of_the_same_name_takes_its_place() {
    let mut world = World::new(Kind::Found).await;
    let (_, before) = world.hold("web", "http").await;
    let (socket, address) = world.hold("web", "http").await;
    assert!(is_refused(before) && !is_refused(address));
    world.disconnect().await;
    world.connect().await;
    assert_eq!(world.client().info.sockets, Some(vec![socket]));
}

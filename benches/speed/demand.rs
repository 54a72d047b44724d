//! From a connection to the first byte of the service that it starts, and what goes through the proxy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::figure::{Figure, Samples};
use crate::floor;
use crate::latency::how;
use crate::stamp::{self, Program};
use crate::world::{Containment, World};

/// (h) Somebody connects to a service that sleeps; it ends with its answer, and sleeps again.
pub fn of_a_connection(program: &Program, containment: Containment, rounds: usize) -> Vec<Figure> {
    let mut world = World::new(containment, program);
    let address = free();
    let text = format!(
        "[service.s]\ncommand = [{:?}]\nsockets.s = \"{address}\"\nactivation.on = \"connection\"\n",
        program.answering()
    );
    let (staged, target) = world.stage("s", &text);
    std::fs::rename(staged, target).unwrap();
    world.start_watcher();
    world.wait_until_asleep(1);
    // The first one brings up what is not measured.
    floor::first_byte(address);
    let ours: Samples = (0..rounds).map(|_| floor::first_byte(address)).collect();
    let floor = floor::connection_to_byte(program, rounds);
    let what = format!("connected → first byte of the service{}", how(containment));
    vec![
        Figure::new(format!("{what}, p50"), ours.p50()).beside(floor.p50()),
        Figure::new(format!("{what}, p95"), ours.p95()).beside(floor.p95()),
    ]
}

/// How much goes through the proxy.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    pub bytes: u64,
    pub questions: usize,
    pub connections: usize,
}

/// (i) A server in this process, spoken to directly and through the proxy.
pub fn proxied(program: &Program, traffic: Traffic) -> Vec<Figure> {
    let server = serve();
    let mut world = World::new(Containment::Default, program);
    let address = free();
    let text = format!(
        "[service.s]\ncommand = [{:?}]\nsockets.s = \"{address}\"\nactivation.proxy = \"{server}\"\n",
        program.path()
    );
    let (staged, target) = world.stage("s", &text);
    std::fs::rename(staged, target).unwrap();
    world.start_watcher();
    world.wait_until_running(1);
    let Traffic { bytes, questions, connections } = traffic;
    let opened = |to| -> Samples {
        let begun = |_| {
            let begun = stamp::now();
            ask(&mut connect(to), 1);
            stamp::now() - begun
        };
        (0..connections).map(begun).collect()
    };
    let on_one = |to| -> Samples {
        let mut stream = connect(to);
        (0..questions).map(|_| ask(&mut stream, 1)).collect()
    };
    // Both have been spoken to before anything is measured.
    for to in [server, address] {
        opened(to);
    }
    let (direct, through) = (on_one(server), on_one(address));
    let (direct_new, through_new) = (opened(server), opened(address));
    let (direct_bulk, through_bulk) = (ask(&mut connect(server), bytes), ask(&mut connect(address), bytes));
    vec![
        Figure::new("question and answer through the proxy, p50", through.p50()).beside(direct.p50()),
        Figure::new("question and answer through the proxy, p95", through.p95()).beside(direct.p95()),
        Figure::new("the same on a new connection, p50", through_new.p50()).beside(direct_new.p50()),
        Figure::new(format!("{} MB through the proxy", bytes / 1_000_000), through_bulk).beside(direct_bulk),
    ]
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    stream
}

/// Asks for as many bytes; how long until all of them are there.
fn ask(stream: &mut TcpStream, bytes: u64) -> Duration {
    let begun = stamp::now();
    stream.write_all(&bytes.to_le_bytes()).unwrap();
    let copied = std::io::copy(&mut stream.take(bytes), &mut std::io::sink()).unwrap();
    assert_eq!(copied, bytes, "the connection ended early");
    stamp::now() - begun
}

/// Answers a number with as many bytes, on each connection until it ends. Ends with this process.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(|| answer(stream.unwrap()));
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> Option<()> {
    let block = vec![0; 64 << 10];
    stream.set_nodelay(true).ok()?;
    loop {
        let mut number = [0; 8];
        stream.read_exact(&mut number).ok()?;
        let mut left = u64::from_le_bytes(number);
        while left > 0 {
            let part = left.min(block.len() as u64);
            stream.write_all(&block[..part as usize]).ok()?;
            left -= part;
        }
    }
}

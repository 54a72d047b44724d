//! Sockets on which we accept for programs that know nothing of being passed one, and hand on what is said.
//!
//! A connection waits until there is somebody to hand it on to, and is refused when it has waited long enough, or when
//! the start that it waited for has failed. It is handed on byte by byte, both ways, until both sides have ended. What is
//! open ends with this process; the socket itself is the keeper's. There are no more at a time than leave us the
//! descriptors to look after services with: whoever comes then waits in the queue of the socket. Sources: tcp(7) on Nagle's algorithm, which would hold
//! back what the service has sent.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::doors::{borrow, refuse};
use crate::host::listen::{Proxy, SocketKey, SocketUse};
use crate::host::{Event, StateLayout, clock};
use crate::manifest::ListenOn;
use crate::time::Stamp;

/// Each way, of one connection.
const BUFFER_BYTES: usize = 64 << 10;

/// Until a service that is up and does not listen yet is tried again.
const CONNECT_AGAIN: Duration = Duration::from_millis(20);

/// Until it is accepted again, where there were no descriptors for it.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Kept free for all else: what is watched, probed, asked for and looked at.
const KEPT_FREE: u64 = 512;

/// The most at a time, of all services; each has two descriptors and the buffers of both ways.
const MOST: u64 = 4096;

/// Room for connections at a time: of all services, and of one, which has half of it at most.
#[derive(Debug, Clone)]
pub(super) struct Room {
    all: Arc<Semaphore>,
    of_one: usize,
}

impl Room {
    /// `descriptors`: how many we may have.
    pub fn for_limit(descriptors: u64) -> Self {
        let free = descriptors.saturating_sub(KEPT_FREE.min(descriptors / 2));
        let all = (free / 2).clamp(2, MOST) as usize;
        Self { all: Arc::new(Semaphore::new(all)), of_one: all / 2 }
    }
}

/// A connection's place in the room of its service, and in that of all.
type Place = (OwnedSemaphorePermit, OwnedSemaphorePermit);

#[derive(Debug)]
pub(super) struct Proxied {
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    key: SocketKey,
    events: mpsc::UnboundedSender<Event>,
    state: watch::Sender<State>,
    open: AtomicUsize,
    waiting: AtomicUsize,
    used: Mutex<Option<Stamp>>,
    room: Room,
    own_room: Arc<Semaphore>,
}

#[derive(Debug, Clone)]
struct State {
    proxy: Proxy,
    /// How often those who waited were turned away, and why the last time.
    turned_away: (u64, String),
    /// How often all connections were ended.
    hung_up: u64,
    /// Nobody is handed on any more.
    is_over: bool,
}

impl Drop for Proxied {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.state.send_modify(|state| state.is_over = true);
    }
}

impl Proxied {
    pub fn new(
        key: &SocketKey,
        proxy: &Proxy,
        layout: &StateLayout,
        askings: &Arc<Semaphore>,
        events: &mpsc::UnboundedSender<Event>,
        room: &Room,
    ) -> Self {
        let state =
            State { proxy: proxy.clone(), turned_away: (0, String::new()), hung_up: 0, is_over: false };
        let shared = Arc::new(Shared {
            key: key.clone(),
            events: events.clone(),
            state: watch::Sender::new(state),
            open: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            used: Mutex::new(None),
            room: room.clone(),
            own_room: Arc::new(Semaphore::new(room.of_one)),
        });
        let accepting = tokio::spawn(accept(Arc::clone(&shared), layout.clone(), Arc::clone(askings)));
        Self { shared, accepting }
    }

    pub fn set(&self, proxy: &Proxy) {
        self.shared.state.send_modify(|state| state.proxy.clone_from(proxy));
        if proxy.tell && self.shared.waiting.load(Ordering::Relaxed) > 0 {
            self.shared.tell();
        }
    }

    pub fn turn_away(&self, why: &str) {
        self.shared.state.send_modify(|state| {
            state.turned_away = (state.turned_away.0 + 1, why.to_owned());
        });
    }

    /// Ends all connections, also those that wait: their descriptors are needed.
    pub fn hang_up(&self) {
        self.shared.state.send_modify(|state| state.hung_up += 1);
    }

    /// The socket may be another one by now; what is open goes on, and who waits does.
    pub fn borrow_anew(&mut self, layout: &StateLayout, askings: &Arc<Semaphore>) {
        self.accepting.abort();
        self.accepting = tokio::spawn(accept(Arc::clone(&self.shared), layout.clone(), Arc::clone(askings)));
    }

    pub fn used(&self) -> SocketUse {
        let last = self.shared.used.lock().expect("nothing panics while it holds this lock").clone();
        SocketUse { last, open: self.shared.open.load(Ordering::Relaxed) > 0 }
    }
}

impl Shared {
    fn tell(&self) {
        // The reconciler may be on its way out.
        let _ = self.events.send(Event::Connected { key: self.key.clone() });
    }

    /// Waits until there is one.
    async fn place(&self) -> Place {
        let acquire = |room: &Arc<Semaphore>| Arc::clone(room).acquire_owned();
        let own = acquire(&self.own_room).await.expect("it is never closed");
        (own, acquire(&self.room.all).await.expect("it is never closed"))
    }

    fn note_use(&self) {
        *self.used.lock().expect("nothing panics while it holds this lock") = Some(clock::now());
    }
}

/// A number that goes down again, however whoever it counts ends.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn by(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What both kinds of streams can do.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    fn new(descriptor: OwnedFd) -> io::Result<Self> {
        // Nobody else accepts on it, and nobody is passed it.
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        match rustix::net::sockopt::socket_domain(&descriptor)? {
            rustix::net::AddressFamily::UNIX => {
                UnixListener::from_std(StdUnixListener::from(descriptor)).map(Self::Unix)
            }
            _ => TcpListener::from_std(descriptor.into()).map(Self::Tcp),
        }
    }

    async fn accept(&self) -> io::Result<Client> {
        match self {
            Self::Tcp(listener) => {
                let (client, _) = listener.accept().await?;
                client.set_nodelay(true)?;
                Ok(Client::Tcp(client))
            }
            Self::Unix(listener) => Ok(Client::Unix(listener.accept().await?.0)),
        }
    }
}

impl Client {
    fn stream(&mut self) -> &mut dyn Duplex {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }

    fn into_descriptor(self) -> io::Result<OwnedFd> {
        Ok(match self {
            Self::Tcp(stream) => stream.into_std()?.into(),
            Self::Unix(stream) => stream.into_std()?.into(),
        })
    }

    fn refuse(self, why: String) {
        if let Ok(descriptor) = self.into_descriptor() {
            tokio::task::spawn_blocking(move || refuse(&descriptor, &why));
        }
    }
}

async fn accept(shared: Arc<Shared>, layout: StateLayout, askings: Arc<Semaphore>) {
    let descriptor = borrow(&shared.key, &layout, &askings).await;
    let listener = match Listener::new(descriptor) {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::warn!(service = %shared.key.service, "nobody can be accepted: {error}");
        }
    };
    loop {
        match listener.accept().await {
            Ok(client) => {
                let place = shared.place().await;
                drop(tokio::spawn(serve(Arc::clone(&shared), client, place)));
            }
            Err(error) => {
                tracing::debug!(service = %shared.key.service, "accept: {error}");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn serve(shared: Arc<Shared>, mut client: Client, _place: Place) {
    let _open = Counted::by(&shared.open);
    shared.note_use();
    let mut states = shared.state.subscribe();
    let before = states.borrow().hung_up;
    match upstream(&shared).await {
        Ok(mut service) => {
            let copied =
                copy_bidirectional_with_sizes(client.stream(), &mut service, BUFFER_BYTES, BUFFER_BYTES);
            tokio::select! {
                // An error is the end of one side, and the other hears of it by the end of its own.
                _ = copied => {}
                _ = states.wait_for(|state| state.hung_up != before) => {}
            }
        }
        Err(why) => client.refuse(why),
    }
    shared.note_use();
}

/// A connection to the service, once it is up; `Err` says why there is none.
async fn upstream(shared: &Shared) -> Result<Box<dyn Duplex>, String> {
    let mut states = shared.state.subscribe();
    let State { turned_away: (before, _), hung_up, .. } = states.borrow().clone();
    let deadline = Instant::now() + states.borrow().proxy.within;
    let _waiting = Counted::by(&shared.waiting);
    if states.borrow().proxy.tell {
        shared.tell();
    }
    loop {
        let State { proxy, turned_away, hung_up: now, is_over } = states.borrow_and_update().clone();
        if turned_away.0 != before {
            return Err(turned_away.1);
        }
        if is_over {
            return Err("it is not served any longer".to_owned());
        }
        if now != hung_up {
            return Err("there are too few descriptors to hand it on".to_owned());
        }
        let over = || format!("it did not accept within {}", crate::time::human(proxy.within));
        match &proxy.target {
            Some(target) => match timeout_at(deadline, connect(target)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(_)) if Instant::now() < deadline => sleep(CONNECT_AGAIN).await,
                Ok(Err(error)) => return Err(format!("{}: {error}", over())),
                Err(_) => return Err(over()),
            },
            None => match timeout_at(deadline, states.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err("it is not served any longer".to_owned()),
                Err(_) => return Err(over()),
            },
        }
    }
}

async fn connect(target: &ListenOn) -> io::Result<Box<dyn Duplex>> {
    Ok(match target {
        ListenOn::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        ListenOn::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

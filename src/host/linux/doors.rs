//! Sockets whose connections are noticed, on which services accept themselves.
//!
//! A copy of each, lent by the keeper: that it becomes readable tells of a connection, whoever accepts it. It is looked at
//! as often as that must be known and not more, so that a busy service costs us nothing. Whoever waits in vain is
//! turned away here, too.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::proxy::{Proxied, Room};
use crate::host::descriptors;
use crate::host::keeper::lend;
use crate::host::listen::{Proxy, SocketKey, SocketUse};
use crate::host::{Event, StateLayout, clock};
use crate::time::Stamp;

/// Askings at a time: a keeper serves few visitors.
const ASKINGS: usize = 4;

/// Until a keeper that lends nothing is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Whoever is turned away has this long to have said what they speak, and to hear us out.
const LAST_WORDS: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Doors {
    layout: StateLayout,
    events: mpsc::UnboundedSender<Event>,
    askings: Arc<Semaphore>,
    watched: BTreeMap<SocketKey, Watched>,
    proxied: BTreeMap<SocketKey, Proxied>,
    /// Once something is handed on.
    room: OnceLock<Room>,
}

#[derive(Debug)]
struct Watched {
    door: Arc<Door>,
    task: JoinHandle<()>,
}

/// What the task and we share.
#[derive(Debug)]
struct Door {
    key: SocketKey,
    descriptor: OnceLock<Arc<OwnedFd>>,
    state: Mutex<State>,
    tell: AtomicBool,
    /// It is to be looked at now.
    look: Notify,
}

#[derive(Debug)]
struct State {
    every: Duration,
    used: Option<Stamp>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Doors {
    pub fn new(layout: StateLayout, events: mpsc::UnboundedSender<Event>) -> Self {
        Self {
            layout,
            events,
            askings: Arc::new(Semaphore::new(ASKINGS)),
            watched: BTreeMap::new(),
            proxied: BTreeMap::new(),
            room: OnceLock::new(),
        }
    }

    pub fn watch(&mut self, key: &SocketKey, every: Duration, tell: bool) {
        let Self { layout, events, askings, watched, proxied, .. } = self;
        proxied.remove(key);
        let watched = watched.entry(key.clone()).or_insert_with(|| {
            let door = Arc::new(Door {
                key: key.clone(),
                descriptor: OnceLock::new(),
                state: Mutex::new(State { every, used: None }),
                tell: AtomicBool::new(tell),
                look: Notify::new(),
            });
            let watching = watch(Arc::clone(&door), layout.clone(), Arc::clone(askings), events.clone());
            Watched { door, task: tokio::spawn(watching) }
        });
        watched.door.state().every = every;
        watched.door.tell.store(tell, Ordering::Relaxed);
        watched.door.look.notify_one();
    }

    pub fn proxy(&mut self, key: &SocketKey, proxy: &Proxy) {
        self.watched.remove(key);
        match self.proxied.get(key) {
            Some(proxied) => proxied.set(proxy),
            None => {
                let room = self.room.get_or_init(|| Room::for_limit(descriptors::limit()));
                let proxied = Proxied::new(key, proxy, &self.layout, &self.askings, &self.events, room);
                self.proxied.insert(key.clone(), proxied);
            }
        }
    }

    pub fn leave(&mut self, key: &SocketKey) {
        self.watched.remove(key);
        self.proxied.remove(key);
    }

    /// The keeper holds another socket under this name: ours is a copy of the one before.
    pub fn opened_anew(&mut self, key: &SocketKey) {
        if let Some(proxied) = self.proxied.get_mut(key) {
            proxied.borrow_anew(&self.layout, &self.askings);
        }
        let Some(before) = self.watched.remove(key) else { return };
        let State { every, ref used } = *before.door.state();
        self.watch(key, every, before.door.tell.load(Ordering::Relaxed));
        if let Some(watched) = self.watched.get(key) {
            watched.door.state().used.clone_from(used);
        }
    }

    /// After the keeper was lost: who is connected, or waits, stays so.
    pub fn borrow_anew(&mut self) {
        self.watched.clear();
        self.proxied.values_mut().for_each(|proxied| proxied.borrow_anew(&self.layout, &self.askings));
    }

    /// Ends every connection that is handed on.
    pub fn hang_up(&self) {
        self.proxied.values().for_each(Proxied::hang_up);
    }

    pub fn used(&self, key: &SocketKey) -> Option<SocketUse> {
        let watched = || {
            let last = self.watched.get(key)?.door.state().used.clone();
            Some(SocketUse { last, open: false })
        };
        self.proxied.get(key).map(Proxied::used).or_else(watched)
    }

    pub fn turn_away(&self, key: &SocketKey, why: &str) {
        if let Some(proxied) = self.proxied.get(key) {
            return proxied.turn_away(why);
        }
        let descriptor = self.watched.get(key).and_then(|watched| watched.door.descriptor.get().cloned());
        let (layout, key, why) = (self.layout.clone(), key.clone(), why.to_owned());
        tokio::task::spawn_blocking(move || {
            let descriptor = match descriptor {
                Some(descriptor) => Ok(Some(descriptor)),
                None => lend(&layout, &key).map(|lent| lent.map(Arc::new)),
            };
            let turned_away = descriptor.and_then(|descriptor| match descriptor {
                Some(descriptor) => turn_all_away(&descriptor, &why),
                None => Ok(()),
            });
            if let Err(error) = turned_away {
                tracing::warn!(service = %key.service, "connections cannot be turned away: {error}");
            }
        });
    }
}

impl Door {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

async fn watch(
    door: Arc<Door>,
    layout: StateLayout,
    askings: Arc<Semaphore>,
    events: mpsc::UnboundedSender<Event>,
) {
    let descriptor = Arc::new(borrow(&door.key, &layout, &askings).await);
    let _ = door.descriptor.set(Arc::clone(&descriptor));
    loop {
        // Registered anew each time: in between, the kernel need not tell us of anything.
        let readable = match register(Arc::clone(&descriptor)) {
            Ok(readable) => readable,
            Err(error) => {
                return tracing::warn!(service = %door.key.service, "a socket cannot be watched: {error}");
            }
        };
        if readable.readable().await.is_err() {
            return;
        }
        drop(readable);
        door.state().used = Some(clock::now());
        if door.tell.load(Ordering::Relaxed)
            && events.send(Event::Connected { key: door.key.clone() }).is_err()
        {
            return;
        }
        let every = door.state().every;
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = door.look.notified() => {}
        }
    }
}

#[expect(
    unsafe_code,
    reason = "JUSTIFICATION: a descriptor that is not tokio's own is registered by an unsafe call"
)]
pub(super) fn register(descriptor: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the descriptor is owned, so it is open and stays the same for as long as it is registered.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(io::Error::from)
}

pub(super) async fn borrow(key: &SocketKey, layout: &StateLayout, askings: &Semaphore) -> OwnedFd {
    loop {
        let asking = askings.acquire().await.expect("it is never closed");
        let (layout, asked_for) = (layout.clone(), key.clone());
        let lent = tokio::task::spawn_blocking(move || lend(&layout, &asked_for)).await;
        drop(asking);
        if let Ok(Ok(Some(descriptor))) = lent {
            return descriptor;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Whoever waits at this moment: nobody else accepts there.
fn turn_all_away(listening: &OwnedFd, why: &str) -> io::Result<()> {
    let mut clients = Vec::new();
    while is_readable(listening, Duration::ZERO)? {
        let flags = SocketFlags::CLOEXEC;
        match rustix::net::accept_with(listening, flags) {
            Ok(client) => clients.push(client),
            Err(error) if error == rustix::io::Errno::CONNABORTED => {}
            Err(error) => return Err(error.into()),
        }
    }
    // All have the same time: a hundred that say nothing are not waited for one after the other.
    let until = Instant::now() + LAST_WORDS;
    let said: Vec<&OwnedFd> = clients.iter().filter(|client| answer_with(client, why, until)).collect();
    let until = Instant::now() + LAST_WORDS;
    said.into_iter().for_each(|client| hear_out(client, until));
    Ok(())
}

fn is_readable(fd: &OwnedFd, within: Duration) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::ZERO);
    Ok(poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout)? > 0)
}

/// Says why to a client that speaks HTTP; to others the end of the connection is all there is to say.
pub(super) fn refuse(client: &OwnedFd, why: &str) {
    if answer_with(client, why, Instant::now() + LAST_WORDS) {
        hear_out(client, Instant::now() + LAST_WORDS);
    }
}

/// True if it was answered.
fn answer_with(client: &OwnedFd, why: &str, until: Instant) -> bool {
    let answer = || -> io::Result<bool> {
        if !is_readable(client, until.saturating_duration_since(Instant::now()))? {
            return Ok(false);
        }
        let mut said = [0; 2048];
        let (read, _) = rustix::net::recv(client, &mut said[..], RecvFlags::DONTWAIT)?;
        if !speaks_http(&said[..read]) {
            return Ok(false);
        }
        let body = format!("{why}\n");
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Retry-After: 1\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        rustix::net::send(client, answer.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        rustix::net::shutdown(client, Shutdown::Write)?;
        Ok(true)
    };
    // What goes wrong here is the client's own end of it.
    answer().unwrap_or(false)
}

/// What is left unread makes the kernel throw our answer away.
fn hear_out(client: &OwnedFd, until: Instant) {
    let mut said = [0; 2048];
    let mut goes_on = || -> io::Result<bool> {
        Ok(is_readable(client, until.saturating_duration_since(Instant::now()))?
            && rustix::net::recv(client, &mut said[..], RecvFlags::DONTWAIT)?.0 > 0)
    };
    while goes_on().unwrap_or(false) {}
}

/// A method and a space.
fn speaks_http(said: &[u8]) -> bool {
    const METHODS: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    METHODS
        .iter()
        .any(|method| said.strip_prefix(method.as_bytes()).is_some_and(|rest| rest.first() == Some(&b' ')))
}

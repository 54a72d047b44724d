//! Which ports other reconcilers have taken, and how two never take one.
//!
//! A reconciler takes a port by binding a socket with the port's name in the abstract namespace of UNIX sockets: that
//! is one per network namespace, whoever the users and whichever the containers, is given to one alone, and is let
//! go of by the kernel when its holder dies. It is held until the service listens, or we end. For ports whose
//! service does not listen (stopped, crashed, not yet up) each state directory has a file in [`DIRECTORY`] that says
//! which are its own. So a port is taken in this order: its name is bound, the files of others are read, a bind of
//! the port itself shows whether anybody uses it, and our own file is written; only then the ledger is. Whoever comes
//! second either finds the name bound or reads the file.
//!
//! The files are for all to read and each for its owner to write, in a directory like `/tmp`. Nothing in them is
//! trusted with more than ports to avoid. One whose state directory is gone is void, and is removed by whoever it
//! belongs to. Sources: unix(7), ip(7), namespaces(7).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket, sockopt,
};
use serde::{Deserialize, Serialize};

use crate::host::StateLayout;

/// Where all reconcilers of a machine tell each other, whatever `TMPDIR` is.
const DIRECTORY: &str = "/tmp/reconcile-ports";

/// A file that is written for longer than this, nobody writes any more.
const WRITTEN_WITHIN: Duration = Duration::from_secs(60);

/// More is no file of ours.
const MAX_FILE_BYTES: u64 = 1 << 20;
const MAX_FILES: usize = 10_000;

#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    #[serde(with = "crate::state::paths")]
    state_dir: PathBuf,
    dev: u64,
    inode: u64,
    /// Inodes of the namespaces: of the network that the ports are in, and of the mounts that the path is in.
    network: u64,
    mounts: u64,
    ports: BTreeSet<u16>,
}

const VERSION: u32 = 1;

#[derive(Debug)]
pub struct Claims {
    directory: PathBuf,
    state_dir: PathBuf,
    /// Names that we hold.
    held: HashMap<u16, UnixDatagram>,
    /// What our file says; `None` before we have looked.
    told: Option<BTreeSet<u16>>,
    /// What is wrong was said.
    has_complained: bool,
}

impl Claims {
    pub fn new(layout: &StateLayout) -> Self {
        Self::within(Path::new(DIRECTORY), &layout.dir)
    }

    fn within(directory: &Path, state_dir: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            state_dir: state_dir.to_owned(),
            held: HashMap::new(),
            told: None,
            has_complained: false,
        }
    }

    /// What other state directories have taken in our network, with those directories.
    pub fn of_others(&self) -> BTreeMap<u16, PathBuf> {
        let mut claimed = BTreeMap::new();
        for path in self.files_of_others() {
            if let Seen::Holds(file) = look(&path) {
                claimed.extend(file.ports.iter().map(|port| (*port, file.state_dir.clone())));
            }
        }
        claimed
    }

    fn files_of_others(&self) -> Vec<PathBuf> {
        let own = self.own_file();
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten().take(MAX_FILES);
        let paths = entries.map(|entry| entry.path());
        let is_one =
            |path: &PathBuf| path.extension().is_some_and(|end| end == "json") && own.as_ref() != Some(path);
        paths.filter(is_one).collect()
    }

    /// Removes what is void of ours, and what deaths have left half written.
    fn clear_away(&self) {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten().take(MAX_FILES);
        let half_written = entries.filter(|entry| {
            let age = entry.metadata().and_then(|found| found.modified()).map(|at| at.elapsed());
            let is_old = age.is_ok_and(|age| age.is_ok_and(|age| age > WRITTEN_WITHIN));
            is_old && entry.path().extension().is_some_and(|end| end == "tmp")
        });
        for entry in half_written {
            // Of somebody else: his to remove.
            let _ = fs::remove_file(entry.path());
        }
        for path in self.files_of_others() {
            if matches!(look(&path), Seen::Void) {
                // Another one may have done so already.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Takes these; those that are not to be had are left.
    pub fn take(&mut self, ports: &BTreeSet<u16>) -> BTreeSet<u16> {
        let mut left = BTreeSet::new();
        let mut fresh = BTreeSet::new();
        for &port in ports {
            if self.held.contains_key(&port) {
                continue;
            }
            match bind_name(port) {
                Ok(name) => {
                    self.held.insert(port, name);
                    fresh.insert(port);
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    left.insert(port);
                }
                // Out of descriptors: the files are left to tell of it.
                Err(error) => {
                    self.complain("a port cannot be held against other reconcilers", &error);
                    fresh.insert(port);
                }
            }
        }
        if !fresh.is_empty() {
            self.clear_away();
        }
        let claimed = self.of_others();
        for port in fresh {
            if claimed.contains_key(&port) || is_in_use(port) {
                self.held.remove(&port);
                left.insert(port);
            }
        }
        let told = self.told.clone().unwrap_or_default();
        self.keep(
            &told.into_iter().chain(ports.iter().filter(|port| !left.contains(port)).copied()).collect(),
        );
        left
    }

    /// Our file says these, and these alone.
    pub fn keep(&mut self, ports: &BTreeSet<u16>) {
        self.held.retain(|port, _| ports.contains(port));
        if self.told.as_ref() == Some(ports) {
            return;
        }
        let Some(path) = self.own_file() else { return };
        let written = match look(&path) {
            Seen::Holds(file) if file.ports == *ports && file.state_dir == self.state_dir => Ok(()),
            Seen::Nothing if ports.is_empty() => Ok(()),
            Seen::Holds(_) | Seen::Void if ports.is_empty() => fs::remove_file(&path),
            Seen::Holds(_) | Seen::Void | Seen::Nothing => self.write(&path, ports),
        };
        match written {
            Ok(()) => self.told = Some(ports.clone()),
            Err(error) => {
                self.complain(&format!("{} cannot be written", path.display()), &error);
            }
        }
    }

    /// Its service listens: that says it to everybody.
    pub fn let_go(&mut self, port: u16) {
        self.held.remove(&port);
    }

    fn complain(&mut self, what: &str, error: &io::Error) {
        if !std::mem::replace(&mut self.has_complained, true) {
            tracing::warn!(
                "{what} ({error}); reconcilers of other state directories may choose a port of ours"
            );
        }
    }

    /// Named after the state directory itself: a copy is another one, and one that was moved is the same.
    fn own_file(&self) -> Option<PathBuf> {
        let found = fs::metadata(&self.state_dir).ok()?;
        let uid = nix::unistd::geteuid();
        Some(self.directory.join(format!("{uid}-{:x}-{:x}.json", found.dev(), found.ino())))
    }

    fn write(&self, path: &Path, ports: &BTreeSet<u16>) -> io::Result<()> {
        make_directory(&self.directory)?;
        let found = fs::metadata(&self.state_dir)?;
        let file = File {
            version: VERSION,
            state_dir: self.state_dir.clone(),
            dev: found.dev(),
            inode: found.ino(),
            network: namespace("net")?,
            mounts: namespace("mnt")?,
            ports: ports.clone(),
        };
        let text = serde_json::to_vec(&file)?;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        // What a death left behind; one of somebody else cannot be removed, and then not be opened either.
        let _ = fs::remove_file(&temporary);
        let mut new = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
        let written = new
            .set_permissions(Permissions::from_mode(0o644))
            .and_then(|()| new.write_all(&text))
            .and_then(|()| fs::rename(&temporary, path));
        // On a full disk it is there, and empty.
        written.inspect_err(|_| drop(fs::remove_file(&temporary)))
    }
}

/// As `/tmp` is: for everybody to add to, and each to remove what is his.
fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o1777)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(path)?;
            if found.is_dir() { Ok(()) } else { Err(io::Error::other("it is no directory")) }
        }
        Err(error) => Err(error),
    }
}

/// What a file of the directory is to us.
#[derive(Debug)]
enum Seen {
    Holds(File),
    /// Its state directory is gone, and it is ours to remove.
    Void,
    /// Of another network, or none of ours.
    Nothing,
}

fn look(path: &Path) -> Seen {
    let Some((file, uid)) = read(path).filter(|(file, _)| namespace("net").ok() == Some(file.network)) else {
        return Seen::Nothing;
    };
    // Paths of other users, and those of other mounts, may be there and not be seen.
    let is_ours_to_tell =
        uid == nix::unistd::geteuid().as_raw() && namespace("mnt").ok() == Some(file.mounts);
    if is_ours_to_tell && is_gone(&file) { Seen::Void } else { Seen::Holds(file) }
}

/// With the user that it belongs to.
fn read(path: &Path) -> Option<(File, u32)> {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let found = opened.metadata().ok().filter(fs::Metadata::is_file)?;
    let mut text = Vec::new();
    opened.take(MAX_FILE_BYTES).read_to_end(&mut text).ok()?;
    Some((serde_json::from_slice(&text).ok()?, found.uid()))
}

fn is_gone(file: &File) -> bool {
    match fs::metadata(&file.state_dir) {
        Ok(found) => (found.dev(), found.ino()) != (file.dev, file.inode),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn namespace(kind: &str) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/self/ns/{kind}"))?.ino())
}

fn bind_name(port: u16) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("reconcile/port/{port}"))?)
}

/// Anybody has it, listening or not: a bind of any address fails, as that of the service would.
fn is_in_use(port: u16) -> bool {
    let fails = |family, bound: &dyn Fn(i32) -> nix::Result<()>| {
        let Ok(probe) = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None) else { return false };
        if family == AddressFamily::Inet6 {
            // If this fails, it stands for IPv4 as well.
            let _ = setsockopt(&probe, sockopt::Ipv6V6Only, &true);
        }
        bound(std::os::fd::AsRawFd::as_raw_fd(&probe)) == Err(nix::Error::EADDRINUSE)
    };
    let v4 = SockaddrIn::new(0, 0, 0, 0, port);
    let v6 = SockaddrIn6::from(std::net::SocketAddrV6::new(std::net::Ipv6Addr::UNSPECIFIED, port, 0, 0));
    fails(AddressFamily::Inet, &|fd| bind(fd, &v4)) || fails(AddressFamily::Inet6, &|fd| bind(fd, &v6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn claims(&self, name: &str) -> Claims {
            let state_dir = self.dir.path().join(name);
            fs::create_dir_all(&state_dir).unwrap();
            Claims::within(&self.dir.path().join("ports"), &state_dir)
        }
    }

    /// Ports that nobody has at the moment, of a range where no connection gets one by itself.
    fn free(count: usize) -> BTreeSet<u16> {
        (20_000..30_000).rev().filter(|port| !is_in_use(*port)).take(count).collect()
    }

    #[test]
    fn a_port_is_taken_by_one_alone_while_it_lives_and_while_its_file_stands() {
        let place = Place::new();
        let ports = free(3);
        let (mut one, mut other) = (place.claims("one"), place.claims("other"));
        assert_eq!(one.take(&ports), BTreeSet::new());
        assert_eq!(other.take(&ports), ports, "its names are held");
        let names = std::mem::take(&mut one.held);
        drop(names);
        assert_eq!(other.take(&ports), ports, "its file stands");
        assert_eq!(other.of_others().keys().copied().collect::<BTreeSet<_>>(), ports);
        one.keep(&BTreeSet::new());
        assert_eq!(other.take(&ports), BTreeSet::new());
        assert_eq!(place.claims("one").of_others().len(), 3);
    }

    #[test]
    fn what_a_death_has_left_half_written_is_removed_once_it_is_old() {
        let place = Place::new();
        let mut claims = place.claims("one");
        let ports = place.dir.path().join("ports");
        make_directory(&ports).unwrap();
        let half_written = |name: &str, age: Duration| {
            let file = fs::File::create(ports.join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - age).unwrap();
            ports.join(name)
        };
        let old = half_written("0-1-1.1.tmp", WRITTEN_WITHIN * 2);
        let new = half_written("0-1-2.1.tmp", Duration::ZERO);
        claims.take(&free(1));
        assert_eq!((old.exists(), new.exists()), (false, true));
    }

    #[test]
    fn the_claims_of_a_state_directory_that_is_gone_are_void() {
        let place = Place::new();
        let ports = free(1);
        let mut one = place.claims("one");
        assert_eq!(one.take(&ports), BTreeSet::new());
        drop(one);
        fs::rename(place.dir.path().join("one"), place.dir.path().join("moved")).unwrap();
        let files = || fs::read_dir(place.dir.path().join("ports")).unwrap().count();
        let mut other = place.claims("other");
        assert_eq!((other.of_others(), files()), (BTreeMap::new(), 1), "who looks changes nothing");
        assert_eq!(other.take(&ports), BTreeSet::new());
        assert_eq!(files(), 1, "its own alone: the other is cleared away");
        other.keep(&BTreeSet::new());
        // Wherever it is now, it says so again.
        place.claims("moved").keep(&ports);
        assert_eq!(place.claims("other").of_others().len(), 1);
    }

    #[test]
    fn a_port_that_anybody_has_is_not_taken() {
        let place = Place::new();
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let Ok(socket) = TcpListener::bind(address) else {
                eprintln!("skipped: no {address} here");
                continue;
            };
            let ports = BTreeSet::from([socket.local_addr().unwrap().port()]);
            let mut claims = place.claims("one");
            assert_eq!(claims.take(&ports), ports, "{address}");
            assert!(claims.held.is_empty());
        }
    }

    /// As reconcilers do that come and go: what is chosen rests on what was seen, and names are let go of.
    #[test]
    fn ports_that_eight_take_at_once_are_taken_once_each() {
        // A smaller dose than it has been tried with, 1,250 each.
        const EACH: usize = 120;
        let place = Place::new();
        let had = std::sync::Mutex::new(BTreeSet::new());
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (had, mut claims) = (&had, place.claims(&format!("s{n}")));
                scope.spawn(move || {
                    let mut own: Vec<u16> = Vec::new();
                    let mut lost = BTreeSet::new();
                    let mut taken = 0;
                    while taken < EACH {
                        let others = claims.of_others();
                        let is_free = |port: &u16| {
                            !others.contains_key(port) && !own.contains(port) && !lost.contains(port)
                        };
                        let Some(port) = (21_000..21_200).find(is_free) else {
                            lost.clear();
                            continue;
                        };
                        if !claims.take(&BTreeSet::from([port])).is_empty() {
                            lost.insert(port);
                            continue;
                        }
                        assert!(had.lock().unwrap().insert(port), "{port} is taken twice");
                        own.push(port);
                        taken += 1;
                        if taken % 7 == 0 {
                            claims.held.clear();
                        }
                        if own.len() > 12 {
                            let released = own.remove(taken % 12);
                            had.lock().unwrap().remove(&released);
                            claims.keep(&own.iter().copied().collect());
                            lost.clear();
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn files_of_others_are_read_with_care() {
        let place = Place::new();
        let claims = place.claims("one");
        let directory = place.dir.path().join("ports");
        make_directory(&directory).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o7777, 0o1777);
        fs::write(directory.join("a.json"), "{").unwrap();
        fs::write(directory.join("b.txt"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.join("c.json")).unwrap();
        nix::unistd::mkfifo(&directory.join("d.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(claims.of_others(), BTreeMap::new());
    }
}

//! Opens the listening sockets that a keeper holds for services, and takes their files away.
//!
//! Whatever may hang (a path on a dead file system) hangs here, in a thread of the reconciler, and never in the keeper,
//! which is handed an open descriptor. Decides nothing about when. Called by the link to the keeper.
//! Sources: unix(7), socket(7); `O_PATH` in open(2) for changing what was made and not what took its place.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind, connect,
    listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchownat};
use serde::{Deserialize, Serialize};

use super::cause::plain;
use crate::identity::ServiceId;
use crate::manifest::ListenOn;
use crate::time::Stamp;

/// Names a socket: that of a service, by its name in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SocketKey {
    pub service: ServiceId,
    pub name: String,
}

/// What is listened on, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    pub address: ListenOn,
    /// Of a socket in the file system; so is the owner, of which `None` is ourselves.
    pub mode: u32,
    #[serde(default)]
    pub owner: Option<(u32, u32)>,
}

/// A socket that a keeper holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldSocket {
    pub key: SocketKey,
    pub listen: Listen,
    /// What its file is told by, where it has one ([`mark`]): what has taken its place is not removed.
    #[serde(default)]
    pub file: Option<(u64, u64)>,
}

/// To whom connections to a socket are handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// `None`: nobody is there, and who connects waits.
    pub target: Option<ListenOn>,
    /// Whether who waits is told of.
    pub tell: bool,
    /// How long anybody waits.
    pub within: Duration,
}

/// How a socket is used that is watched or handed on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SocketUse {
    /// When somebody has connected last; of what is handed on also, when the last one has gone.
    pub last: Option<Stamp>,
    /// Somebody is connected whose connection is handed on.
    pub open: bool,
}

/// Why there is no such socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotHeld {
    pub errno: i32,
    /// A lower-case fragment.
    pub message: String,
}

impl From<io::Error> for NotHeld {
    fn from(error: io::Error) -> Self {
        Self { errno: error.raw_os_error().unwrap_or(0), message: plain(&error) }
    }
}

impl From<Errno> for NotHeld {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl Listen {
    /// Binds and listens. The answer blocks on accept, as a program expects of what it is passed, and has the identity
    /// of the file that was made.
    pub fn open(&self) -> Result<(OwnedFd, Option<(u64, u64)>), NotHeld> {
        match &self.address {
            ListenOn::Tcp(address) => {
                let address = SockaddrStorage::from(*address);
                let family = address.family().expect("it is one of two");
                let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
                // Connections of the one before that are not quite over do not count.
                setsockopt(&fd, sockopt::ReuseAddr, &true)?;
                bind(fd.as_raw_fd(), &address)?;
                listen(&fd, Backlog::MAXCONN)?;
                Ok((fd, None))
            }
            ListenOn::Unix(path) => self.open_in_file_system(path),
        }
    }

    /// True of a descriptor that listens there.
    pub fn is_of(&self, descriptor: impl AsFd) -> bool {
        let Ok(bound) = rustix::net::getsockname(descriptor) else { return false };
        match &self.address {
            ListenOn::Tcp(address) => SocketAddr::try_from(bound)
                .is_ok_and(|bound| (bound.ip(), bound.port()) == (address.ip(), address.port())),
            ListenOn::Unix(path) => rustix::net::SocketAddrUnix::try_from(bound).is_ok_and(|bound| {
                bound.path().is_some_and(|it| it.to_bytes() == path.as_os_str().as_bytes())
            }),
        }
    }

    /// Nobody can connect before mode and owner are what they should be.
    fn open_in_file_system(&self, path: &Path) -> Result<(OwnedFd, Option<(u64, u64)>), NotHeld> {
        if path.to_str().is_none() {
            return Err(NotHeld { errno: 0, message: "its path is not UTF-8".to_owned() });
        }
        let address = UnixAddr::new(path)?;
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        match bind(fd.as_raw_fd(), &address) {
            Err(Errno::EADDRINUSE) if is_abandoned(path, &address)? => {
                fs::remove_file(path)?;
                bind(fd.as_raw_fd(), &address)?;
            }
            bound => bound?,
        }
        let file = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        let through = format!("/proc/self/fd/{}", file.as_raw_fd());
        let made = fs::metadata(&through)?;
        if !made.file_type().is_socket() {
            return Err(NotHeld { errno: 0, message: "something else took its place at once".to_owned() });
        }
        if let Some((uid, gid)) = self.owner {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            fchownat(&file, c"", uid, gid, AtFlags::AT_EMPTY_PATH)?;
        }
        fs::set_permissions(&through, Permissions::from_mode(self.mode))?;
        let mark = mark(&fs::metadata(&through)?);
        listen(&fd, Backlog::MAXCONN)?;
        Ok((fd, Some(mark)))
    }
}

/// The device, and the inode with the time of its newest change: the number alone is given to the next file at once.
fn mark(file: &fs::Metadata) -> (u64, u64) {
    let changed_ns = file.ctime() * 1_000_000_000 + file.ctime_nsec();
    (file.dev(), file.ino() ^ changed_ns as u64)
}

/// True of a socket on which nobody listens any more: what a death has left behind.
fn is_abandoned(path: &Path, address: &UnixAddr) -> Result<bool, NotHeld> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    Ok(connect(probe.as_raw_fd(), address) == Err(Errno::ECONNREFUSED))
}

impl HeldSocket {
    /// Nobody can reach it any more, as after somebody has cleared the directory.
    pub fn has_lost_its_file(&self) -> bool {
        let ListenOn::Unix(path) = &self.listen.address else { return false };
        fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Takes its file away, once nobody holds the socket.
    pub fn remove_file(&self) -> io::Result<()> {
        let (ListenOn::Unix(path), Some(file)) = (&self.listen.address, self.file) else { return Ok(()) };
        match fs::symlink_metadata(path) {
            Ok(there) if mark(&there) == file => fs::remove_file(path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn unix(path: &Path) -> Listen {
        Listen { address: ListenOn::Unix(path.to_owned()), mode: 0o660, owner: None }
    }

    fn held(listen: Listen, file: Option<(u64, u64)>) -> HeldSocket {
        let key = SocketKey { service: ServiceId::parse("web").unwrap(), name: "http".to_owned() };
        HeldSocket { key, listen, file }
    }

    #[test]
    fn a_socket_in_the_file_system_has_its_mode_and_takes_the_place_of_an_abandoned_one_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (fd, file) = unix(&path).open().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        UnixStream::connect(&path).unwrap();
        assert_eq!(unix(&path).open().unwrap_err().errno, libc::EADDRINUSE);
        drop(fd);
        let (fd, other) = unix(&path).open().unwrap();
        assert!(unix(&path).is_of(&fd) && !unix(&dir.path().join("other.sock")).is_of(&fd));
        held(unix(&path), file.map(|(dev, inode)| (dev, inode + 1))).remove_file().unwrap();
        assert!(path.exists(), "it is another one");
        held(unix(&path), other).remove_file().unwrap();
        assert!(!path.exists());
        fs::write(&path, "notes").unwrap();
        assert_eq!(unix(&path).open().unwrap_err().errno, libc::EADDRINUSE);
        assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
    }

    #[test]
    fn an_address_that_somebody_has_is_not_to_be_had() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ListenOn::Tcp(other.local_addr().unwrap());
        let listen = Listen { address, mode: 0, owner: None };
        let refused = listen.open().unwrap_err();
        assert_eq!((refused.errno, refused.message.as_str()), (libc::EADDRINUSE, "address already in use"));
        drop(other);
        let (fd, _) = listen.open().unwrap();
        let beside = ListenOn::Tcp("127.0.0.1:1".parse().unwrap());
        let beside = Listen { address: beside, mode: 0, owner: None };
        assert!(listen.is_of(&fd) && !beside.is_of(&fd));
    }
}

//! The address of the control socket, and who may speak on it.
//!
//! `sun_path` holds 108 bytes and a state directory may lie deeper, so the socket is addressed through
//! the directory's own descriptor, `/proc/self/fd/N/control.sock`; that also pins the directory that was
//! opened, whatever happens to its path. Sources: unix(7), socket(7) for `SO_SNDTIMEO` on connect.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::sys::time::TimeVal;
use nix::unistd::{Uid, UnlinkatFlags, unlinkat};

/// Beside the state directory's descriptor.
pub const NAME: &str = "control.sock";

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 64;

/// An open state directory.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
}

impl Directory {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self { fd: openat(AT_FDCWD, path, flags, Mode::empty())? })
    }

    fn address(&self) -> io::Result<(PathBuf, UnixAddr)> {
        let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", self.fd.as_raw_fd()));
        let address = UnixAddr::new(&path)?;
        Ok((path, address))
    }

    /// Binds and listens, mode 0600 before the first client can connect. What an earlier watcher left is
    /// removed: the caller holds the lock, so nobody listens there.
    pub fn listen(&self) -> io::Result<OwnedFd> {
        self.remove()?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        let (path, address) = self.address()?;
        bind(fd.as_raw_fd(), &address)?;
        fchmodat(AT_FDCWD, &path, Mode::from_bits_truncate(0o600), FchmodatFlags::FollowSymlink)?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        Ok(fd)
    }

    /// Removes the socket; none there is fine.
    pub fn remove(&self) -> io::Result<()> {
        match unlinkat(&self.fd, NAME, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Connects; `None` if nobody listens. The timeout holds while the queue of the server is full.
    pub fn connect(&self, timeout: Duration) -> io::Result<Option<UnixStream>> {
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let limit = TimeVal::new(timeout.as_secs() as i64, i64::from(timeout.subsec_micros()));
        setsockopt(&fd, sockopt::SendTimeout, &limit)?;
        let (_, address) = self.address()?;
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => Ok(Some(UnixStream::from(fd))),
            Err(nix::Error::ENOENT | nix::Error::ECONNREFUSED) => Ok(None),
            Err(nix::Error::EAGAIN) => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error.into()),
        }
    }
}

/// True for root and for the user the server runs as.
pub fn may_speak(peer_uid: u32) -> bool {
    peer_uid == 0 || peer_uid == Uid::effective().as_raw()
}

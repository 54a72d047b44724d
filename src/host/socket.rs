//! Unix sockets in a state directory, whose path may be too long for one.
//!
//! `sun_path` holds 108 bytes and a state directory may lie deeper, so a socket is addressed through the
//! directory's own descriptor, `/proc/self/fd/N/NAME`; that also pins the directory that was opened, whatever
//! happens to its path. Called by the keeper, its client, and `api`. Sources: unix(7), socket(7) for
//! `SO_SNDTIMEO` on connect.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstatat};
use nix::sys::time::TimeVal;
use nix::unistd::{UnlinkatFlags, unlinkat};

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

    /// An address of the socket, for as long as this value lives.
    pub fn path_of(&self, name: &Path) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.fd.as_raw_fd())).join(name)
    }

    /// Binds and listens without blocking, mode 0600 before the first client can connect. A socket that is there
    /// is removed: the caller holds the lock, so nobody listens on it. Anything else is left, and an error.
    pub fn listen(&self, name: &Path) -> io::Result<UnixListener> {
        self.remove(name)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        let path = self.path_of(name);
        bind(fd.as_raw_fd(), &UnixAddr::new(&path)?)?;
        fchmodat(AT_FDCWD, &path, Mode::from_bits_truncate(0o600), FchmodatFlags::FollowSymlink)?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        Ok(UnixListener::from(fd))
    }

    /// Removes the socket; none there is fine.
    pub fn remove(&self, name: &Path) -> io::Result<()> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(nix::Error::ENOENT) => return Ok(()),
            found if SFlag::from_bits_truncate(found?.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK => {}
            _ => {
                let message = format!("{} is no socket", name.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
        }
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Connects; `None` if nobody listens. The timeout holds while the queue of the server is full.
    pub fn connect(&self, name: &Path, timeout: Duration) -> io::Result<Option<UnixStream>> {
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let limit = TimeVal::new(timeout.as_secs() as i64, i64::from(timeout.subsec_micros()));
        setsockopt(&fd, sockopt::SendTimeout, &limit)?;
        match connect(fd.as_raw_fd(), &UnixAddr::new(&self.path_of(name))?) {
            Ok(()) => Ok(Some(UnixStream::from(fd))),
            Err(nix::Error::ENOENT | nix::Error::ECONNREFUSED) => Ok(None),
            Err(nix::Error::EAGAIN) => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error.into()),
        }
    }
}

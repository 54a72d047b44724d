//! What the program finds open: its standard streams, the sockets it is passed, the pipe that it is to be ready by.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::{self, Gid, Uid};

use super::{Birth, Role, Step, at};
use crate::host::StdinKind;
use crate::host::sys;
use crate::state::{SpawnFailure, SpawnStage};

/// `SD_LISTEN_FDS_START`.
const FIRST_SOCKET: RawFd = 3;

/// Moves the sockets, and the pipe to be ready by, to where the program looks for them, before anything else is opened.
pub(super) fn place_descriptors(birth: &mut Birth<'_>) -> io::Result<()> {
    let ready = birth.ready.take();
    if birth.sockets.is_empty() && ready.is_none() {
        return Ok(());
    }
    let behind_sockets = FIRST_SOCKET + birth.sockets.len() as RawFd;
    let first_free = ready.as_ref().map_or(behind_sockets, |(_, place)| behind_sockets.max(place + 1));
    let out_of_the_way = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, first_free);
    birth.status = out_of_the_way(birth.status.as_fd())?.into();
    if let Some(failed) = &mut birth.failed {
        *failed = out_of_the_way(failed.as_fd())?.into();
    }
    let copies: Vec<OwnedFd> =
        birth.sockets.iter().map(|fd| out_of_the_way(*fd)).collect::<rustix::io::Result<_>>()?;
    if let Some((pipe, place)) = ready {
        let opened = both_ends(&pipe)?;
        let both = out_of_the_way(opened.as_fd())?;
        // One of them may own the number that is given away.
        drop((pipe, opened));
        sys::place(both.as_fd(), place)?;
    }
    for (place, copy) in (FIRST_SOCKET..).zip(&copies) {
        // They block, whatever the program before this one has made of them.
        let flags = OFlag::from_bits_truncate(fcntl(copy, FcntlArg::F_GETFL)?);
        fcntl(copy, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
        sys::place(copy.as_fd(), place)?;
    }
    Ok(())
}

/// A program that holds both ends of its pipe is not ended by SIGPIPE for a keeper that is gone.
fn both_ends(pipe: &OwnedFd) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{}", pipe.as_raw_fd()))
}

/// stdin, stdout and stderr.
pub(super) fn redirect(birth: &Birth<'_>) -> Step {
    let log = |what: &'static str| at::<nix::Error>(SpawnStage::Log, what);
    match birth.request.stdin {
        StdinKind::Null => {
            let null = nix::fcntl::open(c"/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(at(SpawnStage::Log, "open /dev/null"))?;
            unistd::dup2_stdin(&null).map_err(log("set stdin"))?;
        }
        StdinKind::Open => unistd::dup2_stdin(open_stdin()?).map_err(log("set stdin"))?,
    }
    match &birth.role {
        Role::Service => {
            let file = open_log(birth)?;
            unistd::dup2_stdout(&file).map_err(log("set stdout"))?;
            unistd::dup2_stderr(&file).map_err(log("set stderr"))
        }
        Role::Job { output } => {
            unistd::dup2_stdout(output).map_err(log("set stdout"))?;
            if birth.request.stdout_only {
                let null = nix::fcntl::open(c"/dev/null", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
                    .map_err(at(SpawnStage::Log, "open /dev/null"))?;
                return unistd::dup2_stderr(&null).map_err(log("set stderr"));
            }
            unistd::dup2_stderr(output).map_err(log("set stderr"))
        }
    }
}

/// A pipe opened for both: it never ends, whoever else goes away, since its reader holds the writing end.
fn open_stdin() -> Step<File> {
    let (reader, _writer) =
        unistd::pipe2(OFlag::O_CLOEXEC).map_err(at(SpawnStage::Log, "make a pipe for stdin"))?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/self/fd/{}", reader.as_raw_fd()))
        .map_err(at(SpawnStage::Log, "open the pipe for stdin"))
}

fn open_log(birth: &Birth<'_>) -> Step<OwnedFd> {
    let path = birth.prepared.log.to_string_lossy();
    let what = format_args!("open the log {path}");
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_CLOEXEC;
    // A FIFO put there must not block us, a link must not lead elsewhere.
    let wary = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = nix::fcntl::open(birth.prepared.log.as_c_str(), flags | wary, Mode::from_bits_truncate(0o640))
        .map_err(at(SpawnStage::Log, what))?;
    let meta = nix::sys::stat::fstat(&file).map_err(at(SpawnStage::Log, what))?;
    if SFlag::from_bits_truncate(meta.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(SpawnFailure {
            stage: SpawnStage::Log,
            errno: 0,
            message: format!("failed to {what}: not a regular file"),
        });
    }
    if let Some(user) = &birth.request.user
        && (meta.st_uid, meta.st_gid) != (user.uid, user.gid)
    {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        unistd::fchown(&file, Some(uid), Some(gid))
            .map_err(at(SpawnStage::User, format_args!("give the log {path} to {}", user.name)))?;
    }
    if meta.st_mode & 0o777 != 0o640 {
        nix::sys::stat::fchmod(&file, Mode::from_bits_truncate(0o640)).map_err(at(SpawnStage::Log, what))?;
    }
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND)).map_err(at(SpawnStage::Log, what))?;
    Ok(file)
}

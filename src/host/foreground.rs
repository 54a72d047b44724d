//! The command of `reconcile run`: a child in the foreground, that begins once it is told to.
//!
//! It is there, and has its identity, before anything is leased for it: a copy of this program, which becomes the command
//! in the same process. So whatever happens to us, the lease ends with the command and not before. It keeps terminal,
//! process group, descriptors, dispositions and signal mask as we were given them; signals that reach us alone are
//! handed on to it. It is told to begin over a pipe, with the variables that it is given; the end of the pipe without that
//! ends it. Called by `commands`. Sources: signalfd(2), sigaction(2) for `si_code`, pidfd_send_signal(2).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::proc::Here;
use super::{background, sys};
use crate::identity::ProcessIdentity;

/// Those by which a command is told something, or asked to end.
const HANDED_ON: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

/// As env(1) and the shells have them.
pub const NOT_EXECUTABLE: u8 = 126;
pub const NOT_FOUND: u8 = 127;

/// What happens to us and the command.
#[derive(Debug, Clone, Copy)]
pub enum News {
    Signal {
        number: i32,
        /// Of the terminal, for all of the foreground: the command has it already.
        to_all: bool,
    },
    Ended(ExitStatus),
}

impl News {
    /// Somebody wants us to end.
    pub fn asks_to_end(self) -> Option<i32> {
        match self {
            Self::Signal { number, .. } if ![libc::SIGUSR1, libc::SIGUSR2].contains(&number) => Some(number),
            Self::Signal { .. } | Self::Ended(_) => None,
        }
    }
}

/// A command that waits for its beginning, and then runs.
#[derive(Debug)]
pub struct Foreground {
    pub process: ProcessIdentity,
    pidfd: OwnedFd,
    /// `None` once it was told to begin.
    gate: Option<File>,
}

impl Foreground {
    /// Starts the child. From now on signals end us no more: they are told, as is its end. Before any other thread.
    pub fn prepare(
        arguments: &[OsString],
        command: &[OsString],
        tell: impl Fn(News) + Send + 'static,
    ) -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&read, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let mut child = Command::new(background::own_executable())
            .args(arguments)
            .arg(read.as_raw_fd().to_string())
            .arg("--")
            .args(command)
            .spawn()?;
        drop(read);
        let prepared = identify(&child).and_then(|(process, pidfd)| Ok((process, pidfd, blocked_signals()?)));
        let (process, pidfd, signals) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                drop(write);
                let _ = child.wait();
                return Err(error);
            }
        };
        let ends = pidfd.try_clone()?;
        std::thread::spawn(move || listen(&signals, child, &ends, &tell));
        Ok(Self { process, pidfd, gate: Some(write.into()) })
    }

    /// Lets the command begin, with these variables more than we have.
    pub fn begin(&mut self, variables: &BTreeMap<String, String>) -> io::Result<()> {
        let Some(mut gate) = self.gate.take() else { return Ok(()) };
        gate.write_all(&serde_json::to_vec(variables)?)
    }

    /// It shall never begin.
    pub fn give_up(&mut self) {
        self.gate = None;
    }

    pub fn signal(&self, number: i32) -> io::Result<()> {
        sys::send_signal(self.pidfd.as_fd(), number).map(drop)
    }
}

fn identify(child: &Child) -> io::Result<(ProcessIdentity, OwnedFd)> {
    let raw = child.id() as i32;
    let pid = Pid::from_raw(raw).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    // Not yet reaped, so both are of this very process.
    Ok((Here::read()?.identity(raw)?, pidfd_open(pid, PidfdFlags::empty())?))
}

/// Those of this thread, and of all that it starts.
fn blocked_signals() -> io::Result<SignalFd> {
    let signals: SigSet = HANDED_ON.into_iter().collect();
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// One after the other: a signal that has ended the command, too, is told before that end.
fn listen(signals: &SignalFd, mut child: Child, ends: &OwnedFd, tell: &impl Fn(News)) {
    let mut is_there = true;
    loop {
        let mut both =
            [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(ends.as_fd(), PollFlags::POLLIN)];
        let watched = if is_there { &mut both[..] } else { &mut both[..1] };
        match poll(watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        let has_ended = is_there && both[1].any() == Some(true);
        while let Ok(Some(signal)) = signals.read_signal() {
            tell(News::Signal {
                number: signal.ssi_signo as i32,
                to_all: signal.ssi_code == libc::SI_KERNEL,
            });
        }
        // It is our child, and nobody else waits for it.
        if has_ended && let Ok(status) = child.wait() {
            is_there = false;
            tell(News::Ended(status));
        }
    }
}

/// Whether there is a file that the command may be, as far as can be seen before it is executed.
pub fn is_there(command: &OsStr) -> bool {
    let is_file = |path: &Path| path.is_file();
    if command.as_bytes().contains(&b'/') {
        return is_file(Path::new(command));
    }
    let Some(path) = std::env::var_os("PATH") else { return true };
    std::env::split_paths(&path).any(|dir| is_file(&dir.join(command)))
}

pub fn code_of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// What a shell makes of an end.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// In the child: waits until it may begin, and becomes the command. Returns only if that fails, with why.
pub fn become_command(gate: i32, command: &[OsString]) -> (u8, String) {
    let failed = |error: &dyn std::fmt::Display| (NOT_EXECUTABLE, format!("it cannot begin: {error}"));
    let mut told = String::new();
    // A descriptor of its own, so that none is left open for the command.
    let opened = File::open(format!("/proc/self/fd/{gate}"));
    let closed = nix::unistd::close(gate);
    let read = opened.and_then(|mut file| file.read_to_string(&mut told));
    if let Err(error) = read.and_then(|_| Ok(closed?)) {
        return failed(&error);
    }
    // Whoever waits with us has ended, or nothing is to begin.
    let Ok(variables) = serde_json::from_str::<BTreeMap<String, String>>(&told) else {
        return (NOT_EXECUTABLE, String::new());
    };
    let Some((name, arguments)) = command.split_first() else { return failed(&"there is no command") };
    let error = Command::new(name).args(arguments).envs(variables).exec();
    let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
    (code, format!("`{}` cannot be executed: {error}", name.to_string_lossy()))
}

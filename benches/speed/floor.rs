//! The floors: the same work by the least that can do it, in a bare loop.

use std::ffi::{CStr, CString};
use std::io::Read;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::fs::inotify;

use crate::figure::Samples;
use crate::stamp::{self, Program};

/// Between two rounds: what the last one has begun is over by then.
pub const PAUSE: Duration = Duration::from_millis(50);

/// The descriptor that a service finds its first socket at.
const PASSED: i32 = 3;

/// The name that ends a bare watcher.
const END: &str = "end";

/// A child, ended and reaped with this value.
struct Bare(Pid);

impl Bare {
    /// posix_spawn with stdout appended to `log`.
    fn spawn(program: &CStr, log: &Path) -> Self {
        let mut actions = PosixSpawnFileActions::init().unwrap();
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND;
        actions.add_open(1, log, flags, Mode::from_bits_truncate(0o600)).unwrap();
        let attributes = PosixSpawnAttr::init().unwrap();
        let no_environment: [&CStr; 0] = [];
        Self(posix_spawn(program, &actions, &attributes, &[program], &no_environment).unwrap())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("our own paths hold no zero byte")
}

/// From the rename of a file into a watched directory to the first instruction: inotify and posix_spawn.
pub fn rename_to_start(program: &Program, rounds: usize) -> Samples {
    let directory = program.work_directory();
    let (watched, logs) = (directory.join("watched"), directory.clone());
    std::fs::create_dir(&watched).unwrap();
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&inotify, &watched, inotify::WatchFlags::MOVED_TO).unwrap();
    let program = c_string(&program.path());
    let log_of = |name: &str| logs.join(format!("{name}.log"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut children = Vec::new();
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(inotify.as_fd(), &mut buffer);
            loop {
                let event = reader.next().unwrap();
                let name = event.file_name().and_then(|name| name.to_str().ok()).unwrap_or(END);
                if name == END {
                    return;
                }
                children.push(Bare::spawn(&program, &log_of(name)));
            }
        });
        let renamed = |name: &str| {
            let staged = directory.join("staged");
            std::fs::write(&staged, "").unwrap();
            let begun = stamp::now();
            std::fs::rename(staged, watched.join(name)).unwrap();
            begun
        };
        let samples = (0..rounds)
            .map(|round| {
                let name = format!("s{round}");
                let begun = renamed(&name);
                let started = stamp::wait_for(&log_of(&name), 0);
                std::thread::sleep(PAUSE);
                started.at - begun
            })
            .collect();
        renamed(END);
        samples
    })
}

/// From SIGKILL to the first instruction of the next one: a pidfd's wake-up, and posix_spawn.
pub fn kill_to_start(program: &Program, rounds: usize) -> Samples {
    let log = program.work_directory().join("log");
    let program = c_string(&program.path());
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut child = Bare::spawn(&program, &log);
            for _ in 0..rounds {
                let raw = rustix::process::Pid::from_raw(child.0.as_raw()).expect("a pid is not 0");
                let pidfd = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()).unwrap();
                poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
                // Replaced before it is dropped, and so reaped: as a supervisor would.
                child = Bare::spawn(&program, &log);
            }
            child
        });
        let samples = (0..rounds)
            .map(|round| {
                let running = stamp::wait_for(&log, round);
                std::thread::sleep(PAUSE);
                let begun = stamp::now();
                kill(Pid::from_raw(running.pid), Signal::SIGKILL).unwrap();
                stamp::wait_for(&log, round + 1).at - begun
            })
            .collect();
        // Not before its stamp was read.
        drop(watcher.join());
        samples
    })
}

/// From a connection to the first byte: a wake-up by poll, and posix_spawn with the socket.
pub fn connection_to_byte(program: &Program, rounds: usize) -> Samples {
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listening.local_addr().unwrap();
    let program = c_string(&program.answering());
    let program = program.as_c_str();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..rounds {
                poll(&mut [PollFd::new(listening.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
                let mut actions = PosixSpawnFileActions::init().unwrap();
                actions.add_dup2(listening.as_raw_fd(), PASSED).unwrap();
                let attributes = PosixSpawnAttr::init().unwrap();
                let no_environment: [&CStr; 0] = [];
                let child = posix_spawn(program, &actions, &attributes, &[program], &no_environment).unwrap();
                waitpid(child, None).unwrap();
            }
        });
        (0..rounds).map(|_| first_byte(address)).collect()
    })
}

/// From a connection to the first byte of its answer, once what was before is over.
pub fn first_byte(address: SocketAddr) -> Duration {
    std::thread::sleep(PAUSE);
    let begun = stamp::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    stamp::now() - begun
}

/// From the first spawn to the last first instruction, of `count` children, by `std::process::Command`.
pub fn start_many(program: &Program, count: usize) -> Duration {
    let directory = program.work_directory();
    let logs: Vec<PathBuf> = (0..count).map(|n| directory.join(format!("{n}.log"))).collect();
    let begun = stamp::now();
    let children: Vec<Many> = logs
        .iter()
        .map(|log| {
            let log = std::fs::File::create(log).unwrap();
            let mut command = Command::new(program.path());
            Many(command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn().unwrap())
        })
        .collect();
    let last = logs.iter().map(|log| stamp::wait_for(log, 0).at).max().unwrap_or(begun);
    drop(children);
    last - begun
}

/// One of many children, ended and reaped with this value.
struct Many(Child);

impl Drop for Many {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

//! What `/proc` says of processes, boots and pid namespaces.
//!
//! Reads only, and one signal: that through an opened `/proc/PID`, which names a process for ever as a pidfd
//! does. Whoever wants to signal opens it first, then proves what it has opened, then signals: `here` proves
//! identities, `descendants` finds what descends from a process. Called by the keeper, the holders and `observe`.
//! Sources: proc(5), pidfd_send_signal(2).

mod descendants;
mod here;

pub use descendants::{has_living_child_beside, have_living_child_beside, own_children, visit_descendants};
pub use here::{Here, Liveness};

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::sys;

/// What is used of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    pub state: u8,
    pub ppid: i32,
    pub pgid: i32,
    /// Field 9, the kernel's `PF_*`.
    pub flags: u32,
    /// Field 20: threads that have not exited; a process whose last one has still shows 1.
    pub threads: u32,
    /// Field 22: start time in clock ticks since boot.
    pub start_ticks: u64,
}

impl Stat {
    /// `None` if `text` is not a line of that form.
    pub fn parse(text: &str) -> Option<Self> {
        let pid = text.split_once(' ')?.0.parse().ok()?;
        // The name is in brackets and may itself hold brackets and spaces: what counts is the last one.
        let rest = text.rsplit_once(')')?.1.trim_start();
        let mut fields = rest.split_ascii_whitespace();
        Some(Self {
            pid,
            state: *fields.next()?.as_bytes().first()?,
            ppid: fields.next()?.parse().ok()?,
            pgid: fields.next()?.parse().ok()?,
            // From field 5 to field 9, on to field 20, and on to field 22.
            flags: fields.nth(3)?.parse().ok()?,
            threads: fields.nth(10)?.parse().ok()?,
            start_ticks: fields.nth(1)?.parse().ok()?,
        })
    }

    /// A copy of whoever forked it: it has executed nothing since.
    pub fn is_mere_copy(&self) -> bool {
        const PF_FORKNOEXEC: u32 = 0x40;
        self.flags & PF_FORKNOEXEC != 0
    }

    /// It executes nothing any more, and is dead in a moment.
    pub fn is_ending(&self) -> bool {
        const PF_EXITING: u32 = 0x4;
        self.flags & PF_EXITING != 0 && self.threads <= 1
    }

    /// A zombie is dead: it runs nothing and holds nothing but its number. Not so one whose main thread has exited
    /// while others run: that one shows the same state, and more than one thread.
    pub fn is_dead(&self) -> bool {
        match self.state {
            b'X' | b'x' => true,
            b'Z' => self.threads <= 1,
            _ => false,
        }
    }
}

/// An opened `/proc/PID`: goes on naming that one process when its pid has long been given to another.
#[derive(Debug)]
pub struct Pinned {
    dir: OwnedFd,
    pid: i32,
}

impl Pinned {
    /// `None` where there is no such process.
    pub fn open(pid: i32) -> io::Result<Option<Self>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match open(format!("/proc/{pid}").as_str(), flags, Mode::empty()) {
            Ok(dir) => Ok(Some(Self { dir, pid })),
            Err(error) => none_if_gone(error.into()),
        }
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// `None` once the process is gone and reaped.
    pub fn stat(&self) -> io::Result<Option<Stat>> {
        self.open_file("stat")?.map_or(Ok(None), |file| stat_of(file, self.pid))
    }

    /// Pids of the children of all its threads; empty once it is gone.
    fn children(&self) -> io::Result<Vec<i32>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let tasks = match openat(&self.dir, "task", flags, Mode::empty()) {
            Ok(tasks) => tasks,
            Err(error) => return none_if_gone(error.into()).map(Option::unwrap_or_default),
        };
        let mut children = Vec::new();
        for task in nix::dir::Dir::from_fd(tasks)?.iter() {
            // A thread that ends while the list is read hands its children to another one: the next sweep.
            let Ok(task) = task else { break };
            let Ok(name) = task.file_name().to_str() else { continue };
            if name.starts_with('.') {
                continue;
            }
            if let Some(text) = self.read(&format!("task/{name}/children"))? {
                children.extend(pids_in(&text));
            }
        }
        Ok(children)
    }

    /// `Ok(false)`: it is gone.
    pub fn signal(&self, signal: i32) -> io::Result<bool> {
        sys::send_signal(self.dir.as_fd(), signal)
    }

    fn read(&self, name: &str) -> io::Result<Option<String>> {
        self.open_file(name)?.map_or(Ok(None), read_all)
    }

    fn open_file(&self, name: &str) -> io::Result<Option<fs::File>> {
        match openat(&self.dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(file) => Ok(Some(file.into())),
            Err(error) => none_if_gone(error.into()),
        }
    }
}

impl AsFd for Pinned {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

fn pids_in(text: &str) -> impl Iterator<Item = i32> {
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok())
}

fn read_all(mut file: fs::File) -> io::Result<Option<String>> {
    // Files of /proc have no size: a reader without a guess begins with 32 bytes, and one of a file as such asks
    // the kernel for it first.
    let mut bytes = Vec::with_capacity(1024);
    match file.by_ref().take(u64::MAX).read_to_end(&mut bytes) {
        Ok(_) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) => none_if_gone(error),
    }
}

fn none_if_gone<T>(error: io::Error) -> io::Result<Option<T>> {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => Ok(None),
        _ => Err(error),
    }
}

/// The process with this pid at this moment; `None` where there is none.
pub fn stat(pid: i32) -> io::Result<Option<Stat>> {
    open_stat(pid)?.map_or(Ok(None), |file| stat_of(file, pid))
}

/// Opened, it goes on naming that one process too.
fn open_stat(pid: i32) -> io::Result<Option<fs::File>> {
    open_stat_at(&stat_path(pid))
}

fn stat_path(pid: i32) -> CString {
    CString::new(format!("/proc/{pid}/stat")).expect("a number holds no zero byte")
}

fn open_stat_at(path: &CStr) -> io::Result<Option<fs::File>> {
    match open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(file) => Ok(Some(file.into())),
        Err(error) => none_if_gone(error.into()),
    }
}

/// More than a line of 52 numbers and a name can be.
pub const STAT_BYTES: usize = 2048;

/// Read at once: the kernel makes the line for each reading, and gives all of it.
fn stat_of(mut file: fs::File, pid: i32) -> io::Result<Option<Stat>> {
    let mut line = [0; STAT_BYTES];
    let length = match file.read(&mut line) {
        Ok(length) => length,
        Err(error) => return none_if_gone(error),
    };
    // The name of a process is any bytes at all.
    let text = String::from_utf8_lossy(&line[..length]);
    let garbled = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is garbled"));
    let mut stat = Stat::parse(&text).ok_or_else(garbled)?;
    stat.start_ticks = stat.start_ticks.saturating_add_signed(-ticks_ahead());
    Ok(Some(stat))
}

/// How far the clock of our time namespace, on which the kernel shows start times, is ahead of the machine's: an
/// identity is the same for whoever reads it. Source: time_namespaces(7).
fn ticks_ahead() -> i64 {
    const TICKS_PER_SECOND: i64 = 100;
    static AHEAD: OnceLock<i64> = OnceLock::new();
    *AHEAD.get_or_init(|| {
        let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        let words = offsets.lines().find_map(|line| line.strip_prefix("boottime"));
        let mut numbers = words.unwrap_or_default().split_ascii_whitespace().flat_map(str::parse::<i64>);
        let (seconds, nanoseconds) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        seconds * TICKS_PER_SECOND + nanoseconds / (1_000_000_000 / TICKS_PER_SECOND)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_brackets_and_spaces_does_not_shift_the_fields() {
        let line = "42 (a) b (c) S) R 7 41 41 0 -1 4194304 85 0 0 0 0 0 0 0 20 0 1 0 123456 1 2 3\n";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            stat,
            Stat {
                pid: 42,
                state: b'R',
                ppid: 7,
                pgid: 41,
                flags: 4_194_304,
                threads: 1,
                start_ticks: 123_456
            }
        );
    }

    /// As such lines look on Linux 6.18.
    #[test]
    fn a_process_whose_main_thread_alone_has_exited_is_alive() {
        let line = |state, threads| {
            format!("9 (x) {state} 1 9 9 0 -1 0 124 0 0 0 0 0 0 0 20 0 {threads} 0 737410 0")
        };
        let is_dead = |state, threads| Stat::parse(&line(state, threads)).unwrap().is_dead();
        assert!(!is_dead('Z', 2));
        assert!(is_dead('Z', 1));
        assert!(is_dead('X', 2));
        assert!(!is_dead('S', 1));
    }

    #[test]
    fn a_short_line_is_no_stat() {
        assert_eq!(Stat::parse("42 (a) R 7 41"), None);
        assert_eq!(Stat::parse(""), None);
    }
}

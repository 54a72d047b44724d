//! What `/proc` says of processes, boots and pid namespaces.
//!
//! Reads only, and one signal: that through an opened `/proc/PID`, which names a process for ever as a pidfd
//! does. Whoever wants to signal opens it first, then proves what it has opened, then signals. Called by
//! the keeper, the holders and `observe`. Sources: proc(5), pidfd_send_signal(2).

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};

use super::sys;
use crate::identity::{BootId, Pid, ProcessIdentity};
use crate::time::Stamp;

/// What is used of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    pub state: u8,
    pub ppid: i32,
    pub pgid: i32,
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
            // From field 5 to field 20, and on to field 22.
            threads: fields.nth(14)?.parse().ok()?,
            start_ticks: fields.nth(1)?.parse().ok()?,
        })
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
    Stat::parse(&text).map(Some).ok_or_else(garbled)
}

/// True if `parent` has a child that lives, `dead` not counted: orphans come to a subreaper before whoever left them is
/// seen dead, so that nothing descends from one whose children are all dead.
pub fn has_living_child_beside(parent: &Pinned, dead: i32) -> io::Result<bool> {
    lives_beside(dead, || children_of(parent))
}

/// The same of ourselves, who have one thread: its list is all of them.
pub fn have_living_child_beside(dead: i32) -> io::Result<bool> {
    lives_beside(dead, || match fs::File::open("/proc/thread-self/children") {
        Ok(list) => Ok(pids_in(&read_all(list)?.unwrap_or_default()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(scan_parents()?.remove(&(std::process::id() as i32)).unwrap_or_default())
        }
        Err(error) => Err(error),
    })
}

fn lives_beside(dead: i32, children: impl Fn() -> io::Result<Vec<i32>>) -> io::Result<bool> {
    let mut seen_dead = vec![dead];
    loop {
        let pids = children()?;
        let Some(&pid) = pids.iter().find(|pid| !seen_dead.contains(pid)) else { return Ok(false) };
        if stat(pid)?.is_some_and(|stat| !stat.is_dead()) {
            return Ok(true);
        }
        seen_dead.push(pid);
    }
}

fn children_of(parent: &Pinned) -> io::Result<Vec<i32>> {
    if has_children_files()? {
        return parent.children();
    }
    Ok(scan_parents()?.remove(&parent.pid).unwrap_or_default())
}

/// Not where the kernel is built without CONFIG_PROC_CHILDREN.
fn has_children_files() -> io::Result<bool> {
    fs::exists("/proc/thread-self/children")
}

/// Visits every process that descends from `root`, dead ones included, parents before their children.
///
/// Each is proved when it is visited: its parent is the process it was found under, or `root` itself (to which
/// the orphans of a subreaper come). Processes that come and go meanwhile may be missed.
pub fn visit_descendants(root: &Pinned, visit: &mut dyn FnMut(&Pinned, &Stat)) -> io::Result<()> {
    let walk =
        Walk { root: root.pid, scan: if has_children_files()? { None } else { Some(scan_parents()?) } };
    walk.below(root, &walk.children(root)?, visit, 0)
}

/// Deeper chains are seen once what is above them is gone: a bound for the stack and for open descriptors.
const MAX_DEPTH: usize = 128;

type Scan = HashMap<i32, Vec<i32>>;

struct Walk {
    root: i32,
    /// Where the kernel has no `children` files.
    scan: Option<Scan>,
}

impl Walk {
    fn children(&self, parent: &Pinned) -> io::Result<Vec<i32>> {
        match &self.scan {
            None => parent.children(),
            Some(scan) => Ok(scan.get(&parent.pid).cloned().unwrap_or_default()),
        }
    }

    fn below(
        &self,
        parent: &Pinned,
        pids: &[i32],
        visit: &mut dyn FnMut(&Pinned, &Stat),
        depth: usize,
    ) -> io::Result<()> {
        for &pid in pids {
            let Some(child) = Pinned::open(pid)? else { continue };
            let Some(stat) = child.stat()? else { continue };
            // The number may have been given to a stranger between the list and the opening.
            let under_parent = stat.ppid == parent.pid && parent.stat()?.is_some();
            if !under_parent && stat.ppid != self.root {
                continue;
            }
            // Listed before the visit, which may kill it and so send its children elsewhere.
            let children = self.children(&child)?;
            visit(&child, &stat);
            if depth < MAX_DEPTH {
                self.below(&child, &children, visit, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Every process by its parent, for kernels without `children` files.
fn scan_parents() -> io::Result<Scan> {
    let mut scan = Scan::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if let Ok(Some(stat)) = stat(pid) {
            scan.entry(stat.ppid).or_default().push(pid);
        }
    }
    Ok(scan)
}

/// The boot and the pid namespace we are in: half of every identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    pub boot: BootId,
    pub pid_ns: u64,
}

/// What an identity turns out to be at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Liveness {
    /// This very process runs.
    Alive,
    /// It is gone, a zombie, or its pid belongs to another process by now.
    Dead,
    /// The machine was booted since: it is gone.
    OtherBoot,
    /// Its pid means something else here, or `/proc` cannot be read; a sentence.
    Unverifiable(String),
}

/// A pid that `/proc` does not show: with `hidepid=2` that may be a living process of another user.
fn without_directory(pid: i32) -> Liveness {
    match nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) {
        Err(nix::errno::Errno::ESRCH) => Liveness::Dead,
        Ok(()) | Err(_) => Liveness::Unverifiable(format!("/proc hides process {pid}")),
    }
}

fn unreadable(process: &ProcessIdentity, error: &io::Error) -> Liveness {
    Liveness::Unverifiable(format!("/proc/{} cannot be read: {error}", process.pid))
}

/// Whether what has the pid now is this process, alive.
fn prove(process: &ProcessIdentity, stat: &Stat) -> Result<(), Liveness> {
    if stat.start_ticks != process.start_ticks || stat.is_dead() {
        return Err(Liveness::Dead);
    }
    Ok(())
}

impl Here {
    pub fn read() -> io::Result<Self> {
        use std::os::linux::fs::MetadataExt;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let pid_ns = fs::metadata("/proc/self/ns/pid")?.st_ino();
        Ok(Self { boot: BootId::new(&boot), pid_ns })
    }

    /// Ours.
    pub fn own_identity(&self) -> io::Result<ProcessIdentity> {
        self.identity_in(std::process::id() as i32, c"/proc/self/stat")
    }

    /// The identity of a process that cannot vanish now: a child not yet reaped. Needs one free descriptor.
    pub fn identity(&self, pid: i32) -> io::Result<ProcessIdentity> {
        self.identity_in(pid, &stat_path(pid))
    }

    fn identity_in(&self, pid: i32, path: &CStr) -> io::Result<ProcessIdentity> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, format!("there is no process {pid}"));
        let stat = open_stat_at(path)?.map_or(Ok(None), |file| stat_of(file, pid))?.ok_or_else(gone)?;
        let pid = Pid::new(pid).ok_or_else(gone)?;
        Ok(ProcessIdentity {
            pid,
            start_ticks: stat.start_ticks,
            boot: self.boot.clone(),
            pid_ns: self.pid_ns,
        })
    }

    /// Proves it by one reading: whoever does more with the process than to know of it has to pin it.
    pub fn liveness(&self, process: &ProcessIdentity) -> Liveness {
        let looked = self.may_be_here(process).and_then(|()| {
            let pid = process.pid.get();
            let file = open_stat(pid).map_err(|error| unreadable(process, &error))?;
            let file = file.ok_or_else(|| without_directory(pid))?;
            let stat = stat_of(file, pid).map_err(|error| unreadable(process, &error))?;
            prove(process, &stat.ok_or(Liveness::Dead)?)
        });
        looked.map_or_else(|liveness| liveness, |()| Liveness::Alive)
    }

    /// Pins a process and proves that it is this one, alive; otherwise says what it is.
    pub fn pin(&self, process: &ProcessIdentity) -> Result<Pinned, Liveness> {
        self.may_be_here(process)?;
        let pinned = Pinned::open(process.pid.get()).map_err(|error| unreadable(process, &error))?;
        let pinned = pinned.ok_or_else(|| without_directory(process.pid.get()))?;
        let stat = pinned.stat().map_err(|error| unreadable(process, &error))?.ok_or(Liveness::Dead)?;
        prove(process, &stat)?;
        Ok(pinned)
    }

    /// What boot and pid namespace alone tell of a process.
    fn may_be_here(&self, process: &ProcessIdentity) -> Result<(), Liveness> {
        if process.boot != self.boot {
            return Err(Liveness::OtherBoot);
        }
        if process.pid_ns != self.pid_ns {
            return Err(Liveness::Unverifiable(format!(
                "pid {} was seen in pid namespace {}, and this is {}",
                process.pid, process.pid_ns, self.pid_ns
            )));
        }
        Ok(())
    }

    /// All clocks at this moment.
    pub fn stamp(&self) -> Stamp {
        let millis = |clock| {
            clock_gettime(clock).map(|time| Duration::from(time).as_millis()).unwrap_or_default() as u64
        };
        Stamp {
            boot: self.boot.clone(),
            boottime_ms: millis(ClockId::CLOCK_BOOTTIME),
            awake_ms: millis(ClockId::CLOCK_MONOTONIC),
            wall_ms: millis(ClockId::CLOCK_REALTIME) as i64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_brackets_and_spaces_does_not_shift_the_fields() {
        let line = "42 (a) b (c) S) R 7 41 41 0 -1 4194304 85 0 0 0 0 0 0 0 20 0 1 0 123456 1 2 3\n";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(stat, Stat { pid: 42, state: b'R', ppid: 7, pgid: 41, threads: 1, start_ticks: 123_456 });
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

    #[test]
    fn a_process_that_proc_does_not_show_is_dead_only_if_the_kernel_knows_none() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        assert!(matches!(without_directory(child.id() as i32), Liveness::Unverifiable(_)));
        child.wait().unwrap();
        assert_eq!(without_directory(child.id() as i32), Liveness::Dead);
    }

    #[test]
    fn our_own_identity_is_alive_and_a_recycled_one_dead() {
        let here = Here::read().unwrap();
        let me = here.own_identity().unwrap();
        assert_eq!(here.liveness(&me), Liveness::Alive);
        let recycled = ProcessIdentity { start_ticks: me.start_ticks + 1, ..me.clone() };
        assert_eq!(here.liveness(&recycled), Liveness::Dead);
        let other_ns = ProcessIdentity { pid_ns: 1, ..me.clone() };
        assert!(matches!(here.liveness(&other_ns), Liveness::Unverifiable(_)));
        let other_boot = ProcessIdentity { boot: BootId::new("x"), ..me };
        assert_eq!(here.liveness(&other_boot), Liveness::OtherBoot);
    }

    #[test]
    fn descendants_are_found_with_and_without_children_files() {
        let script = "sleep 1000 & (sleep 1000 & exec sleep 1000) & exec sleep 1000";
        let mut shell = std::process::Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        let top = Pinned::open(shell.id() as i32).unwrap().unwrap();
        let below = |scan: Option<Scan>| {
            let walk = Walk { root: top.pid, scan };
            let mut found = Vec::new();
            walk.below(&top, &walk.children(&top).unwrap(), &mut |member, _| found.push(member.pid), 0)
                .unwrap();
            found.sort_unstable();
            found
        };
        let start = std::time::Instant::now();
        while below(None).len() < 3 && start.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        let (quick, scanned) = (below(None), below(Some(scan_parents().unwrap())));
        // By the list: one whose parent is killed first is no descendant any more.
        for pid in &quick {
            Pinned::open(*pid).unwrap().unwrap().signal(libc::SIGKILL).unwrap();
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert_eq!(quick.len(), 3);
        assert_eq!(quick, scanned);
    }
}

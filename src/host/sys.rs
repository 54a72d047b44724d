//! The few system calls that neither `nix` nor `rustix` offers as we need them.
//!
//! Thin: one call each, raw values in, `io::Result` out, no policy. `fork` may be called by a process of one
//! thread only (the keeper and its holders), which is why it can be followed by ordinary Rust in the child.
//! Sources: clone(2), waitid(2), pidfd_send_signal(2), close_range(2), and `include/uapi/linux/pidfd.h`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use crate::state::ExitStatus;

/// Which side of a fork we are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    Child,
    /// The child's pid: reserved until it is reaped.
    Parent(i32),
}

/// `struct clone_args` of clone(2), the first version that has `cgroup`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// fork(2), with all that the C library does about it: for a child that becomes a program of its own.
///
/// The caller has one thread; see the module's header.
#[expect(unsafe_code, reason = "JUSTIFICATION: fork is unsafe by nature")]
pub fn fork() -> io::Result<Fork> {
    // SAFETY: the process has one thread, so no lock can be held by another one in the child.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Ok(Fork::Child),
        nix::unistd::ForkResult::Parent { child } => Ok(Fork::Parent(child.as_raw())),
    }
}

/// As [`fork`] where that is all there is, and else without the C library's books about threads and handlers, of
/// which a holder or a child on its way to an exec has none: each page of them that is written is one to copy.
pub fn fork_lightly() -> io::Result<Fork> {
    match fork_into(None) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => fork(),
        other => other,
    }
}

/// Forks, the child a member of `cgroup` from its first instruction on where one is given.
///
/// `ErrorKind::Unsupported` where the kernel or a sandbox has no clone3, or not into a cgroup: fork without, and let
/// the child move itself.
///
/// The caller has one thread; see the module's header.
#[expect(
    unsafe_code,
    reason = "JUSTIFICATION: no safe wrapper of clone3 exists, and fork is unsafe by nature"
)]
pub fn fork_into(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    let args = CloneArgs {
        flags: cgroup.map_or(0, |_| CLONE_INTO_CGROUP),
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |cgroup| cgroup.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    // SAFETY: `args` is a valid clone_args of the size given; neither CLONE_VM nor a stack is asked for, so the
    // child is a plain copy as after fork(2), in a process of one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        -1 => match io::Error::last_os_error() {
            // ENOSYS: no clone3; EPERM: a seccomp filter; E2BIG and EINVAL: no `cgroup` member yet.
            error
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOSYS | libc::EPERM | libc::E2BIG | libc::EINVAL)
                ) =>
            {
                Err(io::Error::new(io::ErrorKind::Unsupported, error))
            }
            error => Err(error),
        },
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// Words for an exec, with the list of pointers that the kernel reads: whoever executes has nothing left to make.
///
/// All in one piece: what is made before a fork and freed after it costs a fault for each page that it lies on.
#[derive(Debug)]
pub struct Strings {
    pointers: Vec<*const libc::c_char>,
    /// What the pointers point into.
    _text: Vec<u8>,
}

impl Strings {
    /// Each word given as its parts; `Err` is one that holds a zero byte.
    pub fn new<const N: usize>(words: &[[&str; N]]) -> Result<Self, String> {
        let mut text = Vec::with_capacity(words.as_flattened().iter().map(|part| part.len() + 1).sum());
        let mut starts = Vec::with_capacity(words.len());
        for word in words {
            starts.push(text.len());
            if word.iter().any(|part| part.contains('\0')) {
                return Err(word.concat());
            }
            word.iter().for_each(|part| text.extend_from_slice(part.as_bytes()));
            text.push(0);
        }
        let words = starts.into_iter().map(|start| text[start..].as_ptr().cast());
        Ok(Self { pointers: words.chain([std::ptr::null()]).collect(), _text: text })
    }
}

/// execve(2); returns only if it fails.
#[expect(
    unsafe_code,
    reason = "JUSTIFICATION: the wrappers make the lists of pointers themselves, each time"
)]
pub fn execute(path: &CStr, argv: &Strings, env: &Strings) -> io::Error {
    // SAFETY: all three point to strings that live as long as the references, and the lists end with a null.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Executes the file behind a descriptor; returns only if it fails.
#[expect(unsafe_code, reason = "JUSTIFICATION: as for execute")]
pub fn execute_file(file: BorrowedFd<'_>, argv: &Strings, env: &Strings) -> io::Error {
    let (fd, argv, env) = (file.as_raw_fd(), argv.pointers.as_ptr(), env.pointers.as_ptr());
    // SAFETY: as above; with AT_EMPTY_PATH an empty path means the file itself.
    unsafe { libc::syscall(libc::SYS_execveat, fd, c"".as_ptr(), argv, env, libc::AT_EMPTY_PATH) };
    io::Error::last_os_error()
}

/// Ends this process at once: no destructor, no exit handler.
#[expect(unsafe_code, reason = "JUSTIFICATION: a forked child must not run what its parent registered")]
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dead {
    pub pid: i32,
    pub status: ExitStatus,
}

/// Which children a wait is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    Any,
    Pid(i32),
}

/// What a wait does with the child it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Leaves it a zombie: its pid stays reserved.
    Peek,
    Reap,
}

/// A child that has ended, if there is one; never blocks. `ECHILD` where there are no children at all.
///
/// `nix` cannot be used: it has no word for a death by a real-time signal, and fails for ever on it.
#[expect(unsafe_code, reason = "JUSTIFICATION: the wrappers lose the pid (rustix) or fail on SIGRTMIN (nix)")]
pub fn wait(whom: Whom, how: Wait) -> io::Result<Option<Dead>> {
    let (kind, id) = match whom {
        Whom::Any => (libc::P_ALL, 0),
        Whom::Pid(pid) => (libc::P_PID, pid as libc::id_t),
    };
    let keep = if how == Wait::Peek { libc::WNOWAIT } else { 0 };
    // SAFETY: all zeroes is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: `info` is a valid, writable siginfo_t.
        let done = unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | libc::WNOHANG | keep) };
        if done == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: waitid has filled in the members for SIGCHLD, or left them zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let status =
        if info.si_code == libc::CLD_EXITED { ExitStatus::Code(status) } else { ExitStatus::Signal(status) };
    Ok((pid != 0).then_some(Dead { pid, status }))
}

/// Signals the process behind a pidfd or an open `/proc/PID`. `Ok(false)`: it is gone.
#[expect(unsafe_code, reason = "JUSTIFICATION: the wrapper's signal type has no real-time signals")]
pub fn send_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<bool> {
    // SAFETY: a null siginfo is allowed and means that of kill(2); the descriptor is open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if done == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(false) } else { Err(error) }
}

/// `struct pidfd_info`, version 0.
#[repr(C)]
#[derive(Debug, Default)]
pub struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;

mod ioctl {
    nix::ioctl_readwrite!(pidfd_get_info, 0xFF, 11, super::PidfdInfo);
}

/// How the process behind a pidfd ended, whoever its parent was. `None` while it lives or is not yet reaped.
///
/// `Err` on kernels before 6.15, which do not tell.
#[expect(unsafe_code, reason = "JUSTIFICATION: no wrapper of this ioctl exists")]
pub fn exit_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<ExitStatus>> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: `info` is a valid pidfd_info of the size that the request number carries.
    unsafe { ioctl::pidfd_get_info(pidfd.as_raw_fd(), &raw mut info) }?;
    if info.mask & PIDFD_INFO_EXIT == 0 {
        return Ok(None);
    }
    let signal = info.exit_code & 0x7f;
    Ok(Some(if signal == 0 {
        ExitStatus::Code((info.exit_code >> 8) & 0xff)
    } else {
        ExitStatus::Signal(signal)
    }))
}

/// Closes every descriptor from `first` on, except those in `keep`. No Rust value that owns one of them may be
/// dropped after that.
#[expect(unsafe_code, reason = "JUSTIFICATION: closes descriptors that no Rust value owns")]
pub fn close_descriptors(first: RawFd, keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|&fd| fd >= first).collect();
    keep.sort_unstable();
    let mut from = first;
    for fd in keep.iter().copied().chain([RawFd::MAX]) {
        // SAFETY: the callers own every descriptor of the range, or were handed it by accident.
        let closed = fd <= from
            || unsafe { libc::syscall(libc::SYS_close_range, from, (fd - 1) as libc::c_uint, 0) } == 0;
        if !closed {
            // Older than 5.9, or filtered.
            return close_one_by_one(first, &keep);
        }
        from = fd.saturating_add(1);
    }
    Ok(())
}

/// dup2(2) to a number that nobody owns: it stays open across an exec.
#[expect(
    unsafe_code,
    reason = "JUSTIFICATION: the wrappers want to own the target, which is to be inherited"
)]
pub fn place(fd: BorrowedFd<'_>, at: RawFd) -> nix::Result<()> {
    // SAFETY: the caller has made sure that no Rust value that is still used owns `at`.
    nix::errno::Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), at) }).map(drop)
}

#[expect(unsafe_code, reason = "JUSTIFICATION: closes descriptors that no Rust value owns")]
fn close_one_by_one(first: RawFd, keep: &[RawFd]) -> io::Result<()> {
    let names: Vec<_> = std::fs::read_dir("/proc/self/fd")?.collect::<io::Result<_>>()?;
    let fds = names.iter().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for fd in fds.filter(|fd| *fd >= first && !keep.contains(fd)) {
        // SAFETY: as above; a descriptor that is closed by now gives EBADF.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Default disposition for every signal. What executes nothing hands its own on to each fork.
///
/// By the system call itself: the C library refuses 32 and 33, which are its own and may be inherited as ignored.
#[expect(unsafe_code, reason = "JUSTIFICATION: no wrapper sets signals 32 and 33")]
pub fn reset_dispositions() {
    /// The kernel's `struct sigaction` is at most this large; all zeroes is SIG_DFL without flags or mask.
    const DEFAULT: [u64; 8] = [0; 8];
    const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;
    for signal in SIGNALS {
        let old = std::ptr::null::<u64>();
        // SAFETY: the action is readable and large enough, the old one is not asked for. KILL and STOP give EINVAL.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), old, size_of::<u64>()) };
    }
}

/// No signal blocked.
pub fn unblock_signals() {
    let none = nix::sys::signal::SigSet::empty();
    none.thread_set_mask().expect("an empty signal mask is always valid");
}

/// Ignores a signal.
#[expect(unsafe_code, reason = "JUSTIFICATION: sigaction is unsafe")]
pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN installs no handler, so nothing can run at a bad moment.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Calls `handler` on a signal.
///
/// It must do nothing but what signal-safety(7) allows.
#[expect(unsafe_code, reason = "JUSTIFICATION: sigaction is unsafe")]
pub fn handle_signal(signal: i32, handler: extern "C" fn(i32)) {
    // SAFETY: the handler has the type that the kernel calls; what it does is its author's, see above.
    unsafe { libc::signal(signal, handler as *const () as libc::sighandler_t) };
}

/// Gives memory that is free back to the kernel; by itself the allocator keeps what it once had, for the next time.
///
/// For a process that has done much and will do little. Takes some milliseconds.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "JUSTIFICATION: nix and rustix do not offer malloc_trim(3)")]
    // SAFETY: it may be called at any time from any thread, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives a signal back its default disposition.
#[expect(unsafe_code, reason = "JUSTIFICATION: sigaction is unsafe")]
pub fn default_signal(signal: i32) {
    // SAFETY: SIG_DFL installs no handler, so nothing can run at a bad moment.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pidfd_info_is_as_large_as_its_first_version() {
        assert_eq!(size_of::<PidfdInfo>(), 64);
        assert_eq!(size_of::<CloneArgs>(), 88);
    }
}

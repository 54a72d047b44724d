//! What the kernel offers, each tried on ourselves or on a child that ends at once.
//!
//! Sources: pidfd_open(2), clone(2), close_range(2), execveat(2), prctl(2); linux/pidfd.h for
//! `PIDFD_GET_INFO` (`PIDFD_INFO_EXIT` since 6.15).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Fact, Mechanism};

/// The oldest kernel that everything is built for.
const OLDEST: (u32, u32) = (5, 10);

/// `_IOWR(0xFF, 11, struct pidfd_info)` with the 64 bytes of its first version.
const PIDFD_GET_INFO: libc::c_ulong = 0xC040_FF0B;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

pub fn facts() -> Vec<Fact> {
    vec![
        version(),
        Mechanism {
            name: "pidfd",
            brings: "processes are watched and signalled without a race on their pid",
            fallback: "exits of adopted services are noticed at the next resync only",
        }
        .judge(own_pidfd().map(drop)),
        Mechanism {
            name: "pidfd-exit-status",
            brings: "how an adopted service ended is known even where its keeper is gone",
            fallback: "how a service ended whose keeper is gone is shown as unknown",
        }
        .judge(exit_status_by_pidfd()),
        Mechanism {
            name: "clone3",
            brings: "a service is born in its cgroup",
            fallback: "a service moves itself into its cgroup before it is executed",
        }
        .judge(probe_call(|| {
            #[expect(unsafe_code, reason = "JUSTIFICATION: neither nix nor rustix has clone3")]
            // SAFETY: with size 0 the kernel reads nothing and refuses before anything is created.
            unsafe {
                libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0usize)
            }
        })),
        Mechanism {
            name: "close-range",
            brings: "a service inherits no descriptor, at the price of one call",
            fallback: "descriptors are closed one by one before a service is executed",
        }
        .judge(probe_call(|| {
            #[expect(unsafe_code, reason = "JUSTIFICATION: neither nix nor rustix has close_range")]
            // SAFETY: a range that ends before it begins is refused and closes nothing.
            unsafe {
                libc::syscall(libc::SYS_close_range, 1, 0, 0)
            }
        })),
        Mechanism {
            name: "subreaper",
            brings: "descendants that leave their service's session are still ours to end",
            fallback: "descendants that leave their service's session and have no cgroup are lost",
        }
        .judge(nix::sys::prctl::get_child_subreaper().map(drop).map_err(io::Error::from)),
        comm_of_execveat(),
    ]
}

fn version() -> Fact {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = OLDEST;
    if version >= OLDEST {
        return Fact::found("kernel", release, format!("{major}.{minor} or newer is supported"));
    }
    Fact::lacking("kernel", release, format!("older than {major}.{minor}: not supported, expect failures"))
}

fn own_pidfd() -> io::Result<std::os::fd::OwnedFd> {
    let own = Pid::from_raw(std::process::id() as i32).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(own, PidfdFlags::empty())?)
}

/// A call with arguments that cannot be carried out: `EINVAL` says that it is there, and anything else
/// (`ENOSYS`, or `EPERM` from a filter) that it cannot be used.
fn probe_call(call: impl Fn() -> libc::c_long) -> io::Result<()> {
    if call() == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) }
}

/// Starts ourselves as something that ends at once; `None` if even that fails.
fn short_lived(
    hook: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<std::process::Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    #[expect(unsafe_code, reason = "JUSTIFICATION: execveat must be tried in a child")]
    // SAFETY: the hooks below make system calls on values prepared before the fork, and nothing else.
    unsafe {
        command.pre_exec(hook);
    }
    command.spawn()
}

fn exit_status_by_pidfd() -> io::Result<()> {
    let mut child = short_lived(|| Ok(()))?;
    let pid = Pid::from_raw(child.id() as i32).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty());
    child.wait()?;
    let mut info = [0u64; 8];
    info[0] = PIDFD_INFO_EXIT;
    #[expect(unsafe_code, reason = "JUSTIFICATION: neither nix nor rustix has this ioctl")]
    // SAFETY: the descriptor is open, and the buffer has the 64 bytes that the number of the ioctl names.
    let result = unsafe { libc::ioctl(pidfd?.as_fd().as_raw_fd(), PIDFD_GET_INFO as _, info.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let told = info[0] & PIDFD_INFO_EXIT != 0;
    if told { Ok(()) } else { Err(io::Error::other("the kernel does not tell exit statuses")) }
}

/// What `comm` a file gets that is executed by descriptor: its name (6.14 and newer) or the number.
fn comm_of_execveat() -> Fact {
    const NAME: &str = "execveat";
    match comm_by_descriptor() {
        Ok(comm) if comm.bytes().all(|byte| byte.is_ascii_digit()) => Fact::lacking(
            NAME,
            format!("comm is `{comm}`"),
            "`ps -o comm` may show a number for a service, its command line is right",
        ),
        Ok(comm) => Fact::found(
            NAME,
            format!("comm is `{comm}`"),
            "what was checked is what is executed, and `ps` shows its name",
        ),
        Err(error) => Fact::lacking(
            NAME,
            error.to_string(),
            "services are executed by path: a file swapped at that very moment is not noticed",
        ),
    }
}

fn comm_by_descriptor() -> io::Result<String> {
    let file = File::open("/proc/self/exe")?;
    let fd = file.as_raw_fd();
    let argv: Vec<CString> =
        ["reconcile", "--version"].map(|word| CString::new(word).unwrap_or_default()).into();
    let mut child = short_lived(move || Err(execute(fd, &argv)))?;
    // The exec is over when `spawn` returns, and even a zombie keeps its name.
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", child.id()));
    child.wait()?;
    drop(file);
    Ok(comm?.trim_end().to_owned())
}

/// Returns only if it failed.
fn execute(fd: RawFd, argv: &[CString]) -> io::Error {
    let [name, option] = argv else { return io::ErrorKind::InvalidInput.into() };
    let words = [name.as_ptr(), option.as_ptr(), std::ptr::null()];
    let no_env = [std::ptr::null::<libc::c_char>()];
    #[expect(unsafe_code, reason = "JUSTIFICATION: neither nix nor rustix has execveat")]
    // SAFETY: the path is empty and ends in a nul, both arrays end in a null pointer, all outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd,
            c"".as_ptr(),
            words.as_ptr(),
            no_env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

//! From a process that somebody started to one that depends on nobody: the beginning of a keeper's life.
//!
//! Own session, the state directory as its working directory, no descriptor, signal disposition or umask of
//! whoever started it. The process that was started waits until the keeper listens, says so by its exit
//! code, and is gone. Called by `main`, before the process has a second thread.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nix::sched::CpuSet;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;

use super::server::{Keeper, Parts};
use super::upgrade::succeed;
use crate::host::StateLayout;
use crate::host::failpoint;
use crate::host::flock::{self, Kind};
use crate::host::proc::Here;
use crate::host::socket::Directory;
use crate::host::sys::{self, Fork};

/// Exit code of the starter: another keeper holds the lock.
pub const EXIT_HELD: u8 = 75;

/// A keeper that is leaving still holds the lock for a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A log larger than this is begun anew by the next keeper.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// The soft limit of open files that services are to have, where whoever starts a keeper has raised its own.
pub const NOFILE: &str = "RECONCILE_KEEPER_NOFILE";

const READY: &[u8] = b"ready";
const HELD: &[u8] = b"held";

/// Starts a keeper for this state directory and returns once it listens, or has failed.
///
/// 0: it listens. [`EXIT_HELD`]: another one holds the directory. 1: it failed; why is on stderr.
pub fn main(state_dir: &Path) -> ExitCode {
    match start(state_dir) {
        Ok(answer) if answer == READY => ExitCode::SUCCESS,
        Ok(answer) if answer == HELD => {
            report("another keeper holds this state directory");
            ExitCode::from(EXIT_HELD)
        }
        Ok(answer) => {
            report(&String::from_utf8_lossy(&answer));
            ExitCode::FAILURE
        }
        Err(error) => {
            report(&format!("{}: {error}", state_dir.display()));
            ExitCode::FAILURE
        }
    }
}

/// Not `eprintln`, which panics where nobody can be told.
fn report(text: &str) {
    let _ = writeln!(io::stderr(), "reconcile keeper: {text}");
}

fn start(state_dir: &Path) -> io::Result<Vec<u8>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a keeper is forked from a process of one thread"));
    }
    let dir = state_dir.canonicalize()?;
    if let Some(keeper) = succeed(&dir)? {
        keeper.serve();
        sys::exit_now(0);
    }
    let meta = dir.metadata()?;
    if meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "not ours alone to write to"));
    }
    let (answer, ready) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    match sys::fork()? {
        Fork::Child => {
            drop(answer);
            become_keeper(&dir, ready.into())
        }
        Fork::Parent(_) => {
            drop(ready);
            let mut text = Vec::new();
            File::from(answer).read_to_end(&mut text)?;
            if text.is_empty() {
                Err(io::Error::other("it ended before it listened; see keeper.log"))
            } else {
                Ok(text)
            }
        }
    }
}

fn become_keeper(dir: &Path, mut ready: File) -> ! {
    let keeper = match prepare(dir, &ready) {
        Ok(parts) => Keeper::new(parts),
        Err(error) => {
            let held = error.kind() == io::ErrorKind::WouldBlock;
            let text = if held { HELD.to_vec() } else { error.to_string().into_bytes() };
            let _ = ready.write_all(&text);
            sys::exit_now(1)
        }
    };
    failpoint::reach("keeper.listening");
    // The starter may have been killed; the keeper is needed all the same.
    let _ = ready.write_all(READY);
    drop(ready);
    keeper.serve();
    sys::exit_now(0)
}

fn prepare(dir: &Path, ready: &File) -> io::Result<Parts> {
    nix::unistd::setsid()?;
    nix::unistd::chdir(dir)?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o077));
    let layout = StateLayout { dir: dir.to_owned() };
    let lock = take_lock(&layout.keeper_lock())?;
    sys::close_descriptors(3, &[ready.as_raw_fd(), lock.as_raw_fd()])?;
    redirect(&layout.keeper_log())?;
    // Default for all, and so for life, and for children; from here on the loop's mask keeps signals out.
    sys::reset_dispositions();
    sys::unblock_signals();
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))?;
    // Best effort: a keeper started by a nice process should not make every service nice.
    let _ = rustix::process::setpriority_process(None, 0);
    let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &every_cpu());
    lift_limits();
    std::fs::create_dir_all(StateLayout { dir: dir.to_owned() }.logs())?;
    Ok(Parts {
        here: Here::read()?,
        nofile: raise_nofile()?,
        listener: Directory::open(dir)?.listen(layout.keeper_socket())?,
        reports: None,
        lock,
        layout,
    })
}

fn take_lock(path: &Path) -> io::Result<File> {
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if flock::lock(&lock, Kind::Exclusive, LOCK_PATIENCE)? {
        Ok(lock)
    } else {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

fn redirect(log: &Path) -> io::Result<()> {
    let null = File::open("/dev/null")?;
    let mut options = OpenOptions::new();
    let large = log.metadata().is_ok_and(|meta| meta.len() > MAX_LOG_BYTES);
    if large {
        OpenOptions::new().write(true).truncate(true).open(log)?;
    }
    let log = options.append(true).create(true).mode(0o600).open(log)?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&log)?;
    nix::unistd::dup2_stderr(&log)?;
    Ok(())
}

/// Whatever the machine, or our cpuset, has of them.
fn every_cpu() -> CpuSet {
    let mut cpus = CpuSet::new();
    for cpu in 0..CpuSet::count() {
        // Within what the set holds, so it cannot fail.
        let _ = cpus.set(cpu);
    }
    cpus
}

/// Limits of a shell that would end a keeper, or fail its journals: as high as we may.
///
/// Services get these as they are here, with CPU affinity over all and nice 0, and scheduling policy and other limits
/// as whoever started the keeper had them; only the limit of open files is put back.
fn lift_limits() {
    for resource in [Resource::RLIMIT_CPU, Resource::RLIMIT_FSIZE, Resource::RLIMIT_AS, Resource::RLIMIT_DATA]
    {
        // Best effort: what cannot be lifted was there before.
        let _ = getrlimit(resource).and_then(|(_, hard)| setrlimit(resource, hard, hard));
    }
}

/// As many descriptors as we may have; children get back what was there before.
fn raise_nofile() -> io::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let told = std::env::var(NOFILE).ok().and_then(|text| text.parse().ok());
    Ok((told.filter(|told| *told <= soft).unwrap_or(soft), hard))
}

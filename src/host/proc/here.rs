//! Identities: the boot and pid namespace that we are in, and whether a process is still the one it was.
//!
//! The one place that says alive or dead of a remembered process; what it cannot prove it calls unverifiable, and
//! that never allows a signal. Sources: proc_pid_stat(5), kill(2) for what `hidepid` hides.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::{Pinned, Stat, open_stat, open_stat_at, stat, stat_of, stat_path};
use crate::identity::{BootId, Pid, ProcessIdentity};
use crate::time::Stamp;

/// The boot and the pid namespace we are in: half of every identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    pub boot: BootId,
    pub pid_ns: u64,
    /// Start ticks of the first process of the namespace, where it can be seen.
    pub began: Option<u64>,
}

/// What an identity turns out to be at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Liveness {
    /// This very process runs.
    Alive,
    /// It is gone, a zombie, or its pid belongs to another process by now.
    Dead,
    /// The machine, or the container that it was in, was started anew since: it is gone.
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
        let began = stat(1).ok().flatten().map(|first| first.start_ticks);
        Ok(Self { boot: BootId::new(&boot), pid_ns, began })
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
        // The number of a namespace that has ended, with all that was in it, is given to the next.
        if self.began.is_some_and(|began| process.start_ticks < began) {
            return Err(Liveness::OtherBoot);
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
}

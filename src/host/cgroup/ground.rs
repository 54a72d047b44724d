//! What contains runs here: a directory below which they get cgroups, or else holders.
//!
//! Called by the keeper, once for each instance it serves.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Group, Joining, Mount, enter};
use crate::host::sys::{self, Fork};
use crate::identity::InstanceId;

/// What holds runs together on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ground {
    /// A directory below which each run has a cgroup of its own.
    Cgroup { base: PathBuf },
    /// Each run has a holder; why not a cgroup, for people.
    Holder { why: String },
}

impl Ground {
    /// Tries it, since nothing but a try tells: permission bits, delegation, namespaces and sandboxes all count.
    ///
    /// First below the root of the hierarchy, which the clean-up of whoever started us does not reach; then
    /// below our own cgroup, which may have been delegated to us.
    pub fn detect(instance: &InstanceId) -> Self {
        let mount = match Mount::find() {
            Ok(Some(mount)) => mount,
            Ok(None) => return Self::Holder { why: "cgroup v2 is not mounted".into() },
            Err(error) => return Self::Holder { why: format!("/proc/self/mountinfo: {error}") },
        };
        let mut why = String::new();
        for top in [Some(mount.point.clone()), mount.own().ok().flatten()].into_iter().flatten() {
            let base = top.join("reconcile").join(instance.as_str());
            match try_out(&base) {
                Ok(()) => return Self::Cgroup { base },
                Err(error) => {
                    why = format!("{}: {error}", base.display());
                    // Whatever was made for the try; what is not empty stays.
                    let _ = fs::remove_dir(&base).and_then(|()| fs::remove_dir(top.join("reconcile")));
                }
            }
        }
        Self::Holder { why }
    }
}

/// Makes a cgroup and has a child be born into it.
fn try_out(base: &Path) -> io::Result<()> {
    fs::create_dir_all(base)?;
    let trial = Group { path: base.join(format!("trial-{}", std::process::id())) };
    // One of the same name is what a keeper left that was killed at this point.
    trial.remove()?;
    fs::create_dir(&trial.path)?;
    let outcome = trial.fork().and_then(|(fork, joining)| match fork {
        Fork::Child => {
            let is_inside = match joining {
                Joining::AtBirth => {
                    trial.pids().is_ok_and(|pids| pids.contains(&(std::process::id() as i32)))
                }
                Joining::Later => enter(&trial.path).is_ok(),
            };
            sys::exit_now(if is_inside { 0 } else { 1 })
        }
        Fork::Parent(pid) => await_trial(pid),
    });
    trial.remove()?;
    outcome
}

fn await_trial(pid: i32) -> io::Result<()> {
    use nix::sys::wait::{WaitStatus, waitpid};
    // The child does two system calls and ends; there is nothing in it that could block.
    match waitpid(nix::unistd::Pid::from_raw(pid), None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::PermissionDenied, "a child may not be moved there")),
    }
}

//! What contains runs here: a directory below which they get cgroups, or else holders.
//!
//! Called by the keeper, once for each instance it serves, by a watcher in the background, and by `doctor`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::name::{self, innermost_run};
use super::{Group, Mount};
use crate::host::cause::plain;
use crate::host::sys::{self, Fork};
use crate::identity::InstanceId;

/// What holds runs together on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ground {
    /// A directory below which each run has a cgroup of its own.
    Cgroup { base: PathBuf },
    /// Each run has a holder.
    Holder {
        /// Why not a cgroup, for people.
        why: String,
    },
}

impl Ground {
    /// Tries it, since nothing but a try tells: permission bits, delegation, namespaces and sandboxes all count.
    ///
    /// From the top of the hierarchy down to our own cgroup: the further up, the fewer of the units around us
    /// take what we start along when they end. But never above the cgroup of a run that we are of ourselves, which
    /// must find us in it when it ends. `RECONCILE_CONTAINMENT=holder` is for tests, and for hierarchies
    /// that some other program tidies up.
    pub fn detect(instance: &InstanceId) -> Self {
        if std::env::var_os("RECONCILE_CONTAINMENT").is_some_and(|kind| kind == "holder") {
            return Self::holders("RECONCILE_CONTAINMENT=holder");
        }
        let mount = match Mount::find() {
            Ok(Some(mount)) => mount,
            Ok(None) => return Self::holders("cgroup v2 is not mounted"),
            Err(error) => return Self::holders(format!("/proc/self/mountinfo: {}", plain(&error))),
        };
        let own = mount.own().ok().flatten().unwrap_or_else(|| mount.point.clone());
        let highest = innermost_run(&own).map_or(mount.point.as_path(), |(run, _)| run);
        let mut tops: Vec<&Path> = own.ancestors().take_while(|dir| dir.starts_with(highest)).collect();
        tops.reverse();
        let mut why = String::new();
        for top in tops {
            let base = top.join(name::ROOT).join(instance.as_str());
            match try_out(&base) {
                Ok(()) => return Self::Cgroup { base },
                Err(error) => {
                    why = format!("{}: {}", base.display(), plain(&error));
                    remove_if_empty(&base);
                }
            }
        }
        Self::holders(why)
    }

    fn holders(why: impl Into<String>) -> Self {
        Self::Holder { why: why.into() }
    }

    /// What [`Self::detect`] finds here, leaving nothing behind.
    pub fn preview() -> Self {
        let ground = Self::detect(&InstanceId::from_u64(u64::from(std::process::id())));
        if let Self::Cgroup { base } = &ground {
            remove_if_empty(base);
        }
        ground
    }
}

/// Whatever was made for a try; what is not empty stays.
fn remove_if_empty(base: &Path) {
    let _ = fs::remove_dir(base).and_then(|()| base.parent().map_or(Ok(()), fs::remove_dir));
}

/// Tries of making a directory while others remove the one above it.
const TRIES: u32 = 1_000;

/// Where keepers of other instances leave at this moment, they remove the directory that all share.
fn make(base: &Path) -> io::Result<()> {
    for _ in 1..TRIES {
        match fs::create_dir_all(base) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::thread::yield_now(),
            other => return other,
        }
    }
    fs::create_dir_all(base)
}

/// Makes a cgroup and has a child be born into it, or move there.
fn try_out(base: &Path) -> io::Result<()> {
    make(base)?;
    let trial = Group { path: base.join(format!("trial-{}", std::process::id())) };
    // One of the same name is what a keeper left that was killed at this point.
    trial.remove()?;
    fs::create_dir(&trial.path)?;
    let outcome = try_in(&trial);
    trial.remove()?;
    outcome
}

/// The child makes one system call at most before it ends: it may be a copy of a process with several threads.
fn try_in(trial: &Group) -> io::Result<()> {
    let mut procs = File::options().write(true).open(trial.path.join("cgroup.procs"))?;
    match sys::fork_into(Some(trial.open()?.as_fd())) {
        Ok(Fork::Child) => sys::exit_now(0),
        Ok(Fork::Parent(pid)) => await_trial(pid),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => match sys::fork_lightly()? {
            Fork::Child => sys::exit_now(i32::from(procs.write(b"0").is_err())),
            Fork::Parent(pid) => await_trial(pid),
        },
        Err(error) => Err(error),
    }
}

fn await_trial(pid: i32) -> io::Result<()> {
    use nix::sys::wait::{WaitStatus, waitpid};
    // There is nothing in the child that could block.
    match waitpid(nix::unistd::Pid::from_raw(pid), None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::PermissionDenied, "a child may not be moved there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_place_is_made_while_other_keepers_remove_the_directory_that_all_share() {
        let top = tempfile::tempdir().unwrap();
        let base = |name: &str| top.path().join(name::ROOT).join(name);
        let done = AtomicBool::new(false);
        let failed = std::thread::scope(|scope| {
            // A try fails by a removal of its own, so fewer of them than there are tries never use all up.
            scope.spawn(|| {
                for _ in 1..TRIES {
                    remove_if_empty(&base("other"));
                    let _ = fs::remove_dir(top.path().join(name::ROOT));
                }
                done.store(true, Ordering::Relaxed);
            });
            let mut failed = None;
            while !done.load(Ordering::Relaxed) && failed.is_none() {
                failed = make(&base("ours")).err();
                let _ = fs::remove_dir(base("ours"));
            }
            failed
        });
        assert!(failed.is_none(), "{failed:?}");
    }
}

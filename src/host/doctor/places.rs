//! What the file systems offer: cgroups, the state directory, inotify.
//!
//! Sources: proc_pid_mountinfo(5), cgroups(7), inotify(7), fallocate(2), proc_locks(5).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::Uid;

use super::Fact;
use crate::host::StateLayout;
use crate::host::cgroup::{Ground, Units};
use crate::host::flock;
use crate::host::state_dir::{Sharer, sharers};

const BLOCK: usize = 4096;

pub fn facts(state_dir: &Path, roots: &[PathBuf]) -> Vec<Fact> {
    let layout = StateLayout { dir: state_dir.to_owned() };
    let ground = Ground::preview();
    vec![
        containment(&ground),
        limits(&ground),
        unit(&ground),
        inotify(),
        state(state_dir),
        log_rotation(state_dir),
        lock("watcher", &layout.lock(), "it keeps the services as the manifests say", NOBODY),
        lock(
            "keeper",
            &layout.keeper_lock(),
            "it is the parent of the services, and keeps how each ended",
            NO_KEEPER,
        ),
        shared_roots(state_dir, roots),
    ]
}

const NOBODY: &str = "nothing watches: services that end are not started again until `reconcile` runs";
const NO_KEEPER: &str = "it is started with the first service";

/// Others that start the services of the same manifests.
fn shared_roots(state_dir: &Path, roots: &[PathBuf]) -> Fact {
    const NAME: &str = "shared-roots";
    let others = sharers(state_dir, roots.iter().map(PathBuf::as_path));
    if others.is_empty() {
        return Fact::found(NAME, "none", "no other state directory in use is of these manifests");
    }
    let one = |sharer: &Sharer| format!("{} ({})", sharer.state_dir.display(), sharer.who());
    let value = others.iter().map(one).collect::<Vec<_>>().join("; ");
    Fact::lacking(NAME, value, "it may start the same services once more: end one of the two")
}

/// A cgroup of its own for each service, where we may make one and move into it.
fn containment(ground: &Ground) -> Fact {
    const NAME: &str = "cgroup";
    match ground {
        Ground::Cgroup { base } => Fact::found(
            NAME,
            base.parent().unwrap_or(base).display().to_string(),
            "each service gets a cgroup, and ends with all of its descendants at once",
        ),
        Ground::Holder { why } => Fact::lacking(
            NAME,
            why.clone(),
            "each service gets a holder process, which keeps its descendants together",
        ),
    }
}

/// Controllers for limits of all processes of a service together.
fn limits(ground: &Ground) -> Fact {
    match ground {
        // Nothing is enabled for a look: what is there at the top is what can be.
        Ground::Cgroup { base } => limits_at(base.ancestors().nth(2).unwrap_or(base)),
        Ground::Holder { .. } => Fact::lacking(LIMITS, "there are no cgroups", NOT_ENFORCED),
    }
}

const LIMITS: &str = "limits";
const NOT_ENFORCED: &str =
    "`memory_max`, `cpu_max` and `pids_max` are not enforced; status says of which service";

fn limits_at(top: &Path) -> Fact {
    let read = |file: &str| fs::read_to_string(top.join(file)).unwrap_or_default();
    let missing_in = |file: &str| {
        let there = read(file);
        let is_missing = |wanted: &&str| !there.split_ascii_whitespace().any(|word| word == *wanted);
        ["memory", "cpu", "pids"].into_iter().filter(is_missing).collect::<Vec<_>>()
    };
    let missing = missing_in("cgroup.controllers");
    if !missing.is_empty() {
        return Fact::lacking(
            LIMITS,
            format!("{} has no {}", top.display(), missing.join(", ")),
            NOT_ENFORCED,
        );
    }
    let missing = missing_in("cgroup.subtree_control");
    // The root has no such file, and may have processes.
    if !missing.is_empty() && top.join("cgroup.type").exists() && !read("cgroup.procs").trim().is_empty() {
        let value = format!(
            "{} has processes of its own, so that {} cannot be enabled; in a unit, set DelegateSubgroup=",
            top.display(),
            missing.join(", ")
        );
        return Fact::lacking(LIMITS, value, NOT_ENFORCED);
    }
    Fact::found(LIMITS, "available", "`memory_max`, `cpu_max` and `pids_max` are enforced by cgroups")
}

/// The unit of a service manager that takes along what is started from here.
fn unit(ground: &Ground) -> Fact {
    const NAME: &str = "unit";
    match Units::look().and_then(|units| units.of_ground(ground)) {
        None => Fact::found(NAME, "none", "services outlast whoever starts them"),
        Some(unit) => {
            let meaning = format!("services that are started from here end with it, {}", unit.ends);
            Fact::lacking(NAME, unit.name, meaning)
        }
    }
}

fn inotify() -> Fact {
    const NAME: &str = "inotify";
    const POLLED: &str = "manifest directories are listed again and again, changes are noticed later";
    let limit = |name: &str| {
        fs::read_to_string(format!("/proc/sys/fs/inotify/{name}"))
            .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
    };
    let value = format!(
        "{} watches, {} instances, {} events",
        limit("max_user_watches"),
        limit("max_user_instances"),
        limit("max_queued_events")
    );
    match rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC) {
        Ok(_) => Fact::found(
            NAME,
            value,
            "changes of manifests are noticed at once; a watch is needed for each directory",
        ),
        Err(error) => Fact::lacking(NAME, format!("{value}; {error}"), POLLED),
    }
}

fn state(dir: &Path) -> Fact {
    const NAME: &str = "state-directory";
    let place = dir.display().to_string();
    let metadata = match fs::metadata(dir) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Fact::found(NAME, place, "it is made when the first service is started");
        }
        Err(error) => return Fact::lacking(NAME, format!("{place}: {error}"), "nothing can be started"),
    };
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    let value = format!("{place}, mode {mode:04o}, owner {owner}");
    if owner != Uid::effective().as_raw() {
        return Fact::lacking(NAME, value, "it belongs to somebody else and is not used");
    }
    if mode & 0o077 != 0 {
        return Fact::lacking(NAME, value, "others may look into it; `chmod 700` it");
    }
    Fact::found(NAME, value, "ledger, logs and sockets are here, and for nobody else")
}

/// How logs are rotated on the file system of the state directory.
fn log_rotation(dir: &Path) -> Fact {
    const NAME: &str = "log-rotation";
    let Some(place) = dir.ancestors().find(|path| path.is_dir()) else {
        return Fact::lacking(NAME, "there is no such file system", "logs are not rotated");
    };
    let try_with = |flags| scratch(place).and_then(|file| Ok(fallocate(&file, flags, 0, BLOCK as i64)?));
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match (try_with(FallocateFlags::FALLOC_FL_COLLAPSE_RANGE), try_with(hole)) {
        (Ok(()), _) => Fact::found(
            NAME,
            "COLLAPSE_RANGE",
            "the head of a log is copied away and cut off, no line is lost",
        ),
        (Err(_), Ok(())) => Fact::lacking(
            NAME,
            "PUNCH_HOLE",
            "no line is lost, but the size that `ls` shows of a log goes on growing",
        ),
        (Err(_), Err(error)) => Fact::lacking(
            NAME,
            format!("{}: {error}", place.display()),
            "logs are not rotated and grow without bound",
        ),
    }
}

/// A file of three blocks that has no name any more.
fn scratch(place: &Path) -> io::Result<File> {
    let path = place.join(format!(".reconcile-doctor-{}", std::process::id()));
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    file.write_all(&[b'x'; 3 * BLOCK])?;
    file.sync_data()?;
    Ok(file)
}

/// Whether somebody holds the lock on a file, and who. The lock is never taken to find out: that moment
/// could be the one in which a keeper or a watcher starts.
fn lock(name: &'static str, path: &Path, held: &str, free: &str) -> Fact {
    match flock::holder(path) {
        Some(pid) => Fact::found(name, format!("running, pid {pid}"), held),
        None => Fact::found(name, "not running", free),
    }
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    #[test]
    fn a_held_lock_is_seen_without_taking_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keeper.lock");
        assert_eq!(lock("keeper", &path, "held", "free").meaning, "free");
        let held = Flock::lock(File::create(&path).unwrap(), FlockArg::LockExclusive).unwrap();
        let fact = lock("keeper", &path, "held", "free");
        assert_eq!(
            (fact.value, fact.meaning),
            (format!("running, pid {}", std::process::id()), "held".into())
        );
        drop(held);
        assert_eq!(lock("keeper", &path, "held", "free").meaning, "free");
    }

    #[test]
    fn limits_need_controllers_that_can_be_enabled() {
        let top = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(top.path().join(file), text).unwrap();
        write("cgroup.controllers", "cpu memory\n");
        assert!(limits_at(top.path()).value.ends_with("has no pids"));
        write("cgroup.controllers", "cpu memory pids\n");
        write("cgroup.subtree_control", "cpu\n");
        write("cgroup.procs", "7\n");
        assert!(limits_at(top.path()).ok, "the root");
        write("cgroup.type", "domain\n");
        let fact = limits_at(top.path());
        assert!(!fact.ok && fact.value.contains("memory, pids cannot be enabled"), "{fact:?}");
        write("cgroup.subtree_control", "cpu memory pids\n");
        assert!(limits_at(top.path()).ok);
    }

    #[test]
    fn a_state_directory_that_others_may_read_is_not_fine() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for (mode, ok) in [(0o700, true), (0o755, false)] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(state(dir.path()).ok, ok, "{mode:o}");
        }
    }
}

//! Secrets as files: a directory for each run, in memory where there is a file system for that, removed with the run.
//!
//! Written by the child that becomes the service, before it gives up its rights: whatever hangs there, hangs there.
//! Removed by the keeper when nothing is left of the run, and in each full pass what no run of the ledger owns. Where
//! it is follows from the instance and the nonce, so that nobody has to remember it. Source: systemd.exec(5) on
//! CREDENTIALS_DIRECTORY.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::{Gid, Uid, chown, geteuid};

use super::{Credentials, StateLayout};
use crate::identity::{InstanceId, Nonce};

/// The variable that names it.
pub const VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// What all files of a run may come to, as for systemd.
pub const MAX_BYTES: usize = 1 << 20;

/// Tries of making a directory while the one above it is removed.
const TRIES: u32 = 10;

/// Where runs of this instance have theirs: below the run directory of our user, else in the state directory.
///
/// Of root always below `/run`: other users cannot reach into the state directory.
pub fn place(layout: &StateLayout, instance: &InstanceId, nonce: &Nonce) -> PathBuf {
    let places = bases(layout, instance).map(|base| base.join(nonce.as_str()));
    if let Some(there) = places.iter().find(|place| place.exists()) {
        return there.clone();
    }
    let [in_run, in_state] = places;
    let run = run_directory();
    let is_usable = geteuid().is_root() || (is_ours(&run) && is_in_memory(&run));
    if is_usable { in_run } else { in_state }
}

fn bases(layout: &StateLayout, instance: &InstanceId) -> [PathBuf; 2] {
    [
        run_directory().join("reconcile").join(instance.as_str()).join("credentials"),
        layout.dir.join("credentials"),
    ]
}

fn run_directory() -> PathBuf {
    let uid = geteuid();
    if uid.is_root() { PathBuf::from("/run") } else { PathBuf::from(format!("/run/user/{uid}")) }
}

fn is_ours(dir: &Path) -> bool {
    dir.symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == geteuid().as_raw())
}

fn is_in_memory(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|of| of.filesystem_type() == TMPFS_MAGIC)
}

/// Writes them: mode 0400 and the owner's, in a directory that only we can write to, so that what is to be removed is
/// what was written.
pub fn write(given: &Credentials, owner: Option<(u32, u32)>) -> io::Result<()> {
    // Whatever a death of ours has left of this very start.
    remove_directory(&given.dir)?;
    make_directory(&given.dir)?;
    for (name, value) in &given.files {
        let path = given.dir.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path)?;
        file.write_all(value.as_bytes())?;
        if let Some((uid, gid)) = other(owner) {
            chown(&path, Some(uid), Some(gid))?;
        }
    }
    let mode = match other(owner) {
        Some((_, gid)) => {
            chown(&given.dir, None, Some(gid))?;
            0o550
        }
        None => 0o500,
    };
    fs::set_permissions(&given.dir, Permissions::from_mode(mode))
}

/// What is above it goes with the last of others at any moment.
fn make_directory(dir: &Path) -> io::Result<()> {
    let make = || {
        make_ways(dir.parent().unwrap_or(dir))?;
        DirBuilder::new().mode(0o700).create(dir)
    };
    for _ in 1..TRIES {
        match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            made => return made,
        }
    }
    make()
}

/// An owner who is not we.
fn other(owner: Option<(u32, u32)>) -> Option<(Uid, Gid)> {
    let (uid, gid) = owner.filter(|(uid, _)| *uid != geteuid().as_raw())?;
    Some((Uid::from_raw(uid), Gid::from_raw(gid)))
}

/// The directories on the way, which nobody can list but we: whoever knows a name may go through.
fn make_ways(base: &Path) -> io::Result<()> {
    let ours: Vec<&Path> = base.ancestors().take_while(|dir| !dir.exists()).collect();
    for dir in ours.into_iter().rev() {
        match DirBuilder::new().mode(0o711).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        // Whatever our umask is.
        fs::set_permissions(dir, Permissions::from_mode(0o711))?;
    }
    let meta = base.symlink_metadata()?;
    if !meta.is_dir() || meta.uid() != geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        let message = format!("{} is not ours alone to write to", base.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(())
}

/// Removes those of a run.
pub fn remove(layout: &StateLayout, instance: &InstanceId, nonce: &Nonce) -> io::Result<()> {
    for base in bases(layout, instance) {
        let dir = base.join(nonce.as_str());
        if dir.symlink_metadata().is_ok() {
            remove_directory(&dir)?;
            remove_if_empty(&base);
        }
    }
    Ok(())
}

/// Removes those of all runs but these. One that cannot be removed keeps no other; the first of them is told.
pub fn remove_all_but(layout: &StateLayout, instance: &InstanceId, keep: &[&Nonce]) -> io::Result<()> {
    let mut first = Ok(());
    for base in bases(layout, instance) {
        let entries = match fs::read_dir(&base) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if !keep.iter().any(|nonce| name.to_str() == Some(nonce.as_str())) {
                first = first.and(remove_directory(&entry.path()));
            }
        }
        remove_if_empty(&base);
    }
    first
}

/// With the directories of its instance, which are in nobody's way but stay in memory.
fn remove_if_empty(base: &Path) {
    if fs::remove_dir(base).is_ok()
        && base.starts_with(run_directory())
        && let Some(of_instance) = base.parent()
    {
        // Another start may be making it at this moment.
        let _ = fs::remove_dir(of_instance);
    }
}

fn remove_directory(dir: &Path) -> io::Result<()> {
    if matches!(dir.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    // As its owner we may not write to it as it is; as root we may. One that is no directory is not one of ours.
    match File::open(dir).and_then(|opened| opened.set_permissions(Permissions::from_mode(0o700))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    unless_gone(remove_flat(dir))
}

/// There are files in it and nothing deeper, unless a service of our own user has put it there, who is then told.
fn remove_flat(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        unless_gone(fs::remove_file(entry?.path()))?;
    }
    fs::remove_dir(dir)
}

fn unless_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn given(dir: PathBuf) -> Credentials {
        Credentials { dir, files: BTreeMap::from([("TOKEN".to_owned(), "value".to_owned())]) }
    }

    #[test]
    fn they_are_readable_by_their_owner_alone_and_go_with_their_run() {
        let state = tempfile::tempdir().unwrap();
        let layout = StateLayout { dir: state.path().to_owned() };
        let instance = InstanceId::from_u64(std::process::id().into());
        let (run, other) = (Nonce::from_u64(1), Nonce::from_u64(2));
        for nonce in [&run, &other] {
            let given = given(layout.dir.join("credentials").join(nonce.as_str()));
            write(&given, None).unwrap();
            // A second try of the same start.
            write(&given, None).unwrap();
            let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
            assert_eq!((mode(&given.dir), mode(&given.dir.join("TOKEN"))), (0o500, 0o400));
            assert_eq!(fs::read_to_string(given.dir.join("TOKEN")).unwrap(), "value");
            assert_eq!(place(&layout, &instance, nonce), given.dir, "where it is");
        }
        remove(&layout, &instance, &run).unwrap();
        remove(&layout, &instance, &run).unwrap();
        let left = |nonce: &Nonce| layout.dir.join("credentials").join(nonce.as_str()).exists();
        assert_eq!([left(&run), left(&other)], [false, true]);
        remove_all_but(&layout, &instance, &[&other]).unwrap();
        assert!(left(&other));
        remove_all_but(&layout, &instance, &[]).unwrap();
        assert!(!layout.dir.join("credentials").exists());
    }

    #[test]
    fn one_that_cannot_be_removed_keeps_no_other() {
        let state = tempfile::tempdir().unwrap();
        let layout = StateLayout { dir: state.path().to_owned() };
        let instance = InstanceId::from_u64(u64::from(std::process::id()) << 1);
        let dirs = [1, 2, 3].map(|n| layout.dir.join("credentials").join(Nonce::from_u64(n).as_str()));
        for dir in &dirs {
            write(&given(dir.clone()), None).unwrap();
        }
        fs::set_permissions(&dirs[1], Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(dirs[1].join("deeper")).unwrap();
        remove_all_but(&layout, &instance, &[]).unwrap_err();
        assert_eq!(dirs.each_ref().map(|dir| dir.exists()), [false, true, false]);
    }

    #[test]
    fn what_somebody_else_is_given_he_reads_and_does_not_write() {
        if !geteuid().is_root() {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let given = given(state.path().join("credentials/1"));
        write(&given, Some((65_534, 65_533))).unwrap();
        let of = |path: &Path| {
            let meta = path.metadata().unwrap();
            (meta.uid(), meta.gid(), meta.mode() & 0o777)
        };
        assert_eq!(of(&given.dir), (0, 65_533, 0o550));
        assert_eq!(of(&given.dir.join("TOKEN")), (65_534, 65_533, 0o400));
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_used() {
        let state = tempfile::tempdir().unwrap();
        let base = state.path().join("credentials");
        fs::create_dir(&base).unwrap();
        fs::set_permissions(&base, Permissions::from_mode(0o777)).unwrap();
        let refused = write(&given(base.join("1")), None).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn what_they_are_stands_in_no_message() {
        assert!(!format!("{:?}", given("/run/x".into())).contains("value"));
    }
}

//! Cgroup v2 directories: one per run; finding where we may make them is for `ground`.
//!
//! A cgroup is a set of processes that nothing leaves by forking, with one file that kills it all; controllers are used
//! for `limits` alone. Nothing here blocks. Called by the keeper (makes, kills, removes) and by `observe` (reads).
//! Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst. Files are opened without O_CREAT: with it, one that
//! the kernel does not have is refused with EACCES instead of ENOENT (Linux 6.18).

mod ground;
pub mod limits;
mod mount;
mod name;
mod place;
mod unit;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, access};

use super::proc::Pinned;
use super::sys::{self, Fork};
use crate::identity::Nonce;
use crate::state::SharedCgroup;

pub use ground::Ground;
pub use mount::Mount;
pub use name::{Run, innermost_run, is_below_instance};
pub use place::Place;
pub use unit::{Ends, Unit, Units};

/// How a child gets into its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joining {
    /// It is born there.
    AtBirth,
    /// It moves there, which costs the kernel milliseconds: before Linux 5.7, or under a filter of system calls.
    Later,
}

/// The cgroup of one run, or of one job below that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    path: PathBuf,
}

impl Group {
    /// Removes what is empty of the cgroups below `base`: runs that ended, or never began, while no keeper lived.
    ///
    /// `base` belongs to the caller alone, who has nothing there yet.
    /// Those that `is_stray` names are ended; the answer says which could not be, and why.
    pub fn clear_out(base: &Path, is_stray: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
        let mut left = Vec::new();
        for stale in (Self { path: base.to_owned() }).children()? {
            // A keeper that was killed has left it, and nobody waits for it any more.
            if stale.name().is_some_and(&is_stray)
                && let Err(error) = stale.kill()
            {
                left.push(format!("{}: {error}", stale.path.display()));
            }
            if stale.is_empty()? {
                stale.remove()?;
            }
        }
        Ok(left)
    }

    pub fn create(path: PathBuf) -> io::Result<Self> {
        fs::create_dir(&path)?;
        Ok(Self { path })
    }

    /// A cgroup that the ledger remembers: its name must end with the nonce, and it must be below a cgroup mount.
    ///
    /// It may be gone: it was removed, which the kernel allows only once nothing lives in it.
    pub fn recall(path: &Path, nonce: &Nonce) -> io::Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str());
        if !name.is_some_and(|name| name.ends_with(nonce.as_str())) || !path.is_absolute() {
            let message = format!("{} is not named after its run", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        if !is_below_mount(path)? {
            let message = format!("{} is not below a cgroup v2 mount", path.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        Ok(Self { path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The one a process is in; `None` where the hierarchy, or that part of it, is not mounted here.
    pub fn of_process(pid: i32) -> io::Result<Option<Self>> {
        let Some(mount) = Mount::find()? else { return Ok(None) };
        Ok(mount.of(&pid.to_string())?.map(|below| Self { path: mount.point.join(below) }))
    }

    /// A cgroup below this one: ended with it.
    pub fn child(&self, name: &str) -> io::Result<Self> {
        Self::create(self.path.join(name))
    }

    /// Forks, the child born into this cgroup; where the kernel cannot, the child has to [`enter`] it.
    pub fn fork(&self) -> io::Result<(Fork, Joining)> {
        match sys::fork_into(Some(self.open()?.as_fd())) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                Ok((sys::fork_lightly()?, Joining::Later))
            }
            fork => Ok((fork?, Joining::AtBirth)),
        }
    }

    fn open(&self) -> io::Result<OwnedFd> {
        Ok(open(&self.path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    /// The processes of this cgroup alone; zombies are not among them.
    pub fn pids(&self) -> io::Result<Vec<i32>> {
        match fs::read_to_string(self.path.join("cgroup.procs")) {
            // A member of another pid namespace shows as 0.
            Ok(text) => {
                Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 1).collect())
            }
            Err(error) if is_gone(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The processes of this cgroup and of those below it, except below children whose name `skip` names.
    pub fn pids_below(&self, skip: &dyn Fn(&str) -> bool) -> io::Result<Vec<i32>> {
        let mut pids = self.pids()?;
        for child in self.children()? {
            if !child.path.file_name().and_then(|name| name.to_str()).is_some_and(skip) {
                pids.extend(child.pids_below(skip)?);
            }
        }
        Ok(pids)
    }

    /// True if nothing lives in it or below it.
    pub fn is_empty(&self) -> io::Result<bool> {
        self.events()?.map_or(Ok(true), |events| events.is_empty())
    }

    /// True if anything lives in it, the cgroups directly below it of these names left out.
    pub fn is_populated_beside(&self, names: &[String]) -> io::Result<bool> {
        if names.is_empty() {
            return Ok(!self.is_empty()?);
        }
        if !self.pids()?.is_empty() {
            return Ok(true);
        }
        for child in self.children()? {
            let is_named = child.name().is_some_and(|child| names.iter().any(|name| name == child));
            if !is_named && !child.is_empty()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Its last name, where that is text.
    pub fn name(&self) -> Option<&str> {
        self.path.file_name().and_then(|name| name.to_str())
    }

    /// What tells when it becomes empty or populated; `None` once it is removed.
    ///
    /// `ErrorKind::Unsupported` for the root of the hierarchy, which has no such file.
    pub fn events(&self) -> io::Result<Option<Events>> {
        match File::open(self.path.join("cgroup.events")) {
            Ok(file) => Ok(Some(Events(file))),
            Err(error) if is_gone(&error) && self.path.try_exists()? => {
                let message = format!("{} does not tell whether it is empty", self.path.display());
                Err(io::Error::new(io::ErrorKind::Unsupported, message))
            }
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// SIGKILL to everything in it and below it; the caller repeats it until it is empty.
    pub fn kill(&self) -> io::Result<()> {
        match write(&self.path.join("cgroup.kill"), "1") {
            // Before 5.14 there is no such file: frozen, nothing can fork while each is killed.
            Err(error) if is_gone(&error) => self.kill_one_by_one(),
            other => other,
        }
    }

    fn kill_one_by_one(&self) -> io::Result<()> {
        let freeze = self.path.join("cgroup.freeze");
        let frozen = match write(&freeze, "1") {
            Ok(()) => true,
            // Removed, and then nobody is visited; or older than 5.2.
            Err(error) if is_gone(&error) => false,
            Err(error) => return Err(error),
        };
        let killed = self.visit(&|_| false, &mut |member| member.signal(libc::SIGKILL).map(drop));
        if frozen {
            write(&freeze, "0")?;
        }
        killed
    }

    /// Visits each member, pinned and then proved to be one still; `skip` as in [`Self::pids_below`].
    pub fn visit(
        &self,
        skip: &dyn Fn(&str) -> bool,
        visit: &mut dyn FnMut(&Pinned) -> io::Result<()>,
    ) -> io::Result<()> {
        for batch in self.pids_below(skip)?.chunks(64) {
            let pinned: Vec<Pinned> =
                batch.iter().filter_map(|&pid| Pinned::open(pid).transpose()).collect::<io::Result<_>>()?;
            // A number in this second list belongs to a member; if that is not the process pinned, then the
            // pinned one is dead and the signal reaches nobody.
            let members = self.pids_below(skip)?;
            for member in pinned.iter().filter(|member| members.contains(&member.pid())) {
                visit(member)?;
            }
        }
        Ok(())
    }

    pub fn children(&self) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut children = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                children.push(Self { path: entry.path() });
            }
        }
        Ok(children)
    }

    /// Removes it with the cgroups below it. `ErrorKind::ResourceBusy` while anything lives there.
    pub fn remove(&self) -> io::Result<()> {
        match self.remove_alone() {
            // It may have cgroups below it, which is rare: looked for only then.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            other => return other,
        }
        for child in self.children()? {
            child.remove()?;
        }
        self.remove_alone()
    }

    fn remove_alone(&self) -> io::Result<()> {
        match fs::remove_dir(&self.path) {
            Err(error) if is_gone(&error) => Ok(()),
            other => other,
        }
    }
}

/// `cgroup.events`, held open: poll(2) reports a priority event once it has changed since it was last read through
/// this very descriptor, and at once if it never was.
#[derive(Debug)]
pub struct Events(File);

impl Events {
    /// True if nothing lives in the cgroup or below it, or it is removed. Arms the next event.
    pub fn is_empty(&self) -> io::Result<bool> {
        let mut text = [0; 256];
        match self.0.read_at(&mut text, 0) {
            Ok(read) => Ok(text[..read].split(|&byte| byte == b'\n').any(|line| line == b"populated 0")),
            Err(error) if is_gone(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The cgroup that we are in ourselves, if neither we nor what we start can leave it but through a program that is more
/// privileged; `None` for the root, which does not tell whether it is empty.
pub fn inescapable() -> io::Result<Option<SharedCgroup>> {
    let Some(mount) = Mount::find()? else { return Ok(None) };
    let Some(path) = mount.own()? else { return Ok(None) };
    if !path.join("cgroup.events").try_exists()? || may_leave(&path, &mount.point) {
        return Ok(None);
    }
    let inode = path.metadata()?.ino();
    Ok(Some(SharedCgroup { path, inode }))
}

/// Whoever moves a process needs to write to what both cgroups are below, which for one outside of `path` is above it.
fn may_leave(path: &Path, top: &Path) -> bool {
    let may_write = |dir: &Path| access(&dir.join("cgroup.procs"), AccessFlags::W_OK).is_ok();
    path.ancestors().skip(1).take_while(|dir| dir.starts_with(top)).any(may_write)
}

/// True if nothing lives any more of what was in this cgroup: it is empty, or was removed, which needs that.
pub fn has_emptied(shared: &SharedCgroup) -> io::Result<bool> {
    if !is_below_mount(&shared.path)? {
        return Ok(false);
    }
    match shared.path.metadata() {
        Ok(found) if found.ino() == shared.inode => match (Group { path: shared.path.clone() }).is_empty() {
            // The root is full for as long as the machine runs.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(false),
            told => told,
        },
        // Numbers of cgroups are not used twice: another one has its name.
        Ok(_) => Ok(true),
        Err(error) if is_gone(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether a path is, or would be, in a cgroup v2 hierarchy.
fn is_below_mount(path: &Path) -> io::Result<bool> {
    let nearest = path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
    let kind = nix::sys::statfs::statfs(nearest)?.filesystem_type();
    Ok(kind == nix::sys::statfs::CGROUP2_SUPER_MAGIC)
}

/// Moves the calling process into the cgroup of this directory.
pub fn enter(dir: &Path) -> io::Result<()> {
    write(&dir.join("cgroup.procs"), "0")
}

/// Writes to a file that the kernel has made; `ErrorKind::NotFound` where it has not.
fn write(path: &Path, text: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(text.as_bytes())
}

/// ENODEV is what files of a cgroup say that was removed while they were open.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::InstanceId;

    #[test]
    fn a_remembered_path_that_is_no_cgroup_is_never_used() {
        let nonce = Nonce::from_u64(7);
        let outside = PathBuf::from(format!("/tmp/default.web.{nonce}"));
        assert!(Group::recall(&outside, &nonce).is_err());
        let misnamed = Path::new("/sys/fs/cgroup/unified/system.slice");
        assert!(Group::recall(misnamed, &nonce).is_err());
    }

    /// Skipped where no cgroup may be made.
    #[test]
    fn a_shared_cgroup_has_emptied_once_nothing_lives_in_it_or_it_is_another_one() {
        let Ok(Some(mount)) = Mount::find() else { return };
        let path = mount.point.join(format!("reconcile-test-shared-{}", std::process::id()));
        let Ok(group) = Group::create(path) else { return };
        let shared = |group: &Group| SharedCgroup {
            path: group.path.clone(),
            inode: group.path.metadata().unwrap().ino(),
        };
        let before = shared(&group);
        let mut member = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        write(&group.path.join("cgroup.procs"), &member.id().to_string()).unwrap();
        let populated = has_emptied(&before).unwrap();
        member.kill().unwrap();
        member.wait().unwrap();
        assert!(!populated);
        assert!(has_emptied(&before).unwrap(), "empty");
        group.remove().unwrap();
        assert!(has_emptied(&before).unwrap(), "gone");
        let another = Group::create(group.path).unwrap();
        let is_told_apart = has_emptied(&before).unwrap() && shared(&another) != before;
        another.remove().unwrap();
        assert!(is_told_apart);
        let elsewhere = SharedCgroup { path: "/tmp/no-such-cgroup".into(), inode: 1 };
        assert!(!has_emptied(&elsewhere).unwrap(), "no hierarchy is mounted there");
    }

    #[test]
    fn the_root_of_the_hierarchy_is_never_taken_for_empty() {
        let Ok(Some(mount)) = Mount::find() else { return };
        let root = SharedCgroup { inode: mount.point.metadata().unwrap().ino(), path: mount.point };
        assert!(!has_emptied(&root).unwrap());
        assert!(!(Group { path: root.path.clone() }).is_empty().unwrap_or(false));
        assert_ne!(inescapable().unwrap(), Some(root));
    }

    /// A directory that looks like a cgroup of a kernel before 5.14: `cgroup.kill` is not made, but done without.
    #[test]
    fn a_kernel_without_a_kill_file_is_asked_to_freeze() {
        let dir = tempfile::tempdir().unwrap();
        let mut member = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        fs::write(dir.path().join("cgroup.procs"), format!("{}\n", member.id())).unwrap();
        fs::write(dir.path().join("cgroup.freeze"), "0").unwrap();
        let killed = Group { path: dir.path().to_owned() }.kill();
        let made = dir.path().join("cgroup.kill").exists();
        if killed.is_err() || made {
            member.kill().unwrap();
        }
        let status = member.wait().unwrap();
        killed.unwrap();
        assert!(!made);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    }

    /// As on kernels before 5.14. Skipped where no cgroup may be made.
    #[test]
    fn without_a_kill_file_everything_is_frozen_and_killed_one_by_one() {
        let instance = InstanceId::from_u64(u64::from(std::process::id()));
        let Ok(Some(mount)) = Mount::find() else { return };
        let base = mount.point.join(format!("reconcile-test-{instance}"));
        let Ok(group) = Group::create(base) else { return };
        let missing = write(&group.path.join("cgroup.of-a-later-kernel"), "1").unwrap_err();
        assert!(is_gone(&missing), "{missing}");
        let procs = group.path.join("cgroup.procs");
        let script = format!("echo 0 >{}; sleep 1000 & setsid sleep 1000 & exec sleep 1000", procs.display());
        let mut leader = std::process::Command::new("/bin/sh").args(["-c", &script]).spawn().unwrap();
        let start = std::time::Instant::now();
        let in_time = || start.elapsed() < std::time::Duration::from_secs(20);
        while group.pids().unwrap().len() < 3 && in_time() {
            std::thread::yield_now();
        }
        assert_eq!(group.pids().unwrap().len(), 3);
        while !group.is_empty().unwrap() && in_time() {
            group.kill_one_by_one().unwrap();
        }
        leader.wait().unwrap();
        assert!(group.is_empty().unwrap());
        group.remove().unwrap();
        assert!(!group.path.exists());
    }
}

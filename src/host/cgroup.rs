//! Cgroup v2 directories: finding where we may make them, and one per run.
//!
//! No controller is used: a cgroup is a set of processes that nothing leaves by forking, with one file that
//! kills it all. Nothing here blocks. Called by the keeper (makes, kills, removes) and by `observe` (reads).
//! Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst. Files are opened without O_CREAT: with it, one that
//! the kernel does not have is refused with EACCES instead of ENOENT (Linux 6.18).

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::proc::Pinned;
use super::sys::{self, Fork};
use crate::identity::{InstanceId, Nonce};

/// The cgroup v2 hierarchy as mounted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    /// Which directory of the hierarchy is mounted there.
    pub root: PathBuf,
}

impl Mount {
    /// `None` where cgroup v2 is not mounted. On hybrid systems it is below the v1 hierarchies.
    pub fn find() -> io::Result<Option<Self>> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        mountinfo.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            if after.split(' ').next()? != "cgroup2" {
                return None;
            }
            let mut fields = before.split(' ').skip(3);
            let root = unescape(fields.next()?);
            let point = unescape(fields.next()?);
            Some(Self { point, root })
        })
    }

    /// Our own cgroup as a directory below the mount point; `None` if it is outside what is mounted.
    fn own(&self) -> io::Result<Option<PathBuf>> {
        self.place_of("/proc/self/cgroup")
    }

    /// The directory that such a file speaks of.
    fn place_of(&self, file: &str) -> io::Result<Option<PathBuf>> {
        let text = fs::read_to_string(file)?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"));
        Ok(path.and_then(|path| {
            let below = Path::new(path).strip_prefix(&self.root).ok()?;
            Some(self.point.join(below))
        }))
    }
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

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
    pub fn clear_out(base: &Path) -> io::Result<()> {
        for stale in (Self { path: base.to_owned() }).children()? {
            if stale.is_empty()? {
                stale.remove()?;
            }
        }
        Ok(())
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
        let nearest = path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
        let kind = nix::sys::statfs::statfs(nearest)?.filesystem_type();
        if kind != nix::sys::statfs::CGROUP2_SUPER_MAGIC {
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
        Ok(mount.place_of(&format!("/proc/{pid}/cgroup"))?.map(|path| Self { path }))
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
    pub fn events(&self) -> io::Result<Option<Events>> {
        match File::open(self.path.join("cgroup.events")) {
            Ok(file) => Ok(Some(Events(file))),
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

    #[test]
    fn the_mount_is_found_on_hybrid_systems_and_with_blanks_in_its_path() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let found = Mount::parse(hybrid).unwrap();
        assert_eq!(found, Mount { point: "/sys/fs/cgroup/uni fied".into(), root: "/".into() });
        assert_eq!(Mount::parse("23 1 0:28 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn a_remembered_path_that_is_no_cgroup_is_never_used() {
        let nonce = Nonce::from_u64(7);
        let outside = PathBuf::from(format!("/tmp/default.web.{nonce}"));
        assert!(Group::recall(&outside, &nonce).is_err());
        let misnamed = Path::new("/sys/fs/cgroup/unified/system.slice");
        assert!(Group::recall(misnamed, &nonce).is_err());
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

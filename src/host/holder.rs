//! The holder: what keeps the descendants of a run together where no cgroup may be made.
//!
//! A fork of the keeper that executes nothing: a subreaper, and the parent of the leader. Whatever escapes with
//! `setsid` and a double fork becomes its child, so all of the run descends from it, for anybody to see and
//! whether or not the keeper still lives. It records how the leader ended before it reaps it, stays until it has
//! no children, and decides and signals nothing; only the holder of a job ends the job when its keeper dies,
//! since nobody else knows of it. Its name, its working directory and the name of a descriptor tell what it holds to
//! whoever has lost all records. Made by the keeper; read by the keeper and `observe`.
//! Costs 40 to 80 kB of memory each. Sources: prctl(2) on PR_SET_CHILD_SUBREAPER.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};

use super::StateLayout;
use super::cause::plain;
use super::cgroup::inescapable;
use super::failpoint;
use super::keeper::child::{self, Birth, Role};
use super::keeper::journal::{ExitEntry, append_exit};
use super::proc::{Here, Pinned, have_living_child_beside, visit_descendants};
use super::sys::{self, Fork, Wait, Whom};
use crate::identity::{Nonce, ProcessIdentity, SPAWN_MARK};
use crate::state::{Containment, ExitLine, ExitStatus, SpawnFailure, SpawnStage};

/// What a holder says on the pipe that all holders of a keeper share: its leader has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub nonce: Nonce,
    pub status: ExitStatus,
    pub others: bool,
    /// The line for the journal of exits where it could not be written: the keeper's to write now.
    pub unwritten: Option<ExitLine>,
}

/// The name of its process.
const NAME: &CStr = c"reconcile-hold";

/// True of a process that looks like a holder of this state directory: by its name, and by its working directory,
/// which nobody else may enter.
pub fn is_one(layout: &StateLayout, pid: i32) -> bool {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let place = |path: &Path| fs::metadata(path).ok().map(|place| (place.dev(), place.ino()));
    let cwd = place(Path::new(&format!("/proc/{pid}/cwd")));
    name.trim_ascii_end() == NAME.to_bytes() && cwd.is_some() && cwd == place(&layout.dir)
}

/// What a holder says that it holds, as in the environment of its leader; `None` where it cannot be read.
///
/// It stands in the name of an open descriptor: whatever the leader does to its own environment, this stays for as long
/// as anything of the run lives.
pub fn mark(pid: i32) -> Option<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    descriptors.flatten().find_map(|descriptor| {
        let target = fs::read_link(descriptor.path()).ok()?.into_os_string().into_string().ok()?;
        let name = target.strip_prefix("/memfd:")?;
        let name = name.strip_suffix(" (deleted)").unwrap_or(name);
        name.starts_with(SPAWN_MARK).then(|| name.to_owned())
    })
}

/// What a holder is made from.
#[derive(Debug)]
pub struct Holder<'a> {
    pub birth: Birth<'a>,
    /// The writing end of the shared pipe.
    pub reports: &'a File,
    /// The journal of exits.
    pub exits: PathBuf,
    pub keeper: i32,
}

/// Starts the leader and holds what descends from it; the body of a process.
pub fn run(holder: Holder<'_>) -> ! {
    // Every signal is blocked, as in the keeper: waited for one at a time below; nothing else may interrupt or end us.
    // A panic must not go on into the keeper's code, of which this is a copy.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| hold(holder)));
    sys::exit_now(if matches!(outcome, Ok(Ok(()))) { 0 } else { 1 })
}

fn hold(mut holder: Holder<'_>) -> io::Result<()> {
    failpoint::reach("holder.forked");
    let is_job = matches!(holder.birth.role, Role::Job { .. });
    let (failed, me) = match become_one(&mut holder, is_job) {
        Ok(ready) => ready,
        Err(error) => {
            say_failed(&mut holder.birth.status, "make a holder", &error);
            return Err(error);
        }
    };
    let here = holder.birth.here.clone();
    let mut held = Held {
        nonce: holder.birth.request.nonce.clone(),
        exits: holder.exits,
        reports: holder.reports,
        failed,
        keeper: holder.keeper,
        here,
        leader: None,
        is_job,
        stillborn: false,
        owed: None,
    };
    // Root can go anywhere, and so can what it starts.
    let within = if nix::unistd::geteuid().is_root() { None } else { inescapable().ok().flatten() };
    let containment = Containment::Holder { process: me, within };
    // It only helps to find what is lost: where there is no such thing, a run goes without.
    let mark = if is_job {
        None
    } else {
        memfd_create(holder.birth.prepared.mark.as_c_str(), MFdFlags::MFD_CLOEXEC).ok()
    };
    let leader = start_leader(holder.birth, &containment)?;
    failpoint::reach("holder.started");
    // The leader is on its way and waits for nothing of this. Above all the status pipe, which must end when it executes.
    let keep =
        [Some(held.reports.as_raw_fd()), Some(held.failed.as_raw_fd()), mark.map(IntoRawFd::into_raw_fd)];
    let keep: Vec<RawFd> = keep.into_iter().flatten().collect();
    sys::close_descriptors(3, &keep)?;
    let _ = nix::unistd::setsid();
    let _ = nix::sys::prctl::set_name(NAME);
    held.leader = Some(held.here.identity(leader)?);
    let done = held.watch();
    // Its descriptors were closed behind its back; nothing of it may be dropped.
    std::mem::forget(held);
    done
}

/// All that may fail before there is a leader. The answer is where a leader says that it failed, and who we are.
fn become_one(holder: &mut Holder<'_>, is_job: bool) -> io::Result<(File, ProcessIdentity)> {
    if is_job {
        nix::sys::prctl::set_pdeathsig(Signal::SIGUSR1)?;
    }
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))?;
    // Above all the keeper's lock and sockets: neither we nor a leader that hangs before it executes may keep them.
    let mut keep = holder.birth.descriptors();
    keep.push(holder.reports.as_raw_fd());
    sys::close_descriptors(3, &keep)?;
    let (failed, failing) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)?;
    holder.birth.failed = Some(failing.into());
    Ok((failed.into(), holder.birth.here.own_identity()?))
}

fn say_failed(status: &mut File, what: &str, error: &io::Error) {
    let failure = SpawnFailure {
        stage: SpawnStage::Fork,
        errno: error.raw_os_error().unwrap_or(0),
        message: format!("failed to {what}: {}", plain(error)),
    };
    child::say(status, &child::Word::Failed(failure));
}

fn start_leader(mut birth: Birth<'_>, containment: &Containment) -> io::Result<i32> {
    match sys::fork_lightly() {
        Ok(Fork::Child) => child::run(birth, containment),
        Ok(Fork::Parent(pid)) => {
            std::mem::forget(birth);
            Ok(pid)
        }
        Err(error) => {
            say_failed(&mut birth.status, "fork", &error);
            Err(error)
        }
    }
}

struct Held<'a> {
    nonce: Nonce,
    exits: PathBuf,
    reports: &'a File,
    /// Holds a byte if the leader failed before it executed anything.
    failed: File,
    keeper: i32,
    here: Here,
    leader: Option<ProcessIdentity>,
    is_job: bool,
    /// The leader failed before it executed anything: there is no run to speak of.
    stillborn: bool,
    /// A line for the journal of exits that is not yet written, by nobody.
    owed: Option<ExitLine>,
}

impl Held<'_> {
    /// Until there are no children.
    fn watch(&mut self) -> io::Result<()> {
        let mut awaited = SigSet::empty();
        awaited.add(Signal::SIGCHLD);
        awaited.add(Signal::SIGUSR1);
        while self.reap()? {
            if self.is_abandoned() {
                self.end_abandoned();
            } else {
                // The caught signals are only hints: what happened is looked at anew.
                awaited.wait()?;
            }
        }
        self.settle();
        Ok(())
    }

    /// Reaps what has ended; false once there are no children.
    fn reap(&mut self) -> io::Result<bool> {
        loop {
            match sys::wait(Whom::Any, Wait::Peek) {
                Ok(Some(dead)) => {
                    self.leader_ended_if_it_is(dead.pid, dead.status);
                    sys::wait(Whom::Pid(dead.pid), Wait::Reap)?;
                }
                Ok(None) => return Ok(true),
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Recorded, and told, before it is reaped.
    fn leader_ended_if_it_is(&mut self, pid: i32, status: ExitStatus) {
        let Some(leader) = self.leader.take_if(|leader| leader.pid.get() == pid) else { return };
        self.stillborn = self.failed.read(&mut [0]).is_ok_and(|read| read == 1);
        if self.stillborn {
            return;
        }
        failpoint::reach("holder.ended");
        let line = ExitLine {
            nonce: self.nonce.clone(),
            pid: leader.pid,
            start_ticks: leader.start_ticks,
            status,
            at: self.here.stamp(),
        };
        let written = self.is_job || append_exit(&self.exits, &ExitEntry::Leader(line.clone())).is_ok();
        failpoint::reach("holder.recorded");
        let unwritten = (!written).then_some(line);
        let report = Report {
            nonce: self.nonce.clone(),
            status,
            others: have_living_child_beside(pid).unwrap_or(true),
            unwritten: unwritten.clone(),
        };
        let mut text = serde_json::to_vec(&report).expect("a report has string keys and plain values");
        text.push(b'\n');
        // One write of less than PIPE_BUF: whole, and not mixed with those of other holders.
        let told = matches!(self.reports.write(&text), Ok(written) if written == text.len());
        failpoint::reach("holder.told");
        self.owed = unwritten.filter(|_| !told);
    }

    /// The keeper of a job is dead.
    fn is_abandoned(&self) -> bool {
        self.is_job && nix::unistd::getppid().as_raw() != self.keeper
    }

    fn end_abandoned(&self) {
        if let Ok(Some(me)) = Pinned::open(std::process::id() as i32) {
            // What goes wrong is tried again a little later.
            let _ = kill_descendants(&me, &[]);
        }
        std::thread::sleep(Duration::from_millis(2));
    }

    /// Writes down that all is over: without it, a holder that is gone means containment lost.
    fn settle(&mut self) {
        if self.is_job || self.stillborn {
            return;
        }
        while let Some(line) = &self.owed {
            if append_exit(&self.exits, &ExitEntry::Leader(line.clone())).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        failpoint::reach("holder.empty");
        let empty = ExitEntry::Empty { nonce: self.nonce.clone(), empty: self.here.stamp() };
        // Without it the run is held rather than forgotten: safe, and the disk is full.
        let _ = append_exit(&self.exits, &empty);
    }
}

/// Sends SIGKILL to everything that lives below a holder, except these; how much that was. Zombies are the holder's to
/// reap.
pub fn kill_descendants(holder: &Pinned, spared: &[i32]) -> io::Result<usize> {
    let mut living = 0;
    visit_descendants(holder, &mut |member, stat| {
        if !stat.is_dead() && !spared.contains(&member.pid()) {
            living += 1;
            // EPERM: it has become another user. It stays, and is named by the one who counts.
            let _ = member.signal(libc::SIGKILL);
        }
    })?;
    Ok(living)
}

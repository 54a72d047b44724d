//! An upgrade in place: the keeper becomes a newer program, and stays the process that it is.
//!
//! Pid, children and the subreaper flag survive an exec; what the keeper knows goes along in an anonymous file, the
//! lock and the socket as open descriptors, so that nobody can take either in between. The connection of
//! the client ends, and the client comes back. If the exec fails, nothing has changed.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Instant;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use super::cell::{Cell, Hold, Hull, Killing, Leader};
use super::pipe::log;
use super::server::{Keeper, Parts};
use crate::host::cgroup::Group;
use crate::host::proc::Here;
use crate::host::sys;
use crate::host::{Claim, StateLayout};
use crate::identity::Nonce;
use crate::state::{Containment, ExitStatus};

/// The descriptors that go along, as `lock,listener,reports,reporting,knowledge`; only in a keeper's environment.
const HANDED_OVER: &str = "RECONCILE_KEEPER_FDS";

/// What a keeper knows that its successor cannot find out.
#[derive(Debug, Serialize, Deserialize)]
struct Knowledge {
    nofile: (u64, u64),
    cells: Vec<Known>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Known {
    claim: Claim,
    leader: KnownLeader,
    hold: KnownHold,
    killing: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KnownLeader {
    Alive,
    Watched,
    Ended(Option<ExitStatus>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KnownHold {
    None,
    Child,
    Watched,
    Empty,
    Lost,
}

impl Keeper {
    /// Becomes `exe`; returns only where that cannot be, with a sentence.
    pub(super) fn upgrade(&mut self, exe: &Path) -> String {
        if !self.queue.is_empty() || !self.owed.is_empty() {
            return "busy: something waits to be spawned or recorded".into();
        }
        let Some(cells) = self.cells.values().map(known).collect::<Option<Vec<_>>>() else {
            return "busy: a spawn or a job is under way".into();
        };
        let knowledge = Knowledge { nofile: self.nofile, cells };
        let Err(error) = self.become_program(exe, &knowledge);
        format!("{}: {error}", exe.display())
    }

    fn become_program(&self, exe: &Path, knowledge: &Knowledge) -> io::Result<Infallible> {
        let mut file: File = memfd_create("keeper", MFdFlags::MFD_CLOEXEC)?.into();
        serde_json::to_writer(&mut file, knowledge)?;
        file.flush()?;
        file.rewind()?;
        let (lock, listener) = self.handed_over();
        let fds = [lock, listener, self.reports.0.as_fd(), self.reports.1.as_fd(), file.as_fd()];
        let numbers: Vec<String> = fds.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let c_string = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::from);
        let path = c_string(exe.as_os_str().as_bytes().to_vec())?;
        let dir = self.layout.dir.as_os_str().as_bytes().to_vec();
        let argv = [path.clone(), c"keeper".into(), c"--state-dir".into(), c_string(dir)?];
        let mut env = vec![c_string(format!("{HANDED_OVER}={}", numbers.join(",")).into_bytes())?];
        for (key, value) in std::env::vars_os().filter(|(key, _)| key != HANDED_OVER) {
            env.push(c_string([key.into_vec(), b"=".to_vec(), value.into_vec()].concat())?);
        }
        let set = |flag: FdFlag| fds.iter().try_for_each(|fd| fcntl(fd, FcntlArg::F_SETFD(flag)).map(drop));
        set(FdFlag::empty())?;
        let failed = nix::unistd::execve(&path, &argv, &env);
        set(FdFlag::FD_CLOEXEC)?;
        Ok(failed?)
    }
}

/// `None`: it is in a state that cannot be handed over.
fn known(cell: &Cell) -> Option<Known> {
    let leader = match cell.leader {
        Leader::Alive => KnownLeader::Alive,
        Leader::Watched { .. } => KnownLeader::Watched,
        Leader::Ended { status, executed: true } => KnownLeader::Ended(status),
        Leader::Unborn { .. } | Leader::Ended { executed: false, .. } => return None,
    };
    if cell.job.is_some() {
        return None;
    }
    let hold = match &cell.hull {
        Hull::Group(_) => KnownHold::None,
        Hull::Holder { hold: Hold::Child, .. } => KnownHold::Child,
        Hull::Holder { hold: Hold::Watched(_), .. } => KnownHold::Watched,
        Hull::Holder { hold: Hold::Empty, .. } => KnownHold::Empty,
        Hull::Holder { hold: Hold::Lost, .. } => KnownHold::Lost,
    };
    let claim = Claim {
        service: cell.service.clone(),
        nonce: cell.nonce.clone(),
        process: cell.process.clone(),
        containment: Some(cell.containment()),
        epoch: 0,
    };
    Some(Known { claim, leader, hold, killing: cell.killing.is_some() })
}

/// The keeper that another program was until a moment ago; `None` if there was none.
pub fn succeed(dir: &Path) -> io::Result<Option<Keeper>> {
    let Some(fds) = std::env::var_os(HANDED_OVER) else { return Ok(None) };
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("{HANDED_OVER} is garbled"));
    let text = fds.to_str().ok_or_else(invalid)?;
    let fds: Vec<RawFd> =
        text.split(',').map(|fd| fd.parse().map_err(|_| invalid())).collect::<io::Result<_>>()?;
    let fds: [RawFd; 5] = fds.try_into().map_err(|_| invalid())?;
    let [lock, listener, reports, reporting, knowledge] = fds.map(take);
    let (lock, listener, reports, reporting) = (lock?, listener?, reports?, reporting?);
    // The standard library ignores SIGPIPE from the start. Signals stay blocked: some may be pending.
    sys::reset_dispositions();
    let parts = Parts {
        layout: StateLayout { dir: dir.to_owned() },
        here: Here::read()?,
        // Until it is known what was there before that was raised.
        nofile: getrlimit(Resource::RLIMIT_NOFILE)?,
        listener: listener.into(),
        lock: lock.into(),
        reports: Some((reports.into(), reporting.into())),
    };
    let mut keeper = Keeper::new(parts);
    match read(knowledge?.into()) {
        Ok(knowledge) => keeper.learn(knowledge),
        // Everything that runs is still our child, and is attached to when it is asked about.
        Err(error) => log(&format!("what the keeper before knew cannot be read: {error}")),
    }
    Ok(Some(keeper))
}

#[expect(unsafe_code, reason = "JUSTIFICATION: descriptors that cross an exec have only their numbers")]
fn take(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the program before us left it open for us, and nothing else in this process knows its number; one that
    // is not open fails in the next line, before anything is done with it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    match fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Ok(fd),
        Err(error) => {
            std::mem::forget(fd);
            Err(error.into())
        }
    }
}

fn read(mut file: File) -> io::Result<Knowledge> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

impl Keeper {
    fn learn(&mut self, knowledge: Knowledge) {
        self.nofile = knowledge.nofile;
        let nonces: Vec<Nonce> = knowledge.cells.iter().map(|known| known.claim.nonce.clone()).collect();
        for known in knowledge.cells {
            let service = known.claim.service.clone();
            if self.learn_cell(known).is_none() {
                log(&format!("what the keeper before knew of {service} makes no sense"));
            }
        }
        // What happened during the exec: signals that came meanwhile are lost.
        self.hear_reports();
        self.reap();
        for nonce in nonces {
            self.settle(&nonce);
        }
    }

    fn learn_cell(&mut self, known: Known) -> Option<()> {
        let Known { claim, leader, hold, killing } = known;
        let process = claim.process?;
        let hull = match claim.containment? {
            Containment::Cgroup { path } => Hull::Group(Group::recall(&path, &claim.nonce).ok()?),
            Containment::Holder { process, within } => {
                let hold = match hold {
                    KnownHold::Child => Hold::Child,
                    KnownHold::Watched => self.watch(&process).map_or(Hold::Lost, Hold::Watched),
                    KnownHold::Empty => Hold::Empty,
                    KnownHold::Lost | KnownHold::None => Hold::Lost,
                };
                Hull::Holder { process, hold, within }
            }
        };
        let child = match (&hull, &leader) {
            (Hull::Holder { process, hold: Hold::Child, .. }, _) => Some(process.pid),
            (Hull::Group(_) | Hull::Holder { hold: Hold::Lost, .. }, KnownLeader::Alive) => Some(process.pid),
            _ => None,
        };
        if let Some(pid) = child {
            self.children.insert(pid.get(), claim.nonce.clone());
        }
        let leader = match leader {
            KnownLeader::Alive => Leader::Alive,
            KnownLeader::Watched => match self.watch(&process) {
                Ok(pidfd) => Leader::Watched { pidfd, died: None },
                Err(_) => Leader::Ended { status: self.recorded_status(&claim.nonce), executed: true },
            },
            KnownLeader::Ended(status) => Leader::Ended { status, executed: true },
        };
        let cell = Cell {
            service: claim.service,
            nonce: claim.nonce.clone(),
            hull,
            leader,
            process: Some(process),
            killing: killing.then(|| Killing::begin(Instant::now())),
            job: None,
            events: None,
            look_again: None,
        };
        self.cells.insert(claim.nonce, cell);
        Some(())
    }
}

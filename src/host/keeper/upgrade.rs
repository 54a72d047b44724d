//! An upgrade in place: the keeper becomes a newer program, and stays the process that it is.
//!
//! Pid, children and the subreaper flag survive an exec; what the keeper knows goes along in an anonymous file, the
//! lock and all sockets as open descriptors, so that nobody can take either in between. The connection of
//! the client ends, and the client comes back. If the exec fails, nothing has changed. A program that cannot read what it
//! is handed still has the children, and finds in the journal of births what they are.

mod knowledge;

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Instant;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};

use knowledge::{Knowledge, Known, KnownHold, KnownLeader, KnownSocket, known, read};

use super::cell::{Cell, Hold, Hull, Killing, Leader};
use super::conn::Conn;
use super::journal;
use super::notify::Ear;
use super::pipe::log;
use super::server::{Keeper, Parts};
use crate::host::cgroup::Group;
use crate::host::proc::{self, Here};
use crate::host::resolve::file_identity;
use crate::host::sys;
use crate::host::{Claim, StateLayout};
use crate::identity::{Nonce, ProcessIdentity};
use crate::state::{BirthLine, Containment, FileIdentity};

/// The descriptors that go along, as `lock,listener,reports,reporting,knowledge`; only in a keeper's environment.
const HANDED_OVER: &str = "RECONCILE_KEEPER_FDS";

/// Why a keeper stays what it is.
#[derive(Debug)]
pub(super) enum NotNow {
    /// Something is under way that cannot be handed over.
    Busy(&'static str),
    Failed(io::Error),
}

impl Keeper {
    /// Becomes `exe`; returns only where that cannot be.
    pub(super) fn upgrade(&mut self, exe: &FileIdentity) -> NotNow {
        if !self.queue.is_empty() || !self.owed.is_empty() {
            return NotNow::Busy("something waits to be spawned or recorded");
        }
        let Some(cells) = self.cells.values().map(known).collect::<Option<Vec<_>>>() else {
            return NotNow::Busy("a spawn, a job or an end is under way");
        };
        // What was said so far is heard, and what was to be taken away is: nobody else knows of either.
        self.flush();
        self.remove_emptied();
        if self.conns.values().any(Conn::wants_to_write) {
            return NotNow::Busy("somebody has yet to hear what was said");
        }
        let ear = self.ear.as_ref().map(|ear| ear.as_fd().as_raw_fd());
        let sockets = self.sockets.values();
        let sockets =
            sockets.map(|(socket, fd)| KnownSocket { socket: socket.clone(), fd: fd.as_raw_fd() }).collect();
        let knowledge = Knowledge { nofile: self.nofile, cells, sockets, ear };
        let Err(error) = self.become_program(exe, &knowledge);
        NotNow::Failed(error)
    }

    fn become_program(&self, exe: &FileIdentity, knowledge: &Knowledge) -> io::Result<Infallible> {
        // Wherever it has been moved; the next program is told by its path.
        let dir = std::env::current_dir()?;
        let there = std::fs::metadata(&exe.path)?;
        if file_identity(exe.path.clone(), &there) != *exe {
            return Err(io::Error::other("it is not the file that was meant"));
        }
        let mut file: File = memfd_create("keeper", MFdFlags::MFD_CLOEXEC)?.into();
        serde_json::to_writer(&mut file, knowledge)?;
        file.flush()?;
        file.rewind()?;
        let (lock, listener) = self.handed_over();
        let fds = [lock, listener, self.reports.0.as_fd(), self.reports.1.as_fd(), file.as_fd()];
        let numbers: Vec<String> = fds.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let c_string = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::from);
        let path = c_string(exe.path.as_os_str().as_bytes().to_vec())?;
        let dir = c_string(dir.into_os_string().into_vec())?;
        let argv = [path.clone(), c"keeper".into(), c"--state-dir".into(), dir];
        let mut env = vec![c_string(format!("{HANDED_OVER}={}", numbers.join(",")).into_bytes())?];
        for (key, value) in std::env::vars_os().filter(|(key, _)| key != HANDED_OVER) {
            env.push(c_string([key.into_vec(), b"=".to_vec(), value.into_vec()].concat())?);
        }
        let sockets = self.sockets.values().map(|(_, socket)| socket.as_fd());
        let ready = self.cells.values().filter_map(|cell| cell.ready.as_ref().map(AsFd::as_fd));
        let ear = self.ear.as_ref().map(Ear::as_fd);
        let all: Vec<BorrowedFd<'_>> = fds.into_iter().chain(sockets).chain(ear).chain(ready).collect();
        let set = |flag: FdFlag| all.iter().try_for_each(|fd| fcntl(fd, FcntlArg::F_SETFD(flag)).map(drop));
        set(FdFlag::empty())?;
        let failed = nix::unistd::execve(&path, &argv, &env);
        set(FdFlag::FD_CLOEXEC)?;
        Ok(failed?)
    }
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
    let knowledge = knowledge.and_then(|file| read(file.into()));
    if knowledge.is_err() {
        // Sockets that nobody knows of would be listened on for ever.
        let (reports, reporting) = parts.reports.as_ref().expect("they were handed over");
        let known =
            [parts.lock.as_raw_fd(), parts.listener.as_raw_fd(), reports.as_raw_fd(), reporting.as_raw_fd()];
        sys::close_descriptors(3, &known)?;
    }
    let mut keeper = Keeper::new(parts);
    let cells = match knowledge {
        Ok(knowledge) => {
            keeper.nofile = knowledge.nofile;
            keeper.learn_sockets(knowledge.sockets);
            keeper.ear = knowledge.ear.and_then(recall_ear);
            knowledge.cells
        }
        Err(error) => {
            log(&format!("what the keeper before knew cannot be read: {error}; its children are looked for"));
            keeper.recall()
        }
    };
    keeper.learn(cells);
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

/// Without it, the next hello brings another one.
fn recall_ear(fd: RawFd) -> Option<Ear> {
    let ear = take(fd).and_then(Ear::recall);
    ear.inspect_err(|error| log(&format!("the ear for services is lost: {error}"))).ok()
}

impl Keeper {
    /// What is still our child of all that was ever born here. The rest is attached to when it is asked about.
    fn recall(&self) -> Vec<Known> {
        let births = journal::births_in_order(&self.layout.births()).map(|births| births.lines);
        let births = births.unwrap_or_else(|error| {
            log(&format!("births.journal: {error}"));
            Vec::new()
        });
        births.into_iter().filter_map(|birth| self.recall_birth(birth)).collect()
    }

    fn recall_birth(&self, birth: BirthLine) -> Option<Known> {
        let BirthLine { nonce, process, containment, intent } = birth;
        let is_held = matches!(&containment, Containment::Holder { process, .. } if self.is_child(process));
        if !is_held && !self.is_child(&process) {
            return None;
        }
        // A holder records the end before it reports it.
        let leader = match self.recorded_status(&nonce) {
            Some(status) => KnownLeader::Ended(Some(status)),
            None => KnownLeader::Alive,
        };
        let claim = Claim {
            service: intent.service,
            nonce,
            process: Some(process),
            containment: Some(containment),
            epoch: 0,
        };
        let hold = if is_held { KnownHold::Child } else { KnownHold::Lost };
        Some(Known { claim, leader, hold, killing: false, said: Box::default(), ready: None })
    }

    /// Dead and not yet reaped it is one, too.
    fn is_child(&self, process: &ProcessIdentity) -> bool {
        let pid = process.pid.get();
        let stat = proc::stat(pid).ok().flatten();
        stat.is_some_and(|stat| stat.ppid == std::process::id() as i32)
            && self.here.identity(pid).is_ok_and(|there| there == *process)
    }

    fn learn_sockets(&mut self, sockets: Vec<KnownSocket>) {
        for KnownSocket { socket, fd } in sockets {
            match take(fd) {
                Ok(fd) => drop(self.sockets.insert(socket.key.clone(), (socket, fd))),
                Err(error) => {
                    log(&format!("the socket {} of {}: {error}", socket.key.name, socket.key.service));
                }
            }
        }
    }

    fn learn(&mut self, cells: Vec<Known>) {
        let nonces: Vec<Nonce> = cells.iter().map(|known| known.claim.nonce.clone()).collect();
        for known in cells {
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
        let Known { claim, leader, hold, killing, said, ready } = known;
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
            ready: ready.and_then(|fd| take(fd).ok()).map(File::from),
            said: *said,
            tell_said: None,
        };
        self.cells.insert(claim.nonce, cell);
        Some(())
    }
}

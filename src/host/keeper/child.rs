//! The child's side of a spawn: from the fork to the exec.
//!
//! Whatever may hang (a log on a dead file system, an executable on one) hangs here, never in the keeper.
//! Runs in a copy of a process of one thread, so ordinary Rust is allowed; it never returns into the code it
//! was copied from. Each step that fails is reported by its stage on the status pipe, whose end without a
//! failure means executed. The order matters: what needs privileges, then the user, then what the user
//! must be allowed to do, then the birth gate, and the limits last, which could hinder all of that.

mod descriptors;
mod rights;

use std::ffi::{CStr, CString};
use std::fmt::Display;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use descriptors::{place_descriptors, redirect};
use rights::{final_limits, privileged_limits, switch_user};

use super::gate::read_epoch;
use super::journal::{self, BirthEntry};
use super::program::{Program, Words, c_string, marker};
use super::protocol::Spawn;
use crate::host::StateLayout;
use crate::host::cause::plain;
use crate::host::cgroup::{self, Joining};
use crate::host::credentials;
use crate::host::failpoint;
use crate::host::proc::Here;
use crate::host::sys;
use crate::identity::{InstanceId, Nonce, ProcessIdentity, SPAWN_MARK};
use crate::state::{Containment, SpawnFailure, SpawnStage, encode_line_into};

/// What a child says on its status pipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// About to execute; if nothing follows until the pipe ends, it has.
    Born {
        process: ProcessIdentity,
        containment: Containment,
    },
    Failed(SpawnFailure),
}

/// All that a child is made from.
#[derive(Debug)]
pub struct Birth<'a> {
    pub here: &'a Here,
    pub request: &'a Spawn,
    pub instance: &'a InstanceId,
    pub prepared: &'a Prepared,
    /// Where it is to say how it is.
    pub notify: Option<&'a str>,
    /// Passed on to it, from descriptor 3 on.
    pub sockets: Vec<BorrowedFd<'a>>,
    pub role: Role,
    /// Into its cgroup, where it has one.
    pub joining: Joining,
    /// `(soft, hard)` as the keeper was started with.
    pub nofile: (u64, u64),
    /// For the line of the birth: empty, with room for all of it. A child that had to ask for it would have the allocator
    /// put in order what the keeper has freed, all over the heap, and would have to copy every page of that.
    pub line: Vec<u8>,
    /// The pipe that it is to write a newline to when it is ready, and the number that it knows it by.
    pub ready: Option<(OwnedFd, RawFd)>,
    /// Closed by the exec.
    pub status: File,
    /// Also told of a failure, by one byte: a holder must know whether its leader was ever executed.
    pub failed: Option<File>,
}

/// What can be made of a request before the fork: names of files, and what is to be executed.
#[derive(Debug)]
pub struct Prepared {
    words: Words,
    log: CString,
    gate: CString,
    births: CString,
    cwd: CString,
    /// As in the environment of what is executed: for its holder.
    pub mark: CString,
}

impl Prepared {
    pub fn of(
        request: &Spawn,
        layout: &StateLayout,
        instance: &InstanceId,
        notify: Option<&str>,
    ) -> Step<Self> {
        let name = |path: &Path| c_string(path.as_os_str().as_bytes());
        Ok(Self {
            words: Words::of(request, instance, notify)?,
            log: name(&layout.log(&request.service))?,
            gate: name(&layout.birth_gate())?,
            births: name(&layout.births())?,
            cwd: name(&request.cwd)?,
            mark: c_string(format!("{SPAWN_MARK}={}", marker(request, instance)).as_bytes())?,
        })
    }
}

/// How long the line of a birth may be, as its journal has it.
pub fn birth_bytes(request: &Spawn) -> usize {
    let intent = request.intent.as_ref().map_or(0, |intent| intent.get().len());
    intent + BESIDE_THE_INTENT
}

/// A birth names a process or two, and at most as many paths.
const BESIDE_THE_INTENT: usize = 1024 + 2 * libc::PATH_MAX as usize;

/// A [`BirthLine`](crate::state::BirthLine) as its child writes it.
#[derive(Serialize)]
struct Born<'a> {
    nonce: &'a Nonce,
    process: &'a ProcessIdentity,
    containment: &'a Containment,
    intent: &'a RawValue,
}

/// What is being started.
#[derive(Debug)]
pub enum Role {
    /// A service: output to its log, born through the gate.
    Service,
    /// A job beside one: output to a pipe, on no record.
    Job { output: OwnedFd },
}

impl Birth<'_> {
    /// The few that a child needs.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let output = match &self.role {
            Role::Service => None,
            Role::Job { output } => Some(output.as_raw_fd()),
        };
        let failed = self.failed.as_ref().map(AsRawFd::as_raw_fd);
        let ready = self.ready.as_ref().map(|(pipe, _)| pipe.as_raw_fd());
        let sockets = self.sockets.iter().map(AsRawFd::as_raw_fd);
        [Some(self.status.as_raw_fd()), output, failed, ready].into_iter().flatten().chain(sockets).collect()
    }
}

pub type Step<T = ()> = Result<T, SpawnFailure>;

/// Turns an error into the failure of a stage; `what` reads after "failed to", and is written down only then.
pub fn at<E: Into<io::Error>>(stage: SpawnStage, what: impl Display) -> impl FnOnce(E) -> SpawnFailure {
    move |error| {
        let error: io::Error = error.into();
        SpawnFailure {
            stage,
            errno: error.raw_os_error().unwrap_or(0),
            message: format!("failed to {what}: {}", plain(&error)),
        }
    }
}

/// What a write may be answered by that fails. Ignored until the last moment before the exec.
pub const HINDERING: [i32; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

/// Becomes the program that the request asks for, or reports why not and ends.
pub fn run(mut birth: Birth<'_>, containment: &Containment) -> ! {
    let attempt = std::panic::AssertUnwindSafe(|| become_it(&mut birth, containment));
    let failed = std::panic::catch_unwind(attempt).map_or_else(
        |_| SpawnFailure {
            stage: SpawnStage::Fork,
            errno: 0,
            message: "the child of the keeper panicked".into(),
        },
        |Err(failed)| failed,
    );
    tell(&mut birth, &failed);
    sys::exit_now(127)
}

/// All that a child says must fit into the smallest of pipes, 4096 bytes: the keeper reads it when it ends. A character
/// that is no control character takes four at most.
const MAX_MESSAGE_CHARS: usize = 800;

fn tell(birth: &mut Birth<'_>, failed: &SpawnFailure) {
    let message = failed.message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE_CHARS).collect();
    say(&mut birth.status, &Word::Failed(SpawnFailure { message, ..failed.clone() }));
    if let Some(failed) = &mut birth.failed {
        // If nobody listens, nobody has to know.
        let _ = failed.write_all(b"!");
    }
}

pub fn say(status: &mut File, word: &Word) {
    let mut line = serde_json::to_vec(word).expect("a word has string keys and plain values");
    line.push(b'\n');
    // A keeper that is gone will not read it; what counts then is the journal of births.
    let _ = status.write_all(&line);
}

fn become_it(birth: &mut Birth<'_>, containment: &Containment) -> Step<std::convert::Infallible> {
    let request = birth.request;
    // First of all: whoever hangs below must not hold the keeper's lock, or its client's connection.
    sys::close_descriptors(3, &birth.descriptors())
        .map_err(at(SpawnStage::Exec, "close inherited descriptors"))?;
    place_descriptors(birth).map_err(at(SpawnStage::Socket, "pass its descriptors on"))?;
    // A dead keeper's pipe and a limit on file sizes are errors of a write here, not our end. All others are at
    // their default, as a keeper has them.
    HINDERING.iter().for_each(|&signal| sys::ignore_signal(signal));
    sys::unblock_signals();
    if let (Containment::Cgroup { path }, Joining::Later) = (containment, birth.joining) {
        cgroup::enter(path)
            .map_err(at(SpawnStage::Cgroup, format_args!("enter the cgroup {}", path.display())))?;
    }
    failpoint::reach("child.forked");
    unistd::setsid().map_err(at(SpawnStage::Session, "start a session"))?;
    failpoint::reach("child.session");
    let process = birth.here.own_identity().map_err(at(SpawnStage::Fork, "read its own identity"))?;
    privileged_limits(birth)?;
    redirect(birth)?;
    failpoint::reach("child.redirected");
    let gate = match birth.role {
        Role::Service => Some(Gate::open(birth.prepared)?),
        Role::Job { .. } => None,
    };
    if let Some(given) = &request.credentials {
        let owner = request.user.as_ref().map(|user| (user.uid, user.gid));
        credentials::write(given, owner).map_err(at(
            SpawnStage::Credentials,
            format_args!("give it its secrets as files in {}", given.dir.display()),
        ))?;
    }
    failpoint::reach("child.credentials");
    nix::sys::stat::umask(Mode::from_bits_truncate(request.umask));
    switch_user(request)?;
    let made = request.make_work.as_deref().into_iter().chain(request.make_cwd.then_some(&*request.cwd));
    for dir in made {
        // With its own rights: nobody is given a directory where they could not have made it.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(at(SpawnStage::Cwd, format_args!("make the directory {}", dir.display())))?;
    }
    unistd::chdir(birth.prepared.cwd.as_c_str())
        .map_err(at(SpawnStage::Cwd, format_args!("enter the directory {}", request.cwd.display())))?;
    let for_this = match Words::name_the_pid(request) {
        true => Some(Words::of_process(request, birth.instance, birth.notify, std::process::id())?),
        false => None,
    };
    let program = Program::open(request, for_this.as_ref().unwrap_or(&birth.prepared.words))?;
    if let Some(gate) = &gate {
        gate.pass(birth, &process, containment)?;
    }
    failpoint::reach("child.born");
    say(&mut birth.status, &Word::Born { process, containment: containment.clone() });
    failpoint::reach("child.execute");
    let failed = final_limits(request).map_or_else(|failed| failed, |()| program.execute());
    // Told first: a limit may be in the way of the rest.
    tell(birth, &failed);
    if let Some(gate) = &gate {
        gate.take_back(request, &failed.message);
    }
    sys::exit_now(127)
}

/// The gate and the journal, opened while we may.
struct Gate {
    gate: File,
    births: File,
}

impl Gate {
    fn open(prepared: &Prepared) -> Step<Self> {
        let open = |path: &CStr, flags| nix::fcntl::open(path, flags | OFlag::O_CLOEXEC, journal::MODE);
        let gate =
            open(&prepared.gate, OFlag::O_RDONLY).map_err(at(SpawnStage::Born, "open the birth gate"))?;
        let births = open(&prepared.births, OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT)
            .map_err(at(SpawnStage::Born, "open the journal of births"))?;
        Ok(Self { gate: gate.into(), births: births.into() })
    }

    /// From here until the exec, or our death, a reconciler that starts has to wait.
    fn pass(&self, birth: &mut Birth<'_>, process: &ProcessIdentity, containment: &Containment) -> Step {
        let Birth { request, line, .. } = birth;
        rustix::fs::flock(&self.gate, FlockOperation::LockShared)
            .map_err(at(SpawnStage::Born, "lock the birth gate"))?;
        failpoint::reach("child.gate");
        let epoch = read_epoch(&self.gate).map_err(at(SpawnStage::Born, "read the birth gate"))?;
        if epoch != request.epoch {
            return Err(SpawnFailure {
                stage: SpawnStage::Epoch,
                errno: 0,
                message: format!("the request is of epoch {}, and this is {epoch}", request.epoch),
            });
        }
        let intent = request.intent.as_deref().ok_or_else(|| SpawnFailure {
            stage: SpawnStage::Born,
            errno: 0,
            message: "the request does not say what the ledger says of it".into(),
        })?;
        encode_line_into(line, &Born { nonce: &request.nonce, process, containment, intent });
        journal::append_encoded(&self.births, line).map_err(at(SpawnStage::Born, "record the birth"))
    }

    /// After a failed exec. If this cannot be written, for instance for the limit on file sizes that was asked for, a
    /// reconciler that did not hear of the failure takes the run for one whose end nobody saw.
    fn take_back(&self, request: &Spawn, message: &str) {
        let entry = BirthEntry::Unborn { nonce: request.nonce.clone(), unborn: message.to_owned() };
        let _ = journal::append(&self.births, &entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;
    use crate::identity::{BootId, Digest, Pid, ServiceId};
    use crate::state::{BirthLine, Intent, encode_line};

    #[test]
    fn a_birth_is_written_as_it_is_read() {
        let (nonce, boot) = (Nonce::from_u64(1), BootId::new("b"));
        let process = ProcessIdentity { pid: Pid::new(100).unwrap(), start_ticks: 5, boot, pid_ns: 1 };
        let containment = Containment::Cgroup { path: "/sys/fs/cgroup/web".into() };
        let web = ServiceId::parse("web").unwrap();
        let intent = Box::new(Intent::lost(web, nonce.clone(), Digest::of(b""), clock::now()));
        let worded = serde_json::value::to_raw_value(&intent).unwrap();
        let mut line = Vec::new();
        let born = Born { nonce: &nonce, process: &process, containment: &containment, intent: &worded };
        encode_line_into(&mut line, &born);
        let entry = BirthEntry::Born(BirthLine { nonce, process, containment, intent });
        assert_eq!(line, encode_line(&entry));
    }

    #[test]
    fn a_failure_is_worded_without_the_number_of_the_error() {
        let failure = at(SpawnStage::Cwd, "enter the directory /gone")(nix::Error::ENOENT);
        assert_eq!(failure.message, "failed to enter the directory /gone: no such file or directory");
        assert_eq!(failure.errno, libc::ENOENT);
    }
}

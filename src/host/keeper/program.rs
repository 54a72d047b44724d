//! What a child executes: its words are made by the keeper, its file is opened and checked by the child.
//!
//! The child is a copy in which each page that is touched costs a fault, of memory or of the program's own code;
//! so whatever cannot hang is made ready before the fork. Sources: execveat(2).

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::child::{HINDERING, Step, at};
use super::protocol::Spawn;
use crate::host::sys::{self, Strings};
use crate::identity::{InstanceId, SPAWN_MARK};
use crate::state::{FileIdentity, SpawnFailure, SpawnStage};

/// As the kernel takes them.
#[derive(Debug)]
pub struct Words {
    path: CString,
    argv: Strings,
    env: Strings,
}

impl Words {
    /// `notify`: where it is to say how it is. Source: sd_notify(3).
    pub fn of(request: &Spawn, instance: &InstanceId, notify: Option<&str>) -> Step<Self> {
        Self::with(request, instance, notify, &[])
    }

    /// True if what it is told names the process, whose pid nobody knows before it is forked.
    pub fn name_the_pid(request: &Spawn) -> bool {
        !request.sockets.is_empty() || is_watched(request)
    }

    /// As [`Words::of`], for the process of this pid, which is passed its sockets, and is to say that it lives. Sources:
    /// sd_listen_fds(3), sd_watchdog_enabled(3).
    pub fn of_process(request: &Spawn, instance: &InstanceId, notify: Option<&str>, pid: u32) -> Step<Self> {
        let (pid, count) = (pid.to_string(), request.sockets.len().to_string());
        let names = request.sockets.join(":");
        let mut told: Vec<(&str, &str)> = Vec::new();
        if !request.sockets.is_empty() {
            told.extend([("LISTEN_PID", pid.as_str()), ("LISTEN_FDS", &count), ("LISTEN_FDNAMES", &names)]);
        }
        if is_watched(request) {
            told.push(("WATCHDOG_PID", &pid));
        }
        Self::with(request, instance, notify, &told)
    }

    fn with(
        request: &Spawn,
        instance: &InstanceId,
        notify: Option<&str>,
        told: &[(&str, &str)],
    ) -> Step<Self> {
        let marker = marker(request, instance);
        let told = told.iter().copied().chain(notify.map(|address| ("NOTIFY_SOCKET", address)));
        // We may ourselves be somebody's service, and its marker inherited.
        let is_ours = |key: &str| key == SPAWN_MARK || told.clone().any(|(name, _)| name == key);
        let env = request.env.iter().filter(|(key, _)| !is_ours(key));
        let env = env.map(|(key, value)| [key, "=", value]).chain([[SPAWN_MARK, "=", &marker]]);
        let env = env.chain(told.clone().map(|(name, value)| [name, "=", value]));
        let argv: Vec<[&str; 1]> = request.argv.iter().map(|word| [word.as_str()]).collect();
        let path = request.exec.path().as_os_str().as_bytes();
        Ok(Self {
            path: c_string(path)?,
            argv: Strings::new(&argv).map_err(|word| zero_byte(&word))?,
            env: Strings::new(&env.collect::<Vec<_>>()).map_err(|word| zero_byte(&word))?,
        })
    }
}

fn is_watched(request: &Spawn) -> bool {
    request.notify && request.env.iter().any(|(key, _)| key == "WATCHDOG_USEC")
}

/// Names a run to whoever looks for what it has started.
pub fn marker(request: &Spawn, instance: &InstanceId) -> String {
    format!("{instance}:{}:{}", request.service.key(), request.nonce)
}

/// The name of a file.
pub fn c_string(name: &[u8]) -> Step<CString> {
    CString::new(name).map_err(|_| zero_byte(&String::from_utf8_lossy(name)))
}

fn zero_byte(word: &str) -> SpawnFailure {
    let message = format!("`{}` holds a zero byte", word.escape_debug());
    SpawnFailure { stage: SpawnStage::Exec, errno: libc::EINVAL, message }
}

/// The file that was checked, and what it is called with.
#[derive(Debug)]
pub struct Program<'a> {
    file: OwnedFd,
    target: &'a FileIdentity,
    script: bool,
    words: &'a Words,
}

impl<'a> Program<'a> {
    /// Opens it, as the user who executes it: it must be the very file that was checked.
    pub fn open(request: &'a Spawn, words: &'a Words) -> Step<Self> {
        let target = &request.exec.file;
        // Not opened for reading: a user may execute what they may not read.
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::open(words.path.as_c_str(), flags, Mode::empty())
            .and_then(|file| Ok((nix::sys::stat::fstat(&file)?, file)));
        let (stat, file) =
            opened.map_err(at(SpawnStage::Exec, format_args!("open {}", target.path.display())))?;
        compare(target, &stat)?;
        Ok(Self { file, target, script: request.exec.script, words })
    }

    /// The wait at the gate may have been long. A script is looked at by its path, as it will be opened.
    fn check_again(&self) -> Step {
        let stat = if self.script {
            nix::sys::stat::stat(self.words.path.as_c_str())
        } else {
            nix::sys::stat::fstat(&self.file)
        };
        let path = self.target.path.display();
        compare(self.target, &stat.map_err(at(SpawnStage::Exec, format_args!("look at {path} again")))?)
    }

    /// Returns only if it fails. A script goes by path: its interpreter opens it anew, by a name.
    pub fn execute(&self) -> SpawnFailure {
        if let Err(changed) = self.check_again() {
            return changed;
        }
        HINDERING.iter().for_each(|&signal| sys::default_signal(signal));
        let Words { path, argv, env } = self.words;
        let error = if self.script {
            sys::execute(path, argv, env)
        } else {
            sys::execute_file(self.file.as_fd(), argv, env)
        };
        HINDERING.iter().for_each(|&signal| sys::ignore_signal(signal));
        at(SpawnStage::Exec, format_args!("execute {}", self.target.path.display()))(error)
    }
}

fn compare(target: &FileIdentity, stat: &nix::sys::stat::FileStat) -> Step {
    let ctime_ns = stat.st_ctime * 1_000_000_000 + stat.st_ctime_nsec;
    if (stat.st_dev, stat.st_ino, ctime_ns) == (target.dev, target.inode, target.ctime_ns) {
        return Ok(());
    }
    Err(SpawnFailure {
        stage: SpawnStage::ExecChanged,
        errno: 0,
        message: format!("{} has changed since it was checked", target.path.display()),
    })
}

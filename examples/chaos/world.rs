//! A world of its own: directories, configuration, the real binary, and who is to be killed in it.
//!
//! This process is the subreaper of the world, so that whatever descends from it can be found and ended, also
//! when reconcile has lost it. Signals go to descendants of ours alone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::model::Places;
use crate::register::{Process, Register, ticks_of};

/// A command that only asks is answered within this, or asks somebody who is frozen.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// One holder a service, although there are cgroups.
    pub holders: bool,
    /// As this user, when we are root.
    pub uid: Option<u32>,
}

#[derive(Debug)]
pub struct World {
    dir: tempfile::TempDir,
    binary: PathBuf,
    setting: Setting,
    /// The watcher, or a `--once`, that is in charge at the moment.
    pub reconciler: Option<Child>,
    others: Vec<Child>,
    /// The failpoint that the next reconciler is to stop at, or its keeper, or their children.
    pub failpoint: Option<String>,
}

impl World {
    pub fn new(binary: &Path, setting: Setting) -> Self {
        nix::sys::prctl::set_child_subreaper(true).expect("any process may be a subreaper");
        let dir =
            tempfile::Builder::new().prefix("reconcile-chaos-").tempdir().expect("a temporary directory");
        let world = Self {
            binary: binary.to_owned(),
            dir,
            setting,
            reconciler: None,
            others: Vec::new(),
            failpoint: None,
        };
        for path in [world.root(), world.path("register"), world.path("home")] {
            fs::create_dir_all(path).expect("our own directory can be written");
        }
        fs::write(world.path("worker.pl"), include_str!("worker.pl"))
            .expect("our own directory can be written");
        fs::write(
            world.path("reconcile.toml"),
            "[policy]\nexecutables = [\"perl\", \"sleep\"]\n[logs]\nmax_size = \"64KiB\"\n",
        )
        .expect("our own directory can be written");
        world.hand_over();
        world
    }

    /// Everything belongs to the user that it runs as.
    fn hand_over(&self) {
        let Some(uid) = self.setting.uid else { return };
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let names = ["", "project", "project/manifests", "register", "home", "worker.pl", "reconcile.toml"];
        for name in names {
            std::os::unix::fs::chown(self.path(name), Some(uid), Some(uid)).expect("only root sets a user");
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn root(&self) -> PathBuf {
        self.path("project/manifests")
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    pub fn places(&self) -> Places {
        let text =
            |name| self.path(name).to_str().expect("temporary directories have plain names").to_owned();
        Places { worker: text("worker.pl"), register: text("register") }
    }

    pub fn register(&self) -> Register {
        Register::new(&self.path("register"))
    }

    /// The directory stays, for whoever looks into it.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.path("home"))
            .env("RECONCILE_MANIFESTS", self.root())
            .env("RECONCILE_STATE_DIR", self.state())
            .env("RECONCILE_CONFIG", self.path("reconcile.toml"))
            .env("RECONCILE_LOG", "reconcile=debug")
            .current_dir(self.path("project"))
            .stdin(Stdio::null());
        if self.setting.holders {
            command.env("RECONCILE_CONTAINMENT", "holder");
        }
        if let Some(uid) = self.setting.uid {
            command.uid(uid).gid(uid);
        }
        command
    }

    fn logged(&self, arguments: &[&str]) -> Command {
        let log = File::options().create(true).append(true).open(self.path("reconciler.log"));
        let log = log.expect("our own directory can be written");
        let errors = log.try_clone().expect("a descriptor");
        let mut command = self.command(arguments);
        command.stdout(log).stderr(errors);
        command
    }

    /// Puts a reconciler in charge, if none is.
    pub fn reconcile(&mut self, arguments: &[&str]) {
        if !self.has_reconciler() {
            let mut command = self.logged(arguments);
            command.envs(self.failpoint.as_ref().map(|failpoint| ("RECONCILE_FAILPOINT", failpoint)));
            self.reconciler = Some(command.spawn().expect("the binary can be started"));
        }
    }

    pub fn has_reconciler(&mut self) -> bool {
        let ended = self.reconciler.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
        if ended {
            self.reconciler = None;
        }
        self.reconciler.is_some()
    }

    /// Lets a command run beside everything else; nobody waits for it.
    pub fn begin_command(&mut self, arguments: &[&str]) {
        let child = self.logged(arguments).spawn().expect("the binary can be started");
        self.others.push(child);
    }

    /// Runs a command to its end, or to the end of our patience.
    pub fn run(&self, arguments: &[&str]) -> Option<(i32, String)> {
        let out = self.path("answer");
        let file = File::create(&out).expect("our own directory can be written");
        let mut child = self.command(arguments).stdout(file).stderr(Stdio::null()).spawn().ok()?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Some((status.code()?, fs::read_to_string(out).ok()?));
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn status(&self) -> Option<Value> {
        let (_, text) = self.run(&["status", "-o", "json"])?;
        serde_json::from_str(&text).ok()
    }

    pub fn reconciler_process(&mut self) -> Option<Process> {
        if !self.has_reconciler() {
            return None;
        }
        let pid = self.reconciler.as_ref()?.id() as i32;
        Some(Process { pid, ticks: ticks_of(pid)? })
    }

    pub fn keeper_process(&self) -> Option<Process> {
        let lock = self.state().canonicalize().ok()?.join("keeper.lock");
        // Holders and half-made children look like it, and have no descriptor of the lock.
        let is_keeper = |pid: &i32| {
            let mut open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            open.any(|entry| fs::read_link(entry.path()).is_ok_and(|file| file == lock))
        };
        let pid = descendants().into_iter().find(is_keeper)?;
        Some(Process { pid, ticks: ticks_of(pid)? })
    }

    /// Ends everything that descends from us, and says how many were left.
    pub fn end(&mut self) {
        for child in self.reconciler.iter_mut().chain(&mut self.others) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let left = descendants();
            if left.is_empty() || Instant::now() > deadline {
                return;
            }
            for pid in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            reap();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What there is to see, for a report.
    pub fn describe(&self) -> String {
        let mut text = self.run(&["status"]).map(|(_, text)| text).unwrap_or_default();
        for file in ["reconciler.log", "state/keeper.log", "state/ledger.journal", "state/exits.journal"] {
            let content = fs::read_to_string(self.path(file)).unwrap_or_default();
            let lines: Vec<&str> = content.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            text.push_str(&format!("--- {file}\n{tail}\n"));
        }
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.end();
    }
}

/// Signals this very process; one that is gone is no error.
pub fn signal(process: Process, signal: Signal) {
    if process.is_alive() {
        let _ = kill(Pid::from_raw(process.pid), signal);
    }
}

/// Takes in the orphans that have ended; children that somebody waits for by name are left to them.
pub fn reap() {
    for pid in descendants_with(|state| state == "Z") {
        let pid = Pid::from_raw(pid);
        let is_orphan = nix::unistd::getpgid(Some(pid)).is_ok_and(|group| group != nix::unistd::getpgrp());
        if is_orphan {
            let _ = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        }
    }
}

/// All that lives below us.
pub fn descendants() -> BTreeSet<i32> {
    descendants_with(|state| state != "Z" && state != "X")
}

fn descendants_with(wanted: impl Fn(&str) -> bool) -> BTreeSet<i32> {
    let table: Vec<(i32, i32, bool)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let state = fields.next()?;
            Some((pid, fields.next()?.parse().ok()?, wanted(state)))
        })
        .collect();
    let own = std::process::id() as i32;
    let mut found = BTreeSet::from([own]);
    loop {
        let before = found.len();
        let children = table.iter().filter(|(_, parent, _)| found.contains(parent));
        found.extend(children.map(|(pid, _, _)| *pid).collect::<Vec<_>>());
        if found.len() == before {
            break;
        }
    }
    found.remove(&own);
    found.retain(|pid| table.iter().any(|(other, _, wanted)| other == pid && *wanted));
    found
}

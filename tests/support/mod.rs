//! A world of its own for each test: a project directory, a state directory, the real binary.
//!
//! Waits for conditions and never for a time; prints the world when a condition does not come about; and
//! leaves no process behind, also when the test fails: this process is the subreaper of all worlds, and
//! whatever descends from a world's commands is killed when the world is dropped.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

pub mod namespace;

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Bound of every wait: generous, since machines are shared and slow; met only by a failing test.
const PATIENCE: Duration = Duration::from_secs(60);
const MARK: &str = "RECONCILE_TEST_WORLD";

static WORLDS: Mutex<u32> = Mutex::new(0);
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Who runs the binary, and what contains its services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// As whoever runs the tests, with cgroups where there are any.
    Caller,
    /// Without cgroups, by one holder a service.
    Holders,
    /// As `nobody`; only when the tests run as root.
    Nobody,
}

pub struct World {
    dir: tempfile::TempDir,
    id: String,
    who: As,
    path: String,
    binary: PathBuf,
    watchers: Vec<Child>,
}

#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// True where this test cannot run as `who`; says so.
pub fn cannot_run_as(who: As) -> bool {
    let missing = who == As::Nobody && !nix::unistd::Uid::effective().is_root();
    if missing {
        eprintln!("skipped: only root can become nobody");
    }
    missing
}

/// True where `program` is not installed; says so.
pub fn is_missing(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .any(|dir| dir.join(program).exists());
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    !found
}

impl World {
    pub fn new() -> Self {
        Self::run_as(As::Caller)
    }

    pub fn run_as(who: As) -> Self {
        let mut worlds = WORLDS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *worlds += 1;
        nix::sys::prctl::set_child_subreaper(true).expect("this process may be a subreaper");
        let dir = tempfile::Builder::new().prefix("reconcile-test-").tempdir().unwrap();
        let id = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        let binary = env!("CARGO_BIN_EXE_reconcile").into();
        let world = Self { dir, id, who, path, binary, watchers: Vec::new() };
        for path in [world.project(), world.manifests(), world.path("home")] {
            std::fs::create_dir_all(path).unwrap();
        }
        world.config("[policy]\nallow_shell = true\nexecutables = [\"sh\", \"bash\", \"sleep\", \"perl\", \"python3\", \"cat\", \"true\", \"false\", \"env\", \"setsid\"]\n");
        if who == As::Nobody {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(world.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            for path in [world.project(), world.manifests(), world.path("home"), world.path("reconcile.toml")]
            {
                nix::unistd::chown(&path, Some(nobody().0), Some(nobody().1)).unwrap();
            }
            nix::unistd::chown(world.dir.path(), Some(nobody().0), Some(nobody().1)).unwrap();
        }
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn project(&self) -> PathBuf {
        self.path("project")
    }

    pub fn manifests(&self) -> PathBuf {
        self.project().join("manifests")
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Puts a directory in front of the others where commands are looked for.
    pub fn search_first(&mut self, dir: &Path) {
        self.path = format!("{}:{}", dir.display(), self.path);
    }

    /// From now on this file is `reconcile`.
    pub fn install(&mut self, binary: &Path) {
        self.binary = binary.to_owned();
    }

    /// Writes the operator's configuration, which lies outside of the project.
    pub fn config(&self, text: &str) {
        std::fs::write(self.path("reconcile.toml"), text).unwrap();
    }

    /// Writes a manifest as an editor should: to another name, then renamed.
    pub fn manifest(&self, name: &str, text: &str) -> &Self {
        let target = self.manifests().join(name);
        let temporary = self.manifests().join(format!(".{name}.tmp"));
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, target).unwrap();
        self
    }

    /// A service that runs `script` in a shell, with more lines of its table.
    pub fn service(&self, name: &str, script: &str, more: &str) -> &Self {
        let script = toml::Value::String(script.to_owned());
        self.manifest(
            &format!("{name}.toml"),
            &format!("[service.{name}]\ncommand = {script}\nshell = true\nstart_settle = \"50ms\"\n{more}\n"),
        )
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.manifests().join(name)).unwrap();
    }

    /// The binary with the world's options; the arguments are still to come.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.env_clear();
        command
            .env("PATH", &self.path)
            .env("HOME", self.path("home"))
            .env(MARK, &self.id)
            .env("RECONCILE_MANIFESTS", self.manifests())
            .env("RECONCILE_STATE_DIR", self.state())
            .env("RECONCILE_CONFIG", self.path("reconcile.toml"))
            .current_dir(self.project())
            .stdin(Stdio::null());
        match self.who {
            As::Caller => {}
            As::Holders => {
                command.env("RECONCILE_CONTAINMENT", "holder");
            }
            As::Nobody => {
                command.uid(nobody().0.as_raw()).gid(nobody().1.as_raw());
            }
        }
        command
    }

    /// The binary started by another program, which is given these options first: as root, whoever the world is.
    pub fn behind(&self, program: &str, options: &[&str]) -> Command {
        let inner = self.command();
        let mut command = Command::new(program);
        command.args(options);
        if self.who == As::Nobody {
            command.args(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        }
        command.arg(inner.get_program()).env_clear().current_dir(self.project()).stdin(Stdio::null());
        for (name, value) in inner.get_envs() {
            command.env(name, value.expect("nothing is removed from an empty environment"));
        }
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, arguments: &[&str]) -> Run {
        let mut command = self.command();
        command.args(arguments);
        self.finish(command)
    }

    pub fn finish(&self, mut command: Command) -> Run {
        let output = command.output().unwrap();
        Run {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn once(&self) -> Run {
        self.run(&["--once"])
    }

    /// Starts a watcher, and waits until it answers.
    pub fn watch(&mut self) -> u32 {
        let command = self.command();
        self.watch_with(command)
    }

    /// Likewise, with a command of [`Self::command`] or [`Self::behind`].
    pub fn watch_with(&mut self, mut command: Command) -> u32 {
        let log = std::fs::File::options().create(true).append(true).open(self.path("watcher.log")).unwrap();
        command.args(["up", "--quiet"]).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let pid = child.id();
        self.watchers.push(child);
        self.until("the watcher answers", |world| {
            world.status().is_some_and(|status| status["watching"] == true && !status["last_pass"].is_null())
        });
        pid
    }

    pub fn watcher(&mut self) -> &mut Child {
        self.watchers.last_mut().expect("a watcher was started")
    }

    /// SIGKILL to the newest watcher.
    pub fn kill_watcher(&mut self) {
        let mut child = self.watchers.pop().expect("a watcher was started");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn status(&self) -> Option<Value> {
        let run = self.run(&["status", "-o", "json"]);
        serde_json::from_str(&run.stdout).ok()
    }

    pub fn service_status(&self, name: &str) -> Option<Value> {
        let status = self.status()?;
        status["services"].as_array()?.iter().find(|service| service["name"] == name).cloned()
    }

    pub fn phase(&self, name: &str) -> String {
        let status = self.service_status(name);
        status.and_then(|status| Some(status["phase"].as_str()?.to_owned())).unwrap_or_default()
    }

    pub fn pid(&self, name: &str) -> Option<i32> {
        self.service_status(name)?["pid"].as_i64().map(|pid| pid as i32)
    }

    #[track_caller]
    pub fn until_phase(&self, name: &str, phase: &str) {
        self.until(&format!("{name} is {phase}"), |world| world.phase(name) == phase);
    }

    /// Waits until `condition` holds; fails with the state of the world.
    #[track_caller]
    pub fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "not so within {PATIENCE:?}: {what}\n{}", self.describe());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything there is to see, for the message of a test that fails.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        text.push_str(&self.run(&["status"]).stdout);
        for file in ["watcher.log", "state/keeper.log", "state/ledger.journal", "state/exits.journal"] {
            let content = std::fs::read_to_string(self.path(file)).unwrap_or_default();
            let lines: Vec<&str> = content.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            text.push_str(&format!("--- {file}\n{tail}\n"));
        }
        for pid in self.processes() {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            text.push_str(&format!("{pid} {}\n", String::from_utf8_lossy(&line).replace('\0', " ")));
        }
        text
    }

    /// Every live process that descends from this world's commands.
    pub fn processes(&self) -> BTreeSet<i32> {
        let mark = format!("{MARK}={}\0", self.id);
        let home = std::fs::canonicalize(self.dir.path()).expect("the world is there");
        let table = process_table();
        let mut ours: BTreeSet<i32> = table
            .iter()
            .filter(|process| {
                let environ = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
                // Keeper and holders have no environment, and live in a state directory.
                let cwd = std::fs::read_link(format!("/proc/{}/cwd", process.pid)).ok();
                contains(&environ, mark.as_bytes()) || cwd.is_some_and(|cwd| cwd.starts_with(&home))
            })
            .map(|process| process.pid)
            .collect();
        loop {
            let more: Vec<i32> = table
                .iter()
                .filter(|process| ours.contains(&process.ppid) && !ours.contains(&process.pid))
                .map(|process| process.pid)
                .collect();
            if more.is_empty() {
                return ours;
            }
            ours.extend(more);
        }
    }

    /// Pids whose command line contains `text`.
    pub fn processes_like(&self, text: &str) -> BTreeSet<i32> {
        process_table()
            .into_iter()
            .filter(|process| {
                let line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
                String::from_utf8_lossy(&line).replace('\0', " ").contains(text)
            })
            .map(|process| process.pid)
            .collect()
    }

    pub fn keeper(&self) -> Option<i32> {
        let state = std::fs::canonicalize(self.state()).ok()?;
        // Its holders are copies of it, by another name.
        let is_holder = |pid: i32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "reconcile-hold\n")
        };
        self.processes_like("keeper --state-dir")
            .into_iter()
            .filter(|&pid| !is_holder(pid))
            .find(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == state))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in &mut self.watchers {
            let _ = child.kill();
            let _ = child.wait();
        }
        let mut worlds = WORLDS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *worlds -= 1;
        let last = *worlds == 0;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut left = self.processes();
            left.remove(&(std::process::id() as i32));
            if last {
                left.extend(descendants_of_this_process());
            }
            if left.is_empty() || Instant::now() > deadline {
                break;
            }
            for pid in left {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                // It is ours to reap if it was orphaned.
                let _ = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub fn nobody() -> (nix::unistd::Uid, nix::unistd::Gid) {
    let user = nix::unistd::User::from_name("nobody").unwrap().expect("there is a user nobody");
    (user.uid, user.gid)
}

#[derive(Debug)]
struct Process {
    pid: i32,
    ppid: i32,
}

/// Every process that is not a zombie.
fn process_table() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let state = fields.next()?;
            let ppid = fields.next()?.parse().ok()?;
            (state != "Z" && state != "X").then_some(Process { pid, ppid })
        })
        .collect()
}

fn descendants_of_this_process() -> BTreeSet<i32> {
    let table = process_table();
    let mut found = BTreeSet::from([std::process::id() as i32]);
    loop {
        let before = found.len();
        let more: Vec<i32> = table.iter().filter(|p| found.contains(&p.ppid)).map(|p| p.pid).collect();
        found.extend(more);
        if found.len() == before {
            found.remove(&(std::process::id() as i32));
            return found;
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

pub fn is_alive(pid: i32) -> bool {
    process_table().iter().any(|process| process.pid == pid)
}

/// The parent of a process that lives.
pub fn parent(pid: i32) -> i32 {
    process_table().iter().find(|process| process.pid == pid).expect("it lives").ppid
}

/// Kills a process that the test has found to be one of its own world's.
/// A copy that can be executed at once. Were it written here, a child that another thread starts meanwhile would have
/// it open for writing (ETXTBSY).
pub fn copy_program(from: impl AsRef<Path>, to: &Path) {
    let copied = Command::new("cp").arg(from.as_ref()).arg(to).status().unwrap();
    assert!(copied.success(), "{} is copied to {}", from.as_ref().display(), to.display());
}

pub fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

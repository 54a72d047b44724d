//! A project with a state directory of its own, the real binary in it, and nothing left behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stamp::Program;

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What holds the descendants of a service together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containment {
    /// Cgroups where they may be made.
    Default,
    Holders,
}

pub struct World {
    directory: PathBuf,
    containment: Containment,
    watcher: Option<Child>,
}

impl World {
    /// With a configuration that allows `program` and puts the next full pass far away: what one costs is
    /// measured by itself.
    pub fn new(containment: Containment, program: &Program) -> Self {
        let directory = program.work_directory();
        let world = Self { directory, containment, watcher: None };
        std::fs::create_dir_all(world.manifests()).unwrap();
        let config = format!(
            "resync = \"1h\"\n\n[policy]\nexecutables = [{:?}, {:?}]\n",
            program.path(),
            program.answering()
        );
        std::fs::write(world.path("reconcile.toml"), config).unwrap();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn manifests(&self) -> PathBuf {
        self.path("project/manifests")
    }

    pub fn log(&self, service: &str) -> PathBuf {
        self.path(&format!("state/logs/default.{service}.log"))
    }

    /// Puts a manifest beside the watched directory; the answer is where, and where it belongs.
    pub fn stage(&self, service: &str, text: &str) -> (PathBuf, PathBuf) {
        let staged = self.path(&format!("project/{service}.toml"));
        std::fs::write(&staged, text).unwrap();
        (staged, self.manifests().join(format!("{service}.toml")))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reconcile"));
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &self.directory)
            .env("RECONCILE_MANIFESTS", self.manifests())
            .env("RECONCILE_STATE_DIR", self.path("state"))
            .env("RECONCILE_CONFIG", self.path("reconcile.toml"))
            .current_dir(self.path("project"))
            .args(arguments)
            .stdin(Stdio::null());
        if self.containment == Containment::Holders {
            command.env("RECONCILE_CONTAINMENT", "holder");
        }
        command
    }

    /// Starts a watcher, and does not wait for it.
    pub fn start_watcher(&mut self) {
        let log = std::fs::File::create(self.path("watcher.log")).unwrap();
        let mut command = self.command(&["up", "--quiet"]);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.watcher = Some(command.spawn().unwrap());
    }

    pub fn watcher(&self) -> i32 {
        self.watcher.as_ref().expect("a watcher was started").id() as i32
    }

    /// Ends the watcher so that nobody else does: by SIGKILL.
    pub fn kill_watcher(&mut self) {
        let mut watcher = self.watcher.take().expect("a watcher was started");
        watcher.kill().unwrap();
        watcher.wait().unwrap();
    }

    /// Waits until as many services are up, and settled.
    pub fn wait_until_running(&self, count: usize) {
        self.wait_until("\"running\"", count);
    }

    /// Waits until as many services wait to be used.
    pub fn wait_until_asleep(&self, count: usize) {
        self.wait_until("\"on-demand\"", count);
    }

    pub fn wait_for_files(&self, files: &[PathBuf]) {
        let deadline = Instant::now() + PATIENCE;
        while let Some(missing) = files.iter().find(|file| !file.exists()) {
            assert!(Instant::now() < deadline, "{} is not there\n{}", missing.display(), self.last_words());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn wait_until(&self, word: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.command(&["status", "-o", "json"]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let found = text.matches(word).count();
            if found >= count {
                return;
            }
            assert!(Instant::now() < deadline, "{found} of {count} are {word}\n{}", self.last_words());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// How long a command takes, from its start until it is reaped; its output goes to a file.
    pub fn time(&self, arguments: &[&str]) -> Duration {
        let mut command = self.command(arguments);
        let output = std::fs::File::create(self.path("output")).unwrap();
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let begun = Instant::now();
        let status = command.status().unwrap();
        let taken = begun.elapsed();
        let output = || std::fs::read_to_string(self.path("output")).unwrap_or_default();
        assert!(status.success(), "{arguments:?}: {status}\n{}", output());
        taken
    }

    pub fn keeper(&self) -> i32 {
        let state = std::fs::canonicalize(self.path("state")).unwrap();
        let is_it = |pid: &i32| {
            let file = |name: &str| format!("/proc/{pid}/{name}");
            std::fs::read_link(file("cwd")).is_ok_and(|cwd| cwd == state)
                && std::fs::read_to_string(file("comm")).is_ok_and(|comm| comm.trim() != "reconcile-hold")
        };
        self.processes().into_iter().find(is_it).expect("a keeper runs")
    }

    /// The processes that hold services together where there are no cgroups.
    pub fn holders(&self) -> Vec<i32> {
        let is_one = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|comm| comm.trim() == "reconcile-hold")
        };
        self.processes().into_iter().filter(is_one).collect()
    }

    /// Whatever works below this world's directory, which nothing else knows of.
    fn processes(&self) -> Vec<i32> {
        let ours = std::fs::canonicalize(&self.directory).unwrap();
        let pids = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| works_below(*pid, &ours)).collect()
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.path("watcher.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// `reconcile down`, for as long as that may take.
    fn take_down(&self) {
        let mut command = self.command(&["down"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(mut down) = command.spawn() else { return };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if matches!(down.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = down.kill();
        let _ = down.wait();
    }
}

fn works_below(pid: i32, directory: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
}

impl Drop for World {
    fn drop(&mut self) {
        self.take_down();
        if let Some(mut watcher) = self.watcher.take() {
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
        // Only where `down` has failed, or the keeper is just about to leave.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() > deadline {
                break;
            }
            for pid in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

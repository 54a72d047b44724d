//! A cgroup that looks like a unit of a service manager, below the test's own; gone with the test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use reconcile::host::cgroup::Mount;

use super::support::{World, nobody};

static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct TestCgroup {
    path: PathBuf,
}

impl TestCgroup {
    /// `None`, with a message, where none can be made, or where everything is part of a unit anyway.
    pub fn new(suffix: &str) -> Option<Self> {
        let own = Mount::find().ok().flatten().and_then(|mount| mount.own().ok().flatten());
        let Some(own) = own else {
            eprintln!("skipped: there is no cgroup v2");
            return None;
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = own.join(format!("reconcile-test-{}-{number}{suffix}", std::process::id()));
        if let Err(error) = std::fs::create_dir(&path) {
            eprintln!("skipped: {}: {error}", path.display());
            return None;
        }
        Some(Self { path })
    }

    pub fn name(&self) -> String {
        self.path.file_name().unwrap().to_str().unwrap().to_owned()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_empty(&self) -> bool {
        let events = std::fs::read_to_string(self.path.join("cgroup.events"));
        !events.is_ok_and(|events| events.contains("populated 1"))
    }

    pub fn child(&self, name: &str) -> Self {
        let path = self.path.join(name);
        std::fs::create_dir(&path).unwrap();
        Self { path }
    }

    pub fn delegate_to_nobody(&self) {
        let (uid, gid) = nobody();
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            nix::unistd::chown(&self.path.join(file), Some(uid), Some(gid)).unwrap();
        }
    }

    /// The world's command in this cgroup, as root or as nobody.
    pub fn command(&self, world: &World, as_nobody: bool) -> Command {
        let inner = world.command();
        let mut command = Command::new("/bin/sh");
        let become_it =
            if as_nobody { "exec setpriv --reuid nobody --regid nogroup --clear-groups" } else { "exec" };
        command.args(["-c", &format!("echo 0 >\"$0\" && {become_it} \"$@\"")]);
        command.arg(self.path.join("cgroup.procs")).arg(inner.get_program());
        command.env_clear().current_dir(world.project()).stdin(std::process::Stdio::null());
        for (name, value) in inner.get_envs() {
            command.env(name, value.expect("nothing is removed from an empty environment"));
        }
        command
    }

    /// What a service manager does at the end of a unit.
    pub fn kill(&self) {
        std::fs::write(self.path.join("cgroup.kill"), "1").unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.is_empty() {
            assert!(Instant::now() < deadline, "{} does not become empty", self.path.display());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        if self.path.exists() {
            self.kill();
            remove(&self.path);
        }
    }
}

fn remove(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(path);
}

//! Units of a service manager: cgroups that somebody tidies up, with everything that is in them.
//!
//! systemd names the cgroup of a service or a scope after it, and at its end kills what is still inside. Whether
//! a unit has `KillMode=process`, which spares all but its main process, cannot be seen. Only ever told to people,
//! nothing is decided by it. Called by `commands` and `doctor`. Sources: systemd.kill(5), logind.conf(5),
//! loginctl(1) on enable-linger, systemd.syntax(7) for the order of drop-ins.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use super::{Ground, Mount};

/// A unit that ends with everything in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unit {
    pub name: String,
    pub ends: Ends,
}

/// When a unit ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ends {
    /// A login session.
    AtLogout,
    /// The manager of a user who does not linger: with the last of their sessions.
    AtLastLogout,
    /// When somebody stops it, or its main process ends.
    WhenStopped,
}

impl fmt::Display for Ends {
    /// Reads after "they end with it, ".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtLogout => "at logout",
            Self::AtLastLogout => "with the last session of its user",
            Self::WhenStopped => "when it is stopped, unless it has KillMode=process",
        })
    }
}

/// Finds the units of processes.
#[derive(Debug)]
pub struct Units {
    mount: Mount,
    /// Where the files of the system are; `/` but for tests.
    system: PathBuf,
}

impl Units {
    /// `None` where there is nothing that a service manager could keep units in, or it cannot be read.
    pub fn look() -> Option<Self> {
        Some(Self { mount: Mount::find_units().ok()??, system: "/".into() })
    }

    /// The unit that ends this process with itself; `None` if there is none, and for a process that is gone.
    pub fn of(&self, pid: u32) -> Option<Unit> {
        self.ending(&self.mount.of(&pid.to_string()).ok()??)
    }

    /// The unit that would end what is started on this ground.
    pub fn of_ground(&self, ground: &Ground) -> Option<Unit> {
        match ground {
            Ground::Cgroup { base } => self.ending(base.strip_prefix(&self.mount.point).ok()?),
            Ground::Holder { .. } => self.of(std::process::id()),
        }
    }

    /// The innermost one, which is the first to go.
    fn ending(&self, path: &Path) -> Option<Unit> {
        path.components().rev().find_map(|component| {
            let name = component.as_os_str().to_str()?;
            let ends = self.ends(name)?;
            Some(Unit { name: name.to_owned(), ends })
        })
    }

    /// `None`: this is no unit, or one that ends with the machine.
    fn ends(&self, name: &str) -> Option<Ends> {
        let (stem, kind) = name.rsplit_once('.')?;
        match (stem, kind) {
            ("init", "scope") => None,
            (_, "scope") if stem.starts_with("session-") => {
                kills_user_processes(&self.system).then_some(Ends::AtLogout)
            }
            (_, "service") if stem.starts_with("user@") => {
                (!self.lingers(stem.strip_prefix("user@")?)).then_some(Ends::AtLastLogout)
            }
            (_, "scope" | "service") => Some(Ends::WhenStopped),
            _ => None,
        }
    }

    fn lingers(&self, uid: &str) -> bool {
        let user = uid.parse().ok().and_then(|uid| User::from_uid(Uid::from_raw(uid)).ok().flatten());
        user.is_some_and(|user| self.system.join("var/lib/systemd/linger").join(user.name).exists())
    }
}

/// Directories of systemd's configuration; the earlier win.
const CONFIGURATION: [&str; 4] = ["etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd"];

/// Whether logind ends what a session has left. A line that is commented out in the main file tells the default
/// that logind was built with, which is `no` in most distributions and `yes` in systemd itself.
fn kills_user_processes(system: &Path) -> bool {
    let dirs = CONFIGURATION.map(|dir| system.join(dir));
    let main =
        dirs.iter().find_map(|dir| fs::read_to_string(dir.join("logind.conf")).ok()).unwrap_or_default();
    let mut drop_ins = BTreeMap::new();
    for entry in dirs.iter().rev().flat_map(|dir| fs::read_dir(dir.join("logind.conf.d"))).flatten().flatten()
    {
        if entry.path().extension().is_some_and(|extension| extension == "conf") {
            drop_ins.insert(entry.file_name(), entry.path());
        }
    }
    let mut kills = setting(&main.replace('#', "")).unwrap_or(true);
    let drop_ins = drop_ins.values().map(|path| fs::read_to_string(path).unwrap_or_default());
    for text in std::iter::once(main).chain(drop_ins) {
        kills = setting(&text).unwrap_or(kills);
    }
    kills
}

/// The last word of a file.
fn setting(text: &str) -> Option<bool> {
    let mut values = text.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "KillUserProcesses").then(|| value.trim().to_ascii_lowercase())
    });
    match values.next_back()?.as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(system: &Path) -> Units {
        let mount = Mount::find_units().unwrap().expect("a Linux with cgroups");
        Units { mount, system: system.to_owned() }
    }

    fn write(system: &Path, file: &str, text: &str) {
        let path = system.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_unit_is_named_by_its_cgroup_and_the_innermost_goes_first() {
        let system = tempfile::tempdir().unwrap();
        let units = units(system.path());
        let ending = |path: &str| units.ending(Path::new(path)).map(|unit| (unit.name, unit.ends));
        let unit = |name: &str, ends| Some((name.to_owned(), ends));
        assert_eq!(ending(""), None, "a container");
        assert_eq!(ending("init.scope"), None);
        assert_eq!(ending("user.slice/user-1000.slice"), None);
        assert_eq!(ending("reconcile/0123/default.web.0123456789abcdef"), None);
        assert_eq!(ending("system.slice/cron.service"), unit("cron.service", Ends::WhenStopped));
        let session = "user.slice/user-1000.slice/session-3.scope";
        assert_eq!(ending(session), unit("session-3.scope", Ends::AtLogout));
        let own = "user.slice/user-1000.slice/user@1000.service/reconcile/0123/keeper";
        assert_eq!(ending(own), unit("user@1000.service", Ends::AtLastLogout));
        let terminal = "user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope";
        assert_eq!(ending(terminal), unit("vte-spawn-1.scope", Ends::WhenStopped));
    }

    #[test]
    fn the_manager_of_a_user_who_lingers_does_not_end() {
        let system = tempfile::tempdir().unwrap();
        let path = Path::new("user.slice/user-0.slice/user@0.service/reconcile");
        assert!(units(system.path()).ending(path).is_some());
        write(system.path(), "var/lib/systemd/linger/root", "");
        assert_eq!(units(system.path()).ending(path), None);
    }

    #[test]
    fn a_session_ends_its_processes_as_logind_is_set_to() {
        let system = tempfile::tempdir().unwrap();
        let kills = || kills_user_processes(system.path());
        assert!(kills(), "the default of systemd itself");
        write(
            system.path(),
            "usr/lib/systemd/logind.conf",
            "[Login]\n#KillUserProcesses=no\n#KillOnlyUsers=\n",
        );
        assert!(!kills(), "the default as it was built");
        write(system.path(), "etc/systemd/logind.conf", "[Login]\nKillUserProcesses=yes\n");
        assert!(kills());
        write(system.path(), "usr/lib/systemd/logind.conf.d/50-x.conf", "[Login]\nKillUserProcesses = off\n");
        assert!(!kills());
        write(system.path(), "etc/systemd/logind.conf.d/50-x.conf", "[Login]\n# nothing\n");
        assert!(kills(), "a file of the same name takes the place of the other");
        write(system.path(), "etc/systemd/logind.conf.d/60-y.conf", "[Login]\nKillUserProcesses=0\n");
        assert!(!kills());
        write(system.path(), "etc/systemd/logind.conf.d/70-y.conf~", "[Login]\nKillUserProcesses=1\n");
        assert!(!kills());
    }
}

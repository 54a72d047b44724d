//! Whether a running leader is still what was started, or something else that is allowed.
//!
//! Pure: what is compared was read by the host. Called in each full pass, for every leader.

use std::path::PathBuf;

use super::allowlist::{Image, is_same};
use super::in_force::Policy;
use super::query::{ExecQuery, Resolution};
use crate::state::{ExecFacts, FileIdentity};

/// What became of a running leader's executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunningVerdict {
    /// What was started.
    Same,
    /// It runs on from a file whose name is another file's by now (`exe-changed`).
    ReplacedOnDisk,
    /// It has become another file, which is allowed too: launchers do.
    AnotherAllowed,
    /// It has become a file that is not allowed (`exec-away`).
    ExecAway { path: PathBuf },
    /// It cannot be read; never a reason for a step.
    Unknown,
}

impl Policy {
    /// Compares what a leader executes now with what it was started from, by device and inode.
    ///
    /// `now_exe` is `/proc/PID/exe`: the file itself, with the path as the link reads, which ends in
    /// ` (deleted)` once another file has taken the name. A path counts only where `ask` finds the same file
    /// under it: the process may have other mounts than we.
    pub fn permit_running(
        &self,
        started: &ExecFacts,
        now_exe: Option<&FileIdentity>,
        ask: &mut dyn FnMut(&ExecQuery) -> Resolution,
    ) -> RunningVerdict {
        // Of a run whose record was lost, what was started is not known.
        let Some(exe) = now_exe.filter(|_| !started.files.is_empty()) else { return RunningVerdict::Unknown };
        let image = Image::of(exe);
        if started.files.iter().any(|file| is_same(file, exe)) {
            return if image.is_deleted { RunningVerdict::ReplacedOnDisk } else { RunningVerdict::Same };
        }
        let is_script = started.files.len() > 1;
        let is_on_its_way = is_script && self.env_files.iter().any(|env| is_same(env, exe));
        let image = image.found_by(ask);
        let is_listed = (self.config.may_run(&image) || self.run.may_run(&image))
            && self.ceiling.as_ref().is_none_or(|list| list.may_run(&image));
        if is_on_its_way || is_listed {
            RunningVerdict::AnotherAllowed
        } else {
            RunningVerdict::ExecAway { path: image.exe.path }
        }
    }
}

impl Image {
    fn of(exe: &FileIdentity) -> Self {
        const DELETED: &str = " (deleted)";
        let text = exe.path.to_string_lossy();
        let before = text.strip_suffix(DELETED).map(PathBuf::from);
        let is_deleted = before.is_some();
        let path = before.unwrap_or_else(|| exe.path.clone());
        Self { exe: FileIdentity { path, ..exe.clone() }, is_deleted, here: None }
    }

    fn found_by(mut self, ask: &mut dyn FnMut(&ExecQuery) -> Resolution) -> Self {
        let Some(word) = self.exe.path.to_str().filter(|word| word.starts_with('/')) else { return self };
        let query = ExecQuery {
            word: word.to_owned(),
            cwd: PathBuf::from("/"),
            search_path: Vec::new(),
            digest: false,
        };
        let found = ask(&query).ok().and_then(|chain| chain.into_iter().next());
        self.here = found.filter(|found| is_same(&found.file, &self.exe));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Config;
    use crate::policy::machine::{Machine, PROJECT, UID, one_user};

    fn verdict(
        machine: &Machine,
        policy: &Policy,
        started: &ExecFacts,
        exe: &FileIdentity,
    ) -> RunningVerdict {
        policy.permit_running(started, Some(exe), &mut |query| machine.resolve(query))
    }

    #[test]
    fn a_leader_is_compared_by_device_and_inode() {
        let mut machine = Machine::usual();
        machine.file("/usr/bin/nc");
        let policy = machine.policy("");
        let facts = |word: &str| policy.exec_facts(&machine.chain(&policy, word), UID);
        let running = |word: &str, exe: FileIdentity| verdict(&machine, &policy, &facts(word), &exe);

        assert_eq!(running("node", machine.identity("/usr/bin/node")), RunningVerdict::Same);
        assert_eq!(running("npm", machine.identity("/usr/bin/node")), RunningVerdict::Same);
        let mut deleted = machine.identity("/usr/bin/node");
        deleted.path = "/usr/bin/node (deleted)".into();
        assert_eq!(running("node", deleted), RunningVerdict::ReplacedOnDisk);
        assert_eq!(running("node", machine.identity("/usr/bin/python3")), RunningVerdict::AnotherAllowed);
        let away = RunningVerdict::ExecAway { path: "/usr/bin/nc".into() };
        assert_eq!(running("node", machine.identity("/usr/bin/nc")), away);
        let mut moved = machine.identity("/usr/bin/node");
        moved.inode = 99;
        assert_eq!(running("node", moved), RunningVerdict::ExecAway { path: "/usr/bin/node".into() });
        assert_eq!(
            policy.permit_running(&facts("node"), None, &mut |query| machine.resolve(query)),
            RunningVerdict::Unknown
        );
    }

    #[test]
    fn a_script_is_met_on_its_way_through_env() {
        let machine = Machine::usual();
        let policy = machine.policy("");
        let env = machine.identity("/usr/bin/env");
        let met = |word: &str| {
            verdict(&machine, &policy, &policy.exec_facts(&machine.chain(&policy, word), UID), &env)
        };
        assert_eq!(met("npm"), RunningVerdict::AnotherAllowed);
        assert_eq!(met("node"), RunningVerdict::ExecAway { path: "/usr/bin/env".into() });
    }

    #[test]
    fn a_version_manager_of_one_user_may_become_a_runtime_of_his() {
        let mut machine = Machine::usual();
        machine.owned("/home/ann/.pyenv/versions/3.12/bin/python3.12", UID);
        machine.owned("/home/ann/.pyenv/versions/3.12/bin/miner", UID);
        let policy = machine.policy_of(&Config::default(), one_user(&["/usr/bin"]), &[]);
        let facts = policy.exec_facts(&machine.chain(&policy, "python3"), UID);
        let became = |path: &str| verdict(&machine, &policy, &facts, &machine.identity(path));
        let python = became("/home/ann/.pyenv/versions/3.12/bin/python3.12");
        assert_eq!(python, RunningVerdict::AnotherAllowed);
        assert!(matches!(
            became("/home/ann/.pyenv/versions/3.12/bin/miner"),
            RunningVerdict::ExecAway { .. }
        ));

        let strict = machine.policy("");
        let exe = machine.identity("/home/ann/.pyenv/versions/3.12/bin/python3.12");
        assert!(matches!(verdict(&machine, &strict, &facts, &exe), RunningVerdict::ExecAway { .. }));
    }

    #[test]
    fn a_path_of_another_mount_namespace_proves_nothing() {
        let mut machine = Machine::usual();
        machine.file("/opt/apps/server");
        machine.owned("/home/ann/.pyenv/bin/python3", UID);
        machine.owned(&format!("{PROJECT}/bobs"), UID + 1);
        let inside = |path: &str| FileIdentity { path: path.into(), dev: 7, inode: 7, ctime_ns: 1 };
        let away = |path: &str| RunningVerdict::ExecAway { path: path.into() };

        let globs = machine.policy("[policy]\nexecutables = ['node', '/opt/apps/*']\n");
        let facts = globs.exec_facts(&machine.chain(&globs, "node"), UID);
        let became = |exe: &FileIdentity| verdict(&machine, &globs, &facts, exe);
        assert_eq!(became(&machine.identity("/opt/apps/server")), RunningVerdict::AnotherAllowed);
        for path in ["/opt/apps/server", "/opt/apps/none"] {
            assert_eq!(became(&inside(path)), away(path));
        }
        assert_eq!(became(&inside("/opt/apps/server (deleted)")), away("/opt/apps/server"));

        let own = machine.policy_of(&Config::default(), one_user(&["/usr/bin"]), &[]);
        let became = |exe: &FileIdentity| verdict(&machine, &own, &facts, exe);
        let server = format!("{PROJECT}/server");
        assert_eq!(became(&machine.identity(&server)), RunningVerdict::AnotherAllowed);
        for path in [server.as_str(), "/home/ann/.pyenv/bin/python3"] {
            assert_eq!(became(&inside(path)), away(path));
        }
        let bobs = format!("{PROJECT}/bobs");
        assert_eq!(became(&machine.identity(&bobs)), away(&bobs), "he did not put it there");
        let rebuilt = inside(&format!("{server} (deleted)"));
        assert_eq!(became(&rebuilt), RunningVerdict::AnotherAllowed);
    }
}

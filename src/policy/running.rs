//! Whether a running leader is still what was started, or something else that is allowed.
//!
//! Pure: what is compared was read by the host. Called in each full pass, for every leader.

use std::path::PathBuf;

use super::allowlist::is_same;
use super::in_force::Policy;
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
    /// ` (deleted)` once another file has taken the name.
    pub fn permit_running(&self, started: &ExecFacts, now_exe: Option<&FileIdentity>) -> RunningVerdict {
        const DELETED: &str = " (deleted)";
        let Some(exe) = now_exe else { return RunningVerdict::Unknown };
        let text = exe.path.to_string_lossy();
        let path = text.strip_suffix(DELETED).map_or_else(|| exe.path.clone(), PathBuf::from);
        if started.files.iter().any(|file| is_same(file, exe)) {
            let is_replaced = text.ends_with(DELETED);
            return if is_replaced { RunningVerdict::ReplacedOnDisk } else { RunningVerdict::Same };
        }
        let is_script = started.files.len() > 1;
        let is_on_its_way = is_script && self.env_files.iter().any(|env| is_same(env, exe));
        let exe = FileIdentity { path, ..exe.clone() };
        let is_listed = (self.config.may_run(&exe) || self.run.may_run(&exe))
            && self.ceiling.as_ref().is_none_or(|list| list.may_run(&exe));
        if is_on_its_way || is_listed {
            RunningVerdict::AnotherAllowed
        } else {
            RunningVerdict::ExecAway { path: exe.path }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Config;
    use crate::policy::machine::{Machine, UID, one_user};

    #[test]
    fn a_leader_is_compared_by_device_and_inode() {
        let mut machine = Machine::usual();
        machine.file("/usr/bin/nc");
        let policy = machine.policy("");
        let facts = |word: &str| policy.exec_facts(&machine.chain(&policy, word), UID);
        let running = |word: &str, exe: FileIdentity| policy.permit_running(&facts(word), Some(&exe));

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
        assert_eq!(policy.permit_running(&facts("node"), None), RunningVerdict::Unknown);
    }

    #[test]
    fn a_script_is_met_on_its_way_through_env() {
        let machine = Machine::usual();
        let policy = machine.policy("");
        let env = machine.identity("/usr/bin/env");
        let verdict = |word: &str| {
            policy.permit_running(&policy.exec_facts(&machine.chain(&policy, word), UID), Some(&env))
        };
        assert_eq!(verdict("npm"), RunningVerdict::AnotherAllowed);
        assert_eq!(verdict("node"), RunningVerdict::ExecAway { path: "/usr/bin/env".into() });
    }

    #[test]
    fn a_version_manager_of_one_user_may_become_a_runtime_of_his() {
        let mut machine = Machine::usual();
        machine.owned("/home/ann/.pyenv/versions/3.12/bin/python3.12", UID);
        machine.owned("/home/ann/.pyenv/versions/3.12/bin/miner", UID);
        let policy = machine.policy_of(&Config::default(), one_user(&["/usr/bin"]), &[]);
        let facts = policy.exec_facts(&machine.chain(&policy, "python3"), UID);
        let became = |path: &str| policy.permit_running(&facts, Some(&machine.identity(path)));
        let verdict = became("/home/ann/.pyenv/versions/3.12/bin/python3.12");
        assert_eq!(verdict, RunningVerdict::AnotherAllowed);
        assert!(matches!(
            became("/home/ann/.pyenv/versions/3.12/bin/miner"),
            RunningVerdict::ExecAway { .. }
        ));

        let strict = machine.policy("");
        let exe = machine.identity("/home/ann/.pyenv/versions/3.12/bin/python3.12");
        assert!(matches!(strict.permit_running(&facts, Some(&exe)), RunningVerdict::ExecAway { .. }));
    }
}

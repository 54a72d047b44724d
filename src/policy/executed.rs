//! Whether the policy still allows what a run was started from, by names and paths.
//!
//! Pure. [`Policy::permit`] compares files by device and inode, which is right for a start: a package upgrade
//! gives a name another file, and what was executed would match nothing any more. A process is stopped for a
//! *policy* that changed, never for files that did, so only what the policy says counts here: mode bits,
//! replaced files and edited `#!` lines do not. Asked by `reconciler` of a live run that could not be started
//! again today.

use std::path::{Path, PathBuf};

use super::allowlist::{Role, Verdict, base_name};
use super::executable::same_family;
use super::in_force::{Policy, Purpose, Source, roles_of};
use super::query::ResolvedFile;
use super::refusal::{self, Refused};
use crate::manifest::Problem;
use crate::state::{ExecFacts, FileIdentity};

/// What a run was started from.
#[derive(Debug, Clone, Copy)]
pub struct StartedFrom<'a> {
    pub facts: &'a ExecFacts,
    /// The command word of that start, where its text is still known.
    pub word: Option<&'a str>,
    pub cwd: &'a Path,
    /// What that word resolves to today, if anything: tells the names that the facts do not hold.
    pub today: &'a [ResolvedFile],
}

/// One file that was executed, with what is known of how it was called.
#[derive(Debug)]
pub(super) struct Executed<'a> {
    /// `None`: only the file is known.
    pub(super) called: Option<&'a str>,
    /// Where it was found, links not followed.
    pub(super) found: Option<PathBuf>,
    /// The directory of `found`, links followed.
    pub(super) found_in: Option<&'a Path>,
    pub(super) file: &'a FileIdentity,
}

impl Policy {
    /// A problem if the policy in force allows what was executed neither by name nor by path.
    pub fn permit_executed(&self, started: &StartedFrom<'_>) -> Result<(), Problem> {
        let refused = roles_of(&started.facts.files).enumerate().find_map(|(position, (role, file))| {
            let executed = started.executed(position, file);
            // Which name an interpreter was called by cannot be told once the script is gone: unknown is
            // never a reason for a step.
            if position > 0 && started.today.is_empty() {
                return None;
            }
            Some((role, self.refuser(role, &executed, started.facts)?, as_resolved(&executed)))
        });
        let Some((role, source, file)) = refused else { return Ok(()) };
        let refused = Refused { role, file: &file, source, verdict: Verdict::NotListed };
        Err(refusal::problem(Purpose::Command, &[refused], self.listed()))
    }

    fn refuser(&self, role: Role, executed: &Executed<'_>, facts: &ExecFacts) -> Option<Source> {
        let name = executed.called.unwrap_or_else(|| base_name(&executed.file.path));
        let is_allowed = self.config.grants(role, executed)
            || self.run.grants(role, executed)
            || facts.allowed.iter().any(|allowed| allowed == name);
        if !is_allowed {
            return Some(Source::Config);
        }
        let is_under = self.ceiling.as_ref().is_none_or(|ceiling| ceiling.grants(role, executed));
        (!is_under).then_some(Source::Ceiling)
    }
}

impl<'a> StartedFrom<'a> {
    fn executed(&self, position: usize, file: &'a FileIdentity) -> Executed<'a> {
        let target = base_name(&file.path);
        // The command is called by the same word today. A `#!` line may have been edited since.
        let witness = self.today.get(position).filter(|today| {
            let is_same_word = position == 0 && self.word == Some(today.called.as_str());
            let called = base_name(Path::new(&today.called));
            is_same_word || position > 0 && (today.file.path == file.path || same_family(called, target))
        });
        if let Some(today) = witness {
            return Executed {
                called: Some(&today.called),
                found: Some(today.found.clone()),
                found_in: Some(&today.found_in),
                file,
            };
        }
        let called = self.word.filter(|_| position == 0);
        let found = called.filter(|word| word.contains('/')).map(|word| self.cwd.join(word));
        Executed { called, found, found_in: None, file }
    }
}

/// For the words of a refusal.
fn as_resolved(executed: &Executed<'_>) -> ResolvedFile {
    let path = &executed.file.path;
    let found = executed.found.clone().unwrap_or_else(|| path.clone());
    ResolvedFile {
        called: executed.called.map_or_else(|| path.to_string_lossy().into_owned(), ToOwned::to_owned),
        found_in: found.parent().unwrap_or(Path::new("/")).to_owned(),
        found,
        file: executed.file.clone(),
        owner_uid: 0,
        writable_by_others: false,
        is_script: false,
        blake3: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Config;
    use crate::policy::machine::{Machine, PROJECT, UID, one_user};

    /// What the policy `now` says of `word`, started under `before`, on a machine that has changed since.
    fn refused(before: &Policy, now: &Policy, word: &str, change: impl Fn(&mut Machine)) -> Option<String> {
        let mut machine = Machine::usual();
        let facts = before.exec_facts(&machine.chain(before, word), UID);
        change(&mut machine);
        let mut now = now.clone();
        now.resolve_entries(&mut |query| machine.resolve(query));
        let query = &now.queries(&[word.to_owned()], Path::new(PROJECT), None, None)[0].1;
        let today = machine.resolve(query).unwrap_or_default();
        let started = StartedFrom { facts: &facts, word: Some(word), cwd: Path::new(PROJECT), today: &today };
        now.permit_executed(&started).err().map(|problem| problem.code)
    }

    #[test]
    fn files_that_change_revoke_nothing() {
        let strict = Machine::usual().policy("");
        let own = Machine::usual().policy_of(&Config::default(), one_user(&["/usr/bin"]), &[]);
        let replaced = |machine: &mut Machine| {
            machine.file("/usr/bin/node");
            machine.file("/usr/bin/python3.11");
        };
        let another_version = |machine: &mut Machine| {
            machine.files.remove(Path::new("/usr/bin/python3.11"));
            machine.file("/usr/bin/python3.12");
            machine.link("/usr/bin/python3", "/usr/bin/python3.12");
        };
        let gone = |machine: &mut Machine| machine.files.clear();
        let writable = |machine: &mut Machine| machine.at("/usr/bin/node").writable_by_others = true;
        let edited = |machine: &mut Machine| {
            machine.file("/opt/miner");
            machine.script("/usr/bin/npm", "/opt/miner");
            machine.script(&format!("{PROJECT}/run.sh"), "/opt/miner");
        };
        let changes: [&dyn Fn(&mut Machine); 5] = [&replaced, &another_version, &gone, &writable, &edited];
        for (number, change) in changes.iter().enumerate() {
            for word in ["node", "npm", "python3", "/usr/bin/node"] {
                assert_eq!(refused(&strict, &strict, word, change), None, "{word}, change {number}");
            }
            for word in ["./server", "run.sh", ".venv/bin/python", "node", "npm"] {
                let word = if word.starts_with('.') || word == "run.sh" {
                    format!("{PROJECT}/{}", word.trim_start_matches("./"))
                } else {
                    word.to_owned()
                };
                assert_eq!(refused(&own, &own, &word, change), None, "{word}, change {number}");
            }
        }
    }

    #[test]
    fn a_policy_that_changes_revokes_what_it_no_longer_names() {
        let machine = Machine::usual();
        let before = machine.policy("");
        let nothing = |_: &mut Machine| {};
        let now = |executables: &str| machine.policy(&format!("[policy]\nexecutables = [{executables}]\n"));
        let code = |word: &str, executables: &str| refused(&before, &now(executables), word, nothing);
        assert_eq!(code("node", "\"python3\"").as_deref(), Some("exec-not-allowed"));
        assert_eq!(code("npm", "\"npm\"").as_deref(), Some("interpreter-not-allowed"));
        assert_eq!(code("npm", "\"npm\", \"node\""), None);
        assert_eq!(code("node", "\"/usr/bin/node\""), None);
        assert_eq!(code("python3", "\"/usr/bin/python3\""), None);
        assert_eq!(code("node", "\"/opt/node/bin/node\"").as_deref(), Some("exec-not-allowed"));
        assert_eq!(code("node", "\"/usr/bin/*\""), None);
    }

    #[test]
    fn a_name_stands_for_files_of_the_search_path_alone() {
        let mut machine = Machine::usual();
        machine.file("/opt/evil/node");
        let by_path = machine.policy("[policy]\nexecutables = [\"/opt/evil/node\"]\n");
        let by_name = machine.policy("[policy]\nexecutables = [\"node\"]\n");
        let facts = by_path.exec_facts(&machine.chain(&by_path, "/opt/evil/node"), UID);
        let today = machine.chain(&by_name, "/opt/evil/node");
        let started = StartedFrom {
            facts: &facts,
            word: Some("/opt/evil/node"),
            cwd: Path::new(PROJECT),
            today: &today,
        };
        assert!(by_name.permit_executed(&started).is_err());
        assert!(by_path.permit_executed(&started).is_ok());
    }

    #[test]
    fn a_multi_call_binary_is_allowed_under_its_name_alone() {
        let machine = Machine::usual();
        let before = machine.policy("[policy]\nexecutables = [\"wget\"]\n");
        let now = machine.policy("[policy]\nexecutables = [\"sh\", \"/usr/bin/busybox\"]\n");
        let code = refused(&before, &now, "wget", |_| {});
        assert_eq!(code.as_deref(), Some("exec-not-allowed"));
    }

    #[test]
    fn an_allowance_of_the_start_goes_on_below_the_ceiling() {
        let machine = Machine::usual();
        let strict = machine.policy("[policy]\nexecutables = [\"cat\"]\n");
        let config = crate::policy::machine::config_of("[policy]\nexecutables = [\"cat\"]\n");
        let allowed = machine.policy_of(&config, crate::policy::Trust::Strangers, &["node"]);
        assert_eq!(refused(&allowed, &strict, "node", |_| {}), None);
        assert!(refused(&machine.policy(""), &strict, "node", |_| {}).is_some());
    }
}

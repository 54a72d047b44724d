//! A model of a machine's executables for the tests of this room: paths, links and interpreters as data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{
    Config, ExecQuery, Policy, Purpose, Resolution, ResolveError, ResolvedFile, Trust, parse_config,
};
use crate::manifest::Problem;
use crate::state::FileIdentity;

pub(super) const UID: u32 = 1000;
pub(super) const PROJECT: &str = "/home/ann/shop";

#[derive(Clone)]
pub(super) struct File {
    inode: u64,
    target: PathBuf,
    interpreter: Option<String>,
    pub(super) owner: u32,
    pub(super) writable_by_others: bool,
    pub(super) ctime_ns: i64,
    pub(super) content: String,
}

#[derive(Default)]
pub(super) struct Machine {
    pub(super) files: BTreeMap<PathBuf, File>,
}

impl Machine {
    /// Debian with node, python and busybox, and somebody's project.
    pub(super) fn usual() -> Self {
        let mut machine = Self::default();
        machine.file("/usr/bin/node");
        machine.file("/usr/bin/python3.11");
        machine.link("/usr/bin/python3", "/usr/bin/python3.11");
        machine.file("/usr/bin/busybox");
        machine.link("/usr/bin/sh", "/usr/bin/busybox");
        machine.link("/bin/sh", "/usr/bin/busybox");
        machine.link("/usr/bin/wget", "/usr/bin/busybox");
        machine.file("/usr/bin/env");
        machine.script("/usr/bin/npm", "node");
        machine.script("/usr/bin/mvn", "/bin/sh");
        machine.owned(&format!("{PROJECT}/server"), UID);
        machine.link(&format!("{PROJECT}/.venv/bin/python"), "/usr/bin/python3.11");
        machine.script(&format!("{PROJECT}/run.sh"), "/bin/sh");
        machine.files.get_mut(Path::new(&format!("{PROJECT}/run.sh"))).unwrap().owner = UID;
        machine
    }

    pub(super) fn file(&mut self, path: &str) -> &mut File {
        let inode = self.files.len() as u64 + 1;
        let file = File {
            inode,
            target: path.into(),
            interpreter: None,
            owner: 0,
            writable_by_others: false,
            ctime_ns: 1,
            content: path.to_owned(),
        };
        self.files.insert(path.into(), file);
        self.at(path)
    }

    pub(super) fn at(&mut self, path: &str) -> &mut File {
        self.files.get_mut(Path::new(path)).unwrap()
    }

    pub(super) fn owned(&mut self, path: &str, uid: u32) {
        self.file(path).owner = uid;
    }

    pub(super) fn script(&mut self, path: &str, interpreter: &str) {
        self.file(path).interpreter = Some(interpreter.to_owned());
    }

    pub(super) fn link(&mut self, path: &str, target: &str) {
        let file = self.files[Path::new(target)].clone();
        self.files.insert(path.into(), file);
    }

    pub(super) fn resolve(&self, query: &ExecQuery) -> Resolution {
        let mut chain = Vec::new();
        let mut word = Some(query.word.clone());
        while let Some(called) = word {
            let candidates = match called.contains('/') {
                true => vec![query.cwd.join(&called)],
                false => query.search_path.iter().map(|dir| dir.join(&called)).collect(),
            };
            let found = candidates.into_iter().find_map(|path| self.files.get_key_value(&path));
            let Some((path, file)) = found else {
                return Err(ResolveError::NotFound { word: called, searched: String::new() });
            };
            chain.push(ResolvedFile {
                called,
                found: path.clone(),
                found_in: path.parent().unwrap().to_owned(),
                file: self.identity(path),
                owner_uid: file.owner,
                writable_by_others: file.writable_by_others,
                is_script: file.interpreter.is_some(),
                blake3: query.digest.then(|| blake3::hash(file.content.as_bytes()).to_hex().to_string()),
            });
            word = file.interpreter.clone();
        }
        Ok(chain)
    }

    pub(super) fn identity(&self, path: impl AsRef<Path>) -> FileIdentity {
        let file = &self.files[path.as_ref()];
        FileIdentity { path: file.target.clone(), dev: 1, inode: file.inode, ctime_ns: file.ctime_ns }
    }

    /// The policy of this text, for strangers, with its entries resolved.
    pub(super) fn policy(&self, config: &str) -> Policy {
        self.policy_of(&config_of(config), Trust::Strangers, &[])
    }

    pub(super) fn policy_of(&self, config: &Config, trust: Trust, allow: &[&str]) -> Policy {
        let allow: Vec<_> = allow.iter().map(|&name| name.to_owned()).collect();
        let mut policy = Policy::in_force(config, trust, &allow);
        policy.resolve_entries(&mut |query| self.resolve(query));
        policy
    }

    /// What `word`, called in the project directory, resolves to under the policy's search path.
    pub(super) fn chain(&self, policy: &Policy, word: &str) -> Vec<ResolvedFile> {
        let queries = policy.queries(&[word.to_owned()], Path::new(PROJECT), None, None);
        self.resolve(&queries[0].1).unwrap()
    }

    #[expect(clippy::result_large_err, reason = "as what it calls")]
    pub(super) fn permit(&self, policy: &Policy, word: &str) -> Result<(), Problem> {
        policy.permit(Purpose::Command, &self.chain(policy, word))
    }

    /// The code of the refusal; `None` if it is allowed.
    pub(super) fn refused(&self, policy: &Policy, word: &str) -> Option<String> {
        self.permit(policy, word).err().map(|problem| problem.code)
    }
}

pub(super) fn config_of(text: &str) -> Config {
    let (config, problems) = parse_config(text);
    assert_eq!(problems, []);
    config
}

/// The owner of the project, alone, with this `PATH`.
pub(super) fn one_user(search_path: &[&str]) -> Trust {
    Trust::OneUser {
        uid: UID,
        home_project: PROJECT.into(),
        search_path: search_path.iter().map(PathBuf::from).collect(),
    }
}

//! Users by name, from the passwd and group databases.
//!
//! Asks NSS, which may be a directory server; what it said is kept for a while. Called for specs with a
//! `user`, in each pass. Sources: getpwnam(3), getgrouplist(3).

use std::collections::HashMap;
use std::ffi::CString;
use std::time::{Duration, Instant};

use nix::unistd::{User, getgrouplist};

use super::UserFacts;

/// So long an answer is good; who is not there is asked for again at once.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// Looks users up, and keeps the answers.
#[derive(Debug, Default)]
pub struct Users {
    kept: HashMap<String, (Instant, UserFacts)>,
}

impl Users {
    /// As [`lookup`].
    pub fn lookup(&mut self, name: &str) -> Result<UserFacts, String> {
        if let Some((at, facts)) = self.kept.get(name)
            && at.elapsed() < KEPT_FOR
        {
            return Ok(facts.clone());
        }
        self.kept.remove(name);
        let facts = lookup(name)?;
        self.kept.insert(name.to_owned(), (Instant::now(), facts.clone()));
        Ok(facts)
    }
}

/// The user of this name, with all groups; `Err` is a sentence.
pub fn lookup(name: &str) -> Result<UserFacts, String> {
    let user = match User::from_name(name) {
        Ok(Some(user)) => user,
        Ok(None) => return Err(format!("there is no user `{name}` on this machine")),
        Err(error) => return Err(format!("the user `{name}` cannot be looked up: {error}")),
    };
    let c_name = CString::new(name).map_err(|_| format!("`{name}` is not the name of a user"))?;
    let groups = getgrouplist(&c_name, user.gid)
        .map_err(|error| format!("the groups of `{name}` cannot be looked up: {error}"))?;
    Ok(UserFacts {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        groups: groups.into_iter().map(|group| group.as_raw()).collect(),
        home: user.dir,
        shell: user.shell,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_with_its_groups_and_again_from_what_was_kept() {
        let mut users = Users::default();
        let root = users.lookup("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert!(root.home.is_absolute());
        assert_eq!(users.lookup("root"), Ok(root));
        assert_eq!(users.kept.len(), 1);
    }

    #[test]
    fn a_user_who_is_not_there_is_a_sentence_and_not_kept() {
        let mut users = Users::default();
        let error = users.lookup("no-such-user-here").unwrap_err();
        assert_eq!(error, "there is no user `no-such-user-here` on this machine");
        assert!(users.lookup("a\0b").is_err());
        assert!(users.kept.is_empty());
    }
}

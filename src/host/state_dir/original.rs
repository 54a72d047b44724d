//! Who still runs on the directory that a state directory is a copy of.
//!
//! Two instances over one set of claims would each start and stop the other's processes. The original is where
//! `instance.json` says, or, moved since, where its keeper still has its working directory. Looks only. Called
//! by `instance` before a copy becomes an owner.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::lock::{self, HeldBy};
use super::node::Node;
use crate::host::StateLayout;
use crate::host::flock;
use crate::identity::InstanceId;

/// Who holds what of the original; at least one of them.
#[derive(Debug, Clone, PartialEq)]
pub struct InUse {
    pub path: PathBuf,
    pub reconciler: Option<HeldBy>,
    pub keeper: Option<HeldBy>,
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reconciler = self.reconciler.iter().map(|by| format!("by its reconciler, {by}"));
        let keeper = self.keeper.iter().map(|by| format!("by the keeper of its services, {by}"));
        let by: Vec<String> = reconciler.chain(keeper).collect();
        write!(f, "its original {} is in use {}", self.path.display(), by.join(", and "))
    }
}

/// `path` and `node` are where the original was; what is there by now must be it. `here` is the copy.
pub(super) fn in_use(path: &Path, node: &Node, id: &InstanceId, here: &Path) -> io::Result<Option<InUse>> {
    let mut places = Vec::new();
    if path != here && is_it(path, node, id) {
        places.push((path.to_owned(), path.to_owned()));
    }
    places.extend(moved_to(node, here)?);
    for (dir, shown) in places {
        let layout = StateLayout { dir };
        let reconciler = lock::held_by(&layout.lock())?;
        let keeper = flock::is_held(&layout.keeper_lock())?.then(|| lock::of_lock(&layout.keeper_lock()));
        if reconciler.is_some() || keeper.is_some() {
            return Ok(Some(InUse { path: shown, reconciler, keeper }));
        }
    }
    Ok(None)
}

fn is_it(path: &Path, node: &Node, id: &InstanceId) -> bool {
    let is_node = fs::metadata(path).is_ok_and(|found| Node::of(&found).is(node));
    is_node || super::instance::id_at(path).as_ref() == Some(id)
}

/// A keeper lives in its state directory, whatever that is called now: the way to it, and its name.
fn moved_to(node: &Node, here: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let way = entry.path().join("cwd");
        // Of others, and of those that end meanwhile, nothing is seen.
        let is_there = fs::metadata(&way).is_ok_and(|found| Node::of(&found).is(node));
        if let Ok(name) = fs::read_link(&way)
            && is_there
            && name != here
        {
            found.push((way, name));
        }
    }
    Ok(found)
}

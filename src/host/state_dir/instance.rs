//! Whose claims are in a state directory: `instance.json`, its random id with where it was.
//!
//! Restored in place (same path, other inode) and moved (same inode, other path) are the same instance: its
//! claims stay, and identity proves each; of a restored one, what was started since the backup is looked for, as in a
//! ledger that lost records. Anything else is a copy, whose original may be alive: its claims are
//! void until the operator says otherwise. Called by `commands` once the lock is held.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::node::Node;
use super::{ReconcilerLock, StateDir, StateDirError, original};
use crate::host::StateLayout;
use crate::host::clock::Random;
use crate::host::durable;
use crate::identity::InstanceId;

const VERSION: u32 = 1;

/// Whose a state directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing was ever claimed here.
    New,
    Ours {
        instance: InstanceId,
        /// Where it was, if it has moved.
        moved_from: Option<PathBuf>,
    },
    /// A copy: what its ledger names is held until `takeover` or `--new-instance`.
    Foreign {
        /// `None` where `instance.json` was lost.
        instance: Option<InstanceId>,
    },
}

/// The file: who it is, and where it was when that was last written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct InstanceRecord {
    version: u32,
    id: InstanceId,
    #[serde(with = "crate::state::paths")]
    path: PathBuf,
    #[serde(flatten)]
    node: Node,
    /// The file of the reconciler's lock, which nobody renames or removes: with another one, what is here was put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lock: Option<Node>,
}

/// True if the directory, or what is in it, was put back from a copy, whatever runs since: by itself that is no
/// other instance, but its ledger may be old. Known until [`StateDir::settle`] writes down how it is now.
pub fn is_restored(layout: &StateLayout) -> bool {
    let text = fs::read(layout.instance()).unwrap_or_default();
    let Ok(record) = serde_json::from_slice::<InstanceRecord>(&text) else { return false };
    let is_another =
        |before: &Node, path: &Path| fs::metadata(path).is_ok_and(|now| !before.is(&Node::of(&now)));
    is_another(&record.node, &layout.dir) || record.lock.is_some_and(|lock| is_another(&lock, &layout.lock()))
}

impl StateDir {
    /// Whose the claims are. Writes nothing.
    pub fn standing(&self) -> Result<Standing, StateDirError> {
        let Some(text) = self.instance_text()? else {
            let history = [self.layout.ledger(), self.layout.births(), self.layout.keeper_lock()];
            let is_new = history.iter().all(|file| !file.exists());
            return Ok(if is_new { Standing::New } else { Standing::Foreign { instance: None } });
        };
        let Ok(record) = serde_json::from_str::<InstanceRecord>(&text) else {
            return Ok(Standing::Foreign { instance: None });
        };
        let original = if record.path == self.layout.dir { None } else { look_at(&record.path) };
        Ok(judge(record, &self.layout.dir, &self.node()?, original.as_ref()))
    }

    /// As [`standing`](Self::standing), and makes it last: draws an id for a new directory, and writes down
    /// where a restored or moved one is now. A foreign one is left as it is.
    pub fn settle(&self, held: &ReconcilerLock, random: &mut Random) -> Result<Standing, StateDirError> {
        let standing = self.standing()?;
        match &standing {
            Standing::New => {
                let instance = self.begin_anew(held, random)?;
                Ok(Standing::Ours { instance, moved_from: None })
            }
            Standing::Ours { instance, .. } => {
                self.write_instance(instance)?;
                Ok(standing)
            }
            Standing::Foreign { .. } => Ok(standing),
        }
    }

    /// An error if anybody runs on the directory that this one is a copy of: before it becomes an owner.
    fn refuse_beside_original(&self) -> Result<(), StateDirError> {
        let Some(record) = self.record()? else { return Ok(()) };
        let by = original::in_use(&record.path, &record.node, &record.id, &self.layout.dir)
            .map_err(StateDirError::io("look for the original of", &self.layout.dir))?;
        match by {
            Some(by) => Err(StateDirError::InUse { path: self.layout.dir.clone(), by: Box::new(by) }),
            None => Ok(()),
        }
    }

    /// Makes a copy the owner of its claims, under the id they were made with: `takeover`. `None` if that id is
    /// lost; then [`begin_anew`](Self::begin_anew) keeps the claims as well.
    pub fn take_over(&self, _held: &ReconcilerLock) -> Result<Option<InstanceId>, StateDirError> {
        self.refuse_beside_original()?;
        let Some(record) = self.record()? else { return Ok(None) };
        self.write_instance(&record.id)?;
        Ok(Some(record.id))
    }

    /// Gives the directory a new id. For `--new-instance` the ledger disowns its claims first: killed in
    /// between, the directory is still foreign.
    pub fn begin_anew(
        &self,
        _held: &ReconcilerLock,
        random: &mut Random,
    ) -> Result<InstanceId, StateDirError> {
        let instance = random.instance();
        self.write_instance(&instance)?;
        Ok(instance)
    }

    /// `None` if it is not there, or cannot be read as one.
    fn record(&self) -> Result<Option<InstanceRecord>, StateDirError> {
        Ok(self.instance_text()?.and_then(|text| serde_json::from_str(&text).ok()))
    }

    fn instance_text(&self) -> Result<Option<String>, StateDirError> {
        let path = self.layout.instance();
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateDirError::io("read the instance", &path)(error)),
        }
    }

    /// Writes nothing if it is what is there.
    fn write_instance(&self, id: &InstanceId) -> Result<(), StateDirError> {
        let path = self.layout.instance();
        let record = InstanceRecord {
            version: VERSION,
            id: id.clone(),
            path: self.layout.dir.clone(),
            node: self.node()?,
            lock: fs::metadata(self.layout.lock()).ok().map(|found| Node::of(&found)),
        };
        let error = || StateDirError::io("write the instance", &path);
        let text = serde_json::to_string(&record).map_err(|source| error()(source.into()))?;
        if self.instance_text()?.is_none_or(|there| there != text) {
            durable::replace(&path, text.as_bytes()).map_err(error())?;
        }
        Ok(())
    }

    fn node(&self) -> Result<Node, StateDirError> {
        let found = self.directory.metadata();
        found.map(|found| Node::of(&found)).map_err(StateDirError::io("look at", &self.layout.dir))
    }
}

/// What is now where an instance says that it was.
struct Original {
    node: Node,
    id: Option<InstanceId>,
}

fn look_at(path: &Path) -> Option<Original> {
    let node = Node::of(&fs::metadata(path).ok()?);
    Some(Original { node, id: id_at(path) })
}

/// Whose the directory is.
pub(super) fn id_at(path: &Path) -> Option<InstanceId> {
    let text = fs::read(StateLayout { dir: path.to_owned() }.instance()).ok()?;
    serde_json::from_slice::<InstanceRecord>(&text).ok().map(|record| record.id)
}

/// `original` is what the recorded path holds, if that is another path than ours.
fn judge(record: InstanceRecord, here: &Path, node: &Node, original: Option<&Original>) -> Standing {
    let ours = |moved_from| Standing::Ours { instance: record.id.clone(), moved_from };
    if record.path == here {
        return ours(None);
    }
    match original {
        // The same directory by two names, as with a bind mount.
        Some(original) if original.node.is(node) => ours(None),
        Some(original) if original.id.as_ref() == Some(&record.id) => {
            Standing::Foreign { instance: Some(record.id) }
        }
        _ if record.node.is(node) => ours(Some(record.path.clone())),
        _ => Standing::Foreign { instance: Some(record.id) },
    }
}

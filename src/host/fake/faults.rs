//! What can be made to fail, and how often.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use nix::errno::Errno;

use crate::host::LedgerUnwritable;

/// A call of the host that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// Nothing of the records is stored.
    Append,
    KeepText,
    /// The text is not found.
    Text,
    /// Every root is unreadable.
    Scan,
    Resolve,
    ClaimInstance,
    /// The keeper cannot fork.
    Spawn,
    /// Neither can the keeper for a health command, nor can a probe be made.
    Probe,
    /// The signal reaches nobody.
    Signal,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    next: BTreeMap<Op, VecDeque<Errno>>,
    lasting: BTreeMap<Op, Errno>,
}

impl Faults {
    pub fn add(&mut self, op: Op, errno: Errno) {
        self.next.entry(op).or_default().push_back(errno);
    }

    pub fn last(&mut self, op: Op, errno: Errno) {
        self.lasting.insert(op, errno);
    }

    pub fn heal(&mut self, op: Op) {
        self.next.remove(&op);
        self.lasting.remove(&op);
    }

    /// What this call fails with, if it does.
    pub fn take(&mut self, op: Op) -> Option<Errno> {
        let once = self.next.get_mut(&op).and_then(VecDeque::pop_front);
        once.or_else(|| self.lasting.get(&op).copied())
    }

    pub fn take_for_ledger(&mut self, op: Op, path: &Path) -> Result<(), LedgerUnwritable> {
        self.take(op)
            .map_or(Ok(()), |errno| Err(LedgerUnwritable { path: path.to_owned(), source: errno.into() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_as_often_as_it_was_ordered() {
        let mut faults = Faults::default();
        faults.add(Op::Append, Errno::ENOSPC);
        faults.add(Op::Append, Errno::EIO);
        assert_eq!(faults.take(Op::Spawn), None);
        assert_eq!(faults.take(Op::Append), Some(Errno::ENOSPC));
        assert_eq!(faults.take(Op::Append), Some(Errno::EIO));
        assert_eq!(faults.take(Op::Append), None);
    }

    #[test]
    fn a_lasting_fault_strikes_until_it_is_healed() {
        let mut faults = Faults::default();
        faults.last(Op::Append, Errno::EROFS);
        assert_eq!(faults.take(Op::Append), Some(Errno::EROFS));
        assert_eq!(faults.take(Op::Append), Some(Errno::EROFS));
        faults.heal(Op::Append);
        assert_eq!(faults.take(Op::Append), None);
    }
}

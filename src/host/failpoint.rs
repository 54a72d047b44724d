//! Named instants at which a test may stop this process, and kill it or another there.
//!
//! Only in builds with debug assertions; a release has nothing of it. `RECONCILE_FAILPOINT=NAME@N=FILE` has the
//! process that comes by NAME as the Nth of all stop itself (SIGSTOP): whoever comes by appends a line with its pid to
//! FILE, and the length of the file counts them, across forks and programs. Called at each step that must be
//! safe to die before; decides nothing.

/// Every failpoint there is, by the process that comes by. A test stops a process at each of them.
pub const ALL: [&str; 36] = [
    // The reconciler.
    "pass.planned",
    "pass.done",
    "ledger.append",
    "ledger.appended",
    "text.keep",
    "text.kept",
    "link.connect",
    "link.connected",
    "link.ask",
    // The keeper.
    "keeper.listening",
    "keeper.spawn",
    "keeper.grouped",
    "keeper.forked",
    "keeper.executed",
    "keeper.ended",
    "keeper.recorded",
    "keeper.reaped",
    "keeper.signal",
    "keeper.signalled",
    "keeper.sweep",
    "keeper.swept",
    "keeper.gone",
    "keeper.leave",
    // The child that becomes a service.
    "child.forked",
    "child.session",
    "child.redirected",
    "child.credentials",
    "child.gate",
    "child.born",
    "child.execute",
    // The holder of a service.
    "holder.forked",
    "holder.started",
    "holder.ended",
    "holder.recorded",
    "holder.told",
    "holder.empty",
];

/// The variable that arms one; none in a release.
pub const VARIABLE: Option<&str> = if cfg!(debug_assertions) { Some("RECONCILE_FAILPOINT") } else { None };

/// Where a test may stop us.
#[cfg(debug_assertions)]
pub fn reach(name: &'static str) {
    use std::sync::OnceLock;

    static ARMED: OnceLock<Option<armed::Armed>> = OnceLock::new();
    debug_assert!(ALL.contains(&name), "`{name}` is no failpoint");
    if let Some(armed) = ARMED.get_or_init(armed::Armed::from_environment)
        && armed.name == name
    {
        armed.stop_if_it_is_our_turn();
    }
}

/// Nothing at all.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reach(_name: &'static str) {}

#[cfg(debug_assertions)]
mod armed {
    use std::fs::OpenOptions;
    use std::io::{self, Seek, Write};
    use std::path::PathBuf;

    use nix::sys::signal::{Signal, raise};

    /// Bytes of a line: the largest pid has seven digits.
    const LINE: u64 = 8;

    pub struct Armed {
        pub name: String,
        turn: u64,
        file: PathBuf,
    }

    impl Armed {
        pub fn from_environment() -> Option<Self> {
            let text = std::env::var(super::VARIABLE?).ok()?;
            let (name, rest) = text.split_once('@')?;
            let (turn, file) = rest.split_once('=')?;
            Some(Self { name: name.to_owned(), turn: turn.parse().ok()?, file: file.into() })
        }

        pub fn stop_if_it_is_our_turn(&self) {
            if self.take_number().is_ok_and(|number| number == self.turn) {
                // Cannot fail: the signal exists, and is for ourselves.
                let _ = raise(Signal::SIGSTOP);
            }
        }

        fn take_number(&self) -> io::Result<u64> {
            let mut file = OpenOptions::new().append(true).create(true).open(&self.file)?;
            file.write_all(format!("{:7}\n", std::process::id()).as_bytes())?;
            Ok(file.stream_position()? / LINE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once() {
        let names: std::collections::BTreeSet<&str> = ALL.into_iter().collect();
        assert_eq!(names.len(), ALL.len());
    }
}

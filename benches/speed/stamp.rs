//! The programs that the benchmark starts, and what the first says: when its first instructions ran.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// `long` three times; see `stamp.c`.
const BYTES: usize = 24;

/// The longest that a start may take: beyond it the benchmark is broken, not slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// The compiled programs, and directories for all that is done with it, for as long as this value lives.
pub struct Program {
    directory: tempfile::TempDir,
}

impl Program {
    pub fn compile() -> Self {
        let directory = tempfile::Builder::new().prefix("reconcile-bench-").tempdir().unwrap();
        let program = Self { directory };
        build(&program.path(), &[]);
        build(&program.answering(), &["-DANSWER"]);
        program
    }

    /// A new directory to work in, deleted with this value and no sooner: for minutes ext4 goes out of the way of inodes
    /// that were just deleted, and whoever makes files next would pay for it.
    pub fn work_directory(&self) -> PathBuf {
        tempfile::Builder::new().prefix("work-").tempdir_in(&self.directory).unwrap().keep()
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("stamp")
    }

    /// The one that answers a connection at the socket that it is passed, with one byte, and ends.
    pub fn answering(&self) -> PathBuf {
        self.directory.path().join("answer")
    }
}

fn build(target: &Path, options: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/speed/stamp.c");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compiled = Command::new(&compiler)
        .args(["-O2", "-static", "-nostdlib", "-nostartfiles", "-fno-stack-protector", "-fno-pie", "-no-pie"])
        .args(options)
        .arg("-o")
        .args([target, &source])
        .status()
        .unwrap_or_else(|error| panic!("{} cannot be run: {error}", compiler.display()));
    assert!(compiled.success(), "{} failed on {}", compiler.display(), source.display());
}

/// One line of what the program writes.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// On the clock of [`now`].
    pub at: Duration,
    pub pid: i32,
}

/// `CLOCK_MONOTONIC`.
pub fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is a monotonic clock").into()
}

/// All that were written to a file; none if it is not there.
pub fn read(log: &Path) -> Vec<Stamp> {
    let bytes = std::fs::read(log).unwrap_or_default();
    let long = |bytes: &[u8]| i64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
    bytes
        .chunks_exact(BYTES)
        .map(|line| Stamp {
            at: Duration::new(long(&line[..8]) as u64, long(&line[8..16]) as u32),
            pid: long(&line[16..]) as i32,
        })
        .collect()
}

/// Waits for the stamp number `index`, counted from 0.
pub fn wait_for(log: &Path, index: usize) -> Stamp {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Its size first: what is measured must not share its processor with a reader.
        let is_there = log.metadata().is_ok_and(|log| log.len() as usize >= (index + 1) * BYTES);
        if is_there {
            return read(log)[index];
        }
        assert!(Instant::now() < deadline, "nothing was written to {} within {PATIENCE:?}", log.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}

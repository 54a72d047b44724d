//! What processes use. Sources: proc_pid_smaps(5), clock_getcpuclockid(3).

use std::iter::Sum;
use std::ops::Add;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// On a processor so far, with the threads that have ended; to the nanosecond, where `stat` counts in hundredths of
/// a second.
pub fn cpu_time(pid: i32) -> Duration {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).expect("the process lives");
    clock_gettime(clock).expect("the process lives").into()
}

/// In bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub resident: u64,
    /// A page that several processes share counts for its part in each.
    pub proportional: u64,
}

impl Memory {
    /// Nothing, of a process that has just ended.
    pub fn of(pid: i32) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        };
        let bytes = |name: &str| field(name).unwrap_or(0) * 1024;
        Self { resident: bytes("Rss:"), proportional: bytes("Pss:") }
    }
}

impl Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            resident: self.resident + other.resident,
            proportional: self.proportional + other.proportional,
        }
    }
}

impl Sum for Memory {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

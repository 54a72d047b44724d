//! What processes use. Sources: proc_pid_smaps(5), and Documentation/scheduler/sched-stats.rst for `schedstat`.

use std::iter::Sum;
use std::ops::Add;
use std::time::Duration;

/// On a processor so far, of all threads that live; to the nanosecond, where `stat` counts in hundredths of a
/// second.
pub fn cpu_time(pid: i32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    let of_thread = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    };
    threads.filter_map(|thread| of_thread(thread.ok()?)).sum()
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

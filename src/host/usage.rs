//! CPU and memory of processes, for whoever looks at the status; never part of a pass.
//!
//! One small file a process, read at once: a status of a thousand services is mostly this, and refreshing a
//! process table reads everything of everybody. Sources: proc_pid_stat(5), fields 14, 15, 22 and 24;
//! proc_uptime(5).

use std::fs::File;
use std::io::Read;

use nix::unistd::{SysconfVar, sysconf};

use super::cores::Over;
use super::proc::STAT_BYTES;
use crate::identity::Pid;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Of one core, averaged over the life of the process.
    pub cpu_percent: f64,
    /// Resident.
    pub memory_bytes: u64,
}

/// Units of the times in `/proc/PID/stat` a second (`USER_HZ`): 100 on every architecture that Rust's
/// standard library is built for, whatever the kernel's own HZ is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Measures processes as of one moment.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    uptime_s: f64,
    page_bytes: u64,
}

impl Meter {
    /// `None` where `/proc` cannot be read.
    pub fn new() -> Option<Self> {
        let uptime_s = std::fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()?;
        let page_bytes = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
        Some(Self { uptime_s, page_bytes })
    }

    /// As [`Meter::usage`], of many.
    pub fn usages(&self, pids: &[Option<Pid>]) -> Vec<Option<Usage>> {
        Over::All.map(pids, |pid| pid.and_then(|pid| self.usage(pid)))
    }

    /// `None` if the process is gone or may not be looked at. The pid is taken on trust: a recycled one gives
    /// the figures of a stranger, which is a wrong number on a screen and nothing more.
    pub fn usage(&self, pid: Pid) -> Option<Usage> {
        let mut buffer = [0; STAT_BYTES];
        let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut buffer).ok()?;
        self.of_stat(&buffer[..length])
    }

    fn of_stat(&self, stat: &[u8]) -> Option<Usage> {
        // The command name may hold anything; the numbers begin after the last bracket, with field 3.
        let name_ends = stat.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(&stat[name_ends + 1..]).ok()?.split_ascii_whitespace().zip(3..);
        let mut field = |number: usize| {
            fields.find(|(_, found)| *found == number).and_then(|(text, _)| text.parse::<u64>().ok())
        };
        // In the order of the line.
        let (user, system, started, resident) = (field(14)?, field(15)?, field(22)?, field(24)?);
        let busy_s = (user + system) as f64 / TICKS_PER_SECOND;
        let lived_s = self.uptime_s - started as f64 / TICKS_PER_SECOND;
        let cpu_percent = if lived_s > 0.0 { 100.0 * busy_s / lived_s } else { 0.0 };
        Some(Usage { cpu_percent, memory_bytes: resident * self.page_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_behind_any_name() {
        let stat =
            b"77 (a) \xff) S 1 77 77 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 1000 1000000 256 18446";
        let at = |uptime_s| Meter { uptime_s, page_bytes: 4096 };
        let usage = |cpu_percent| Some(Usage { cpu_percent, memory_bytes: 1024 * 1024 });
        assert_eq!(at(20.0).of_stat(stat), usage(20.0));
        assert_eq!(at(10.0).of_stat(stat), usage(0.0), "started at this very tick");
        assert_eq!(at(20.0).of_stat(b"77 (a"), None);
        assert_eq!(at(20.0).of_stat(b"77 (a) Z 1 77"), None);
    }

    #[test]
    fn our_own_figures_are_plausible() {
        let own = Pid::new(std::process::id() as i32).unwrap();
        let usage = Meter::new().unwrap().usage(own).unwrap();
        assert!(usage.memory_bytes > 64 * 1024 && usage.cpu_percent >= 0.0, "{usage:?}");
    }
}

//! CPU and memory of processes, for whoever looks at the status; never part of a pass.
//!
//! Two small files a process, where refreshing a process table reads everything of everybody.
//! Sources: proc_pid_stat(5), fields 14, 15 and 22; proc_pid_status(5), `VmRSS`.

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

/// `None` if the process is gone or may not be looked at. The pid is taken on trust: a recycled one gives
/// the figures of a stranger, which is a wrong number on a screen and nothing more.
pub fn usage(pid: Pid) -> Option<Usage> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let uptime = read("/proc/uptime")?;
    let cpu_percent = cpu(&read(&format!("/proc/{pid}/stat"))?, uptime.split(' ').next()?.parse().ok()?)?;
    Some(Usage { cpu_percent, memory_bytes: resident(&read(&format!("/proc/{pid}/status"))?)? })
}

fn cpu(stat: &str, uptime_s: f64) -> Option<f64> {
    // The command name may hold blanks and brackets; the numbers begin after the last one, with field 3.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let busy_s = (field(14)? + field(15)?) / TICKS_PER_SECOND;
    let lived_s = uptime_s - field(22)? / TICKS_PER_SECOND;
    Some(if lived_s > 0.0 { 100.0 * busy_s / lived_s } else { 0.0 })
}

fn resident(status: &str) -> Option<u64> {
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kilobytes.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_behind_any_name() {
        let stat = "77 (a) b) S 1 77 77 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 1000 1000000 256";
        assert_eq!(cpu(stat, 20.0), Some(20.0));
        assert_eq!(cpu(stat, 10.0), Some(0.0), "started at this very tick");
        assert_eq!(cpu("77 (a", 20.0), None);
        assert_eq!(resident("Name:\tx\nVmRSS:\t    1024 kB\n"), Some(1024 * 1024));
        assert_eq!(resident("Name:\tzombie\n"), None);
    }

    #[test]
    fn our_own_figures_are_plausible() {
        let own = Pid::new(std::process::id() as i32).unwrap();
        let usage = usage(own).unwrap();
        assert!(usage.memory_bytes > 64 * 1024 && usage.cpu_percent >= 0.0, "{usage:?}");
    }
}

//! Processes that may be of a run of ours: by the cgroup they are in, or by the mark in their environment.
//!
//! Finds, and proves nothing: a mark is inherited, copied and made up. Looked for only where records are lost,
//! since everything in `/proc` is read. Called by `ledger_file` and `observe`; reads only.

use std::fs;
use std::io;
use std::path::Path;

use super::cgroup::{Run, innermost_run};
use super::keeper::JOB_PREFIX;
use super::proc::stat;
use crate::identity::{InstanceId, Nonce, Pid, SPAWN_MARK, ServiceId};

/// One process, and the run that it may be of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub pid: Pid,
    pub start_ticks: u64,
    pub instance: InstanceId,
    pub service: ServiceId,
    pub nonce: Nonce,
}

/// Every living process that can be read and says that it is of a run; not this one itself. The oldest first.
pub fn find() -> io::Result<Vec<Candidate>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::new) else { continue };
        if pid.get() == std::process::id() as i32 {
            continue;
        }
        // One that ends meanwhile, or that we may not read, tells nothing.
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let run = of_cgroup(&read("cgroup")).or_else(|| of_environment(&read("environ")));
        let Some((instance, service, nonce)) = run else { continue };
        if let Ok(Some(stat)) = stat(pid.get())
            && !stat.is_dead()
        {
            found.push(Candidate { pid, start_ticks: stat.start_ticks, instance, service, nonce });
        }
    }
    found.sort_by_key(|candidate| (candidate.start_ticks, candidate.pid));
    Ok(found)
}

/// The run whose cgroup it is in, unless it is in that of a job below that.
fn of_cgroup(text: &[u8]) -> Option<Run> {
    let text = std::str::from_utf8(text).ok()?;
    let path = Path::new(text.lines().find_map(|line| line.strip_prefix("0::"))?);
    let (dir, run) = innermost_run(path)?;
    let below = path.strip_prefix(dir).ok()?.components().next();
    let is_job =
        below.and_then(|name| name.as_os_str().to_str()).is_some_and(|name| name.starts_with(JOB_PREFIX));
    (!is_job).then_some(run)
}

fn of_environment(bytes: &[u8]) -> Option<Run> {
    let mark = bytes
        .split(|&byte| byte == 0)
        .find_map(|variable| variable.strip_prefix(SPAWN_MARK.as_bytes())?.strip_prefix(b"="))?;
    let mut parts = std::str::from_utf8(mark).ok()?.split(':');
    let (instance, service, nonce) = (parts.next()?, parts.next()?, parts.next()?);
    Some((InstanceId::parse(instance)?, ServiceId::parse(service).ok()?, Nonce::parse(nonce)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(run: Option<Run>) -> Option<String> {
        run.map(|(instance, service, nonce)| format!("{instance} {} {nonce}", service.key()))
    }

    #[test]
    fn a_run_is_told_by_its_cgroup_and_a_job_beside_it_is_none() {
        let at = |path: &str| shown(of_cgroup(format!("1:name=x:/y\n0::{path}\n").as_bytes()));
        let run = "/a/reconcile/00000000000000aa/shop.web-2.00000000000000bb";
        assert_eq!(at(run).unwrap(), "00000000000000aa shop/web-2 00000000000000bb");
        assert_eq!(at(&format!("{run}/deeper")), at(run));
        assert_eq!(at(&format!("{run}/job-00000000000000cc")), None);
        let inner = "reconcile/00000000000000dd";
        assert_eq!(at(&format!("{run}/{inner}/keeper")), at(run), "the keeper of an inner reconcile");
        let nested = at(&format!("{run}/{inner}/default.db.00000000000000ee"));
        assert_eq!(nested.unwrap(), "00000000000000dd default/db 00000000000000ee");
        for other in ["/", "/reconcile", "/reconcile/00000000000000aa", "/reconcile/x/shop.web.1"] {
            assert_eq!(at(other), None, "{other}");
        }
    }

    #[test]
    fn a_run_is_told_by_its_mark() {
        let of = |text: &str| shown(of_environment(text.replace(' ', "\0").as_bytes()));
        let mark = "RECONCILE_SPAWN=00000000000000aa:default/web:00000000000000bb";
        assert_eq!(of(&format!("A=1 {mark} B=2")).unwrap(), "00000000000000aa default/web 00000000000000bb");
        for none in
            ["", "A=1", "RECONCILE_SPAWN=", "RECONCILE_SPAWN=a:b", "XRECONCILE_SPAWN=00000000000000aa"]
        {
            assert_eq!(of(none), None, "{none}");
        }
    }
}

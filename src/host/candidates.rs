//! Processes that may be of a run of ours: by the cgroup they are in, by the holder that they descend from, or by
//! the mark in their environment.
//!
//! Finds, and proves nothing: a mark is inherited, copied and made up. Looked for only where records are lost,
//! since everything in `/proc` is read. Called by `ledger_file` and `observe`; reads only.

use std::fs;
use std::io;
use std::path::Path;

use super::cgroup::{Run, innermost_run, is_below_instance};
use super::holder;
use super::keeper::JOB_PREFIX;
use super::proc::{Pinned, Stat, stat, visit_descendants};
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

/// Every living process that can be read and says that it is of a run, or whose holder says so; not this one itself,
/// nor one that is only about to be born. The oldest first.
pub fn find() -> io::Result<Vec<Candidate>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::new) else { continue };
        if pid.get() == std::process::id() as i32 {
            continue;
        }
        let run = run_by_itself(pid.get());
        // Before its state: of one that is still a copy then, and not ending, these were the arguments.
        let looks_like_keeper = is_of_a_keeper(&read(pid.get(), "cmdline"));
        let Ok(Some(stat)) = stat(pid.get()) else { continue };
        if !(looks_like_keeper && stat.is_mere_copy()) {
            found.extend(run.and_then(|run| candidate(&stat, &run)));
        } else if let Some(run) = holder::mark(pid.get()).and_then(|mark| of_mark(mark.as_bytes())) {
            found.extend(held_by(pid.get(), &run)?);
        }
    }
    found.sort_by_key(|candidate| (candidate.start_ticks, candidate.pid));
    found.dedup();
    Ok(found)
}

/// The run of this instance that a process is of which is about to be born: by its holder, or by its cgroup. Where one
/// `reconcile` runs inside of another, the cgroup may be of the outer one.
pub fn run_of_unborn(pid: i32, instance: &InstanceId) -> Option<Run> {
    let held = || {
        let parent = stat(pid).ok()??.ppid;
        of_mark(holder::mark(parent)?.as_bytes())
    };
    let is_ours = |(of, _, _): &Run| of == instance;
    held().filter(is_ours).or_else(|| run_by_itself(pid).filter(is_ours))
}

/// It is about to be born: a copy of a keeper that has executed nothing.
pub fn is_unborn(pid: i32) -> bool {
    let looks_like_keeper = is_of_a_keeper(&read(pid, "cmdline"));
    looks_like_keeper && matches!(stat(pid), Ok(Some(stat)) if stat.is_mere_copy())
}

/// What lives below a holder. A nested `reconcile` is of the run that it is in, with all that it has started.
fn held_by(holder: i32, run: &Run) -> io::Result<Vec<Candidate>> {
    let mut found = Vec::new();
    if let Some(holder) = Pinned::open(holder)? {
        visit_descendants(&holder, &mut |member, stat| {
            let is_unborn = || stat.is_mere_copy() && is_of_a_keeper(&read(member.pid(), "cmdline"));
            if !is_unborn() {
                found.extend(candidate(stat, run));
            }
        })?;
    }
    Ok(found)
}

fn candidate(stat: &Stat, (instance, service, nonce): &Run) -> Option<Candidate> {
    let pid = Pid::new(stat.pid).filter(|_| !stat.is_dead() && !stat.is_ending())?;
    let (instance, service, nonce) = (instance.clone(), service.clone(), nonce.clone());
    Some(Candidate { pid, start_ticks: stat.start_ticks, instance, service, nonce })
}

/// One that ends meanwhile, or that we may not read, tells nothing.
fn read(pid: i32, file: &str) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn run_by_itself(pid: i32) -> Option<Run> {
    match of_cgroup(&read(pid, "cgroup")) {
        Place::OfRun(run) => Some(run),
        Place::OfJob => None,
        Place::Elsewhere => of_environment(&read(pid, "environ")),
    }
}

/// What its cgroup says of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    OfRun(Run),
    /// Of a job beside a run, which is no part of it whatever its environment says.
    OfJob,
    Elsewhere,
}

fn of_cgroup(text: &[u8]) -> Place {
    let path = std::str::from_utf8(text).ok();
    let path = path.and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::"))).map(Path::new);
    let Some((path, (dir, run))) = path.and_then(|path| Some((path, innermost_run(path)?))) else {
        // Beside no run, as those of secrets are.
        let is_job = path.is_some_and(|path| is_below_instance(path, |name| name.starts_with(JOB_PREFIX)));
        return if is_job { Place::OfJob } else { Place::Elsewhere };
    };
    let below = path.strip_prefix(dir).ok().and_then(|below| below.components().next());
    let name = below.and_then(|name| name.as_os_str().to_str());
    if name.is_some_and(|name| name.starts_with(JOB_PREFIX)) { Place::OfJob } else { Place::OfRun(run) }
}

/// It shows the arguments of a keeper. A copy of one that has executed nothing passes the birth gate, and is on record
/// then, or never executes anything.
fn is_of_a_keeper(cmdline: &[u8]) -> bool {
    let mut words = cmdline.split(|&byte| byte == 0).skip(1);
    words.next() == Some(b"keeper") && words.next() == Some(b"--state-dir")
}

fn of_environment(bytes: &[u8]) -> Option<Run> {
    bytes.split(|&byte| byte == 0).find_map(of_mark)
}

/// As in an environment, with its name.
fn of_mark(mark: &[u8]) -> Option<Run> {
    let mark = mark.strip_prefix(SPAWN_MARK.as_bytes())?.strip_prefix(b"=")?;
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
        let place = |path: &str| of_cgroup(format!("1:name=x:/y\n0::{path}\n").as_bytes());
        let at = |path: &str| match place(path) {
            Place::OfRun(run) => shown(Some(run)),
            Place::OfJob | Place::Elsewhere => None,
        };
        let run = "/a/reconcile/00000000000000aa/shop.web-2.00000000000000bb";
        assert_eq!(at(run).unwrap(), "00000000000000aa shop/web-2 00000000000000bb");
        assert_eq!(at(&format!("{run}/deeper")), at(run));
        assert_eq!(place(&format!("{run}/job-00000000000000cc")), Place::OfJob);
        let inner = "reconcile/00000000000000dd";
        assert_eq!(at(&format!("{run}/{inner}/keeper")), at(run), "the keeper of an inner reconcile");
        let nested = at(&format!("{run}/{inner}/default.db.00000000000000ee"));
        assert_eq!(nested.unwrap(), "00000000000000dd default/db 00000000000000ee");
        assert_eq!(place("/reconcile/00000000000000aa/job-00000000000000cc"), Place::OfJob);
        for other in ["/", "/reconcile", "/reconcile/00000000000000aa", "/reconcile/x/shop.web.1"] {
            assert_eq!(place(other), Place::Elsewhere, "{other}");
        }
    }

    #[test]
    fn a_copy_of_a_keeper_is_told_by_its_arguments() {
        assert!(is_of_a_keeper(b"/usr/bin/reconcile\0keeper\0--state-dir\0/s\0"));
        assert!(!is_of_a_keeper(b"/usr/bin/nginx\0-g\0daemon off;\0"));
        assert!(!is_of_a_keeper(b""));
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

//! What descends from a process: found by the kernel's lists of children, proved at each step.
//!
//! Visits and never signals. A process that comes and goes meanwhile may be missed: whoever ends all of them
//! looks again. Called by the keeper's cells and the holders. Source: proc_tid_children(5).

use std::collections::HashMap;
use std::fs;
use std::io;

use super::{Pinned, Stat, pids_in, read_all, stat};

/// True if `parent` has a child that lives, `dead` not counted: orphans come to a subreaper before whoever left them is
/// seen dead, so that nothing descends from one whose children are all dead.
pub fn has_living_child_beside(parent: &Pinned, dead: i32) -> io::Result<bool> {
    lives_beside(dead, || children_of(parent))
}

/// The same of ourselves, who have one thread: its list is all of them.
pub fn have_living_child_beside(dead: i32) -> io::Result<bool> {
    lives_beside(dead, || match fs::File::open("/proc/thread-self/children") {
        Ok(list) => Ok(pids_in(&read_all(list)?.unwrap_or_default()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(scan_parents()?.remove(&(std::process::id() as i32)).unwrap_or_default())
        }
        Err(error) => Err(error),
    })
}

/// The children of all our threads, dead ones included.
pub fn own_children() -> io::Result<Vec<i32>> {
    Pinned::open(std::process::id() as i32)?.map_or(Ok(Vec::new()), |own| children_of(&own))
}

fn lives_beside(dead: i32, children: impl Fn() -> io::Result<Vec<i32>>) -> io::Result<bool> {
    let mut seen_dead = vec![dead];
    loop {
        let pids = children()?;
        let Some(&pid) = pids.iter().find(|pid| !seen_dead.contains(pid)) else { return Ok(false) };
        if stat(pid)?.is_some_and(|stat| !stat.is_dead()) {
            return Ok(true);
        }
        seen_dead.push(pid);
    }
}

fn children_of(parent: &Pinned) -> io::Result<Vec<i32>> {
    if has_children_files()? {
        return parent.children();
    }
    Ok(scan_parents()?.remove(&parent.pid).unwrap_or_default())
}

/// Not where the kernel is built without CONFIG_PROC_CHILDREN.
fn has_children_files() -> io::Result<bool> {
    fs::exists("/proc/thread-self/children")
}

/// Visits every process that descends from `root`, dead ones included, parents before their children.
///
/// Each is proved when it is visited: its parent is the process it was found under, or `root` itself (to which
/// the orphans of a subreaper come). Processes that come and go meanwhile may be missed.
pub fn visit_descendants(root: &Pinned, visit: &mut dyn FnMut(&Pinned, &Stat)) -> io::Result<()> {
    let walk =
        Walk { root: root.pid, scan: if has_children_files()? { None } else { Some(scan_parents()?) } };
    walk.below(root, &walk.children(root)?, visit, 0)
}

/// Deeper chains are seen once what is above them is gone: a bound for the stack and for open descriptors.
const MAX_DEPTH: usize = 128;

type Scan = HashMap<i32, Vec<i32>>;

struct Walk {
    root: i32,
    /// Where the kernel has no `children` files.
    scan: Option<Scan>,
}

impl Walk {
    fn children(&self, parent: &Pinned) -> io::Result<Vec<i32>> {
        match &self.scan {
            None => parent.children(),
            Some(scan) => Ok(scan.get(&parent.pid).cloned().unwrap_or_default()),
        }
    }

    fn below(
        &self,
        parent: &Pinned,
        pids: &[i32],
        visit: &mut dyn FnMut(&Pinned, &Stat),
        depth: usize,
    ) -> io::Result<()> {
        for &pid in pids {
            let Some(child) = Pinned::open(pid)? else { continue };
            let Some(stat) = child.stat()? else { continue };
            // The number may have been given to a stranger between the list and the opening.
            let under_parent = stat.ppid == parent.pid && parent.stat()?.is_some();
            if !under_parent && stat.ppid != self.root {
                continue;
            }
            // Listed before the visit, which may kill it and so send its children elsewhere.
            let children = self.children(&child)?;
            visit(&child, &stat);
            if depth < MAX_DEPTH {
                self.below(&child, &children, visit, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Every process by its parent, for kernels without `children` files.
fn scan_parents() -> io::Result<Scan> {
    let mut scan = Scan::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if let Ok(Some(stat)) = stat(pid) {
            scan.entry(stat.ppid).or_default().push(pid);
        }
    }
    Ok(scan)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn descendants_are_found_with_and_without_children_files() {
        let script = "sleep 1000 & (sleep 1000 & exec sleep 1000) & exec sleep 1000";
        let mut shell = std::process::Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        let top = Pinned::open(shell.id() as i32).unwrap().unwrap();
        let below = |scan: Option<Scan>| {
            let walk = Walk { root: top.pid, scan };
            let mut found = Vec::new();
            walk.below(&top, &walk.children(&top).unwrap(), &mut |member, _| found.push(member.pid), 0)
                .unwrap();
            found.sort_unstable();
            found
        };
        let start = std::time::Instant::now();
        while below(None).len() < 3 && start.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        let (quick, scanned) = (below(None), below(Some(scan_parents().unwrap())));
        // By the list: one whose parent is killed first is no descendant any more.
        for pid in &quick {
            Pinned::open(*pid).unwrap().unwrap().signal(libc::SIGKILL).unwrap();
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert_eq!(quick.len(), 3);
        assert_eq!(quick, scanned);
    }
}

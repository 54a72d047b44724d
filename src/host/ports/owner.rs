//! The process behind a socket: whether it is of a run of ours, and which one it is if not.
//!
//! By the links below `/proc/PID/fd`, which name a socket by its inode. What may not be read proves nothing, so a
//! run of which one process cannot be looked at is not said to have no part in a socket.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::Path;

use crate::host::Claim;
use crate::host::cgroup::Group;
use crate::host::keeper::JOB_PREFIX;
use crate::host::proc::{Here, stat, visit_descendants};
use crate::identity::{InstanceId, Pid, SPAWN_MARK, ServiceId};
use crate::state::{Containment, PortHolder};

/// Programs that listen in place of a container or a machine whose processes are not seen from here.
const PROXIES: [&str; 9] = [
    "docker-proxy",
    "rootlesskit",
    "rootlessport",
    "slirp4netns",
    "pasta",
    "passt",
    "gvproxy",
    "conmon",
    "vpnkit",
];

/// One open socket of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    pid: i32,
    start_ticks: u64,
    number: String,
    inode: u64,
}

impl Descriptor {
    /// The same process still has the same socket.
    pub fn is_the_same(&self) -> bool {
        self.is_socket(self.inode)
            && stat(self.pid).ok().flatten().is_some_and(|stat| stat.start_ticks == self.start_ticks)
    }

    pub fn is_socket(&self, inode: u64) -> bool {
        let path = format!("/proc/{}/fd/{}", self.pid, self.number);
        fs::read_link(path).is_ok_and(|link| inode_of(&link) == Some(inode))
    }

    pub fn is_a_proxys(&self) -> bool {
        let exe = fs::read_link(format!("/proc/{}/exe", self.pid)).ok();
        let name = exe.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
        let comm = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        PROXIES.iter().any(|proxy| name == Some(proxy) || comm.trim_end() == *proxy)
    }
}

/// `socket:[4711]`
fn inode_of(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The sockets that a process has open.
fn sockets_of(pid: i32) -> io::Result<Vec<(String, u64)>> {
    let mut sockets = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(entry) = entry else { break };
        // One that is closed meanwhile is none.
        let inode = fs::read_link(entry.path()).ok().and_then(|link| inode_of(&link));
        if let (Some(inode), Some(number)) = (inode, entry.file_name().to_str()) {
            sockets.push((number.to_owned(), inode));
        }
    }
    Ok(sockets)
}

/// The processes of a run, with the sockets of each.
#[derive(Debug)]
pub struct Members {
    pids: BTreeSet<i32>,
    sockets: HashMap<u64, Descriptor>,
    all_seen: bool,
}

impl Members {
    pub fn of(claim: &Claim) -> Self {
        let pids = pids_of(claim);
        let mut members =
            Self { all_seen: pids.is_some(), pids: pids.unwrap_or_default(), sockets: HashMap::new() };
        for &pid in &members.pids {
            let Ok(Some(found)) = stat(pid) else { continue };
            if is_elsewhere(pid) {
                members.all_seen = false;
            }
            match sockets_of(pid) {
                Ok(sockets) => members.sockets.extend(sockets.into_iter().map(|(number, inode)| {
                    (inode, Descriptor { pid, start_ticks: found.start_ticks, number, inode })
                })),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => members.all_seen = false,
            }
        }
        members
    }

    pub fn descriptor_of(&self, inode: u64) -> Option<Descriptor> {
        self.sockets.get(&inode).cloned()
    }

    /// False if one of them may have a socket that we do not see.
    pub fn are_all_seen(&self) -> bool {
        self.all_seen
    }

    pub fn contains(&self, descriptor: &Descriptor) -> bool {
        self.pids.contains(&descriptor.pid)
    }
}

/// In a network of its own, where it listens unseen.
fn is_elsewhere(pid: i32) -> bool {
    let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    matches!((network(&pid.to_string()), network("self")), (Some(theirs), Some(ours)) if theirs != ours)
}

/// Every process of a run; `None` where that cannot be told.
fn pids_of(claim: &Claim) -> Option<BTreeSet<i32>> {
    let leader = claim.process.as_ref()?;
    match claim.containment.as_ref()? {
        Containment::Cgroup { path } => {
            let group = Group::recall(path, &claim.nonce).ok()?;
            let pids = group.pids_below(&|name| name.starts_with(JOB_PREFIX)).ok()?;
            Some(pids.into_iter().collect())
        }
        Containment::Holder { process, .. } => {
            let here = Here::read().ok()?;
            let holder = here.pin(process).ok()?;
            let mut pids = BTreeSet::from([leader.pid.get()]);
            visit_descendants(&holder, &mut |member, _| {
                pids.insert(member.pid());
            })
            .ok()?;
            Some(pids)
        }
    }
}

/// The processes that have these sockets open, as far as we may look; of several, the one that was there first.
pub fn find_holders(inodes: &BTreeSet<u64>, instance: &InstanceId) -> HashMap<u64, (Descriptor, PortHolder)> {
    let mut found: BTreeMap<u64, Descriptor> = BTreeMap::new();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids {
        let sockets = sockets_of(pid).unwrap_or_default();
        let wanted: Vec<_> = sockets.into_iter().filter(|(_, inode)| inodes.contains(inode)).collect();
        if wanted.is_empty() {
            continue;
        }
        let Ok(Some(stat)) = stat(pid) else { continue };
        for (number, inode) in wanted {
            let descriptor = Descriptor { pid, start_ticks: stat.start_ticks, number, inode };
            let before = found.entry(inode).or_insert_with(|| descriptor.clone());
            if (descriptor.start_ticks, descriptor.pid) < (before.start_ticks, before.pid) {
                *before = descriptor;
            }
        }
    }
    found
        .into_iter()
        .map(|(inode, descriptor)| {
            let holder = describe(descriptor.pid, instance);
            (inode, (descriptor, holder))
        })
        .collect()
}

fn describe(pid: i32, instance: &InstanceId) -> PortHolder {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok();
    PortHolder {
        pid: Pid::new(pid),
        exe: exe.map(|exe| exe.to_string_lossy().into_owned()),
        service: service_of(pid, instance).map(|service| service.to_string()),
        uid: None,
    }
}

/// By the mark in its environment: good enough to name it.
fn service_of(pid: i32, instance: &InstanceId) -> Option<ServiceId> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mark = environ
        .split(|&byte| byte == 0)
        .find_map(|variable| variable.strip_prefix(SPAWN_MARK.as_bytes())?.strip_prefix(b"="))?;
    let mut parts = std::str::from_utf8(mark).ok()?.split(':');
    let theirs = InstanceId::parse(parts.next()?)?;
    (theirs == *instance).then(|| ServiceId::parse(parts.next()?).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_socket_is_named_by_its_inode() {
        assert_eq!(inode_of(Path::new("socket:[4711]")), Some(4711));
        for other in ["socket:[]", "pipe:[4711]", "/socket:[4711]", "socket:[4711"] {
            assert_eq!(inode_of(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn the_process_behind_a_socket_is_found_and_found_again() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino();
        let found = find_holders(&BTreeSet::from([inode]), &InstanceId::from_u64(1));
        let (descriptor, holder) = &found[&inode];
        assert_eq!(holder.pid.map(Pid::get), Some(std::process::id() as i32));
        assert!(holder.exe.as_deref().is_some_and(|exe| exe.starts_with('/')), "{holder:?}");
        assert!(descriptor.is_the_same() && !descriptor.is_socket(inode + 1) && !descriptor.is_a_proxys());
        drop(socket);
        assert!(!descriptor.is_the_same());
    }
}

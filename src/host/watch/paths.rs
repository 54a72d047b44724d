//! What leads to a root: the directories in which a change of one name makes the root another.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use rustix::fs::StatFs;

use super::Identity;

/// Links followed for one path, as the kernel does.
const MAX_LINKS: usize = 40;

/// File systems that change without our kernel: NFS, SMB, CIFS, 9p, FUSE (sshfs, virtiofs), Ceph, AFS, VirtualBox.
const REMOTE: [u32; 8] =
    [0x6969, 0xfe53_4d42, 0xff53_4d42, 0x0102_1997, 0x6573_5546, 0x00c3_6400, 0x5346_414f, 0x786f_4256];

/// For each root its parent, or the nearest directory above it that exists, and the directory of every link on
/// the way (`current -> releases/7`).
pub fn ways_to(roots: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut ways = BTreeSet::new();
    for root in roots {
        ways.extend(root.ancestors().skip(1).find(|path| path.is_dir()).map(Path::to_owned));
        let links = way_to(root).links;
        ways.extend(links.iter().filter_map(|link| link.parent()).map(Path::to_owned));
    }
    ways
}

/// What decides where a path leads.
#[derive(Debug, Default)]
pub struct Way {
    /// Each link that is met, where it really is.
    pub links: Vec<PathBuf>,
    /// Where it ends, or would end if that were there; `None` if links lead nowhere.
    pub end: Option<PathBuf>,
}

/// The way to an absolute path.
pub fn way_to(path: &Path) -> Way {
    let mut way = Way::default();
    let mut left: Vec<PathBuf> = parts(path).rev().collect();
    let mut at = PathBuf::from("/");
    while let Some(part) = left.pop() {
        if part == Path::new("..") {
            at.pop();
            continue;
        }
        let here = at.join(&part);
        let Ok(target) = std::fs::read_link(&here) else {
            at = here;
            continue;
        };
        if way.links.len() == MAX_LINKS {
            return way;
        }
        way.links.push(here);
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        left.extend(parts(&target).rev());
    }
    way.end = Some(at);
    way
}

fn parts(path: &Path) -> impl DoubleEndedIterator<Item = PathBuf> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| PathBuf::from(part.as_os_str()))
        .collect::<Vec<_>>()
        .into_iter()
}

pub fn identity(path: &Path) -> Option<Identity> {
    rustix::fs::stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

pub fn is_remote(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat: StatFs| REMOTE.contains(&(stat.f_type as u32)))
}

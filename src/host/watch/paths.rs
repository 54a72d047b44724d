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
        links_on(root, &mut ways);
    }
    ways
}

/// Adds the directory of each link that is met on the way to `path`.
fn links_on(path: &Path, ways: &mut BTreeSet<PathBuf>) {
    let mut left: Vec<PathBuf> = parts(path).rev().collect();
    let mut at = PathBuf::from("/");
    let mut links = 0;
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
        links += 1;
        if links > MAX_LINKS {
            return;
        }
        ways.insert(at.clone());
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        left.extend(parts(&target).rev());
    }
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

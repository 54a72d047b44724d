//! Where the cgroup v2 hierarchy is mounted, and where in it we are.
//!
//! Reads only. Called by `ground` and by tests. Sources: proc_pid_mountinfo(5), cgroups(7).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The cgroup v2 hierarchy as mounted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    /// Which directory of the hierarchy is mounted there.
    pub root: PathBuf,
}

impl Mount {
    /// `None` where cgroup v2 is not mounted. On hybrid systems it is below the v1 hierarchies.
    pub fn find() -> io::Result<Option<Self>> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        mountinfo.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            if after.split(' ').next()? != "cgroup2" {
                return None;
            }
            let mut fields = before.split(' ').skip(3);
            let root = unescape(fields.next()?);
            let point = unescape(fields.next()?);
            Some(Self { point, root })
        })
    }

    /// Our own cgroup as a directory below the mount point; `None` if it is outside what is mounted.
    pub fn own(&self) -> io::Result<Option<PathBuf>> {
        self.place_of("/proc/self/cgroup")
    }

    /// The directory that such a file speaks of.
    pub fn place_of(&self, file: &str) -> io::Result<Option<PathBuf>> {
        let text = fs::read_to_string(file)?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"));
        Ok(path.and_then(|path| {
            let below = Path::new(path).strip_prefix(&self.root).ok()?;
            Some(self.point.join(below))
        }))
    }
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_on_hybrid_systems_and_with_blanks_in_its_path() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let found = Mount::parse(hybrid).unwrap();
        assert_eq!(found, Mount { point: "/sys/fs/cgroup/uni fied".into(), root: "/".into() });
        assert_eq!(Mount::parse("23 1 0:28 / / rw - ext4 /dev/vda rw\n"), None);
    }
}

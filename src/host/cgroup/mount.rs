//! The hierarchy that tells which cgroup a process is in: where it is mounted, and where in it somebody is.
//!
//! Reads only. Called by `ground` and `unit`. Sources: proc_pid_mountinfo(5), cgroups(7).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A cgroup hierarchy as mounted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    /// Which directory of the hierarchy is mounted there.
    pub root: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    V2,
    /// `name=systemd`: without controllers, where systemd keeps its units if it does not use v2.
    Systemd,
}

impl Mount {
    /// `None` where cgroup v2 is not mounted. On hybrid systems it is below the v1 hierarchies.
    pub fn find() -> io::Result<Option<Self>> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mountinfo")?, Kind::V2))
    }

    /// The hierarchy in which a service manager keeps its units: v2, where it is mounted.
    pub fn find_units() -> io::Result<Option<Self>> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
        let parse = |kind| Self::parse(&mountinfo, kind);
        Ok(parse(Kind::V2).or_else(|| parse(Kind::Systemd)))
    }

    fn parse(mountinfo: &str, kind: Kind) -> Option<Self> {
        mountinfo.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let (mut after, mut fields) = (after.split(' '), before.split(' ').skip(3));
            let is_it = match (kind, after.next()?) {
                (Kind::V2, "cgroup2") => true,
                (Kind::Systemd, "cgroup") => after.nth(1)?.split(',').any(|option| option == "name=systemd"),
                _ => false,
            };
            if !is_it {
                return None;
            }
            let root = unescape(fields.next()?);
            let point = unescape(fields.next()?);
            Some(Self { point, root, kind })
        })
    }

    /// Our own cgroup as a directory below the mount point; `None` if it is outside what is mounted.
    pub fn own(&self) -> io::Result<Option<PathBuf>> {
        Ok(self.of("self")?.map(|below| self.point.join(below)))
    }

    /// The cgroup of a process (a pid, or `self`), relative to what is mounted; `None` if it is outside of that.
    pub fn of(&self, process: &str) -> io::Result<Option<PathBuf>> {
        Ok(self.place_in(&fs::read_to_string(format!("/proc/{process}/cgroup"))?))
    }

    fn place_in(&self, membership: &str) -> Option<PathBuf> {
        let path = membership.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let is_it = match self.kind {
                Kind::V2 => controllers.is_empty(),
                Kind::Systemd => controllers == "name=systemd",
            };
            is_it.then_some(path)
        })?;
        Some(Path::new(path).strip_prefix(&self.root).ok()?.to_owned())
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

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                          32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                          33 31 0:30 /c /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                          41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_mount_is_found_on_hybrid_systems_and_with_blanks_in_its_path() {
        let found = Mount::parse(HYBRID, Kind::V2).unwrap();
        assert_eq!((found.point, found.root), ("/sys/fs/cgroup/uni fied".into(), "/".into()));
        assert_eq!(Mount::parse("23 1 0:28 / / rw - ext4 /dev/vda rw\n", Kind::V2), None);
        assert_eq!(Mount::parse("31 24 0:27 / /c rw shared:9 - cgroup cgroup2 rw,cpu", Kind::V2), None);
    }

    #[test]
    fn a_process_is_where_its_hierarchy_says_and_seen_from_what_is_mounted() {
        let membership = "9:name=systemd:/c/a.service\n4:memory:/m\n0::/b.scope/x:y\n";
        let v2 = Mount::parse(HYBRID, Kind::V2).unwrap();
        assert_eq!(v2.place_in(membership), Some("b.scope/x:y".into()));
        let v1 = Mount::parse(HYBRID, Kind::Systemd).unwrap();
        assert_eq!(v1.place_in(membership), Some("a.service".into()));
        assert_eq!(v1.place_in("9:name=systemd:/elsewhere\n"), None);
    }
}

//! One manifest file: opened without hanging on anything, judged by what was opened, read whole or not at all.
//!
//! Never opens for reading what is not a regular file: opening a FIFO hangs, opening a device acts. Everything
//! is judged on the descriptor, so nothing that is swapped in between two calls is trusted. Called by
//! `walk` and for single files by `Scanner`. Sources: open(2), symlink(7), fcntl(2) on leases.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use nix::time::ClockId;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::trouble::{
    Trouble, being_written, link_trouble, not_regular, private, too_large, trouble, unreadable,
};
use crate::host::{FileScan, FileVersion};

/// Bytes of one manifest.
pub const MAX_BYTES: u64 = 1024 * 1024;

/// The kernel's file times move in steps of up to 10 ms: a file that was changed this shortly before it was read
/// may change again and keep its version.
const RACY: i64 = 20_000_000;

/// A file changed this recently and still open for writing is not complete.
const WRITING: i64 = 2_000_000_000;

/// How often a file that changes under the reader is begun again before it is left for its next event.
const READ_ATTEMPTS: u32 = 3;

/// What is the same for all files of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Of the root, with no link in it.
    pub real: PathBuf,
    /// Owner and group of the root.
    pub uid: u32,
    pub gid: u32,
    pub outside_links: bool,
}

/// One file with what tells whether it must be read again.
#[derive(Debug, Clone)]
pub struct Known {
    /// Shared with the report.
    pub scan: Arc<FileScan>,
    /// As the kernel has it; `scan.version` differs from it where the content changed and the version did not.
    raw: FileVersion,
    /// The version will change with the content.
    settled: bool,
    pub reach: Reach,
}

/// Whether an event in its directory tells of every change of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    Name,
    /// It has other names too, hard links, over which it may be written.
    Shared,
    /// A link to nothing, or to what is not loaded.
    BrokenLink,
    /// A link to a file in this directory.
    Link(PathBuf),
}

/// Whether what is known of a file may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// If its version is the same.
    Version,
    /// An event named it: read it.
    Nothing,
}

/// Looks at `name` in `dir`; `None` if it is not there (any more).
pub fn examine(
    dir: BorrowedFd<'_>,
    name: &[u8],
    bounds: &Bounds,
    known: Option<Known>,
    trust: Trust,
) -> Option<Known> {
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return None,
        Err(errno) => return Some(Known::bad(FileVersion::default(), unreadable(errno))),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let open = || rustix::fs::openat(dir, name, read_flags() | OFlags::NOFOLLOW, Mode::empty());
            load(&stat, bounds, reusable(known, trust), open)
        }
        FileType::Symlink => follow(dir, name, &stat, bounds, reusable(known, trust)),
        other => Some(Known::bad(version(&stat), not_regular(other))),
    }
}

/// What was known, and whether its version is enough to use it again.
struct Before {
    known: Option<Known>,
    usable: bool,
}

fn reusable(known: Option<Known>, trust: Trust) -> Before {
    let usable = trust == Trust::Version && known.as_ref().is_some_and(|known| known.settled);
    Before { known, usable }
}

fn follow(dir: BorrowedFd<'_>, name: &[u8], link: &Stat, bounds: &Bounds, before: Before) -> Option<Known> {
    let bad = |trouble| Some(Known { reach: Reach::BrokenLink, ..Known::bad(version(link), trouble) });
    // A path descriptor opens nothing: what it leads to is judged first.
    let place = match rustix::fs::openat(dir, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(place) => place,
        Err(errno) => return bad(link_trouble(errno)),
    };
    let (stat, target) = match (rustix::fs::fstat(&place), real_path(place.as_fd())) {
        (Ok(stat), Ok(target)) => (stat, target),
        (Err(errno), _) | (_, Err(errno)) => return bad(unreadable(errno)),
    };
    if !bounds.outside_links && !target.starts_with(&bounds.real) {
        let sentence = "is a link that leads out of its directory; only links to files below it are followed";
        return bad(trouble("link-outside-root", sentence));
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return bad(not_regular(FileType::from_raw_mode(stat.st_mode)));
    }
    let open = || {
        let path = format!("/proc/self/fd/{}", place.as_raw_fd());
        rustix::fs::open(path, read_flags(), Mode::empty())
    };
    let known = load(&stat, bounds, before, open)?;
    Some(Known {
        reach: target.parent().map_or(Reach::BrokenLink, |parent| Reach::Link(parent.to_owned())),
        ..known
    })
}

/// Reads a regular file unless what is known of it still holds.
fn load(
    stat: &Stat,
    bounds: &Bounds,
    before: Before,
    open: impl Fn() -> Result<OwnedFd, Errno>,
) -> Option<Known> {
    let old = before.known;
    if before.usable && old.as_ref().is_some_and(|old| old.raw == version(stat)) {
        return old;
    }
    if stat.st_size as u64 > MAX_BYTES {
        return Some(Known::bad(version(stat), too_large(stat.st_size as u64)));
    }
    let read = match open() {
        Ok(fd) => read_settled(File::from(fd)),
        Err(Errno::NOENT) => return None,
        // Not what was there a moment ago: its own event follows.
        Err(Errno::LOOP | Errno::NXIO) => return Some(Known::bad(version(stat), being_written())),
        Err(errno) => return Some(Known::bad(version(stat), unreadable(errno))),
    };
    let read = match read {
        Ok(read) => read,
        Err(errno) => return Some(Known::bad(version(stat), unreadable(errno))),
    };
    if !read.is_for(bounds) {
        return Some(Known::bad(version(stat), private()));
    }
    let raw = read.version;
    let scan = FileScan { version: raw, content: read.content, may_show_lines: read.uid == bounds.uid };
    let scan = match &old {
        Some(old) if old.raw == raw => tell_apart(scan, &old.scan),
        Some(_) | None => scan,
    };
    let reach = if stat.st_nlink > 1 { Reach::Shared } else { Reach::Name };
    Some(Known { scan: Arc::new(scan), raw, settled: read.settled, reach })
}

impl Known {
    /// Not settled: looked at again in each scan, for what is wrong may be mended elsewhere (a link's target, a
    /// directory's mode).
    pub fn bad(version: FileVersion, trouble: Trouble) -> Self {
        Self {
            scan: Arc::new(FileScan { version, content: Err(trouble), may_show_lines: false }),
            raw: version,
            settled: false,
            reach: Reach::Name,
        }
    }
}

/// Keeps the promise that the version changes with the content, also where two writes fell into one step of the
/// kernel's clock; and where nothing changed, keeps sharing one text.
fn tell_apart(mut scan: FileScan, old: &FileScan) -> FileScan {
    scan.version = old.version;
    if scan.content == old.content {
        scan.content = old.content.clone();
    } else {
        scan.version.ctime_ns += 1;
    }
    scan
}

struct Reading {
    version: FileVersion,
    uid: u32,
    gid: u32,
    mode: u32,
    content: Result<Arc<str>, Trouble>,
    settled: bool,
}

/// Reads until the file is the same before and after.
fn read_settled(mut file: File) -> Result<Reading, Errno> {
    for attempt in 1.. {
        let before = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
            let kind = FileType::from_raw_mode(before.st_mode);
            return Ok(Reading::of(&before, Err(not_regular(kind)), false));
        }
        let read_at = now_ns();
        let mut bytes = Vec::with_capacity(before.st_size as usize + 1);
        // As much as there was, and not on to the end: what has come since shows in its size. But of what has
        // no size, as some virtual files, a byte is enough to tell.
        let mut limited = (&mut file).take((before.st_size as u64).clamp(1, MAX_BYTES + 1));
        limited.read_to_end(&mut bytes).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let is_all = bytes.len() as i64 == before.st_size;
        match completeness(&file, &before, read_at)? {
            Completeness::Written if is_all => return Ok(Reading::of(&before, Err(being_written()), false)),
            Completeness::Racy if is_all => return Ok(Reading::of(&before, text(bytes), false)),
            Completeness::Settled if is_all => return Ok(Reading::of(&before, text(bytes), true)),
            _ => {}
        }
        if attempt == READ_ATTEMPTS || bytes.len() as u64 > MAX_BYTES {
            return Ok(Reading::of(&before, Err(being_written()), false));
        }
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    }
    unreachable!("the loop has no end of its own")
}

impl Reading {
    fn of(stat: &Stat, content: Result<Arc<str>, Trouble>, settled: bool) -> Self {
        let (uid, gid, mode) = (stat.st_uid, stat.st_gid, stat.st_mode);
        Self { version: version(stat), uid, gid, mode, content, settled }
    }

    /// Whether the owner of the root may read it as well. Problems quote a manifest, and so do guards: another name of
    /// a file that is closed to them would have us tell them of it. Root may read all, and so may who runs us what
    /// we have read.
    fn is_for(&self, bounds: &Bounds) -> bool {
        const OTHERS: u32 = 0o004;
        const GROUP: u32 = 0o040;
        let is_ours = bounds.uid == 0 || bounds.uid == rustix::process::geteuid().as_raw();
        is_ours
            || self.uid == bounds.uid
            || self.mode & OTHERS != 0
            || (self.mode & GROUP != 0 && self.gid == bounds.gid)
    }
}

fn text(bytes: Vec<u8>) -> Result<Arc<str>, Trouble> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(trouble("not-utf8", "is UTF-16; save it as UTF-8"));
    }
    if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
        return Err(trouble("binary-file", format!("is a binary file: byte {at} is zero")));
    }
    String::from_utf8(bytes).map(Arc::from).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        trouble("not-utf8", format!("is not UTF-8 from line {line} on (byte {at}); save it as UTF-8"))
    })
}

/// Whether what was read of a file is all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// It is another file by now.
    Changed,
    /// It was changed a moment ago and is still open for writing.
    Written,
    /// It is whole, and may change again and keep its version.
    Racy,
    /// It is whole, and its version will change with the content.
    Settled,
}

/// Of what was read from `read_at` on, when the file was as `before` says.
pub fn completeness(file: &File, before: &Stat, read_at: i64) -> Result<Completeness, Errno> {
    let (before, after) = (version(before), version(&rustix::fs::fstat(file)?));
    let age = read_at.saturating_sub(after.ctime_ns);
    Ok(if before != after {
        Completeness::Changed
    } else if age < WRITING && has_writer(file) {
        Completeness::Written
    } else if age <= RACY {
        Completeness::Racy
    } else {
        Completeness::Settled
    })
}

/// True if somebody has the file open for writing. Asked by a read lease, which the kernel grants only where nobody
/// has, and only to the file's owner and root; where it cannot be known the answer is no.
#[expect(
    unsafe_code,
    reason = "JUSTIFICATION: neither nix nor rustix offers F_SETLEASE; no other call tells of writers"
)]
fn has_writer(file: &File) -> bool {
    /// fcntl(2); libc has it for other systems only.
    const F_SETSIG: libc::c_int = 10;
    let fd = file.as_raw_fd();
    // SAFETY: `fd` is open for the whole function, and these operations of fcntl(2) take an integer and touch no
    // memory of ours. SIGURG is ignored by default: without it, a writer that comes between the two last calls would
    // have the kernel send us SIGIO, which ends a process.
    let denied = unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == -1
            && std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
    };
    // SAFETY: as above. Gives a lease back, and fails harmlessly where none was granted.
    unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
    denied
}

fn read_flags() -> OFlags {
    OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
}

/// Where a descriptor leads, with no link in it.
pub fn real_path(fd: BorrowedFd<'_>) -> Result<PathBuf, Errno> {
    use std::os::unix::ffi::OsStringExt;
    let link = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(link.into_bytes())))
}

pub fn version(stat: &Stat) -> FileVersion {
    let ns = |secs: i64, nanos: u64| secs.saturating_mul(1_000_000_000).saturating_add(nanos as i64);
    FileVersion {
        dev: stat.st_dev,
        inode: stat.st_ino,
        mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
        size: stat.st_size as u64,
    }
}

/// Not the coarse clock: since Linux 6.13 some file times are ahead of that.
pub fn now_ns() -> i64 {
    let now = ClockId::CLOCK_REALTIME.now().expect("every Linux has this clock");
    now.tv_sec().saturating_mul(1_000_000_000).saturating_add(now.tv_nsec())
}

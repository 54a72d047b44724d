//! Files that matter to services, read for their content wherever they are.
//!
//! Never opens what is not a regular file: opening a FIFO hangs, opening a device acts. Says why a file cannot be had,
//! and nothing of what stands in it. What each is for, and what its text means, the reconciler knows. `pattern` is about names, `digests` about content. Sources: open(2),
//! inode(7), symlink(7).

mod digests;
mod pattern;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::cause::plain;
use super::scan::{Completeness, completeness, now_ns, real_path, version};
use super::{FileVersion, UserFacts};

pub use digests::{Digests, Room, Unseen};
pub use pattern::{Pattern, ways_to};

/// Bytes of a file of variables: more than execve(2) takes.
const MAX_TEXT_BYTES: u64 = 1024 * 1024;

/// A file that was read whole.
struct Whole {
    bytes: Vec<u8>,
    /// `None` where its content may change and its version stay.
    version: Option<FileVersion>,
}

/// Why a file was not read; a sentence that reads after the path.
#[derive(Debug)]
enum Unread {
    BeingWritten,
    Because(String),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeingWritten => f.write_str("is being written; it is read again once that is complete"),
            Self::Because(sentence) => f.write_str(sentence),
        }
    }
}

/// The text of a file; `None` if it is not there. `reader` must be allowed to read it: a service is told nothing that it
/// could not have read itself. `Err` is a sentence that reads after the path.
pub fn read_text(path: &Path, reader: Option<&UserFacts>) -> Result<Option<Arc<str>>, String> {
    let read = read(path, reader, MAX_TEXT_BYTES).map_err(|unread| unread.to_string())?;
    let Some(Whole { bytes, .. }) = read else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("is not UTF-8 from line {line} on")
    })?;
    Ok(Some(text.into()))
}

fn read(path: &Path, reader: Option<&UserFacts>, max_bytes: u64) -> Result<Option<Whole>, Unread> {
    let unreadable = |errno: Errno| Unread::Because(format!("cannot be read: {}", plain(&errno.into())));
    let not_regular = || Err(Unread::Because("is not a regular file".to_owned()));
    let kind = match rustix::fs::stat(path) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(unreadable(errno)),
    };
    if kind != FileType::RegularFile {
        return not_regular();
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(unreadable(errno)),
    };
    // Judged by what was opened: another file may have this path by now.
    let stat = rustix::fs::fstat(&file).map_err(unreadable)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return not_regular();
    }
    if stat.st_size as u64 > max_bytes {
        return Err(Unread::Because(format!("has {} bytes, and may have {max_bytes}", stat.st_size)));
    }
    if let Some(user) = reader
        && !may_read(user, &file, &stat).map_err(unreadable)?
    {
        let sentence = "whose service is told nothing that it could not read";
        return Err(Unread::Because(format!("is closed to {}, {sentence}", user.name)));
    }
    let read_at = now_ns();
    let mut bytes = Vec::new();
    let read = (&mut file).take(max_bytes + 1).read_to_end(&mut bytes);
    read.map_err(|error| Unread::Because(format!("cannot be read: {}", plain(&error))))?;
    if bytes.len() as u64 > max_bytes {
        return Err(Unread::BeingWritten);
    }
    let version = match completeness(&file, &stat, read_at).map_err(unreadable)? {
        Completeness::Changed | Completeness::Written => return Err(Unread::BeingWritten),
        Completeness::Racy => None,
        Completeness::Settled => Some(version(&stat)),
    };
    Ok(Some(Whole { bytes, version }))
}

/// By modes alone: what only an ACL grants counts as closed.
fn may_read(user: &UserFacts, file: &File, stat: &Stat) -> Result<bool, Errno> {
    const READ: u32 = 4;
    const SEARCH: u32 = 1;
    let grants = |stat: &Stat, right: u32| {
        let shift = if stat.st_uid == user.uid {
            6
        } else if stat.st_gid == user.gid || user.groups.contains(&stat.st_gid) {
            3
        } else {
            0
        };
        user.uid == 0 || (stat.st_mode >> shift) & right == right
    };
    if !grants(stat, READ) {
        return Ok(false);
    }
    for directory in real_path(file.as_fd())?.ancestors().skip(1) {
        if !grants(&rustix::fs::stat(directory)?, SEARCH) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn user(uid: u32, gid: u32) -> UserFacts {
        let (home, shell) = ("/".into(), "/bin/false".into());
        UserFacts { name: "they".to_owned(), uid, gid, groups: vec![gid], home, shell }
    }

    #[test]
    fn only_regular_files_of_utf8_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("good"), "A=1").unwrap();
        fs::write(at("latin"), b"A=1\nB=\xe9").unwrap();
        fs::write(at("large"), vec![b'x'; 1024 * 1024 + 1]).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("good", at("link")).unwrap();
        symlink("nothing", at("dangling")).unwrap();
        assert_eq!(read_text(&at("good"), None).unwrap().as_deref(), Some("A=1"));
        assert_eq!(read_text(&at("link"), None).unwrap().as_deref(), Some("A=1"));
        for missing in ["missing", "dangling", "good/below"] {
            assert_eq!(read_text(&at(missing), None), Ok(None), "{missing}");
        }
        for (name, says) in [
            ("latin", "is not UTF-8 from line 2 on"),
            ("large", "has 1048577 bytes"),
            ("fifo", "is not a regular file"),
            (".", "is not a regular file"),
        ] {
            let error = read_text(&at(name), None).unwrap_err();
            assert!(error.starts_with(says), "{name}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_open_for_writing_is_not_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        let writer = File::create(&path).unwrap();
        let error = read_text(&path, None).unwrap_err();
        assert!(error.starts_with("is being written"), "{error}");
        drop(writer);
        assert_eq!(read_text(&path, None).unwrap().as_deref(), Some(""));
    }

    #[test]
    fn a_service_is_told_nothing_that_its_user_may_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        fs::write(&file, "A=1").unwrap();
        let own_gid = nix::unistd::getegid().as_raw();
        let set_mode =
            |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let may = |user: &UserFacts| read_text(&file, Some(user)).is_ok();
        let (stranger, fellow) = (user(54_321, 54_321), user(54_321, own_gid));
        set_mode(dir.path(), 0o755);
        set_mode(&file, 0o644);
        assert!(may(&stranger) && may(&fellow));
        set_mode(&file, 0o640);
        assert!(!may(&stranger) && may(&fellow));
        set_mode(&file, 0o604);
        assert!(may(&stranger) && !may(&fellow), "the group comes before others");
        set_mode(&file, 0o644);
        set_mode(dir.path(), 0o700);
        assert!(!may(&stranger) && !may(&fellow), "nor what they cannot reach");
        assert!(may(&user(0, 0)));
        let closed = read_text(&file, Some(&stranger)).unwrap_err();
        assert!(closed.starts_with("is closed to they"), "{closed}");
    }
}

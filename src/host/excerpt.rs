//! The text of a file that a problem is about, to draw its line.
//!
//! Only for showing: what is in force was read by the scan. Called by `commands` where the lines may be
//! shown. By now the path may be anything, a link to a file that whoever owns the manifests must not see: it is opened
//! without blocking, and nothing is read of it unless it is the very file that was judged, as it was then.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::FileVersion;
use super::scan::version;

/// As for a manifest.
const MAX_BYTES: u64 = 1024 * 1024;

/// `None` unless `path` still leads to the file that was judged, unchanged, and it is UTF-8.
pub fn text(path: &Path, judged: &FileVersion) -> Option<String> {
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()?;
    if !is_still(&file, judged) {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// A change time may be behind the judged one by what the scan adds to tell two writes in one tick apart.
fn is_still(file: &File, judged: &FileVersion) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        let now = version(&stat);
        let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
        is_file
            && now.ctime_ns <= judged.ctime_ns
            && FileVersion { ctime_ns: judged.ctime_ns, ..now } == *judged
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn judged(path: &Path) -> FileVersion {
        version(&rustix::fs::stat(path).unwrap())
    }

    #[test]
    fn a_file_is_read_as_long_as_it_is_what_was_judged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.toml");
        fs::write(&path, "a = 1\n").unwrap();
        let before = judged(&path);
        assert_eq!(text(&path, &before).as_deref(), Some("a = 1\n"));
        assert_eq!(
            text(&path, &FileVersion { ctime_ns: before.ctime_ns + 1, ..before }).as_deref(),
            Some("a = 1\n")
        );
        fs::write(&path, "b = 22\n").unwrap();
        assert_eq!(text(&path, &before), None);
        fs::write(&path, b"\xff").unwrap();
        assert_eq!(text(&path, &judged(&path)), None, "it is no text");
        fs::remove_file(&path).unwrap();
        assert_eq!(text(&path, &before), None);
    }

    #[test]
    fn what_has_taken_its_place_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let (path, secret) = (dir.path().join("web.toml"), dir.path().join("shadow"));
        fs::write(&secret, "root:1\n").unwrap();
        fs::write(&path, "a = 1.\n").unwrap();
        let before = judged(&path);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&secret, &path).unwrap();
        assert_eq!(text(&path, &before), None, "a link");
        fs::remove_file(&path).unwrap();
        fs::hard_link(&secret, &path).unwrap();
        assert_eq!(text(&path, &before), None, "another name of it");
        fs::remove_file(&path).unwrap();
        // A FIFO without a writer: opened, and waited for by nobody.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(text(&path, &before), None);
    }
}

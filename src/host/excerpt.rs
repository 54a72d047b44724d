//! The text of a file that a problem is about, to draw its line.
//!
//! Only for showing: what is in force was read by the scan. Called by `commands` where the lines may be
//! shown. Opens without blocking, because by now the path may be anything.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// As for a manifest.
const MAX_BYTES: u64 = 1024 * 1024;

/// `None` unless it is a regular UTF-8 file of at most 1 MiB that can be read.
pub fn text(path: &Path) -> Option<String> {
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_small_text_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.toml");
        assert_eq!(text(&path), None);
        std::fs::write(&path, "a = 1\n").unwrap();
        assert_eq!(text(&path).as_deref(), Some("a = 1\n"));
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(text(&path), None);
        std::fs::write(&path, vec![b'x'; MAX_BYTES as usize + 1]).unwrap();
        assert_eq!(text(&path), None);
    }

    #[test]
    fn a_pipe_without_a_writer_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.toml");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(text(&path), None);
    }
}

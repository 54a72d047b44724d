//! Which names below a root are looked at. Pure: text in, verdict out.
//!
//! An allowlist by suffix, not a list of what editors leave behind: kubelet, which reads every file that does
//! not start with a dot, let `x.yaml.backup` win over `x.yaml`. Backups and swap files (`web.toml~`,
//! `web.toml.bak`, `#web.toml#`, `.web.toml.swp`, `web.toml.orig`) all fail it without being named.

use crate::escape::visible;

const SUFFIX: &[u8] = b".toml";

/// Directories full of other people's manifests (`Cargo.toml`, `pyproject.toml`), or of nothing at all; and the one
/// that only root may read at the top of a file system.
const NOT_ENTERED: [&[u8]; 3] = [b"node_modules", b"target", b"lost+found"];

/// True for a file that is loaded as a manifest.
pub fn is_manifest(name: &[u8]) -> bool {
    name.len() > SUFFIX.len() && name.ends_with(SUFFIX) && !is_set_aside(name) && name[0] != b'#'
}

/// True for a directory whose manifests are loaded.
pub fn is_entered(name: &[u8]) -> bool {
    !is_set_aside(name) && !NOT_ENTERED.contains(&name)
}

/// Names that people and tools use for what is not to be loaded.
fn is_set_aside(name: &[u8]) -> bool {
    matches!(name.first(), None | Some(b'.' | b'_'))
}

/// The name, if it can stand in a ledger, a table and a JSON document as it is.
pub fn presentable(name: &[u8]) -> Option<&str> {
    std::str::from_utf8(name).ok().filter(|name| !name.chars().any(char::is_control))
}

/// A stand-in for a name that is not [`presentable`]; two such names may share one.
pub fn escaped(name: &[u8]) -> String {
    visible(&String::from_utf8_lossy(name)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_toml_files_that_nobody_set_aside_are_manifests() {
        for name in ["web.toml", "a.b.toml", "web~.toml", "w#.toml", "été.toml", "web.bak.toml"] {
            assert!(is_manifest(name.as_bytes()), "{name}");
        }
        for name in [
            ".toml",
            "toml",
            ".web.toml",
            "_web.toml",
            "web.toml~",
            "web.toml.bak",
            "web.toml.orig",
            "#web.toml#",
            "#web.toml",
            ".#web.toml",
            ".web.toml.swp",
            "web.TOML",
            "web.toml.tmp",
            "4913",
            "",
        ] {
            assert!(!is_manifest(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn foreign_and_hidden_directories_are_not_entered() {
        for name in ["web", "a.toml.d", "targets"] {
            assert!(is_entered(name.as_bytes()), "{name}");
        }
        for name in ["node_modules", "target", "lost+found", ".git", "..data", "_drafts"] {
            assert!(!is_entered(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_name_that_could_write_to_a_terminal_is_escaped() {
        assert_eq!(presentable(b"a\x1b[2J.toml"), None);
        assert_eq!(escaped(b"a\x1b[2J\xff.toml"), "a\\x1b[2J\u{fffd}.toml");
    }
}

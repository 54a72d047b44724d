//! Why a manifest cannot be had: stable codes, and sentences that read after the path of the file.

use rustix::fs::FileType;
use rustix::io::Errno;

use super::file::MAX_BYTES;
use crate::host::cause::plain;

/// Code and sentence.
pub type Trouble = (String, String);

pub fn trouble(code: &str, sentence: impl Into<String>) -> Trouble {
    (code.to_owned(), sentence.into())
}

pub fn cause(errno: Errno) -> String {
    plain(&errno.into())
}

/// The code of what was not read for want of descriptors, and is soon read again.
pub const OUT_OF_DESCRIPTORS: &str = "out-of-descriptors";

pub fn unreadable(errno: Errno) -> Trouble {
    let code = match errno {
        Errno::MFILE | Errno::NFILE => OUT_OF_DESCRIPTORS,
        _ => "unreadable",
    };
    trouble(code, format!("cannot be read: {}", cause(errno)))
}

pub fn being_written() -> Trouble {
    trouble("being-written", "is being written; it is read again once that is complete")
}

pub fn too_large(size: u64) -> Trouble {
    trouble("too-large", format!("has {size} bytes; a manifest has at most {MAX_BYTES}"))
}

pub fn private() -> Trouble {
    let sentence = "is closed to the owner of its directory, who would be told of what it says; let them read it, or \
                    give the directory to its owner";
    trouble("closed-to-owner", sentence)
}

pub fn link_trouble(errno: Errno) -> Trouble {
    match errno {
        Errno::NOENT | Errno::NOTDIR => trouble("dangling-link", "is a link to nothing"),
        Errno::LOOP => trouble("link-loop", "is a link that leads back to itself"),
        other => unreadable(other),
    }
}

pub fn not_regular(kind: FileType) -> Trouble {
    let what = match kind {
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::RegularFile | FileType::Symlink | FileType::Unknown => "something else",
    };
    trouble("not-a-regular-file", format!("is {what}; a manifest is a regular file"))
}

//! Files that matter to services, read for their content wherever they are.
//!
//! Never opens what is not a regular file: opening a FIFO hangs, opening a device acts. Says why a file cannot be had,
//! and nothing of what stands in it. What each is for, and what its text means, the reconciler knows. Sources: open(2),
//! inode(7), symlink(7).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::cause::plain;
use super::scan::{Completeness, completeness, now_ns, real_path, version};
use super::watch::way_to;
use super::{FileVersion, UserFacts};
use crate::identity::Digest;

/// Bytes of a file of variables: more than execve(2) takes.
const MAX_TEXT_BYTES: u64 = 1024 * 1024;

/// Bytes of the files of one service whose content matters: they are read whole.
const MAX_CONTENT_BYTES: u64 = 64 * 1024 * 1024;

/// Such files of one service: each is looked at whenever one of them changes, and is in the records of its starts.
const MAX_FILES: usize = 1_000;

/// What one service may still have looked at.
#[derive(Debug)]
pub struct Room {
    files: usize,
    bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { files: MAX_FILES, bytes: MAX_CONTENT_BYTES }
    }
}

impl Room {
    pub(super) fn take(&mut self, path: &Path, bytes: u64) -> Result<(), Unseen> {
        let (Some(files), Some(bytes)) = (self.files.checked_sub(1), self.bytes.checked_sub(bytes)) else {
            let mib = MAX_CONTENT_BYTES / 1024 / 1024;
            let sentence = format!(
                "is beyond the {MAX_FILES} files, and {mib} MiB, that `restart_on` and `reload.on` may have in all"
            );
            return Err(Unseen::at(path, &sentence));
        };
        (self.files, self.bytes) = (files, bytes);
        Ok(())
    }
}

/// Why the content that a pattern stands for is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unseen {
    /// Whoever writes it ends, and that is told.
    BeingWritten,
    /// A sentence, with the path.
    Trouble(String),
}

impl Unseen {
    pub(super) fn at(path: &Path, sentence: &str) -> Self {
        Self::Trouble(format!("{} {sentence}", path.display()))
    }
}

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

/// The names in a directory that a pattern stands for.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// `None`: there is no wildcard in it.
    names: Option<GlobMatcher>,
    /// As in a shell: a name that begins with a dot is named with that dot.
    is_of_hidden: bool,
}

impl Pattern {
    pub fn of(path: &Path) -> Self {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut glob = String::new();
        for char in name.chars() {
            match char {
                // Two of them are no more than one.
                '*' if glob.ends_with('*') => {}
                '*' | '?' => glob.push(char),
                other => glob.push_str(&globset::escape(other.encode_utf8(&mut [0; 4]))),
            }
        }
        let names = name.contains(['*', '?']).then(|| {
            let mut builder = GlobBuilder::new(&glob);
            let built = builder.literal_separator(true).backslash_escape(false).build();
            built.expect("all but two wildcards is escaped").compile_matcher()
        });
        Self { names, is_of_hidden: name.starts_with('.') }
    }

    pub fn fits(&self, path: &Path) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let (Some(names), Some(name)) = (&self.names, path.file_name()) else { return false };
        (self.is_of_hidden || !name.as_bytes().starts_with(b".")) && names.is_match(name)
    }
}

/// Digests of files by their content, worked out anew only of what has changed.
#[derive(Debug, Default)]
pub struct Digests {
    /// By pattern, then by path.
    known: HashMap<PathBuf, Known>,
}

type Known = HashMap<PathBuf, (FileVersion, Digest)>;

impl Digests {
    /// As [`super::Host::digest_files`].
    pub fn of_files(&mut self, pattern: &Path, room: &mut Room) -> Result<Vec<(PathBuf, Digest)>, Unseen> {
        let mut before = self.known.remove(pattern).unwrap_or_default();
        let mut known = Known::new();
        let mut found = Vec::new();
        let mut unseen = None;
        for path in fitting(pattern)? {
            match digest(&path, before.remove(&path), room) {
                Ok(None) => {}
                Ok(Some((digest, version))) => {
                    known.extend(version.map(|version| (path.clone(), (version, digest.clone()))));
                    found.push((path, digest));
                }
                // The others are not read again for it.
                Err(why) => {
                    unseen.get_or_insert(why);
                }
            }
        }
        self.known.insert(pattern.to_owned(), known);
        unseen.map_or(Ok(found), Err)
    }

    pub fn forget_all_but(&mut self, patterns: &BTreeSet<PathBuf>) {
        self.known.retain(|pattern, _| patterns.contains(pattern));
    }
}

fn fitting(pattern: &Path) -> Result<Vec<PathBuf>, Unseen> {
    let fits = Pattern::of(pattern);
    if fits.names.is_none() {
        return Ok(vec![pattern.to_owned()]);
    }
    let directory = pattern.parent().unwrap_or(Path::new("/"));
    let names = match std::fs::read_dir(directory) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Unseen::at(directory, &format!("cannot be listed: {}", plain(&error)))),
    };
    let mut paths: Vec<PathBuf> = names.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| fits.fits(path) && path.is_file());
    if paths.len() > MAX_FILES {
        let sentence = format!("fits {} files, and may fit {MAX_FILES}", paths.len());
        return Err(Unseen::at(pattern, &sentence));
    }
    paths.sort();
    Ok(paths)
}

/// With the version by which it is known again; `None` if it is not there.
fn digest(
    path: &Path,
    known: Option<(FileVersion, Digest)>,
    room: &mut Room,
) -> Result<Option<(Digest, Option<FileVersion>)>, Unseen> {
    let found = rustix::fs::stat(path).ok().map(|stat| version(&stat));
    if let Some(found) = found.filter(|found| found.size <= MAX_CONTENT_BYTES) {
        room.take(path, found.size)?;
    }
    if let Some((version, digest)) = known
        && found == Some(version)
    {
        return Ok(Some((digest, Some(version))));
    }
    match read(path, None, MAX_CONTENT_BYTES) {
        Ok(whole) => Ok(whole.map(|Whole { bytes, version }| (Digest::of(&bytes), version))),
        Err(Unread::BeingWritten) => Err(Unseen::BeingWritten),
        Err(unread @ Unread::Because(_)) => Err(Unseen::at(path, &unread.to_string())),
    }
}

/// Whatever becomes of these paths becomes of one of these files, also where one is a link, or comes later.
pub fn ways_to(files: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let mut paths = BTreeSet::new();
    for path in files {
        let pattern = Pattern::of(path);
        if pattern.names.is_some() {
            // Those that fit may be links.
            let names =
                path.parent().and_then(|directory| std::fs::read_dir(directory).ok()).into_iter().flatten();
            let fitting =
                names.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| pattern.fits(path));
            paths.extend(fitting.take(MAX_FILES).flat_map(|path| way_to(&path).links));
        }
        let way = way_to(path);
        paths.extend(way.links);
        paths.extend(way.end);
    }
    paths.into_iter().collect()
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
    fn a_pattern_stands_for_the_names_that_it_fits() {
        for (pattern, name, fitting) in [
            ("*.yml", "a.yml", true),
            ("*.yml", ".a.yml", false),
            (".*.yml", ".a.yml", true),
            ("*.yml", "a.yml.bak", false),
            ("a?c*", "abc", true),
            ("a?c*", "ac", false),
            ("*a*b", "xaayab", true),
            ("*", "ä", true),
            ("plain", "plain", false),
            ("[a]*", "[a]b", true),
            ("[a]*", "ab", false),
            ("a**", "a", true),
            ("\\\\*", "\\\\a", true),
        ] {
            assert_eq!(Pattern::of(Path::new(pattern)).fits(Path::new(name)), fitting, "{pattern} {name}");
        }
    }

    #[test]
    fn a_digest_follows_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut digests = Digests::default();
        let mut look = || digests.of_files(&at("*.yml"), &mut Room::default()).unwrap();
        assert!(look().is_empty());
        fs::write(at("b.yml"), "1").unwrap();
        fs::write(at("a.yml"), "2").unwrap();
        fs::write(at("c.txt"), "3").unwrap();
        assert_eq!(look(), [(at("a.yml"), Digest::of(b"2")), (at("b.yml"), Digest::of(b"1"))]);
        fs::write(at("new"), "4").unwrap();
        fs::rename(at("new"), at("b.yml")).unwrap();
        assert_eq!(look()[1].1, Digest::of(b"4"));
        fs::remove_file(at("b.yml")).unwrap();
        assert_eq!(look().len(), 1);
    }

    #[test]
    fn a_file_that_was_just_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut digests = Digests::default();
        // Many writes fall into one step of the clock of file times.
        for text in (0..100).map(|number| format!("{number:03}")) {
            fs::write(&path, &text).unwrap();
            let found = digests.of_files(&path, &mut Room::default()).unwrap();
            assert_eq!(found, [(path.clone(), Digest::of(text.as_bytes()))]);
        }
    }

    #[test]
    fn a_service_has_so_many_files_in_all() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..=MAX_FILES / 2 {
            fs::write(dir.path().join(format!("{number}")), "").unwrap();
        }
        let mut room = Room::default();
        let mut digests = Digests::default();
        assert_eq!(digests.of_files(&dir.path().join("*"), &mut room).unwrap().len(), MAX_FILES / 2 + 1);
        let beyond = digests.of_files(&dir.path().join("?*"), &mut room).unwrap_err();
        assert!(
            matches!(&beyond, Unseen::Trouble(why) if why.contains("is beyond the 1000 files")),
            "{beyond:?}"
        );
        File::create(dir.path().join("large")).unwrap().set_len(MAX_CONTENT_BYTES).unwrap();
        let mut room = Room { files: 2, bytes: MAX_CONTENT_BYTES - 1 };
        assert!(digests.of_files(&dir.path().join("large"), &mut room).is_err());
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

//! Files that matter to services, read for their content wherever they are.
//!
//! Never opens what is not a regular file: opening a FIFO hangs, opening a device acts. Says why a file cannot be had,
//! and nothing of what stands in it. What each is for, and what its text means, the reconciler knows. Sources: open(2),
//! inode(7), symlink(7).

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::cause::plain;
use super::scan::{is_being_written, real_path, version};
use super::watch::way_to;
use super::{FileVersion, UserFacts};
use crate::identity::Digest;

/// Bytes of a file of variables: more than execve(2) takes.
const MAX_TEXT_BYTES: u64 = 1024 * 1024;

/// Bytes of a file whose content matters: it is read whole.
const MAX_CONTENT_BYTES: u64 = 64 * 1024 * 1024;

/// Files that one pattern stands for: each is looked at whenever one of them changes.
const MAX_FITTING: usize = 1_000;

/// The text of a file; `None` if it is not there. `reader` must be allowed to read it: a service is told nothing that it
/// could not have read itself. `Err` is a sentence that reads after the path.
pub fn read_text(path: &Path, reader: Option<&UserFacts>) -> Result<Option<Arc<str>>, String> {
    let Some(bytes) = read(path, reader, MAX_TEXT_BYTES)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("is not UTF-8 from line {line} on")
    })?;
    Ok(Some(text.into()))
}

fn read(path: &Path, reader: Option<&UserFacts>, max_bytes: u64) -> Result<Option<Vec<u8>>, String> {
    let unreadable = |errno: Errno| format!("cannot be read: {}", plain(&errno.into()));
    let kind = match rustix::fs::stat(path) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(unreadable(errno)),
    };
    if kind != FileType::RegularFile {
        return Err("is not a regular file".to_owned());
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
        return Err("is not a regular file".to_owned());
    }
    if stat.st_size as u64 > max_bytes {
        return Err(format!("has {} bytes, and may have {max_bytes}", stat.st_size));
    }
    if let Some(user) = reader
        && !may_read(user, &file, &stat).map_err(unreadable)?
    {
        return Err(format!(
            "is closed to {}, whose service is told nothing that it could not read",
            user.name
        ));
    }
    let mut bytes = Vec::new();
    let read = (&mut file).take(max_bytes + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("cannot be read: {}", plain(&error)))?;
    if bytes.len() as u64 > max_bytes || is_being_written(&file, &stat).map_err(unreadable)? {
        return Err("is being written; it is read again once that is complete".to_owned());
    }
    Ok(Some(bytes))
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
#[derive(Debug, Clone, Copy)]
pub struct Pattern<'p> {
    /// `None`: there is no wildcard in it.
    name: Option<&'p str>,
}

impl<'p> Pattern<'p> {
    pub fn of(path: &'p Path) -> Self {
        let name = path.file_name().and_then(|name| name.to_str());
        Self { name: name.filter(|name| name.contains(['*', '?'])) }
    }

    /// As in a shell: a name that begins with a dot is named with that dot.
    pub fn fits(&self, path: &Path) -> bool {
        let (Some(pattern), Some(name)) = (self.name, path.file_name()) else { return false };
        let name = name.to_string_lossy();
        let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
        (pattern.starts_with(&['.']) || !name.starts_with(&['.'])) && fits(&pattern, &name)
    }
}

/// Goes back to the newest `*` alone: no pattern takes longer than the product of both lengths.
fn fits(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p).is_some_and(|c| *c == '?' || *c == name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, n) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Digests of files by their content, worked out anew only of what has changed.
#[derive(Debug, Default)]
pub struct Digests {
    known: HashMap<PathBuf, (FileVersion, Digest)>,
}

impl Digests {
    /// As [`super::Host::digest_files`].
    pub fn of_files(&mut self, pattern: &Path) -> Vec<(PathBuf, Result<Digest, String>)> {
        let of_pattern = Pattern::of(pattern);
        if of_pattern.name.is_none() {
            return self.digest(pattern.to_owned()).into_iter().collect();
        }
        let directory = pattern.parent().unwrap_or(Path::new("/"));
        let names = match std::fs::read_dir(directory) {
            Ok(names) => names,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                return vec![(directory.to_owned(), Err(format!("cannot be listed: {}", plain(&error))))];
            }
        };
        let mut paths: Vec<PathBuf> = names.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| of_pattern.fits(path) && path.is_file());
        paths.sort();
        if paths.len() > MAX_FITTING {
            let sentence = format!("fits {} files, and may fit {MAX_FITTING}", paths.len());
            return vec![(pattern.to_owned(), Err(sentence))];
        }
        paths.into_iter().filter_map(|path| self.digest(path)).collect()
    }

    fn digest(&mut self, path: PathBuf) -> Option<(PathBuf, Result<Digest, String>)> {
        let found = rustix::fs::stat(&path).ok().map(|stat| version(&stat));
        if let (Some(found), Some((known, digest))) = (found, self.known.get(&path))
            && found == *known
        {
            return Some((path, Ok(digest.clone())));
        }
        self.known.remove(&path);
        let digest = match read(&path, None, MAX_CONTENT_BYTES) {
            Ok(bytes) => Digest::of(&bytes?),
            Err(sentence) => return Some((path, Err(sentence))),
        };
        if let Some(version) = found {
            self.known.insert(path.clone(), (version, digest.clone()));
        }
        Some((path, Ok(digest)))
    }
}

/// Whatever becomes of these paths becomes of one of these files, also where one is a link, or comes later.
pub fn ways_to(files: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let mut paths = BTreeSet::new();
    for path in files {
        let pattern = Pattern::of(path);
        if pattern.name.is_some() {
            // Those that fit may be links.
            let names =
                path.parent().and_then(|directory| std::fs::read_dir(directory).ok()).into_iter().flatten();
            let fitting =
                names.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| pattern.fits(path));
            paths.extend(fitting.take(MAX_FITTING).flat_map(|path| way_to(&path).links));
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
        ] {
            assert_eq!(Pattern::of(Path::new(pattern)).fits(Path::new(name)), fitting, "{pattern} {name}");
        }
    }

    #[test]
    fn a_digest_follows_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut digests = Digests::default();
        let mut look = || {
            let found = digests.of_files(&at("*.yml"));
            found.into_iter().map(|(path, digest)| (path, digest.unwrap())).collect::<Vec<_>>()
        };
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

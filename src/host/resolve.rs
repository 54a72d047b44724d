//! From a command word to the files that would be executed.
//!
//! Answers [`ExecQuery`]s as the kernel and env(1) would act on them, and opens nothing that could block.
//! It judges nothing: what may run is for `policy`. Called by the hosts in each full pass for every service, so
//! answers are kept for as long as the files they name are the same. Sources: execve(2), path_resolution(7).

mod shebang;

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

use self::shebang::Shebang;
use super::cause::plain;
use super::trust::Writers;
use crate::policy::{ExecQuery, Resolution, ResolveError, ResolvedFile};
use crate::state::{FileIdentity, is_shortage};

/// Interpreters after the command itself; the kernel follows one more.
const MAX_INTERPRETERS: usize = 4;

/// So long an answer is not searched for again: a pass asks for one runtime a thousand times.
const SEARCH_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// File times tick: a write within the tick of the one before leaves no trace. The slowest kernels tick at 100 Hz.
const FILE_TIME_TICK: Duration = Duration::from_millis(20);

/// More answers than these are never kept.
const MAX_KEPT: usize = 4096;

/// Resolves without keeping anything.
pub fn resolve(query: &ExecQuery) -> Resolution {
    Resolver::default().resolve(query)
}

/// Resolves commands, and keeps what it found.
#[derive(Debug, Default)]
pub struct Resolver {
    kept: HashMap<ExecQuery, Kept>,
    digests: HashMap<Content, String>,
    writers: Writers,
}

#[derive(Debug)]
struct Kept {
    chain: Vec<ResolvedFile>,
    searched: Instant,
}

/// Stands for the content of a file: every write changes the time.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Content {
    dev: u64,
    inode: u64,
    ctime_ns: i64,
    size: u64,
}

impl Resolver {
    /// What would be executed. The same question again costs one stat(2) for each file of the answer.
    pub fn resolve(&mut self, query: &ExecQuery) -> Resolution {
        let key = key_of(query);
        if let Some(kept) = self.kept.get(&key)
            && kept.searched.elapsed() < SEARCH_AGAIN_AFTER
            && kept.chain.iter().all(is_unchanged)
        {
            return Ok(kept.chain.clone());
        }
        let chain = self.follow(query);
        match &chain {
            // A relative interpreter depends on the working directory, which may not be part of the key.
            Ok(chain) if chain.iter().skip(1).all(|file| is_rooted(&file.called)) => {
                if self.kept.len() >= MAX_KEPT {
                    self.kept.clear();
                }
                self.kept.insert(key, Kept { chain: chain.clone(), searched: Instant::now() });
            }
            _ => {
                self.kept.remove(&key);
            }
        }
        chain
    }

    fn follow(&mut self, query: &ExecQuery) -> Resolution {
        let mut chain = Vec::new();
        let mut word = query.word.clone();
        loop {
            let found = find(&word, query)?;
            let head = read_head(&found.path, &found.metadata)?;
            let shebang = shebang::parse(&head);
            let is_script = shebang != Shebang::None;
            let path = found.path.clone();
            let mut file = self.describe(&word, found, is_script)?;
            if query.digest && chain.is_empty() {
                file.blake3 = Some(self.digest(&path, &file.file)?);
            }
            chain.push(file);
            word = match shebang {
                Shebang::None => return Ok(chain),
                Shebang::Malformed(error) => {
                    return Err(ResolveError::Unreadable { path, error: error.to_owned() });
                }
                Shebang::Interpreter { path: interpreter, argument } if shebang::is_env(&interpreter) => {
                    shebang::program_of_env(argument.as_deref())
                        .map_err(|error| ResolveError::Unreadable { path, error: error.to_owned() })?
                }
                Shebang::Interpreter { path: interpreter, .. } if interpreter.contains('/') => interpreter,
                // A bare word after `#!` is a file of the working directory, not one of the search path.
                Shebang::Interpreter { path: interpreter, .. } => format!("./{interpreter}"),
            };
            if chain.len() > MAX_INTERPRETERS {
                return Err(ResolveError::TooDeep { path: chain.swap_remove(0).found });
            }
        }
    }

    fn describe(&mut self, word: &str, found: Found, is_script: bool) -> Result<ResolvedFile, ResolveError> {
        let Found { path, metadata } = found;
        let real = std::fs::canonicalize(&path).map_err(|error| unreadable(&path, &error))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let found_in = std::fs::canonicalize(parent).map_err(|error| unreadable(parent, &error))?;
        Ok(ResolvedFile {
            called: word.to_owned(),
            found_in,
            owner_uid: metadata.uid(),
            writable_by_others: self.writers.has_others(&real, &metadata),
            file: file_identity(real, &metadata),
            found: path,
            is_script,
            blake3: None,
        })
    }

    fn digest(&mut self, path: &Path, file: &FileIdentity) -> Result<String, ResolveError> {
        let fail = |error: io::Error| unreadable(path, &error);
        await_tick(file.ctime_ns);
        let opened = open_regular(path).map_err(fail)?;
        let metadata = opened.metadata().map_err(fail)?;
        let content = Content {
            dev: metadata.dev(),
            inode: metadata.ino(),
            ctime_ns: ctime_ns(&metadata),
            size: metadata.size(),
        };
        if (content.dev, content.inode, content.ctime_ns) != (file.dev, file.inode, file.ctime_ns) {
            let error = "it was replaced while it was looked at".to_owned();
            return Err(ResolveError::Unreadable { path: path.to_owned(), error });
        }
        if let Some(known) = self.digests.get(&content) {
            return Ok(known.clone());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(opened).map_err(fail)?;
        let digest = hasher.finalize().to_hex().to_string();
        self.digests.retain(|known, _| (known.dev, known.inode) != (content.dev, content.inode));
        self.digests.insert(content, digest.clone());
        Ok(digest)
    }
}

/// Waits until a write from now on would give a file of this change time another one; a moment at most, and
/// only for a file that was changed just now.
fn await_tick(ctime_ns: i64) {
    let changed = SystemTime::UNIX_EPOCH + Duration::from_nanos(ctime_ns.max(0) as u64);
    // A time ahead of the clock tells nothing, and the clock catches up or it does not.
    let age = SystemTime::now().duration_since(changed).unwrap_or_default();
    std::thread::sleep(FILE_TIME_TICK.saturating_sub(age));
}

/// Without the working directory where it does not matter.
fn key_of(query: &ExecQuery) -> ExecQuery {
    let mut key = query.clone();
    if is_rooted(&key.word) {
        key.cwd = PathBuf::from("/");
    }
    key
}

/// True if `word` comes to the same file in every working directory.
fn is_rooted(word: &str) -> bool {
    word.starts_with('/') || !word.contains('/')
}

fn is_unchanged(file: &ResolvedFile) -> bool {
    std::fs::metadata(&file.found).is_ok_and(|now| {
        (now.dev(), now.ino(), ctime_ns(&now)) == (file.file.dev, file.file.inode, file.file.ctime_ns)
    })
}

/// A regular file that we may execute.
struct Found {
    path: PathBuf,
    metadata: Metadata,
}

fn find(word: &str, query: &ExecQuery) -> Result<Found, ResolveError> {
    if word.contains('/') {
        return executable(&without_dots(&query.cwd.join(word))?);
    }
    let not_found =
        || ResolveError::NotFound { word: word.to_owned(), searched: searched(&query.search_path) };
    if matches!(word, "" | "." | "..") {
        return Err(not_found());
    }
    let mut refusal = None;
    // A relative directory would be whatever the working directory holds: a manifest's choice.
    for dir in query.search_path.iter().filter(|dir| dir.is_absolute()) {
        match executable(&dir.join(word)) {
            Ok(found) => return Ok(found),
            Err(ResolveError::NotFound { .. } | ResolveError::NotAFile { .. }) => {}
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.unwrap_or_else(not_found))
}

fn searched(search_path: &[PathBuf]) -> String {
    let dirs: Vec<_> = search_path.iter().map(|dir| dir.display().to_string()).collect();
    dirs.join(":")
}

fn executable(path: &Path) -> Result<Found, ResolveError> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            ResolveError::NotFound { word: path.display().to_string(), searched: String::new() }
        }
        _ => unreadable(path, &error),
    })?;
    if !metadata.is_file() {
        return Err(ResolveError::NotAFile { path: path.to_owned() });
    }
    faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
        .map_err(|_| ResolveError::NotExecutable { path: path.to_owned() })?;
    Ok(Found { path: path.to_owned(), metadata })
}

/// The path without `.` and `..`; what comes before a `..` is looked up as the kernel does, through links.
fn without_dots(path: &Path) -> Result<PathBuf, ResolveError> {
    let Some(name) = path.file_name() else {
        return Err(ResolveError::NotAFile { path: path.to_owned() });
    };
    let parent = path.parent().unwrap_or(Path::new("/"));
    if !parent.components().any(|part| part == Component::ParentDir) {
        return Ok(path.components().collect());
    }
    match std::fs::canonicalize(parent) {
        Ok(parent) => Ok(parent.join(name)),
        Err(_) => Err(ResolveError::NotFound { word: path.display().to_string(), searched: String::new() }),
    }
}

/// The first bytes of a file; none if it may be executed and not read, as some are: a script could not run.
fn read_head(path: &Path, expected: &Metadata) -> Result<Vec<u8>, ResolveError> {
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(path, &error)),
    };
    let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
    if (metadata.dev(), metadata.ino()) != (expected.dev(), expected.ino()) {
        let error = "it was replaced while it was looked at".to_owned();
        return Err(ResolveError::Unreadable { path: path.to_owned(), error });
    }
    let mut head = Vec::with_capacity(shebang::HEAD_BYTES);
    file.take(shebang::HEAD_BYTES as u64).read_to_end(&mut head).map_err(|error| unreadable(path, &error))?;
    Ok(head)
}

/// Opens a regular file for reading, and never waits: a FIFO or a device is an error.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let not_a_file = || io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
    // Opening a device can have effects of its own, so it is looked at before, and after for certain.
    if !std::fs::metadata(path)?.is_file() {
        return Err(not_a_file());
    }
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_a_file()) }
}

/// The file under a path as its metadata has it. A change time that nanoseconds cannot hold is the nearest that
/// they can: some file systems make such times up.
pub(super) fn file_identity(path: PathBuf, metadata: &Metadata) -> FileIdentity {
    FileIdentity { path, dev: metadata.dev(), inode: metadata.ino(), ctime_ns: ctime_ns(metadata) }
}

fn ctime_ns(metadata: &Metadata) -> i64 {
    metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec())
}

fn unreadable(path: &Path, error: &io::Error) -> ResolveError {
    let path = path.to_owned();
    if error.raw_os_error().is_some_and(is_shortage) {
        return ResolveError::Shortage { path, error: plain(error) };
    }
    ResolveError::Unreadable { path, error: error.to_string() }
}

#[cfg(test)]
mod tests;

//! Entries resolved to files, and whether a file under a name is one of them.
//!
//! Pure: the host's answers come through a closure. An entry stands for a file *under a name*: a multi-call
//! binary (busybox, a version manager's shim) that is allowed as one name is not allowed as another. Where
//! call, entry and file are versions of one name, they are one.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::builtin;
use super::executable::{ExecEntry, NamedSet, Pattern, same_family};
use super::executed::Executed;
use super::query::{ExecQuery, Resolution, ResolvedFile};
use crate::state::FileIdentity;

/// What a file is in the chain that is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Named by a `#!` line.
    Interpreter,
    /// Named by the manifest.
    Command,
}

/// The executables that one source allows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Allowlist {
    /// Each with the highest role that it allows.
    entries: Vec<(ExecEntry, Role)>,
    globs: Vec<Pattern>,
    own: Option<OwnFiles>,
    search_path: Vec<PathBuf>,
    files: Vec<AllowedFile>,
    pins: Vec<Pin>,
}

/// Executables of one user, below his project directory.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OwnFiles {
    pub(super) uid: u32,
    pub(super) project: PathBuf,
}

#[derive(Debug, Clone, PartialEq)]
struct AllowedFile {
    /// The file name in the entry.
    name: String,
    file: FileIdentity,
    role: Role,
}

/// What a pinned path came to.
#[derive(Debug, Clone, PartialEq)]
struct Pin {
    /// As it is written, and without links to its directory.
    places: [PathBuf; 2],
    expected: String,
    /// The file with its digest; `None` if there was none that could be read.
    found: Option<(FileIdentity, String)>,
}

impl Pin {
    fn new(path: &Path, expected: &str, found: Option<&ResolvedFile>) -> Self {
        let place = found.map_or_else(|| path.to_owned(), place_of);
        let content = found.and_then(|found| Some((found.file.clone(), found.blake3.clone()?)));
        Self { places: [path.to_owned(), place], expected: expected.to_owned(), found: content }
    }

    /// True if the pin is meant for this file: the one that was found, or whatever has taken its place.
    fn binds(&self, file: &FileIdentity, places: &[&Path]) -> bool {
        let is_at = |place: &Path| self.places.iter().any(|pinned| pinned == place);
        let was_found =
            self.found.as_ref().is_some_and(|(found, _)| is_same(found, file) || found.path == file.path);
        was_found || is_at(&file.path) || places.iter().any(|place| is_at(place))
    }

    /// `Err` has the digest that was found in place of the pinned one. It was taken when the entries were
    /// resolved: it is that of this file as long as it is the same one, with the same change time.
    fn holds(&self, file: &FileIdentity) -> Result<(), Option<String>> {
        let is_that_content = |found: &FileIdentity| is_same(found, file) && found.ctime_ns == file.ctime_ns;
        let known = self.found.as_ref().filter(|(found, _)| is_that_content(found)).map(|(_, digest)| digest);
        if known == Some(&self.expected) { Ok(()) } else { Err(known.cloned()) }
    }
}

/// Where it was found, without links to its directory.
fn place_of(file: &ResolvedFile) -> PathBuf {
    file.found.file_name().map_or_else(|| file.found.clone(), |name| file.found_in.join(name))
}

/// Whether a file is allowed, and if not, what comes nearest.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    Allowed,
    /// Somebody but its owner and root can change it.
    Writable,
    /// The content is not the pinned one.
    OtherContent {
        found: Option<String>,
    },
    /// The same file is allowed as this.
    OtherName {
        name: String,
    },
    /// This file is allowed by that name.
    OtherFile {
        path: PathBuf,
    },
    NotListed,
}

impl Allowlist {
    pub(super) fn new(search_path: Vec<PathBuf>) -> Self {
        Self {
            entries: Vec::new(),
            globs: Vec::new(),
            own: None,
            search_path,
            files: Vec::new(),
            pins: Vec::new(),
        }
    }

    /// Adds entries; `own` joins with [`NamedSet::Default`].
    pub(super) fn add(&mut self, entries: &[ExecEntry], own: Option<&OwnFiles>) {
        for entry in entries {
            match entry {
                ExecEntry::Set(NamedSet::Default) => {
                    self.add_names(builtin::RUNTIMES, Role::Command);
                    self.add_names(builtin::SHELLS, Role::Interpreter);
                    if own.is_some() {
                        self.add_names(builtin::OWN_TOOLS, Role::Command);
                        self.own = own.cloned();
                    }
                }
                ExecEntry::Set(NamedSet::Agents) => {
                    self.add_names(builtin::AGENTS, Role::Command);
                    self.add_names(builtin::SHELLS, Role::Interpreter);
                }
                ExecEntry::Glob(pattern) => self.globs.push(pattern.clone()),
                ExecEntry::Name(_) | ExecEntry::Path(_) | ExecEntry::Pin { .. } => {
                    self.entries.push((entry.clone(), Role::Command));
                }
            }
        }
    }

    fn add_names(&mut self, names: &str, role: Role) {
        let names = names.split_ascii_whitespace();
        self.entries.extend(names.map(|name| (ExecEntry::Name(name.to_owned()), role)));
    }

    /// Looks every entry up anew; entries that come to no file allow none.
    ///
    /// A name stands for its file in every directory of the search path, so that a script which names its
    /// interpreter by path is not refused because another directory comes first.
    pub(super) fn resolve(&mut self, ask: &mut dyn FnMut(&ExecQuery) -> Resolution) {
        let (mut files, mut pins) = (Vec::new(), Vec::new());
        for (entry, role) in &self.entries {
            let pinned = match entry {
                ExecEntry::Pin { blake3, .. } => Some(blake3),
                _ => None,
            };
            for path in self.places_of(entry) {
                let query = ExecQuery {
                    word: path.to_string_lossy().into_owned(),
                    cwd: PathBuf::from("/"),
                    search_path: self.search_path.clone(),
                    digest: pinned.is_some(),
                };
                let found = ask(&query).ok().and_then(|chain| chain.into_iter().next());
                pins.extend(pinned.map(|expected| Pin::new(&path, expected, found.as_ref())));
                files.extend(found.map(|found| AllowedFile {
                    name: base_name(&path).to_owned(),
                    file: found.file,
                    role: *role,
                }));
            }
        }
        (self.files, self.pins) = (files, pins);
    }

    /// Where an entry's file may be.
    fn places_of(&self, entry: &ExecEntry) -> Vec<PathBuf> {
        match entry {
            ExecEntry::Name(name) => self.search_path.iter().map(|dir| dir.join(name)).collect(),
            ExecEntry::Path(path) | ExecEntry::Pin { path, .. } => vec![path.clone()],
            ExecEntry::Set(_) | ExecEntry::Glob(_) => Vec::new(),
        }
    }

    pub(super) fn judge(&self, role: Role, file: &ResolvedFile) -> Verdict {
        if let Some(pin) = self.broken_pin(file) {
            return Verdict::OtherContent { found: pin };
        }
        if self.allows(role, file) {
            return Verdict::Allowed;
        }
        let called = base_name(Path::new(&file.called));
        let fitting = || self.files.iter().filter(|allowed| allowed.role >= role);
        if let Some(allowed) = fitting().find(|allowed| is_same(&allowed.file, &file.file)) {
            return Verdict::OtherName { name: allowed.name.clone() };
        }
        match fitting().find(|allowed| allowed.name == called) {
            Some(allowed) => Verdict::OtherFile { path: allowed.file.path.clone() },
            None => Verdict::NotListed,
        }
    }

    fn allows(&self, role: Role, file: &ResolvedFile) -> bool {
        let called = base_name(Path::new(&file.called));
        let target = base_name(&file.file.path);
        let by_file = self.files.iter().any(|allowed| {
            let one_name = same_family(called, &allowed.name)
                && same_family(called, target)
                && same_family(called, base_name(&allowed.file.path));
            allowed.role >= role && is_same(&allowed.file, &file.file) && (called == allowed.name || one_name)
        });
        let by_glob = || {
            self.globs.iter().any(|glob| {
                let target_fits = same_family(called, target) && glob.matches(&file.file.path);
                target_fits || glob.matches(&file.found)
            })
        };
        by_file || by_glob() || self.is_own(file)
    }

    /// A link below the project directory is its owner's too, and so is what it leads to if he or root owns
    /// that: a virtual environment's `python` lies elsewhere.
    fn is_own(&self, file: &ResolvedFile) -> bool {
        self.own.as_ref().is_some_and(|own| {
            let is_below = [&file.found, &file.found_in].iter().any(|path| path.starts_with(&own.project));
            is_below && (file.owner_uid == own.uid || file.owner_uid == 0)
        })
    }

    /// The digest that was found in place of the pinned one, if any. A pin binds whatever else allows the file;
    /// of several for one file one must hold.
    fn broken_pin(&self, file: &ResolvedFile) -> Option<Option<String>> {
        let places = [file.found.as_path(), &place_of(file)];
        let binding = self.pins.iter().filter(|pin| pin.binds(&file.file, &places));
        let verdicts: Result<Vec<_>, ()> = binding.map(|pin| pin.holds(&file.file).err().ok_or(())).collect();
        verdicts.ok()?.into_iter().next()
    }

    /// Whether the entries name what was executed, whatever file has that name today.
    pub(super) fn grants(&self, role: Role, executed: &Executed<'_>) -> bool {
        if self.is_unpinned(executed.file) {
            return false;
        }
        let target = base_name(&executed.file.path);
        let called = executed.called.map_or(target, |called| base_name(Path::new(called)));
        let places = [executed.found.as_deref(), executed.found_in];
        let by_entry = || {
            let fitting = self.entries.iter().filter(|(_, highest)| *highest >= role);
            fitting.into_iter().any(|(entry, _)| self.names(entry, called, executed))
        };
        let by_glob = || {
            self.globs.iter().any(|glob| {
                let target_fits = same_family(called, target) && glob.matches(&executed.file.path);
                target_fits || executed.found.as_deref().is_some_and(|found| glob.matches(found))
            })
        };
        let is_own = || {
            self.own.as_ref().is_some_and(|own| {
                let mut paths = places.iter().flatten().copied().chain([executed.file.path.as_path()]);
                paths.any(|path| path.starts_with(&own.project))
            })
        };
        by_entry() || by_glob() || is_own()
    }

    fn names(&self, entry: &ExecEntry, called: &str, executed: &Executed<'_>) -> bool {
        let target = base_name(&executed.file.path);
        let leads_there = |name: &str| {
            let is_it = |file: &FileIdentity| file.path == executed.file.path || is_same(file, executed.file);
            self.files.iter().any(|allowed| allowed.name == name && is_it(&allowed.file))
        };
        match entry {
            ExecEntry::Name(listed) => {
                let one_name = same_family(called, listed) && same_family(called, target);
                let is_bare = !executed.called.is_some_and(|called| called.contains('/'));
                let is_on_path = || {
                    let directory = executed.found.as_deref().and_then(Path::parent);
                    directory.is_some_and(|directory| self.search_path.iter().any(|dir| dir == directory))
                };
                (called == listed || one_name) && (is_bare || is_on_path() || leads_there(listed))
                    || executed.called.is_none() && leads_there(listed)
            }
            ExecEntry::Path(path) | ExecEntry::Pin { path, .. } => {
                let is_it = executed.file.path == *path || leads_there(base_name(path));
                executed.found.as_ref() == Some(path) || is_it && same_family(called, base_name(path))
            }
            ExecEntry::Set(_) | ExecEntry::Glob(_) => false,
        }
    }

    /// This very content is known, and a pin wants another.
    fn is_unpinned(&self, file: &FileIdentity) -> bool {
        let mut binding = self.pins.iter().filter(|pin| pin.binds(file, &[file.path.as_path()])).peekable();
        binding.peek().is_some() && binding.all(|pin| pin.holds(file).is_err())
    }

    /// Whether a running leader may have become this: under which name it was called is not known.
    pub(super) fn may_run(&self, image: &Image) -> bool {
        if image.here.as_ref().is_some_and(|here| self.broken_pin(here).is_some()) {
            return false;
        }
        self.files.iter().any(|allowed| is_same(&allowed.file, &image.exe))
            || self.globs.iter().any(|glob| image.here.is_some() && glob.matches(&image.exe.path))
            || self.is_own_image(image)
    }

    /// Below one user's project, or a runtime of the list wherever he keeps it: a launcher may become that, as
    /// version managers do, and nobody else could have put it there.
    fn is_own_image(&self, image: &Image) -> bool {
        let Some(own) = &self.own else { return false };
        let name = base_name(&image.exe.path);
        let is_runtime = || {
            let mut names = self.entries.iter().map(|(entry, _)| entry);
            names.any(|entry| matches!(entry, ExecEntry::Name(listed) if same_family(listed, name)))
        };
        match &image.here {
            Some(here) => {
                let is_his = here.owner_uid == own.uid || here.owner_uid == 0;
                self.is_own(here) || (is_his && is_runtime())
            }
            // What he builds anew while it runs is his still.
            None => image.is_deleted && (image.exe.path.starts_with(&own.project) || is_runtime()),
        }
    }
}

/// What a running leader executes.
pub(super) struct Image {
    /// The path is the one that the process shows, without the note that it is deleted: in a mount namespace of
    /// its own that is a text of its choice.
    pub(super) exe: FileIdentity,
    pub(super) is_deleted: bool,
    /// That very file, found at that path from our side.
    pub(super) here: Option<ResolvedFile>,
}

/// The same file by device and inode.
pub(super) fn is_same(a: &FileIdentity, b: &FileIdentity) -> bool {
    (a.dev, a.inode) == (b.dev, b.inode)
}

/// The file name; the empty text for `/`.
pub(super) fn base_name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

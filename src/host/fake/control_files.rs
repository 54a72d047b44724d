//! What a test does to the files and executables of the machine.
//!
//! Paths are absolute, or start at the first root. Every change is told to the reconciler as inotify would
//! tell it, unless file events are lost.

use std::path::{Path, PathBuf};

use super::FakeHost;
use super::files::Tree;
use super::world::FileEvents;
use crate::host::{Dirty, Event};

impl FakeHost {
    /// Writes a manifest in place.
    pub fn write(&self, path: impl AsRef<Path>, text: &str) {
        self.change(path.as_ref(), "write", |tree, path, now| tree.write(path, text, now));
    }

    /// Removes a file, or a directory with all below it.
    pub fn remove(&self, path: impl AsRef<Path>) {
        self.change(path.as_ref(), "remove", |tree, path, _| {
            tree.remove(path);
            path.to_owned()
        });
    }

    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) {
        let from = self.world.borrow().tree.absolute(from.as_ref());
        self.change(to.as_ref(), "rename to", |tree, to, now| {
            tree.rename(&from, to, now);
            to.to_owned()
        });
        self.world.borrow_mut().changed(Dirty::Paths(vec![from]));
    }

    /// Changes its times and nothing else.
    pub fn touch(&self, path: impl AsRef<Path>) {
        self.change(path.as_ref(), "touch", |tree, path, now| {
            tree.touch(path, now);
            path.to_owned()
        });
    }

    pub fn make_unreadable(&self, path: impl AsRef<Path>) {
        self.set_readable(path.as_ref(), "chmod 0", false);
    }

    pub fn make_readable(&self, path: impl AsRef<Path>) {
        self.set_readable(path.as_ref(), "chmod +r", true);
    }

    fn set_readable(&self, path: &Path, what: &str, readable: bool) {
        self.change(path, what, |tree, path, now| {
            tree.set_readable(path, readable, now);
            path.to_owned()
        });
    }

    /// The directory is moved away, with all that is in it.
    pub fn lose_root(&self, root: impl AsRef<Path>) {
        self.change(root.as_ref(), "lose", |tree, root, _| {
            tree.lose(root);
            root.to_owned()
        });
    }

    /// An empty directory with another inode is in its place, as when a mount is gone.
    pub fn replace_root_empty(&self, root: impl AsRef<Path>) {
        self.change(root.as_ref(), "replace by an empty directory", |tree, root, now| {
            tree.replace_empty(root, now);
            root.to_owned()
        });
    }

    /// What was lost or replaced is back, as it was.
    pub fn bring_back(&self, root: impl AsRef<Path>) {
        self.change(root.as_ref(), "bring back", |tree, root, _| {
            tree.bring_back(root);
            root.to_owned()
        });
    }

    /// A git begins to change the worktree: its lock is there, and nobody is told of that.
    pub fn begin_checkout(&self) {
        self.world.borrow_mut().tree.checkout = Some(PathBuf::from("/srv/app/.git/index.lock"));
    }

    pub fn end_checkout(&self) {
        self.world.borrow_mut().tree.checkout = None;
    }

    pub fn add_root(&self, root: impl AsRef<Path>) {
        let mut world = self.world.borrow_mut();
        let now = world.clock.wall_ns();
        world.tree.add_root(root.as_ref(), now);
    }

    /// From now on changes are told to nobody: only a full scan sees them.
    pub fn lose_file_events(&self) {
        self.world.borrow_mut().file_events = FileEvents::Lost;
    }

    pub fn deliver_file_events(&self) {
        self.world.borrow_mut().file_events = FileEvents::Delivered;
    }

    /// The queue of file events has overflowed.
    pub fn overflow_file_events(&self) {
        self.world.borrow_mut().queue(Event::Changed(Dirty::Everything));
    }

    fn change(&self, path: &Path, what: &str, work: impl FnOnce(&mut Tree, &Path, i64) -> PathBuf) {
        let mut world = self.world.borrow_mut();
        let path = world.tree.absolute(path);
        world.tell(format_args!("file      {what} {}", path.display()));
        let now = world.clock.wall_ns();
        let changed = work(&mut world.tree, &path, now);
        if world.is_watched(&changed) {
            world.changed(Dirty::Paths(vec![changed]));
        }
    }

    /// A command word that is found no more; a bare name, or absolute.
    pub fn remove_executable(&self, word: &str) {
        self.world.borrow_mut().executables.remove(word);
    }

    /// Another file under the same name, or one in place of what was removed; what runs keeps the old one.
    pub fn replace_executable(&self, word: &str) {
        self.world.borrow_mut().executables.replace(word);
    }

    pub fn make_script(&self, word: &str, interpreter: &str) {
        self.world.borrow_mut().executables.make_script(word, interpreter);
    }
}

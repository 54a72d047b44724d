//! The accepted manifest texts: `accepted/<blake3>.toml`, byte for byte.
//!
//! A text is there before the record that names it, and stays while anything does. What is read is checked
//! against its name: a text that changed on disk is no text. Called by `ledger_file`.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use crate::host::{StateLayout, durable};
use crate::identity::Digest;

#[derive(Debug, Default)]
pub(super) struct Texts {
    /// Kept by us, and perhaps not yet named by a record.
    fresh: BTreeSet<Digest>,
    /// Texts that a crash of the machine would still lose.
    unsynced: Vec<Digest>,
}

impl Texts {
    /// Nothing is written if the text is there.
    pub(super) fn keep(&mut self, layout: &StateLayout, digest: &Digest, text: &str) -> io::Result<()> {
        self.fresh.insert(digest.clone());
        if read(layout, digest).is_some() {
            return Ok(());
        }
        durable::make_private_directory(&layout.accepted_dir())?;
        durable::replace_unsynced(&layout.accepted(digest), text.as_bytes())?;
        self.unsynced.push(digest.clone());
        Ok(())
    }

    /// Puts new texts on disk: before a record that is synced.
    pub(super) fn sync(&mut self, layout: &StateLayout) -> io::Result<()> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        for digest in &self.unsynced {
            match fs::File::open(layout.accepted(digest)) {
                // Nothing names it any more.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                text => text?.sync_all()?,
            }
        }
        durable::sync_directory(&layout.accepted_dir())?;
        self.unsynced.clear();
        Ok(())
    }

    /// A record names it now.
    pub(super) fn named(&mut self, digest: &Digest) {
        self.fresh.remove(digest);
    }

    /// Removes every text that neither the ledger names nor a record is about to.
    pub(super) fn collect(&self, layout: &StateLayout, named: &BTreeSet<&Digest>) -> io::Result<()> {
        let needed: BTreeSet<String> =
            named.iter().copied().chain(&self.fresh).map(|digest| format!("{digest}.toml")).collect();
        let listing = match fs::read_dir(layout.accepted_dir()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            listing => listing?,
        };
        for file in listing {
            let file = file?;
            let is_needed = file.file_name().to_str().is_some_and(|name| needed.contains(name));
            if !is_needed && file.file_type()?.is_file() {
                fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }
}

/// `None` if it is not there, or no longer what its name says.
pub(super) fn read(layout: &StateLayout, digest: &Digest) -> Option<String> {
    let text = fs::read_to_string(layout.accepted(digest)).ok()?;
    (Digest::of(text.as_bytes()) == *digest).then_some(text)
}

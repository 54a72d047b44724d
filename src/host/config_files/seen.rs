//! Whether the configuration has changed since it was read: every place that one could be at, absent ones too.
//!
//! A file is stamped from the descriptor that was read, and everything else before anything was read: a change
//! meanwhile is seen as one. Called by the watcher before each pass; no more than one stat(2) for each place.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::host::watch::is_remote;

/// The places of a configuration as they were when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    places: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    /// `None`: nothing was there.
    version: Option<Version>,
    in_force: bool,
    /// It was in force, and its absence was told.
    gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    file: (u64, u64),
    ctime: (i64, i64),
    size: u64,
}

/// What has become of the places of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    None,
    /// It is to be read again.
    Changed,
    /// A file in force is not there, told once. An editor may be about to put it back: nothing is to be read
    /// until it is there again.
    Gone(PathBuf),
}

impl Seen {
    pub(super) fn look(paths: impl Iterator<Item = PathBuf>) -> Self {
        let place = |path: PathBuf| Place { version: look(&path), path, in_force: false, gone: false };
        Self { places: paths.map(place).collect() }
    }

    /// Where one could be, and its changes are told of. What others change without our kernel's knowledge is looked at
    /// before each pass, which is no reason to look at everything all the time.
    pub fn places(&self) -> impl Iterator<Item = PathBuf> {
        // The working directory stays what it is.
        let places = self.places.iter().filter_map(|place| std::path::absolute(&place.path).ok());
        places.filter(|path| !is_remote(path))
    }

    /// This file was read, and is in force.
    pub(super) fn was_read(&mut self, path: &Path, metadata: &Metadata) {
        for place in self.places.iter_mut().filter(|place| place.path == path) {
            place.version = Some(Version::of(metadata));
            place.in_force = true;
        }
    }

    /// Looks at every place.
    pub fn change(&mut self) -> Change {
        let now: Vec<Option<Version>> = self.places.iter().map(|place| look(&place.path)).collect();
        let mut change = Change::None;
        for (place, now) in self.places.iter_mut().zip(&now) {
            let is_gone = place.in_force && now.is_none();
            if is_gone && !place.gone {
                change = Change::Gone(place.path.clone());
            }
            place.gone = is_gone;
        }
        let differs = self.places.iter().zip(&now).any(|(place, now)| place.version != *now);
        if differs && !self.places.iter().any(|place| place.gone) { Change::Changed } else { change }
    }

    /// A file in force that was not there when a newer version was read.
    pub fn lost_in(&self, newer: &Self) -> Option<&Path> {
        let is_absent = |path: &Path| newer.places.iter().any(|p| p.path == path && p.version.is_none());
        let lost = self.places.iter().find(|place| place.in_force && is_absent(&place.path));
        lost.map(|place| place.path.as_path())
    }

    /// Takes what is there now for what was read: it cannot be used, and that was told.
    pub fn look_again(&mut self) {
        for place in &mut self.places {
            place.version = look(&place.path);
            place.gone = place.in_force && place.version.is_none();
        }
    }
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
        }
    }
}

fn look(path: &Path) -> Option<Version> {
    std::fs::metadata(path).ok().map(|metadata| Version::of(&metadata))
}

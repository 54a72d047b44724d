//! `validate`: what is wrong with manifests, all those of a directory or some by their names. Needs no state.
//!
//! A directory is checked as a root, with the project around it. A file is checked among its neighbours, since another
//! one may declare the same service, and only its own problems are told. Called by `commands`.

use std::path::{Path, PathBuf};

use super::options::Options;
use super::place::Place;
use super::preview::preview;
use super::session::OpenError;
use super::status::ManifestStatus;
use crate::host::scan::{Named, named};

/// Checks what the paths name, or all below the roots, under the policy in force; ordered by path.
pub fn validate(options: &Options, paths: &[PathBuf]) -> Result<Vec<ManifestStatus>, OpenError> {
    if paths.is_empty() {
        return below_roots(options);
    }
    let mut found = Vec::new();
    let (mut directories, mut files) = (Vec::new(), Vec::new());
    for path in paths {
        match named(path) {
            Named::Directory(path) => directories.push(path),
            Named::File(path) => files.push(path),
            Named::Nothing { path, cause } => found.push(ManifestStatus::not_there(&path, &cause)),
        }
    }
    directories = in_their_roots(options, directories, &mut found)?;
    if !directories.is_empty() {
        found.extend(below_roots(&Options { manifests: directories, ..options.clone() })?);
    }
    files.retain(|file| !found.iter().any(|manifest| manifest.path == *file));
    found.extend(by_name(options, files)?);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.dedup_by(|a, b| a.path == b.path);
    Ok(found)
}

/// Checks directories below a root as part of it, for their templates may stand elsewhere in it; returns the others, and
/// those of which the root loads nothing.
fn in_their_roots(
    options: &Options,
    directories: Vec<PathBuf>,
    found: &mut Vec<ManifestStatus>,
) -> Result<Vec<PathBuf>, OpenError> {
    let roots: Vec<PathBuf> = Place::of(options).roots.iter().map(|root| root.path().to_owned()).collect();
    let is_below = |directory: &PathBuf| {
        roots.iter().any(|root| directory.starts_with(root)) && !roots.contains(directory)
    };
    let (below, mut others): (Vec<PathBuf>, Vec<PathBuf>) = directories.into_iter().partition(is_below);
    if below.is_empty() {
        return Ok(others);
    }
    let all = below_roots(options)?;
    for directory in below {
        let before = found.len();
        found.extend(all.iter().filter(|manifest| manifest.path.starts_with(&directory)).cloned());
        if found.len() == before {
            others.push(directory);
        }
    }
    Ok(others)
}

fn below_roots(options: &Options) -> Result<Vec<ManifestStatus>, OpenError> {
    let mut reconciler = preview(options, &Place::of(options), None)?;
    reconciler.is_strict = true;
    Ok(reconciler.previewed().manifests)
}

/// Files of one tree are looked at as one root, or what is below two roots would be declared twice. What such a
/// root does not load, for instance of `_drafts`, is looked at by itself then.
fn by_name(options: &Options, mut files: Vec<PathBuf>) -> Result<Vec<ManifestStatus>, OpenError> {
    let place = Place::of(options);
    let project_dir = options.project_dir.clone().or(Some(place.project_dir));
    // Templates are those of its root.
    let mut roots: Vec<PathBuf> = place.roots.iter().map(|root| root.path().to_owned()).collect();
    let mut found = Vec::new();
    while !files.is_empty() {
        let manifests = outermost(&files, &roots);
        let options = Options { manifests, project_dir: project_dir.clone(), ..options.clone() };
        let before = files.len();
        for manifest in below_roots(&options)? {
            if let Some(at) = files.iter().position(|file| *file == manifest.path) {
                files.remove(at);
                found.push(manifest);
            }
        }
        let had_roots = !std::mem::take(&mut roots).is_empty();
        if files.len() == before && !had_roots {
            found.extend(files.drain(..).map(|file| ManifestStatus::not_loaded(&file)));
        }
    }
    Ok(found)
}

/// The roots that the files are below, else their directories; without those below another.
fn outermost(files: &[PathBuf], roots: &[PathBuf]) -> Vec<PathBuf> {
    let around = |file: &'_ PathBuf| roots.iter().find(|root| file.starts_with(root)).cloned();
    let mut directories: Vec<PathBuf> =
        files.iter().filter_map(|file| around(file).or_else(|| file.parent().map(Path::to_owned))).collect();
    directories.sort();
    // A directory comes right before what is below it.
    directories.dedup_by(|below, above| below.starts_with(above));
    directories
}

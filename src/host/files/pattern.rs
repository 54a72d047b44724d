//! Names with wildcards, and the paths by which a change of what they stand for shows itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

use super::digests::MAX_FILES;
use crate::host::watch::way_to;

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

    pub(super) fn has_wildcards(&self) -> bool {
        self.names.is_some()
    }

    pub fn fits(&self, path: &Path) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let (Some(names), Some(name)) = (&self.names, path.file_name()) else { return false };
        (self.is_of_hidden || !name.as_bytes().starts_with(b".")) && names.is_match(name)
    }
}

/// Whatever becomes of these paths becomes of one of these files, also where one is a link, or comes later.
pub fn ways_to(files: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let mut paths = BTreeSet::new();
    for path in files {
        let pattern = Pattern::of(path);
        if pattern.has_wildcards() {
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
    use super::*;

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
}

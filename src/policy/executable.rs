//! An entry of `executables`: what the operator wrote, before it is resolved to a file.
//!
//! Also the rule by which names are versions of one name. Pure.

use std::fmt;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

use crate::manifest::escape;

/// One entry of `executables`, or one `--allow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEntry {
    Set(NamedSet),
    /// Looked for in every directory of the search path.
    Name(String),
    /// Absolute.
    Path(PathBuf),
    /// Absolute; matched against paths, so it may name files that are not there yet.
    Glob(Pattern),
    /// A path whose file must have this content.
    Pin {
        path: PathBuf,
        /// 64 lower-case hexadecimal digits.
        blake3: String,
    },
}

/// A list by name, to build on instead of copying it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedSet {
    /// What is allowed where no `executables` are given.
    Default,
    /// What `preset = "agents"` allows.
    Agents,
}

impl ExecEntry {
    /// Parses a name, an absolute path, an absolute glob, or the name of a set (`@default`, `@agents`);
    /// `Err` is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') {
            return Err("it names nothing".to_owned());
        }
        match text {
            "@default" => return Ok(Self::Set(NamedSet::Default)),
            "@agents" => return Ok(Self::Set(NamedSet::Agents)),
            _ if text.starts_with('@') => {
                let set = escape(text);
                return Err(format!("there is no set `{set}`; the sets are `@default` and `@agents`"));
            }
            _ => {}
        }
        let is_glob = text.contains(['*', '?', '[', '{']);
        match (text.contains('/'), text.starts_with('/')) {
            (true, false) => Err("a path is absolute here".to_owned()),
            (false, _) if is_glob => Err("a pattern is an absolute path, as `/usr/bin/python3*`".to_owned()),
            (false, _) if matches!(text, "." | "..") => Err("it names a directory".to_owned()),
            (false, _) => Ok(Self::Name(text.to_owned())),
            (true, true) if has_dots(Path::new(text)) => Err("a path has no `..` here".to_owned()),
            (true, true) if is_glob => Pattern::parse(text).map(Self::Glob),
            (true, true) => Ok(Self::Path(PathBuf::from(text))),
        }
    }

    /// Parses a pin; `Err` is a sentence.
    pub fn pin(path: &str, blake3: &str) -> Result<Self, String> {
        let Self::Path(path) = Self::parse(path)? else {
            return Err("a pin is the absolute path of one file".to_owned());
        };
        let is_digest = blake3.len() == 64 && blake3.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_digest {
            return Err("`blake3` is 64 hexadecimal digits, as `b3sum FILE` prints them".to_owned());
        }
        Ok(Self::Pin { path, blake3: blake3.to_ascii_lowercase() })
    }

    /// True if `self`, as text, can be something that `ceiling` grants. Files decide when it is resolved;
    /// this is only for a word of warning beforehand.
    pub(super) fn may_be_within(&self, ceiling: &[Self]) -> bool {
        let own_name = self.name();
        ceiling.iter().any(|granted| match (granted, self) {
            (Self::Set(_), _) => true,
            (Self::Glob(pattern), Self::Path(path) | Self::Pin { path, .. }) => pattern.matches(path),
            (Self::Glob(granted), Self::Glob(own)) => granted == own,
            (Self::Glob(_), _) => true,
            _ => matches!((granted.name(), own_name), (Some(a), Some(b)) if same_family(a, b)),
        })
    }

    /// The file name, where the entry has one.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Path(path) | Self::Pin { path, .. } => path.file_name()?.to_str(),
            Self::Set(_) | Self::Glob(_) => None,
        }
    }
}

/// As it is written in the configuration.
impl fmt::Display for ExecEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: String| toml::Value::String(text).to_string();
        match self {
            Self::Set(NamedSet::Default) => f.write_str("\"@default\""),
            Self::Set(NamedSet::Agents) => f.write_str("\"@agents\""),
            Self::Name(name) => f.write_str(&quoted(name.clone())),
            Self::Path(path) => f.write_str(&quoted(path.display().to_string())),
            Self::Glob(pattern) => f.write_str(&quoted(pattern.text.clone())),
            Self::Pin { path, blake3 } => {
                write!(f, "{{ path = {}, blake3 = \"{blake3}\" }}", quoted(path.display().to_string()))
            }
        }
    }
}

/// A glob over absolute paths; `*` stays within one directory, `**` does not.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    matcher: GlobMatcher,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let glob = GlobBuilder::new(text)
            .literal_separator(true)
            .build()
            .map_err(|error| format!("not a pattern: {}", error.kind()))?;
        Ok(Self { text: text.to_owned(), matcher: glob.compile_matcher() })
    }

    /// A path with `..` in it never matches: it may lead anywhere.
    pub(super) fn matches(&self, path: &Path) -> bool {
        !has_dots(path) && self.matcher.is_match(path)
    }
}

fn has_dots(path: &Path) -> bool {
    path.components().any(|part| matches!(part, std::path::Component::ParentDir))
}

/// The name without a version at its end: `python` for `python3.11`, `node` for `node-18`.
fn family(name: &str) -> &str {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let has_version = name[stem.len()..].contains(|c: char| c.is_ascii_digit());
    if !has_version {
        return name;
    }
    let stem = stem.strip_suffix("-v").or_else(|| stem.strip_suffix('-')).unwrap_or(stem);
    if stem.is_empty() { name } else { stem }
}

/// True for `python`, `python3` and `python3.11`.
pub(super) fn same_family(a: &str, b: &str) -> bool {
    a == b || family(a) == family(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_one_name_share_a_family() {
        for (a, b) in [
            ("python", "python3"),
            ("python3", "python3.11"),
            ("node", "node-18"),
            ("node", "node-v18.2.0"),
            ("clang++", "clang++-14"),
            ("perl", "perl5.36.0"),
        ] {
            assert!(same_family(a, b), "{a} and {b}");
        }
        for (a, b) in
            [("node", "nodemon"), ("npm", "npx"), ("7z", "7"), ("python3-config", "python3"), ("a.", "a")]
        {
            assert!(!same_family(a, b), "{a} and {b}");
        }
    }

    #[test]
    fn an_entry_is_a_name_a_path_a_glob_or_a_set() {
        assert_eq!(ExecEntry::parse("node"), Ok(ExecEntry::Name("node".into())));
        assert_eq!(ExecEntry::parse("/usr/bin/node"), Ok(ExecEntry::Path("/usr/bin/node".into())));
        assert!(matches!(ExecEntry::parse("/opt/*/bin/node"), Ok(ExecEntry::Glob(_))));
        assert_eq!(ExecEntry::parse("@agents"), Ok(ExecEntry::Set(NamedSet::Agents)));
        for bad in
            ["", "./server", "bin/server", "python*", "@nodes", "/opt/../bin/x", "/opt/[", "..", "a\0b"]
        {
            assert!(ExecEntry::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_pin_is_one_path_and_a_whole_digest() {
        let digest = "AB".repeat(32);
        let pin = ExecEntry::pin("/opt/x", &digest).unwrap();
        assert_eq!(pin, ExecEntry::Pin { path: "/opt/x".into(), blake3: "ab".repeat(32) });
        assert!(ExecEntry::pin("/opt/x", "abc").is_err());
        assert!(ExecEntry::pin("/opt/*", &digest).is_err());
        assert!(ExecEntry::pin("node", &digest).is_err());
    }

    #[test]
    fn a_glob_stays_in_its_directory_and_never_matches_dots() {
        let pattern = Pattern::parse("/srv/*/bin/server").unwrap();
        assert!(pattern.matches(Path::new("/srv/a/bin/server")));
        assert!(!pattern.matches(Path::new("/srv/a/b/bin/server")));
        let deep = Pattern::parse("/opt/apps/**").unwrap();
        assert!(deep.matches(Path::new("/opt/apps/a/b/c")));
        assert!(!deep.matches(Path::new("/opt/apps/../../tmp/evil")));
    }

    #[test]
    fn an_entry_is_shown_as_it_is_written() {
        for text in ["node", "/usr/bin/node", "/opt/*/x", "@default"] {
            assert_eq!(ExecEntry::parse(text).unwrap().to_string(), format!("\"{text}\""));
        }
        let pin = ExecEntry::pin("/x", &"0".repeat(64)).unwrap();
        assert_eq!(pin.to_string(), format!("{{ path = \"/x\", blake3 = \"{}\" }}", "0".repeat(64)));
    }
}

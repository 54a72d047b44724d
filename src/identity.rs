//! Who is who: services, processes, boots and instances.
//!
//! Plain values with their checks; no I/O. Every other room uses these, so that a name which is not a
//! name and a pid that must not be signalled cannot be expressed further in.
//! Sources: proc(5) for field 22 of `/proc/PID/stat`, pid_namespaces(7).

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The project a service belongs to when its manifest names none.
pub const DEFAULT_PROJECT: &str = "default";

/// The longest service or project name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Why a text is not a service identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name is not empty")]
    Empty,
    #[error("a name has at most {MAX_NAME_BYTES} characters, this has {0}")]
    TooLong(usize),
    #[error("a name is lower-case letters, digits and single hyphens between them, like `web-2`")]
    BadCharacters,
}

/// Checks that `text` matches `[a-z0-9]+(-[a-z0-9]+)*` and has at most [`MAX_NAME_BYTES`] bytes.
pub fn check_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong(text.chars().count()));
    }
    let words_are_good = text
        .split('-')
        .all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    if words_are_good { Ok(()) } else { Err(NameError::BadCharacters) }
}

/// In the environment of whatever is started: `<instance>:<project/name>:<nonce>`. Helps to find, and proves nothing.
pub const SPAWN_MARK: &str = "RECONCILE_SPAWN";

/// The identity of a service, `project/name`; cheap to clone.
///
/// Ordered by project, then name. `Display` shows the plain name for the project `default`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ServiceId {
    key: Arc<str>,
    slash: u8,
}

impl ServiceId {
    pub fn new(project: &str, name: &str) -> Result<Self, NameError> {
        check_name(project)?;
        check_name(name)?;
        Ok(Self { key: format!("{project}/{name}").into(), slash: project.len() as u8 })
    }

    /// Parses `name` (in the project `default`) or `project/name`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((project, name)) => Self::new(project, name),
            None => Self::new(DEFAULT_PROJECT, text),
        }
    }

    pub fn project(&self) -> &str {
        &self.key[..self.slash as usize]
    }

    pub fn name(&self) -> &str {
        &self.key[self.slash as usize + 1..]
    }

    /// `project/name`, always with the project: the form in files and environments.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// `project.name`: the form in file names and cgroup names; both parts are free of dots.
    pub fn file_stem(&self) -> String {
        format!("{}.{}", self.project(), self.name())
    }

    /// The service that a file of this stem belongs to, if it is of that form.
    pub fn from_file_stem(stem: &str) -> Option<Self> {
        let (project, name) = stem.split_once('.')?;
        Self::new(project, name).ok()
    }
}

impl Ord for ServiceId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        if self.slash == other.slash {
            // Nearly always: then one comparison of both parts is the same.
            return self.key.cmp(&other.key);
        }
        (self.project(), self.name()).cmp(&(other.project(), other.name()))
    }
}

impl PartialOrd for ServiceId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if self.project() == DEFAULT_PROJECT { self.name() } else { self.key() })
    }
}

impl fmt::Debug for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

impl Serialize for ServiceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.key())
    }
}

impl<'de> Deserialize<'de> for ServiceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        with_str(deserializer, Self::parse)
    }
}

/// A process id that may be a target: never 0, 1 or negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Pid(i32);

impl Pid {
    /// `None` for 0, 1 and negative numbers, which name groups, everybody and init.
    pub fn new(raw: i32) -> Option<Self> {
        (raw > 1).then_some(Self(raw))
    }

    pub fn get(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Pid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = i32::deserialize(deserializer)?;
        Self::new(raw).ok_or_else(|| D::Error::custom(format!("{raw} is not a pid that may be a target")))
    }
}

/// The kernel's boot id (`/proc/sys/kernel/random/boot_id`): new with every boot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct BootId(Arc<str>);

impl BootId {
    pub fn new(text: &str) -> Self {
        thread_local! {
            /// Every stamp and every process names its boot, nearly always the one that was named before.
            static NEWEST: RefCell<BootId> = RefCell::new(BootId("".into()));
        }
        let text = text.trim();
        NEWEST.with_borrow_mut(|newest| {
            if *newest.0 != *text {
                *newest = Self(text.into());
            }
            newest.clone()
        })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for BootId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        with_str(deserializer, |text| Ok::<_, NameError>(Self::new(text)))
    }
}

/// One process for ever: no two processes of all boots and pid namespaces share all four parts.
///
/// A pid alone is recycled within seconds; with its start time it is unique within one boot
/// (proc(5), field 22; the clock tick is 10 ms, and a pid wraps in over a second).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    pub pid: Pid,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    pub boot: BootId,
    /// Inode of the pid namespace the pid was seen in.
    pub pid_ns: u64,
}

/// Sixteen hexadecimal digits that name one spawn; drawn fresh by the host for each.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce([u8; 16]);

impl Nonce {
    pub fn from_u64(value: u64) -> Self {
        let digit = |place: usize| b"0123456789abcdef"[(value >> (60 - 4 * place)) as usize & 0xf];
        Self(std::array::from_fn(digit))
    }

    /// `None` unless `text` is sixteen lower-case hexadecimal digits: a nonce becomes a file name.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: [u8; 16] = text.as_bytes().try_into().ok()?;
        digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(digits))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("made of digits alone")
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        with_str(deserializer, |text| Self::parse(text).ok_or_else(|| format!("`{text}` is not a nonce")))
    }
}

/// Names one state directory for its life: the owner of every claim in its ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    pub fn from_u64(value: u64) -> Self {
        Self(format!("{value:016x}").into())
    }

    /// `None` unless `text` is sixteen lower-case hexadecimal digits, as every id that is drawn.
    pub fn parse(text: &str) -> Option<Self> {
        Nonce::parse(text).map(|nonce| Self(nonce.as_str().into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A blake3 digest as 64 hexadecimal digits; names an accepted manifest text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(Arc<str>);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).to_hex().as_str().into())
    }

    /// One that nobody without the key can work out.
    pub fn keyed(key: &[u8; 32], bytes: &[u8]) -> Self {
        Self(blake3::keyed_hash(key, bytes).to_hex().as_str().into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes a value of a text that is not kept.
fn with_str<'de, D: Deserializer<'de>, T, E: fmt::Display>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    struct Text<F, T>(F, PhantomData<T>);
    impl<T, E: fmt::Display, F: FnOnce(&str) -> Result<T, E>> Visitor<'_> for Text<F, T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<X: serde::de::Error>(self, text: &str) -> Result<T, X> {
            (self.0)(text).map_err(X::custom)
        }
    }
    deserializer.deserialize_str(Text(parse, PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kebab_case_and_bounded() {
        for good in ["a", "web-2", "0", &"a".repeat(64)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["-a", "a-", "a--b", "A", "a.b", "a/b", "ä", ".."] {
            assert_eq!(check_name(bad), Err(NameError::BadCharacters), "{bad}");
        }
        assert_eq!(check_name(""), Err(NameError::Empty));
        assert_eq!(check_name(&"a".repeat(65)), Err(NameError::TooLong(65)));
    }

    #[test]
    fn service_identity_shows_its_project_only_when_it_is_not_the_default() {
        assert_eq!(ServiceId::parse("web").unwrap().to_string(), "web");
        assert_eq!(ServiceId::parse("web").unwrap().key(), "default/web");
        assert_eq!(ServiceId::parse("shop/web").unwrap().to_string(), "shop/web");
    }

    #[test]
    fn init_groups_and_everybody_are_never_targets() {
        for raw in [i32::MIN, -1, 0, 1] {
            assert_eq!(Pid::new(raw), None);
            assert!(serde_json::from_str::<Pid>(&raw.to_string()).is_err());
        }
        assert!(Pid::new(2).is_some());
    }
}

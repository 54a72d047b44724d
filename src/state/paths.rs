//! Paths in records: text where they are UTF-8, `{"bytes": "<hex>"}` where they are not.
//!
//! A file name is any bytes; serde's own form refuses to write those that are not UTF-8, and a record that
//! cannot be written is a service that cannot be started. For `#[serde(with = "crate::state::paths")]`; pure.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is not UTF-8.
#[derive(Serialize, Deserialize)]
struct Raw {
    bytes: String,
}

pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => serializer.serialize_str(text),
        None => Raw { bytes: hex(path.as_os_str().as_bytes()) }.serialize(serializer),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    struct Form;
    impl<'de> Visitor<'de> for Form {
        type Value = PathBuf;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a path, as text or as its bytes")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<PathBuf, E> {
            Ok(text.into())
        }

        fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<PathBuf, M::Error> {
            let Raw { bytes } = Raw::deserialize(MapAccessDeserializer::new(map))?;
            let bytes =
                unhex(&bytes).ok_or_else(|| M::Error::custom(format!("`{bytes}` is not hexadecimal")))?;
            Ok(OsString::from_vec(bytes).into())
        }
    }
    deserializer.deserialize_any(Form)
}

/// For a path that may be absent.
pub(crate) mod option {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Given(#[serde(with = "super")] PathBuf);

    #[expect(clippy::ref_option, reason = "the signature is serde's")]
    pub(crate) fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.clone().map(Given).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Given>::deserialize(deserializer)?.map(|Given(path)| path))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all that is written to it");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holder {
        #[serde(with = "super")]
        path: PathBuf,
    }

    fn round_trip(bytes: &[u8]) -> String {
        let before = Holder { path: OsString::from_vec(bytes.to_vec()).into() };
        let json = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<Holder>(&json).unwrap(), before);
        json
    }

    #[test]
    fn every_path_comes_back() {
        assert_eq!(round_trip("/srv/ä b".as_bytes()), r#"{"path":"/srv/ä b"}"#);
        assert_eq!(round_trip(b"/srv/\xff\x00x"), r#"{"path":{"bytes":"2f7372762fff0078"}}"#);
        assert_eq!(round_trip(b"line\nfeed"), r#"{"path":"line\nfeed"}"#);
    }

    #[test]
    fn what_is_not_hexadecimal_is_an_error() {
        for bad in ["0", "0g", "xx"] {
            assert!(serde_json::from_str::<Holder>(&format!(r#"{{"path":{{"bytes":"{bad}"}}}}"#)).is_err());
        }
    }
}

//! The key of the state directory, by which secrets are told apart: `secret.key`, 32 bytes, mode 0600.
//!
//! Made for the first service that has a secret, and never replaced: what is derived of it is in use elsewhere.

use std::fs;
use std::io::ErrorKind;

use super::cause::plain;
use super::clock::Random;
use super::{StateLayout, durable};
use crate::state::SecretKey;

/// The key, if there is one; `Err` is a sentence.
pub fn read(layout: &StateLayout) -> Result<Option<SecretKey>, String> {
    let path = layout.secret_key();
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{} cannot be read: {}", path.display(), plain(&error))),
    };
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| {
        format!(
            "{} is no key of 32 bytes; put it back from a backup, or remove it for a new one",
            path.display()
        )
    })?;
    Ok(Some(SecretKey::from(bytes)))
}

/// The key, made if there is none.
pub fn read_or_make(layout: &StateLayout, random: &mut Random) -> Result<SecretKey, String> {
    if let Some(key) = read(layout)? {
        return Ok(key);
    }
    let (path, bytes) = (layout.secret_key(), random.key());
    let written = durable::replace(&path, &bytes);
    written.map_err(|error| format!("{} cannot be written: {}", path.display(), plain(&error)))?;
    Ok(SecretKey::from(bytes))
}

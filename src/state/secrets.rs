//! The key of an instance, by which secrets are told apart and derived.
//!
//! Pure: bytes in, digests out. What a keyed digest is of cannot be guessed by trying, as that of a short password could.

use std::fmt;

use crate::identity::{Digest, InstanceId, ServiceId};

/// 32 random bytes that nobody else has.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey([u8; 32]);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}

impl From<[u8; 32]> for SecretKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl SecretKey {
    /// Tells keys apart: digests of two are not to be compared.
    pub fn id(&self) -> Digest {
        self.keyed(&["key"])
    }

    pub fn digest(&self, name: &str, value: &str) -> Digest {
        self.keyed(&["digest", name, value])
    }

    /// The secret of this label, the same for as long as the key is.
    pub fn derive(&self, instance: &InstanceId, service: &ServiceId, label: &str) -> String {
        self.keyed(&["derive", instance.as_str(), service.key(), label]).as_str().to_owned()
    }

    /// No two lists of texts are one.
    fn keyed(&self, texts: &[&str]) -> Digest {
        let mut bytes = Vec::new();
        for text in texts {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        Digest::keyed(&self.0, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_derived_differs_by_key_instance_service_and_label() {
        let of = |key: u8, instance, project, name, label| {
            let service = ServiceId::new(project, name).unwrap();
            SecretKey::from([key; 32]).derive(&InstanceId::from_u64(instance), &service, label)
        };
        let one = of(1, 1, "default", "web", "a");
        assert_eq!(one.len(), 64);
        assert_eq!(one, of(1, 1, "default", "web", "a"));
        for other in [
            of(2, 1, "default", "web", "a"),
            of(1, 2, "default", "web", "a"),
            of(1, 1, "shop", "web", "a"),
            of(1, 1, "default", "api", "a"),
            of(1, 1, "default", "web", "b"),
        ] {
            assert_ne!(one, other);
        }
    }

    /// Services have what was derived, and so have those that they talk to.
    #[test]
    fn what_is_derived_stays_what_it_is() {
        let service = ServiceId::new("default", "web").unwrap();
        let derived = SecretKey::from([7; 32]).derive(&InstanceId::from_u64(1), &service, "webhook");
        assert_eq!(derived, "54a7092557be76fa9b7e2c84f0fd444ed255b3cc85a75d13fe491b94248619ff");
        assert_eq!(format!("{:?}", SecretKey::from([7; 32])), "SecretKey");
    }
}

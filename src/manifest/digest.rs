//! Fingerprint and digests of a spec: what of it has changed, without keeping the old one.
//!
//! Over a canonical form of allow-listed fields as written, never a resolved path or an inherited value.
//! Fields at their default are left out, so that a field added later with its default changes nothing.
//! Fingerprints are kept in ledgers for ever: a change of this form is a new version prefix, and the golden
//! fingerprints under `tests/fixtures` say whether there was one.

use std::collections::BTreeMap;

use serde_json::Value;

use super::fields::{Class, Field, fields, with_defaults_beside};
use super::spec::Spec;

/// `v1:` and the blake3 digest of the fields of class restart.
pub fn fingerprint(spec: &Spec) -> String {
    format!("v1:{}", hash(spec, |field| field.class == Class::Restart).to_hex())
}

/// Over the fields of class live.
pub fn live_digest(spec: &Spec) -> u64 {
    short(hash(spec, |field| field.class == Class::Live))
}

/// Over the fields of `restart` and `health`: a service parked as `failed` is tried again when it changes.
pub fn parking_digest(spec: &Spec) -> u64 {
    short(hash(spec, |field| field.path.starts_with("restart.") || field.path.starts_with("health.")))
}

/// The fields that differ, in the order of the reference manifest.
pub fn changed_fields(old: &Spec, new: &Spec) -> Vec<(&'static str, Class)> {
    let differs = |field: &&Field| (field.value)(old) != (field.value)(new);
    fields().filter(differs).map(|field| (field.path, field.class)).collect()
}

fn hash(spec: &Spec, included: impl Fn(&Field) -> bool) -> blake3::Hash {
    // By path, so that the order of the table does not count.
    let canonical: BTreeMap<&str, Value> = with_defaults_beside(spec)
        .filter(|(field, _)| included(field))
        .map(|(field, default)| (field, default, (field.value)(spec)))
        .filter(|(_, default, value)| !value.is_null() && value != *default)
        .map(|(field, _, value)| (field.path, value))
        .collect();
    let text = serde_json::to_vec(&canonical).expect("a map of JSON values with text keys serialises");
    blake3::hash(&text)
}

fn short(hash: blake3::Hash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::load;

    /// The canonical form in full: what every fingerprint of version 1 is a digest of.
    #[test]
    fn a_fingerprint_is_the_digest_of_what_differs_from_the_defaults() {
        let of = |fields: &str| {
            let loaded = load(&format!("[service.web]\n{fields}"));
            assert_eq!(loaded.problems, []);
            fingerprint(&loaded.services[0].spec)
        };
        let digest = |canonical: &str| format!("v1:{}", blake3::hash(canonical.as_bytes()).to_hex());
        assert_eq!(of("command = 'node server.js'"), digest(r#"{"command":["node","server.js"]}"#));
        assert_eq!(
            of("command = 'a | b'\nshell = true\numask = '77'\nstdin = 'null'\nttl = '1h'\n\
                env = { B = '{{name}}', A = 'ü' }\nlimits = { cpu = '60m', core = '1KiB', nofile = 'unlimited' }"),
            digest(
                r#"{"command":["a | b"],"env":{"A":"ü","B":"{{name}}"},"limits.core":1024,"limits.cpu":"1h","limits.nofile":"unlimited","shell":true,"umask":"077"}"#
            )
        );
    }
}

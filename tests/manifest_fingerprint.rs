//! Fingerprints are for ever: those of the committed services stay what they are.
//!
//! A failure here means that an upgrade restarts services whose manifests nobody touched. If a change of the
//! canonical form cannot be avoided it needs a new version prefix, and a comparison by `changed_fields` of the
//! accepted texts in place of the fingerprints of the older version.

use std::collections::BTreeMap;

use reconcile::manifest::{Spec, fingerprint, load};

const SERVICES: &str = include_str!("fixtures/fingerprints.toml");
/// A service and its fingerprint a line.
const GOLDEN: &str = include_str!("fixtures/fingerprints.golden");

fn specs() -> Vec<Spec> {
    let loaded = load(SERVICES);
    assert_eq!(loaded.problems, []);
    loaded.services.into_iter().map(|declared| declared.spec).collect()
}

#[test]
fn committed_fingerprints_stay_what_they_are() {
    let now: String = specs().iter().map(|spec| format!("{} {}\n", spec.id, fingerprint(spec))).collect();
    assert_eq!(now, GOLDEN);
}

#[test]
fn a_fingerprint_depends_on_the_fields_of_class_restart_alone() {
    let of: BTreeMap<String, String> =
        specs().iter().map(|spec| (spec.id.to_string(), fingerprint(spec))).collect();
    assert_eq!(of["minimal"], of["minimal-live"]);
    assert_eq!(of["minimal"], of["shop/other-project"], "the project is part of the identity");
    assert_ne!(of["shell"], of["login-shell"]);
}

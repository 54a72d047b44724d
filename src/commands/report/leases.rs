//! Who holds what: the table of `lease list`, and its JSON.

use jiff::tz::TimeZone;
use serde::Serialize;

use super::escape::visible;
use super::style::{Cell, STRONG, columns};
use super::units::local;
use crate::reconciler::status::{LeaseStatus, VERSION};

/// One holder, with the services that it holds.
#[derive(Debug, Serialize)]
pub struct LeaseView<'a> {
    #[serde(flatten)]
    pub lease: &'a LeaseStatus,
    pub services: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
pub struct LeasesView<'a> {
    version: u32,
    leases: Vec<LeaseView<'a>>,
}

impl<'a> LeasesView<'a> {
    pub fn new(leases: Vec<LeaseView<'a>>) -> Self {
        Self { version: VERSION, leases }
    }
}

const HEADINGS: [&str; 5] = ["LEASE", "HOLDER", "SERVICES", "SINCE", "EXPIRES"];

/// A line a holder; nothing but a word where nobody holds anything.
pub fn leases(leases: &[LeaseView<'_>], zone: &TimeZone) -> String {
    if leases.is_empty() {
        return "nothing is leased\n".to_owned();
    }
    let mut rows = vec![HEADINGS.map(|heading| Cell::new(heading).style(STRONG)).to_vec()];
    rows.extend(leases.iter().map(|LeaseView { lease, services }| {
        vec![
            Cell::new(visible(&lease.id)),
            Cell::new(visible(&lease.holder)),
            Cell::new(services.join(",")),
            Cell::new(local(&lease.since, zone)),
            Cell::new(expiry(lease, zone)),
        ]
    }));
    columns(&rows)
}

/// When it ends by itself.
pub fn expiry(lease: &LeaseStatus, zone: &TimeZone) -> String {
    lease.expires_at.as_deref().map_or_else(|| "it ends".to_owned(), |at| local(at, zone))
}

pub fn held_until(owner: &str, at: &str, zone: &TimeZone) -> String {
    format!("held by {} until {}", visible(owner), local(at, zone))
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn every_holder_is_on_a_line_with_what_it_holds() {
        let [process, owner] = samples::leases();
        let shown = [
            LeaseView { lease: &process, services: vec!["db", "web"] },
            LeaseView { lease: &owner, services: vec!["db"] },
        ];
        let text = anstream::adapter::strip_str(&leases(&shown, &TimeZone::UTC)).to_string();
        insta::assert_snapshot!(text);
        assert_eq!(leases(&[], &TimeZone::UTC), "nothing is leased\n");
    }

    #[test]
    fn the_list_has_the_published_shape() {
        let [process, owner] = samples::leases();
        let shown = vec![
            LeaseView { lease: &process, services: vec!["db", "web"] },
            LeaseView { lease: &owner, services: vec!["db"] },
        ];
        insta::assert_snapshot!(serde_json::to_string_pretty(&LeasesView::new(shown)).unwrap());
    }
}

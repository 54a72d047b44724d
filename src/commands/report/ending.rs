//! What ends with a unit of a service manager, and how to keep it from that.

use super::escape::visible;
use super::style::{CHANGE, STRONG, paint};
use crate::host::cgroup::{Ends, Unit};

/// More names than this are counted.
const MOST_NAMES: usize = 5;

/// `names` are of services, and of whatever else of ours is in the unit. Without a line end.
pub fn ending(unit: &Unit, names: &[&str]) -> String {
    let who = those(names);
    let verb = if names.len() == 1 { ("is", "ends") } else { ("are", "end") };
    let name = visible(&unit.name);
    format!(
        "{}: {who} {} part of {name} and {} with it, {}\n{}: {}",
        paint(CHANGE, "warning"),
        verb.0,
        verb.1,
        unit.ends,
        paint(STRONG, "help"),
        help(unit.ends)
    )
}

/// `names` are of services that we leave behind as the first process of a container. Without a line end.
pub fn ending_with_us(names: &[&str]) -> String {
    let verb = if names.len() == 1 { "ends" } else { "end" };
    format!(
        "{}: {} {verb} with this process, the first of its pid namespace (a container's entry point)\n{}: \
         `reconcile up` as the entry point keeps services running",
        paint(CHANGE, "warning"),
        those(names),
        paint(STRONG, "help"),
    )
}

fn those(names: &[&str]) -> String {
    if names.len() > MOST_NAMES { format!("{} services", names.len()) } else { names.join(", ") }
}

fn help(ends: Ends) -> &'static str {
    match ends {
        Ends::AtLogout => {
            "services go on if started by `systemd-run --user --scope reconcile ...` after `loginctl enable-linger`"
        }
        Ends::AtLastLogout => "`loginctl enable-linger` makes it stay",
        Ends::WhenStopped => {
            "services go on if started by root, by `systemd-run --user --scope reconcile ...`, or where a cgroup \
             above it is delegated to you"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(unit: &str, ends: Ends, names: &[&str]) -> String {
        let unit = Unit { name: unit.to_owned(), ends };
        anstream::adapter::strip_str(&ending(&unit, names)).to_string()
    }

    #[test]
    fn it_says_what_ends_with_what_and_what_to_do() {
        assert_eq!(
            plain("user@7.service", Ends::AtLastLogout, &["web"]),
            "warning: web is part of user@7.service and ends with it, with the last session of its user\n\
             help: `loginctl enable-linger` makes it stay"
        );
        let two = plain("session-3.scope", Ends::AtLogout, &["db", "web"]);
        assert!(
            two.starts_with("warning: db, web are part of session-3.scope and end with it, at logout\n"),
            "{two}"
        );
        let many = plain("a\u{1b}.service", Ends::WhenStopped, &["web"; 20]);
        assert!(
            many.starts_with("warning: 20 services are part of a\\x1b.service and end with it, when"),
            "{many}"
        );
    }
}

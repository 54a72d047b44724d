//! The table of all services.

use jiff::tz::TimeZone;

use super::escape::visible;
use super::style::{CHANGE, Cell, STRONG, columns, of_phase, word};
use super::units::{bytes, local, uptime};
use crate::reconciler::status::ServiceStatus;

const HEADINGS: [(&str, bool); 10] = [
    ("NAME", false),
    ("PHASE", false),
    ("PID", true),
    ("UPTIME", true),
    ("RESTARTS", true),
    ("CPU", true),
    ("MEMORY", true),
    ("PORTS", false),
    ("SINCE", false),
    ("REASON", false),
];

/// One line a service, under headings; empty if there is none. A `-` is what does not apply or is unknown.
pub fn table(services: &[ServiceStatus], zone: &TimeZone) -> String {
    if services.is_empty() {
        return String::new();
    }
    let headings = HEADINGS.iter().map(|(heading, right)| {
        let cell = Cell::new(*heading).style(STRONG);
        if *right { cell.right() } else { cell }
    });
    let mut rows = vec![headings.collect()];
    rows.extend(services.iter().map(|service| row(service, zone)));
    columns(&rows)
}

fn row(service: &ServiceStatus, zone: &TimeZone) -> Vec<Cell> {
    let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let restarts = Cell::new(service.restarts.to_string()).right();
    vec![
        Cell::new(service.name.clone()),
        Cell::new(word(service.phase)).style(of_phase(service.phase)),
        Cell::new(known(service.pid.map(|pid| pid.to_string()))).right(),
        Cell::new(known(service.uptime_s.map(uptime))).right(),
        if service.restarts > 0 { restarts.style(CHANGE) } else { restarts },
        Cell::new(known(service.cpu_percent.map(|cpu| format!("{cpu:.1}%")))).right(),
        Cell::new(known(service.memory_bytes.map(bytes))).right(),
        Cell::new(known(ports(service))),
        Cell::new(known(since(service).map(|at| local(at, zone)))),
        Cell::new(reason(service)),
    ]
}

fn ports(service: &ServiceStatus) -> Option<String> {
    let ports = service.ports.iter().map(|(name, port)| format!("{}={port}", visible(name)));
    let ports: Vec<_> = ports.collect();
    (!ports.is_empty()).then(|| ports.join(" "))
}

/// Since when it has run, or has not.
fn since(service: &ServiceStatus) -> Option<&str> {
    let ended = service.last_exit.as_ref().map(|exit| exit.at.as_str());
    if service.pid.is_some() { service.started_at.as_deref() } else { ended }
}

fn reason(service: &ServiceStatus) -> String {
    let drift = service.drift.iter().map(|drift| drift.message.as_str());
    let all: Vec<&str> = std::iter::once(service.message.as_str()).chain(drift).collect();
    visible(&all.join("; ")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn the_table_is_aligned_and_ends_with_the_reason() {
        let text = table(&samples::status().services, &TimeZone::UTC);
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
    }

    #[test]
    fn no_service_is_no_table() {
        assert_eq!(table(&[], &TimeZone::UTC), "");
    }
}

//! The table of all services.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use super::escape::visible;
use super::style::{CHANGE, Cell, GAP, STRONG, columns, of_phase, widths, word};
use super::units::{bytes, local, uptime};
use crate::reconciler::status::ServiceStatus;

/// Heading, whether its column is aligned to the right, and the place in the order in which columns are left out
/// where there is no room.
const HEADINGS: [(&str, bool, Option<u8>); 10] = [
    ("NAME", false, None),
    ("PHASE", false, None),
    ("PID", true, Some(7)),
    ("UPTIME", true, Some(6)),
    ("RESTARTS", true, Some(5)),
    ("CPU", true, Some(3)),
    ("MEMORY", true, Some(4)),
    ("PORTS", false, Some(2)),
    ("SINCE", false, Some(1)),
    ("REASON", false, None),
];

/// The column that is wrapped.
const REASON: usize = HEADINGS.len() - 1;

/// Less than this of a reason cannot be read; other columns make room for it first.
const LEAST_REASON: usize = 30;

/// One line a service, under headings; empty if there is none. A `-` is what does not apply or is unknown.
///
/// In `width` columns, if that is given: those that matter least are left out, and reasons are wrapped.
pub fn table(services: &[ServiceStatus], zone: &TimeZone, width: Option<usize>) -> String {
    if services.is_empty() {
        return String::new();
    }
    let headings = HEADINGS.iter().map(|(heading, right, _)| {
        let cell = Cell::new(*heading).style(STRONG);
        if *right { cell.right() } else { cell }
    });
    let mut rows = vec![headings.collect::<Vec<_>>()];
    rows.extend(services.iter().map(|service| row(service, zone)));
    if let Some(width) = width {
        fit(&mut rows, width);
    }
    columns(&rows)
}

fn fit(rows: &mut Vec<Vec<Cell>>, width: usize) {
    let widths = widths(rows);
    let mut leave_out: Vec<(u8, usize)> =
        HEADINGS.iter().enumerate().filter_map(|(column, (_, _, place))| Some(((*place)?, column))).collect();
    leave_out.sort_unstable();
    let mut kept: Vec<usize> = (0..HEADINGS.len()).collect();
    let before_reason = |kept: &[usize]| -> usize {
        kept.iter().filter(|column| **column != REASON).map(|column| widths[*column] + GAP).sum()
    };
    for (_, column) in leave_out {
        if before_reason(&kept) + widths[REASON].min(LEAST_REASON) <= width {
            break;
        }
        kept.retain(|other| *other != column);
    }
    let room = width.saturating_sub(before_reason(&kept)).max(LEAST_REASON / 2);
    let fitted = rows.drain(..).flat_map(|mut row| {
        let reason = row.pop().map(|cell| cell.wrap(room)).unwrap_or_default();
        let others: Vec<Cell> = kept.iter().filter_map(|column| row.get(*column).cloned()).collect();
        let blank = vec![Cell::new(""); others.len()];
        reason.into_iter().enumerate().map(move |(line, cell)| {
            let mut row = if line == 0 { others.clone() } else { blank.clone() };
            row.push(cell);
            row
        })
    });
    *rows = fitted.collect();
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
    // Several under one name have an entry each, `agent` and `agent[1]`: shown by the first and the last.
    let mut blocks: BTreeMap<&str, (u16, u16)> = BTreeMap::new();
    for (name, port) in &service.ports {
        let name = name.split_once('[').map_or(name.as_str(), |(name, _)| name);
        let (first, last) = blocks.entry(name).or_insert((*port, *port));
        (*first, *last) = ((*first).min(*port), (*last).max(*port));
    }
    let shown = |(name, (first, last)): (&str, (u16, u16))| match first == last {
        true => format!("{}={first}", visible(name)),
        false => format!("{}={first}-{last}", visible(name)),
    };
    let ports: Vec<_> = blocks.into_iter().map(shown).collect();
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
        let text = table(&samples::status().services, &TimeZone::UTC, None);
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
    }

    #[test]
    fn in_a_narrow_terminal_the_reason_is_what_stays() {
        for (width, columns) in [(200, 10), (120, 10), (80, 6), (60, 4), (20, 3)] {
            let text = table(&samples::status().services, &TimeZone::UTC, Some(width));
            let text = anstream::adapter::strip_str(&text).to_string();
            let headings: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
            assert_eq!(headings.len(), columns, "{width}:\n{text}");
            assert_eq!((headings[0], headings[1], headings[columns - 1]), ("NAME", "PHASE", "REASON"));
            let longest = text.lines().map(|line| line.chars().count()).max();
            assert!(longest <= Some(width.max(40)), "{width}:\n{text}");
            let words: Vec<&str> = text.split_whitespace().collect();
            assert!(words.contains(&"start`") && words.contains(&"2s"), "every reason is whole: {text}");
        }
    }

    #[test]
    fn several_ports_under_one_name_are_shown_as_a_range() {
        let numbers = [("agent", 9), ("agent[1]", 10), ("agent[10]", 19), ("agent[2]", 11), ("http", 80)];
        let ports_of = numbers.map(|(name, port)| (name.to_owned(), port)).into();
        let service = ServiceStatus { ports: ports_of, ..samples::web() };
        assert_eq!(ports(&service).as_deref(), Some("agent=9-19 http=80"));
    }

    #[test]
    fn no_service_is_no_table() {
        assert_eq!(table(&[], &TimeZone::UTC, Some(80)), "");
    }
}

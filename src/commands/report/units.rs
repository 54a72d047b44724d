//! Numbers and times for people.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::reconciler::status::LastExit;
use crate::time::human;

/// `45.0 MiB`; bytes below a kibibyte are `512 B`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

pub fn uptime(seconds: u64) -> String {
    human(Duration::from_secs(seconds))
}

/// An RFC 3339 time in the given zone, `2026-08-22 12:00:00`; what is no time is shown as it is.
pub fn local(rfc3339: &str, zone: &TimeZone) -> String {
    match rfc3339.parse::<Timestamp>() {
        Ok(time) => time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => rfc3339.to_owned(),
    }
}

pub fn last_exit(exit: &LastExit) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

/// `1 service`, `3 services`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_aloud() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(45 * 1024 * 1024), "45.0 MiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn a_time_that_is_none_is_shown_as_it_is() {
        assert_eq!(local("2026-08-22T10:00:00.000Z", &TimeZone::UTC), "2026-08-22 10:00:00");
        assert_eq!(local("soon", &TimeZone::UTC), "soon");
    }
}

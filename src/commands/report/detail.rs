//! Everything about one service.

use jiff::tz::TimeZone;

use super::escape::visible;
use super::leases::expiry;
use super::style::{Cell, FAINT, STRONG, columns, of_phase, paint, word};
use super::units::{bytes, last_exit, local, uptime};
use crate::reconciler::status::{DependencyStatus, HealthStatus, ServiceStatus};

/// One line a fact, what is unknown or does not apply left out.
pub fn detail(service: &ServiceStatus, zone: &TimeZone) -> String {
    let mut facts = Facts::default();
    facts.add("pid", service.pid);
    facts.add("uptime", service.uptime_s.map(uptime));
    facts.add("started", service.started_at.as_deref().map(|at| local(at, zone)));
    facts.add("restarts", Some(service.restarts));
    facts.add("failures", failures(service));
    facts.add(
        "last exit",
        service.last_exit.as_ref().map(|exit| format!("{} at {}", last_exit(exit), local(&exit.at, zone))),
    );
    facts.add("health", service.health.as_ref().map(|health| describe(health, zone)));
    let said = service.health.as_ref().and_then(|health| health.status.as_deref());
    facts.add("says", said);
    facts.add("expires", service.ttl_expires_at.as_deref().map(|at| local(at, zone)));
    service.depends_on.iter().for_each(|dependency| facts.add("depends on", Some(wanted(dependency))));
    service.leases.iter().for_each(|lease| {
        facts.add("leased by", Some(format!("{} until {}", lease.holder, expiry(lease, zone))));
    });
    facts.add("url", service.url.as_deref());
    service.ports.iter().for_each(|(name, port)| facts.add(&format!("port {name}"), Some(port)));
    service.sockets.iter().for_each(|(name, at)| facts.add(&format!("socket {name}"), Some(at)));
    facts.add("cpu", service.cpu_percent.map(|cpu| format!("{cpu:.1}%")));
    facts.add("memory", service.memory_bytes.map(bytes));
    facts.add("manifest", service.manifest.as_ref().map(|path| path.display()));
    facts.add("fingerprint", service.fingerprint.as_deref());
    facts.add("log", Some(service.log.display()));
    facts.add("held by", service.containment.as_deref());
    service
        .drift
        .iter()
        .for_each(|drift| facts.add("drift", Some(format!("{} ({})", drift.message, drift.code))));
    service.labels.iter().for_each(|(key, value)| facts.add(&format!("label {key}"), Some(value)));
    service.attrs.iter().for_each(|(key, value)| facts.add(&format!("attr {key}"), Some(value)));

    let phase = paint(of_phase(service.phase), &word(service.phase));
    let message = visible(&service.message);
    let reason = paint(FAINT, &format!("({})", visible(&service.reason)));
    format!("{} is {phase}: {message} {reason}\n{}", paint(STRONG, &service.name), columns(&facts.rows))
}

#[derive(Default)]
struct Facts {
    rows: Vec<Vec<Cell>>,
}

impl Facts {
    fn add(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        let Some(value) = value else { return };
        let name = Cell::new(format!("  {}", visible(name))).style(FAINT);
        self.rows.push(vec![name, Cell::new(visible(&value.to_string()))]);
    }
}

fn wanted(dependency: &DependencyStatus) -> String {
    let restart = if dependency.restart { ", restarted with it" } else { "" };
    format!("{} ({}{restart})", dependency.service, word(dependency.condition))
}

fn failures(service: &ServiceStatus) -> Option<String> {
    let most = service.failures_max.map_or_else(String::new, |max| format!(" of {max}"));
    (service.failures > 0).then(|| format!("{}{most} in a row", service.failures))
}

fn describe(health: &HealthStatus, zone: &TimeZone) -> String {
    let state = if health.ready { "ready" } else { "not ready" };
    let probed = match &health.last_probe_at {
        Some(at) => format!("last probe {}", local(at, zone)),
        None if health.ready => "not probed since it was left".to_owned(),
        None => "not probed yet".to_owned(),
    };
    let error = health.last_error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
    format!("{state}, {probed}{error}")
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn plain(service: &ServiceStatus) -> String {
        anstream::adapter::strip_str(&detail(service, &TimeZone::UTC)).to_string()
    }

    #[test]
    fn everything_known_is_shown_and_what_others_wrote_is_escaped() {
        insta::assert_snapshot!(plain(&samples::web()));
    }

    #[test]
    fn what_is_unknown_is_left_out() {
        insta::assert_snapshot!(plain(&samples::db()));
    }
}

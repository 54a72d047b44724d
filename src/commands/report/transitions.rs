//! What has changed between two looks at the status, for people who watch a terminal.

use super::escape::visible;
use super::style::{STRONG, of_phase, paint, word};
use crate::reconciler::status::{ServiceStatus, Status};

/// A line for each service whose phase changed, that is new, or that is gone.
pub fn transitions(before: Option<&Status>, now: &Status) -> Vec<String> {
    let known = |name: &str| before.and_then(|status| status.services.iter().find(|s| s.name == name));
    let mut lines: Vec<String> = now
        .services
        .iter()
        .filter(|service| known(&service.name).map(|old| old.phase) != Some(service.phase))
        .map(entered)
        .collect();
    let gone = before
        .into_iter()
        .flat_map(|status| &status.services)
        .filter(|old| !now.services.iter().any(|service| service.name == old.name));
    lines.extend(gone.map(|old| format!("{} is gone", paint(STRONG, &old.name))));
    lines
}

fn entered(service: &ServiceStatus) -> String {
    let phase = paint(of_phase(service.phase), &word(service.phase));
    format!("{} is {phase}: {}", paint(STRONG, &service.name), visible(&service.message))
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use crate::plan::Phase;

    fn plain(before: Option<&Status>, now: &Status) -> Vec<String> {
        transitions(before, now).iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect()
    }

    #[test]
    fn only_what_changed_is_told() {
        let before = samples::status();
        assert_eq!(plain(Some(&before), &before), Vec::<String>::new());
        let mut now = before.clone();
        now.services.remove(0);
        now.services[0].phase = Phase::Unhealthy;
        now.services[0].message = "3 health checks in a row failed: refused".into();
        assert_eq!(
            plain(Some(&before), &now),
            ["web is unhealthy: 3 health checks in a row failed: refused", "old is gone"]
        );
    }

    #[test]
    fn the_first_look_tells_everything() {
        assert_eq!(plain(None, &samples::status()).len(), 3);
    }
}

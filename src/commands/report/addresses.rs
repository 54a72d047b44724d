//! Where services are to be found: the answer of `ensure`.

use super::escape::visible;
use super::style::{Cell, columns, of_phase, word};
use crate::reconciler::status::ServiceStatus;

/// One line a service: its name, its phase, and every address that it is known by.
pub fn addresses(services: &[ServiceStatus]) -> String {
    let rows: Vec<Vec<Cell>> = services.iter().map(row).collect();
    columns(&rows)
}

fn row(service: &ServiceStatus) -> Vec<Cell> {
    let url = service.url.iter().map(|url| visible(url).into_owned());
    let ports = service.ports.iter().map(|(name, port)| format!("{}={port}", visible(name)));
    let sockets = service.sockets.iter().map(|(name, at)| format!("{}={}", visible(name), visible(at)));
    let all: Vec<String> = url.chain(ports).chain(sockets).collect();
    vec![
        Cell::new(service.name.clone()),
        Cell::new(word(service.phase)).style(of_phase(service.phase)),
        Cell::new(all.join(" ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn every_address_of_a_service_is_on_its_line() {
        let text = anstream::adapter::strip_str(&addresses(&[samples::web()])).to_string();
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(
            words,
            ["web", "ready", "http://127.0.0.1:8080", "http=8080", "admin=/srv/shop/run/admin.sock"]
        );
    }
}

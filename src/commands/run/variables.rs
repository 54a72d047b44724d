//! What the command of `reconcile run` is told of the services that it holds.
//!
//! | variable | value |
//! | --- | --- |
//! | `RECONCILE_<SERVICE>_URL` | the `url` of its manifest, filled in |
//! | `RECONCILE_<SERVICE>_PORT` | its only port, or the one named `http` |
//! | `RECONCILE_<SERVICE>_PORT_<NAME>` | each port; of several in a row also `…_<NAME>_1` and so on |
//! | `RECONCILE_<SERVICE>_SOCKET_<NAME>` | each socket |
//!
//! As a service is told of its own ports. Names are in capitals, with `_` for what is no letter or digit. Two services of
//! one name have their projects in front, but for the one of the project `default`.

use std::collections::BTreeMap;

use crate::identity::DEFAULT_PROJECT;
use crate::reconciler::status::ServiceStatus;

pub fn of(services: &[ServiceStatus]) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for service in services {
        let base = base(service, services);
        let mut tell = |what: &str, value: String| variables.insert(format!("{base}_{what}"), value);
        if let Some(url) = &service.url {
            tell("URL", url.clone());
        }
        let blocks = service.ports.keys().filter(|name| !name.contains('['));
        let only = if blocks.clone().count() == 1 { blocks.clone().next() } else { None };
        if let Some(port) = only.map(String::as_str).or(Some("http")).and_then(|name| service.ports.get(name))
        {
            tell("PORT", port.to_string());
        }
        for (name, port) in &service.ports {
            tell(&format!("PORT_{}", word(name)), port.to_string());
        }
        for (name, address) in &service.sockets {
            tell(&format!("SOCKET_{}", word(name)), address.clone());
        }
    }
    variables
}

fn base(service: &ServiceStatus, services: &[ServiceStatus]) -> String {
    let name = plain(service);
    let is_alone = services.iter().filter(|other| plain(other) == name).count() == 1;
    match is_alone || service.project == DEFAULT_PROJECT {
        true => format!("RECONCILE_{}", word(name)),
        false => format!("RECONCILE_{}_{}", word(&service.project), word(name)),
    }
}

fn plain(service: &ServiceStatus) -> &str {
    service.name.rsplit('/').next().unwrap_or(&service.name)
}

/// `agent[1]` becomes `AGENT_1`.
fn word(name: &str) -> String {
    let name = name.trim_end_matches(']').to_ascii_uppercase();
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::report::samples;
    use crate::plan::Phase;

    fn told(services: &[ServiceStatus]) -> Vec<String> {
        of(services).into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    fn with_ports(name: &str, ports: &[(&str, u16)]) -> ServiceStatus {
        let ports = ports.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect();
        ServiceStatus { ports, ..samples::service(name, Phase::Running, "up") }
    }

    #[test]
    fn url_ports_and_sockets_are_told() {
        assert_eq!(
            told(&[samples::web()]),
            [
                "RECONCILE_WEB_PORT=8080",
                "RECONCILE_WEB_PORT_HTTP=8080",
                "RECONCILE_WEB_SOCKET_ADMIN=/srv/shop/run/admin.sock",
                "RECONCILE_WEB_URL=http://127.0.0.1:8080",
            ]
        );
    }

    #[test]
    fn of_several_ports_the_main_one_is_that_named_http() {
        let app = with_ports("app-1", &[("agent", 1), ("agent[1]", 2), ("http", 3)]);
        assert_eq!(
            told(&[app]),
            [
                "RECONCILE_APP_1_PORT=3",
                "RECONCILE_APP_1_PORT_AGENT=1",
                "RECONCILE_APP_1_PORT_AGENT_1=2",
                "RECONCILE_APP_1_PORT_HTTP=3",
            ]
        );
        assert_eq!(
            told(&[with_ports("db", &[("a", 1), ("b", 2)])]),
            ["RECONCILE_DB_PORT_A=1", "RECONCILE_DB_PORT_B=2"]
        );
    }

    #[test]
    fn two_of_one_name_have_their_projects_in_front() {
        let services = ["db", "shop/db", "shop/web"].map(|name| with_ports(name, &[("own", 1)]));
        assert_eq!(
            told(&services).into_iter().filter(|line| !line.contains("_OWN")).collect::<Vec<_>>(),
            ["RECONCILE_DB_PORT=1", "RECONCILE_SHOP_DB_PORT=1", "RECONCILE_WEB_PORT=1"]
        );
    }
}

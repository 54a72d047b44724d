//! Who depends on whom: as JSON, for Graphviz and for Mermaid.
//!
//! Names are letters, digits and hyphens, so nothing needs to be escaped in either language.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;

use super::style::word;
use crate::plan::Phase;
use crate::plan::graph::Graph as Links;
use crate::reconciler::status::{DependencyStatus, ServiceStatus, VERSION};

/// `graph -o json`.
#[derive(Debug, Serialize)]
pub struct Graph<'a> {
    version: u32,
    services: Vec<Node<'a>>,
}

#[derive(Debug, Serialize)]
struct Node<'a> {
    name: &'a str,
    project: &'a str,
    phase: Phase,
    /// 1 for what depends on nothing; null for what depends on a circle.
    wave: Option<u32>,
    depends_on: &'a [DependencyStatus],
}

impl<'a> Graph<'a> {
    pub fn of(services: &'a [ServiceStatus]) -> Self {
        let waves = waves(services);
        let node = |(service, wave): (&'a ServiceStatus, Option<u32>)| Node {
            name: &service.name,
            project: &service.project,
            phase: service.phase,
            wave,
            depends_on: &service.depends_on,
        };
        Self { version: VERSION, services: services.iter().zip(waves).map(node).collect() }
    }

    /// Arrows point at what is depended on; what no manifest declares is dashed.
    pub fn dot(&self) -> String {
        let mut text = "digraph services {\n  rankdir = LR;\n  node [shape = box];\n".to_owned();
        for node in &self.services {
            line(&mut text, format_args!("  \"{}\";", node.name));
        }
        for name in self.undeclared() {
            line(&mut text, format_args!("  \"{name}\" [style = dashed];"));
        }
        for (node, need) in self.arrows() {
            line(
                &mut text,
                format_args!("  \"{}\" -> \"{}\" [label = \"{}\"];", node.name, need.service, label(need)),
            );
        }
        text.push_str("}\n");
        text
    }

    pub fn mermaid(&self) -> String {
        let mut text = "graph LR\n".to_owned();
        let undeclared = self.undeclared();
        let names = self.services.iter().map(|node| node.name).chain(undeclared.iter().copied());
        let ids: BTreeMap<&str, usize> = names.zip(0..).collect();
        for (name, id) in &ids {
            line(&mut text, format_args!("  s{id}[\"{name}\"]"));
        }
        for (node, need) in self.arrows() {
            let (from, to) = (ids[node.name], ids[need.service.as_str()]);
            line(&mut text, format_args!("  s{from} -->|{}| s{to}", label(need)));
        }
        for name in undeclared {
            line(&mut text, format_args!("  style s{} stroke-dasharray: 5 5", ids[name]));
        }
        text
    }

    fn arrows(&self) -> impl Iterator<Item = (&Node<'a>, &'a DependencyStatus)> {
        self.services.iter().flat_map(|node| node.depends_on.iter().map(move |need| (node, need)))
    }

    /// What is depended on and not among the services.
    fn undeclared(&self) -> BTreeSet<&'a str> {
        let known: BTreeSet<&str> = self.services.iter().map(|node| node.name).collect();
        let needed = self.arrows().map(|(_, need)| need.service.as_str());
        needed.filter(|name| !known.contains(name)).collect()
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes all that is written");
}

fn label(need: &DependencyStatus) -> String {
    let restart = if need.restart { ", restart" } else { "" };
    format!("{}{restart}", word(need.condition))
}

fn waves(services: &[ServiceStatus]) -> Vec<Option<u32>> {
    let places: BTreeMap<&str, u32> = services.iter().map(|service| service.name.as_str()).zip(0..).collect();
    let needs = |service: &ServiceStatus| -> Vec<u32> {
        service.depends_on.iter().filter_map(|need| places.get(need.service.as_str()).copied()).collect()
    };
    let mut links = Links::default();
    services.iter().for_each(|service| links.push(needs(service)));
    let parts = links.parts();
    let mut waves = vec![None; services.len()];
    for place in parts.order.iter().copied().filter(|place| !parts.is_in_a_circle(*place)) {
        let mut before = needs(&services[place as usize]).into_iter().map(|need| waves[need as usize]);
        waves[place as usize] =
            before.try_fold(0, |most: u32, wave| Some(most.max(wave?))).map(|most| most + 1);
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use crate::manifest::Condition;

    fn services() -> Vec<ServiceStatus> {
        let need = |service: &str, condition, restart| DependencyStatus {
            service: service.to_owned(),
            condition,
            restart,
        };
        let with = |name: &str, depends_on| ServiceStatus {
            depends_on,
            ..samples::service(name, Phase::Running, "up")
        };
        vec![
            with("db", vec![]),
            with(
                "web",
                vec![need("db", Condition::Ready, true), need("shop/cache", Condition::Started, false)],
            ),
        ]
    }

    #[test]
    fn dot_is_for_graphviz() {
        assert_eq!(
            Graph::of(&services()).dot(),
            "digraph services {\n  rankdir = LR;\n  node [shape = box];\n  \"db\";\n  \"web\";\n  \
             \"shop/cache\" [style = dashed];\n  \"web\" -> \"db\" [label = \"ready, restart\"];\n  \
             \"web\" -> \"shop/cache\" [label = \"started\"];\n}\n"
        );
    }

    #[test]
    fn mermaid_names_its_nodes_by_number() {
        assert_eq!(
            Graph::of(&services()).mermaid(),
            "graph LR\n  s0[\"db\"]\n  s2[\"shop/cache\"]\n  s1[\"web\"]\n  s1 -->|ready, restart| s0\n  \
             s1 -->|started| s2\n  style s2 stroke-dasharray: 5 5\n"
        );
    }

    #[test]
    fn a_wave_comes_after_all_that_it_depends_on() {
        let mut services = services();
        services[0].depends_on = vec![];
        let of = |services: &[ServiceStatus]| waves(services);
        assert_eq!(of(&services), [Some(1), Some(2)]);
        let circular =
            DependencyStatus { service: "web".into(), condition: Condition::Ready, restart: false };
        services[0].depends_on = vec![circular];
        assert_eq!(of(&services), [None, None]);
    }
}

//! Declared ports, the numbers that a service was given for them, and the variables that tell it of them.
//!
//! What is declared is part of the spec; what is given is kept in the ledger, so that a restart keeps it, and is
//! never part of a fingerprint. Which number is given is for `plan::ports`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The most consecutive ports that one name stands for.
pub const MAX_COUNT: u16 = 100;

/// What a manifest asks for under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub number: PortNumber,
    /// Consecutive ports, at least 1.
    pub count: u16,
    /// The variable that it is exported under, in place of `PORT` and `PORT_<NAME>`.
    pub env: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortNumber {
    /// One of the configured range.
    Auto,
    Fixed(u16),
}

/// Who may listen on the ports of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortOwner {
    /// Its own processes alone.
    Own,
    Any,
}

/// The port of a TCP check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckPort {
    Number(u16),
    /// The name of a declared port, or a text with templates; as written.
    Text(String),
}

/// Consecutive ports that were given to a service. Stored for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortBlock {
    pub first: u16,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u16,
    /// The number stood in the manifest.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fixed: bool,
}

/// What a service was given, by the names in its manifest.
pub type PortBlocks = BTreeMap<String, PortBlock>;

fn one() -> u16 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_one(count: &u16) -> bool {
    *count == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

impl PortBlock {
    pub fn numbers(self) -> impl Iterator<Item = u16> {
        (0..self.count).filter_map(move |index| self.get(index))
    }

    pub fn get(self, index: u16) -> Option<u16> {
        (index < self.count).then(|| self.first.checked_add(index)).flatten()
    }
}

impl Port {
    /// What it is given without a choice.
    pub fn fixed(&self) -> Option<PortBlock> {
        match self.number {
            PortNumber::Fixed(first) => Some(PortBlock { first, count: self.count, fixed: true }),
            PortNumber::Auto => None,
        }
    }

    /// Stands for what it will be given: no text is longer with any other number.
    pub fn stand_in(&self) -> PortBlock {
        self.fixed().unwrap_or(PortBlock { first: u16::MAX - MAX_COUNT, count: self.count, fixed: false })
    }

    /// True if what was given before is what is asked for now.
    pub fn is_met_by(&self, block: PortBlock) -> bool {
        match self.number {
            PortNumber::Fixed(first) => block == PortBlock { first, count: self.count, fixed: true },
            PortNumber::Auto => !block.fixed && block.count == self.count,
        }
    }
}

/// The variables that tell of the ports, in the order of their names; those of which no number is known are left
/// out. `PORT` is the one that is named `http`, or the only one.
pub fn variables(declared: &BTreeMap<String, Port>, given: &PortBlocks) -> Vec<(String, u16)> {
    let mut variables = Vec::new();
    let main = if declared.len() == 1 {
        declared.keys().next()
    } else {
        declared.get_key_value("http").map(|(name, _)| name)
    };
    for (name, port) in declared {
        let Some(block) = number_of(name, port, given) else { continue };
        let base = port.env.clone().unwrap_or_else(|| variable_of(name));
        if port.env.is_none() && main == Some(name) {
            variables.push(("PORT".to_owned(), block.first));
        }
        variables.push((base.clone(), block.first));
        if block.count > 1 {
            variables.extend(
                (0..block.count).filter_map(|index| Some((format!("{base}_{index}"), block.get(index)?))),
            );
        }
    }
    variables
}

/// What was given, or else what the manifest says.
pub(super) fn number_of(name: &str, port: &Port, given: &PortBlocks) -> Option<PortBlock> {
    given.get(name).copied().or_else(|| port.fixed())
}

/// `PORT_<NAME>`.
pub(super) fn variable_of(name: &str) -> String {
    format!("PORT_{}", name.to_ascii_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(count: u16, env: Option<&str>) -> Port {
        Port { number: PortNumber::Auto, count, env: env.map(str::to_owned) }
    }

    fn told(declared: &[(&str, Port)], given: &[(&str, u16, u16)]) -> Vec<(String, u16)> {
        let declared = declared.iter().map(|(name, port)| ((*name).to_owned(), port.clone())).collect();
        let block = |(name, first, count): &(&str, u16, u16)| {
            ((*name).to_owned(), PortBlock { first: *first, count: *count, fixed: false })
        };
        variables(&declared, &given.iter().map(block).collect())
    }

    fn pairs(pairs: &[(&str, u16)]) -> Vec<(String, u16)> {
        pairs.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect()
    }

    #[test]
    fn a_single_port_and_the_one_named_http_are_port() {
        assert_eq!(told(&[("rpc", auto(1, None))], &[("rpc", 7, 1)]), pairs(&[("PORT", 7), ("PORT_RPC", 7)]));
        let two = [("http", auto(1, None)), ("rpc-in", auto(1, None))];
        assert_eq!(
            told(&two, &[("http", 7, 1), ("rpc-in", 9, 1)]),
            pairs(&[("PORT", 7), ("PORT_HTTP", 7), ("PORT_RPC_IN", 9)])
        );
        let neither = [("a", auto(1, None)), ("b", auto(1, None))];
        assert_eq!(told(&neither, &[("a", 7, 1), ("b", 9, 1)]), pairs(&[("PORT_A", 7), ("PORT_B", 9)]));
    }

    #[test]
    fn a_block_is_told_of_by_its_first_and_by_each() {
        assert_eq!(
            told(&[("agent", auto(2, Some("AGENT")))], &[("agent", 7, 2)]),
            pairs(&[("AGENT", 7), ("AGENT_0", 7), ("AGENT_1", 8)])
        );
    }

    #[test]
    fn what_is_not_known_is_not_told_of() {
        let fixed = Port { number: PortNumber::Fixed(80), count: 1, env: None };
        assert_eq!(told(&[("a", auto(1, None)), ("b", fixed)], &[]), pairs(&[("PORT_B", 80)]));
    }

    #[test]
    fn a_block_is_met_by_what_it_was_given_and_by_nothing_else() {
        let given = PortBlock { first: 7, count: 1, fixed: false };
        assert!(auto(1, None).is_met_by(given));
        assert!(!auto(2, None).is_met_by(given));
        let fixed = Port { number: PortNumber::Fixed(7), count: 1, env: None };
        assert!(!fixed.is_met_by(given) && !auto(1, None).is_met_by(fixed.fixed().unwrap()));
    }
}

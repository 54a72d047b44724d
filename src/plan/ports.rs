//! Which ports a service is given: what it has as long as that will do, else the first that are free.
//!
//! Pure. Nobody is stopped for a port, and a number that stands in a manifest is given or waited for. Whether a
//! port that is chosen here is still free when it is taken is for the host to find out. Called by `reconciler`
//! before a start, and to see whether one may follow.

use std::collections::{BTreeMap, BTreeSet};

use crate::manifest::{Port, PortBlock, PortBlocks, PortNumber, PortOwner, Spec};
use crate::policy::PortRange;

/// What others have, as of now.
#[derive(Debug, Clone, Default)]
pub struct PortsTaken {
    /// Not to be chosen: given to another service of ours or of others, or declared by one.
    pub reserved: BTreeSet<u16>,
    /// Another service of ours has it, and runs or is about to.
    pub in_use: BTreeSet<u16>,
    /// Somebody listens on it; not the service itself.
    pub listened: BTreeSet<u16>,
}

/// Why there are no ports for a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortShortage {
    Exhausted { name: String, count: u16 },
    Taken { name: String, port: u16 },
}

/// All that `spec` declares, beginning with what it was given before.
pub fn choose_ports(
    spec: &Spec,
    before: &PortBlocks,
    range: PortRange,
    taken: &PortsTaken,
) -> Result<PortBlocks, PortShortage> {
    let mut chosen = PortBlocks::new();
    // What stands in the manifest comes first: what is chosen goes around it.
    let (fixed, auto): (Vec<_>, Vec<_>) =
        spec.ports.iter().partition(|(_, port)| matches!(port.number, PortNumber::Fixed(_)));
    for (name, port) in fixed {
        let block = port.fixed().expect("it has a number");
        if spec.port_owner == PortOwner::Own
            && let Some(port) =
                block.numbers().find(|port| taken.listened.contains(port) || taken.in_use.contains(port))
        {
            return Err(PortShortage::Taken { name: name.clone(), port });
        }
        chosen.insert(name.clone(), block);
    }
    for (name, port) in &auto {
        let kept = before.get(*name).copied().filter(|block| port.is_met_by(*block));
        if let Some(block) =
            kept.filter(|block| is_free(*block, taken, spec.port_owner) && !overlaps(*block, &chosen))
        {
            chosen.insert((*name).clone(), block);
        }
    }
    for (name, port) in auto {
        if !chosen.contains_key(name) {
            let block = first_free(port, range, taken, &chosen)
                .ok_or_else(|| PortShortage::Exhausted { name: name.clone(), count: port.count })?;
            chosen.insert(name.clone(), block);
        }
    }
    Ok(chosen)
}

/// What a service was given may be listened on where that is its own affair.
fn is_free(block: PortBlock, taken: &PortsTaken, owner: PortOwner) -> bool {
    block.numbers().all(|port| {
        !taken.reserved.contains(&port) && (owner == PortOwner::Any || !taken.listened.contains(&port))
    })
}

fn overlaps(block: PortBlock, chosen: &BTreeMap<String, PortBlock>) -> bool {
    chosen.values().any(|other| block.numbers().any(|port| other.numbers().any(|theirs| theirs == port)))
}

fn first_free(
    port: &Port,
    range: PortRange,
    taken: &PortsTaken,
    chosen: &BTreeMap<String, PortBlock>,
) -> Option<PortBlock> {
    let is_taken = |number: u16| {
        taken.reserved.contains(&number)
            || taken.listened.contains(&number)
            || chosen.values().any(|block| block.numbers().any(|other| other == number))
    };
    let mut free = 0;
    for number in range.first..=range.last {
        free = if is_taken(number) { 0 } else { free + 1 };
        if free == port.count {
            return Some(PortBlock { first: number - (port.count - 1), count: port.count, fixed: false });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::load;
    use proptest::prelude::*;

    const RANGE: PortRange = PortRange { first: 100, last: 109 };

    fn spec(fields: &str) -> Spec {
        let loaded = load(&format!("[service.web]\ncommand = ['a']\n{fields}\n"));
        assert_eq!(loaded.problems, []);
        loaded.services.into_iter().next().unwrap().spec
    }

    fn auto(first: u16, count: u16) -> PortBlock {
        PortBlock { first, count, fixed: false }
    }

    fn given(pairs: &[(&str, PortBlock)]) -> PortBlocks {
        pairs.iter().map(|(name, block)| ((*name).to_owned(), *block)).collect()
    }

    fn reserved(ports: impl IntoIterator<Item = u16>) -> PortsTaken {
        PortsTaken { reserved: ports.into_iter().collect(), ..PortsTaken::default() }
    }

    fn listened(ports: impl IntoIterator<Item = u16>) -> PortsTaken {
        PortsTaken { listened: ports.into_iter().collect(), ..PortsTaken::default() }
    }

    fn choose(
        fields: &str,
        before: &[(&str, PortBlock)],
        taken: &PortsTaken,
    ) -> Result<PortBlocks, PortShortage> {
        choose_ports(&spec(fields), &given(before), RANGE, taken)
    }

    #[test]
    fn the_first_free_ones_are_given_around_what_others_have() {
        let pair = "ports.agent = { auto = true, count = 2 }";
        assert_eq!(
            choose("ports.http = 'auto'", &[], &reserved([100, 101])),
            Ok(given(&[("http", auto(102, 1))]))
        );
        assert_eq!(choose(pair, &[], &reserved([101, 104])), Ok(given(&[("agent", auto(102, 2))])));
        assert_eq!(choose(pair, &[], &listened([101, 103, 105, 107])), Ok(given(&[("agent", auto(108, 2))])));
        let fixed = PortBlock { first: 101, count: 1, fixed: true };
        let both = "ports = { a = { auto = true, count = 2 }, z = 101 }";
        assert_eq!(choose(both, &[], &reserved([])), Ok(given(&[("a", auto(102, 2)), ("z", fixed)])));
    }

    #[test]
    fn what_was_given_before_is_kept_until_somebody_else_has_it() {
        let before = [("http", auto(105, 1))];
        let kept = Ok(given(&before));
        let other = Ok(given(&[("http", auto(100, 1))]));
        assert_eq!(choose("ports.http = 'auto'", &before, &reserved([])), kept);
        assert_eq!(choose("ports.http = 'auto'", &before, &listened([105])), other);
        assert_eq!(choose("ports.http = 'auto'", &before, &reserved([105])), other);
        assert_eq!(choose("ports.http = 'auto'\nport_owner = 'any'", &before, &listened([105])), kept);
        let outside = [("http", auto(9000, 1))];
        assert_eq!(
            choose("ports.http = 'auto'", &outside, &reserved([])),
            Ok(given(&outside)),
            "whatever the range is by now"
        );
        assert_eq!(
            choose("ports.http = { auto = true, count = 2 }", &before, &reserved([])),
            Ok(given(&[("http", auto(100, 2))]))
        );
        let fixed = PortBlock { first: 105, count: 1, fixed: true };
        assert_eq!(choose("ports.http = 'auto'", &[("http", fixed)], &reserved([])), other);
    }

    #[test]
    fn a_number_in_the_manifest_is_given_or_waited_for() {
        let taken = |port| Err(PortShortage::Taken { name: "http".to_owned(), port });
        let fixed = PortBlock { first: 80, count: 2, fixed: true };
        let fields = "ports.http = { port = 80, count = 2 }";
        assert_eq!(
            choose(fields, &[], &reserved([80])),
            Ok(given(&[("http", fixed)])),
            "a stopped service has it"
        );
        assert_eq!(choose(fields, &[], &listened([81])), taken(81));
        let in_use = PortsTaken { in_use: BTreeSet::from([80]), ..PortsTaken::default() };
        assert_eq!(choose(fields, &[], &in_use), taken(80));
        let any = format!("{fields}\nport_owner = 'any'");
        assert_eq!(choose(&any, &[], &listened([81])), Ok(given(&[("http", fixed)])));
    }

    #[test]
    fn a_range_that_is_used_up_is_said_with_what_was_wanted() {
        let exhausted = Err(PortShortage::Exhausted { name: "p".to_owned(), count: 2 });
        assert_eq!(
            choose("ports.p = { auto = true, count = 2 }", &[], &reserved((100..110).step_by(2))),
            exhausted
        );
        assert_eq!(choose("ports.p = { auto = true, count = 2 }", &[], &reserved(100..109)), exhausted);
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_free_in_range_and_given_once(
            taken in proptest::collection::btree_set(100_u16..110, 0..8),
            counts in proptest::collection::vec(1_u16..4, 1..4),
        ) {
            let table: Vec<String> = counts.iter().enumerate()
                .map(|(n, count)| format!("p{n} = {{ auto = true, count = {count} }}")).collect();
            if let Ok(chosen) = choose(&format!("ports = {{ {} }}", table.join(", ")), &[], &reserved(taken.clone())) {
                let numbers: Vec<u16> = chosen.values().flat_map(|block| block.numbers()).collect();
                prop_assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
                prop_assert_eq!(numbers.len(), counts.iter().map(|count| usize::from(*count)).sum::<usize>());
                prop_assert!(numbers.iter().all(|number| (100..110).contains(number) && !taken.contains(number)));
            }
        }
    }
}

//! An order in which everything comes after what it needs, and the circles that have none.
//!
//! Pure, and about numbers alone: `dependencies` gives them to services, `reconciler::dependencies` to manifests. Tarjan's
//! algorithm (1972), without recursion: a chain may be as long as there are services.

/// Who needs whom: the needs of node `n` are `targets[starts[n]..starts[n + 1]]`.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    starts: Vec<u32>,
    targets: Vec<u32>,
}

/// A graph taken apart.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Every node once, what is needed first.
    pub order: Vec<u32>,
    /// The circle that a node is in, or a number that no other node has.
    part: Vec<u32>,
    /// By part.
    sizes: Vec<u32>,
}

impl Graph {
    /// The nodes are given in turn, each with what it needs.
    pub fn push(&mut self, needs: impl IntoIterator<Item = u32>) {
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        self.targets.extend(needs);
        self.starts.push(self.targets.len() as u32);
    }

    fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    pub fn parts(&self) -> Parts {
        const UNSEEN: u32 = u32::MAX;
        let count = self.len();
        let mut parts =
            Parts { order: Vec::with_capacity(count), part: vec![UNSEEN; count], sizes: Vec::new() };
        let mut found = vec![UNSEEN; count];
        let mut lowest = vec![UNSEEN; count];
        // The next need to look at, for each node on the way from the root to where we are.
        let mut path: Vec<(u32, u32)> = Vec::new();
        let mut open: Vec<u32> = Vec::new();
        let mut next = 0;
        for root in 0..count as u32 {
            if found[root as usize] != UNSEEN {
                continue;
            }
            path.push((root, self.starts[root as usize]));
            while let Some((node, at)) = path.last_mut() {
                let n = *node as usize;
                if found[n] == UNSEEN {
                    found[n] = next;
                    lowest[n] = next;
                    next += 1;
                    open.push(*node);
                }
                if *at < self.starts[n + 1] {
                    let target = self.targets[*at as usize];
                    *at += 1;
                    if found[target as usize] == UNSEEN {
                        path.push((target, self.starts[target as usize]));
                    } else if parts.part[target as usize] == UNSEEN {
                        lowest[n] = lowest[n].min(found[target as usize]);
                    }
                    continue;
                }
                path.pop();
                if let Some((parent, _)) = path.last() {
                    lowest[*parent as usize] = lowest[*parent as usize].min(lowest[n]);
                }
                if lowest[n] == found[n] {
                    parts.close(&mut open, n as u32);
                }
            }
        }
        parts
    }
}

impl Parts {
    /// Everything found since `root` is one part.
    fn close(&mut self, open: &mut Vec<u32>, root: u32) {
        let part = self.sizes.len() as u32;
        let mut size = 0;
        while let Some(node) = open.pop() {
            self.part[node as usize] = part;
            self.order.push(node);
            size += 1;
            if node == root {
                break;
            }
        }
        self.sizes.push(size);
    }

    /// True if each needs the other, directly or not.
    pub fn are_in_one_circle(&self, one: u32, other: u32) -> bool {
        one != other && self.part[one as usize] == self.part[other as usize]
    }

    pub fn is_in_a_circle(&self, node: u32) -> bool {
        self.circle_of(node).is_some()
    }

    /// Which circle it is in, if it is in any: a number that all its members have, and nobody else.
    pub fn circle_of(&self, node: u32) -> Option<u32> {
        let part = self.part[node as usize];
        (self.sizes[part as usize] > 1).then_some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(needs: &[&[u32]]) -> Parts {
        let mut graph = Graph::default();
        needs.iter().for_each(|needs| graph.push(needs.iter().copied()));
        graph.parts()
    }

    #[test]
    fn what_is_needed_comes_first() {
        assert_eq!(parts(&[&[1, 2], &[2], &[]]).order, [2, 1, 0]);
        assert_eq!(parts(&[&[], &[0], &[0, 1]]).order, [0, 1, 2]);
        assert_eq!(parts(&[]).order, [0_u32; 0]);
    }

    #[test]
    fn a_circle_has_its_members_alone() {
        // 0 needs the circle of 1, 2 and 3, which needs 4; 5 needs nothing.
        let parts = parts(&[&[1], &[2], &[3], &[1, 4], &[], &[]]);
        let circle: Vec<u32> = (0..6).filter(|node| parts.is_in_a_circle(*node)).collect();
        assert_eq!(circle, [1, 2, 3]);
        assert!(parts.are_in_one_circle(1, 3) && !parts.are_in_one_circle(0, 1));
        assert_eq!(parts.order.first(), Some(&4));
    }

    #[test]
    fn two_circles_are_two() {
        let parts = parts(&[&[1], &[0], &[3, 0], &[2]]);
        assert!(parts.are_in_one_circle(0, 1) && parts.are_in_one_circle(2, 3));
        assert!(!parts.are_in_one_circle(0, 2));
    }

    #[test]
    fn a_long_chain_is_no_deep_recursion() {
        let count = 200_000;
        let mut graph = Graph::default();
        (0..count).for_each(|node| graph.push((node + 1 < count).then_some(node + 1)));
        let order = graph.parts().order;
        assert_eq!((order[0], order.len()), (count - 1, count as usize));
    }
}

//! What a list of nodes means for this one: which is its own, which others there are, and which subnets contradict each other. Pure.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::node::Node;

/// The nodes as this one deals with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// This node.
    pub own: Node,
    /// The others, with only those subnets that no other node hands out.
    pub others: Vec<Node>,
    /// Addresses and subnets that contradict others and are not used, each with the reason.
    pub refused: Vec<String>,
}

/// The node, by its address, to which traffic for a subnet went until now.
pub type Held = HashMap<IpNetwork, IpAddr>;

/// Makes a view of the nodes. This node is the one with the name `own`, else the one with an address for which `is_local` is true; `None` if
/// there is neither.
///
/// Of subnets that overlap, this node's own remains, or else the one that its node has had until now; if none of them is such a one, none
/// is followed: a guess would send one node's traffic to another.
pub fn view(nodes: &[Node], own: &str, is_local: &dyn Fn(IpAddr) -> bool, held: &Held) -> Option<View> {
    let has_local_address = |node: &&Node| node.addresses.iter().any(|address| is_local(*address));
    let own = nodes.iter().find(|node| node.name == own).or_else(|| nodes.iter().find(has_local_address))?;
    let mut refused = Vec::new();
    let mut others = Vec::new();
    for node in nodes.iter().filter(|node| node.name != own.name) {
        match node.addresses.iter().find(|address| own.addresses.contains(address)) {
            Some(address) => refused.push(format!(
                "node {} has the address {address} of this node, {}: nothing leads there",
                node.name, own.name
            )),
            None => others.push(node.clone()),
        }
    }
    let assignments = assignments(own, &others, held);
    let mut lost: HashSet<(usize, IpNetwork)> = HashSet::new();
    for (one, other) in overlaps(&assignments) {
        for (loser, winner) in [(one, other), (other, one)] {
            if loser.rank <= winner.rank
                && let Some(index) = loser.node
                && lost.insert((index, loser.subnet))
            {
                let what = if loser.rank == winner.rank { "neither is used" } else { "it is not used" };
                refused.push(format!(
                    "subnet {} of node {} overlaps with {} of node {}: {what}",
                    loser.subnet, loser.name, winner.subnet, winner.name
                ));
            }
        }
    }
    for (index, node) in others.iter_mut().enumerate() {
        node.subnets.retain(|subnet| !lost.contains(&(index, *subnet)));
    }
    refused.sort();
    Some(View { own: own.clone(), others, refused })
}

/// That a node hands out a subnet.
#[derive(Debug, Clone, Copy)]
struct Assignment<'a> {
    subnet: IpNetwork,
    name: &'a str,
    /// Its number among the others; none for this node.
    node: Option<usize>,
    /// The higher one remains.
    rank: u8,
}

/// All of them, sorted so that a subnet comes before those within it.
fn assignments<'a>(own: &'a Node, others: &'a [Node], held: &Held) -> Vec<Assignment<'a>> {
    let mut assignments: Vec<Assignment<'a>> =
        own.subnets.iter().map(|subnet| Assignment { subnet: *subnet, name: &own.name, node: None, rank: 2 }).collect();
    for (index, node) in others.iter().enumerate() {
        assignments.extend(node.subnets.iter().map(|subnet| {
            let holds = held.get(subnet).is_some_and(|holder| node.addresses.contains(holder));
            Assignment { subnet: *subnet, name: &node.name, node: Some(index), rank: u8::from(holds) }
        }));
    }
    assignments.sort_by_key(|assignment| (assignment.subnet.network(), assignment.subnet.prefix()));
    assignments
}

/// The pairs of assignments of two nodes that overlap. Of two subnets one is within the other, or they have nothing in common.
fn overlaps<'c, 'a>(assignments: &'c [Assignment<'a>]) -> Vec<(&'c Assignment<'a>, &'c Assignment<'a>)> {
    let mut pairs = Vec::new();
    let mut around: Vec<&Assignment<'a>> = Vec::new();
    for assignment in assignments {
        around.retain(|outer| outer.subnet.contains(assignment.subnet.network()));
        pairs.extend(around.iter().filter(|outer| outer.node != assignment.node).map(|outer| (*outer, assignment)));
        around.push(assignment);
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, address: &str, subnets: &[&str]) -> Node {
        let subnets = subnets.iter().map(|subnet| subnet.parse().unwrap()).collect();
        Node { name: name.to_owned(), addresses: vec![address.parse().unwrap()], subnets }
    }

    fn seen(nodes: &[Node], held: &Held) -> View {
        view(nodes, "a", &|_| false, held).unwrap()
    }

    fn subnets(view: &View) -> Vec<(&str, usize)> {
        view.others.iter().map(|node| (node.name.as_str(), node.subnets.len())).collect()
    }

    #[test]
    fn the_own_node_has_the_name_or_else_the_address() {
        let nodes = [node("a", "192.0.2.1", &["10.1.1.0/24"]), node("b", "192.0.2.2", &["10.1.2.0/24"])];
        let local = |address: IpAddr| address.to_string() == "192.0.2.2";
        assert_eq!(view(&nodes, "a", &local, &Held::new()).unwrap().own.name, "a");
        let by_address = view(&nodes, "x", &local, &Held::new()).unwrap();
        assert_eq!((by_address.own.name.as_str(), by_address.others.len()), ("b", 1));
        assert_eq!(view(&nodes, "x", &|_| false, &Held::new()), None);
    }

    #[test]
    fn of_two_nodes_with_one_subnet_the_one_that_had_it_keeps_it() {
        let nodes = [
            node("a", "192.0.2.1", &["10.1.1.0/24"]),
            node("b", "192.0.2.2", &["10.1.2.0/24", "10.1.9.0/24"]),
            node("c", "192.0.2.3", &["10.1.2.0/24"]),
        ];
        let neither = seen(&nodes, &Held::new());
        assert_eq!(subnets(&neither), [("b", 1), ("c", 0)]);
        assert_eq!(neither.refused.len(), 2);
        assert!(neither.refused[0].contains("10.1.2.0/24 of node b") && neither.refused[0].contains("neither"));
        let held = Held::from([("10.1.2.0/24".parse().unwrap(), "192.0.2.3".parse().unwrap())]);
        let one = seen(&nodes, &held);
        assert_eq!(subnets(&one), [("b", 1), ("c", 1)]);
        assert_eq!(one.refused.len(), 1);
    }

    #[test]
    fn the_own_subnet_and_address_are_nobody_elses() {
        let nodes = [
            node("a", "192.0.2.1", &["10.1.0.0/16"]),
            node("b", "192.0.2.2", &["10.1.2.0/24", "10.2.0.0/24"]),
            node("c", "192.0.2.1", &["10.3.0.0/24"]),
        ];
        let held = Held::from([("10.1.2.0/24".parse().unwrap(), "192.0.2.2".parse().unwrap())]);
        let view = seen(&nodes, &held);
        assert_eq!(subnets(&view), [("b", 1)]);
        assert!(view.refused.iter().any(|why| why.contains("192.0.2.1 of this node")));
    }

    #[test]
    fn a_subnet_within_others_overlaps_with_each() {
        let nodes = [
            node("a", "192.0.2.1", &[]),
            node("b", "192.0.2.2", &["10.0.0.0/8"]),
            node("c", "192.0.2.3", &["10.1.0.0/16"]),
            node("d", "192.0.2.4", &["10.1.2.0/24", "10.1.2.0/25"]),
            node("e", "192.0.2.5", &["11.0.0.0/8", "fd00::/64"]),
        ];
        let view = seen(&nodes, &Held::new());
        assert_eq!(subnets(&view), [("b", 0), ("c", 0), ("d", 0), ("e", 2)]);
    }
}

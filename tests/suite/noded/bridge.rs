//! cni-noded: the peers of the plugin `vxlan`.

use std::fs;

use cni_tests::parallel::until;
use cni_tests::{Sandbox, kernel};
use serde_json::{Value, json};

use super::{Agent, Node, list, nodes};
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("one_subnet_on_three_hosts", one_subnet),
        improved("host_that_joins_and_leaves_without_a_call", joins),
    ]
}

fn peers(node: &Node) -> String {
    format!("/run/peers{}", node.number)
}

fn start(sb: &Sandbox, node: &Node) -> Agent {
    let backend =
        json!({"bridge": {"peers": peers(node), "subnets": ["10.42.0.0/16", "fd00:42::/48"], "underlay": "ipv4"}});
    let vxlan = json!({"type": "vxlan", "vni": 42, "dev": "eth0", "peers": peers(node)});
    node.start(sb, &node.config_of(&json!({"file": super::NODES}), &backend, &[vxlan]))
}

fn flooded_to(node: &Node) -> Vec<String> {
    let entries = kernel::array(&node.ns.sh(&["bridge", "-j", "fdb", "show", "dev", "vxlan42"]));
    let flood = entries.iter().filter(|entry| entry["mac"] == "00:00:00:00:00:00");
    let mut hosts: Vec<_> = flood.filter_map(|entry| entry["dst"].as_str().map(str::to_owned)).collect();
    hosts.sort();
    hosts
}

fn one_subnet(sb: &Sandbox) {
    let nodes = nodes(sb, 3);
    list(&nodes);
    let _agents: Vec<_> = nodes.iter().map(|node| start(sb, node)).collect();
    let pods: Vec<_> = nodes.iter().map(|node| node.attach(sb, &format!("c{}", node.number))).collect();
    for from in &pods {
        for to in pods.iter().filter(|to| to.at.id != from.at.id) {
            assert!(from.reaches(to), "{} to {}", from.at.id, to.at.id);
        }
    }
    assert_eq!(pods[1].at.ip(false), "10.42.2.2");
    // On its own link: nothing is routed.
    let shown: Value =
        serde_json::from_str(&pods[0].ns.sh(&["ip", "-j", "route", "get", &pods[1].at.ip(false)])).unwrap();
    assert!(shown[0]["gateway"].is_null(), "{shown}");
    let file = fs::read_to_string(peers(&nodes[0])).unwrap();
    assert!(file.contains("192.0.2.2 10.42.2.0/24 fd00:42:0:2::/64\n"), "{file}");
}

/// The first host's container is attached before the second host is known, and there is no call of a plugin on it afterwards.
fn joins(sb: &Sandbox) {
    let nodes = nodes(sb, 3);
    list(&nodes[..1]);
    let _first = start(sb, &nodes[0]);
    let one = nodes[0].attach(sb, "c1");
    assert_eq!(flooded_to(&nodes[0]), [] as [String; 0]);
    list(&nodes[..2]);
    let _second = start(sb, &nodes[1]);
    let two = nodes[1].attach(sb, "c2");
    until("the first host floods to the second", || flooded_to(&nodes[0]) == ["192.0.2.2"]);
    until("it lets the second one's packets in", || one.reaches(&two) && two.reaches(&one));
    list(&[nodes[0].clone(), nodes[2].clone()]);
    until("the second host has left", || flooded_to(&nodes[0]) == ["192.0.2.3"]);
    assert!(!two.pings(&one.at.ip(false)));
}

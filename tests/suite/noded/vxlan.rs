//! cni-noded: a VXLAN device with routes, as flannel has it.

use cni_tests::parallel::until;
use cni_tests::{Sandbox, kernel, verdict};
use serde_json::{Value, json};

use super::{Agent, Node, list, nodes, routed_nodes, write};
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("over_a_router_by_ipv4", |sb| over_router(sb, "ipv4", 1450)),
        improved("over_a_router_by_ipv6", |sb| over_router(sb, "ipv6", 1430)),
        improved("three_nodes_on_a_wire", three),
        improved("one_entry_a_node_and_nothing_is_learnt", entries),
        improved("what_is_deleted_by_hand_comes_back", deleted),
        improved("restart_changes_nothing", restart),
        improved("change_of_the_own_address", own_address),
        improved("foreign_device_is_left_alone", foreign),
    ]
}

fn backend() -> Value {
    json!({"vxlan": {}})
}

fn needs_vxlan(nodes: &[Node]) {
    let ns = &nodes[0].ns;
    if !ns.holds(&["ip", "link", "add", "probe", "type", "vxlan", "id", "1", "dstport", "4789"]) {
        verdict::skip("this kernel has no VXLAN (CONFIG_VXLAN)");
    }
    ns.sh(&["ip", "link", "del", "probe"]);
}

fn start(sb: &Sandbox, nodes: &[Node], backend: &Value) -> Vec<Agent> {
    needs_vxlan(nodes);
    list(nodes);
    let agents = nodes.iter().map(|node| node.start(sb, &node.config(backend))).collect();
    for node in nodes {
        until("health", || node.is_healthy());
    }
    agents
}

fn over_router(sb: &Sandbox, underlay: &str, mtu: usize) {
    let nodes = routed_nodes(sb);
    let _agents = start(sb, &nodes, &json!({"vxlan": {"underlay": underlay}}));
    let pods: Vec<_> = nodes.iter().map(|node| node.attach(sb, &format!("c{}", node.number))).collect();
    assert!(pods[0].reaches(&pods[1]) && pods[1].reaches(&pods[0]));
    for v6 in [false, true] {
        let to = pods[1].at.ip(v6);
        assert!(pods[0].pings_with(&to, mtu), "{mtu} bytes to {to}");
        assert!(!pods[0].pings_with(&to, mtu + 1), "{} bytes to {to}", mtu + 1);
        // The node itself, whose answer comes back through the tunnel.
        assert!(nodes[0].ns.holds(&["ping", "-n", "-q", "-c1", "-W2", &to]), "node to {to}");
    }
}

fn three(sb: &Sandbox) {
    let nodes = nodes(sb, 3);
    let _agents = start(sb, &nodes, &backend());
    let pods: Vec<_> = nodes.iter().map(|node| node.attach(sb, &format!("c{}", node.number))).collect();
    for from in &pods {
        for to in pods.iter().filter(|to| to.at.id != from.at.id) {
            assert!(from.reaches(to), "{} to {}", from.at.id, to.at.id);
        }
    }
    list(&nodes[..2]);
    until("n3 is gone", || !pods[0].pings(&pods[2].at.ip(false)) && nodes[0].routes().len() == 2);
    assert!(pods[0].reaches(&pods[1]));
}

fn fdb(node: &Node) -> Vec<Value> {
    kernel::array(&node.ns.sh(&["sh", "-c", "bridge -j fdb show dev cni-vx1 2>/dev/null || true"]))
}

fn neighbours(node: &Node) -> Vec<Value> {
    kernel::array(&node.ns.sh(&["sh", "-c", "ip -j neigh show dev cni-vx1 nud permanent 2>/dev/null || true"]))
}

fn addresses(node: &Node) -> usize {
    let shown = kernel::array(&node.ns.sh(&["sh", "-c", "ip -j addr show dev cni-vx1 2>/dev/null || true"]));
    let all = shown.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
    all.filter(|address| address["scope"] == "global").count()
}

fn entries(sb: &Sandbox) {
    let nodes = nodes(sb, 3);
    let _agents = start(sb, &nodes, &backend());
    let pods: Vec<_> = nodes.iter().map(|node| node.attach(sb, &format!("c{}", node.number))).collect();
    assert!(pods[0].reaches(&pods[1]) && pods[2].reaches(&pods[0]));
    let hosts: Vec<_> = fdb(&nodes[0]).iter().filter_map(|entry| entry["dst"].as_str().map(str::to_owned)).collect();
    assert!(
        hosts.len() == 2 && hosts.contains(&"192.0.2.2".to_owned()) && hosts.contains(&"192.0.2.3".to_owned()),
        "{hosts:?}"
    );
    assert_eq!(neighbours(&nodes[0]).len(), 4);
    let device = kernel::link(&nodes[0].ns, "cni-vx1").unwrap();
    let data = &device["linkinfo"]["info_data"];
    assert_eq!((&data["learning"], &data["port"], &data["id"]), (&json!(false), &json!(4789), &json!(1)), "{data}");
    // The Ethernet address that the others conclude is the one that the node has.
    let own = device["address"].as_str().unwrap();
    assert!(fdb(&nodes[1]).iter().any(|entry| entry["mac"] == own && entry["dst"] == "192.0.2.1"));
    let routes = nodes[0].routes();
    assert_eq!(
        routes,
        [
            "10.42.2.0/24 via 10.42.2.0",
            "10.42.3.0/24 via 10.42.3.0",
            "fd00:42:0:2::/64 via fd00:42:0:2::",
            "fd00:42:0:3::/64 via fd00:42:0:3::",
        ]
    );
}

fn deleted(sb: &Sandbox) {
    let nodes = nodes(sb, 2);
    let _agents = start(sb, &nodes, &backend());
    let pods: Vec<_> = nodes.iter().map(|node| node.attach(sb, &format!("c{}", node.number))).collect();
    let shape = |node: &Node| {
        (node.routes().len(), neighbours(node).len(), fdb(node).iter().filter(|e| !e["dst"].is_null()).count())
    };
    assert_eq!(shape(&nodes[0]), (2, 2, 1));
    for command in [
        "ip link del cni-vx1",
        "ip link set cni-vx1 down",
        "ip neigh flush dev cni-vx1 nud permanent",
        "bridge fdb del $(bridge fdb show dev cni-vx1 | grep 192.0.2.2 | cut -d' ' -f1) dev cni-vx1 dst 192.0.2.2",
        "ip route flush proto 115",
        "ip addr flush dev cni-vx1",
        "ip link set cni-vx1 mtu 1300",
    ] {
        nodes[0].ns.sh(&["sh", "-c", command]);
        until(command, || {
            shape(&nodes[0]) == (2, 2, 1)
                && kernel::link(&nodes[0].ns, "cni-vx1").is_some_and(|link| link["mtu"] == 1450)
                && addresses(&nodes[0]) == 2
        });
        until("the other container", || pods[0].reaches(&pods[1]));
    }
}

fn restart(sb: &Sandbox) {
    let nodes = nodes(sb, 2);
    let mut agents = start(sb, &nodes, &backend());
    let before = nodes[0].ns.sh(&[
        "sh",
        "-c",
        "ip -d link show cni-vx1; ip route; ip -6 route; ip neigh show nud permanent; bridge fdb",
    ]);
    drop(agents.remove(0));
    let again = nodes[0].start(sb, &nodes[0].config(&backend()));
    until("health", || nodes[0].is_healthy());
    assert_eq!(
        nodes[0].ns.sh(&[
            "sh",
            "-c",
            "ip -d link show cni-vx1; ip route; ip -6 route; ip neigh show nud permanent; bridge fdb"
        ]),
        before
    );
    assert!(nodes[0].ask("/metrics").contains("cni_noded_changes_total 0\n"), "{}", again.log());
}

fn own_address(sb: &Sandbox) {
    let mut nodes = nodes(sb, 2);
    let _agents = start(sb, &nodes, &backend());
    let pods: Vec<_> = nodes.iter().map(|node| node.attach(sb, &format!("c{}", node.number))).collect();
    assert!(pods[0].reaches(&pods[1]));
    nodes[1].ns.sh(&["sh", "-c", "ip addr add 192.0.2.22/24 dev eth0 && ip addr del 192.0.2.2/24 dev eth0 && ip addr add 192.0.2.22/24 dev eth0 || true"]);
    nodes[1].underlay[0] = "192.0.2.22".to_owned();
    list(&nodes);
    until("the other container, both ways", || pods[0].reaches(&pods[1]) && pods[1].reaches(&pods[0]));
    assert!(
        fdb(&nodes[0]).iter().any(|entry| entry["dst"] == "192.0.2.22")
            && !fdb(&nodes[0]).iter().any(|entry| entry["dst"] == "192.0.2.2")
    );
}

fn foreign(sb: &Sandbox) {
    let nodes = nodes(sb, 2);
    needs_vxlan(&nodes);
    nodes[0].ns.sh(&["ip", "link", "add", "cni-vx1", "type", "bridge"]);
    write(&nodes.iter().map(Node::line).collect::<String>());
    let agent = nodes[0].start(sb, &nodes[0].config(&backend()));
    until("the reason", || agent.log().contains("cni-vx1 is there, and is no VXLAN device"));
    assert_eq!(kernel::link(&nodes[0].ns, "cni-vx1").unwrap()["linkinfo"]["info_kind"], "bridge");
}

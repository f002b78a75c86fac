//! cni-noded: a route for each subnet, by the node's address.

use std::time::Duration;

use cni_tests::Sandbox;
use cni_tests::parallel::until;
use serde_json::{Value, json};

use super::{Agent, Node, list, nodes, routed_nodes, write};
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("containers_of_three_nodes_reach_each_other", reach),
        improved("nodes_join_leave_and_change", change),
        improved("what_is_deleted_by_hand_comes_back", deleted),
        improved("link_that_was_down", link_down),
        improved("ends_at_once_and_leaves_its_routes", ends),
        improved("restart_changes_nothing", restart),
        improved("other_routes_are_left_alone", foreign),
        improved("node_behind_a_router_is_named", behind_router),
        improved("subnet_of_two_nodes_stays_with_its_holder", contested),
        improved("own_subnet_of_another_node_is_refused", own_contested),
    ]
}

fn backend() -> Value {
    json!({"host-gw": {}})
}

/// Nodes with an agent each, which have done their work.
fn running(sb: &Sandbox, count: usize) -> (Vec<Node>, Vec<Agent>) {
    let nodes = nodes(sb, count);
    list(&nodes);
    let agents = nodes.iter().map(|node| node.start(sb, &node.config(&backend()))).collect();
    for node in &nodes {
        until("routes to the others", || node.routes() == to_others(&nodes, node.number));
        until("health", || node.is_healthy());
    }
    (nodes, agents)
}

fn to_others(nodes: &[Node], number: usize) -> Vec<String> {
    Node::routes_to(&nodes.iter().filter(|node| node.number != number).collect::<Vec<_>>())
}

fn reach(sb: &Sandbox) {
    let (nodes, _agents) = running(sb, 3);
    let pods: Vec<_> = nodes.iter().map(|node| node.attach(sb, &format!("c{}", node.number))).collect();
    for from in &pods {
        for to in pods.iter().filter(|to| to.at.id != from.at.id) {
            assert!(from.reaches(to), "{} to {}", from.at.id, to.at.id);
        }
    }
    let metrics = nodes[0].ask("/metrics");
    for line in ["cni_noded_nodes 3\n", "cni_noded_entries 4\n", "cni_noded_source_up 1\n", "cni_noded_problems 0\n"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

fn change(sb: &Sandbox) {
    let (mut nodes, _agents) = running(sb, 3);
    list(&nodes[..2]);
    until("no routes to n3", || nodes[0].routes() == Node::routes_to(&[&nodes[1]]));
    list(&nodes);
    until("routes to n3", || nodes[0].routes() == Node::routes_to(&[&nodes[1], &nodes[2]]));
    nodes[2].underlay = ["192.0.2.33".to_owned(), "2001:db8::33".to_owned()];
    list(&nodes);
    until("routes by the new address", || nodes[0].routes() == Node::routes_to(&[&nodes[1], &nodes[2]]));
    // One line that is alike and ten nodes more.
    let more: String = (10..20).map(|n| format!("n{n} 192.0.2.{n} 10.42.{n}.0/24\n")).collect();
    write(&(nodes.iter().map(Node::line).collect::<String>() + &more));
    until("routes to 12 nodes", || nodes[0].routes().len() == 14);
}

fn deleted(sb: &Sandbox) {
    let (nodes, _agents) = running(sb, 2);
    let wanted = Node::routes_to(&[&nodes[1]]);
    for command in [
        "ip route del 10.42.2.0/24",
        "ip -6 route del fd00:42:0:2::/64",
        "ip route flush proto 115",
        "ip route replace 10.42.2.0/24 via 192.0.2.77 proto 115",
        "ip route add 10.42.9.0/24 via 192.0.2.2 proto 115",
    ] {
        nodes[0].ns.sh(&["sh", "-c", command]);
        until(command, || nodes[0].routes() == wanted);
    }
}

/// The kernel removes routes of a link that is set down, those of IPv4 without a report.
fn link_down(sb: &Sandbox) {
    let (nodes, _agents) = running(sb, 2);
    nodes[0].ns.sh(&["ip", "link", "set", "eth0", "down"]);
    assert_eq!(nodes[0].routes(), [] as [String; 0]);
    nodes[0].ns.sh(&["ip", "link", "set", "eth0", "up"]);
    nodes[0].ns.sh(&["ip", "addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad"]);
    until("the routes are back", || nodes[0].routes() == Node::routes_to(&[&nodes[1]]));
}

fn ends(sb: &Sandbox) {
    let (nodes, mut agents) = running(sb, 2);
    let took = agents.remove(0).end();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(nodes[0].routes(), Node::routes_to(&[&nodes[1]]));
}

/// Neither a kill nor a start touches a route: the kernel reports none.
fn restart(sb: &Sandbox) {
    let (nodes, mut agents) = running(sb, 3);
    let monitor = nodes[0].ns.run(|| {
        let out = std::fs::File::create("/run/monitor").unwrap();
        std::process::Command::new("ip").args(["monitor", "route"]).stdout(out).spawn().unwrap()
    });
    let monitor = Stopped(monitor);
    nodes[0].ns.sh(&["sh", "-c", "until ss -f netlink -a 2>/dev/null | grep -q 'rtnl:ip/'; do sleep 0.05; done"]);
    drop(agents.remove(0));
    std::fs::remove_file("/run/noded1.log").unwrap();
    let again = nodes[0].start(sb, &nodes[0].config(&backend()));
    until("health", || nodes[0].is_healthy());
    // A route that is reported for certain.
    nodes[0].ns.sh(&["ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.2"]);
    let said = || std::fs::read_to_string("/run/monitor").unwrap();
    until("the report", || said().contains("198.51.100.0/24"));
    drop(monitor);
    assert_eq!(said().lines().count(), 1, "{}", said());
    assert_eq!(again.log(), "", "nothing to say");
}

struct Stopped(std::process::Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn foreign(sb: &Sandbox) {
    let (nodes, _agents) = running(sb, 2);
    nodes[0].ns.sh(&["ip", "route", "add", "10.42.7.0/24", "via", "192.0.2.2"]);
    nodes[0].ns.sh(&["ip", "route", "add", "10.42.8.0/24", "via", "192.0.2.2", "proto", "116"]);
    list(&nodes[..1]);
    until("no routes", || nodes[0].routes().is_empty());
    let all = nodes[0].ns.sh(&["ip", "route"]);
    assert!(all.contains("10.42.7.0/24") && all.contains("10.42.8.0/24"), "{all}");
}

fn behind_router(sb: &Sandbox) {
    let nodes = routed_nodes(sb);
    list(&nodes);
    let agent = nodes[0].start(sb, &nodes[0].config(&backend()));
    until("the reason", || agent.log().contains("node n2 at 192.0.2.2 is not on a link of this node"));
    assert!(agent.log().contains("use the backend vxlan") && !nodes[0].is_healthy());
    assert_eq!(nodes[0].routes(), [] as [String; 0]);
}

fn contested(sb: &Sandbox) {
    let (nodes, mut agents) = running(sb, 3);
    let both = nodes.iter().map(Node::line).collect::<String>() + "n4 192.0.2.4 10.42.2.0/24 10.42.4.0/24\n";
    write(&both);
    let mut wanted = to_others(&nodes, 1);
    wanted.push("10.42.4.0/24 via 192.0.2.4".to_owned());
    wanted.sort();
    until("n4's other subnet", || nodes[0].routes() == wanted);
    until("the reason", || {
        agents[0].log().contains("subnet 10.42.2.0/24 of node n4 overlaps with 10.42.2.0/24 of node n2")
    });
    // Also for a new process.
    drop(agents.remove(0));
    let _again = nodes[0].start(sb, &nodes[0].config(&backend()));
    until("health", || nodes[0].is_healthy());
    assert_eq!(nodes[0].routes(), wanted);
    // Without a holder nobody has it.
    write(&nodes[0].line());
    until("no routes", || nodes[0].routes().is_empty());
    write(&both);
    wanted.retain(|route| !route.starts_with("10.42.2.0"));
    until("the others", || nodes[0].routes() == wanted);
    assert!(nodes[0].ask("/metrics").contains("cni_noded_refused 2\n"));
}

fn own_contested(sb: &Sandbox) {
    let (nodes, agents) = running(sb, 2);
    write(&(nodes.iter().map(Node::line).collect::<String>() + "n3 192.0.2.3 10.42.0.0/16\n"));
    until("the reason", || {
        agents[0].log().contains("subnet 10.42.0.0/16 of node n3 overlaps with 10.42.1.0/24 of node n1")
    });
    assert_eq!(nodes[0].routes(), to_others(&nodes, 1));
}

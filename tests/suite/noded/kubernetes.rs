//! cni-noded: the nodes of a cluster. The API server is one of the tests; that its answers are those of a real one is what
//! hack/test-kubernetes.sh shows.

use std::fs;
use std::sync::atomic::Ordering;

use cni_tests::kubernetes::Api;
use cni_tests::parallel::until;
use cni_tests::{Netns, Sandbox};
use serde_json::{Value, json};

use super::{Agent, Node, nodes};
use crate::case::{Case, improved};

const ADDRESS: &str = "192.0.2.200:6443";

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("nodes_come_go_and_change", changes),
        improved("list_in_pages", pages),
        improved("changes_that_are_no_longer_known", gone),
        improved("watch_that_ends_and_breaks_off", breaks),
        improved("server_that_is_away", away),
        improved("server_that_says_nothing", slow),
        improved("token_that_is_renewed", token),
        improved("range_that_comes_later", later),
    ]
}

/// The API server, on the nodes' switch.
fn api(sb: &Sandbox) -> Api {
    let ns = sb.container("api");
    let switch = Netns::existing("switch");
    switch.sh(&["ip", "link", "add", "papi", "type", "veth", "peer", "name", "eth0", "netns", "api"]);
    switch.sh(&["ip", "link", "set", "papi", "master", "sw", "up"]);
    ns.sh(&["ip", "link", "set", "lo", "up"]);
    ns.sh(&["ip", "addr", "add", "192.0.2.200/24", "dev", "eth0"]);
    ns.sh(&["ip", "link", "set", "eth0", "up"]);
    Api::serve(ns, ADDRESS)
}

fn set(api: &Api, node: &Node) {
    api.put(&format!("n{}", node.number), &node.underlay, &format!("10.42.{}.0/24", node.number));
}

fn start(sb: &Sandbox, node: &Node, keys: &Value) -> Agent {
    let mut source = json!({"server": format!("http://{ADDRESS}")});
    super::with(&mut source, keys);
    node.start(sb, &node.config_of(&json!({"kubernetes": source}), &json!({"host-gw": {}}), &[]))
}

/// Three nodes in the API server, and an agent on the first.
fn cluster(sb: &Sandbox) -> (Vec<Node>, Api, Agent) {
    let nodes = nodes(sb, 3);
    let api = api(sb);
    nodes.iter().for_each(|node| set(&api, node));
    let agent = start(sb, &nodes[0], &json!({}));
    until("routes", || nodes[0].routes() == to(&nodes, &[2, 3]) && nodes[0].is_healthy());
    (nodes, api, agent)
}

/// The routes to these.
fn to(nodes: &[Node], numbers: &[usize]) -> Vec<String> {
    numbers.iter().map(|n| format!("10.42.{n}.0/24 via {}", nodes[n - 1].underlay[0])).collect()
}

fn changes(sb: &Sandbox) {
    let (mut nodes, api, _agent) = cluster(sb);
    assert!(fs::read_to_string(nodes[0].conflist()).unwrap().contains("10.42.1.0/24"));
    api.delete("n3");
    until("n3 is gone", || nodes[0].routes() == to(&nodes, &[2]));
    nodes[1].underlay[0] = "192.0.2.22".to_owned();
    set(&api, &nodes[1]);
    until("another address", || nodes[0].routes() == to(&nodes, &[2]));
    set(&api, &nodes[2]);
    until("n3 is back", || nodes[0].routes() == to(&nodes, &[2, 3]));
    assert_eq!((api.lists.load(Ordering::Relaxed), api.watches.load(Ordering::Relaxed)), (1, 1));
}

fn pages(sb: &Sandbox) {
    let nodes = nodes(sb, 2);
    let api = api(sb);
    nodes.iter().for_each(|node| set(&api, node));
    for n in 0..250 {
        api.put(&format!("m{n:03}"), &[format!("192.0.2.{}", 3 + n % 190)], &format!("10.43.{n}.0/24"));
    }
    let _agent = start(sb, &nodes[0], &json!({}));
    until("all of them", || nodes[0].routes().len() == 251);
    assert_eq!(api.lists.load(Ordering::Relaxed), 3);
}

fn gone(sb: &Sandbox) {
    let (nodes, api, _agent) = cluster(sb);
    api.with(|state| state.round += 1);
    api.delete("n3");
    api.with(|state| {
        state.events.clear();
        state.oldest = state.version;
    });
    until("listed again", || nodes[0].routes() == to(&nodes, &[2]));
    set(&api, &nodes[2]);
    until("watched again", || nodes[0].routes() == to(&nodes, &[2, 3]));
    assert!(nodes[0].is_healthy());
}

fn breaks(sb: &Sandbox) {
    let (nodes, api, _agent) = cluster(sb);
    for _ in 0..3 {
        api.with(|state| state.round += 1);
        api.delete("n3");
        until("n3 is gone", || nodes[0].routes() == to(&nodes, &[2]));
        set(&api, &nodes[2]);
        until("n3 is back", || nodes[0].routes() == to(&nodes, &[2, 3]));
    }
    // Not listed again: where to go on from is known.
    assert_eq!(api.lists.load(Ordering::Relaxed), 1);
    assert!(api.watches.load(Ordering::Relaxed) >= 4);
}

fn away(sb: &Sandbox) {
    let (nodes, api, agent) = cluster(sb);
    api.ns.sh(&["nft", "add table inet t; add chain inet t c { type filter hook input priority 0; }; add rule inet t c tcp dport 6443 reject with tcp reset"]);
    api.with(|state| state.round += 1);
    api.delete("n3");
    until("it says so", || agent.log().contains("nothing changes meanwhile") && !nodes[0].is_healthy());
    assert_eq!(nodes[0].routes(), to(&nodes, &[2, 3]));
    api.ns.sh(&["nft", "delete table inet t"]);
    until("n3 is gone", || nodes[0].routes() == to(&nodes, &[2]) && nodes[0].is_healthy());
}

fn slow(sb: &Sandbox) {
    let (nodes, api, agent) = cluster(sb);
    api.with(|state| {
        state.is_silent = true;
        state.round += 1;
    });
    api.delete("n3");
    until("it says so", || agent.log().contains("timeout"));
    assert_eq!(nodes[0].routes(), to(&nodes, &[2, 3]));
    api.with(|state| state.is_silent = false);
    until("n3 is gone", || nodes[0].routes() == to(&nodes, &[2]) && nodes[0].is_healthy());
}

fn token(sb: &Sandbox) {
    let nodes = nodes(sb, 2);
    let api = api(sb);
    nodes.iter().for_each(|node| set(&api, node));
    api.with(|state| state.token = "first".to_owned());
    fs::write("/run/token", "wrong\n").unwrap();
    let agent = start(sb, &nodes[0], &json!({"token": "/run/token"}));
    until("it is refused", || agent.log().contains("the server says 401"));
    assert!(!agent.log().contains("wrong"), "the token is nobody's business");
    fs::write("/run/token", "first\n").unwrap();
    until("routes", || nodes[0].routes() == to(&nodes, &[2]));
    // As the kubelet renews it: the old one ends later.
    fs::write("/run/token", "second\n").unwrap();
    api.with(|state| {
        state.token = "second".to_owned();
        state.round += 1;
    });
    api.delete("n2");
    until("n2 is gone", || nodes[0].routes().is_empty() && nodes[0].is_healthy());
}

fn later(sb: &Sandbox) {
    let nodes = nodes(sb, 2);
    let api = api(sb);
    api.publish("n1", json!({"spec": {}, "status": {}}));
    set(&api, &nodes[1]);
    let agent = start(sb, &nodes[0], &json!({}));
    until("it says so", || agent.log().contains("this node, n1, has no subnet yet"));
    assert!(!fs::exists(nodes[0].conflist()).unwrap());
    set(&api, &nodes[0]);
    until("the network", || fs::exists(nodes[0].conflist()).unwrap() && nodes[0].is_healthy());
}

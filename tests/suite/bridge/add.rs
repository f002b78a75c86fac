//! bridge: what a container and the node have after ADD.

use std::collections::HashSet;

use cni_tests::kernel::{addresses, default_routes, has_flag, link, link_names, sysctl};
use cni_tests::packets::ping;
use cni_tests::parallel::at_once;
use cni_tests::{Attachment, Chain, Sandbox, conf};
use serde_json::json;

use super::alone;
use crate::case::{Case, common, newer};

/// All cases of this subject; what is configured key by key is in `bridge_keys`, packets out in `masquerade`.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        common("dual_stack", dual_stack),
        common("containers_and_node_reach_each_other", reach),
        common("result_tells_the_kernels_macs", macs),
        common("mac_of_the_bridge_is_pinned", pinned),
        common("twenty_first_adds_at_once", parallel),
        common("repeat_add_fails_and_the_first_stays", repeat),
        common("l2_without_ipam", l2),
        common("forwarding_only_for_families_with_gateway", forwarding),
        common("router_advertisements_are_ignored_on_the_node", accept_ra),
        common("addresses_are_usable_at_once", not_tentative),
        common("disabled_ipv6_is_enabled_for_the_interface", disable_ipv6),
        newer("ipv6_addresses_stay_when_the_link_goes_down", keep_addr),
    ]
}

fn dual_stack(sb: &Sandbox) {
    let (node, ns) = (sb.node(), sb.container("c1"));
    let result = alone(sb, |_| ()).add(sb, &mut Attachment::new("c1", &ns));
    let ips = json!([
        {"address": "10.77.0.2/24", "gateway": "10.77.0.1", "interface": 2},
        {"address": "fd00:77::2/64", "gateway": "fd00:77::1", "interface": 2}
    ]);
    assert_eq!(result["ips"], ips);
    let routes = json!([{"dst": "0.0.0.0/0", "gw": "10.77.0.1"}, {"dst": "::/0", "gw": "fd00:77::1"}]);
    assert_eq!(result["routes"], routes);
    assert_eq!(addresses(&ns, "eth0"), ["10.77.0.2/24", "fd00:77::2/64"]);
    assert_eq!(default_routes(&ns, "-4"), ["10.77.0.1 dev eth0"]);
    assert_eq!(default_routes(&ns, "-6"), ["fd00:77::1 dev eth0"]);
    assert!(ns.sh(&["ip", "-4", "addr", "show", "dev", "eth0"]).contains("brd 10.77.0.255"));
    assert_eq!(addresses(&node, "br-test"), ["10.77.0.1/24", "fd00:77::1/64"]);
    let host_end = result["interfaces"][1]["name"].as_str().unwrap();
    let port = link(&node, host_end).unwrap();
    assert_eq!(port["master"], "br-test");
    assert!(has_flag(&port, "UP") && has_flag(&link(&node, "br-test").unwrap(), "UP"));
    assert!(has_flag(&link(&ns, "eth0").unwrap(), "UP"));
    assert_eq!(sysctl(&node, "ipv4/ip_forward").as_deref(), Some("1"));
    assert_eq!(sysctl(&node, "ipv6/conf/all/forwarding").as_deref(), Some("1"));
}

fn reach(sb: &Sandbox) {
    let chain = alone(sb, |_| ());
    let (one, two) = (sb.container("c1"), sb.container("c2"));
    chain.add(sb, &mut Attachment::new("c1", &one));
    let mut second = Attachment::new("c2", &two);
    chain.add(sb, &mut second);
    for v6 in [false, true] {
        assert!(ping(&one, &second.ip(v6)), "container to container, v6 {v6}");
        assert!(ping(&sb.node(), &second.ip(v6)), "node to container, v6 {v6}");
    }
    assert!(ping(&one, conf::V4_GATEWAY) && ping(&one, conf::V6_GATEWAY), "container to node");
}

fn macs(sb: &Sandbox) {
    let (node, ns) = (sb.node(), sb.container("c1"));
    let result = alone(sb, |_| ()).add(sb, &mut Attachment::new("c1", &ns));
    for (interface, place) in result["interfaces"].as_array().unwrap().iter().zip([&node, &node, &ns]) {
        let name = interface["name"].as_str().unwrap();
        assert_eq!(interface["mac"], link(place, name).unwrap()["address"], "{name}");
    }
}

/// Otherwise the bridge takes the lowest MAC of its ports, and the containers' neighbour entries go stale.
fn pinned(sb: &Sandbox) {
    let (node, chain) = (sb.node(), alone(sb, |_| ()));
    let mac = || link(&node, "br-test").unwrap()["address"].clone();
    let attach = |n: usize| {
        let id = format!("c{n}");
        let mut at = Attachment::new(&id, &sb.container(&id));
        chain.add(sb, &mut at);
        at
    };
    let first = attach(0);
    let before = mac();
    let others: Vec<_> = (1..6).map(attach).collect();
    assert_eq!(mac(), before, "with more ports");
    chain.del(sb, &first);
    others.iter().for_each(|at| chain.del(sb, at));
    assert_eq!(mac(), before, "with no ports");
    attach(9);
    assert_eq!(mac(), before, "with a port again");
}

fn parallel(sb: &Sandbox) {
    let chain = alone(sb, |_| ());
    let spaces: Vec<_> = (0..20).map(|n| sb.container(&format!("c{n}"))).collect();
    let results = at_once(20, |n| chain.add(sb, &mut Attachment::new(&spaces[n].name, &spaces[n])));
    let distinct: HashSet<_> = results.iter().map(|r| r["ips"].to_string()).collect();
    assert_eq!(distinct.len(), 20, "20 different addresses");
    let ports = link_names(&sb.node()).iter().filter(|n| n.starts_with("veth")).count();
    assert_eq!(ports, 20);
    assert_eq!(addresses(&sb.node(), "br-test"), ["10.77.0.1/24", "fd00:77::1/64"]);
    for ns in &spaces {
        assert!(ping(ns, conf::V4_GATEWAY), "{} reaches the gateway", ns.name);
    }
}

fn repeat(sb: &Sandbox) {
    let (chain, ns) = (alone(sb, |_| ()), sb.container("c1"));
    let mut first = Attachment::new("c1", &ns);
    chain.add(sb, &mut first);
    let before = cni_tests::Snapshot::of(&[&sb.node(), &ns]);
    let again = chain.try_add(sb, &mut first.clone()).unwrap_err().error();
    again.names(&["eth0"]);
    cni_tests::Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
    assert!(ping(&ns, conf::V4_GATEWAY), "the first attachment still works");
    chain.check(sb, &first).silent();
}

fn l2(sb: &Sandbox) {
    let ns = sb.container("c1");
    let chain = Chain::new("testnet", sb.newest(&["bridge"]), &[json!({"type": "bridge", "bridge": "br-test"})]);
    let result = chain.add(sb, &mut Attachment::new("c1", &ns));
    assert!(result.get("ips").is_none_or(|ips| ips == &json!([])), "{result}");
    assert!(has_flag(&link(&ns, "eth0").unwrap(), "UP"));
    assert_eq!(addresses(&ns, "eth0"), Vec::<String>::new());
    assert_eq!(sysctl(&sb.node(), "ipv4/ip_forward").as_deref(), Some("0"));
}

fn forwarding(sb: &Sandbox) {
    let chain = alone(sb, |c| c["ipam"] = json!({"type": "host-local", "subnet": conf::V4}));
    chain.add(sb, &mut Attachment::new("c1", &sb.container("c1")));
    assert_eq!(sysctl(&sb.node(), "ipv4/ip_forward").as_deref(), Some("1"));
    assert_eq!(sysctl(&sb.node(), "ipv6/conf/all/forwarding").as_deref(), Some("0"));
}

/// CVE-2020-10749: a container must not be able to become the node's router.
fn accept_ra(sb: &Sandbox) {
    let result = alone(sb, |_| ()).add(sb, &mut Attachment::new("c1", &sb.container("c1")));
    let veth = result["interfaces"][1]["name"].as_str().unwrap();
    for name in ["br-test", veth] {
        assert_eq!(sysctl(&sb.node(), &format!("ipv6/conf/{name}/accept_ra")).as_deref(), Some("0"), "{name}");
    }
}

fn not_tentative(sb: &Sandbox) {
    let ns = sb.container("c1");
    alone(sb, |_| ()).add(sb, &mut Attachment::new("c1", &ns));
    let shown = ns.sh(&["ip", "-6", "addr", "show", "dev", "eth0", "scope", "global"]);
    assert!(shown.contains("fd00:77::2") && !shown.contains("tentative"), "{shown}");
}

fn disable_ipv6(sb: &Sandbox) {
    let ns = sb.container("c1");
    for name in ["all", "default", "lo"] {
        cni_tests::kernel::set_sysctl(&ns, &format!("ipv6/conf/{name}/disable_ipv6"), "1");
    }
    alone(sb, |_| ()).add(sb, &mut Attachment::new("c1", &ns));
    for (name, expected) in [("eth0", "0"), ("lo", "0"), ("all", "1"), ("default", "1")] {
        let found = sysctl(&ns, &format!("ipv6/conf/{name}/disable_ipv6"));
        assert_eq!(found.as_deref(), Some(expected), "{name}");
    }
}

fn keep_addr(sb: &Sandbox) {
    let ns = sb.container("c1");
    alone(sb, |_| ()).add(sb, &mut Attachment::new("c1", &ns));
    assert_eq!(sysctl(&ns, "ipv6/conf/eth0/keep_addr_on_down").as_deref(), Some("1"));
}

//! CHECK of `bridge` and `ptp` by `prevResult`: what later plugins of the chain changed and added is no
//! difference, and a result that lacks what ADD made is refused.

use cni_tests::{Attachment, Chain, Netns, Sandbox, conf};
use serde_json::{Value, json};

use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for main in ["bridge", "ptp"] {
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            let name = format!("{main}::mtu_of_a_later_plugin_{version}");
            cases.push(improved(name, move |sb| later_mtu(sb, main, version)));
        }
        cases.push(improved(format!("{main}::route_of_a_later_plugin"), move |sb| later_route(sb, main)));
        cases.push(improved(format!("{main}::result_without_the_interface_or_its_address"), move |sb| {
            lacking(sb, main);
        }));
        cases.push(improved(format!("{main}::behind_another_plugin"), move |sb| behind(sb, main)));
    }
    cases
}

fn main_plugin(main: &str) -> Value {
    let mut conf = conf::bridge();
    conf["type"] = main.into();
    conf["mtu"] = 1450.into();
    conf["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}]);
    conf
}

fn attached(sb: &Sandbox, chain: &Chain) -> (Netns, Attachment) {
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    chain.check(sb, &at).silent();
    (ns, at)
}

fn later_mtu(sb: &Sandbox, main: &str, version: &str) {
    sb.needs(main, version);
    let chain = Chain::new("net", version, &[main_plugin(main), json!({"type": "tuning", "mtu": 1300})]);
    let (ns, at) = attached(sb, &chain);
    if version == "1.1.0" {
        ns.sh(&["ip", "link", "set", "eth0", "mtu", "1350"]);
        chain.check(sb, &at).error().names(&["mtu", "1300", "1350"]);
    }
}

/// As a plugin would that adds an interface of its own, with routes through it, one of them without a next hop.
fn later_route(sb: &Sandbox, main: &str) {
    let chain = Chain::new("net", "1.0.0", &[main_plugin(main)]);
    let (ns, mut at) = attached(sb, &chain);
    ns.sh(&["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "other"]);
    ns.sh(&["ip", "addr", "add", "10.88.0.2/24", "dev", "eth1"]);
    ns.sh(&["ip", "link", "set", "other", "up"]);
    ns.sh(&["ip", "link", "set", "eth1", "up"]);
    ns.sh(&["ip", "route", "add", "10.99.0.0/16", "via", "10.88.0.1"]);
    ns.sh(&["ip", "route", "add", "10.98.0.0/16", "dev", "eth1"]);
    let prev_result = at.result.as_mut().unwrap();
    let position = prev_result["interfaces"].as_array().unwrap().len();
    prev_result["interfaces"].as_array_mut().unwrap().push(json!({"name": "eth1", "sandbox": at.netns}));
    prev_result["ips"].as_array_mut().unwrap().push(json!({"address": "10.88.0.2/24", "interface": position}));
    let routes = prev_result["routes"].as_array_mut().unwrap();
    routes.extend([json!({"dst": "10.99.0.0/16", "gw": "10.88.0.1"}), json!({"dst": "10.98.0.0/16"})]);
    chain.check(sb, &at).silent();
    ns.sh(&["ip", "route", "del", "default"]);
    chain.check(sb, &at).error().names(&["oute", "default"]);
}

/// What the plugin before reports is in the result too, and every verb still knows what is its own.
fn behind(sb: &Sandbox, main: &str) {
    let ns = sb.container("c1");
    ns.sh(&["ip", "link", "add", "eth7", "type", "veth", "peer", "name", "other"]);
    ns.sh(&["ip", "addr", "add", "10.88.0.8/24", "dev", "eth7"]);
    ["other", "eth7"].iter().for_each(|name| drop(ns.sh(&["ip", "link", "set", name, "up"])));
    ns.sh(&["ip", "route", "add", "10.89.0.0/16", "via", "10.88.0.1"]);
    let before = cni_tests::Snapshot::of(&[&ns]);
    let prev_result = json!({
        "cniVersion": "1.0.0", "interfaces": [{"name": "eth7", "sandbox": ns.path()}], "dns": {"nameservers": ["10.88.0.53"]},
        "ips": [{"address": "10.88.0.8/24", "interface": 0}], "routes": [{"dst": "10.89.0.0/16", "gw": "10.88.0.1"}]
    });
    let chain = Chain::new(
        "net",
        "1.0.0",
        &[main_plugin(main), json!({"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}})],
    );
    let mut at = Attachment::new("c1", &ns).publish(&[(8080, 80, "tcp")]);
    let call = |verb: &str, plugin: &Value, prev: &Value| chain.call(sb, verb, plugin, &at, Some(prev)).run();
    let own = call("ADD", &chain.plugins()[0], &prev_result).result();
    let owner_of = |address: &str| {
        let ip = own["ips"].as_array().unwrap().iter().find(|ip| ip["address"] == address).unwrap();
        own["interfaces"][usize::try_from(ip["interface"].as_u64().unwrap()).unwrap()]["name"].clone()
    };
    assert_eq!((owner_of("10.88.0.8/24"), owner_of("10.77.0.2/24")), (json!("eth7"), json!("eth0")));
    assert_eq!(own["dns"]["nameservers"], json!(["10.88.0.53"]));
    let result = call("ADD", &chain.plugins()[1], &own).result();
    assert!(!cni_tests::rules::naming(&sb.node(), "10.77.0.2").is_empty(), "the port leads to this plugin's address");
    at.result = Some(result);
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
    // The kernel gives the other interface its link-local address in its own time.
    cni_tests::Snapshot::of(&[&ns]).same_but(&before, &["/var/lib/cni", "fe80:"]);
}

fn lacking(sb: &Sandbox, main: &str) {
    let chain = Chain::new("net", "1.0.0", &[main_plugin(main)]);
    let (ns, at) = attached(sb, &chain);
    ns.sh(&["ip", "addr", "flush", "dev", "eth0"]);
    let check_with = |edit: &dyn Fn(&mut Value)| {
        let mut at = at.clone();
        edit(at.result.as_mut().unwrap());
        chain.check(sb, &at).error()
    };
    check_with(&|result| *result = json!({"cniVersion": "1.0.0"})).names(&["prevResult", "eth0"]);
    check_with(&|result| result["interfaces"] = json!([])).names(&["prevResult", "eth0"]);
    check_with(&|result| result["interfaces"].as_array_mut().unwrap().retain(|found| found["name"] != "eth0"))
        .names(&["prevResult", "eth0"]);
    check_with(&|result| result["ips"][0]["interface"] = 99.into()).names(&["prevResult", "99"]);
    check_with(&|result| result["ips"] = json!([])).names(&["prevResult", "address", "eth0"]);
}

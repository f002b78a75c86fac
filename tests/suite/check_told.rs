//! CHECK of `bridge` and `ptp` by the result that they are told: what later plugins of the chain changed and added is no
//! difference, and a result that doesn't tell what ADD made is refused.

use cni_tests::{Attachment, Chain, Netns, Sandbox, conf};
use serde_json::{Value, json};

use crate::case::{Case, improved};

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for main in ["bridge", "ptp"] {
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            let name = format!("check::{main}_mtu_of_a_later_plugin_{version}");
            cases.push(improved(name, move |sb| later_mtu(sb, main, version)));
        }
        cases.push(improved(format!("check::{main}_route_of_a_later_plugin"), move |sb| later_route(sb, main)));
        cases.push(improved(format!("check::{main}_result_that_tells_nothing"), move |sb| untold(sb, main)));
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
    let told = at.result.as_mut().unwrap();
    let position = told["interfaces"].as_array().unwrap().len();
    told["interfaces"].as_array_mut().unwrap().push(json!({"name": "eth1", "sandbox": at.netns}));
    told["ips"].as_array_mut().unwrap().push(json!({"address": "10.88.0.2/24", "interface": position}));
    let routes = told["routes"].as_array_mut().unwrap();
    routes.extend([json!({"dst": "10.99.0.0/16", "gw": "10.88.0.1"}), json!({"dst": "10.98.0.0/16"})]);
    chain.check(sb, &at).silent();
    ns.sh(&["ip", "route", "del", "default"]);
    chain.check(sb, &at).error().names(&["oute", "default"]);
}

fn untold(sb: &Sandbox, main: &str) {
    let chain = Chain::new("net", "1.0.0", &[main_plugin(main)]);
    let (ns, at) = attached(sb, &chain);
    ns.sh(&["ip", "addr", "flush", "dev", "eth0"]);
    let told = |edit: &dyn Fn(&mut Value)| {
        let mut at = at.clone();
        edit(at.result.as_mut().unwrap());
        chain.check(sb, &at).error()
    };
    told(&|result| *result = json!({"cniVersion": "1.0.0"})).names(&["prevResult", "eth0"]);
    told(&|result| result["interfaces"] = json!([])).names(&["prevResult", "eth0"]);
    told(&|result| result["interfaces"].as_array_mut().unwrap().retain(|found| found["name"] != "eth0"))
        .names(&["prevResult", "eth0"]);
    told(&|result| result["ips"][0]["interface"] = 99.into()).names(&["prevResult", "99"]);
    told(&|result| result["ips"] = json!([])).names(&["prevResult", "address", "eth0"]);
}

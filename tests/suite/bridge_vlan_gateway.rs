//! bridge: the interface that is the gateway of a VLAN, and its port, when somebody has damaged them.

use cni_tests::kernel::{has_flag, link, link_names};
use cni_tests::packets::ping;
use cni_tests::{Attachment, Sandbox};
use serde_json::json;

use crate::bridge::alone;
use crate::bridge_vlan::{attach, host_end, need_filtering, set, vlans};
use crate::case::{Case, improved};

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("bridge::vlan_gateway_gets_a_new_bridge", new_bridge),
        improved("bridge::vlan_gateway_port_is_mended", mended),
        improved("bridge::vlan_gateway_port_of_another_bridge_is_named", elsewhere),
        improved("bridge::vlan_gateway_port_is_checked", checked),
        improved("bridge::vlan_gateway_by_an_alternative_name", alternative),
        improved("bridge::vlan_check_names_foreign_vlans", foreign),
    ]
}

/// The gateway's port in VLAN 100.
fn port(sb: &Sandbox) -> String {
    link(&sb.node(), "br-test.100").unwrap()["link"].as_str().expect("the other end is here").to_owned()
}

fn new_bridge(sb: &Sandbox) {
    attach(sb, "c1", json!({"vlan": 100}));
    let port = port(sb);
    sb.node().sh(&["ip", "link", "del", "br-test"]);
    let (ns, _) = attach(sb, "c2", json!({"vlan": 100}));
    assert_eq!(link(&sb.node(), &port).unwrap()["master"], "br-test");
    assert_eq!(vlans(sb, &port), ["100 PVID Egress Untagged"]);
    for to in ["10.77.0.1", "fd00:77::1"] {
        assert!(ping(&ns, to), "{to}");
    }
}

fn mended(sb: &Sandbox) {
    attach(sb, "c1", json!({"vlan": 100}));
    let port = port(sb);
    for damage in [["nomaster", ""], ["down", ""]] {
        let words = ["ip", "link", "set", &port, damage[0]];
        sb.node().sh(&words);
    }
    let (ns, _) = attach(sb, "c2", json!({"vlan": 100}));
    assert!(has_flag(&link(&sb.node(), &port).unwrap(), "UP"));
    assert!(ping(&ns, "10.77.0.1"));
}

/// Whoever put it there has a reason, and containers that use it.
fn elsewhere(sb: &Sandbox) {
    attach(sb, "c1", json!({"vlan": 100}));
    let (node, port) = (sb.node(), port(sb));
    node.sh(&["ip", "link", "add", "br-other", "type", "bridge"]);
    node.sh(&["ip", "link", "set", &port, "master", "br-other"]);
    let before = link_names(&node);
    let ns = sb.container("c2");
    let failed = alone(sb, set(json!({"vlan": 100}))).try_add(sb, &mut Attachment::new("c2", &ns));
    failed.expect_err("ADD is refused").error().names(&["br-test.100", &port, "br-test"]);
    assert_eq!(link_names(&node), before);
    assert_eq!(link(&node, &port).unwrap()["master"], "br-other");
}

fn checked(sb: &Sandbox) {
    need_filtering(sb);
    let (node, ns) = (sb.node(), sb.container("c1"));
    let chain = alone(sb, set(json!({"vlan": 100})));
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    chain.check(sb, &at).silent();
    let port = port(sb);
    for (damage, repair, named) in [
        ("bridge vlan add dev PORT vid 7", "bridge vlan del dev PORT vid 7", "VLANs"),
        ("bridge vlan del dev PORT vid 100", "bridge vlan add dev PORT vid 100 pvid untagged", "VLANs"),
        ("ip link set PORT down", "ip link set PORT up", "down"),
        ("ip link set PORT nomaster", "ip link set PORT master br-test", "master"),
    ] {
        let run = |words: &str| node.sh(&words.replace("PORT", &port).split(' ').collect::<Vec<_>>());
        run(damage);
        chain.check(sb, &at).error().names(&[named, &port]);
        run(repair);
    }
    // A port that comes back is in the default VLAN.
    chain.check(sb, &at).error().names(&["VLANs", &port, "1 "]);
}

fn alternative(sb: &Sandbox) {
    need_filtering(sb);
    let (node, ns) = (sb.node(), sb.container("c1"));
    node.sh(&["ip", "link", "add", "br-test", "type", "bridge", "vlan_filtering", "1"]);
    node.sh(&["ip", "link", "property", "add", "dev", "br-test", "altname", "also"]);
    let chain = alone(sb, set(json!({"vlan": 100, "bridge": "also"})));
    let mut at = Attachment::new("c1", &ns);
    let result = chain.add(sb, &mut at);
    assert_eq!(result["interfaces"][3]["name"], "br-test.100");
    assert!(ping(&ns, "10.77.0.1"));
    chain.check(sb, &at).silent();
}

fn foreign(sb: &Sandbox) {
    need_filtering(sb);
    let (node, ns) = (sb.node(), sb.container("c1"));
    let chain = alone(sb, set(json!({"vlan": 100, "preserveDefaultVlan": true})));
    let mut at = Attachment::new("c1", &ns);
    let result = chain.add(sb, &mut at);
    chain.check(sb, &at).silent();
    let port = host_end(&result);
    node.sh(&["bridge", "vlan", "add", "dev", port, "vid", "300"]);
    chain.check(sb, &at).error().names(&["VLANs", port, "300"]);
}

//! vxlan: CHECK names each part that is not as ADD made it, and the next ADD makes it so again where the kernel can.

use cni_tests::kernel::link;
use cni_tests::{Attachment, Sandbox};
use serde_json::{Value, json};

use super::{Host, hosts};
use crate::case::{Case, improved};

/// What is done by hand, the words that CHECK has to name, and whether the next ADD repairs it.
const ALTERED: [(&str, &str, &[&str], bool); 8] = [
    ("missing_device", "ip link del vxlan42", &["VXLAN device vxlan42", "nothing"], true),
    ("device_down", "ip link set vxlan42 down", &["vxlan42", "expected up", "down"], true),
    ("device_out_of_the_bridge", "ip link set vxlan42 nomaster", &["bridge of vxlan42", "br-net", "none"], true),
    (
        "flood_entry_deleted",
        "bridge fdb del 00:00:00:00:00:00 dev vxlan42 dst 192.0.2.2",
        &["forwarding entry 00:00:00:00:00:00 dst 192.0.2.2 of vxlan42"],
        true,
    ),
    (
        "foreign_flood_entry",
        "bridge fdb append 00:00:00:00:00:00 dev vxlan42 dst 192.0.2.66",
        &["dst 192.0.2.66 of vxlan42", "none, as in /run/peers", "one"],
        true,
    ),
    ("other_mtu", "ip link set vxlan42 mtu 1300", &["mtu of vxlan42", "1450", "1300"], true),
    (
        "other_bridge",
        "ip link add br-other type bridge ; ip link set vxlan42 master br-other",
        &["br-net", "br-other"],
        false,
    ),
    (
        "mark_deleted",
        "ip link property del dev vxlan42 altname $(ip -j link show vxlan42 | jq -r '.[0].altnames[0]')",
        &["mark of container c1 (eth0) of network net on vxlan42"],
        false,
    ),
];

/// A device with other settings in the place of the plugin's, and what CHECK has to name.
const REPLACED: [(&str, &str, &[&str]); 5] = [
    ("other_vni", "vxlan id 43 dstport 4789 dev eth0", &["vni of vxlan42", "42", "43"]),
    ("other_port", "vxlan id 42 dstport 4790 dev eth0", &["port of vxlan42", "4789", "4790"]),
    ("other_underlay", "vxlan id 42 dstport 4789 dev lo", &["dev of vxlan42", "eth0", "lo"]),
    ("other_local_address", "vxlan id 42 dstport 4789 dev eth0 local 192.0.2.1", &["local address of vxlan42", "none"]),
    ("other_kind", "veth peer name other", &["kind of vxlan42", "vxlan", "veth"]),
];

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let altered =
        |(name, command, parts, repaired): &'static (&'static str, &'static str, &'static [&'static str], bool)| {
            improved(*name, move |sb| check_after(sb, command, parts, *repaired))
        };
    let replaced = |(name, kind, parts): &'static (&'static str, &'static str, &'static [&'static str])| {
        improved(*name, move |sb| {
            let command = format!(
                "ip link del vxlan42 && ip link add vxlan42 type {kind} && ip link set vxlan42 master br-net up"
            );
            check_after(sb, &command, parts, false);
        })
    };
    let mut cases: Vec<Case> = ALTERED.iter().map(altered).chain(REPLACED.iter().map(replaced)).collect();
    cases.extend([
        improved("every_version", versions),
        improved("without_a_result", without_result),
        improved("container_without_an_interface", without_interface),
    ]);
    cases
}

fn check_after(sb: &Sandbox, command: &str, parts: &[&str], repaired: bool) {
    let hosts = hosts(sb, 2);
    let (host, chain) = (&hosts[0], hosts[0].chain(sb, &json!({})));
    let container = host.attach(sb, &chain, "c1");
    host.call(sb, "CHECK", &chain, &container.at).silent();
    host.ns.sh(&["sh", "-c", command]);
    host.call(sb, "CHECK", &chain, &container.at).error().names(parts);
    if !repaired {
        return;
    }
    let next = host.attach(sb, &chain, "c2");
    for at in [&next.at, &container.at] {
        host.call(sb, "CHECK", &chain, at).silent();
    }
    // Also of a device that was deleted, with the marks of its users.
    host.del(sb, &chain, &next);
    host.call(sb, "CHECK", &chain, &container.at).silent();
}

/// Results before 0.3.0 have no interfaces, and before 1.1.0 no MTU.
fn versions(sb: &Sandbox) {
    let hosts = hosts(sb, 1);
    for version in cni_tests::plugins::VERSIONS {
        let chain = hosts[0].chain_behind(version, &json!({}), &json!({}));
        let container = hosts[0].attach(sb, &chain, &format!("c-{version}"));
        let result = container.at.result.as_ref().unwrap();
        let has_mtu = |interface: &Value| !interface["mtu"].is_null();
        let interfaces = result["interfaces"].as_array().cloned().unwrap_or_default();
        assert_eq!(interfaces.len(), if version < "0.3.0" { 0 } else { 4 }, "{version}: {result}");
        assert!(interfaces.iter().all(|interface| has_mtu(interface) == (version >= "1.1.0")), "{version}: {result}");
        assert_eq!(link(&container.ns, "eth0").unwrap()["mtu"], 1450);
        if version >= "0.4.0" {
            hosts[0].check(sb, &chain, &container);
        }
        hosts[0].del(sb, &chain, &container);
        assert!(!hosts[0].has_device("vxlan42"), "{version}");
    }
}

fn attached(sb: &Sandbox) -> (Vec<Host>, Attachment) {
    let hosts = hosts(sb, 1);
    let container = hosts[0].attach(sb, &hosts[0].chain(sb, &json!({})), "c1");
    (hosts, container.at)
}

fn without_result(sb: &Sandbox) {
    let (hosts, mut at) = attached(sb);
    at.result = None;
    let chain = hosts[0].chain(sb, &json!({}));
    hosts[0].call(sb, "CHECK", &chain, &at).error().names(&["prevResult"]);
    hosts[0].call(sb, "ADD", &chain, &at).error().names(&["prevResult", "chained"]);
}

fn without_interface(sb: &Sandbox) {
    let (hosts, at) = attached(sb);
    let chain = hosts[0].chain(sb, &json!({}));
    let other = Attachment { ifname: "eth7".to_owned(), ..at.clone() };
    for verb in ["ADD", "CHECK"] {
        hosts[0].call(sb, verb, &chain, &other).error().names(&["eth7", "put it behind `bridge`"]);
    }
    let ns = sb.container("alone");
    ns.sh(&["ip", "link", "add", "eth0", "type", "bridge"]);
    let alone = Attachment { netns: ns.path(), ..at };
    hosts[0].call(sb, "ADD", &chain, &alone).error().names(&["eth0", "no veth pair"]);
}

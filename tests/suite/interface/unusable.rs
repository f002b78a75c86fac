//! bridge and ptp: what an IPAM plugin returns, or what is requested, and can't work is refused by name, and taken back.

use std::fs;

use cni_tests::{Attachment, Chain, Sandbox, Snapshot, conf};
use serde_json::{Value, json};

use crate::case::{Case, improved};

/// Address, gateway, and what the error names.
const IPS: [(&str, &str, &str, &[&str]); 10] = [
    ("loopback", "127.0.0.5/8", "127.0.0.1", &["127.0.0.5/8", "loopback"]),
    ("unspecified", "0.0.0.0/0", "", &["0.0.0.0/0"]),
    ("multicast", "224.0.0.5/24", "", &["224.0.0.5/24", "multicast"]),
    ("ipv6_loopback", "::1/128", "fe80::1", &["::1/128", "loopback"]),
    ("ipv6_multicast", "ff02::5/64", "ff02::1", &["ff02::5/64", "multicast"]),
    ("gateway_of_the_other_family", "10.5.0.5/24", "fd00::1", &["10.5.0.5/24", "fd00::1", "family"]),
    ("gateway_loopback", "10.5.0.5/24", "127.0.0.1", &["127.0.0.1", "loopback"]),
    ("gateway_multicast", "10.5.0.5/24", "224.0.0.1", &["224.0.0.1", "multicast"]),
    ("gateway_its_own", "10.5.0.5/24", "10.5.0.5", &["10.5.0.5", "own"]),
    ("gateway_broadcast", "10.5.0.5/24", "10.5.0.255", &["10.5.0.255", "broadcast"]),
];

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for main in ["bridge", "ptp"] {
        for (what, address, gateway, names) in IPS {
            let name = format!("{main}::{what}");
            cases.push(improved(name, move |sb| from_ipam(sb, main, address, gateway, names)));
        }
    }
    cases.push(improved("bridge::mac_of_the_bridge", mac_of_the_bridge));
    cases.push(improved("bridge::mac_of_a_neighbour", mac_of_a_neighbour));
    cases
}

fn from_ipam(sb: &Sandbox, main: &str, address: &str, gateway: &str, names: &[&str]) {
    let (node, ns) = (sb.node(), sb.container("c1"));
    let ip =
        if gateway.is_empty() { json!({"address": address}) } else { json!({"address": address, "gateway": gateway}) };
    let result = json!({"cniVersion": "1.0.0", "ips": [ip]});
    sb.fake("odd", &format!("echo $CNI_COMMAND >>/run/asked; [ $CNI_COMMAND != ADD ] || echo '{result}'"));
    // The bridge stays, as always.
    node.sh(&["ip", "link", "add", "br-test", "type", "bridge"]);
    let conf = json!({"type": main, "bridge": "br-test", "isGateway": true, "ipMasq": true, "ipam": {"type": "odd"}});
    let before = Snapshot::of(&[&ns]);
    let chain = Chain::new("net", "1.0.0", &[conf]);
    chain.try_add(sb, &mut Attachment::new("c1", &ns)).unwrap_err().error().names(names);
    Snapshot::of(&[&ns]).same_but(&before, &["/run/asked"]);
    assert_eq!(fs::read_to_string("/run/asked").unwrap(), "ADD\nDEL\n", "the address is given back");
    assert_eq!(node.sh(&["ip", "-br", "link", "show", "type", "veth"]), "");
    assert!(cni_tests::kernel::addresses(&node, "br-test").is_empty());
    assert_eq!(cni_tests::kernel::sysctl(&node, "ipv4/ip_forward").as_deref(), Some("0"));
}

fn requesting(sb: &Sandbox, mac: &str) -> (Chain, Value) {
    let mut conf = conf::bridge();
    conf["capabilities"] = json!({"mac": true});
    (Chain::new("net", sb.newest(&["bridge", "host-local"]), &[conf]), mac.into())
}

fn refused(sb: &Sandbox, mac: &str, names: &[&str]) {
    let ns = sb.container("refused");
    let (chain, mac) = requesting(sb, mac);
    let before = Snapshot::of(&[&sb.node(), &ns]);
    chain.try_add(sb, &mut Attachment::new("refused", &ns).with("mac", mac)).unwrap_err().error().names(names);
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &["last_reserved_ip", ".host-local"]);
}

fn mac_of_the_bridge(sb: &Sandbox) {
    let (chain, mac) = requesting(sb, "02:00:00:00:00:51");
    let result = chain.add(sb, &mut Attachment::new("c1", &sb.container("c1")).with("mac", mac));
    let of = |index: usize| result["interfaces"][index]["mac"].as_str().unwrap();
    refused(sb, of(0), &[of(0), "br-test"]);
}

fn mac_of_a_neighbour(sb: &Sandbox) {
    let mac = "02:00:00:00:00:51";
    let (chain, requested) = requesting(sb, mac);
    let mut at = Attachment::new("c1", &sb.container("c1")).with("mac", requested.clone());
    let result = chain.add(sb, &mut at);
    refused(sb, mac, &[mac, "cni net c1 eth0"]);
    let port = result["interfaces"][1]["mac"].as_str().unwrap();
    // The node's end of the pair is on the bridge too.
    let ns = sb.container("c2");
    let (chain, _) = requesting(sb, port);
    chain.try_add(sb, &mut Attachment::new("c2", &ns).with("mac", port.into())).unwrap_err().error().names(&[port]);
    // A container that comes back with its address is none.
    chain.del(sb, &at);
    chain.add(sb, &mut Attachment::new("c3", &sb.container("c3")).with("mac", requested));
}

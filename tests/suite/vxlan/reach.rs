//! vxlan: who reaches whom.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use cni_tests::kernel::{array, link, sysctl};
use cni_tests::packets::{Proto, Server, ask, at, ping};
use cni_tests::{Chain, Sandbox, verdict};
use serde_json::{Value, json};

use super::{Container, Host, PLUGINS, hosts, list, write};
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("three_hosts_over_ipv4", |sb| all_reach_all(sb, 3, false, &json!({}))),
        improved("three_hosts_over_ipv6", |sb| all_reach_all(sb, 3, true, &json!({}))),
        improved("five_hosts", |sb| all_reach_all(sb, 5, false, &json!({}))),
        improved("another_port", |sb| all_reach_all(sb, 2, false, &json!({"port": 14789}))),
        improved("from_an_address_of_the_node", from_address),
        improved("from_an_address_of_lo", from_lo),
        improved("by_the_default_route", default_route),
        improved("known_addresses_are_not_flooded", known),
        improved("two_networks_stay_apart", two_networks),
        improved("published_port_of_another_host", published),
        improved("behind_the_go_bridge", go_bridge),
        improved("in_a_vlan_of_the_bridge", vlan),
    ]
}

/// In both families, with the containers' own addresses on either side.
fn all_reach_all(sb: &Sandbox, count: usize, over_v6: bool, keys: &Value) {
    let hosts = hosts(sb, count);
    list(&hosts, over_v6);
    let attached = attach_all(sb, &hosts, |host| host.chain(sb, keys));
    for (one, _, from) in &attached {
        let _web = Server::start(&from.ns, "web", 80);
        for (other, _, to) in attached.iter().filter(|(other, ..)| other.number != one.number) {
            for v6 in [false, true] {
                let seen = ask(&to.ns, Proto::Tcp, at(&from.at.ip(v6), 80)).unwrap();
                assert_eq!(seen, format!("web {}", to.at.ip(v6)), "{} to {}", other.ns.name, one.ns.name);
            }
        }
    }
    for (host, chain, container) in &attached {
        let others: Vec<String> =
            hosts.iter().filter(|other| other.number != host.number).map(|other| other.underlay(over_v6)).collect();
        assert_eq!(host.flooded_to(), others);
        assert_eq!(sysctl(&host.ns, "ipv6/conf/vxlan42/accept_ra").as_deref(), Some("0"));
        host.check(sb, chain, container);
        host.del(sb, chain, container);
        assert!(!host.has_device("vxlan42"));
    }
}

fn attach_all<'a>(
    sb: &Sandbox,
    hosts: &'a [Host],
    chain: impl Fn(&Host) -> Chain,
) -> Vec<(&'a Host, Chain, Container)> {
    let attach = |host: &'a Host| {
        let chain = chain(host);
        let container = host.attach(sb, &chain, &format!("c{}", host.number));
        (host, chain, container)
    };
    hosts.iter().map(attach).collect()
}

fn first_reaches_second(attached: &[(&Host, Chain, Container)]) -> bool {
    ping(&attached[0].2.ns, &attached[1].2.at.ip(false)) && ping(&attached[1].2.ns, &attached[0].2.at.ip(true))
}

/// `local` in the place of `dev`.
fn from_address(sb: &Sandbox) {
    let hosts = hosts(sb, 2);
    let chain = |host: &Host| host.chain(sb, &json!({"dev": "", "local": host.underlay(false)}));
    let attached = attach_all(sb, &hosts, chain);
    assert!(first_reaches_second(&attached));
    let device = link(&hosts[0].ns, "vxlan42").unwrap();
    assert_eq!(device["linkinfo"]["info_data"]["local"], "192.0.2.1");
    assert_eq!(device["mtu"], 1450);
    attached.iter().for_each(|(host, chain, container)| host.check(sb, chain, container));
}

/// An address that is routed to the node, on `lo`: nothing tells the MTU of the way.
fn from_lo(sb: &Sandbox) {
    let hosts = hosts(sb, 2);
    write("198.51.100.1\n198.51.100.2\n");
    for (host, other) in [(&hosts[0], 2), (&hosts[1], 1)] {
        host.ns.sh(&["ip", "addr", "add", &format!("198.51.100.{}/32", host.number), "dev", "lo"]);
        let (to, via) = (format!("198.51.100.{other}/32"), format!("192.0.2.{other}"));
        host.ns.sh(&["ip", "route", "add", &to, "via", &via]);
    }
    let keys = |host: &Host| json!({"dev": "", "local": format!("198.51.100.{}", host.number)});
    let refused = hosts[0].try_attach(sb, &hosts[0].chain(sb, &keys(&hosts[0])), "none").err().unwrap();
    refused.error().names(&["mtu", "lo"]);
    let attached = attach_all(sb, &hosts, |host| {
        let mut keys = keys(host);
        keys["mtu"] = 1450.into();
        host.chain(sb, &keys)
    });
    assert!(first_reaches_second(&attached));
    attached.iter().for_each(|(host, chain, container)| host.check(sb, chain, container));
}

fn default_route(sb: &Sandbox) {
    let hosts = hosts(sb, 2);
    let chain = |host: &Host| host.chain(sb, &json!({"dev": ""}));
    let refused = hosts[0].try_attach(sb, &chain(&hosts[0]), "none").err().unwrap();
    refused.error().names(&["dev", "local", "no default route"]);
    hosts.iter().for_each(|host| drop(host.ns.sh(&["ip", "route", "add", "default", "via", "192.0.2.254"])));
    assert!(first_reaches_second(&attach_all(sb, &hosts, chain)));
}

/// An address that the file has goes to one host only, from the first frame on.
fn known(sb: &Sandbox) {
    let hosts = hosts(sb, 3);
    let chains: Vec<Chain> = hosts.iter().map(|host| host.chain(sb, &json!({}))).collect();
    write("192.0.2.1\n192.0.2.2 10.1.2.0/24 02:00:00:00:02:01\n192.0.2.3 fd00:1::3:0/112\n");
    let container = hosts[0].attach(sb, &chains[0], "c1");
    let entries = array(&hosts[0].ns.sh(&["bridge", "-j", "fdb", "show", "dev", "vxlan42"]));
    let entry = entries.iter().find(|entry| entry["mac"] == "02:00:00:00:02:01").expect("an entry");
    assert_eq!((&entry["dst"], &entry["state"]), (&json!("192.0.2.2"), &json!("permanent")));
    hosts[0].check(sb, &chains[0], &container);
    // It has moved.
    write("192.0.2.1\n192.0.2.2\n192.0.2.3 02:00:00:00:02:01\n");
    hosts[0].check_names(
        sb,
        &chains[0],
        &container,
        &["02:00:00:00:02:01 dst 192.0.2.3", "02:00:00:00:02:01 dst 192.0.2.2"],
    );
    hosts[0].attach(sb, &chains[0], "c2");
    hosts[0].check(sb, &chains[0], &container);
}

/// Networks with numbers of their own on the same two hosts and the same port: a container of one has an address of the other.
fn two_networks(sb: &Sandbox) {
    let hosts = hosts(sb, 2);
    let blue = attach_all(sb, &hosts, |host| host.chain(sb, &json!({})));
    let of_red = |host: &Host| {
        let chain = host.chain_behind(sb.newest(&PLUGINS), &json!({"bridge": "br-red"}), &json!({"vni": 43}));
        let mut plugins = chain.plugins().to_vec();
        // The same subnets in another bridge: what keeps them apart is the network alone.
        plugins[0]["isDefaultGateway"] = false.into();
        plugins[0]["ipam"]["dataDir"] = format!("/run/red{}", host.number).into();
        plugins[0]["ipam"]["ranges"][0][0]["rangeStart"] = format!("10.1.{}.100", host.number).into();
        Chain::new("red", chain.version(), &plugins)
    };
    let red: Vec<_> =
        hosts.iter().map(|host| (of_red(host), host.attach(sb, &of_red(host), &format!("r{}", host.number)))).collect();
    assert!(first_reaches_second(&blue));
    assert!(ping(&red[0].1.ns, &red[1].1.at.ip(false)), "red to red");
    let reached = blue[0].2.ns.holds(&["ping", "-n", "-q", "-c", "1", "-w", "2", &red[1].1.at.ip(false)]);
    assert!(!reached, "blue to red");
    hosts[0].del(sb, &red[0].0, &red[0].1);
    assert!(hosts[0].has_device("vxlan42") && !hosts[0].has_device("vxlan43"));
    assert_eq!(hosts[0].guarded("peers4"), ["4789 . 192.0.2.2"], "blue needs it still");
    assert!(first_reaches_second(&blue));
}

/// A port that one host publishes for its container, asked for by another host's container.
fn published(sb: &Sandbox) {
    if !sb.has("portmap") {
        verdict::skip("no portmap in the directory under test");
    }
    let hosts = hosts(sb, 2);
    let chain = |host: &Host| {
        let chain = host.chain_behind(sb.newest(&PLUGINS), &json!({"ipMasq": true}), &json!({}));
        let portmap = json!({"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}});
        Chain::new("net", chain.version(), &[chain.plugins(), &[portmap]].concat())
    };
    let (one, two) = (chain(&hosts[0]), chain(&hosts[1]));
    let ns = sb.container("c1");
    let mut web = cni_tests::Attachment::new("c1", &ns).publish(&[(8080, 80, "tcp")]);
    hosts[0].ns.run(|| one.add(sb, &mut web));
    let client = hosts[1].attach(sb, &two, "c2");
    let _web = Server::start(&ns, "web", 80);
    assert_eq!(ask(&client.ns, Proto::Tcp, at("192.0.2.1", 8080)).unwrap(), "web 192.0.2.2", "through the underlay");
    assert!(
        ask(&client.ns, Proto::Tcp, at(&web.ip(false), 80)).unwrap().contains(&client.at.ip(false)),
        "through the tunnel"
    );
    hosts[0].ns.run(|| one.check(sb, &web)).silent();
}

/// Go's `bridge` and `host-local` before it in the chain.
fn go_bridge(sb: &Sandbox) {
    let (go, mixed) = (Path::new("/usr/lib/cni"), Path::new("/run/mixed"));
    if !go.join("bridge").is_file() || !sb.has("vxlan") {
        verdict::skip("no Go plugins in /usr/lib/cni, or no vxlan");
    }
    fs::create_dir_all(mixed).unwrap();
    for (name, from) in [("bridge", go), ("host-local", go), ("vxlan", sb.dir())] {
        symlink(from.join(name), mixed.join(name)).unwrap();
    }
    let mixed = sb.with_plugins(mixed);
    let hosts = hosts(sb, 2);
    let chain = |host: &Host| host.chain_behind("1.0.0", &json!({}), &json!({}));
    let attached = attach_all(&mixed, &hosts, chain);
    assert!(first_reaches_second(&attached));
    for (host, chain, container) in &attached {
        assert_eq!(link(&container.ns, "eth0").unwrap()["mtu"], 1450);
        host.check(&mixed, chain, container);
        let bridge = link(&host.ns, "br-net").unwrap();
        assert!(
            !bridge["address"].as_str().unwrap().starts_with("fe:"),
            "the bridge does not take the device's address"
        );
        host.del(&mixed, chain, container);
        assert!(!host.has_device("vxlan42"));
    }
}

/// Frames of the container's VLAN, without their tag, and of no other one.
fn vlan(sb: &Sandbox) {
    sb.needs_vlan_filtering();
    let hosts = hosts(sb, 2);
    let version = sb.newest(&PLUGINS);
    let chain = |host: &Host| host.chain_behind(version, &json!({"vlan": 100, "isDefaultGateway": false}), &json!({}));
    let attached = attach_all(sb, &hosts, chain);
    assert!(first_reaches_second(&attached));
    for (host, chain, container) in &attached {
        let vlans = array(&host.ns.sh(&["bridge", "-j", "vlan", "show", "dev", "vxlan42"]));
        assert_eq!(vlans[0]["vlans"], json!([{"vlan": 100, "flags": ["PVID", "Egress Untagged"]}]));
        host.check(sb, chain, container);
    }
    let (host, chain, container) = &attached[0];
    host.ns.sh(&["bridge", "vlan", "del", "dev", "vxlan42", "vid", "100"]);
    host.check_names(sb, chain, container, &["VLAN 100 of vxlan42"]);
    let other = host.chain_behind(version, &json!({"vlan": 200, "isDefaultGateway": false}), &json!({}));
    host.ns.sh(&["bridge", "vlan", "add", "dev", "vxlan42", "vid", "100", "pvid", "untagged"]);
    host.try_attach(sb, &other, "c9").err().unwrap().error().names(&["vni: 42", "200", "100"]);
}

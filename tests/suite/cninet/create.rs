//! `create`, `rm` and `prune`: lists that the plugins accept, and removal of nothing else.

use std::path::Path;

use cni_tests::Sandbox;
use cni_tests::kernel::{addresses, default_routes, link, link_names};
use serde_json::{Value, json};

use super::{NETWORKS, attach, cninet, network, printed, refused, shown};
use crate::case::{Case, improved};

/// All cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("a_bridge_that_works", bridge),
        improved("options_of_docker", options),
        improved("internal", internal),
        improved("a_further_network_leaves_the_way_out", way_out),
        improved("other_drivers", drivers),
        improved("subnets_are_chosen_and_clashes_refused", subnets),
        improved("rm_and_prune_remove_their_own_only", remove),
    ]
}

fn list(name: &str) -> Value {
    let path = Path::new(NETWORKS).join(format!("90-cninet-{name}.conflist"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn bridge(sb: &Sandbox) {
    let said = printed(sb, &["create", "red", "--subnet", "10.61.0.0/24", "--subnet", "fd61::/64"]);
    assert_eq!(said, format!("{NETWORKS}/90-cninet-red.conflist\n"));
    let ns = attach(sb, "red", "c1");
    assert_eq!(addresses(&ns, "eth0"), ["10.61.0.2/24", "fd61::2/64"]);
    assert_eq!(default_routes(&ns, "-4"), ["10.61.0.1 dev eth0"]);
    printed(sb, &["check", "red", &ns.path(), "--id", "c1"]);
    assert_eq!(shown(sb, &["ls"])[0]["createdByCninet"], true);
    printed(sb, &["del", "red", &ns.path(), "--id", "c1"]);
    printed(sb, &["rm", "red"]);
    assert!(!link_names(&sb.node()).contains(&"cni-red".to_owned()), "the bridge goes with its last port");
}

fn options(sb: &Sandbox) {
    printed(
        sb,
        &[
            "create",
            "red",
            "--subnet",
            "10.62.0.0/16",
            "--ip-range",
            "10.62.5.0/24",
            "--gateway",
            "10.62.0.254",
            "-o",
            "com.docker.network.driver.mtu=1400",
            "-o",
            "com.docker.network.bridge.name=br7",
            "--opt",
            "ipMasqBackend=nftables",
        ],
    );
    let bridge = &list("red")["plugins"][0];
    assert_eq!(
        (&bridge["mtu"], &bridge["bridge"], &bridge["ipMasqBackend"]),
        (&1400.into(), &"br7".into(), &"nftables".into())
    );
    let ns = attach(sb, "red", "c1");
    assert_eq!(addresses(&ns, "eth0"), ["10.62.5.0/16"]);
    assert_eq!(default_routes(&ns, "-4"), ["10.62.0.254 dev eth0"]);
    assert_eq!(link(&ns, "eth0").unwrap()["mtu"], 1400);
    for (words, named) in [
        (&["--opt", "mtu"][..], "KEY=VALUE"),
        (&["--opt", "ipam={}"], "ipam"),
        (&["--gateway", "10.9.9.9"], "10.9.9.9"),
        (&["--ip-range", "10.9.9.0/24"], "10.9.9.0"),
    ] {
        refused(sb, &[&["create", "blue", "--subnet", "10.69.0.0/24"][..], words].concat(), &[named]);
    }
    assert_eq!(shown(sb, &["ls"]).len(), 1, "what is refused leaves nothing");
}

/// The default route of the first network stays the one that is used.
fn way_out(sb: &Sandbox) {
    network(
        "first",
        68,
        &json!({"isDefaultGateway": true, "ipam": {"type": "host-local", "ranges": [
        [{"subnet": "10.68.0.0/24"}], [{"subnet": "fd68::/64"}]]}}),
        &[],
    );
    printed(sb, &["create", "red", "--subnet", "10.61.0.0/24", "--subnet", "fd61::/64"]);
    let ns = attach(sb, "first", "c1");
    printed(sb, &["connect", "red", "c1"]);
    for (to, way) in [("192.0.2.9", "10.68.0.1"), ("2001:db8::9", "fd68::1")] {
        let route = ns.sh(&["ip", "route", "get", to]);
        assert!(route.contains(&format!("via {way} dev eth0")), "{route}");
    }
}

fn internal(sb: &Sandbox) {
    printed(sb, &["create", "red", "--subnet", "10.63.0.0/24", "--internal"]);
    let ns = attach(sb, "red", "c1");
    assert_eq!(default_routes(&ns, "-4"), [] as [String; 0]);
    assert_eq!(shown(sb, &["inspect", "red"])[0]["Internal"], true);
    assert_eq!(list("red")["plugins"].as_array().unwrap().len(), 1);
}

fn drivers(sb: &Sandbox) {
    printed(sb, &["create", "routed", "--driver", "ptp", "--subnet", "10.64.0.0/24"]);
    let ns = attach(sb, "routed", "c1");
    assert_eq!(addresses(&ns, "eth0"), ["10.64.0.2/24"]);
    sb.node().sh(&["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
    sb.node().sh(&["ip", "link", "set", "up0", "up"]);
    printed(
        sb,
        &[
            "create",
            "mac",
            "-d",
            "macvlan",
            "--parent",
            "up0",
            "--subnet",
            "10.65.0.0/24",
            "-o",
            "macvlan_mode=private",
        ],
    );
    assert_eq!(
        (&list("mac")["plugins"][0]["master"], &list("mac")["plugins"][0]["mode"]),
        (&"up0".into(), &"private".into())
    );
    printed(sb, &["create", "ip", "-d", "ipvlan", "--parent", "up0", "--subnet", "10.66.0.0/24"]);
    assert_eq!(list("ip")["plugins"][0]["mode"], "l2");
}

fn subnets(sb: &Sandbox) {
    sb.node().sh(&["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
    sb.node().sh(&["ip", "addr", "add", "10.89.1.7/24", "dev", "up0"]);
    for (name, subnet) in [("a", "10.89.0.0/24"), ("b", "10.89.2.0/24")] {
        printed(sb, &["create", name]);
        assert_eq!(shown(sb, &["inspect", name])[0]["IPAM"]["Config"][0]["Subnet"], subnet);
    }
    refused(sb, &["create", "c", "--subnet", "10.89.0.0/16"], &["10.89.0.0/16 overlaps 10.89.0.0/24 of network a"]);
    refused(sb, &["create", "c", "--subnet", "10.89.1.0/25"], &["the node's link up0"]);
    refused(sb, &["create", "a"], &["network a exists", "90-cninet-a.conflist"]);
}

fn remove(sb: &Sandbox) {
    network("foreign", 67, &json!({}), &[]);
    for name in ["used", "unused", "other"] {
        printed(sb, &["create", name]);
    }
    let ns = attach(sb, "used", "c1");
    refused(sb, &["rm", "foreign"], &["was not made by cninet create", "foreign.conflist"]);
    refused(sb, &["rm", "unused", "used"], &["used is used by container c1 (running)", "cninet disconnect"]);
    refused(sb, &["rm", "nosuch"], &["\"nosuch\""]);
    assert_eq!(shown(sb, &["ls"]).len(), 4, "all or nothing");
    assert_eq!(printed(sb, &["rm", "other"]), "other\n");
    assert_eq!(printed(sb, &["prune"]), "unused\n");
    let names: Vec<Value> = shown(sb, &["ls"]).iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["used", "foreign"]);
    ns.delete();
    refused(sb, &["rm", "used"], &["(gone)", "cninet gc"]);
    assert_eq!(cninet(sb, &["prune"]).stdout, "");
}

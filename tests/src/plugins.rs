//! A valid call of any of the plugins, for tables that spoil one thing of it.

use crate::{Call, Netns, Sandbox, conf, kernel, verdict};
use serde_json::{Value, json};

/// The plugins that every table is about.
pub const PLUGINS: [&str; 18] = [
    "bridge",
    "host-local",
    "portmap",
    "loopback",
    "static",
    "tuning",
    "ptp",
    "firewall",
    "bandwidth",
    "sbr",
    "dhcp",
    "macvlan",
    "ipvlan",
    "vlan",
    "dummy",
    "host-device",
    "tap",
    "vrf",
];

/// Every version of the spec, oldest first.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The smallest configuration that ADD of a plugin accepts.
pub fn minimal(plugin: &str, version: &str) -> Value {
    match plugin {
        "host-local" => conf::host_local(version, &["10.1.2.0/24"]),
        "bridge" => conf::named(version, json!({"type": "bridge", "bridge": "br-test"})),
        "portmap" | "tuning" | "firewall" | "bandwidth" | "sbr" => {
            conf::named(version, json!({"type": plugin, "prevResult": previous(version)}))
        }
        "vrf" => conf::named(version, json!({"type": "vrf", "vrfname": "red", "prevResult": previous(version)})),
        "ptp" => {
            let ipam = json!({"type": "host-local", "subnet": "10.1.2.0/24"});
            conf::named(version, json!({"type": "ptp", "ipam": ipam}))
        }
        "macvlan" | "ipvlan" | "vlan" | "dummy" | "host-device" | "tap" => {
            let ipam = json!({"type": "host-local", "subnet": "10.1.2.0/24"});
            let keys = json!({"type": plugin, "master": MASTER, "device": MASTER, "vlanId": 7, "ipam": ipam});
            conf::named(version, keys)
        }
        "static" => {
            let ipam = json!({"type": "static", "addresses": [{"address": "10.1.2.3/24"}]});
            conf::named(version, json!({"type": "static", "ipam": ipam}))
        }
        "dhcp" => conf::named(version, json!({"type": "dhcp", "ipam": {"type": "dhcp"}})),
        _ => conf::named(version, json!({"type": plugin})),
    }
}

/// A result that a plugin before this one could have given, at a version's shape.
pub fn previous(version: &str) -> Value {
    match version {
        "0.1.0" | "0.2.0" => json!({"cniVersion": version, "ip4": {"ip": "10.1.2.3/24"}, "dns": {}}),
        "0.3.0" | "0.3.1" | "0.4.0" => json!({
            "cniVersion": version, "ips": [{"version": "4", "address": "10.1.2.3/24"}], "dns": {}
        }),
        _ => json!({"cniVersion": version, "ips": [{"address": "10.1.2.3/24"}]}),
    }
}

/// The link that [`prepare`] makes for plugins whose link is on another one, or is that.
pub const MASTER: &str = "up9";

/// Makes what a plugin needs of the node for its [`minimal`] configuration. Idempotent. Skips the case if the kernel lacks the
/// plugin's kind of link.
pub fn prepare(sandbox: &Sandbox, plugin: &str) {
    if !["macvlan", "ipvlan", "vlan", "dummy", "host-device", "vrf"].contains(&plugin) {
        return;
    }
    let node = sandbox.node();
    if plugin == "vrf" {
        return needs_kind(&node, plugin, &["table", "9"]);
    }
    // Once, as the probe changes the mode of all ipvlan links on it.
    if !node.holds(&["ip", "link", "add", MASTER, "type", "veth", "peer", "name", "wire9"]) {
        return;
    }
    if plugin == "host-device" {
        return;
    }
    if plugin == "vlan" {
        node.sh(&["ip", "link", "set", MASTER, "up"]);
    }
    needs_kind(&node, plugin, if plugin == "vlan" { &["id", "4094"] } else { &[] });
}

/// Skips the case unless a link of this kind can be made. Kinds that need no other link ignore that it is on [`MASTER`].
fn needs_kind(node: &Netns, kind: &str, options: &[&str]) {
    let on: &[&str] = if kind == "vrf" { &[] } else { &["link", MASTER] };
    if !node.holds(&[&["ip", "link", "add"], on, &["name", "probe", "type", kind], options].concat()) {
        verdict::skip(format!("this kernel has no {kind} links"));
    }
    node.sh(&["ip", "link", "del", "probe"]);
}

/// A call with everything in place: `eth0` of container `c1`, minimal configuration.
pub fn ready(sandbox: &Sandbox, plugin: &str, verb: &str, version: &str, netns: &Netns) -> Call {
    match plugin {
        "sbr" | "vrf" if verb != "DEL" => interface(&sandbox.node(), netns),
        "dhcp" if verb != "DEL" => sandbox.dhcp_link(netns),
        _ => {}
    }
    prepare(sandbox, plugin);
    sandbox.plugin(plugin, verb).attach("c1", "eth0", netns).conf(&minimal(plugin, version))
}

/// A result without an empty `dns`, which plugins older than 1.2.0 print at 1.x and which says nothing there.
pub fn tidy(mut result: Value) -> Value {
    if result["cniVersion"].as_str().is_some_and(|v| v >= "1.0.0") && result["dns"] == json!({}) {
        result.as_object_mut().map(|r| r.remove("dns"));
    }
    result
}

/// What an ADD at this version returns for an `eth0` in this namespace with the default MTU, an IPv4 and an IPv6 address, each with
/// its gateway, and default routes.
pub fn result_of_eth0(version: &str, ns: &Netns, [v4, v6]: [(&str, &str); 2]) -> Value {
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    if version < "0.3.0" {
        let old = |(ip, gateway), dst| json!({"ip": ip, "gateway": gateway, "routes": [{ "dst": dst }]});
        return json!({"cniVersion": version, "ip4": old(v4, "0.0.0.0/0"), "ip6": old(v6, "::/0"), "dns": {}});
    }
    let mac = kernel::link(ns, "eth0").unwrap()["address"].clone();
    let mut interface = json!({"name": "eth0", "mac": mac, "sandbox": ns.path()});
    if version >= "1.1.0" {
        interface["mtu"] = 1500.into();
    }
    let mut ips =
        json!([v4, v6].map(|(address, gateway)| json!({"address": address, "gateway": gateway, "interface": 0})));
    let mut result = json!({"cniVersion": version, "interfaces": [interface], "routes": routes});
    if version < "1.0.0" {
        (ips[0]["version"], ips[1]["version"]) = ("4".into(), "6".into());
        result["dns"] = json!({});
    }
    result["ips"] = ips;
    result
}

/// sbr doesn't work without one: an `eth0` without addresses and routes, unless the container has one, or is gone.
fn interface(node: &Netns, container: &Netns) {
    if container.name != "node" {
        node.holds(&["ip", "-n", &container.name, "link", "add", "eth0", "type", "bridge"]);
    }
}

//! ptp: a pair for one container; the node routes, in both families.

use cni_tests::kernel::{addresses, array, link, routes, sysctl};
use cni_tests::packets::{Proto, Server, ask, at, ping};
use cni_tests::{Netns, Sandbox};
use serde_json::{Value, json};

use super::{V4, attached, call, host_link, network};
use crate::case::{Case, common, improved};
use cni_tests::plugins::{VERSIONS, minimal, ready, tidy};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("addresses_and_routes_of_both_ends", both_ends),
        common("containers_reach_each_other_and_the_node", reach),
        common("forwarding_only_of_the_families_in_use", forwarding),
        common("mtu_of_both_ends", mtu),
        common("no_router_advertisements_on_the_node", |sb| {
            let (ns, at) = attached(sb, &network(), "c1");
            assert_eq!(sysctl(&sb.node(), &format!("ipv6/conf/{}/accept_ra", host_link(&at))).as_deref(), Some("0"));
            drop(ns);
        }),
        improved("no_address_is_tentative", tentative),
        improved("one_address_subnet", one_address),
        improved("a_neighbour_as_next_hop", neighbour),
        improved("the_owner_is_on_the_link", owner),
    ];
    for version in VERSIONS {
        cases.push(common(format!("result_{version}"), move |sb| result(sb, version)));
    }
    cases
}

/// `destination via gateway dev device src source`, as far as they are there.
fn shown(route: &Value) -> String {
    let mut text = route["dst"].as_str().unwrap().to_owned();
    for (key, word) in [("gateway", "via"), ("dev", "dev"), ("prefsrc", "src")] {
        if let Some(value) = route[key].as_str() {
            text.push_str(&format!(" {word} {value}"));
        }
    }
    text
}

fn own_routes(ns: &Netns, family: &str) -> Vec<String> {
    let mut shown: Vec<String> = routes(ns, family).iter().map(shown).filter(|r| !r.starts_with("fe80:")).collect();
    shown.sort();
    shown
}

/// The addresses and routes that the Go plugin gives both ends, word for word.
fn both_ends(sb: &Sandbox) {
    let (ns, at) = attached(sb, &network(), "c1");
    let (node, veth) = (sb.node(), host_link(&at));
    assert_eq!(addresses(&ns, "eth0"), ["10.21.0.2/24", "fd00:21::2/64"]);
    assert_eq!(
        own_routes(&ns, "-4"),
        [
            "10.21.0.0/24 via 10.21.0.1 dev eth0 src 10.21.0.2",
            "10.21.0.1 dev eth0 src 10.21.0.2",
            "default via 10.21.0.1 dev eth0",
        ]
    );
    assert_eq!(
        own_routes(&ns, "-6"),
        [
            "default via fd00:21::1 dev eth0",
            "fd00:21::/64 via fd00:21::1 dev eth0 src fd00:21::2",
            "fd00:21::1 dev eth0 src fd00:21::2",
        ]
    );
    assert_eq!(addresses(&node, &veth), ["10.21.0.1/32", "fd00:21::1/128"]);
    assert_eq!(own_routes(&node, "-4"), [format!("10.21.0.2 dev {veth}")]);
    assert_eq!(own_routes(&node, "-6"), [format!("fd00:21::1 dev {veth}"), format!("fd00:21::2 dev {veth}")]);
    let scope = &routes(&node, "-4")[0]["scope"];
    assert_eq!(scope, "host");
}

fn reach(sb: &Sandbox) {
    let (one, first) = attached(sb, &network(), "c1");
    let (two, second) = attached(sb, &network(), "c2");
    for v6 in [false, true] {
        let gateway = if v6 { "fd00:21::1" } else { "10.21.0.1" };
        assert!(ping(&one, gateway) && ping(&two, gateway), "{gateway}");
        assert!(ping(&sb.node(), &first.ip(v6)) && ping(&sb.node(), &second.ip(v6)));
        assert!(ping(&one, &second.ip(v6)) && ping(&two, &first.ip(v6)));
    }
    let _server = Server::start(&two, "two", 80);
    for v6 in [false, true] {
        let answer = ask(&one, Proto::Tcp, at(&second.ip(v6), 80)).unwrap();
        assert_eq!(answer, format!("two {}", first.ip(v6)));
    }
}

fn forwarding(sb: &Sandbox) {
    let mut conf = network();
    conf["ipam"] = json!({"type": "host-local", "subnet": V4});
    attached(sb, &conf, "c1");
    let node = sb.node();
    assert_eq!(sysctl(&node, "ipv4/ip_forward").as_deref(), Some("1"));
    assert_eq!(sysctl(&node, "ipv6/conf/all/forwarding").as_deref(), Some("0"));
    attached(sb, &network(), "c2");
    assert_eq!(sysctl(&node, "ipv6/conf/all/forwarding").as_deref(), Some("1"));
}

fn mtu(sb: &Sandbox) {
    let mut conf = network();
    conf["mtu"] = 1400.into();
    let (ns, at) = attached(sb, &conf, "c1");
    assert_eq!(link(&ns, "eth0").unwrap()["mtu"], 1400);
    assert_eq!(link(&sb.node(), &host_link(&at)).unwrap()["mtu"], 1400);
    ready(sb, "ptp", "ADD", "1.0.0", &sb.container("c2")).run().result();
}

fn result(sb: &Sandbox, version: &str) {
    sb.needs("ptp", version);
    let ns = sb.container("c1");
    let mut conf = minimal("ptp", version);
    conf["ipam"] = network()["ipam"].clone();
    let mut result = tidy(ready(sb, "ptp", "ADD", version, &ns).conf(&conf).run().result());
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    if version < "0.3.0" {
        let v4 = json!({"ip": "10.21.0.2/24", "gateway": "10.21.0.1", "routes": [{"dst": "0.0.0.0/0"}]});
        let v6 = json!({"ip": "fd00:21::2/64", "gateway": "fd00:21::1", "routes": [{"dst": "::/0"}]});
        assert_eq!(result, json!({"cniVersion": version, "ip4": v4, "ip6": v6, "dns": {}}));
        return;
    }
    let interfaces = result["interfaces"].take();
    assert_eq!(interfaces.as_array().map(Vec::len), Some(2), "{interfaces}");
    assert_eq!((&interfaces[1]["name"], &interfaces[1]["sandbox"]), (&json!("eth0"), &json!(ns.path())));
    for (interface, place) in [(&interfaces[0], sb.node()), (&interfaces[1], ns.clone())] {
        let real = link(&place, interface["name"].as_str().unwrap()).unwrap();
        assert_eq!(interface["mac"], real["address"]);
    }
    assert!(interfaces[0]["sandbox"].is_null());
    let mut ips = json!([
        {"address": "10.21.0.2/24", "gateway": "10.21.0.1", "interface": 1},
        {"address": "fd00:21::2/64", "gateway": "fd00:21::1", "interface": 1}
    ]);
    let mut expected = json!({"cniVersion": version, "interfaces": null, "routes": routes});
    if version < "1.0.0" {
        (ips[0]["version"], ips[1]["version"]) = ("4".into(), "6".into());
        expected["dns"] = json!({});
    }
    expected["ips"] = ips;
    assert_eq!(result, expected);
}

fn tentative(sb: &Sandbox) {
    let (ns, at) = attached(sb, &network(), "c1");
    for (place, name) in [(ns, "eth0".to_owned()), (sb.node(), host_link(&at))] {
        let shown = array(&place.sh(&["ip", "-6", "-j", "addr", "show", "dev", &name, "scope", "global"]));
        let infos: Vec<&Value> = shown
            .iter()
            .filter_map(|l| l["addr_info"].as_array())
            .flatten()
            .filter(|a| a["local"].is_string())
            .collect();
        assert_eq!(infos.len(), 1, "{infos:?}");
        assert!(infos[0]["tentative"].is_null(), "{infos:?}");
    }
}

/// An address that is its whole subnet, and a gateway outside of it.
fn one_address(sb: &Sandbox) {
    let addresses = json!([
        {"address": "10.5.0.5/32", "gateway": "169.254.1.1"}, {"address": "fd00:5::5/128", "gateway": "fe80::1"}
    ]);
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    let conf = json!({"type": "ptp", "ipam": {"type": "static", "addresses": addresses, "routes": routes}});
    let (ns, at) = attached(sb, &conf, "c1");
    assert_eq!(own_routes(&ns, "-4"), ["169.254.1.1 dev eth0 src 10.5.0.5", "default via 169.254.1.1 dev eth0"]);
    assert!(ping(&sb.node(), "10.5.0.5") && ping(&sb.node(), "fd00:5::5"));
    call(sb, "CHECK", &conf, &at).silent();
    call(sb, "DEL", &conf, &at).silent();
}

fn neighbour(sb: &Sandbox) {
    let mut conf = network();
    conf["ipam"]["routes"] =
        json!([{"dst": "10.9.0.0/16", "gw": "10.21.0.9"}, {"dst": "fd09::/16", "gw": "fd00:21::9"}]);
    let (ns, at) = attached(sb, &conf, "c1");
    assert!(own_routes(&ns, "-4").contains(&"10.9.0.0/16 via 10.21.0.9 dev eth0".to_owned()));
    assert!(own_routes(&ns, "-6").contains(&"fd09::/16 via fd00:21::9 dev eth0".to_owned()));
    call(sb, "CHECK", &conf, &at).silent();
}

fn owner(sb: &Sandbox) {
    let (_ns, at) = attached(sb, &network(), "c1");
    let link = link(&sb.node(), &host_link(&at)).unwrap();
    assert_eq!(link["ifalias"], "cni ptpnet c1 eth0");
    let altnames = link["altnames"].as_array().cloned().unwrap_or_default();
    assert!(altnames.iter().any(|name| name.as_str().is_some_and(|name| name.starts_with("cni-"))), "{link}");
}

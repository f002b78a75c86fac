//! bridge and ptp: routes as the kernel has them in the end, and gateways outside of the containers' subnet.

use std::path::Path;

use cni_tests::kernel::{addresses, array, default_routes, routes, set_sysctl};
use cni_tests::packets::{Outside, ping};
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot, conf, verdict};
use serde_json::{Value, json};

use crate::case::{Case, common, improved};

/// Debian's package `containernetworking-plugins`.
const GO: &str = "/usr/lib/cni";

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for main in ["bridge", "ptp"] {
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let name = format!("{main}::ipv6_host_bits_are_cleared_{version}");
            cases.push(improved(name, move |sb| host_bits(sb, main, version)));
        }
        cases.push(improved(format!("{main}::ipv4_host_bits_are_refused"), move |sb| ipv4_host_bits(sb, main)));
        cases.push(common(format!("{main}::the_same_route_twice"), move |sb| twice(sb, main)));
        cases.push(improved(format!("{main}::check_after_routes_moved_to_another_table"), move |sb| {
            moved(sb, main);
        }));
        cases.push(improved(format!("{main}::check_after_sbr_of_go"), move |sb| sbr(sb, main)));
        cases.push(improved(format!("{main}::check_after_tuning_of_go"), move |sb| tuning(sb, main)));
        cases.push(improved(format!("{main}::refused_route_names_the_link"), move |sb| named(sb, main)));
    }
    cases.push(improved("bridge::check_of_host_bits_by_go", host_bits_by_go));
    for ipam in ["host-local", "static"] {
        cases.push(common(format!("{ipam}::passes_host_bits_on"), move |sb| passed_on(sb, ipam)));
    }
    for (what, address, gateway) in [
        ("link_local", "2001:db8:5::5/64", "fe80::1"),
        ("ipv6", "2001:db8:5::5/64", "2001:db8:7::1"),
        ("ipv4", "10.9.9.9/24", "10.8.8.1"),
    ] {
        let name = format!("bridge::{what}_gateway_outside_of_the_subnet");
        cases.push(improved(name, move |sb| outside_gateway(sb, address, gateway)));
    }
    cases.push(improved("bridge::gateway_outside_of_a_single_address", single_address));
    cases.push(improved("bridge::link_local_gateway_beside_another", beside));
    cases
}

fn network(main: &str, routes: &Value) -> Value {
    let mut conf = conf::bridge();
    conf["type"] = main.into();
    conf["ipam"]["routes"] = routes.clone();
    conf
}

fn chain(sb: &Sandbox, conf: Value) -> Chain {
    let main = conf["type"].as_str().unwrap().to_owned();
    Chain::new("net", sb.newest(&[&main, "host-local"]), &[conf])
}

/// CRI-O's list of many releases: the route is written with the gateway's address.
fn crio(main: &str) -> Value {
    let mut conf = network(main, &json!([{"dst": "0.0.0.0/0"}, {"dst": "1100:200::1/24"}]));
    conf["isDefaultGateway"] = false.into();
    conf["isGateway"] = true.into();
    conf["ipam"]["ranges"] = json!([[{"subnet": "10.85.0.0/16"}], [{"subnet": "1100:200::/24"}]]);
    conf
}

fn host_bits(sb: &Sandbox, main: &str, version: &str) {
    sb.needs(main, version);
    let (ns, chain) = (sb.container("c1"), Chain::new("crio", version, &[crio(main)]));
    let mut at = Attachment::new("c1", &ns);
    let result = chain.add(sb, &mut at);
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "1100:200::/24"}]));
    let via = |route: &Value| route["dst"] == "1100:200::/24" && route["gateway"] == "1100:200::1";
    assert_eq!(routes(&ns, "-6").iter().filter(|route| via(route)).count(), 1);
    assert!(ping(&ns, "1100:200::1"));
    if version >= "0.4.0" {
        chain.check(sb, &at).silent();
        // As the Go plugins report it.
        at.result.as_mut().unwrap()["routes"][1]["dst"] = "1100:200::1/24".into();
        chain.check(sb, &at).silent();
    }
    chain.del(sb, &at);
}

fn host_bits_by_go(sb: &Sandbox) {
    let go = go(sb);
    let (ns, chain) = (sb.container("c1"), Chain::new("crio", "1.0.0", &[crio("bridge")]));
    let mut at = Attachment::new("c1", &ns);
    let result = chain.add(&go, &mut at);
    assert_eq!(result["routes"][1]["dst"], "1100:200::1/24");
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
}

/// The Go plugins, or the end of the case.
fn go(sb: &Sandbox) -> Sandbox {
    if !Path::new(GO).join("sbr").is_file() {
        verdict::skip("the Go plugins are not installed");
    }
    sb.with_plugins(Path::new(GO))
}

/// The kernel refuses these.
fn ipv4_host_bits(sb: &Sandbox, main: &str) {
    let (node, ns) = (sb.node(), sb.container("c1"));
    let chain = chain(sb, network(main, &json!([{"dst": "192.168.1.5/16"}])));
    let before = Snapshot::of(&[&ns]);
    let error = chain.try_add(sb, &mut Attachment::new("c1", &ns)).unwrap_err().error();
    error.names(&["192.168.1.5/16", "192.168.0.0/16"]);
    Snapshot::of(&[&ns]).same_but(&before, &["/var/lib/cni"]);
    assert!(!Path::new("/var/lib/cni/networks/net/10.77.0.2").exists());
    drop(node);
}

/// The first one counts.
fn twice(sb: &Sandbox, main: &str) {
    let ns = sb.container("c1");
    let list = json!([{"dst": "10.0.0.0/8"}, {"dst": "10.0.0.0/8"}, {"dst": "fd09::/16"}, {"dst": "fd09::/16"}]);
    let chain = chain(sb, network(main, &list));
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    for (family, dst) in [("-4", "10.0.0.0/8"), ("-6", "fd09::/16")] {
        assert_eq!(routes(&ns, family).iter().filter(|route| route["dst"] == dst).count(), 1, "{dst}");
    }
    chain.check(sb, &at).silent();
}

/// What `sbr` does: the routes go to a table of their own, with a rule for the address. The result does not show it.
fn moved(sb: &Sandbox, main: &str) {
    let ns = sb.container("c1");
    let chain = chain(sb, network(main, &json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])));
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    for (family, address, gateway) in [("-4", at.ip(false), conf::V4_GATEWAY), ("-6", at.ip(true), conf::V6_GATEWAY)] {
        ns.sh(&["ip", family, "route", "del", "default"]);
        ns.sh(&["ip", family, "route", "add", "default", "via", gateway, "dev", "eth0", "table", "300"]);
        // Nothing is routed by that table yet.
        chain.check(sb, &at).error().names(&["default"]);
        ns.sh(&["ip", family, "rule", "add", "from", &address, "lookup", "300"]);
        chain.check(sb, &at).silent();
    }
    ns.sh(&["ip", "route", "flush", "table", "300"]);
    chain.check(sb, &at).error().names(&["default", conf::V4_GATEWAY]);
}

/// The result of a Go plugin that is called after ours.
fn after(sb: &Sandbox, plugin: &str, conf: &Value, at: &Attachment) -> Value {
    let mut conf = conf.clone();
    (conf["type"], conf["name"], conf["cniVersion"]) = (plugin.into(), "net".into(), "1.0.0".into());
    conf["prevResult"] = at.result.clone().unwrap();
    let call = go(sb).plugin(plugin, "ADD").names(&at.id, &at.ifname).env("CNI_NETNS", &at.netns);
    call.conf(&conf).run().result()
}

fn sbr(sb: &Sandbox, main: &str) {
    go(sb);
    let ns = sb.container("c1");
    let chain = Chain::new("net", "1.0.0", &[network(main, &json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]))]);
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    at.result = Some(after(sb, "sbr", &json!({}), &at));
    assert!(default_routes(&ns, "-4").is_empty(), "sbr has moved it");
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
}

fn tuning(sb: &Sandbox, main: &str) {
    go(sb);
    let ns = sb.container("c1");
    let mut conf = network(main, &json!([{"dst": "0.0.0.0/0"}]));
    conf["mtu"] = 1450.into();
    let chain = Chain::new("net", "1.0.0", &[conf]);
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    let changes = json!({"mac": "02:00:00:00:00:31", "mtu": 1400, "promisc": true, "txQLen": 500});
    at.result = Some(after(sb, "tuning", &changes, &at));
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
}

fn named(sb: &Sandbox, main: &str) {
    let conf = network(main, &json!([{"dst": "192.168.0.0/16", "gw": "172.31.0.1"}]));
    let error = chain(sb, conf).try_add(sb, &mut Attachment::new("c1", &sb.container("c1"))).unwrap_err().error();
    error.names(&["192.168.0.0/16", "172.31.0.1", "eth0"]);
    assert!(!error.text().contains("link 2"), "{error:?}");
}

fn passed_on(sb: &Sandbox, ipam: &str) {
    let conf = conf::named(
        "1.0.0",
        json!({"type": ipam, "ipam": {
            "type": ipam, "subnet": "10.1.0.0/24", "addresses": [{"address": "10.1.0.5/24"}],
            "routes": [{"dst": "1100:200::1/24"}]
        }}),
    );
    let result = sb.plugin(ipam, "ADD").attach("c1", "eth0", &sb.container("c1")).conf(&conf).run().result();
    assert_eq!(result["routes"], json!([{"dst": "1100:200::1/24"}]));
}

/// A bridge whose containers get these, the last byte of the address counted up.
fn static_network(address: &str, gateway: &str, n: u8) -> Value {
    let (ip, prefix) = address.split_once('/').unwrap();
    let ip = format!("{}{n}/{prefix}", ip.trim_end_matches(|c: char| c.is_ascii_digit()));
    json!({"type": "bridge", "bridge": "br-test", "isDefaultGateway": true,
        "ipam": {"type": "static", "addresses": [{"address": ip, "gateway": gateway}]}})
}

fn attach(sb: &Sandbox, address: &str, gateway: &str, n: u8) -> (Netns, Attachment, Chain) {
    let ns = sb.container(&format!("c{n}"));
    let chain = chain(sb, static_network(address, gateway, n));
    let mut at = Attachment::new(&ns.name, &ns);
    let outcome = chain.call(sb, "ADD", &chain.plugins()[0], &at, None).run();
    at.result = Some(outcome.result());
    assert_eq!(outcome.stderr, "");
    (ns, at, chain)
}

fn outside_gateway(sb: &Sandbox, address: &str, gateway: &str) {
    let (node, outside) = (sb.node(), sb.outside());
    let v6 = address.contains(':');
    let (far, near) = if v6 { (Outside::V6, Outside::NODE_V6) } else { (Outside::V4, Outside::NODE_V4) };
    let subnet = if v6 { "2001:db8:5::/64" } else { "10.9.9.0/24" };
    outside.ns.sh(&["ip", "route", "add", subnet, "via", near]);
    let (first, at, chain) = attach(sb, address, gateway, 5);
    let (second, other, _) = attach(sb, address, gateway, 6);
    let scoped = if gateway.starts_with("fe80") { format!("{gateway}%eth0") } else { gateway.to_owned() };
    for ns in [&first, &second] {
        for to in [scoped.as_str(), near, far] {
            assert!(ping(ns, to), "{} to {to}", ns.name);
        }
    }
    for from in [&node, &outside.ns, &first] {
        assert!(ping(from, &other.ip(v6)), "{} to {}", from.name, other.ip(v6));
    }
    chain.check(sb, &at).silent();
    node.sh(&["ip", "route", "del", subnet, "dev", "br-test"]);
    chain.check(sb, &at).error().names(&[subnet, "br-test"]);
    let (third, ..) = attach(sb, address, gateway, 7);
    assert!(ping(&third, far), "the next ADD makes the route again");
    let list = array(&node.sh(&["ip", "-j", if v6 { "-6" } else { "-4" }, "route", "show", "dev", "br-test"]));
    let global = list.iter().filter(|route| route["dst"] != "fe80::/64" && route["dst"] != "multicast");
    assert_eq!(global.count(), 1, "nothing but the containers' subnet: {list:?}");
    chain.del(sb, &at);
}

/// The route to it would stay behind on a bridge that others use.
fn single_address(sb: &Sandbox) {
    for (address, gateway) in [("10.9.9.9/32", "169.254.1.1"), ("fd00:9::9/128", "fe80::1")] {
        let ns = sb.container("c1");
        let mut conf = static_network(address, gateway, 9);
        conf["ipMasq"] = true.into();
        let before = Snapshot::of(&[&ns]);
        let error = chain(sb, conf).try_add(sb, &mut Attachment::new("c1", &ns)).unwrap_err().error();
        error.names(&[address, gateway, "ptp"]);
        Snapshot::of(&[&ns]).same_as(&before);
        assert_eq!(addresses(&sb.node(), "br-test"), Vec::<String>::new());
        ns.delete();
    }
}

/// A bridge that is up has a link-local address of its own, which is not in the way.
fn beside(sb: &Sandbox) {
    let node = sb.node();
    for words in
        ["ip link add br-test type bridge", "ip link add p0 type veth peer name p1", "ip link set p0 master br-test"]
    {
        node.sh(&words.split(' ').collect::<Vec<_>>());
    }
    for link in ["p0", "p1", "br-test"] {
        set_sysctl(&node, &format!("ipv6/conf/{link}/accept_dad"), "0");
        node.sh(&["ip", "link", "set", link, "up"]);
    }
    node.sh(&["ip", "addr", "add", "fe80::2/64", "dev", "br-test"]);
    let (ns, ..) = attach(sb, "2001:db8:5::5/64", "fe80::1", 5);
    assert!(ping(&ns, "fe80::1%eth0"));
    assert!(node.sh(&["ip", "-6", "addr", "show", "dev", "br-test"]).contains("fe80::2/64"), "it stays");
}

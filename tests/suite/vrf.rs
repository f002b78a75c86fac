//! vrf: the container's interface in a VRF, with the addresses and routes that it had. The kernel of many machines has no VRFs;
//! the virtual machine's has.

use cni_tests::kernel::{addresses, array, has_flag, link, link_names};
use cni_tests::packets::ping;
use cni_tests::{Attachment, Chain, Netns, Outcome, Sandbox, Snapshot, verdict};
use serde_json::{Value, json};

use crate::case::{Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("in_the_vrf", |sb| {
            let (ns, _at) = attached(sb, "c1", &red(0));
            assert_eq!(link(&ns, "eth0").unwrap()["master"], "red");
            let vrf = link(&ns, "red").unwrap();
            assert!(has_flag(&vrf, "UP") && table(&ns, "red") == 1, "{vrf}");
        }),
        common("addresses_and_routes_survive", survive),
        common("traffic", traffic),
        common("configured_table", |sb| {
            let (ns, at) = attached(sb, "c1", &red(1000));
            assert_eq!(table(&ns, "red"), 1000);
            call(sb, "CHECK", &red(1000), &at).silent();
        }),
        common("the_first_unused_table", |sb| {
            let ns = container(sb, "c1");
            ns.sh(&["ip", "link", "add", "blue", "type", "vrf", "table", "1"]);
            call(sb, "ADD", &red(0), &at(&ns, "c1")).result();
            assert_eq!(table(&ns, "red"), 2);
        }),
        common("a_vrf_that_exists_is_shared", shared),
        common("another_table_is_refused", |sb| {
            let ns = container(sb, "c1");
            ns.sh(&["ip", "link", "add", "red", "type", "vrf", "table", "7"]);
            let before = Snapshot::of(&[&ns]);
            call(sb, "ADD", &red(8), &at(&ns, "c1")).error().names(&["red", "7", "8"]);
            Snapshot::of(&[&ns]).same_as(&before);
        }),
        common("an_interface_with_a_master_is_refused", |sb| {
            let ns = container(sb, "c1");
            ns.sh(&["ip", "link", "add", "br0", "type", "bridge"]);
            ns.sh(&["ip", "link", "set", "eth0", "master", "br0"]);
            call(sb, "ADD", &red(0), &at(&ns, "c1")).error().names(&["eth0", "br0"]);
            assert!(link(&ns, "red").is_none());
        }),
        improved("a_link_that_is_no_vrf_is_refused", |sb| {
            let ns = container(sb, "c1");
            ns.sh(&["ip", "link", "add", "red", "type", "bridge"]);
            call(sb, "ADD", &red(0), &at(&ns, "c1")).error().names(&["vrfname", "red"]);
        }),
    ];
    cases.extend(removal());
    cases.extend(reading());
    cases
}

fn removal() -> Vec<Case> {
    vec![
        improved("del_puts_back_what_was", |sb| {
            needs_vrf(sb);
            let ns = container(sb, "c1");
            let before = shown(&ns, "main");
            let at = at(&ns, "c1");
            call(sb, "ADD", &red(0), &at).result();
            assert!(shown(&ns, "main").is_empty());
            (0..2).for_each(|_| call(sb, "DEL", &red(0), &at).silent());
            assert_eq!(link_names(&ns), ["lo", "eth0"]);
            assert_eq!(addresses(&ns, "eth0"), ADDRESSES);
            assert_eq!(shown(&ns, "main"), before);
        }),
        improved("del_without_a_configuration", |sb| {
            let (ns, at) = attached(sb, "c1", &red(0));
            call(sb, "DEL", &json!({"type": "vrf"}), &at).silent();
            assert_eq!(link_names(&ns), ["lo", "eth0"]);
        }),
        improved("del_after_the_interface_went", |sb| {
            let (ns, at) = attached(sb, "c1", &red(0));
            ns.sh(&["ip", "link", "del", "eth0"]);
            call(sb, "DEL", &red(0), &at).silent();
            assert_eq!(link_names(&ns), ["lo"]);
        }),
        common("del_after_the_netns_vanished", |sb| {
            let (ns, at) = attached(sb, "c1", &red(0));
            ns.delete();
            call(sb, "DEL", &red(0), &at).silent();
            call(sb, "DEL", &red(0), &at.nowhere()).silent();
        }),
    ]
}

fn reading() -> Vec<Case> {
    vec![
        improved("after_ptp", after_ptp),
        common("check_untouched", |sb| {
            let (_ns, at) = attached(sb, "c1", &red(0));
            call(sb, "CHECK", &red(0), &at).silent();
        }),
        common("check_left_the_vrf", |sb| noticed(sb, &["ip", "link", "set", "eth0", "nomaster"], &["eth0", "red"])),
        improved("check_vrf_down", |sb| noticed(sb, &["ip", "link", "set", "red", "down"], &["red", "up", "down"])),
        improved("check_vrf_deleted", |sb| noticed(sb, &["ip", "link", "del", "red"], &["red"])),
        improved("no_name_and_tables_of_the_kernel", |sb| {
            let ns = sb.container_with_eth0();
            call(sb, "ADD", &json!({"type": "vrf"}), &at(&ns, "c1")).error().names(&["vrfname"]);
            call(sb, "ADD", &red(254), &at(&ns, "c1")).error().names(&["table", "254"]);
        }),
        improved("status", |sb| {
            sb.needs("vrf", "1.1.0");
            let status = |conf: &Value| Chain::new("vrfnet", "1.1.0", std::slice::from_ref(conf)).status(sb);
            status(&json!({"type": "vrf"})).error().names(&["vrfname"]);
            if has_vrf(sb) {
                status(&red(0)).silent();
                assert_eq!(link_names(&sb.node()), ["lo"]);
            } else {
                let error = status(&red(0)).error();
                assert_eq!(error.code, 50);
                error.names(&["vrf", "CONFIG_NET_VRF"]);
            }
        }),
    ]
}

const ADDRESSES: [&str; 2] = ["10.25.0.2/24", "fd00:25::2/64"];

fn red(table: u32) -> Value {
    json!({"type": "vrf", "vrfname": "red", "table": table})
}

fn has_vrf(sb: &Sandbox) -> bool {
    let made = sb.node().holds(&["ip", "link", "add", "probe", "type", "vrf", "table", "9"]);
    if made {
        sb.node().sh(&["ip", "link", "del", "probe"]);
    }
    made
}

fn needs_vrf(sb: &Sandbox) {
    if !has_vrf(sb) {
        verdict::skip("this kernel has no VRFs (CONFIG_NET_VRF)");
    }
}

/// A container whose eth0 has addresses and routes, and loses its IPv6 address when it goes down.
fn container(sb: &Sandbox, id: &str) -> Netns {
    needs_vrf(sb);
    let (node, ns) = (sb.node(), sb.container(id));
    let host = format!("host-{id}");
    node.sh(&["ip", "link", "add", &host, "up", "type", "veth", "peer", "name", "eth0", "netns", id]);
    ns.sh(&["ip", "addr", "add", ADDRESSES[0], "dev", "eth0"]);
    ns.sh(&["ip", "addr", "add", ADDRESSES[1], "dev", "eth0", "nodad"]);
    ns.sh(&["ip", "link", "set", "eth0", "up"]);
    for gateway in ["10.25.0.1", "fd00:25::1"] {
        ns.sh(&["ip", "route", "add", "default", "via", gateway, "dev", "eth0"]);
    }
    ns.sh(&["ip", "route", "add", "10.99.0.0/16", "via", "10.25.0.9", "dev", "eth0", "metric", "5"]);
    ns
}

/// The result of the plugin before this one.
fn at(ns: &Netns, id: &str) -> Attachment {
    let ips: Vec<Value> = ADDRESSES.iter().map(|address| json!({"address": address, "interface": 0})).collect();
    let result = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": ns.path()}], "ips": ips});
    Attachment { result: Some(result), ..Attachment::new(id, ns) }
}

fn call(sb: &Sandbox, verb: &str, conf: &Value, at: &Attachment) -> Outcome {
    let chain = Chain::new("vrfnet", "1.0.0", std::slice::from_ref(conf));
    chain.call(sb, verb, conf, at, at.result.as_ref()).run()
}

fn attached(sb: &Sandbox, id: &str, conf: &Value) -> (Netns, Attachment) {
    let ns = container(sb, id);
    let at = at(&ns, id);
    assert_eq!(call(sb, "ADD", conf, &at).result()["interfaces"], at.result.as_ref().unwrap()["interfaces"]);
    (ns, at)
}

fn table(ns: &Netns, vrf: &str) -> u64 {
    link(ns, vrf).unwrap()["linkinfo"]["info_data"]["table"].as_u64().unwrap()
}

/// The routes of eth0 that aren't the kernel's, in a table.
fn shown(ns: &Netns, table: &str) -> Vec<String> {
    let list = |family| array(&ns.sh(&["ip", "-j", family, "route", "show", "table", table, "dev", "eth0"]));
    let routes = list("-4").into_iter().chain(list("-6")).filter(|route| route["protocol"] != "kernel");
    let mut shown: Vec<String> =
        routes.map(|route| format!("{} {} {}", route["dst"], route["gateway"], route["metric"])).collect();
    shown.sort();
    shown
}

fn survive(sb: &Sandbox) {
    let ns = container(sb, "c1");
    let before = shown(&ns, "main");
    assert_eq!(before.len(), 3, "{before:?}");
    call(sb, "ADD", &red(10), &at(&ns, "c1")).result();
    assert_eq!(addresses(&ns, "eth0"), ADDRESSES);
    assert_eq!(shown(&ns, "10"), before);
    assert!(shown(&ns, "main").is_empty());
}

fn traffic(sb: &Sandbox) {
    let (ns, _at) = attached(sb, "c1", &red(0));
    let node = sb.node();
    node.sh(&["ip", "addr", "add", "10.25.0.1/24", "dev", "host-c1"]);
    node.sh(&["ip", "addr", "add", "fd00:25::1/64", "dev", "host-c1", "nodad"]);
    for address in ["10.25.0.2", "fd00:25::2"] {
        assert!(ping(&node, address), "{address}");
    }
    assert!(!ping(&ns, "10.25.0.1"), "what isn't in the VRF is routed by another table");
}

/// Two interfaces of a container in one VRF: the second DEL deletes it.
fn shared(sb: &Sandbox) {
    let (ns, first) = attached(sb, "c1", &red(0));
    sb.node().sh(&["ip", "link", "add", "other0", "type", "veth", "peer", "name", "eth1", "netns", "c1"]);
    let second = at(&ns, "c1").on("eth1");
    call(sb, "ADD", &red(0), &second).result();
    assert_eq!(link(&ns, "eth1").unwrap()["master"], "red");
    call(sb, "DEL", &red(0), &first).silent();
    call(sb, "CHECK", &red(0), &second).silent();
    call(sb, "DEL", &red(0), &second).silent();
    assert_eq!(link_names(&ns), ["lo", "eth0", "eth1"]);
}

/// The whole chain: ptp's CHECK finds its routes in the VRF's table.
fn after_ptp(sb: &Sandbox) {
    needs_vrf(sb);
    let ranges = json!([[{"subnet": "10.26.0.0/24"}], [{"subnet": "fd00:26::/64"}]]);
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    let ptp = json!({"type": "ptp", "ipam": {"type": "host-local", "ranges": ranges, "routes": routes}});
    let chain = Chain::new("vrfnet", "1.0.0", &[ptp, red(0)]);
    let ns = sb.container("c1");
    let before = Snapshot::of(&[&ns]);
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    chain.check(sb, &at).silent();
    assert!(ping(&sb.node(), &at.ip(false)) && ping(&sb.node(), &at.ip(true)));
    chain.del(sb, &at);
    // The kernel adds the rule that looks into the tables of VRFs once, and never removes it.
    Snapshot::of(&[&ns]).same_but(&before, &["/var/lib/cni", "/run/", "ysctl", "l3mdev-table"]);
    assert_eq!(link_names(&ns), ["lo"]);
}

fn noticed(sb: &Sandbox, deed: &[&str], named: &[&str]) {
    let (ns, at) = attached(sb, "c1", &red(0));
    ns.sh(deed);
    call(sb, "CHECK", &red(0), &at).error().names(named);
}

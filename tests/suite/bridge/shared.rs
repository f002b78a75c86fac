//! bridge: a bridge that others use too: its administrator, other networks, many containers at the same moment.

use cni_tests::conf;
use cni_tests::kernel::{addresses, link, links, set_sysctl, sysctl};
use cni_tests::parallel::at_once;
use cni_tests::{Attachment, Sandbox, Snapshot};
use serde_json::json;

use super::alone;
use crate::case::{Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        common("existing_bridge_keeps_what_it_has", keeps),
        improved("existing_bridge_without_address_gets_the_gateways", adopted),
        improved("fifty_first_adds_at_once", fifty),
        improved("fifty_dels_at_once", fifty_dels),
        improved("full_bridge_is_named", full),
        improved("subnet_routed_elsewhere_is_warned_of", clash),
        improved("status_name_taken", name_taken),
        improved("subnet_inside_a_wider_one_elsewhere_is_warned_of", wider),
        improved("subnet_inside_a_daemons_route_is_silent", daemons_route),
        improved("subnet_routed_elsewhere_with_a_worse_metric_is_silent", worse),
        improved("existing_bridge_by_an_alternative_name", alternative),
    ]
}

/// MTU, address, MAC and a port of its administrator; a second network with another MTU.
fn keeps(sb: &Sandbox) {
    let node = sb.node();
    for words in [
        "ip link add br-test address 02:00:00:00:00:aa type bridge ageing_time 12000",
        // Given later than at birth it is fixed (BROPT_MTU_SET_BY_USER).
        "ip link set br-test mtu 1300",
        "ip addr add 10.77.0.1/24 dev br-test",
        "ip addr add 2001:db8::1/64 dev br-test nodad",
        "ip link add up0 type veth peer name up1",
        "ip link set up0 master br-test",
    ] {
        node.sh(&words.split(' ').collect::<Vec<_>>());
    }
    alone(sb, |conf| conf["mtu"] = 1400.into()).add(sb, &mut Attachment::new("c1", &sb.container("c1")));
    let bridge = link(&node, "br-test").unwrap();
    assert_eq!((&bridge["mtu"], &bridge["address"]), (&json!(1300), &json!("02:00:00:00:00:aa")));
    assert_eq!(bridge["linkinfo"]["info_data"]["ageing_time"], 12000);
    assert_eq!(link(&node, "up0").unwrap()["master"], "br-test");
    let mut found = addresses(&node, "br-test");
    found.sort();
    assert_eq!(found, ["10.77.0.1/24", "2001:db8::1/64", "fd00:77::1/64"]);
}

/// The case in which the Go plugin fails: no port, no address that was set, MAC 00:00:00:00:00:00 or random.
fn adopted(sb: &Sandbox) {
    let node = sb.node();
    node.sh(&["ip", "link", "add", "br-test", "type", "bridge"]);
    let result = alone(sb, |_| ()).add(sb, &mut Attachment::new("c1", &sb.container("c1")));
    assert_eq!(addresses(&node, "br-test"), ["10.77.0.1/24", "fd00:77::1/64"]);
    assert_eq!(result["interfaces"][0]["mac"], link(&node, "br-test").unwrap()["address"]);
}

fn fifty(sb: &Sandbox) {
    let chain = alone(sb, |conf| {
        conf["ipMasq"] = true.into();
        conf["ipMasqBackend"] = "nftables".into();
        conf["macspoofchk"] = true.into();
    });
    let spaces: Vec<_> = (0..50).map(|n| sb.container(&format!("c{n}"))).collect();
    let ends = at_once(50, |n| {
        let mut at = Attachment::new(&spaces[n].name, &spaces[n]);
        chain.add(sb, &mut at);
        at
    });
    assert_eq!(addresses(&sb.node(), "br-test"), ["10.77.0.1/24", "fd00:77::1/64"]);
    for at in &ends {
        chain.check(sb, at).silent();
    }
}

fn fifty_dels(sb: &Sandbox) {
    let chain = alone(sb, |conf| conf["macspoofchk"] = true.into());
    let mut first = Attachment::new("first", &sb.container("first"));
    chain.add(sb, &mut first);
    chain.del(sb, &first);
    let before = Snapshot::of(&[&sb.node()]);
    let attach = |n: usize| {
        let id = format!("c{n}");
        let mut at = Attachment::new(&id, &sb.container(&id));
        chain.add(sb, &mut at);
        at
    };
    let ends: Vec<_> = (0..50).map(attach).collect();
    at_once(50, |n| chain.del(sb, &ends[n]));
    Snapshot::of(&[&sb.node()]).same_but(&before, &["last_reserved_ip"]);
}

/// 1023 ports, one of them ours, made with one batch of `ip`.
fn full(sb: &Sandbox) {
    let (node, chain) = (sb.node(), alone(sb, |_| ()));
    chain.add(sb, &mut Attachment::new("c1", &sb.container("c1")));
    for n in 0..5 {
        set_sysctl(&node, "ipv6/conf/default/disable_ipv6", "1");
        let ports = (n * 205..(n + 1) * 205).take_while(|port| *port < 1022);
        let lines: String =
            ports.map(|port| format!("link add p{port} master br-test type veth peer name q{port}\n")).collect();
        std::fs::create_dir_all("/run/cni-test").unwrap();
        std::fs::write("/run/cni-test/ports", lines).unwrap();
        node.sh(&["ip", "-batch", "/run/cni-test/ports"]);
    }
    let ns = sb.container("c2");
    let before = links(&node).len();
    let error = chain.try_add(sb, &mut Attachment::new("c2", &ns)).expect_err("the bridge is full").error();
    error.names(&["br-test", "1023", "ports"]);
    assert_eq!(links(&node).len(), before);
    if chain.version() == "1.1.0" {
        let error = chain.status(sb).error();
        assert_eq!(error.code, 50, "{error:?}");
        error.names(&["br-test", "1023", "ports"]);
    }
}

/// The classic: docker0 has the subnet already.
fn other_link(sb: &Sandbox, address: &str) {
    let node = sb.node();
    node.sh(&["ip", "link", "add", "docker0", "type", "bridge"]);
    node.sh(&["ip", "addr", "add", address, "dev", "docker0"]);
    node.sh(&["ip", "link", "set", "docker0", "up"]);
}

/// What the first ADD on the node says on stderr.
fn said(sb: &Sandbox) -> String {
    let mut conf = conf::bridge();
    conf["name"] = "testnet".into();
    let at = Attachment::new("c1", &sb.container("c1"));
    let outcome = alone(sb, |_| ()).call(sb, "ADD", &conf, &at, None).run();
    outcome.result();
    outcome.stderr
}

fn clash(sb: &Sandbox) {
    other_link(sb, "10.77.0.1/24");
    if sb.versions("bridge").iter().any(|version| version == "1.1.0") {
        alone(sb, |_| ()).status(sb).silent();
    }
    let said = said(sb);
    assert!(said.contains("docker0") && said.contains("10.77.0.0/24"), "{said}");
    alone(sb, |_| ()).add(sb, &mut Attachment::new("c2", &sb.container("c2")));
}

/// The bridge's route takes a part of docker0's packets away, and ADD works all the same.
fn wider(sb: &Sandbox) {
    sb.needs("bridge", "1.1.0");
    other_link(sb, "10.77.200.1/16");
    alone(sb, |_| ()).status(sb).silent();
    let said = said(sb);
    assert!(["docker0", "10.77.0.0/16", "10.77.0.0/24"].iter().all(|named| said.contains(named)), "{said}");
}

/// The bridge's own route is preferred, in both families.
fn worse(sb: &Sandbox) {
    other_link(sb, "192.0.2.1/24");
    for dst in ["10.77.0.0/24", "fd00:77::/64"] {
        sb.node().sh(&["ip", "route", "add", dst, "dev", "docker0", "metric", "500"]);
    }
    assert_eq!(said(sb), "");
}

/// As flannel and others have it: the cluster's network leads to other nodes, and this node's part of it to the bridge.
fn daemons_route(sb: &Sandbox) {
    other_link(sb, "192.0.2.1/24");
    sb.node().sh(&["ip", "route", "add", "10.77.0.0/16", "dev", "docker0", "scope", "link"]);
    sb.node().sh(&["ip", "route", "add", "10.64.0.0/10", "via", "192.0.2.2"]);
    assert_eq!(said(sb), "");
}

/// Settings and the result have the bridge's own name.
fn alternative(sb: &Sandbox) {
    let node = sb.node();
    node.sh(&["ip", "link", "add", "br-test", "type", "bridge"]);
    node.sh(&["ip", "link", "property", "add", "dev", "br-test", "altname", "also"]);
    let chain = alone(sb, |conf| conf["bridge"] = "also".into());
    let mut at = Attachment::new("c1", &sb.container("c1"));
    let result = chain.add(sb, &mut at);
    assert_eq!(result["interfaces"][0]["name"], "br-test");
    assert_eq!(addresses(&node, "br-test"), ["10.77.0.1/24", "fd00:77::1/64"]);
    assert_eq!(sysctl(&node, "ipv6/conf/br-test/accept_ra").as_deref(), Some("0"));
    chain.check(sb, &at).silent();
    node.sh(&["ip", "link", "set", "br-test", "down"]);
    chain.check(sb, &at).error().names(&["br-test", "down"]);
    chain.del(sb, &at);
}

fn name_taken(sb: &Sandbox) {
    sb.needs("bridge", "1.1.0");
    sb.node().sh(&["ip", "link", "add", "br-test", "type", "veth", "peer", "name", "br-peer"]);
    let error = alone(sb, |_| ()).status(sb).error();
    assert_eq!(error.code, 50, "{error:?}");
    error.names(&["br-test", "not a bridge", "veth"]);
}

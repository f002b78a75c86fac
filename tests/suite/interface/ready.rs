//! STATUS of bridge and ptp says what ADD would do on the same node: neither "no" where ADD works, nor nothing where it fails.

use cni_tests::kernel::link;
use cni_tests::packets::Outside;
use cni_tests::{Attachment, Chain, Sandbox, conf};
use serde_json::{Value, json};

use super::make_read_only;
use crate::case::{Case, improved};

/// A state of the node: its name, the commands that make it, what of the configuration is changed, and what the error names;
/// nothing where ADD works.
type State = (&'static str, &'static [&'static str], fn(&mut Value), &'static [&'static str]);

const BRIDGE: [State; 15] = [
    ("as_it_is", &[], nothing, &[]),
    ("route_with_a_worse_metric", &["ip route add 10.77.0.0/24 dev up0 metric 500"], nothing, &[]),
    ("host_route_inside", &["ip route add 10.77.0.77/32 dev up0"], nothing, &[]),
    ("ipv6_host_route_inside", &["ip route add fd00:77::77/128 dev up0"], nothing, &[]),
    ("subnet_routed_elsewhere", &["ip route add 10.77.0.0/24 dev up0"], nothing, &[]),
    ("layer_2_on_a_bridge_with_addresses", &["ip addr add 192.0.2.77/24 dev br-test"], layer2, &[]),
    ("link_local_gateway_beside_the_bridges_own", &["ip link set br-test up"], link_local, &[]),
    ("another_address", &["ip addr add 198.51.100.1/24 dev br-test"], nothing, &["198.51.100.1/24", "forceAddress"]),
    (
        "bridge_without_ipv6",
        &["sysctl -qw net.ipv6.conf.br-test.disable_ipv6=1"],
        nothing,
        &["br-test", "disable_ipv6"],
    ),
    ("small_bridge_with_ipv6", &["ip link set br-test mtu 1200"], nothing, &["br-test", "1200", "1280"]),
    ("small_bridge_with_ipv4", &["ip link set br-test mtu 1200"], v4_only, &[]),
    ("data_dir_below_a_file", &[], below_a_file, &["/bin/sh/state"]),
    ("range_that_is_the_gateways", &[], only_the_gateway, &["10.77.0.1", "gateway"]),
    ("data_dir_read_only", &["mount -t tmpfs -o ro tmpfs /var/lib"], nothing, &["/var/lib", "Read-only"]),
    ("gateway_interface_of_another_kind", &["ip link add br-test.100 type dummy"], vlan, &["br-test.100"]),
];

const PTP: [State; 7] = [
    ("as_it_is", &[], nothing, &[]),
    ("ipv6_switched_off", &["sysctl -qw net.ipv6.conf.default.disable_ipv6=1"], nothing, &["disable_ipv6"]),
    ("ipv6_switched_off_and_ipv4_only", &["sysctl -qw net.ipv6.conf.default.disable_ipv6=1"], v4_only, &[]),
    ("subnet_routed_elsewhere", &["ip route add 10.77.0.0/24 dev up0"], nothing, &[]),
    ("data_dir_below_a_file", &[], below_a_file, &["/bin/sh/state"]),
    ("range_that_is_the_gateways", &[], only_the_gateway, &["10.77.0.1", "gateway"]),
    ("data_dir_read_only", &["mount -t tmpfs -o ro tmpfs /var/lib"], nothing, &["/var/lib", "Read-only"]),
];

fn nothing(_: &mut Value) {}

fn layer2(conf: &mut Value) {
    conf["ipam"] = json!({});
}

fn v4_only(conf: &mut Value) {
    conf["ipam"]["ranges"] = json!([[{"subnet": conf::V4}]]);
}

fn link_local(conf: &mut Value) {
    conf["ipam"]["ranges"] = json!([[{"subnet": conf::V6, "gateway": "fe80::1"}]]);
}

fn below_a_file(conf: &mut Value) {
    conf["ipam"]["dataDir"] = "/bin/sh/state".into();
}

fn only_the_gateway(conf: &mut Value) {
    let range = json!({"subnet": conf::V4, "rangeStart": conf::V4_GATEWAY, "rangeEnd": conf::V4_GATEWAY});
    conf["ipam"]["ranges"] = json!([[range]]);
}

fn vlan(conf: &mut Value) {
    conf["vlan"] = 100.into();
}

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (main, states) in [("bridge", &BRIDGE[..]), ("ptp", &PTP[..])] {
        for state in states {
            cases.push(improved(format!("{main}::{}", state.0), move |sb| agree(sb, main, state)));
        }
        cases.push(improved(format!("{main}::read_only_and_not_forwarding"), move |sb| read_only(sb, main)));
        cases.push(improved(format!("{main}::read_only_and_forwarding"), move |sb| forwarding(sb, main)));
    }
    cases.push(improved("bridge::no_vlan_filtering", no_filtering));
    cases
}

fn chain(main: &str, edit: fn(&mut Value)) -> Chain {
    let mut conf = conf::bridge();
    conf["type"] = main.into();
    edit(&mut conf);
    Chain::new("net", "1.1.0", &[conf])
}

/// STATUS and then ADD, on the same node.
fn compare(sb: &Sandbox, chain: &Chain, names: &[&str]) {
    let status = chain.status(sb);
    let add = chain.try_add(sb, &mut Attachment::new("c1", &sb.container("c1")));
    if names.is_empty() {
        add.unwrap_or_else(|outcome| panic!("{outcome}"));
        status.silent();
        return;
    }
    add.expect_err("ADD fails").error().names(names);
    let error = status.error();
    assert_eq!(error.code, 50, "{error:?}");
    error.names(names);
}

fn agree(sb: &Sandbox, main: &str, (_, commands, edit, names): &State) {
    sb.needs(main, "1.1.0");
    let (node, _outside) = (sb.node(), sb.outside());
    let needs_bridge = commands.iter().any(|command| command.contains("br-test"));
    let filtering = if names.contains(&"br-test.100") { "1" } else { "0" };
    if needs_bridge && !node.holds(&["ip", "link", "add", "br-test", "type", "bridge", "vlan_filtering", filtering]) {
        if filtering == "1" {
            cni_tests::verdict::skip("this kernel does not filter VLANs");
        }
        node.sh(&["ip", "link", "add", "br-test", "type", "bridge"]);
    }
    for command in *commands {
        node.sh(&command.split(' ').collect::<Vec<_>>());
    }
    compare(sb, &chain(main, *edit), names);
}

fn read_only(sb: &Sandbox, main: &str) {
    sb.needs(main, "1.1.0");
    make_read_only(&sb.node());
    compare(sb, &chain(main, nothing), &["forward", "Read-only"]);
}

/// What is right already need not be written, for either family: also in the container.
fn forwarding(sb: &Sandbox, main: &str) {
    sb.needs(main, "1.1.0");
    let (node, outside) = (sb.node(), sb.outside());
    node.sh(&["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
    make_read_only(&node);
    let chain = chain(main, nothing);
    chain.status(sb).silent();
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    let conf = &chain.plugins()[0];
    let outcome = chain.call(sb, "ADD", conf, &at, None).run();
    at.result = Some(outcome.result());
    assert_eq!(outcome.stderr, "", "nothing that matters could not be written");
    let near = [conf::V4_GATEWAY, conf::V6_GATEWAY, Outside::NODE_V4, Outside::NODE_V6];
    // The configuration has no default route for ptp.
    for address in if main == "ptp" { &near[..2] } else { &near[..] } {
        assert!(cni_tests::packets::ping(&ns, address), "{address}");
    }
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
    drop(outside);
}

/// Only ADD makes the bridge; STATUS leaves nothing behind, and says what the kernel lacks.
fn no_filtering(sb: &Sandbox) {
    sb.needs("bridge", "1.1.0");
    let node = sb.node();
    let filters = node.holds(&["ip", "link", "add", "probe", "type", "bridge", "vlan_filtering", "1"]);
    let _ = node.holds(&["ip", "link", "del", "probe"]);
    let chain = chain("bridge", vlan);
    let _ = chain.status(sb);
    assert!(link(&node, "br-test").is_none(), "STATUS makes nothing");
    compare(sb, &chain, if filters { &[] } else { &["VLAN filtering"] });
}

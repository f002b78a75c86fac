//! What `docker network create` and `docker run` have options for, as configuration: the rows of a table in
//! README.md, one case each.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cni_tests::kernel::{addresses, default_routes, link, link_names, sysctl};
use cni_tests::packets::{Outside, Proto, Server, ask, at, ping, silent};
use cni_tests::{Attachment, Chain, Netns, Sandbox};
use serde_json::{Value, json};

use crate::case::{Basis, Case, common};

type Row = (&'static str, Basis, fn(&Sandbox));

const ROWS: [Row; 24] = [
    ("subnet", Basis::Common, subnet),
    ("ip_range", Basis::Common, ip_range),
    ("gateway", Basis::Common, gateway),
    ("aux_address", Basis::Common, aux_address),
    ("ipv6", Basis::Common, ipv6),
    ("internal", Basis::Common, internal),
    ("bridge_name", Basis::Common, bridge_name),
    ("mtu", Basis::Common, mtu),
    ("no_masquerade", Basis::Common, no_masquerade),
    ("no_icc", Basis::Newer, no_icc),
    ("networks_apart", Basis::Newer, networks_apart),
    ("interface_name", Basis::Common, interface_name),
    ("network_none", Basis::Common, network_none),
    ("publish", Basis::Common, publish),
    ("publish_udp", Basis::Common, publish_udp),
    ("publish_on_one_address", Basis::Common, publish_on_one_address),
    ("publish_on_localhost", Basis::Common, publish_on_localhost),
    ("no_proxy", Basis::Common, no_proxy),
    ("ip", Basis::Common, ip),
    ("mac_address", Basis::Common, mac_address),
    ("sysctl", Basis::Common, sysctl_of_run),
    ("dns", Basis::Common, dns),
    ("connect", Basis::Common, connect),
    ("one_way_out", Basis::Common, one_way_out),
];

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let case = |(name, basis, story): &Row| common(format!("docker::{name}"), *story).based_on(*basis);
    let mut cases: Vec<Case> = ROWS.iter().map(case).collect();
    cases.push(common("docker::every_row_has_a_case", |_| {
        let page = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"));
        let Ok(text) = fs::read_to_string(page) else { cni_tests::verdict::skip("no docs/ on this machine") };
        let named: BTreeSet<&str> = text.split("`docker::").skip(1).filter_map(|rest| rest.split('`').next()).collect();
        assert_eq!(named, ROWS.iter().map(|(name, ..)| *name).collect());
    }));
    cases
}

/// The usual network, with keys of the bridge replaced.
fn network(sb: &Sandbox, keys: &Value) -> Chain {
    let mut bridge = json!({
        "type": "bridge", "bridge": "br-net", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/16"}]]}
    });
    for (key, value) in keys.as_object().unwrap() {
        bridge[key] = value.clone();
    }
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    Chain::new("net", sb.newest(&["bridge", "portmap", "host-local"]), &[bridge, portmap])
}

/// The same with one list of ranges.
fn ranges(sb: &Sandbox, list: &Value) -> Chain {
    network(sb, &json!({"ipam": {"type": "host-local", "ranges": list}}))
}

struct Container {
    ns: Netns,
    at: Attachment,
    _server: Server,
}

/// A container with a server on 80.
fn run(sb: &Sandbox, chain: &Chain, id: &str) -> Container {
    run_with(sb, chain, id, |at| at)
}

fn run_with(sb: &Sandbox, chain: &Chain, id: &str, options: impl Fn(Attachment) -> Attachment) -> Container {
    let ns = sb.container(id);
    let mut at = options(Attachment::new(id, &ns));
    chain.add(sb, &mut at);
    Container { _server: Server::start(&ns, id, 80), ns, at }
}

fn subnet(sb: &Sandbox) {
    let net = network(sb, &json!({}));
    let [one, two] = ["one", "two"].map(|id| run(sb, &net, id));
    assert_eq!(addresses(&one.ns, "eth0"), ["10.1.0.2/16"]);
    assert!(ping(&one.ns, &two.at.ip(false)));
}

fn ip_range(sb: &Sandbox) {
    let net = ranges(sb, &json!([[{"subnet": "10.1.0.0/16", "rangeStart": "10.1.5.1", "rangeEnd": "10.1.5.2"}]]));
    let [one, two] = ["one", "two"].map(|id| run(sb, &net, id).at.ip(false));
    assert_eq!([one.as_str(), two.as_str()], ["10.1.5.1", "10.1.5.2"]);
    net.try_add(sb, &mut Attachment::new("three", &sb.container("three"))).unwrap_err().error();
}

fn gateway(sb: &Sandbox) {
    let one = run(sb, &ranges(sb, &json!([[{"subnet": "10.1.0.0/16", "gateway": "10.1.5.254"}]])), "one");
    assert_eq!(default_routes(&one.ns, "-4"), ["10.1.5.254 dev eth0"]);
    assert!(ping(&one.ns, "10.1.5.254"));
}

fn aux_address(sb: &Sandbox) {
    let around = json!([[
        {"subnet": "10.1.0.0/16", "rangeStart": "10.1.0.2", "rangeEnd": "10.1.0.2"}, {"subnet": "10.1.0.0/16", "rangeStart": "10.1.0.4"}
    ]]);
    let net = ranges(sb, &around);
    let [one, two] = ["one", "two"].map(|id| run(sb, &net, id).at.ip(false));
    assert_eq!([one.as_str(), two.as_str()], ["10.1.0.2", "10.1.0.4"]);
}

fn ipv6(sb: &Sandbox) {
    let outside = sb.outside();
    let net = ranges(sb, &json!([[{"subnet": "10.1.0.0/16"}], [{"subnet": "fd00:1::/64"}]]));
    let [one, two] = ["one", "two"].map(|id| run(sb, &net, id));
    let _world = Server::start(&outside.ns, "world", 7000);
    assert!(ping(&one.ns, &two.at.ip(true)));
    assert_eq!(ask(&one.ns, Proto::Tcp, at(Outside::V6, 7000)).unwrap(), format!("world {}", Outside::NODE_V6));
}

fn internal(sb: &Sandbox) {
    let outside = sb.outside();
    let net = network(sb, &json!({"isDefaultGateway": false, "ipMasq": false}));
    let [one, two] = ["one", "two"].map(|id| run(sb, &net, id));
    let _world = Server::start(&outside.ns, "world", 7000);
    assert!(ping(&one.ns, &two.at.ip(false)) && default_routes(&one.ns, "-4").is_empty());
    assert!(silent(&one.ns, Proto::Tcp, at(Outside::V4, 7000)));
}

fn bridge_name(sb: &Sandbox) {
    run(sb, &network(sb, &json!({"bridge": "br-mine"})), "one");
    assert_eq!(link(&sb.node(), "br-mine").unwrap()["linkinfo"]["info_kind"], "bridge");
}

fn mtu(sb: &Sandbox) {
    let one = run(sb, &network(sb, &json!({"mtu": 1400})), "one");
    assert_eq!(link(&one.ns, "eth0").unwrap()["mtu"], 1400);
    assert!(one.ns.holds(&["ping", "-n", "-q", "-c", "1", "-w", "4", "-M", "do", "-s", "1372", "10.1.0.1"]));
    assert!(!one.ns.holds(&["ping", "-n", "-q", "-c", "1", "-w", "1", "-M", "do", "-s", "1373", "10.1.0.1"]));
}

fn no_masquerade(sb: &Sandbox) {
    let outside = sb.outside();
    outside.ns.sh(&["ip", "route", "add", "10.1.0.0/16", "via", Outside::NODE_V4]);
    let one = run(sb, &network(sb, &json!({"ipMasq": false})), "one");
    let _world = Server::start(&outside.ns, "world", 7000);
    assert_eq!(ask(&one.ns, Proto::Tcp, at(Outside::V4, 7000)).unwrap(), "world 10.1.0.2");
}

fn no_icc(sb: &Sandbox) {
    sb.needs("bridge", "1.1.0");
    let outside = sb.outside();
    let net = network(sb, &json!({"portIsolation": true}));
    let [one, two] = ["one", "two"].map(|id| run(sb, &net, id));
    let _world = Server::start(&outside.ns, "world", 7000);
    assert!(silent(&one.ns, Proto::Tcp, at(&two.at.ip(false), 80)));
    assert!(ask(&one.ns, Proto::Tcp, at(Outside::V4, 7000)).is_ok() && ping(&sb.node(), &two.at.ip(false)));
}

fn networks_apart(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    let apart = |name: &str, net: &str| {
        let bridge = json!({
            "type": "bridge", "bridge": format!("br-{name}"), "isDefaultGateway": true, "ipam": {"type": "host-local", "subnet": net}
        });
        Chain::new(name, "1.1.0", &[bridge, json!({"type": "firewall", "ingressPolicy": "same-bridge"})])
    };
    let (red, blue) = (apart("red", "10.1.0.0/24"), apart("blue", "10.2.0.0/24"));
    let (one, two, other) = (run(sb, &red, "one"), run(sb, &red, "two"), run(sb, &blue, "other"));
    assert!(ask(&one.ns, Proto::Tcp, at(&two.at.ip(false), 80)).is_ok());
    assert!(silent(&one.ns, Proto::Tcp, at(&other.at.ip(false), 80)));
    assert!(silent(&other.ns, Proto::Tcp, at(&one.at.ip(false), 80)));
}

fn interface_name(sb: &Sandbox) {
    let one = run_with(sb, &network(sb, &json!({})), "one", |at| at.on("net0"));
    assert_eq!(addresses(&one.ns, "net0"), ["10.1.0.2/16"]);
}

fn network_none(sb: &Sandbox) {
    let ns = sb.container("one");
    Chain::new("none", sb.newest(&["loopback"]), &[json!({"type": "loopback"})])
        .add(sb, &mut Attachment::new("one", &ns));
    assert!(link_names(&ns) == ["lo"] && ping(&ns, "127.0.0.1"));
}

/// A container with mappings, and the world.
fn published(sb: &Sandbox, mapping: &Value) -> (Outside, Container) {
    let outside = sb.outside();
    let mappings = json!([mapping]);
    (outside, run_with(sb, &network(sb, &json!({})), "web", |at| at.with("portMappings", mappings.clone())))
}

fn publish(sb: &Sandbox) {
    let (outside, web) = published(sb, &json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}));
    for (from, to) in [
        (&outside.ns, Outside::NODE_V4),
        (&sb.node(), Outside::NODE_V4),
        (&sb.node(), "127.0.0.1"),
        (&web.ns, Outside::NODE_V4),
    ] {
        assert!(ask(from, Proto::Tcp, at(to, 8080)).unwrap().starts_with("web "), "{} to {to}", from.name);
    }
}

fn publish_udp(sb: &Sandbox) {
    let (outside, _web) = published(sb, &json!({"hostPort": 53, "containerPort": 80, "protocol": "udp"}));
    assert_eq!(ask(&outside.ns, Proto::Udp, at(Outside::NODE_V4, 53)).unwrap(), format!("web {}", Outside::V4));
    assert!(silent(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 53)));
}

fn publish_on_one_address(sb: &Sandbox) {
    let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": Outside::NODE_V4});
    let (outside, _web) = published(sb, &mapping);
    sb.node().sh(&["ip", "addr", "add", "192.0.2.9/24", "dev", "up0"]);
    assert!(ask(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8080)).is_ok());
    assert!(silent(&outside.ns, Proto::Tcp, at("192.0.2.9", 8080)), "not on another one");
}

fn publish_on_localhost(sb: &Sandbox) {
    let (outside, _web) =
        published(sb, &json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}));
    assert!(ask(&sb.node(), Proto::Tcp, at("127.0.0.1", 8080)).is_ok());
    assert!(silent(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8080)));
}

/// Nobody listens on the node: a program of the node's own may take the port, and the world still gets the container.
fn no_proxy(sb: &Sandbox) {
    let (outside, _web) = published(sb, &json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}));
    let _own = Server::start(&sb.node(), "node", 8080);
    assert_eq!(ask(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8080)).unwrap(), format!("web {}", Outside::V4));
}

fn ip(sb: &Sandbox) {
    let ranges = json!([[{"subnet": "10.1.0.0/16"}], [{"subnet": "fd00:1::/64"}]]);
    let net = network(sb, &json!({"capabilities": {"ips": true}, "ipam": {"type": "host-local", "ranges": ranges}}));
    let one = run_with(sb, &net, "one", |at| at.with("ips", json!(["10.1.5.20", "fd00:1::20"])));
    assert_eq!(addresses(&one.ns, "eth0"), ["10.1.5.20/16", "fd00:1::20/64"]);
}

fn mac_address(sb: &Sandbox) {
    let net = network(sb, &json!({"capabilities": {"mac": true}}));
    let one = run_with(sb, &net, "one", |at| at.with("mac", "02:00:00:00:00:20".into()));
    assert_eq!(link(&one.ns, "eth0").unwrap()["address"], "02:00:00:00:00:20");
}

fn sysctl_of_run(sb: &Sandbox) {
    let tuning = json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "1024"}});
    let bridge = network(sb, &json!({})).plugins()[0].clone();
    let one = run(sb, &Chain::new("net", sb.newest(&["bridge", "tuning"]), &[bridge, tuning]), "one");
    assert_eq!(sysctl(&one.ns, "core/somaxconn").as_deref(), Some("1024"));
}

fn dns(sb: &Sandbox) {
    let told = json!({"nameservers": ["10.1.0.53"], "search": ["example.org"], "options": ["ndots:2"]});
    let one = run(sb, &network(sb, &json!({"dns": told})), "one");
    assert_eq!(one.at.result.unwrap()["dns"], told);
}

/// The second network, as `docker network connect` adds one: no default route of its own.
fn second(sb: &Sandbox) -> Chain {
    let bridge = json!({
        "type": "bridge", "bridge": "br-second", "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.2.0.0/24"}
    });
    Chain::new("second", sb.newest(&["bridge", "host-local"]), &[bridge])
}

fn connect(sb: &Sandbox) {
    let (first, second) = (network(sb, &json!({})), second(sb));
    let (one, other) = (run(sb, &first, "one"), run(sb, &second, "other"));
    let mut joined = Attachment::new("one", &one.ns).on("eth1");
    second.add(sb, &mut joined);
    assert_eq!(ask(&one.ns, Proto::Tcp, at(&other.at.ip(false), 80)).unwrap(), "other 10.2.0.3");
    second.del(sb, &joined);
    assert_eq!(link_names(&one.ns), ["lo", "eth0"]);
    first.check(sb, &one.at).silent();
}

fn one_way_out(sb: &Sandbox) {
    let (first, second) = (network(sb, &json!({})), second(sb));
    let one = run(sb, &first, "one");
    second.add(sb, &mut Attachment::new("one", &one.ns).on("eth1"));
    assert_eq!(default_routes(&one.ns, "-4"), ["10.1.0.1 dev eth0"]);
}

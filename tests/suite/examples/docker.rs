//! What `docker network create` and `docker run` have options for, as configuration: the rows of a table in
//! docs/from-docker.md, one case each.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cni_tests::kernel::{addresses, default_routes, link, link_names, sysctl};
use cni_tests::packets::{Outside, Proto, Server, ask, at, ping, silent};
use cni_tests::{Attachment, Chain, Netns, Sandbox, verdict};
use serde_json::{Value, json};

use crate::case::{Basis, Case, common};

type Row = (&'static str, Basis, fn(&Sandbox));

const ROWS: [Row; 36] = [
    ("subnet", Basis::Common, subnet),
    ("ip_range", Basis::Common, ip_range),
    ("gateway", Basis::Common, gateway),
    ("aux_address", Basis::Common, aux_address),
    ("ipv6", Basis::Common, ipv6),
    ("internal", Basis::Common, internal),
    ("bridge_name", Basis::Common, bridge_name),
    ("mtu", Basis::Common, mtu),
    ("overlay", Basis::Improved, overlay),
    ("no_masquerade", Basis::Common, no_masquerade),
    ("no_icc", Basis::Newer, no_icc),
    ("networks_apart", Basis::Newer, networks_apart),
    ("host_binding", Basis::Newer, host_binding),
    ("outgoing_address", Basis::Improved, outgoing_address),
    ("gateway_mode_nat", Basis::Improved, gateway_mode_nat),
    ("gateway_mode_nat_unprotected", Basis::Common, gateway_mode_nat_unprotected),
    ("gateway_mode_routed", Basis::Improved, gateway_mode_routed),
    ("gateway_mode_isolated", Basis::Common, gateway_mode_isolated),
    ("interface_name", Basis::Common, interface_name),
    ("network_none", Basis::Common, network_none),
    ("publish", Basis::Common, publish),
    ("publish_udp", Basis::Common, publish_udp),
    ("publish_of_a_service", Basis::Improved, publish_of_a_service),
    ("publish_on_one_address", Basis::Common, publish_on_one_address),
    ("publish_on_localhost", Basis::Common, publish_on_localhost),
    ("no_proxy", Basis::Common, no_proxy),
    ("ip", Basis::Common, ip),
    ("mac_address", Basis::Common, mac_address),
    ("sysctl", Basis::Common, sysctl_of_run),
    ("dns", Basis::Common, dns),
    ("name", Basis::Improved, name),
    ("network_alias", Basis::Improved, network_alias),
    ("internal_names", Basis::Improved, internal_names),
    ("dns_of_names", Basis::Improved, dns_of_names),
    ("connect", Basis::Common, connect),
    ("one_way_out", Basis::Common, one_way_out),
];

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let case = |(name, basis, story): &Row| common(*name, *story).based_on(*basis);
    let mut cases: Vec<Case> = ROWS.iter().map(case).collect();
    cases.push(common("every_row_has_a_case", |_| {
        let page = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/from-docker.md"));
        let Ok(text) = fs::read_to_string(page) else { verdict::skip("no docs/ on this machine") };
        let named: BTreeSet<&str> = text.split("`docker::").skip(1).filter_map(|rest| rest.split('`').next()).collect();
        assert_eq!(named, ROWS.iter().map(|(name, ..)| *name).collect());
    }));
    cases
}

/// One network on two hosts: the other one is the host outside.
fn overlay(sb: &Sandbox) {
    let outside = sb.outside();
    super::other_host(&outside, "7", "10.1.200.1/16");
    super::stretched("net");
    let mut plugins = network(sb, &json!({})).plugins().to_vec();
    plugins.truncate(1);
    plugins.push(json!({"type": "vxlan", "vni": 7}));
    let chain = Chain::new("net", sb.newest(&["bridge", "host-local", "vxlan"]), &plugins);
    let ns = sb.container("c1");
    let mut at_one = Attachment::new("c1", &ns);
    chain.add(sb, &mut at_one);
    assert!(ping(&outside.ns, &at_one.ip(false)) && ping(&ns, "10.1.200.1"));
    chain.check(sb, &at_one).silent();
    chain.del(sb, &at_one);
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

/// The usual network with these keys of portmap, and a firewall if there are keys of it.
fn guarded(sb: &Sandbox, bridge: &Value, portmap: &Value, firewall: Option<&Value>) -> Chain {
    let merged = |mut plugin: Value, keys: &Value| {
        keys.as_object().unwrap().iter().for_each(|(key, value)| plugin[key] = value.clone());
        plugin
    };
    let usual = network(sb, bridge);
    let mut plugins = usual.plugins().to_vec();
    plugins[1] = merged(plugins[1].clone(), portmap);
    plugins.extend(firewall.map(|keys| merged(json!({"type": "firewall"}), keys)));
    Chain::new("net", usual.version(), &plugins)
}

/// 8080 on the node leads to 80.
fn on_8080(at: Attachment) -> Attachment {
    at.publish(&[(8080, 80, "tcp")])
}

/// The world, with a route to the containers as a neighbour on the wire may have it.
fn neighbour(sb: &Sandbox) -> Outside {
    let outside = sb.outside();
    outside.ns.sh(&["ip", "route", "add", "10.1.0.0/16", "via", Outside::NODE_V4]);
    outside
}

fn host_binding(sb: &Sandbox) {
    sb.needs("portmap", "1.1.0");
    let outside = sb.outside();
    let keys = json!({"backend": "nftables", "conditionsV4": ["ip daddr 192.0.2.1"]});
    let _web = run_with(sb, &guarded(sb, &json!({}), &keys, None), "web", on_8080);
    sb.node().sh(&["ip", "addr", "add", "192.0.2.9/24", "dev", "up0"]);
    assert!(ask(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8080)).is_ok());
    assert!(silent(&outside.ns, Proto::Tcp, at("192.0.2.9", 8080)), "not on another one");
}

fn outgoing_address(sb: &Sandbox) {
    let outside = sb.outside();
    sb.node().sh(&["ip", "addr", "add", "192.0.2.7/24", "dev", "up0"]);
    let one = run(sb, &network(sb, &json!({"ipMasqTo": ["192.0.2.7"]})), "one");
    let _world = Server::start(&outside.ns, "world", 7000);
    assert_eq!(ask(&one.ns, Proto::Tcp, at(Outside::V4, 7000)).unwrap(), "world 192.0.2.7");
}

fn gateway_mode_nat(sb: &Sandbox) {
    let outside = neighbour(sb);
    let net = guarded(sb, &json!({}), &json!({}), Some(&json!({"publishedOnly": true})));
    let web = run_with(sb, &net, "web", on_8080);
    assert!(ask(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8080)).is_ok());
    assert!(silent(&outside.ns, Proto::Tcp, at(&web.at.ip(false), 80)), "not around the published port");
}

fn gateway_mode_nat_unprotected(sb: &Sandbox) {
    let outside = neighbour(sb);
    let web = run_with(sb, &network(sb, &json!({})), "web", on_8080);
    assert!(ask(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8080)).is_ok());
    assert!(ask(&outside.ns, Proto::Tcp, at(&web.at.ip(false), 80)).is_ok());
}

fn gateway_mode_routed(sb: &Sandbox) {
    let outside = neighbour(sb);
    let closed = json!({"publishedOnly": true});
    let net = guarded(sb, &json!({"ipMasq": false}), &json!({"nat": false}), Some(&closed));
    let web = run_with(sb, &net, "web", on_8080);
    let _other = Server::start(&web.ns, "web", 81);
    let seen = ask(&outside.ns, Proto::Tcp, at(&web.at.ip(false), 80)).unwrap();
    assert_eq!(seen, format!("web {}", Outside::V4));
    assert!(silent(&outside.ns, Proto::Tcp, at(&web.at.ip(false), 81)), "what is not published is closed");
    assert!(silent(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8080)), "nothing is translated");
}

fn gateway_mode_isolated(sb: &Sandbox) {
    let net = network(sb, &json!({"isDefaultGateway": false, "ipMasq": false}));
    let [one, two] = ["one", "two"].map(|id| run(sb, &net, id));
    assert!(ping(&one.ns, &two.at.ip(false)) && addresses(&sb.node(), "br-net").is_empty());
    assert!(silent(&sb.node(), Proto::Tcp, at(&one.at.ip(false), 80)), "the node is no part of the network");
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

/// As many answer as are scaled, and one fewer at once when one goes.
fn publish_of_a_service(sb: &Sandbox) {
    let outside = sb.outside();
    let mut plugins = network(sb, &json!({})).plugins().to_vec();
    plugins[1]["share"] = "web".into();
    let chain = Chain::new("net", sb.newest(&["bridge", "portmap", "host-local"]), &plugins);
    let [one, two, three] =
        ["one", "two", "three"].map(|id| run_with(sb, &chain, id, |at| at.publish(&[(8080, 80, "tcp")])));
    let answers = || {
        let ask = |_| ask(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8080)).unwrap();
        (0..40).map(ask).map(|answer| answer.split(' ').next().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(answers(), ["one", "three", "two"].map(str::to_owned).into());
    chain.del(sb, &two.at);
    assert_eq!(answers(), ["one", "three"].map(str::to_owned).into());
    [&one, &three].into_iter().for_each(|member| chain.check(sb, &member.at).silent());
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

/// No proxy listens on the node: a program of the node can bind the port, and connections from outside still reach the
/// container.
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
    let dns = json!({"nameservers": ["10.1.0.53"], "search": ["example.org"], "options": ["ndots:2"]});
    let one = run(sb, &network(sb, &json!({"dns": dns})), "one");
    assert_eq!(one.at.result.unwrap()["dns"], dns);
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

/// The usual network with names.
fn with_names(sb: &Sandbox, keys: &Value, bridge: &Value) -> Chain {
    let mut names = json!({"type": "dnsname", "capabilities": {"aliases": true}});
    for (key, value) in keys.as_object().unwrap() {
        names[key] = value.clone();
    }
    let list = network(sb, bridge).plugins()[..1].iter().cloned().chain([names]).collect::<Vec<_>>();
    Chain::new("net", sb.newest(&["bridge", "host-local", "dnsname"]), &list)
}

fn called(name: &str) -> impl Fn(Attachment) -> Attachment {
    let args = format!("IgnoreUnknown=1;K8S_POD_NAME={name}");
    move |at| Attachment { args: Some(args.clone()), ..at }
}

fn dig(of: &Container, words: &[&str]) -> String {
    of.ns.sh(&[&["dig", "+short", "@10.1.0.1"], words].concat()).trim().to_owned()
}

fn name(sb: &Sandbox) {
    let net = with_names(sb, &json!({}), &json!({}));
    let [one, two] = [("c1", "web"), ("c2", "client")].map(|(id, name)| run_with(sb, &net, id, called(name)));
    assert_eq!([dig(&two, &["web"]), dig(&one, &["client.net"])], [one.at.ip(false), two.at.ip(false)]);
    [&one, &two].into_iter().for_each(|of| net.del(sb, &of.at));
}

fn network_alias(sb: &Sandbox) {
    let net = with_names(sb, &json!({}), &json!({}));
    let [one, two] = ["c1", "c2"].map(|id| run_with(sb, &net, id, |at| at.with("aliases", json!(["db"]))));
    assert_eq!(dig(&one, &["db"]).lines().count(), 2);
    [&one, &two].into_iter().for_each(|of| net.del(sb, &of.at));
}

/// A gateway for the names, and no way out.
fn internal_names(sb: &Sandbox) {
    let bridge = json!({"isDefaultGateway": false, "isGateway": true, "ipMasq": false});
    let net = with_names(sb, &json!({"upstream": ["192.0.2.2"]}), &bridge);
    let outside = sb.outside();
    let server = Server::start(&outside.ns, "outside", 53);
    let one = run_with(sb, &net, "c1", called("web"));
    assert_eq!(dig(&one, &["web"]), one.at.ip(false));
    assert!(one.ns.sh(&["dig", "@10.1.0.1", "far.example"]).contains("NXDOMAIN"));
    assert!(silent(&one.ns, Proto::Tcp, at("192.0.2.2", 53)));
    net.del(sb, &one.at);
    drop(server);
}

/// The resolver comes first, and asks the server that was named.
fn dns_of_names(sb: &Sandbox) {
    let net = with_names(sb, &json!({"upstream": ["192.0.2.2"]}), &json!({"dns": {"nameservers": ["192.0.2.2"]}}));
    let one = run_with(sb, &net, "c1", called("web"));
    let servers = &one.at.result.as_ref().unwrap()["dns"]["nameservers"];
    assert_eq!(*servers, json!(["10.1.0.1", "192.0.2.2"]));
    net.del(sb, &one.at);
}

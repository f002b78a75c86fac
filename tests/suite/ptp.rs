//! ptp: a pair with nobody else on it; the node routes, in both families.

use std::fs;

use cni_tests::conf::{self, Backend};
use cni_tests::kernel::{addresses, array, link, link_names, routes, sysctl};
use cni_tests::packets::{Outside, Proto, Server, ask, at, ping, silent};
use cni_tests::{Attachment, Chain, Netns, Outcome, Sandbox, Snapshot, rules};
use serde_json::{Value, json};

use crate::case::{Basis, Case, common, improved, newer};
use crate::each::{VERSIONS, minimal, ready, tidy};

const V4: &str = "10.21.0.0/24";
const V6: &str = "fd00:21::/64";

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("ptp::addresses_and_routes_of_both_ends", both_ends),
        common("ptp::containers_reach_each_other_and_the_node", reach),
        common("ptp::forwarding_only_of_the_families_in_use", forwarding),
        common("ptp::mtu_of_both_ends", mtu),
        common("ptp::dns_of_the_configuration_wins", dns),
        common("ptp::del_of_one_leaves_the_other", one_of_two),
        common("ptp::ipam_is_a_must", no_ipam),
        common("ptp::no_router_advertisements_on_the_node", |sb| {
            let (ns, at) = attached(sb, &network(), "c1");
            assert_eq!(sysctl(&sb.node(), &format!("ipv6/conf/{}/accept_ra", host_link(&at))).as_deref(), Some("0"));
            drop(ns);
        }),
        improved("ptp::no_address_is_tentative", tentative),
        improved("ptp::one_address_subnet", one_address),
        improved("ptp::a_neighbour_as_next_hop", neighbour),
        improved("ptp::the_owner_is_on_the_link", owner),
        improved("ptp::a_repeated_add_leaves_the_first_alone", repeat),
        improved("ptp::del_leaves_another_networks_interface_alone", another_network),
        improved("ptp::del_without_ipam_type", |sb| {
            let (ns, at) = attached(sb, &network(), "c1");
            call(sb, "DEL", &json!({"type": "ptp"}), &at).silent();
            assert!(!link_names(&sb.node()).contains(&host_link(&at)));
            drop(ns);
        }),
        improved("ptp::ipam_fails_on_del_and_the_link_goes_all_the_same", ipam_fails_on_del),
        improved("ptp::gc_forwards_to_ipam", gc_forwards),
        newer("ptp::status_forwards_to_ipam", status_forwards),
        improved("ptp::status_without_firewall_tool", status_no_tool),
    ];
    for version in VERSIONS {
        cases.push(common(format!("ptp::result_{version}"), move |sb| result(sb, version)));
    }
    for backend in Backend::ALL {
        let basis = if backend == Backend::Nftables { Basis::Newer } else { Basis::Common };
        let name = |what: &str| format!("ptp::{}_{what}", backend.name());
        cases.push(common(name("outside_sees_the_node"), move |sb| masquerade(sb, backend)).based_on(basis));
        cases.push(common(name("published_port"), move |sb| published(sb, backend)).based_on(basis));
        cases.push(improved(name("check_names_the_masquerade"), move |sb| check_masquerade(sb, backend)));
        cases.push(improved(name("published_ports_leave_nothing"), move |sb| ports_left(sb, backend)));
        cases.push(improved(name("gc_of_a_subset"), move |sb| gc(sb, backend)));
        for (what, basis, end) in ENDS {
            let case = common(name(&format!("leaves_nothing_{what}")), move |sb| nothing_left(sb, backend, end));
            cases.push(case.based_on(basis));
        }
    }
    for (label, code_conf, named) in rollbacks() {
        cases.push(improved(format!("ptp::rollback_{label}"), move |sb| rollback(sb, &code_conf, named)));
    }
    for damage in DAMAGES {
        let basis = if damage.1 { Basis::Common } else { Basis::Improved };
        cases.push(common(format!("ptp::check_{}", damage.0), move |sb| noticed(sb, &damage)).based_on(basis));
    }
    cases
}

/// A dual-stack network with default routes.
fn network() -> Value {
    json!({"type": "ptp", "ipam": {
        "type": "host-local", "ranges": [[{"subnet": V4}], [{"subnet": V6}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    }})
}

fn masquerading(backend: Backend) -> Value {
    let mut conf = network();
    conf["ipMasq"] = true.into();
    conf["ipMasqBackend"] = backend.name().into();
    conf
}

fn chain(sb: &Sandbox, plugins: &[Value]) -> Chain {
    if plugins.iter().any(|plugin| plugin["ipMasqBackend"] == "nftables" || plugin["backend"] == "nftables") {
        sb.needs("ptp", "1.1.0");
    }
    Chain::new("ptpnet", sb.newest(&["ptp", "host-local"]), plugins)
}

fn attached(sb: &Sandbox, conf: &Value, id: &str) -> (Netns, Attachment) {
    let ns = sb.container(id);
    let mut at = Attachment::new(id, &ns);
    chain(sb, std::slice::from_ref(conf)).add(sb, &mut at);
    (ns, at)
}

fn call(sb: &Sandbox, verb: &str, conf: &Value, at: &Attachment) -> Outcome {
    chain(sb, std::slice::from_ref(conf)).call(sb, verb, conf, at, at.result.as_ref()).run()
}

fn host_link(at: &Attachment) -> String {
    at.result.as_ref().unwrap()["interfaces"][0]["name"].as_str().expect("the host's end is named").to_owned()
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

/// The addresses and routes that `reference/ptp.md` describes, word for word.
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

fn dns(sb: &Sandbox) {
    fs::write("/run/resolv.conf", "nameserver 10.0.0.53\nsearch a.example\n").unwrap();
    let mut conf = network();
    conf["ipam"]["resolvConf"] = "/run/resolv.conf".into();
    let (_ns, at) = attached(sb, &conf, "c1");
    let ipams = json!({"nameservers": ["10.0.0.53"], "search": ["a.example"]});
    assert_eq!(at.result.unwrap()["dns"], ipams, "without its own, IPAM's");
    conf["dns"] = json!({"nameservers": ["10.0.0.54"]});
    let (_ns, at) = attached(sb, &conf, "c2");
    assert_eq!(at.result.unwrap()["dns"], json!({"nameservers": ["10.0.0.54"]}));
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

fn no_ipam(sb: &Sandbox) {
    let ns = sb.container("c1");
    let before = Snapshot::of(&[&sb.node(), &ns]);
    for verb in ["ADD", "CHECK"] {
        let conf = conf::named("1.0.0", json!({"type": "ptp"}));
        ready(sb, "ptp", verb, "1.0.0", &ns).conf(&conf).run().error().names(&["no plugin name provided"]);
    }
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
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

fn masquerade(sb: &Sandbox, backend: Backend) {
    let outside = sb.outside();
    let (ns, _at) = attached(sb, &masquerading(backend), "c1");
    let _server = Server::start(&outside.ns, "outside", 7000);
    for (to, node) in [(Outside::V4, Outside::NODE_V4), (Outside::V6, Outside::NODE_V6)] {
        for proto in [Proto::Tcp, Proto::Udp] {
            let answer = ask(&ns, proto, at(to, 7000)).unwrap_or_else(|e| panic!("{proto:?} {to}: {e}"));
            assert_eq!(answer, format!("outside {node}"));
        }
    }
}

fn published(sb: &Sandbox, backend: Backend) {
    let outside = sb.outside();
    let chain = chain(sb, &[masquerading(backend), conf::portmap(backend)]);
    let ns = sb.container("c1");
    let mut to = Attachment::new("c1", &ns).publish(&[(8080, 80, "tcp")]);
    chain.add(sb, &mut to);
    let server = Server::start(&ns, "c1", 80);
    for (node, seen) in [(Outside::NODE_V4, Outside::V4), (Outside::NODE_V6, Outside::V6)] {
        assert_eq!(ask(&outside.ns, Proto::Tcp, at(node, 8080)).unwrap(), format!("c1 {seen}"));
    }
    assert!(ask(&sb.node(), Proto::Tcp, at("127.0.0.1", 8080)).unwrap().starts_with("c1 "));
    assert!(ask(&ns, Proto::Tcp, at(Outside::NODE_V4, 8080)).unwrap().starts_with("c1 "), "hairpin");
    drop(server);
    chain.del(sb, &to);
    assert!(silent(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8080)));
}

/// Every container has a link of its own here, and what guards it has to go with it.
fn ports_left(sb: &Sandbox, backend: Backend) {
    let chain = chain(sb, &[masquerading(backend), conf::portmap(backend)]);
    let attach = |id: &str, port: u16| {
        let ns = sb.container(id);
        let mut at = Attachment::new(id, &ns).publish(&[(port, 80, "tcp")]);
        chain.add(sb, &mut at);
        (ns, at)
    };
    chain.del(sb, &attach("first", 1111).1);
    let (_stays, stays) = attach("stays", 2222);
    let before = Snapshot::of(&[&sb.node()]);
    chain.del(sb, &attach("del", 3333).1);
    let (ns, at) = attach("vanishes", 4444);
    ns.delete();
    chain.del(sb, &at);
    Snapshot::of(&[&sb.node()]).same_but(&before, &["last_reserved_ip", ".host-local"]);
    chain.check(sb, &stays).silent();
}

fn one_of_two(sb: &Sandbox) {
    let conf = masquerading(Backend::Iptables);
    let (_one, first) = attached(sb, &conf, "c1");
    let (two, second) = attached(sb, &conf, "c2");
    call(sb, "DEL", &conf, &first).silent();
    call(sb, "CHECK", &conf, &second).silent();
    assert!(ping(&two, "10.21.0.1") && ping(&sb.node(), &second.ip(true)));
    assert!(rules::naming(&sb.node(), &first.ip(false)).is_empty());
}

fn repeat(sb: &Sandbox) {
    let conf = masquerading(Backend::Iptables);
    let (ns, at) = attached(sb, &conf, "c1");
    let before = Snapshot::of(&[&sb.node(), &ns]);
    let mut again = Attachment::new("c1", &ns);
    let error =
        chain(sb, std::slice::from_ref(&conf)).try_add(sb, &mut again).expect_err("it is there already").error();
    error.names(&["eth0", "already"]);
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &["last_reserved_ip", ".host-local"]);
    // The same attachment, by a runtime that lost the namespace.
    let elsewhere = sb.container("elsewhere");
    let mut again = Attachment::new("c1", &elsewhere);
    chain(sb, std::slice::from_ref(&conf)).try_add(sb, &mut again).expect_err("it is there already").error();
    call(sb, "CHECK", &conf, &at).silent();
}

/// The name was taken by another network, so ADD failed, and the runtime calls DEL for it.
fn another_network(sb: &Sandbox) {
    let (ns, at) = attached(sb, &network(), "c1");
    let version = sb.newest(&["ptp", "host-local"]);
    let mut conf = network();
    conf["ipam"] = json!({"type": "host-local", "subnet": "10.22.0.0/24"});
    let other = Chain::new("another", version, &[conf]);
    let mut to = Attachment::new("c1", &ns);
    other.try_add(sb, &mut to).expect_err("the name is taken");
    other.del(sb, &to);
    call(sb, "CHECK", &network(), &at).silent();
}

fn ipam_fails_on_del(sb: &Sandbox) {
    sb.fake(
        "fails",
        r#"case $CNI_COMMAND in ADD) echo '{"ips":[{"address":"10.5.0.5/24","gateway":"10.5.0.1"}]}';;
        *) echo '{"code":103,"msg":"no"}'; exit 1;; esac"#,
    );
    let mut conf = masquerading(Backend::Iptables);
    conf["ipam"] = json!({"type": "fails"});
    let (ns, at) = attached(sb, &conf, "c1");
    let error = call(sb, "DEL", &conf, &at).error();
    assert_eq!((error.code, error.msg.as_str()), (103, "no"));
    assert_eq!(link_names(&sb.node()), ["lo"]);
    assert!(rules::naming(&sb.node(), "10.5.0.5").is_empty());
    drop(ns);
}

/// A noting IPAM, and what it was called with.
fn noting(sb: &Sandbox) -> Value {
    sb.fake("noting", "echo $CNI_COMMAND >>/run/said");
    json!({"type": "ptp", "ipam": {"type": "noting"}})
}

fn gc_forwards(sb: &Sandbox) {
    sb.needs("ptp", "1.1.0");
    chain(sb, &[noting(sb)]).gc(sb, &[]).silent();
    assert_eq!(fs::read_to_string("/run/said").unwrap(), "GC\n");
}

fn status_forwards(sb: &Sandbox) {
    sb.needs("ptp", "1.1.0");
    chain(sb, &[noting(sb)]).status(sb).silent();
    assert_eq!(fs::read_to_string("/run/said").unwrap(), "STATUS\n");
    sb.fake("full", r#"echo '{"code":50,"msg":"full"}'; exit 1"#);
    let error = chain(sb, &[json!({"type": "ptp", "ipam": {"type": "full"}})]).status(sb).error();
    assert_eq!((error.code, error.msg.as_str()), (50, "full"));
    chain(sb, &[json!({"type": "ptp"})]).status(sb).error().names(&["no plugin name provided"]);
}

fn status_no_tool(sb: &Sandbox) {
    sb.needs("ptp", "1.1.0");
    fs::create_dir_all("/run/cni-test/empty").unwrap();
    let chain = chain(sb, &[masquerading(Backend::Iptables)]).with_path("/run/cni-test/empty");
    let error = chain.status(sb).error();
    assert_eq!(error.code, 50, "{error:?}");
    error.names(&["iptables"]);
}

fn gc(sb: &Sandbox, backend: Backend) {
    sb.needs("ptp", "1.1.0");
    let conf = masquerading(backend);
    let (_stays, stays) = attached(sb, &conf, "stays");
    let (_goes, goes) = attached(sb, &conf, "goes");
    let (_other, other) = {
        let ns = sb.container("other");
        let mut at = Attachment::new("other", &ns);
        let mut conf = conf.clone();
        conf["ipam"] = json!({"type": "host-local", "subnet": "10.22.0.0/24"});
        Chain::new("another", "1.1.0", &[conf]).add(sb, &mut at);
        (ns, at)
    };
    chain(sb, std::slice::from_ref(&conf)).gc(sb, &[("stays", "eth0")]).silent();
    let names = link_names(&sb.node());
    assert!(names.contains(&host_link(&stays)) && names.contains(&host_link(&other)), "{names:?}");
    assert!(!names.contains(&host_link(&goes)), "{names:?}");
    let left = Snapshot::of(&[&sb.node()]);
    for v6 in [false, true] {
        let left: Vec<_> = left.naming(&goes.ip(v6)).into_iter().filter(|l| !l.contains("last_reserved")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    call(sb, "CHECK", &conf, &stays).silent();
}

type End = fn(&Sandbox, &Value, &Netns, &Attachment);

const ENDS: [(&str, Basis, End); 6] = [
    ("del", Basis::Common, |sb, conf, _, at| call(sb, "DEL", conf, at).silent()),
    ("del_twice", Basis::Common, |sb, conf, _, at| (0..2).for_each(|_| call(sb, "DEL", conf, at).silent())),
    ("del_with_empty_netns", Basis::Improved, |sb, conf, _, at| {
        call(sb, "DEL", conf, &at.clone().nowhere()).silent();
    }),
    ("del_after_the_netns_vanished", Basis::Improved, |sb, conf, ns, at| {
        ns.delete();
        call(sb, "DEL", conf, at).silent();
    }),
    ("del_without_result", Basis::Improved, |sb, conf, _, at| {
        let at = Attachment { result: None, ..at.clone() };
        call(sb, "DEL", conf, &at.nowhere()).silent();
    }),
    ("del_after_addresses_were_removed", Basis::Improved, |sb, conf, ns, at| {
        ns.sh(&["ip", "addr", "flush", "dev", "eth0"]);
        call(sb, "DEL", conf, at).silent();
    }),
];

fn nothing_left(sb: &Sandbox, backend: Backend, end: End) {
    let conf = masquerading(backend);
    let (first_ns, first) = attached(sb, &conf, "first");
    call(sb, "DEL", &conf, &first).silent();
    let (_stays, stays) = attached(sb, &conf, "stays");
    let before = Snapshot::of(&[&sb.node(), &first_ns]);
    let (ns, at) = attached(sb, &conf, "goes");
    end(sb, &conf, &ns, &at);
    Snapshot::of(&[&sb.node(), &first_ns]).same_but(&before, &["last_reserved_ip", ".host-local"]);
    call(sb, "CHECK", &conf, &stays).silent();
}

fn rollbacks() -> Vec<(&'static str, Value, &'static [&'static str])> {
    let with = |ipam: Value| {
        let mut conf = masquerading(Backend::Iptables);
        conf["ipam"] = ipam;
        conf
    };
    let mut backend = network();
    backend["ipMasqBackend"] = "pf".into();
    let mut mtu = network();
    mtu["mtu"] = 70000.into();
    let address = |address: &str, gateway: &str| json!([{"address": address, "gateway": gateway}]);
    let route = json!({
        "type": "host-local", "subnet": V4, "routes": [{"dst": "10.9.0.0/16", "gw": "172.31.0.1"}]
    });
    vec![
        (
            "address_without_gateway",
            with(json!({"type": "static", "addresses": [{"address": "10.5.0.5/24"}]})),
            &["10.5.0.5/24", "gateway"],
        ),
        (
            "gateway_of_another_family",
            with(json!({"type": "static", "addresses": address("10.5.0.5/24", "fd00::1")})),
            &["fd00::1"],
        ),
        ("no_address", with(json!({"type": "static"})), &["missing IP config"]),
        ("route_that_the_kernel_refuses", with(route), &["10.9.0.0/16", "172.31.0.1"]),
        ("no_such_ipam", with(json!({"type": "nope"})), &["nope"]),
        ("ipam_type_with_slash", with(json!({"type": "../x"})), &["../x"]),
        (
            "exhausted_range",
            with(json!({"type": "host-local", "ranges": [
                [{"subnet": V4}], [{"subnet": V6, "rangeStart": "fd00:21::1", "rangeEnd": "fd00:21::1"}]
            ]})),
            &["fd00:21::1"],
        ),
        ("unknown_backend", backend, &["ipMasqBackend", "pf"]),
        ("mtu_too_large", mtu, &["mtu", "70000"]),
    ]
}

fn rollback(sb: &Sandbox, conf: &Value, named: &[&str]) {
    // What all attachments share is there already.
    let warm = masquerading(Backend::Iptables);
    let (_first, first) = attached(sb, &warm, "first");
    call(sb, "DEL", &warm, &first).silent();
    let ns = sb.container("c1");
    let before = Snapshot::of(&[&sb.node(), &ns]);
    let mut to = Attachment::new("c1", &ns);
    let chain = chain(sb, std::slice::from_ref(conf));
    chain.try_add(sb, &mut to).expect_err("ADD has to fail").error().names(named);
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &["last_reserved_ip", ".host-local"]);
    // Without the IPAM plugin DEL can't say that nothing is reserved any more.
    if sb.has(conf["ipam"]["type"].as_str().unwrap()) {
        chain.del(sb, &to);
    }
}

fn check_masquerade(sb: &Sandbox, backend: Backend) {
    let conf = masquerading(backend);
    let (_ns, at) = attached(sb, &conf, "c1");
    call(sb, "CHECK", &conf, &at).silent();
    let gone = rules::delete_one(&sb.node(), &at.ip(false));
    let error = call(sb, "CHECK", &conf, &at).error();
    assert!(error.text().contains(&at.ip(false)), "after deleting {gone}: {error:?}");
}

/// One thing that somebody breaks: its name, whether the Go plugin notices it too, whether in the container or on the
/// node, the command (`LINK` stands for the host's end), and what CHECK has to name.
type Damage = (&'static str, bool, bool, &'static str, &'static [&'static str]);

const DAMAGES: [Damage; 16] = [
    ("untouched", true, true, "true", &[]),
    ("address_deleted", true, true, "ip addr del 10.21.0.2/24 dev eth0", &["10.21.0.2"]),
    ("ipv6_address_deleted", true, true, "ip addr del fd00:21::2/64 dev eth0", &["fd00:21::2"]),
    ("default_route_deleted", true, true, "ip route del default", &["oute"]),
    ("link_deleted", true, true, "ip link del eth0", &["eth0"]),
    ("mac_changed", true, true, "ip link set eth0 address 0a:00:00:00:00:77", &["0a:00:00:00:00:77"]),
    ("route_added_beside", false, true, "ip route replace 10.21.0.1 dev eth0 src 10.21.0.2 metric 5", &[]),
    ("subnet_route_deleted", false, true, "ip route del 10.21.0.0/24", &["oute", "10.21.0.0/24"]),
    ("link_set_down", false, true, "ip link set eth0 down", &["eth0"]),
    ("mtu_changed", false, true, "ip link set eth0 mtu 1300", &["mtu", "1300", "1400"]),
    ("host_address_deleted", false, false, "ip addr del 10.21.0.1/32 dev LINK", &["10.21.0.1"]),
    ("ipv6_host_address_deleted", false, false, "ip addr del fd00:21::1/128 dev LINK", &["fd00:21::1"]),
    ("host_route_deleted", false, false, "ip route del 10.21.0.2 dev LINK", &["oute", "10.21.0.2"]),
    ("ipv6_host_route_deleted", false, false, "ip -6 route del fd00:21::2 dev LINK", &["oute", "fd00:21::2"]),
    ("forwarding_off", false, false, "sysctl -qw net.ipv4.ip_forward=0", &["ip_forward"]),
    ("ipv6_forwarding_off", false, false, "sysctl -qw net.ipv6.conf.all.forwarding=0", &["forwarding"]),
];

fn noticed(sb: &Sandbox, (label, _, inside, deed, named): &Damage) {
    let mut conf = network();
    conf["mtu"] = 1400.into();
    let (ns, at) = attached(sb, &conf, "c1");
    call(sb, "CHECK", &conf, &at).silent();
    let place = if *inside { ns } else { sb.node() };
    let deed = deed.replace("LINK", &host_link(&at));
    place.sh(&deed.split(' ').collect::<Vec<_>>());
    let outcome = call(sb, "CHECK", &conf, &at);
    // A route that was added beside ours is nobody's concern.
    if matches!(*label, "untouched" | "route_added_beside") { outcome.silent() } else { outcome.error().names(named) }
}

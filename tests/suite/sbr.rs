//! sbr: rules and tables by source address, and what remains of them.

use std::path::Path;

use cni_tests::kernel::{array, default_routes, routes};
use cni_tests::packets::ping;
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot, conf, verdict};
use serde_json::{Value, json};

use crate::case::{Case, common, improved, newer};
use cni_tests::plugins::{VERSIONS, minimal, previous, ready, tidy};

/// Debian's package `containernetworking-plugins`.
const GO: &str = "/usr/lib/cni";

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("each_address_has_a_rule_and_a_table", tables),
        common("routes_of_the_interface_leave_the_main_table", |sb| {
            let (ns, ..) = attached(sb, &json!({}));
            assert!(default_routes(&ns, "-4").is_empty() && default_routes(&ns, "-6").is_empty());
            assert!(routes(&ns, "-4").is_empty());
        }),
        common("needs_a_previous_result", |sb| {
            let mut conf = minimal("sbr", "1.0.0");
            conf["prevResult"] = Value::Null;
            ready(sb, "sbr", "ADD", "1.0.0", &sb.container("c1")).conf(&conf).run().error().names(&["chained"]);
        }),
        common("needs_an_address", |sb| {
            let mut conf = minimal("sbr", "1.0.0");
            conf["prevResult"] =
                json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/c1"}]});
            let error = ready(sb, "sbr", "ADD", "1.0.0", &sb.container("c1")).conf(&conf).run().error();
            error.names(&["No IP addresses", "eth0"]);
        }),
        common("del_removes_the_rules", |sb| {
            let (ns, at, chain) = attached(sb, &json!({}));
            alone(sb, &chain, "DEL", &at).silent();
            assert!(rules(&ns).is_empty());
        }),
        common("second_interface_answers_by_itself", second_interface),
        newer("a_configured_table_gets_rules_only", configured_table),
        improved("check_names_what_differs", check),
        improved("check_of_a_configured_table", check_table),
        improved("default_route_of_the_result", default_of_result),
        improved("configured_gateways", gateways),
        improved("gateway_outside_of_the_subnet", outside_gateway),
        improved("several_addresses_have_their_own_gateways", several),
        improved("tables_in_use_are_passed_over", used_tables),
        improved("link_local_routes_stay", |sb| {
            let (ns, ..) = attached(sb, &json!({}));
            assert!(
                routes(&ns, "-6").iter().any(|route| route["dst"] == "fe80::/64"),
                "neighbours are found through it"
            );
        }),
        improved("source_hints", hints),
        improved("bridge_check_passes_beside_it", |sb| {
            let (_, at, chain) = attached(sb, &json!({}));
            chain.check(sb, &at).silent();
        }),
    ];
    cases.extend(ends());
    for (label, keys, named) in refusals() {
        cases.push(improved(format!("refuses_{label}"), move |sb| refused(sb, &keys, named)));
    }
    for version in VERSIONS {
        cases.push(common(format!("passes_through_{version}"), move |sb: &Sandbox| {
            sb.needs("sbr", version);
            let result = ready(sb, "sbr", "ADD", version, &sb.container("c1")).run().result();
            assert_eq!(tidy(result), previous(version));
        }));
    }
    cases
}

/// What is refused, taken back and removed.
fn ends() -> Vec<Case> {
    vec![
        improved("a_second_add_is_refused", |sb| {
            let (ns, at, chain) = attached(sb, &json!({}));
            let before = Snapshot::of(&[&ns]);
            alone(sb, &chain, "ADD", &at).error().names(&["rule", "DEL"]);
            Snapshot::of(&[&ns]).same_as(&before);
        }),
        improved("a_failure_is_taken_back", rollback),
        improved("del_leaves_no_routes", |sb| {
            let (ns, at, chain) = attached(sb, &json!({}));
            alone(sb, &chain, "DEL", &at).silent();
            for family in ["-4", "-6"] {
                let all = array(&ns.sh(&["ip", "-j", family, "route", "show", "table", "all"]));
                assert!(!all.iter().any(|route| table(route) >= 100), "{all:?}");
            }
        }),
        improved("del_without_a_namespace", |sb| {
            let (ns, at, chain) = attached(sb, &json!({}));
            alone(sb, &chain, "DEL", &at.clone().nowhere()).silent();
            ns.delete();
            alone(sb, &chain, "DEL", &at).silent();
        }),
        improved("del_after_the_interface_went", |sb| gone(sb, true)),
        improved("del_after_that_without_result", |sb| gone(sb, false)),
        improved("ours_checks_and_removes_go_s", |sb| upgrade(sb, true)),
        improved("go_checks_and_removes_ours", |sb| upgrade(sb, false)),
        improved("status_knows_the_configuration", |sb| {
            sb.needs("sbr", "1.1.0");
            let status = |conf: Value| Chain::new("net", "1.1.0", &[conf]).status(sb);
            status(json!({"type": "sbr"})).silent();
            status(json!({"type": "sbr", "table": 0})).error().names(&["table", "0"]);
        }),
    ]
}

/// A network whose containers get an address of each family and default routes, and sbr with these keys.
fn chain(sb: &Sandbox, keys: &Value) -> Chain {
    let mut main = conf::bridge();
    main["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    main["isDefaultGateway"] = false.into();
    main["isGateway"] = true.into();
    with(sb, main, keys)
}

fn with(sb: &Sandbox, main: Value, keys: &Value) -> Chain {
    let mut own = json!({"type": "sbr"});
    for (key, value) in keys.as_object().unwrap() {
        own[key] = value.clone();
    }
    Chain::new("net", sb.newest(&["bridge", "host-local", "sbr"]), &[main, own])
}

fn attached(sb: &Sandbox, keys: &Value) -> (Netns, Attachment, Chain) {
    attach(sb, chain(sb, keys))
}

fn attach(sb: &Sandbox, chain: Chain) -> (Netns, Attachment, Chain) {
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    (ns, at, chain)
}

/// A bridge with these static addresses and routes.
fn statics(addresses: &Value, routes: &Value) -> Value {
    json!({"type": "bridge", "bridge": "br-test", "ipam": {"type": "static", "addresses": addresses, "routes": routes}})
}

/// A verb of sbr alone, the last plugin of the chain.
fn alone(sb: &Sandbox, chain: &Chain, verb: &str, at: &Attachment) -> cni_tests::Outcome {
    chain.call(sb, verb, chain.plugins().last().unwrap(), at, at.result.as_ref()).run()
}

/// The rules that a plugin may have made, as `source table`.
fn rules(ns: &Netns) -> Vec<String> {
    let listed = ["-4", "-6"].map(|family| array(&ns.sh(&["ip", "-j", family, "rule", "show"])));
    let own = listed.iter().flatten().filter(|rule| rule["src"] != "all");
    let mut found: Vec<String> = own
        .map(|rule| format!("{} {}", rule["src"].as_str().unwrap(), rule["table"].as_str().unwrap_or_default()))
        .collect();
    found.sort();
    found
}

/// A route's table as a number; 0 for those with a name.
fn table(route: &Value) -> u64 {
    route["table"].as_str().and_then(|table| table.parse().ok()).or(route["table"].as_u64()).unwrap_or(0)
}

/// The routes of a table, as `destination gateway`.
fn table_of(ns: &Netns, family: &str, table: &str) -> Vec<String> {
    if !ns.holds(&["ip", family, "route", "show", "table", table]) {
        return Vec::new();
    }
    let listed = array(&ns.sh(&["ip", "-j", family, "route", "show", "table", table]));
    let text =
        |route: &Value| format!("{} {}", route["dst"].as_str().unwrap(), route["gateway"].as_str().unwrap_or("-"));
    let mut found: Vec<String> = listed.iter().map(text).filter(|route| !route.starts_with("fe80")).collect();
    found.sort();
    found
}

fn tables(sb: &Sandbox) {
    let (ns, at, _) = attached(sb, &json!({}));
    assert_eq!(rules(&ns), [format!("{} 100", at.ip(false)), format!("{} 101", at.ip(true))]);
    assert_eq!(table_of(&ns, "-4", "100"), [format!("{} -", conf::V4), format!("default {}", conf::V4_GATEWAY)]);
    assert_eq!(table_of(&ns, "-6", "101"), [format!("default {}", conf::V6_GATEWAY), format!("{} -", conf::V6)]);
}

/// What it is for: packets from the second interface's address leave by it, though the default route is the first one's.
fn second_interface(sb: &Sandbox) {
    let first = Chain::new("first", sb.newest(&["bridge", "host-local"]), &[conf::bridge()]);
    let ns = sb.container("c1");
    first.add(sb, &mut Attachment::new("c1", &ns));
    let subnets = json!([[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]]);
    let mut main = conf::bridge();
    (main["bridge"], main["ipam"]["ranges"], main["isDefaultGateway"]) = ("br-second".into(), subnets, false.into());
    main["isGateway"] = true.into();
    let mut second = Attachment::new("c1", &ns).on("eth1");
    with(sb, main, &json!({})).add(sb, &mut second);
    for (to, from, v6) in [("192.0.2.9", second.ip(false), "-4"), ("2001:db8::9", second.ip(true), "-6")] {
        let way = |words: &[&str]| ns.sh(&[&["ip", v6, "route", "get", to][..], words].concat());
        assert!(way(&["from", &from]).contains("dev eth1"), "{from}");
        assert!(way(&[]).contains("dev eth0"));
        assert!(ping(&ns, if v6 == "-6" { "fd00:88::1" } else { "10.88.0.1" }) && ping(&sb.node(), &from));
    }
}

fn configured_table(sb: &Sandbox) {
    let mut main = conf::bridge();
    main["isDefaultGateway"] = false.into();
    main["isGateway"] = true.into();
    main["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0", "table": 300}]);
    sb.needs("sbr", "1.1.0");
    let (ns, at, chain) = attach(sb, with(sb, main, &json!({"table": 300})));
    assert_eq!(rules(&ns), [format!("{} 300", at.ip(false)), format!("{} 300", at.ip(true))]);
    assert!(!routes(&ns, "-4").is_empty(), "the main table stays as it is");
    alone(sb, &chain, "DEL", &at).silent();
    assert!(rules(&ns).is_empty());
    assert_eq!(table_of(&ns, "-4", "300").len(), 1, "they are another plugin's");
}

fn check(sb: &Sandbox) {
    let (ns, at, chain) = attached(sb, &json!({}));
    let check = || alone(sb, &chain, "CHECK", &at);
    check().silent();
    let change = |words: &str| ns.sh(&words.split(' ').collect::<Vec<_>>());
    let (v4, v6) = (at.ip(false), at.ip(true));
    change("ip route del default table 100");
    check().error().names(&["default", conf::V4_GATEWAY, "100"]);
    change(&format!("ip route add default via {} dev eth0 table 100 onlink", conf::V4_GATEWAY));
    check().silent();
    change(&format!("ip -6 route del {} table 101", conf::V6));
    check().error().names(&[conf::V6, "101"]);
    change(&format!("ip -6 rule del from {v6}"));
    check().error().names(&["rule", &v6]);
    change(&format!("ip rule del from {v4}"));
    check().error().names(&["rule", &v4, "(and 1 more)"]);
    change("ip link del eth0");
    check().error().names(&["eth0"]);
}

fn check_table(sb: &Sandbox) {
    let (ns, at, chain) = attached(sb, &json!({"table": 300}));
    alone(sb, &chain, "CHECK", &at).silent();
    let v4 = at.ip(false);
    ns.sh(&["ip", "rule", "del", "from", &v4]);
    ns.sh(&["ip", "rule", "add", "from", &v4, "lookup", "301"]);
    alone(sb, &chain, "CHECK", &at).error().names(&[&v4, "300", "301"]);
}

/// The address has no gateway, but the result has a default route: as with DHCP, and static addresses of a runtime.
fn default_of_result(sb: &Sandbox) {
    let addresses = json!([{"address": "10.9.0.5/24"}, {"address": "fd00:9::5/64"}]);
    let routes = json!([{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}, {"dst": "::/0", "gw": "fd00:9::1"}]);
    let (ns, at, chain) = attach(sb, with(sb, statics(&addresses, &routes), &json!({})));
    assert_eq!(table_of(&ns, "-4", "100"), ["10.9.0.0/24 -", "default 10.9.0.1"]);
    assert_eq!(table_of(&ns, "-6", "101"), ["default fd00:9::1", "fd00:9::/64 -"]);
    alone(sb, &chain, "CHECK", &at).silent();
    ns.sh(&["ip", "-6", "route", "del", "default", "table", "101"]);
    alone(sb, &chain, "CHECK", &at).error().names(&["fd00:9::1"]);
}

fn gateways(sb: &Sandbox) {
    let addresses = json!([{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}, {"address": "fd00:9::5/64"}]);
    let keys = json!({"gateways": ["10.9.0.254", "fd00:9::fe"]});
    let (ns, at, chain) = attach(sb, with(sb, statics(&addresses, &json!([])), &keys));
    assert_eq!(table_of(&ns, "-4", "100"), ["10.9.0.0/24 -", "default 10.9.0.254"]);
    assert_eq!(table_of(&ns, "-6", "101"), ["default fd00:9::fe", "fd00:9::/64 -"]);
    alone(sb, &chain, "CHECK", &at).silent();
}

/// As clouds have it: an address of its own, and a gateway elsewhere.
fn outside_gateway(sb: &Sandbox) {
    let addresses = json!([{"address": "10.9.0.5/32"}]);
    let keys = json!({"gateways": ["169.254.1.1"]});
    let (ns, at, chain) = attach(sb, with(sb, statics(&addresses, &json!([])), &keys));
    assert_eq!(table_of(&ns, "-4", "100"), ["default 169.254.1.1"]);
    alone(sb, &chain, "CHECK", &at).silent();
    assert!(ns.sh(&["ip", "route", "get", "192.0.2.9", "from", "10.9.0.5"]).contains("via 169.254.1.1"));
}

fn several(sb: &Sandbox) {
    let addresses = json!([
        {"address": "10.9.0.5/24", "gateway": "10.9.0.1"}, {"address": "10.10.0.5/24", "gateway": "10.10.0.1"},
        {"address": "10.11.0.5/24"}
    ]);
    let (ns, at, chain) =
        attach(sb, with(sb, statics(&addresses, &json!([{"dst": "10.99.0.0/16", "gw": "10.10.0.7"}])), &json!({})));
    assert_eq!(rules(&ns), ["10.10.0.5 101", "10.11.0.5 102", "10.9.0.5 100"]);
    assert_eq!(table_of(&ns, "-4", "100"), ["10.9.0.0/24 -", "default 10.9.0.1"]);
    assert_eq!(table_of(&ns, "-4", "101"), ["10.10.0.0/24 -", "10.99.0.0/16 10.10.0.7", "default 10.10.0.1"]);
    assert_eq!(table_of(&ns, "-4", "102"), ["10.11.0.0/24 -"]);
    alone(sb, &chain, "CHECK", &at).silent();
    alone(sb, &chain, "DEL", &at).silent();
    assert!(rules(&ns).is_empty());
}

/// By routes without a rule, by rules of any kind.
fn used_tables(sb: &Sandbox) {
    let ns = sb.container("c1");
    ns.sh(&["ip", "link", "set", "lo", "up"]);
    ns.sh(&["ip", "route", "add", "10.5.0.0/16", "dev", "lo", "table", "100"]);
    ns.sh(&["ip", "-6", "rule", "add", "fwmark", "7", "lookup", "101"]);
    let chain = chain(sb, &json!({}));
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    assert_eq!(rules(&ns), [format!("{} 102", at.ip(false)), format!("{} 103", at.ip(true))]);
    chain.del(sb, &at);
    assert_eq!(table_of(&ns, "-4", "100"), ["10.5.0.0/16 -"]);
}

fn hints(sb: &Sandbox) {
    let (ns, at, chain) = attached(sb, &json!({"addSourceHints": true}));
    for (family, subnet, ip) in [("-4", conf::V4, at.ip(false)), ("-6", conf::V6, at.ip(true))] {
        assert!(default_routes(&ns, family).is_empty());
        let hint = routes(&ns, family).into_iter().find(|route| route["dst"] == subnet).unwrap();
        assert_eq!(hint["prefsrc"], ip, "{hint}");
    }
    alone(sb, &chain, "CHECK", &at).silent();
    assert!(ping(&ns, conf::V4_GATEWAY) && ping(&ns, conf::V6_GATEWAY));
    ns.sh(&["ip", "route", "del", conf::V4]);
    alone(sb, &chain, "CHECK", &at).error().names(&[conf::V4, "main"]);
}

/// The second address's gateway is none that the kernel takes.
fn rollback(sb: &Sandbox) {
    let addresses = json!([{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}, {"address": "10.10.0.5/24"}]);
    let main = statics(&addresses, &json!([{"dst": "10.99.0.0/16", "gw": "10.9.0.7"}]));
    let (ns, chain) = (sb.container("c1"), with(sb, main, &json!({})));
    let mut at = Attachment::new("c1", &ns);
    let mut result = chain.call(sb, "ADD", &chain.plugins()[0], &at, None).run().result();
    result["ips"][1]["gateway"] = "224.0.0.1".into();
    at.result = Some(result);
    let before = Snapshot::of(&[&ns]);
    alone(sb, &chain, "ADD", &at).error().names(&["224.0.0.1"]);
    Snapshot::of(&[&ns]).same_as(&before);
}

fn gone(sb: &Sandbox, with_result: bool) {
    let (ns, mut at, chain) = attached(sb, &json!({}));
    ns.sh(&["ip", "rule", "add", "from", "10.1.1.1", "lookup", "200"]);
    ns.sh(&["ip", "link", "del", "eth0"]);
    at.result = at.result.filter(|_| with_result);
    alone(sb, &chain, "DEL", &at).silent();
    assert_eq!(rules(&ns), ["10.1.1.1 200"], "a rule of another program stays");
}

/// The Go plugins, or the end of the case.
fn go(sb: &Sandbox) -> Sandbox {
    if !Path::new(GO).join("sbr").is_file() {
        verdict::skip("the Go plugins are not installed");
    }
    sb.with_plugins(Path::new(GO))
}

fn upgrade(sb: &Sandbox, from_go: bool) {
    let (go, ours) = (go(sb), sb.with_plugins(sb.dir()));
    let (adds, ends) = if from_go { (&go, &ours) } else { (&ours, &go) };
    let ns = sb.container("c1");
    let chain = chain(sb, &json!({})).at_version("1.0.0");
    let mut at = Attachment::new("c1", &ns);
    at.result = Some(chain.call(sb, "ADD", &chain.plugins()[0], &at, None).run().result());
    at.result = Some(alone(adds, &chain, "ADD", &at).result());
    alone(adds, &chain, "CHECK", &at).silent();
    alone(ends, &chain, "CHECK", &at).silent();
    alone(ends, &chain, "DEL", &at).silent();
    assert!(rules(&ns).is_empty());
}

fn refusals() -> Vec<(&'static str, Value, &'static [&'static str])> {
    vec![
        ("table_0", json!({"table": 0}), &["table", "0"]),
        ("a_table_as_text", json!({"table": "100"}), &["table", "100"]),
        ("a_gateway_that_is_none", json!({"gateways": ["10.0.0"]}), &["gateways", "10.0.0"]),
        ("two_gateways_of_a_family", json!({"gateways": ["10.0.0.1", "10.0.0.2"]}), &["10.0.0.1", "10.0.0.2"]),
    ]
}

fn refused(sb: &Sandbox, keys: &Value, named: &[&str]) {
    let ns = sb.container("c1");
    let chain = chain(sb, keys);
    let mut at = Attachment::new("c1", &ns);
    at.result = Some(chain.call(sb, "ADD", &chain.plugins()[0], &at, None).run().result());
    let before = Snapshot::of(&[&ns]);
    alone(sb, &chain, "ADD", &at).error().names(named);
    Snapshot::of(&[&ns]).same_as(&before);
}

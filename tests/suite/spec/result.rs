//! SPEC.md section 5: what a result says.

use cni_tests::kernel::{link, link_names};
use serde_json::{Value, json};

use super::add::{after_foreign, foreign, named};
use super::requirement::{ALL, INTERFACE, Requirement, Section};
use super::subject::Subject;
use cni_tests::plugins::tidy;

/// Plugins whose result has an address of their own.
const ADDRESS: [&str; 11] =
    ["bridge", "ptp", "macvlan", "ipvlan", "vlan", "dummy", "host-device", "tap", "host-local", "static", "dhcp"];

/// All of this subject.
pub(super) fn requirements() -> Vec<Requirement> {
    let result = Section("5 ADD result");
    let mut all = vec![
        result
            .must("must_have_the_config_s_version", "`cniVersion` is the configuration's", &ALL, version)
            .since("0.4.0"),
        result
            .must("must_have_ip4", "`ip4` with `ip` in CIDR notation, `gateway`, `routes`", &ADDRESS, ip4)
            .until("0.2.0"),
        result.must("must_list_ips", "`ips` in CIDR notation, with the subnet's gateway", &ADDRESS, ips).since("0.3.0"),
        result
            .must("must_tell_the_ip_version", "`version` of an address is its family", &ADDRESS, ip_version)
            .since("0.3.0")
            .until("0.4.0"),
        result
            .must(
                "must_point_from_ips_to_interfaces",
                "`interface` is the index of the container's interface",
                &INTERFACE,
                index,
            )
            .since("0.3.0"),
        result
            .must("must_list_interfaces", "every interface made, the host's too, with its MAC", &INTERFACE, interfaces)
            .since("0.3.0"),
        result.must("must_tell_the_mtu", "every interface has its `mtu`", &INTERFACE, mtu).since("1.1.0"),
        result
            .should(
                "should_have_cni_netns_as_sandbox",
                "the container's interface has `CNI_NETNS` as `sandbox`, the host's has none",
                &INTERFACE,
                sandbox,
            )
            .since("0.3.0"),
        result.must("must_list_routes", "`routes` with `dst`", &ADDRESS, routes).since("0.3.0"),
    ];
    all.extend(given());
    all
}

/// What becomes of a previous result.
fn given() -> Vec<Requirement> {
    let result = Section("5 ADD result");
    vec![
        result
            .must(
                "must_output_prev_result",
                "a given `prevResult` is in the result, with the plugin's own additions",
                &[
                    "bridge",
                    "ptp",
                    "macvlan",
                    "ipvlan",
                    "vlan",
                    "dummy",
                    "host-device",
                    "tap",
                    "loopback",
                    "portmap",
                    "firewall",
                    "tuning",
                    "sbr",
                    "vrf",
                ],
                previous,
            )
            .since("1.0.0"),
        result
            .must(
                "must_equal_prev_result_if_unchanged",
                "a plugin that changes nothing in it outputs what it got",
                &["loopback", "portmap", "firewall"],
                unchanged,
            )
            .since("1.0.0"),
        result.must("must_tell_modifications", "a changed MAC is in the result", &["tuning"], modified).since("1.0.0"),
    ]
}

pub(super) fn result_of(s: &Subject<'_>) -> Value {
    s.attached("c1").at.result.unwrap()
}

pub(super) fn list(result: &Value, key: &str) -> Vec<Value> {
    result[key].as_array().cloned().unwrap_or_else(|| panic!("no list {key} in {result}"))
}

fn version(s: &Subject<'_>) {
    assert_eq!(result_of(s)["cniVersion"], s.version);
}

fn own_address(s: &Subject<'_>) -> &'static str {
    if s.plugin == "static" { "10.77.0.9/24" } else { "10.77.0.2/24" }
}

fn ip4(s: &Subject<'_>) {
    let ip4 = &result_of(s)["ip4"];
    assert_eq!((&ip4["ip"], &ip4["gateway"]), (&json!(own_address(s)), &json!("10.77.0.1")));
    assert_eq!(ip4["routes"][0]["dst"], "10.6.0.0/16");
}

fn ips(s: &Subject<'_>) {
    address_and_gateway(s, &result_of(s));
}

pub(super) fn address_and_gateway(s: &Subject<'_>, result: &Value) {
    let ips = list(result, "ips");
    assert_eq!(ips.len(), 1, "{ips:?}");
    assert_eq!((&ips[0]["address"], &ips[0]["gateway"]), (&json!(own_address(s)), &json!("10.77.0.1")));
}

fn ip_version(s: &Subject<'_>) {
    assert_eq!(list(&result_of(s), "ips")[0]["version"], "4");
}

fn index(s: &Subject<'_>) {
    let result = result_of(s);
    let index = result["ips"][0]["interface"].as_u64().unwrap_or_else(|| panic!("no index in {result}"));
    let interface = &list(&result, "interfaces")[usize::try_from(index).unwrap()];
    assert!(interface["name"] == "eth0" && interface["sandbox"] != Value::Null, "{result}");
}

fn interfaces(s: &Subject<'_>) {
    let at = s.container("c1");
    let before = link_names(&s.sb.node());
    let listed = list(&s.attach(s.chain(), at).at.result.unwrap(), "interfaces");
    let mut expected: Vec<(String, bool)> = vec![("eth0".to_owned(), true)];
    expected
        .extend(link_names(&s.sb.node()).into_iter().filter(|name| !before.contains(name)).map(|name| (name, false)));
    assert_eq!(listed.len(), expected.len(), "{expected:?}, listed {listed:?}");
    for (name, inside) in expected {
        let place = if inside { named("c1") } else { s.sb.node() };
        let said =
            listed.iter().find(|i| i["name"] == name.as_str()).unwrap_or_else(|| panic!("{name} isn't in {listed:?}"));
        assert_eq!(said["mac"], link(&place, &name).unwrap()["address"], "{name}");
    }
}

fn mtu(s: &Subject<'_>) {
    for interface in list(&result_of(s), "interfaces") {
        assert_eq!(interface["mtu"], 1500, "{interface}");
    }
}

fn sandbox(s: &Subject<'_>) {
    for interface in list(&result_of(s), "interfaces") {
        let expected = if interface["name"] == "eth0" { "/run/netns/c1" } else { "" };
        assert_eq!(interface["sandbox"].as_str().unwrap_or_default(), expected, "{interface}");
    }
}

fn routes(s: &Subject<'_>) {
    has_route(&result_of(s));
}

pub(super) fn has_route(result: &Value) {
    assert!(list(result, "routes").iter().any(|route| route["dst"] == "10.6.0.0/16"), "{result}");
}

fn previous(s: &Subject<'_>) {
    let result = after_foreign(s);
    assert!(list(&result, "ips").iter().any(|ip| ip["address"] == "10.88.0.8/24"), "{result}");
    let interfaces = list(&result, "interfaces");
    assert!(interfaces.iter().any(|i| i["name"] == "eth7"), "{result}");
    assert!(!INTERFACE.contains(&s.plugin) || interfaces.iter().any(|i| i["name"] == "eth0"), "{result}");
}

fn unchanged(s: &Subject<'_>) {
    assert_eq!(tidy(after_foreign(s)), foreign(s.version));
}

fn modified(s: &Subject<'_>) {
    let mac = "0a:00:00:00:00:99";
    let done = s.attached_to(s.chain_with(&json!({"mac": mac})), "c1");
    let result = done.at.result.unwrap();
    let eth0 = list(&result, "interfaces").into_iter().find(|i| i["name"] == "eth0").unwrap();
    assert_eq!((&eth0["mac"], &link(&named("c1"), "eth0").unwrap()["address"]), (&json!(mac), &json!(mac)));
}

//! bridge: VLANs, with packets. Skipped where the kernel's bridges don't filter VLANs; `hack/test-vm.sh` has one that does.

use cni_tests::kernel::{addresses, has_flag, link, link_names};
use cni_tests::packets::ping;
use cni_tests::{Attachment, Netns, Sandbox, Snapshot, conf, verdict};
use serde_json::{Value, json};

use super::alone;
use super::rollback::{self, SENDTO};
use crate::case::{Case, common, improved, newer};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("of_the_port_and_of_nothing_else", access),
        common("keeps_containers_apart", apart),
        newer("preserve_default", preserve),
        common("gateway_interface", gateway),
        improved("gateway_port_is_in_its_vlan_only", gateway_port),
        common("gateway_outlives_its_containers", outlives),
        improved("gateway_name_too_long_is_refused", gateway_name),
        common("trunk", trunk),
        improved("trunk_with_a_native_vlan_inside", native),
        newer("trunk_carries_tagged_frames", tagged_frames),
        common("trunk_empty_makes_a_filtering_bridge", empty_trunk),
        improved("on_a_bridge_without_filtering_is_refused", unfiltered),
        improved("check_names_what_is_wrong", check),
        improved("without_kernel_support_is_named", unsupported),
        improved("other_default_of_the_bridge_is_left", other_default),
        improved("gateway_gets_a_new_bridge", new_bridge),
        improved("gateway_port_is_mended", mended),
        improved("gateway_port_of_another_bridge_is_named", elsewhere),
        improved("gateway_port_is_checked", checked),
        improved("gateway_by_an_alternative_name", alternative),
        improved("check_names_foreign_vlans", foreign),
    ];
    let bad: [(&str, Value, &[&str]); 8] = [
        ("vlan_4095", json!({"vlan": 4095}), &["vlan", "4095"]),
        ("vlan_negative", json!({"vlan": -1}), &["vlan", "-1"]),
        ("trunk_id_0", json!({"vlanTrunk": [{"id": 0}]}), &["vlanTrunk", "id 0"]),
        ("trunk_id_4095", json!({"vlanTrunk": [{"id": 4095}]}), &["vlanTrunk", "4095"]),
        ("trunk_min_alone", json!({"vlanTrunk": [{"minID": 10}]}), &["minID", "maxID", "10"]),
        ("trunk_max_alone", json!({"vlanTrunk": [{"maxID": 10}]}), &["minID", "maxID", "10"]),
        ("trunk_order", json!({"vlanTrunk": [{"minID": 20, "maxID": 10}]}), &["minID", "20", "10"]),
        ("trunk_max_4095", json!({"vlanTrunk": [{"minID": 20, "maxID": 4095}]}), &["maxID", "4095"]),
    ];
    cases.extend(bad.map(|(label, keys, named)| {
        improved(format!("refuses_{label}"), move |sb: &Sandbox| refused(sb, &keys, named))
    }));
    for (end, what) in SENDTO {
        cases.push(improved(format!("rollback_when_sendto_{end}"), move |sb| {
            sb.needs_vlan_filtering();
            rollback::with_keys(sb, &rollback_conf(), what);
        }));
    }
    cases
}

fn set(keys: Value) -> impl Fn(&mut Value) {
    move |conf| {
        for (key, value) in keys.as_object().unwrap() {
            conf[key] = value.clone();
        }
    }
}

/// ADD of container `id` with `keys`: its namespace and the result.
fn attach(sb: &Sandbox, id: &str, keys: Value) -> (Netns, Value) {
    sb.needs_vlan_filtering();
    let ns = sb.container(id);
    let result = alone(sb, set(keys)).add(sb, &mut Attachment::new(id, &ns));
    (ns, result)
}

fn host_end(result: &Value) -> &str {
    result["interfaces"][1]["name"].as_str().unwrap()
}

/// The VLANs of a port, as `bridge vlan` prints them: `100 PVID Egress Untagged`.
fn vlans(sb: &Sandbox, port: &str) -> Vec<String> {
    let shown = sb.node().sh(&["bridge", "-j", "-compressvlans", "vlan", "show", "dev", port]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let list = shown[0]["vlans"].as_array().cloned().unwrap_or_default();
    let text = |vlan: &Value| {
        let end = vlan["vlanEnd"].as_u64().map_or_else(String::new, |end| format!("-{end}"));
        let flags = vlan["flags"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let flags: Vec<&str> = flags.collect();
        format!("{}{end} {}", vlan["vlan"], flags.join(" ")).trim().to_owned()
    };
    list.iter().map(text).collect()
}

fn access(sb: &Sandbox) {
    let (_, result) = attach(sb, "c1", json!({"vlan": 100}));
    assert_eq!(vlans(sb, host_end(&result)), ["100 PVID Egress Untagged"]);
    assert_eq!(link(&sb.node(), "br-test").unwrap()["linkinfo"]["info_data"]["vlan_filtering"], 1);
}

fn apart(sb: &Sandbox) {
    let (one, _) = attach(sb, "c1", json!({"vlan": 100}));
    let (_two, result) = attach(sb, "c2", json!({"vlan": 100}));
    let (_three, other) = attach(sb, "c3", json!({"vlan": 200, "isDefaultGateway": false}));
    let ip = |result: &Value| result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    assert!(ping(&one, &ip(&result)), "the same VLAN");
    assert!(!one.holds(&["ping", "-n", "-q", "-c", "1", "-w", "1", &ip(&other)]), "another VLAN");
}

fn preserve(sb: &Sandbox) {
    let (_, result) = attach(sb, "c1", json!({"vlan": 100, "preserveDefaultVlan": true}));
    assert_eq!(vlans(sb, host_end(&result)), ["1 Egress Untagged", "100 PVID Egress Untagged"]);
}

fn gateway(sb: &Sandbox) {
    let (ns, result) = attach(sb, "c1", json!({"vlan": 100}));
    let node = sb.node();
    let interface = link(&node, "br-test.100").expect("the gateway's interface");
    assert!(has_flag(&interface, "UP"));
    assert_eq!(addresses(&node, "br-test.100"), ["10.77.0.1/24", "fd00:77::1/64"]);
    assert_eq!(addresses(&node, "br-test"), Vec::<String>::new());
    assert_eq!(result["interfaces"][3]["name"], "br-test.100");
    assert_eq!(result["interfaces"][3]["mac"], interface["address"]);
    for to in ["10.77.0.1", "fd00:77::1"] {
        assert!(ping(&ns, to), "{to}");
    }
    let (_, again) = attach(sb, "c2", json!({"vlan": 100}));
    assert_eq!(again["interfaces"][3], result["interfaces"][3]);
}

fn gateway_port(sb: &Sandbox) {
    let (_, result) = attach(sb, "c1", json!({"vlan": 100}));
    let node = sb.node();
    let ports = node.sh(&["ip", "-br", "link", "show", "master", "br-test"]);
    let port = ports.lines().filter_map(|line| line.split(['@', ' ']).next());
    let other = port.filter(|name| *name != host_end(&result)).collect::<Vec<_>>();
    assert_eq!(other.len(), 1, "{ports}");
    assert_eq!(vlans(sb, other[0]), ["100 PVID Egress Untagged"]);
    for name in ["br-test.100", other[0]] {
        let accept = cni_tests::kernel::sysctl(&node, &format!("ipv6/conf/{name}/accept_ra"));
        assert_eq!(accept.as_deref(), Some("0"), "{name}");
    }
}

/// A result names the gateway's interface too, and DEL comes again and without a namespace.
fn outlives(sb: &Sandbox) {
    let (ns, result) = attach(sb, "c1", json!({"vlan": 100}));
    let at = Attachment { result: Some(result), ..Attachment::new("c1", &ns) };
    let chain = alone(sb, set(json!({"vlan": 100})));
    for _ in 0..2 {
        chain.del(sb, &at.clone().nowhere());
    }
    assert!(link(&sb.node(), "br-test.100").is_some());
    let (ns, _) = attach(sb, "c2", json!({"vlan": 100}));
    assert!(ping(&ns, "10.77.0.1"));
}

fn gateway_name(sb: &Sandbox) {
    refused(sb, &json!({"bridge": "a-long-bridge", "vlan": 100}), &["bridge", "vlan", "a-long-bridge.100"]);
}

fn trunk(sb: &Sandbox) {
    let trunk = json!([{"minID": 20, "maxID": 22}, {"id": 30}, {"id": 21}]);
    let (_, result) = attach(sb, "c1", json!({"vlanTrunk": trunk, "vlan": 5, "isDefaultGateway": false}));
    assert_eq!(vlans(sb, host_end(&result)), ["5 PVID Egress Untagged", "20-22", "30"]);
    let (_, result) = attach(sb, "c2", json!({"vlanTrunk": [{"id": 30}]}));
    assert_eq!(vlans(sb, host_end(&result)), ["1 PVID Egress Untagged", "30"]);
}

fn native(sb: &Sandbox) {
    let trunk = json!([{"minID": 1, "maxID": 4094}]);
    let (_, result) = attach(sb, "c1", json!({"vlanTrunk": trunk, "vlan": 100, "isDefaultGateway": false}));
    assert_eq!(vlans(sb, host_end(&result)), ["1-99", "100 PVID Egress Untagged", "101-4094"]);
}

/// A trunk's container with an interface in VLAN 30, an access port's container in VLAN 30.
fn tagged_frames(sb: &Sandbox) {
    let keys = json!({"vlanTrunk": [{"id": 30}], "isDefaultGateway": false});
    let (router, _) = attach(sb, "router", keys);
    let (leaf, _) = attach(sb, "leaf", json!({"vlan": 30, "isDefaultGateway": false}));
    router.sh(&["ip", "link", "add", "link", "eth0", "name", "eth0.30", "type", "vlan", "id", "30"]);
    router.sh(&["ip", "addr", "add", "192.0.2.1/24", "dev", "eth0.30"]);
    router.sh(&["ip", "link", "set", "eth0.30", "up"]);
    leaf.sh(&["ip", "addr", "add", "192.0.2.2/24", "dev", "eth0"]);
    assert!(ping(&leaf, "192.0.2.1"));
}

fn empty_trunk(sb: &Sandbox) {
    let (_, result) = attach(sb, "c1", json!({"vlanTrunk": []}));
    assert_eq!(link(&sb.node(), "br-test").unwrap()["linkinfo"]["info_data"]["vlan_filtering"], 1);
    assert_eq!(vlans(sb, host_end(&result)), ["1 PVID Egress Untagged"]);
}

/// The Go plugin would go on, with every container in every VLAN.
fn unfiltered(sb: &Sandbox) {
    let node = sb.node();
    node.sh(&["ip", "link", "add", "br-test", "type", "bridge"]);
    let before = Snapshot::of(&[&node]);
    let ns = sb.container("c1");
    let failed = alone(sb, set(json!({"vlan": 100}))).try_add(sb, &mut Attachment::new("c1", &ns));
    failed.expect_err("ADD is refused").error().names(&["br-test", "vlan"]);
    Snapshot::of(&[&node])
        .same_but(&before, &["last_reserved_ip", "/var/lib/cni", "accept_ra", "link ifname=\"br-test\""]);
    if sb.versions("bridge").iter().any(|version| version == "1.1.0") {
        alone(sb, set(json!({"vlan": 100}))).status(sb).error().names(&["br-test", "vlan"]);
    }
}

fn check(sb: &Sandbox) {
    sb.needs_vlan_filtering();
    let (node, ns) = (sb.node(), sb.container("c1"));
    let chain = alone(sb, set(json!({"vlan": 100})));
    let mut at = Attachment::new("c1", &ns);
    let result = chain.add(sb, &mut at);
    chain.check(sb, &at).silent();
    let port = host_end(&result);
    let damages: [(&[&str], &[&str], &[&str]); 4] = [
        (
            &["bridge", "vlan", "add", "dev", port, "vid", "1"],
            &["bridge", "vlan", "del", "dev", port, "vid", "1"],
            &["VLANs", port, "1,"],
        ),
        (&["ip", "link", "set", "br-test.100", "down"], &["ip", "link", "set", "br-test.100", "up"], &["br-test.100"]),
        (
            &["ip", "link", "set", "br-test", "type", "bridge", "vlan_filtering", "0"],
            &["ip", "link", "set", "br-test", "type", "bridge", "vlan_filtering", "1"],
            &["br-test", "VLAN filtering"],
        ),
        (&["bridge", "vlan", "del", "dev", port, "vid", "100"], &["true"], &["VLANs", "100", "none"]),
    ];
    for (damage, repair, named) in damages {
        node.sh(damage);
        chain.check(sb, &at).error().names(named);
        node.sh(repair);
        if repair.contains(&"br-test.100") {
            // An interface that goes down loses its IPv6 addresses.
            node.sh(&["ip", "addr", "replace", "fd00:77::1/64", "dev", "br-test.100", "nodad"]);
        }
    }
}

fn unsupported(sb: &Sandbox) {
    if sb.filters_vlans() {
        verdict::skip("this kernel's bridges filter VLANs");
    }
    refused(sb, &json!({"vlan": 100}), &["VLAN filtering", "CONFIG_BRIDGE_VLAN_FILTERING"]);
}

fn other_default(sb: &Sandbox) {
    sb.needs_vlan_filtering();
    let words = ["ip", "link", "add", "br-test", "type", "bridge", "vlan_filtering", "1", "vlan_default_pvid", "7"];
    sb.node().sh(&words);
    let (_, result) = attach(sb, "c1", json!({"vlan": 100}));
    assert_eq!(vlans(sb, host_end(&result)), ["100 PVID Egress Untagged"]);
    let (_, result) = attach(sb, "c2", json!({"vlan": 100, "preserveDefaultVlan": true}));
    assert_eq!(vlans(sb, host_end(&result)), ["7 Egress Untagged", "100 PVID Egress Untagged"]);
}

/// ADD that fails, naming `named`, with nothing left.
fn refused(sb: &Sandbox, keys: &Value, named: &[&str]) {
    let ns = sb.container("c1");
    let before = Snapshot::of(&[&sb.node(), &ns]);
    let chain = alone(sb, set(keys.clone()));
    chain.try_add(sb, &mut Attachment::new("c1", &ns)).expect_err("ADD is refused").error().names(named);
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &["/var/lib/cni"]);
}

/// The gateway's port in VLAN 100.
fn port(sb: &Sandbox) -> String {
    link(&sb.node(), "br-test.100").unwrap()["link"].as_str().expect("the other end is here").to_owned()
}

fn new_bridge(sb: &Sandbox) {
    attach(sb, "c1", json!({"vlan": 100}));
    let port = port(sb);
    sb.node().sh(&["ip", "link", "del", "br-test"]);
    let (ns, _) = attach(sb, "c2", json!({"vlan": 100}));
    assert_eq!(link(&sb.node(), &port).unwrap()["master"], "br-test");
    assert_eq!(vlans(sb, &port), ["100 PVID Egress Untagged"]);
    for to in ["10.77.0.1", "fd00:77::1"] {
        assert!(ping(&ns, to), "{to}");
    }
}

fn mended(sb: &Sandbox) {
    attach(sb, "c1", json!({"vlan": 100}));
    let port = port(sb);
    for damage in [["nomaster", ""], ["down", ""]] {
        let words = ["ip", "link", "set", &port, damage[0]];
        sb.node().sh(&words);
    }
    let (ns, _) = attach(sb, "c2", json!({"vlan": 100}));
    assert!(has_flag(&link(&sb.node(), &port).unwrap(), "UP"));
    assert!(ping(&ns, "10.77.0.1"));
}

/// An administrator who set it has a reason, and containers that use it.
fn elsewhere(sb: &Sandbox) {
    attach(sb, "c1", json!({"vlan": 100}));
    let (node, port) = (sb.node(), port(sb));
    node.sh(&["ip", "link", "add", "br-other", "type", "bridge"]);
    node.sh(&["ip", "link", "set", &port, "master", "br-other"]);
    let before = link_names(&node);
    let ns = sb.container("c2");
    let failed = alone(sb, set(json!({"vlan": 100}))).try_add(sb, &mut Attachment::new("c2", &ns));
    failed.expect_err("ADD is refused").error().names(&["br-test.100", &port, "br-test"]);
    assert_eq!(link_names(&node), before);
    assert_eq!(link(&node, &port).unwrap()["master"], "br-other");
}

fn checked(sb: &Sandbox) {
    sb.needs_vlan_filtering();
    let (node, ns) = (sb.node(), sb.container("c1"));
    let chain = alone(sb, set(json!({"vlan": 100})));
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    chain.check(sb, &at).silent();
    let port = port(sb);
    for (damage, repair, named) in [
        ("bridge vlan add dev PORT vid 7", "bridge vlan del dev PORT vid 7", "VLANs"),
        ("bridge vlan del dev PORT vid 100", "bridge vlan add dev PORT vid 100 pvid untagged", "VLANs"),
        ("ip link set PORT down", "ip link set PORT up", "down"),
        ("ip link set PORT nomaster", "ip link set PORT master br-test", "master"),
    ] {
        let run = |words: &str| node.sh(&words.replace("PORT", &port).split(' ').collect::<Vec<_>>());
        run(damage);
        chain.check(sb, &at).error().names(&[named, &port]);
        run(repair);
    }
    // A port that comes back is in the default VLAN.
    chain.check(sb, &at).error().names(&["VLANs", &port, "1 "]);
}

fn alternative(sb: &Sandbox) {
    sb.needs_vlan_filtering();
    let (node, ns) = (sb.node(), sb.container("c1"));
    node.sh(&["ip", "link", "add", "br-test", "type", "bridge", "vlan_filtering", "1"]);
    node.sh(&["ip", "link", "property", "add", "dev", "br-test", "altname", "also"]);
    let chain = alone(sb, set(json!({"vlan": 100, "bridge": "also"})));
    let mut at = Attachment::new("c1", &ns);
    let result = chain.add(sb, &mut at);
    assert_eq!(result["interfaces"][3]["name"], "br-test.100");
    assert!(ping(&ns, "10.77.0.1"));
    chain.check(sb, &at).silent();
}

fn foreign(sb: &Sandbox) {
    sb.needs_vlan_filtering();
    let (node, ns) = (sb.node(), sb.container("c1"));
    let chain = alone(sb, set(json!({"vlan": 100, "preserveDefaultVlan": true})));
    let mut at = Attachment::new("c1", &ns);
    let result = chain.add(sb, &mut at);
    chain.check(sb, &at).silent();
    let port = host_end(&result);
    node.sh(&["bridge", "vlan", "add", "dev", port, "vid", "300"]);
    chain.check(sb, &at).error().names(&["VLANs", port, "300"]);
}

/// Few messages, for this runs on an emulated processor.
fn rollback_conf() -> Value {
    json!({
        "type": "bridge", "bridge": "br-test", "isGateway": true, "vlan": 100, "hostInterfaceName": "k{hash}",
        "removeEmptyBridge": true, "ipam": {"type": "host-local", "subnet": conf::V4}
    })
}

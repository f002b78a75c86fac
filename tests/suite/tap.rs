//! tap: a device of the container that a program in it opens.

use std::fs;

use cni_tests::kernel::{addresses, default_routes, has_flag, link, link_names};
use cni_tests::plugins::{VERSIONS, minimal, ready, result_of_eth0, tidy};
use cni_tests::{Attachment, Chain, Netns, Outcome, Sandbox, Snapshot};
use serde_json::{Value, json};

use crate::case::{Basis, Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("addresses_and_routes", layer_3),
        common("layer_2_only", layer_2),
        common("owner_and_group", |sb| {
            let (ns, _at) = attached(sb, &with(&[("owner", json!(54321)), ("group", json!(54322))]), "c1");
            let data = info(&ns);
            assert_eq!((&data["user"], &data["group"]), (&json!(54321), &json!(54322)), "{data}");
        }),
        common("only_owner_or_group", |sb| {
            for (key, shown, other) in [("owner", "user", "group"), ("group", "group", "user")] {
                let (ns, _at) = attached(sb, &with(&[(key, json!(54321))]), key);
                let data = info(&ns);
                assert!(data[shown] == 54321 && data[other].is_null(), "{data}");
            }
        }),
        common("multi_queue", |sb| {
            let (ns, _at) = attached(sb, &with(&[("multiQueue", json!(true))]), "c1");
            assert_eq!(info(&ns)["multi_queue"], true);
            let (ns, _at) = attached(sb, &with(&[]), "c2");
            assert_eq!(info(&ns)["multi_queue"], false);
        }),
        common("mtu", |sb| {
            let (ns, _at) = attached(sb, &with(&[("mtu", json!(1400))]), "c1");
            assert_eq!(link(&ns, "eth0").unwrap()["mtu"], 1400);
        }),
        common("bridge_in_the_container", bridge),
    ];
    cases.extend(better());
    cases.extend(life());
    for (label, key, value, named) in refused() {
        cases.push(improved(format!("refused_{label}"), move |sb| {
            let (node, ns) = (sb.node(), sb.container("c1"));
            let before = Snapshot::of(&[&node, &ns]);
            let error = chain(sb, &with(&[(key, value.clone())])).try_add(sb, &mut Attachment::new("c1", &ns));
            error.expect_err("it is refused").error().names(named);
            Snapshot::of(&[&node, &ns]).same_as(&before);
        }));
    }
    for (label, is_common, change) in macs() {
        let case = common(format!("mac::{label}"), move |sb| mac(sb, change));
        cases.push(case.based_on(if is_common { Basis::Common } else { Basis::Improved }));
    }
    cases.extend(
        rollbacks()
            .map(|(label, ipam, named)| improved(format!("rollback_{label}"), move |sb| rollback(sb, ipam, named))),
    );
    cases.extend(DAMAGES.map(|damage| {
        let basis = if damage.1 { Basis::Common } else { Basis::Improved };
        common(format!("check::{}", damage.0), move |sb| noticed(sb, &damage)).based_on(basis)
    }));
    for version in VERSIONS {
        cases.push(common(format!("result_{version}"), move |sb| result(sb, version)));
    }
    cases
}

fn better() -> Vec<Case> {
    vec![
        improved("every_key_at_once", every_key),
        improved("without_the_ip_tool", |sb| {
            let ns = sb.container("c1");
            let mut at = Attachment::new("c1", &ns);
            chain(sb, &with(&[("multiQueue", json!(true))])).with_path("/nonexistent").add(sb, &mut at);
            assert!(link(&ns, "eth0").is_some());
        }),
        improved("the_owner_is_on_the_link", |sb| {
            let (ns, _at) = attached(sb, &network(), "c1");
            assert_eq!(link(&ns, "eth0").unwrap()["ifalias"], "cni tapnet c1 eth0");
        }),
        improved("selinux_context_without_selinux", |sb| {
            let (ns, _at) = attached(sb, &with(&[("selinuxContext", json!("system_u:system_r:container_t:s0"))]), "c1");
            assert!(link(&ns, "eth0").is_some());
        }),
        improved("selinux_context_that_is_none", selinux),
    ]
}

fn life() -> Vec<Case> {
    vec![
        common("del_twice", |sb| {
            let (ns, at) = attached(sb, &network(), "c1");
            (0..2).for_each(|_| call(sb, "DEL", &network(), &at).silent());
            assert_eq!(link_names(&ns), ["lo"]);
        }),
        common("del_after_the_netns_vanished", |sb| {
            let (ns, at) = attached(sb, &network(), "c1");
            ns.delete();
            call(sb, "DEL", &network(), &at).silent();
            assert!(!reserved());
        }),
        common("del_with_empty_netns", |sb| {
            let (_ns, at) = attached(sb, &network(), "c1");
            call(sb, "DEL", &network(), &at.nowhere()).silent();
            assert!(!reserved());
        }),
        improved("del_leaves_another_networks_interface_alone", another_network),
        improved("gc", gc),
        improved("a_repeated_add_leaves_the_first_alone", repeat),
        improved("status", status),
    ]
}

fn network() -> Value {
    json!({"type": "tap", "ipam": {
        "type": "host-local", "ranges": [[{"subnet": "10.24.0.0/24"}], [{"subnet": "fd00:24::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    }})
}

/// Layer 2 only, with these keys.
fn with(keys: &[(&str, Value)]) -> Value {
    let mut conf = json!({"type": "tap"});
    for (key, value) in keys {
        conf[key] = value.clone();
    }
    conf
}

fn chain(sb: &Sandbox, conf: &Value) -> Chain {
    Chain::new("tapnet", sb.newest(&["tap", "host-local"]), std::slice::from_ref(conf))
}

fn attached(sb: &Sandbox, conf: &Value, id: &str) -> (Netns, Attachment) {
    chain(sb, conf).attached(sb, id)
}

fn call(sb: &Sandbox, verb: &str, conf: &Value, at: &Attachment) -> Outcome {
    chain(sb, conf).call(sb, verb, conf, at, at.result.as_ref()).run()
}

/// What the kernel says about a tap device in particular.
fn info(ns: &Netns) -> Value {
    let info = link(ns, "eth0").unwrap()["linkinfo"].clone();
    assert_eq!((&info["info_kind"], &info["info_data"]["type"]), (&json!("tun"), &json!("tap")), "{info}");
    info["info_data"].clone()
}

fn reserved() -> bool {
    let mut files = fs::read_dir("/var/lib/cni/networks/tapnet").into_iter().flatten();
    files.any(|file| file.unwrap().file_name().to_string_lossy().starts_with("10.24."))
}

fn layer_3(sb: &Sandbox) {
    let (ns, at) = attached(sb, &network(), "c1");
    assert!(has_flag(&link(&ns, "eth0").unwrap(), "UP"));
    assert_eq!(addresses(&ns, "eth0"), ["10.24.0.2/24", "fd00:24::2/64"]);
    assert_eq!(default_routes(&ns, "-4"), ["10.24.0.1 dev eth0"]);
    call(sb, "CHECK", &network(), &at).silent();
    call(sb, "DEL", &network(), &at).silent();
    assert_eq!(link_names(&ns), ["lo"]);
    assert!(!reserved());
}

fn layer_2(sb: &Sandbox) {
    let (ns, at) = attached(sb, &with(&[]), "c1");
    let found = link(&ns, "eth0").unwrap();
    assert!(has_flag(&found, "UP"));
    let interface = &at.result.as_ref().unwrap()["interfaces"][0];
    assert_eq!((&interface["name"], &interface["mac"]), (&json!("eth0"), &found["address"]));
    call(sb, "CHECK", &with(&[]), &at).silent();
    call(sb, "DEL", &with(&[]), &at).silent();
}

/// Made by a plugin before this one, in the container.
fn bridge(sb: &Sandbox) {
    let ns = sb.container("c1");
    ns.sh(&["ip", "link", "add", "br0", "type", "bridge"]);
    let conf = with(&[("bridge", json!("br0"))]);
    let mut at = Attachment::new("c1", &ns);
    chain(sb, &conf).add(sb, &mut at);
    assert_eq!(link(&ns, "eth0").unwrap()["master"], "br0");
    call(sb, "CHECK", &conf, &at).silent();
    call(sb, "DEL", &conf, &at).silent();
    assert_eq!(link_names(&ns), ["lo", "br0"]);
}

/// Which of them is given must not change what the others do.
fn every_key(sb: &Sandbox) {
    let ns = sb.container("c1");
    ns.sh(&["ip", "link", "add", "br0", "type", "bridge"]);
    let mac = "02:00:00:00:00:05";
    let conf = with(&[
        ("multiQueue", json!(true)),
        ("owner", json!(4_000_000_000_u32)),
        ("group", json!(0)),
        ("mtu", json!(1300)),
        ("mac", json!(mac)),
        ("bridge", json!("br0")),
    ]);
    let mut at = Attachment::new("c1", &ns);
    let result = chain(sb, &conf).add(sb, &mut at);
    assert_eq!(result["interfaces"][0]["mac"], mac);
    let (found, data) = (link(&ns, "eth0").unwrap(), info(&ns));
    assert_eq!((&found["address"], &found["mtu"], &found["master"]), (&json!(mac), &json!(1300), &json!("br0")));
    assert_eq!((&data["user"], &data["group"]), (&json!(4_000_000_000_u32), &json!("root")), "{data}");
    assert_eq!(data["multi_queue"], true);
    call(sb, "CHECK", &conf, &at).silent();
}

/// The kernel has no such context, as it has no SELinux; the node says that it has.
fn selinux(sb: &Sandbox) {
    cni_tests::netns::sh(&["mount", "-t", "tmpfs", "tmpfs", "/sys/fs"]);
    fs::create_dir("/sys/fs/selinux").unwrap();
    fs::write("/sys/fs/selinux/enforce", "1").unwrap();
    let ns = sb.container("c1");
    let conf = with(&[("selinuxContext", json!("system_u:system_r:container_t:s0"))]);
    let error = chain(sb, &conf).try_add(sb, &mut Attachment::new("c1", &ns)).expect_err("no SELinux").error();
    error.names(&["selinuxContext", "container_t"]);
    assert_eq!(link_names(&ns), ["lo"]);
}

type Change = fn(&mut Value, &mut Attachment);

/// How the address is given, whether the Go plugin of Debian 12 takes it in that way, and the call with it.
fn macs() -> [(&'static str, bool, Change); 5] {
    [
        ("of_the_configuration", true, |conf, _| conf["mac"] = json!("02:00:00:00:00:01")),
        ("of_the_configuration_with_owner_and_group", false, |conf, _| {
            (conf["owner"], conf["group"]) = (json!(1000), json!(1000));
            conf["mac"] = json!("02:00:00:00:00:01");
        }),
        ("of_cni_args", false, |conf, at| {
            conf["mac"] = json!("02:00:00:00:00:09");
            at.args = Some("IgnoreUnknown=1;MAC=02:00:00:00:00:01".to_owned());
        }),
        ("of_the_runtime", true, |conf, at| {
            conf["mac"] = json!("02:00:00:00:00:09");
            at.args = Some("IgnoreUnknown=1;MAC=02:00:00:00:00:08".to_owned());
            conf["capabilities"] = json!({"mac": true});
            *at = at.clone().with("mac", json!("02:00:00:00:00:01"));
        }),
        ("of_args", false, |conf, _| conf["args"] = json!({"cni": {"mac": "02:00:00:00:00:01"}})),
    ]
}

fn mac(sb: &Sandbox, change: Change) {
    let ns = sb.container("c1");
    let (mut conf, mut at) = (network(), Attachment::new("c1", &ns));
    change(&mut conf, &mut at);
    let result = chain(sb, &conf).add(sb, &mut at);
    assert_eq!(link(&ns, "eth0").unwrap()["address"], "02:00:00:00:00:01");
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:01");
    call(sb, "CHECK", &conf, &at).silent();
}

fn refused() -> [(&'static str, &'static str, Value, &'static [&'static str]); 6] {
    [
        ("mac", "mac", json!("02:00"), &["mac", "02:00"]),
        ("multicast_mac", "mac", json!("01:00:5e:00:00:01"), &["mac", "01:00:5e:00:00:01", "multicast"]),
        ("mtu", "mtu", json!(70000), &["mtu", "70000"]),
        ("bridge_that_is_absent", "bridge", json!("br7"), &["bridge", "br7"]),
        ("bridge_that_is_none", "bridge", json!("lo"), &["bridge", "lo"]),
        ("owner", "owner", json!("nobody"), &["owner"]),
    ]
}

/// The name was taken by another network, so ADD failed, and the runtime calls DEL for it.
fn another_network(sb: &Sandbox) {
    let (ns, at) = attached(sb, &network(), "c1");
    let other = Chain::new("another", chain(sb, &network()).version(), &[with(&[])]);
    let mut to = Attachment::new("c1", &ns);
    other.try_add(sb, &mut to).expect_err("the name is taken");
    other.del(sb, &to);
    call(sb, "CHECK", &network(), &at).silent();
}

fn gc(sb: &Sandbox) {
    sb.needs("tap", "1.1.0");
    let (_stays, stays) = attached(sb, &network(), "stays");
    let (goes, _) = attached(sb, &network(), "goes");
    chain(sb, &network()).gc(sb, &[("stays", "eth0")]).silent();
    assert_eq!(link_names(&goes), ["lo"]);
    call(sb, "CHECK", &network(), &stays).silent();
}

fn repeat(sb: &Sandbox) {
    let (ns, at) = attached(sb, &network(), "c1");
    let before = Snapshot::of(&[&sb.node(), &ns]);
    call(sb, "ADD", &network(), &at).error().names(&["eth0", "already"]);
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
    call(sb, "CHECK", &network(), &at).silent();
}

fn status(sb: &Sandbox) {
    sb.needs("tap", "1.1.0");
    let status = |conf: &Value| chain(sb, conf).status(sb);
    status(&network()).silent();
    status(&with(&[("mtu", json!(70000))])).error().names(&["70000"]);
    cni_tests::netns::sh(&["mount", "-t", "tmpfs", "tmpfs", "/dev/net"]);
    let error = status(&network()).error();
    assert_eq!(error.code, 50);
    error.names(&["/dev/net/tun"]);
    let ns = sb.container("c1");
    let failed = chain(sb, &network()).try_add(sb, &mut Attachment::new("c1", &ns)).expect_err("no file").error();
    failed.names(&["/dev/net/tun", "module"]);
    assert!(!reserved());
}

fn rollbacks() -> [(&'static str, &'static str, &'static [&'static str]); 2] {
    [("ipam_fails", "fails", &["no addresses"]), ("route_without_next_hop", "odd", &["10.99.0.9"])]
}

fn rollback(sb: &Sandbox, ipam: &str, named: &[&str]) {
    sb.fake("fails", r#"[ $CNI_COMMAND != ADD ] || { echo '{"code":100,"msg":"no addresses"}'; exit 1; }"#);
    sb.fake(
        "odd",
        r#"[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"10.24.0.5/24"}],
        "routes":[{"dst":"10.98.0.0/16","gw":"10.99.0.9"}]}'"#,
    );
    let ns = sb.container("c1");
    let list = Chain::new("tapnet", "1.0.0", &[with(&[("ipam", json!({"type": ipam}))])]);
    list.try_add(sb, &mut Attachment::new("c1", &ns)).expect_err("IPAM").error().names(named);
    assert_eq!(link_names(&ns), ["lo"]);
}

/// One thing that breaks: its name, whether the Go plugin notices it too, the command in the container, and what CHECK has to name.
type Damage = (&'static str, bool, &'static str, &'static [&'static str]);

const DAMAGES: [Damage; 9] = [
    ("untouched", true, "true", &[]),
    ("address_deleted", true, "ip addr del 10.24.0.2/24 dev eth0", &["10.24.0.2"]),
    ("default_route_deleted", true, "ip route del default", &["oute"]),
    ("link_deleted", true, "ip link del eth0", &["eth0"]),
    ("mac_changed", false, "ip link set eth0 address 0a:00:00:00:00:77", &["0a:00:00:00:00:77"]),
    ("link_set_down", false, "ip link set eth0 down", &["eth0", "up", "down"]),
    ("mtu_changed", false, "ip link set eth0 mtu 1300", &["mtu", "1300"]),
    ("left_the_bridge", false, "ip link set eth0 nomaster", &["br0", "none"]),
    ("another_owner", false, "ip tuntap del eth0 mode tap", &["eth0"]),
];

fn noticed(sb: &Sandbox, (label, _, deed, named): &Damage) {
    let ns = sb.container("c1");
    ns.sh(&["ip", "link", "add", "br0", "type", "bridge"]);
    let (mut conf, mut at) = (network(), Attachment::new("c1", &ns));
    (conf["bridge"], conf["owner"], conf["mtu"]) = (json!("br0"), json!(1000), json!(1400));
    chain(sb, &conf).add(sb, &mut at);
    call(sb, "CHECK", &conf, &at).silent();
    ns.sh(&deed.split(' ').collect::<Vec<_>>());
    if *label == "another_owner" {
        ns.sh(&["ip", "tuntap", "add", "eth0", "mode", "tap", "user", "1001"]);
        call(sb, "CHECK", &conf, &at).error().names(&["owner", "1000", "1001"]);
        return;
    }
    let outcome = call(sb, "CHECK", &conf, &at);
    if *label == "untouched" { outcome.silent() } else { outcome.error().names(named) }
}

fn result(sb: &Sandbox, version: &str) {
    sb.needs("tap", version);
    let ns = sb.container("c1");
    let mut conf = minimal("tap", version);
    conf["ipam"] = network()["ipam"].clone();
    let result = tidy(ready(sb, "tap", "ADD", version, &ns).conf(&conf).run().result());
    let ips = [("10.24.0.2/24", "10.24.0.1"), ("fd00:24::2/64", "fd00:24::1")];
    assert_eq!(result, result_of_eth0(version, &ns, ips));
}

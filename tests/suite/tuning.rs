//! tuning: sysctls and attributes of the interface, set, checked and put back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cni_tests::kernel::{has_flag, link, set_sysctl, sysctl};
use cni_tests::{Call, Netns, Outcome, Sandbox, Snapshot};
use serde_json::{Value, json};

use crate::case::{Case, common, improved, newer};
use crate::each::{VERSIONS, minimal, previous, ready, tidy};

const FILE: &str = "/run/cni/tuning/c1_eth0.json";
const ARP: &str = "ipv4/conf/eth0/arp_filter";

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = better();
    cases.extend([
        common("tuning::sysctls_are_set", sysctls),
        common("tuning::needs_a_previous_result", |sb| {
            let ns = container(sb);
            let mut conf = minimal("tuning", "1.0.0");
            conf["prevResult"] = Value::Null;
            ready(sb, "tuning", "ADD", "1.0.0", &ns).conf(&conf).run().error().names(&["prevResult"]);
        }),
        common("tuning::the_result_has_the_new_mac", result),
        common("tuning::mac_precedence", mac_precedence),
        common("tuning::args_go_over_the_configuration", args_over_config),
        common("tuning::backup_has_what_changes_and_root_alone_reads_it", backup),
        common("tuning::data_dir", data_dir),
        common("tuning::a_backup_of_the_go_plugin_is_put_back", go_backup),
        common("tuning::check_passes_and_names_what_differs", check),
        common("tuning::del_twice_and_without_anything", del_twice),
        newer("tuning::tx_queue_length", tx_queue),
        newer("tuning::allow_list", allow_list),
        newer("tuning::sysctl_there_twice_is_refused", duplicates),
    ]);
    for (label, keys, flag) in [
        ("mac", json!({"mac": "02:00:00:00:00:99"}), "address"),
        ("mtu", json!({"mtu": 1400}), "mtu"),
        ("promisc", json!({"promisc": true}), "PROMISC"),
        ("allmulti", json!({"allmulti": true}), "ALLMULTI"),
    ] {
        cases.push(common(format!("tuning::{label}_is_set_and_put_back"), move |sb| attribute(sb, &keys, flag)));
    }
    for (label, keys, named) in refusals() {
        let story = move |sb: &Sandbox| refused(sb, &keys, named);
        cases.push(improved(format!("tuning::refuses_{label}"), story));
    }
    for version in VERSIONS {
        cases.push(common(format!("tuning::passes_through_{version}"), move |sb: &Sandbox| {
            sb.needs("tuning", version);
            let result = ready(sb, "tuning", "ADD", version, &container(sb)).run().result();
            assert_eq!(tidy(result), previous(version));
        }));
    }
    cases
}

/// What the Go plugin doesn't do.
fn better() -> Vec<Case> {
    vec![
        improved("tuning::sysctls_are_put_back", sysctls_back),
        improved("tuning::args_without_a_configured_object", args_alone),
        improved("tuning::never_a_write_outside_net", outside_net),
        improved("tuning::never_through_a_symbolic_link", through_link),
        improved("tuning::a_failed_add_takes_everything_back", rollback),
        improved("tuning::a_repeated_add_keeps_the_first_backup", repeat),
        improved("tuning::two_in_a_chain_put_back_what_was_before_both", two_in_a_chain),
        improved("tuning::a_stale_backup_is_not_put_back", stale),
        improved("tuning::del_without_namespace_removes_the_backup", del_without_namespace),
        improved("tuning::del_with_a_broken_backup", broken_backup),
        improved("tuning::check_ignores_what_is_not_configured", check_ignores),
        improved("tuning::check_after_the_interface_went", |sb| {
            let ns = container(sb);
            let conf = conf("1.0.0", &json!({"mtu": 1400}));
            ns.sh(&["ip", "link", "del", "eth0"]);
            call(sb, "CHECK", &conf, &ns).run().error().names(&["eth0"]);
        }),
        improved("tuning::gc_removes_backups_of_its_own_network_only", gc),
        improved("tuning::status_reads_the_allow_list", |sb| {
            sb.needs("tuning", "1.1.0");
            allow("^net\\.core\\.");
            let conf = conf("1.1.0", &json!({"sysctl": {"net.ipv4.ip_forward": "1"}}));
            sb.plugin("tuning", "STATUS").conf(&conf).run().error().names(&["net.ipv4.ip_forward", "allowlist.conf"]);
        }),
    ]
}

fn refusals() -> Vec<(&'static str, Value, &'static [&'static str])> {
    vec![
        ("mac_garbage", json!({"mac": "02:00"}), &["mac", "02:00"]),
        ("runtime_mac_garbage", json!({"runtimeConfig": {"mac": "zz"}}), &["runtimeConfig.mac", "zz"]),
        ("negative_mtu", json!({"mtu": -1}), &["mtu", "-1"]),
        ("mtu_as_text", json!({"mtu": "1500"}), &["mtu"]),
        ("negative_queue", json!({"txQLen": -1}), &["txQLen", "-1"]),
        ("sysctl_as_number", json!({"sysctl": {"net.core.somaxconn": 1}}), &["net.core.somaxconn"]),
        ("unknown_sysctl", json!({"sysctl": {"net.nope": "1"}}), &["net/nope"]),
        ("data_dir_as_number", json!({"dataDir": 3, "mtu": 1400}), &["dataDir", "3"]),
    ]
}

/// A container with an `eth0` that nobody else looks after.
fn container(sb: &Sandbox) -> Netns {
    let ns = sb.container("c1");
    sb.node().sh(&["ip", "link", "add", "host0", "type", "veth", "peer", "name", "eth0", "netns", "c1"]);
    ns
}

fn conf(version: &str, keys: &Value) -> Value {
    let mut conf = minimal("tuning", version);
    conf["prevResult"] = json!({
        "cniVersion": version,
        "interfaces": [{"name": "eth0"}, {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/c1"}],
        "ips": [{"address": "10.1.2.3/24", "interface": 1}]
    });
    for (key, value) in keys.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

fn call(sb: &Sandbox, verb: &str, conf: &Value, ns: &Netns) -> Call {
    ready(sb, "tuning", verb, "1.0.0", ns).conf(conf)
}

fn add(sb: &Sandbox, keys: &Value, ns: &Netns) -> Value {
    call(sb, "ADD", &conf("1.0.0", keys), ns).run().result()
}

fn del(sb: &Sandbox, keys: &Value, ns: &Netns) {
    call(sb, "DEL", &conf("1.0.0", keys), ns).run().silent();
}

fn eth0(ns: &Netns) -> Value {
    link(ns, "eth0").unwrap()
}

fn allow(list: &str) {
    fs::create_dir_all("/etc/cni/tuning").unwrap();
    fs::write("/etc/cni/tuning/allowlist.conf", list).unwrap();
}

fn sysctls(sb: &Sandbox) {
    let ns = container(sb);
    let node = sysctl(&sb.node(), "core/somaxconn");
    let keys = json!({"sysctl": {
        "net.ipv4.conf.IFNAME.arp_filter": "1", "net/core/somaxconn": "77", "net.ipv4.ip_local_port_range": "1024 2048"
    }});
    add(sb, &keys, &ns);
    assert_eq!(sysctl(&ns, ARP).as_deref(), Some("1"));
    assert_eq!(sysctl(&ns, "core/somaxconn").as_deref(), Some("77"));
    assert_eq!(sysctl(&ns, "ipv4/ip_local_port_range").as_deref(), Some("1024\t2048"));
    assert_eq!(sysctl(&sb.node(), "core/somaxconn"), node, "the node's own is untouched");
}

fn attribute(sb: &Sandbox, keys: &Value, seen: &str) {
    let ns = container(sb);
    let look = || {
        let link = eth0(&ns);
        if seen.chars().all(char::is_uppercase) { has_flag(&link, seen).into() } else { link[seen].clone() }
    };
    let before = look();
    add(sb, keys, &ns);
    assert_ne!(look(), before);
    let (_, wanted) = keys.as_object().unwrap().iter().next().unwrap();
    assert_eq!(look(), *wanted);
    call(sb, "CHECK", &conf("1.0.0", keys), &ns).run().silent();
    del(sb, keys, &ns);
    assert_eq!(look(), before);
    assert!(!Path::new(FILE).exists());
}

fn tx_queue(sb: &Sandbox) {
    let ns = container(sb);
    let before = eth0(&ns)["txqlen"].clone();
    add(sb, &json!({"txQLen": 77}), &ns);
    assert_eq!(eth0(&ns)["txqlen"], 77);
    del(sb, &json!({}), &ns);
    assert_eq!(eth0(&ns)["txqlen"], before);
}

fn result(sb: &Sandbox) {
    let ns = container(sb);
    let result = add(sb, &json!({"mac": "02:00:00:00:00:99"}), &ns);
    assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:00:99", "{result}");
    assert_eq!(result["ips"][0], json!({"address": "10.1.2.3/24", "interface": 1}));
}

fn mac_precedence(sb: &Sandbox) {
    let ns = container(sb);
    let mac = |last: u8| format!("02:00:00:00:00:0{last}");
    let mut keys = json!({"mac": mac(2)});
    let args = format!("MAC={}", mac(3));
    let set = |keys: &Value, args: &str| {
        call(sb, "ADD", &conf("1.0.0", keys), &ns).env("CNI_ARGS", args).run().result();
        eth0(&ns)["address"].as_str().unwrap().to_owned()
    };
    assert_eq!(set(&keys, ""), mac(2));
    assert_eq!(set(&keys, &args), mac(3));
    keys["runtimeConfig"] = json!({"mac": mac(4)});
    assert_eq!(set(&keys, &args), mac(4));
    keys["args"] = json!({"cni": {"mac": mac(5)}});
    assert_eq!(set(&keys, &args), mac(5));
    call(sb, "ADD", &conf("1.0.0", &keys), &ns).env("CNI_ARGS", "FOO=1").run().error().names(&["FOO"]);
}

fn args_over_config(sb: &Sandbox) {
    let ns = container(sb);
    let over = json!({"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mtu": 1400, "promisc": true});
    let keys = json!({
        "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "0", "net.core.somaxconn": "77"}, "mtu": 1300,
        "args": {"cni": over}
    });
    add(sb, &keys, &ns);
    assert_eq!((sysctl(&ns, ARP).unwrap(), sysctl(&ns, "core/somaxconn").unwrap()), ("1".into(), "77".into()));
    assert_eq!(eth0(&ns)["mtu"], 1400);
    assert!(has_flag(&eth0(&ns), "PROMISC"));
}

fn args_alone(sb: &Sandbox) {
    let ns = container(sb);
    add(sb, &json!({"args": {"cni": {"sysctl": {"net.core.somaxconn": "77"}}}}), &ns);
    assert_eq!(sysctl(&ns, "core/somaxconn").as_deref(), Some("77"));
}

fn backup(sb: &Sandbox) {
    let ns = container(sb);
    let before = eth0(&ns);
    add(sb, &json!({"mtu": 1400, "allmulti": true}), &ns);
    let text = fs::read_to_string(FILE).unwrap();
    assert!(text.starts_with("{\n \"") && text.contains("\n \"mtu\": 1500"), "as the Go plugin writes it: {text}");
    let saved: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&saved["mtu"], &saved["allmulti"]), (&before["mtu"], &json!(false)));
    for absent in ["mac", "promisc", "txQLen"] {
        assert!(saved[absent].is_null(), "{absent} isn't changed: {text}");
    }
    assert_eq!(fs::metadata(FILE).unwrap().permissions().mode() & 0o777, 0o600);
    let dir = fs::metadata("/run/cni/tuning").unwrap().permissions().mode();
    assert_eq!(dir & 0o077, 0, "nobody else may look: {dir:o}");
    assert_eq!(fs::read_dir("/run/cni/tuning").unwrap().count(), 1);
}

fn data_dir(sb: &Sandbox) {
    let ns = container(sb);
    let keys = json!({"mtu": 1400, "dataDir": "/run/elsewhere/backups"});
    add(sb, &keys, &ns);
    assert!(Path::new("/run/elsewhere/backups/c1_eth0.json").exists() && !Path::new(FILE).exists());
    del(sb, &keys, &ns);
    assert!(!Path::new("/run/elsewhere/backups/c1_eth0.json").exists());
    assert_eq!(eth0(&ns)["mtu"], 1500);
}

/// Byte for byte what tuning 1.1.1 writes for these attributes.
fn go_backup(sb: &Sandbox) {
    let ns = container(sb);
    ns.sh(&["ip", "link", "set", "eth0", "promisc", "on"]);
    fs::create_dir_all("/run/cni/tuning").unwrap();
    fs::write(FILE, "{\n \"mac\": \"02:00:00:00:00:42\",\n \"promisc\": false,\n \"mtu\": 1399\n}").unwrap();
    del(sb, &json!({}), &ns);
    let link = eth0(&ns);
    assert_eq!((&link["address"], &link["mtu"]), (&json!("02:00:00:00:00:42"), &json!(1399)));
    assert!(!has_flag(&link, "PROMISC") && !Path::new(FILE).exists());
}

fn check(sb: &Sandbox) {
    let ns = container(sb);
    let keys = json!({
        "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}, "mac": "02:00:00:00:00:99", "mtu": 1400, "promisc": true,
        "allmulti": true
    });
    add(sb, &keys, &ns);
    let check = || call(sb, "CHECK", &conf("1.0.0", &keys), &ns).run();
    check().silent();
    let spoilt: [(&[&str], &[&str], &[&str]); 4] = [
        (&["address", "02:00:00:00:00:98"], &["address", "02:00:00:00:00:99"], &["02:00:00:00:00:98"]),
        (&["mtu", "1300"], &["mtu", "1400"], &["1300", "1400"]),
        (&["promisc", "off"], &["promisc", "on"], &["promisc"]),
        (&["allmulticast", "off"], &["allmulticast", "on"], &["multi"]),
    ];
    for (spoil, mend, named) in spoilt {
        ns.sh(&[&["ip", "link", "set", "eth0"], spoil].concat());
        check().error().names(named);
        ns.sh(&[&["ip", "link", "set", "eth0"], mend].concat());
        check().silent();
    }
    set_sysctl(&ns, ARP, "0");
    check().error().names(&["arp_filter", "0", "1"]);
}

/// Spaces for the kernel's tabs, somebody else's promiscuity, and a sysctl that can be written only.
fn check_ignores(sb: &Sandbox) {
    let ns = container(sb);
    let keys = json!({"sysctl": {"net.ipv4.ip_local_port_range": "1024 2048", "net.ipv4.route.flush": "1"}});
    add(sb, &keys, &ns);
    ns.sh(&["ip", "link", "set", "eth0", "promisc", "on"]);
    call(sb, "CHECK", &conf("1.0.0", &keys), &ns).run().silent();
}

fn allow_list(sb: &Sandbox) {
    let ns = container(sb);
    allow("^net\\.core\\.somaxconn$\n\n  ^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$  \n");
    add(sb, &json!({"sysctl": {"net.core.somaxconn": "77", "net.ipv4.conf.IFNAME.arp_filter": "1"}}), &ns);
    let before = Snapshot::of(&[&ns]);
    let keys = json!({"sysctl": {"net.core.somaxconn": "78", "net.ipv4.ip_forward": "1"}});
    let error = call(sb, "ADD", &conf("1.0.0", &keys), &ns).run().error();
    error.names(&["net.ipv4.ip_forward", "not allowed"]);
    Snapshot::of(&[&ns]).same_as(&before);
    assert_eq!(sysctl(&ns, "core/somaxconn").as_deref(), Some("77"), "nothing of it was set");
}

fn duplicates(sb: &Sandbox) {
    let ns = container(sb);
    let text = conf("1.0.0", &json!({"sysctl": {"net.core.somaxconn": "77"}})).to_string();
    let twice = text.replace(r#""net.core.somaxconn":"77""#, r#""net.core.somaxconn":"77","net.core.somaxconn":"78""#);
    assert_ne!(twice, text);
    let error = call(sb, "ADD", &Value::Null, &ns).stdin(&twice).run().error();
    error.names(&["duplicated sysctl keys are not allowed"]);
}

fn sysctls_back(sb: &Sandbox) {
    let ns = container(sb);
    let before = sysctl(&ns, "core/somaxconn");
    let keys = json!({"sysctl": {"net.core.somaxconn": "77", "net.ipv4.conf.IFNAME.arp_filter": "1"}});
    add(sb, &keys, &ns);
    del(sb, &keys, &ns);
    assert_eq!(sysctl(&ns, "core/somaxconn"), before);
    assert_eq!(sysctl(&ns, ARP).as_deref(), Some("0"));
    assert!(!Path::new(FILE).exists());
}

/// Names that lead, by one reading or another, to a file of ours outside.
fn outside_net(sb: &Sandbox) {
    let ns = container(sb);
    let canary = "/run/cni-test/canary";
    fs::create_dir_all("/run/cni-test").unwrap();
    fs::write(canary, "0").unwrap();
    let up = "net/../../../run/cni-test/canary";
    let keys = [
        canary,
        up,
        "/run//cni-test/canary",
        "net/../../..//run/cni-test/canary",
        "../../run/cni-test/canary",
        "net/ipv4/../../../../run/cni-test/canary",
        "net/./../../../run/cni-test/canary",
        "/proc/sys/net/core/somaxconn",
        "net//core/somaxconn",
        "net/../net/core/somaxconn",
        "net",
        "net/",
        "net/.",
        "",
        "net.core..somaxconn",
        "netx.core.somaxconn",
    ];
    let before = Snapshot::of(&[&sb.node(), &ns]);
    for key in keys {
        for keys in [json!({"sysctl": {key: "1"}}), json!({"args": {"cni": {"sysctl": {key: "1"}}}})] {
            call(sb, "ADD", &conf("1.0.0", &keys), &ns).run().error().names(&[key]);
        }
    }
    assert_eq!(fs::read_to_string(canary).unwrap(), "0");
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
}

/// procfs has no links below `/proc/sys`; a mount over it may.
fn through_link(sb: &Sandbox) {
    let ns = container(sb);
    let canary = "/run/cni-test/canary";
    fs::create_dir_all("/run/cni-test").unwrap();
    fs::write(canary, "0").unwrap();
    sb.node().sh(&["mount", "-t", "tmpfs", "tmpfs", "/proc/sys/net"]);
    std::os::unix::fs::symlink(canary, "/proc/sys/net/last").unwrap();
    std::os::unix::fs::symlink("/run/cni-test", "/proc/sys/net/way").unwrap();
    for key in ["net.last", "net.way.canary"] {
        let keys = json!({"sysctl": {key: "1"}});
        call(sb, "ADD", &conf("1.0.0", &keys), &ns).run().error().names(&[&key.replace('.', "/")]);
    }
    assert_eq!(fs::read_to_string(canary).unwrap(), "0");
}

fn rollback(sb: &Sandbox) {
    let ns = container(sb);
    let before = (sysctl(&ns, "core/somaxconn"), eth0(&ns));
    let good = json!({"net.core.somaxconn": "77"});
    let rows = [
        // The kernel allows a veth no more than 65535.
        (json!({"sysctl": good, "mac": "02:00:00:00:00:99", "mtu": 1_000_000}), "1000000"),
        (
            json!({"sysctl": {"net.core.somaxconn": "77", "net.ipv4.ip_local_port_range": "x"}, "mtu": 1400}),
            "port_range",
        ),
        (json!({"sysctl": {"net.core.somaxconn": "77", "net.ipv4.nope": "1"}, "mtu": 1400}), "net/ipv4/nope"),
        (json!({"sysctl": good, "mac": "01:00:5e:00:00:01"}), "01:00:5e:00:00:01"),
    ];
    for (keys, named) in rows {
        call(sb, "ADD", &conf("1.0.0", &keys), &ns).run().error().names(&[named]);
        assert_eq!((sysctl(&ns, "core/somaxconn"), eth0(&ns)), before, "{keys}");
        assert!(!Path::new(FILE).exists());
    }
    // The last moment: the result can't be told at this version.
    let mut conf = conf("0.2.0", &json!({"mtu": 1400}));
    conf["prevResult"] = json!({"cniVersion": "0.2.0"});
    call(sb, "ADD", &conf, &ns).run().error();
    assert_eq!(eth0(&ns)["mtu"], 1500);
    assert!(!Path::new(FILE).exists());
    // Without the interface.
    ns.sh(&["ip", "link", "set", "eth0", "name", "other"]);
    let keys = json!({"mtu": 1400});
    call(sb, "ADD", &self::conf("1.0.0", &keys), &ns).run().error().names(&["eth0"]);
}

fn repeat(sb: &Sandbox) {
    let ns = container(sb);
    let before = (sysctl(&ns, "core/somaxconn"), eth0(&ns));
    let keys = json!({"sysctl": {"net.core.somaxconn": "77"}, "mtu": 1400});
    let first = add(sb, &keys, &ns);
    assert_eq!(add(sb, &keys, &ns), first);
    del(sb, &keys, &ns);
    assert_eq!((sysctl(&ns, "core/somaxconn"), eth0(&ns)), before);
}

fn two_in_a_chain(sb: &Sandbox) {
    let ns = container(sb);
    let before = eth0(&ns);
    add(sb, &json!({"mtu": 1400, "allmulti": true}), &ns);
    // The second fails: what the first has done and written down stays.
    let bad = json!({"mtu": 1300, "mac": "01:00:5e:00:00:01"});
    call(sb, "ADD", &conf("1.0.0", &bad), &ns).run().error();
    assert_eq!(eth0(&ns)["mtu"], 1400);
    add(sb, &json!({"mtu": 1300, "mac": "02:00:00:00:00:99"}), &ns);
    del(sb, &json!({}), &ns);
    del(sb, &json!({}), &ns);
    assert_eq!(eth0(&ns), before);
}

/// The container came back with the same name and another namespace, without a DEL between.
fn stale(sb: &Sandbox) {
    let ns = container(sb);
    add(sb, &json!({"mac": "02:00:00:00:00:99"}), &ns);
    ns.delete();
    let ns = sb.container("again");
    sb.node().sh(&["ip", "link", "add", "host1", "type", "veth", "peer", "name", "eth0", "netns", "again"]);
    let before = eth0(&ns);
    add(sb, &json!({"mtu": 1400}), &ns);
    del(sb, &json!({}), &ns);
    assert_eq!(eth0(&ns), before, "the old interface's MAC isn't this one's");
}

fn del_without_namespace(sb: &Sandbox) {
    let keys = json!({"sysctl": {"net.core.somaxconn": "77"}, "mtu": 1400});
    let ns = container(sb);
    type End = fn(Call) -> Call;
    let ends: [End; 2] = [|call| call.without("CNI_NETNS"), |call| call.env("CNI_NETNS", "/run/netns/never-was")];
    for end in ends {
        add(sb, &keys, &ns);
        end(call(sb, "DEL", &conf("1.0.0", &keys), &ns)).run().silent();
        assert!(!Path::new(FILE).exists());
    }
    add(sb, &keys, &ns);
    ns.sh(&["ip", "link", "del", "eth0"]);
    del(sb, &keys, &ns);
    assert!(!Path::new(FILE).exists());
}

fn broken_backup(sb: &Sandbox) {
    let ns = container(sb);
    fs::create_dir_all("/run/cni/tuning").unwrap();
    for text in ["", "{", "[]", r#"{"mtu": "x"}"#] {
        fs::write(FILE, text).unwrap();
        del(sb, &json!({}), &ns);
        assert!(!Path::new(FILE).exists());
    }
    // A configuration that ADD would refuse.
    add(sb, &json!({"mtu": 1400}), &ns);
    del(sb, &json!({"mtu": "x", "sysctl": 3}), &ns);
    assert_eq!(eth0(&ns)["mtu"], 1500);
}

fn del_twice(sb: &Sandbox) {
    let ns = container(sb);
    let keys = json!({"mtu": 1400});
    del(sb, &keys, &ns);
    add(sb, &keys, &ns);
    (0..2).for_each(|_| del(sb, &keys, &ns));
    assert_eq!(eth0(&ns)["mtu"], 1500);
}

fn gc(sb: &Sandbox) {
    sb.needs("tuning", "1.1.0");
    let ns = container(sb);
    add(sb, &json!({"mtu": 1400}), &ns);
    let mut other = conf("1.0.0", &json!({"mtu": 1400}));
    other["name"] = "another".into();
    let foreign = call(sb, "ADD", &other, &ns).names("c2", "eth0");
    foreign.run().result();
    fs::write("/run/cni/tuning/c3_eth0.json", "{\n \"mtu\": 1500\n}").unwrap();
    let gc = |valid: Value| -> Outcome {
        let mut conf = conf("1.1.0", &json!({}));
        conf["cni.dev/valid-attachments"] = valid;
        sb.plugin("tuning", "GC").conf(&conf).run()
    };
    let names = || {
        let entries = fs::read_dir("/run/cni/tuning").unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    gc(json!([{"containerID": "c1", "ifname": "eth0"}])).silent();
    assert_eq!(names(), ["c1_eth0.json", "c2_eth0.json", "c3_eth0.json"]);
    gc(json!([{"containerID": "c1", "ifname": "eth1"}])).silent();
    assert_eq!(names(), ["c2_eth0.json", "c3_eth0.json"], "another network's and the Go plugin's stay");
}

fn refused(sb: &Sandbox, keys: &Value, named: &[&str]) {
    let ns = container(sb);
    let before = Snapshot::of(&[&sb.node(), &ns]);
    call(sb, "ADD", &conf("1.0.0", keys), &ns).run().error().names(named);
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
}

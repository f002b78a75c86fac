//! tuning: where its keys come from, the attributes of the interface, and the result.

use std::path::Path;

use cni_tests::kernel::{has_flag, sysctl};
use cni_tests::{Sandbox, Snapshot};
use serde_json::{Value, json};

use super::{ARP, FILE, add, call, conf, del, eth0};
use crate::case::{Case, common, improved, newer};
use cni_tests::plugins::{VERSIONS, minimal, previous, ready, tidy};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("needs_a_previous_result", |sb| {
            let ns = sb.container_with_eth0();
            let mut conf = minimal("tuning", "1.0.0");
            conf["prevResult"] = Value::Null;
            ready(sb, "tuning", "ADD", "1.0.0", &ns).conf(&conf).run().error().names(&["prevResult"]);
        }),
        common("the_result_has_the_new_mac", result),
        common("mac_precedence", mac_precedence),
        common("args_go_over_the_configuration", args_over_config),
        improved("args_without_a_configured_object", args_alone),
        newer("tx_queue_length", tx_queue),
    ];
    for (label, keys, seen) in [
        ("mac", json!({"mac": "02:00:00:00:00:99"}), "address"),
        ("mtu", json!({"mtu": 1400}), "mtu"),
        ("promisc", json!({"promisc": true}), "PROMISC"),
        ("allmulti", json!({"allmulti": true}), "ALLMULTI"),
    ] {
        cases.push(common(format!("{label}_is_set_and_put_back"), move |sb| attribute(sb, &keys, seen)));
    }
    for (label, keys, named) in refusals() {
        cases.push(improved(format!("refuses_{label}"), move |sb| refused(sb, &keys, named)));
    }
    for version in VERSIONS {
        cases.push(common(format!("passes_through_{version}"), move |sb: &Sandbox| {
            sb.needs("tuning", version);
            let result = ready(sb, "tuning", "ADD", version, &sb.container_with_eth0()).run().result();
            assert_eq!(tidy(result), previous(version));
        }));
    }
    cases
}

fn attribute(sb: &Sandbox, keys: &Value, seen: &str) {
    let ns = sb.container_with_eth0();
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
    let ns = sb.container_with_eth0();
    let before = eth0(&ns)["txqlen"].clone();
    add(sb, &json!({"txQLen": 77}), &ns);
    assert_eq!(eth0(&ns)["txqlen"], 77);
    del(sb, &json!({}), &ns);
    assert_eq!(eth0(&ns)["txqlen"], before);
}

fn result(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let result = add(sb, &json!({"mac": "02:00:00:00:00:99"}), &ns);
    assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:00:99", "{result}");
    assert_eq!(result["ips"][0], json!({"address": "10.1.2.3/24", "interface": 1}));
}

fn mac_precedence(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
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
    let ns = sb.container_with_eth0();
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
    let ns = sb.container_with_eth0();
    add(sb, &json!({"args": {"cni": {"sysctl": {"net.core.somaxconn": "77"}}}}), &ns);
    assert_eq!(sysctl(&ns, "core/somaxconn").as_deref(), Some("77"));
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

fn refused(sb: &Sandbox, keys: &Value, named: &[&str]) {
    let ns = sb.container_with_eth0();
    let before = Snapshot::of(&[&sb.node(), &ns]);
    call(sb, "ADD", &conf("1.0.0", keys), &ns).run().error().names(named);
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
}

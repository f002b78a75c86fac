//! tuning: attributes and sysctls of an interface that another plugin has made, and their backup.

pub(crate) mod attributes;
pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod sysctl;

use cni_tests::kernel::link;
use cni_tests::plugins::{minimal, ready};
use cni_tests::{Call, Netns, Sandbox};
use serde_json::{Value, json};

const FILE: &str = "/run/cni/tuning/c1_eth0.json";

const ARP: &str = "ipv4/conf/eth0/arp_filter";

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

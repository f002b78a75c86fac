//! Results in each version's shape, and previous results out of it. The expected texts are written from SPEC.md and the
//! Go library's result types.

#![allow(clippy::unwrap_used, clippy::panic)] // A test that fails panics.

mod common;
#[path = "../../../tests/fuzz/results.rs"]
mod property;
#[path = "../../../tests/fuzz/seeds.rs"]
mod seeds;

use cni_plugin::{CniResult, SpecVersion};
use common::{call, full_result, vars, versions};
use serde_json::{Value, json};

fn written(version: &str) -> String {
    String::from_utf8(full_result().to_json(SpecVersion::parse(version).unwrap()).unwrap()).unwrap()
}

#[test]
fn from_1_0_0_keys_are_sorted_and_nothing_is_lost() {
    let expected = r#"{
    "cniVersion": "1.0.0",
    "interfaces": [
        {
            "mac": "02:00:00:00:00:01",
            "mtu": 1400,
            "name": "br0"
        },
        {
            "name": "eth0",
            "sandbox": "/run/netns/x"
        }
    ],
    "ips": [
        {
            "address": "10.0.0.2/24",
            "gateway": "10.0.0.1",
            "interface": 1
        },
        {
            "address": "10.0.1.2/24",
            "interface": 1
        },
        {
            "address": "fd00::2/64",
            "gateway": "fd00::1",
            "interface": 0
        }
    ],
    "routes": [
        {
            "dst": "0.0.0.0/0",
            "gw": "10.0.0.1",
            "mtu": 1300,
            "table": 0
        },
        {
            "dst": "::/0"
        }
    ]
}"#;
    assert_eq!(written("1.0.0"), expected);
    assert_eq!(written("1.1.0"), expected.replace("1.0.0", "1.1.0"));
}

#[test]
fn up_to_0_4_0_addresses_say_their_version_and_interfaces_less() {
    for version in ["0.3.0", "0.3.1", "0.4.0"] {
        let expected = json!({
            "cniVersion": version,
            "interfaces": [
                {"name": "br0", "mac": "02:00:00:00:00:01"},
                {"name": "eth0", "sandbox": "/run/netns/x"},
            ],
            "ips": [
                {"version": "4", "interface": 1, "address": "10.0.0.2/24", "gateway": "10.0.0.1"},
                {"version": "4", "interface": 1, "address": "10.0.1.2/24"},
                {"version": "6", "interface": 0, "address": "fd00::2/64", "gateway": "fd00::1"},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1300, "table": 0}, {"dst": "::/0"}],
            "dns": {},
        });
        assert_eq!(serde_json::from_str::<Value>(&written(version)).unwrap(), expected);
    }
}

#[test]
fn up_to_0_2_0_there_is_one_address_a_family() {
    for version in ["0.1.0", "0.2.0"] {
        let expected = json!({
            "cniVersion": version,
            "ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}]},
            "ip6": {"ip": "fd00::2/64", "gateway": "fd00::1", "routes": [{"dst": "::/0"}]},
            "dns": {},
        });
        assert_eq!(serde_json::from_str::<Value>(&written(version)).unwrap(), expected);
    }
}

#[test]
fn a_previous_result_passes_through_in_every_version() {
    for version in versions() {
        let stdin = json!({
            "cniVersion": version, "name": "net", "passThrough": true,
            "prevResult": serde_json::from_str::<Value>(&written(version)).unwrap(),
        });
        assert_eq!(call(&vars("ADD"), &stdin.to_string()).stdout, written(version));
    }
}

#[test]
fn a_previous_result_must_have_the_shape_of_the_configuration() {
    let shapes: [&[&str]; 3] = [&["0.1.0", "0.2.0"], &["0.3.0", "0.3.1", "0.4.0"], &["1.0.0", "1.1.0"]];
    for (conf_shape, conf) in shapes.iter().flat_map(|shape| shape.iter().map(move |version| (shape, *version))) {
        for prev in versions() {
            let read = CniResult::from_prev(json!({"cniVersion": prev}), SpecVersion::parse(conf).unwrap());
            assert_eq!(read.is_ok(), conf_shape.contains(&prev), "{prev} for {conf}");
        }
        assert!(CniResult::from_prev(json!({}), SpecVersion::parse(conf).unwrap()).is_ok());
    }
}

#[test]
fn a_delegate_may_answer_in_any_version_or_none() {
    let conf = SpecVersion::V1_0_0;
    let old = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/24", "routes": [{"dst": "0.0.0.0/0"}]}});
    let result = CniResult::from_delegate(old, conf).unwrap();
    assert_eq!((result.ips[0].address.to_string().as_str(), result.routes.len()), ("10.0.0.2/24", 1));
    assert_eq!(CniResult::from_delegate(Value::Null, conf).unwrap(), CniResult::default());
    let unversioned = CniResult::from_delegate(json!({"ips": [{"address": "10.0.0.2/24"}]}), conf).unwrap();
    assert_eq!(unversioned.ips.len(), 1);
    assert!(CniResult::from_delegate(json!({"cniVersion": "9.9.9"}), conf).is_err());
    let error = CniResult::from_delegate(json!({"ips": [{"address": "10.0.0.2"}]}), conf).unwrap_err().to_string();
    assert!(error.contains("ips[0].address") && error.contains("10.0.0.2"), "{error}");
}

#[test]
fn every_seed_can_be_read_and_written_again() {
    seeds::try_seeds("results", property::holds);
}

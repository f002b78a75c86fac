//! What is refused, and what remains.

use super::*;
use serde_json::{Value, json};

fn resolve(value: Value) -> Result<Settings, String> {
    let config: Config = cni_plugin::json::decode(value).unwrap();
    Settings::resolve(&config).map_err(|error| error.to_string())
}

fn mapping(value: &Value) -> Result<Mapping, String> {
    let settings = resolve(json!({"runtimeConfig": {"portMappings": [value]}}))?;
    Ok(settings.mappings[0].clone())
}

#[test]
fn keys_as_containerd_capitalises_them() {
    let found = mapping(&json!({"HostPort": 18080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": ""})).unwrap();
    let expected = Mapping {
        protocol: Protocol::Tcp,
        host_ip: None,
        only_v4: None,
        host_port: 18080,
        container_port: 80,
        count: 1,
    };
    assert_eq!(found, expected);
}

#[test]
fn bad_mappings_are_named() {
    let bad = |value: Value| mapping(&value).unwrap_err();
    assert!(
        bad(json!({"hostPort": 0, "containerPort": 80, "protocol": "tcp"})).contains("Invalid host port number: 0")
    );
    assert!(bad(json!({"hostPort": 65536, "containerPort": 80, "protocol": "tcp"})).contains("65536"));
    assert!(bad(json!({"hostPort": 1, "protocol": "tcp"})).contains("Invalid container port number: 0"));
    assert!(bad(json!({"hostPort": 1, "containerPort": 1, "protocol": "icmp"})).contains("\"icmp\""));
    assert!(bad(json!({"hostPort": 1, "containerPort": 1, "protocol": "tcp", "hostIP": "x"})).contains("\"x\""));
}

#[test]
fn a_range_must_end_at_65535_on_both_sides() {
    let range = |host: u16, container: u16, range: i64| {
        mapping(&json!({"hostPort": host, "containerPort": container, "protocol": "tcp", "range": range}))
    };
    for (value, count) in [(0, 1), (1, 1), (10_000, 10_000)] {
        assert_eq!(range(8000, 80, value).unwrap().count, count);
    }
    assert_eq!(range(1, 1, 65_535).unwrap().count, 65_535);
    let refused = range(65_000, 80, 537).unwrap_err();
    assert!(refused.contains("range") && refused.contains("hostPort 65000") && refused.contains("536"), "{refused}");
    assert!(range(80, 65_000, 537).unwrap_err().contains("containerPort 65000"));
    for value in [-1, 65_536, i64::MAX] {
        let refused = range(80, 80, value).unwrap_err();
        assert!(refused.contains(&format!("portMappings[0].range: {value} is not")), "{refused}");
        assert!(refused.contains("2 to 65535"), "{refused}");
    }
}

#[test]
fn an_unspecified_host_address_is_every_address_of_its_family() {
    let found = mapping(&json!({"hostPort": 1, "containerPort": 1, "protocol": "udp", "hostIP": "::"})).unwrap();
    assert_eq!((found.host_ip, found.only_v4), (None, Some(false)));
}

#[test]
fn marks_exclude_each_other_and_have_32_bits() {
    assert!(resolve(json!({"markMasqBit": 32})).unwrap_err().contains("between 0 and 31"));
    assert!(resolve(json!({"markMasqBit": 1, "externalSetMarkChain": "X"})).unwrap_err().contains("Cannot specify"));
    assert!(resolve(json!({"externalSetMarkChain": "a b"})).unwrap_err().contains("chain name"));
    assert_eq!(resolve(json!({})).unwrap().mark, MarkChain::Bit(13));
}

#[test]
fn options_of_the_other_backend_are_refused() {
    let refused = resolve(json!({"backend": "nftables", "conditionsV4": ["!", "-s", "10.0.0.0/8"]})).unwrap_err();
    assert!(refused.contains("nftables backend was requested"), "{refused}");
    let refused = resolve(json!({"backend": "iptables", "conditionsV6": ["ip6 saddr ::1"]})).unwrap_err();
    assert!(refused.contains("nftables-specific"), "{refused}");
    assert!(resolve(json!({"backend": "nftables", "externalSetMarkChain": "X"})).is_err());
    assert!(resolve(json!({"conditionsV4": ["-s", "10.0.0.0/8"], "conditionsV6": ["ip6 saddr ::1"]})).is_err());
}

#[test]
fn conditions_imply_their_backend() {
    let implied = |value: Value| resolve(value).unwrap().backend;
    assert_eq!(implied(json!({})), None);
    assert_eq!(implied(json!({"conditionsV4": ["ip saddr 10.0.0.0/8"]})), Some(Backend::Nftables));
    assert_eq!(implied(json!({"conditionsV6": ["!", "-s", "fd00::/8"]})), Some(Backend::Iptables));
    assert_eq!(implied(json!({"externalSetMarkChain": "X"})), Some(Backend::Iptables));
}

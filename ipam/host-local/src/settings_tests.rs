//! Refusals with the texts that scripts know from the Go plugin, and bytes of any kind.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn resolve(conf: Value, version: SpecVersion) -> Result<Settings, String> {
    let config: Config = cni_plugin::json::decode(conf).unwrap();
    Settings::resolve(&config, None, version).map_err(|error| error.to_string())
}

fn refusal(ipam: &Value) -> String {
    resolve(json!({ "ipam": ipam }), SpecVersion::V1_0_0).unwrap_err()
}

#[test]
fn ranges_are_refused_as_by_the_go_plugin() {
    // Texts printed by host-local 1.1.1 for the same input.
    for (ranges, text) in [
        (
            json!([[{"subnet": "10.0.0.5/24"}]]),
            "invalid range set 0: Network has host bits set. For a subnet mask of length 24 the network address is 10.0.0.0",
        ),
        (json!([[{"subnet": "10.0.0.0/31"}]]), "invalid range set 0: Network 10.0.0.0/31 too small to allocate from"),
        (json!([[{"subnet": "fd00::/127"}]]), "invalid range set 0: Network fd00::/127 too small to allocate from"),
        (
            json!([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.5"}]]),
            "invalid range set 0: RangeStart 10.0.1.5 not in network 10.0.0.0/24",
        ),
        (
            json!([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.7"}]]),
            "invalid range set 0: RangeStart 10.0.0.9 not in network 10.0.0.0/24",
        ),
        (
            json!([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.1.7"}]]),
            "invalid range set 0: RangeEnd 10.0.1.7 not in network 10.0.0.0/24",
        ),
        (
            json!([[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.128/25"}]]),
            "invalid range set 0: subnets 10.0.0.1-10.0.0.254 and 10.0.0.129-10.0.0.254 overlap",
        ),
        (json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.128/25"}]]), "range set 0 overlaps with 1"),
        (json!([[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]), "invalid range set 0: mixed address families"),
        (json!([[]]), "invalid range set 0: empty range set"),
    ] {
        // What scripts may look for stands first; the field and what it allows follow.
        let refused = refusal(&json!({ "ranges": ranges }));
        assert!(refused.starts_with(text), "{refused}");
    }
    assert!(refusal(&json!({"ranges": [[{}]]})).starts_with("invalid range set 0: IP <nil> not v4 nor v6"));
    assert!(refusal(&json!({"ranges": []})).starts_with("no IP ranges specified"));
    assert!(refusal(&json!({"ranges": [[{"subnet": "10.0.0.0"}]]})).contains("invalid CIDR address: 10.0.0.0"));
    assert_eq!(resolve(json!({}), SpecVersion::V1_0_0).unwrap_err(), "IPAM config missing 'ipam' key");
}

#[test]
fn old_versions_have_one_address_per_family() {
    let conf = json!({"ipam": {"subnet": "10.0.0.0/24", "ranges": [[{"subnet": "10.0.1.0/24"}]]}});
    let error = resolve(conf.clone(), SpecVersion::V0_2_0).unwrap_err();
    assert_eq!(error, "CNI version 0.2.0 does not support more than 1 address per family");
    assert_eq!(resolve(conf, SpecVersion::V0_3_0).unwrap().sets.len(), 2);
}

#[test]
fn the_runtimes_ranges_come_first_then_the_single_one() {
    let conf = json!({
        "ipam": {"subnet": "10.0.1.0/24", "rangeEnd": "10.0.1.9", "ranges": [[{"subnet": "10.0.2.0/24"}]]},
        "runtimeConfig": {"ipRanges": [[{"subnet": "10.0.3.0/24", "rangeStart": "10.0.3.0", "rangeEnd": "10.0.3.255"}]]},
    });
    let sets = resolve(conf, SpecVersion::V1_0_0).unwrap().sets;
    let texts: Vec<String> = sets.iter().map(RangeSet::to_string).collect();
    assert_eq!(texts, ["10.0.3.0-10.0.3.255", "10.0.1.1-10.0.1.9", "10.0.2.1-10.0.2.254"]);
}

#[test]
fn requested_addresses_that_are_none_are_named() {
    for (conf, place) in [
        (json!({"ipam": {}, "args": {"cni": {"ips": ["10.0.0.x/24"]}}}), "args.cni.ips"),
        (json!({"ipam": {}, "runtimeConfig": {"ips": ["10.0.0.x/24"]}}), "runtimeConfig.ips"),
    ] {
        let error = resolve(conf, SpecVersion::V1_0_0).unwrap_err();
        assert_eq!(error, format!("invalid IP address 10.0.0.x/24 in {place}"));
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        any::<String>(),
        Just("10.0.0.0/24".to_owned()),
        Just("fd00::/64".to_owned()),
        Just("::/0".to_owned()),
        Just("0.0.0.0/0".to_owned()),
        Just("255.255.255.252/30".to_owned()),
        Just("ffff::/16".to_owned()),
        Just("10.0.0.7".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    let keys = prop::sample::select(vec![
        "ipam",
        "ranges",
        "subnet",
        "rangeStart",
        "rangeEnd",
        "gateway",
        "routes",
        "dst",
        "dataDir",
        "resolvConf",
        "runtimeConfig",
        "ipRanges",
        "ips",
        "args",
        "cni",
        "SUBNET",
        "reclaimAfterReboot",
    ]);
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn range_like() -> impl Strategy<Value = Value> {
    let ip = prop_oneof!["10\\.0\\.0\\.[0-9]{1,3}", "fd00::[0-9a-f]{1,4}", Just(String::new()), any::<String>()];
    let subnet =
        prop_oneof!["10\\.0\\.0\\.0/(8|[0-9]{2})", "fd00::/[0-9]{1,3}", "(::|0\\.0\\.0\\.0)/0", any::<String>()];
    (subnet, ip.clone(), ip.clone(), ip)
        .prop_map(|(subnet, start, end, gateway)| json!({"subnet": subnet, "rangeStart": start, "rangeEnd": end, "gateway": gateway}))
}

proptest! {
    /// Any document is either refused or comes to ranges that are in order and inside their subnets.
    #[test]
    fn any_document_is_refused_or_makes_sense(
        document in prop_oneof![
            json_value(),
            prop::collection::vec(prop::collection::vec(range_like(), 1..3), 1..3).prop_map(|ranges| json!({"ipam": {"ranges": ranges}})),
        ],
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = resolv_conf::parse(&String::from_utf8_lossy(&bytes));
        let Ok(config) = cni_plugin::json::decode::<Config>(document) else { return Ok(()) };
        let _ = (config.data_dir(), config.reclaim_after_reboot());
        let Ok(settings) = Settings::resolve(&config, None, SpecVersion::V1_1_0) else { return Ok(()) };
        for range in settings.sets.iter().flat_map(RangeSet::ranges) {
            prop_assert!(range.start <= range.end);
            prop_assert!(range.subnet.contains(range.start.into()) && range.subnet.contains(range.end.into()));
        }
    }
}

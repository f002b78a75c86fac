//! What the configuration comes to once every contradiction in it has been refused.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use cni_plugin::{ArgsError, CniArgs, CniError, Dns, Request, Route, SpecVersion, addr};

use crate::config::{Config, IpamKeys, RangeKeys};
use crate::pool::Address;
use crate::pool::range::{RangeError, RangeSet, sorted};
use crate::resolv_conf;
use crate::store::Place;

/// No resolver's configuration is as long, in bytes.
const RESOLV_CONF_MAX: u64 = 1024 * 1024;

/// Why the configuration was refused. The texts are those of the Go plugin where it has one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("IPAM config missing 'ipam' key")]
    NoIpam,
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error("invalid IP address {value} in {place}")]
    RequestedIp { place: &'static str, value: String },
    #[error("no IP ranges specified: \"ipam\" needs \"ranges\", or the runtime must give the capability \"ipRanges\"")]
    NoRanges,
    #[error("invalid range set {index}: {source}")]
    RangeSet { index: usize, source: RangeError },
    #[error("range set {0} overlaps with {1}: both have addresses of {2}")]
    SetsOverlap(usize, usize, String),
    #[error("CNI version {0} does not support more than 1 address per family")]
    OneAddressPerFamily(SpecVersion),
    #[error("ipam.resolvConf: cannot read {path}: {source}")]
    ResolvConf { path: String, source: std::io::Error },
}

/// What ADD, CHECK and STATUS work with.
#[derive(Debug)]
pub(crate) struct Settings {
    /// An attachment gets one address of each.
    pub(crate) sets: Vec<RangeSet>,
    /// The first and the last address of each range and the number of its set, in the order of the addresses.
    order: Vec<(Address, Address, usize)>,
    /// The addresses asked for, none twice.
    pub(crate) requested: Vec<IpAddr>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: Dns,
}

impl Settings {
    /// Resolves the configuration. `args` is `CNI_ARGS`, where the verb has one.
    pub(crate) fn resolve(
        config: &Config,
        args: Option<&CniArgs>,
        version: SpecVersion,
    ) -> Result<Self, SettingsError> {
        let requested = requested(config, args)?;
        let ipam = config.ipam.as_ref().ok_or(SettingsError::NoIpam)?;
        let sets = sets(&config.runtime_config.ip_ranges, ipam, version)?;
        let dns = resolv_conf(&ipam.resolv_conf)?;
        Ok(Self { order: order(&sets), sets, requested, routes: ipam.routes.clone(), dns })
    }

    /// The number of the set that the address belongs to.
    pub(crate) fn set_of(&self, ip: Address) -> Option<usize> {
        let after = self.order.partition_point(|(start, _, _)| *start <= ip);
        self.order[..after].last().filter(|(_, end, _)| ip <= *end).map(|(_, _, set)| *set)
    }
}

/// Where the network's reservations are: what DEL and GC need of the configuration, even if ADD would refuse the rest.
pub(crate) fn place(request: &Request<Config>) -> Result<Place, CniError> {
    Ok(Place {
        data_dir: request.config.data_dir()?,
        network: request.network.clone(),
        reclaim_after_reboot: request.config.ipam.as_ref().is_some_and(|ipam| ipam.reclaim_after_reboot),
    })
}

fn order(sets: &[RangeSet]) -> Vec<(Address, Address, usize)> {
    let ranges =
        sets.iter().enumerate().flat_map(|(number, set)| set.ranges().iter().map(move |range| (range, number)));
    sorted(ranges.map(|(range, number)| (range.start, range.end, number)))
}

/// The sets in their order, which is also the number in `last_reserved_ip.N`: the runtime's first.
fn sets(runtime: &[Vec<RangeKeys>], ipam: &IpamKeys, version: SpecVersion) -> Result<Vec<RangeSet>, SettingsError> {
    let single = ipam.single_range().map(|range| vec![range]);
    let sets: Vec<RangeSet> = runtime
        .iter()
        .chain(&single)
        .chain(&ipam.ranges)
        .enumerate()
        .map(|(index, set)| RangeSet::resolve(set).map_err(|source| SettingsError::RangeSet { index, source }))
        .collect::<Result<_, _>>()?;
    if sets.is_empty() {
        return Err(SettingsError::NoRanges);
    }
    let ipv4 = sets.iter().filter(|set| set.is_ipv4()).count();
    if version < SpecVersion::V0_3_0 && (ipv4 > 1 || sets.len() - ipv4 > 1) {
        return Err(SettingsError::OneAddressPerFamily(version));
    }
    // Comparing each with each is for the message only.
    let overlaps = order(&sets).windows(2).any(|pair| pair[1].0 <= pair[0].1);
    for (i, set) in sets.iter().enumerate().filter(|_| overlaps) {
        if let Some(j) = sets[i + 1..].iter().position(|other| set.overlaps(other)) {
            return Err(SettingsError::SetsOverlap(i, i + 1 + j, set.to_string()));
        }
    }
    Ok(sets)
}

/// The requested addresses of all three channels: `CNI_ARGS`, `args.cni.ips`, the capability `ips`. A prefix length is
/// allowed and ignored: the range knows its own.
fn requested(config: &Config, args: Option<&CniArgs>) -> Result<Vec<IpAddr>, SettingsError> {
    let values = args.map(|args| args.parse(&["IP"])).transpose()?.unwrap_or_default();
    let from_args = values.get("IP").filter(|ip| !ip.is_empty()).map(|ip| ("CNI_ARGS", ip));
    let from_conf = config.args.cni.ips.iter().map(|ip| ("args.cni.ips", ip));
    let from_runtime = config.runtime_config.ips.iter().map(|ip| ("runtimeConfig.ips", ip));
    let (mut requested, mut seen) = (Vec::new(), BTreeSet::new());
    for (place, text) in from_args.into_iter().chain(from_conf).chain(from_runtime) {
        let ip = addr::parse_ip(text).or_else(|| addr::parse_cidr(text).map(|cidr| cidr.ip()));
        let ip = ip.ok_or_else(|| SettingsError::RequestedIp { place, value: text.clone() })?;
        if seen.insert(ip) {
            requested.push(ip);
        }
    }
    Ok(requested)
}

fn resolv_conf(path: &str) -> Result<Dns, SettingsError> {
    if path.is_empty() {
        return Ok(Dns::default());
    }
    let text = cni_plugin::state::read_config(Path::new(path), RESOLV_CONF_MAX)
        .map_err(|source| SettingsError::ResolvConf { path: path.to_owned(), source })?;
    Ok(resolv_conf::parse(&String::from_utf8_lossy(&text)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn resolve(conf: Value, version: SpecVersion) -> Result<Settings, String> {
        let config: Config = cni_plugin::json::decode(conf).map_err(|error| error.to_string())?;
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
            (
                json!([[{"subnet": "10.0.0.0/31"}]]),
                "invalid range set 0: Network 10.0.0.0/31 too small to allocate from",
            ),
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
            (
                json!([[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]),
                "invalid range set 0: mixed address families",
            ),
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
            let _ = config.data_dir();
            let Ok(settings) = Settings::resolve(&config, None, SpecVersion::V1_1_0) else { return Ok(()) };
            for range in settings.sets.iter().flat_map(RangeSet::ranges) {
                prop_assert!(range.start <= range.end);
                prop_assert!(range.subnet.contains(range.start.into()) && range.subnet.contains(range.end.into()));
            }
        }
    }
}

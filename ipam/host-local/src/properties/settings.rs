//! The network configuration with `CNI_ARGS`: refused, or settings without contradictions.

use std::collections::BTreeSet;
use std::convert::Infallible;

use cni_plugin::{CniError, CniResult, Plugin, SpecVersion, Undo};
use serde_json::{Value, json};

use super::stdin;

use crate::config::Config;
use crate::pool::Address;
use crate::pool::allocator::{self, Taken};
use crate::pool::{Range, RangeSet};
use crate::resolv_conf;
use crate::settings::{Settings, SettingsError};

/// `data` is a resolver's configuration file.
pub(super) fn resolv_conf_holds(data: &[u8]) {
    let dns = resolv_conf::parse(&String::from_utf8_lossy(data));
    assert!(dns.nameservers.iter().chain(&dns.search).all(|word| !word.is_empty() && !word.contains(' ')));
}

/// host-local without its state.
pub(super) const PROBE: Plugin<Config> = Plugin {
    add: |request, attachment, _| {
        place(&request.config);
        if reads_a_file(&request.config) {
            return Err(CniError::plugin("a resolver's file could be anything"));
        }
        let settings = Settings::resolve(&request.config, Some(&attachment.args), request.version)?;
        consistent(&settings, request.version);
        Ok(CniResult { routes: settings.routes, ips: first_addresses(&settings.sets), ..CniResult::default() })
    },
    check: |request, attachment| (PROBE.add)(request, attachment, &mut Undo::new()).map(drop),
    del: |request, _| {
        place(&request.config);
        Ok(())
    },
    gc: |request, valid| {
        assert!(valid.iter().all(|owner| owner.network == request.network));
        place(&request.config);
        Ok(())
    },
    status: |request| {
        if reads_a_file(&request.config) {
            return Ok(());
        }
        let settings = Settings::resolve(&request.config, None, request.version)?;
        consistent(&settings, request.version);
        Ok(())
    },
    ..stdin::probe("host-local")
};

/// The directory of the state is known, or the configuration is refused.
fn place(config: &Config) {
    if let Ok(path) = config.data_dir() {
        assert!(!path.as_os_str().is_empty());
    }
}

fn reads_a_file(config: &Config) -> bool {
    config.ipam.as_ref().is_some_and(|ipam| !ipam.resolv_conf.is_empty())
}

fn consistent(settings: &Settings, version: SpecVersion) {
    let requested: BTreeSet<_> = settings.requested.iter().collect();
    assert_eq!(requested.len(), settings.requested.len(), "no address is asked for twice");
    assert!(!settings.sets.is_empty());
    let all: Vec<&Range> = settings.sets.iter().flat_map(RangeSet::ranges).collect();
    for (n, range) in all.iter().enumerate() {
        let (first, last) = (Address::from(range.subnet.network()), Address::from(range.subnet.broadcast()));
        assert!(first <= range.start && range.start <= range.end && range.end <= last, "{range:?}");
        assert!(all[..n].iter().all(|other| other.end < range.start || range.end < other.start), "{range:?} twice");
    }
    for set in &settings.sets {
        assert!(set.ranges().iter().all(|range| range.subnet.is_ipv4() == set.is_ipv4()));
        gives_each_but_the_gateway(set);
    }
    let written: Vec<Vec<Value>> =
        settings.sets.iter().map(|set| set.ranges().iter().map(as_written).collect()).collect();
    let again = serde_json::from_value(json!({"ipam": {"ranges": written}})).unwrap();
    let again = Settings::resolve(&again, None, version).expect("what is resolved can be written and resolved again");
    assert_eq!(again.sets, settings.sets);
    if settings.sets.len() > 2 {
        let old = serde_json::from_value(json!({"ipam": {"ranges": written}})).unwrap();
        let refused = Settings::resolve(&old, None, SpecVersion::V0_2_0);
        assert!(matches!(refused, Err(SettingsError::OneAddressPerFamily(_))));
    }
}

fn as_written(range: &Range) -> Value {
    json!({
        "subnet": range.subnet.to_string(), "rangeStart": range.start.to_string(), "rangeEnd": range.end.to_string(),
        "gateway": range.gateway.to_string()
    })
}

struct NoneTaken;

impl Taken for NoneTaken {
    type Error = Infallible;

    fn next_free(&mut self, from: Address, to: Address) -> Result<Option<Address>, Infallible> {
        Ok((from <= to).then_some(from))
    }
}

/// From every edge of its ranges on, an unused set gives an address of its own, and never that range's gateway.
fn gives_each_but_the_gateway(set: &RangeSet) {
    let edges = set.ranges().iter().flat_map(|range| [range.start, range.end, range.gateway, range.end.after(1)]);
    for last in edges.map(Some).chain([None]) {
        let Ok(found) = allocator::next(set, last, &mut NoneTaken);
        assert_eq!(found.is_some(), set.size() > 0, "{set}");
        if let Some((ip, range)) = found {
            assert!(range.contains(ip) && ip != range.gateway && set.range_of(ip) == Some(range), "{set}: {ip}");
        }
    }
}

fn first_addresses(sets: &[RangeSet]) -> Vec<cni_plugin::IpConfig> {
    let first = |set: &RangeSet| {
        let Ok(found) = allocator::next(set, None, &mut NoneTaken);
        let (ip, range) = found?;
        let address = ipnetwork::IpNetwork::new(ip.into(), range.subnet.prefix()).expect("of the subnet's family");
        Some(cni_plugin::IpConfig { interface: None, address, gateway: Some(range.gateway.into()) })
    };
    sets.iter().filter_map(first).collect()
}

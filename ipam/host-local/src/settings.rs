//! What the configuration comes to once every contradiction in it has been refused.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use cni_plugin::json::DecodeError;
use cni_plugin::{ArgsError, CniArgs, Dns, Route, SpecVersion, addr};

use crate::address::Address;
use crate::config::{Config, Keys, RangeKeys};
use crate::range::{RangeError, RangeSet, sorted};
use crate::resolv_conf;

/// No resolver's configuration is as long, in bytes.
const RESOLV_CONF_MAX: u64 = 1024 * 1024;

/// Why the configuration was refused. The texts are those of the Go plugin where it has one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("the network configuration is not valid: {0}")]
    Decode(#[from] DecodeError),
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
        let keys = config.keys()?;
        let requested = requested(&keys, args)?;
        let ipam = keys.ipam.ok_or(SettingsError::NoIpam)?;
        let sets = sets(keys.runtime_config.ip_ranges, ipam.single_range(), ipam.ranges, version)?;
        let dns = resolv_conf(&ipam.resolv_conf)?;
        Ok(Self { order: order(&sets), sets, requested, routes: ipam.routes, dns })
    }

    /// The number of the set that the address belongs to.
    pub(crate) fn set_of(&self, ip: Address) -> Option<usize> {
        let after = self.order.partition_point(|(start, _, _)| *start <= ip);
        self.order[..after].last().filter(|(_, end, _)| ip <= *end).map(|(_, _, set)| *set)
    }
}

fn order(sets: &[RangeSet]) -> Vec<(Address, Address, usize)> {
    let ranges =
        sets.iter().enumerate().flat_map(|(number, set)| set.ranges().iter().map(move |range| (range, number)));
    sorted(ranges.map(|(range, number)| (range.start, range.end, number)))
}

/// The sets in their order, which is also the number in `last_reserved_ip.N`: the runtime's first.
fn sets(
    runtime: Vec<Vec<RangeKeys>>,
    single: Option<RangeKeys>,
    configured: Vec<Vec<RangeKeys>>,
    version: SpecVersion,
) -> Result<Vec<RangeSet>, SettingsError> {
    let written = runtime.into_iter().chain(single.map(|range| vec![range])).chain(configured);
    let sets: Vec<RangeSet> = written
        .enumerate()
        .map(|(index, set)| RangeSet::resolve(&set).map_err(|source| SettingsError::RangeSet { index, source }))
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
fn requested(keys: &Keys, args: Option<&CniArgs>) -> Result<Vec<IpAddr>, SettingsError> {
    let values = args.map(|args| args.parse(&["IP"])).transpose()?.unwrap_or_default();
    let from_args = values.get("IP").filter(|ip| !ip.is_empty()).map(|ip| ("CNI_ARGS", ip));
    let from_conf = keys.args.cni.ips.iter().map(|ip| ("args.cni.ips", ip));
    let from_runtime = keys.runtime_config.ips.iter().map(|ip| ("runtimeConfig.ips", ip));
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
#[path = "settings_tests.rs"]
mod tests;

//! What a network's configuration says of addresses, and how many are taken.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni_plugin::NetworkName;
use cni_plugin::state::file_name;
use cni_runtime::NetworkList;
use ipnetwork::IpNetwork;
use rustix::fs::{AtFlags, Dir, DirEntry, FileType, Mode, OFlags};
use serde_json::Value;

/// Where host-local's reservations are if its configuration doesn't say.
pub const RESERVATIONS: &str = "/var/lib/cni/networks";

/// A range of host-local.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The subnet.
    pub subnet: IpNetwork,
    /// The first address.
    pub first: IpAddr,
    /// The last one.
    pub last: IpAddr,
    /// The gateway, which is given to no container.
    pub gateway: Option<IpAddr>,
    /// Only a part of the subnet is used.
    pub is_part: bool,
}

/// The ranges of a network's first plugin, as far as they can be read; none if its addresses come from elsewhere.
pub fn ranges(list: &NetworkList) -> Vec<Range> {
    let Some(ipam) = list.plugins.first().and_then(|plugin| plugin.object.get("ipam")) else { return Vec::new() };
    let sets = ipam.get("ranges").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_array).flatten();
    let single = Some(ipam).filter(|ipam| ipam.get("subnet").is_some());
    sets.chain(single).filter_map(range).collect()
}

fn range(value: &Value) -> Option<Range> {
    let address = |key: &str| value.get(key)?.as_str()?.parse::<IpAddr>().ok();
    let subnet: IpNetwork = value.get("subnet")?.as_str()?.parse().ok()?;
    let whole = number(subnet.network());
    let size: u128 = match subnet {
        IpNetwork::V4(subnet) => 1 << (32 - subnet.prefix()),
        IpNetwork::V6(subnet) => 1_u128.checked_shl(128 - u32::from(subnet.prefix())).unwrap_or(u128::MAX),
    };
    // IPv4 has a broadcast address at the end.
    let last = whole.saturating_add(size - if subnet.is_ipv4() && size > 1 { 2 } else { 1 });
    let of = |number: u128| address_of(number, subnet.is_ipv4());
    let (start, end) = (address("rangeStart"), address("rangeEnd"));
    let first = of(whole.saturating_add(1));
    Some(Range {
        subnet,
        first: start.unwrap_or(first),
        last: end.unwrap_or_else(|| of(last)),
        gateway: address("gateway").or(Some(first)),
        is_part: start.is_some() || end.is_some(),
    })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address_of(number: u128, is_v4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if is_v4 => IpAddr::V4(number.into()),
        _ => IpAddr::V6(number.into()),
    }
}

impl Range {
    /// How many addresses it has for containers.
    pub fn size(&self) -> u128 {
        let size = number(self.last).saturating_sub(number(self.first)).saturating_add(1);
        size - u128::from(self.gateway.is_some_and(|gateway| self.has(gateway)))
    }

    /// True if the address is in it.
    pub fn has(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (number(self.first)..=number(self.last)).contains(&number(address))
    }
}

/// The directories that networks' reservations are in, by their configurations, and the default one.
pub fn data_dirs<'a>(lists: impl Iterator<Item = &'a NetworkList>) -> BTreeSet<PathBuf> {
    let of = |list: &NetworkList| data_dir(list);
    lists.map(of).chain([PathBuf::from(RESERVATIONS)]).collect()
}

/// The directory that a network's reservations are below.
pub fn data_dir(list: &NetworkList) -> PathBuf {
    let configured = list.plugins.first().and_then(|plugin| plugin.object.get("ipam")?.get("dataDir")?.as_str());
    configured.filter(|dir| !dir.is_empty()).unwrap_or(RESERVATIONS).into()
}

/// The addresses that are reserved for containers of a network below this directory.
pub fn reserved(data_dir: &Path, network: &NetworkName) -> Vec<IpAddr> {
    let dir = data_dir.join(file_name(network.as_str(), ""));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::open(dir, flags, Mode::empty()) else { return Vec::new() };
    let entries = Dir::read_from(&dir).into_iter().flatten().filter_map(Result::ok);
    // An empty file is no reservation.
    let is_one = |name: &CStr| {
        let found = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_size > 0)
    };
    let address = |entry: &DirEntry| entry.file_name().to_str().ok()?.parse().ok();
    entries.filter_map(|entry| address(&entry).filter(|_| is_one(entry.file_name()))).collect()
}

/// How many addresses are taken and free, where host-local gives them. Free are those of the range that is used up first.
pub fn taken_and_free(list: &NetworkList) -> Option<(usize, u128)> {
    let ranges = ranges(list);
    if ranges.is_empty() || list.plugins.first().is_none_or(|plugin| plugin.ipam_type() != "host-local") {
        return None;
    }
    let reserved = reserved(&data_dir(list), &list.name);
    let free = |range: &Range| {
        let taken = reserved.iter().filter(|address| range.has(**address) && Some(**address) != range.gateway).count();
        range.size().saturating_sub(taken as u128)
    };
    let free = |is_v4: bool| {
        ranges.iter().filter(|range| range.subnet.is_ipv4() == is_v4).map(free).reduce(u128::saturating_add)
    };
    Some((reserved.len(), [free(true), free(false)].into_iter().flatten().min()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ranges_have_as_many_addresses_as_host_local_gives() {
        for (value, size) in [
            (json!({"subnet": "10.0.0.0/24"}), 253),
            (json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.10", "rangeEnd": "10.0.0.19"}), 10),
            (json!({"subnet": "10.0.0.0/24", "gateway": "10.0.0.254"}), 253),
            (json!({"subnet": "10.0.0.0/30"}), 1),
            (json!({"subnet": "fd00::/120"}), 254),
        ] {
            assert_eq!(range(&value).unwrap().size(), size, "{value}");
        }
        assert!(range(&json!({"subnet": "::/0"})).is_some() && range(&json!({"subnet": "x"})).is_none());
        assert!(!range(&json!({"subnet": "10.0.0.0/24"})).unwrap().has("10.0.0.255".parse().unwrap()));
    }
}

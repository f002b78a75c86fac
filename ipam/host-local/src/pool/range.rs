//! Ranges of addresses and sets of them, valid by construction.

use std::fmt;
use std::net::IpAddr;

use cni_plugin::addr;
use ipnetwork::IpNetwork;

use crate::config::RangeKeys;
use crate::pool::Address;

/// Why a range or a set of ranges was refused. The texts are those of the Go plugin.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RangeError {
    #[error("IP <nil> not v4 nor v6: a range needs a \"subnet\"")]
    NoSubnet,
    #[error("invalid CIDR address: {0} (subnet: an address, '/' and a prefix length are expected)")]
    Subnet(String),
    #[error("Network {0} too small to allocate from (subnet: at most /30 in IPv4 and /126 in IPv6)")]
    TooSmall(IpNetwork),
    #[error(
        "Network has host bits set. For a subnet mask of length {} the network address is {} (subnet: {subnet})",
        .subnet.prefix(), .subnet.network()
    )]
    HostBits { subnet: IpNetwork },
    #[error("{key}: invalid IP address: {value}")]
    Address { key: &'static str, value: String },
    #[error("{label} {ip} not in network {subnet} ({key}: an address from {first} to {last} is expected)")]
    Outside { label: &'static str, key: &'static str, ip: Address, subnet: IpNetwork, first: Address, last: Address },
    #[error("empty range set: each list in \"ranges\" needs at least one range")]
    EmptySet,
    #[error("mixed address families: put {0} and {1} into separate lists of \"ranges\"")]
    MixedFamilies(IpNetwork, IpNetwork),
    #[error("subnets {0} and {1} overlap")]
    Overlap(String, String),
}

/// Consecutive addresses of one subnet, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) subnet: IpNetwork,
    pub(crate) start: Address,
    pub(crate) end: Address,
    /// Never handed out by this range; need not lie in it, nor in the subnet.
    pub(crate) gateway: Address,
}

impl Range {
    /// Resolves a range as it is written; the checks and their order are the Go plugin's.
    pub(crate) fn resolve(keys: &RangeKeys) -> Result<Self, RangeError> {
        if keys.subnet.is_empty() {
            return Err(RangeError::NoSubnet);
        }
        let subnet = addr::parse_cidr(&keys.subnet).ok_or_else(|| RangeError::Subnet(keys.subnet.clone()))?;
        let bits = if subnet.is_ipv4() { 32 } else { 128 };
        if subnet.prefix() > bits - 2 {
            return Err(RangeError::TooSmall(subnet));
        }
        if subnet.ip() != subnet.network() {
            return Err(RangeError::HostBits { subnet });
        }
        // With two host bits at least, neither of these leaves the subnet.
        let first = Address::from(subnet.network());
        let last = Address::from(subnet.broadcast());
        let default_end = if subnet.is_ipv4() { last.before(1) } else { last };
        let gateway = optional("gateway", &keys.gateway)?.unwrap_or(first.after(1));
        let start = optional("rangeStart", &keys.range_start)?;
        let end = optional("rangeEnd", &keys.range_end)?;
        // As mapped addresses, IPv4 lies inside of ::/0; it is no part of an IPv6 network.
        let other_family = |ip: Address| IpAddr::from(ip).is_ipv4() != subnet.is_ipv4();
        // A given end bounds the start already, as in the Go plugin.
        if let Some(ip) =
            start.filter(|start| other_family(*start) || !(first..=end.unwrap_or(last).min(last)).contains(start))
        {
            // So an end before the start shows up here, and has to be named.
            let (key, last) = match end {
                Some(end) if (first..=last).contains(&ip) => ("rangeStart after rangeEnd", end),
                _ => ("rangeStart", last),
            };
            return Err(RangeError::Outside { label: "RangeStart", key, ip, subnet, first, last });
        }
        let start = start.unwrap_or(first.after(1));
        if let Some(ip) = end.filter(|end| other_family(*end) || !(start..=last).contains(end)) {
            return Err(RangeError::Outside { label: "RangeEnd", key: "rangeEnd", ip, subnet, first: start, last });
        }
        // The broadcast address as the start is allowed, as it is for the end; then it is all there is.
        Ok(Self { subnet, start, end: end.unwrap_or(default_end.max(start)), gateway })
    }

    /// True if the address is one of the range.
    pub(crate) fn contains(&self, ip: Address) -> bool {
        (self.start..=self.end).contains(&ip)
    }

    /// How many addresses the range can hand out; saturates.
    pub(crate) fn size(&self) -> u128 {
        let all = self.start.distance(self.end).saturating_add(1);
        all - u128::from(self.contains(self.gateway))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

/// First and last addresses with a number, in the order of the first ones. Of ranges that overlap, there are two neighbours.
pub(crate) fn sorted(ranges: impl Iterator<Item = (Address, Address, usize)>) -> Vec<(Address, Address, usize)> {
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_unstable();
    ranges
}

fn optional(key: &'static str, text: &str) -> Result<Option<Address>, RangeError> {
    if text.is_empty() {
        return Ok(None);
    }
    let ip = addr::parse_ip(text).ok_or_else(|| RangeError::Address { key, value: text.to_owned() })?;
    Ok(Some(ip.into()))
}

/// A pool: ranges of one family, of which an attachment gets one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeSet(Vec<Range>);

impl RangeSet {
    /// Resolves a set: not empty, one family, nothing in it twice.
    pub(crate) fn resolve(keys: &[RangeKeys]) -> Result<Self, RangeError> {
        let ranges: Vec<Range> = keys.iter().map(Range::resolve).collect::<Result<_, _>>()?;
        let first = ranges.first().ok_or(RangeError::EmptySet)?;
        if let Some(other) = ranges.iter().find(|range| range.subnet.is_ipv4() != first.subnet.is_ipv4()) {
            return Err(RangeError::MixedFamilies(first.subnet, other.subnet));
        }
        // Comparing each with each is for the message only.
        let order = sorted(ranges.iter().map(|range| (range.start, range.end, 0)));
        let overlaps = order.windows(2).any(|pair| pair[1].0 <= pair[0].1);
        for (i, range) in ranges.iter().enumerate().filter(|_| overlaps) {
            if let Some(other) = ranges[i + 1..].iter().find(|other| range.overlaps(other)) {
                return Err(RangeError::Overlap(range.to_string(), other.to_string()));
            }
        }
        Ok(Self(ranges))
    }

    /// The ranges, in the configured order; at least one.
    pub(crate) fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// The range that the address belongs to.
    pub(crate) fn range_of(&self, ip: Address) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip))
    }

    /// True for a set of IPv4 ranges.
    pub(crate) fn is_ipv4(&self) -> bool {
        self.0.iter().all(|range| range.subnet.is_ipv4())
    }

    /// True if an address lies in both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|range| other.0.iter().any(|of_other| range.overlaps(of_other)))
    }

    /// How many addresses the set can hand out; saturates.
    pub(crate) fn size(&self) -> u128 {
        self.0.iter().fold(0, |sum: u128, range| sum.saturating_add(range.size()))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(Range::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

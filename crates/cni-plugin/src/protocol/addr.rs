//! Address families, and addresses as text by the rules of Go's `net.ParseIP` and `net.ParseCIDR`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Parses an address. An IPv4-mapped IPv6 address (`::ffff:10.0.0.1`) is the IPv4 address; zone IDs and leading zeros
/// are refused.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// Parses `address/prefix length`. Host bits are kept; netmask notation and a missing prefix are refused.
pub fn parse_cidr(text: &str) -> Option<IpNetwork> {
    let (ip, prefix) = text.split_once('/')?;
    if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let prefix: u8 = prefix.parse().ok()?;
    match ip.parse::<IpAddr>().ok()? {
        IpAddr::V4(ip) => Ipv4Network::new(ip, prefix).ok().map(IpNetwork::V4),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => Ipv4Network::new(ip, prefix.checked_sub(96)?).ok().map(IpNetwork::V4),
            None => Ipv6Network::new(ip, prefix).ok().map(IpNetwork::V6),
        },
    }
}

/// An address family: the one type for it in the workspace. Displays as `IPv4` or `IPv6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4: `AF_INET`, `NFPROTO_IPV4`.
    V4,
    /// IPv6: `AF_INET6`, `NFPROTO_IPV6`.
    V6,
}

impl Family {
    /// Both, in the order in which results are reported.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of `address`.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The families of `addresses`, each once, in the order of [`Family::ALL`].
    pub fn among(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<Self> {
        let of: Vec<Self> = addresses.into_iter().map(Self::of).collect();
        Self::ALL.into_iter().filter(|family| of.contains(family)).collect()
    }

    /// The length of an address in bits, which is a host route's prefix length: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// True if both are IPv4 or both are IPv6.
pub fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

/// The default route's destination in the family of `ip`: `0.0.0.0/0` or `::/0`.
pub fn default_dst(ip: IpAddr) -> IpNetwork {
    // A prefix of 0 is in range for both families, so the full-length fallback is never taken.
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    IpNetwork::new(any, 0).unwrap_or_else(|_| IpNetwork::from(any))
}

/// For `#[serde(with = "cni_plugin::addr::cidr")]`: an [`IpNetwork`] in CIDR notation with its host bits.
pub mod cidr {
    use super::{Deserialize, Deserializer, IpNetwork, Serializer, parse_cidr};

    /// Decodes CIDR notation.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNetwork, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_cidr(&text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{text:?} is not in CIDR notation: an address, '/' and a prefix length are expected"
            ))
        })
    }

    /// Encodes CIDR notation.
    pub fn serialize<S: Serializer>(network: &IpNetwork, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(network)
    }
}

/// For `#[serde(default, with = "cni_plugin::addr::optional")]`: an address; the empty text is none.
pub mod optional {
    use super::{Deserialize, Deserializer, IpAddr, Serialize, Serializer, parse_ip};

    /// Decodes an address; empty or absent is `None`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            None => Ok(None),
            Some(text) if text.is_empty() => Ok(None),
            Some(text) => parse_ip(&text)
                .map(Some)
                .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not an IP address"))),
        }
    }

    /// Encodes the address.
    pub fn serialize<S: Serializer>(ip: &Option<IpAddr>, serializer: S) -> Result<S::Ok, S::Error> {
        ip.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_go() {
        assert_eq!(parse_ip("::ffff:10.0.0.1"), parse_ip("10.0.0.1"));
        for bad in ["", "10.0.0.01", "fe80::1%eth0", "10.0.0", "10.0.0.1/24", " 10.0.0.1"] {
            assert_eq!(parse_ip(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn cidr_keeps_host_bits_and_wants_a_prefix() {
        assert_eq!(parse_cidr("10.0.0.5/24").unwrap().to_string(), "10.0.0.5/24");
        assert_eq!(parse_cidr("::ffff:10.0.0.5/120").unwrap().to_string(), "10.0.0.5/24");
        for bad in ["10.0.0.5", "10.0.0.0/255.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "fd00::/129", "/8"] {
            assert_eq!(parse_cidr(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_default_route_covers_everything() {
        assert_eq!(default_dst("10.0.0.1".parse().unwrap()).to_string(), "0.0.0.0/0");
        assert_eq!(default_dst("fd00::1".parse().unwrap()).to_string(), "::/0");
    }
}

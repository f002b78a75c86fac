//! A port to publish: what `portMappings` says, with every part in range.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use cni_plugin::addr::parse_ip;
use cni_plugin::{Family, Protocol};

use crate::config::PortMapping;

/// Why an element of `portMappings` is refused.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// A port out of range.
    #[error(
        "Invalid {side} port number: {value} ({side}Port of runtimeConfig.portMappings[{index}]; 1 to 65535 is allowed)"
    )]
    Port {
        /// `host` or `container`.
        side: &'static str,
        /// The position in the list.
        index: usize,
        /// As configured.
        value: i64,
    },
    /// A range that ends beyond port 65535.
    #[error(
        "runtimeConfig.portMappings[{index}].range: {value} ports from {side}Port {first} on exceed 65535: \
         at most {} are possible", 65536 - i64::from(*first)
    )]
    Range {
        /// `host` or `container`.
        side: &'static str,
        /// The position in the list.
        index: usize,
        /// The first port.
        first: u16,
        /// As configured.
        value: i64,
    },
    /// A count of ports that is out of range.
    #[error(
        "runtimeConfig.portMappings[{index}].range: {value} is out of range: expected 0 to 65535 consecutive ports \
         (0 means 1)"
    )]
    Count {
        /// The position in the list.
        index: usize,
        /// As configured.
        value: i64,
    },
    /// A protocol without ports.
    #[error("runtimeConfig.portMappings[{index}].protocol: {value:?} is not \"tcp\", \"udp\" or \"sctp\"")]
    Protocol {
        /// The position in the list.
        index: usize,
        /// As configured.
        value: String,
    },
    /// A host address that isn't one.
    #[error("runtimeConfig.portMappings[{index}].hostIP: {value:?} is not an IP address")]
    HostIp {
        /// The position in the list.
        index: usize,
        /// As configured.
        value: String,
    },
    /// A name that isn't one.
    #[error("runtimeConfig.portMappings[{index}].share: {cause}")]
    Share {
        /// The position in the list.
        index: usize,
        /// What is wrong with it.
        cause: ShareError,
    },
}

/// Why a name of a share is refused.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not the name of a share: 1 to 64 letters, digits, \".\", \"_\" and \"-\", the first one a letter or digit"
)]
pub struct ShareError(String);

/// The name under which owners share a host port; empty text is none.
pub fn share_name(text: &str) -> Result<Option<String>, ShareError> {
    let is_fine = |name: &str| {
        let may_be = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(may_be)
    };
    match text {
        "" => Ok(None),
        name if is_fine(name) => Ok(Some(name.to_owned())),
        other => Err(ShareError(other.to_owned())),
    }
}

/// A port to publish, or a range of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The protocol.
    pub protocol: Protocol,
    /// The host address; `None` is every address.
    pub host_ip: Option<IpAddr>,
    /// Only this family is meant, even if every address is: `0.0.0.0` is IPv4, `::` is IPv6.
    pub family: Option<Family>,
    /// On the host, the first one.
    pub host_port: u16,
    /// In the container, the first one.
    pub container_port: u16,
    /// How many consecutive ports, at least one.
    pub count: u16,
    /// The name under which owners share it; `None`: the plugin's, if that has one.
    pub share: Option<String>,
}

impl Mapping {
    /// Refuses an element of `portMappings`, of which `index` is the position, that can't be published.
    pub fn resolve(index: usize, mapping: &PortMapping) -> Result<Self, MappingError> {
        let port = |side, value: i64| match u16::try_from(value) {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(MappingError::Port { side, index, value }),
        };
        let unknown = |_| MappingError::Protocol { index, value: mapping.protocol.clone() };
        let protocol = mapping.protocol.parse().map_err(unknown)?;
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            text => Some(parse_ip(text).ok_or_else(|| MappingError::HostIp { index, value: text.to_owned() })?),
        };
        let (host_port, container_port) =
            (port("host", mapping.host_port)?, port("container", mapping.container_port)?);
        let share = share_name(&mapping.share).map_err(|cause| MappingError::Share { index, cause })?;
        let value = if mapping.range == 0 { 1 } else { mapping.range };
        let count = u16::try_from(value).ok().filter(|count| *count > 0).ok_or(MappingError::Count { index, value })?;
        for (side, first) in [("host", host_port), ("container", container_port)] {
            first.checked_add(count - 1).ok_or(MappingError::Range { side, index, first, value })?;
        }
        Ok(Self {
            protocol,
            host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
            family: host_ip.map(Family::of),
            host_port,
            container_port,
            count,
            share,
        })
    }

    /// True if it is meant for this family too.
    pub fn is_for(&self, family: Family) -> bool {
        self.family.is_none_or(|only| only == family)
    }

    /// Each port of the range on the host.
    pub fn host_ports(&self) -> impl Iterator<Item = HostPort> {
        (0..self.count).map(|n| (self.protocol, self.host_ip, self.host_port.saturating_add(n)))
    }
}

/// A port of the node: protocol, address, number.
pub type HostPort = (Protocol, Option<IpAddr>, u16);

/// How many ranges are listed.
const LISTED: usize = 10;

/// Ports as few words: `53/udp, 8000-8099/tcp, 192.0.2.1:80/tcp`.
pub fn in_words(ports: &BTreeSet<HostPort>) -> String {
    let mut ranges: Vec<(HostPort, u16)> = Vec::new();
    for &(protocol, address, port) in ports {
        match ranges.last_mut() {
            Some(((same, on, _), last)) if (*same, *on) == (protocol, address) && last.checked_add(1) == Some(port) => {
                *last = port;
            }
            _ => ranges.push(((protocol, address, port), port)),
        }
    }
    let one = |((protocol, address, first), last): &(HostPort, u16)| {
        let from = address.map_or_else(|| first.to_string(), |address| SocketAddr::new(address, *first).to_string());
        if first == last { format!("{from}/{protocol}") } else { format!("{from}-{last}/{protocol}") }
    };
    let mut words: Vec<String> = ranges.iter().take(LISTED).map(one).collect();
    if ranges.len() > LISTED {
        words.push(format!("and {} more", ranges.len() - LISTED));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn mapping(value: &Value) -> Result<Mapping, String> {
        let mapping: PortMapping = cni_plugin::json::decode(value.clone()).unwrap();
        Mapping::resolve(0, &mapping).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_as_containerd_capitalises_them() {
        let found = mapping(&json!({"HostPort": 18080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": ""})).unwrap();
        let expected = Mapping {
            protocol: Protocol::Tcp,
            host_ip: None,
            family: None,
            host_port: 18080,
            container_port: 80,
            count: 1,
            share: None,
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
        assert!(
            refused.contains("range") && refused.contains("hostPort 65000") && refused.contains("536"),
            "{refused}"
        );
        assert!(range(80, 65_000, 537).unwrap_err().contains("containerPort 65000"));
        for value in [-1, 65_536, i64::MAX] {
            let refused = range(80, 80, value).unwrap_err();
            assert!(refused.contains(&format!("portMappings[0].range: {value} is out of range")), "{refused}");
            assert!(refused.contains("0 to 65535"), "{refused}");
        }
    }

    #[test]
    fn an_unspecified_host_address_is_every_address_of_its_family() {
        let found = mapping(&json!({"hostPort": 1, "containerPort": 1, "protocol": "udp", "hostIP": "::"})).unwrap();
        assert_eq!((found.host_ip, found.family), (None, Some(Family::V6)));
    }

    #[test]
    fn consecutive_ports_are_one_word() {
        let at = |port| (Protocol::Tcp, None, port);
        let ports = (8000..8100).map(at).chain([at(80), (Protocol::Udp, "192.0.2.1".parse().ok(), 53)]).collect();
        assert_eq!(in_words(&ports), "80/tcp, 8000-8099/tcp, 192.0.2.1:53/udp");
        assert_eq!(in_words(&(0..20).map(|n| at(2 * n)).collect()).split(", ").last(), Some("and 10 more"));
        assert_eq!(in_words(&[at(65_535)].into()), "65535/tcp");
    }
}
